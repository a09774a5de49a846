//! What became of `ctrl`: a sentence, and after a start the verdict with the first lines below it.

use super::lines::{self, Body};
use super::{ERROR, LABEL, answer, lines_in_words, name, names, state, told};
use crate::api::params::Action;
use crate::manager::describe_end;
use crate::mcp::tools::ctrl::{Control, StartOutcome};
use crate::os_text;
use crate::output::query::Selected;
use crate::output::wait::WaitOutcome;
use crate::rundir::Status;
use std::fmt::Write;
use std::time::Duration;

/// Budget for the lines of a fresh process, in bytes.
const LINES_BUDGET: usize = 4000;

pub fn text(control: &Control) -> String {
    let Control { action, run, stopped, verdict, cursor, .. } = control;
    let label = name(run, LABEL);
    let mut parts = match (verdict, stopped) {
        (Some(verdict), _) => return started(control, verdict),
        (None, Some(stopped)) if stopped.was_over => {
            vec![format!("{label} was not running: it {}", end(&stopped.status))]
        }
        (None, Some(stopped)) => vec![format!("{label} {}", end(&stopped.status))],
        (None, None) => {
            let to = if *action == Action::Input { "the stdin of " } else { "" };
            vec![format!("sent to {to}{label}, PID {}", run.status().pid)]
        }
    };
    let stop = stopped.as_ref().filter(|stopped| !stopped.was_over).and_then(|stopped| stopped.status.stop.as_ref());
    if let Some(stop) = stop {
        let mut ended = format!("{} process{} ended", stop.asked, if stop.asked == 1 { "" } else { "es" });
        if stop.killed > 0 {
            let _ = write!(ended, ", {} had to be killed", stop.killed);
        }
        parts.push(ended);
    }
    parts.extend(cursor.as_ref().map(|cursor| format!("cursor={cursor}")));
    answer(&parts, "")
}

fn end(status: &Status) -> String {
    names::plain(&describe_end(status), ERROR)
}

/// `ready`, `exited` or `running`.
fn word(control: &Control, verdict: &StartOutcome) -> &'static str {
    if control.run.status().leader_ended.is_some() || control.run.is_over() {
        return "exited";
    }
    if verdict.outcome == WaitOutcome::Matched { "ready" } else { "running" }
}

fn started(control: &Control, verdict: &StartOutcome) -> String {
    let word = word(control, verdict);
    let (body, rows) = if word == "exited" { ended_lines(verdict) } else { first_lines(verdict) };
    let mut parts =
        vec![format!("{}: {} {}", control.action.name(), name(&control.run, LABEL), outcome(control, verdict, word))];
    let status = control.run.status();
    if word == "exited" && status.exit_code.is_none() && status.signal.is_none() {
        parts.push(state(&control.run));
    }
    if !verdict.urls.is_empty() {
        parts.push(verdict.urls.join(" "));
    }
    if !verdict.ports.is_empty() {
        let ports: Vec<String> = verdict.ports.iter().map(u16::to_string).collect();
        parts.push(format!("listens on {}", ports.join(" ")));
    }
    if let Some(duplicate) = &control.duplicate {
        let (name, pid) = (name(duplicate, LABEL), duplicate.status().pid);
        parts.push(format!("the same command runs there as {name}, PID {pid}, too: if one is enough, stop this one"));
    }
    parts.extend(rows);
    parts.extend(told(&body));
    if let Some(wait_for) =
        verdict.wait_for.as_ref().filter(|_| word != "exited" && verdict.outcome == WaitOutcome::TimedOut)
    {
        let wait_for = os_text::quote_json(wait_for);
        parts.push(format!("not ready yet; to go on waiting: output after=\"{}\" wait_for={wait_for}", verdict.cursor));
    }
    parts.push(format!("cursor={}", verdict.cursor));
    answer(&parts, &body.text)
}

fn outcome(control: &Control, verdict: &StartOutcome, word: &str) -> String {
    let (took, status) = (seconds(verdict.took), control.run.status());
    match (word, verdict.outcome) {
        ("exited", WaitOutcome::Matched) => format!("exited: wait_for matched, but it {} after {took}", end(&status)),
        ("exited", _) => format!("exited: it {} after {took}", end(&status)),
        ("ready", _) => format!("ready: wait_for matched after {took}, PID {}", status.pid),
        (_, WaitOutcome::Quiet) => format!("running and quiet after {took}, PID {}", status.pid),
        _ => format!("running after {took}, PID {}", status.pid),
    }
}

/// The last lines of what has ended, and which rows are whose: what it said on stderr is most often why.
fn ended_lines(verdict: &StartOutcome) -> (Body, Option<String>) {
    let mut body = Body::default();
    let mut rows: Vec<String> = Vec::new();
    for (stream, lines) in [("stderr", &verdict.errors), ("stdout", &verdict.lines)] {
        let first = body.rows + 1;
        body.append(lines::body_of(&lines::selected(lines), LINES_BUDGET / 2));
        match body.rows {
            last if last < first => {}
            last if last == first => rows.push(format!("{stream}: line {first}")),
            last => rows.push(format!("{stream}: lines {first}-{last}")),
        }
    }
    (body, (!rows.is_empty()).then(|| rows.join(", ")))
}

/// The first lines of what runs and the last ones, and how many there are between.
fn first_lines(verdict: &StartOutcome) -> (Body, Option<String>) {
    let lines = lines::selected(verdict.lines.iter().chain(&verdict.last));
    let whole = lines::body_of(&lines, LINES_BUDGET);
    if verdict.last.is_empty() && whole.count == lines.len() {
        return (whole, None);
    }
    let middle = if verdict.last.is_empty() { lines.len() / 2 } else { verdict.lines.len() };
    let (first, last) = lines.split_at(middle);
    let (mut body, last) = (first_that_fit(first, LINES_BUDGET / 2), lines::body_of(last, LINES_BUDGET / 2));
    let left_out = verdict.left_out + (lines.len() - body.count - last.count) as u64;
    let words = (left_out > 0).then(|| format!("{} left out after line {}", lines_in_words(left_out), body.rows));
    body.append(last);
    (body, words)
}

/// The first of these lines: where a server says its address.
fn first_that_fit(lines: &[Selected], room: usize) -> Body {
    let mut count = lines.len();
    loop {
        let body = lines::body_of(&lines[..count], room);
        if body.count == count || count <= 1 {
            return body;
        }
        count -= 1;
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
