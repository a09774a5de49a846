//! `list` for a model: one line a process, under 300 bytes, what runs first. A row is ours up to the mark before the last
//! line of the program.

use super::{dropped, lines_in_words, names, size};
use crate::api::Process;
use crate::manager::age;
use crate::mcp::tools::list::{Listing, Row};
use crate::os_text;
use crate::output::view::mark;
use std::fmt::Write;

/// Budget of a list, in bytes.
const LIST_BUDGET: usize = 8000;
/// Of one process, its newline included.
const ROW_MAX: usize = 299;
/// Of its label, and of what else may be long.
const LABEL_MAX: usize = 100;
const PART_MAX: usize = 60;

pub fn text(listing: &Listing) -> String {
    let rows = &listing.rows;
    let (live, ended): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.process.state.is_live());
    let mut parts = vec![format!("{} running, {} ended", live.len(), ended.len())];
    if rows.is_empty() {
        parts[0].push_str(&nothing(listing));
    }
    // Live ones first, then the ones that ended last.
    let (mut body, mut left_out, mut hidden) = (String::new(), 0, 0);
    for row in live.into_iter().chain(ended.into_iter().rev()) {
        let line = line(row);
        if body.len() + line.len() > LIST_BUDGET {
            left_out += 1;
        } else {
            body.push_str(&line);
            hidden += row.hidden;
        }
    }
    if left_out > 0 {
        parts.push(format!("{left_out} more: narrow it with working_directory or command_or_label"));
    }
    parts.extend(dropped(hidden));
    super::answer(&parts, &body)
}

/// That a directory has none is no reason to start what runs in the next one.
fn nothing(listing: &Listing) -> String {
    match &listing.elsewhere {
        Some((directory, others @ 1..)) => format!(
            " in {}; list without working_directory shows {others} in other directories",
            names::bare(directory, LABEL_MAX)
        ),
        _ => "; nothing has been started yet".into(),
    }
}

fn line(row: &Row) -> String {
    let process = &row.process;
    let is_live = process.state.is_live();
    let mut line = format!("{}: {}", names::bare(&process.label, LABEL_MAX), process.state.name());
    if process.start_time.is_some() && !process.run.is_empty() {
        let _ = write!(line, " {}{}", age(row.age_ms), if is_live { "" } else { " ago" });
    }
    let ports: Vec<String> = process.ports.iter().take(6).map(u16::to_string).collect();
    let default_label = format!(" in {}", process.working_directory);
    let parts = [
        process.exit_code.map(|code| format!("exit code {code}")).or(process.signal.clone()),
        (process.pid > 0).then(|| format!("PID {}", process.pid)),
        (!process.run.is_empty()).then(|| process.run.clone()),
        (!ports.is_empty()).then(|| format!("port {}", ports.join(" "))),
        process.url.clone().filter(|url| !process.last_line.contains(url.as_str())),
        process.cpu_percent.map(|cpu| format!("{cpu}% CPU")),
        process.memory_bytes.map(size),
        process.lines.map(lines_in_words),
        (process.log_bytes > 0).then(|| format!("logs {}", size(process.log_bytes))),
        process.error.as_ref().map(|error| names::bare(error, PART_MAX)),
        (!process.label.ends_with(&default_label)).then(|| command(process)),
    ];
    // What does not fit is left out whole, so that none is cut where another could begin.
    for part in parts.into_iter().flatten() {
        if line.len() + part.len() + ", \n".len() <= ROW_MAX {
            let _ = write!(line, ", {part}");
        }
    }
    let start = format!(" {} ", mark("last line"));
    let room = ROW_MAX.saturating_sub(line.len() + start.len() + "…\n".len());
    if !process.last_line.is_empty() && room > 20 {
        let end = process.last_line.floor_char_boundary(room);
        let more = if end < process.last_line.len() { "…" } else { "" };
        let _ = write!(line, "{start}{}{more}", &process.last_line[..end]);
    }
    line.push('\n');
    line
}

fn command(process: &Process) -> String {
    let command = names::bare(&os_text::quote(&process.command), PART_MAX);
    format!("{command} in {}", names::bare(&process.working_directory, PART_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_less_than_300_bytes_whatever_it_is() {
        for (length, letter) in [0, 1, 30, 120, 400, 4000]
            .into_iter()
            .flat_map(|n| ["ä", "\n", "\u{1b}", "\u{27e6}", "\u{e0041}", "a', "].map(|letter| (n, letter)))
        {
            let text = letter.repeat(length);
            let process = Process {
                run: "r123456".into(),
                pid: 4_194_304,
                label: text.clone(),
                command: vec![text.clone(), text.clone()],
                working_directory: text.clone(),
                state: crate::rundir::State::Terminated,
                start_time: Some(String::new()),
                signal: Some("SIGTERM".into()),
                error: Some(text.clone()),
                ports: (1..60).collect(),
                cpu_percent: Some(123.4),
                memory_bytes: Some(1 << 33),
                lines: Some(1 << 40),
                log_bytes: 1 << 33,
                url: Some(format!("http://localhost:1/{}", "x".repeat(180))),
                last_line: "ä".repeat(length),
                ..Process::default()
            };
            let line = line(&Row { process, hidden: 0, age_ms: 5000 });
            assert!(line.len() < 300 && line.find(char::is_control) == Some(line.len() - 1), "{}: {line}", line.len());
        }
    }
}
