//! Requests and answers out of arbitrary bytes: no two readings, no more memory than the limits say, no panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use persistproc_fuzz::http::buffer::Buffer;
use persistproc_fuzz::http::head::{decode, encode, parse_request, parse_response};
use persistproc_fuzz::http::request_reader::{ReadError, RequestReader, Source};

const MOST: usize = 5000;

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

/// Method, target and body of each request, and whether the end was a refusal.
fn read(bytes: &[u8], size: usize) -> (Vec<(String, String, Vec<u8>)>, bool) {
    let (mut intake, mut source) = (RequestReader::default(), Pieces { left: bytes, size });
    let mut requests = Vec::new();
    let mut next = || {
        intake.skip_empty_lines(&mut source)?;
        let head = intake.head(&mut source)?;
        assert!(head.target.starts_with('/'));
        head.query();
        head.keeps_alive();
        let framing = head.request_body()?;
        let body = intake.body(framing, MOST, &mut source)?;
        assert!(body.len() <= MOST);
        Ok::<_, ReadError>((head.method.clone(), head.target.clone(), body))
    };
    loop {
        match next() {
            Ok(request) => requests.push(request),
            Err(halt) => return (requests, halt != ReadError::Closed),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    assert_eq!(read(rest, usize::from(*first) + 1), read(rest, usize::MAX), "the pieces decide");

    if let Ok(Some((head, length))) = parse_request(rest) {
        let raw = &rest[..length];
        assert!(raw.ends_with(b"\r\n\r\n"));
        assert_eq!(raw.windows(4).position(|w| w == b"\r\n\r\n"), Some(length - 4), "it ends at the first empty line");
        for (i, byte) in raw.iter().enumerate() {
            let is_end = |at: usize| raw.get(at) == Some(&b'\n');
            assert!(*byte != b'\n' || i > 0 && raw[i - 1] == b'\r', "bare LF");
            assert!(*byte != b'\r' || is_end(i + 1), "bare CR");
            assert!(*byte != 0, "NUL");
        }
        // No line but the first begins with a blank (obs-fold).
        assert!(!raw.windows(3).any(|w| w.starts_with(b"\r\n") && (w[2] == b' ' || w[2] == b'\t')));
        assert!(head.headers("host").all(|value| !value.contains(['\r', '\n'])));
    }
    if let Ok(Some((head, length))) = parse_response(rest) {
        assert!(length <= rest.len());
        let _ = head.response_body();
    }
    if let Ok(text) = std::str::from_utf8(rest) {
        decode(text);
        assert_eq!(decode(&encode(text)), text);
    }
});
