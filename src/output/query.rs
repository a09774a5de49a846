//! Which lines: the newest of what is asked for, of one run, of several runs of a process one after the other, or of
//! several processes by time. One selection for every door.

use super::cursor::{Cursor, Place};
use super::lines::Line;
use super::pattern::Pattern;
use super::reader::{self, PieceRead};
use super::scope::{Parts, Source};
use super::wait::unreadable;
use crate::fault::Fault;
use crate::log::Stream;
use crate::log::stamp::format_ms;
use std::collections::VecDeque;

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
    pub grep: Option<Pattern>,
    /// Lines around each that `grep` finds.
    pub context: usize,
    /// Longest line, and all lines together, in bytes; the newest are kept.
    pub longest: usize,
    pub most_bytes: usize,
    /// The first lines instead of the newest, so that the cursor lies behind them and nothing is left out.
    pub is_forward: bool,
}

impl Query {
    /// Whether lines must be looked at one by one to know which are meant.
    pub fn is_search(&self) -> bool {
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
            grep: None,
            context: 0,
            longest,
            most_bytes,
            is_forward: false,
        }
    }
}

/// A line, and whose it is.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Number of its source among those that were read.
    pub source: usize,
    pub line: Line,
}

/// What there is to read.
#[derive(Debug, Default)]
pub struct Selection {
    /// In the order of time, unfinished ones last.
    pub lines: Vec<Selected>,
    /// Lines before the first and behind the last one shown, in the runs that were read, as far as they can be told
    /// cheaply.
    pub before: Option<u64>,
    pub after: Option<u64>,
    /// Where to go on.
    pub cursor: Option<Cursor>,
    /// Bytes between the cursor of the query and what is still kept.
    pub gone: u64,
    /// Lines that were asked for were left out because of `lines` or `most_bytes`.
    pub is_cut: bool,
    /// Where reading ended, of each source that has something.
    ends: Vec<(usize, Place)>,
    known: Option<u64>,
}

impl Selection {
    /// Whose line the last one is, if it is not finished.
    pub fn open_stream(&self) -> Option<Stream> {
        self.lines.last().filter(|selected| !selected.line.is_finished).map(|selected| selected.line.stream)
    }

    /// The place before the line of this number: what to read to see what came before it.
    pub fn before_line(&self, number: usize) -> Cursor {
        let place = |&(source, end): &(usize, Place)| {
            let own = |line: &&Selected| line.source == source;
            let Some(Selected { line, .. }) = self.lines.iter().skip(number).find(own) else { return end };
            let mut place = Place { run: line.run, stream: end.stream, offset: line.last, open: [None; 2] };
            if !line.is_finished {
                // Of two that are open at the end only the second may have found room.
                let left = self.lines.iter().take(number).filter(own).filter(|left| !left.line.is_finished);
                left.for_each(|left| place.open[left.line.stream.index()] = Some(left.line.at));
            }
            place
        };
        Cursor { places: self.ends.iter().map(place).collect(), known: self.known }
    }
}

/// Selects lines.
pub fn select(parts: &Parts, query: &Query) -> Result<Selection, Fault> {
    let mut selection = Selection { known: parts.known, ..Selection::default() };
    let mut counts = Counts { total: Some(0), later: Some(0) };
    let mut places = Vec::new();
    let mut floor = None;
    for (number, source) in parts.sources.iter().enumerate() {
        let read = read_source(source, query, floor, &mut counts)?;
        selection.gone += read.gone;
        selection.is_cut |= read.is_cut;
        if let Some((end, is_done)) = read.end {
            selection.ends.push((number, end));
            if parts.known.is_none() || !is_done {
                places.push(end);
            }
        }
        let lines = read.lines.into_iter().map(|line| Selected { source: number, line }).collect();
        merge(&mut selection.lines, lines);
        if !query.is_forward {
            floor = trim(&mut selection, query);
        }
    }
    selection.cursor = (parts.known.is_some() || !places.is_empty()).then_some(Cursor { places, known: parts.known });
    let shown = selection.lines.iter().filter(|selected| !selected.line.lacks_start).count() as u64;
    selection.after = counts.later;
    selection.before = counts
        .total
        .zip(counts.later)
        .filter(|_| !query.is_search())
        .map(|(total, later)| total.saturating_sub(later + shown));
    Ok(selection)
}

struct Counts {
    total: Option<u64>,
    later: Option<u64>,
}

struct SourceRead {
    lines: VecDeque<Line>,
    is_cut: bool,
    gone: u64,
    /// Where reading ended, and whether nothing can come behind it.
    end: Option<(Place, bool)>,
}

/// The newest lines of the runs of one process, or its first ones.
fn read_source(source: &Source, query: &Query, floor: Option<u64>, counts: &mut Counts) -> Result<SourceRead, Fault> {
    let mut read = SourceRead { lines: VecDeque::new(), is_cut: false, gone: 0, end: None };
    let mut wanted = query.lines;
    let order: Vec<usize> =
        if query.is_forward { (0..source.pieces.len()).collect() } else { (0..source.pieces.len()).rev().collect() };
    for i in order {
        let piece = &source.pieces[i];
        let is_over = piece.run.is_over();
        let part = reader::read(piece, query, wanted, floor).map_err(|error| unreadable(&piece.run, &error))?;
        let PieceRead { lines, is_cut, end, is_at_end, gone, total, later } = part;
        wanted -= lines.iter().filter(|line| !line.is_context).count().min(wanted);
        read.gone += gone;
        read.is_cut |= is_cut;
        counts.total = counts.total.zip(total).map(|(sum, total)| sum + total);
        counts.later = counts.later.zip(later).map(|(sum, later)| sum + later);
        if query.is_forward {
            read.lines.extend(lines);
            read.end = Some((end, is_over && is_at_end));
            if is_cut || wanted == 0 {
                // The next ones come behind the rest of this one.
                read.is_cut = is_cut || i + 1 < source.pieces.len();
                break;
            }
        } else {
            lines.into_iter().rev().for_each(|line| read.lines.push_front(line));
            read.end = read.end.or(Some((end, is_over && is_at_end)));
        }
    }
    Ok(read)
}

/// Puts lines of another source among those that there are, by time; the order within a source stays.
fn merge(lines: &mut Vec<Selected>, others: Vec<Selected>) {
    if lines.is_empty() {
        *lines = others;
        return;
    }
    let mut ours = std::mem::take(lines).into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let next = match (ours.peek(), others.peek()) {
            (Some(own), Some(other)) if other.line.ms < own.line.ms => others.next(),
            (Some(_), _) => ours.next(),
            (None, _) => others.next(),
        };
        match next {
            Some(line) => lines.push(line),
            None => return,
        }
    }
}

/// Keeps the newest; once there are enough, the time before which nothing is among them.
fn trim(selection: &mut Selection, query: &Query) -> Option<u64> {
    let counts = |selected: &Selected| usize::from(!selected.line.is_context);
    let mut counted: usize = selection.lines.iter().map(counts).sum();
    let mut bytes: usize = selection.lines.iter().map(|selected| selected.line.text.len()).sum();
    let mut surplus = 0;
    for selected in &selection.lines {
        if counted <= query.lines && (bytes <= query.most_bytes || surplus + 1 == selection.lines.len()) {
            break;
        }
        counted -= counts(selected);
        bytes -= selected.line.text.len();
        surplus += 1;
    }
    selection.is_cut |= surplus > 0;
    selection.lines.drain(..surplus);
    let first = selection.lines.first().filter(|_| counted >= query.lines)?;
    Some(first.line.ms)
}

/// Lines as people and files get them: `STAMP text`, the bytes as the child wrote them; of several processes
/// `STAMP name: text`.
pub fn stamped(selection: &Selection, names: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for selected in &selection.lines {
        out.extend_from_slice(&stamped_line(selected, names));
        out.push(b'\n');
    }
    out
}

/// One of them, without a newline.
pub fn stamped_line(selected: &Selected, names: &[String]) -> Vec<u8> {
    let line = &selected.line;
    let mut out = format_ms(line.ms).into_bytes();
    out.push(b' ');
    if let Some(name) = names.get(selected.source) {
        out.extend_from_slice(format!("{name}: ").as_bytes());
    }
    if line.lacks_start {
        out.extend_from_slice("…".as_bytes());
    }
    out.extend_from_slice(&line.text);
    if line.cut > 0 {
        out.extend_from_slice(format!("… [{} more bytes]", line.cut).as_bytes());
    }
    out
}
