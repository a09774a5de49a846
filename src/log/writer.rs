//! Writing a log file: append, start a new file at the cap, keep bytes that the disk refuses for a later attempt.
//!
//! At the cap `X.log` becomes `X.log.1` (replacing an older one), and a new `X.log` begins with a line of fixed length that
//! contains the offset at which it starts. That line is written before the file gets its name, so no reader ever sees a file
//! without knowing its offset. A record never begins with `#`, so the line cannot be mistaken for one.
//! Rotation happens between two writes, which may be in the middle of a line of the child; readers join the two files.
//!
//! Users empty logs, move them away, or let logrotate(8) do it. So after each write, and before it unless that was checked a
//! moment ago, fstat and lstat show whether the file is still the one that was written, and still as long. If not, a new one
//! is started in its place, whose first line shows readers exactly how much was lost with the other.
//!
//! As long as a program writes nothing but whole lines to stdout, `stdout.log` and `combined.log` are the same, byte for
//! byte. Until they differ ([`LogWriter::unshare`]), they are one file with two names ([`LogWriter::share_with`]), which
//! halves the amount written.
//!
//! If no new file can be created, because the file system has no inodes left, the oldest one is removed first; and if there
//! is none, the file grows until it is as large as both may be together.

use super::header::{HEADER_LEN, header, previous};
use memchr::memrchr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A check of the file that is no older than this is not repeated before a write, only after it.
const CHECK_MAX_AGE: Duration = Duration::from_millis(1);
/// Maximum number of foreign files that are put aside per log file.
const MAX_FOREIGN_FILES: u32 = 100;
/// One log file, opened for appending by the only process that writes it.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    /// Bytes written since the start of the run.
    end: u64,
    /// Bytes of records in the current file.
    file_bytes: u64,
    /// Maximum bytes of records per file; 0 = no limit. A single write is never divided, so a file may hold one larger write.
    cap: u64,
    /// Position in the current file at which its records begin.
    header_len: u64,
    /// Bytes that have not been written yet, in order. The caller stops reading while there are any.
    unwritten: Vec<u8>,
    /// The error of the last write that failed, until one succeeds.
    io_error: Option<io::Error>,
    /// A problem that does not keep bytes from being written.
    warning: Option<String>,
    /// Another name of the file, under which it is the log of another stream as well.
    alias: Option<PathBuf>,
    /// An empty file that will get that name: even when no more files can be created, it must be possible to separate the two
    /// logs.
    spare: Option<File>,
    /// When the file was last found in its place.
    checked_at: Option<Instant>,
    /// The disk accepted only part of a write. The rest belongs in the same file, because its lines may share a stamp with
    /// that part.
    is_torn: bool,
}

impl LogWriter {
    /// Creates the file with mode 0600. `cap` is the size at which it is rotated, in bytes, 0 for never.
    ///
    /// # Errors
    ///
    /// The file exists already or cannot be created.
    pub fn create(path: PathBuf, cap: u64) -> io::Result<LogWriter> {
        let (unwritten, io_error, warning, alias, spare, checked_at, is_torn) = Default::default();
        Ok(LogWriter {
            file: create_file(&path)?,
            path,
            end: 0,
            file_bytes: 0,
            cap,
            header_len: 0,
            unwritten,
            io_error,
            warning,
            alias,
            spare,
            checked_at,
            is_torn,
        })
    }

    /// Gives the file another name, under which it is the log of another stream as well. False if that fails, as on a file
    /// system without hard links. Only for a new file.
    pub fn share_with(&mut self, alias: PathBuf) -> bool {
        let spare =
            create_file(&spare_path(&alias)).and_then(|spare| std::fs::hard_link(&self.path, &alias).map(|()| spare));
        self.spare = spare.ok();
        self.alias = self.spare.is_some().then_some(alias);
        self.alias.is_some()
    }

    /// Separates the log of the other stream: it becomes a file with a copy of what this one contains so far. Copies at most
    /// one file of maximum size (tens of milliseconds), once per run. `None` if the file is not shared.
    ///
    /// # Errors
    ///
    /// The copy could not be written; the file is still shared then, and this can be tried again.
    pub fn unshare(&mut self) -> io::Result<Option<LogWriter>> {
        let Some(alias) = self.alias.clone() else { return Ok(None) };
        let Some(spare) = &mut self.spare else { return Ok(None) };
        spare.set_len(0)?; // what an earlier attempt that failed has written
        io::copy(&mut File::open(&self.path)?, spare)?;
        // If the rename fails, it is tried again with each write, and that is reported.
        let _ = std::fs::rename(spare_path(&alias), &alias);
        let Some(file) = self.spare.take() else { return Ok(None) };
        self.alias = None;
        let (LogWriter { end, file_bytes, cap, header_len, is_torn, .. }, unwritten) = (&*self, self.unwritten.clone());
        let (io_error, warning, alias_of_it, spare, checked_at) = Default::default();
        Ok(Some(LogWriter {
            path: alias,
            file,
            end: *end,
            file_bytes: *file_bytes,
            cap: *cap,
            header_len: *header_len,
            unwritten,
            io_error,
            warning,
            alias: alias_of_it,
            spare,
            checked_at,
            is_torn: *is_torn,
        }))
    }

    /// Appends `bytes`, or keeps them for [`retry`](Self::retry) if that fails. An error never loses data.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.is_stalled() {
            return self.defer(bytes);
        }
        let written = self.write(bytes);
        self.defer(&bytes[written..]);
    }

    /// Keeps `bytes` for [`retry`](Self::retry) without trying to write them now.
    pub fn defer(&mut self, bytes: &[u8]) {
        self.unwritten.extend_from_slice(bytes);
    }

    /// Whether the file has to be rotated before the unwritten bytes and `more` further ones are written. Rotation discards
    /// everything before [`start`](Self::start).
    pub fn must_rotate(&self, more: usize) -> bool {
        self.cap > 0 && self.file_bytes > 0 && self.file_bytes + (self.unwritten.len() + more) as u64 > self.cap
    }

    /// Offset at which the current file begins.
    pub fn start(&self) -> u64 {
        self.end - self.file_bytes
    }

    /// Lets the file grow beyond its cap from now on.
    pub fn lift_cap(&mut self) {
        self.cap = 0;
    }

    /// Tries again to write the unwritten bytes.
    pub fn retry(&mut self) {
        let bytes = std::mem::take(&mut self.unwritten);
        let written = self.write(&bytes);
        if written < bytes.len() {
            self.unwritten = bytes;
            self.unwritten.drain(..written);
        } else {
            self.io_error = None;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        if self.checked_at.is_none_or(|at| at.elapsed() > CHECK_MAX_AGE) {
            self.recreate_if_replaced();
        }
        if self.must_rotate(bytes.len())
            && !self.is_torn
            && let Err(error) = self.rotate()
        {
            let older = std::fs::metadata(previous(&self.path)).map_or(0, |file| file.len());
            if older + self.file_bytes + bytes.len() as u64 > 2 * self.cap {
                self.io_error = Some(error);
                return 0;
            }
            self.warning = Some(format!("cannot start a new file for {}: {error}", self.name()));
        }
        let written = self.write_to_file(bytes);
        if written == 0 {
            return 0;
        }
        self.is_torn = written < bytes.len();
        match self.inspect() {
            Placement::InPlace => {
                self.checked_at = Some(Instant::now());
                return written;
            }
            Placement::WithoutAlias => {
                self.recreate_if_replaced();
                return written;
            }
            Placement::Displaced => {}
        }
        // The file was replaced just now, and these bytes may be lost with it: write them again, to a new file that begins at
        // the same offset.
        (self.end, self.file_bytes) = (self.end - written as u64, self.file_bytes - written as u64);
        if self.file.metadata().is_ok_and(|file| file.len() == written as u64 && is_linked_at(&file, &self.path)) {
            let _ = self.file.set_len(0); // it was emptied, and is useless with these bytes alone
        }
        self.recreate_if_replaced();
        let written = self.write_to_file(bytes);
        self.is_torn = written > 0 && written < bytes.len();
        written
    }

    fn write_to_file(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.io_error = Some(error);
                    break;
                }
            }
        }
        if written < bytes.len() {
            written = self.truncate_partial_line(&bytes[..written]);
        }
        self.end += written as u64;
        self.file_bytes += written as u64;
        written
    }

    /// After a write that failed once `written` had been written: removes the partial line at its end from the file, because
    /// half a stamp would be taken for output. Returns how many bytes of `written` remain.
    fn truncate_partial_line(&self, written: &[u8]) -> usize {
        let write_start = self.header_len + self.file_bytes;
        let whole = memrchr(b'\n', written).map_or(0, |newline| newline + 1);
        let is_at_end = self.file.metadata().is_ok_and(|file| file.len() == write_start + written.len() as u64);
        let is_done = is_at_end && self.file.set_len(write_start + whole as u64).is_ok();
        if is_done { whole } else { written.len() }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let start = |log: &mut LogWriter| log.start_new_file(|path| std::fs::rename(path, previous(path)));
        start(self).or_else(|error| {
            let is_disk_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            if !is_disk_full || !self.is_at(&self.path) {
                return Err(error);
            }
            // It would be replaced anyway. It is not reused, because a reader may still have it open.
            std::fs::remove_file(previous(&self.path)).map_err(|_| error)?;
            self.alias.iter().for_each(|alias| drop(std::fs::remove_file(previous(alias))));
            start(self)
        })
    }

    /// Continues in a new file if this one was removed, moved, replaced or emptied: otherwise it would grow where it is not
    /// visible, or contain bytes that no reader could find by their offset.
    pub fn recreate_if_replaced(&mut self) {
        let result = match self.inspect() {
            Placement::InPlace => return self.checked_at = Some(Instant::now()),
            Placement::WithoutAlias => self.relink_alias(&put_aside),
            Placement::Displaced => self.start_new_file(put_aside),
        };
        if let Err(error) = result {
            self.warning = Some(format!("{} was removed or replaced and cannot be recreated: {error}", self.name()));
        }
    }

    /// Checks whether the file has its names, and all that was written.
    fn inspect(&self) -> Placement {
        let Ok(file) = self.file.metadata() else { return Placement::Displaced };
        if file.len() < self.header_len + self.file_bytes || !is_linked_at(&file, &self.path) {
            Placement::Displaced
        } else if self.alias.as_ref().is_some_and(|alias| !is_linked_at(&file, alias)) {
            Placement::WithoutAlias
        } else {
            Placement::InPlace
        }
    }

    fn is_at(&self, path: &Path) -> bool {
        self.file.metadata().is_ok_and(|file| is_linked_at(&file, path))
    }

    /// Gives the file its alias again; `vacate` frees that name.
    fn relink_alias(&self, vacate: &impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let Some(alias) = &self.alias else { return Ok(()) };
        let new = alias.with_extension("new");
        let _ = std::fs::remove_file(&new);
        std::fs::hard_link(&self.path, &new)?;
        vacate(alias)?;
        std::fs::rename(new, alias)
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Continues in a new file; `vacate` frees the name.
    fn start_new_file(&mut self, vacate: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut file = create_file(&new)?;
        file.write_all(header(self.end).as_bytes())?;
        vacate(&self.path)?;
        std::fs::rename(new, &self.path)?;
        (self.file, self.file_bytes, self.header_len, self.warning) = (file, 0, HEADER_LEN as u64, None);
        self.relink_alias(&vacate)
    }

    /// Bytes written since the start of the run: the offset of the next one.
    pub fn end(&self) -> u64 {
        self.end
    }
    /// Whether there are unwritten bytes.
    pub fn is_stalled(&self) -> bool {
        !self.unwritten.is_empty()
    }
    /// The system's error message for the last write that failed, until one succeeds.
    pub fn io_error(&self) -> Option<String> {
        self.io_error.as_ref().map(io::Error::to_string)
    }
    /// A problem that does not keep bytes from being written.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
    /// Whether there are unwritten bytes because the last write failed.
    pub fn has_failed(&self) -> bool {
        self.is_stalled() && self.io_error.is_some()
    }
    /// Drops the unwritten bytes and returns how many there were.
    pub fn discard_unwritten(&mut self) -> u64 {
        std::mem::take(&mut self.unwritten).len() as u64
    }
}

/// Where the file is compared with where it should be.
#[derive(PartialEq)]
enum Placement {
    InPlace,
    /// Only the alias is missing.
    WithoutAlias,
    /// Moved, removed, replaced or emptied.
    Displaced,
}

/// Whether a file has this path.
fn is_linked_at(file: &Metadata, path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino()))
}

/// Frees the path for a new file. Whatever is there is kept under another name, unless it is an empty file.
fn put_aside(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() || found.len() > 0 => {
            let numbers =
                std::iter::once(String::new()).chain((1..MAX_FOREIGN_FILES).map(|number| format!(".{number}")));
            let mut names = numbers.map(|number| path.with_added_extension(format!("foreign{number}")));
            let free = names.find(|name| name.symlink_metadata().is_err());
            std::fs::rename(path, free.ok_or(io::ErrorKind::AlreadyExists)?)
        }
        _ => Ok(()),
    }
}

/// The path of the spare file that becomes the log of the other stream.
fn spare_path(alias: &Path) -> PathBuf {
    alias.with_extension("own")
}

/// Creates a file. Whatever a program has put in its place is not opened, because that could block forever.
fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests;
