//! Which lines: the newest of a range, found without reading what is not returned.
//!
//! A range is bounded by a cursor, by times, and by what is kept. Without `grep` the last lines are found from the end;
//! with it the log is searched from the end, window by window, until there are enough.

use super::cursor::Cursor;
use super::lines::{Assembler, Line};
use super::view;
use crate::log::Stream;
use crate::log::read::Log;
use crate::log::scan::Scan;
use crate::log::stamp::format_ms;
use crate::manager::watch::Run;
use regex_lite::Regex;
use std::collections::VecDeque;
use std::io;

/// How far a search for `grep` goes back at a time, in bytes.
const WINDOW: u64 = 1 << 20;
/// Lines behind the newest that is shown are counted only up to this many bytes.
const COUNTED: u64 = 64 << 20;
/// A line that is not finished is looked up again only this far back, in bytes.
const REACH: u64 = 1 << 20;

/// What somebody wants to read.
#[derive(Clone, Debug)]
pub struct Query {
    pub stream: Stream,
    /// Of `combined`, only the lines of this stream: slower than reading its own log, but with a cursor for both.
    pub only: Option<Stream>,
    /// The newest so many.
    pub lines: usize,
    /// Not older than this, and older than this; milliseconds since 1970.
    pub since: Option<u64>,
    pub before: Option<u64>,
    pub after: Option<Cursor>,
    pub grep: Option<Regex>,
    /// Lines around each that `grep` finds.
    pub context: usize,
    /// Longest line, and all lines together, in bytes; the newest are kept.
    pub longest: usize,
    pub most_bytes: usize,
}

impl Query {
    /// Whether lines must be looked at one by one to know which are meant.
    fn is_search(&self) -> bool {
        self.grep.is_some() || self.only.is_some()
    }

    /// The last `lines` of `stream`, and nothing else asked for.
    pub fn tail(stream: Stream, lines: usize) -> Query {
        let (longest, most_bytes) = (1 << 20, 16 << 20);
        Query {
            stream,
            only: None,
            lines,
            since: None,
            before: None,
            after: None,
            grep: None,
            context: 0,
            longest,
            most_bytes,
        }
    }
}

/// What there is to read.
#[derive(Debug)]
pub struct Selection {
    /// Oldest first; unfinished ones last.
    pub lines: Vec<Line>,
    /// Lines of the run before the first and behind the last one shown, as far as they can be told cheaply.
    pub before: Option<u64>,
    pub after: Option<u64>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Bytes between the cursor of the query and what is still kept.
    pub gone: u64,
    /// Lines of the range that were left out because of `lines` or `most_bytes`.
    pub is_cut: bool,
}

/// Selects lines of one run. `after`, if there is one, must be a cursor of this run.
pub fn select(run: &Run, query: &Query) -> io::Result<Selection> {
    // Taken before the log, so that it is never ahead of it.
    let status = run.status();
    let log = Log::open(run.dir.path(), query.stream)?;
    let range = Range::of(&log, query)?;
    let mut reader = Reader::new(&log, query);
    let start = if query.is_search() {
        search_start(&log, query, &range)?
    } else {
        log.tail(range.to, query.lines)?.max(range.from)
    };
    if start == range.from {
        reader.recall(&range, query.after.as_ref())?;
    }
    reader.read(start, range.to)?;
    let open = reader.assembler.open_at();
    let (lines, was_cut) = reader.finish(range.to == log.end());
    let is_cut = was_cut || start > range.from;
    let cursor = Cursor { run: run.id, stream: query.stream, offset: range.to, open };
    let mut selection = Selection { lines, before: None, after: None, cursor, gone: range.gone, is_cut };
    if !query.is_search() {
        let i = query.stream.index();
        selection.after = count(&log, range.to, log.end())?;
        let total = count(&log, status.bytes[i], log.end())?.map(|recent| recent + status.lines[i]);
        let shown = selection.lines.iter().filter(|line| line.at >= range.from || !line.lacks_start).count() as u64;
        selection.before = total.zip(selection.after).map(|(total, after)| total.saturating_sub(after + shown));
    }
    Ok(selection)
}

/// Lines in `from..to`, if that is not too much to read for a number.
fn count(log: &Log, from: u64, to: u64) -> io::Result<Option<u64>> {
    if to.saturating_sub(from) > COUNTED { Ok(None) } else { log.count_lines(from, to).map(Some) }
}

/// The range of offsets that a query allows.
struct Range {
    from: u64,
    to: u64,
    gone: u64,
}

impl Range {
    fn of(log: &Log, query: &Query) -> io::Result<Range> {
        let mut range = Range { from: log.start(), to: log.end(), gone: 0 };
        if let Some(after) = query.after {
            range.gone = log.start().saturating_sub(after.offset);
            range.from = range.from.max(after.offset);
        }
        if let Some(ms) = query.since {
            range.from = range.from.max(log.since(ms)?);
        }
        if let Some(ms) = query.before {
            range.to = range.to.min(log.since(ms)?);
        }
        range.to = range.to.max(range.from.min(log.end()));
        range.from = range.from.min(range.to);
        Ok(range)
    }
}

/// Where to begin reading so that the last `lines` matches, and their context, are among what is read.
fn search_start(log: &Log, query: &Query, range: &Range) -> io::Result<u64> {
    let (mut start, mut found) = (range.to, 0);
    while start > range.from && found < query.lines {
        let end = start;
        start = log.line_start(end.saturating_sub(WINDOW).max(range.from), range.from)?;
        let mut scan = Scan::new(log, start, end, query.longest);
        let mut assembler = Assembler::new(query.stream, query.longest);
        while let Some(raw) = scan.next()? {
            found += usize::from(assembler.push(&raw).is_some_and(|line| matches(query, &line)));
        }
    }
    log.tail(start, query.context).map(|at| at.max(range.from))
}

fn matches(query: &Query, line: &Line) -> bool {
    // People search for what they see, so colours do not count.
    query.only.is_none_or(|only| only == line.stream)
        && query.grep.as_ref().is_none_or(|grep| grep.is_match(&view::clean(&line.text)))
}

/// Reads lines and keeps the newest that are wanted.
struct Reader<'a> {
    log: &'a Log,
    query: &'a Query,
    assembler: Assembler,
    kept: VecDeque<Line>,
    bytes: usize,
    is_cut: bool,
    /// With `grep`: the lines before the present one, and how many behind a match are still wanted.
    context: VecDeque<Line>,
    wanted: usize,
    /// Matches among `kept`, oldest first, as numbers of lines.
    matched: VecDeque<u64>,
    /// Number of the first line in `kept`.
    first: u64,
}

impl<'a> Reader<'a> {
    fn new(log: &'a Log, query: &'a Query) -> Reader<'a> {
        Reader {
            log,
            query,
            assembler: Assembler::new(query.stream, query.longest),
            kept: VecDeque::new(),
            bytes: 0,
            is_cut: false,
            context: VecDeque::new(),
            wanted: 0,
            matched: VecDeque::new(),
            first: 0,
        }
    }

    /// Reads again the parts before the cursor of lines that were unfinished there.
    fn recall(&mut self, range: &Range, after: Option<&Cursor>) -> io::Result<()> {
        let Some(after) = after else { return Ok(()) };
        for (s, at) in after.open.iter().enumerate() {
            let Some(at) = at.filter(|at| *at >= self.log.start()) else { continue };
            let mut scan = Scan::new(self.log, at, range.from.min(at + REACH), self.query.longest);
            let mut own = Assembler::new(self.query.stream, self.query.longest);
            while let Some(raw) = scan.next()? {
                let is_own =
                    crate::log::record::parse(raw.bytes, self.query.stream).is_none_or(|r| r.stream.index() == s);
                if is_own {
                    own.push(&raw);
                }
            }
            self.assembler.adopt(own);
        }
        Ok(())
    }

    fn read(&mut self, from: u64, to: u64) -> io::Result<()> {
        let mut scan = Scan::new(self.log, from, to, self.query.longest + crate::log::record::PREFIX);
        while let Some(raw) = scan.next()? {
            if let Some(line) = self.assembler.push(&raw) {
                self.take(line);
            }
        }
        Ok(())
    }

    fn take(&mut self, line: Line) {
        if !self.query.is_search() {
            return self.keep(line, true);
        }
        if matches(self.query, &line) {
            for before in std::mem::take(&mut self.context) {
                self.keep(before, false);
            }
            self.keep(line, true);
            self.wanted = self.query.context;
        } else if self.wanted > 0 {
            self.wanted -= 1;
            self.keep(line, false);
        } else if self.query.context > 0 {
            if self.context.len() == self.query.context {
                self.context.pop_front();
            }
            self.context.push_back(line);
        }
    }

    /// Keeps a line; `counts` says that it is one of the `lines` that were asked for.
    fn keep(&mut self, line: Line, counts: bool) {
        self.bytes += line.text.len();
        if counts {
            self.matched.push_back(self.first + self.kept.len() as u64);
        }
        self.kept.push_back(line);
        while self.matched.len() > self.query.lines || (self.bytes > self.query.most_bytes && self.kept.len() > 1) {
            self.is_cut = true;
            let Some(gone) = self.kept.pop_front() else { break };
            self.bytes -= gone.text.len();
            if self.matched.front() == Some(&self.first) {
                self.matched.pop_front();
            }
            self.first += 1;
        }
    }

    /// The lines, with those that are not finished at the end of the log behind them.
    fn finish(mut self, is_end: bool) -> (Vec<Line>, bool) {
        if is_end {
            let open: Vec<Line> = self.assembler.open().into_iter().cloned().collect();
            open.into_iter().for_each(|line| self.take(line));
        }
        (self.kept.into(), self.is_cut)
    }
}

/// Lines as people and files get them: `STAMP text`, the bytes as the child wrote them.
pub fn stamped(lines: &[Line]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        out.extend_from_slice(&stamped_line(line));
        out.push(b'\n');
    }
    out
}

/// One of them, without a newline.
pub fn stamped_line(line: &Line) -> Vec<u8> {
    let mut out = format_ms(line.ms).into_bytes();
    out.extend_from_slice(if line.lacks_start { " …".as_bytes() } else { b" " });
    out.extend_from_slice(&line.text);
    if line.cut > 0 {
        out.extend_from_slice(format!("… [{} more bytes]", line.cut).as_bytes());
    }
    out
}
