//! The records of a log one after the other, from one offset to another, with bounded memory whatever their length.

use super::read::Log;
use super::record::{PREFIX, is_stamped, shared};
use memchr::memchr;
use std::io;

const BLOCK: usize = 64 << 10;

/// One line of a log file, or the beginning of it, behind its own stamp or the one that it shares.
pub struct Raw<'a> {
    /// Offset of its first byte.
    pub at: u64,
    /// Offset behind it: of the next one.
    pub next: u64,
    /// Without its newline, and at most as long as asked for; a shared stamp is not counted.
    pub bytes: &'a [u8],
    /// Bytes that `bytes` lacks.
    pub cut: u64,
    /// Whether its newline is there yet.
    pub has_newline: bool,
}

/// Walks over the records of a log. `from` is where one begins.
pub struct Scan<'a> {
    log: &'a Log,
    at: u64,
    to: u64,
    /// Longest `Raw::bytes`.
    longest: usize,
    buffer: Vec<u8>,
    /// What of `buffer` is not used yet, and the offset of its first byte.
    used: usize,
    filled: usize,
    /// Room for a prefix, and the line.
    line: Vec<u8>,
    /// The prefix of lines that have none; not known before it was needed.
    shared: Option<Option<[u8; PREFIX]>>,
}

impl<'a> Scan<'a> {
    pub fn new(log: &'a Log, from: u64, to: u64, longest: usize) -> Scan<'a> {
        let at = from.max(log.start());
        let (buffer, line) = (vec![0; BLOCK], Vec::new());
        Scan { log, at, to: to.min(log.end()), longest, buffer, used: 0, filled: 0, line, shared: None }
    }

    /// The next record; `None` at the end of the range.
    pub fn next(&mut self) -> io::Result<Option<Raw<'_>>> {
        self.line.clear();
        self.line.resize(PREFIX, 0);
        let at = self.at;
        let (mut cut, mut has_newline) = (0, false);
        while !has_newline && self.fill()? {
            let rest = &self.buffer[self.used..self.filled];
            let newline = memchr(b'\n', rest);
            let text = &rest[..newline.unwrap_or(rest.len())];
            let kept = text.len().min(self.longest + PREFIX - self.line.len());
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
        let bytes = if self.find_stamp(at)? { &self.line[..] } else { &self.line[PREFIX..] };
        Ok(Some(Raw { at, next: self.at, bytes, cut, has_newline }))
    }

    /// Puts the stamp before the line at `at` that it shares. False if it has one of its own, or none.
    fn find_stamp(&mut self, at: u64) -> io::Result<bool> {
        if is_stamped(&self.line[PREFIX..]) {
            self.shared = Some(shared(&self.line[PREFIX..]));
            return Ok(false);
        }
        let shared = match self.shared {
            Some(shared) => shared,
            None => *self.shared.insert(self.log.shared_before(at)?),
        };
        self.line[..PREFIX].copy_from_slice(&shared.unwrap_or_default());
        Ok(shared.is_some())
    }

    /// Makes sure that there is something to look at. False at the end of the range.
    fn fill(&mut self) -> io::Result<bool> {
        if self.used == self.filled {
            let room = self.to.saturating_sub(self.at).min(BLOCK as u64) as usize;
            self.filled = self.log.read_at(self.at, &mut self.buffer[..room])?;
            self.used = 0;
        }
        Ok(self.used < self.filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Stream;
    use crate::log::rotate::LogFile;

    #[test]
    fn records_come_whole_and_long_ones_are_cut_but_counted() {
        let dir = std::env::temp_dir().join(format!("persistproc-scan-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut file = LogFile::create(dir.join("stdout.log"), 0).unwrap();
        let texts = [b"short".to_vec(), vec![], vec![b'x'; 200_000], b"after".to_vec(), b"open".to_vec()];
        file.append(&texts.join(&b'\n'));
        let log = Log::open(&dir, Stream::Stdout).unwrap();
        let mut scan = Scan::new(&log, 0, u64::MAX, 100);
        let mut at = 0;
        for text in &texts {
            let raw = scan.next().unwrap().unwrap();
            assert_eq!((raw.at, raw.bytes), (at, &text[..text.len().min(100)]));
            assert_eq!(raw.cut as usize + raw.bytes.len(), text.len());
            assert_eq!(raw.has_newline, text != b"open");
            at = raw.next;
        }
        assert!(scan.next().unwrap().is_none());
        assert!(Scan::new(&log, 3, 3, 100).next().unwrap().is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
