//! What is left when a shim, or its directory, was taken away from a run: a killed shim leaves processes that nobody
//! watches, a removed directory leaves a shim that nobody can write to.
//!
//! Servers call this. It stands here and not in `manager`, because only this room signals processes, and by one ladder.

use super::tree::{GIVE_UP_ON_FORKERS, Stop, Tree};
use crate::procs;
use crate::rundir::{RunDir, Status, StopReport};
use crate::sys;
use std::io;
use std::time::{Duration, Instant};

/// How often it is looked whether they are gone.
const LOOK: Duration = Duration::from_millis(50);

/// How long it may take until there is room for looking, where the system has none.
const ROOM: Duration = Duration::from_secs(5);

/// How long [`stop`] may take beyond its grace: room for looking, the rounds of KILL, and the last look.
pub const KILLING_MAX: Duration = ROOM.saturating_add(GIVE_UP_ON_FORKERS).saturating_add(Duration::from_secs(1));

/// Pids of the living processes of a run whose shim is gone and wrote `status` last. An error says that the system had no
/// room for looking.
pub fn of(dir: &RunDir, status: &Status) -> io::Result<Vec<i32>> {
    let alive = Tree::left_behind(dir, status).surely_alive()?;
    Ok(alive.iter().map(|process| process.pid).collect())
}

/// Ends the processes of a run whose shim is gone, as the shim would have: TERM, `grace`, rounds of KILL. The report
/// names who survived. Two at once would send TERM twice; that is the caller's to avoid. As for errors, see [`of`].
pub fn stop(dir: &RunDir, status: &Status, grace: Duration) -> io::Result<StopReport> {
    let tree = Tree::left_behind(dir, status);
    let begun = Instant::now();
    while let Err(error) = tree.look() {
        if begun.elapsed() > ROOM {
            return Err(error);
        }
        std::thread::sleep(LOOK);
    }
    let (mut stop, mut report) = (Stop::No, StopReport::default());
    // The leader is not our child, so nothing pins its number, and with it that of its group.
    stop.ask(&tree, false, grace, &mut report);
    while let Some(deadline) = stop.deadline()
        && !tree.is_empty()
    {
        stop.tick(&tree, &mut report);
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), LOOK));
    }
    Ok(report)
}

/// Asks the living shim of a run to stop it, by signal: for when the FIFO for such messages is gone. `NotFound` if `shim`
/// is not the process of that shim any more.
pub fn ask_shim(dir: &RunDir, shim: i32) -> io::Result<()> {
    signal_shim(dir, shim, sys::SIGTERM)
}

/// Continues the shim of a run, should somebody have stopped it (SIGSTOP): it does nothing that it is asked for until then.
pub fn continue_shim(dir: &RunDir, shim: i32) {
    if procs::look_up(shim).is_some_and(|process| process.state == b'T') {
        let _ = signal_shim(dir, shim, sys::SIGCONT);
    }
}

/// Kills the shim of a run if it cannot run: it is traced, or its control group is frozen, and so it stops nothing. What it
/// leaves behind is [`stop`]ped then. `NotFound` if it runs, or is none.
pub fn kill_frozen_shim(dir: &RunDir, shim: i32) -> io::Result<()> {
    let is_frozen = procs::look_up(shim).is_some_and(|process| matches!(process.state, b'T' | b't' | b'D'));
    if is_frozen { signal_shim(dir, shim, sys::SIGKILL) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn signal_shim(dir: &RunDir, shim: i32, number: i32) -> io::Result<()> {
    let is_it = || {
        let words = procs::arguments(shim);
        words.get(1).is_some_and(|word| word == "__shim") && words.iter().any(|word| dir.path().as_os_str() == &**word)
    };
    if !is_it() {
        return Err(io::ErrorKind::NotFound.into());
    }
    sys::kill_exactly(shim, number, is_it)
}
