//! "Everything after this": a place in a run's log, as an opaque string for clients.
//!
//! `r12.combined.5120` is a run, a stream and an offset in it. A line that the child had not finished there is given
//! again, whole, when it is finished: `r12.combined.5120.o4800` says that the line of stdout that begins at 4800 was
//! open (`e` for stderr).

use crate::fault::Fault;
use crate::log::Stream;
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub run: u64,
    pub stream: Stream,
    /// Offset in the log, counted from the start of the run.
    pub offset: u64,
    /// Where lines began that were not finished at `offset`: of stdout, of stderr.
    pub open: [Option<u64>; 2],
}

const LETTERS: [char; 2] = ['o', 'e'];

impl fmt::Display for Cursor {
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

impl FromStr for Cursor {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Cursor, Fault> {
        let unknown = || {
            Fault::invalid(format!(
                "'{}' is no cursor; take it as it stands in an earlier answer, or leave `after` out",
                text.chars().take(60).collect::<String>()
            ))
        };
        parse(text).ok_or_else(unknown)
    }
}

fn parse(text: &str) -> Option<Cursor> {
    let number = |digits: &str| digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let mut parts = text.trim().split('.');
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
    Some(Cursor { run, stream, offset, open })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_as_it_was_written() {
        for open in [[None, None], [Some(0), None], [None, Some(7)], [Some(3), Some(5)]] {
            for stream in Stream::ALL {
                let cursor = Cursor { run: 12, stream, offset: 5120, open };
                assert_eq!(cursor.to_string().parse(), Ok(cursor));
            }
        }
        assert_eq!(
            Cursor { run: 1, stream: Stream::Combined, offset: 9, open: [None, Some(4)] }.to_string(),
            "r1.combined.9.e4"
        );
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
        ] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
