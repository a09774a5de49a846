use super::super::cursor::Cursor;
use super::super::pattern::Pattern;
use super::super::query::{SEARCH, Unfinished};
use super::*;
use crate::log::Stream;
use crate::log::record::{Part, prefix};
use crate::log::stamp::Stamper;
use crate::log::writer::LogWriter;
use crate::manager::watch::Run;
use crate::output::caller::Unattended;
use crate::output::scope::RunSlice;
use crate::output::tests::{Random, cases};
use crate::rundir::{FORMAT_VERSION, Meta, RunDir};
use std::sync::Arc;
use std::time::Instant;

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
        let directory = tempfile::tempdir().unwrap();
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
        let pieces = vec![RunSlice { run: self.run.clone(), after, before }];
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
    for (s, part, text) in [(0, Part::First, "question? ")].into_iter().chain(lines).chain([(1, Part::First, "more ")])
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
