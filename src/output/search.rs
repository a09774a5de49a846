//! Searching a log from its end, window by window: which parts hold a match, in bounded time.
//!
//! An expression can take a second for one long line, so time and client are asked after every few kilobytes, also inside
//! a window. The newest window is small and always searched to its end, so that a search that has to be continued gets on.

use super::caller::Caller;
use super::lines::{Assembler, Line};
use super::pattern::Pattern;
use super::query::Query;
use crate::log::Stream;
use crate::log::read::Log;
use crate::log::record::{PREFIX_LEN, begins_line};
use crate::log::scan::Scanner;
use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

/// Bytes that are searched at a time: few at first, twice as many after each window that took no longer than `FAST`.
const WINDOW: (u64, u64) = (64 << 10, 1 << 20);
const FAST: Duration = Duration::from_millis(20);
/// Bytes of lines after which time is looked at, and how long the client is taken to be there without asking.
const STEP: usize = 4 << 10;
const PRESENT: Duration = Duration::from_millis(20);

/// How long a search may go on: until its deadline, or until its client has left.
pub struct Budget<'a> {
    deadline: Instant,
    caller: &'a dyn Caller,
    /// Bytes since time was looked at.
    bytes: usize,
    asked: Option<Instant>,
    is_gone: bool,
    is_over: bool,
}

impl<'a> Budget<'a> {
    /// A budget that ends at `deadline`, or when `caller` leaves.
    pub fn new(deadline: Instant, caller: &'a dyn Caller) -> Budget<'a> {
        Budget { deadline, caller, bytes: 0, asked: None, is_gone: false, is_over: false }
    }

    /// Takes a line of so many bytes into account. False if the search must end.
    pub fn spend(&mut self, bytes: usize) -> bool {
        self.bytes += bytes + PREFIX_LEN;
        if self.bytes >= STEP {
            self.bytes = 0;
            self.look();
        }
        !self.is_over
    }

    /// Whether there is time left, and a client.
    pub fn is_over(&mut self) -> bool {
        self.look();
        self.is_over
    }

    /// Whether the client had left when it was last looked for.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    fn look(&mut self) {
        let now = Instant::now();
        if self.asked.is_none_or(|asked| now >= asked + PRESENT) {
            self.asked = Some(now);
            self.is_gone = self.is_gone || self.caller.is_gone();
        }
        self.is_over = self.is_gone || now >= self.deadline;
    }
}

/// What a search found.
#[derive(Default)]
pub struct Found {
    /// The parts to read as lines, oldest first.
    pub spans: Vec<(u64, u64)>,
    /// Nothing that is wanted lies outside of them.
    pub is_whole: bool,
    /// Where the search had to end before it had enough.
    pub stopped: Option<u64>,
    pub known: Known,
}

/// Which lines match, as far as they were searched: no expression is tried twice on a line.
#[derive(Default)]
pub struct Known {
    /// What lies between these offsets was searched.
    from: u64,
    to: u64,
    /// Lines that match, and lines that began before the window that they end in; by the offset of their last record.
    matched: HashSet<u64>,
    unsure: HashSet<u64>,
}

impl Known {
    /// Whether a line matches, if that is known.
    pub fn tells(&self, line: &Line) -> Option<bool> {
        let is_searched = line.is_finished && (self.from..self.to).contains(&line.last);
        (is_searched && !self.unsure.contains(&line.last)).then(|| self.matched.contains(&line.last))
    }
}

/// Whether a line is one of those that `query` searches for.
pub fn matches(query: &Query, line: &Line) -> bool {
    query.only.is_none_or(|only| only == line.stream)
        && query.grep.as_ref().is_none_or(|grep: &Pattern| grep.is_match(&line.text))
}

/// Searches `from..to` for the newest `wanted` lines that match.
pub fn search(log: &Log, query: &Query, wanted: usize, from: u64, to: u64, budget: &mut Budget) -> io::Result<Found> {
    let mut known = Known { from: to, to, ..Known::default() };
    let mut spans = Vec::new();
    let (mut size, mut count) = (WINDOW.0, 0);
    while known.from > from && count < wanted {
        let end = known.from;
        let is_newest = end == to;
        if budget.is_over() && !is_newest {
            break;
        }
        let begun = Instant::now();
        let start = log.record_start(end.saturating_sub(size).max(from), from)?;
        let window = Window { log, query, start, end, is_newest };
        let Some((matched, is_candidate)) = window.search(&mut known, budget)? else { break };
        // The newest one always: its last lines may be unfinished.
        if is_candidate || is_newest {
            spans.push((start, end));
        }
        count += matched;
        known.from = start;
        if begun.elapsed() <= FAST {
            size = (size * 2).min(WINDOW.1);
        }
    }
    spans.reverse();
    let stopped = (known.from > from && count < wanted).then_some(known.from);
    Ok(Found { spans: widen(log, spans, query.context, from, to)?, is_whole: known.from == from, stopped, known })
}

/// A part of a log that begins and ends with a record.
struct Window<'a> {
    log: &'a Log,
    query: &'a Query,
    start: u64,
    end: u64,
    is_newest: bool,
}

impl Window<'_> {
    /// How many lines in it match, and whether it must be read: also if a line that began before it might match. `None`
    /// if time was over before its end.
    fn search(&self, known: &mut Known, budget: &mut Budget) -> io::Result<Option<(usize, bool)>> {
        if !self.may_match()? {
            return Ok(Some((0, false)));
        }
        let (mut matched, mut is_candidate) = (0, false);
        let mut scan = Scanner::new(self.log, self.start, self.end, self.query.longest + PREFIX_LEN);
        let mut assembler = Assembler::new(self.query.stream, self.query.longest);
        while let Some(raw) = scan.next()? {
            let length = raw.bytes.len();
            if let Some(line) = assembler.push(&raw) {
                let is_match = matches(self.query, &line);
                matched += usize::from(is_match);
                is_candidate |= is_match || line.lacks_start;
                if line.lacks_start {
                    known.unsure.insert(line.last);
                } else if is_match {
                    known.matched.insert(line.last);
                }
            }
            if !budget.spend(length) && (!self.is_newest || budget.is_gone()) {
                return Ok(None);
            }
        }
        Ok(Some((matched, is_candidate)))
    }

    /// False if certainly no line that ends in it matches.
    fn may_match(&self) -> io::Result<bool> {
        let Some(pattern) = &self.query.grep else { return Ok(true) };
        let mut block = vec![0; (self.end - self.start).min(2 * WINDOW.1) as usize];
        let n = self.log.read_at(self.start, &mut block)?;
        let is_all = n as u64 == self.end - self.start;
        let begins_before = match self.query.stream {
            Stream::Combined => has_parts(&block),
            _ => self.log.is_within_line(self.start)?,
        };
        Ok(!is_all || begins_before || pattern.may_match(&block))
    }
}

/// Whether a line goes on in one of these records of `combined.log`: then what is searched for may be spread over several.
fn has_parts(block: &[u8]) -> bool {
    let starts = memchr::memchr_iter(b'\n', block).map(|newline| newline + 1);
    let mut prefixes = std::iter::once(0).chain(starts).filter_map(|at| block.get(at..at + PREFIX_LEN));
    prefixes.any(|prefix| !begins_line(prefix))
}

/// Widens each span by its context, and joins those that touch.
fn widen(log: &Log, spans: Vec<(u64, u64)>, context: usize, from: u64, to: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut wide: Vec<(u64, u64)> = Vec::new();
    for (start, end) in spans {
        let start = if context > 0 { log.tail(start, context + 2)?.max(from) } else { start };
        let end = if context > 0 && end < to { behind(log, end, context, to)? } else { end };
        match wide.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => wide.push((start, end)),
        }
    }
    Ok(wide)
}

/// The offset after the next `count` records.
fn behind(log: &Log, from: u64, count: usize, to: u64) -> io::Result<u64> {
    let mut scan = Scanner::new(log, from, to, PREFIX_LEN);
    let mut at = from;
    for _ in 0..count + 2 {
        let Some(raw) = scan.next()? else { break };
        at = raw.next;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A caller that has left when it is asked for the second time.
    #[derive(Default)]
    struct Leaving(AtomicUsize);

    impl Caller for Leaving {
        fn is_gone(&self) -> bool {
            self.0.fetch_add(1, Ordering::SeqCst) > 0
        }
        fn may_wait(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_budget_ends_with_its_time_or_its_client_and_then_stays_over() {
        let far = Instant::now() + Duration::from_secs(600);
        let (caller, gone) = (Leaving::default(), Leaving(AtomicUsize::new(1)));
        let mut budget = Budget::new(far, &caller);
        assert!(budget.spend(STEP) && budget.spend(1) && !budget.is_gone());
        std::thread::sleep(PRESENT);
        assert!(!budget.spend(STEP) && budget.is_gone() && !budget.spend(1));
        assert!(Budget::new(far, &gone).is_over());
        let mut late = Budget::new(Instant::now(), &caller);
        late.asked = Some(far);
        assert!(late.spend(1), "it is not looked at after every few bytes");
        assert!(!late.spend(STEP) && late.is_over() && !late.is_gone());
    }

    #[test]
    fn records_that_go_on_with_a_line_are_not_passed_over() {
        let stamp = "2026-01-02T03:04:05.678";
        for (records, expected) in [
            (&["Z whole", "z whole"][..], false),
            (&["Z+rest", "z whole"], true),
            (&["Z whole", "Z>first", "z whole", "Z+rest"], true),
            (&["Z whole", "z=rest"], true),
            (&["Z whole", "z>first"], false),
            (&[], false),
        ] {
            let block: String = records.iter().map(|record| format!("{stamp}{record}\n")).collect();
            assert_eq!(has_parts(block.as_bytes()), expected, "{block}");
        }
    }
}
