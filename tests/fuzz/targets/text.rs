//! What users and programs write that is taken apart by hand: cursors, times, command lines, patterns, names, and the lines
//! of a log. The bytes are taken as they are, and as a sentence of words out of a table for each of these, because chance
//! seldom writes a time or a cursor.

#![no_main]

use libfuzzer_sys::fuzz_target;
use persistproc_fuzz::log::Stream;
use persistproc_fuzz::log::record;
use persistproc_fuzz::log::stamp::{format_ms, parse_stamp, parse_time};
use persistproc_fuzz::output::cursor::Cursor;
use persistproc_fuzz::output::pattern::Pattern;
use persistproc_fuzz::output::view::{clean, clip, mark, plain, shown};
use persistproc_fuzz::sentence;
use persistproc_fuzz::os_text::{self, MARK};

/// Columns that a line may have.
const COLUMNS: usize = 16 << 10;
const NOW: u64 = 1_767_323_045_678;

const TIMES: [&str; 32] = [
    "2026-01-02",
    "1969-12-31",
    "9999-12-31",
    "2024-02-29",
    "0000-01-01",
    "T",
    "t",
    " ",
    "03:04",
    ":05",
    ".678",
    ",6",
    "Z",
    "z",
    "+01",
    "-0500",
    "+02:30",
    "+24:00",
    "+",
    "-",
    ":",
    "1",
    "23",
    "59",
    "60",
    "s",
    "ms",
    "d",
    "99999999999999999999",
    "é",
    "\u{663}",
    "\u{200b}",
];
const CURSORS: [&str; 24] = [
    "r1",
    "r12",
    "r",
    ".",
    ".",
    ".",
    "combined",
    "stdout",
    "stderr",
    "0",
    "5",
    "5120",
    "99999999999999999999",
    "_",
    "_n7",
    "n",
    ".o4",
    ".e4",
    "o",
    "e",
    "-",
    "é",
    " ",
    "_r2.combined.5",
];
const PATTERNS: [&str; 32] = [
    "er",
    "ror",
    "e",
    "[er]",
    "[^]x]",
    "[[:alpha:]]",
    "\\[",
    "\\d",
    "\\x41",
    "\\b",
    ".",
    "^",
    "$",
    "|",
    "(",
    ")",
    "(?:",
    "(?i)",
    "*",
    "+",
    "?",
    "{2}",
    "{0,900}",
    "{1,",
    "é",
    "\u{212a}",
    "\u{17f}",
    " ",
    "\u{fffd}",
    "\u{27e6}",
    "\u{200b}",
    "ab",
];
const LINES: [&str; 40] = [
    "er",
    "ror",
    "ER",
    "ab",
    " ",
    "  ",
    "\t",
    "\r",
    "\u{8}",
    "\x1b[1m",
    "\x1b[K",
    "\x1b[2K",
    "\x1b[5G",
    "\x1b[99D",
    "\x1b[40C",
    "\x1b]0;t\x07",
    "\x1b]8;;http://x\x1b\\",
    "\x1bP",
    "\u{9b}1m",
    "\u{9d}",
    "\u{9c}",
    "\x18",
    "\u{7f}",
    "\u{27e6}",
    "\u{27e7}",
    "×9",
    "\u{200b}",
    "\u{200c}",
    "\u{200d}",
    "\u{fe0e}",
    "\u{fe0f}",
    "\u{e0041}",
    "\u{e0100}",
    "\u{202e}",
    "\u{2028}",
    "\u{1f468}",
    "\u{26a0}",
    "é",
    "\u{301}",
    "1",
];

fn check_line(line: &[u8]) {
    let seen = shown(line);
    let text = seen.text.as_ref();
    assert!(text.chars().count() <= COLUMNS.max(line.len()));
    assert!(text.chars().all(|c| c == '\t' || !c.is_control()));
    assert!(os_text::hidden(text).count() == 0 && !text.contains(MARK), "{text:?}");
    assert_eq!(clean(text.as_bytes()), text, "what is shown is shown as it is");
    let most = usize::from(line.first().copied().unwrap_or(0));
    let clipped = clip(text, most, most * 2, 0);
    let kept = clipped.split(MARK[0]).next().unwrap();
    assert!(kept.chars().count() <= most && kept.len() <= most * 2 && text.starts_with(kept));
    assert!(clipped == text || clipped.ends_with(" more bytes\u{27e7}"));
    assert_eq!(os_text::hidden(&format!("{clipped}{}", mark("×2"))).count(), 0, "{clipped:?}");
    for stream in Stream::ALL {
        let _ = record::parse(line, stream);
    }
    if let Some(ms) = parse_stamp(line) {
        assert!(ms <= parse_stamp(format_ms(u64::MAX).as_bytes()).unwrap());
    }
}

fn check_time(text: &str) {
    let latest = parse_stamp(format_ms(u64::MAX).as_bytes()).unwrap();
    if let Ok(ms) = parse_time(text, NOW) {
        assert!(ms > latest || parse_time(&format_ms(ms), 0) == Ok(ms), "{text}");
    }
}

fn check_cursor(text: &str) {
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string().parse::<Cursor>().ok(), Some(cursor));
    }
}

fn check_pattern(pattern: &str, line: &str) {
    if pattern.len() <= 200
        && let Ok(pattern) = Pattern::parse(pattern)
    {
        let line: String = line.chars().take(200).collect();
        assert!(
            !pattern.is_match(line.as_bytes()) || pattern.may_match(line.as_bytes()),
            "what may not match does not"
        );
    }
}

fn check_name(text: &str) {
    let quoted = os_text::quote_json(text);
    assert_eq!(serde_json::from_str::<String>(&quoted).ok().as_deref(), Some(text));
    for shown in [quoted, plain(text)] {
        assert!(
            os_text::hidden(&shown).count() == 0 && !shown.contains(MARK) && !shown.contains(char::is_control),
            "{shown:?}"
        );
    }
    let kept: String = os_text::with_hidden(text).filter(|(_, is_hidden)| !is_hidden).map(|(c, _)| c).collect();
    assert_eq!(os_text::hidden(&kept).count(), 0, "{text:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let line = sentence(bytes, &LINES);
    check_line(bytes);
    check_line(line.as_bytes());
    check_time(&sentence(bytes, &TIMES));
    check_cursor(&sentence(bytes, &CURSORS));
    let (first, rest) = bytes.split_at(bytes.len() / 4);
    check_pattern(&sentence(first, &PATTERNS), &sentence(rest, &LINES));
    check_name(&line);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    check_time(text);
    check_cursor(text);
    check_name(text);
    let (pattern, line) = text.split_once('\n').unwrap_or((text, text));
    check_pattern(pattern, line);
    if let Ok(argv) = os_text::split(text) {
        assert_eq!(
            os_text::split(&os_text::quote(&argv)).ok().as_ref(),
            Some(&argv),
            "quoting and splitting undo each other"
        );
    }
});
