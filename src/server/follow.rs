//! `GET /output?run=12&from=5120&wait=20`: the bytes of `combined.log` behind an offset, as they stand in the file, as
//! soon as there are any. What the wrapper and `output --follow` live on: they take the records apart themselves.
//!
//! The answer carries its state in one header, as JSON in ASCII, see [`Following`].

use crate::fault::Fault;
use crate::log::Stream;
use crate::log::read::Log;
use crate::manager::Manager;
use crate::manager::watch::Run;
use crate::output::unreadable;
use crate::output::wait::{Caller, LONGEST};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The header that carries [`Following`].
pub const HEADER: &str = "Persistproc-Status";
/// Bytes of one answer.
const CHUNK: usize = 256 << 10;

/// Where a follower is, and what became of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Following {
    pub run: u64,
    pub pid: i32,
    /// State of the run, as `list` shows it.
    pub state: String,
    /// Offset of the first byte of the answer: later than asked for, if what was asked for is no longer kept.
    pub from: u64,
    /// Offset to go on from.
    pub next: u64,
    /// The leader has ended, and all that it wrote lies before `next`.
    #[serde(default)]
    pub is_final: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The run that took its place in a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<u64>,
    /// This server is leaving, and does not take its processes with it.
    #[serde(default)]
    pub is_leaving: bool,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub run: u64,
    pub from: u64,
    pub wait: Duration,
}

impl Ask {
    /// From the parameters of the query; `None` if it asks for a selection instead, which has no `from`.
    pub fn parse(query: &[(String, String)]) -> Option<Result<Ask, Fault>> {
        let get = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let number = |name: &str, usual: u64| match get(name) {
            None => Ok(usual),
            Some(text) => text.parse().map_err(|_| Fault::invalid(format!("'{name}' must be a number, not '{text}'"))),
        };
        get("run").filter(|run| !run.is_empty()).zip(get("from"))?;
        Some(number("run", 0).and_then(|id| {
            let wait = Duration::from_secs(number("wait", 0)?).min(LONGEST);
            Ok(Ask { run: id, from: number("from", 0)?, wait })
        }))
    }
}

/// Answers at once if there is something, else when there is, or after `ask.wait`.
pub fn follow(manager: &Manager, ask: &Ask, caller: &dyn Caller) -> Result<(Following, Vec<u8>), Fault> {
    let run = manager.get(ask.run).ok_or_else(|| Fault::not_found(format!("run r{} is not kept any more", ask.run)))?;
    let end = Instant::now() + ask.wait;
    let mut is_waiting = false;
    loop {
        let generation = run.generation();
        let (mut following, bytes) = look(&run, ask.from)?;
        // Whoever restarts it holds its turn until the new run is there.
        let is_being_replaced = following.is_final && manager.is_being_started(&run.meta.label);
        if !is_being_replaced {
            following.successor = manager.successor(run.id).map(|successor| successor.id);
        }
        following.is_leaving = manager.is_leaving();
        let is_done = following.is_final && !is_being_replaced;
        let left = end.saturating_duration_since(Instant::now());
        if !bytes.is_empty() || is_done || following.is_leaving || left.is_zero() || caller.is_gone() {
            following.is_final = is_done;
            return Ok((following, bytes));
        }
        if !is_waiting && !caller.may_wait() {
            return Err(Fault::conflict("too many requests are waiting at this server; try again in a moment"));
        }
        is_waiting = true;
        run.wait(generation, left);
    }
}

fn look(run: &Run, from: u64) -> Result<(Following, Vec<u8>), Fault> {
    // Before the log: what it says of the end holds for what is read then.
    let is_over = run.is_over();
    let status = run.status();
    let read = || -> std::io::Result<(u64, Vec<u8>, u64)> {
        let log = Log::open(run.dir.path(), Stream::Combined)?;
        let from = from.max(log.start());
        let mut bytes = vec![0; CHUNK.min(log.end().saturating_sub(from) as usize)];
        let n = log.read_at(from, &mut bytes)?;
        // Whole records, so that a gap, should the next ones be gone before they are asked for, lies between two lines.
        bytes.truncate(memchr::memrchr(b'\n', &bytes[..n]).map_or(n, |newline| newline + 1));
        Ok((from, bytes, log.end()))
    };
    let (from, bytes, end) = read().map_err(|error| unreadable(run, &error))?;
    let next = from + bytes.len() as u64;
    let last = status.leader_bytes.filter(|_| status.leader_ended.is_some());
    let following = Following {
        run: run.id,
        pid: status.pid,
        state: status.state.name().into(),
        from,
        next,
        is_final: if is_over { next >= end } else { last.is_some_and(|last| next >= last) },
        exit_code: status.exit_code,
        signal: status.signal,
        successor: None,
        is_leaving: false,
    };
    Ok((following, bytes))
}
