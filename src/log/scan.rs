//! Iterating over the records of a log between two offsets, with bounded memory whatever their length.

use super::read::Log;
use super::record::{PREFIX_LEN, is_stamped, shared_prefix};
use memchr::memchr;
use std::io;

/// Bytes per read.
const BLOCK_SIZE: usize = 64 << 10;

/// One line of a log file, or its beginning, with its own stamp or the one that it shares.
pub struct RawRecord<'a> {
    /// Offset of its first byte.
    pub at: u64,
    /// Offset of the record after it.
    pub next: u64,
    /// The stamp and the line without its newline. At most `max_len` bytes are from the file; a shared stamp is not counted.
    pub bytes: &'a [u8],
    /// Number of bytes of the line that are missing from `bytes`.
    pub cut: u64,
    /// Whether its newline has been written yet.
    pub has_newline: bool,
}

/// Iterates over the records of a log.
pub struct Scanner<'a> {
    log: &'a Log,
    at: u64,
    to: u64,
    /// Maximum length of `RawRecord::bytes`, without a shared stamp.
    max_len: usize,
    buffer: Vec<u8>,
    /// `buffer[used..filled]` has not been consumed yet; its first byte is at offset `at`.
    used: usize,
    filled: usize,
    /// Space for a prefix, then the line.
    line: Vec<u8>,
    /// The prefix of lines without one; `None` until it was needed for the first time.
    shared: Option<Option<[u8; PREFIX_LEN]>>,
}

impl<'a> Scanner<'a> {
    /// Scans the records in `from..to`. `from` must be the beginning of a record; of each one at most `max_len` bytes are
    /// returned.
    pub fn new(log: &'a Log, from: u64, to: u64, max_len: usize) -> Scanner<'a> {
        let at = from.max(log.start());
        let (buffer, line) = (vec![0; BLOCK_SIZE], Vec::new());
        Scanner { log, at, to: to.min(log.end()), max_len, buffer, used: 0, filled: 0, line, shared: None }
    }

    /// The next record; `None` at the end of the range.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn next(&mut self) -> io::Result<Option<RawRecord<'_>>> {
        self.line.clear();
        self.line.resize(PREFIX_LEN, 0);
        let at = self.at;
        let (mut cut, mut has_newline) = (0, false);
        while !has_newline && self.fill()? {
            let rest = &self.buffer[self.used..self.filled];
            let newline = memchr(b'\n', rest);
            let text = &rest[..newline.unwrap_or(rest.len())];
            let kept = text.len().min(self.max_len + PREFIX_LEN - self.line.len());
            self.line.extend_from_slice(&text[..kept]);
            cut += (text.len() - kept) as u64;
            let consumed = text.len() + usize::from(newline.is_some());
            self.used += consumed;
            self.at += consumed as u64;
            has_newline = newline.is_some();
        }
        if self.at == at {
            return Ok(None);
        }
        let bytes = if self.prepend_shared_stamp(at)? { &self.line[..] } else { &self.line[PREFIX_LEN..] };
        Ok(Some(RawRecord { at, next: self.at, bytes, cut, has_newline }))
    }

    /// Puts the shared stamp in front of the line at `at`. False if the line has its own, or none is known.
    fn prepend_shared_stamp(&mut self, at: u64) -> io::Result<bool> {
        if is_stamped(&self.line[PREFIX_LEN..]) {
            self.shared = Some(shared_prefix(&self.line[PREFIX_LEN..]));
            return Ok(false);
        }
        let shared = match self.shared {
            Some(shared) => shared,
            None => *self.shared.insert(self.log.shared_prefix_before(at)?),
        };
        self.line[..PREFIX_LEN].copy_from_slice(&shared.unwrap_or_default());
        Ok(shared.is_some())
    }

    /// Ensures that the buffer is not empty. False at the end of the range.
    fn fill(&mut self) -> io::Result<bool> {
        if self.used == self.filled {
            let len = self.to.saturating_sub(self.at).min(BLOCK_SIZE as u64) as usize;
            self.filled = self.log.read_at(self.at, &mut self.buffer[..len])?;
            self.used = 0;
        }
        Ok(self.used < self.filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Stream;
    use crate::log::writer::LogWriter;

    #[test]
    fn records_are_complete_and_long_ones_are_truncated_but_counted() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().to_path_buf();
        let mut file = LogWriter::create(dir.join("stdout.log"), 0).unwrap();
        let texts = [b"short".to_vec(), vec![], vec![b'x'; 200_000], b"after".to_vec(), b"open".to_vec()];
        file.append(&texts.join(&b'\n'));
        let log = Log::open(&dir, Stream::Stdout).unwrap();
        let mut scan = Scanner::new(&log, 0, u64::MAX, 100);
        let mut at = 0;
        for text in &texts {
            let raw = scan.next().unwrap().unwrap();
            assert_eq!((raw.at, raw.bytes), (at, &text[..text.len().min(100)]));
            assert_eq!(raw.cut as usize + raw.bytes.len(), text.len());
            assert_eq!(raw.has_newline, text != b"open");
            at = raw.next;
        }
        assert!(scan.next().unwrap().is_none());
        assert!(Scanner::new(&log, 3, 3, 100).next().unwrap().is_none());
    }
}
