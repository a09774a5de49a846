//! Readers that the run waits for. When `combined.log` is to be rotated, the older of its two files goes; as long as an
//! attached reader has not passed that on, rotation waits, and with it the program, as on a full pipe.
//!
//! A pipe would wait for ever. But a run may be shared by several people and agents, so a reader that takes nothing loses
//! its right after a while, see [`patience`], and is told of the gap. One that is slow and takes something never does.

use crate::lease::{self, Position, ReaderKind};
use crate::procs;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a reader may take nothing: at a terminal, whose output may have been stopped (Ctrl+S) or whose connection may
/// be dead; in a pipeline, whose other end may be waiting for something; and the latter when the command that reads is
/// stopped itself (Ctrl+Z).
const TERMINAL: Duration = Duration::from_secs(60);
const PIPE: Duration = Duration::from_secs(3600);
const STOPPED: Duration = Duration::from_secs(60);
/// The same once the run is to be stopped: a program that cannot write does not end by itself.
const IN_STOP: Duration = Duration::from_secs(2);
/// How often it is looked how far readers are: soon at first, because a reader may be fast.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(50);
/// Waiting as long as this is worth telling.
const LONG: Duration = Duration::from_secs(1);

/// How long a reader of this kind may take nothing before it is not waited for any more.
fn patience(kind: ReaderKind, is_stopped: bool, is_in_stop: bool) -> Duration {
    match kind {
        ReaderKind::Observer => Duration::ZERO,
        _ if is_in_stop => IN_STOP,
        ReaderKind::Terminal => TERMINAL,
        ReaderKind::Pipe if is_stopped => STOPPED,
        ReaderKind::Pipe => PIPE,
    }
}

pub struct Readers {
    dir: PathBuf,
    run: u64,
    /// What each was seen at last, and since when.
    seen: BTreeMap<String, (Position, Instant)>,
    wait: Option<Wait>,
    is_in_stop: bool,
}

/// Rotation waits.
struct Wait {
    since: Instant,
    pause: Duration,
    look: Instant,
    /// The pid of a reader that is waited for.
    reader: i32,
}

impl Readers {
    /// Readers of the run with this number; `dir` is its directory.
    pub fn new(dir: PathBuf, run: u64) -> Readers {
        Readers { dir, run, seen: BTreeMap::new(), wait: None, is_in_stop: false }
    }

    /// Whether some reader still needs bytes before `offset`. Does not look at the files each time.
    pub fn need(&mut self, offset: u64) -> bool {
        let now = Instant::now();
        if self.wait.as_ref().is_some_and(|wait| now < wait.look) {
            return true;
        }
        let Some(reader) = self.look(offset, now) else {
            self.wait = None;
            return false;
        };
        let (since, pause) =
            self.wait.as_ref().map_or((now, FIRST_LOOK), |wait| (wait.since, (2 * wait.pause).min(LOOK)));
        self.wait = Some(Wait { since, pause, look: now + pause, reader });
        true
    }

    /// The pid of a reader that needs bytes before `offset` and may still be waited for.
    fn look(&mut self, offset: u64, now: Instant) -> Option<i32> {
        let leases = lease::leases(&self.dir);
        self.seen.retain(|name, _| leases.iter().any(|(live, _)| live == name));
        let mut found = None;
        for (name, position) in leases {
            let seen = self.seen.entry(name.clone()).or_insert((position, now));
            if seen.0 != position {
                *seen = (position, now);
            }
            let since = seen.1;
            let pid: i32 = name.split('.').next()?.parse().ok()?;
            if position.needed_from(self.run).is_none_or(|needed| needed >= offset) {
                continue;
            }
            // Most readers take something between two looks, so that it is not asked whether they are stopped.
            let idle = now - since;
            let is_stopped = || procs::look_up(pid).is_some_and(|process| process.state == b'T');
            let is_late = |is_stopped| idle >= patience(position.kind, is_stopped, self.is_in_stop);
            if !(is_late(false) || is_late(true) && is_stopped()) {
                found = found.or(Some(pid));
            }
        }
        found
    }

    /// When it is time to look again.
    pub fn deadline(&self) -> Option<Instant> {
        self.wait.as_ref().map(|wait| wait.look)
    }

    /// From now on readers that take nothing are not waited for long, because the run is to be stopped.
    pub fn hurry(&mut self) {
        self.is_in_stop = true;
    }

    /// What the program waits for, if it does so for long.
    pub fn trouble(&self) -> Option<String> {
        let wait = self.wait.as_ref().filter(|wait| wait.since.elapsed() > LONG)?;
        Some(format!("it waits for a reader of its output (PID {}), which is slow or paused", wait.reader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Lease;

    #[test]
    fn a_reader_is_waited_for_until_it_has_read_or_takes_nothing_for_too_long() {
        let dir = std::env::temp_dir().join(format!("persistproc-readers-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let mut lease = Lease::acquire(&dir, ReaderKind::Terminal).unwrap(); // in the place of the run's directory
        let mut readers = Readers::new(dir.clone(), 1);
        let now = Instant::now();
        let pid = Some(std::process::id() as i32);
        assert_eq!(readers.look(1, now), pid, "nothing of it is read");
        assert_eq!(readers.look(0, now), None);
        lease.advance(1, 100);
        assert_eq!((readers.look(100, now), readers.look(101, now)), (None, pid));
        assert_eq!(readers.look(101, now + TERMINAL - LONG), pid);
        assert_eq!(readers.look(101, now + TERMINAL), None);
        // It takes something again.
        lease.record_progress();
        assert_eq!(readers.look(101, now + TERMINAL), pid);
        readers.hurry();
        assert_eq!(readers.look(101, now + TERMINAL + IN_STOP), None);
        lease.become_observer();
        assert_eq!(readers.look(101, now + TERMINAL + IN_STOP), None);
        assert!(!readers.need(101) && readers.deadline().is_none());
        drop(lease);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn only_a_reader_that_takes_nothing_runs_out_of_patience() {
        assert_eq!(patience(ReaderKind::Observer, false, false), Duration::ZERO);
        assert!(patience(ReaderKind::Pipe, false, false) > patience(ReaderKind::Pipe, true, false));
        assert!(patience(ReaderKind::Pipe, false, true) < patience(ReaderKind::Terminal, false, false));
    }
}
