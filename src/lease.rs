//! How far the readers of a run have read: from their leases the shim knows which bytes it must not rotate away yet, and
//! the server which finished runs it must not remove yet.
//!
//! ```text
//! readers/4711.0                            created by the command that reads, and locked as long as it lives
//! runs/000012.npm_run_dev/readers/4711.0    the same file, hard-linked there by the server: it reads this run
//! ```
//!
//! The lock (flock(2)) is released when its process exits, for whatever reason, so no lease outlives its reader, and no
//! timeout is needed to find out. The file contains the run that the reader is at and how much of that run's log it has
//! passed on: of earlier runs it needs nothing more, and of later ones, which a restart began, it needs everything. A restart
//! links the leases of the old run to the new one before the new one begins, so that there is no moment without them.

use crate::sys;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directory of leases, both in the data directory and in run directories.
const LEASE_DIRECTORY: &str = "readers";
/// Prefix of a lease that is not locked yet.
const UNLOCKED_PREFIX: &str = ".new.";
/// Size of a lease's text in bytes: constant, so that it is overwritten in a single write.
const LEASE_SIZE: usize = 80;
/// After this time, a lease that was never locked belongs to a killed command.
const UNLOCKED_TIMEOUT: Duration = Duration::from_secs(60);
/// How many names are tried: several processes have the same pid only in containers that share a data directory.
const MAX_NAME_ATTEMPTS: u32 = 100;

/// The kind of reader, which determines how long the run waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderKind {
    /// A wrapper whose output goes to a pipe or a file.
    Pipe,
    /// A wrapper at a terminal.
    Terminal,
    /// `output --follow`, which only observes: the run is never held up for it.
    Observer,
}

impl ReaderKind {
    const ALL: [(ReaderKind, &str); 3] =
        [(ReaderKind::Pipe, "pipe"), (ReaderKind::Terminal, "terminal"), (ReaderKind::Observer, "observer")];

    fn name(self) -> &'static str {
        ReaderKind::ALL.into_iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// How far a reader has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of the run that it reads.
    pub run: u64,
    /// Everything before this offset in its `combined.log` has been passed on.
    pub offset: u64,
    /// Grows whenever something is passed on, even while `offset` stays the same.
    pub progress: u64,
    pub kind: ReaderKind,
}

impl Position {
    fn text(&self) -> String {
        let Position { run, offset, progress, kind } = self;
        format!("{:<width$}\n", format!("{run} {offset} {progress} {}", kind.name()), width = LEASE_SIZE - 1)
    }

    fn parse(text: &str) -> Option<Position> {
        let mut fields = text.strip_suffix('\n')?.split_ascii_whitespace();
        let mut number = || fields.next()?.parse().ok();
        let (run, offset, progress) = (number()?, number()?, number()?);
        let name = fields.next()?;
        let (kind, _) = ReaderKind::ALL.into_iter().find(|(_, known)| *known == name)?;
        Some(Position { run, offset, progress, kind })
    }

    /// Offset from which the reader still needs the `combined.log` of `run`; `None` if it needs nothing of it.
    pub fn needed_from(&self, run: u64) -> Option<u64> {
        match run.cmp(&self.run) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => Some(self.offset),
            std::cmp::Ordering::Greater => Some(0),
        }
    }
}

/// A lease as held by its reader. It ends when this is dropped, or when the process exits.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: File,
    position: Position,
}

impl Lease {
    /// Acquires a lease with nothing read, for a run that is not known yet.
    ///
    /// # Errors
    ///
    /// The file or its directory cannot be created or locked.
    pub fn acquire(data_dir: &Path, kind: ReaderKind) -> io::Result<Lease> {
        let directory = data_dir.join(LEASE_DIRECTORY);
        ensure_directory(&directory)?;
        let pid = std::process::id();
        let made =
            (0..MAX_NAME_ATTEMPTS).find_map(|number| create_locked(&directory, &format!("{pid}.{number}")).transpose());
        let (path, file) = made.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))?;
        let lease = Lease { path, file, position: Position { run: 0, offset: 0, progress: 0, kind } };
        lease.write()?;
        Ok(lease)
    }

    /// The name by which the server knows the lease.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Records that everything before `offset` of `run` has been passed on.
    pub fn advance(&mut self, run: u64, offset: u64) {
        (self.position.run, self.position.offset) = (run, offset);
        self.record_progress();
    }

    /// Records that some of what follows the current offset has been passed on.
    pub fn record_progress(&mut self) {
        self.position.progress += 1;
        let _ = self.write(); // overwrites, which needs no disk space; if it fails we merely count as slow
    }

    /// From now on nothing waits for this reader.
    pub fn become_observer(&mut self) {
        self.position.kind = ReaderKind::Observer;
        self.record_progress();
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(self.position.text().as_bytes(), 0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // its links are removed with their runs
    }
}

/// Creates and locks a lease of this name; `None` if another process has that name. The file gets its name only once it is
/// locked, so a file of that name that is not locked is no longer a lease.
fn create_locked(directory: &Path, name: &str) -> io::Result<Option<(PathBuf, File)>> {
    let (path, unlocked) = (directory.join(name), directory.join(format!("{UNLOCKED_PREFIX}{name}")));
    if live_position(&path).is_some() {
        return Ok(None);
    }
    let _ = fs::remove_file(&unlocked);
    let mut options = OpenOptions::new();
    let file = match options.read(true).write(true).create_new(true).mode(0o600).open(&unlocked) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        made => made?,
    };
    file.lock()?;
    fs::rename(&unlocked, &path)?;
    Ok(Some((path, file)))
}

fn ensure_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The position of the reader with this lease; `None` if the reader has exited.
fn live_position(path: &Path) -> Option<Position> {
    let mut file = sys::read_regular(path).ok()?;
    let is_locked = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    let mut text = [0; LEASE_SIZE];
    file.read_exact(&mut text).ok()?;
    Position::parse(std::str::from_utf8(&text).ok()?).filter(|_| is_locked)
}

/// Whether `name` is a well-formed lease name, and so cannot be any other path.
pub fn is_lease_name(name: &str) -> bool {
    let is_number = |text: &str| (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('.').is_some_and(|(pid, number)| is_number(pid) && is_number(number))
}

/// Records that the reader with the lease `name` reads the run in `run_dir` from now on. Idempotent.
///
/// # Errors
///
/// The lease does not exist or cannot be linked; nothing waits for the reader then.
pub fn link(data_dir: &Path, name: &str, run_dir: &Path) -> io::Result<()> {
    if !is_lease_name(name) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    link_to(&data_dir.join(LEASE_DIRECTORY).join(name), run_dir)
}

fn link_to(lease: &Path, run_dir: &Path) -> io::Result<()> {
    let directory = run_dir.join(LEASE_DIRECTORY);
    ensure_directory(&directory)?;
    let link = directory.join(lease.file_name().unwrap_or_default());
    match fs::hard_link(lease, &link) {
        // Either its own link, or that of an exited process with the same pid.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && live_position(&link).is_none() => {
            fs::remove_file(&link)?;
            fs::hard_link(lease, &link)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// Links the leases of the old run to the new one, because its readers will continue there.
pub fn carry_over(old: &Path, new: &Path) {
    for (name, _) in leases(old) {
        let _ = link_to(&old.join(LEASE_DIRECTORY).join(name), new); // if this fails, nothing waits for that reader
    }
}

/// The names and positions of all live leases on a run.
pub fn leases(run_dir: &Path) -> Vec<(String, Position)> {
    let entries = fs::read_dir(run_dir.join(LEASE_DIRECTORY)).into_iter().flatten().flatten();
    let live = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| is_lease_name(name))?;
        Some((name, live_position(&entry.path())?))
    });
    live.collect()
}

/// Whether any reader still needs the log of this run.
pub fn is_needed(run_dir: &Path, run: u64) -> bool {
    leases(run_dir).iter().any(|(_, position)| position.needed_from(run).is_some())
}

/// Removes leases that killed readers left in the data directory.
pub fn remove_stale(data_dir: &Path) {
    for entry in fs::read_dir(data_dir.join(LEASE_DIRECTORY)).into_iter().flatten().flatten() {
        let is_stale = match entry.file_name().to_string_lossy().starts_with(UNLOCKED_PREFIX) {
            true => entry
                .metadata()
                .is_ok_and(|file| file.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > UNLOCKED_TIMEOUT))),
            false => live_position(&entry.path()).is_none(),
        };
        if is_stale {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::Builder::new().prefix(&format!("persistproc-lease-{name}-")).tempdir().unwrap();
        let path = directory.path().to_path_buf();
        (directory, path)
    }

    #[test]
    fn a_lease_is_visible_in_each_run_that_it_is_linked_to_until_its_reader_exits() {
        let (_directory, data) = directory("linked");
        let [old, new] = ["old", "new"].map(|name| data.join(name));
        [&old, &new].iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        assert!(!is_needed(&old, 1));
        let mut lease = Lease::acquire(&data, ReaderKind::Pipe).unwrap();
        let second = Lease::acquire(&data, ReaderKind::Observer).unwrap();
        assert!(lease.name() != second.name() && is_lease_name(&lease.name()));
        link(&data, &lease.name(), &old).unwrap();
        link(&data, &lease.name(), &old).unwrap();
        lease.advance(1, 500);
        carry_over(&old, &new);
        assert_eq!(leases(&new), leases(&old));
        let [(_, position)] = leases(&new).try_into().unwrap();
        assert_eq!(
            (position.needed_from(1), position.needed_from(2), position.kind),
            (Some(500), Some(0), ReaderKind::Pipe)
        );
        lease.advance(2, 7);
        assert!(!is_needed(&old, 1) && is_needed(&new, 2));
        assert!(leases(&old)[0].1.progress > position.progress);
        drop(lease);
        assert_eq!((leases(&old), leases(&new)), (Vec::new(), Vec::new()));
        remove_stale(&data);
        assert!(data.join(LEASE_DIRECTORY).join(second.name()).exists());
    }

    #[test]
    fn files_left_by_killed_readers_are_not_leases_and_are_removed() {
        let (_directory, data) = directory("stale");
        let text = Position { run: 1, offset: u64::MAX, progress: u64::MAX, kind: ReaderKind::Terminal }.text();
        assert_eq!(text.len(), LEASE_SIZE);
        ensure_directory(&data.join(LEASE_DIRECTORY)).unwrap();
        let left = data.join(LEASE_DIRECTORY).join(format!("{}.0", std::process::id()));
        fs::write(&left, text).unwrap();
        assert_eq!(live_position(&left), None);
        let lease = Lease::acquire(&data, ReaderKind::Terminal).unwrap();
        assert_eq!(lease.path, left, "the name of an exited process can be used again");
        drop(lease);
        fs::write(&left, "").unwrap();
        remove_stale(&data);
        assert!(!left.exists());
    }

    #[test]
    fn a_lease_name_consists_of_two_numbers() {
        for name in ["", ".", "1", "1.", ".1", "../1.2", "1.2.3", "a.1", "1.-1", "12345678901.0", "1/2.3"] {
            assert!(!is_lease_name(name), "{name}");
        }
        assert!(is_lease_name("4711.0"));
    }
}
