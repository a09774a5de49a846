//! Pipes → records → files. This module does not handle processes and never blocks: the shim's loop polls the descriptors, and
//! this reads them.
//!
//! Bytes are never interpreted as text. For each read of up to 64 KiB there is one time (what was read together arrived
//! together) and one write per file. The lines of a large read share stamps, those of a small one have one each, as people
//! like to see them. A line of any length is written as it comes; only a line that is still unfinished is held back, for
//! `PARTIAL_LINE_TIMEOUT` or until it is long, so that lines written in pieces stay whole and a prompt is visible nevertheless.
//!
//! When a file cannot be written, or must not be rotated yet because a reader needs the part that would be removed (see
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

/// Bytes per read: the capacity of a pipe.
const READ_SIZE: usize = PIPE_CAPACITY;
/// A read of at least this many bytes is large: the child is writing faster than a person reads.
const LARGE_READ: usize = 4 << 10;
/// How long an unfinished line is held back to wait for the rest of it.
const PARTIAL_LINE_TIMEOUT: Duration = Duration::from_millis(150);
/// After this long without a large read the buffers of a burst are released: the shim may then be idle for days.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a failed write is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

const STDERR: usize = Stream::Stderr as usize;
const COMBINED: usize = Stream::Combined as usize;

/// Captures the output of one run. Streams are identified by `s`, 0 for stdout and 1 for stderr.
pub struct Capture {
    sources: [Source; 2],
    /// The logs of stdout and stderr. The first one is `None` as long as it is the same file as `combined.log`.
    own_logs: [Option<LogWriter>; 2],
    combined: LogWriter,
    /// Batches and their streams that must wait until `stdout.log` is a separate file.
    waiting_batches: Vec<(usize, Batch)>,
    /// Why it is not a separate file yet.
    unshare_error: Option<io::Error>,
    /// Readers of `combined.log` while it is written.
    readers: Readers,
    /// No reader is waited for any more.
    is_ending: bool,
    /// Lines of the child begun in each log.
    lines: [u64; 3],
    buffer: Vec<u8>,
    batch: Batch,
    stamper: Stamper,
    /// Milliseconds since 1970, from a clock that may be set back.
    clock: fn() -> u64,
    /// The time of the last stamp.
    last_ms: u64,
    /// When the last large read was, until the buffers are released.
    last_large_read: Option<Instant>,
    /// Bytes of the child that had to be dropped.
    lost_bytes: u64,
}

impl Capture {
    /// Creates the three logs in `dir`; `cap` is the size at which a file is rotated, in bytes, 0 for never. Rotation waits
    /// for `readers`.
    ///
    /// # Errors
    ///
    /// A log cannot be created.
    pub fn create(dir: &Path, cap: u64, readers: Readers) -> io::Result<Capture> {
        let log = |stream: Stream| LogWriter::create(dir.join(stream.file_name()), cap);
        let mut combined = log(Stream::Combined)?;
        let is_shared = combined.share_with(dir.join(Stream::Stdout.file_name()));
        let stdout = if is_shared { None } else { Some(log(Stream::Stdout)?) };
        Ok(Capture {
            sources: Default::default(),
            own_logs: [stdout, Some(log(Stream::Stderr)?)],
            combined,
            waiting_batches: Vec::new(),
            unshare_error: None,
            readers,
            is_ending: false,
            lines: [0; 3],
            buffer: Vec::new(),
            batch: Batch::default(),
            stamper: Stamper::new(),
            clock: now_ms,
            last_ms: 0,
            last_large_read: None,
            lost_bytes: 0,
        })
    }

    /// Takes over the reading ends of the child's stdout and stderr.
    ///
    /// # Errors
    ///
    /// They cannot be made non-blocking.
    pub fn attach(&mut self, pipes: [File; 2]) -> io::Result<()> {
        for (source, pipe) in self.sources.iter_mut().zip(pipes) {
            sys::set_nonblocking(&pipe, true)?; // does not affect the child: its end is another open file description
            source.pipe = Some(pipe);
        }
        self.buffer = vec![0; READ_SIZE];
        Ok(())
    }

    /// Recreates logs that were removed or replaced.
    pub fn recreate_replaced_logs(&mut self) {
        self.logs_mut().for_each(LogWriter::recreate_if_replaced);
    }

    /// The descriptors to poll; -1 for a stream that has ended, and for both while a log cannot be written.
    pub fn fds(&self) -> [RawFd; 2] {
        let stalled = self.is_stalled();
        std::array::from_fn(|s| self.sources[s].pipe.as_ref().filter(|_| !stalled).map_or(-1, AsRawFd::as_raw_fd))
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_stalled() {
            let disk = self.has_failed_write().then(|| Instant::now() + RETRY_INTERVAL);
            // If neither is known it is tried again nevertheless: nothing must ever wait without a deadline.
            return [disk, self.readers.deadline()]
                .into_iter()
                .flatten()
                .min()
                .or(Some(Instant::now() + RETRY_INTERVAL));
        }
        let prompt =
            self.sources.iter().filter_map(|source| source.held_since).min().map(|since| since + PARTIAL_LINE_TIMEOUT);
        [prompt, self.last_large_read.map(|since| since + IDLE_TIMEOUT)].into_iter().flatten().min()
    }

    /// Whether there is output that could not be written yet.
    pub fn is_stalled(&self) -> bool {
        !self.waiting_batches.is_empty() || self.logs().any(LogWriter::is_stalled)
    }
    /// Whether that is because of a failed write, and not because of a reader.
    fn has_failed_write(&self) -> bool {
        !self.waiting_batches.is_empty() || self.logs().any(LogWriter::has_failed)
    }

    fn logs(&self) -> impl Iterator<Item = &LogWriter> {
        self.own_logs.iter().flatten().chain([&self.combined])
    }
    fn logs_mut(&mut self) -> impl Iterator<Item = &mut LogWriter> {
        self.own_logs.iter_mut().flatten().chain([&mut self.combined])
    }

    /// Sizes of the logs since the start of the run, in bytes.
    pub fn bytes(&self) -> [u64; 3] {
        let end = |log: &Option<LogWriter>| log.as_ref().unwrap_or(&self.combined).end();
        [end(&self.own_logs[0]), end(&self.own_logs[1]), self.combined.end()]
    }
    /// Lines of the child begun in each log.
    pub fn lines(&self) -> [u64; 3] {
        self.lines
    }
    /// Bytes of the child that had to be dropped.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }
    /// Why capturing is held up.
    pub fn stall_reason(&self) -> Option<String> {
        let unshare_error = self.unshare_error.as_ref().map(io::Error::to_string);
        unshare_error.or_else(|| self.logs().find_map(LogWriter::io_error)).or_else(|| self.readers.stall_reason())
    }
    /// A problem in spite of which capturing continues.
    pub fn warning(&self) -> Option<String> {
        self.logs().find_map(LogWriter::warning).map(String::from)
    }

    /// Called when the run is being stopped: readers are not waited for long any more.
    pub fn shorten_reader_timeouts(&mut self) {
        self.readers.shorten_timeouts();
    }

    /// Called when the pipes contain all the output that is left: readers are not waited for any more.
    pub fn stop_waiting_for_readers(&mut self) {
        self.is_ending = true;
    }

    /// Reads once from stream `s`. True if a log may have grown, or the stream ended.
    pub fn read(&mut self, s: usize) -> bool {
        self.read_some(s).is_some()
    }

    /// Reads once from stream `s`: the number of bytes, 0 at the end of the stream, `None` if there is nothing now.
    fn read_some(&mut self, s: usize) -> Option<usize> {
        let pipe = self.sources[s].pipe.as_mut()?;
        match pipe.read(&mut self.buffer) {
            Ok(n) if n > 0 => {
                let buffer = std::mem::take(&mut self.buffer);
                self.feed(s, &buffer[..n]);
                self.buffer = buffer;
                if n >= LARGE_READ {
                    self.last_large_read = Some(Instant::now());
                    self.sources[s].record_large_read(n);
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

    /// Does whatever is due: retries failed writes, writes partial lines that were held long enough, releases the buffers of a
    /// burst. True if a log may have grown.
    pub fn tick(&mut self) -> bool {
        let before = self.combined.end();
        self.retry();
        for s in 0..2 {
            if self.sources[s].held_since.is_some_and(|since| since.elapsed() >= PARTIAL_LINE_TIMEOUT) {
                self.flush_held(s);
            }
        }
        if self.last_large_read.is_some_and(|since| since.elapsed() >= IDLE_TIMEOUT) {
            self.release_buffers();
        }
        self.combined.end() != before
    }

    /// Tries again to write what could not be written.
    fn retry(&mut self) {
        if self.combined.is_stalled() && !self.must_wait_for_reader(0) {
            self.combined.retry();
        }
        self.own_logs.iter_mut().flatten().filter(|log| log.is_stalled()).for_each(LogWriter::retry);
        if !self.waiting_batches.is_empty() && self.unshare_stdout() {
            for (s, mut batch) in std::mem::take(&mut self.waiting_batches) {
                self.write(&mut batch, s);
            }
        }
    }

    /// Makes `stdout.log` a separate file. False if that fails, as on a full disk.
    fn unshare_stdout(&mut self) -> bool {
        match self.combined.unshare() {
            Ok(stdout) => {
                self.own_logs[0] = self.own_logs[0].take().or(stdout);
                self.own_logs[0].iter_mut().for_each(LogWriter::retry); // it need not wait for the readers of combined.log
                self.unshare_error = None;
            }
            Err(error) => self.unshare_error = Some(error),
        }
        self.own_logs[0].is_some()
    }

    /// Whether `combined.log` would have to be rotated to write `more` bytes, and a reader still needs the part that would be
    /// removed. At the end of the run the file grows beyond its cap instead.
    fn must_wait_for_reader(&mut self, more: usize) -> bool {
        let is_needed = self.combined.must_rotate(more) && self.readers.must_wait(self.combined.start());
        if is_needed && self.is_ending {
            self.combined.lift_cap();
        }
        is_needed && !self.is_ending
    }

    /// Reads what has been written up to now, without blocking, and writes unfinished lines as well. The amount is determined
    /// first, so as not to follow an endless flood; the number of reads is no measure, because the program may have enlarged
    /// the pipe or put it in packet mode (`O_DIRECT`).
    pub fn drain(&mut self) {
        for s in 0..2 {
            let mut left = self.unread(s);
            while !self.is_stalled() {
                // One read beyond that amount detects the end of the stream.
                match self.read_some(s) {
                    Some(n) if n > 0 && n <= left => left -= n,
                    _ => break,
                }
            }
            if !self.is_stalled() {
                self.flush_held(s);
            }
        }
    }

    /// Number of bytes in the pipe of stream `s`.
    fn unread(&self, s: usize) -> usize {
        self.sources[s].pipe.as_ref().map_or(0, sys::unread)
    }

    /// Called at the end when the disk is still full: counts the lost bytes instead of waiting forever.
    pub fn give_up(&mut self) {
        if !self.is_stalled() {
            return;
        }
        for source in &mut self.sources {
            self.lost_bytes += source.held.len() as u64;
            self.lost_bytes += source.pipe.as_ref().map_or(0, sys::unread) as u64;
        }
        self.lost_bytes += self.combined.discard_unwritten();
        self.lost_bytes += self.waiting_batches.drain(..).map(|(_, batch)| batch.combined.len() as u64).sum::<u64>();
    }

    fn release_buffers(&mut self) {
        self.last_large_read = None;
        self.batch = Batch::default();
        for source in &mut self.sources {
            source.held.shrink_to_fit();
            source.end_flood();
        }
        // Reallocated, so that it is not located above freed memory.
        self.buffer = Vec::new();
        self.buffer = vec![0; READ_SIZE];
        sys::trim_heap();
    }

    /// Turns `bytes`, which were read from stream `s`, into records and writes them.
    fn feed(&mut self, s: usize, bytes: &[u8]) {
        let stamp = self.stamp();
        let mut batch = std::mem::take(&mut self.batch);
        let mut begin = 0;
        if !self.sources[s].is_between_lines()
            && let Some(newline) = memchr(b'\n', bytes)
        {
            self.push_part(&mut batch, s, &stamp, &bytes[..newline], true);
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
                self.flush_held(s);
            }
        }
    }

    /// Writes the held part of an unfinished line.
    fn flush_held(&mut self, s: usize) {
        if self.sources[s].held.is_empty() {
            return;
        }
        let stamp = self.stamp();
        let mut batch = std::mem::take(&mut self.batch);
        self.push_part(&mut batch, s, &stamp, b"", false);
        self.write(&mut batch, s);
        self.batch = batch;
    }

    fn push_lines(&mut self, batch: &mut Batch, s: usize, stamp: &[u8; STAMP_LEN], lines: &[u8], is_large: bool) {
        let count = memchr_iter(b'\n', lines).count() as u64;
        self.lines[s] += count;
        self.lines[COMBINED] += count;
        batch.add_lines(s == STDERR, stamp, lines, if is_large { MAX_SHARED_SPAN - PREFIX_LEN } else { 0 });
    }

    /// Adds the held bytes and `text` to the batch: the rest of a line, or if `ends` is false a part of it.
    fn push_part(&mut self, batch: &mut Batch, s: usize, stamp: &[u8; STAMP_LEN], text: &[u8], ends: bool) {
        let source = &mut self.sources[s];
        let part = Part::new(!source.is_mid_line, ends);
        if part.begins() {
            self.lines[s] += 1;
            self.lines[COMBINED] += 1;
        }
        batch.add_part(s == STDERR, stamp, part, [&source.held, text]);
        source.held.clear();
        source.held_since = None;
        source.is_mid_line = !ends;
    }

    fn write(&mut self, batch: &mut Batch, s: usize) {
        if batch.combined.is_empty() {
            return;
        }
        let is_same = s != STDERR && !batch.is_split;
        if self.own_logs[0].is_none() && !is_same && (!self.waiting_batches.is_empty() || !self.unshare_stdout())
            || !self.waiting_batches.is_empty()
        {
            return self.waiting_batches.push((s, std::mem::take(batch)));
        }
        if let Some(own) = &mut self.own_logs[s] {
            own.append(batch.own());
        }
        if self.must_wait_for_reader(batch.combined.len()) {
            self.combined.defer(&batch.combined);
        } else {
            if self.combined.is_stalled() {
                self.combined.retry(); // bytes that had to wait for a reader until now
            }
            self.combined.append(&batch.combined);
        }
        batch.clear();
    }

    /// Reads the clock, once per batch. Stamps never go back, so that a file can be searched by time.
    fn stamp(&mut self) -> [u8; STAMP_LEN] {
        self.last_ms = self.last_ms.max((self.clock)());
        *self.stamper.stamp(self.last_ms)
    }
}

#[cfg(test)]
mod tests;
