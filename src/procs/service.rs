//! Whether a process is a server or a shim of ours: those are not signalled with the run from inside which they were
//! started. A program can take any name, so one that has ours must prove what it is: by the lock that each server and each
//! shim holds as long as it lives. What is not proven is a process like any other. Only where the system has no resources for
//! looking is the name believed: rather may something be left running than another server be killed.

use super::{NAME, Process, SERVER_NAME, arguments};
use crate::sys;
use std::ffi::CStr;
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::Path;

/// The lock of a server; its content names the pid.
const SERVER_LOCK: &str = "server.lock";

pub fn is_one(process: &Process) -> bool {
    let is_called = |name: &CStr| process.name.as_bytes() == name.to_bytes();
    if !is_called(NAME) && !is_called(SERVER_NAME) {
        return false;
    }
    let words = arguments(process.pid);
    let role = words.get(1).map_or("", String::as_str);
    if !cfg!(target_os = "linux") {
        // Processes have no names here, and their files cannot be seen: a server is known by the word alone.
        return is_called(SERVER_NAME) || ["__shim", "__serve", "serve"].contains(&role);
    }
    let proven = if role == "__shim" { is_shim(process.pid, &words) } else { is_server(process.pid) };
    proven.unwrap_or(true)
}

/// It has the lock of a run open whose directory is among its arguments.
fn is_shim(pid: i32, words: &[String]) -> io::Result<bool> {
    let locks: Vec<_> =
        words.iter().filter(|word| word.starts_with('/')).map(|word| Path::new(word).join("lock")).collect();
    // A directory that was removed does not make it another one's.
    let is_lock = |name: &Path| {
        let name = name.to_string_lossy();
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        locks.iter().any(|lock| lock.as_path() == Path::new(name))
    };
    has_open(pid, is_lock, is_locked)
}

/// It has a `server.lock` open that names it.
fn is_server(pid: i32) -> io::Result<bool> {
    let is_lock = |name: &Path| {
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        name.strip_suffix(" (deleted)").unwrap_or(&name) == SERVER_LOCK
    };
    let names_it = |file: &File| {
        let mut text = String::new();
        let read = file.take(64 << 10).read_to_string(&mut text);
        // `{"pid":123,`
        read.is_ok() && text.contains(&format!("\"pid\":{pid},"))
    };
    has_open(pid, is_lock, |file| is_locked(file) && names_it(file))
}

/// Whether another open file holds the lock (flock(2)) on this one.
fn is_locked(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Whether a process has a file open that is meant. Reads it through /proc, so that it may have been removed. An error
/// means that the system had no resources for the lookup.
fn has_open(pid: i32, is_meant: impl Fn(&Path) -> bool, is_it: impl Fn(&File) -> bool) -> io::Result<bool> {
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if sys::is_exhaustion(&error) => return Err(error),
        entries => entries.into_iter().flatten().flatten(),
    };
    for entry in entries.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|name| is_meant(&name))) {
        match sys::read_linked(&entry.path()) {
            Err(error) if sys::is_exhaustion(&error) => return Err(error),
            Ok(file) if is_it(&file) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}
