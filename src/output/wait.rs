//! Until when: a new line that matches, silence after something new, the end of the process, or the end of patience.
//! Wakes on the shim's doorbell, not by polling files.

use super::lines::Assembler;
use super::view;
use crate::fault::Fault;
use crate::log::Stream;
use crate::log::read::Log;
use crate::log::scan::Scan;
use crate::manager::watch::Run;
use regex_lite::Regex;
use std::io;
use std::time::{Duration, Instant};

/// The longest that anybody may wait in one call: clients give up at 60 s.
pub const LONGEST: Duration = Duration::from_secs(45);
/// So much silence after something new is "quiet".
pub const QUIET: Duration = Duration::from_millis(500);
/// Of a line, so much is looked at, in bytes.
const LINE: usize = 64 << 10;

/// What is waited for.
#[derive(Clone, Debug)]
pub enum Until {
    Match(Regex),
    Quiet,
    /// Only the end of the process, or of the time.
    Over,
}

impl Until {
    /// `quiet`, or a regular expression.
    pub fn parse(text: &str) -> Result<Until, Fault> {
        if text == "quiet" { Ok(Until::Quiet) } else { regex(text).map(Until::Match) }
    }
}

/// Compiles what somebody searches for.
pub fn regex(text: &str) -> Result<Regex, Fault> {
    Regex::new(text).map_err(|error| {
        Fault::invalid(format!(
            "cannot read the regular expression '{text}': {error}; put a \\ before characters that stand for themselves"
        ))
    })
}

/// Why waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Matched,
    Quiet,
    /// Nothing more will come.
    Over,
    TimedOut,
    /// Whoever asked has left.
    Abandoned,
}

/// Whoever waits, as far as waiting must know.
pub trait Caller {
    /// Whether nobody is there any more to hear the answer.
    fn is_gone(&self) -> bool;
    /// Asked once before waiting: false if too many wait already.
    fn may_wait(&self) -> bool;
}

/// Waits for something in what comes behind `from` in the log of `stream`.
pub fn wait(
    run: &Run,
    stream: Stream,
    from: u64,
    until: &Until,
    limit: Duration,
    caller: &dyn Caller,
) -> Result<Outcome, Fault> {
    if !caller.may_wait() {
        return Err(Fault::conflict("too many requests are waiting at this server; try again in a moment"));
    }
    wait_for(run, stream, from, until, limit, caller).map_err(|error| unreadable(run, &error))
}

/// What to say when a log cannot be read.
pub fn unreadable(run: &Run, error: &io::Error) -> Fault {
    Fault::failed(format!("cannot read the output of '{}' in {}: {error}", run.meta.label, run.dir.path().display()))
}

fn wait_for(
    run: &Run,
    stream: Stream,
    from: u64,
    until: &Until,
    limit: Duration,
    caller: &dyn Caller,
) -> io::Result<Outcome> {
    let end = Instant::now() + limit.min(LONGEST);
    let mut at = from;
    let mut lines = Assembler::new(stream, LINE);
    let mut news_at = None;
    loop {
        // Both before looking, so that nothing between looking and waiting is missed.
        let generation = run.generation();
        let is_over = run.is_over();
        let log = Log::open(run.dir.path(), stream)?;
        at = at.max(log.start());
        if log.end() > at {
            news_at = Some(Instant::now());
            if look(&log, &mut at, &mut lines, until)? {
                return Ok(Outcome::Matched);
            }
        }
        if is_over {
            return Ok(Outcome::Over);
        }
        let now = Instant::now();
        let quiet_at = news_at.filter(|_| matches!(until, Until::Quiet)).map(|news| news + QUIET);
        if quiet_at.is_some_and(|quiet| quiet <= now) {
            return Ok(Outcome::Quiet);
        }
        if now >= end {
            return Ok(Outcome::TimedOut);
        }
        if caller.is_gone() {
            return Ok(Outcome::Abandoned);
        }
        let wake = quiet_at.map_or(end, |quiet| quiet.min(end));
        run.wait(generation, wake.saturating_duration_since(now));
    }
}

/// Goes through what is new; a line that is not finished counts as far as it is there.
fn look(log: &Log, at: &mut u64, lines: &mut Assembler, until: &Until) -> io::Result<bool> {
    let Until::Match(wanted) = until else {
        *at = log.end();
        return Ok(false);
    };
    let is_match = |text: &[u8]| wanted.is_match(&view::clean(text));
    let mut scan = Scan::new(log, *at, log.end(), LINE);
    while let Some(raw) = scan.next()? {
        *at = raw.next;
        if lines.push(&raw).is_some_and(|line| is_match(&line.text)) {
            return Ok(true);
        }
    }
    Ok(lines.open().into_iter().any(|line| is_match(&line.text)))
}
