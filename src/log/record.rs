//! One line of a log file, taken apart and put together.
//!
//! ```text
//! stdout.log     2026-01-02T03:04:05.678Z text          one line of the child; the last may lack its newline
//! combined.log   2026-01-02T03:04:05.678Z text          a whole line of stdout
//!                2026-01-02T03:04:05.678z text          `z`: of stderr (RFC 3339, 5.6 allows both letters)
//!                2026-01-02T03:04:05.678Z>Continue? [   `>`: the line is not finished yet
//!                2026-01-02T03:04:06.100z warning       the other stream may come between
//!                2026-01-02T03:04:07.000Z=y/N           `=`: goes on with it, and is not its end
//!                2026-01-02T03:04:09.000Z+] yes         `+`: goes on with it and finishes it
//! ```
//!
//! So each record of `combined.log` says by itself which stream it belongs to, whether it begins a line and whether the
//! child wrote a newline behind it; the file's own newline only ends the record. A reader gives both streams back
//! exactly, byte for byte and at once. (A format in which an unfinished record is completed in place cannot: when the
//! other stream has ended such a record, its newline looks like the child's until the rest of the line comes, which may
//! be never.)

use super::Stream;
use super::stamp::{STAMP, parse_stamp};

/// Length of the stamp and the separator behind it: where the text begins.
pub const PREFIX: usize = STAMP + 1;

/// Which part of a line of the child a record is: the byte between stamp and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Middle,
    Last,
}

impl Part {
    /// The part that begins (or goes on with) a line, and ends it or does not.
    pub fn new(begins: bool, ends: bool) -> Part {
        match (begins, ends) {
            (true, true) => Part::Whole,
            (true, false) => Part::First,
            (false, false) => Part::Middle,
            (false, true) => Part::Last,
        }
    }
    pub fn separator(self) -> u8 {
        match self {
            Part::Whole => b' ',
            Part::First => b'>',
            Part::Middle => b'=',
            Part::Last => b'+',
        }
    }
    fn from_separator(byte: u8) -> Option<Part> {
        [Part::Whole, Part::First, Part::Middle, Part::Last].into_iter().find(|part| part.separator() == byte)
    }
    /// Whether a line of the child begins here.
    pub fn begins(self) -> bool {
        matches!(self, Part::Whole | Part::First)
    }
    /// Whether the child wrote a newline behind it.
    pub fn ends(self) -> bool {
        matches!(self, Part::Whole | Part::Last)
    }
}

/// Stamp, stream and text of one record.
#[derive(Debug, PartialEq)]
pub struct Record<'a> {
    /// Milliseconds since 1970 when it was read from the child.
    pub ms: u64,
    /// `Stdout` or `Stderr`.
    pub stream: Stream,
    pub part: Part,
    pub text: &'a [u8],
}

/// Takes one line of a log file apart, without its newline. `None` if it is no record.
///
/// The stamp of `stderr.log` ends in `Z` like any other, so the caller says whose file it is.
pub fn parse(line: &[u8], file: Stream) -> Option<Record<'_>> {
    let ms = parse_stamp(line)?;
    let part = Part::from_separator(*line.get(STAMP)?)?;
    let stream = match file {
        Stream::Combined if line[STAMP - 1] == b'z' => Stream::Stderr,
        Stream::Combined => Stream::Stdout,
        own => own,
    };
    Some(Record { ms, stream, part, text: &line[PREFIX..] })
}

/// Stamp and separator of a record; `stamp` is that of stdout.
pub fn prefix(stamp: &[u8; STAMP], marks_stderr: bool, part: Part) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[..STAMP - 1].copy_from_slice(&stamp[..STAMP - 1]);
    prefix[STAMP - 1] = if marks_stderr { b'z' } else { b'Z' };
    prefix[STAMP] = part.separator();
    prefix
}

/// Whether a line of the child begins at this record of a log file. Only its first [`PREFIX`] bytes are looked at.
pub fn begins_line(record: &[u8]) -> bool {
    record.get(STAMP).and_then(|&byte| Part::from_separator(byte)).is_none_or(Part::begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_apart_as_they_were_put_together() {
        let stamp = b"2026-01-02T03:04:05.678Z";
        for part in [Part::Whole, Part::First, Part::Middle, Part::Last] {
            for stderr in [false, true] {
                let mut line = prefix(stamp, stderr, part).to_vec();
                line.extend_from_slice(b"text + more");
                let record = parse(&line, Stream::Combined).unwrap();
                assert_eq!(record.stream, if stderr { Stream::Stderr } else { Stream::Stdout });
                assert_eq!((record.part, record.text), (part, &b"text + more"[..]));
                assert_eq!(begins_line(&line), part.begins());
                assert_eq!(Part::new(part.begins(), part.ends()), part);
            }
        }
        let own = parse(b"2026-01-02T03:04:05.678Z x", Stream::Stderr).unwrap();
        assert_eq!(own.stream, Stream::Stderr);
    }

    #[test]
    fn what_is_no_record_is_none() {
        for line in [
            &b""[..],
            b"# persistproc: continues at byte 9 of the run",
            b"2026-01-02T03:04:05.678Z",
            b"2026-01-02T03:04:05.678Z!x",
        ] {
            assert_eq!(parse(line, Stream::Combined), None);
        }
        assert_eq!(parse(b"2026-01-02T03:04:05.678Z ", Stream::Combined).unwrap().text, b"");
    }
}
