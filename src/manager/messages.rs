//! What a server says to the shim of a run: a line each, into its `ctl` FIFO.

use super::locks::LockKey;
use super::watch::Run;
use super::{Manager, describe_end};
use crate::error::Error;
use crate::rundir::{InputReport, MAX_MESSAGE_LEN, State};
use crate::shim::{self, orphans};
use crate::sys;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Input that is taken at once, in bytes.
const INPUT_MAX: usize = 16 << 10;
/// How long a message may take to be taken.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a dying shim may have its lock when it has let go of its FIFO.
const SHIM_EXIT_TIMEOUT: Duration = Duration::from_millis(500);
/// How often one is offered again: to a shim that does not listen yet, and to one that does not read.
const NOT_LISTENING_PAUSE: Duration = Duration::from_millis(5);
const NOT_READING_PAUSE: Duration = Duration::from_millis(20);

impl Manager {
    /// Writes to the stdin of a live process.
    pub fn input(&self, run: &Run, bytes: &[u8]) -> Result<(), Error> {
        const VERB: usize = "input \n".len();
        if bytes.len() > INPUT_MAX {
            return Err(Error::invalid(format!("the input has {} bytes; at most {INPUT_MAX} go at once", bytes.len())));
        }
        check_live(run)?;
        let _guard = self.locks.lock(LockKey::Input(run.id))?;
        run.look();
        let before = run.status().input;
        let end = Instant::now() + MESSAGE_TIMEOUT;
        for part in bytes.chunks((MAX_MESSAGE_LEN - VERB) / 2) {
            let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
            deliver(run, &format!("input {hex}\n"), end)?;
        }
        before.map_or(Ok(()), |before| confirm_input(run, before, bytes.len() as u64, end))
    }

    /// Sends a signal to the leader of a live process.
    pub fn signal(&self, run: &Run, number: i32) -> Result<(), Error> {
        check_live(run)?;
        deliver(run, &format!("signal {number}\n"), Instant::now() + MESSAGE_TIMEOUT)
    }
}

/// Waits until the shim confirms that it has received the input, and whether it had space for all of it. A process that
/// has ended meanwhile has no use for input.
fn confirm_input(run: &Run, before: InputReport, length: u64, end: Instant) -> Result<(), Error> {
    loop {
        let generation = run.generation();
        let now = run.status().input.unwrap_or_default();
        if now.received >= before.received + length || run.is_over() {
            let dropped = now.dropped.saturating_sub(before.dropped);
            return if dropped == 0 { Ok(()) } else { Err(not_read(run, dropped, length)) };
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::failed(format!(
                "the shim of '{}' (PID {}) has not said that it got the input; it may be stopped or starved",
                run.meta.label,
                run.status().shim_pid
            )));
        }
        run.wait(generation, left);
    }
}

fn not_read(run: &Run, dropped: u64, length: u64) -> Error {
    Error::conflict(format!(
        "'{}' does not read its input: {} kB wait for it already, and {dropped} of these {length} bytes were dropped",
        run.meta.label,
        shim::INPUT_MAX >> 10
    ))
}

/// Asks the shim to look at its logs. Shims up to 0.4 do so only when they write.
pub(super) fn ask_to_look(run: &Run) {
    let _ = send(run, "look 0\n", Instant::now());
}

/// Asks the shim to stop its run, and tries to until `end`. If there is no way to send it a message, by a signal.
pub(super) fn ask_to_stop(run: &Run, grace: Duration, end: Instant) -> Result<(), Error> {
    if !send(run, &format!("stop {}\n", grace.as_millis()), end)? {
        let _ = orphans::ask_shim(&run.dir, run.status().shim_pid);
    }
    Ok(())
}

fn check_live(run: &Run) -> Result<(), Error> {
    let status = run.status();
    if run.is_over() || status.state != State::Running {
        return Err(Error::conflict(format!("'{}' {}", run.meta.label, describe_end(&status))));
    }
    Ok(())
}

/// Sends one message that has no other way.
fn deliver(run: &Run, message: &str, end: Instant) -> Result<(), Error> {
    if send(run, message, end)? || !run.dir.is_shim_alive() {
        return Ok(()); // if the process has just ended, its end is what comes of it
    }
    Err(Error::failed(format!(
        "cannot reach the shim of '{}': nothing reads {}, which something must have removed or replaced; restart the process",
        run.meta.label,
        run.dir.ctl().display()
    )))
}

/// Sends one message; false if nothing reads it. A shim that lives and does not listen is just being born, or is dying, or
/// its FIFO was removed or replaced.
fn send(run: &Run, message: &str, end: Instant) -> Result<bool, Error> {
    let begun = Instant::now();
    orphans::continue_shim(&run.dir, run.status().shim_pid); // should something have stopped it
    // Before its process it has opened the FIFO.
    let may_begin_to_listen = || run.status().pid == 0 || begun.elapsed() < SHIM_EXIT_TIMEOUT;
    loop {
        let sent = sys::open_fifo_writer(&run.dir.ctl()).and_then(|mut fifo| fifo.write_all(message.as_bytes()));
        let is_late = Instant::now() >= end;
        match sent {
            Ok(()) => return Ok(true),
            // It does not listen, or has just let go of the FIFO.
            Err(error) if error.raw_os_error() == Some(sys::ENXIO) || error.kind() == io::ErrorKind::BrokenPipe => {
                if is_late || !may_begin_to_listen() || !run.dir.is_shim_alive() {
                    return Ok(false);
                }
                std::thread::sleep(NOT_LISTENING_PAUSE);
            }
            // Removed, or no FIFO any more.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
                return Ok(false);
            }
            // Full: the shim is stopped or starved, and reads when it runs again. Or we have no descriptor left, and get one
            // when some connection ends.
            Err(error) if sys::is_exhaustion(&error) && !is_late => std::thread::sleep(NOT_READING_PAUSE),
            Err(error) => {
                return Err(Error::failed(format!(
                    "cannot reach the shim of '{}': {error}; try again",
                    run.meta.label
                )));
            }
        }
    }
}
