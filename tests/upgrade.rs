//! Servers and commands of different versions: they say so, and the newer one takes the place of the older without
//! touching a process.

use crate::support::*;

const OLDER: &str = "0.3.9";
const NEWER: &str = "9.9.9";
const TOKEN: &str = "open-sesame-open";

#[test]
fn a_newer_serve_takes_the_place_of_an_older_server_and_touches_no_process() {
    let sandbox = Sandbox::new();
    let older = of_version(&sandbox, OLDER);
    let old = Guard(spawn(&mut with(&sandbox, &older, &["serve"])));
    sandbox.wait_for_server();
    let script = "i=0; while [ ! -e enough ]; do echo line $i; i=$((i+1)); sleep 0.001; done; exit 42";
    let wrapper = Guard(sandbox.spawn(&["sh", "-c", script]));
    wait_until("the run", || sandbox.runs().len() == 1 && sandbox.status(0)["lines"][0].as_u64() > Some(0));
    let listed = sandbox.run(&["list"]).ok();
    assert!(listed.stderr.contains(OLDER) && listed.stderr.contains("persistproc serve"), "{}", listed.stderr);
    assert_eq!(sandbox.run(&["-q", "list"]).ok().stderr, "");

    let new = Guard(sandbox.spawn(&["serve", "--port", &sandbox.port.to_string()]));
    let ended = old.end(DEADLINE);
    assert!(ended.code == 0 && ended.stderr.contains("the processes go on"), "{ended:?}");
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
    finish(spawn(&mut with(&sandbox, &older, &start)), DEADLINE).ok();
    let first = sandbox.pid_of_server().unwrap();
    sandbox.run(&["serve", "--background"]).ok();
    let second = sandbox.pid_of_server().unwrap();
    assert!(first != second && !is_alive(first));
    sandbox.run(&["shutdown", "--keep"]).ok();
    finish(spawn(&mut with(&sandbox, &older, &["serve", "--background"])), DEADLINE).ok();
    sandbox.run(&["shutdown", "--keep"]).ok();
    let started = sandbox.run(&["start", "--label", "api", "sh", "-c", "read never"]).ok();
    assert!(!started.stderr.contains(OLDER), "{}", started.stderr);
    let listed = sandbox.run(&["--format", "json", "list"]).ok().json();
    assert!(listed["processes"].as_array().unwrap().iter().all(|process| process["status"] == "running"), "{listed}");
    assert_eq!((sandbox.runs().len(), sandbox.leftovers().len()), (2, 2));
}

#[test]
fn a_server_with_a_token_leaves_its_place_to_its_own_user() {
    let sandbox = Sandbox::new();
    let older = of_version(&sandbox, OLDER);
    let old = Guard(spawn(with(&sandbox, &older, &["serve", "-q"]).env("PERSISTPROC_TOKEN", TOKEN)));
    sandbox.wait_for_server();
    // By the socket, where no token is needed; and from then on none is asked for, because this one has none.
    let new = Guard(sandbox.spawn(&["serve", "-q"]));
    assert_eq!(old.end(DEADLINE).code, 0);
    wait_until("the new one", || sandbox.pid_of_server() == Some(new.pid()));
    let ping = post("/mcp", sandbox.port, "", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    wait_until("its port", || sandbox.try_http(&ping).is_some_and(|answer| answer.status == 200));
}

#[test]
fn an_older_program_never_takes_the_place_of_a_newer_server_nor_does_an_equal_one() {
    let sandbox = Sandbox::new();
    let newer = of_version(&sandbox, NEWER);
    let server = Guard(spawn(&mut with(&sandbox, &newer, &["serve", "-q"])));
    sandbox.wait_for_server();
    for words in [&["serve"][..], &["serve", "--background"]] {
        let refused = sandbox.run(words);
        assert!(refused.code != 0 && refused.stderr.contains(&format!("version {NEWER}")), "{refused:?}");
    }
    let refused = finish(spawn(&mut with(&sandbox, &newer, &["serve"])), DEADLINE);
    assert!(refused.code == 1 && refused.stderr.contains("has the data directory"), "{refused:?}");
    let listed = sandbox.run(&["list"]).ok();
    assert!(listed.stderr.contains(NEWER) && listed.stderr.contains("newer"), "{}", listed.stderr);
    assert_eq!(sandbox.pid_of_server(), Some(server.pid()));
}

#[test]
fn a_restart_that_has_begun_is_ended_before_the_server_leaves_its_place() {
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
