//! One part of one run → the newest lines of it that are wanted, found without reading what is not returned.
//!
//! Without `grep` the last lines are found from the end; with it the log is searched from the end, window by window, and
//! only windows with something in them are read as lines. Lines whose beginning lies before what was read are looked up.

use super::context;
use super::cursor::Place;
use super::lines::{Assembler, Line};
use super::pattern::ContextWindow;
use super::query::{Query, Unfinished};
use super::recall::{open_before, recall};
use super::scope::RunSlice;
use super::search::{self, Budget, Found, Known};
use crate::log::Stream;
use crate::log::read::Log;
use crate::log::record::{self, PREFIX_LEN};
use crate::log::scan::Scanner;
use std::collections::VecDeque;
use std::io;

/// Lines after the newest shown one are counted only up to this many bytes.
const COUNT_MAX: u64 = 64 << 20;

/// What was read of one part.
pub struct SliceRead {
    /// Oldest first; unfinished ones last.
    pub lines: Vec<Line>,
    /// Lines of the part were left out.
    pub is_cut: bool,
    /// Position after the last record; and `last`, the same, counting only lines shown here as open.
    pub end: Place,
    pub last: Place,
    /// The log has nothing after `end`.
    pub is_at_end: bool,
    /// Bytes of the part that are no longer kept.
    pub gone: u64,
    /// Lines of the run so far, and how many of them are after `end`; `None` if counting them would take long.
    pub total: Option<u64>,
    pub later: Option<u64>,
    /// Where a search ended for lack of time, on its way back.
    pub stopped: Option<Place>,
}

/// Reads the newest `wanted` lines (or matches, with their context) of a part; nothing from before `floor`, in
/// milliseconds since 1970, because those would not be among the newest of all parts.
pub fn read(
    piece: &RunSlice,
    query: &Query,
    wanted: usize,
    floor: Option<u64>,
    budget: &mut Budget,
) -> io::Result<SliceRead> {
    let is_over = piece.run.is_over(); // before the log, so that it is never ahead of it
    let own_open = open_in_own_logs(piece, query)?;
    let (log, counted) = log_and_count(piece, query)?;
    let range = Range::of(&log, piece, query)?;
    let floor = floor.map_or(Ok(range.from), |ms| log.since(ms))?.clamp(range.from, range.to);
    let found = spans(&log, query, wanted, (floor, range.to), budget)?;
    let stopped =
        found.stopped.map(|offset| Place { run: piece.run.id, stream: query.stream, offset, open: [None; 2] });
    let mut reader = Reader::new(&log, query, wanted, piece, &found.known);
    reader.prime(&range, piece)?;
    reader.read_all(&found.spans, &range, false, budget)?;
    if reader.lacks_start && log.start() < found.spans.first().map_or(0, |span| span.0) {
        // Once more, this time from before the lines that began there.
        reader = Reader::new(&log, query, wanted, piece, &found.known);
        reader.prime(&range, piece)?;
        reader.read_all(&found.spans, &range, true, budget)?;
    }
    if let Some(before) = piece.before {
        reader.recall_open(before.open)?;
    } else if range.to == log.end() && !query.is_forward {
        reader.look_for_open(own_open)?;
    }
    let at = if query.is_forward { reader.at } else { range.to };
    let is_at_end = at == log.end();
    let (total, later) = if query.is_search() {
        (None, None)
    } else {
        let total = match counted {
            Some((bytes, lines)) => count(&log, bytes, log.end())?.map(|recent| recent + lines),
            None => None,
        };
        (total, count(&log, at, log.end())?)
    };
    let mut end = Place { run: piece.run.id, stream: query.stream, offset: at, open: reader.assembler.open_at() };
    let shows_open = is_at_end && (query.unfinished == Unfinished::Shown || is_over);
    let shows_known = query.unfinished == Unfinished::Shown;
    let shown = piece.before.map_or([shows_open; 2], |before| before.open.map(|at| at.is_some() && shows_known));
    let open = reader.open_lines(shown);
    if query.unfinished != Unfinished::Shown {
        // What was held until the end is given now, and not again.
        open.iter().for_each(|line| end.open[line.stream.index()] = None);
    }
    let last = Place { open: [Stream::Stdout, Stream::Stderr].map(|stream| begin(&open, stream)), ..end };
    let (lines, was_cut) = reader.finish(at, open);
    let is_cut = was_cut || !found.is_whole || floor > range.from;
    Ok(SliceRead { lines, is_cut, end, last, is_at_end, gone: range.gone, total, later, stopped })
}

/// The log, and how many bytes and lines it had a moment before: `None` if it has been rotated past that since, as under a
/// flood, so that it cannot be known.
fn log_and_count(piece: &RunSlice, query: &Query) -> io::Result<(Log, Option<(u64, u64)>)> {
    let read = || -> io::Result<(Log, Option<(u64, u64)>)> {
        let (status, i) = (piece.run.status(), query.stream.index());
        let log = piece.run.log(query.stream)?;
        let counted = Some((status.bytes[i], status.lines[i])).filter(|(bytes, _)| *bytes >= log.start());
        Ok((log, counted))
    };
    let (log, counted) = read()?;
    if counted.is_some() {
        return Ok((log, counted));
    }
    piece.run.look(); // what is known here may be older than what is in the file
    read()
}

/// Lines in `from..to`, if that is not too much to read for a number.
fn count(log: &Log, from: u64, to: u64) -> io::Result<Option<u64>> {
    if to.saturating_sub(from) > COUNT_MAX { Ok(None) } else { log.count_lines(from, to).map(Some) }
}

/// Which streams have a line open, told by the logs of each alone, where it is the last byte.
fn open_in_own_logs(piece: &RunSlice, query: &Query) -> io::Result<[bool; 2]> {
    let mut open = [false; 2];
    if query.stream == Stream::Combined && piece.before.is_none() {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let log = piece.run.log(stream)?;
            let mut last = [b'\n'];
            log.read_at(log.end().saturating_sub(1), &mut last)?;
            open[stream.index()] = last != *b"\n";
        }
    }
    Ok(open)
}

/// The range of offsets that a part and the times of a query allow.
struct Range {
    from: u64,
    to: u64,
    gone: u64,
    /// Lines that were open at `from`, because that is a cursor's place.
    open: Option<[Option<u64>; 2]>,
}

impl Range {
    fn of(log: &Log, piece: &RunSlice, query: &Query) -> io::Result<Range> {
        let mut range = Range { from: log.start(), to: log.end(), gone: 0, open: None };
        if let Some(after) = piece.after {
            // A position after the end is of a log that was here before: then all of this one is newer.
            let is_of_this = after.offset <= log.end();
            range.gone = if is_of_this { log.start().saturating_sub(after.offset) } else { after.offset };
            if is_of_this && after.offset >= range.from {
                range.from = after.offset;
                range.open = Some(after.open);
            }
        }
        if let Some(before) = piece.before {
            range.to = range.to.min(before.offset);
        }
        if let Some(ms) = query.since {
            let since = log.since(ms)?;
            if since > range.from {
                (range.from, range.open) = (since, None);
            }
        }
        if let Some(ms) = query.before {
            range.to = range.to.min(log.since(ms)?);
        }
        range.to = range.to.max(log.start());
        range.from = range.from.min(range.to);
        Ok(range)
    }
}

/// The parts of `from..to` to read as lines.
fn spans(log: &Log, query: &Query, wanted: usize, range: (u64, u64), budget: &mut Budget) -> io::Result<Found> {
    let (from, to) = range;
    if query.is_forward {
        return Ok(Found { spans: vec![(from, to)], is_whole: true, ..Found::default() });
    }
    if wanted == 0 {
        return Ok(Found { is_whole: from == to, ..Found::default() });
    }
    if query.is_search() && from == to {
        return Ok(Found { spans: vec![(from, to)], is_whole: true, ..Found::default() }); // what is open stays so
    }
    if query.is_search() {
        return search::search(log, query, wanted, from, to, budget);
    }
    // Two more, because unfinished lines count there and may not be wanted.
    let start = log.tail(to, wanted + 2)?.max(from);
    Ok(Found { spans: vec![(start, to)], is_whole: start == from, ..Found::default() })
}

/// Reads lines and keeps the newest that are wanted, or the first ones.
struct Reader<'a> {
    log: &'a Log,
    query: &'a Query,
    known: &'a Known,
    run: u64,
    /// Lines that have not grown beyond this offset are known.
    after: u64,
    /// So many lines, or matches.
    most: usize,
    assembler: Assembler,
    kept: VecDeque<Line>,
    bytes: usize,
    is_cut: bool,
    /// A line without its beginning was seen.
    lacks_start: bool,
    around: ContextWindow<Line>,
    /// What `around` holds where a forward search goes on.
    primed: Option<ContextWindow<Line>>,
    /// Lines in `kept` that count.
    counted: usize,
    /// Where the next record is, and where the last span began.
    at: u64,
    span_start: u64,
    /// Of which streams there was a record since then.
    has_spoken: [bool; 2],
}

impl<'a> Reader<'a> {
    fn new(log: &'a Log, query: &'a Query, most: usize, piece: &RunSlice, known: &'a Known) -> Reader<'a> {
        Reader {
            log,
            query,
            known,
            run: piece.run.id,
            after: piece.after.map_or(0, |place| place.offset),
            most,
            assembler: Assembler::new(query.stream, query.longest),
            kept: VecDeque::new(),
            bytes: 0,
            is_cut: false,
            lacks_start: false,
            around: ContextWindow::new(query.context),
            primed: None,
            counted: 0,
            at: log.start(),
            span_start: log.start(),
            has_spoken: [false; 2],
        }
    }

    fn read_all(
        &mut self,
        spans: &[(u64, u64)],
        range: &Range,
        looks_back: bool,
        budget: &mut Budget,
    ) -> io::Result<()> {
        self.at = range.from;
        for &(start, end) in spans {
            self.assembler = Assembler::new(self.query.stream, self.query.longest);
            self.around = self.primed.take().unwrap_or_else(|| ContextWindow::new(self.query.context));
            (self.span_start, self.has_spoken) = (start, [false; 2]);
            match range.open.filter(|_| start == range.from) {
                Some(open) => recall(self.log, &mut self.assembler, start, open)?,
                None if looks_back => self.look_back(start, [true; 2])?,
                None => {}
            }
            self.read(start, end, budget)?;
            self.lacks_start |= self.assembler.open().iter().any(|line| line.lacks_start);
        }
        Ok(())
    }

    /// Finds out, for a search that continues after a cursor, what the lines before it mean for its context.
    fn prime(&mut self, range: &Range, piece: &RunSlice) -> io::Result<()> {
        let query = self.query;
        if !query.is_forward || query.grep.is_none() || query.context == 0 || range.open.is_none() {
            return Ok(());
        }
        let since = query.since.map_or(Ok(0), |ms| self.log.since(ms))?;
        let began = query.context_from.as_ref().and_then(|cursor| cursor.place(piece.run.id));
        let floor = since.max(began.map_or(0, |place| place.offset)).max(self.log.start());
        self.primed = Some(context::at(self.log, query, floor, range.from)?);
        Ok(())
    }

    /// Takes over the lines that are open at `at`.
    fn look_back(&mut self, at: u64, streams: [bool; 2]) -> io::Result<()> {
        let mut before = open_before(self.log, self.query, at)?;
        before.keep_open(streams);
        self.assembler.adopt(before);
        Ok(())
    }

    /// At the end of the log: lines that are open there, of a stream of which nothing was read.
    fn look_for_open(&mut self, own_open: [bool; 2]) -> io::Result<()> {
        let open = self.assembler.open_at();
        let missing = [0, 1].map(|s| own_open[s] && !self.has_spoken[s] && open[s].is_none());
        if missing == [false; 2] || self.span_start <= self.log.start() {
            return Ok(());
        }
        self.look_back(self.span_start, missing)
    }

    /// At the place of a cursor to go back from: lines that are open there, of a stream of which nothing was read.
    fn recall_open(&mut self, open: [Option<u64>; 2]) -> io::Result<()> {
        let known = self.assembler.open_at();
        let missing = [0, 1].map(|s| open[s].filter(|_| !self.has_spoken[s] && known[s].is_none()));
        recall(self.log, &mut self.assembler, self.span_start, missing)
    }

    fn read(&mut self, from: u64, to: u64, budget: &mut Budget) -> io::Result<()> {
        let mut scan = Scanner::new(self.log, from, to, self.query.longest + PREFIX_LEN);
        while let Some(raw) = scan.next()? {
            if let Some(record) = record::parse(raw.bytes, self.query.stream) {
                self.has_spoken[record.stream.index()] = true;
            }
            self.at = raw.next;
            let length = raw.bytes.len();
            if let Some(line) = self.assembler.push(&raw) {
                self.lacks_start |= line.lacks_start;
                self.take(line);
                let is_full = self.counted >= self.most || self.bytes >= self.query.most_bytes;
                if self.query.is_forward && is_full {
                    self.is_cut = self.at < to;
                    break;
                }
            }
            // Going back, what takes long has been done by the search.
            if !budget.spend(length) && (self.query.is_forward || budget.is_gone()) {
                self.is_cut = self.at < to;
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, line: Line) {
        if self.query.only.is_some_and(|only| only != line.stream) {
            return;
        }
        let is_match =
            !self.query.is_search() || self.known.tells(&line).unwrap_or_else(|| search::matches(self.query, &line));
        for (line, is_match) in self.around.push(line, is_match) {
            self.keep(line, !is_match);
        }
    }

    fn keep(&mut self, line: Line, is_context: bool) {
        self.bytes += line.text.len();
        self.counted += usize::from(!is_context);
        self.kept.push_back(Line { run: self.run, is_context, ..line });
        if self.query.is_forward {
            return;
        }
        while self.counted > self.most || (self.bytes > self.query.most_bytes && self.kept.len() > 1) {
            self.is_cut = true;
            let Some(gone) = self.kept.pop_front() else { break };
            self.bytes -= gone.text.len();
            self.counted -= usize::from(!gone.is_context);
        }
    }

    /// Lines that are not finished where reading ended, of the streams of which they are to be `shown`, if they have
    /// gone on since the cursor, or were held back there.
    fn open_lines(&self, shown: [bool; 2]) -> Vec<Line> {
        let is_new = |line: &Line| line.last >= self.after || self.query.unfinished != Unfinished::Shown;
        let is_shown = |line: &&Line| shown[line.stream.index()] && is_new(line);
        self.assembler.open().into_iter().filter(is_shown).cloned().collect()
    }

    /// The lines, followed by the `open` ones.
    fn finish(mut self, end: u64, open: Vec<Line>) -> (Vec<Line>, bool) {
        for line in open {
            self.take(Line { last: end, ..line });
        }
        (self.kept.into(), self.is_cut)
    }
}

/// Where the line of a stream begins, if it is among these.
fn begin(lines: &[Line], stream: Stream) -> Option<u64> {
    lines.iter().find(|line| line.stream == stream).map(|line| line.at)
}
