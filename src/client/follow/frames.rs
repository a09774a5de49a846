//! The bytes of `combined.log` → what the child wrote, to stdout and to stderr. Takes the log in pieces of any size, so
//! nothing waits for the end of a record.

use crate::log::Stream;
use crate::log::record::{PREFIX_LEN, Part, is_stamped, next_stamped, parse, shared_prefix};

/// How the child's lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Byte for byte.
    Bytes,
    /// Each line after its time stamp; of both streams, or of one.
    Stamped(Stream),
}

/// Takes records apart and gives bytes to a stream.
pub struct Frames {
    show: Show,
    state: State,
    /// Whether a line is open on the screen, and whose.
    open: Option<Stream>,
    /// The prefix of lines that have none of their own.
    shared: Option<[u8; PREFIX_LEN]>,
}

enum State {
    /// At the beginning of a line: what there is of it, if that does not tell yet whether it has a stamp.
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
        Frames { show, state: State::Prefix(Vec::new()), open, shared: None }
    }

    /// What comes next is the beginning of a line that may share this prefix.
    pub fn share(&mut self, prefix: Option<[u8; PREFIX_LEN]>) {
        self.shared = prefix;
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
                    let rest = batch.add_whole_lines(bytes, &mut self.shared, out)?;
                    if rest.len() == bytes.len() {
                        bytes = self.collect(bytes, &mut batch, out)?;
                    } else {
                        bytes = rest;
                    }
                }
                State::Prefix(_) => bytes = self.collect(bytes, &mut batch, out)?,
                State::Text { stream, part, is_shown } => {
                    let (stream, part, is_shown) = (*stream, *part, *is_shown);
                    let newline = memchr::memchr(b'\n', bytes);
                    self.add_text(&bytes[..newline.unwrap_or(bytes.len())], &mut batch, out)?;
                    bytes = newline.map_or(&[], |i| &bytes[i + 1..]);
                    if newline.is_some() {
                        self.end(stream, part, is_shown, &mut batch, out)?;
                    }
                }
            }
        }
        batch.flush(out)
    }

    /// Takes the beginning of a line, as far as it is needed to know whether it has a stamp, or the next bytes of that.
    /// Gives back the rest.
    fn collect<'a, E>(
        &mut self,
        bytes: &'a [u8],
        batch: &mut Batch,
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        let State::Prefix(start) = &mut self.state else { return Ok(bytes) };
        let missing = &bytes[..bytes.len().min(PREFIX_LEN - start.len())];
        let newline = memchr::memchr(b'\n', missing);
        let (added, rest) = bytes.split_at(newline.unwrap_or(missing.len()));
        start.extend_from_slice(added);
        if newline.is_none() && start.len() < PREFIX_LEN {
            return Ok(rest);
        }
        let start = std::mem::take(start);
        if let Some(prefix) = shared_prefix(&start) {
            self.shared = Some(prefix);
            self.begin(&start, batch, out)?;
        } else if let Some(prefix) = self.shared {
            self.begin(&prefix, batch, out)?;
            self.add_text(&start, batch, out)?;
        } else {
            // The rest of a line whose beginning is not there. Better shown than swallowed.
            self.state = State::Text { stream: Stream::Stdout, part: Part::Whole, is_shown: true };
            self.add_text(&start, batch, out)?;
        }
        Ok(rest)
    }

    fn add_text<E>(
        &self,
        text: &[u8],
        batch: &mut Batch,
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.state {
            State::Text { stream, is_shown: true, .. } => batch.add(stream, text, out),
            _ => Ok(()),
        }
    }

    /// Begins to show a record that has this prefix.
    fn begin<E>(
        &mut self,
        prefix: &[u8],
        batch: &mut Batch,
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(record) = parse(prefix, Stream::Combined) else { return Ok(()) };
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
                stamp[PREFIX_LEN - 2] = b'Z';
                stamp[PREFIX_LEN - 1] = b' ';
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

/// The stream of whole lines that share this prefix; `None` for parts of lines.
fn whole_lines_of(prefix: &[u8]) -> Option<Stream> {
    match (prefix[PREFIX_LEN - 2], prefix[PREFIX_LEN - 1]) {
        (b'Z', b' ') => Some(Stream::Stdout),
        (b'z', b' ') => Some(Stream::Stderr),
        _ => None,
    }
}

/// Neighbouring pieces for the same stream become one write.
struct Batch {
    stream: Stream,
    bytes: Vec<u8>,
}

impl Batch {
    /// Adds the lines of the child at the beginning of `log` that are whole and not in parts, which nearly all are. Gives
    /// back the rest.
    fn add_whole_lines<'a, E>(
        &mut self,
        log: &'a [u8],
        stamp: &mut Option<[u8; PREFIX_LEN]>,
        out: &mut impl FnMut(Stream, Vec<u8>) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        let (mut lines, torn) = log.split_at(memchr::memrchr(b'\n', log).map_or(0, |newline| newline + 1));
        while !lines.is_empty() {
            let is_stamped = is_stamped(lines);
            let prefix = if is_stamped { lines } else { stamp.as_ref().map_or(&[][..], |stamp| stamp) };
            let Some(stream) = prefix.get(..PREFIX_LEN).and_then(whole_lines_of) else { break };
            let end = next_stamped(lines).unwrap_or(lines.len());
            self.add(stream, &lines[if is_stamped { PREFIX_LEN } else { 0 }..end], out)?;
            if is_stamped {
                *stamp = shared_prefix(lines);
            }
            lines = &lines[end..];
        }
        Ok(&log[log.len() - torn.len() - lines.len()..])
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

    #[test]
    fn lines_that_share_a_stamp_have_its_time_and_its_stream() {
        let log = "2026-01-02T03:04:05.001Z one\n\ntwo\n\
                   2026-01-02T03:04:05.002z three\n2026-01-02T03:04:05.003Z-\nfour\n\
                   2026-01-02T03:04:05.004Z 2026-01-02T03:04:05.000z>five\nsix\n\
                   2026-01-02T03:04:05.005Z>se\n2026-01-02T03:04:05.006Z+ven\n\
                   2026-01-02T03:04:05.007z eight\n";
        let [stdout, stderr] = [
            "one\n\ntwo\n2026-01-02T03:04:05.000z>five\nsix\nseven\n",
            "three\n2026-01-02T03:04:05.003Z-\nfour\neight\n",
        ];
        let stamped: Vec<&str> = "1Z one;1Z ;1Z two;2Z three;2Z 2026-01-02T03:04:05.003Z-;2Z four;\
                                  4Z 2026-01-02T03:04:05.000z>five;4Z six;5Z seven;7Z eight"
            .split(';')
            .collect();
        let stamped: String = stamped.iter().map(|line| format!("2026-01-02T03:04:05.00{line}\n")).collect();
        for size in (1..60).chain([1000]) {
            assert_eq!(shown(Show::Bytes, log, size), [stdout, stderr], "{size}");
            assert_eq!(shown(Show::Stamped(Stream::Combined), log, size)[0], stamped, "{size}");
        }
        let mut frames = Frames::new(Show::Bytes);
        frames.share(Some(*b"2026-01-02T03:04:05.001z "));
        let mut streams = Vec::new();
        let _ = frames.push(&log.as_bytes()[29..], &mut |stream, _| -> Result<(), ()> {
            streams.push(stream);
            Ok(())
        });
        assert_eq!(
            streams,
            [Stream::Stderr, Stream::Stdout, Stream::Stderr],
            "they begin with those before the first stamp"
        );
    }
}
