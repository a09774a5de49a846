//! Child processes, and what /proc knows about processes.

use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child that is killed when this is dropped.
pub struct Guard(pub Child);

impl Guard {
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }
    /// Waits until it exits by itself, for at most `limit`.
    #[track_caller]
    pub fn end(self, limit: Duration) -> Ended {
        let mut guard = self;
        let child = std::mem::replace(&mut guard.0, Command::new("true").spawn().unwrap());
        finish(child, limit)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command with pipes for what it prints.
pub fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Ended {
    /// Exit code, or 1000 + the signal.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    /// Its standard output, as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    /// Its standard output, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    /// Fails unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Ended {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Collects what a child prints until it exits; kills it, and fails, after `limit`.
#[track_caller]
pub fn finish(mut child: Child, limit: Duration) -> Ended {
    fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    }
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let (stdout, stderr) = (out.join().unwrap(), String::from_utf8_lossy(&err.join().unwrap()).into_owned());
    let status = status.unwrap_or_else(|| panic!("did not exit: {} / {stderr}", String::from_utf8_lossy(&stdout)));
    let code = status.code().or(status.signal().map(|signal| 1000 + signal)).unwrap();
    Ended { code, stdout, stderr }
}

/// Sends a signal; `false` if there is no such process.
#[allow(unsafe_code)]
pub fn signal(pid: i32, number: i32) -> bool {
    pid > 0 && unsafe { libc::kill(pid, number) == 0 }
}

pub(super) fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process runs; one that exited and was not reaped yet does not.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn nul_separated(path: String) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.split(|&b| b == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

pub fn arguments(pid: i32) -> Vec<String> {
    nul_separated(format!("/proc/{pid}/cmdline"))
}

pub(super) fn environment(pid: i32) -> Vec<String> {
    nul_separated(format!("/proc/{pid}/environ"))
}

/// Processes whose command line contains this text, except shims, whose arguments include those of what they run.
pub fn pids_with(text: &str) -> Vec<i32> {
    let fits = |arguments: Vec<String>| {
        arguments.join(" ").contains(text) && arguments.get(1).is_none_or(|first| first != "__shim")
    };
    pids().into_iter().filter(|pid| is_alive(*pid) && fits(arguments(*pid))).collect()
}

/// What a process uses.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSize {
    pub threads: usize,
    pub descriptors: usize,
    /// Resident memory, in bytes.
    pub memory: u64,
}

pub fn size_of_process(pid: i32) -> ProcessSize {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib: u64 = status.split("VmRSS:").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    ProcessSize { threads: count("task"), descriptors: count("fd"), memory: kib << 10 }
}
