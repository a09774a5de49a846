//! Messages on stdin, one per line, within a bound. A line that is too long is searched for its id while it is skipped, so
//! that its sender gets an answer and does not wait forever.

use crate::sys;
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;

/// The longest message, in bytes: what the server takes as a body.
pub const LINE_MAX: usize = 4 << 20;
/// How much of a longer line is searched for its id, in bytes.
const ID_SEARCH_MAX: u64 = 64 << 20;

/// What one line was.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// Its bytes, without the newline.
    Message(Vec<u8>),
    /// The id of what was longer than [`LINE_MAX`], or null if none was found.
    TooLong(Value),
}

pub struct Lines<R> {
    reader: R,
}

impl Lines<BufReader<BlockingReader>> {
    /// Reads `file`, which may be non-blocking.
    pub fn of(file: File) -> Lines<BufReader<BlockingReader>> {
        Lines { reader: BufReader::new(BlockingReader(file)) }
    }
}

impl<R: BufRead> Lines<R> {
    /// The next line; `None` at the end. Text after the last newline is a line, too.
    pub fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        (&mut self.reader).take(LINE_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        Ok(match line.last() {
            None => None,
            Some(b'\n') => {
                line.pop();
                Some(Line::Message(line))
            }
            Some(_) if line.len() <= LINE_MAX => Some(Line::Message(line)),
            Some(_) => Some(Line::TooLong(self.skip_rest(&line)?)),
        })
    }

    /// Skips the rest of a line that began with `start`: the id in it.
    fn skip_rest(&mut self, start: &[u8]) -> io::Result<Value> {
        #[derive(Deserialize)]
        struct Identified {
            id: Option<Value>,
        }
        let mut rest = Rest { reader: &mut self.reader, is_over: false };
        let whole = BufReader::new(start.chain(rest.by_ref()).take(ID_SEARCH_MAX));
        let found: Option<Identified> = serde_json::from_reader(whole).ok();
        io::copy(&mut rest, &mut io::sink())?;
        Ok(found.and_then(|found| found.id).unwrap_or(Value::Null))
    }
}

/// A reader up to and including the next newline.
struct Rest<'a, R> {
    reader: &'a mut R,
    is_over: bool,
}

impl<R: BufRead> Read for Rest<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.is_over || out.is_empty() {
            return Ok(0);
        }
        let block = self.reader.fill_buf()?;
        let newline = memchr::memchr(b'\n', block);
        let n = newline.unwrap_or(block.len()).min(out.len());
        out[..n].copy_from_slice(&block[..n]);
        self.is_over = n == 0 || newline == Some(n);
        self.reader.consume(n + usize::from(newline == Some(n)));
        Ok(n)
    }
}

/// A file that blocks also if another process that shares it has made it non-blocking.
pub struct BlockingReader(File);

impl Read for BlockingReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sys::poll_readable([self.0.as_raw_fd()], None); // ends with our stdin, as everything here
                }
                read => return read,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(text: &str) -> Vec<Line> {
        // In small pieces, as a pipe may give it.
        let mut lines = Lines { reader: BufReader::with_capacity(1000, text.as_bytes()) };
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }
    fn message(text: &str) -> Line {
        Line::Message(text.into())
    }

    #[test]
    fn every_line_is_a_message_the_last_one_too() {
        assert_eq!(lines("a\nb\r\n\nc"), ["a", "b\r", "", "c"].map(message));
        assert_eq!(lines(""), []);
        let longest = "x".repeat(LINE_MAX);
        assert_eq!(lines(&format!("{longest}\ny\n")), [message(&longest), message("y")]);
        assert_eq!(lines(&longest), [message(&longest)]);
    }

    #[test]
    fn a_line_that_is_too_long_still_has_its_id() {
        let long = "x".repeat(LINE_MAX);
        for (line, id) in [
            (format!(r#"{{"id":7,"params":{{"id":1,"text":"{long}"}}}}"#), json!(7)),
            (format!(r#"{{"params":{{"id":1,"text":"{long}"}},"method":"x","id":"seven"}}"#), json!("seven")),
            (format!(r#"{{"params":"{long}"}}"#), Value::Null),
            (format!("{long}x"), Value::Null),
            (format!(r#"{{"id":7,"params":"{long}"#), Value::Null),
        ] {
            assert_eq!(lines(&format!("a\n{line}\nb\n")), [message("a"), Line::TooLong(id.clone()), message("b")]);
            assert_eq!(lines(&line), [Line::TooLong(id)]);
        }
    }
}
