//! The help texts, made from the tables.

use super::commands::{COMMANDS, CommandSpec};
use super::options::{CliFlag, flags};
use std::fmt::Write;

/// `persistproc --help`.
pub fn overview() -> String {
    let mut text = format!(
        "persistproc {} runs dev servers, watchers and databases so that you and every AI agent on this machine\n\
         see the same output and control the same processes.\n\n\
         Usage: persistproc [OPTIONS] PROGRAM [ARG…]\n       persistproc [OPTIONS] COMMAND …\n\nCommands:\n",
        env!("CARGO_PKG_VERSION")
    );
    for spec in &COMMANDS {
        let names = spec.names().collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "  {names:<12} {}", spec.summary);
    }
    text.push_str("\nOptions, before or after the command:\n");
    push_flags(&mut text, |flag| flag.is_global());
    text.push_str(
        "\nExit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no server; run has the exit code of its program.\n\
         With --format json an error is {\"error\": \"…\"} on stdout, too; start, stop and restart add their \"action\".\n\
         `persistproc COMMAND --help` says more about a command.\n",
    );
    text
}

/// `persistproc stop --help`.
pub fn of(spec: &CommandSpec) -> String {
    let mut text = format!("persistproc {}: {}\n\n", spec.name, spec.summary);
    let _ = writeln!(text, "Usage: persistproc {} {}\n", spec.name, spec.usage());
    for paragraph in spec.details.split('\n') {
        text.push_str(&wrap(paragraph));
        text.push('\n');
    }
    if flags().iter().any(|flag| !flag.is_global() && flag.is_of(spec.name)) {
        text.push_str("\nOptions:\n");
        push_flags(&mut text, |flag| !flag.is_global() && flag.is_of(spec.name));
    }
    text.push_str("\nGlobal options:\n");
    push_flags(&mut text, CliFlag::is_global);
    text
}

fn push_flags(text: &mut String, wanted: impl Fn(&CliFlag) -> bool) {
    for flag in flags().iter().filter(|flag| wanted(flag)) {
        let short = flag.short.map_or("    ".into(), |c| format!("-{c}, "));
        let value = flag.takes.placeholder().map_or(String::new(), |value| format!(" {value}"));
        let names = format!("{short}--{}{value}", flag.long);
        let _ = writeln!(text, "  {names:<30} {}", flag.help);
    }
}

/// Breaks a paragraph at 96 columns; lines that are indented are examples and stay.
fn wrap(paragraph: &str) -> String {
    if paragraph.starts_with(' ') {
        return paragraph.into();
    }
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > 96 {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text
}
