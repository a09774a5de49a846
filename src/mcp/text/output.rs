//! `output` for a model: whose lines, which of how many, what happened meanwhile, the cursor; then the lines; then the
//! exact call for what was left out.

use super::{lines, lines_in_words, name, set, state};
use crate::manager::problem;
use crate::manager::watch::Run;
use crate::mcp::tools::output::{Output, Process};
use crate::output::query::stamped_line;
use crate::output::wait::Outcome;
use crate::rundir::State;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// Processes whose state the first line tells.
const TOLD: usize = 6;
/// Characters of a line that was there before somebody waited for it.
const EARLIER: usize = 100;

pub fn text(output: &Output) -> String {
    let selection = &output.selection;
    let names = output.names();
    let head = summary(output);
    let cursor = selection.cursor.as_ref().map_or(String::new(), |cursor| format!("; cursor={cursor}"));
    // The counts; and the offset of a later line may have more digits.
    let frame = 80;
    let footers = [0, selection.lines.len().saturating_sub(1)].map(|i| footer(output, i).map_or(0, |text| text.len()));
    let footer = footers.into_iter().max().unwrap_or(0);
    let room = output.max_bytes.saturating_sub(head.len() + cursor.len() + footer + frame);
    let mut body = String::new();
    let shown = lines::push(&mut body, &selection.lines, &names, lines::longest(output.lines, room), room);
    let mut text = format!("{head}; {}", counts(output, shown));
    text.push_str(&cursor);
    text.push('\n');
    text.push_str(&body);
    let left = selection.lines.len() - shown;
    if let Some(footer) = self::footer(output, left).filter(|_| left > 0 || selection.is_cut || is_waiting(output)) {
        text.push_str(&footer);
    }
    text
}

/// Whose output it is, and what happened.
fn summary(output: &Output) -> String {
    let read = |process: &&Process| !process.runs.is_empty();
    let count = output.processes.iter().filter(read).count();
    let mut parts: Vec<String> = output.processes.iter().filter(read).take(TOLD).map(process).collect();
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
    if let Some(line) = &output.earlier {
        parts.push(format!("it had said before: {}", lines::show(line, EARLIER)));
    }
    parts.extend(gone(output));
    parts.join("; ")
}

/// `'web' r12, running 5 min, PID 17`, and of earlier runs how they ended.
fn process(process: &Process) -> String {
    let mut text = String::new();
    if let [earlier @ .., newest] = process.runs.as_slice() {
        let _ = write!(text, "{}, {}", name(newest), state(newest));
        if let Some(problem) = problem(&newest.status()).filter(|_| tells_no_problem(newest)) {
            let _ = write!(text, ", {problem}");
        }
        for run in earlier.iter().rev().take(2) {
            let _ =
                write!(text, ", goes on after {}, which {}", run.name(), crate::manager::describe_end(&run.status()));
        }
    }
    text
}

/// Of these, the state says it already.
fn tells_no_problem(run: &Arc<Run>) -> bool {
    !matches!(run.status().state, State::Failed | State::Lost)
}

fn waited(outcome: Outcome, is_loud: bool) -> &'static str {
    match outcome {
        Outcome::TimedOut if is_loud => "time is up, not quiet yet",
        Outcome::Matched => "wait_for matched",
        Outcome::Quiet => "quiet again",
        Outcome::Over => "it ended while waiting",
        Outcome::TimedOut | Outcome::Abandoned => "time is up, nothing yet",
    }
}

fn is_waiting(output: &Output) -> bool {
    matches!(output.waited, Some(Outcome::TimedOut | Outcome::Abandoned))
}

/// What of the range is not kept any more.
fn gone(output: &Output) -> Vec<String> {
    let mut gone: Vec<String> = output
        .gone_runs
        .iter()
        .map(|run| format!("r{run} of the cursor is not kept any more, this is what is"))
        .collect();
    if !output.selection.stopped.is_empty() {
        gone.push("the search took too long, so older lines were not searched".into());
    }
    if output.selection.gone > 0 {
        gone.push(format!("{} bytes after the cursor are no longer kept", output.selection.gone));
    }
    gone
}

fn counts(output: &Output, shown: usize) -> String {
    let selection = &output.selection;
    let mut text = lines_in_words(shown as u64);
    if let Some(before) = selection.before {
        let before = before + (selection.lines.len() - shown) as u64;
        let _ = write!(text, ", {before} before");
    }
    if let Some(after) = selection.after.filter(|after| *after > 0) {
        let _ = write!(text, ", {after} after");
    }
    text
}

/// The next call, if `left` lines at the beginning found no room.
fn footer(output: &Output, left: usize) -> Option<String> {
    if is_waiting(output) && !output.selection.is_cut && left == 0 {
        return Some(format!("[to go on waiting: {}]\n", output.call_again()));
    }
    if !output.selection.stopped.is_empty() && left == 0 {
        return Some(format!("[the search took too long; to go on with older lines: {}]\n", output.call_before(0)));
    }
    output.selection.lines.get(left)?;
    Some(format!("[older lines were left out; for them: {}]\n", output.call_before(left)))
}

pub fn json(output: &Output) -> Value {
    let names = output.names();
    let shown = |selected| String::from_utf8_lossy(&stamped_line(selected, &names)).into_owned();
    let mut value = json!({"output": output.selection.lines.iter().map(shown).collect::<Vec<_>>()});
    set(&mut value, "cursor", output.selection.cursor.as_ref().map(ToString::to_string));
    if let [Process { label, runs, .. }] = output.processes.as_slice() {
        value["label"] = json!(label);
        set(&mut value, "run", runs.last().map(|run| run.name()));
        set(&mut value, "status", runs.last().map(|run| run.status().state.name()));
    } else {
        value["labels"] = json!(output.processes.iter().map(|process| &process.label).collect::<Vec<_>>());
    }
    set(&mut value, "lines_before", output.selection.before);
    set(&mut value, "lines_after", output.selection.after);
    set(&mut value, "waited", output.waited.map(outcome_name));
    set(&mut value, "note", note(output));
    value
}

pub fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Matched => "matched",
        Outcome::Quiet => "quiet",
        Outcome::Over => "ended",
        Outcome::TimedOut => "timeout",
        Outcome::Abandoned => "abandoned",
    }
}

/// What a person should know beside the lines: restarts, and what is gone.
pub fn note(output: &Output) -> Option<String> {
    let mut notes = gone(output);
    for process in &output.processes {
        if let [_, .., newest] = process.runs.as_slice() {
            notes.push(format!("'{}' was restarted; this goes on with {}", process.label, newest.name()));
        }
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}
