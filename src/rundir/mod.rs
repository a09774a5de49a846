//! The directory of a run: the names of its files, and the contents of the JSON ones. It is the contract between the shim,
//! which writes the status, and servers of any version, which read it; so the JSON files carry the version of their format.
//!
//! ```text
//! runs/000012.npm_run_dev/
//!   meta.json    what was started, written once by the server, before the shim exists
//!   order.json   what a server has promised to do with it, see Order; exists only until that is done
//!   status.json  its current state, rewritten by the shim; always STATUS_SIZE bytes, see RunDir::write_status
//!   lock         flock(2)ed as long as the shim lives: locked = alive, no guessing from pids
//!   ctl          FIFO, server → shim: lines `stop GRACE_MS`, `signal N`, `input HEX`, `look 0`, each at most PIPE_BUF bytes
//!   events       FIFO, shim → server: a doorbell of single bytes, `m` (a log grew) or `s` (the status changed); and, if
//!                the status cannot be written to disk, `j` and the status itself, up to a newline
//!   stdout.log stderr.log combined.log (+ .1)      see `log`
//!   stdout.own   becomes stdout.log when that is no longer the same as combined.log
//!   readers/     leases of the commands that read it, see `lease`
//!   shim.log     stderr of the shim: the messages of one that crashed
//! ```

mod status;

pub use status::{
    BootInstant, InputReport, Pipes, STATUS_FOLLOWS, STATUS_SIZE, StartError, State, Status, StopReport,
    parse_status_message, status_message,
};

use crate::attributes::Attributes;
use crate::os_text::OsText;
use crate::sys;
use serde::{Deserialize, Serialize};
use status::encode_status;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Format version of the JSON files. A reader does not interpret files with a newer one and reports them as such.
pub const FORMAT_VERSION: u32 = 1;
/// Maximum length of a message to the shim, in bytes: POSIX guarantees that writes of up to PIPE_BUF bytes are never
/// interleaved, and its smallest value on the systems that we support is 512 (macOS).
pub const MAX_MESSAGE_LEN: usize = 512;
/// The environment variable by which every descendant of a run can be recognized; its value is the run's directory.
pub const RUN_ENV: &str = "PERSISTPROC_RUN";

/// `meta.json`: everything that is needed to start the same command again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// The program and its arguments.
    pub argv: Vec<OsText>,
    pub working_directory: OsText,
    /// The complete environment, in the order in which it was passed.
    pub environment: Vec<(OsText, OsText)>,
    pub label: String,
    /// Milliseconds since 1970.
    pub created: u64,
    /// The number of the run that this one replaced in a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    /// Size at which a log file is rotated, in bytes; 0 for never.
    pub max_log_bytes: u64,
    /// The key of the request that started it, so that the same request sent again does not start it twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Those of the shell that requested the run; `None` in files written by versions up to 0.4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// `order.json`: a stop or a restart, recorded before it begins, so that if this server is killed the next one finishes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// Time between TERM and KILL, in milliseconds.
    pub grace: u64,
    /// The key of the request, so that the same request sent again is recognized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The successor, if this is a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Meta>,
    /// When the order was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<BootInstant>,
    /// The order has been carried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_done: bool,
}

/// Doorbell byte: a log grew.
pub const LOG_GREW: u8 = b'm';
/// Doorbell byte: the status changed.
pub const STATUS_CHANGED: u8 = b's';

/// Why one of the JSON files could not be read.
#[derive(Debug)]
pub enum Unreadable {
    /// There is no such file.
    Missing,
    /// Written by a newer persistproc, with this version of the format.
    Newer(u32),
    /// Not a regular file, unreadable or not valid JSON of this format: the error's text.
    Damaged(String),
    /// The system lacked the resources to open it, so nothing is known about the file: the error's text.
    Exhausted(String),
}

/// Paths and files of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir(pub PathBuf);

impl RunDir {
    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The file that the shim keeps locked as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
    /// The FIFO for messages to the shim.
    pub fn ctl(&self) -> PathBuf {
        self.0.join("ctl")
    }
    /// The FIFO by which the shim reports news.
    pub fn events(&self) -> PathBuf {
        self.0.join("events")
    }
    /// The stderr of the shim.
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

    /// The run's number, from the name of its directory; `None` if that is not a run directory's name.
    pub fn number(&self) -> Option<u64> {
        let name = self.path().file_name()?.to_str()?;
        let (number, _) = name.split_once('.')?;
        number.parse().ok().filter(|_| number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit()))
    }

    /// The environment entry `NAME=VALUE` that marks a process as belonging to this run.
    pub fn env_entry(&self) -> String {
        format!("{RUN_ENV}={}", self.0.display())
    }

    /// A path to this very directory, wherever it is moved, valid as long as the returned descriptor is open: if the
    /// directory is removed and another run gets its name, that run's files are not written to. Where there are no such paths
    /// (macOS) it is just the name.
    ///
    /// # Errors
    ///
    /// The directory cannot be opened.
    pub fn pin(&self) -> io::Result<(RunDir, File)> {
        let open = File::open(self.path())?;
        let pinned = RunDir(format!("/proc/self/fd/{}", open.as_raw_fd()).into());
        let dir = if pinned.exists() { pinned } else { self.clone() };
        Ok((dir, open))
    }

    /// Whether the directory is there and has not been removed.
    pub fn exists(&self) -> bool {
        self.lock().exists()
    }

    /// Whether the shim of this run is alive. If we have no descriptor left to check, it counts as alive.
    pub fn is_shim_alive(&self) -> bool {
        self.probe_shim().unwrap_or(true)
    }

    /// Whether the shim of this run is alive. If something other than a regular file is in the place of the lock, it is not.
    ///
    /// # Errors
    ///
    /// The system lacks the resources to check.
    pub fn probe_shim(&self) -> io::Result<bool> {
        match sys::read_regular(&self.lock()) {
            Ok(file) => Ok(matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))),
            Err(error) if sys::is_exhaustion(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Creates `meta.json`.
    ///
    /// # Errors
    ///
    /// The file exists already or cannot be written.
    pub fn write_meta(&self, meta: &Meta) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.meta())?;
        file.write_all(&serde_json::to_vec(meta)?)
    }

    /// Reads `meta.json`.
    pub fn read_meta(&self) -> Result<Meta, Unreadable> {
        read_json(&self.meta())
    }

    /// Replaces `order.json` atomically.
    ///
    /// # Errors
    ///
    /// It cannot be written; the previous order, if any, is then unchanged.
    pub fn write_order(&self, order: &Order) -> io::Result<()> {
        // A unique name, because a stop and a restart of the same run may be recorded at the same time.
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

    /// Reads `order.json`.
    pub fn read_order(&self) -> Result<Order, Unreadable> {
        read_json(&self.order())
    }

    /// Whether there is an order that has not been carried out.
    pub fn has_pending_order(&self) -> bool {
        self.read_order().is_ok_and(|order| !order.is_done)
    }

    /// Whether there is a restart that has not been carried out.
    pub fn has_pending_restart(&self) -> bool {
        self.read_order().is_ok_and(|order| order.next.is_some() && !order.is_done)
    }

    /// Removes `order.json`, once nothing is left to do.
    pub fn remove_order(&self) {
        let _ = fs::remove_file(self.order()); // at worst the next server finds that it is done already
    }

    /// Reads `status.json`. A read that coincides with an in-place overwrite may see a mix of both, so it is repeated.
    pub fn read_status(&self) -> Result<Status, Unreadable> {
        for _ in 0..3 {
            match read_json(&self.status()) {
                Err(Unreadable::Damaged(_)) => std::thread::yield_now(),
                read => return read,
            }
        }
        read_json(&self.status())
    }

    /// Replaces the status by rename, so that readers see either the old one or the new one. On a full disk, where no new
    /// file can be written, the old one is overwritten in place instead: the size is always the same, so this needs no space.
    ///
    /// # Errors
    ///
    /// Both ways failed; the error is that of the overwrite.
    pub fn write_status(&self, status: &Status) -> io::Result<()> {
        let bytes = encode_status(status)?;
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

/// Renames whatever a program has put in the place of a file. Returns false if there was nothing to rename, or that failed.
fn put_aside(path: &Path) -> bool {
    let is_foreign = path.symlink_metadata().is_ok_and(|found| !found.is_file());
    is_foreign && fs::rename(path, path.with_added_extension("foreign")).is_ok()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // Larger than any file that we write: arguments and environment are at most 6 MiB, and JSON may take six times as much.
    const MAX_JSON_BYTES: u64 = 48 << 20;
    let damaged = |error: &dyn std::fmt::Display| Unreadable::Damaged(error.to_string());
    // Allocated in one piece: the allocator caches small freed pieces per thread, and there is one thread per live run.
    let mut bytes = Vec::with_capacity(2 * STATUS_SIZE);
    match sys::read_regular(path).and_then(|file| file.take(MAX_JSON_BYTES).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unreadable::Missing),
        Err(error) if sys::is_exhaustion(&error) => return Err(Unreadable::Exhausted(error.to_string())),
        Err(error) => return Err(damaged(&error)),
        Ok(_) => {}
    }
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(|e| damaged(&e))?;
    if version > FORMAT_VERSION {
        return Err(Unreadable::Newer(version));
    }
    serde_json::from_slice(&bytes).map_err(|e| damaged(&e))
}

#[cfg(test)]
mod tests;
