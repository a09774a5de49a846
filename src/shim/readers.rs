//! Readers that the run waits for. Rotating `combined.log` removes the older of its two files; as long as an attached reader
//! has not passed that on, rotation waits, and with it the program, as on a full pipe.
//!
//! A pipe would wait forever. But a run may be shared by several people and agents, so a reader that makes no progress is not
//! waited for any more after a while, see [`stall_timeout`], and learns of the gap. A slow reader that makes progress is always
//! waited for.

use crate::lease::{self, Position, ReaderKind};
use crate::procs;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a reader at a terminal may make no progress: its output may have been stopped (Ctrl+S), or its connection may be
/// dead.
const TERMINAL_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for a reader in a pipeline, whose other end may be waiting for something.
const PIPE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The same for a reader in a pipeline when the command that reads is stopped itself (Ctrl+Z).
const STOPPED_READER_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for all of them once the run is being stopped: a program that cannot write does not exit.
const STOPPING_TIMEOUT: Duration = Duration::from_secs(2);
/// How soon the progress of readers is checked again at first, because a reader may be fast. The interval then doubles.
const FIRST_CHECK_INTERVAL: Duration = Duration::from_millis(1);
/// The longest interval between checks.
const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Waiting longer than this is reported.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// How long a reader of this kind may make no progress before it is not waited for any more.
fn stall_timeout(kind: ReaderKind, is_stopped: bool, is_stopping: bool) -> Duration {
    match kind {
        ReaderKind::Observer => Duration::ZERO,
        _ if is_stopping => STOPPING_TIMEOUT,
        ReaderKind::Terminal => TERMINAL_TIMEOUT,
        ReaderKind::Pipe if is_stopped => STOPPED_READER_TIMEOUT,
        ReaderKind::Pipe => PIPE_TIMEOUT,
    }
}

/// The readers of one run.
pub struct Readers {
    dir: PathBuf,
    run: u64,
    /// The last known position of each, by the name of its lease, and since when it has been there.
    last_seen: BTreeMap<String, (Position, Instant)>,
    wait: Option<RotationWait>,
    is_stopping: bool,
}

/// Exists while rotation waits for a reader.
struct RotationWait {
    since: Instant,
    /// Interval before the next check.
    pause: Duration,
    check_at: Instant,
    /// The pid of one reader that is waited for.
    reader_pid: i32,
}

impl Readers {
    /// The readers of the run with the number `run`; `dir` is its directory.
    pub fn new(dir: PathBuf, run: u64) -> Readers {
        Readers { dir, run, last_seen: BTreeMap::new(), wait: None, is_stopping: false }
    }

    /// Whether a reader that is waited for still needs bytes before `offset`. Does not read the leases on every call.
    pub fn must_wait(&mut self, offset: u64) -> bool {
        let now = Instant::now();
        if self.wait.as_ref().is_some_and(|wait| now < wait.check_at) {
            return true;
        }
        let Some(reader_pid) = self.find_blocking_reader(offset, now) else {
            self.wait = None;
            return false;
        };
        let (since, pause) = self
            .wait
            .as_ref()
            .map_or((now, FIRST_CHECK_INTERVAL), |wait| (wait.since, (2 * wait.pause).min(MAX_CHECK_INTERVAL)));
        self.wait = Some(RotationWait { since, pause, check_at: now + pause, reader_pid });
        true
    }

    /// The pid of a reader that needs bytes before `offset` and may still be waited for.
    fn find_blocking_reader(&mut self, offset: u64, now: Instant) -> Option<i32> {
        let leases = lease::leases(&self.dir);
        self.last_seen.retain(|name, _| leases.iter().any(|(live, _)| live == name));
        let mut found = None;
        for (name, position) in leases {
            let seen = self.last_seen.entry(name.clone()).or_insert((position, now));
            if seen.0 != position {
                *seen = (position, now);
            }
            let since = seen.1;
            let pid: i32 = name.split('.').next()?.parse().ok()?;
            if position.needed_from(self.run).is_none_or(|needed| needed >= offset) {
                continue;
            }
            // Most readers make progress between two checks, so this rarely has to find out whether they are stopped.
            let idle = now - since;
            let is_stopped = || procs::look_up(pid).is_some_and(|process| process.state == b'T');
            let is_late = |is_stopped| idle >= stall_timeout(position.kind, is_stopped, self.is_stopping);
            if !(is_late(false) || is_late(true) && is_stopped()) {
                found = found.or(Some(pid));
            }
        }
        found
    }

    /// When to check again; `None` if nothing waits.
    pub fn deadline(&self) -> Option<Instant> {
        self.wait.as_ref().map(|wait| wait.check_at)
    }

    /// From now on readers without progress are not waited for long, because the run is being stopped.
    pub fn shorten_timeouts(&mut self) {
        self.is_stopping = true;
    }

    /// What the program is waiting for, if it has been waiting for long.
    pub fn stall_reason(&self) -> Option<String> {
        let wait = self.wait.as_ref().filter(|wait| wait.since.elapsed() > REPORT_AFTER)?;
        Some(format!("it waits for a reader of its output (PID {}), which is slow or paused", wait.reader_pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Lease;

    #[test]
    fn a_reader_is_waited_for_until_it_has_caught_up_or_makes_no_progress_for_too_long() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().to_path_buf();
        let mut lease = Lease::acquire(&dir, ReaderKind::Terminal).unwrap(); // in the place of the run's directory
        let mut readers = Readers::new(dir.clone(), 1);
        let now = Instant::now();
        let pid = Some(std::process::id() as i32);
        assert_eq!(readers.find_blocking_reader(1, now), pid, "nothing has been read yet");
        assert_eq!(readers.find_blocking_reader(0, now), None);
        lease.advance(1, 100);
        assert_eq!((readers.find_blocking_reader(100, now), readers.find_blocking_reader(101, now)), (None, pid));
        assert_eq!(readers.find_blocking_reader(101, now + TERMINAL_TIMEOUT - REPORT_AFTER), pid);
        assert_eq!(readers.find_blocking_reader(101, now + TERMINAL_TIMEOUT), None);
        // It makes progress again.
        lease.record_progress();
        assert_eq!(readers.find_blocking_reader(101, now + TERMINAL_TIMEOUT), pid);
        readers.shorten_timeouts();
        assert_eq!(readers.find_blocking_reader(101, now + TERMINAL_TIMEOUT + STOPPING_TIMEOUT), None);
        lease.become_observer();
        assert_eq!(readers.find_blocking_reader(101, now + TERMINAL_TIMEOUT + STOPPING_TIMEOUT), None);
        assert!(!readers.must_wait(101) && readers.deadline().is_none());
        drop(lease);
    }

    #[test]
    fn the_timeout_depends_on_the_kind_of_reader_and_on_whether_the_run_is_stopping() {
        assert_eq!(stall_timeout(ReaderKind::Observer, false, false), Duration::ZERO);
        assert!(stall_timeout(ReaderKind::Pipe, false, false) > stall_timeout(ReaderKind::Pipe, true, false));
        assert!(stall_timeout(ReaderKind::Pipe, false, true) < stall_timeout(ReaderKind::Terminal, false, false));
    }
}
