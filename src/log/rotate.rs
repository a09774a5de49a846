//! Writing a log file: append, begin a new file at the cap, keep what the disk refuses for later.
//!
//! At the cap `X.log` becomes `X.log.1` (an older one goes) and a new `X.log` begins with a line of fixed length that
//! says where in the run it starts. The line is there before the file gets its name, so no reader ever sees a file
//! without knowing its place. A record never begins with `#`, so the line cannot be mistaken.
//! A file is cut between two writes, which may be in the middle of a line of the child; readers join the two files.
//!
//! People empty logs, move them away, or let logrotate(8) do it. So after each write, and before it unless that was a moment
//! ago, it is looked whether the file is still the one that was written, and as long as it was (by fstat and lstat). If not,
//! a new one begins in its place, whose first line tells readers exactly how much went with the other.
//!
//! As long as a program writes nothing but whole lines to stdout, `stdout.log` and `combined.log` are the same, byte for
//! byte. Then they are one file with two names ([`LogFile::share`]), which halves what is written, until they differ
//! ([`LogFile::part`]).
//!
//! Where no new file can be made, because the file system has no inode left, the oldest one is removed first; and without
//! one the file grows until it is as large as both may be together.

use memchr::memrchr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Length of the first line of a file that is not the first of its run, in bytes.
pub const HEADER: usize = 64;
/// A look at a file that is no older than this is not repeated before a write, only afterwards.
const MOMENT: Duration = Duration::from_millis(1);
/// Things that are put aside from one place.
const FOREIGN: u32 = 100;
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
    /// Where in the present file its records begin.
    head: u64,
    /// What the disk would not take, in order. Whoever writes stops reading while there is something.
    unwritten: Vec<u8>,
    trouble: Option<io::Error>,
    /// What is wrong although the disk takes what is written.
    remark: Option<String>,
    /// Another name of the file, and an empty one that is going to have that name: where no file can be made any more, the
    /// two logs must still be able to part.
    twin: Option<PathBuf>,
    spare: Option<File>,
    /// When it was last seen in its place.
    seen: Option<Instant>,
    /// The disk took a part of what was to be written at once. The rest belongs into the same file: its lines may share a
    /// stamp with those.
    is_torn: bool,
}

impl LogFile {
    /// Creates the file, mode 0600.
    pub fn create(path: PathBuf, cap: u64) -> io::Result<LogFile> {
        let (unwritten, trouble, remark, twin, spare, seen, is_torn) = Default::default();
        Ok(LogFile {
            file: create(&path)?,
            path,
            end: 0,
            kept: 0,
            cap,
            head: 0,
            unwritten,
            trouble,
            remark,
            twin,
            spare,
            seen,
            is_torn,
        })
    }

    /// Gives the file another name, under which it is the log of another stream as well. False where the file system has no
    /// hard links. Only for a new one.
    pub fn share(&mut self, twin: PathBuf) -> bool {
        let spare = create(&spare(&twin)).and_then(|spare| std::fs::hard_link(&self.path, &twin).map(|()| spare));
        self.spare = spare.ok();
        self.twin = self.spare.is_some().then_some(twin);
        self.twin.is_some()
    }

    /// Makes the log of the other stream a file of its own, with what is in this one so far. Copies at most a file of the
    /// greatest size (some ten milliseconds), once in a run. `None` if they are not shared.
    pub fn part(&mut self) -> io::Result<Option<LogFile>> {
        let Some(twin) = self.twin.clone() else { return Ok(None) };
        let Some(spare) = &mut self.spare else { return Ok(None) };
        spare.set_len(0)?; // what the disk took the last time
        io::copy(&mut File::open(&self.path)?, spare)?;
        // Should the name be refused, it is asked for again with each write, and that is told.
        let _ = std::fs::rename(self::spare(&twin), &twin);
        let Some(file) = self.spare.take() else { return Ok(None) };
        self.twin = None;
        let (LogFile { end, kept, cap, head, is_torn, .. }, unwritten) = (&*self, self.unwritten.clone());
        let (trouble, remark, twin_of_it, spare, seen) = Default::default();
        Ok(Some(LogFile {
            path: twin,
            file,
            end: *end,
            kept: *kept,
            cap: *cap,
            head: *head,
            unwritten,
            trouble,
            remark,
            twin: twin_of_it,
            spare,
            seen,
            is_torn: *is_torn,
        }))
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
        if self.seen.is_none_or(|seen| seen.elapsed() > MOMENT) {
            self.revive();
        }
        if self.is_full(bytes.len())
            && !self.is_torn
            && let Err(error) = self.rotate()
        {
            let older = std::fs::metadata(previous(&self.path)).map_or(0, |file| file.len());
            if older + self.kept + bytes.len() as u64 > 2 * self.cap {
                self.trouble = Some(error);
                return 0;
            }
            self.remark = Some(format!("no new file can be begun for {}: {error}", self.name()));
        }
        let written = self.write_here(bytes);
        if written == 0 {
            return 0;
        }
        self.is_torn = written < bytes.len();
        match self.find() {
            Found::InPlace => {
                self.seen = Some(Instant::now());
                return written;
            }
            Found::WithoutTwin => {
                self.revive();
                return written;
            }
            Found::Elsewhere => {}
        }
        // It happened just now, and may have taken this with it: once more, in a new file that begins where this did.
        (self.end, self.kept) = (self.end - written as u64, self.kept - written as u64);
        if self.file.metadata().is_ok_and(|file| file.len() == written as u64 && is_named(&file, &self.path)) {
            let _ = self.file.set_len(0); // emptied, and of no use with this alone
        }
        self.revive();
        let written = self.write_here(bytes);
        self.is_torn = written > 0 && written < bytes.len();
        written
    }

    fn write_here(&mut self, bytes: &[u8]) -> usize {
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
        if written < bytes.len() {
            written = self.take_back_part(&bytes[..written]);
        }
        self.end += written as u64;
        self.kept += written as u64;
        written
    }

    /// After a write that failed and `written` that came before it: takes the part of a line at its end out of the file
    /// again, since half a stamp would be taken for output. How much is left, in bytes.
    fn take_back_part(&self, written: &[u8]) -> usize {
        let begin = self.head + self.kept;
        let whole = memrchr(b'\n', written).map_or(0, |newline| newline + 1);
        let is_at_end = self.file.metadata().is_ok_and(|file| file.len() == begin + written.len() as u64);
        let is_done = is_at_end && self.file.set_len(begin + whole as u64).is_ok();
        if is_done { whole } else { written.len() }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let begin = |log: &mut LogFile| log.begin_anew(|path| std::fs::rename(path, previous(path)));
        begin(self).or_else(|error| {
            let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            if !is_full || !self.has_name(&self.path) {
                return Err(error);
            }
            // It would go in any case. Not to be used again: a reader may still be in it.
            std::fs::remove_file(previous(&self.path)).map_err(|_| error)?;
            self.twin.iter().for_each(|twin| drop(std::fs::remove_file(previous(twin))));
            begin(self)
        })
    }

    /// Goes on in a new file if this one was removed, moved, replaced or emptied: else it would grow where it is not seen,
    /// or hold what no reader could find by its offset.
    pub fn revive(&mut self) {
        let again = match self.find() {
            Found::InPlace => return self.seen = Some(Instant::now()),
            Found::WithoutTwin => self.name_twin(&put_aside),
            Found::Elsewhere => self.begin_anew(put_aside),
        };
        if let Err(error) = again {
            self.remark = Some(format!("{} was removed or replaced, and cannot be made again: {error}", self.name()));
        }
    }

    /// Whether the file has its names, and all that was written.
    fn find(&self) -> Found {
        let Ok(file) = self.file.metadata() else { return Found::Elsewhere };
        if file.len() < self.head + self.kept || !is_named(&file, &self.path) {
            Found::Elsewhere
        } else if self.twin.as_ref().is_some_and(|twin| !is_named(&file, twin)) {
            Found::WithoutTwin
        } else {
            Found::InPlace
        }
    }

    fn has_name(&self, path: &Path) -> bool {
        self.file.metadata().is_ok_and(|file| is_named(&file, path))
    }

    /// Gives the file its other name again.
    fn name_twin(&self, put_away: &impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let Some(twin) = &self.twin else { return Ok(()) };
        let new = twin.with_extension("new");
        let _ = std::fs::remove_file(&new);
        std::fs::hard_link(&self.path, &new)?;
        put_away(twin)?;
        std::fs::rename(new, twin)
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn begin_anew(&mut self, put_away: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut file = create(&new)?;
        file.write_all(header(self.end).as_bytes())?;
        put_away(&self.path)?;
        std::fs::rename(new, &self.path)?;
        (self.file, self.kept, self.head, self.remark) = (file, 0, HEADER as u64, None);
        self.name_twin(&put_away)
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
    pub fn trouble(&self) -> Option<String> {
        self.trouble.as_ref().map(io::Error::to_string)
    }
    /// What is wrong although the disk takes what is written.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }
    /// Whether the last write failed.
    pub fn is_refused(&self) -> bool {
        self.is_stalled() && self.trouble.is_some()
    }
    /// Drops what could not be written and tells how much it was, in bytes.
    pub fn give_up(&mut self) -> u64 {
        std::mem::take(&mut self.unwritten).len() as u64
    }
}

/// What has become of a file.
#[derive(PartialEq)]
enum Found {
    InPlace,
    /// Only its other name is gone.
    WithoutTwin,
    /// Moved, removed, replaced or emptied.
    Elsewhere,
}

/// Whether a file has this name.
fn is_named(file: &Metadata, path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino()))
}

/// Leaves the name to a new file. What has taken it, unless that is nothing or empty, is kept under another one.
fn put_aside(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() || found.len() > 0 => {
            let numbers = std::iter::once(String::new()).chain((1..FOREIGN).map(|number| format!(".{number}")));
            let mut names = numbers.map(|number| path.with_added_extension(format!("foreign{number}")));
            let free = names.find(|name| name.symlink_metadata().is_err());
            std::fs::rename(path, free.ok_or(io::ErrorKind::AlreadyExists)?)
        }
        _ => Ok(()),
    }
}

/// Where the file waits that a shared log is going to be.
fn spare(twin: &Path) -> PathBuf {
    twin.with_extension("own")
}

/// A new file: what a program has put into its place is not opened, which could take for ever.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Stream;
    use crate::log::tail::{Next, Tail};
    use crate::sys;

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("persistproc-rotate-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn whatever_becomes_of_the_file_what_is_written_later_is_found_and_the_rest_counted() {
        type Spoil = fn(&Path);
        let spoils: [(&str, Spoil); 6] = [
            ("emptied", |path| drop(File::create(path).unwrap())),
            ("removed", |path| std::fs::remove_file(path).unwrap()),
            ("moved", |path| std::fs::rename(path, path.with_extension("moved")).unwrap()),
            ("replaced", |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::write(path, "foreign").unwrap();
            }),
            ("a directory", |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir_all(path.join("full")).unwrap();
            }),
            ("a FIFO", |path| {
                std::fs::remove_file(path).unwrap();
                sys::mkfifo(path).unwrap();
            }),
        ];
        for (name, spoil) in spoils {
            let dir = directory(&name.replace(' ', "-"));
            let path = dir.join("combined.log");
            let mut log = LogFile::create(path.clone(), 0).unwrap();
            log.append(b"one\n");
            spoil(&path);
            log.append(b"two\n");
            log.append(b"three\n");
            let mut tail = Tail::new(&dir, Stream::Combined, 0);
            let mut buffer = [0; 100];
            assert_eq!(tail.read(&mut buffer).unwrap(), Next::Gone(4), "{name}");
            assert_eq!(tail.read(&mut buffer).unwrap(), Next::Bytes(10), "{name}");
            assert_eq!((&buffer[..10], log.end(), log.trouble()), (&b"two\nthree\n"[..], 14, None), "{name}");
            let foreign = dir.join("combined.log.foreign").exists();
            assert_eq!(foreign, ["replaced", "a directory", "a FIFO"].contains(&name), "{name}");
            std::fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn a_log_that_cannot_be_rotated_stays_within_its_bound_and_says_why() {
        let dir = directory("bound");
        // Nothing can be made here: what stands in the place of the new file is not to be removed.
        std::fs::create_dir_all(dir.join("combined.new/full")).unwrap();
        let mut log = LogFile::create(dir.join("combined.log"), 1000).unwrap();
        for written in [900, 1800] {
            log.append(&[b'x'; 900]);
            assert_eq!((log.end(), log.is_refused()), (written, false));
        }
        assert!(log.remark().unwrap().contains("no new file can be begun for combined.log"), "{:?}", log.remark());
        log.append(&[b'y'; 900]);
        assert!(log.end() == 1800 && log.is_refused());
        std::fs::remove_dir_all(dir.join("combined.new")).unwrap();
        log.retry();
        assert_eq!((log.end(), log.is_stalled(), log.trouble(), log.remark()), (2700, false, None, None));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn two_logs_are_one_file_until_they_part_also_when_it_is_rotated_or_one_name_is_removed() {
        let dir = directory("twin");
        let [combined, stdout] = ["combined.log", "stdout.log"].map(|name| dir.join(name));
        let mut log = LogFile::create(combined.clone(), 1000).unwrap();
        assert!(log.share(stdout.clone()));
        let read = |stream| {
            let mut tail = Tail::new(&dir, stream, 0);
            let mut buffer = [0; 4000];
            let mut all = Vec::new();
            while let Next::Bytes(n) = tail.read(&mut buffer).unwrap() {
                all.extend_from_slice(&buffer[..n]);
            }
            all
        };
        (b'a'..=b'b').for_each(|letter| log.append(&[letter; 600]));
        assert_eq!(
            (read(Stream::Stdout), read(Stream::Combined)),
            (read(Stream::Combined), [[b'a'; 600], [b'b'; 600]].concat())
        );
        assert!(log.has_name(&stdout) && log.has_name(&combined));
        assert!(is_named(&previous(&combined).metadata().unwrap(), &previous(&stdout)));
        std::fs::remove_file(&stdout).unwrap();
        log.append(b"c");
        assert!(log.has_name(&stdout) && read(Stream::Combined).len() == 1201, "the other one is as it was");
        log.keep(b"d");
        let mut own = log.part().unwrap().unwrap();
        assert!(log.part().unwrap().is_none());
        [&mut own, &mut log].into_iter().for_each(LogFile::retry);
        log.append(b"only here");
        own.append(b"there");
        assert!(read(Stream::Stdout).ends_with(b"bcdthere") && read(Stream::Combined).ends_with(b"bcdonly here"));
        assert_eq!((own.end(), log.end()), (1207, 1211));
        std::fs::remove_dir_all(dir).unwrap();
    }

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

    #[test]
    fn what_is_emptied_or_moved_between_two_writes_goes_on_in_a_new_file_whether_that_was_seen_before_or_after() {
        let dir = directory("between");
        let path = dir.join("combined.log");
        let mut log = LogFile::create(path.clone(), 0).unwrap();
        for (i, pause) in [Duration::ZERO, 2 * MOMENT, Duration::ZERO, 2 * MOMENT].into_iter().enumerate() {
            log.append(b"before\n");
            if i < 2 {
                File::create(&path).unwrap();
            } else {
                std::fs::rename(&path, dir.join(format!("moved{i}"))).unwrap();
            }
            let end = log.end();
            std::thread::sleep(pause);
            log.append(b"after\n");
            let file = std::fs::read(&path).unwrap();
            assert_eq!((parse_header(&file), &file[HEADER..]), (Some(end), &b"after\n"[..]), "{i}");
        }
        let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["combined.log", "moved2", "moved3"], "nothing else is left");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_the_disk_took_a_part_of_is_not_divided_between_two_files() {
        let dir = directory("torn");
        let mut log = LogFile::create(dir.join("combined.log"), 1000).unwrap();
        log.append(&[b'x'; 900]);
        log.is_torn = true; // as if the disk had refused what follows
        log.keep(&[b'y'; 200]);
        log.retry();
        assert_eq!((log.start(), log.end(), log.is_torn), (0, 1100, false));
        log.append(b"z");
        assert_eq!(log.start(), 1100);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
