//! The place of a server: a data directory that is this user's alone, the lock on it, and the socket in it.
//!
//! ```text
//! server.lock      locked as long as the server lives; says which that is, see ServerInfo
//! runs/            locked as well, because a file is soon removed: then only this keeps a second server away
//! server.sock      where our own commands find it; mode 0600
//! server.sock.PID  the socket of a newer server that is about to take the place of this one
//! server.log       what the server did
//! ```
//!
//! Only the holder of the lock changes `server.sock`, and only by rename: a command that connects finds the old listener
//! or the new one. At the end the socket stays: it refuses connections then, which says as much as none at all, and on a
//! full disk the next server needs its room.

use super::handover;
use crate::config::Token;
use crate::discovery::{self, LOCK, SOCKET, ServerInfo, open_own, read_server_info};
use crate::error::Error;
use crate::http::socket::{Listener, Socket};
use crate::sys;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A server that was killed while it started a shim leaves a child between fork and exec that holds its lock and its
/// port for a moment more. So both are asked for this long before another server is believed in.
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long an older server may take to go after it said that it will.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// A data directory that this process has to itself, with a socket at which nothing is accepted yet.
pub struct OwnedDataDir {
    /// Without links, because processes of a run are known by it.
    pub data_dir: PathBuf,
    socket: OwnSocket,
    /// The older server whose place this one took.
    pub predecessor: Option<ServerInfo>,
    lock: File,
    /// The directory of runs, with a lock on it, where the file system has such locks.
    runs: Option<File>,
}

impl OwnedDataDir {
    /// Claims a data directory, if need be from an older server, which is asked to leave. Errors name the server that has it.
    pub fn take(data_dir: &Path, token: Option<&Token>) -> Result<OwnedDataDir, Error> {
        let unusable = |error: io::Error| {
            Error::failed(format!(
                "cannot use the data directory {}: {error}; choose another with --data-dir",
                data_dir.display()
            ))
        };
        let data_dir = make_private(data_dir).map_err(unusable)?;
        let path = data_dir.join(LOCK);
        let lock =
            open_lock(&path).map_err(|error| Error::failed(format!("cannot open {}: {error}", path.display())))?;
        let failed = |error: io::Error| Error::failed(format!("cannot lock {}: {error}", path.display()));
        if lock_within(&lock, LOCK_TIMEOUT).map_err(failed)? {
            let runs = lock_runs(&data_dir)?;
            let socket = NewSocket::bind_as_holder(&data_dir).and_then(NewSocket::place).map_err(unusable)?;
            return Ok(OwnedDataDir { data_dir, socket, predecessor: None, lock, runs });
        }
        let server_info = read_server_info(&lock);
        let Some(older) = server_info.as_ref().filter(|server_info| discovery::is_older(server_info)) else {
            return Err(taken(server_info, &data_dir));
        };
        let socket = NewSocket::bind(&data_dir).map_err(unusable)?;
        if let Err(error) = take_over(older, &socket.name(), token, &lock) {
            let _ = fs::remove_file(&socket.path);
            return Err(error);
        }
        let runs = lock_runs(&data_dir)?;
        let socket = socket.place().map_err(unusable)?;
        Ok(OwnedDataDir { data_dir, socket, predecessor: server_info, lock, runs })
    }

    /// Writes into the lock which server has it.
    pub fn sign(&self, server_info: &ServerInfo) -> io::Result<()> {
        sign(&self.lock, server_info)
    }

    /// What is left of the place while its socket is served.
    pub fn split(self) -> (Listener, HeldFiles) {
        let OwnSocket { listener, identity } = self.socket;
        (listener, HeldFiles { data_dir: self.data_dir, identity: Some(identity), lock: self.lock, _runs: self.runs })
    }
}

/// A data directory while its server lives.
pub struct HeldFiles {
    data_dir: PathBuf,
    /// Of our socket; `None` if it is not served.
    identity: Option<Identity>,
    lock: File,
    /// Kept for the lock on it.
    _runs: Option<File>,
}

impl HeldFiles {
    /// A new socket, if ours was removed: a server that no command can reach could not even be ended in order. `None` if
    /// it is there, or another server has put its own there.
    pub fn restore(&mut self) -> Option<Listener> {
        let path = self.data_dir.join(SOCKET);
        let is_there = identity(&path).is_ok_and(|found| Some(found) == self.identity);
        if is_there || Socket::connect_unix(&path, LOCK_TIMEOUT).is_ok() {
            return None;
        }
        let socket = NewSocket::bind_as_holder(&self.data_dir).and_then(NewSocket::place).ok()?;
        self.identity = Some(socket.identity);
        Some(socket.listener)
    }

    /// A new `server.lock`, if ours was removed. True if that was so: without it nothing tells which server this is.
    pub fn restore_lock(&mut self, server_info: &ServerInfo) -> bool {
        let path = self.data_dir.join(LOCK);
        if is_at(&self.lock, &path) {
            return false;
        }
        let Ok(lock) = open_lock(&path) else { return false };
        if lock.try_lock().is_err() || sign(&lock, server_info).is_err() {
            return false;
        }
        self.lock = lock;
        true
    }

    /// The restored socket could not be served, so that the next look makes another one.
    pub fn give_up_socket(&mut self) {
        self.identity = None;
    }

    /// Puts the socket of a newer server in the place of ours, under which it is found from now on.
    pub fn exchange(&self, successor: &str) -> io::Result<()> {
        let is_one = successor.strip_prefix(SOCKET).and_then(|rest| rest.strip_prefix('.'));
        if !is_one.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a socket"));
        }
        fs::rename(self.data_dir.join(successor), self.data_dir.join(SOCKET))
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    open_own(OpenOptions::new().read(true).write(true).create(true).truncate(false), path)
}

/// Writes which server has a lock: over what is there, because a full disk might not give back the space for it.
fn sign(lock: &File, server_info: &ServerInfo) -> io::Result<()> {
    let text = serde_json::to_vec(server_info)?;
    match lock.write_all_at(&text, 0) {
        Err(error) if is_full(&error) => lock.set_len(0), // none, rather than the one before
        written => written.and_then(|()| lock.set_len(text.len() as u64)),
    }
}

/// Whether an open file is the one that has this name.
fn is_at(file: &File, path: &Path) -> bool {
    file.metadata().is_ok_and(|found| identity(path).is_ok_and(|named| named == (found.dev(), found.ino())))
}

/// Locks the directory of runs. `None` where the file system has no locks for directories.
fn lock_runs(data_dir: &Path) -> Result<Option<File>, Error> {
    let Ok(runs) = File::open(data_dir.join("runs")) else { return Ok(None) };
    match lock_within(&runs, HANDOVER_TIMEOUT.min(4 * LOCK_TIMEOUT)) {
        Ok(true) => Ok(Some(runs)),
        Err(_) => Ok(None),
        Ok(false) => Err(Error::conflict(format!(
            "another persistproc server has the data directory {}, although its {LOCK} was removed; it makes a new one within \
             seconds: use that server, end it with `persistproc shutdown`, or choose another --data-dir",
            data_dir.display()
        ))),
    }
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A socket that is found under its name.
struct OwnSocket {
    listener: Listener,
    identity: Identity,
}

/// A socket that listens, and is not in its place yet.
struct NewSocket {
    path: PathBuf,
    listener: Listener,
    identity: Identity,
}

impl NewSocket {
    fn bind(data_dir: &Path) -> io::Result<NewSocket> {
        let path = data_dir.join(format!("{SOCKET}.{}", std::process::id()));
        let _ = fs::remove_file(&path); // of a killed process with our number
        let listener = Listener::unix(&path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported | io::ErrorKind::InvalidFilename => {
                io::Error::new(error.kind(), format!("no socket can be made there ({error})"))
            }
            _ => error,
        })?;
        let identity = identity(&path)?;
        Ok(NewSocket { path, listener, identity })
    }

    /// The same for the holder of the lock. Where the file system has no space for another file, the one that the last
    /// server left gives its own: a server must come up there, too, to stop what runs.
    fn bind_as_holder(data_dir: &Path) -> io::Result<NewSocket> {
        match NewSocket::bind(data_dir) {
            Err(error) if is_full(&error) => {
                fs::remove_file(data_dir.join(SOCKET))?;
                NewSocket::bind(data_dir)
            }
            bound => bound,
        }
    }

    /// As the server that has the place is told it.
    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Puts it where commands look for it, unless the server before did so; and removes what killed servers left. Only
    /// for the holder of the lock.
    fn place(self) -> io::Result<OwnSocket> {
        let NewSocket { path, listener, identity } = self;
        let data_dir = path.parent().unwrap_or(&path).to_path_buf();
        match fs::rename(&path, data_dir.join(SOCKET)) {
            Ok(()) => {}
            Err(_) if self::identity(&data_dir.join(SOCKET)).is_ok_and(|found| found == identity) => {}
            Err(error) => return Err(error),
        }
        for entry in fs::read_dir(data_dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().strip_prefix(SOCKET).is_some_and(|rest| rest.starts_with('.')) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(OwnSocket { listener, identity })
    }
}

/// Has an older server leave, until its lock is ours.
fn take_over(older: &ServerInfo, successor: &str, token: Option<&Token>, lock: &File) -> Result<(), Error> {
    let failed = |error: io::Error| Error::failed(format!("cannot lock {LOCK}: {error}"));
    let begun = Instant::now();
    while !handover::ask_to_leave(older, successor, token)? {
        if lock_within(lock, LOCK_TIMEOUT).map_err(failed)? {
            return Ok(());
        }
        if begun.elapsed() > handover::LEAVE_TIMEOUT {
            return Err(taken(Some(older.clone()), &older.data_dir));
        }
    }
    if lock_within(lock, HANDOVER_TIMEOUT).map_err(failed)? {
        return Ok(());
    }
    Err(taken(Some(older.clone()), &older.data_dir))
}

fn taken(server_info: Option<ServerInfo>, data_dir: &Path) -> Error {
    let who = server_info.map_or("another persistproc server".into(), |server_info| {
        let port = server_info.port_in_words();
        format!("a persistproc server (PID {}, {port}, version {})", server_info.pid, server_info.version)
    });
    Error::conflict(format!(
        "{who} has the data directory {}; use that one, end it with `persistproc shutdown`, or choose another --data-dir",
        data_dir.display()
    ))
}

/// A full disk keeps no server from coming up: without one, what runs could be neither seen nor stopped.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a data directory, with the directory of its runs, and makes sure that no other user can write there: what stands
/// in `meta.json` is executed by `restart`. Its path without links.
fn make_private(data_dir: &Path) -> io::Result<PathBuf> {
    let make = |dir: &Path| DirBuilder::new().mode(0o700).recursive(true).create(dir);
    make(data_dir)?;
    let data_dir = data_dir.canonicalize()?;
    check_is_own(&data_dir)?; // one that is refused stays as it is
    let runs = data_dir.join("runs");
    make(&runs)?;
    check_is_own(&runs)?;
    // Writing may be forbidden although the directory is there.
    let probe = runs.join(format!(".probe.{}", std::process::id()));
    match open_own(OpenOptions::new().write(true).create(true).truncate(true), &probe) {
        Err(error) if is_full(&error) => {}
        probed => probed.and_then(|_| fs::remove_file(probe))?,
    }
    Ok(data_dir)
}

/// That a directory is this user's, and that no other user may write to it.
pub fn check_is_own(dir: &Path) -> io::Result<()> {
    const OTHERS_WRITE: u32 = 0o022;
    let found = fs::metadata(dir)?;
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if found.uid() != sys::own_user() {
        return refuse(format!("{} belongs to another user (uid {})", dir.display(), found.uid()));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return refuse(format!("other users may write to {}: `chmod go-w` ends that", dir.display()));
    }
    Ok(())
}

fn lock_within(file: &File, patience: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => std::thread::sleep(Duration::from_millis(2)),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
