//! Pipes → records → files. Knows no processes and never waits: the shim's loop polls the descriptors, this reads.
//!
//! Bytes stay bytes. Per read of up to 64 KiB there is one time (what was read together arrived together) and one write
//! per file. The lines of a large read share stamps, those of a small one have one each, as people like to see them. A line
//! of any length is written as it comes; only a line that is still open is held back, for `PARTIAL_LINE_TIMEOUT` or until it is long, so
//! that lines written in pieces stay whole and a prompt is visible all the same.
//! When a file cannot be written, or must not be rotated yet because a reader needs what would go (see
//! [`readers`](super::readers)), nothing more is read: the child waits on its pipe, and nothing is lost.

use super::batch::Batch;
use super::readers::Readers;
use super::source::{PIPE_CAPACITY, Source};
use crate::log::Stream;
use crate::log::record::{MAX_SHARED_SPAN, PREFIX_LEN, Part};
use crate::log::stamp::{STAMP_LEN, Stamper, now_ms};
use crate::log::writer::LogWriter;
use crate::sys;
use memchr::{memchr, memchr_iter, memrchr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// As much as a pipe holds.
const READ_SIZE: usize = PIPE_CAPACITY;
/// From this many bytes on a read is large: the child is writing faster than a person reads.
const LARGE_READ: usize = 4 << 10;
/// How long an unfinished line is held back in the hope of its end.
const PARTIAL_LINE_TIMEOUT: Duration = Duration::from_millis(150);
/// After this much silence the buffers of a burst are given back: a shim may then sleep for days.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a write that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

const STDERR: usize = Stream::Stderr as usize;
const COMBINED: usize = Stream::Combined as usize;

pub struct Capture {
    sources: [Source; 2],
    /// Of stdout and stderr. The first one is `None` as long as it is the same file as `combined.log`.
    own: [Option<LogWriter>; 2],
    combined: LogWriter,
    /// Batches that must wait until `stdout.log` is a file of its own, and why it is not yet.
    waiting: Vec<(usize, Batch)>,
    refused: Option<io::Error>,
    /// Those who read `combined.log` while it is written.
    readers: Readers,
    is_ending: bool,
    /// Lines of the child begun in each log.
    lines: [u64; 3],
    buffer: Vec<u8>,
    batch: Batch,
    stamper: Stamper,
    /// Milliseconds since 1970, from a clock that may be set.
    clock: fn() -> u64,
    last_ms: u64,
    /// When the last large read was, until the buffers are given back.
    busy_since: Option<Instant>,
    lost: u64,
}

impl Capture {
    /// Creates the three logs; `cap` is the size of a file at which it is rotated, in bytes, 0 for never. `readers` are
    /// waited for before that.
    pub fn create(dir: &Path, cap: u64, readers: Readers) -> io::Result<Capture> {
        let log = |stream: Stream| LogWriter::create(dir.join(stream.file_name()), cap);
        let mut combined = log(Stream::Combined)?;
        let is_shared = combined.share_with(dir.join(Stream::Stdout.file_name()));
        let stdout = if is_shared { None } else { Some(log(Stream::Stdout)?) };
        Ok(Capture {
            sources: Default::default(),
            own: [stdout, Some(log(Stream::Stderr)?)],
            combined,
            waiting: Vec::new(),
            refused: None,
            readers,
            is_ending: false,
            lines: [0; 3],
            buffer: Vec::new(),
            batch: Batch::default(),
            stamper: Stamper::new(),
            clock: now_ms,
            last_ms: 0,
            busy_since: None,
            lost: 0,
        })
    }

    /// Takes over the reading ends of the child's stdout and stderr.
    pub fn attach(&mut self, pipes: [File; 2]) -> io::Result<()> {
        for (source, pipe) in self.sources.iter_mut().zip(pipes) {
            sys::set_nonblocking(&pipe, true)?; // ours alone: the child's end is another open file
            source.pipe = Some(pipe);
        }
        self.buffer = vec![0; READ_SIZE];
        Ok(())
    }

    /// Begins logs anew that were removed.
    pub fn recreate_replaced_logs(&mut self) {
        self.logs_mut().for_each(LogWriter::recreate_if_replaced);
    }

    /// What to poll; -1 for a stream that has ended, and for both while a log cannot be written.
    pub fn fds(&self) -> [RawFd; 2] {
        let stalled = self.is_stalled();
        std::array::from_fn(|s| self.sources[s].pipe.as_ref().filter(|_| !stalled).map_or(-1, AsRawFd::as_raw_fd))
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_stalled() {
            let disk = self.is_refused().then(|| Instant::now() + RETRY_INTERVAL);
            // Should neither be known, it is tried again all the same: what waits must never wait for nothing.
            return [disk, self.readers.deadline()]
                .into_iter()
                .flatten()
                .min()
                .or(Some(Instant::now() + RETRY_INTERVAL));
        }
        let prompt =
            self.sources.iter().filter_map(|source| source.held_since).min().map(|since| since + PARTIAL_LINE_TIMEOUT);
        [prompt, self.busy_since.map(|since| since + IDLE_TIMEOUT)].into_iter().flatten().min()
    }

    /// Whether something waits to be written.
    pub fn is_stalled(&self) -> bool {
        !self.waiting.is_empty() || self.logs().any(LogWriter::is_stalled)
    }
    /// Whether that is because the disk refused it, and not for a reader.
    fn is_refused(&self) -> bool {
        !self.waiting.is_empty() || self.logs().any(LogWriter::has_failed)
    }

    fn logs(&self) -> impl Iterator<Item = &LogWriter> {
        self.own.iter().flatten().chain([&self.combined])
    }
    fn logs_mut(&mut self) -> impl Iterator<Item = &mut LogWriter> {
        self.own.iter_mut().flatten().chain([&mut self.combined])
    }

    /// Sizes of the logs since the start of the run, in bytes.
    pub fn bytes(&self) -> [u64; 3] {
        let end = |log: &Option<LogWriter>| log.as_ref().unwrap_or(&self.combined).end();
        [end(&self.own[0]), end(&self.own[1]), self.combined.end()]
    }
    pub fn lines(&self) -> [u64; 3] {
        self.lines
    }
    /// Bytes of the child that had to be dropped.
    pub fn lost(&self) -> u64 {
        self.lost
    }
    /// What holds up capturing.
    pub fn trouble(&self) -> Option<String> {
        let refused = self.refused.as_ref().map(io::Error::to_string);
        refused.or_else(|| self.logs().find_map(LogWriter::io_error)).or_else(|| self.readers.trouble())
    }
    /// What is wrong although capturing goes on.
    pub fn warning(&self) -> Option<String> {
        self.logs().find_map(LogWriter::warning).map(String::from)
    }

    /// The run is to be stopped: its readers are not waited for long.
    pub fn hurry_readers(&mut self) {
        self.readers.hurry();
    }

    /// Nothing can be written any more but what is in the pipes: that waits for no reader.
    pub fn wait_for_no_reader(&mut self) {
        self.is_ending = true;
    }

    /// One read of stream `s`. True if a log may have grown, or the stream ended.
    pub fn read(&mut self, s: usize) -> bool {
        self.read_some(s).is_some()
    }

    /// The same: how many bytes it got, 0 at the end of the stream, `None` if there is nothing now.
    fn read_some(&mut self, s: usize) -> Option<usize> {
        let pipe = self.sources[s].pipe.as_mut()?;
        match pipe.read(&mut self.buffer) {
            Ok(n) if n > 0 => {
                let buffer = std::mem::take(&mut self.buffer);
                self.feed(s, &buffer[..n]);
                self.buffer = buffer;
                if n >= LARGE_READ {
                    self.busy_since = Some(Instant::now());
                    self.sources[s].note_flood(n);
                }
                Some(n)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            Ok(_) | Err(_) => {
                self.sources[s].pipe = None;
                Some(0)
            }
        }
    }

    /// Does what is due: writes that failed, prompts that waited long enough, buffers of a burst that is over. True if a
    /// log may have grown.
    pub fn tick(&mut self) -> bool {
        let before = self.combined.end();
        self.retry();
        for s in 0..2 {
            if self.sources[s].held_since.is_some_and(|since| since.elapsed() >= PARTIAL_LINE_TIMEOUT) {
                self.release(s);
            }
        }
        if self.busy_since.is_some_and(|since| since.elapsed() >= IDLE_TIMEOUT) {
            self.shrink();
        }
        self.combined.end() != before
    }

    /// Writes what could not be written, if it can be now.
    fn retry(&mut self) {
        if self.combined.is_stalled() && !self.is_read_yet(0) {
            self.combined.retry();
        }
        self.own.iter_mut().flatten().filter(|log| log.is_stalled()).for_each(LogWriter::retry);
        if !self.waiting.is_empty() && self.unshare_stdout() {
            for (s, mut batch) in std::mem::take(&mut self.waiting) {
                self.write(&mut batch, s);
            }
        }
    }

    /// Makes `stdout.log` a file of its own. False if there is no room for that.
    fn unshare_stdout(&mut self) -> bool {
        match self.combined.unshare() {
            Ok(stdout) => {
                self.own[0] = self.own[0].take().or(stdout);
                self.own[0].iter_mut().for_each(LogWriter::retry); // it need not wait for readers of the other one
                self.refused = None;
            }
            Err(error) => self.refused = Some(error),
        }
        self.own[0].is_some()
    }

    /// Whether `combined.log` would have to be rotated for `more` bytes, and a reader still needs what would go. At the end
    /// it rather grows.
    fn is_read_yet(&mut self, more: usize) -> bool {
        let is_needed = self.combined.must_rotate(more) && self.readers.need(self.combined.start());
        if is_needed && self.is_ending {
            self.combined.lift_cap();
        }
        is_needed && !self.is_ending
    }

    /// Reads what has been written up to now, without waiting, and lets go of unfinished lines. How much that is is asked
    /// for before: a flood is not waited for, and how many reads it takes is the choice of the program, which may
    /// have made the pipe larger, or one of packets (`O_DIRECT`).
    pub fn drain(&mut self) {
        for s in 0..2 {
            let mut left = self.unread(s);
            while !self.is_stalled() {
                // One read more than that sees the end.
                match self.read_some(s) {
                    Some(n) if n > 0 && n <= left => left -= n,
                    _ => break,
                }
            }
            if !self.is_stalled() {
                self.release(s);
            }
        }
    }

    fn unread(&self, s: usize) -> usize {
        self.sources[s].pipe.as_ref().map_or(0, sys::unread)
    }

    /// The end, with the disk still full: counts what is missing instead of waiting for ever.
    pub fn give_up(&mut self) {
        if !self.is_stalled() {
            return;
        }
        for source in &mut self.sources {
            self.lost += source.held.len() as u64;
            self.lost += source.pipe.as_ref().map_or(0, sys::unread) as u64;
        }
        self.lost += self.combined.discard_unwritten();
        self.lost += self.waiting.drain(..).map(|(_, batch)| batch.combined.len() as u64).sum::<u64>();
    }

    fn shrink(&mut self) {
        self.busy_since = None;
        self.batch = Batch::default();
        for source in &mut self.sources {
            source.held.shrink_to_fit();
            source.end_flood();
        }
        // Anew, so that it does not lie above freed memory.
        self.buffer = Vec::new();
        self.buffer = vec![0; READ_SIZE];
        sys::trim_heap();
    }

    fn feed(&mut self, s: usize, bytes: &[u8]) {
        let stamp = self.stamp();
        let mut batch = std::mem::take(&mut self.batch);
        let mut begin = 0;
        if !self.sources[s].is_between_lines()
            && let Some(newline) = memchr(b'\n', bytes)
        {
            self.push(&mut batch, s, &stamp, &bytes[..newline], true);
            begin = newline + 1;
        }
        if self.sources[s].is_between_lines()
            && let Some(newline) = memrchr(b'\n', &bytes[begin..])
        {
            let lines = &bytes[begin..=begin + newline];
            self.push_lines(&mut batch, s, &stamp, lines, bytes.len() >= LARGE_READ);
            begin += newline + 1;
        }
        self.write(&mut batch, s);
        self.batch = batch;
        let rest = &bytes[begin..];
        if !rest.is_empty() {
            let source = &mut self.sources[s];
            source.held.extend_from_slice(rest);
            source.held_since.get_or_insert_with(Instant::now);
            if source.held.len() >= READ_SIZE {
                self.release(s);
            }
        }
    }

    /// Lets the held part of an unfinished line go.
    fn release(&mut self, s: usize) {
        if self.sources[s].held.is_empty() {
            return;
        }
        let stamp = self.stamp();
        let mut batch = std::mem::take(&mut self.batch);
        self.push(&mut batch, s, &stamp, b"", false);
        self.write(&mut batch, s);
        self.batch = batch;
    }

    fn push_lines(&mut self, batch: &mut Batch, s: usize, stamp: &[u8; STAMP_LEN], lines: &[u8], is_large: bool) {
        let count = memchr_iter(b'\n', lines).count() as u64;
        self.lines[s] += count;
        self.lines[COMBINED] += count;
        batch.add_lines(s == STDERR, stamp, lines, if is_large { MAX_SHARED_SPAN - PREFIX_LEN } else { 0 });
    }

    /// Puts what is held and `text` into the batch: the rest of a line, or with `ends` false a part of it.
    fn push(&mut self, batch: &mut Batch, s: usize, stamp: &[u8; STAMP_LEN], text: &[u8], ends: bool) {
        let source = &mut self.sources[s];
        let part = Part::new(!source.mid_line, ends);
        if part.begins() {
            self.lines[s] += 1;
            self.lines[COMBINED] += 1;
        }
        batch.add_part(s == STDERR, stamp, part, [&source.held, text]);
        source.held.clear();
        source.held_since = None;
        source.mid_line = !ends;
    }

    fn write(&mut self, batch: &mut Batch, s: usize) {
        if batch.combined.is_empty() {
            return;
        }
        let is_same = s != STDERR && !batch.is_split;
        if self.own[0].is_none() && !is_same && (!self.waiting.is_empty() || !self.unshare_stdout())
            || !self.waiting.is_empty()
        {
            return self.waiting.push((s, std::mem::take(batch)));
        }
        if let Some(own) = &mut self.own[s] {
            own.append(batch.own());
        }
        if self.is_read_yet(batch.combined.len()) {
            self.combined.defer(&batch.combined);
        } else {
            if self.combined.is_stalled() {
                self.combined.retry(); // what a reader needed room for until now
            }
            self.combined.append(&batch.combined);
        }
        batch.clear();
    }

    /// One clock reading per batch. Never goes back, so that a file can be searched by time.
    fn stamp(&mut self) -> [u8; STAMP_LEN] {
        self.last_ms = self.last_ms.max((self.clock)());
        *self.stamper.stamp(self.last_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Lease, ReaderKind};
    use crate::log::read::Log;
    use crate::log::record;
    use crate::log::scan::Scanner;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// What a child may print, and looks like a record.
    const STAMPED: &[u8] = b"2026-01-02T03:04:05.678z>x\n";

    struct Rig {
        dir: PathBuf,
        capture: Capture,
        ends: [Option<io::PipeWriter>; 2],
    }
    impl Rig {
        fn new(name: &str, cap: u64) -> Rig {
            let dir = std::env::temp_dir().join(format!("persistproc-capture-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).unwrap();
            let mut capture = Capture::create(&dir, cap, Readers::new(dir.clone(), 1)).unwrap();
            let (out, out_end) = io::pipe().unwrap();
            let (err, err_end) = io::pipe().unwrap();
            capture.attach([File::from(OwnedFd::from(out)), File::from(OwnedFd::from(err))]).unwrap();
            Rig { dir, capture, ends: [Some(out_end), Some(err_end)] }
        }
        fn say(&mut self, s: usize, text: &[u8]) {
            self.ends[s].as_mut().unwrap().write_all(text).unwrap();
            self.capture.read(s);
        }
        /// As after `PARTIAL_LINE_TIMEOUT`.
        fn lose_patience(&mut self) {
            self.capture.release(0);
            self.capture.release(1);
        }
        fn file(&self, stream: Stream) -> Vec<u8> {
            std::fs::read(self.dir.join(stream.file_name())).unwrap()
        }
        fn combined(&self) -> Vec<String> {
            let text = String::from_utf8(self.file(Stream::Combined)).unwrap();
            text.lines().map(|line| format!("{}{}", &line[23..24], &line[24..])).collect()
        }
        /// The lines of a log, each behind a stamp.
        fn stamped(&self, stream: Stream) -> Vec<Vec<u8>> {
            let log = Log::open(&self.dir, stream).unwrap();
            let mut scan = Scanner::new(&log, 0, u64::MAX, usize::MAX >> 1);
            let mut lines = Vec::new();
            while let Some(raw) = scan.next().unwrap() {
                lines.push([raw.bytes, if raw.has_newline { b"\n" } else { b"" }].concat());
            }
            lines
        }
        /// Both streams as a reader of combined.log gives them back.
        fn rebuilt(&self) -> [Vec<u8>; 2] {
            let mut streams = [Vec::new(), Vec::new()];
            for line in self.stamped(Stream::Combined) {
                let record = record::parse(line.strip_suffix(b"\n").unwrap(), Stream::Combined).unwrap();
                let out = &mut streams[record.stream.index()];
                out.extend_from_slice(record.text);
                if record.part.ends() {
                    out.push(b'\n');
                }
            }
            streams
        }
        /// The child's bytes from a stream's own file: without the stamps, each of which ends in `Z` and a blank.
        fn stripped(&self, stream: Stream) -> Vec<u8> {
            let lines = self.stamped(stream);
            assert!(lines.iter().all(|line| &line[23..25] == b"Z "));
            lines.iter().flat_map(|line| line[record::PREFIX_LEN..].to_vec()).collect()
        }
    }
    impl Drop for Rig {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn lines_written_in_pieces_stay_whole_and_a_prompt_is_visible() {
        let mut rig = Rig::new("pieces", 0);
        rig.say(0, b"one\ntw");
        rig.say(1, b"warning\n");
        rig.say(0, b"o\nContinue? [");
        assert_eq!(rig.combined(), ["Z one", "z warning", "Z two"]);
        rig.lose_patience();
        rig.say(1, b"late\n");
        rig.say(0, b"y/N");
        rig.lose_patience();
        rig.say(0, b"] yes\nend");
        rig.capture.drain();
        assert_eq!(rig.combined()[3..], ["Z>Continue? [", "z late", "Z=y/N", "Z+] yes", "Z>end"]);
        assert_eq!(rig.stripped(Stream::Stdout), b"one\ntwo\nContinue? [y/N] yes\nend");
        assert_eq!(rig.rebuilt(), [b"one\ntwo\nContinue? [y/N] yes\nend".to_vec(), b"warning\nlate\n".to_vec()]);
        assert_eq!(rig.capture.lines(), [4, 2, 6]);
    }

    #[test]
    fn any_bytes_come_back_from_both_kinds_of_file() {
        let mut rig = Rig::new("bytes", 0);
        let mut seed = 7u64;
        let mut said = [Vec::new(), Vec::new()];
        let pieces: [&[u8]; 9] =
            [b"\n", b"\n", b"ab", b"\0\xff#", b"Z+> \r", b"T", STAMPED, &STAMPED[..25], &[b'x'; 5000]];
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for _ in 0..3000 {
            let (most, kinds) = (if random(20) == 0 { 2000 } else { 30 }, if random(50) == 0 { 9 } else { 8 });
            let text: Vec<u8> = (0..random(most)).flat_map(|_| pieces[random(kinds)]).copied().collect();
            let (s, text) = (random(2), &text[..text.len().min(READ_SIZE)]);
            rig.say(s, text);
            said[s].extend_from_slice(text);
            if random(16) == 0 {
                rig.lose_patience();
            }
        }
        rig.capture.drain();
        assert!(rig.rebuilt() == said);
        let log = rig.file(Stream::Combined);
        let stamped = log.split(|&b| b == b'\n').filter(|line| record::is_stamped(line)).count();
        let lines = memchr_iter(b'\n', &log).count();
        assert!(stamped > lines / 8 && stamped < lines / 2, "{stamped} of {lines} lines have a stamp");
        assert!(rig.stripped(Stream::Stdout) == said[0] && rig.stripped(Stream::Stderr) == said[1]);
        assert_eq!(rig.capture.bytes()[2], rig.file(Stream::Combined).len() as u64);
    }

    #[test]
    fn stamps_never_go_back_when_the_clock_is_set() {
        static NOW: AtomicU64 = AtomicU64::new(0);
        let mut rig = Rig::new("clock", 0);
        rig.capture.clock = || NOW.load(Ordering::SeqCst);
        // Forward by an hour, back by a day, before 1970, and to the end of time.
        for (now, text) in
            [(7_200_000, "a\n"), (10_800_000, "b\n"), (1000, "c\nunfinished"), (0, "d\n"), (10_800_001, "e\n")]
        {
            NOW.store(now, Ordering::SeqCst);
            rig.say(0, text.as_bytes());
            rig.say(1, text.as_bytes());
            rig.lose_patience();
        }
        for stream in [Stream::Stdout, Stream::Stderr, Stream::Combined] {
            let file = String::from_utf8(rig.file(stream)).unwrap();
            let stamps: Vec<u64> =
                file.lines().map(|line| record::parse(line.as_bytes(), stream).unwrap().ms).collect();
            assert!(stamps.len() >= 5 && stamps.is_sorted(), "{stamps:?}");
            assert_eq!((stamps[0], stamps[stamps.len() - 1]), (7_200_000, 10_800_001));
        }
        NOW.store(u64::MAX, Ordering::SeqCst);
        rig.say(0, b"f\n");
        NOW.store(5, Ordering::SeqCst);
        rig.say(0, b"g\n");
        assert!(rig.file(Stream::Stdout).ends_with(b"9999-12-31T23:59:59.999Z g\n"));
    }

    #[test]
    fn a_log_that_was_removed_begins_anew_where_it_was() {
        let mut rig = Rig::new("removed", 0);
        rig.say(1, b"a file of its own\n");
        rig.say(0, b"one\n");
        std::fs::remove_file(rig.dir.join(Stream::Stdout.file_name())).unwrap();
        rig.say(0, b"two\n");
        rig.capture.recreate_replaced_logs();
        rig.say(0, b"three\n");
        let file = rig.file(Stream::Stdout);
        assert_eq!(crate::log::header::parse_header(&file), Some(25 + 4));
        assert!(file.ends_with(b"Z three\n"));
        assert_eq!(rig.rebuilt()[0], b"one\ntwo\nthree\n", "the others are as they were");
    }

    #[test]
    fn what_waits_for_a_reader_is_written_as_soon_as_that_has_read() {
        let mut rig = Rig::new("reader", 100_000);
        let mut lease = Lease::acquire(&rig.dir, ReaderKind::Pipe).unwrap();
        let lines = [b'x'; 99].iter().chain(b"\n").copied().collect::<Vec<u8>>().repeat(500);
        let logged = 50_000 + 13 * 25; // 40 lines share a stamp
        (0..3).for_each(|_| rig.capture.feed(0, &lines));
        assert!(rig.capture.is_stalled() && rig.capture.bytes()[2] < 3 * logged);
        let look = rig.capture.deadline().unwrap();
        lease.advance(1, u64::MAX);
        while Instant::now() < look {
            std::thread::yield_now();
        }
        rig.capture.feed(0, &lines);
        rig.capture.feed(1, b"the end of what they share\n");
        assert!(!rig.capture.is_stalled() && rig.capture.trouble().is_none());
        let end = 4 * logged;
        assert_eq!(rig.capture.bytes(), [end, 25 + 27, end + 25 + 27]);
        drop(lease);
    }

    #[test]
    fn a_long_line_is_one_line_and_is_not_held() {
        let mut rig = Rig::new("long", 0);
        for _ in 0..40 {
            rig.say(0, &[b'x'; 10_000]);
        }
        assert!(rig.capture.sources[0].held.len() < READ_SIZE);
        rig.say(0, b"\n");
        assert_eq!(rig.stripped(Stream::Stdout).len(), 400_001);
        assert_eq!(rig.capture.lines(), [1, 0, 1]);
    }

    #[test]
    fn the_end_of_the_pipe_is_noticed_and_nothing_before_it_is_lost() {
        let mut rig = Rig::new("end", 0);
        rig.ends[0].as_mut().unwrap().write_all(&b"last words\n".repeat(5000)).unwrap();
        rig.ends = [None, None];
        rig.capture.drain();
        assert_eq!(rig.stripped(Stream::Stdout).len(), 55_000);
        assert_eq!(rig.capture.fds(), [-1, -1]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_flood_has_a_larger_pipe_until_it_is_over() {
        let mut rig = Rig::new("flood", 0);
        let mut writer = rig.ends[0].take().unwrap();
        sys::set_nonblocking(&File::from(OwnedFd::from(writer.try_clone().unwrap())), true).unwrap();
        let mut fill = |rig: &mut Rig| {
            let line = [b'x'; 4095].iter().chain(b"\n").copied().collect::<Vec<u8>>();
            let filled = std::iter::from_fn(|| writer.write(&line).ok()).sum::<usize>();
            while rig.capture.read(0) {}
            filled
        };
        let filled: Vec<usize> = (0..20).map(|_| fill(&mut rig)).collect();
        assert!(filled[0] == READ_SIZE && filled[19] == 1 << 20, "{filled:?}");
        let quiet = rig.capture.deadline().unwrap();
        while Instant::now() < quiet {
            std::thread::yield_now();
        }
        rig.capture.tick();
        assert_eq!(fill(&mut rig), READ_SIZE);
        let all = filled.iter().sum::<usize>() + READ_SIZE;
        assert_eq!(rig.stripped(Stream::Stdout).len(), all);
    }
}
