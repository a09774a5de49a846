//! The part of a line that stands before a position: read again, so that the line is whole.

use super::lines::Assembler;
use super::query::Query;
use crate::log::read::Log;
use crate::log::record::PREFIX_LEN;
use crate::log::scan::Scanner;
use std::io;

/// The beginning of a line is looked up only this far back, in bytes.
const LINE_START_MAX: u64 = 1 << 20;

/// The lines that are open at `at`, with what stands of them before it.
pub fn open_before(log: &Log, query: &Query, at: u64) -> io::Result<Assembler> {
    let start = log.record_start(at.saturating_sub(LINE_START_MAX).max(log.start()), log.start())?;
    let mut scan = Scanner::new(log, start, at, query.longest + PREFIX_LEN);
    let mut lines = Assembler::new(query.stream, query.longest);
    while let Some(raw) = scan.next()? {
        lines.push(&raw);
    }
    Ok(lines)
}

/// Reads again the parts before a cursor's place of lines that were unfinished there.
pub fn recall(log: &Log, assembler: &mut Assembler, at: u64, open: [Option<u64>; 2]) -> io::Result<()> {
    for (s, began) in open.into_iter().enumerate() {
        let Some(began) = began.filter(|began| *began >= log.start()) else { continue };
        let mut own = Assembler::like(assembler);
        let mut scan = Scanner::new(log, began, at.min(began + LINE_START_MAX), own.longest() + PREFIX_LEN);
        while let Some(raw) = scan.next()? {
            own.push(&raw);
        }
        own.keep_open([s == 0, s == 1]);
        assembler.adopt(own);
    }
    Ok(())
}
