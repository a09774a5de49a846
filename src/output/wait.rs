//! Until when: a new line that matches, silence after something new, the end of the process, or the end of patience.
//! Wakes on the shims' doorbells, not by polling files.
//!
//! Waits continue across a restart: most waits are for what a restart or an edit brings, the restart may come from another
//! client, and the caller would have to ask again at once. The answer says that there was one.

use super::caller::{Caller, admit};
use super::cursor::{Cursor, Place};
use super::lines::{Assembler, Line};
use super::pattern::Pattern;
use super::recall::recall;
use super::scope::{Parts, RunSlice, Scope};
use super::search::Budget;
use super::unreadable;
pub use crate::api::WaitOutcome;
use crate::api::params::TIMEOUT_MAX;
use crate::error::Error;
use crate::log::Stream;
use crate::log::scan::Scanner;
use crate::manager::notifier::{CHECK_INTERVAL, ChangeNotifier};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest wait of one call.
pub const WAIT_MAX: Duration = Duration::from_secs(TIMEOUT_MAX as u64);
/// So much silence after something new is "quiet". It counts from the call on at the earliest: what reacts to an edit
/// takes a moment to say its first word.
pub const QUIET_PERIOD: Duration = Duration::from_millis(500);
/// What is there already is looked through for so long, also in a shorter wait: `timeout=0` asks whether it has come.
const CATCH_UP_MIN: Duration = Duration::from_secs(1);
/// Of a line, so much is looked at, in bytes.
const LINE_MAX: usize = 64 << 10;

/// What is waited for.
#[derive(Clone, Debug)]
pub enum Until {
    Match(Pattern),
    Quiet,
    /// Only the end of the process, or of the time.
    Ended,
}

impl Until {
    /// `quiet`, or a regular expression.
    pub fn parse(text: &str) -> Result<Until, Error> {
        if text == "quiet" { Ok(Until::Quiet) } else { Pattern::parse(text).map(Until::Match) }
    }
}

/// Waits for something after `from`. `with_leader`: stop when the leader exits.
pub fn wait(
    scope: &Scope,
    stream: Stream,
    from: &Cursor,
    until: &Until,
    limit: Duration,
    with_leader: bool,
    caller: &dyn Caller,
) -> Result<WaitOutcome, Error> {
    admit(caller)?;
    let end = Instant::now() + limit.min(WAIT_MAX);
    let mut budget = Budget::new(end.max(Instant::now() + CATCH_UP_MIN), caller);
    let notifier = Arc::new(ChangeNotifier::default());
    let mut seen: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut news_at = None;
    loop {
        // All before looking, so that nothing between looking and waiting is missed.
        let parts = scope.parts(Some(from), None);
        let pieces: Vec<&RunSlice> = parts.sources.iter().flat_map(|source| &source.pieces).collect();
        let generation = listen(&notifier, &pieces, &seen);
        let is_over = is_over(scope, from, &parts, with_leader);
        for piece in pieces {
            let own = seen.entry(piece.run.id).or_insert_with(|| Seen::new(stream, piece.after));
            let looked = own.look(piece, until, &mut budget);
            let (grew, matched) = looked.map_err(|error| unreadable(&piece.run, &error))?;
            if grew {
                news_at = Some(Instant::now());
            }
            if matched {
                return Ok(WaitOutcome::Matched);
            }
        }
        let now = Instant::now();
        let quiet_at = news_at.filter(|_| matches!(until, Until::Quiet)).map(|news| news + QUIET_PERIOD);
        if quiet_at.is_some_and(|quiet| quiet <= now) {
            return Ok(WaitOutcome::Quiet);
        }
        if is_over && !seen.values().any(|seen| seen.is_behind) {
            return Ok(WaitOutcome::Ended);
        }
        if now >= end {
            return Ok(WaitOutcome::TimedOut);
        }
        if caller.is_gone() {
            return Ok(WaitOutcome::Abandoned);
        }
        let wake = quiet_at.map_or(end, |quiet| quiet.min(end)).saturating_duration_since(now);
        if !notifier.wait(generation, wake) && wake >= CHECK_INTERVAL {
            parts.sources.iter().flat_map(|source| &source.pieces).for_each(|piece| piece.run.look());
        }
    }
}

/// Subscribes the notifier to runs that are new, and returns its generation after that: all reading follows, so nothing that
/// comes in between is missed.
fn listen(notifier: &Arc<ChangeNotifier>, pieces: &[&RunSlice], seen: &BTreeMap<u64, Seen>) -> u64 {
    pieces.iter().filter(|piece| !seen.contains_key(&piece.run.id)).for_each(|piece| piece.run.subscribe(notifier));
    notifier.generation()
}

/// Whether nothing more can come from any of these runs, and no other run of the same process is about to start.
fn is_over(scope: &Scope, from: &Cursor, parts: &Parts, with_leader: bool) -> bool {
    // That it has ended is told at once; that all it wrote has been read, a moment later.
    let ended = |piece: &RunSlice| piece.run.is_over() || with_leader && piece.run.status().leader_bytes.is_some();
    let all = |parts: &Parts| parts.sources.iter().flat_map(|source| &source.pieces).all(ended);
    // In this order: a restart holds the lock of the label until the new run can be seen.
    all(parts) && !scope.is_being_started() && all(&scope.parts(Some(from), None))
}

/// How far the log of one run has been looked at.
struct Seen {
    /// `None` until the first look.
    at: Option<u64>,
    after: Option<Place>,
    lines: Assembler,
    stream: Stream,
    /// Nothing more comes, and all has been looked at.
    is_done: bool,
    /// Time was over before all that is there had been looked at.
    is_behind: bool,
}

impl Seen {
    fn new(stream: Stream, after: Option<Place>) -> Seen {
        Seen { at: None, after, lines: Assembler::new(stream, LINE_MAX), stream, is_done: false, is_behind: false }
    }

    /// Goes through what is new: whether there was something, and whether it matches. A line that is not finished counts
    /// as far as it is there. Ends with `budget` in any case.
    fn look(&mut self, piece: &RunSlice, until: &Until, budget: &mut Budget) -> io::Result<(bool, bool)> {
        if self.is_done {
            return Ok((false, false));
        }
        self.is_done = piece.run.is_over();
        let log = piece.run.log(self.stream)?;
        let mut at = match (self.at, self.after) {
            (Some(at), _) => at.max(log.start()),
            (None, Some(place)) if (log.start()..=log.end()).contains(&place.offset) => {
                recall(&log, &mut self.lines, place.offset, place.open)?;
                place.offset
            }
            (None, _) => log.start(),
        };
        let grew = log.end() > at;
        let mut matched = false;
        if let (true, Until::Match(wanted)) = (grew, until) {
            let mut scan = Scanner::new(&log, at, log.end(), LINE_MAX);
            while let Some(raw) = scan.next()? {
                at = raw.next;
                let length = raw.bytes.len();
                if self.lines.push(&raw).is_some_and(|line| wanted.is_match(&line.text)) {
                    matched = true;
                    break;
                }
                if !budget.spend(length) {
                    // A flood, and an expression that is slower than it.
                    (self.is_behind, self.is_done) = (true, false);
                    break;
                }
            }
            // A line that has not gone on since is not new.
            let known = self.after.map_or(0, |place| place.offset);
            let is_new = |line: &&Line| line.last >= known && wanted.is_match(&line.text);
            matched = matched || !self.is_behind && self.lines.open().iter().any(is_new);
        } else {
            at = log.end();
        }
        self.at = Some(at);
        Ok((grew, matched))
    }
}
