//! Following a log from an offset while it grows. The current file is kept open, so it is read to its end even when it is
//! renamed by rotation or removed with the run's directory.

use super::Stream;
use super::header::previous;
use super::read::Segment;
use std::io;
use std::path::{Path, PathBuf};

/// The result of one read.
#[derive(Debug, PartialEq, Eq)]
pub enum TailRead {
    /// This many bytes are in the buffer.
    Bytes(usize),
    /// This many bytes were skipped because rotation has removed them.
    Gone(u64),
    /// There is nothing to read yet.
    Pending,
}

/// Follows one log.
pub struct Tail {
    path: PathBuf,
    file: Option<Segment>,
    at: u64,
}

impl Tail {
    /// Follows the log of `stream` in the directory of a run, from the offset `at` on.
    pub fn new(run: &Path, stream: Stream, at: u64) -> Tail {
        Tail { path: run.join(stream.file_name()), file: None, at }
    }

    /// Offset of the next byte.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Reads into `buffer`, which must not be empty.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no log, for example because it was removed; otherwise the log cannot be read.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<TailRead> {
        let n = self.read_on(buffer)?;
        if n > 0 {
            return Ok(TailRead::Bytes(n));
        }
        let next = self.find_next()?;
        // Bytes that were written after the first read and before the rotation.
        let n = self.read_on(buffer)?;
        if n > 0 {
            return Ok(TailRead::Bytes(n));
        }
        let Some(next) = next else { return Ok(TailRead::Pending) };
        let gone = next.start.saturating_sub(self.at);
        self.at = self.at.max(next.start);
        self.file = Some(next);
        if gone > 0 {
            return Ok(TailRead::Gone(gone));
        }
        Ok(match self.read_on(buffer)? {
            0 => TailRead::Pending,
            n => TailRead::Bytes(n),
        })
    }

    /// Reads from the open file, if there is more in it.
    fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &self.file else { return Ok(0) };
        let n = file.read_at(self.at, buffer)?;
        self.at += n as u64;
        Ok(n)
    }

    /// The file in which the log continues, if it is not the open one.
    fn find_next(&self) -> io::Result<Option<Segment>> {
        let newest = self.open_newest()?;
        if self.file.as_ref().is_some_and(|file| file.is_same(&newest)) {
            return Ok(None);
        }
        if newest.start <= self.at {
            return Ok(Some(newest));
        }
        // The log was rotated more than once, or nothing has been opened yet.
        Ok(match Segment::open(&previous(&self.path))? {
            Some(older) if older.end()? > self.at => Some(older),
            _ => Some(newest),
        })
    }

    /// Opens the newest file. Between the two renames of a rotation its name is missing for a moment, so that is retried.
    fn open_newest(&self) -> io::Result<Segment> {
        for _ in 0..100 {
            if let Some(newest) = Segment::open(&self.path)? {
                return Ok(newest);
            }
            std::thread::yield_now();
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::writer::LogWriter;

    fn log(name: &str, cap: u64) -> (tempfile::TempDir, LogWriter) {
        let dir = tempfile::Builder::new().prefix(&format!("persistproc-tail-{name}-")).tempdir().unwrap();
        let file = LogWriter::create(dir.path().join("combined.log"), cap).unwrap();
        (dir, file)
    }

    /// Everything up to the end: the bytes, and how many are gone.
    fn rest(tail: &mut Tail) -> (Vec<u8>, u64) {
        let (mut bytes, mut gone) = (Vec::new(), 0);
        let mut buffer = [0; 1000];
        loop {
            match tail.read(&mut buffer).unwrap() {
                TailRead::Bytes(n) => bytes.extend_from_slice(&buffer[..n]),
                TailRead::Gone(n) => gone += n,
                TailRead::Pending => return (bytes, gone),
            }
        }
    }

    #[test]
    fn a_renamed_or_removed_file_is_read_to_its_end() {
        let (dir, mut file) = log("renamed", 10_000);
        let mut tail = Tail::new(dir.path(), Stream::Combined, 0);
        file.append(b"one\n");
        assert_eq!(rest(&mut tail), (b"one\n".to_vec(), 0));
        assert_eq!(rest(&mut tail), (Vec::new(), 0));
        // Two rotations, the first of which goes unnoticed.
        (0..3).for_each(|i| file.append(&[b'0' + i; 8000]));
        assert_eq!(rest(&mut tail), ([[b'0'; 8000], [b'1'; 8000], [b'2'; 8000]].concat(), 0));
        file.append(b"two\n");
        std::fs::remove_dir_all(dir.path()).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(tail.read(&mut buffer).unwrap(), TailRead::Bytes(4));
        assert_eq!(tail.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(tail.at(), 24_008);
    }

    #[test]
    fn rotated_out_bytes_are_counted_and_the_rest_is_complete() {
        let (dir, mut file) = log("gone", 10_000);
        (0..5).for_each(|i| file.append(&[b'0' + i; 8000]));
        let mut tail = Tail::new(dir.path(), Stream::Combined, 0);
        assert_eq!(rest(&mut tail), ([[b'3'; 8000], [b'4'; 8000]].concat(), 24_000));
        let mut late = Tail::new(dir.path(), Stream::Combined, 25_000);
        assert_eq!(rest(&mut late), ([&[b'3'; 7000][..], &[b'4'; 8000]].concat(), 0));
        (5..9).for_each(|i| file.append(&[b'0' + i; 8000]));
        assert_eq!(rest(&mut late), ([[b'7'; 8000], [b'8'; 8000]].concat(), 16_000));
    }
}
