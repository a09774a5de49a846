//! The socket in the data directory, through which our own commands find their server, whatever the directory is called and
//! whatever was there before.

use crate::support::*;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// `persistproc` with this data directory.
fn within(sandbox: &Sandbox, data: &Path, words: &[&str]) -> Ended {
    finish(spawn(sandbox.command(words).env("PERSISTPROC_DATA_DIR", data)), DEADLINE)
}

fn socket(sandbox: &Sandbox) -> PathBuf {
    sandbox.data().join("server.sock")
}

#[test]
fn a_data_directory_may_have_any_name_and_be_at_any_depth() {
    let sandbox = Sandbox::new();
    let real = sandbox.root.join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, sandbox.root.join("link")).unwrap();
    for data in [
        sandbox.root.join("with spaces and \"quotes\""),
        sandbox.root.join("with\na newline"),
        sandbox.root.join("link/data"),
        sandbox.root.join("d".repeat(120)),
        sandbox.root.join("d".repeat(200)).join("e".repeat(200)).join("with\n both"),
    ] {
        let shown = data.display();
        let ran = within(&sandbox, &data, &["run", "sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!((ran.code, ran.out().as_str()), (3, "out\n"), "{shown}: {ran:?}");
        within(&sandbox, &data, &["start", "--label", "web", "sh", "-c", "read never"]).ok();
        assert!(within(&sandbox, &data, &["list"]).ok().out().contains("web"), "{shown}");
        within(&sandbox, &data, &["stop", "web"]).ok();
        within(&sandbox, &data, &["shutdown"]).ok();
    }
}

#[test]
fn the_socket_is_this_users_alone_and_there_is_never_more_than_one() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let found = fs::symlink_metadata(socket(&sandbox)).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!((found.mode() & 0o777, fs::metadata(sandbox.data()).unwrap().mode() & 0o777), (0o600, 0o700));
    signal(server.pid(), libc::SIGTERM);
    assert_eq!(server.end(DEADLINE).code, 0);
    let left: Vec<String> = fs::read_dir(sandbox.data())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("server.sock"))
        .collect();
    assert_eq!(left, ["server.sock"], "it refuses connections");
    assert!(sandbox.connect_private().is_none());
}

#[test]
#[allow(unsafe_code)]
fn another_user_who_reaches_the_socket_is_refused_as_well() {
    if unsafe { libc::geteuid() } != 0 {
        return skip("only root can act as another user");
    }
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    // As if the directory had been opened for others.
    for (path, mode) in [(sandbox.root.clone(), 0o755), (sandbox.data(), 0o755), (socket(&sandbox), 0o666)] {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let ask = || {
        // The identity of this thread alone; the system call, because the function of libc changes all threads.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        let shutdown = post("/shutdown", sandbox.port, "", r#"{"keep":false}"#);
        sandbox.try_private(&shutdown).map(|answer| answer.status)
    };
    let status = std::thread::scope(|scope| scope.spawn(ask).join().unwrap());
    assert_eq!(status, Some(403));
    assert!(sandbox.health().is_some());
}

#[test]
#[allow(unsafe_code)]
fn a_command_sends_nothing_to_a_socket_that_another_user_serves() {
    if unsafe { libc::geteuid() } != 0 {
        return skip("only root can act as another user");
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.data()).unwrap();
    fs::set_permissions(sandbox.data(), PermissionsExt::from_mode(0o777)).unwrap();
    fs::set_permissions(&sandbox.root, PermissionsExt::from_mode(0o755)).unwrap();
    let data = sandbox.short_data();
    let listen = || {
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        UnixListener::bind(data.join("server.sock")).unwrap()
    };
    let listener = std::thread::scope(|scope| scope.spawn(listen).join().unwrap());
    fs::set_permissions(sandbox.data(), PermissionsExt::from_mode(0o700)).unwrap();
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for _ in 0..3 {
            let _ = listener.accept().unwrap().0.read_to_end(&mut heard);
        }
        heard
    });
    for words in [&["list"][..], &["start", "true"], &["shutdown"]] {
        let refused = sandbox.run(words);
        assert!(refused.code == 3 && refused.stderr.contains("another user (uid 65534)"), "{refused:?}");
    }
    assert_eq!(heard.join().unwrap(), b"");
}

#[test]
fn what_a_killed_server_leaves_never_prevents_the_next_one() {
    let sandbox = Sandbox::new();
    for _ in 0..5 {
        let server = sandbox.serve();
        signal(server.pid(), libc::SIGKILL);
        drop(server);
        assert!(socket(&sandbox).exists(), "it is stale now");
        fs::write(sandbox.data().join("server.sock.123456"), "").unwrap(); // of one that was about to take its place
        let refused = sandbox.run(&["list"]);
        assert!(refused.code == 3 && refused.stderr.contains("no server runs"), "{refused:?}");
        sandbox.run(&["start", "true"]).ok();
        assert!(!sandbox.data().join("server.sock.123456").exists());
        sandbox.run(&["shutdown"]).ok();
    }
    // Not even what is no socket.
    fs::remove_file(socket(&sandbox)).unwrap();
    fs::write(socket(&sandbox), "a file").unwrap();
    sandbox.run(&["start", "true"]).ok();
}

#[test]
fn a_socket_that_was_removed_is_created_again() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    fs::remove_file(socket(&sandbox)).unwrap();
    // Also while agents keep it busy.
    let busy = json!({"action": "start", "command_or_label": "sleep 0.2", "wait_for": "what never comes",
        "working_directory": sandbox.work()});
    wait_until("a new socket", || sandbox.health().is_some() || sandbox.tool("ctrl", busy.clone()).0.is_empty());
    assert_eq!(sandbox.health().unwrap()["pid"], server.pid());
    // Another server's is left alone.
    fs::remove_file(socket(&sandbox)).unwrap();
    let _other = UnixListener::bind(sandbox.short_data().join("server.sock")).unwrap();
    signal(server.pid(), libc::SIGTERM);
    assert_eq!(server.end(DEADLINE).code, 0);
    assert!(socket(&sandbox).exists());
}

#[test]
fn the_data_directory_decides_which_server_is_meant_and_a_port_that_it_does_not_have_is_named() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let _servers = [sandbox.serve(), other.serve()];
    sandbox.run(&["start", "--label", "here", "true"]).ok();
    let port = other.port.to_string();
    let listed = sandbox.run(&["--port", &port, "list"]).ok();
    assert!(listed.out().contains("here"), "{listed:?}");
    let note = format!("has port {}, not port {port}", sandbox.port);
    assert!(listed.stderr.contains(&note) && listed.stderr.lines().count() == 1, "{}", listed.stderr);
    assert_eq!(sandbox.run(&["--port", &port, "-q", "list"]).ok().stderr, "");
    assert_eq!(sandbox.run(&["list"]).ok().stderr, "");
}

#[test]
fn a_server_without_a_port_is_all_that_commands_and_the_bridge_need() {
    let sandbox = Sandbox::new();
    let server = Guard(sandbox.spawn(&["serve", "--no-tcp"]));
    sandbox.wait_for_server();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).is_err());
    assert_eq!(sandbox.run(&["sh", "-c", "echo works"]).ok().out(), "works\n");
    let listed = sandbox.run(&["list", "--pid", "0"]).ok();
    assert!(listed.out().contains("without a port") && listed.stderr.contains("has no port"), "{listed:?}");
    let mut bridge = spawn(sandbox.command(&["mcp"]).stdin(std::process::Stdio::piped()));
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    bridge.stdin.take().unwrap().write_all(format!("{ping}\n").as_bytes()).unwrap();
    assert_eq!(finish(bridge, DEADLINE).ok().json()["result"], json!({}));
    signal(server.pid(), libc::SIGTERM);
    let said = server.end(DEADLINE).out();
    assert!(said.contains("--no-tcp") && !said.contains("http://"), "{said}");
    // A command starts one like it, and has the port that it asked for: none.
    let started = sandbox.run(&["--no-tcp", "start", "true"]).ok();
    assert_eq!(started.stderr, "persistproc: started a server without a port\n");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).is_err());
}

#[test]
fn a_command_can_start_a_server_on_any_free_port_and_the_next_one_finds_it() {
    let sandbox = Sandbox::new();
    let started = sandbox.run(&["--port", "0", "start", "--label", "p", "true"]).ok();
    assert!(started.stderr.contains("started a server on http://127.0.0.1:"), "{started:?}");
    assert!(!started.stderr.contains(":0/mcp"), "{started:?}");
    assert!(sandbox.run(&["--port", "0", "list"]).ok().out().contains('p'));
}

#[test]
fn where_no_socket_can_be_created_one_line_reports_it() {
    let sandbox = Sandbox::new();
    for words in [&["serve"][..], &["serve", "--background"], &["start", "true"]] {
        // As on file systems that have none, such as vfat.
        let mut command = sandbox.command(words);
        forbid(&mut command, libc::SYS_bind, -1, libc::EPERM);
        let refused = finish(spawn(&mut command), DEADLINE);
        assert!([1, 3].contains(&refused.code), "{refused:?}");
        let problem = "no socket can be made there";
        assert!(refused.stderr.contains(problem) && refused.stderr.contains("--data-dir"), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    }
}

/// What a server of version 0.3.0 is to its successor: a lock that says where it listens, and `POST /shutdown` there.
struct ServerOf030 {
    _lock: fs::File,
    listener: TcpListener,
}

impl ServerOf030 {
    fn start(sandbox: &Sandbox) -> ServerOf030 {
        fs::create_dir_all(sandbox.data().join("runs")).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
        let holder =
            json!({"pid": std::process::id(), "port": sandbox.port, "version": "0.3.0", "data_dir": sandbox.data()});
        let lock = fs::File::create(sandbox.data().join("server.lock")).unwrap();
        (&lock).write_all(holder.to_string().as_bytes()).unwrap();
        lock.lock().unwrap();
        ServerOf030 { _lock: lock, listener }
    }

    /// Answers one request as 0.3.0 did, and leaves if `leaves`: what was asked.
    fn answer(self, status: &str, leaves: bool) -> (String, Option<ServerOf030>) {
        let (mut stream, _) = self.listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut bytes = [0; 4096];
        while !asked.ends_with(b"}") {
            let n = stream.read(&mut bytes).unwrap();
            asked.extend_from_slice(&bytes[..n]);
            assert!(n > 0, "{}", String::from_utf8_lossy(&asked));
        }
        let body = r#"{"pid":1,"problems":[]}"#;
        let head = format!(
            "HTTP/1.1 {status}\r\nServer: persistproc/0.3.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        (String::from_utf8(asked).unwrap(), (!leaves).then_some(self))
    }
}

#[test]
fn a_server_of_version_0_3_0_is_asked_to_leave_in_its_own_way() {
    let sandbox = Sandbox::new();
    let old = ServerOf030::start(&sandbox);
    // Commands that start no server say what to do; those that do take its place.
    let refused = sandbox.run(&["list"]);
    assert!(refused.code == 3 && refused.stderr.contains("version 0.3.0"), "{refused:?}");
    assert!(refused.stderr.contains("takes its place"), "{refused:?}");
    let starting = sandbox.spawn(&["start", "--label", "web", "sh", "-c", "read never"]);
    let (asked, _) = old.answer("200 OK", true);
    assert!(asked.starts_with("POST /shutdown HTTP/1.1\r\n"), "{asked}");
    assert!(asked.ends_with("\r\n\r\n{\"keep\":true}"), "{asked}");
    let host = format!("\r\nHost: 127.0.0.1:{}\r\n", sandbox.port);
    assert!(asked.contains(&host) && asked.contains("\r\nContent-Type: application/json\r\n"), "{asked}");
    assert!(asked.contains("\r\nPersistproc-Data-Dir: "), "{asked}");
    finish(starting, DEADLINE).ok();
    assert!(sandbox.run(&["list"]).ok().out().contains("running"));
}

#[test]
fn a_token_is_shown_to_a_server_of_version_0_3_0_if_the_port_is_ours() {
    let sandbox = Sandbox::new();
    let old = ServerOf030::start(&sandbox);
    let mut serve = sandbox.command(&["serve", "-q"]);
    let serving = Guard(spawn(serve.env("PERSISTPROC_TOKEN", "sixteen-letters-or-more")));
    let (asked, old) = old.answer("401 Unauthorized", false);
    assert!(asked.contains("\r\nAuthorization: Bearer sixteen-letters-or-more\r\n"), "{asked}");
    let refused = serving.end(DEADLINE);
    assert!(refused.code == 1 && refused.stderr.contains("status 401"), "{refused:?}");
    let is_socket =
        |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().contains("sock");
    assert!(!fs::read_dir(sandbox.data()).unwrap().any(is_socket));
    drop(old);
}

#[test]
fn commands_of_version_0_3_0_are_told_that_they_are_too_old() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let run = json!({"argv": ["true"], "working_directory": "/", "environment": [], "if_running": "refuse"});
    let data = format!("Persistproc-Data-Dir: {}\r\n", sandbox.data().display());
    for request in [
        post("/run", sandbox.port, &data, &run.to_string()),
        get("/output?run=1&from=0&wait=20", sandbox.port),
        get("/health", sandbox.port),
        post("/shutdown", sandbox.port, &data, r#"{"keep":true}"#),
    ] {
        let answer = sandbox.http(&request);
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.status, 404);
        assert!(text.contains(env!("CARGO_PKG_VERSION")) && text.contains("too old"), "{text}");
    }
    // What they ask by the tools, they still can; but not of another data directory.
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(sandbox.http(&post("/mcp", sandbox.port, &data, ping)).status, 200);
    let other = "Persistproc-Data-Dir: /elsewhere\r\n";
    assert_eq!(sandbox.http(&post("/mcp", sandbox.port, other, ping)).status, 409);
    assert!(sandbox.runs().is_empty());
}

#[test]
fn while_a_newer_server_takes_over_no_command_fails() {
    let sandbox = Sandbox::new();
    for version in ["0.3.8", "0.3.9"] {
        let older = of_version(&sandbox, version);
        finish(spawn(sandbox.program(&older).args(["serve", "--background", "-q"])), DEADLINE).ok();
        let first = sandbox.pid_of_server().unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let commands = |thread: usize| {
            let mut count = 0;
            while !is_over.load(std::sync::atomic::Ordering::SeqCst) || count < 3 {
                let label = format!("{version} {thread} {count}");
                sandbox.run(&["-q", "--no-autostart", "list"]).ok();
                sandbox.run(&["-q", "--no-autostart", "start", "--label", &label, "true"]).ok();
                let ran =
                    sandbox.run(&["-q", "--no-autostart", "run", "--label", &format!("{label} run"), "echo", "x"]);
                assert_eq!((ran.code, ran.out().as_str()), (0, "x\n"), "{ran:?}");
                count += 1;
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|thread| scope.spawn(move || commands(thread))).collect();
            wait_until("commands at work", || sandbox.runs().len() > 6);
            sandbox.run(&["serve", "--background", "-q"]).ok();
            is_over.store(true, std::sync::atomic::Ordering::SeqCst);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        assert!(!is_alive(first));
        sandbox.run(&["shutdown"]).ok();
    }
}
