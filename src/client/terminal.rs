//! What reaches the user: results on stdout, everything else on stderr. The only place that prints.
//!
//! Our own text goes out line by line, escaped: labels, directories and errors come from repositories, agents and files,
//! and what they hold must not be obeyed by the terminal. Only the output of programs goes out as it is, through
//! [`write`] and [`pass_on`], which take bytes and no text (`tests/layers.rs` lists the callers).
#![allow(clippy::print_stderr)]

use crate::api::to_json;
use crate::error::Error;
use crate::log::Stream;
use crate::{os_text, sys};
use serde::Serialize;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long to wait for a terminal or pipe that accepts nothing; there is no hurry.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Whether something was printed on stdout, or it was given away.
static STDOUT_IS_USED: AtomicBool = AtomicBool::new(false);

/// Writes output of a program to stdout or stderr, all of it and as it is, also if they were made non-blocking by another
/// process that shares them.
pub fn write(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    if stream == Stream::Stderr {
        return write_to(&mut io::stderr(), bytes);
    }
    give_stdout_away();
    write_to(&mut io::stdout(), bytes)
}

fn write_to(out: &mut (impl Write + AsRawFd), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(out)?,
            Err(error) => return Err(error),
        }
    }
    loop {
        match out.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(out)?,
            flushed => return flushed,
        }
    }
}

fn wait_writable(out: &impl AsRawFd) -> io::Result<()> {
    if sys::poll_writable(out.as_raw_fd(), WRITE_TIMEOUT) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// A result in our own words. Each of `lines` becomes one line, whatever is in it, see [`os_text::one_line`].
pub fn print<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Result<(), Error> {
    pass_on(Stream::Stdout, escaped(lines).as_bytes())
}

/// A result as JSON: one document, indented, because people read it, too.
pub fn print_json(document: &impl Serialize) -> Result<(), Error> {
    // Its members in the order of their names, as in every version so far.
    let value: Value = serde_json::from_slice(to_json(document).as_bytes()).unwrap_or_default();
    pass_on(Stream::Stdout, json(&value).as_bytes())
}

/// Output of a program, as it is. A reader that has left is no error.
pub fn pass_on(stream: Stream, bytes: &[u8]) -> Result<(), Error> {
    match write(stream, bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to {}: {error}", stream.name())))
        }
        _ => Ok(()),
    }
}

/// Whether stdout is a terminal.
pub fn is_stdout() -> bool {
    io::stdout().is_terminal()
}

/// From here on stdout belongs to a program, or to a protocol: no result of ours is printed there.
pub fn give_stdout_away() {
    STDOUT_IS_USED.store(true, Ordering::Relaxed);
}

/// Whether something was printed on stdout, or it was given away.
pub fn is_stdout_used() -> bool {
    STDOUT_IS_USED.load(Ordering::Relaxed)
}

fn escaped<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> String {
    lines.into_iter().map(|line| os_text::one_line(line.as_ref()) + "\n").collect()
}

/// JSON whose strings hold nothing that a terminal would obey: serde_json escapes the control characters of ASCII alone.
fn json(value: &Value) -> String {
    let mut text = String::new();
    for c in format!("{value:#}\n").chars() {
        let is_plain =
            c == '\n' || (' '..='~').contains(&c) || os_text::one_line(c.encode_utf8(&mut [0; 4])).starts_with(c);
        if is_plain {
            text.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

/// Something worth knowing that is not a result, on one line.
pub fn note(text: &str) {
    let _ = write(Stream::Stderr, escaped([format!("persistproc: {text}")]).as_bytes());
}

/// The same if stderr takes it within `patience`, for what is not worth hanging for; `is_in_line`: the terminal's last
/// line is not finished.
pub fn note_within(text: &str, is_in_line: bool, patience: Duration) {
    let start = if is_in_line { "\n" } else { "" };
    write_within(&(start.to_string() + &escaped([format!("persistproc: {text}")])), patience);
}

/// Ends the terminal's last line.
pub fn end_line(patience: Duration) {
    write_within("\n", patience);
}

fn write_within(text: &str, patience: Duration) {
    if sys::poll_writable(io::stderr().as_raw_fd(), patience) {
        let _ = write(Stream::Stderr, text.as_bytes()); // less than what then fits, see PIPE_BUF in pipe(7)
    }
}

/// An error, on one line.
pub fn complain(text: &str) {
    note(&on_one_line(text));
}

/// An error on one line: with a space for each newline, and escaped.
pub fn on_one_line(text: &str) -> String {
    os_text::one_line(&text.replace('\n', " "))
}

/// Whether there is a user who can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Columns of the terminal that results go to, if they go to one.
pub fn columns() -> Option<usize> {
    sys::columns(io::stdout().as_raw_fd())
}

/// Whether what is written to `stream` and what is noted appear on the same terminal.
pub fn is_shared_with_notes(stream: Stream) -> bool {
    io::stderr().is_terminal() && (stream == Stream::Stderr || io::stdout().is_terminal())
}

/// Writes a question on a line of its own, without a newline after it.
pub fn ask(question: &str) {
    let _ = write(Stream::Stderr, format!("\n{} ", os_text::one_line(question)).as_bytes());
}

/// A line from the terminal, if there is one within `patience`; without a newline, at the end of the input.
pub fn read_answer(patience: Duration) -> Option<String> {
    if !sys::poll_readable([io::stdin().as_raw_fd()], Some(patience))[0] {
        return None;
    }
    let mut line = String::new();
    let _ = io::stdin().read_line(&mut line);
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HOSTILE: &str = "a\x1b]0;pwn\x07b\u{9b}31m\x7f\r\nc \u{e4}\u{2603}";

    #[test]
    fn each_line_of_ours_is_one_line_that_no_terminal_obeys() {
        let text = escaped([HOSTILE, "", "plain \u{e4}"]);
        assert_eq!(text, "a\\u{1b}]0;pwn\\u{7}b\\u{9b}31m\\u{7f}\\r\\nc \u{e4}\u{2603}\n\nplain \u{e4}\n");
        assert_eq!(on_one_line("a\nb\tc"), "a b\\tc");
    }

    #[test]
    fn json_says_the_same_in_characters_that_no_terminal_obeys() {
        let value = json!({"label": HOSTILE, "\u{9d}": [1, "\u{1f600} \\ \""]});
        let text = json(&value);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("\u{2603}") && text.contains("\\u009b31m\\u007f"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
