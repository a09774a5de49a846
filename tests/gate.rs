//! Who comes in, and what a client can cost.

use crate::support::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Threads and descriptors of a process.
fn size_of(pid: i32) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("task"), count("fd"))
}

#[test]
fn web_pages_do_not_come_in_on_any_path_or_method() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let port = sandbox.port;
    for (path, method) in [
        ("/mcp", "POST"),
        ("/mcp", "GET"),
        ("/run", "POST"),
        ("/output?run=1", "GET"),
        ("/health", "GET"),
        ("/shutdown", "POST"),
        ("/nothing", "GET"),
        ("/mcp", "OPTIONS"),
    ] {
        for headers in [
            "Host: evil.example\r\n".to_string(),
            format!("Host: evil.example:{port}\r\n"),
            format!("Host: 127.0.0.1:{port}\r\nOrigin: http://evil.example\r\n"),
            format!("Host: 127.0.0.1:{port}\r\nOrigin: null\r\n"),
            format!("Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:3000\r\n"),
            format!("Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n"),
            String::new(),
        ] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\n{headers}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
            );
            let answer = sandbox.http(request.as_bytes());
            assert_eq!(answer.status, 403, "{method} {path} {headers}");
            assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")));
        }
    }
    sandbox.wait_for_server();
}

#[test]
fn the_gate_is_asked_before_the_body_is_read() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"POST /mcp HTTP/1.1\r\nHost: evil\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    assert_eq!(Http::read(&mut stream).unwrap().status, 403);
}

#[test]
fn what_a_request_may_cost_is_bounded() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let port = sandbox.port;
    let host = format!("Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n");
    for (what, request, status) in [
        ("an endless head", format!("GET /health HTTP/1.1\r\n{host}X: {}", "x".repeat(20_000)), 431),
        ("a large body", format!("POST /mcp HTTP/1.1\r\n{host}Content-Length: 70368744177664\r\n\r\n"), 413),
        ("a length of 2^64", format!("POST /mcp HTTP/1.1\r\n{host}Content-Length: 18446744073709551616\r\n\r\n"), 413),
        (
            "a large chunk",
            format!("POST /mcp HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n"),
            413,
        ),
        ("two lengths", format!("POST /mcp HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"), 400),
        (
            "length and chunks",
            format!("POST /mcp HTTP/1.1\r\n{host}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
            400,
        ),
        ("bare newlines", format!("GET /health HTTP/1.1\nHost: 127.0.0.1:{port}\n\n"), 400),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\u{0}".into(), 400),
        (
            "another expectation",
            format!("POST /mcp HTTP/1.1\r\n{host}Content-Length: 2\r\nExpect: coffee\r\n\r\n{{}}"),
            417,
        ),
    ] {
        assert_eq!(sandbox.http(request.as_bytes()).status, status, "{what}");
        sandbox.wait_for_server();
    }
    wait_until("its threads to end", || size_of(server.pid()).0 <= 8);
}

#[test]
fn connections_are_kept_and_requests_may_come_in_pieces_in_chunks_and_all_at_once() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = post("/mcp", sandbox.port, "", PING);
    for byte in &request {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(Http::read(&mut stream).unwrap().status, 200);
    stream.write_all(&request.repeat(20)).unwrap();
    for _ in 0..20 {
        assert_eq!(Http::read(&mut stream).unwrap().status, 200);
    }
    let (start, end) = PING.split_at(10);
    let chunked = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost:{}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x};a=b\r\n{start}\r\n{:X}\r\n{end}\r\n0\r\nTrailer: x\r\n\r\n",
        sandbox.port,
        start.len(),
        end.len()
    );
    stream.write_all(chunked.as_bytes()).unwrap();
    assert_eq!(Http::read(&mut stream).unwrap().json()["id"], 1);
    stream.write_all(&post("/mcp", sandbox.port, "Expect: 100-continue\r\n", PING)).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(Http::read(&mut stream).unwrap().status, 200);
    stream.write_all(&post("/mcp", sandbox.port, "Connection: close\r\n", PING)).unwrap();
    assert_eq!(Http::read(&mut stream).unwrap().headers["connection"], "close");
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn at_the_cap_the_longest_idle_connection_makes_room_and_nobody_else_notices() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let idle: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap()).collect();
    let begun = Instant::now();
    sandbox.wait_for_server();
    assert!(begun.elapsed() < Duration::from_secs(5));
    wait_until("the cap", || size_of(server.pid()).0 <= 140);
    // The first ones were closed, the last ones are still open.
    let mut first = &idle[0];
    first.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap(), 0);
    let mut last = &idle[299];
    last.set_read_timeout(Some(DEADLINE)).unwrap();
    last.write_all(&get("/health", sandbox.port)).unwrap();
    assert_eq!(Http::read(&mut last).unwrap().status, 200);
    drop(idle);
    wait_until("its threads to end", || size_of(server.pid()).0 <= 8);
}

#[test]
fn waiting_requests_do_not_hold_up_others_and_end_when_their_client_goes() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.run(&["start", "--label", "silent", "sh", "-c", "read never"]).ok();
    let target = "/output?command_or_label=silent&wait_for=never&timeout=45";
    let waiting: Vec<TcpStream> = (0..110)
        .map(|_| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
            stream.write_all(&get(target, sandbox.port)).unwrap();
            stream
        })
        .collect();
    // More than may wait are told so at once.
    wait_until("the cap of those who wait", || {
        let answer = sandbox.http(&get(target, sandbox.port));
        answer.status == 409 && String::from_utf8_lossy(&answer.body).contains("too many")
    });
    let begun = Instant::now();
    sandbox.run(&["list"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(waiting);
    wait_until("their places to be free", || size_of(server.pid()).0 <= 9);
}

#[test]
fn hundreds_of_resets_leave_nothing_behind() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let request = post("/mcp", sandbox.port, "", PING);
    for i in 0..300 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
        stream.write_all(&request[..i % request.len()]).unwrap();
        linger_zero(&stream);
    }
    sandbox.wait_for_server();
    wait_until("everything to be as before", || {
        let (threads, files) = size_of(server.pid());
        threads <= 8 && files <= 16
    });
}

/// So that closing is a reset.
#[allow(unsafe_code)]
fn linger_zero(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of_val(&linger) as libc::socklen_t;
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
    };
}
