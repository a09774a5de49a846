//! Answers of the server, for people, and the part of them that programs get as JSON. Everything that is shown is escaped
//! here, so that columns are as wide as what is in them.

use crate::api::params::Action;
use crate::api::{ControlAnswer, ListAnswer, Process, WaitOutcome};
use crate::log::stamp::{now_ms, parse_time};
use crate::os_text::{one_line, quote};
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `exit code 1`, `SIGTERM`, or nothing.
fn outcome(process: &Process) -> Option<String> {
    let code = process.exit_code.map(|code| format!("exit code {code}"));
    code.or_else(|| process.signal.as_deref().map(one_line))
}

/// What `--format json` prints of a start, stop or restart.
#[derive(Clone, Debug, Serialize)]
pub struct ControlReport {
    pub action: Action,
    pub run: String,
    pub pid: i32,
    pub label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited: Option<WaitOutcome>,
    pub log_stdout: String,
    pub log_stderr: String,
    pub log_combined: String,
}

impl ControlReport {
    pub fn new(answer: &ControlAnswer, waited: Option<WaitOutcome>) -> ControlReport {
        let process = answer.process.clone();
        ControlReport {
            action: answer.action,
            run: process.run,
            pid: process.pid,
            label: process.label,
            exit_code: process.exit_code,
            signal: process.signal,
            cursor: answer.cursor.clone(),
            waited,
            log_stdout: process.log_stdout,
            log_stderr: process.log_stderr,
            log_combined: process.log_combined,
        }
    }
}

/// What became of start, stop or restart, in one line.
pub fn control(answer: &ControlAnswer) -> String {
    let process = &answer.process;
    let (label, pid) = (one_line(&process.label), process.pid);
    let outcome = outcome(process).map_or(String::new(), |outcome| format!(" ({outcome})"));
    let done = match answer.action {
        Action::Stop if answer.was_over => return format!("'{label}' had ended already{outcome}."),
        Action::Stop => {
            let killed = answer.killed_processes;
            let killed = if killed > 0 { format!("; {killed} had to be killed") } else { String::new() };
            return format!("Stopped '{label}', PID {pid}{outcome}{killed}.");
        }
        Action::Restart => "Restarted",
        Action::Start | Action::Input | Action::Signal => "Started",
    };
    if process.state.is_live() {
        format!("{done} '{label}', PID {pid}.")
    } else {
        format!("{done} '{label}', PID {pid}, but it has {}{outcome}.", process.state.name())
    }
}

/// Width of the table where stdout is not a terminal, unless a label is longer.
pub const WIDTH: usize = 100;
const HEADER: [&str; 6] = ["PID", "STATUS", "SINCE", "CPU", "MEM", "PORT"];

/// A table: what runs first, then what ended, the newest last. `is_narrowed`: not everything was asked for.
pub fn list(answer: &ListAnswer, is_narrowed: bool, width: usize) -> Vec<String> {
    let processes = &answer.processes;
    if processes.is_empty() && is_narrowed {
        return vec!["Nothing has been started there; `persistproc list` shows what has been elsewhere.".into()];
    }
    if processes.is_empty() {
        return vec!["Nothing has been started yet. For example: persistproc npm run dev".into()];
    }
    let (live, ended): (Vec<&Process>, Vec<&Process>) = processes.iter().partition(|process| process.state.is_live());
    let sorted: Vec<&Process> = live.into_iter().chain(ended).collect();
    let rows: Vec<[String; 6]> = sorted.iter().map(|process| cells(process)).collect();
    let mut widths = HEADER.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    // A column that is empty in every row is left out.
    let is_used: [bool; 6] = std::array::from_fn(|i| i < 3 || rows.iter().any(|row| !row[i].is_empty()));
    let columns = |cells: &[String; 6]| -> String {
        let columns = cells.iter().zip(widths).zip(is_used).filter(|(_, is_used)| *is_used);
        columns.map(|((cell, width), _)| format!("{cell:<width$}  ")).collect()
    };
    let mut lines = vec![format!("{}LABEL", columns(&HEADER.map(String::from)))];
    for (process, row) in sorted.into_iter().zip(&rows) {
        let columns = columns(row);
        let room = width.saturating_sub(columns.width());
        lines.push(columns + &name(process, room));
    }
    lines
}

fn cells(process: &Process) -> [String; 6] {
    let pid = if process.pid > 0 { process.pid.to_string() } else { "-".into() };
    let state = process.state.name();
    let state = outcome(process).map_or(state.into(), |outcome| format!("{state}, {outcome}"));
    let time = process.end_time.as_deref().or(process.start_time.as_deref());
    let cpu = process.cpu_percent.map_or(String::new(), |cpu| format!("{cpu:.0}%"));
    let memory = process.memory_bytes.map_or(String::new(), |bytes| format!("{}M", bytes.div_ceil(1_000_000)));
    let ports: Vec<String> = process.ports.iter().take(3).map(u16::to_string).collect();
    [pid, state, time.map_or(String::new(), age), cpu, memory, ports.join(",")]
}

/// The label, and in the columns that are left what it is and what it printed last.
fn name(process: &Process, room: usize) -> String {
    let mut name = one_line(&process.label);
    let directory = one_line(&process.working_directory);
    if let Some(error) = &process.error {
        return format!("{name}  [{}]", one_line(error)); // whole: it is what matters
    }
    let last = one_line(&process.last_line);
    let room = room.saturating_sub(name.width());
    let mut left = room;
    if !name.ends_with(&format!(" in {directory}")) {
        let what = format!("({} in {directory})", one_line(&quote(&process.command)));
        let most = if last.is_empty() { room } else { room.saturating_sub(last.width() + 4).max(room / 2) };
        push_clipped(&mut name, &what, "", most, &mut left);
    }
    if !last.is_empty() {
        push_clipped(&mut name, &last, "| ", left, &mut left.clone());
    }
    name
}

/// Appends two spaces and `text` in at most `most` columns, if at least its beginning fits.
fn push_clipped(name: &mut String, text: &str, before: &str, most: usize, left: &mut usize) {
    const LEAST: usize = 8;
    let room = most.saturating_sub(2 + before.len());
    if room < LEAST.min(text.width()) {
        return;
    }
    let shown = clip(text, room);
    *left = left.saturating_sub(2 + before.len() + shown.width());
    name.push_str(&format!("  {before}{shown}"));
}

/// `text` in at most `columns`; an ellipsis stands for what does not fit.
fn clip(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.into();
    }
    let mut left = columns.saturating_sub("…".width());
    let fits = |c: &char| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
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
    use crate::api::State;

    fn process(label: &str, state: State) -> Process {
        Process { pid: 7, label: label.into(), state, ..Process::default() }
    }

    #[test]
    fn a_list_is_a_table_with_what_runs_first() {
        let old = Process {
            working_directory: "/x".into(),
            command: vec!["old".into()],
            exit_code: Some(3),
            end_time: Some("2026-01-02T03:04:05.678Z".into()),
            last_line: "that is all".into(),
            ..process("old in /x", State::Exited)
        };
        let web = Process {
            pid: 12345,
            working_directory: "/w".into(),
            command: ["npm", "run", "my dev"].map(String::from).into(),
            memory_bytes: Some(85_400_000),
            ports: vec![3000],
            last_line: "Local: http://localhost:3000/".into(),
            ..process("web", State::Running)
        };
        let lines = list(&ListAnswer { processes: vec![old, web] }, false, WIDTH);
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
        assert!(list(&ListAnswer::default(), false, WIDTH)[0].contains("Nothing has been started"));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let wide = Process {
            last_line: "構築に失敗しました。".repeat(20), ..process("ショップ", State::Running)
        };
        let lines = list(&ListAnswer { processes: vec![wide] }, false, 60);
        assert!(lines[1].width() <= 60 && lines[1].width() > 50 && lines[1].ends_with('…'), "{lines:?}");
        assert_eq!((clip("構築に失敗", 10), clip("構築に失敗", 9)), ("構築に失敗".into(), "構築に失…".into()));
        assert_eq!(clip("e\u{301}a", 2), "e\u{301}a", "a combining accent takes none");
    }

    #[test]
    fn what_a_server_says_is_shown_escaped_and_within_its_row() {
        const HOSTILE: &str = "x\x1b]0;pwn\x07\nlast";
        let hostile = |error: Option<&str>| Process {
            working_directory: HOSTILE.into(),
            command: vec![HOSTILE.into()],
            signal: Some(HOSTILE.into()),
            error: error.map(String::from),
            last_line: HOSTILE.into(),
            ..process(HOSTILE, State::Terminated)
        };
        let mut lines = list(&ListAnswer { processes: vec![hostile(None), hostile(Some(HOSTILE))] }, false, 1000);
        for action in [Action::Start, Action::Stop, Action::Restart] {
            lines.push(control(&answer(action, hostile(None))));
        }
        assert_eq!(lines.len(), 6);
        assert!(!lines.iter().any(|line| line.chars().any(char::is_control)), "{lines:?}");
        assert!(lines[3].starts_with("Started 'x\\u{1b}]0;pwn\\u{7}\\nlast', PID "), "{}", lines[3]);
    }

    fn answer(action: Action, process: Process) -> ControlAnswer {
        ControlAnswer { action, process, cursor: None, was_over: false, killed_processes: 0 }
    }

    #[test]
    fn what_was_done_is_said_in_one_sentence() {
        assert_eq!(control(&answer(Action::Start, process("web", State::Running))), "Started 'web', PID 7.");
        let exited = |code| Process { exit_code: Some(code), ..process("web", State::Exited) };
        assert_eq!(
            control(&answer(Action::Restart, exited(1))),
            "Restarted 'web', PID 7, but it has exited (exit code 1)."
        );
        let killed = Process { signal: Some("SIGKILL".into()), ..process("web", State::Terminated) };
        let killed = ControlAnswer { killed_processes: 2, ..answer(Action::Stop, killed) };
        assert_eq!(control(&killed), "Stopped 'web', PID 7 (SIGKILL); 2 had to be killed.");
        let over = ControlAnswer { was_over: true, ..answer(Action::Stop, exited(0)) };
        assert_eq!(control(&over), "'web' had ended already (exit code 0).");
    }
}
