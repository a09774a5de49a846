//! Parsing and formatting one line of a log file.
//!
//! ```text
//! stdout.log     2026-01-02T03:04:05.678Z text          one line of the child; the last may lack its newline
//! combined.log   2026-01-02T03:04:05.678Z text          a whole line of stdout
//!                2026-01-02T03:04:05.678z text          `z`: of stderr (RFC 3339, 5.6 allows both letters)
//!                2026-01-02T03:04:05.678Z>Continue? [   `>`: the line is not finished yet
//!                2026-01-02T03:04:06.100z warning       the other stream may come in between
//!                2026-01-02T03:04:07.000Z=y/N           `=`: continues the line without finishing it
//!                2026-01-02T03:04:09.000Z+] yes         `+`: continues the line and finishes it
//! ```
//!
//! So each stamped record of `combined.log` shows on its own which stream it belongs to, whether it begins a line and whether
//! the child wrote a newline after it; the file's own newline only ends the record. A reader can reproduce both streams
//! exactly, byte for byte and without delay. (A format in which an unfinished record is completed in place cannot do that:
//! when the other stream has ended such a record, its newline looks like the child's until the rest of the line arrives,
//! which may never happen.)
//!
//! **Lines may share a stamp.** In heavy output, the lines that were read together follow a single stamp:
//!
//! ```text
//! 2026-01-02T03:04:05.678Z one
//! two                          a whole line of the same stream, read at the same moment
//! ```
//!
//! This keeps short lines cheap (a stamp and its separator are 25 bytes), and is unambiguous because the writer always stamps
//! the first line of a write, a part of a line and whatever follows one, a line that itself looks like a record, and the
//! first line that begins more than [`MAX_SHARED_SPAN`] bytes after the last stamp. So a reader that begins in the middle
//! finds the stamp of its line by looking back that far. A file begins with a stamp, or with the rest of a line whose
//! beginning is in an older file.
//! (There is one exception: when a user empties a file at a moment when a full disk has accepted only the first lines of a
//! write, the new file begins with the remaining ones, and up to the next stamp those have no time.)

use super::Stream;
use super::stamp::{STAMP_LEN, is_stamp, parse_stamp};
use memchr::{memchr, memchr_iter, memrchr, memrchr_iter};

/// Length of the stamp and the separator after it, in bytes: the offset at which the text begins.
pub const PREFIX_LEN: usize = STAMP_LEN + 1;

/// A line that begins more than this many bytes after the beginning of the last stamped record has its own stamp.
pub const MAX_SHARED_SPAN: usize = 4 << 10;

/// Which part of a line of the child a record contains; encoded in the separator, the byte between stamp and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Middle,
    Last,
}

impl Part {
    /// The part that begins (or else continues) a line, and ends it or does not.
    pub fn new(begins: bool, ends: bool) -> Part {
        match (begins, ends) {
            (true, true) => Part::Whole,
            (true, false) => Part::First,
            (false, false) => Part::Middle,
            (false, true) => Part::Last,
        }
    }
    /// The byte between stamp and text.
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
    /// Whether the child wrote a newline after it.
    pub fn ends(self) -> bool {
        matches!(self, Part::Whole | Part::Last)
    }
}

/// Stamp, stream and text of one record.
#[derive(Debug, PartialEq)]
pub struct Record<'a> {
    /// When it was read from the child, in milliseconds since 1970.
    pub ms: u64,
    /// `Stdout` or `Stderr`.
    pub stream: Stream,
    pub part: Part,
    /// The child's bytes, without a newline.
    pub text: &'a [u8],
}

/// Parses one line of a log file, passed without its newline. `None` if it is not a record.
///
/// Stamps in `stderr.log` end in `Z` like those in `stdout.log`, so the caller specifies which file the line is from.
pub fn parse(line: &[u8], file: Stream) -> Option<Record<'_>> {
    if !is_stamped(line) {
        return None;
    }
    let part = Part::from_separator(line[STAMP_LEN])?;
    let stream = match file {
        Stream::Combined if line[STAMP_LEN - 1] == b'z' => Stream::Stderr,
        Stream::Combined => Stream::Stdout,
        own => own,
    };
    // In a damaged file, a stamp may contain a date that does not exist.
    let ms = parse_stamp(line).unwrap_or(0);
    Some(Record { ms, stream, part, text: &line[PREFIX_LEN..] })
}

/// Formats the prefix of a record: stamp and separator. `stamp` ends in `Z`; with `marks_stderr` the prefix gets a `z`.
pub fn prefix(stamp: &[u8; STAMP_LEN], marks_stderr: bool, part: Part) -> [u8; PREFIX_LEN] {
    let mut prefix = [0; PREFIX_LEN];
    prefix[..STAMP_LEN - 1].copy_from_slice(&stamp[..STAMP_LEN - 1]);
    prefix[STAMP_LEN - 1] = if marks_stderr { b'z' } else { b'Z' };
    prefix[STAMP_LEN] = part.separator();
    prefix
}

/// Whether a line of a log file has its own stamp. Only its first [`PREFIX_LEN`] bytes are examined.
pub fn is_stamped(line: &[u8]) -> bool {
    line.get(STAMP_LEN).is_some_and(|&byte| Part::from_separator(byte).is_some()) && is_stamp(line)
}

/// Whether a line of the child begins with this line of a log file. Only its first [`PREFIX_LEN`] bytes are examined.
pub fn begins_line(line: &[u8]) -> bool {
    let part = line.get(STAMP_LEN).and_then(|&byte| Part::from_separator(byte));
    part.is_none_or(|part| part.begins() || !is_stamp(line))
}

/// The prefix that the lines after a stamped record share: that of a whole line. `None` if `record` is not stamped.
pub fn shared_prefix(record: &[u8]) -> Option<[u8; PREFIX_LEN]> {
    let mut prefix: [u8; PREFIX_LEN] = *record.first_chunk()?;
    prefix[STAMP_LEN] = Part::Whole.separator();
    is_stamped(record).then_some(prefix)
}

/// Position of the first stamped line of `lines`, not counting the line with which they begin.
pub fn next_stamped(lines: &[u8]) -> Option<usize> {
    // Searches for the `T` of a stamp, because newlines are far more frequent.
    const T_POSITION: usize = 10;
    let starts = memchr_iter(b'T', lines).filter_map(|at| at.checked_sub(T_POSITION));
    starts.filter(|&start| start > 0 && lines[start - 1] == b'\n').find(|&start| is_stamped(&lines[start..]))
}

/// The prefix shared by a line that begins where `before` ends, if `before` contains a stamped record. `is_whole` means that
/// `before` begins at the beginning of a line. `None` if `before` ends within a line: the rest of a line shares nothing.
pub fn shared_prefix_before(before: &[u8], is_whole: bool) -> Option<[u8; PREFIX_LEN]> {
    before.strip_suffix(b"\n")?;
    let starts = memrchr_iter(b'\n', before).map(|newline| newline + 1);
    starts.chain(is_whole.then_some(0)).find_map(|start| shared_prefix(&before[start..]))
}

/// How many bytes of these whole lines may share the stamp of the first one, if a stamp covers `most` bytes.
pub fn shared_span(lines: &[u8], most: usize) -> usize {
    let near = if lines.len() <= most { lines.len() } else { memrchr(b'\n', &lines[..most]).map_or(0, |i| i + 1) };
    let near = if near > 0 { near } else { memchr(b'\n', lines).map_or(lines.len(), |i| i + 1) };
    next_stamped(&lines[..near]).unwrap_or(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_round_trip() {
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
    fn a_line_that_is_not_a_record_is_not_parsed() {
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

    #[test]
    fn lines_share_a_stamp_unless_they_are_far_from_it_or_look_like_a_record() {
        let lookalike = "2026-01-02T03:04:05.678Z+text\n";
        for (lines, most, expected) in [
            ("", 9, 0),
            ("one\ntwo\n", 0, 4),
            ("one\ntwo\n", 7, 4),
            ("one\ntwo\n", 8, 8),
            ("longer than most\n\n", 5, 17),
            (&format!("{lookalike}one\n"), 100, lookalike.len() + 4),
            (&format!("one T\n{lookalike}"), 100, 6),
            (&format!("one {lookalike}{lookalike}"), 100, 4 + lookalike.len()),
            ("one\n2026-01-02T03:04:05.678Z-text\n", 100, 34),
            ("one\n2026-01-02 03:04:05.678Z text\n", 100, 34),
            ("one\n2026-01-02T03:04:05.678Z\n", 100, 29),
        ] {
            assert_eq!(shared_span(lines.as_bytes(), most), expected, "{lines:?} {most}");
        }
    }

    #[test]
    fn a_line_shares_the_last_stamp_before_it() {
        let (first, second) = ("2026-01-02T03:04:05.001Z ", "2026-01-02T03:04:05.002z ");
        let text = format!("{first}one\n{}+two\nthree\n", second.trim_end());
        assert_eq!(shared_prefix_before(text.as_bytes(), false).as_ref().map(|p| &p[..]), Some(second.as_bytes()));
        assert_eq!(shared_prefix_before(&text.as_bytes()[..29], true).as_ref().map(|p| &p[..]), Some(first.as_bytes()));
        assert_eq!(shared_prefix_before(&text.as_bytes()[..29], false), None);
        assert_eq!(shared_prefix_before(&text.as_bytes()[..28], true), None);
        assert_eq!(next_stamped(text.as_bytes()), Some(29));
        assert_eq!(next_stamped(&text.as_bytes()[29..]), None);
        assert!(begins_line(b"three") && begins_line(b"2026-01-02 03:04:05.678Z+rest"));
    }
}
