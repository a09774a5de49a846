//! Who comes in, and what a client can cost.

use crate::support::*;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
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
    // More than may wait are told so at once. Who asks before all of these have been heard waits himself: he gives up.
    wait_until("the cap of those who wait", || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream.write_all(&get(target, sandbox.port)).unwrap();
        Http::read(&mut stream)
            .is_some_and(|answer| answer.status == 409 && String::from_utf8_lossy(&answer.body).contains("too many"))
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

/// Somebody else, on all systems.
const NOBODY: u32 = 65534;

/// Other users are played by root only.
fn can_be_others() -> bool {
    let is_root = own_user() == 0;
    if !is_root {
        skipped("only root can act as another user");
    }
    is_root
}

/// A connection that this user made: sockets belong to the file system identity of their maker (setfsuid(2)), which is
/// a matter of each thread.
fn connect_as(user: u32, port: u16) -> TcpStream {
    let connect = move || {
        become_for_files(user);
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()
    };
    let stream = std::thread::spawn(connect).join().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn status_for(user: u32, request: &[u8], port: u16) -> u16 {
    let mut stream = connect_as(user, port);
    stream.write_all(request).unwrap();
    Http::read(&mut stream).unwrap().status
}

/// What a server may find out about connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sight {
    /// All there is.
    Full,
    /// No netlink sockets, as in many sandboxes.
    Tables,
    /// Nor /proc.
    None,
}

fn serve_with(sandbox: &Sandbox, sight: Sight) -> Guard {
    let hide = "mount -t tmpfs none /proc && ";
    let words = format!("{}exec {BINARY} serve -v", if sight == Sight::None { hide } else { "" });
    let mut command = if sight == Sight::None { Command::new("unshare") } else { Command::new("sh") };
    if sight == Sight::None {
        command.args(["-m", "sh"]);
    }
    command.args(["-c", &words]);
    let own = sandbox.command(&[""; 0]);
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir("/");
    if sight != Sight::Full {
        forbid_netlink(&mut command);
    }
    let server = Guard(spawn(&mut command));
    sandbox.wait_for_server();
    server
}

#[test]
fn other_users_do_not_come_in_and_where_that_cannot_be_told_it_is_said() {
    if !can_be_others() {
        return;
    }
    for sight in [Sight::Full, Sight::Tables, Sight::None] {
        let sandbox = Sandbox::new();
        let server = serve_with(&sandbox, sight);
        let is_blind = sight == Sight::None;
        for (path, request) in [
            ("/health", get("/health", sandbox.port)),
            ("/mcp", post("/mcp", sandbox.port, "", PING)),
            ("/shutdown", get("/shutdown", sandbox.port)),
            ("/nothing", get("/nothing", sandbox.port)),
        ] {
            let own = status_for(0, &request, sandbox.port);
            assert_ne!(own, 403, "{sight:?} {path}");
            assert_eq!(
                status_for(NOBODY, &request, sandbox.port),
                if is_blind { own } else { 403 },
                "{sight:?} {path}"
            );
        }
        let log = std::fs::read_to_string(sandbox.data().join("server.log")).unwrap();
        let warning = "other users of this machine can use this server";
        assert_eq!(log.contains(warning), is_blind, "{log}");
        signal(server.pid(), libc::SIGTERM);
        let ended = server.end(DEADLINE);
        assert_eq!((ended.code, ended.stderr.contains(warning)), (0, is_blind), "{ended:?}");
    }
}

#[test]
fn who_sends_and_leaves_at_once_does_not_pass_as_root() {
    if !can_be_others() {
        return;
    }
    for sight in [Sight::Full, Sight::Tables] {
        let sandbox = Sandbox::new();
        let _server = serve_with(&sandbox, sight);
        let marker = sandbox.root.join("marker");
        let run =
            json!({"argv": ["touch", marker], "working_directory": "/", "environment": [], "if_running": "refuse"});
        for i in 0..60 {
            // Gone before the server has so much as looked, or a little later.
            let request = post("/run", sandbox.port, "", &run.to_string());
            let mut stream = connect_as(NOBODY, sandbox.port);
            stream.write_all(&request).unwrap();
            std::thread::sleep(Duration::from_micros(i % 3 * 20));
        }
        sandbox.wait_for_server();
        assert!(sandbox.runs().is_empty() && !marker.exists(), "{sight:?}");
    }
}

#[test]
fn nothing_is_said_to_another_users_server() {
    if !can_be_others() {
        return;
    }
    let sandbox = Sandbox::new();
    // Where nobody may go is the binary, in some places.
    let (program, theirs) = (sandbox.root.join("persistproc"), sandbox.root.join("theirs"));
    std::fs::copy(BINARY, &program).unwrap();
    std::fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(&program);
    command.args(["serve", "-q", "--data-dir"]).arg(theirs.join("data"));
    command.args(["--port", &sandbox.port.to_string()]).uid(NOBODY).gid(NOBODY).current_dir("/");
    let server = Guard(spawn(&mut command));
    wait_until("their server", || TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).is_ok());
    for words in [&["list"][..], &["run", "env"], &["start", "true"], &["shutdown"]] {
        let ended = sandbox.run(words);
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.stderr.contains("another user (uid 65534)") && ended.stderr.contains("--port"), "{ended:?}");
    }
    assert_eq!(std::fs::read_dir(theirs.join("data/runs")).unwrap().count(), 0);
    // Theirs serves them.
    let mut command = Command::new(&program);
    command.args(["--port", &sandbox.port.to_string(), "--data-dir"]).arg(theirs.join("data"));
    finish(spawn(command.arg("list").uid(NOBODY).gid(NOBODY).current_dir("/")), DEADLINE).ok();
    signal(server.pid(), libc::SIGTERM);
    assert_eq!(server.end(DEADLINE).code, 0);
}

const TOKEN: &str = "correct-horse.battery_staple~42";

/// `persistproc` with a token in its environment.
fn with_token(sandbox: &Sandbox, words: &[&str]) -> Ended {
    finish(spawn(sandbox.command(words).env("PERSISTPROC_TOKEN", TOKEN)), DEADLINE)
}

#[test]
fn with_a_token_nobody_comes_in_without_it_on_any_path() {
    let sandbox = Sandbox::new();
    let server = Guard(spawn(sandbox.command(&["serve"]).env("PERSISTPROC_TOKEN", TOKEN)));
    wait_until("a server", || sandbox.try_http(&get("/health", sandbox.port)).is_some());
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
    assert_eq!(statuses(&bearer(TOKEN)), [200, 404, 405, 200]);
    assert_eq!(statuses(&bearer(TOKEN).to_uppercase().replace(&TOKEN.to_uppercase(), TOKEN)), [200, 404, 405, 200]);
    for refused in [
        "".to_string(),
        bearer(""),
        bearer(&TOKEN[1..]),
        bearer(&TOKEN.to_uppercase()),
        bearer(&format!("{TOKEN}x")),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("{}{}", bearer(TOKEN), bearer(TOKEN)),
        format!("X-Authorization: Bearer {TOKEN}\r\n"),
    ] {
        assert_eq!(statuses(&refused), [401; 4], "{refused}");
    }
    // A page is told that it is a page, and nothing of tokens.
    let page = format!("GET /health HTTP/1.1\r\nHost: evil.example\r\n{}\r\n", bearer(TOKEN));
    assert_eq!(sandbox.http(page.as_bytes()).status, 403);

    let refused = sandbox.run(&["list"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("PERSISTPROC_TOKEN") && refused.stderr.lines().count() == 1, "{}", refused.stderr);
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
fn the_token_reaches_our_own_commands_and_nothing_else() {
    let sandbox = Sandbox::new();
    // The server that a command starts asks for the command's token.
    let ran = with_token(&sandbox, &["sh", "-c", "env; exit 3"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.out().contains("PATH=") && !ran.out().contains("PERSISTPROC_TOKEN"), "{}", ran.out());
    assert_eq!(sandbox.http(&get("/health", sandbox.port)).status, 401);
    with_token(&sandbox, &["start", "--label", "up", "sh", "-c", "echo up; read never"]).ok();
    with_token(&sandbox, &["restart", "up"]).ok();
    assert!(with_token(&sandbox, &["output", "up"]).ok().out().contains("up"));
    let mut bridge = sandbox.command(&["mcp"]);
    bridge.env("PERSISTPROC_TOKEN", TOKEN).stdin(std::process::Stdio::piped());
    let mut bridge = spawn(&mut bridge);
    bridge.stdin.take().unwrap().write_all(format!("{PING}\n").as_bytes()).unwrap();
    assert_eq!(finish(bridge, DEADLINE).ok().json()["result"], json!({}));
    // An agent that starts something is given the environment of the server, which is not the token either.
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ctrl", "arguments":
        {"action": "start", "command_or_label": "sh -c 'printenv PERSISTPROC_TOKEN || echo none'", "working_directory": "/",
         "wait_for": "none"}}});
    let headers = format!("Authorization: Bearer {TOKEN}\r\n");
    let started = sandbox.http(&post("/mcp", sandbox.port, &headers, &call.to_string()));
    let text = String::from_utf8_lossy(&started.body).into_owned();
    assert!(text.contains("wait_for matched") && !text.contains(TOKEN), "{text}");
    let own = with_token(&sandbox, &["--format", "json", "list", "--pid", "0"]).ok();
    assert!(!own.out().contains(TOKEN), "{}", own.out());
    with_token(&sandbox, &["shutdown"]).ok();

    let mut todo = vec![sandbox.data()];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes()), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
    let broken = finish(spawn(sandbox.command(&["list"]).env("PERSISTPROC_TOKEN", "two words")), DEADLINE);
    assert_eq!(broken.code, 2);
    assert!(broken.stderr.contains("PERSISTPROC_TOKEN") && !broken.stderr.contains("two words"), "{}", broken.stderr);
}

#[allow(unsafe_code)]
fn own_user() -> u32 {
    unsafe { libc::geteuid() }
}

#[allow(unsafe_code)]
fn become_for_files(user: u32) {
    unsafe { libc::setfsuid(user) };
}

/// seccomp(2): socket(AF_NETLINK, …) fails with EAFNOSUPPORT, for the command and all that it starts.
#[allow(unsafe_code)]
fn forbid_netlink(command: &mut Command) {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset: u32| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let skip_unless = |value: u32, steps: u8| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, steps);
    let end = |value: u32| step(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    // struct seccomp_data: the number of the call at 0, its first argument at 16.
    let mut filter = [
        load(0),
        skip_unless(libc::SYS_socket as u32, 3),
        load(16),
        skip_unless(libc::AF_NETLINK as u32, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || unsafe {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    unsafe { command.pre_exec(install) };
}
