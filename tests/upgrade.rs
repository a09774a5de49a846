//! Servers and commands of different versions: they report it, and the newer server replaces the older one without touching
//! a process.

use crate::support::*;
use serde_json::json;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Child;

const OLDER: &str = "0.3.9";
const NEWER: &str = "9.9.9";
const TOKEN: &str = "open-sesame-open";

#[test]
fn a_newer_serve_replaces_an_older_server_and_touches_no_process() {
    let sandbox = Sandbox::new();
    let older = of_version(&sandbox, OLDER);
    let old = Guard(spawn(sandbox.program(&older).args(["serve"])));
    sandbox.wait_for_server();
    let script = "i=0; while [ ! -e enough ]; do echo line $i; i=$((i+1)); sleep 0.001; done; exit 42";
    let wrapper = Guard(sandbox.spawn(&["sh", "-c", script]));
    wait_until("the run", || sandbox.runs().len() == 1 && sandbox.status(0)["lines"][0].as_u64() > Some(0));
    let listed = sandbox.run(&["list"]).ok();
    assert!(listed.stderr.contains(OLDER) && listed.stderr.contains("persistproc serve"), "{}", listed.stderr);
    assert_eq!(sandbox.run(&["-q", "list"]).ok().stderr, "");

    let new = Guard(sandbox.spawn(&["serve", "--port", &sandbox.port.to_string()]));
    let ended = old.end(DEADLINE);
    assert!(ended.code == 0 && ended.stderr.contains("the processes keep running"), "{ended:?}");
    wait_until("the new one", || sandbox.pid_of_server() == Some(new.pid()));
    sandbox.wait_for_server();
    let listed = sandbox.run(&["list"]).ok();
    assert!(listed.out().contains("running") && listed.stderr.is_empty(), "{listed:?}");
    std::fs::write(sandbox.work().join("enough"), "").unwrap();
    let ended = wrapper.end(DEADLINE);
    let expected: String = (0..ended.out().lines().count()).map(|i| format!("line {i}\n")).collect();
    assert_eq!((ended.code, ended.out() == expected), (42, true), "{}", ended.stderr);
    signal(new.pid(), libc::SIGTERM);
    let said = new.end(DEADLINE).stderr;
    assert!(said.contains(&format!("took the place of the server of version {OLDER}")), "{said}");
}

#[test]
fn in_the_background_it_does_the_same_and_so_does_shutdown_keep_with_any_start() {
    let sandbox = Sandbox::new();
    let older = of_version(&sandbox, OLDER);
    let start = ["start", "--label", "web", "sh", "-c", "read never"];
    finish(spawn(sandbox.program(&older).args(start)), DEADLINE).ok();
    let first = sandbox.pid_of_server().unwrap();
    sandbox.run(&["serve", "--background"]).ok();
    let second = sandbox.pid_of_server().unwrap();
    assert!(first != second && !is_alive(first));
    sandbox.run(&["shutdown", "--keep"]).ok();
    finish(spawn(sandbox.program(&older).args(["serve", "--background"])), DEADLINE).ok();
    sandbox.run(&["shutdown", "--keep"]).ok();
    let started = sandbox.run(&["start", "--label", "api", "sh", "-c", "read never"]).ok();
    assert!(!started.stderr.contains(OLDER), "{}", started.stderr);
    let listed = sandbox.listed();
    assert!(listed.as_array().unwrap().iter().all(|process| process["status"] == "running"), "{listed}");
    assert_eq!((sandbox.runs().len(), sandbox.leftovers().len()), (2, 2));
}

#[test]
fn a_server_with_a_token_gives_way_to_its_own_user() {
    let sandbox = Sandbox::new();
    let older = of_version(&sandbox, OLDER);
    let old = Guard(spawn(sandbox.program(&older).args(["serve", "-q"]).env("PERSISTPROC_TOKEN", TOKEN)));
    sandbox.wait_for_server();
    // By the socket, where no token is needed; and from then on none is asked for, because this one has none.
    let new = Guard(sandbox.spawn(&["serve", "-q"]));
    assert_eq!(old.end(DEADLINE).code, 0);
    wait_until("the new one", || sandbox.pid_of_server() == Some(new.pid()));
    let ping = post("/mcp", sandbox.port, "", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    wait_until("its port", || sandbox.try_http(&ping).is_some_and(|answer| answer.status == 200));
}

#[test]
fn neither_an_older_nor_an_equal_version_replaces_a_server() {
    let sandbox = Sandbox::new();
    let newer = of_version(&sandbox, NEWER);
    let server = Guard(spawn(sandbox.program(&newer).args(["serve", "-q"])));
    sandbox.wait_for_server();
    for words in [&["serve"][..], &["serve", "--background"]] {
        let refused = sandbox.run(words);
        assert!(refused.code != 0 && refused.stderr.contains(&format!("version {NEWER}")), "{refused:?}");
    }
    let refused = finish(spawn(sandbox.program(&newer).args(["serve"])), DEADLINE);
    assert!(refused.code == 1 && refused.stderr.contains("has the data directory"), "{refused:?}");
    let listed = sandbox.run(&["list"]).ok();
    assert!(listed.stderr.contains(NEWER) && listed.stderr.contains("newer"), "{}", listed.stderr);
    assert_eq!(sandbox.pid_of_server(), Some(server.pid()));
}

#[test]
fn a_restart_in_progress_is_finished_before_the_server_gives_way() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "trap 'echo ending; while [ ! -e go ]; do sleep 0.02; done; exit 0' TERM; echo up; while :; do sleep 0.02; done";
    sandbox.run(&["start", "--label", "web", "sh", "-c", script]).ok();
    wait_until("it is up", || sandbox.run(&["output", "web"]).out().contains("up"));
    let restart = sandbox.spawn(&["restart", "web"]);
    wait_until("its stop", || sandbox.run(&["output", "web"]).out().contains("ending"));
    let leave = sandbox.spawn(&["shutdown", "--keep"]);
    // Nothing new may begin from now on.
    wait_until("a closed door", || sandbox.run(&["--no-autostart", "start", "--label", "other", "true"]).code != 0);
    std::fs::write(sandbox.work().join("go"), "").unwrap();
    finish(restart, DEADLINE).ok();
    finish(leave, DEADLINE).ok();
    let last = sandbox.runs().len() - 1;
    assert_eq!((sandbox.status(last)["state"].as_str(), sandbox.pid_of_server()), (Some("running"), None));
    sandbox.run(&["serve", "--background", "-q"]).ok();
    let listed = sandbox.run(&["list"]).ok().out();
    assert!(listed.lines().any(|line| line.contains("web") && line.contains("running")), "{listed}");
}

/// Starts `web` on a server of `program`, and has it restarted. The restart waits until there is a file `go`.
fn begin_restart(sandbox: &Sandbox, program: &PathBuf) -> (Guard, Child) {
    let server = Guard(spawn(sandbox.program(program).args(["serve"])));
    sandbox.wait_for_server();
    sandbox.script(
        "web.sh",
        "trap 'echo ending; while [ ! -e go ]; do sleep 0.02; done; exit 0' TERM; echo up; while :; do sleep 0.02; done",
    );
    finish(spawn(sandbox.program(program).args(["start", "--label", "web", "sh", "web.sh"])), DEADLINE).ok();
    let says =
        |text: &str| finish(spawn(sandbox.program(program).args(["output", "web"])), DEADLINE).out().contains(text);
    wait_until("it is up", || says("up"));
    let restart = spawn(sandbox.program(program).args(["restart", "web"]));
    wait_until("its stop", || says("ending"));
    (server, restart)
}

fn go(sandbox: &Sandbox) {
    std::fs::write(sandbox.work().join("go"), "").unwrap();
}

/// Until the server starts nothing any more, as those see it who use its port.
pub fn wait_for_closing(sandbox: &Sandbox) {
    let other = json!({"action": "start", "command_or_label": "true", "working_directory": sandbox.work()});
    wait_until("a server that ends", || sandbox.tool("ctrl", other.clone()).0.contains("shutting down"));
}

#[test]
fn a_start_that_waits_for_its_lock_goes_to_the_next_server_if_ours_exits_meanwhile() {
    let sandbox = Sandbox::new();
    let (old, restart) = begin_restart(&sandbox, &of_version(&sandbox, OLDER));
    let fresh = sandbox.spawn(&["-q", "run", "--fresh", "--label", "web", "sh", "web.sh"]);
    wait_until("two commands that wait", || sandbox.connections() == 2);
    let new = Guard(sandbox.spawn(&["serve", "-q"]));
    wait_for_closing(&sandbox);
    go(&sandbox);
    finish(restart, DEADLINE).ok();
    assert_eq!(old.end(DEADLINE).code, 0);
    wait_until("the new server", || sandbox.pid_of_server() == Some(new.pid()));
    // In the place of what the restart had started.
    let running = || (0..sandbox.runs().len()).filter(|&run| sandbox.status(run)["state"] == "running").count();
    let is_started = || sandbox.run(&["list"]).ok().out().contains("running") && running() == 1;
    wait_until("the fresh one", || sandbox.connections() > 0 && is_started());
    wait_until("its first line", || sandbox.run(&["output", "web"]).out().contains("up"));
    sandbox.run(&["stop", "web"]).ok();
    let ended = finish(fresh, DEADLINE);
    assert!(ended.code == 0 && !ended.stderr.contains("persistproc") && ended.out().contains("up"), "{ended:?}");
}

#[test]
fn a_killed_successor_is_followed_by_the_next_one() {
    let sandbox = Sandbox::new();
    let (old, restart) = begin_restart(&sandbox, &of_version(&sandbox, OLDER));
    let inode = || std::fs::metadata(sandbox.data().join("server.sock")).map_or(0, |socket| socket.ino());
    let before = inode();
    let killed = Guard(sandbox.spawn(&["serve", "-q"]));
    wait_until("its socket to replace the other", || inode() != before);
    drop(killed);
    let mut next = sandbox.spawn(&["serve", "--background", "-q"]);
    wait_until("a second socket", || {
        std::fs::read_dir(sandbox.data())
            .unwrap()
            .flatten()
            .any(|file| file.file_name().to_string_lossy().starts_with("server.sock."))
    });
    wait_for_closing(&sandbox);
    assert!(next.try_wait().unwrap().is_none(), "it waits for the one that leaves");
    go(&sandbox);
    finish(next, DEADLINE).ok();
    finish(restart, DEADLINE).ok();
    assert_eq!(old.end(DEADLINE).code, 0);
    let listed = sandbox.run(&["list"]).ok().out();
    assert!(listed.lines().any(|line| line.contains("web") && line.contains("running")), "{listed}");
}

#[test]
fn a_newer_server_that_cannot_have_its_port_leaves_the_older_one_running() {
    let sandbox = Sandbox::new();
    let older = of_version(&sandbox, OLDER);
    let old = Guard(spawn(sandbox.program(&older).args(["serve", "-q"])));
    sandbox.wait_for_server();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for words in [&["serve", "--port", &port][..], &["serve", "--background", "--port", &port]] {
        let refused = sandbox.run(words);
        assert!(refused.code != 0 && refused.stderr.contains("cannot listen on port"), "{refused:?}");
    }
    assert_eq!(sandbox.health().unwrap()["pid"], old.pid());
}

#[test]
fn a_second_request_to_exit_is_told_that_the_server_is_exiting() {
    let sandbox = Sandbox::new();
    let (server, restart) = begin_restart(&sandbox, &PathBuf::from(BINARY));
    let first = sandbox.spawn(&["shutdown", "--keep"]);
    wait_for_closing(&sandbox);
    let second = sandbox.spawn(&["shutdown", "--keep"]);
    wait_until("three commands that wait", || sandbox.connections() == 3);
    go(&sandbox);
    finish(restart, DEADLINE).ok();
    finish(first, DEADLINE).ok();
    let refused = finish(second, DEADLINE);
    assert!(refused.code == 1 && refused.stderr.contains("shutting down already"), "{refused:?}");
    assert_eq!(server.end(DEADLINE).code, 0);
}
