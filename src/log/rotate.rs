//! Writing a log file: append, begin a new file at the cap, keep what the disk refuses for later.
//!
//! At the cap `X.log` becomes `X.log.1` (an older one goes) and a new `X.log` begins with a line of fixed length that
//! says where in the run it starts. The line is there before the file gets its name, so no reader ever sees a file
//! without knowing its place. A record never begins with `#`, so the line cannot be mistaken.
//! A file is cut between two writes, which may be in the middle of a line of the child; readers join the two files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Length of the first line of a file that is not the first of its run, in bytes.
pub const HEADER: usize = 64;
const HEADER_START: &str = "# persistproc: continues at byte ";

/// The line that begins a file at offset `at` of the run.
fn header(at: u64) -> String {
    format!("{:<width$}\n", format!("{HEADER_START}{at} of the run"), width = HEADER - 1)
}

/// The offset in such a line; `None` if `bytes` are something else, so that the file is the first of its run.
pub fn parse_header(bytes: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(bytes.get(..HEADER)?).ok()?;
    line.strip_prefix(HEADER_START)?.split_once(' ')?.0.parse().ok()
}

/// Where the file before this one is kept.
pub fn previous(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// One log file, opened for appending by the only process that writes it.
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// Bytes since the start of the run.
    end: u64,
    /// Bytes of records in the present file.
    kept: u64,
    /// Bytes a file may hold; 0 = no limit. One write is never divided, so a smaller cap than that counts as it.
    cap: u64,
    /// What the disk would not take, in order. Whoever writes stops reading while there is something.
    unwritten: Vec<u8>,
    trouble: Option<io::Error>,
}

impl LogFile {
    /// Creates the file, mode 0600.
    pub fn create(path: PathBuf, cap: u64) -> io::Result<LogFile> {
        Ok(LogFile { file: create(&path)?, path, end: 0, kept: 0, cap, unwritten: Vec::new(), trouble: None })
    }

    /// Appends `bytes`, or keeps them for [`retry`](Self::retry) if that fails. An error is never lost data.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.is_stalled() {
            return self.keep(bytes);
        }
        let written = self.write(bytes);
        self.keep(&bytes[written..]);
    }

    /// Keeps `bytes` for [`retry`](Self::retry).
    pub fn keep(&mut self, bytes: &[u8]) {
        self.unwritten.extend_from_slice(bytes);
    }

    /// Whether the file is to be rotated before what waits to be written, and `more` bytes, are: then everything before
    /// [`start`](Self::start) goes.
    pub fn is_full(&self, more: usize) -> bool {
        self.cap > 0 && self.kept > 0 && self.kept + (self.unwritten.len() + more) as u64 > self.cap
    }

    /// Offset at which the present file begins.
    pub fn start(&self) -> u64 {
        self.end - self.kept
    }

    /// From now on the file grows beyond its cap.
    pub fn lift_cap(&mut self) {
        self.cap = 0;
    }

    /// Tries again what could not be written.
    pub fn retry(&mut self) {
        let bytes = std::mem::take(&mut self.unwritten);
        let written = self.write(&bytes);
        if written < bytes.len() {
            self.unwritten = bytes;
            self.unwritten.drain(..written);
        } else {
            self.trouble = None;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        if self.is_full(bytes.len()) {
            // If it fails (disk full) the old file goes on growing; the write that follows says what is wrong.
            let _ = self.rotate();
        }
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.trouble = Some(error);
                    break;
                }
            }
        }
        self.end += written as u64;
        self.kept += written as u64;
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.begin_anew(|path| std::fs::rename(path, previous(path)))
    }

    /// Goes on in a new file if somebody has removed this one, which would else grow where nobody sees it. The header
    /// tells readers how much is gone with it.
    pub fn revive(&mut self) {
        if self.file.metadata().is_ok_and(|file| file.nlink() == 0) {
            let _ = self.begin_anew(|_| Ok(())); // without a directory to put it there is nothing to be done
        }
    }

    fn begin_anew(&mut self, put_away: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut file = create(&new)?;
        file.write_all(header(self.end).as_bytes())?;
        put_away(&self.path)?;
        std::fs::rename(new, &self.path)?;
        self.file = file;
        self.kept = 0;
        Ok(())
    }

    /// Bytes written since the start of the run: the offset of the next one.
    pub fn end(&self) -> u64 {
        self.end
    }
    /// Whether something waits to be written.
    pub fn is_stalled(&self) -> bool {
        !self.unwritten.is_empty()
    }
    /// What the system said to the last write that failed, until one succeeds.
    pub fn trouble(&self) -> Option<&io::Error> {
        self.trouble.as_ref()
    }
    /// Drops what could not be written and tells how much it was, in bytes.
    pub fn give_up(&mut self) -> u64 {
        std::mem::take(&mut self.unwritten).len() as u64
    }
}

/// A new file: what a program has put into its place is not opened, which could take for ever.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_a_fixed_length_and_is_read_back() {
        for at in [0, 1, 64 << 20, 999_999_999_999_999] {
            let line = header(at);
            assert_eq!(line.len(), HEADER);
            assert_eq!(parse_header(line.as_bytes()), Some(at));
        }
        assert_eq!(parse_header(b"# persistproc: continues at byte 5"), None);
        assert_eq!(parse_header(format!("{:<64}", "2026-01-02T03:04:05.678Z text").as_bytes()), None);
    }
}
