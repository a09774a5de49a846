//! Reading a log while it is written and rotated: the part that is kept as one range of offsets, the last lines, the first
//! line at or after a time. The log is never read completely: the cost depends on what is returned, not on its length.

use super::Stream;
use super::header::{HEADER_LEN, parse_header, previous};
use super::record::{self, MAX_SHARED_SPAN, PREFIX_LEN, begins_line, is_stamped};
use super::stamp::parse_stamp;
use crate::sys;
use memchr::{memchr, memchr_iter, memrchr, memrchr_iter};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Maximum number of bytes per read.
const BLOCK_SIZE: usize = 64 << 10;

/// One file of a log, and the offsets of the run that it holds.
pub(super) struct Segment {
    file: File,
    /// Offset of its first record.
    pub(super) start: u64,
    /// Position of that record in the file, in bytes.
    header_len: u64,
}

impl Segment {
    /// `None` if there is no such file.
    pub(super) fn open(path: &Path) -> io::Result<Option<Segment>> {
        let file = match sys::read_regular(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut first = [0; HEADER_LEN];
        let n = file.read_at(&mut first, 0)?;
        Ok(Some(match parse_header(&first[..n]) {
            Some(start) => Segment { file, start, header_len: HEADER_LEN as u64 },
            None => Segment { file, start: 0, header_len: 0 },
        }))
    }
    /// The offset after its last byte.
    pub(super) fn end(&self) -> io::Result<u64> {
        Ok(self.start + self.file.metadata()?.len().saturating_sub(self.header_len))
    }

    /// Reads once at `offset`, which must not be before [`start`](Self::start): the number of bytes, 0 at the end.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset - self.start + self.header_len) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Whether both are the same file.
    pub(super) fn is_same(&self, other: &Segment) -> bool {
        let identity = |segment: &Segment| segment.file.metadata().map(|file| (file.dev(), file.ino())).ok();
        identity(self) == identity(other)
    }
}

/// A snapshot of the part of a log that is kept, as of when it was opened: rotation does not affect it.
pub struct Log {
    /// Oldest first; together they form one range without a gap.
    segments: Vec<Segment>,
    stream: Stream,
    start: u64,
    end: u64,
}

impl Log {
    /// Opens the log of `stream` in the directory of a run. A missing log is empty, see [`is_missing`](Self::is_missing).
    ///
    /// # Errors
    ///
    /// A file exists but cannot be opened or read.
    pub fn open(run: &Path, stream: Stream) -> io::Result<Log> {
        let path = run.join(stream.file_name());
        let of = |segments: Vec<Segment>, end: u64| {
            let start = segments.first().map_or(0, |oldest| oldest.start);
            Log { segments, stream, start, end }
        };
        for _ in 0..100 {
            let Some(newest) = Segment::open(&path)? else {
                match Segment::open(&previous(&path))? {
                    None => return Ok(of(Vec::new(), 0)),
                    // Between the two renames of a rotation the name is missing for a moment.
                    Some(_) => std::thread::yield_now(),
                }
                continue;
            };
            let end = newest.end()?;
            if newest.start == 0 {
                return Ok(of(vec![newest], end));
            }
            match Segment::open(&previous(&path))? {
                None => return Ok(of(vec![newest], end)),
                Some(older) if older.end()? == newest.start => return Ok(of(vec![older, newest], end)),
                Some(_) => {} // the log was rotated between the two opens
            }
        }
        // The name did not come back (the file was removed by a user), or the two files do not fit together.
        let left = [&path, &previous(&path)].into_iter().find_map(|path| Segment::open(path).ok()?);
        let end = left.as_ref().map_or(Ok(0), Segment::end)?;
        Ok(of(left.into_iter().collect(), end))
    }

    /// Excludes a partially written record at the end: the size of a growing file may be seen in the middle of a write, and
    /// a reader that took the first half of a record for a line would take the second half for another one.
    ///
    /// # Errors
    ///
    /// The log cannot be read, as with the methods below.
    pub fn without_torn(mut self) -> io::Result<Log> {
        let mut tail = [0; PREFIX_LEN];
        let from = self.end.saturating_sub(PREFIX_LEN as u64).max(self.start);
        let n = self.read_at(from, &mut tail[..(self.end - from) as usize])?;
        match memrchr(b'\n', &tail[..n]) {
            // Less than a stamp follows it.
            Some(newline) => self.end = from + newline as u64 + 1,
            None if self.stream == Stream::Combined => self.end = self.record_start(self.end, self.start)?,
            None if n < PREFIX_LEN && self.start == 0 => self.end = 0,
            // A line that the child has not finished, or is just being written.
            None => {}
        }
        Ok(self)
    }

    /// Total size of the files of a log, in bytes.
    pub fn size(run: &Path, stream: Stream) -> u64 {
        let path = run.join(stream.file_name());
        [previous(&path), path].iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum()
    }

    /// Whether there is no file, because it does not exist yet or was removed.
    pub fn is_missing(&self) -> bool {
        self.segments.is_empty()
    }

    /// The first offset that is kept.
    pub fn start(&self) -> u64 {
        self.start
    }
    /// The offset after the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Reads from `offset` into `buffer`; returns the number of bytes, which is less than requested only at the end. Reads
    /// nothing at offsets outside the kept range.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.end.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let Some(i) = self.segments.iter().rposition(|segment| segment.start <= at) else { break };
            let segment = &self.segments[i];
            let segment_end = self.segments.get(i + 1).map_or(self.end, |next| next.start);
            let len = (segment_end - at).min((wanted - done) as u64) as usize;
            match segment.read_at(at, &mut buffer[done..done + len])? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    /// Offset of the record with which the last `count` lines before `end` begin. A line that the child has not finished
    /// counts as one.
    pub fn tail(&self, end: u64, count: usize) -> io::Result<u64> {
        let end = end.min(self.end);
        if count == 0 {
            return Ok(end);
        }
        let mut left = count;
        let mut block = vec![0; BLOCK_SIZE];
        let mut at = end;
        while at > self.start {
            let from = at.saturating_sub(BLOCK_SIZE as u64).max(self.start);
            let n = self.read_at(from, &mut block[..(at - from) as usize])?;
            for i in memrchr_iter(b'\n', &block[..n]) {
                let record = from + i as u64 + 1;
                if record < end && self.begins_line(record, &block[..n], from)? {
                    left -= 1;
                    if left == 0 {
                        return Ok(record);
                    }
                }
            }
            at = from;
        }
        Ok(self.start)
    }

    /// Whether a line of the child begins with the record at `record`; `block` holds the bytes at `block_at`.
    fn begins_line(&self, record: u64, block: &[u8], block_at: u64) -> io::Result<bool> {
        if self.stream != Stream::Combined {
            return Ok(true); // in these files each record is a line
        }
        let in_block = record.checked_sub(block_at).and_then(|i| block.get(i as usize..i as usize + PREFIX_LEN));
        if let Some(prefix) = in_block {
            return Ok(begins_line(prefix));
        }
        let mut prefix = [0; PREFIX_LEN];
        let n = self.read_at(record, &mut prefix)?;
        Ok(begins_line(&prefix[..n]))
    }

    /// Offset of the first record that is not older than `ms` (milliseconds since 1970), found by binary search, since stamps
    /// never go backwards. Lines that share a stamp belong to the record that has it.
    pub fn since(&self, ms: u64) -> io::Result<u64> {
        // Stamped records that begin before `low` are older, those that begin at or after `high` are not.
        let (mut low, mut high) = (self.start, self.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.stamp_from(middle, high)? {
                Some((record, stamp)) if stamp < ms => low = record + 1,
                _ => high = middle,
            }
        }
        if low == self.start {
            return Ok(low);
        }
        Ok(self.stamp_from(low, self.end)?.map_or(self.end, |(record, _)| record))
    }

    /// The first record with its own stamp that begins in `from..limit`, and that stamp in milliseconds since 1970.
    fn stamp_from(&self, from: u64, limit: u64) -> io::Result<Option<(u64, u64)>> {
        let mut block = vec![0; 2 * MAX_SHARED_SPAN];
        let mut next = self.record_from(from, limit)?;
        while let Some(at) = next {
            let n = self.read_at(at, &mut block)?;
            let mut last = 0;
            for start in std::iter::once(0).chain(memchr_iter(b'\n', &block[..n]).map(|newline| newline + 1)) {
                if let Some(ms) = parse_stamp(&block[start..n]).filter(|_| is_stamped(&block[start..n])) {
                    let record = at + start as u64;
                    return Ok((record < limit).then_some((record, ms)));
                }
                last = start;
            }
            // The last one may have been read only in part.
            let is_torn = last > 0 && n - last < PREFIX_LEN;
            next = self.record_from(at + last as u64 + u64::from(!is_torn), limit)?;
        }
        Ok(None)
    }

    /// The prefix that a line at `at` without its own shares; `None` if the stamp is not kept any more.
    pub fn shared_prefix_before(&self, at: u64) -> io::Result<Option<[u8; PREFIX_LEN]>> {
        let from = at.saturating_sub((MAX_SHARED_SPAN + 1) as u64).max(self.start);
        let mut before = vec![0; at.saturating_sub(from) as usize];
        let n = self.read_at(from, &mut before)?;
        Ok(record::shared_prefix_before(&before[..n], from == self.start))
    }

    /// Whether `offset` is in the middle of a line of the file.
    pub fn is_within_line(&self, offset: u64) -> io::Result<bool> {
        let mut before = [b'\n'];
        if offset > self.start {
            self.read_at(offset - 1, &mut before)?;
        }
        Ok(before != [b'\n'])
    }

    /// Offset at which the record that contains `offset` begins. Does not search before `floor`, at which a record begins.
    pub fn record_start(&self, offset: u64, floor: u64) -> io::Result<u64> {
        let mut block = vec![0; 4096];
        let mut end = offset;
        while end > floor {
            let from = end.saturating_sub(block.len() as u64).max(floor);
            let n = self.read_at(from, &mut block[..(end - from) as usize])?;
            if let Some(i) = memrchr(b'\n', &block[..n]) {
                return Ok(from + i as u64 + 1);
            }
            end = from;
        }
        Ok(floor)
    }

    /// The first record that begins in `from..limit`.
    fn record_from(&self, from: u64, limit: u64) -> io::Result<Option<u64>> {
        if from <= self.start {
            return Ok((self.start < limit).then_some(self.start));
        }
        let mut at = from - 1; // a record begins after a newline, and the byte before `from` may be one
        let mut block = vec![0; 1024]; // most lines are short; for the others the block grows
        while at < limit {
            let n = self.read_at(at, &mut block)?;
            if n == 0 {
                break;
            }
            if let Some(i) = memchr(b'\n', &block[..n]) {
                let record = at + i as u64 + 1;
                return Ok((record < limit).then_some(record));
            }
            at += n as u64;
            block.resize((block.len() * 2).min(BLOCK_SIZE), 0);
        }
        Ok(None)
    }

    /// Counts the lines of the child that begin in `from..to`. Reads all of that range.
    pub fn count_lines(&self, from: u64, to: u64) -> io::Result<u64> {
        let mut count = 0;
        let mut block = vec![0; BLOCK_SIZE];
        let mut at = from.saturating_sub(1).max(self.start);
        if from <= self.start && self.start < to {
            // There is no newline before the very first record.
            count += u64::from(self.begins_line(self.start, &[], 0)?);
        }
        while at < to {
            let len = (to - at).min(BLOCK_SIZE as u64) as usize;
            let n = self.read_at(at, &mut block[..len])?;
            if n == 0 {
                break;
            }
            for i in memchr_iter(b'\n', &block[..n]) {
                let record = at + i as u64 + 1;
                if record < to && self.begins_line(record, &block[..n], at)? {
                    count += 1;
                }
            }
            at += n as u64;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::{Part, prefix};
    use crate::log::stamp::Stamper;
    use crate::log::writer::LogWriter;

    /// A log of `lines` lines, one per second from second 1 on, in a temporary directory.
    struct Sample(tempfile::TempDir);
    impl Sample {
        fn new(name: &str, lines: u64, cap: u64, stream: Stream) -> Sample {
            let dir = tempfile::Builder::new().prefix(&format!("persistproc-read-{name}-")).tempdir().unwrap();
            let mut file = LogWriter::create(dir.path().join(stream.file_name()), cap).unwrap();
            let mut stamper = Stamper::new();
            for i in 1..=lines {
                file.append(&record(&mut stamper, i));
            }
            Sample(dir)
        }
        fn log(&self, stream: Stream) -> Log {
            Log::open(self.0.path(), stream).unwrap()
        }
    }
    fn record(stamper: &mut Stamper, i: u64) -> Vec<u8> {
        let mut out = prefix(stamper.stamp(i * 1000), false, Part::Whole).to_vec();
        out.extend_from_slice(format!("line {i} {}\n", "x".repeat((i % 97) as usize)).as_bytes());
        out
    }
    fn line_number_at(log: &Log, offset: u64) -> Option<u64> {
        let mut bytes = [0; 60];
        let n = log.read_at(offset, &mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
        text.get(PREFIX_LEN..)?.split(' ').nth(1)?.parse().ok()
    }

    #[test]
    fn any_number_of_last_lines_is_found_even_across_rotation() {
        for cap in [0, 50_000] {
            let sample = Sample::new(&format!("tail{cap}"), 5000, cap, Stream::Combined);
            let log = sample.log(Stream::Combined);
            for count in [1, 2, 7, 100, 400] {
                let at = log.tail(log.end(), count).unwrap();
                assert_eq!(line_number_at(&log, at), Some(5001 - count as u64), "cap {cap}");
                assert_eq!(log.count_lines(at, log.end()).unwrap(), count as u64);
            }
            assert_eq!(log.tail(log.end(), 0).unwrap(), log.end());
            assert_eq!(log.tail(log.end(), 10_000).unwrap(), log.start());
        }
    }

    #[test]
    fn a_time_is_found_by_binary_search_even_across_rotation() {
        for cap in [0, 50_000] {
            let sample = Sample::new(&format!("since{cap}"), 3000, cap, Stream::Stdout);
            let log = sample.log(Stream::Stdout);
            let first = line_number_at(&log, log.start()).unwrap();
            for wanted in [first, first + 1, 2500, 2999, 3000] {
                assert_eq!(line_number_at(&log, log.since(wanted * 1000).unwrap()), Some(wanted));
                assert_eq!(line_number_at(&log, log.since(wanted * 1000 - 999).unwrap()), Some(wanted));
            }
            assert_eq!(log.since(0).unwrap(), log.start());
            assert_eq!(log.since(3_000_001).unwrap(), log.end());
        }
    }

    #[test]
    fn lines_that_share_a_stamp_are_found_like_others() {
        let sample = Sample::new("shared", 0, 0, Stream::Stdout);
        let mut file = LogWriter::create(sample.0.path().join("combined.log"), 10_000).unwrap();
        let mut stamper = Stamper::new();
        for i in (1..=3000).step_by(3) {
            let others = [i + 1, i + 2].map(|i| record(&mut stamper, i)[PREFIX_LEN..].to_vec()).concat();
            file.append(&[record(&mut stamper, i), others].concat());
        }
        let log = sample.log(Stream::Combined);
        let number = |at: u64| {
            let (mut block, mut skipped) = ([0; 60], 0);
            let n = log.read_at(at, &mut block).unwrap();
            if is_stamped(&block[..n]) {
                skipped = PREFIX_LEN;
            }
            let text = String::from_utf8_lossy(&block[skipped..n]).into_owned();
            text.split(' ').nth(1).and_then(|number| number.parse::<u64>().ok())
        };
        for count in 1..50 {
            let at = log.tail(log.end(), count).unwrap();
            assert_eq!(
                (number(at), log.count_lines(at, log.end()).unwrap()),
                (Some(3001 - count as u64), count as u64)
            );
            let prefix = log.shared_prefix_before(at).unwrap().unwrap();
            let before = (3000 - count as u64 - 1) / 3 * 3 + 1; // the last stamp before this line
            assert_eq!(parse_stamp(&prefix), Some(before * 1000), "{count}");
        }
        for second in 2900..=3000 {
            let first = (second + 1) / 3 * 3 + 1;
            let expected = (first < 3000).then_some(first);
            assert_eq!(number(log.since(second * 1000).unwrap()), expected, "{second}");
        }
        let kept = number(log.start()).unwrap();
        assert_eq!(log.since((kept + 1) * 1000).map(number).unwrap(), Some(kept + 3));
        assert_eq!(log.since(kept * 1000).unwrap(), log.start());
        assert_eq!(log.shared_prefix_before(log.start()).unwrap(), None);
        assert_eq!(log.shared_prefix_before(log.start() + 30).unwrap(), None, "within a line");
    }

    #[test]
    fn the_kept_part_is_one_range_without_a_gap() {
        let sample = Sample::new("range", 5000, 20_000, Stream::Combined);
        let log = sample.log(Stream::Combined);
        assert!(log.start() > 0 && log.end() - log.start() <= 40_000);
        let mut bytes = vec![0; 50_000];
        let n = log.read_at(log.start(), &mut bytes).unwrap();
        assert_eq!(n as u64, log.end() - log.start());
        let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
        let numbers: Vec<u64> =
            text.lines().map(|l| l[PREFIX_LEN..].split(' ').nth(1).unwrap().parse().unwrap()).collect();
        assert_eq!(*numbers.last().unwrap(), 5000);
        assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1));
        assert_eq!(log.count_lines(0, log.end()).unwrap(), numbers.len() as u64);
        assert_eq!(log.read_at(log.end(), &mut bytes).unwrap(), 0);
        assert_eq!(log.read_at(0, &mut bytes).unwrap(), 0, "below what is kept");
    }

    #[test]
    fn a_missing_log_is_empty_and_one_without_its_newest_file_has_the_older_one() {
        let sample = Sample::new("missing", 3000, 20_000, Stream::Stdout);
        std::fs::remove_file(sample.0.path().join("stdout.log")).unwrap();
        let log = sample.log(Stream::Stdout);
        assert!(log.start() > 0 && log.end() > log.start());
        let none = sample.log(Stream::Stderr);
        assert_eq!((none.start(), none.end(), none.tail(0, 5).unwrap(), none.since(5).unwrap()), (0, 0, 0, 0));
        assert_eq!(none.count_lines(0, 0).unwrap(), 0);
    }
}
