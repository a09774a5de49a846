//! Runs that have lost their shim or their directory: a killed shim leaves processes without supervision, a removed directory
//! leaves a shim that cannot be sent messages.
//!
//! Servers call these functions. They are here and not in `manager`, because only this module signals processes, and always
//! with the same escalation.

use super::tree::{FORKING_KILL_TIMEOUT, Stop, Tree};
use crate::procs;
use crate::rundir::{RunDir, Status, StopReport};
use crate::sys;
use std::io;
use std::time::{Duration, Instant};

/// How often to check whether the processes are gone.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long to keep trying to look for processes while the system lacks the resources for that.
const EXHAUSTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`stop`] may take beyond its grace: waiting for resources, the rounds of KILL, and the last check.
pub const STOP_OVERHEAD_MAX: Duration =
    EXHAUSTION_TIMEOUT.saturating_add(FORKING_KILL_TIMEOUT).saturating_add(Duration::from_secs(1));

/// Pids of the living processes of a run whose shim is gone; `status` is the last one that it wrote.
///
/// # Errors
///
/// The system lacks the resources to look for processes.
pub fn find(dir: &RunDir, status: &Status) -> io::Result<Vec<i32>> {
    let alive = Tree::of_dead_shim(dir, status).confirmed_alive()?;
    Ok(alive.iter().map(|process| process.pid).collect())
}

/// Stops the processes of a run whose shim is gone, as the shim would have: TERM, `grace`, rounds of KILL. The report
/// contains the survivors. Two concurrent calls would send TERM twice; the caller must avoid that.
///
/// # Errors
///
/// As for [`find`].
pub fn stop(dir: &RunDir, status: &Status, grace: Duration) -> io::Result<StopReport> {
    let tree = Tree::of_dead_shim(dir, status);
    let begun = Instant::now();
    while let Err(error) = tree.look() {
        if begun.elapsed() > EXHAUSTION_TIMEOUT {
            return Err(error);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let (mut stop, mut report) = (Stop::NotRequested, StopReport::default());
    // The leader is not our child, so its pid, and with it that of its group, may have been reused.
    stop.request(&tree, false, grace, &mut report);
    while let Some(deadline) = stop.deadline()
        && !tree.is_empty()
    {
        stop.tick(&tree, &mut report);
        std::thread::sleep(
            deadline.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), POLL_INTERVAL),
        );
    }
    Ok(report)
}

/// Asks the living shim of a run to stop it, by a signal: for when the FIFO for such messages is gone.
///
/// # Errors
///
/// `NotFound` if the process `shim` is not that shim any more; otherwise it cannot be signaled.
pub fn ask_shim(dir: &RunDir, shim: i32) -> io::Result<()> {
    signal_shim(dir, shim, sys::SIGTERM)
}

/// Continues the shim of a run if it was stopped (SIGSTOP): it handles no request until then.
pub fn continue_shim(dir: &RunDir, shim: i32) {
    if procs::look_up(shim).is_some_and(|process| process.state == b'T') {
        let _ = signal_shim(dir, shim, sys::SIGCONT);
    }
}

/// Kills the shim of a run if it cannot execute, because it is stopped, traced or in a frozen control group: such a shim cannot
/// stop the run. The processes that it leaves can be [`stop`]ped then.
///
/// # Errors
///
/// `NotFound` if it can execute, or is not a shim of this run; otherwise it cannot be signaled.
pub fn kill_frozen_shim(dir: &RunDir, shim: i32) -> io::Result<()> {
    let is_frozen = procs::look_up(shim).is_some_and(|process| matches!(process.state, b'T' | b't' | b'D'));
    if is_frozen { signal_shim(dir, shim, sys::SIGKILL) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn signal_shim(dir: &RunDir, shim: i32, number: i32) -> io::Result<()> {
    let is_it = || {
        let arguments = procs::arguments(shim);
        arguments.get(1).is_some_and(|argument| argument == "__shim")
            && arguments.iter().any(|argument| dir.path().as_os_str() == &**argument)
    };
    if !is_it() {
        return Err(io::ErrorKind::NotFound.into());
    }
    sys::kill_exactly(shim, number, is_it)
}
