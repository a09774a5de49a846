//! `GET /output?run=12&from=5120&wait=20&bytes=no&reader=4711.0`: how far `combined.log` reaches behind an offset, as soon
//! as it does, and what became of the run. The wrapper and `output --follow` live on it. They read the file itself, which
//! is faster by far, and hold a lease on it (see [`lease`](crate::lease)); commands up to 0.4 leave out `bytes=no` and get
//! its bytes here.
//!
//! The answer carries its state in one header, as JSON in ASCII, see [`Following`].

use crate::fault::Fault;
use crate::http::head::encode;
use crate::log::Stream;
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
/// Pause before the answer to a command that cannot wait because too many do.
const BUSY: Duration = Duration::from_millis(200);

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
    /// The directory of the run among all of them; not told by servers up to 0.4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What holds up its output, encoded as in a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Bytes of its log that the disk did not take until its end, and why, encoded as in a URL.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_to: Option<String>,
    /// There was no place to wait: ask again after a pause.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_busy: bool,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub run: u64,
    pub from: u64,
    pub wait: Duration,
    /// The answer is to hold the bytes themselves.
    pub with_bytes: bool,
    /// The lease of the command that asks.
    pub reader: Option<String>,
    /// The command knows that something holds up the output, and waits also for the end of that.
    pub knows_trouble: bool,
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
            let (with_bytes, knows_trouble) = (get("bytes") != Some("no"), get("trouble") == Some("known"));
            let reader = get("reader").map(String::from);
            Ok(Ask { run: id, from: number("from", 0)?, wait, with_bytes, reader, knows_trouble })
        }))
    }
}

impl Ask {
    /// The parameters of the query.
    pub fn query(&self) -> String {
        let Ask { run, from, wait, with_bytes, reader, knows_trouble } = self;
        let mut query = format!("run={run}&from={from}&wait={}", wait.as_secs());
        query.push_str(if *with_bytes { "" } else { "&bytes=no" });
        query.push_str(if *knows_trouble { "&trouble=known" } else { "" });
        reader.iter().for_each(|reader| query.push_str(&format!("&reader={reader}")));
        query
    }
}

/// Answers at once if there is something, else when there is, or after `ask.wait`.
pub fn follow(manager: &Manager, ask: &Ask, caller: &dyn Caller) -> Result<(Following, Vec<u8>), Fault> {
    let run = manager.get(ask.run).ok_or_else(|| Fault::not_found(format!("run r{} is not kept any more", ask.run)))?;
    manager.attach(&run, ask.reader.as_deref());
    let end = Instant::now() + ask.wait;
    let mut is_waiting = false;
    loop {
        let generation = run.generation();
        let (mut following, bytes) = look(&run, ask)?;
        // Whoever restarts it holds its turn until the new run is there.
        let is_being_replaced = following.is_final && manager.is_being_started(&run.meta.label);
        if !is_being_replaced {
            following.successor = manager.successor(run.id).map(|successor| successor.id);
        }
        following.is_leaving = manager.is_leaving();
        let is_done = following.is_final && !is_being_replaced;
        let left = end.saturating_duration_since(Instant::now());
        let is_news = following.next > ask.from || ask.knows_trouble != following.trouble.is_some() && !ask.with_bytes;
        following.is_busy = !is_waiting && !is_news && !is_done && !left.is_zero() && !caller.may_wait();
        if following.is_busy && ask.with_bytes {
            std::thread::sleep(BUSY.min(left)); // commands up to 0.4 know of no pause
        }
        if is_news || is_done || following.is_leaving || following.is_busy || left.is_zero() || caller.is_gone() {
            following.is_final = is_done;
            return Ok((following, bytes));
        }
        is_waiting = true;
        run.wait(generation, left);
    }
}

fn look(run: &Run, ask: &Ask) -> Result<(Following, Vec<u8>), Fault> {
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
        let mut bytes = vec![0; CHUNK.min(log.end().saturating_sub(from) as usize)];
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
        state: status.state.name().into(),
        from,
        next,
        is_final: if is_over { next >= end } else { last.is_some_and(|last| next >= last) },
        exit_code: status.exit_code,
        signal: status.signal,
        successor: None,
        is_leaving: false,
        directory: run.dir.path().file_name().and_then(|name| name.to_str()).map(encode),
        trouble: status.io_error.as_deref().filter(|_| !is_over && !status.capture_continues).map(encode),
        lost_bytes: status.lost_bytes,
        lost_to: status.io_error.as_deref().filter(|_| status.lost_bytes > 0).map(encode),
        is_busy: false,
    };
    Ok((following, bytes))
}
