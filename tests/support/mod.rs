//! What the tests share: a [`Sandbox`] per test (a port, a data directory, a working directory, and a check that nothing is
//! left running), HTTP requests, processes, faults to inject, and programs to run.

mod another_user;
mod faults;
mod http;
mod processes;
mod programs;
mod sandbox;

pub use another_user::AnotherUser;
pub use faults::{forbid, inject};
pub use http::*;
pub use processes::*;
pub use programs::{COUNT_UNTIL_ENOUGH, ECHO, FOREVER, echo_command, of_version};
pub use sandbox::Sandbox;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Limit of every wait: far more than anything here takes, even on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const BINARY: &str = env!("CARGO_BIN_EXE_persistproc");

/// Waits until `condition` returns a value, and returns it; fails with `what` after [`DEADLINE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds, or fails with `what` after [`DEADLINE`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Prints why a test, or a part of it, cannot run here. Returns what a function that has nothing to test returns: `None`, or `()`.
#[allow(clippy::print_stderr)]
pub fn skip<T: Default>(reason: &str) -> T {
    eprintln!("skipped: {reason}");
    T::default()
}

/// What a child printed, from one of its logs: the log without its timestamps.
pub fn stripped(log: &Path) -> Vec<u8> {
    let bytes = fs::read(log).unwrap();
    bytes.split_inclusive(|&b| b == b'\n').flat_map(|line| without_stamp(line).to_vec()).collect()
}

/// A line of a log without its timestamp, if it begins with one.
pub fn without_stamp(line: &[u8]) -> &[u8] {
    let shape = b"dddd-dd-ddTdd:dd:dd.dddZ ";
    let fits = |(&byte, &shape): (&u8, &u8)| if shape == b'd' { byte.is_ascii_digit() } else { byte == shape };
    if line.len() >= 25 && line.iter().zip(shape).all(fits) { &line[25..] } else { line }
}

/// Every file and directory in `directory`, at any depth, and `directory` itself.
pub fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_path_buf()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        if path.is_dir() {
            found.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        next += 1;
    }
    found
}

/// A directory by a path that is short enough for a socket in it, however long its own path is: the address of a socket has 107
/// bytes at most (unix(7)). Only this process can use the path, as long as this lives.
pub struct ShortPath(fs::File);

impl ShortPath {
    pub fn new(directory: &Path) -> std::io::Result<ShortPath> {
        fs::File::open(directory).map(ShortPath)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

/// The cursor in the first line of a tool's text.
#[track_caller]
pub fn cursor_of(text: &str) -> String {
    text.lines().next().unwrap().split("cursor=").nth(1).unwrap_or_else(|| panic!("no cursor in {text}")).to_string()
}
