//! Reading a log while it grows, from one offset on. It keeps the file that it reads open: what is renamed by rotation, or
//! removed with the directory of the run, is read to its end all the same.

use super::Stream;
use super::read::Segment;
use super::rotate::previous;
use std::io;
use std::path::{Path, PathBuf};

/// What comes next in a log.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// So many bytes, which are in the buffer.
    Bytes(usize),
    /// So many bytes are not kept any more.
    Gone(u64),
    /// Nothing yet.
    Nothing,
}

pub struct Tail {
    path: PathBuf,
    file: Option<Segment>,
    at: u64,
}

impl Tail {
    /// The log of `stream` in the directory of a run, from the offset `at` on.
    pub fn new(run: &Path, stream: Stream, at: u64) -> Tail {
        Tail { path: run.join(stream.file_name()), file: None, at }
    }

    /// Offset of what comes next.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Reads into `buffer`, which must not be empty. `NotFound` if the log is not there, as when it was removed.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        let n = self.read_on(buffer)?;
        if n > 0 {
            return Ok(Next::Bytes(n));
        }
        let next = self.find_next()?;
        // What was written before the rotation and after we looked.
        let n = self.read_on(buffer)?;
        if n > 0 {
            return Ok(Next::Bytes(n));
        }
        let Some(next) = next else { return Ok(Next::Nothing) };
        let gone = next.start.saturating_sub(self.at);
        self.at = self.at.max(next.start);
        self.file = Some(next);
        if gone > 0 {
            return Ok(Next::Gone(gone));
        }
        Ok(match self.read_on(buffer)? {
            0 => Next::Nothing,
            n => Next::Bytes(n),
        })
    }

    /// Reads from the file that is open, if there is more in it.
    fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &self.file else { return Ok(0) };
        let n = file.read_at(self.at, buffer)?;
        self.at += n as u64;
        Ok(n)
    }

    /// The file that the log goes on in, if it is not the one that is open.
    fn find_next(&self) -> io::Result<Option<Segment>> {
        let newest = self.open_newest()?;
        if self.file.as_ref().is_some_and(|file| file.is_same(&newest)) {
            return Ok(None);
        }
        if newest.start <= self.at {
            return Ok(Some(newest));
        }
        // Rotated more than once, or this is the beginning.
        Ok(match Segment::open(&previous(&self.path))? {
            Some(older) if older.end()? > self.at => Some(older),
            _ => Some(newest),
        })
    }

    /// Between the two renames of a rotation the name is missing for a moment.
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
    use crate::log::rotate::LogFile;

    fn log(name: &str, cap: u64) -> (PathBuf, LogFile) {
        let dir = std::env::temp_dir().join(format!("persistproc-tail-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let file = LogFile::create(dir.join("combined.log"), cap).unwrap();
        (dir, file)
    }

    /// All that comes: bytes, and how many are gone.
    fn rest(tail: &mut Tail) -> (Vec<u8>, u64) {
        let (mut bytes, mut gone) = (Vec::new(), 0);
        let mut buffer = [0; 1000];
        loop {
            match tail.read(&mut buffer).unwrap() {
                Next::Bytes(n) => bytes.extend_from_slice(&buffer[..n]),
                Next::Gone(n) => gone += n,
                Next::Nothing => return (bytes, gone),
            }
        }
    }

    #[test]
    fn what_is_renamed_or_removed_is_read_to_its_end() {
        let (dir, mut file) = log("renamed", 10_000);
        let mut tail = Tail::new(&dir, Stream::Combined, 0);
        file.append(b"one\n");
        assert_eq!(rest(&mut tail), (b"one\n".to_vec(), 0));
        assert_eq!(rest(&mut tail), (Vec::new(), 0));
        // Two rotations, of which it had not seen the first.
        (0..3).for_each(|i| file.append(&[b'0' + i; 8000]));
        assert_eq!(rest(&mut tail), ([[b'0'; 8000], [b'1'; 8000], [b'2'; 8000]].concat(), 0));
        file.append(b"two\n");
        std::fs::remove_dir_all(&dir).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(tail.read(&mut buffer).unwrap(), Next::Bytes(4));
        assert_eq!(tail.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(tail.at(), 24_008);
    }

    #[test]
    fn what_is_not_kept_is_counted_and_the_rest_comes_whole() {
        let (dir, mut file) = log("gone", 10_000);
        (0..5).for_each(|i| file.append(&[b'0' + i; 8000]));
        let mut tail = Tail::new(&dir, Stream::Combined, 0);
        assert_eq!(rest(&mut tail), ([[b'3'; 8000], [b'4'; 8000]].concat(), 24_000));
        let mut behind = Tail::new(&dir, Stream::Combined, 25_000);
        assert_eq!(rest(&mut behind), ([&[b'3'; 7000][..], &[b'4'; 8000]].concat(), 0));
        (5..9).for_each(|i| file.append(&[b'0' + i; 8000]));
        assert_eq!(rest(&mut behind), ([[b'7'; 8000], [b'8'; 8000]].concat(), 16_000));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
