//! `GET /output?run=12&from=5120&wait=20&bytes=no&reader=4711.0`: how far `combined.log` has grown beyond an offset, as
//! soon as it has, and what became of the run. The wrapper and `output --follow` use it. They read the file itself, which is
//! faster by far, and hold a lease on it (see [`lease`](crate::lease)); commands up to 0.4 leave out `bytes=no` and get
//! its bytes here.
//!
//! The answer carries its state in one header, as JSON in ASCII, see [`Following`].

use crate::api::{Follow, Following};
use crate::error::Error;
use crate::http::head::encode;
use crate::log::Stream;
use crate::manager::Manager;
use crate::manager::watch::Run;
use crate::output::caller::Caller;
use crate::output::unreadable;
use crate::output::wait::WAIT_MAX;
use std::time::{Duration, Instant};

/// Bytes of one answer.
const CHUNK_MAX: usize = 256 << 10;
/// Pause before the answer to a command that cannot wait because too many do.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Answers at once if there is something, else when there is, or after `ask.wait`.
pub fn follow(manager: &Manager, ask: &Follow, caller: &dyn Caller) -> Result<(Following, Vec<u8>), Error> {
    let run = manager.get(ask.run).ok_or_else(|| Error::not_found(format!("run r{} is not kept any more", ask.run)))?;
    manager.attach(&run, ask.reader.as_deref());
    let end = Instant::now() + ask.wait.min(WAIT_MAX);
    let mut is_waiting = false;
    loop {
        let generation = run.generation();
        let (mut following, bytes) = look(&run, ask)?;
        // A restart holds the lock of the label until the new run exists.
        let is_being_replaced = following.is_final && manager.is_being_started(&run.meta.label);
        if !is_being_replaced {
            following.successor = manager.successor(run.id).map(|successor| successor.id);
        }
        following.is_leaving = manager.is_leaving();
        let is_done = following.is_final && !is_being_replaced;
        let left = end.saturating_duration_since(Instant::now());
        let is_news = following.next > ask.from || ask.knows_blocked != following.blocked.is_some() && !ask.with_bytes;
        following.is_busy = !is_waiting && !is_news && !is_done && !left.is_zero() && !caller.may_wait();
        if following.is_busy && ask.with_bytes {
            std::thread::sleep(BUSY_PAUSE.min(left)); // commands up to 0.4 know of no pause
        }
        if is_news || is_done || following.is_leaving || following.is_busy || left.is_zero() || caller.is_gone() {
            following.is_final = is_done;
            return Ok((following, bytes));
        }
        is_waiting = true;
        run.wait(generation, left);
    }
}

fn look(run: &Run, ask: &Follow) -> Result<(Following, Vec<u8>), Error> {
    // Before the log: what it says of the end holds for what is read then.
    let is_over = run.is_over();
    let status = run.status();
    let read = || -> std::io::Result<(u64, Vec<u8>, u64)> {
        let log = match run.whole_log(Stream::Combined) {
            // It was removed, or something else is in its place: its shim makes a new one, and puts that aside.
            Err(_) if !is_over => return Ok((ask.from, Vec::new(), ask.from)),
            log => log?,
        };
        // What the disk took a part of was taken back, and may have been seen before.
        if is_over && log.end() < ask.from && status.lost_bytes == 0 {
            return Err(std::io::Error::other(
                "it is shorter than what was read of it: something has emptied or replaced it",
            ));
        }
        let from = ask.from.max(log.start());
        if !ask.with_bytes {
            return Ok((from, Vec::new(), log.end()));
        }
        let mut bytes = vec![0; CHUNK_MAX.min(log.end().saturating_sub(from) as usize)];
        let n = log.read_at(from, &mut bytes)?;
        // Whole records, so that a gap, should the next ones be gone before they are asked for, lies between two lines.
        bytes.truncate(memchr::memrchr(b'\n', &bytes[..n]).map_or(n, |newline| newline + 1));
        Ok((from, bytes, log.end()))
    };
    let (from, bytes, end) = read().map_err(|error| unreadable(run, &error))?;
    let next = if ask.with_bytes { from + bytes.len() as u64 } else { end.max(from) };
    let last = status.leader_bytes.filter(|_| status.leader_ended.is_some());
    let following = Following {
        run: run.id,
        pid: status.pid,
        state: status.state,
        from,
        next,
        is_final: if is_over { next >= end } else { last.is_some_and(|last| next >= last) },
        exit_code: status.exit_code,
        signal: status.signal,
        successor: None,
        is_leaving: false,
        directory: run.dir.path().file_name().and_then(|name| name.to_str()).map(encode),
        blocked: status.io_error.as_deref().filter(|_| !is_over && !status.capture_continues).map(encode),
        lost_bytes: status.lost_bytes,
        lost_to: status.io_error.as_deref().filter(|_| status.lost_bytes > 0).map(encode),
        is_busy: false,
    };
    Ok((following, bytes))
}
