use super::*;
use crate::lease::{Lease, ReaderKind};
use crate::log::read::Log;
use crate::log::record;
use crate::log::scan::Scanner;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Output of a child that looks like a record.
const STAMPED: &[u8] = b"2026-01-02T03:04:05.678z>x\n";

struct Fixture {
    dir: PathBuf,
    _directory: tempfile::TempDir,
    capture: Capture,
    ends: [Option<io::PipeWriter>; 2],
}
impl Fixture {
    fn new(name: &str, cap: u64) -> Fixture {
        let directory = tempfile::Builder::new().prefix(&format!("persistproc-capture-{name}-")).tempdir().unwrap();
        let dir = directory.path().to_path_buf();
        let mut capture = Capture::create(&dir, cap, Readers::new(dir.clone(), 1)).unwrap();
        let (out, out_end) = io::pipe().unwrap();
        let (err, err_end) = io::pipe().unwrap();
        capture.attach([File::from(OwnedFd::from(out)), File::from(OwnedFd::from(err))]).unwrap();
        Fixture { dir, _directory: directory, capture, ends: [Some(out_end), Some(err_end)] }
    }
    fn print(&mut self, s: usize, text: &[u8]) {
        self.ends[s].as_mut().unwrap().write_all(text).unwrap();
        self.capture.read(s);
    }
    /// Does what happens after `PARTIAL_LINE_TIMEOUT`.
    fn expire_partial_lines(&mut self) {
        self.capture.flush_held(0);
        self.capture.flush_held(1);
    }
    fn file(&self, stream: Stream) -> Vec<u8> {
        std::fs::read(self.dir.join(stream.file_name())).unwrap()
    }
    fn combined(&self) -> Vec<String> {
        let text = String::from_utf8(self.file(Stream::Combined)).unwrap();
        text.lines().map(|line| format!("{}{}", &line[23..24], &line[24..])).collect()
    }
    /// The lines of a log, each with a stamp.
    fn stamped(&self, stream: Stream) -> Vec<Vec<u8>> {
        let log = Log::open(&self.dir, stream).unwrap();
        let mut scan = Scanner::new(&log, 0, u64::MAX, usize::MAX >> 1);
        let mut lines = Vec::new();
        while let Some(raw) = scan.next().unwrap() {
            lines.push([raw.bytes, if raw.has_newline { b"\n" } else { b"" }].concat());
        }
        lines
    }
    /// Both streams as a reader of combined.log reproduces them.
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
    /// The child's bytes from a stream's own file: without the stamps, each of which ends in `Z` and a space.
    fn stripped(&self, stream: Stream) -> Vec<u8> {
        let lines = self.stamped(stream);
        assert!(lines.iter().all(|line| &line[23..25] == b"Z "));
        lines.iter().flat_map(|line| line[record::PREFIX_LEN..].to_vec()).collect()
    }
}

#[test]
fn lines_written_in_pieces_stay_whole_and_a_prompt_is_visible() {
    let mut fixture = Fixture::new("pieces", 0);
    fixture.print(0, b"one\ntw");
    fixture.print(1, b"warning\n");
    fixture.print(0, b"o\nContinue? [");
    assert_eq!(fixture.combined(), ["Z one", "z warning", "Z two"]);
    fixture.expire_partial_lines();
    fixture.print(1, b"late\n");
    fixture.print(0, b"y/N");
    fixture.expire_partial_lines();
    fixture.print(0, b"] yes\nend");
    fixture.capture.drain();
    assert_eq!(fixture.combined()[3..], ["Z>Continue? [", "z late", "Z=y/N", "Z+] yes", "Z>end"]);
    assert_eq!(fixture.stripped(Stream::Stdout), b"one\ntwo\nContinue? [y/N] yes\nend");
    assert_eq!(fixture.rebuilt(), [b"one\ntwo\nContinue? [y/N] yes\nend".to_vec(), b"warning\nlate\n".to_vec()]);
    assert_eq!(fixture.capture.lines(), [4, 2, 6]);
}

#[test]
fn any_bytes_can_be_read_back_from_both_kinds_of_file() {
    let mut fixture = Fixture::new("bytes", 0);
    let mut seed = 7u64;
    let mut printed = [Vec::new(), Vec::new()];
    let pieces: [&[u8]; 9] = [b"\n", b"\n", b"ab", b"\0\xff#", b"Z+> \r", b"T", STAMPED, &STAMPED[..25], &[b'x'; 5000]];
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _ in 0..3000 {
        let (most, kinds) = (if random(20) == 0 { 2000 } else { 30 }, if random(50) == 0 { 9 } else { 8 });
        let text: Vec<u8> = (0..random(most)).flat_map(|_| pieces[random(kinds)]).copied().collect();
        let (s, text) = (random(2), &text[..text.len().min(READ_SIZE)]);
        fixture.print(s, text);
        printed[s].extend_from_slice(text);
        if random(16) == 0 {
            fixture.expire_partial_lines();
        }
    }
    fixture.capture.drain();
    assert!(fixture.rebuilt() == printed);
    let log = fixture.file(Stream::Combined);
    let stamped = log.split(|&b| b == b'\n').filter(|line| record::is_stamped(line)).count();
    let lines = memchr_iter(b'\n', &log).count();
    assert!(stamped > lines / 8 && stamped < lines / 2, "{stamped} of {lines} lines have a stamp");
    assert!(fixture.stripped(Stream::Stdout) == printed[0] && fixture.stripped(Stream::Stderr) == printed[1]);
    assert_eq!(fixture.capture.bytes()[2], fixture.file(Stream::Combined).len() as u64);
}

#[test]
fn stamps_never_go_back_when_the_clock_is_set() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let mut fixture = Fixture::new("clock", 0);
    fixture.capture.clock = || NOW.load(Ordering::SeqCst);
    // Forward by an hour, back by a day, before 1970, and to the end of time.
    for (now, text) in
        [(7_200_000, "a\n"), (10_800_000, "b\n"), (1000, "c\nunfinished"), (0, "d\n"), (10_800_001, "e\n")]
    {
        NOW.store(now, Ordering::SeqCst);
        fixture.print(0, text.as_bytes());
        fixture.print(1, text.as_bytes());
        fixture.expire_partial_lines();
    }
    for stream in [Stream::Stdout, Stream::Stderr, Stream::Combined] {
        let file = String::from_utf8(fixture.file(stream)).unwrap();
        let stamps: Vec<u64> = file.lines().map(|line| record::parse(line.as_bytes(), stream).unwrap().ms).collect();
        assert!(stamps.len() >= 5 && stamps.is_sorted(), "{stamps:?}");
        assert_eq!((stamps[0], stamps[stamps.len() - 1]), (7_200_000, 10_800_001));
    }
    NOW.store(u64::MAX, Ordering::SeqCst);
    fixture.print(0, b"f\n");
    NOW.store(5, Ordering::SeqCst);
    fixture.print(0, b"g\n");
    assert!(fixture.file(Stream::Stdout).ends_with(b"9999-12-31T23:59:59.999Z g\n"));
}

#[test]
fn a_removed_log_is_recreated_at_the_same_offset() {
    let mut fixture = Fixture::new("removed", 0);
    fixture.print(1, b"a file of its own\n");
    fixture.print(0, b"one\n");
    std::fs::remove_file(fixture.dir.join(Stream::Stdout.file_name())).unwrap();
    fixture.print(0, b"two\n");
    fixture.capture.recreate_replaced_logs();
    fixture.print(0, b"three\n");
    let file = fixture.file(Stream::Stdout);
    assert_eq!(crate::log::header::parse_header(&file), Some(25 + 4));
    assert!(file.ends_with(b"Z three\n"));
    assert_eq!(fixture.rebuilt()[0], b"one\ntwo\nthree\n", "the other logs are unchanged");
}

#[test]
fn output_that_waits_for_a_reader_is_written_as_soon_as_the_reader_has_caught_up() {
    let mut fixture = Fixture::new("reader", 100_000);
    let mut lease = Lease::acquire(&fixture.dir, ReaderKind::Pipe).unwrap();
    let lines = [b'x'; 99].iter().chain(b"\n").copied().collect::<Vec<u8>>().repeat(500);
    let logged = 50_000 + 13 * 25; // 40 lines share a stamp
    (0..3).for_each(|_| fixture.capture.feed(0, &lines));
    assert!(fixture.capture.is_stalled() && fixture.capture.bytes()[2] < 3 * logged);
    let look = fixture.capture.deadline().unwrap();
    lease.advance(1, u64::MAX);
    while Instant::now() < look {
        std::thread::yield_now();
    }
    fixture.capture.feed(0, &lines);
    fixture.capture.feed(1, b"the end of what they share\n");
    assert!(!fixture.capture.is_stalled() && fixture.capture.stall_reason().is_none());
    let end = 4 * logged;
    assert_eq!(fixture.capture.bytes(), [end, 25 + 27, end + 25 + 27]);
    drop(lease);
}

#[test]
fn a_long_line_is_one_line_and_is_not_held_back() {
    let mut fixture = Fixture::new("long", 0);
    for _ in 0..40 {
        fixture.print(0, &[b'x'; 10_000]);
    }
    assert!(fixture.capture.sources[0].held.len() < READ_SIZE);
    fixture.print(0, b"\n");
    assert_eq!(fixture.stripped(Stream::Stdout).len(), 400_001);
    assert_eq!(fixture.capture.lines(), [1, 0, 1]);
}

#[test]
fn the_end_of_a_pipe_is_detected_and_nothing_before_it_is_lost() {
    let mut fixture = Fixture::new("end", 0);
    fixture.ends[0].as_mut().unwrap().write_all(&b"last words\n".repeat(5000)).unwrap();
    fixture.ends = [None, None];
    fixture.capture.drain();
    assert_eq!(fixture.stripped(Stream::Stdout).len(), 55_000);
    assert_eq!(fixture.capture.fds(), [-1, -1]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_pipe_is_enlarged_only_during_a_flood() {
    let mut fixture = Fixture::new("flood", 0);
    let mut writer = fixture.ends[0].take().unwrap();
    sys::set_nonblocking(&File::from(OwnedFd::from(writer.try_clone().unwrap())), true).unwrap();
    let mut fill = |fixture: &mut Fixture| {
        let line = [b'x'; 4095].iter().chain(b"\n").copied().collect::<Vec<u8>>();
        let filled = std::iter::from_fn(|| writer.write(&line).ok()).sum::<usize>();
        while fixture.capture.read(0) {}
        filled
    };
    let filled: Vec<usize> = (0..20).map(|_| fill(&mut fixture)).collect();
    assert!(filled[0] == READ_SIZE && filled[19] == 1 << 20, "{filled:?}");
    let quiet = fixture.capture.deadline().unwrap();
    while Instant::now() < quiet {
        std::thread::yield_now();
    }
    fixture.capture.tick();
    assert_eq!(fill(&mut fixture), READ_SIZE);
    let all = filled.iter().sum::<usize>() + READ_SIZE;
    assert_eq!(fixture.stripped(Stream::Stdout).len(), all);
}
