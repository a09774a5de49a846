//! "Everything after this": places in the logs of runs, as an opaque string for clients.
//!
//! `r12.combined.5120` is a run, a stream and an offset in it. A line that the child had not finished there is given
//! again, whole, when it is finished: `r12.combined.5120.o4800` says that the line of stdout that begins at 4800 was
//! open (`e` for stderr). Of several processes there are several places, and the newest run that was known:
//! `r12.combined.5120_r14.combined.77_n15`. What is not named of the runs up to that one has been read to its end, so a
//! process that ended costs nothing, and runs that are newer are new.

use crate::error::Error;
use crate::log::Stream;
use std::fmt;
use std::str::FromStr;

/// Positions of one cursor: more than there can be runs that are read at once.
const PLACES: usize = 500;

/// A place in one log of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub run: u64,
    pub stream: Stream,
    /// Offset in the log, counted from the start of the run.
    pub offset: u64,
    /// Where lines began that were not finished at `offset`: of stdout, of stderr.
    pub open: [Option<u64>; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub places: Vec<Place>,
    /// Of a cursor of several processes: the newest run that was known.
    pub known: Option<u64>,
}

impl Cursor {
    /// A place in the one run that was asked for; later runs of the same process come after it.
    pub fn of(place: Place) -> Cursor {
        Cursor { places: vec![place], known: None }
    }

    pub fn place(&self, run: u64) -> Option<&Place> {
        self.places.iter().find(|place| place.run == run)
    }
}

const LETTERS: [char; 2] = ['o', 'e'];

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "r{}.{}.{}", self.run, self.stream.name(), self.offset)?;
        for (letter, at) in LETTERS.iter().zip(self.open) {
            if let Some(at) = at {
                write!(f, ".{letter}{at}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, place) in self.places.iter().enumerate() {
            write!(f, "{}{place}", if i > 0 { "_" } else { "" })?;
        }
        let Some(known) = self.known else { return Ok(()) };
        write!(f, "{}n{known}", if self.places.is_empty() { "" } else { "_" })
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cursor, Error> {
        let unknown = || {
            Error::invalid(format!(
                "'{}' is not a valid cursor; take it as it stands in an earlier answer, or leave it out",
                text.chars().take(60).collect::<String>()
            ))
        };
        parse(text.trim()).ok_or_else(unknown)
    }
}

fn number(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

fn parse(text: &str) -> Option<Cursor> {
    let mut parts: Vec<&str> = text.splitn(PLACES + 2, '_').collect();
    let known = parts.last()?.strip_prefix('n').and_then(number);
    if known.is_some() {
        parts.pop();
    }
    let places = parts.into_iter().map(parse_place).collect::<Option<Vec<Place>>>()?;
    let is_one_per_run = places.iter().enumerate().all(|(i, place)| places[..i].iter().all(|p| p.run != place.run));
    let is_whole = places.len() <= PLACES && is_one_per_run && places.iter().all(|p| p.stream == places[0].stream);
    (is_whole && (known.is_some() || places.len() == 1)).then_some(Cursor { places, known })
}

fn parse_place(text: &str) -> Option<Place> {
    let mut parts = text.split('.');
    let run = number(parts.next()?.strip_prefix('r')?)?;
    let stream = Stream::from_name(parts.next()?)?;
    let offset = number(parts.next()?)?;
    let mut open = [None; 2];
    for part in parts {
        let i = LETTERS.iter().position(|letter| part.starts_with(*letter))?;
        let at = number(&part[1..])?;
        if open[i].is_some() || at > offset {
            return None;
        }
        open[i] = Some(at);
    }
    Some(Place { run, stream, offset, open })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::{Random, cases};

    #[test]
    fn a_cursor_is_read_back_as_it_was_written() {
        for open in [[None, None], [Some(0), None], [None, Some(7)], [Some(3), Some(5)]] {
            for stream in Stream::ALL {
                let place = Place { run: 12, stream, offset: 5120, open };
                for cursor in [
                    Cursor::of(place),
                    Cursor { places: vec![place], known: Some(12) },
                    Cursor { places: vec![place, Place { run: 3, ..place }], known: Some(12) },
                    Cursor { places: vec![], known: Some(0) },
                ] {
                    assert_eq!(cursor.to_string().parse(), Ok(cursor));
                }
            }
        }
        let place = Place { run: 1, stream: Stream::Combined, offset: 9, open: [None, Some(4)] };
        assert_eq!(Cursor::of(place).to_string(), "r1.combined.9.e4");
        assert_eq!(Cursor { places: vec![place], known: Some(2) }.to_string(), "r1.combined.9.e4_n2");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "r",
            "12",
            "r12",
            "r12.combined",
            "r12.combined.",
            "r12.combined.-1",
            "r12.c.5",
            "r12.combined.5.x4",
            "r12.combined.5.o6",
            "r12.combined.5.o1.o2",
            "r12.combined.5.",
            "r12.combined.99999999999999999999",
            "rä.combined.5",
            "r1.combined.5.ö1",
            "r1.combined.5_r2.combined.5",
            "r1.combined.5_r1.combined.6_n2",
            "r1.combined.5_r2.stdout.6_n2",
            "r1.combined.5__n2",
            "n",
            "n2_n3",
            "_n2",
        ] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
        let many: String = (1..=PLACES + 1).map(|run| format!("r{run}.combined.5_")).collect();
        assert!(format!("{many}n9").parse::<Cursor>().is_err());
    }

    #[test]
    fn no_text_makes_it_panic_and_what_is_a_cursor_has_one_spelling() {
        let words =
            ["r1", "r12", ".", ".", "combined", "stdout", "stderr", "5", "0", "_", "n7", "o", "e", "99", "ä", "-"];
        let mut random = Random::new(3);
        for _ in 0..cases() {
            let text: String = (0..random.below(14)).map(|_| words[random.below(words.len())]).collect();
            if let Ok(cursor) = text.parse::<Cursor>() {
                assert_eq!(cursor.to_string().parse(), Ok(cursor), "{text}");
            }
        }
    }
}
