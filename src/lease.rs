//! What readers of a run have read so far: by their leases the shim knows which bytes it must not rotate away yet, and the
//! server which finished runs it must not remove yet.
//!
//! ```text
//! readers/4711.0                            made and locked by the command that reads, as long as it lives
//! runs/000012.npm_run_dev/readers/4711.0    the same file, linked there by the server: it reads this run
//! ```
//!
//! The lock (flock(2)) goes with its process, however that ends, so no lease outlives its reader, and no clock is needed
//! to tell. The file says which run the reader is at and how far it has passed on its log: in the runs before that it has
//! nothing to read any more, and in those after it, which a restart began, it has everything to read. A restart hands the
//! leases of the old run on to the new one before that begins, so that there is no moment without.

use crate::sys;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directory of leases, in the data directory and in those of runs.
const DIRECTORY: &str = "readers";
/// Prefix of a lease that is not locked yet.
const UNLOCKED: &str = ".new.";
/// Bytes of the text of a lease: always the same, so that it is written at once.
const SIZE: usize = 80;
/// After this, a lease that was never locked belongs to a killed command.
const ABANDONED: Duration = Duration::from_secs(60);
/// Names that are tried: only in containers that share a data directory have several processes the same number.
const NAMES: u32 = 100;

/// What reads, and so how long the run waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The wrapper, whose output goes to a pipe or a file.
    Pipe,
    /// The wrapper at a terminal.
    Terminal,
    /// `output --follow`, a look at a run of others: it is not held up for that.
    Observer,
}

impl Kind {
    const ALL: [(Kind, &str); 3] = [(Kind::Pipe, "pipe"), (Kind::Terminal, "terminal"), (Kind::Observer, "observer")];

    fn name(self) -> &'static str {
        Kind::ALL.into_iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of the run that it reads.
    pub run: u64,
    /// Everything before this offset in its `combined.log` has been passed on.
    pub offset: u64,
    /// Grows whenever something is passed on, also within what `offset` counts as one piece.
    pub progress: u64,
    pub kind: Kind,
}

impl Position {
    fn text(&self) -> String {
        let Position { run, offset, progress, kind } = self;
        format!("{:<width$}\n", format!("{run} {offset} {progress} {}", kind.name()), width = SIZE - 1)
    }

    fn parse(text: &str) -> Option<Position> {
        let mut words = text.strip_suffix('\n')?.split_ascii_whitespace();
        let mut number = || words.next()?.parse().ok();
        let (run, offset, progress) = (number()?, number()?, number()?);
        let name = words.next()?;
        let (kind, _) = Kind::ALL.into_iter().find(|(_, known)| *known == name)?;
        Some(Position { run, offset, progress, kind })
    }

    /// Offset in the log of `run` from which on the reader still needs it; `None` if it does not.
    pub fn needs(&self, run: u64) -> Option<u64> {
        match run.cmp(&self.run) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => Some(self.offset),
            std::cmp::Ordering::Greater => Some(0),
        }
    }
}

/// The reader's side. The lease ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: File,
    position: Position,
}

impl Lease {
    /// A lease of a run that is not known yet, with nothing read.
    pub fn take(data_dir: &Path, kind: Kind) -> io::Result<Lease> {
        let directory = data_dir.join(DIRECTORY);
        make_directory(&directory)?;
        let pid = std::process::id();
        let made = (0..NAMES).find_map(|number| make(&directory, &format!("{pid}.{number}")).transpose());
        let (path, file) = made.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))?;
        let lease = Lease { path, file, position: Position { run: 0, offset: 0, progress: 0, kind } };
        lease.write()?;
        Ok(lease)
    }

    /// By which the server knows it.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Everything before `offset` of `run` has been passed on.
    pub fn passed_on(&mut self, run: u64, offset: u64) {
        (self.position.run, self.position.offset) = (run, offset);
        self.progressed();
    }

    /// A part of what lies behind that has been passed on.
    pub fn progressed(&mut self) {
        self.position.progress += 1;
        let _ = self.write(); // over what is there, which needs no room; without it we only count as slow
    }

    /// From now on nothing has to wait for this reader.
    pub fn observe(&mut self) {
        self.position.kind = Kind::Observer;
        self.progressed();
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(self.position.text().as_bytes(), 0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // its links go with their runs
    }
}

/// Makes and locks a file of this name; `None` if another process has that. It gets the name when it is locked, so that
/// one which is not locked is no lease any more.
fn make(directory: &Path, name: &str) -> io::Result<Option<(PathBuf, File)>> {
    let (path, unlocked) = (directory.join(name), directory.join(format!("{UNLOCKED}{name}")));
    if position(&path).is_some() {
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

fn make_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Where the reader of a lease is; `None` if it has ended.
fn position(path: &Path) -> Option<Position> {
    let mut file = sys::read_regular(path).ok()?;
    let is_locked = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    let mut text = [0; SIZE];
    file.read_exact(&mut text).ok()?;
    Position::parse(std::str::from_utf8(&text).ok()?).filter(|_| is_locked)
}

/// Whether this can be the name of a lease, and nothing else.
pub fn is_name(name: &str) -> bool {
    let is_number = |text: &str| (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('.').is_some_and(|(pid, number)| is_number(pid) && is_number(number))
}

/// The reader with the lease `name` reads the run in `run_dir` from now on. Does no harm if it does already. Without the
/// lease (an error) it is not waited for.
pub fn link(data_dir: &Path, name: &str, run_dir: &Path) -> io::Result<()> {
    if !is_name(name) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    link_to(&data_dir.join(DIRECTORY).join(name), run_dir)
}

fn link_to(lease: &Path, run_dir: &Path) -> io::Result<()> {
    let directory = run_dir.join(DIRECTORY);
    make_directory(&directory)?;
    let place = directory.join(lease.file_name().unwrap_or_default());
    match fs::hard_link(lease, &place) {
        // Its own link, or one of a process of that number that has ended.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && position(&place).is_none() => {
            fs::remove_file(&place)?;
            fs::hard_link(lease, &place)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// Readers of the old run will go on with the new one.
pub fn hand_on(old: &Path, new: &Path) {
    for (name, _) in leases(old) {
        let _ = link_to(&old.join(DIRECTORY).join(name), new); // not waited for, then
    }
}

/// The leases on a run, and what they say.
pub fn leases(run_dir: &Path) -> Vec<(String, Position)> {
    let entries = fs::read_dir(run_dir.join(DIRECTORY)).into_iter().flatten().flatten();
    let live = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| is_name(name))?;
        Some((name, position(&entry.path())?))
    });
    live.collect()
}

/// Whether some reader still needs the log of this run.
pub fn is_read(run_dir: &Path, run: u64) -> bool {
    leases(run_dir).iter().any(|(_, position)| position.needs(run).is_some())
}

/// Removes what killed readers have left in the data directory.
pub fn sweep(data_dir: &Path) {
    for entry in fs::read_dir(data_dir.join(DIRECTORY)).into_iter().flatten().flatten() {
        let is_left = match entry.file_name().to_string_lossy().starts_with(UNLOCKED) {
            true => entry
                .metadata()
                .is_ok_and(|file| file.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED))),
            false => position(&entry.path()).is_none(),
        };
        if is_left {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("persistproc-lease-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_lease_is_seen_in_each_run_that_it_is_linked_to_until_its_reader_ends() {
        let data = directory("linked");
        let [old, new] = ["old", "new"].map(|name| data.join(name));
        [&old, &new].iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        assert!(!is_read(&old, 1));
        let mut lease = Lease::take(&data, Kind::Pipe).unwrap();
        let second = Lease::take(&data, Kind::Observer).unwrap();
        assert!(lease.name() != second.name() && is_name(&lease.name()));
        link(&data, &lease.name(), &old).unwrap();
        link(&data, &lease.name(), &old).unwrap();
        lease.passed_on(1, 500);
        hand_on(&old, &new);
        assert_eq!(leases(&new), leases(&old));
        let [(_, position)] = leases(&new).try_into().unwrap();
        assert_eq!((position.needs(1), position.needs(2), position.kind), (Some(500), Some(0), Kind::Pipe));
        lease.passed_on(2, 7);
        assert!(!is_read(&old, 1) && is_read(&new, 2));
        assert!(leases(&old)[0].1.progress > position.progress);
        drop(lease);
        assert_eq!((leases(&old), leases(&new)), (Vec::new(), Vec::new()));
        sweep(&data);
        assert!(data.join(DIRECTORY).join(second.name()).exists());
        fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn what_killed_readers_leave_is_no_lease_and_is_swept() {
        let data = directory("swept");
        let text = Position { run: 1, offset: u64::MAX, progress: u64::MAX, kind: Kind::Terminal }.text();
        assert_eq!(text.len(), SIZE);
        make_directory(&data.join(DIRECTORY)).unwrap();
        let left = data.join(DIRECTORY).join(format!("{}.0", std::process::id()));
        fs::write(&left, text).unwrap();
        assert_eq!(position(&left), None);
        let lease = Lease::take(&data, Kind::Terminal).unwrap();
        assert_eq!(lease.path, left, "the number of a process that has ended is free");
        drop(lease);
        fs::write(&left, "").unwrap();
        sweep(&data);
        assert!(!left.exists());
        fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn only_a_name_of_two_numbers_is_the_name_of_a_lease() {
        for name in ["", ".", "1", "1.", ".1", "../1.2", "1.2.3", "a.1", "1.-1", "12345678901.0", "1/2.3"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("4711.0"));
    }
}
