//! The directory of a run: what its files are called, and the two that are JSON. The contract between the shim, which
//! writes the status, and servers of any age, which read it; so both files carry the version of their format.
//!
//! ```text
//! runs/000012.npm_run_dev/
//!   meta.json    what was started, written once by the server, before the shim exists
//!   order.json   what a server has promised to do with it, see Order; there only meanwhile
//!   status.json  how it goes, rewritten by the shim; always SIZE bytes, see Status::write
//!   lock         flock(2)ed as long as the shim lives: taken = alive, no pid games
//!   ctl          FIFO, server → shim: lines `stop GRACE_MS`, `signal N`, `input HEX`, `look 0`, each at most PIPE_BUF bytes
//!   events       FIFO, shim → server: a doorbell of single bytes, `m` (a log grew) or `s` (the status changed); and, should
//!                the disk not take the status, `j` and the status itself, up to a newline
//!   stdout.log stderr.log combined.log (+ .1)      see `log`
//!   stdout.own   becomes stdout.log when that is no longer the same as combined.log
//!   readers/     leases of the commands that read it, see `lease`
//!   shim.log     what a shim that broke had to say
//! ```

use crate::attributes::Attributes;
use crate::sys;
use crate::words::Word;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Version of the two JSON files. A reader leaves newer ones alone and says so.
pub const FORMAT: u32 = 1;
/// Size of `status.json`, in bytes.
pub const SIZE: usize = 2048;
/// A message to the shim is at most this long, in bytes: POSIX promises that writes up to PIPE_BUF never mix, and its
/// smallest value anywhere that we run is 512 (macOS).
pub const MESSAGE: usize = 512;
/// The variable by which every descendant of a run can be recognised; its value is the run's directory.
pub const MARK: &str = "PERSISTPROC_RUN";

/// The doorbell's two tones.
pub const LOG_GREW: u8 = b'm';
pub const STATUS_CHANGED: u8 = b's';
/// Begins a status in the same FIFO. Servers up to 0.4 hear bells in it, which do no harm.
pub const STATUS_FOLLOWS: u8 = b'j';

/// What a run is doing, or how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    /// The leader is gone, descendants live: still captured, still stoppable.
    Detached,
    /// Ended by itself.
    Exited,
    /// Ended because somebody asked for it here.
    Terminated,
    /// Could not be started.
    #[default]
    Failed,
    /// The shim was killed, so nobody knows.
    Lost,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Detached => "detached",
            State::Exited => "exited",
            State::Terminated => "terminated",
            State::Failed => "failed",
            State::Lost => "lost",
        }
    }
    /// Whether something of the run may still be alive.
    pub fn is_live(self) -> bool {
        matches!(self, State::Running | State::Detached)
    }
}

/// `meta.json`: everything that is needed to start the same thing again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    pub version: u32,
    pub argv: Vec<Word>,
    pub working_directory: Word,
    /// The whole environment, in the order in which it was given.
    pub environment: Vec<(Word, Word)>,
    pub label: String,
    /// Milliseconds since 1970.
    pub created: u64,
    /// The run that this one replaced by a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    pub max_log_bytes: u64,
    /// Of the request that started it, so that the same request sent again does not start it twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Of the shell where it was asked for; `None` in files of versions up to 0.4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// `order.json`: a stop or a restart, written down before it begins, so that the next server finishes it should this one be
/// killed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub version: u32,
    /// Between asking nicely and killing, in milliseconds.
    pub grace: u64,
    /// Of the request, so that the same one sent again is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The run that is to take its place: this is a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Meta>,
    /// When it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Moment>,
    /// It has been carried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_done: bool,
}

/// `status.json`. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    pub state: State,
    /// The leader's; 0 if there never was one.
    pub pid: i32,
    pub shim: i32,
    pub started: u64,
    /// Of the leader, there as soon as it ended, also while descendants live. One of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_ended: Option<u64>,
    /// The end of `combined.log` when all that the leader wrote had been read: who reads up to here has seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_bytes: Option<u64>,
    /// When nobody of the run was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Sizes of the three logs since the start of the run, and lines of the child in them, both as of `seen`.
    pub bytes: [u64; 3],
    pub lines: [u64; 3],
    /// Why capturing is held up, in the words of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// `trouble` holds up nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goes_on: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopReport>,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StartError>,
    /// Not told by shims up to 0.4, as what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipes: Option<Pipes>,
    /// What became of input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputReport>,
    /// Counts how often the shim has written this file, so that of two readers the one with the older status knows it. 0:
    /// written by 0.3.0, or by a server after the end of the shim.
    #[serde(default)]
    pub sequence: u64,
    /// When this was written, and so when the shim was certainly alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alive: Option<Moment>,
}

/// The pipes between a shim and its program, by their inodes: unique as long as the system runs (see pipe(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipes {
    /// When they were made, as [`Moment::tick`].
    pub since: u64,
    pub input: u64,
    pub outputs: [u64; 2],
}

/// Bytes for the stdin of the program since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReport {
    pub received: u64,
    /// Those among them for which there was no room, because the program does not read.
    pub dropped: u64,
}

/// A moment on the clock by which the system says when processes started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which start of the system the clock counts from.
    pub boot: u64,
    pub tick: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What stopping a run took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StopReport {
    /// Requests so far; tells an answer to the present one from an answer to an earlier one.
    pub requests: u32,
    /// Processes alive when the stop was asked for.
    pub asked: usize,
    /// Processes that were sent SIGKILL.
    pub killed: usize,
    /// Who could not be stopped; the first few of them.
    pub survivors: Vec<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartError {
    /// 0 if the system did not give one.
    pub errno: i32,
    pub text: String,
}

/// What became of reading one of the JSON files.
#[derive(Debug)]
pub enum Unreadable {
    Missing,
    /// Written by a newer persistproc, with this version of the format.
    Newer(u32),
    Damaged(String),
    /// The system had no room for opening it. Nothing is known of the file.
    NotNow(String),
}

/// Paths and files of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir(pub PathBuf);

impl RunDir {
    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
    pub fn ctl(&self) -> PathBuf {
        self.0.join("ctl")
    }
    pub fn events(&self) -> PathBuf {
        self.0.join("events")
    }
    pub fn shim_log(&self) -> PathBuf {
        self.0.join("shim.log")
    }
    fn meta(&self) -> PathBuf {
        self.0.join("meta.json")
    }
    fn order(&self) -> PathBuf {
        self.0.join("order.json")
    }
    fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// The number of the run in the name of its directory; `None` if it is not the name of one.
    pub fn number(&self) -> Option<u64> {
        let name = self.path().file_name()?.to_str()?;
        let (number, _) = name.split_once('.')?;
        number.parse().ok().filter(|_| number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit()))
    }

    /// The entry that marks a process as belonging to this run.
    pub fn mark(&self) -> String {
        format!("{MARK}={}", self.0.display())
    }

    /// This very directory, wherever it is moved to, as long as the descriptor is open: should it be removed, and another
    /// run get its name, that one's files are not written to. Without such paths (macOS) it is the name all the same.
    pub fn pinned(&self) -> io::Result<(RunDir, File)> {
        let open = File::open(self.path())?;
        let pinned = RunDir(format!("/proc/self/fd/{}", open.as_raw_fd()).into());
        let dir = if pinned.exists() { pinned } else { self.clone() };
        Ok((dir, open))
    }

    /// Whether it is there, and has not been removed.
    pub fn exists(&self) -> bool {
        self.lock().exists()
    }

    /// Whether the shim of this run is alive. Nobody is to be thought dead because we have no descriptor left to look.
    pub fn shim_lives(&self) -> bool {
        self.has_shim().unwrap_or(true)
    }

    /// The same; an error says that the system had no room for looking. Something else in the place of the lock is none.
    pub fn has_shim(&self) -> io::Result<bool> {
        match sys::read_regular(&self.lock()) {
            Ok(file) => Ok(matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))),
            Err(error) if sys::is_exhaustion(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    pub fn write_meta(&self, meta: &Meta) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.meta())?;
        file.write_all(&serde_json::to_vec(meta)?)
    }

    pub fn read_meta(&self) -> Result<Meta, Unreadable> {
        read_json(&self.meta())
    }

    /// Writes an order in the place of the one before. It is there as a whole or not at all.
    pub fn write_order(&self, order: &Order) -> io::Result<()> {
        // A name of its own: a stop and a restart of one run may be written down at once.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let new = self.0.join(format!("order.new.{}.{number}", std::process::id()));
        let write = || {
            let mut file = sys::open_regular(&new, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
            file.write_all(&serde_json::to_vec(order)?)?;
            fs::rename(&new, self.order())
        };
        write().inspect_err(|_| drop(fs::remove_file(&new)))
    }

    pub fn read_order(&self) -> Result<Order, Unreadable> {
        read_json(&self.order())
    }

    /// Whether something is still to be done.
    pub fn has_order(&self) -> bool {
        self.read_order().is_ok_and(|order| !order.is_done)
    }

    /// Whether it is to be started again.
    pub fn has_restart(&self) -> bool {
        self.read_order().is_ok_and(|order| order.next.is_some() && !order.is_done)
    }

    /// There is nothing to be done any more.
    pub fn remove_order(&self) {
        let _ = fs::remove_file(self.order()); // at worst it is found to be done by the next server
    }

    /// The status, as of now. One that is being overwritten in place may be read half; then it is read again.
    pub fn read_status(&self) -> Result<Status, Unreadable> {
        for _ in 0..3 {
            match read_json(&self.status()) {
                Err(Unreadable::Damaged(_)) => std::thread::yield_now(),
                read => return read,
            }
        }
        read_json(&self.status())
    }

    /// Replaces the status by rename, so that readers see the old one or the new one. On a full disk, where no new file
    /// can be written, the old one is overwritten instead: it always has the same size and so needs no room.
    pub fn write_status(&self, status: &Status) -> io::Result<()> {
        let bytes = padded(status)?;
        let new = self.0.join("status.new");
        let write = |options: &mut OpenOptions, path: &Path| {
            sys::open_regular(path, options.write(true).mode(0o600))?.write_all(&bytes)
        };
        let replace = || {
            write(OpenOptions::new().create(true).truncate(true), &new).and_then(|()| fs::rename(&new, self.status()))
        };
        replace()
            .or_else(|error| if put_aside(&new) | put_aside(&self.status()) { replace() } else { Err(error) })
            .or_else(|_| write(&mut OpenOptions::new(), &self.status()))
    }
}

/// A status as it goes through the `events` FIFO, at once: it is shorter than PIPE_BUF.
pub fn message(status: &Status) -> io::Result<Vec<u8>> {
    let text = padded(status)?;
    Ok([&[STATUS_FOLLOWS], text.trim_ascii_end(), b"\n"].concat())
}

/// The status in such a message, without its first byte and its newline.
pub fn parse_message(text: &[u8]) -> Option<Status> {
    serde_json::from_slice(text).ok().filter(|status: &Status| status.version <= FORMAT)
}

/// Renames what a program has put into the place of a file, if that is so.
fn put_aside(path: &Path) -> bool {
    let is_foreign = path.symlink_metadata().is_ok_and(|found| !found.is_file());
    is_foreign && fs::rename(path, path.with_added_extension("foreign")).is_ok()
}

/// JSON of exactly `SIZE` bytes. Texts of the system are shortened and lists cut until it fits.
fn padded(status: &Status) -> io::Result<Vec<u8>> {
    let mut status = status.clone();
    let clip = |text: &mut String| {
        text.truncate(text.floor_char_boundary(300));
        text.retain(|c| !c.is_control()); // one of those takes six bytes in JSON
    };
    if let Some(trouble) = &mut status.trouble {
        clip(trouble);
    }
    if let Some(error) = &mut status.error {
        clip(&mut error.text);
    }
    if let Some(stop) = &mut status.stop {
        stop.survivors.truncate(8);
    }
    let mut bytes = serde_json::to_vec(&status)?;
    if bytes.len() >= SIZE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the status does not fit its file"));
    }
    bytes.resize(SIZE - 1, b' ');
    bytes.push(b'\n');
    Ok(bytes)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // Larger than any that we write: arguments and environment are at most 6 MiB, of which JSON may make six times as much.
    const LARGEST: u64 = 48 << 20;
    let damaged = |error: &dyn std::fmt::Display| Unreadable::Damaged(error.to_string());
    // In one piece: a thread keeps small pieces that it freed for itself, and there is one thread per live run.
    let mut bytes = Vec::with_capacity(2 * SIZE);
    match sys::read_regular(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unreadable::Missing),
        Err(error) if sys::is_exhaustion(&error) => return Err(Unreadable::NotNow(error.to_string())),
        Err(error) => return Err(damaged(&error)),
        Ok(_) => {}
    }
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(|e| damaged(&e))?;
    if version > FORMAT {
        return Err(Unreadable::Newer(version));
    }
    serde_json::from_slice(&bytes).map_err(|e| damaged(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_that_are_written_at_once_are_all_written_and_never_mixed() {
        let dir = RunDir(std::env::temp_dir().join(format!("persistproc-orders-{}", std::process::id())));
        fs::create_dir(dir.path()).unwrap();
        let order = |key: &str| Order {
            version: FORMAT,
            grace: 0,
            idempotency_key: Some(key.into()),
            next: None,
            given: None,
            is_done: false,
        };
        let (short, long) = (order("short"), order(&"long".repeat(500)));
        let is_whole = |order: &Order| dir.write_order(order).is_ok() && dir.read_order().is_ok();
        let are_all_whole = |order: &Order| (0..300).all(|_| is_whole(order));
        let results = std::thread::scope(|scope| {
            let other = scope.spawn(|| are_all_whole(&long));
            (are_all_whole(&short), other.join().unwrap())
        });
        let files = fs::read_dir(dir.path()).unwrap().count();
        fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!((results, files), ((true, true), 1));
    }

    #[test]
    fn the_largest_status_fits_its_file() {
        let long = "\u{1}\"\\ä".repeat(500);
        let status = Status {
            version: u32::MAX,
            state: State::Terminated,
            pid: i32::MIN,
            shim: i32::MIN,
            started: u64::MAX,
            exit_code: Some(i32::MIN),
            signal: Some(i32::MIN),
            leader_ended: Some(u64::MAX),
            leader_bytes: Some(u64::MAX),
            ended: Some(u64::MAX),
            bytes: [u64::MAX; 3],
            lines: [u64::MAX; 3],
            trouble: Some(long.clone()),
            goes_on: true,
            lost_bytes: u64::MAX,
            stop: Some(StopReport {
                requests: u32::MAX,
                asked: usize::MAX,
                killed: usize::MAX,
                survivors: vec![i32::MIN; 100],
            }),
            error: Some(StartError { errno: i32::MIN, text: long }),
            pipes: Some(Pipes { since: u64::MAX, input: u64::MAX, outputs: [u64::MAX; 2] }),
            input: Some(InputReport { received: u64::MAX, dropped: u64::MAX }),
            sequence: u64::MAX,
            alive: Some(Moment { boot: u64::MAX, tick: u64::MAX }),
        };
        assert_eq!(padded(&status).unwrap().len(), SIZE);
    }

    #[test]
    fn a_status_of_0_3_0_is_read_and_that_version_reads_ours() {
        let old = r#"{"version":1,"state":"running","pid":7,"shim":6,"started":5,"bytes":[0,0,0],"lines":[0,0,0]}"#;
        let status: Status = serde_json::from_str(old).unwrap();
        assert_eq!((status.pid, status.sequence, status.alive), (7, 0, None));
        // It passes over what it does not know; the version is what would make it leave the file alone.
        let ours = serde_json::to_value(Status { version: FORMAT, sequence: 3, ..status }).unwrap();
        assert_eq!((&ours["version"], &ours["pid"], &ours["sequence"]), (&1.into(), &7.into(), &3.into()));
    }

    #[test]
    fn what_a_program_puts_into_the_place_of_its_status_is_put_aside() {
        let dir = std::env::temp_dir().join(format!("persistproc-foreign-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let run = RunDir(dir.clone());
        let status = Status { version: FORMAT, state: State::Exited, exit_code: Some(3), ..Status::default() };
        for name in ["status.json", "status.new"] {
            for kind in ["FIFO", "directory", "symbolic link"] {
                std::fs::create_dir_all(&dir).unwrap();
                let place = dir.join(name);
                match kind {
                    "FIFO" => sys::mkfifo(&place).unwrap(),
                    "directory" => std::fs::create_dir_all(place.join("full")).unwrap(),
                    _ => std::os::unix::fs::symlink("/dev/full", &place).unwrap(),
                }
                if name == "status.json" {
                    let Err(Unreadable::Damaged(text)) = run.read_status() else { panic!("{kind}") };
                    assert_eq!(text, format!("it is a {kind}, not a file"));
                }
                run.write_status(&status).unwrap();
                assert_eq!(run.read_status().unwrap(), status, "{name} {kind}");
                std::fs::remove_dir_all(&dir).unwrap();
            }
        }
    }

    #[test]
    fn newer_damaged_and_missing_files_are_told_apart() {
        let dir = std::env::temp_dir().join(format!("persistproc-rundir-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let run = RunDir(dir.clone());
        assert!(matches!(run.read_status(), Err(Unreadable::Missing)));
        for text in ["", "{", "[]", "\0\0\0", "{\"version\":1}", "{\"version\":\"1\"}"] {
            std::fs::write(run.status(), text).unwrap();
            assert!(matches!(run.read_status(), Err(Unreadable::Damaged(_))), "{text}");
        }
        std::fs::write(run.status(), "{\"version\":2,\"state\":\"dreaming\"}").unwrap();
        assert!(matches!(run.read_status(), Err(Unreadable::Newer(2))));
        let status = Status { version: FORMAT, state: State::Exited, exit_code: Some(3), ..Status::default() };
        run.write_status(&status).unwrap();
        assert_eq!(run.read_status().unwrap(), status);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
