//! Requests that are wrong in one way each: the status of the response, and that the server is as before.

use super::*;
use std::os::unix::net::UnixStream;

/// Bytes to send and the statuses of the answers. After a refusal the connection is closed.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    statuses: Vec<u16>,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, statuses: &[u16]) -> Case {
    Case { name, bytes: bytes.into(), statuses: statuses.to_vec() }
}

/// Everything that can be wrong with a head.
fn heads(port: u16) -> Vec<Case> {
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    let get = |line: &str, headers: &str| format!("{line}\r\n{host}{headers}\r\n");
    let with = |headers: &str| get("GET /health HTTP/1.1", headers);
    vec![
        case("bare LF everywhere", format!("GET /health HTTP/1.1\nHost: 127.0.0.1:{port}\n\n"), &[400]),
        case("one bare LF", format!("GET /health HTTP/1.1\r\n{host}A: b\nC: d\r\n\r\n"), &[400]),
        case("a bare LF as the last line", format!("GET /health HTTP/1.1\r\n{host}\n"), &[400]),
        case("bare CR in a value", with("A: b\rc\r\n"), &[400]),
        case("bare CR as a line end", format!("GET /health HTTP/1.1\rHost: 127.0.0.1:{port}\r\r"), &[400]),
        case("obs-fold", with("A: b\r\n c\r\n"), &[400]),
        case("obs-fold with a tab", with("A: b\r\n\tc\r\n"), &[400]),
        case("a folded first header", format!("GET /health HTTP/1.1\r\n {host}\r\n"), &[400]),
        case("a space before the colon", with("A : b\r\n"), &[400]),
        case("no colon", with("A b\r\n"), &[400]),
        case("no name", with(": b\r\n"), &[400]),
        case("NUL in a value", with("A: b\0c\r\n"), &[400]),
        case("NUL in a name", with("A\0: b\r\n"), &[400]),
        case("NUL in the target", get("GET /health\0 HTTP/1.1", ""), &[400]),
        case("a control character in the target", get("GET /he\x07alth HTTP/1.1", ""), &[400]),
        case("a name that is not ASCII", with("\u{fc}: b\r\n"), &[400]),
        case("an invalid method", get("G(T /health HTTP/1.1", ""), &[400]),
        case("two spaces", get("GET  /health HTTP/1.1", ""), &[400]),
        case("tabs for spaces", get("GET\t/health\tHTTP/1.1", ""), &[400]),
        case("absolute form", get(&format!("GET http://127.0.0.1:{port}/health HTTP/1.1"), ""), &[400]),
        case("absolute form of another host", get("GET http://evil.example/health HTTP/1.1", ""), &[400]),
        case("authority form", get("CONNECT 127.0.0.1:22 HTTP/1.1", ""), &[400]),
        case("asterisk form", get("OPTIONS * HTTP/1.1", ""), &[400]),
        case("HTTP/0.9", "GET /health\r\n", &[400]),
        case("HTTP/2.0", get("GET /health HTTP/2.0", ""), &[505]),
        case("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505]),
        case("an invalid version", get("GET /health HTTP/1.1x", ""), &[400]),
        case("a version in lower case", get("GET /health http/1.1", ""), &[505]),
        case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        case("SSH", "SSH-2.0-OpenSSH_9.6\r\n", &[400]),
        case("SOCKS", b"\x05\x02\x00\x01".to_vec(), &[400]),
        case("a dump of memory", vec![0xffu8; 30_000], &[400]),
        case("nothing but empty lines", "\r\n".repeat(5000), &[400]),
        case("bare LF after empty lines", format!("{}GET /health HTTP/1.1\nHost: x\n\n", "\r\n".repeat(6)), &[400]),
        case(
            "another expectation",
            get("POST /mcp HTTP/1.1", "Content-Type: application/json\r\nContent-Length: 2\r\nExpect: coffee\r\n"),
            &[417],
        ),
    ]
}

/// Heads that are too large.
fn large_heads(port: u16) -> Vec<Case> {
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    let get = |line: &str, headers: &str| format!("{line}\r\n{host}{headers}\r\n");
    let with = |headers: &str| get("GET /health HTTP/1.1", headers);
    vec![
        case("a head of 17 KB", with(&format!("A: {}\r\n", "x".repeat(17_000))), &[431]),
        case("a target of 20 KB", get(&format!("GET /{} HTTP/1.1", "x".repeat(20_000)), ""), &[431]),
        case("a line that never ends", format!("GET /health HTTP/1.1\r\n{host}A: {}", "x".repeat(1 << 20)), &[431]),
        case("a name that never ends", "x".repeat(1 << 20), &[431]),
        case("101 headers", with(&"A: b\r\n".repeat(101)), &[431]),
        case("100 000 headers", with(&"A: b\r\n".repeat(100_000)), &[431]),
    ]
}

/// Paths and methods that do not exist.
fn unknown_targets(port: u16) -> Vec<Case> {
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    let get = |line: &str, headers: &str| format!("{line}\r\n{host}{headers}\r\n");
    let mut cases = Vec::new();
    let paths = [
        "/",
        "/MCP",
        "//mcp",
        "/mcp//",
        "/%6dcp",
        "/mcp%00",
        "/mcp;x",
        "/health/../mcp",
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/mcp/.well-known/openid-configuration",
        "/favicon.ico",
    ];
    cases.extend(paths.map(|path| case("an unknown path", get(&format!("GET {path} HTTP/1.1"), ""), &[404])));
    let methods = ["GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"];
    cases.extend(methods.map(|method| case("a method", get(&format!("{method} /mcp HTTP/1.1"), ""), &[405])));
    cases
}

/// Everything that can be wrong with the length of a body.
fn bodies(port: u16) -> Vec<Case> {
    let head = format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n");
    let with = |headers: &str, body: &str| format!("{head}{headers}\r\n{body}");
    let length = |value: &str| with(&format!("Content-Length: {value}\r\n"), "{}");
    let chunks = |body: &str| with("Transfer-Encoding: chunked\r\n", body);
    vec![
        case("a length of 2^46", length("70368744177664"), &[413]),
        case("a length of 2^64-1", length("18446744073709551615"), &[413]),
        case("a length of 2^64", length("18446744073709551616"), &[413]),
        case("a length of 30 digits", length(&"9".repeat(30)), &[413]),
        case("a length of one byte too many", length(&((4 << 20) + 1).to_string()), &[413]),
        case("two equal lengths", with("Content-Length: 2\r\nContent-Length: 2\r\n", "{}"), &[400]),
        case("two lengths", with("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"), &[400]),
        case("length and chunks", with("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), &[400]),
        case("chunks and length", with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), &[400]),
        case("a space before the colon", with("Content-Length : 2\r\n", "{}"), &[400]),
        case("a length that is folded", with("Content-Length:\r\n 2\r\n", "{}"), &[400]),
        case("chunks twice", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), &[400]),
        case("chunks in HTTP/1.0", chunks("0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"), &[400]),
        case("a huge chunk", chunks("FFFFFFFFFFFFFFFF\r\n"), &[413]),
        case("a chunk of 17 digits", chunks("FFFFFFFFFFFFFFFFF\r\n"), &[413]),
        case("a chunk of 5 MB", chunks("500000\r\n"), &[413]),
        case("a size line of 1 MB", chunks(&"0".repeat(1 << 20)), &[400]),
        case("an extension of 300 bytes", chunks(&format!("1;{}\r\n", "x".repeat(300))), &[400]),
        case("an extension with a CR", chunks("1;a\rb\r\nx\r\n0\r\n\r\n"), &[400]),
        case("a negative chunk", chunks("-1\r\n"), &[400]),
        case("a chunk with 0x", chunks("0x2\r\n{}\r\n0\r\n\r\n"), &[400]),
        case("a chunk with a space", chunks("2 \r\n{}\r\n0\r\n\r\n"), &[400]),
        case("a chunk size and bare LF", chunks("2\n{}\r\n0\r\n\r\n"), &[400]),
        case("a chunk that is longer than it says", chunks("1\r\n{}\r\n0\r\n\r\n"), &[400]),
        case("a chunk that is shorter than it says", chunks("3\r\n{}\r\n0\r\n\r\n"), &[400]),
        case("no chunks", chunks("GET /health HTTP/1.1\r\n"), &[400]),
        case("trailers of 100 KB", chunks(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(17_000))), &[431]),
        case("a trailer with bare LF", chunks("0\r\nA: b\n\r\n"), &[400]),
        // What a proxy might take for one request and we for two, or the other way round.
        case("a request after a body", length("2").clone() + &ping(port), &[400, 200]),
        case("a request within the body", length(&(2 + ping(port).len()).to_string()) + &ping(port), &[400]),
        case("a request after chunks", chunks("2\r\n{}\r\n0\r\n\r\n") + &ping(port), &[400, 200]),
        case("rubbish after a body", length("2") + "rubbish\0\r\n\r\n", &[400, 400]),
        case("not JSON", with("Content-Length: 1\r\n", "{"), &[400]),
        case("not UTF-8", [with("Content-Length: 3\r\n", "").into_bytes(), b"\"\xff\"".to_vec()].concat(), &[400]),
        case("50 000 brackets", with("Content-Length: 50000\r\n", &"[".repeat(50_000)), &[400]),
    ]
}

/// Values of `Content-Length` and `Transfer-Encoding` that are not valid.
fn bad_framing_headers(port: u16) -> Vec<Case> {
    let head = format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n");
    let with = |headers: &str, body: &str| format!("{head}{headers}\r\n{body}");
    let length = |value: &str| with(&format!("Content-Length: {value}\r\n"), "{}");
    let mut cases = Vec::new();
    for value in ["", " ", "abc", "-1", "+2", "0x2", "2,2", "2, 2", "2 2", "2.0", "1e1", "\u{662}", "2;"] {
        cases.push(case("an invalid length", length(value), &[400]));
    }
    for value in [
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunked, identity",
        "identity",
        "xchunked",
        "chunked;q=1",
        "",
        ",chunked",
        "\"chunked\"",
    ] {
        let headers = format!("Transfer-Encoding: {value}\r\n");
        cases.push(case("an invalid encoding", with(&headers, "0\r\n\r\n"), &[400]));
    }
    cases
}

/// What a foreign web page can send.
fn pages(port: u16) -> Vec<Case> {
    let own = format!("Host: 127.0.0.1:{port}\r\n");
    let request = |headers: String| format!("POST /mcp HTTP/1.1\r\n{headers}Content-Length: 2\r\n\r\n{{}}");
    let json = "Content-Type: application/json\r\n";
    let mut cases = vec![
        case("no host", request(json.into()), &[403]),
        case("two hosts", request(format!("{own}{own}{json}")), &[403]),
        case("another host", request(format!("Host: evil.example:{port}\r\n{json}")), &[403]),
        case("a host that begins well", request(format!("Host: 127.0.0.1:{port}.evil.example\r\n{json}")), &[403]),
        case("another port", request(format!("Host: 127.0.0.1:{}\r\n{json}", port ^ 1)), &[403]),
        case("no port", request(format!("Host: 127.0.0.1\r\n{json}")), &[403]),
        case("a user before the host", request(format!("Host: x@127.0.0.1:{port}\r\n{json}")), &[403]),
        case("origin null", request(format!("{own}Origin: null\r\n{json}")), &[403]),
        case("another origin", request(format!("{own}Origin: https://evil.example\r\n{json}")), &[403]),
        case("another local origin", request(format!("{own}Origin: http://localhost:3000\r\n{json}")), &[403]),
        case("two origins", request(format!("{own}Origin: http://localhost:{port}\r\nOrigin: null\r\n{json}")), &[403]),
        case("no type", request(own.clone()), &[415]),
    ];
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"] {
        cases.push(case("a form", request(format!("{own}Content-Type: {kind}\r\n")), &[415]));
    }
    cases
}

fn ping(port: u16) -> String {
    String::from_utf8(post("/mcp", port, "", PING)).unwrap()
}

/// A connection of either kind.
trait Stream: Read + Write {
    /// Shuts down the sending side.
    fn end(&self);
}

impl Stream for TcpStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for UnixStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// Sends what each case says, and compares the answers with those that it expects.
#[track_caller]
fn play<S: Stream>(victim: &Victim, cases: Vec<Case>, connect: impl Fn() -> S) {
    let mut problems = Vec::new();
    for case in cases {
        let shown: String = String::from_utf8_lossy(&case.bytes).chars().take(200).collect();
        let what = format!("{}: {shown:?}", case.name);
        let mut stream = connect();
        let sent = stream.write_all(&case.bytes);
        let mut statuses = Vec::new();
        // A refused connection is closed; any other stays open until the client ends it.
        while let Some(answer) = read_answer(&mut stream, &what) {
            statuses.push(answer.status);
            let lines = answer.body.iter().filter(|&&b| b == b'\n').count();
            if answer.status != 200 && !answer.body.starts_with(b"{") && lines != 1 {
                problems.push(format!("{what}: {answer:?}"));
            }
            if statuses.len() >= case.statuses.len() {
                stream.end();
            }
        }
        if statuses != case.statuses {
            problems.push(format!("{what}: {statuses:?} for {:?} ({sent:?})", case.statuses));
        }
        drop(stream);
        victim.is_as_before(&what);
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn after_every_kind_of_nonsense_the_next_good_request_is_answered_promptly() {
    let victim = Victim::new();
    let port = victim.port();
    let cases: Vec<Case> =
        [heads(port), large_heads(port), unknown_targets(port), bodies(port), bad_framing_headers(port), pages(port)]
            .into_iter()
            .flatten()
            .collect();
    assert!(cases.len() >= 130, "{}", cases.len());
    play(&victim, cases, || victim.connect());
}

#[test]
fn the_private_socket_refuses_the_same_nonsense() {
    let victim = Victim::new();
    let port = victim.port();
    let mut cases: Vec<Case> =
        [heads(port), large_heads(port), unknown_targets(port), bodies(port), bad_framing_headers(port)]
            .into_iter()
            .flatten()
            .collect();
    let health = String::from_utf8(get("/health", port)).unwrap();
    cases.push(case("a body for a GET", health.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\n{}"), &[200]));
    play(&victim, cases, || victim.sandbox.connect_private().unwrap());
}
