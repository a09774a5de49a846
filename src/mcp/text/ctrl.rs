//! What became of `ctrl`: a sentence, and after a start the verdict with the first lines.

use super::{lines, name, set, state};
use crate::manager::{describe_end, overview};
use crate::mcp::tools::ctrl::{Control, Verdict};
use crate::output::wait::Outcome;
use crate::sys;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// Budget for the lines of a fresh process, in bytes.
const ROOM: usize = 4000;

pub fn text(control: &Control) -> String {
    let Control { action, run, stopped, verdict, cursor, .. } = control;
    let label = name(run);
    if let Some(verdict) = verdict {
        return started(control, verdict);
    }
    match stopped {
        Some(stopped) if stopped.was_over => format!("{label} was not running: it {}\n", describe_end(&stopped.status)),
        Some(stopped) => {
            let mut text = format!("{label} {}", describe_end(&stopped.status));
            if let Some(stop) = &stopped.status.stop {
                let _ = write!(text, "; {} process{} ended", stop.asked, if stop.asked == 1 { "" } else { "es" });
                if stop.killed > 0 {
                    let _ = write!(text, ", {} had to be killed", stop.killed);
                }
            }
            text + "\n"
        }
        None => {
            let to = if *action == "input" { "the stdin of " } else { "" };
            let cursor = cursor.as_ref().map_or(String::new(), |cursor| format!("; cursor={cursor}"));
            format!("sent to {to}{label}, PID {}{cursor}\n", run.status().pid)
        }
    }
}

/// `ready`, `exited` or `running`.
fn word(control: &Control, verdict: &Verdict) -> &'static str {
    if control.run.status().leader_ended.is_some() || control.run.is_over() {
        return "exited";
    }
    if verdict.outcome == Outcome::Matched { "ready" } else { "running" }
}

fn started(control: &Control, verdict: &Verdict) -> String {
    let Control { action, run, .. } = control;
    let word = word(control, verdict);
    let took = seconds(verdict.took);
    let what = match (word, verdict.outcome) {
        ("exited", Outcome::Matched) => {
            format!("exited: wait_for matched, but it {} after {took}", describe_end(&run.status()))
        }
        ("exited", _) => format!("exited: it {} after {took}", describe_end(&run.status())),
        ("ready", _) => format!("ready: wait_for matched after {took}, PID {}", run.status().pid),
        (_, Outcome::Quiet) => format!("running and quiet after {took}, PID {}", run.status().pid),
        _ => format!("running after {took}, PID {}", run.status().pid),
    };
    let mut text = format!("{action}: {} {what}", name(run));
    if word == "exited" && run.status().exit_code.is_none() && run.status().signal.is_none() {
        let _ = write!(text, "; {}", state(run));
    }
    if !verdict.urls.is_empty() {
        let _ = write!(text, "; {}", verdict.urls.join(" "));
    }
    if !verdict.ports.is_empty() {
        let ports: Vec<String> = verdict.ports.iter().map(u16::to_string).collect();
        let _ = write!(text, "; listens on {}", ports.join(" "));
    }
    let _ = writeln!(text, "; cursor={}", verdict.cursor);
    if let Some(twin) = &control.twin {
        let _ = writeln!(
            text,
            "[the same command runs there as {}, PID {}, too; if one is enough, stop this one]",
            name(twin),
            twin.status().pid
        );
    }
    if word == "exited" {
        for (title, lines) in [("stderr", &verdict.errors), ("stdout", &verdict.lines)] {
            if !lines.is_empty() {
                let _ = writeln!(text, "--- {title}, last lines ---");
                lines::push_all(&mut text, lines, ROOM / 2);
            }
        }
        return text;
    }
    let room = if verdict.last.is_empty() { ROOM } else { ROOM / 2 };
    lines::push_all(&mut text, &verdict.lines, room);
    if verdict.left_out > 0 {
        let _ = writeln!(text, "[{} lines left out]", verdict.left_out);
    }
    lines::push_all(&mut text, &verdict.last, room);
    if let Some(wait_for) = verdict.wait_for.as_ref().filter(|_| verdict.outcome == Outcome::TimedOut) {
        let (after, wait_for) = (json!(verdict.cursor.to_string()), json!(wait_for));
        let _ = writeln!(text, "[not ready yet; to go on waiting: output after={after} wait_for={wait_for}]");
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

pub fn json(control: &Control) -> Value {
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
    let status = control.stopped.as_ref().map_or_else(|| control.run.status(), |stopped| stopped.status.clone());
    set(&mut value, "exit_code", status.exit_code);
    set(&mut value, "signal", status.signal.map(sys::signal_name));
    if let Some(stopped) = &control.stopped {
        value["was_over"] = json!(stopped.was_over);
        set(&mut value, "stopped_processes", status.stop.as_ref().map(|stop| stop.asked));
        set(&mut value, "killed_processes", status.stop.as_ref().map(|stop| stop.killed));
    }
    if let Some(verdict) = &control.verdict {
        value["verdict"] = json!(word(control, verdict));
        value["cursor"] = json!(verdict.cursor.to_string());
        value["urls"] = json!(verdict.urls);
        value["ports"] = json!(verdict.ports);
    }
    value
}
