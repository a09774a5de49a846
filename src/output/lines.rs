//! Records → lines of the child: parts of a line are joined, whatever stands between them.

use crate::log::Stream;
use crate::log::record::{self, Part};
use crate::log::scan::RawRecord;

/// One line of the child.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// When it began, in milliseconds since 1970; 0 if that is no longer kept.
    pub ms: u64,
    /// `Stdout` or `Stderr`.
    pub stream: Stream,
    /// Its bytes, as far as they were asked for, without the newline.
    pub text: Vec<u8>,
    /// How many more bytes it has.
    pub cut: u64,
    /// Whether the child has written its newline.
    pub is_finished: bool,
    /// Its beginning is no longer kept, or lies before what was asked for.
    pub lacks_start: bool,
    /// Its run.
    pub run: u64,
    /// Offset of its first record, and of the one that finished it; of an unfinished one where reading ended.
    pub at: u64,
    pub last: u64,
    /// Only shown because a line near it was searched for.
    pub is_context: bool,
}

/// Joins records. Lines come out when they are finished; what is open can be looked at.
pub struct Assembler {
    file: Stream,
    longest: usize,
    /// The unfinished line of each stream.
    open: [Option<Line>; 2],
}

impl Assembler {
    /// For the records of the log of `file`; keeps at most `longest` bytes of a line.
    pub fn new(file: Stream, longest: usize) -> Assembler {
        Assembler { file, longest, open: [None, None] }
    }

    /// For the same log.
    pub fn like(other: &Assembler) -> Assembler {
        Assembler::new(other.file, other.longest)
    }

    /// Bytes that it keeps of a line.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Forgets the unfinished lines of the other streams.
    pub fn keep_open(&mut self, streams: [bool; 2]) {
        for (line, is_kept) in self.open.iter_mut().zip(streams) {
            if !is_kept {
                *line = None;
            }
        }
    }

    /// Takes the next record and gives back the line that it finishes.
    pub fn push(&mut self, raw: &RawRecord) -> Option<Line> {
        let parsed = record::parse(raw.bytes, self.file);
        let (ms, stream, part, text) = match &parsed {
            Some(record) => (record.ms, record.stream, record.part, record.text),
            // The rest of a line whose beginning went with an older file.
            None => {
                (0, if self.file == Stream::Stderr { Stream::Stderr } else { Stream::Stdout }, Part::Last, raw.bytes)
            }
        };
        // In a stream's own file the newline is the child's; in combined.log each record has one of its own.
        let ends = part.ends() && (self.file == Stream::Combined || raw.has_newline);
        let slot = &mut self.open[stream.index()];
        if part.begins() {
            *slot = None; // never the case in a log that is whole
        }
        let line = slot.get_or_insert_with(|| Line {
            ms,
            stream,
            text: Vec::new(),
            cut: 0,
            is_finished: false,
            lacks_start: !part.begins(),
            run: 0,
            at: raw.at,
            last: raw.at,
            is_context: false,
        });
        line.last = raw.at;
        let kept = text.len().min(self.longest.saturating_sub(line.text.len()));
        line.text.extend_from_slice(&text[..kept]);
        line.cut += (text.len() - kept) as u64 + raw.cut;
        line.is_finished = ends;
        if ends { slot.take() } else { None }
    }

    /// Takes over the unfinished lines of another one.
    pub fn adopt(&mut self, other: Assembler) {
        for (own, others) in self.open.iter_mut().zip(other.open) {
            if others.is_some() {
                *own = others;
            }
        }
    }

    /// Lines that are not finished, in the order in which they began.
    pub fn open(&self) -> Vec<&Line> {
        let mut open: Vec<&Line> = self.open.iter().flatten().collect();
        if let [one, other] = open.as_slice()
            && one.at > other.at
        {
            open.swap(0, 1);
        }
        open
    }

    /// Where the unfinished lines began: of stdout, of stderr.
    pub fn open_at(&self) -> [Option<u64>; 2] {
        [0, 1].map(|s| self.open[s].as_ref().map(|line| line.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(bytes: &[u8], at: u64, has_newline: bool) -> RawRecord<'_> {
        RawRecord { at, next: at + bytes.len() as u64 + 1, bytes, cut: 0, has_newline }
    }

    #[test]
    fn parts_are_joined_across_the_other_stream() {
        let mut lines = Assembler::new(Stream::Combined, 100);
        let mut said = Vec::new();
        for (at, text) in
            ["Z whole", "Z>Continue? [", "z warning", "Z=y/N", "z>more", "Z+] yes", "z+ of it"].iter().enumerate()
        {
            let line = format!("2026-01-02T03:04:0{at}.000{text}");
            if let Some(line) = lines.push(&raw(line.as_bytes(), at as u64, true)) {
                said.push((String::from_utf8(line.text).unwrap(), line.stream, line.at));
            }
            if at == 4 {
                assert_eq!(lines.open_at(), [Some(1), Some(4)]);
                assert_eq!(
                    lines.open().iter().map(|l| l.text.as_slice()).collect::<Vec<_>>(),
                    [&b"Continue? [y/N"[..], b"more"]
                );
            }
        }
        let expected = [
            ("whole", Stream::Stdout, 0),
            ("warning", Stream::Stderr, 2),
            ("Continue? [y/N] yes", Stream::Stdout, 1),
            ("more of it", Stream::Stderr, 4),
        ];
        assert_eq!(said, expected.map(|(text, stream, at)| (text.to_string(), stream, at)));
        assert_eq!(lines.open_at(), [None, None]);
    }

    #[test]
    fn a_line_without_its_newline_or_its_beginning_says_so() {
        let mut own = Assembler::new(Stream::Stderr, 4);
        assert!(own.push(&raw(b"2026-01-02T03:04:05.000Z unfinished", 0, false)).is_none());
        let open = own.open()[0];
        assert_eq!((open.text.as_slice(), open.cut, open.is_finished), (&b"unfi"[..], 6, false));
        let mut rest = Assembler::new(Stream::Combined, 100);
        let line = rest.push(&raw(b"2026-01-02T03:04:05.000Z+rest", 9, true)).unwrap();
        assert!(line.lacks_start && line.is_finished);
        let torn = rest.push(&raw(b"no stamp at all", 9, true)).unwrap();
        assert!(torn.lacks_start && torn.ms == 0);
    }
}
