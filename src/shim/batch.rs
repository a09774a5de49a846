//! Records on their way to the logs: what is written at once to `combined.log`, and what to the stream's own file.

use crate::log::record::{Part, prefix, shared_span};
use crate::log::stamp::STAMP_LEN;

/// Records on their way to the two files of a stream; reused from read to read.
#[derive(Default)]
pub struct Batch {
    /// Bytes for `combined.log`.
    pub combined: Vec<u8>,
    own: Vec<u8>,
    /// Whether the stream's own file gets different bytes: stamps of stderr look different in combined.log, and so do parts
    /// of a line. Whole lines of stdout, which are nearly all output, are formatted only once.
    pub is_split: bool,
}

impl Batch {
    /// Bytes for the stream's own file.
    pub fn own(&self) -> &[u8] {
        if self.is_split { &self.own } else { &self.combined }
    }
    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.combined.clear();
        self.own.clear();
    }

    /// Adds whole lines. One stamp covers up to `most` bytes of them.
    pub fn add_lines(&mut self, is_stderr: bool, stamp: &[u8; STAMP_LEN], mut lines: &[u8], most: usize) {
        if self.combined.is_empty() {
            self.is_split = is_stderr;
        }
        let prefixes = [is_stderr, false].map(|marks_stderr| prefix(stamp, marks_stderr, Part::Whole));
        while !lines.is_empty() {
            let (together, rest) = lines.split_at(shared_span(lines, most));
            self.combined.extend_from_slice(&prefixes[0]);
            self.combined.extend_from_slice(together);
            if self.is_split {
                self.own.extend_from_slice(&prefixes[1]);
                self.own.extend_from_slice(together);
            }
            lines = rest;
        }
    }

    /// Adds a part of a line, without its newline.
    pub fn add_part(&mut self, is_stderr: bool, stamp: &[u8; STAMP_LEN], part: Part, text: [&[u8]; 2]) {
        if self.combined.is_empty() {
            // Only the first record of a batch can be part of a line.
            self.is_split = is_stderr || part != Part::Whole;
        }
        self.combined.extend_from_slice(&prefix(stamp, is_stderr, part));
        text.iter().for_each(|text| self.combined.extend_from_slice(text));
        self.combined.push(b'\n');
        if self.is_split {
            // In the stream's own file a line continues where it stopped, and ends when the child ends it.
            if part.begins() {
                self.own.extend_from_slice(&prefix(stamp, false, Part::Whole));
            }
            text.iter().for_each(|text| self.own.extend_from_slice(text));
            self.own.extend_from_slice(if part.ends() { b"\n" } else { b"" });
        }
    }
}
