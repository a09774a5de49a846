//! Cancelling a request, and how the bridge exits.

use super::*;

#[test]
fn a_cancelled_request_is_abandoned_and_never_answered() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    let start =
        json!({"action": "start", "command_or_label": "cat", "working_directory": sandbox.work(), "label": "web"});
    assert!(!host.call("ctrl", start).1);
    let wait = json!({"name": "output", "arguments": {"command_or_label": "web", "wait_for": "never", "timeout": 45}});
    for message in [modern(json!(5), "tools/call", wait.clone()), request(json!(5), "tools/call", wait.clone())] {
        host.send(&message);
        wait_until("the wait", || connections(host.bridge.pid()) == 1);
        host.send(&cancelled(6)); // another one
        host.is_silent();
        assert_eq!(connections(host.bridge.pid()), 1);
        host.send(&cancelled(5));
        wait_until("the end of the wait", || connections(host.bridge.pid()) == 0);
        host.send(&cancelled(5)); // some clients do this after every call
        host.is_silent();
    }
    let input = host.call("ctrl", json!({"action": "input", "command_or_label": "web", "text": "hello"}));
    assert!(!input.1, "the process does not notice");
}

/// Connections that a process has open.
fn connections(pid: i32) -> usize {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|to| to.to_string_lossy().starts_with("socket:"))
        .count()
}

#[test]
fn at_the_end_of_stdin_it_exits_within_two_seconds_whatever_is_pending() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    let start = json!({"action": "start", "command_or_label": "sleep 600", "working_directory": sandbox.work(), "label": "web"});
    assert!(!host.call("ctrl", start).1);
    host.send(&call(1, "output", json!({"command_or_label": "web", "wait_for": "never", "timeout": 45})));
    wait_until("the wait", || connections(host.bridge.pid()) == 1);
    // What is short still gets its answer, also without a newline behind it.
    host.write(&ping(json!(2)).to_string());
    let (code, took, rest) = host.end();
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(rest, [json!({"jsonrpc": "2.0", "id": 2, "result": {}}).to_string()]);
    // Without anything under way it is at once.
    let mut host = Host::new(&sandbox);
    host.is_silent();
    let (code, took, _) = host.end();
    assert!(code == 0 && took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn it_exits_on_sigterm_and_when_its_host_is_gone() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    host.is_silent();
    signal(host.bridge.pid(), libc::SIGTERM);
    assert_eq!(host.bridge.end(DEADLINE).code, 1000 + libc::SIGTERM);
    // stdout closed, stdin still open: nobody reads answers.
    let mut bridge = spawn(sandbox.command(&["mcp"]).stdin(Stdio::piped()));
    drop(bridge.stdout.take());
    let mut stdin = bridge.stdin.take().unwrap();
    wait_until("its exit", || {
        let _ = stdin.write_all(format!("{}\n", ping(json!(1))).as_bytes());
        bridge.try_wait().unwrap().is_some()
    });
}
