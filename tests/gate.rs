//! Which clients are let in, and what a client can cost.

use crate::support::*;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[test]
fn web_pages_are_refused_on_every_path_and_method() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let port = sandbox.port;
    for (path, method) in [
        ("/mcp", "POST"),
        ("/mcp", "GET"),
        ("/run", "POST"),
        ("/output?run=1", "GET"),
        ("/lines", "POST"),
        ("/list", "POST"),
        ("/ctrl", "POST"),
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
            // A page that was loaded from this very port, before the server had it, or from [::1] at this port.
            format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\nSec-Fetch-Site: same-origin\r\n"),
            // What needs no leave of anybody: pictures, scripts, links.
            format!("Host: 127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"),
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
fn the_gate_decides_before_the_body_is_read() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"POST /mcp HTTP/1.1\r\nHost: evil\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    assert_eq!(Http::read(&mut stream).unwrap().status, 403);
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
fn at_the_limit_the_longest_idle_connection_is_closed_and_no_other_is_affected() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let idle: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap()).collect();
    let begun = Instant::now();
    sandbox.wait_for_server();
    assert!(begun.elapsed() < Duration::from_secs(5));
    wait_until("the limit of connections", || size_of_process(server.pid()).threads <= 140);
    // The first ones were closed, the last ones are still open.
    let mut first = &idle[0];
    first.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap(), 0);
    let mut last = &idle[299];
    last.set_read_timeout(Some(DEADLINE)).unwrap();
    last.write_all(&post("/mcp", sandbox.port, "", PING)).unwrap();
    assert_eq!(Http::read(&mut last).unwrap().status, 200);
    drop(idle);
    wait_until("its threads to exit", || size_of_process(server.pid()).threads <= 8);
}

#[test]
fn waiting_requests_do_not_delay_others_and_end_when_their_client_disconnects() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.run(&["start", "--label", "silent", "sh", "-c", "read never"]).ok();
    let arguments = json!({"command_or_label": "silent", "wait_for": "never", "timeout": 45});
    let ask = || {
        let mut stream = sandbox.connect_private().unwrap();
        stream.write_all(&post_lines(arguments.clone(), sandbox.port)).unwrap();
        stream
    };
    let waiting: Vec<UnixStream> = (0..110).map(|_| ask()).collect();
    // Requests beyond the limit of waiting ones are refused at once. One that is sent before all of these were read waits, too:
    // it gives up.
    wait_until("the limit of waiting calls", || {
        let mut stream = ask();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        Http::read(&mut stream)
            .is_some_and(|answer| answer.status == 503 && String::from_utf8_lossy(&answer.body).contains("too many"))
    });
    let begun = Instant::now();
    sandbox.run(&["list"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(waiting);
    wait_until("their slots to be free", || size_of_process(server.pid()).threads <= 9);
}

/// `persistproc` with a token in its environment.
fn with_token(sandbox: &Sandbox, words: &[&str]) -> Ended {
    finish(spawn(sandbox.command(words).env("PERSISTPROC_TOKEN", TOKEN)), DEADLINE)
}

#[test]
fn with_a_token_no_request_to_the_port_is_served_without_it_on_any_path() {
    let sandbox = Sandbox::new();
    let server = Guard(spawn(sandbox.command(&["serve"]).env("PERSISTPROC_TOKEN", TOKEN)));
    sandbox.wait_for_server();
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let statuses = |headers: &str| {
        let get = |path: &str| get(path, sandbox.port);
        let with =
            |request: Vec<u8>| String::from_utf8(request).unwrap().replacen("\r\n", &format!("\r\n{headers}"), 1);
        let requests = [get("/health"), get("/nothing"), get("/mcp"), post("/mcp", sandbox.port, "", PING)];
        requests.map(|request| {
            let answer = sandbox.http(with(request).as_bytes());
            assert_eq!(
                answer.headers.get("www-authenticate").map(String::as_str),
                (answer.status == 401).then_some("Bearer")
            );
            answer.status
        })
    };
    assert_eq!(statuses(&bearer(TOKEN)), [404, 404, 405, 200]);
    assert_eq!(statuses(&bearer(TOKEN).to_uppercase().replace(&TOKEN.to_uppercase(), TOKEN)), [404, 404, 405, 200]);
    for refused in [
        "".to_string(),
        bearer(""),
        bearer(&TOKEN[1..]),
        bearer(&TOKEN.to_uppercase()),
        bearer(&format!("{TOKEN}x")),
        bearer(&format!("{TOKEN}\u{a0}")),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("{}{}", bearer(TOKEN), bearer(TOKEN)),
        format!("X-Authorization: Bearer {TOKEN}\r\n"),
    ] {
        assert_eq!(statuses(&refused), [401; 4], "{refused}");
    }
    // A web page is refused as a page, without a word about tokens.
    let page = format!("GET /mcp HTTP/1.1\r\nHost: evil.example\r\n{}\r\n", bearer(TOKEN));
    assert_eq!(sandbox.http(page.as_bytes()).status, 403);

    // Our own commands use the socket, which only this user can reach.
    sandbox.run(&["list"]).ok();
    let second = sandbox.run(&["serve", "--data-dir", &sandbox.root.join("other").display().to_string()]);
    assert!(second.stderr.contains(&format!("a persistproc server (PID {})", server.pid())), "{}", second.stderr);

    signal(server.pid(), libc::SIGTERM);
    let ended = server.end(DEADLINE);
    let shown = ended.out();
    for line in [
        r#"--header "Authorization: Bearer $PERSISTPROC_TOKEN""#,
        "--bearer-token-env-var PERSISTPROC_TOKEN",
        r#""headers":{"Authorization":"Bearer ${env:PERSISTPROC_TOKEN}"}"#,
    ] {
        assert!(shown.contains(line), "{line} in:\n{shown}");
    }
    assert!(!shown.contains(TOKEN) && !ended.stderr.contains(TOKEN));
}

#[test]
fn the_token_is_used_by_our_own_commands_and_reaches_nothing_else() {
    let sandbox = Sandbox::new();
    // The server that a command starts asks for the command's token.
    let ran = with_token(&sandbox, &["sh", "-c", "env; exit 3"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.out().contains("PATH=") && !ran.out().contains("PERSISTPROC_TOKEN"), "{}", ran.out());
    assert_eq!(sandbox.http(&post("/mcp", sandbox.port, "", PING)).status, 401);
    with_token(&sandbox, &["start", "--label", "up", "sh", "-c", "echo up; read never"]).ok();
    with_token(&sandbox, &["restart", "up"]).ok();
    assert!(with_token(&sandbox, &["output", "up"]).ok().out().contains("up"));
    let mut bridge = sandbox.command(&["mcp"]);
    bridge.env("PERSISTPROC_TOKEN", TOKEN).stdin(std::process::Stdio::piped());
    let mut bridge = spawn(&mut bridge);
    bridge.stdin.take().unwrap().write_all(format!("{PING}\n").as_bytes()).unwrap();
    assert_eq!(finish(bridge, DEADLINE).ok().json()["result"], json!({}));
    // An agent that starts something is given the environment of the server, which is not the token either.
    let arguments = json!({"action": "start", "command_or_label": "sh -c 'printenv PERSISTPROC_TOKEN || echo none'",
        "working_directory": "/", "wait_for": "none"});
    let call = tool_call("ctrl", arguments);
    let headers = format!("Authorization: Bearer {TOKEN}\r\n");
    let started = sandbox.http(&post("/mcp", sandbox.port, &headers, &call.to_string()));
    let text = String::from_utf8_lossy(&started.body).into_owned();
    assert!(text.contains("wait_for matched") && !text.contains(TOKEN), "{text}");
    let own = with_token(&sandbox, &["--format", "json", "list", "--pid", "0"]).ok();
    assert!(!own.out().contains(TOKEN), "{}", own.out());
    with_token(&sandbox, &["shutdown"]).ok();

    let mut seen = 0;
    for path in tree(&sandbox.data()).iter().filter(|path| path.is_file()) {
        let bytes = std::fs::read(path).unwrap();
        assert!(!bytes.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes()), "{}", path.display());
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
    let broken = finish(spawn(sandbox.command(&["list"]).env("PERSISTPROC_TOKEN", "two words")), DEADLINE);
    assert_eq!(broken.code, 2);
    assert!(broken.stderr.contains("PERSISTPROC_TOKEN") && !broken.stderr.contains("two words"), "{}", broken.stderr);
}
