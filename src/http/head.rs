//! Request and response heads: parsing (by httparse), body length, what the framing allows. Pure: bytes in, values out.
//!
//! Strict where leniency lets two parties see different messages in the same bytes (RFC 9112, 11.2): a bare LF, a
//! repeated or malformed `Content-Length`, and `Transfer-Encoding` other than a single `chunked` are refused.

const HEADERS_MAX: usize = 100;

/// Why a head was refused, as an HTTP status.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Refused(pub u16);

/// How long the body is that follows.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Body {
    Sized(usize),
    Chunked,
    /// Up to the end of the connection; responses only.
    UntilClose,
}

/// A parsed head: of a request (`method`, `target`) or of a response (`status`).
#[derive(Debug, Default)]
pub struct Head {
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    pub status: u16,
    /// Minor digit of HTTP/1.x.
    pub version: u8,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of a header. Bytes that are not UTF-8 were replaced, so that nothing secret or safe equals them.
    pub fn header<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.headers(name).next()
    }

    /// All values of a header, in their order.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The target up to the question mark.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    /// The parameters after the question mark, decoded.
    pub fn query(&self) -> Vec<(String, String)> {
        let Some((_, query)) = self.target.split_once('?') else { return Vec::new() };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
    }

    /// Whether the connection goes on after this message (RFC 9112, 9.3).
    pub fn keeps_alive(&self) -> bool {
        let says = |word: &str| {
            self.headers("connection").flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(word))
        };
        if self.version == 0 { says("keep-alive") } else { !says("close") }
    }

    /// How the body is framed (RFC 9112, 6.3), for a request.
    pub fn request_body(&self) -> Result<Body, Refused> {
        Ok(self.framing()?.unwrap_or(Body::Sized(0)))
    }

    /// The same for a response that is not to a HEAD request.
    pub fn response_body(&self) -> Result<Body, Refused> {
        if self.status < 200 || self.status == 204 || self.status == 304 {
            return Ok(Body::Sized(0));
        }
        Ok(self.framing()?.unwrap_or(Body::UntilClose))
    }

    fn framing(&self) -> Result<Option<Body>, Refused> {
        let bad = Refused(400);
        let lengths: Vec<&str> = self.headers("content-length").collect();
        let encodings: Vec<&str> = self.headers("transfer-encoding").collect();
        match (lengths.as_slice(), encodings.as_slice()) {
            ([], []) => Ok(None),
            ([], [encoding]) if encoding.eq_ignore_ascii_case("chunked") && self.version == 1 => {
                Ok(Some(Body::Chunked))
            }
            ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                // Digits that do not fit are a length that is too large, not nonsense.
                Ok(Some(Body::Sized(length.parse().unwrap_or(usize::MAX))))
            }
            _ => Err(bad),
        }
    }
}

/// Parses a request head at the start of `bytes`: the head and its length; `None` if more bytes are needed.
pub fn parse_request(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refused> {
    // httparse skips any number of empty lines before the first one.
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(Refused(400));
    }
    check_line_ends(bytes)?;
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(length)) => length,
        Err(httparse::Error::TooManyHeaders) => return Err(Refused(431)),
        Err(httparse::Error::Version) => return Err(Refused(505)),
        Err(_) => return Err(Refused(400)),
    };
    let target = request.path.unwrap_or("");
    if !target.starts_with('/') {
        return Err(Refused(400));
    }
    let head = Head {
        method: request.method.unwrap_or("").into(),
        target: target.into(),
        version: request.version.unwrap_or(1),
        headers: owned(request.headers),
        ..Head::default()
    };
    Ok(Some((head, length)))
}

/// Parses a response head at the start of `bytes`, in the same way.
pub fn parse_response(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let (status, version) = (response.code.unwrap_or(0), response.version.unwrap_or(1));
            Ok(Some((Head { status, version, headers: owned(response.headers), ..Head::default() }, length)))
        }
        Err(_) => Err(Refused(502)),
    }
}

fn owned(headers: &[httparse::Header]) -> Vec<(String, String)> {
    // Only what RFC 9110, 5.5 calls optional white space is no part of a value: to whatever stands before us, a no-break
    // space is one.
    let value = |header: &httparse::Header| String::from_utf8_lossy(header.value.trim_ascii()).into_owned();
    headers.iter().map(|header| (header.name.to_string(), value(header))).collect()
}

/// httparse accepts a bare LF as the end of a line; we do not, up to the end of the head.
fn check_line_ends(bytes: &[u8]) -> Result<(), Refused> {
    let mut line_start = 0;
    for i in memchr::memchr_iter(b'\n', bytes) {
        if i == 0 || bytes[i - 1] != b'\r' {
            return Err(Refused(400));
        }
        if i - 1 == line_start && line_start > 0 {
            return Ok(()); // the empty line: what follows is the body
        }
        line_start = i + 1;
    }
    Ok(())
}

/// Percent-decoding; `+` is a space, as browsers and curl write it in queries.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let digits = bytes.get(i + 1..i + 3).and_then(|d| std::str::from_utf8(d).ok()).filter(|_| bytes[i] == b'%');
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 2;
            }
            None => out.push(if bytes[i] == b'+' { b' ' } else { bytes[i] }),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encoding of everything but letters, digits and `-._~` (RFC 3986, 2.3).
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The reason phrase of a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(Head, usize)>, Refused> {
        parse_request(text.as_bytes())
    }
    fn framing(headers: &str) -> Result<Body, Refused> {
        parse(&format!("POST /mcp HTTP/1.1\r\n{headers}\r\n"))?.unwrap().0.request_body()
    }

    #[test]
    fn a_head_is_taken_apart() {
        let text = "GET /output?run=12&wait_for=a%20b+c%zz&x HTTP/1.1\r\nHost: a\r\nhOST: b \r\n\r\nbody";
        let (head, length) = parse(text).unwrap().unwrap();
        assert_eq!(&text[length..], "body");
        assert_eq!((head.method.as_str(), head.path(), head.version), ("GET", "/output", 1));
        assert_eq!(head.headers("Host").collect::<Vec<_>>(), ["a", "b"]);
        let query: Vec<(String, String)> =
            [("run", "12"), ("wait_for", "a b c%zz"), ("x", "")].map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!(head.query(), query);
        assert_eq!(decode(&encode("a b+c&d=%/ü")), "a b+c&d=%/ü");
    }

    #[test]
    fn only_spaces_and_tabs_around_a_value_are_no_part_of_it() {
        for (value, kept) in
            [("\u{a0}a", "\u{a0}a"), ("a\u{2003}", "a\u{2003}"), ("\t a \t", "a"), ("\u{85}a", "\u{85}a")]
        {
            let (head, _) = parse(&format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n")).unwrap().unwrap();
            assert_eq!(head.header("host"), Some(kept), "{value:?}");
        }
    }

    #[test]
    fn every_beginning_of_a_good_head_asks_for_more() {
        let text = "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8947\r\nContent-Length: 2\r\n\r\n";
        for end in 0..text.len() {
            assert!(parse(&text[..end]).unwrap().is_none(), "{end}");
        }
        assert_eq!(parse(text).unwrap().unwrap().1, text.len());
    }

    #[test]
    fn heads_that_could_be_read_in_two_ways_are_refused() {
        for (text, status) in [
            ("\r\n\r\nGET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\n\r\n", 400),
            ("OPTIONS * HTTP/1.1\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("\u{16}\u{3}\u{1}\u{2}", 400),
            ("G\u{e9}T / HTTP/1.1\r\n\r\n", 400),
        ] {
            assert_eq!(parse(text).unwrap_err(), Refused(status), "{text:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(parse(&many).unwrap_err(), Refused(431));
    }

    #[test]
    fn only_one_way_to_frame_a_body_is_accepted() {
        assert_eq!(framing(""), Ok(Body::Sized(0)));
        assert_eq!(framing("Content-Length: 12\r\n"), Ok(Body::Sized(12)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Body::Chunked));
        assert_eq!(framing("Content-Length: 99999999999999999999999\r\n"), Ok(Body::Sized(usize::MAX)));
        for headers in [
            "Content-Length: \r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5,5\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
        ] {
            assert_eq!(framing(headers), Err(Refused(400)), "{headers:?}");
        }
    }

    #[test]
    fn connections_are_kept_as_the_version_and_the_header_say() {
        for (version, header, kept) in [
            (1, "", true),
            (1, "Connection: Close\r\n", false),
            (1, "Connection: te, close\r\n", false),
            (0, "", false),
            (0, "Connection: Keep-Alive\r\n", true),
        ] {
            let (head, _) = parse(&format!("GET / HTTP/1.{version}\r\n{header}\r\n")).unwrap().unwrap();
            assert_eq!(head.keeps_alive(), kept, "{version} {header}");
        }
    }

    #[test]
    fn a_response_tells_where_its_body_ends() {
        let body = |text: &str| parse_response(text.as_bytes()).unwrap().unwrap().0.response_body();
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\n"), Ok(Body::UntilClose));
        assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n"), Ok(Body::Sized(0)));
        assert_eq!(body("HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\n"), Ok(Body::Sized(7)));
        assert!(parse_response(b"SSH-2.0-OpenSSH_9\r\n").is_err());
    }
}
