//! Answers of the server, for people, and the part of them that programs get as JSON.

use crate::log::stamp::{now_ms, parse_time};
use crate::words::{one_line, quote};
use serde_json::Value;

/// A member as it is shown: escaped here already, so that the columns are as wide as what is in them.
fn text(value: &Value, key: &str) -> String {
    one_line(value[key].as_str().unwrap_or(""))
}

/// `exit code 1`, `SIGTERM`, or nothing.
fn outcome(value: &Value) -> Option<String> {
    let signal = Some(text(value, "signal")).filter(|signal| !signal.is_empty());
    value["exit_code"].as_i64().map(|code| format!("exit code {code}")).or(signal)
}

/// What programs are told of a start, stop or restart.
const CONTROL: [&str; 11] = [
    "action",
    "pid",
    "label",
    "exit_code",
    "signal",
    "run",
    "cursor",
    "waited",
    "log_stdout",
    "log_stderr",
    "log_combined",
];

/// What became of start, stop or restart, for programs: the members of [`CONTROL`], as far as they are there.
pub fn control_json(answer: &Value) -> Value {
    let is_there = |key: &&&str| !answer[**key].is_null();
    CONTROL.iter().filter(is_there).map(|key| (key.to_string(), answer[*key].clone())).collect()
}

/// What became of start, stop or restart, in one line.
pub fn control(answer: &Value) -> String {
    let (label, pid) = (text(answer, "label"), &answer["pid"]);
    let outcome = outcome(answer).map_or(String::new(), |outcome| format!(" ({outcome})"));
    match (text(answer, "action").as_str(), text(answer, "status").as_str()) {
        ("stop", _) if answer["was_over"] == Value::Bool(true) => format!("'{label}' had ended already{outcome}."),
        ("stop", _) => {
            let killed = answer["killed_processes"].as_u64().filter(|n| *n > 0);
            let killed = killed.map_or(String::new(), |n| format!("; {n} had to be killed"));
            format!("Stopped '{label}', PID {pid}{outcome}{killed}.")
        }
        (action, "running" | "detached") => format!("{}ed '{label}', PID {pid}.", capitalised(action)),
        (action, state) => format!("{}ed '{label}', PID {pid}, but it has {state}{outcome}.", capitalised(action)),
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Columns of the table where no terminal tells, if labels are not too long.
pub const WIDTH: usize = 100;
const HEADER: [&str; 6] = ["PID", "STATUS", "SINCE", "CPU", "MEM", "PORT"];

/// A table: what runs first, then what ended, the newest last. `is_narrowed`: not everything was asked for.
pub fn list(answer: &Value, is_narrowed: bool, width: usize) -> Vec<String> {
    let none = Vec::new();
    let processes = answer["processes"].as_array().unwrap_or(&none);
    if processes.is_empty() && is_narrowed {
        return vec!["Nothing has been started there; `persistproc list` shows what has been elsewhere.".into()];
    }
    if processes.is_empty() {
        return vec!["Nothing has been started yet. For example: persistproc npm run dev".into()];
    }
    let is_live = |process: &&Value| matches!(text(process, "status").as_str(), "running" | "detached");
    let live = processes.iter().filter(is_live);
    let ended = processes.iter().filter(|process| !is_live(process));
    let sorted: Vec<&Value> = live.chain(ended).collect();
    let rows: Vec<[String; 6]> = sorted.iter().map(|process| cells(process)).collect();
    let mut widths = HEADER.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    // A column that nobody fills is not there.
    let is_used: [bool; 6] = std::array::from_fn(|i| i < 3 || rows.iter().any(|row| !row[i].is_empty()));
    let columns = |cells: &[String; 6]| -> String {
        let columns = cells.iter().zip(widths).zip(is_used).filter(|(_, is_used)| *is_used);
        columns.map(|((cell, width), _)| format!("{cell:<width$}  ")).collect()
    };
    let mut lines = vec![format!("{}LABEL", columns(&HEADER.map(String::from)))];
    for (process, row) in sorted.into_iter().zip(&rows) {
        let columns = columns(row);
        let room = width.saturating_sub(columns.chars().count());
        lines.push(columns + &name(process, room));
    }
    lines
}

fn cells(process: &Value) -> [String; 6] {
    let pid = process["pid"].as_i64().filter(|pid| *pid > 0).map_or("-".into(), |pid| pid.to_string());
    let status = text(process, "status");
    let status = outcome(process).map_or(status.clone(), |outcome| format!("{status}, {outcome}"));
    let time = process["end_time"].as_str().or(process["start_time"].as_str());
    let cpu = process["cpu_percent"].as_f64().map_or(String::new(), |cpu| format!("{cpu:.0}%"));
    let memory =
        process["memory_bytes"].as_u64().map_or(String::new(), |bytes| format!("{}M", bytes.div_ceil(1_000_000)));
    let ports = process["ports"].as_array().into_iter().flatten().map(Value::to_string);
    [pid, status, time.map_or(String::new(), age), cpu, memory, ports.take(3).collect::<Vec<_>>().join(",")]
}

/// The label, and in what room is left what it is and what it said last.
fn name(process: &Value, room: usize) -> String {
    let mut name = text(process, "label");
    let directory = text(process, "working_directory");
    let error = text(process, "error");
    if !error.is_empty() {
        return format!("{name}  [{error}]"); // whole: it is what matters
    }
    let last = text(process, "last_line");
    let room = room.saturating_sub(name.chars().count());
    let mut left = room;
    if !name.ends_with(&format!(" in {directory}")) {
        let command: Vec<&str> =
            process["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let what = format!("({} in {directory})", one_line(&quote(&command)));
        let most = if last.is_empty() { room } else { room.saturating_sub(last.chars().count() + 4).max(room / 2) };
        push_clipped(&mut name, &what, "", most, &mut left);
    }
    if !last.is_empty() {
        push_clipped(&mut name, &last, "| ", left, &mut left.clone());
    }
    name
}

/// Two blanks and `text` in `most` columns, if at least its beginning fits.
fn push_clipped(name: &mut String, text: &str, before: &str, most: usize, left: &mut usize) {
    const LEAST: usize = 8;
    let room = most.saturating_sub(2 + before.len());
    if room < LEAST.min(text.chars().count()) {
        return;
    }
    let is_whole = text.chars().count() <= room;
    let shown: String = text.chars().take(if is_whole { room } else { room - 1 }).collect();
    let end = if is_whole { "" } else { "…" };
    *left = left.saturating_sub(2 + before.len() + shown.chars().count() + end.chars().count());
    name.push_str(&format!("  {before}{shown}{end}"));
}

fn age(time: &str) -> String {
    let now = now_ms();
    let seconds = parse_time(time, now).map_or(0, |then| now.saturating_sub(then) / 1000);
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_is_a_table_with_what_runs_first() {
        let answer = json!({"processes": [
            {"pid": 7, "label": "old in /x", "working_directory": "/x", "command": ["old"], "status": "exited", "exit_code": 3, "end_time": "2026-01-02T03:04:05.678Z", "last_line": "that is all"},
            {"pid": 12345, "label": "web", "working_directory": "/w", "command": ["npm", "run", "my dev"], "status": "running", "memory_bytes": 85_400_000, "ports": [3000], "last_line": "Local: http://localhost:3000/"},
        ]});
        let lines = list(&answer, false, WIDTH);
        let table = lines.join("\n");
        assert_eq!(lines[0], "PID    STATUS               SINCE    MEM  PORT  LABEL");
        assert!(
            lines[1].starts_with("12345  running ") && lines[1].contains(" 86M  3000  web  (npm run 'my dev' in "),
            "{table}"
        );
        assert!(lines[1].ends_with("  | Local: http://localhost:3000/") || lines[1].chars().count() == 100, "{table}");
        assert!(
            lines[2].starts_with("7      exited, exit code 3  ") && lines[2].ends_with("old in /x  | that is all"),
            "{table}"
        );
        assert!(lines.iter().all(|line| line.chars().count() <= 100), "{table}");
        assert!(list(&json!({"processes": []}), false, WIDTH)[0].contains("Nothing has been started"));
    }

    #[test]
    fn what_a_server_says_is_shown_escaped_and_within_its_row() {
        const HOSTILE: &str = "x\x1b]0;pwn\x07\nlast";
        let process = |error: Value| json!({"pid": 7, "label": HOSTILE, "working_directory": HOSTILE, "command": [HOSTILE], "status": HOSTILE, "signal": HOSTILE, "last_line": HOSTILE, "error": error});
        let answer = json!({"processes": [process(Value::Null), process(json!(HOSTILE))]});
        let mut lines = list(&answer, false, 1000);
        for action in ["start", "stop", HOSTILE] {
            lines.push(control(&json!({"action": action, "status": HOSTILE, "label": HOSTILE, "signal": HOSTILE})));
        }
        assert_eq!(lines.len(), 6);
        assert!(!lines.iter().any(|line| line.chars().any(char::is_control)), "{lines:?}");
        assert!(lines[3].starts_with("Started 'x\\u{1b}]0;pwn\\u{7}\\nlast', PID "), "{}", lines[3]);
    }

    #[test]
    fn what_was_done_is_said_in_one_sentence() {
        let answer = |value: Value| control(&value);
        assert_eq!(
            answer(json!({"action": "start", "status": "running", "label": "web", "pid": 7})),
            "Started 'web', PID 7."
        );
        assert_eq!(
            answer(json!({"action": "restart", "status": "exited", "exit_code": 1, "label": "web", "pid": 7})),
            "Restarted 'web', PID 7, but it has exited (exit code 1)."
        );
        assert_eq!(
            answer(
                json!({"action": "stop", "status": "terminated", "signal": "SIGKILL", "label": "web", "pid": 7, "killed_processes": 2})
            ),
            "Stopped 'web', PID 7 (SIGKILL); 2 had to be killed."
        );
        assert_eq!(
            answer(json!({"action": "stop", "was_over": true, "exit_code": 0, "label": "web", "pid": 7})),
            "'web' had ended already (exit code 0)."
        );
    }
}
