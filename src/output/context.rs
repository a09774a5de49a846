//! The context of a search that continues after a cursor: which lines before the cursor a match after it may still show,
//! and how many lines after it a match before it still shows.
//!
//! Nothing of this is in the cursor. It follows from the lines just before it: one of the last `context` lines is still
//! to be had unless it was shown after an earlier match, which is at most `context` lines further back.

use super::lines::{Assembler, Line};
use super::pattern::ContextWindow;
use super::query::Query;
use super::recall::open_before;
use super::search::matches;
use crate::log::read::Log;
use crate::log::record::PREFIX_LEN;
use crate::log::scan::Scanner;
use std::io;

/// The context of a search as it stands at `at`, told by lines that are not before `floor`.
pub fn at(log: &Log, query: &Query, floor: u64, at: u64) -> io::Result<ContextWindow<Line>> {
    let needed = 2 * query.context;
    // A line may stand in several records, so that it may take more of them.
    let mut records = needed + 2;
    loop {
        let start = log.tail(at, records)?.max(floor).min(at);
        let back = look(log, query, start, at, false)?;
        if start > floor && back.lines < needed && at - start < query.most_bytes as u64 {
            records *= 2;
            continue;
        }
        return if back.lacks_start { Ok(look(log, query, start, at, true)?.around) } else { Ok(back.around) };
    }
}

/// What was seen before the cursor.
struct Back {
    around: ContextWindow<Line>,
    lines: usize,
    /// A line that began before `start` ended after it.
    lacks_start: bool,
}

/// Goes through the lines that end in `start..end`; `is_whole`: also with what stands of them before it.
fn look(log: &Log, query: &Query, start: u64, end: u64, is_whole: bool) -> io::Result<Back> {
    let mut back = Back { around: ContextWindow::new(query.context), lines: 0, lacks_start: false };
    let mut lines =
        if is_whole { open_before(log, query, start)? } else { Assembler::new(query.stream, query.longest) };
    let mut scan = Scanner::new(log, start, end, query.longest + PREFIX_LEN);
    while let Some(raw) = scan.next()? {
        let Some(line) = lines.push(&raw) else { continue };
        if query.only.is_none_or(|only| only == line.stream) {
            back.lines += 1;
            back.lacks_start |= line.lacks_start;
            let is_match = matches(query, &line);
            back.around.push(line, is_match);
        }
    }
    Ok(back)
}
