//! The server: one per data directory and port, and an orderly exit.

use crate::support::*;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

#[test]
fn a_second_server_on_the_same_data_directory_is_refused_and_the_first_is_named() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let second = sandbox.run(&["serve", "--port", "0"]);
    assert_eq!(second.code, 1);
    for part in [
        format!("PID {}", server.pid()),
        format!("port {}", sandbox.port),
        sandbox.data().display().to_string(),
        "shutdown".into(),
    ] {
        assert!(second.stderr.contains(&part), "{part}: {}", second.stderr);
    }
    assert!(second.stdout.is_empty() && second.stderr.lines().count() == 1);
    sandbox.wait_for_server();
}

#[test]
fn a_taken_port_is_refused_and_its_holder_is_named() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let other = sandbox.root.join("other").display().to_string();
    let ours = sandbox.run(&["serve", "--data-dir", &other]);
    assert_eq!(ours.code, 1);
    let named =
        format!("a persistproc server (PID {}) with the data directory {}", server.pid(), sandbox.data().display());
    assert!(ours.stderr.contains(&named), "{}", ours.stderr);

    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let stranger = sandbox.run(&["serve", "--data-dir", &other, "--port", &port]);
    assert_eq!(stranger.code, 1);
    assert!(stranger.stderr.contains(&format!("(PID {})", std::process::id())), "{}", stranger.stderr);
    assert!(stranger.stderr.contains("--port") && stranger.stderr.contains("--no-tcp"), "{}", stranger.stderr);
}

#[test]
fn ctrl_c_and_sigterm_stop_the_server_and_everything_it_runs() {
    for number in [libc::SIGINT, libc::SIGTERM] {
        let sandbox = Sandbox::new();
        let server = Guard(sandbox.spawn(&["serve"]));
        sandbox.wait_for_server();
        for i in 0..3 {
            sandbox.run(&["start", "--label", &format!("p{i}"), "sh", "-c", "sleep 300 & read never"]).ok();
        }
        assert!(sandbox.leftovers().len() >= 3);
        signal(server.pid(), number);
        let ended = server.end(DEADLINE);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stderr.contains("stopping 3 processes") && ended.stderr.contains("'p1'"), "{}", ended.stderr);
        assert_eq!(sandbox.leftovers(), Vec::<i32>::new());
        assert!((0..3).all(|i| sandbox.status(i)["state"] == "terminated"));
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_processes_that_ignore_the_first() {
    let sandbox = Sandbox::new();
    let server = Guard(sandbox.spawn(&["serve", "-q"]));
    sandbox.wait_for_server();
    sandbox.run(&["start", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]).ok();
    wait_until("the trap", || sandbox.run(&["output", "r1"]).out().contains("ready"));
    signal(server.pid(), libc::SIGINT);
    wait_until("the stop to be asked for", || {
        sandbox.health().is_some() && {
            let refused = sandbox.run(&["start", "true"]);
            refused.stderr.contains("shutting down")
        }
    });
    let begun = std::time::Instant::now();
    signal(server.pid(), libc::SIGINT);
    assert_eq!(server.end(DEADLINE).code, 0);
    assert!(begun.elapsed() < Duration::from_secs(6), "it waited for the grace all the same");
    assert_eq!(sandbox.leftovers(), Vec::<i32>::new());
}

#[test]
fn shutdown_leaves_nothing_running() {
    let sandbox = Sandbox::new();
    sandbox.run(&FOREVER).ok();
    let pid: i64 =
        sandbox.run(&["--format", "json", "list", "--pid", "0"]).json()["processes"][0]["pid"].as_i64().unwrap();
    let ended = sandbox.run(&["--format", "json", "shutdown"]).ok();
    assert_eq!(ended.json(), serde_json::json!({"pid": pid}));
    assert_eq!((sandbox.leftovers().len(), sandbox.status(0)["state"].as_str()), (0, Some("terminated")));
    assert!(!is_alive(pid as i32));
    assert_eq!(sandbox.run(&["shutdown"]).code, 3);
}

#[test]
fn what_is_just_being_started_does_not_escape_a_shutdown() {
    for round in 0..10 {
        let sandbox = Sandbox::new();
        let server = sandbox.serve();
        let start = |i: usize| {
            let label = format!("s{i}");
            let mut command = sandbox.command(&["start", "--no-autostart", "--label", &label, "sleep", "1000"]);
            Guard(spawn(&mut command))
        };
        let starts: Vec<Guard> = (0..8).map(start).collect();
        wait_until("some of them", || sandbox.runs().len() > round % 4);
        sandbox.run(&["shutdown"]).ok();
        let codes: Vec<i32> = starts.into_iter().map(|start| start.end(DEADLINE).code).collect();
        server.end(DEADLINE);
        assert!(sandbox.leftovers().is_empty(), "round {round}, {codes:?}");
    }
}

#[test]
fn without_the_server_processes_go_on_and_the_next_one_finds_them() {
    let sandbox = Sandbox::new();
    sandbox.run(&FOREVER).ok();
    let pid = sandbox.status(0)["pid"].clone();
    sandbox.run(&["shutdown", "--keep"]).ok();
    let server = sandbox.serve();
    signal(server.pid(), libc::SIGHUP);
    assert_eq!(server.end(DEADLINE).code, 0);
    let server = sandbox.serve();
    signal(server.pid(), libc::SIGKILL);
    assert_eq!(server.end(DEADLINE).code, 1000 + libc::SIGKILL);
    assert!(is_alive(pid.as_i64().unwrap() as i32));
    // Any command that starts a server will do.
    let mut wrapper = Guard(sandbox.spawn(&FOREVER[1..]));
    let mut line = [0; 3];
    wrapper.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(sandbox.listed()[0]["pid"], pid);
    sandbox.run(&["stop", "r1"]).ok();
    assert_eq!(wrapper.end(DEADLINE).code, 143);
}

#[test]
fn under_nohup_a_closed_terminal_does_not_end_it() {
    let sandbox = Sandbox::new();
    let server = Guard(spawn(sandbox.shell("trap '' HUP; exec \"$0\" serve -q").current_dir("/")));
    sandbox.wait_for_server();
    signal(server.pid(), libc::SIGHUP);
    sandbox.run(&["start", "sh", "-c", "read never"]).ok();
    // And what it starts is not deaf to HUP for that.
    signal(sandbox.status(0)["pid"].as_i64().unwrap() as i32, libc::SIGHUP);
    wait_until("the process to exit", || sandbox.status(0)["signal"] == 1);
}

#[test]
fn it_shows_how_to_connect_every_agent_with_the_real_address() {
    let sandbox = Sandbox::new();
    let mut server = Guard(sandbox.spawn(&["serve", "--port", "0"]));
    let mut text = String::new();
    let mut out = server.0.stdout.take().unwrap();
    let mut bytes = [0; 4096];
    while !text.contains("Ctrl+C") {
        let n = out.read(&mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
    }
    let lock: serde_json::Value =
        serde_json::from_slice(&std::fs::read(sandbox.data().join("server.lock")).unwrap()).unwrap();
    let url = format!("http://127.0.0.1:{}/mcp", lock["port"]);
    for line in [
        format!("claude mcp add --transport http --scope user persistproc {url}"),
        format!("codex mcp add persistproc --url {url}"),
        format!("gemini mcp add -s user -t http persistproc {url}"),
        format!(r#"code --add-mcp '{{"name":"persistproc","type":"http","url":"{url}"}}'"#),
        format!(r#"{{"mcpServers":{{"persistproc":{{"url":"{url}"}}}}}}"#),
        format!(r#"{{"mcpServers":{{"persistproc":{{"serverUrl":"{url}"}}}}}}"#),
        format!(r#"{{"context_servers":{{"persistproc":{{"url":"{url}"}}}}}}"#),
    ] {
        assert!(text.contains(&line), "{line} in:\n{text}");
    }
    for agent in ["Claude Code", "Cursor", "VS Code", "Codex CLI", "Gemini CLI", "Windsurf", "Zed"] {
        assert!(text.contains(agent), "{agent}");
    }
    signal(server.pid(), libc::SIGTERM);
    assert_eq!(server.end(DEADLINE).code, 0);
}

#[test]
fn quiet_prints_nothing_at_all() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.run(&FOREVER).ok();
    signal(server.pid(), libc::SIGTERM);
    let ended = server.end(DEADLINE);
    assert_eq!((ended.code, ended.out().as_str(), ended.stderr.as_str()), (0, "", ""));
}

#[test]
fn in_the_background_it_outlives_the_command_that_started_it() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(&["serve", "--background"]).ok();
    assert_eq!(ended.out(), format!("http://127.0.0.1:{}/mcp\n", sandbox.port));
    sandbox.run(&["list"]).ok();
    let second = sandbox.run(&["serve", "--background"]);
    assert_eq!(second.code, 3);
    assert!(second.stderr.contains("has the data directory"), "{}", second.stderr);
}

#[test]
fn in_the_background_it_keeps_no_pipe_of_the_command_that_started_it() {
    let sandbox = Sandbox::new();
    // As in `x=$(command 3>&1 >/dev/null)`: the pipe ends when nobody has it any more.
    let mut child = spawn(&mut sandbox.shell("\"$0\" start sleep 1000 3>&1 >/dev/null 2>&1"));
    let mut pipe = child.stdout.take().unwrap();
    let ended = std::thread::spawn(move || pipe.read_to_end(&mut Vec::new()));
    assert_eq!(finish(child, DEADLINE).code, 0);
    wait_until("the end of the pipe", || ended.is_finished());
    assert_eq!(sandbox.status(0)["state"], "running");
}

#[test]
fn the_files_of_a_user_are_for_that_user_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    finish(spawn(&mut sandbox.shell("umask 0; exec \"$0\" sh -c 'echo secret'")), DEADLINE).ok();
    let files = tree(&sandbox.data());
    for path in &files {
        let mode = std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    assert!(files.len() >= 12, "{files:?}");
}

#[test]
fn a_data_directory_is_the_same_by_whatever_link_it_is_reached() {
    let sandbox = Sandbox::new();
    let link = sandbox.root.join("link");
    std::os::unix::fs::symlink(sandbox.data(), &link).unwrap();
    std::fs::create_dir_all(sandbox.data()).unwrap();
    let by_link = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command.env("PERSISTPROC_DATA_DIR", &link);
        spawn(&mut command)
    };
    let server = Guard(by_link(&["serve", "-q"]));
    sandbox.wait_for_server();
    for label in ["a", "b"] {
        sandbox.run(&["start", "--label", label, "sh", "-c", "exec sleep 5000"]).ok();
    }
    drop(server);
    // What a killed shim left behind is found by the name of the directory.
    signal(sandbox.status(0)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
    wait_until("its exit", || !is_alive(sandbox.status(0)["shim"].as_i64().unwrap() as i32));
    let _server = sandbox.serve();
    let listed = finish(by_link(&["list"]), DEADLINE).ok().out();
    assert!(listed.contains("live on until") && listed.contains("running"), "{listed}");
    finish(by_link(&["shutdown"]), DEADLINE).ok();
    assert_eq!(sandbox.leftovers(), Vec::<i32>::new());
}
