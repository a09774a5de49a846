//! Which lines: the newest of what is asked for, of one run, of several runs of a process one after the other, or of
//! several processes by time. One selection for every door.

use super::cursor::{Cursor, Place};
use super::lines::Line;
use super::pattern::Pattern;
use super::reader::{self, PieceRead};
use super::scope::{Parts, Source};
use super::search::Budget;
use super::unreadable;
use super::wait::Caller;
pub use crate::api::Unfinished;
use crate::error::Error;
use crate::log::Stream;
use crate::log::stamp::format_ms;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

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
    /// Of a search that goes on behind a cursor: no line before this one is context, because the search began here.
    pub context_from: Option<Cursor>,
    /// Longest line, and all lines together, in bytes; the newest are kept.
    pub longest: usize,
    pub most_bytes: usize,
    /// The first lines instead of the newest, so that the cursor lies behind them and nothing is left out.
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
    /// Where searches ended for lack of time, on their way back.
    pub stopped: Vec<(usize, Place)>,
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
            let stopped = self.stopped.iter().find(|(stopped, _)| *stopped == source && number == 0);
            if let Some((_, place)) = stopped {
                return *place; // what lies between has been searched
            }
            let Some(Selected { line, .. }) = self.lines.iter().skip(number).find(own) else { return end };
            let mut place = Place { run: line.run, stream: end.stream, offset: line.last, open: [None; 2] };
            if !line.is_finished {
                // Of two that are open only the second may have found room.
                place.open = end.open;
                let shown = self.lines.iter().skip(number).filter(own);
                shown.for_each(|shown| place.open[shown.line.stream.index()] = None);
            }
            place
        };
        Cursor { places: self.ends.iter().map(place).collect(), known: self.known }
    }
}

/// Selects lines. A search ends early when its `caller` leaves.
pub fn select(parts: &Parts, query: &Query, caller: &dyn Caller) -> Result<Selection, Error> {
    let mut budget = Budget::new(query.deadline, caller);
    let mut selection = Selection { known: parts.known, ..Selection::default() };
    let mut counts = Counts { total: Some(0), later: Some(0) };
    let mut places = Vec::new();
    let mut floor = None;
    for (number, source) in parts.sources.iter().enumerate() {
        let read = read_source(source, query, floor, &mut counts, &mut budget)?;
        selection.gone += read.gone;
        selection.is_cut |= read.is_cut;
        selection.stopped.extend(read.stopped.map(|place| (number, place)));
        if let Some((end, last, is_done)) = read.end {
            selection.ends.push((number, last));
            if !(parts.is_everything && is_done) {
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
    /// Where reading ended, the same for those who go back, and whether nothing can come behind it.
    end: Option<(Place, Place, bool)>,
    stopped: Option<Place>,
}

/// The newest lines of the runs of one process, or its first ones.
fn read_source(
    source: &Source,
    query: &Query,
    floor: Option<u64>,
    counts: &mut Counts,
    budget: &mut Budget,
) -> Result<SourceRead, Error> {
    let mut read = SourceRead { lines: VecDeque::new(), is_cut: false, gone: 0, end: None, stopped: None };
    let mut wanted = query.lines;
    let order: Vec<usize> =
        if query.is_forward { (0..source.pieces.len()).collect() } else { (0..source.pieces.len()).rev().collect() };
    for i in order {
        let piece = &source.pieces[i];
        let is_over = piece.run.is_over();
        let part = reader::read(piece, query, wanted, floor, budget).map_err(|error| unreadable(&piece.run, &error))?;
        let PieceRead { lines, is_cut, end, last, is_at_end, gone, total, later, stopped } = part;
        wanted -= lines.iter().filter(|line| !line.is_context).count().min(wanted);
        read.gone += gone;
        read.is_cut |= is_cut;
        counts.total = counts.total.zip(total).map(|(sum, total)| sum + total);
        counts.later = counts.later.zip(later).map(|(sum, later)| sum + later);
        if query.is_forward {
            read.lines.extend(lines);
            read.end = Some((end, last, is_over && is_at_end));
            if is_cut || wanted == 0 {
                // The next ones come behind the rest of this one.
                read.is_cut = is_cut || i + 1 < source.pieces.len();
                break;
            }
        } else {
            lines.into_iter().rev().for_each(|line| read.lines.push_front(line));
            read.stopped = read.stopped.or(stopped);
            if stopped.is_some() {
                wanted = 0; // an older run comes after the rest of this one
            }
            read.end = read.end.or(Some((end, last, is_over && is_at_end)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::{Part, prefix};
    use crate::log::stamp::Stamper;
    use crate::log::writer::LogWriter;
    use crate::manager::watch::Run;
    use crate::output::scope::Piece;
    use crate::output::tests::{Random, cases};
    use crate::output::wait::Unattended;
    use crate::rundir::{FORMAT_VERSION, Meta, RunDir};
    use std::sync::Arc;

    /// A run whose logs are written here, by chance, and what its lines are.
    struct Sample {
        _directory: tempfile::TempDir,
        run: Arc<Run>,
        logs: [LogWriter; 3],
        stamper: Stamper,
        ms: u64,
        /// In each log the stream, time and size of what a whole line behind it can share the stamp of.
        shared: [Option<(usize, u64, usize)>; 3],
        may_share: bool,
        /// Text so far of the unfinished line of each stream.
        open: [Option<String>; 2],
        finished: Vec<String>,
        number: usize,
    }

    impl Sample {
        fn new(id: u64, cap: u64) -> Sample {
            let directory = tempfile::Builder::new().prefix(&format!("persistproc-query-{id}-")).tempdir().unwrap();
            let dir = directory.path().to_path_buf();
            let log = |stream: Stream| LogWriter::create(dir.join(stream.file_name()), cap).unwrap();
            let meta = Meta {
                version: FORMAT_VERSION,
                argv: Vec::new(),
                working_directory: "/".into(),
                environment: Vec::new(),
                label: "p".into(),
                created: 0,
                previous: None,
                max_log_bytes: cap,
                idempotency_key: None,
                attributes: None,
            };
            Sample {
                _directory: directory,
                logs: Stream::ALL.map(log),
                run: Arc::new(Run::new(id, RunDir(dir), meta)),
                stamper: Stamper::new(),
                ms: 1_767_323_045_678,
                shared: [None; 3],
                may_share: cap == 0, // each record is a write, and a file begins with a stamp
                open: [None, None],
                finished: Vec::new(),
                number: 0,
            }
        }

        /// Writes one record: a line, or a part of one.
        fn write(&mut self, random: &mut Random) {
            let s = random.below(2);
            self.ms += random.below(2) as u64; // many lines share a stamp
            let part = Part::new(self.open[s].is_none(), random.below(3) > 0);
            self.number += 1;
            let text = format!("{}{}", self.number, if random.below(4) == 0 { " match" } else { "" });
            let stamp = *self.stamper.stamp(self.ms);
            let end: &[u8] = if part.ends() { b"\n" } else { b"" };
            let prefixes = [
                (s, if part.begins() { Some(prefix(&stamp, false, Part::Whole)) } else { None }, end),
                (2, Some(prefix(&stamp, s == 1, part)), b"\n"),
            ];
            for (log, prefix, end) in prefixes {
                let shared = self.shared[log].filter(|shared| (shared.0, shared.1) == (s, self.ms) && shared.2 < 4000);
                let shares = shared.filter(|_| self.may_share && part == Part::Whole && random.below(3) > 0);
                let prefix = prefix.filter(|_| shares.is_none());
                let record = [prefix.as_ref().map_or(&[][..], |prefix| prefix), text.as_bytes(), end].concat();
                self.logs[log].append(&record);
                let size = shares.map_or(0, |shared| shared.2) + record.len();
                self.shared[log] = (part == Part::Whole).then_some((s, self.ms, size));
            }
            let line = self.open[s].take().unwrap_or_default() + &text;
            if part.ends() { self.finished.push(line) } else { self.open[s] = Some(line) }
        }

        fn select(&self, cursors: [Option<&Cursor>; 2], query: &Query) -> Selection {
            let [after, before] = cursors.map(|cursor| cursor.map(|cursor| cursor.places[0]));
            let pieces = vec![Piece { run: self.run.clone(), after, before }];
            let parts = Parts {
                sources: vec![Source { label: "p".into(), pieces }],
                known: None,
                is_everything: false,
                gone: vec![],
            };
            select(&parts, query, &Unattended).unwrap()
        }
    }

    fn texts<'a>(lines: impl IntoIterator<Item = &'a Selected>) -> Vec<String> {
        lines.into_iter().map(|selected| String::from_utf8(selected.line.text.clone()).unwrap()).collect()
    }

    fn finished(selection: &Selection) -> Vec<String> {
        texts(selection.lines.iter().filter(|selected| selected.line.is_finished))
    }

    /// All that matches in pages of by chance so many lines, from the end; some pages show fewer than they have.
    fn page_back(sample: &Sample, after: Option<&Cursor>, query: &Query, random: &mut Random) -> Vec<String> {
        let mut pages: Vec<Vec<String>> = Vec::new();
        let mut before: Option<Cursor> = None;
        for _ in 0..5000 {
            let query = Query { lines: 1 + random.below(9), ..query.clone() };
            let selection = sample.select([after, before.as_ref()], &query);
            let most = selection.lines.len().saturating_sub(1);
            let left = if random.below(3) == 0 { random.below(most + 1) } else { 0 };
            pages.push(texts(&selection.lines[left..]));
            if !selection.is_cut && left == 0 {
                pages.reverse();
                return pages.concat();
            }
            before = Some(selection.before_line(left).to_string().parse().unwrap());
        }
        panic!("there is no end");
    }

    #[test]
    fn by_any_cursors_and_pages_every_line_comes_once() {
        let mut random = Random::new(17);
        for round in 0..(cases() / 500).max(20) {
            let mut sample = Sample::new(1000 + round as u64 % 7, 0);
            let (mut cursor, mut seen, mut from): (Option<Cursor>, Vec<String>, Option<Cursor>) = (None, vec![], None);
            let mut start = 0;
            for _ in 0..1 + random.below(120) {
                sample.write(&mut random);
                if random.below(5) == 0 {
                    let lines = if random.below(2) == 0 { 10_000 } else { 1 + random.below(3) };
                    let is_forward = random.below(2) == 0;
                    let unfinished = if is_forward { Unfinished::Held } else { Unfinished::Shown };
                    let query = Query { lines, is_forward, unfinished, ..Query::tail(Stream::Combined, 0) };
                    let selection = sample.select([cursor.as_ref(), None], &query);
                    if lines < 10_000 && !query.is_forward {
                        continue; // only a look
                    }
                    seen.extend(finished(&selection));
                    cursor = Some(selection.cursor.unwrap().to_string().parse().unwrap());
                    if from.is_none() && !query.is_forward {
                        (from, start) = (cursor.clone(), seen.len());
                    }
                }
            }
            let rest = sample.select([cursor.as_ref(), None], &Query::tail(Stream::Combined, 10_000));
            seen.extend(finished(&rest));
            assert_eq!(seen, sample.finished, "round {round}");
            let open: Vec<String> = sample.open.iter().flatten().cloned().collect();
            let mut paged = page_back(&sample, None, &Query::tail(Stream::Combined, 1), &mut random);
            let mut tail = paged.split_off(sample.finished.len());
            tail.sort();
            let mut expected = open.clone();
            expected.sort();
            assert_eq!((paged, tail), (sample.finished.clone(), expected.clone()), "round {round}");
            if from.is_some() {
                let paged = page_back(&sample, from.as_ref(), &Query::tail(Stream::Combined, 1), &mut random);
                let count = sample.finished.len() - start;
                assert_eq!(paged[..count.min(paged.len())], sample.finished[start..], "round {round}");
            }
            let grep = Some(Pattern::parse("match").unwrap());
            // In time, and with no time at all: then each page searches one window.
            for deadline in [Instant::now() + SEARCH * 100, Instant::now()] {
                let query = Query { grep: grep.clone(), deadline, ..Query::tail(Stream::Combined, 1) };
                let mut found = page_back(&sample, None, &query, &mut random);
                let mut all: Vec<String> = sample.finished.iter().chain(&open).cloned().collect();
                all.retain(|line| line.contains("match"));
                found.sort();
                all.sort();
                assert_eq!(found, all, "round {round}");
            }
        }
    }

    #[test]
    fn an_unfinished_line_that_had_no_room_is_on_the_page_before_also_if_its_stream_was_long_silent() {
        let mut sample = Sample::new(4000, 0);
        let stamp = *sample.stamper.stamp(sample.ms);
        let lines = [(1, Part::Whole, "line"); 9];
        for (s, part, text) in
            [(0, Part::First, "question? ")].into_iter().chain(lines).chain([(1, Part::First, "more ")])
        {
            let end: &[u8] = if part.ends() { b"\n" } else { b"" };
            sample.logs[s].append(&[&prefix(&stamp, false, Part::Whole)[..], text.as_bytes(), end].concat());
            sample.logs[2].append(&[&prefix(&stamp, s == 1, part)[..], text.as_bytes(), b"\n"].concat());
        }
        let one = Query::tail(Stream::Combined, 1);
        let newest = sample.select([None, None], &one);
        assert_eq!(texts(&newest.lines), ["more "]);
        let before = sample.select([None, Some(&newest.before_line(0))], &one);
        assert_eq!(texts(&before.lines), ["question? "]);
    }

    #[test]
    fn a_search_that_goes_on_finds_the_same_lines_and_context_as_one_at_the_end() {
        let mut random = Random::new(31);
        for round in 0..(cases() / 100).max(20) {
            let mut sample = Sample::new(3000 + round as u64 % 7, 0);
            let stream = [Stream::Combined, Stream::Stdout][round % 2];
            let grep = Some(Pattern::parse("match").unwrap());
            let context = random.below(5);
            let search = Query { grep, context, unfinished: Unfinished::Held, ..Query::tail(stream, 10_000) };
            (0..random.below(30)).for_each(|_| sample.write(&mut random));
            // From the beginning, or from a cursor, which may lie in the middle of a line.
            let held = Query { unfinished: Unfinished::Held, ..Query::tail(stream, 1) };
            let from = sample.select([None, None], &held).cursor.filter(|_| random.below(2) == 0);
            (0..random.below(20)).for_each(|_| sample.write(&mut random));
            let first = sample.select([from.as_ref(), None], &search);
            let (mut seen, mut cursor) = (texts(&first.lines), first.cursor.unwrap());
            let mut left = random.below(60);
            loop {
                let count = random.below(8).min(left);
                (0..count).for_each(|_| sample.write(&mut random));
                left -= count;
                let lines = if random.below(2) == 0 { 1 + random.below(3) } else { 10_000 };
                let query = Query { is_forward: true, lines, context_from: from.clone(), ..search.clone() };
                let answer = sample.select([Some(&cursor), None], &query);
                seen.extend(texts(&answer.lines));
                cursor = answer.cursor.unwrap().to_string().parse().unwrap();
                if left == 0 && !answer.is_cut {
                    break;
                }
            }
            let whole = sample.select([from.as_ref(), None], &search);
            assert_eq!(seen, texts(&whole.lines), "round {round}, context {context}");
        }
    }

    #[test]
    fn rotation_takes_from_the_front_alone() {
        let mut random = Random::new(23);
        for round in 0..(cases() / 1000).max(10) {
            let mut sample = Sample::new(2000 + round as u64 % 7, 600);
            let mut cursor: Option<Cursor> = None;
            let mut seen: Vec<String> = Vec::new();
            let (mut gone, mut seen_torn) = (0, 0);
            // Lines that were finished and not seen when it was read: at first, and at last.
            let mut unseen: Option<[usize; 2]> = None;
            for _ in 0..200 {
                sample.write(&mut random);
                if random.below(12) == 0 {
                    let selection = sample.select([cursor.as_ref(), None], &Query::tail(Stream::Combined, 10_000));
                    gone += selection.gone;
                    let (torn, whole): (Vec<&Selected>, Vec<&Selected>) =
                        selection.lines.iter().filter(|s| s.line.is_finished).partition(|s| s.line.lacks_start);
                    seen.extend(texts(whole));
                    seen_torn += torn.len();
                    cursor = selection.cursor;
                    let now = sample.finished.len() - seen.len() - seen_torn;
                    unseen = Some([unseen.map_or(now, |[first, _]| first), now]);
                }
            }
            let mut rest = sample.finished.iter();
            assert!(seen.iter().all(|line| rest.any(|other| other == line)), "in order, each once: round {round}");
            assert!(gone > 0 || unseen.is_none_or(|[first, last]| first == last), "round {round}: {unseen:?}");
            let mut paged = page_back(&sample, None, &Query::tail(Stream::Combined, 1), &mut random);
            paged.retain(|line| sample.finished.contains(line));
            let first = sample.finished.iter().position(|line| Some(line) == paged.first()).unwrap();
            let mut kept = sample.finished[first..].iter();
            assert!(paged.len() > 5 && paged.iter().all(|line| kept.any(|other| other == line)), "round {round}");
            let torn = sample.finished.len() - first - paged.len();
            assert!(torn <= 2, "of each stream one line may have lost its beginning: round {round}, {torn}");
        }
    }
}
