//! Selecting lines: of one run, of several runs of a process one after the other, or of several processes merged by time.

use super::caller::Caller;
use super::cursor::{Cursor, Place};
use super::lines::Line;
use super::query::{Query, Selected, Selection};
use super::reader::{self, SliceRead};
use super::scope::{Parts, Source};
use super::search::Budget;
use super::unreadable;
use crate::error::Error;
use std::collections::VecDeque;

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
    /// Where reading ended, the same for reading backwards, and whether nothing more can come.
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
        let SliceRead { lines, is_cut, end, last, is_at_end, gone, total, later, stopped } = part;
        wanted -= lines.iter().filter(|line| !line.is_context).count().min(wanted);
        read.gone += gone;
        read.is_cut |= is_cut;
        counts.total = counts.total.zip(total).map(|(sum, total)| sum + total);
        counts.later = counts.later.zip(later).map(|(sum, later)| sum + later);
        if query.is_forward {
            read.lines.extend(lines);
            read.end = Some((end, last, is_over && is_at_end));
            if is_cut || wanted == 0 {
                // The next ones come after the rest of this one.
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

#[cfg(test)]
mod tests;
