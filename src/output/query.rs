//! Which lines are wanted, and what a selection of them is.

use super::cursor::{Cursor, Place};
use super::lines::Line;
use super::pattern::Pattern;
pub use crate::api::Unfinished;
use crate::log::Stream;
use crate::log::stamp::format_ms;
use std::time::{Duration, Instant};

/// What a request wants to read.
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
    /// For a search that continues after a cursor: no line before this one is context, because the search began here.
    pub context_from: Option<Cursor>,
    /// Longest line, and all lines together, in bytes; the newest are kept.
    pub longest: usize,
    pub most_bytes: usize,
    /// The first lines instead of the newest, so that the cursor is after them and nothing is left out.
    pub is_forward: bool,
    pub unfinished: Unfinished,
    /// When a search ends, at the latest: some expressions are slow, and some logs long.
    pub deadline: Instant,
}

/// How long a search may take: less than any client waits.
pub const SEARCH: Duration = Duration::from_secs(10);

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
            context_from: None,
            longest,
            most_bytes,
            is_forward: false,
            unfinished: Unfinished::Shown,
            deadline: Instant::now() + SEARCH,
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
    /// Lines before the first and after the last one shown, in the runs that were read, where counting them is cheap.
    pub before: Option<u64>,
    pub after: Option<u64>,
    /// Where to go on.
    pub cursor: Option<Cursor>,
    /// Bytes between the cursor of the query and what is still kept.
    pub gone: u64,
    /// Lines that were asked for were left out because of `lines` or `most_bytes`.
    pub is_cut: bool,
    /// Where reading ended, of each source that has something.
    pub ends: Vec<(usize, Place)>,
    /// Where searches ended for lack of time, on their way back.
    pub stopped: Vec<(usize, Place)>,
    pub known: Option<u64>,
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
            let stopped = self.stopped.iter().find(|(stopped, _)| *stopped == source && number == 0);
            if let Some((_, place)) = stopped {
                return *place; // what lies between has been searched
            }
            let Some(Selected { line, .. }) = self.lines.iter().skip(number).find(own) else { return end };
            let mut place = Place { run: line.run, stream: end.stream, offset: line.last, open: [None; 2] };
            if !line.is_finished {
                // Of two open ones perhaps only the second was shown.
                place.open = end.open;
                let shown = self.lines.iter().skip(number).filter(own);
                shown.for_each(|shown| place.open[shown.line.stream.index()] = None);
            }
            place
        };
        Cursor { places: self.ends.iter().map(place).collect(), known: self.known }
    }
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
