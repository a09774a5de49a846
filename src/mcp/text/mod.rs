//! Answers → what a model reads: one text. Its first line is ours, and holds all that a model needs to go on: whose
//! output it is, its state, counts, what is left out and the exact call that reads it, the cursor. All below is what
//! programs printed. So no program can end an answer with a call of its own, or forge a restart.
//!
//! What must stand at its line (`⟦×37⟧`, `⟦unfinished⟧`) stands in brackets that the text of programs does not have here,
//! see [`crate::output::view`]; such a mark costs 8 tokens. Refuted: a gutter (`| `) before each line. Measured with the
//! vocabulary o200k on answers with Vite's output, tracebacks, access logs, JSON logs and test reports, it costs 1.7 tokens
//! for each line, 1.5 to 14 % of an answer and 5 % of all; the first line holds the same words as before, and costs nothing.
//!
//! Clients cut long results in the middle or keep only the start, so everything is within a budget.

mod ctrl;
mod lines;
mod list;
mod names;
mod output;

use super::tools::Answer;
use crate::log::stamp::now_ms;
use crate::manager::watch::Run;
use crate::manager::{age, describe_end, problem};
use crate::os_text;
use crate::rundir::State;
use lines::Body;

/// Bytes of a label in a sentence, and where space is short.
const LABEL: usize = 60;
const SHORT_LABEL: usize = 20;
/// Bytes of an error in a sentence.
const ERROR: usize = 200;
/// Bytes of a refusal: it may repeat what was asked for.
const REFUSAL: usize = 4000;
/// New runs that the first line tells.
const RUNS: usize = 4;

pub fn text(answer: &Answer) -> String {
    match answer {
        Answer::Processes(listing) => list::text(listing),
        Answer::Control(control) => ctrl::text(control),
        Answer::Output(output) => output::text(output),
    }
}

/// Why a call failed, on one line.
pub fn refusal(text: &str) -> String {
    format!("{}\n", names::plain(text, REFUSAL))
}

/// The first line, of these parts, and what stands below it.
fn answer(parts: &[String], body: &str) -> String {
    // Its parts are on one line and show all that they hold; whatever slips in shall not add a line.
    format!("{}\n{body}", os_text::one_line(&parts.join("; ")))
}

/// What the first line tells of the rows below it.
fn told(body: &Body) -> Vec<String> {
    let mut told = Vec::new();
    if !body.runs.is_empty() {
        let mut runs: Vec<String> =
            body.runs.iter().take(RUNS).map(|(run, row)| format!("r{run} begins at line {row}")).collect();
        if body.runs.len() > RUNS {
            runs.push(format!("{} more are marked", body.runs.len() - RUNS));
        }
        told.push(runs.join(", "));
    }
    told.extend(dropped(body.hidden));
    told
}

fn dropped(hidden: usize) -> Option<String> {
    (hidden > 0).then(|| format!("{hidden} invisible character{} dropped", if hidden == 1 { "" } else { "s" }))
}

/// What a run is or was, in a few words: `running 5 min, PID 17`, `has ended by itself (exit code 1), 3 min ago`.
fn state(run: &Run) -> String {
    let status = run.status();
    let since = |ms: Option<u64>| age(now_ms().saturating_sub(ms.unwrap_or(run.meta.created)));
    match status.state {
        State::Running => format!("running {}, PID {}", since(Some(status.started)), status.pid),
        State::Detached => format!("detached: PID {} {}", status.pid, describe_end(&status)),
        State::Failed => {
            format!("could not be started: {}", names::quoted(&problem(&status).unwrap_or_default(), ERROR))
        }
        State::Lost => names::plain(&describe_end(&status), ERROR),
        State::Exited | State::Terminated => format!("{}, {} ago", describe_end(&status), since(status.ended)),
    }
}

/// `'web' r12`, the label of at most so many bytes.
fn name(run: &Run, most: usize) -> String {
    format!("{} {}", names::quoted(&run.meta.label, most), run.name())
}

/// `1 line`, `5 lines`.
fn lines_in_words(count: u64) -> String {
    format!("{count} line{}", if count == 1 { "" } else { "s" })
}

/// `85 MB`: decimal, in two digits or more.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        None => format!("{bytes} B"),
        Some((unit, name)) if bytes / unit >= 10 => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits() {
        let shown = [0, 999, 1000, 1949, 85_400_000, 2_150_000_000].map(size);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.9 kB", "85 MB", "2.1 GB"]);
    }

    #[test]
    fn ages_have_one_number() {
        let shown = [0, 119_999, 120_000, 7_199_999, 7_200_000, 200_000_000].map(age);
        assert_eq!(shown, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
