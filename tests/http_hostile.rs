//! Clients that are broken, careless or malicious. Whatever they send, leave out or hold back: the next good request is
//! answered within 100 ms, and the threads, descriptors and memory of the server are what they were.

use crate::support::*;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a good request may take, whatever others do.
const PROMPT: Duration = Duration::from_millis(100);
/// What the server's memory may have grown by when it is quiet again: glibc keeps the stacks of ended threads for the next
/// ones, of which those of 128 connections have touched some 24 KB each in a debug build.
const MEMORY: u64 = 6 << 20;

/// A server, and what it was like before anybody was unkind to it.
struct Victim {
    sandbox: Sandbox,
    server: Guard,
    before: ProcessSize,
}

impl Victim {
    fn new() -> Victim {
        let sandbox = Sandbox::new();
        let server = sandbox.serve();
        Victim::watch(sandbox, server)
    }

    fn watch(sandbox: Sandbox, server: Guard) -> Victim {
        for _ in 0..20 {
            sandbox.http(&post("/mcp", sandbox.port, "Connection: close\r\n", PING));
        }
        // Threads that only start-up needs end first.
        let mut before = size_of_process(server.pid());
        wait_until("the server to be at rest", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = size_of_process(server.pid());
            let rests = (now.threads, now.descriptors) == (before.threads, before.descriptors);
            before = now;
            rests
        });
        Victim { sandbox, server, before }
    }

    fn port(&self) -> u16 {
        self.sandbox.port
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// A client with good manners is served at once. Of several tries the best counts: a loaded machine may hold up any
    /// of them, the server must not hold up all.
    #[track_caller]
    fn serves_others_at_once(&self, after: &str) {
        let mut best = DEADLINE;
        for _ in 0..50 {
            let begun = Instant::now();
            let answer = self.sandbox.try_http(&post("/mcp", self.port(), "Connection: close\r\n", PING));
            if answer.is_some_and(|answer| answer.status == 200) {
                best = best.min(begun.elapsed());
            }
            if best < PROMPT {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("after {after}: the next good request took {best:?}");
    }

    /// And nothing is left of those without.
    #[track_caller]
    fn is_as_before(&self, after: &str) {
        self.serves_others_at_once(after);
        let (pid, before) = (self.server.pid(), self.before);
        let begun = Instant::now();
        loop {
            let now = size_of_process(pid);
            let is_fine = now.threads <= before.threads
                && now.descriptors <= before.descriptors
                && now.memory <= before.memory + MEMORY;
            if is_fine {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "after {after}: {before:?} has become {now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One answer that must look like ours: nothing for web pages, no detours.
#[track_caller]
fn read_answer(stream: &mut impl Read, after: &str) -> Option<Http> {
    let answer = Http::read(stream)?;
    let has = |name: &str| answer.headers.keys().any(|header| header.starts_with(name));
    assert!(!has("access-control") && !has("location") && !has("set-cookie"), "{after}: {answer:?}");
    let said = |name: &str| answer.headers.get(name).map(String::as_str);
    assert_eq!(
        (said("x-content-type-options"), said("cross-origin-resource-policy")),
        (Some("nosniff"), Some("same-origin")),
        "{after}: {answer:?}"
    );
    assert!(answer.headers["server"].starts_with("persistproc/"), "{after}: {answer:?}");
    Some(answer)
}

/// Bytes to send and the statuses of the answers. After a refusal the connection is closed.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    statuses: Vec<u16>,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, statuses: &[u16]) -> Case {
    Case { name, bytes: bytes.into(), statuses: statuses.to_vec() }
}

/// Everything that can be wrong with the first lines.
fn heads(port: u16) -> Vec<Case> {
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    let get = |line: &str, headers: &str| format!("{line}\r\n{host}{headers}\r\n");
    let with = |headers: &str| get("GET /health HTTP/1.1", headers);
    let mut cases = vec![
        case("bare LF everywhere", format!("GET /health HTTP/1.1\nHost: 127.0.0.1:{port}\n\n"), &[400]),
        case("one bare LF", format!("GET /health HTTP/1.1\r\n{host}A: b\nC: d\r\n\r\n"), &[400]),
        case("a bare LF as the last line", format!("GET /health HTTP/1.1\r\n{host}\n"), &[400]),
        case("bare CR in a value", with("A: b\rc\r\n"), &[400]),
        case("bare CR as a line end", format!("GET /health HTTP/1.1\rHost: 127.0.0.1:{port}\r\r"), &[400]),
        case("obs-fold", with("A: b\r\n c\r\n"), &[400]),
        case("obs-fold with a tab", with("A: b\r\n\tc\r\n"), &[400]),
        case("a folded first header", format!("GET /health HTTP/1.1\r\n {host}\r\n"), &[400]),
        case("a blank before the colon", with("A : b\r\n"), &[400]),
        case("no colon", with("A b\r\n"), &[400]),
        case("no name", with(": b\r\n"), &[400]),
        case("NUL in a value", with("A: b\0c\r\n"), &[400]),
        case("NUL in a name", with("A\0: b\r\n"), &[400]),
        case("NUL in the target", get("GET /health\0 HTTP/1.1", ""), &[400]),
        case("a control character in the target", get("GET /he\x07alth HTTP/1.1", ""), &[400]),
        case("a name that is not ASCII", with("\u{fc}: b\r\n"), &[400]),
        case("a method that is none", get("G(T /health HTTP/1.1", ""), &[400]),
        case("two blanks", get("GET  /health HTTP/1.1", ""), &[400]),
        case("tabs for blanks", get("GET\t/health\tHTTP/1.1", ""), &[400]),
        case("absolute form", get(&format!("GET http://127.0.0.1:{port}/health HTTP/1.1"), ""), &[400]),
        case("absolute form of another host", get("GET http://evil.example/health HTTP/1.1", ""), &[400]),
        case("authority form", get("CONNECT 127.0.0.1:22 HTTP/1.1", ""), &[400]),
        case("asterisk form", get("OPTIONS * HTTP/1.1", ""), &[400]),
        case("HTTP/0.9", "GET /health\r\n", &[400]),
        case("HTTP/2.0", get("GET /health HTTP/2.0", ""), &[505]),
        case("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505]),
        case("a version that is none", get("GET /health HTTP/1.1x", ""), &[400]),
        case("a version in small letters", get("GET /health http/1.1", ""), &[505]),
        case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        case("SSH", "SSH-2.0-OpenSSH_9.6\r\n", &[400]),
        case("SOCKS", b"\x05\x02\x00\x01".to_vec(), &[400]),
        case("a dump of memory", vec![0xffu8; 30_000], &[400]),
        case("nothing but empty lines", "\r\n".repeat(5000), &[400]),
        case("bare LF behind empty lines", format!("{}GET /health HTTP/1.1\nHost: x\n\n", "\r\n".repeat(6)), &[400]),
        case("a head of 17 KB", with(&format!("A: {}\r\n", "x".repeat(17_000))), &[431]),
        case("a target of 20 KB", get(&format!("GET /{} HTTP/1.1", "x".repeat(20_000)), ""), &[431]),
        case("a line without end", format!("GET /health HTTP/1.1\r\n{host}A: {}", "x".repeat(1 << 20)), &[431]),
        case("a name without end", "x".repeat(1 << 20), &[431]),
        case("101 headers", with(&"A: b\r\n".repeat(101)), &[431]),
        case("100 000 headers", with(&"A: b\r\n".repeat(100_000)), &[431]),
        case(
            "another expectation",
            get("POST /mcp HTTP/1.1", "Content-Type: application/json\r\nContent-Length: 2\r\nExpect: coffee\r\n"),
            &[417],
        ),
    ];
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
    cases.extend(paths.map(|path| case("a path that there is not", get(&format!("GET {path} HTTP/1.1"), ""), &[404])));
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
    let mut cases = vec![
        case("a length of 2^46", length("70368744177664"), &[413]),
        case("a length of 2^64-1", length("18446744073709551615"), &[413]),
        case("a length of 2^64", length("18446744073709551616"), &[413]),
        case("a length of 30 digits", length(&"9".repeat(30)), &[413]),
        case("a length of one byte too many", length(&((4 << 20) + 1).to_string()), &[413]),
        case("two equal lengths", with("Content-Length: 2\r\nContent-Length: 2\r\n", "{}"), &[400]),
        case("two lengths", with("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"), &[400]),
        case("length and chunks", with("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), &[400]),
        case("chunks and length", with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), &[400]),
        case("a blank before the colon", with("Content-Length : 2\r\n", "{}"), &[400]),
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
        case("a chunk with a blank", chunks("2 \r\n{}\r\n0\r\n\r\n"), &[400]),
        case("a chunk size and bare LF", chunks("2\n{}\r\n0\r\n\r\n"), &[400]),
        case("a chunk that is longer than it says", chunks("1\r\n{}\r\n0\r\n\r\n"), &[400]),
        case("a chunk that is shorter than it says", chunks("3\r\n{}\r\n0\r\n\r\n"), &[400]),
        case("no chunks", chunks("GET /health HTTP/1.1\r\n"), &[400]),
        case("trailers of 100 KB", chunks(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(17_000))), &[431]),
        case("a trailer with bare LF", chunks("0\r\nA: b\n\r\n"), &[400]),
        // What a proxy might take for one request and we for two, or the other way round.
        case("a request behind a body", length("2").clone() + &ping(port), &[400, 200]),
        case("a request within the body", length(&(2 + ping(port).len()).to_string()) + &ping(port), &[400]),
        case("a request behind chunks", chunks("2\r\n{}\r\n0\r\n\r\n") + &ping(port), &[400, 200]),
        case("rubbish behind a body", length("2") + "rubbish\0\r\n\r\n", &[400, 400]),
        case("no JSON", with("Content-Length: 1\r\n", "{"), &[400]),
        case("no UTF-8", [with("Content-Length: 3\r\n", "").into_bytes(), b"\"\xff\"".to_vec()].concat(), &[400]),
        case("50 000 brackets", with("Content-Length: 50000\r\n", &"[".repeat(50_000)), &[400]),
    ];
    for value in ["", " ", "abc", "-1", "+2", "0x2", "2,2", "2, 2", "2 2", "2.0", "1e1", "\u{662}", "2;"] {
        cases.push(case("a length that is none", length(value), &[400]));
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
        cases.push(case("an encoding that is none", with(&headers, "0\r\n\r\n"), &[400]));
    }
    cases
}

/// What a page of a stranger can send.
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
trait Line: Read + Write {
    /// Nothing more is sent.
    fn end(&self);
}

impl Line for TcpStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Line for UnixStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// Sends what each case says, and compares the answers with those that it expects.
#[track_caller]
fn play<L: Line>(victim: &Victim, cases: Vec<Case>, connect: impl Fn() -> L) {
    let mut problems = Vec::new();
    for case in cases {
        let shown: String = String::from_utf8_lossy(&case.bytes).chars().take(200).collect();
        let what = format!("{}: {shown:?}", case.name);
        let mut stream = connect();
        let sent = stream.write_all(&case.bytes);
        let mut statuses = Vec::new();
        // Who is refused hears no more; who is not keeps the connection until he ends it.
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
fn after_every_kind_of_nonsense_the_next_good_request_is_answered_at_once() {
    let victim = Victim::new();
    let port = victim.port();
    let cases: Vec<Case> = [heads(port), bodies(port), pages(port)].into_iter().flatten().collect();
    assert!(cases.len() >= 130, "{}", cases.len());
    play(&victim, cases, || victim.connect());
}

#[test]
fn the_socket_of_our_own_commands_takes_nonsense_no_better() {
    let victim = Victim::new();
    let port = victim.port();
    let mut cases: Vec<Case> = [heads(port), bodies(port)].into_iter().flatten().collect();
    let health = String::from_utf8(get("/health", port)).unwrap();
    cases.push(case("a body for a GET", health.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\n{}"), &[200]));
    play(&victim, cases, || victim.sandbox.connect_private().unwrap());
}

/// A request that stands still somewhere.
fn stalled(port: u16) -> Vec<(&'static str, Vec<u8>)> {
    let head = format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n");
    [
        ("in the method", "P".to_string()),
        ("in the target", "POST /mc".into()),
        ("in a header", format!("{head}Content-Le")),
        ("before the last line", format!("{head}Content-Length: 2\r\n")),
        ("in the last line", format!("{head}Content-Length: 2\r\n\r")),
        ("before its body", format!("{head}Content-Length: 2\r\n\r\n")),
        ("in its body", format!("{head}Content-Length: 4000000\r\n\r\n{}", "x".repeat(100_000))),
        ("after 100 Continue", format!("{head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")),
        ("before a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n")),
        ("in the size of a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n1")),
        ("in a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n10\r\nabc")),
        ("behind a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc")),
        ("in its trailers", format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\nA: ")),
    ]
    .map(|(what, text)| (what, text.into_bytes()))
    .into()
}

#[test]
fn a_request_has_ten_seconds_and_slow_ones_hold_up_nobody() {
    let victim = Victim::new();
    let begun = Instant::now();
    let mut streams: Vec<(String, TcpStream)> = Vec::new();
    for (what, bytes) in stalled(victim.port()) {
        let mut stream = victim.connect();
        stream.write_all(&bytes).unwrap();
        streams.push((format!("it stops {what}"), stream));
    }
    // A byte now and then does not buy time.
    for (what, lead) in [("head", "GET /health HTTP/1.1\r\nA: "), ("body", "")] {
        let mut stream = victim.connect();
        let long = post("/mcp", victim.port(), "", &" ".repeat(10_000));
        let start = if lead.is_empty() { &long[..long.len() - 9000] } else { lead.as_bytes() };
        stream.write_all(start).unwrap();
        let mut dripping = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            while begun.elapsed() < Duration::from_secs(20) && dripping.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        streams.push((format!("its {what} drips"), stream));
    }
    victim.serves_others_at_once("stalled requests");
    for (what, mut stream) in streams {
        if what.contains("100 Continue") {
            stream.read_exact(&mut [0; 25]).unwrap();
        }
        let answer = read_answer(&mut stream, &what).unwrap_or_else(|| panic!("{what}: no answer"));
        let waited = begun.elapsed();
        assert_eq!(answer.status, 408, "{what}");
        assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(15), "{what}: {waited:?}");
    }
    victim.is_as_before("stalled requests");
}

#[test]
fn more_stalled_requests_than_there_are_places_shut_nobody_out() {
    let victim = Victim::new();
    let kinds = stalled(victim.port());
    let stalled: Vec<TcpStream> = (0..400)
        .map(|i| {
            let mut stream = victim.connect();
            let _ = stream.write_all(&kinds[i % kinds.len()].1);
            if i % 100 == 0 {
                victim.serves_others_at_once("some stalled requests");
            }
            stream
        })
        .collect();
    victim.serves_others_at_once("400 stalled requests");
    drop(stalled);
    victim.is_as_before("400 stalled requests");
}

/// Sends until the other side takes no more: then it waits for us to read.
fn stuff(stream: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    while sent < most {
        match stream.write(bytes) {
            Ok(n) if n == bytes.len() => sent += n,
            Ok(n) => return sent + n,
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn a_hundred_thousand_requests_of_one_who_never_reads_hold_up_nobody() {
    let victim = Victim::new();
    let mut stream = victim.connect();
    let request = post("/mcp", victim.port(), "", PING);
    let many = request.repeat(1000);
    let sent = stuff(&mut stream, &many, 100 * many.len());
    assert!(sent > many.len(), "{sent}");
    victim.serves_others_at_once("100 000 requests");
    let now = size_of_process(victim.server.pid());
    assert!(now.memory < victim.before.memory + MEMORY, "{:?} has become {now:?}", victim.before);
    // They are answered in their order, as far as they were sent, as soon as somebody reads.
    stream.shutdown(Shutdown::Write).unwrap();
    let whole = sent / request.len();
    let mut answers = std::io::BufReader::new(&stream);
    for i in 0..whole {
        let answer = Http::read(&mut answers).unwrap_or_else(|| panic!("{i} of {whole}"));
        assert_eq!(answer.status, 200);
    }
    drop(stream);
    victim.is_as_before("100 000 requests");
}

#[test]
fn more_clients_who_never_read_than_there_are_places_shut_nobody_out() {
    let victim = Victim::new();
    let request = post("/mcp", victim.port(), "", PING).repeat(100);
    let deaf: Vec<TcpStream> = (0..160)
        .map(|_| {
            let mut stream = victim.connect();
            shrink_buffers(&stream);
            stream.set_nonblocking(true).unwrap();
            while stream.write(&request).is_ok() {}
            stream
        })
        .collect();
    victim.serves_others_at_once("160 clients who never read");
    drop(deaf);
    victim.is_as_before("160 clients who never read");
}

#[test]
fn five_thousand_connections_shut_nobody_out() {
    let victim = Victim::new();
    let most = raise_descriptor_limit(5200).saturating_sub(200).min(5000) as usize;
    if most < 5000 {
        skip::<()>(&format!("only {most} connections: the limit of descriptors allows no more"));
    }
    let mut idle = Vec::new();
    for i in 0..most {
        idle.push(victim.connect());
        // Answered after those before it, so that the queue of the port has space again: a connection that finds it full
        // is only tried again after a second (tcp(7)). The last few hundred come without a pause, and fill it.
        if i % 100 == 99 && i < most - 400 {
            victim.serves_others_at_once("thousands of connections");
        }
    }
    victim.serves_others_at_once("5000 connections");
    wait_until("the cap", || size_of_process(victim.server.pid()).threads <= 128 + victim.before.threads);
    drop(idle);
    victim.is_as_before("5000 connections");
}

#[test]
fn without_descriptors_it_waits_and_comes_back() {
    let sandbox = Sandbox::new();
    let server = {
        // Some of them are taken already, by what somebody forgot to close.
        let script = "exec 7</dev/null 8</dev/null 9</dev/null; ulimit -n 20; exec \"$0\" serve -q";
        Guard(spawn(sandbox.shell(script).current_dir("/")))
    };
    sandbox.wait_for_server();
    let victim = Victim::watch(sandbox, server);
    let clients: Vec<TcpStream> = (0..100).map(|_| victim.connect()).collect();
    wait_until("a good request to be answered", || {
        let answer = victim.sandbox.try_http(&post("/mcp", victim.port(), "", PING));
        answer.is_some_and(|answer| answer.status == 200)
    });
    victim.serves_others_at_once("100 clients for 20 descriptors");
    drop(clients);
    victim.is_as_before("100 clients for 20 descriptors");
}

#[test]
fn clients_may_go_at_any_byte_and_in_any_way() {
    let victim = Victim::new();
    let head = format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n", victim.port());
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x};x\r\n{PING}\r\n0\r\nA: b\r\n\r\n", PING.len());
    for way in ["with a reset", "half", "in order"] {
        for end in 0..=chunked.len() {
            let mut stream = victim.connect();
            stream.write_all(&chunked.as_bytes()[..end]).unwrap();
            match way {
                "with a reset" => reset_on_close(&stream),
                "half" => drop(stream.shutdown(Shutdown::Write)),
                _ => {}
            }
            if way == "half" && end == chunked.len() {
                assert_eq!(Http::read(&mut stream).unwrap().status, 200, "who says no more may still listen");
            }
        }
        victim.is_as_before(&format!("clients that leave {way}"));
    }
}

#[test]
fn the_largest_bodies_leave_no_memory_behind() {
    let victim = Victim::new();
    let padding = "x".repeat((4 << 20) - 100);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{padding}"}}}}"#);
    assert!(body.len() <= 4 << 20 && body.len() > (4 << 20) - 100);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut stream = victim.connect();
                    stream.write_all(&post("/mcp", victim.port(), "", &body)).unwrap();
                    assert_eq!(Http::read(&mut stream).unwrap().status, 200);
                });
            }
        });
    }
    victim.is_as_before("96 MB of bodies");
}

#[test]
fn who_leaves_while_waiting_frees_the_place_within_a_second() {
    let victim = Victim::new();
    victim.sandbox.run(&["start", "--label", "silent", "sh", "-c", "read never"]).ok();
    let before = size_of_process(victim.server.pid());
    let arguments = json!({"command_or_label": "silent", "wait_for": "never", "timeout": 45});
    let waits = post_tool(victim.port(), "output", arguments);
    let clients: Vec<TcpStream> = (0..96)
        .map(|i| {
            let mut stream = victim.connect();
            stream.write_all(&waits).unwrap();
            if i % 2 == 0 {
                stream.write_all(&waits).unwrap(); // one that has said more, and is gone all the same
            }
            stream
        })
        .collect();
    let is_refused = || {
        let mut stream = victim.connect();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        stream.write_all(&waits).unwrap();
        Http::read(&mut stream).is_some_and(|answer| String::from_utf8_lossy(&answer.body).contains("too many"))
    };
    wait_until("the last place to be taken", is_refused);
    victim.serves_others_at_once("96 requests that wait");
    drop(clients);
    let begun = Instant::now();
    wait_until("all of them to be gone", || size_of_process(victim.server.pid()).threads <= before.threads);
    // Whoever waits looks around twice a second; the rest is for a loaded machine.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn answers_fit_what_was_asked() {
    let victim = Victim::new();
    let port = victim.port();
    // What GET and HEAD are answered with there is on the socket only; of them and of all the rest, the server is the same.
    let ask = |request: String| {
        let mut stream = victim.sandbox.connect_private().unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    let get = ask(format!("GET /health HTTP/1.1\r\n{host}\r\n"));
    let (head, body) = get.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())) && !body.is_empty());
    // HEAD: the same head, and nothing else. Also when it is refused.
    assert_eq!(ask(format!("HEAD /health HTTP/1.1\r\n{host}\r\n")), format!("{head}\r\n\r\n"));
    for (line, status) in [("HEAD /mcp", 405), ("HEAD /nothing", 404)] {
        let answer = ask(format!("{line} HTTP/1.1\r\n{host}\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with("\r\n\r\n"), "{answer}");
    }
    for (request, allowed) in [("POST /health", "GET, HEAD"), ("GET /mcp", "POST"), ("GET /run", "POST")] {
        let answer = ask(format!("{request} HTTP/1.1\r\n{host}\r\n"));
        assert!(answer.contains(&format!("\r\nAllow: {allowed}\r\n")), "{answer}");
    }
    // Two requests on one connection: whether the second is answered is whether it was kept.
    for (version, header, connection, answers) in [
        ("1.1", "", None, 2),
        ("1.1", "Connection: keep-alive\r\n", None, 2),
        ("1.1", "Connection: close\r\n", Some("close"), 1),
        ("1.1", "Connection: foo, Close\r\n", Some("close"), 1),
        ("1.0", "", Some("close"), 1),
        ("1.0", "Connection: keep-alive\r\n", Some("keep-alive"), 2),
    ] {
        let request = format!("GET /health HTTP/{version}\r\n{host}{header}\r\n");
        let text = ask(request.repeat(2));
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), answers, "{version} {header}: {text}");
        let head = text.split("\r\n\r\n").next().unwrap();
        let said = head.lines().find_map(|line| line.strip_prefix("Connection: "));
        assert_eq!(said, connection, "{version} {header}");
    }
    // HTTP/1.0 knows no 100 Continue, and too long a body is not asked for.
    let expecting = format!("Expect: 100-continue\r\nContent-Type: application/json\r\n{host}");
    let old = ask(format!("POST /mcp HTTP/1.0\r\n{expecting}Content-Length: {}\r\n\r\n{PING}", PING.len()));
    assert!(old.starts_with("HTTP/1.1 200"), "{old}");
    let long = ask(format!("POST /mcp HTTP/1.1\r\n{expecting}Content-Length: 5000000\r\n\r\n"));
    assert!(long.starts_with("HTTP/1.1 413"), "{long}");
    victim.is_as_before("all kinds of requests");
}

/// Descriptors that this process may have, after asking for `wanted`.
#[allow(unsafe_code)]
fn raise_descriptor_limit(wanted: u64) -> u64 {
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let raised = libc::rlimit { rlim_cur: limit.rlim_cur.max(wanted.min(limit.rlim_max)), ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 { raised.rlim_cur } else { limit.rlim_cur }
    }
}
