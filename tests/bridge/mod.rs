//! `persistproc mcp`: a host that uses pipes, and every way in which the server can fail it.

mod exit;
mod messages;
mod server_changes;

use crate::support::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
const MODERN: &str = "2026-07-28";

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// A host: writes messages, and reads what comes back line by line.
struct Host {
    bridge: Guard,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Host {
    fn new(sandbox: &Sandbox) -> Host {
        Host::with(&mut sandbox.command(&["mcp"]))
    }

    fn with(command: &mut Command) -> Host {
        let mut bridge = spawn(command.stdin(Stdio::piped()));
        let stdout = BufReader::new(bridge.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Host { stdin: bridge.stdin.take(), bridge: Guard(bridge), lines }
    }

    #[track_caller]
    fn write(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn send(&mut self, message: &Value) {
        self.write(&format!("{message}\n"));
    }

    #[track_caller]
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(DEADLINE).expect("a message");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    #[track_caller]
    fn ask(&mut self, message: &Value) -> Value {
        self.send(message);
        let answer = self.next();
        assert_eq!(answer["id"], message["id"], "{answer}");
        answer
    }

    /// The text of a call's result, and whether it is an error.
    #[track_caller]
    fn call(&mut self, name: &str, arguments: Value) -> (String, bool) {
        let answer = self.ask(&call(99, name, arguments));
        text_of(&answer)
    }

    /// Closes stdin: the exit code, how long it took, and what still came.
    fn end(mut self) -> (i32, Duration, Vec<String>) {
        let begun = Instant::now();
        drop(self.stdin.take());
        let code = self.bridge.end(DEADLINE).code;
        (code, begun.elapsed(), self.lines.iter().collect())
    }

    /// Nothing is written that was not asked for: a ping is answered, and nothing before it.
    #[track_caller]
    fn is_silent(&mut self) {
        assert_eq!(self.ask(&ping(json!("silent?"))), json!({"jsonrpc": "2.0", "id": "silent?", "result": {}}));
    }
}

fn request(id: Value, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn ping(id: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping"})
}

fn call(id: i32, name: &str, arguments: Value) -> Value {
    request(json!(id), "tools/call", json!({"name": name, "arguments": arguments}))
}

fn modern(id: Value, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({VERSION: MODERN, CAPABILITIES: {}});
    request(id, method, params)
}

fn cancelled(id: i32) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "a test"}})
}

#[track_caller]
fn text_of(answer: &Value) -> (String, bool) {
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    (text.to_string(), answer["result"]["isError"] == true)
}

fn pid_of_server(sandbox: &Sandbox) -> i32 {
    sandbox.health().unwrap()["pid"].as_i64().unwrap() as i32
}

#[track_caller]
fn kill_server(sandbox: &Sandbox) {
    let pid = pid_of_server(sandbox);
    assert!(signal(pid, libc::SIGKILL));
    wait_until("the server to exit", || !is_alive(pid));
}

#[test]
fn hosts_of_both_eras_work_over_pipes_and_a_server_is_started_for_them() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let offer =
            json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
        let answer = host.ask(&request(json!(0), "initialize", offer));
        assert_eq!(answer["result"]["protocolVersion"], version);
        host.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        let tools = host.ask(&request(json!("tools"), "tools/list", json!({})));
        assert_eq!(tools["result"]["tools"].as_array().map(Vec::len), Some(3));
        assert!(tools["result"].get("resultType").is_none());
    }
    let discovered = host.ask(&modern(json!("probe"), "server/discover", json!({})));
    assert_eq!(discovered["result"]["supportedVersions"][0], MODERN);
    let tools = host.ask(&modern(json!(2), "tools/list", json!({})));
    assert_eq!((&tools["result"]["resultType"], &tools["result"]["ttlMs"]), (&json!("complete"), &json!(0)));
    let work = sandbox.work().display().to_string();
    let start = json!({"action": "start", "command_or_label": "sh -c 'echo ready; read never'", "working_directory": work, "label": "web", "wait_for": "ready"});
    let started = host.ask(&modern(json!(3), "tools/call", json!({"name": "ctrl", "arguments": start})));
    assert!(text_of(&started).0.contains("ready") && !text_of(&started).1, "{started}");
    assert_eq!(started["result"]["resultType"], "complete");
    let (read, is_error) = host.call("output", json!({"command_or_label": "web"}));
    assert!(read.contains("ready\n") && !is_error, "{read}");
    // What the server refuses comes back, with the id of the request.
    for (message, code) in [
        (modern(json!(4), "ping", json!({})), -32601),
        (modern(json!(4), "initialize", json!({"protocolVersion": "2025-11-25"})), -32601),
        (modern(json!(5), "tools/call", json!({"name": "wörk\r\nX: y", "arguments": {}})), -32602),
        (modern(json!(6), "tools/call", json!({})), -32602),
        (request(json!(7), "tools/call", json!({"name": "nope"})), -32602),
        (request(json!(8), "nothing", json!({})), -32601),
        (request(json!(9), "tools/list", json!({"_meta": {VERSION: 5, CAPABILITIES: {}}})), -32602),
        (request(json!(10), "tools/list", json!({"_meta": {VERSION: "2099-01-01", CAPABILITIES: {}}})), -32022),
    ] {
        assert_eq!(host.ask(&message)["error"]["code"], code, "{message}");
    }
    let (code, _, rest) = host.end();
    assert_eq!((code, rest), (0, Vec::new()));
    assert!(sandbox.run(&["list"]).ok().out().contains("running"), "the server and its processes outlive the bridge");
}

#[test]
fn answers_come_when_they_are_ready_and_not_in_order() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    let script = sandbox.script("once.sh", "#!/bin/sh\nread line; echo said $line\nread never\n");
    let start =
        json!({"action": "start", "command_or_label": script, "working_directory": sandbox.work(), "label": "web"});
    assert!(!host.call("ctrl", start).1);
    host.send(&call(1, "output", json!({"command_or_label": "web", "wait_for": "said", "timeout": 45})));
    for id in 2..10 {
        assert_eq!(host.ask(&ping(json!(id)))["result"], json!({}));
    }
    // The wait has not been answered before this, and is because of it.
    host.send(&call(11, "ctrl", json!({"action": "input", "command_or_label": "web", "text": "hello"})));
    let answers = [host.next(), host.next()];
    let answer = |id: i32| answers.iter().find(|answer| answer["id"] == id).expect("an answer to each");
    assert!(!text_of(answer(11)).1 && text_of(answer(1)).0.contains("said hello"), "{answers:?}");
}

#[test]
fn too_many_requests_at_once_are_refused_with_their_ids() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    let start = json!({"action": "start", "command_or_label": "sleep 600", "working_directory": sandbox.work(), "label": "web"});
    assert!(!host.call("ctrl", start).1);
    for id in 0..40 {
        host.send(&call(id, "output", json!({"command_or_label": "web", "wait_for": "never", "timeout": 45})));
    }
    let refused: Vec<Value> = (0..8).map(|_| host.next()).collect();
    for (answer, id) in refused.iter().zip(32..) {
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32603)));
        assert!(answer["error"]["message"].as_str().unwrap().contains("32 requests"), "{answer}");
    }
    // A cancelled one makes room.
    host.send(&cancelled(3));
    wait_until("space for a request", || host.ask(&ping(json!(100))).get("result").is_some());
    let (code, took, rest) = host.end();
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(5) && rest.is_empty(), "{took:?} {rest:?}");
}

#[test]
fn a_stripped_environment_and_a_foreign_directory_are_enough() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut command = sandbox.command(&["mcp", "--data-dir", &sandbox.data().display().to_string()]);
    command.env_clear().env("HOME", &sandbox.root).env("PATH", "/usr/bin:/bin").current_dir("/");
    let mut host = Host::with(&mut command);
    host.is_silent();
    assert!(!host.call("list", json!({})).1);
    assert_eq!(host.end().0, 0);
}

#[test]
fn the_project_of_the_host_decides_between_several() {
    let sandbox = Sandbox::with_short_path();
    let _server = sandbox.serve();
    let projects = ["a", "b"].map(|name| sandbox.work().join(name));
    for project in &projects {
        std::fs::create_dir(project).unwrap();
        sandbox
            .tool_ok("ctrl", json!({"action": "start", "command_or_label": "sleep 600", "working_directory": project}));
    }
    let read = |command: &mut Command| Host::with(command).call("output", json!({"command_or_label": "sleep 600"}));
    assert!(read(&mut sandbox.command(&["mcp"])).1, "in neither of them it is not clear which");
    for project in &projects {
        let (text, is_error) = read(sandbox.command(&["mcp"]).current_dir(project));
        assert!(!is_error && text.contains(&project.display().to_string()), "{text}");
        let (text, is_error) = read(sandbox.command(&["mcp"]).env("CLAUDE_PROJECT_DIR", project).current_dir("/"));
        assert!(!is_error && text.contains(&project.display().to_string()), "{text}");
    }
    // What the host says itself counts.
    let mut host = Host::with(sandbox.command(&["mcp"]).current_dir(&projects[0]));
    let mut message = call(1, "output", json!({"command_or_label": "sleep 600"}));
    message["params"]["_meta"] = json!({"persistproc/directory": projects[1]});
    let answer = host.ask(&message);
    assert!(text_of(&answer).0.contains(&projects[1].display().to_string()), "{answer}");
}
