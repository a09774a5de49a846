//! Other users of the machine, as real as root can act them: they get in neither through the port nor through the data
//! directory, and learn nothing.

use crate::support::*;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Another user, on all systems.
const NOBODY: u32 = 65534;

/// Other users are played by root only.
fn can_be_others() -> bool {
    let is_root = own_user() == 0;
    if !is_root {
        skip::<()>("only root can act as another user");
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

fn serve_with(sandbox: &Sandbox, sight: Sight, options: &str, token: Option<&str>) -> Guard {
    let mut command = if sight == Sight::None {
        let mut command = sandbox.program("unshare");
        command.args(["-m", "sh", "-c", &format!("mount -t tmpfs none /proc && exec {BINARY} serve -v {options}")]);
        command
    } else {
        sandbox.shell(&format!("exec \"$0\" serve -v {options}"))
    };
    command.current_dir("/");
    command.envs(token.map(|token| ("PERSISTPROC_TOKEN", token)));
    if sight != Sight::Full {
        forbid(&mut command, libc::SYS_socket, libc::AF_NETLINK, libc::EAFNOSUPPORT);
    }
    let server = Guard(spawn(&mut command));
    sandbox.wait_for_server();
    server
}

/// Ends a server in order: what it said.
#[track_caller]
fn end(server: Guard) -> String {
    signal(server.pid(), libc::SIGTERM);
    let ended = server.end(DEADLINE);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.stderr
}

#[test]
fn other_users_are_refused() {
    if !can_be_others() {
        return;
    }
    for sight in [Sight::Full, Sight::Tables] {
        let sandbox = Sandbox::new();
        let server = serve_with(&sandbox, sight, "", None);
        for (path, request) in [
            ("/mcp", post("/mcp", sandbox.port, "", PING)),
            ("GET /mcp", get("/mcp", sandbox.port)),
            ("/health", get("/health", sandbox.port)),
            ("/nothing", get("/nothing", sandbox.port)),
        ] {
            assert_ne!(status_for(0, &request, sandbox.port), 403, "{sight:?} {path}");
            assert_eq!(status_for(NOBODY, &request, sandbox.port), 403, "{sight:?} {path}");
        }
        assert!(!end(server).contains("other users"));
    }
}

#[test]
fn where_owners_are_unknown_the_port_stays_closed_without_a_token_or_the_consent_of_the_user() {
    if !can_be_others() {
        return;
    }
    const WARNING: &str = "does not tell which user makes a connection";
    let connect = |sandbox: &Sandbox| TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).is_ok();
    let sandbox = Sandbox::with_short_path();
    let server = serve_with(&sandbox, Sight::None, "", None);
    assert!(!connect(&sandbox));
    sandbox.run(&["list"]).ok();
    let log = std::fs::read_to_string(sandbox.data().join("server.log")).unwrap();
    assert!(log.contains(WARNING) && log.contains("serves no port"), "{log}");
    let said = end(server);
    assert!(said.contains(WARNING) && said.contains("PERSISTPROC_TOKEN") && said.contains("persistproc mcp"), "{said}");

    let sandbox = Sandbox::with_short_path();
    let server = serve_with(&sandbox, Sight::None, "", Some(TOKEN));
    let ping = |headers: &str| status_for(NOBODY, &post("/mcp", sandbox.port, headers, PING), sandbox.port);
    assert_eq!((ping(""), ping(&format!("Authorization: Bearer {TOKEN}\r\n"))), (401, 200));
    assert!(!end(server).contains(WARNING));

    let sandbox = Sandbox::with_short_path();
    let server = serve_with(&sandbox, Sight::None, "--trust-all-users", None);
    assert_eq!(status_for(NOBODY, &post("/mcp", sandbox.port, "", PING), sandbox.port), 200);
    let said = end(server);
    assert!(said.contains(WARNING) && said.contains("trusted"), "{said}");
}

#[test]
fn a_server_with_the_id_of_all_unknown_users_does_not_trust_them() {
    let sandbox = Sandbox::new();
    // In a user namespace without a map everyone is the overflow user, the server and all others.
    let mut command = sandbox.program("unshare");
    command.args(["-U", BINARY, "serve"]).current_dir("/");
    std::fs::create_dir_all(sandbox.data().join("runs")).unwrap();
    let server = Guard(spawn(&mut command));
    wait_until("a server, or none", || sandbox.health().is_some() || !is_alive(server.pid()));
    if !is_alive(server.pid()) {
        return skip(&format!("no user namespace: {}", server.end(DEADLINE).stderr));
    }
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).is_err());
    let said = end(server);
    assert!(said.contains("does not tell which user makes a connection"), "{said}");
}

/// A call of `ctrl` that leaves a file behind, as a request to the port.
fn start_touch(sandbox: &Sandbox, marker: &Path) -> Vec<u8> {
    let command = format!("touch {}", marker.display());
    let arguments = json!({"action": "start", "command_or_label": command, "working_directory": "/"});
    post_tool(sandbox.port, "ctrl", arguments)
}

#[test]
fn a_client_that_sends_and_disconnects_immediately_does_not_pass_as_root() {
    if !can_be_others() {
        return;
    }
    for sight in [Sight::Full, Sight::Tables] {
        let sandbox = Sandbox::new();
        let _server = serve_with(&sandbox, sight, "", None);
        let marker = sandbox.root.join("marker");
        let request = start_touch(&sandbox, &marker);
        for i in 0..60 {
            // Gone before the server has so much as looked, or a little later.
            let mut stream = connect_as(NOBODY, sandbox.port);
            stream.write_all(&request).unwrap();
            std::thread::sleep(Duration::from_micros(i % 3 * 20));
        }
        sandbox.wait_for_server();
        assert!(sandbox.runs().is_empty() && !marker.exists(), "{sight:?}");
    }
}

/// A connection from this port of ours.
#[allow(unsafe_code)]
fn connect_from(own_port: u16, port: u16) -> std::io::Result<TcpStream> {
    let address = |port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be() },
        sin_zero: [0; 8],
    };
    let check = |result: i32| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) };
    let (from, to) = (address(own_port), address(port));
    let size = size_of_val(&from) as libc::socklen_t;
    unsafe {
        let stream =
            TcpStream::from_raw_fd(check(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?);
        let (fd, yes) = (stream.as_raw_fd(), 1i32);
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const yes).cast(), 4))?;
        check(libc::bind(fd, (&raw const from).cast(), size))?;
        check(libc::connect(fd, (&raw const to).cast(), size))?;
        Ok(stream)
    }
}

#[test]
fn a_request_of_another_user_is_not_mistaken_for_ours_because_we_get_its_port_next() {
    if !can_be_others() {
        return;
    }
    for sight in [Sight::Full, Sight::Tables] {
        let sandbox = Sandbox::new();
        let _server = serve_with(&sandbox, sight, "", None);
        let marker = sandbox.root.join("marker");
        let request = start_touch(&sandbox, &marker);
        let mut reused = 0;
        for i in 0..400u16 {
            let own_port = 19_000 + i % 900;
            let attack = || {
                become_for_files(NOBODY);
                let Ok(mut stream) = connect_from(own_port, sandbox.port) else { return false };
                let sent = stream.write_all(&request).is_ok();
                reset_on_close(&stream); // the port is free again at once
                sent
            };
            let is_sent = std::thread::scope(|scope| scope.spawn(attack).join().unwrap());
            // Now a command of ours happens to get that port.
            reused += usize::from(is_sent && connect_from(own_port, sandbox.port).is_ok());
        }
        sandbox.wait_for_server();
        assert!(reused > 100, "the attack did not take place: {reused}");
        assert!(sandbox.runs().is_empty() && !marker.exists(), "{sight:?}");
    }
}

#[test]
fn a_full_queue_at_the_start_does_not_open_the_port_to_others() {
    if !can_be_others() {
        return;
    }
    for _ in 0..4 {
        let sandbox = Sandbox::new();
        let is_over = Arc::new(AtomicBool::new(false));
        let flood = |_| {
            let (is_over, address) = (is_over.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, sandbox.port)));
            std::thread::spawn(move || {
                become_for_files(NOBODY);
                let mut held = std::collections::VecDeque::new();
                while !is_over.load(Ordering::SeqCst) {
                    held.extend(TcpStream::connect_timeout(&address, Duration::from_millis(20)));
                    if held.len() > 150 {
                        held.pop_front();
                    }
                }
            })
        };
        let floods: Vec<_> = (0..3).map(flood).collect();
        let server = Guard(sandbox.spawn(&["serve", "-q"]));
        sandbox.wait_for_server();
        is_over.store(true, Ordering::SeqCst);
        floods.into_iter().for_each(|flood| flood.join().unwrap());
        let ping = post("/mcp", sandbox.port, "", PING);
        assert_eq!((status_for(NOBODY, &ping, sandbox.port), status_for(0, &ping, sandbox.port)), (403, 200));
        end(server);
    }
}

#[test]
fn connections_of_another_user_use_none_of_our_slots() {
    if !can_be_others() {
        return;
    }
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let ping = post("/mcp", sandbox.port, "", PING);
    let mut kept = connect_as(0, sandbox.port);
    kept.write_all(&ping).unwrap();
    assert_eq!(Http::read(&mut kept).unwrap().status, 200);
    // It says nothing for a while, and is the one that was silent the longest.
    let others: Vec<TcpStream> = (0..400).map(|_| connect_as(NOBODY, sandbox.port)).collect();
    kept.write_all(&ping).unwrap();
    assert_eq!(Http::read(&mut kept).unwrap().status, 200);
    drop(others);
    wait_until("their threads to exit", || size_of_process(server.pid()).threads <= 8);
}

/// Listens as another user at the port in turns, never longer than a moment, until it is told to stop; gives what it was
/// told.
fn blink(port: u16, is_over: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        become_for_files(NOBODY);
        let heard = Arc::new(Mutex::new(Vec::new()));
        while !is_over.load(Ordering::SeqCst) {
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
            listener.set_nonblocking(true).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(300) {
                let Ok((mut stream, _)) = listener.accept() else { continue };
                let heard = heard.clone();
                std::thread::spawn(move || {
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                    let mut bytes = [0; 65536];
                    while let Ok(n @ 1..) = stream.read(&mut bytes) {
                        heard.lock().unwrap().extend_from_slice(&bytes[..n]);
                        let _ = stream
                            .write_all(b"HTTP/1.1 200 OK\r\nServer: persistproc/9.9.9\r\nContent-Length: 2\r\n\r\n{}");
                    }
                });
            }
            drop(listener);
            std::thread::sleep(Duration::from_micros(60));
        }
        std::thread::sleep(Duration::from_millis(50));
        heard.lock().unwrap().clone()
    })
}

#[test]
fn whatever_has_the_port_hears_neither_token_nor_environment() {
    if !can_be_others() {
        return;
    }
    const SECRET: &str = "environment-of-the-victim-7f3a";
    let sandbox = Sandbox::new();
    let is_over = Arc::new(AtomicBool::new(false));
    let blinking = blink(sandbox.port, is_over.clone());
    for i in 0..30 {
        for words in [&["start", "true"][..], &["run", "true"], &["list"], &["output", "true"], &["shutdown"]] {
            let mut command = sandbox.command(words);
            command.env("PERSISTPROC_TOKEN", TOKEN).env("THE_SECRET", SECRET);
            let ended = finish(spawn(&mut command), DEADLINE);
            assert!([0, 1, 3].contains(&ended.code), "{i} {words:?}: {ended:?}");
        }
    }
    is_over.store(true, Ordering::SeqCst);
    let heard = String::from_utf8_lossy(&blinking.join().unwrap()).into_owned();
    assert!(!heard.contains(SECRET) && !heard.contains(TOKEN) && !heard.contains("Authorization"), "{heard}");
    // With the port in the hands of another user for good, it is named, and the commands need none.
    std::thread::scope(|scope| {
        let hold = || {
            become_for_files(NOBODY);
            TcpListener::bind((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap()
        };
        let _held = scope.spawn(hold).join().unwrap();
        let refused = sandbox.run(&["run", "true"]);
        assert!(refused.code == 3 && refused.stderr.contains("--no-tcp"), "{refused:?}");
        sandbox.run(&["--no-tcp", "run", "true"]).ok();
    });
}

#[test]
fn a_data_directory_that_another_user_made_or_may_write_to_is_refused() {
    if !can_be_others() {
        return;
    }
    let chown = |path: &Path| std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    let mode = |path: &Path, mode: u32| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("belongs to another user (uid 65534)", &chown),
        ("belongs to another user (uid 65534)", &|data| chown(&data.join("runs"))),
        ("other users may write", &|data| mode(data, 0o770)),
        ("other users may write", &|data| mode(&data.join("runs"), 0o707)),
    ];
    for (problem, change) in changes {
        let sandbox = Sandbox::new();
        std::fs::create_dir_all(sandbox.data().join("runs")).unwrap();
        change(&sandbox.data());
        for words in [&["serve"][..], &["start", "true"], &["serve", "--background"]] {
            let refused = sandbox.run(words);
            assert!(refused.code != 0 && refused.stderr.contains(problem), "{words:?}: {refused:?}");
            assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        }
        assert!(sandbox.runs().is_empty() && sandbox.pid_of_server().is_none());
    }
    // It stays as it is.
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.data()).unwrap();
    chown(&sandbox.data());
    assert_ne!(sandbox.run(&["start", "true"]).code, 0);
    assert_eq!(std::fs::read_dir(sandbox.data()).unwrap().count(), 0);
    // One that only others may read is as good as any: its files are private.
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.data().join("runs")).unwrap();
    mode(&sandbox.data(), 0o755);
    sandbox.run(&["start", "true"]).ok();
}

#[test]
fn links_and_fifos_in_place_of_the_servers_files_are_refused_and_their_targets_not_touched() {
    for name in ["server.lock", "server.log"] {
        let sandbox = Sandbox::new();
        std::fs::create_dir_all(sandbox.data()).unwrap();
        let (precious, place) = (sandbox.root.join("precious"), sandbox.data().join(name));
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &place).unwrap();
        let refused = sandbox.run(&["serve"]);
        let problem = format!("/{name}: it is a symbolic link, not a file");
        assert!(refused.code == 1 && refused.stderr.contains(&problem), "{refused:?}");
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
        std::fs::remove_file(&place).unwrap();
        assert!(Command::new("mkfifo").arg(&place).status().unwrap().success());
        let refused = sandbox.run(&["serve"]);
        assert!(refused.code == 1 && refused.stderr.contains("it is a FIFO, not a file"), "{refused:?}");
        std::fs::remove_file(&place).unwrap();
        sandbox.run(&["start", "true"]).ok();
    }
}

#[allow(unsafe_code)]
fn own_user() -> u32 {
    unsafe { libc::geteuid() }
}

#[allow(unsafe_code)]
fn become_for_files(user: u32) {
    unsafe { libc::setfsuid(user) };
}
