//! `output` for a model: whose lines, which of how many, what happened meanwhile, the exact call for what was left out,
//! the cursor; and below that the lines.

use super::lines::{self, Body};
use super::{ERROR, LABEL, SHORT_LABEL, answer, lines_in_words, name, names, state, told};
use crate::manager::problem;
use crate::manager::watch::Run;
use crate::mcp::tools::output::{Output, Process};
use crate::output::wait::WaitOutcome;
use crate::rundir::State;
use std::fmt::Write;
use std::sync::Arc;

/// Processes whose state the first line tells.
const TOLD: usize = 6;
/// Characters of a line that matched before the wait.
const EARLIER: usize = 100;

/// How much the first line tells: less and less if it would leave no space for lines.
#[derive(Clone, Copy, PartialEq)]
enum Detail {
    All,
    ShortLabels,
    /// Of the next call no more than its cursor, too.
    Least,
}

pub fn text(output: &Output) -> String {
    let names = output.names();
    let earlier = output.earlier.as_ref().map(|line| lines::one(line, EARLIER)).unwrap_or_default();
    let mut room = output.max_bytes;
    loop {
        let longest = lines::longest(output.lines, room);
        let mut body = earlier.clone();
        body.append(lines::body(&output.selection.lines, &names, longest, room));
        let parts = first_line(output, &body);
        let text = answer(&parts, &body.text);
        let surplus = text.len().saturating_sub(output.max_bytes);
        if surplus == 0 || room == 0 {
            return text;
        }
        room = room.saturating_sub(surplus);
    }
}

/// The parts of the first line, as many as fit beside some lines.
fn first_line(output: &Output, body: &Body) -> Vec<String> {
    let most = output.max_bytes;
    for (detail, most) in [(Detail::All, most / 2), (Detail::ShortLabels, most / 4 * 3)] {
        let parts = parts(output, body, detail);
        if parts.iter().map(|part| part.len() + 2).sum::<usize>() <= most {
            return parts;
        }
    }
    parts(output, body, Detail::Least)
}

fn parts(output: &Output, body: &Body, detail: Detail) -> Vec<String> {
    let mut parts = summary(output, detail);
    parts.push(counts(output, body.count));
    parts.extend(told(body));
    parts.extend(next_call(output, output.selection.lines.len() - body.count, detail));
    parts.extend(output.selection.cursor.as_ref().map(|cursor| format!("cursor={cursor}")));
    parts
}

/// Whose output it is, and what happened.
fn summary(output: &Output, detail: Detail) -> Vec<String> {
    let read = |process: &&Process| !process.runs.is_empty();
    let count = output.processes.iter().filter(read).count();
    let mut parts: Vec<String> =
        output.processes.iter().filter(read).take(TOLD).map(|read| process(read, detail)).collect();
    if count > 1 && parts.iter().map(String::len).sum::<usize>() > output.max_bytes / 3 {
        parts = vec![format!("{count} processes")]; // the lines matter more, and list tells the rest
    }
    let more = count.saturating_sub(TOLD);
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    if parts.is_empty() {
        parts.push(format!("{} processes, nothing new", output.processes.len()));
    }
    if let Some(outcome) = output.waited {
        parts.push(waited(outcome, output.waits_for_quiet() && !output.selection.lines.is_empty()).into());
    }
    if output.earlier.is_some() {
        parts.push("line 1 matched before the wait".into());
    }
    parts.extend(output.gone());
    parts
}

/// `'web' r12, running 5 min, PID 17`, and of earlier runs how they ended.
fn process(process: &Process, detail: Detail) -> String {
    let mut text = String::new();
    if let [earlier @ .., newest] = process.runs.as_slice() {
        let label = if detail == Detail::All { LABEL } else { SHORT_LABEL };
        let _ = write!(text, "{}, {}", name(newest, label), state(newest));
        if let Some(problem) = problem(&newest.status()).filter(|_| tells_no_problem(newest)) {
            let _ = write!(text, ", {}", names::bare(&problem, ERROR));
        }
        for run in earlier.iter().rev().take(2) {
            let _ = write!(text, ", goes on after {}, which {}", run.name(), state_at_end(run));
        }
    }
    text
}

fn state_at_end(run: &Run) -> String {
    names::plain(&crate::manager::describe_end(&run.status()), ERROR)
}

/// Of these, the state says it already.
fn tells_no_problem(run: &Arc<Run>) -> bool {
    !matches!(run.status().state, State::Failed | State::Lost)
}

fn waited(outcome: WaitOutcome, is_loud: bool) -> &'static str {
    match outcome {
        WaitOutcome::TimedOut if is_loud => "time is up, not quiet yet",
        WaitOutcome::Matched => "wait_for matched",
        WaitOutcome::Quiet => "quiet again",
        WaitOutcome::Ended => "it ended while waiting",
        WaitOutcome::TimedOut | WaitOutcome::Abandoned => "time is up, nothing yet",
    }
}

fn is_waiting(output: &Output) -> bool {
    matches!(output.waited, Some(WaitOutcome::TimedOut | WaitOutcome::Abandoned))
}

fn counts(output: &Output, shown: usize) -> String {
    let selection = &output.selection;
    let mut text = lines_in_words(shown as u64);
    if output.earlier.is_some() {
        text = text.replacen(' ', " new ", 1);
    }
    if let Some(before) = selection.before {
        let before = before + (selection.lines.len() - shown) as u64;
        let _ = write!(text, ", {before} before");
    }
    if let Some(after) = selection.after.filter(|after| *after > 0) {
        let _ = write!(text, ", {after} after");
    }
    text
}

/// The next call, if `left` lines at the beginning did not fit.
fn next_call(output: &Output, left: usize, detail: Detail) -> Option<String> {
    let selection = &output.selection;
    let is_done = left == 0 && !selection.is_cut;
    if is_waiting(output) && is_done {
        return Some(match detail {
            Detail::Least => "to go on waiting: the same call with after=<cursor>".into(),
            _ => format!("to go on waiting: {}", output.call_again()),
        });
    }
    let has_older = left > 0 || selection.is_cut;
    (has_older && (selection.lines.get(left).is_some() || !selection.stopped.is_empty())).then(|| match detail {
        Detail::Least => format!("older lines: the same call with before=\"{}\"", output.cursor_before(left)),
        _ => format!("older lines: {}", output.call_before(left)),
    })
}
