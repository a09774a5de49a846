//! Answers → what a model reads: one text, the summary first, then lines, and last the exact call for what was left out.
//! Clients cut long results in the middle or keep only the start, so everything is within a budget.
//!
//! And the same answers as JSON, for our own command line.

use super::tools::{Answer, Control, Output};
use crate::log::stamp::now_ms;
use crate::manager::watch::Run;
use crate::manager::{Overview, describe_end, overview, problem};
use crate::output::lines::Line;
use crate::output::query::stamped_line;
use crate::output::view;
use crate::output::wait::Outcome;
use crate::rundir::State;
use serde_json::{Value, json};
use std::fmt::Write;

/// Characters of one line.
const LINE: usize = 500;
/// Budget of a list, in bytes.
const LIST: usize = 8000;

pub fn text(answer: &Answer) -> String {
    match answer {
        Answer::Processes(processes) => list(processes),
        Answer::Control(control) => self::control(control),
        Answer::Output(output) => self::output(output),
    }
}

/// The shapes of the Python program, and what is new beside them.
pub fn json(answer: &Answer) -> Value {
    match answer {
        Answer::Processes(processes) => json!({"processes": processes}),
        Answer::Control(control) => {
            let run = overview(&control.run);
            let mut value = json!({
                "action": control.action,
                "pid": run.pid,
                "label": run.label,
                "run": run.run,
                "status": run.status,
                "log_stdout": run.log_stdout,
                "log_stderr": run.log_stderr,
                "log_combined": run.log_combined,
            });
            let status =
                control.stopped.as_ref().map_or_else(|| control.run.status(), |stopped| stopped.status.clone());
            set(&mut value, "exit_code", status.exit_code);
            set(&mut value, "signal", status.signal.map(crate::sys::signal_name));
            if let Some(stopped) = &control.stopped {
                value["was_over"] = json!(stopped.was_over);
                set(&mut value, "stopped_processes", status.stop.as_ref().map(|stop| stop.asked));
                set(&mut value, "killed_processes", status.stop.as_ref().map(|stop| stop.killed));
            }
            value
        }
        Answer::Output(output) => {
            let shown = |line: &Line| String::from_utf8_lossy(&stamped_line(line)).into_owned();
            let mut value = json!({
                "output": output.selection.lines.iter().map(shown).collect::<Vec<_>>(),
                "cursor": output.selection.cursor.to_string(),
                "label": output.run.meta.label,
                "status": output.run.status().state.name(),
            });
            set(&mut value, "lines_before", output.selection.before);
            set(&mut value, "lines_after", output.selection.after);
            set(&mut value, "waited", output.waited.map(outcome_name));
            value
        }
    }
}

fn set(value: &mut Value, key: &str, member: Option<impl Into<Value>>) {
    if let Some(member) = member {
        value[key] = member.into();
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Matched => "matched",
        Outcome::Quiet => "quiet",
        Outcome::Over => "ended",
        Outcome::TimedOut => "timeout",
        Outcome::Abandoned => "abandoned",
    }
}

/// `3 s`, `5 min`, `2 h`, `4 d`: an age in one number.
fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// What a run is or was, in a few words: `running 5 min, PID 17`, `exited 3 min ago (exit code 1)`.
fn state(run: &Run) -> String {
    let status = run.status();
    let since = |ms: Option<u64>| age(now_ms().saturating_sub(ms.unwrap_or(run.meta.created)));
    match status.state {
        State::Running => format!("running {}, PID {}", since(Some(status.started)), status.pid),
        State::Detached => format!("detached: PID {} {}", status.pid, describe_end(&status)),
        State::Failed | State::Lost => describe_end(&status),
        State::Exited | State::Terminated => format!("{}, {} ago", describe_end(&status), since(status.ended)),
    }
}

fn list(processes: &[Overview]) -> String {
    let (live, ended): (Vec<&Overview>, Vec<&Overview>) =
        processes.iter().partition(|p| matches!(p.status, "running" | "detached"));
    let mut text = format!("{} running, {} ended", live.len(), ended.len());
    text.push_str(if processes.is_empty() { "; nothing has been started yet\n" } else { "\n" });
    // Live ones first, then the ones that ended last.
    let mut left_out = 0;
    for process in live.into_iter().chain(ended.into_iter().rev()) {
        let line = list_line(process);
        if text.len() + line.len() > LIST { left_out += 1 } else { text.push_str(&line) }
    }
    if left_out > 0 {
        let _ = writeln!(text, "[{left_out} more; narrow it with working_directory or command_or_label]");
    }
    text
}

fn list_line(process: &Overview) -> String {
    let mut line = format!("{}: {}", view::clip(&process.label, 150), process.status);
    if process.pid > 0 {
        let _ = write!(line, ", PID {}", process.pid);
    }
    let outcome = process.exit_code.map(|code| format!("exit code {code}")).or(process.signal.clone());
    for part in [
        outcome,
        process.start_time.as_ref().map(|t| format!("started {t}")),
        process.end_time.as_ref().map(|t| format!("ended {t}")),
        process.error.clone(),
    ]
    .into_iter()
    .flatten()
    {
        let _ = write!(line, ", {part}");
    }
    let default_label = format!(" in {}", process.working_directory);
    if !process.label.ends_with(&default_label) {
        let command = view::clip(&crate::words::quote(&process.command), 100);
        let _ = write!(line, ", {command}{default_label}");
    }
    if !process.run.is_empty() {
        let _ = write!(line, ", {}", process.run);
    }
    line.push('\n');
    line
}

fn control(control: &Control) -> String {
    let run = &control.run;
    let label = &run.meta.label;
    let mut text = match (control.action, &control.stopped) {
        (_, Some(stopped)) if stopped.was_over => {
            format!("'{label}' was not running: it {}\n", describe_end(&stopped.status))
        }
        (_, Some(stopped)) => {
            let mut text = format!("'{label}' {}", describe_end(&stopped.status));
            if let Some(stop) = &stopped.status.stop {
                let _ = write!(text, "; {} processes ended", stop.asked);
                if stop.killed > 0 {
                    let _ = write!(text, ", {} signals KILL were needed", stop.killed);
                }
            }
            text + "\n"
        }
        ("input", None) => format!("sent to the stdin of '{label}'\n"),
        ("signal", None) => format!("sent to '{label}', PID {}\n", run.status().pid),
        (action, None) => format!("{action}: '{label}' {}, {}", run.name(), state(run)),
    };
    if let Some((selection, outcome)) = &control.first {
        let verdict = match outcome {
            Outcome::Matched => "ready: wait_for matched",
            Outcome::Over => "it has ended",
            Outcome::TimedOut | Outcome::Quiet | Outcome::Abandoned => "no end and no match so far",
        };
        let _ = writeln!(text, "; {verdict}; cursor={}", selection.cursor);
        push_lines(&mut text, &selection.lines, 4000);
    }
    text
}

fn output(output: &Output) -> String {
    let Output { run, selection, .. } = output;
    let mut text = format!("'{}' {}, {}; ", run.meta.label, run.name(), state(run));
    if let Some(outcome) = output.waited {
        text.push_str(match outcome {
            Outcome::Matched => "wait_for matched; ",
            Outcome::Quiet => "quiet again; ",
            Outcome::Over => "it ended while waiting; ",
            Outcome::TimedOut | Outcome::Abandoned => "nothing yet, still waiting: call again with this cursor; ",
        });
    }
    let mut body = String::new();
    let room = output.max_bytes.saturating_sub(text.len() + 300);
    let shown = push_lines(&mut body, &selection.lines, room);
    let _ = write!(text, "{shown} lines");
    if let Some(before) = selection.before {
        let before = before + (selection.lines.len() - shown) as u64;
        let _ = write!(text, ", {before} before");
    }
    if let Some(after) = selection.after.filter(|after| *after > 0) {
        let _ = write!(text, ", {after} after");
    }
    if selection.gone > 0 {
        let _ = write!(text, ", {} bytes after the cursor are no longer kept", selection.gone);
    }
    if let Some(problem) = problem(&run.status()) {
        let _ = write!(text, "; {problem}");
    }
    let _ = writeln!(text, "; cursor={}", selection.cursor);
    text.push_str(&body);
    if let Some(note) = how_to_get_more(output, shown) {
        text.push_str(&note);
    }
    text
}

fn how_to_get_more(output: &Output, shown: usize) -> Option<String> {
    let lines = &output.selection.lines;
    let is_cut = output.selection.is_cut || shown < lines.len();
    let first = lines.get(lines.len() - shown).filter(|_| is_cut)?;
    let before = crate::log::stamp::format_ms(first.ms);
    Some(format!(
        "[older lines were left out; for them: output pid={} before_time={before}]\n",
        output.run.status().pid
    ))
}

/// Appends the newest lines that fit, each as a terminal would show it, equal neighbours as one. Tells how many of
/// `lines` that were.
fn push_lines(text: &mut String, lines: &[Line], room: usize) -> usize {
    let mut shown: Vec<(String, usize)> = Vec::new();
    let (mut bytes, mut count) = (0, 0);
    for line in lines.iter().rev() {
        let line = show(line);
        match shown.last_mut() {
            Some((same, times)) if *same == line => *times += 1,
            _ => {
                bytes += line.len() + 12;
                if bytes > room && count > 0 {
                    break;
                }
                shown.push((line, 1));
            }
        }
        count += 1;
    }
    for (line, times) in shown.iter().rev() {
        text.push_str(line);
        if *times > 1 {
            let _ = write!(text, " … ×{times}");
        }
        text.push('\n');
    }
    count
}

fn show(line: &Line) -> String {
    let text = view::clip(&view::clean(&line.text), LINE);
    let start = if line.lacks_start { "…" } else { "" };
    let end = match (line.is_finished, line.cut) {
        (_, 1..) => format!("… [{} bytes]", line.cut + line.text.len() as u64),
        (false, 0) => " (unfinished line)".into(),
        (true, 0) => String::new(),
    };
    format!("{start}{text}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Stream;

    fn line(text: &str) -> Line {
        Line { ms: 0, stream: Stream::Stdout, text: text.into(), cut: 0, is_finished: true, lacks_start: false, at: 0 }
    }

    #[test]
    fn equal_neighbours_are_one_line_and_the_newest_fit() {
        let mut lines = vec![line("first")];
        lines.extend((0..37).map(|_| line("again")));
        lines.push(line("last"));
        let mut text = String::new();
        assert_eq!(push_lines(&mut text, &lines, 1000), 39);
        assert_eq!(text, "first\nagain … ×37\nlast\n");
        let mut text = String::new();
        assert_eq!(push_lines(&mut text, &lines, 36), 38);
        assert_eq!(text, "again … ×37\nlast\n");
    }

    #[test]
    fn ages_have_one_number() {
        let shown = [0, 119_999, 120_000, 7_199_999, 7_200_000, 200_000_000].map(age);
        assert_eq!(shown, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
