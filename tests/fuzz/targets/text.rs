//! What users and programs write that is taken apart by hand: cursors, times, command lines, patterns, and the lines of
//! a log.

#![no_main]

use libfuzzer_sys::fuzz_target;
use persistproc_fuzz::log::Stream;
use persistproc_fuzz::log::record;
use persistproc_fuzz::log::stamp::{format_ms, parse_stamp, parse_time};
use persistproc_fuzz::output::cursor::Cursor;
use persistproc_fuzz::output::pattern::Pattern;
use persistproc_fuzz::output::view::{clean, clip};
use persistproc_fuzz::words;

/// Columns that a line may have.
const COLUMNS: usize = 16 << 10;

fuzz_target!(|bytes: &[u8]| {
    let shown = clean(bytes);
    assert!(shown.chars().count() <= COLUMNS.max(bytes.len()));
    assert!(shown.chars().all(|c| !c.is_control() || c == '\t'));
    let most = usize::from(bytes.first().copied().unwrap_or(0));
    assert!(clip(&shown, most).chars().count() <= most + 40);
    for stream in Stream::ALL {
        let _ = record::parse(bytes, stream);
    }
    if let Some(ms) = parse_stamp(bytes) {
        assert!(ms <= parse_stamp(format_ms(u64::MAX).as_bytes()).unwrap());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string().parse::<Cursor>().ok(), Some(cursor));
    }
    let _ = parse_time(text, 1_767_323_045_678);
    if let Ok(argv) = words::split(text) {
        assert_eq!(words::split(&words::quote(&argv)).ok().as_ref(), Some(&argv), "quoting and splitting undo each other");
    }
    let (pattern, line) = text.split_once('\n').unwrap_or((text, text));
    if pattern.len() <= 200
        && let Ok(pattern) = Pattern::parse(pattern)
    {
        let line: String = line.chars().take(200).collect();
        assert!(!pattern.is_match(line.as_bytes()) || pattern.may_match(line.as_bytes()), "what may not match does not");
    }
});
