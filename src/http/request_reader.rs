//! Requests out of a stream of bytes: where a head ends, how its body is framed, and what is too much. Knows no sockets:
//! bytes come from a [`Source`], in pieces of any size, and what is made of them depends on nothing else.

use super::HEAD_MAX;
use super::buffer::Buffer;
use super::head::{Body, Head, Refused, parse_request};

/// Empty lines that a client may send before a request (RFC 9112, 2.2: some send one after a body).
const EMPTY_LINES: usize = 4;
/// One line of chunked framing, in bytes.
const LINE_MAX: usize = 256;

/// Bodies from this size on, in bytes, have to wait for each other.
pub const LARGE: usize = 256 << 10;

/// Why there is no request.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum ReadError {
    /// The client is done, or has gone.
    Closed,
    /// To be answered with this status; then the connection is closed.
    Status(u16),
}

impl From<Refused> for ReadError {
    fn from(Refused(status): Refused) -> ReadError {
        ReadError::Status(status)
    }
}

/// Where the bytes come from.
pub trait Source {
    /// Adds at least one byte to `buffer`, or says why there will be none.
    fn fill(&mut self, buffer: &mut Buffer) -> Result<(), ReadError>;

    /// Asked once before a body takes more than [`LARGE`]: until it may, or that it may not.
    fn wait_for_room(&mut self) -> Result<(), ReadError> {
        Ok(())
    }
}

/// What was read from a connection and not yet used.
#[derive(Default)]
pub struct RequestReader {
    buffer: Buffer,
}

impl RequestReader {
    /// Waits for the first byte of a request.
    pub fn skip_empty_lines(&mut self, source: &mut impl Source) -> Result<(), ReadError> {
        for _ in 0..EMPTY_LINES {
            while matches!(self.buffer.rest(), [] | [b'\r']) {
                source.fill(&mut self.buffer).map_err(|_| ReadError::Closed)?;
            }
            if !self.buffer.rest().starts_with(b"\r\n") {
                return Ok(());
            }
            self.buffer.skip(2);
        }
        Ok(())
    }

    pub fn head(&mut self, source: &mut impl Source) -> Result<Head, ReadError> {
        loop {
            if let Some((head, length)) = parse_request(self.buffer.rest())? {
                if length > HEAD_MAX {
                    return Err(ReadError::Status(431));
                }
                self.buffer.skip(length);
                return Ok(head);
            }
            if self.buffer.rest().len() > HEAD_MAX {
                return Err(ReadError::Status(431));
            }
            source.fill(&mut self.buffer)?;
        }
    }

    /// A body of at most `most` bytes.
    pub fn body(&mut self, body: Body, most: usize, source: &mut impl Source) -> Result<Vec<u8>, ReadError> {
        match body {
            Body::Sized(length) if length > most => Err(ReadError::Status(413)),
            Body::Sized(length) => {
                if length >= LARGE {
                    source.wait_for_room()?;
                }
                self.take(length, source)
            }
            Body::Chunked => self.chunked(most, source),
            Body::UntilClose => Err(ReadError::Status(400)), // never of a request
        }
    }

    fn take(&mut self, length: usize, source: &mut impl Source) -> Result<Vec<u8>, ReadError> {
        while self.buffer.rest().len() < length {
            source.fill(&mut self.buffer)?;
        }
        Ok(self.buffer.take(length))
    }

    /// A line of chunked framing, without its CRLF. One that holds another line end of any kind is refused.
    fn line(&mut self, source: &mut impl Source) -> Result<Vec<u8>, ReadError> {
        loop {
            let rest = self.buffer.rest();
            let newline = memchr::memchr(b'\n', &rest[..rest.len().min(LINE_MAX + 1)]);
            if newline.is_none() && rest.len() > LINE_MAX {
                return Err(ReadError::Status(400));
            }
            if let Some(newline) = newline {
                let line = self.take(newline + 1, source)?;
                let line = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r'));
                return line.map(Vec::from).ok_or(ReadError::Status(400));
            }
            source.fill(&mut self.buffer)?;
        }
    }

    /// RFC 9112, 7.1. Extensions and trailers are read and dropped.
    fn chunked(&mut self, most: usize, source: &mut impl Source) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let size = chunk_size(&self.line(source)?)?;
            if size > most - body.len() {
                return Err(ReadError::Status(413));
            }
            if size == 0 {
                return self.skip_trailers(source).map(|()| body);
            }
            if body.len() < LARGE && body.len() + size >= LARGE {
                source.wait_for_room()?;
            }
            body.extend(self.take(size, source)?);
            if !self.line(source)?.is_empty() {
                return Err(ReadError::Status(400));
            }
        }
    }

    fn skip_trailers(&mut self, source: &mut impl Source) -> Result<(), ReadError> {
        let mut room = HEAD_MAX;
        loop {
            let line = self.line(source)?;
            if line.is_empty() {
                return Ok(());
            }
            room = room.checked_sub(line.len()).ok_or(ReadError::Status(431))?;
        }
    }
}

/// The size before a chunk: hexadecimal digits, then nothing or extensions. No blanks, no sign, no `0x`: what others
/// might read in another way is refused.
fn chunk_size(line: &[u8]) -> Result<usize, Refused> {
    let digits = line.split(|&b| b == b';').next().unwrap_or(&[]);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Refused(400));
    }
    // Digits that do not fit are a chunk that is too large, not nonsense.
    let digits = std::str::from_utf8(digits).map_err(|_| Refused(400))?;
    usize::from_str_radix(digits, 16).map_err(|_| Refused(413))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes in pieces of a fixed size.
    struct Pieces<'a> {
        left: &'a [u8],
        size: usize,
    }

    impl Source for Pieces<'_> {
        fn fill(&mut self, buffer: &mut Buffer) -> Result<(), ReadError> {
            let (piece, rest) = self.left.split_at(self.size.min(self.left.len()));
            self.left = rest;
            let read = |room: &mut [u8]| {
                room.copy_from_slice(piece);
                if piece.is_empty() { Err(ReadError::Closed) } else { Ok(piece.len()) }
            };
            buffer.fill(piece.len(), read).map(drop)
        }
    }

    const MOST: usize = 1000;

    /// The bodies of all requests in `bytes`, and what came then; the same whatever the pieces are.
    fn read_all(bytes: &[u8]) -> (Vec<Vec<u8>>, ReadError) {
        let outcomes: Vec<_> = [1, 2, 7, 8192].map(|size| read_in_pieces(bytes, size)).into();
        assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{outcomes:?}");
        outcomes.into_iter().next().unwrap()
    }

    fn read_in_pieces(bytes: &[u8], size: usize) -> (Vec<Vec<u8>>, ReadError) {
        let (mut intake, mut source) = (RequestReader::default(), Pieces { left: bytes, size });
        let mut bodies = Vec::new();
        let mut next = || {
            intake.skip_empty_lines(&mut source)?;
            let framing = intake.head(&mut source)?.request_body()?;
            intake.body(framing, MOST, &mut source)
        };
        loop {
            match next() {
                Ok(body) => bodies.push(body),
                Err(halt) => return (bodies, halt),
            }
        }
    }

    #[test]
    fn requests_follow_each_other_whatever_the_pieces() {
        let (bodies, halt) = read_all(
            b"GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\r\n\r\nPOST /c HTTP/1.1\r\n\
              Transfer-Encoding: chunked\r\n\r\n1;x=y\r\nd\r\n0002\r\nef\r\n0\r\nTrailer: t\r\n\r\nGET /d HTTP/1.1\r\n\r\nGET",
        );
        assert_eq!(
            (bodies, halt),
            (vec![b"".to_vec(), b"abc".to_vec(), b"def".to_vec(), b"".to_vec()], ReadError::Closed)
        );
    }

    #[test]
    fn chunks_that_could_be_read_in_two_ways_are_refused() {
        for (body, status) in [
            ("\r\n", 400),
            ("x\r\n", 400),
            ("-1\r\n", 400),
            ("+1\r\n", 400),
            ("0x1\r\n", 400),
            ("1 \r\n", 400),
            (" 1\r\n", 400),
            ("1\t;x\r\n", 400),
            ("1\n", 400),
            ("1;a\rb\r\n", 400),
            ("1\r\nabc\r\n", 400),
            ("1\r\na\n", 400),
            ("1\r\na0\r\n\r\n", 400),
            ("0\r\nA: b\n\r\n", 400),
            ("3E9\r\n", 413),
            ("FFFFFFFFFFFFFFFF\r\n", 413),
            ("FFFFFFFFFFFFFFFFF\r\n", 413),
            ("1\r\na\r\n3E8\r\n", 413),
        ] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(read_all(text.as_bytes()), (vec![], ReadError::Status(status)), "{body:?}");
        }
        let long = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\n", "x".repeat(LINE_MAX));
        assert_eq!(read_all(long.as_bytes()), (vec![], ReadError::Status(400)));
        let trailers = "A: b\r\n".repeat(HEAD_MAX / 4 + 1);
        let many = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n");
        assert_eq!(read_all(many.as_bytes()), (vec![], ReadError::Status(431)));
    }

    #[test]
    fn a_million_tiny_chunks_take_a_moment() {
        let mut text = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        text.extend(b"1\r\nx\r\n".repeat(1_000_000));
        text.extend(b"0\r\n\r\n");
        let (mut intake, mut source) = (RequestReader::default(), Pieces { left: &text, size: 1 << 20 });
        let begun = std::time::Instant::now();
        assert!(intake.head(&mut source).is_ok());
        assert_eq!(intake.body(Body::Chunked, 2_000_000, &mut source).map(|body| body.len()), Ok(1_000_000));
        // What is left must not be copied for each: that would be a terabyte.
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_too_much_is_refused_before_it_is_read() {
        for length in ["1001", "70368744177664", "18446744073709551615", "18446744073709551616"] {
            let text = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(read_all(text.as_bytes()), (vec![], ReadError::Status(413)), "{length}");
        }
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HEAD_MAX));
        assert_eq!(read_in_pieces(endless.as_bytes(), 1000), (vec![], ReadError::Status(431)));
        assert_eq!(read_all(&b"\r\n".repeat(EMPTY_LINES + 1)), (vec![], ReadError::Status(400)));
    }
}
