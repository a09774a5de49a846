//! The bytes of `combined.log` → what the child wrote, to stdout and to stderr. Takes the log in pieces of any size, so
//! nothing waits for the end of a record.

use crate::log::Stream;
use crate::log::record::{PREFIX, Part, parse};

/// How the child's lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Byte for byte.
    Bytes,
    /// Each line behind its stamp; of both streams, or of one.
    Stamped(Stream),
}

/// Takes records apart and gives bytes to a stream.
pub struct Frames {
    show: Show,
    state: State,
    /// Whether a line is open on the screen, and whose.
    open: Option<Stream>,
}

enum State {
    /// Collecting the stamp and the separator.
    Prefix(Vec<u8>),
    /// In the text of a record.
    Text { stream: Stream, part: Part, is_shown: bool },
}

impl Frames {
    pub fn new(show: Show) -> Frames {
        Frames::within(show, None)
    }

    /// In a line of `open`, of which the beginning has been shown.
    pub fn within(show: Show, open: Option<Stream>) -> Frames {
        Frames { show, state: State::Prefix(Vec::new()), open }
    }

    /// What comes next is the beginning of a record, of this log or of another one.
    pub fn restart(&mut self) {
        *self = Frames::new(self.show);
    }

    /// Whether the last thing given out was not the end of a line.
    pub fn is_in_line(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next bytes of the log. `out` gets pieces for stdout and stderr, in their order.
    pub fn push<E>(
        &mut self,
        mut bytes: &[u8],
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut batch = Batch { stream: Stream::Stdout, bytes: Vec::with_capacity(bytes.len()) };
        while !bytes.is_empty() {
            match &mut self.state {
                State::Prefix(prefix) if prefix.is_empty() && self.show == Show::Bytes && self.open.is_none() => {
                    let rest = batch.add_whole_lines(bytes, out)?;
                    if rest.len() == bytes.len() {
                        // Not a whole line of one record.
                        let start = rest.len().min(PREFIX);
                        prefix.extend_from_slice(&rest[..start]);
                        bytes = &rest[start..];
                        if start == PREFIX {
                            let prefix = std::mem::take(prefix);
                            self.begin(&prefix, &mut batch, out)?;
                        }
                    } else {
                        bytes = rest;
                    }
                }
                State::Prefix(prefix) => {
                    let missing = (PREFIX - prefix.len()).min(bytes.len());
                    prefix.extend_from_slice(&bytes[..missing]);
                    bytes = &bytes[missing..];
                    if prefix.len() == PREFIX {
                        let prefix = std::mem::take(prefix);
                        self.begin(&prefix, &mut batch, out)?;
                    }
                }
                State::Text { stream, part, is_shown } => {
                    let (stream, part, is_shown) = (*stream, *part, *is_shown);
                    let newline = memchr::memchr(b'\n', bytes);
                    if is_shown {
                        batch.add(stream, &bytes[..newline.unwrap_or(bytes.len())], out)?;
                    }
                    bytes = newline.map_or(&[], |i| &bytes[i + 1..]);
                    if newline.is_some() {
                        self.end(stream, part, is_shown, &mut batch, out)?;
                    }
                }
            }
        }
        batch.flush(out)
    }

    fn begin<E>(
        &mut self,
        prefix: &[u8],
        batch: &mut Batch,
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(record) = parse(prefix, Stream::Combined) else {
            // Not a record: the log was cut in the middle of one. Better shown than swallowed.
            self.state = State::Text { stream: Stream::Stdout, part: Part::Whole, is_shown: true };
            return batch.add(Stream::Stdout, prefix, out);
        };
        let (stream, part) = (record.stream, record.part);
        let is_shown = !matches!(self.show, Show::Stamped(only) if only != Stream::Combined && only != stream);
        if is_shown && self.show == Show::Bytes {
            self.open = Some(stream);
        } else if is_shown {
            // An open line of the other stream is left as it is; its rest begins a line of its own.
            if self.open.is_some_and(|open| open != stream) {
                batch.add(Stream::Stdout, b"\n", out)?;
            }
            if part.begins() || self.open != Some(stream) {
                let mut stamp = prefix.to_vec();
                stamp[PREFIX - 2] = b'Z';
                stamp[PREFIX - 1] = b' ';
                batch.add(Stream::Stdout, &stamp, out)?;
            }
            self.open = Some(stream);
        }
        self.state =
            State::Text { stream: if self.show == Show::Bytes { stream } else { Stream::Stdout }, part, is_shown };
        Ok(())
    }

    fn end<E>(
        &mut self,
        stream: Stream,
        part: Part,
        is_shown: bool,
        batch: &mut Batch,
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.state = State::Prefix(Vec::new());
        if part.ends() && is_shown {
            self.open = None;
            batch.add(stream, b"\n", out)?;
        }
        Ok(())
    }
}

/// The stream of a record that is a whole line, as far as its beginning tells; `None` for all others.
fn whole_line_of(record: &[u8]) -> Option<Stream> {
    let prefix: &[u8; PREFIX] = record.first_chunk()?;
    // The rest of the stamp was looked at when it was written: a record begins behind each newline.
    match (prefix[4], prefix[10], prefix[PREFIX - 2], prefix[PREFIX - 1]) {
        (b'-', b'T', b'Z', b' ') => Some(Stream::Stdout),
        (b'-', b'T', b'z', b' ') => Some(Stream::Stderr),
        _ => None,
    }
}

/// Neighbouring pieces for the same stream become one write.
struct Batch {
    stream: Stream,
    bytes: Vec<u8>,
}

impl Batch {
    /// Adds the lines of the child at the beginning of `log` that are whole and records of their own, which nearly all are.
    /// Gives back the rest.
    fn add_whole_lines<'a, E>(
        &mut self,
        mut log: &'a [u8],
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        let whole = log;
        let mut begin = 0;
        for newline in memchr::memchr_iter(b'\n', whole) {
            // A newline within the prefix is none that ends a record.
            let Some(stream) = whole_line_of(log).filter(|_| newline >= begin + PREFIX) else { break };
            self.add(stream, &log[PREFIX..newline + 1 - begin], out)?;
            begin = newline + 1;
            log = &whole[begin..];
        }
        Ok(log)
    }

    fn add<E>(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        if stream != self.stream {
            self.flush(out)?;
            self.stream = stream;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    fn flush<E>(&mut self, out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() { Ok(()) } else { out(self.stream, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-02T03:04:05.001Z one\n\
                       2026-01-02T03:04:05.002Z>Continue? [\n\
                       2026-01-02T03:04:05.003z warning\n\
                       2026-01-02T03:04:05.004Z=y/\n\
                       2026-01-02T03:04:05.005Z+N] \n\
                       2026-01-02T03:04:05.006Z \n\
                       2026-01-02T03:04:05.007z>err\n";

    fn shown(show: Show, log: &str, size: usize) -> [String; 2] {
        let mut frames = Frames::new(show);
        let mut streams = [String::new(), String::new()];
        for piece in log.as_bytes().chunks(size) {
            frames
                .push(piece, &mut |stream, bytes| -> Result<(), ()> {
                    streams[stream.index()].push_str(std::str::from_utf8(&bytes).unwrap());
                    Ok(())
                })
                .unwrap();
        }
        streams
    }

    #[test]
    fn both_streams_come_back_whatever_the_size_of_the_pieces() {
        for size in [1, 2, 7, 24, 25, 26, 33, 1000] {
            assert_eq!(
                shown(Show::Bytes, LOG, size),
                ["one\nContinue? [y/N] \n\n".to_string(), "warning\nerr".into()],
                "{size}"
            );
        }
    }

    #[test]
    fn text_is_not_held_back_until_its_record_ends() {
        let cut = &LOG[..27];
        assert_eq!(shown(Show::Bytes, cut, 1000)[0], "on");
    }

    #[test]
    fn with_stamps_each_line_begins_with_one() {
        let expected = "2026-01-02T03:04:05.001Z one\n\
                        2026-01-02T03:04:05.002Z Continue? [\n\
                        2026-01-02T03:04:05.003Z warning\n\
                        2026-01-02T03:04:05.004Z y/N] \n\
                        2026-01-02T03:04:05.006Z \n\
                        2026-01-02T03:04:05.007Z err";
        assert_eq!(shown(Show::Stamped(Stream::Combined), LOG, 5)[0], expected);
        assert_eq!(
            shown(Show::Stamped(Stream::Stderr), LOG, 5)[0],
            "2026-01-02T03:04:05.003Z warning\n2026-01-02T03:04:05.007Z err"
        );
    }

    #[test]
    fn what_is_no_record_is_shown_all_the_same() {
        let log = format!("the rest of a record that was cut\n{LOG}");
        assert!(shown(Show::Bytes, &log, 3)[0].starts_with("the rest of a record that was cut\none\n"));
    }
}
