//! What reaches the user: results on stdout, everything else on stderr. The only place that prints.
#![allow(clippy::print_stderr)]

use super::Trouble;
use crate::log::Stream;
use crate::sys;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A terminal or pipe that takes nothing for this long is given another chance; there is no hurry.
const STUCK: Duration = Duration::from_secs(3600);

/// Writes all bytes to stdout or stderr, also if whoever shares it has made it non-blocking.
pub fn write(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    if stream == Stream::Stderr { write_to(&mut io::stderr(), bytes) } else { write_to(&mut io::stdout(), bytes) }
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
    if sys::poll_writable(out.as_raw_fd(), STUCK) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// A result. That nobody reads it any more is no error.
pub fn print(bytes: &[u8]) -> Result<(), Trouble> {
    match write(Stream::Stdout, bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Trouble::Refused(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Something worth knowing that is not a result.
pub fn note(text: &str) {
    let _ = write(Stream::Stderr, format!("persistproc: {text}\n").as_bytes());
}

/// Writes to stderr what is not worth hanging for, if that takes it within `patience`.
pub fn note_within(text: &str, patience: Duration) {
    if sys::poll_writable(io::stderr().as_raw_fd(), patience) {
        let _ = write(Stream::Stderr, text.as_bytes()); // less than what then fits, see PIPE_BUF in pipe(7)
    }
}

/// An error, on one line.
pub fn complain(text: &str) {
    note(&text.replace('\n', " "));
}

/// Whether somebody is there who can be asked.
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

/// Writes a question, without a newline behind it.
pub fn ask(question: &str) {
    let _ = write(Stream::Stderr, question.as_bytes());
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
