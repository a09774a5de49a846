//! `list` for a model: one line a process, under 300 bytes, what runs first.

use super::{lines_in_words, size};
use crate::manager::age;
use crate::mcp::tools::list::{Listing, Row};
use crate::output::view;
use crate::words;
use std::fmt::Write;

/// Budget of a list, in bytes.
const LIST: usize = 8000;
/// Of one process, its newline included.
const LINE: usize = 299;

pub fn text(listing: &Listing) -> String {
    let rows = &listing.rows;
    let (live, ended): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| matches!(row.overview.status, "running" | "detached"));
    let mut text = format!("{} running, {} ended", live.len(), ended.len());
    if rows.is_empty() {
        text.push_str(&nothing(listing));
    }
    text.push('\n');
    // Live ones first, then the ones that ended last.
    let mut left_out = 0;
    for row in live.into_iter().chain(ended.into_iter().rev()) {
        let line = line(row);
        if text.len() + line.len() > LIST { left_out += 1 } else { text.push_str(&line) }
    }
    if left_out > 0 {
        let _ = writeln!(text, "[{left_out} more; narrow it with working_directory or command_or_label]");
    }
    text
}

/// That a directory has none is no reason to start what runs in the next one.
fn nothing(listing: &Listing) -> String {
    match &listing.elsewhere {
        Some((directory, others @ 1..)) => format!(
            " in {}; list without working_directory shows {others} in other directories",
            view::clip(directory, 120)
        ),
        _ => "; nothing has been started yet".into(),
    }
}

fn line(row: &Row) -> String {
    let process = &row.overview;
    let is_live = matches!(process.status, "running" | "detached");
    let mut line = format!("{}: {}", view::clip(&words::one_line(&process.label), 120), process.status);
    let outcome = process.exit_code.map(|code| format!("exit code {code}")).or(process.signal.clone());
    let ago = if process.start_time.is_none() || process.run.is_empty() {
        String::new()
    } else if is_live {
        format!(" {}", age(row.age_ms))
    } else {
        format!(" {} ago", age(row.age_ms))
    };
    line.push_str(&ago);
    let ports: Vec<String> = row.ports.iter().take(6).map(u16::to_string).collect();
    let parts = [
        outcome,
        (process.pid > 0).then(|| format!("PID {}", process.pid)),
        (!process.run.is_empty()).then(|| process.run.clone()),
        (!ports.is_empty()).then(|| format!("port {}", ports.join(" "))),
        row.url.clone().filter(|url| !row.last_line.contains(url.as_str())),
        row.cpu_percent.map(|cpu| format!("{cpu}% CPU")),
        row.memory_bytes.map(size),
        row.lines.map(lines_in_words),
        (row.log_bytes > 0).then(|| format!("logs {}", size(row.log_bytes))),
        process.error.as_ref().map(|error| view::clip(&words::one_line(error), 120)),
    ];
    for part in parts.into_iter().flatten() {
        let _ = write!(line, ", {part}");
    }
    let default_label = format!(" in {}", process.working_directory);
    if !process.label.ends_with(&default_label) {
        let command = view::clip(&words::one_line(&words::quote(&process.command)), 60);
        let _ = write!(line, ", {command}{}", words::one_line(&default_label));
    }
    let room = LINE.saturating_sub(line.len() + ": ".len() + "…\n".len());
    if !row.last_line.is_empty() && room > 20 {
        let end = row.last_line.floor_char_boundary(room);
        let more = if end < row.last_line.len() { "…" } else { "" };
        let _ = write!(line, ": {}{more}", &row.last_line[..end]);
    }
    if line.len() >= LINE {
        line.truncate(line.floor_char_boundary(LINE - "…\n".len()));
        line.push('…');
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::Overview;

    #[test]
    fn a_process_takes_less_than_300_bytes_whatever_it_is() {
        for (length, letter) in
            [0, 1, 30, 120, 400, 4000].into_iter().flat_map(|n| [(n, "ä"), (n, "\n"), (n, "\u{1b}")])
        {
            let text = letter.repeat(length);
            let overview = Overview {
                run: "r123456".into(),
                pid: 4_194_304,
                label: text.clone(),
                command: vec![text.clone(), text.clone()],
                working_directory: text.clone(),
                status: "terminated",
                start_time: Some(String::new()),
                signal: Some("SIGTERM".into()),
                error: Some(text.clone()),
                ..Overview::default()
            };
            let row = Row {
                overview,
                ports: (1..60).collect(),
                cpu_percent: Some(123.4),
                memory_bytes: Some(1 << 33),
                lines: Some(1 << 40),
                log_bytes: 1 << 33,
                url: Some(format!("http://localhost:1/{}", "x".repeat(180))),
                last_line: "ä".repeat(length),
                age_ms: 5000,
            };
            let line = line(&row);
            assert!(line.len() < 300 && line.find(char::is_control) == Some(line.len() - 1), "{}: {line}", line.len());
        }
    }
}
