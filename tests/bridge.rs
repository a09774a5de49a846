//! `persistproc mcp`: a host that speaks on pipes, and every way in which the server can fail it.

use crate::support::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const MODERN: &str = "2026-07-28";
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The longest message, in bytes.
const LINE_MAX: usize = 4 << 20;

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
    wait_until("the end of the server", || !is_alive(pid));
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
fn answers_come_when_they_are_ready_and_not_in_turn() {
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
    wait_until("room for a request", || host.ask(&ping(json!(100))).get("result").is_some());
    let (code, took, rest) = host.end();
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(5) && rest.is_empty(), "{took:?} {rest:?}");
}

#[test]
fn a_killed_server_is_replaced_and_reads_are_asked_again() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    let start = json!({"action": "start", "command_or_label": "sh -c 'echo one; read x; echo two; read never'", "working_directory": sandbox.work(), "label": "web", "wait_for": "one"});
    let (started, is_error) = host.call("ctrl", start);
    assert!(!is_error, "{started}");
    let cursor = started.split("cursor=").nth(1).unwrap().split_whitespace().next().unwrap().to_string();
    for _ in 0..3 {
        kill_server(&sandbox);
        let (listed, is_error) = host.call("list", json!({}));
        assert!(listed.contains("web: running") && !is_error, "{listed}");
    }
    // A wait behind a cursor is carried on by the next server, and misses nothing.
    let wait = json!({"command_or_label": "web", "after": cursor, "wait_for": "two", "timeout": 45});
    host.send(&call(1, "output", wait));
    wait_for_request(&sandbox);
    kill_server(&sandbox);
    sandbox.wait_for_server();
    host.send(&call(2, "ctrl", json!({"action": "input", "command_or_label": "web", "text": "go"})));
    let answers = [host.next(), host.next()];
    let waited = answers.iter().find(|answer| answer["id"] == 1).expect("an answer to the wait");
    assert!(text_of(waited).0.contains("two\n") && !text_of(waited).1, "{waited}");
    // One for whatever comes next would miss what came in between; it says so instead.
    host.send(&call(3, "output", json!({"command_or_label": "web", "wait_for": "three", "timeout": 45})));
    wait_for_request(&sandbox);
    kill_server(&sandbox);
    let lost = host.next();
    assert_eq!(lost["id"], 3);
    assert!(text_of(&lost).1 && text_of(&lost).0.contains("since_time="), "{lost}");
    assert!(!host.call("list", json!({})).1);
}

#[test]
fn every_request_is_answered_once_however_often_the_server_is_killed() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    const ROUNDS: i32 = 12;
    const EACH: i32 = 20;
    for round in 0..ROUNDS {
        host.is_silent();
        let server = pid_of_server(&sandbox);
        for id in round * EACH..(round + 1) * EACH {
            match id % 3 {
                0 => host.send(&call(id, "list", json!({}))),
                1 => host.send(&modern(json!(id), "tools/list", json!({}))),
                _ => host.send(&call(id, "ctrl", json!({"action": "stop", "command_or_label": "nothing"}))),
            }
            if id % EACH == round {
                signal(server, libc::SIGKILL);
            }
        }
        let mut ids: Vec<i64> = (0..EACH).map(|_| host.next()["id"].as_i64().expect("an id")).collect();
        ids.sort();
        assert!(ids.into_iter().eq((round * EACH..(round + 1) * EACH).map(i64::from)));
    }
    host.is_silent();
}

/// Waits until somebody is connected to the server (proc_tid_net(5): remote port, state 01).
#[track_caller]
fn wait_for_request(sandbox: &Sandbox) {
    wait_until("a request at the server", || sandbox.connections() > 0);
}

#[test]
fn a_start_whose_server_is_killed_is_sent_again_and_happens_once() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    let mark = sandbox.work().join("starts");
    // Counts its starts, and is not ready before the server is gone.
    let wait = "while [ ! -e go ]; do sleep 0.02; done";
    let script = sandbox.script("web.sh", &format!("#!/bin/sh\necho x >> starts\n{wait}\necho ready\nread never\n"));
    let start = json!({"action": "start", "command_or_label": script, "working_directory": sandbox.work(), "label": "web", "wait_for": "ready", "timeout": 45});
    let go = sandbox.work().join("go");
    for era in ["old", "new"] {
        let mut message = call(1, "ctrl", start.clone());
        if era == "new" {
            message = modern(json!(1), "tools/call", message["params"].clone());
        }
        message["params"]["arguments"]["label"] = json!(era);
        for file in [&mark, &go] {
            let _ = std::fs::remove_file(file);
        }
        host.send(&message);
        wait_until("its start", || mark.exists());
        kill_server(&sandbox);
        std::fs::write(&go, "").unwrap();
        let answer = host.next();
        let (text, is_error) = text_of(&answer);
        assert!(answer["id"] == 1 && !is_error && text.starts_with(&format!("start: '{era}' r")), "{answer}");
        assert_eq!(answer["result"]["resultType"] == "complete", era == "new");
        let (listed, _) = host.call("list", json!({}));
        assert!(listed.contains(&format!("{era}: running")), "{listed}");
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "x\n", "started once");
    }
}

#[test]
fn a_start_that_waits_for_its_turn_goes_to_the_next_server_if_ours_leaves_meanwhile() {
    let sandbox = Sandbox::new();
    let older = of_version(&sandbox, "0.3.9");
    let old = Guard(spawn(sandbox.program(&older).args(["serve", "-q"])));
    sandbox.wait_for_server();
    // Can be restarted as far as is seen before, and cannot when it has ended: then nothing is in the way of the start.
    let program = sandbox.script(
        "web",
        "#!/bin/sh\ntrap 'echo ending; while [ ! -e go ]; do sleep 0.02; done; rm web; exit 0' TERM\necho up\nwhile :; do sleep 0.02; done\n",
    );
    sandbox.run(&["-q", "start", "--label", "web", "./web"]).ok();
    let says = |text: &str| sandbox.run(&["-q", "output", "web"]).out().contains(text);
    wait_until("it is up", || says("up"));
    let restart = sandbox.spawn(&["-q", "restart", "web"]);
    wait_until("its stop", || says("ending"));
    let mut host = Host::new(&sandbox);
    let start = json!({"action": "start", "command_or_label": "sleep 1000", "working_directory": sandbox.work(), "label": "web"});
    host.send(&call(1, "ctrl", start));
    wait_until("two requests that wait", || sandbox.connections() == 2);
    let new = Guard(sandbox.spawn(&["serve", "-q"]));
    crate::upgrade::wait_for_closing(&sandbox);
    std::fs::write(sandbox.work().join("go"), "").unwrap();
    assert_eq!((finish(restart, DEADLINE).code, program.exists()), (1, false));
    assert_eq!(old.end(DEADLINE).code, 0);
    let (text, is_error) = text_of(&host.next());
    assert!(!is_error && text.starts_with("start: 'web' r"), "{text}");
    wait_until("the new server", || sandbox.pid_of_server() == Some(new.pid()));
    let listed = sandbox.run(&["list"]).ok().out();
    assert!(listed.lines().any(|line| line.contains("web") && line.contains("running")), "{listed}");
}

#[test]
fn without_a_server_and_without_leave_to_start_one_every_request_says_so() {
    let sandbox = Sandbox::new();
    let mut host = Host::with(&mut sandbox.command(&["mcp", "--no-autostart"]));
    for message in [
        request(json!(0), "initialize", json!({"protocolVersion": "2025-11-25"})),
        modern(json!("probe"), "server/discover", json!({})),
        call(1, "list", json!({})),
        call(2, "ctrl", json!({"action": "stop", "command_or_label": "web"})),
    ] {
        let answer = host.ask(&message);
        assert_eq!(answer["error"]["code"], -32603);
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.contains(&sandbox.data().display().to_string()) && text.contains("persistproc serve"), "{text}");
    }
    host.send(&json!([ping(json!(1)), ping(json!(2))]));
    let answers = host.next();
    assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!(1), &json!(2)));
    // As soon as there is one, it is used; and found again when somebody restarts it.
    for _ in 0..2 {
        let server = sandbox.serve();
        host.is_silent();
        drop(server);
    }
    assert!(host.ask(&ping(json!(5))).get("error").is_some());
}

#[test]
fn what_is_not_our_server_is_not_believed() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.data()).unwrap();
    let listener = UnixListener::bind(sandbox.short_data().join("server.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let _ = BufReader::new(&stream).read_line(&mut String::new());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{\"id\":1}\n");
        }
    });
    let mut host = Host::new(&sandbox);
    let answer = host.ask(&ping(json!(1)));
    assert!(answer["error"]["message"].as_str().unwrap().contains("not persistproc"), "{answer}");
    let answer = host.ask(&call(2, "ctrl", json!({"action": "stop", "command_or_label": "web"})));
    assert!(answer["error"]["message"].as_str().unwrap().contains("not persistproc"), "{answer}");
}

#[test]
fn a_server_of_another_data_directory_that_has_the_port_is_named() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let server = sandbox.serve();
    let mut command = other.command(&["mcp", "--port", &sandbox.port.to_string()]);
    let answer = Host::with(&mut command).ask(&ping(json!(1)));
    let text = answer["error"]["message"].as_str().unwrap();
    for part in [&sandbox.data().display().to_string(), &format!("PID {}", server.pid()), "--port", "--no-tcp"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    // It needs no port of its own.
    let mut command = other.command(&["mcp", "--no-tcp", "--port", &sandbox.port.to_string()]);
    assert_eq!(Host::with(&mut command).ask(&ping(json!(1)))["result"], json!({}));
}

#[test]
fn lines_that_are_no_messages_are_refused_and_the_next_one_is_read() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut host = Host::new(&sandbox);
    for (line, id, code) in [
        ("nonsense", Value::Null, -32700),
        ("{", Value::Null, -32700),
        ("\u{feff}{}", Value::Null, -32700),
        ("{} {}", Value::Null, -32700),
        ("7", Value::Null, -32600),
        ("{}", Value::Null, -32600),
        (r#"{"jsonrpc":"1.0","id":5,"method":"ping"}"#, json!(5), -32600),
        (r#"{"jsonrpc":"2.0","id":"a","method":7}"#, json!("a"), -32600),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, Value::Null, -32600),
        (r#"{"jsonrpc":"2.0","id":6,"method":"ping","params":[]}"#, json!(6), -32600),
        ("[]", Value::Null, -32600),
    ] {
        host.write(&format!("{line}\n"));
        let answer = host.next();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{line}: {answer}");
    }
    host.stdin.as_mut().unwrap().write_all(b"\"\xff\"\n").unwrap();
    assert_eq!(host.next()["error"]["code"], -32700, "not UTF-8");
    host.write("\n  \n\r\n\t\n");
    host.is_silent();
    host.write(&format!("{}\r\n", ping(json!(1))));
    assert_eq!(host.next()["id"], 1);
}

#[test]
fn notifications_and_answers_are_never_answered() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut host = Host::new(&sandbox);
    for message in [
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "method": "no/such/thing", "params": {}}),
        json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "list"}}),
        json!({"jsonrpc": "2.0", "id": 4, "result": {}}),
        json!({"jsonrpc": "2.0", "id": 4, "error": {"code": 1, "message": "x"}}),
        cancelled(4),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled"}),
        json!([{"jsonrpc": "2.0", "method": "notifications/initialized"}]),
    ] {
        host.send(&message);
        host.is_silent();
    }
}

#[test]
fn batches_are_answered_as_batches() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut host = Host::new(&sandbox);
    let batch = json!([ping(json!(1)), cancelled(9), call(2, "list", json!({})), 5]);
    host.send(&batch);
    let answers = host.next();
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!(2), &Value::Null]);
    // Those who have agreed on a version without batches get an answer for each request in one, too.
    host.ask(&request(json!(0), "initialize", json!({"protocolVersion": "2025-06-18"})));
    host.send(&batch);
    let answers = host.next();
    let refused: Vec<(&Value, &Value)> =
        answers.as_array().unwrap().iter().map(|answer| (&answer["id"], &answer["error"]["code"])).collect();
    assert_eq!(refused, [(&json!(1), &json!(-32603)), (&json!(2), &json!(-32603))]);
}

#[test]
fn a_line_that_is_too_long_is_refused_with_its_id_and_nothing_is_lost_behind_it() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut host = Host::new(&sandbox);
    let long = "x".repeat(LINE_MAX);
    // As the TypeScript clients write it: the id behind everything else.
    host.write(&format!(
        "{{\"method\":\"tools/call\",\"params\":{{\"id\":1,\"text\":\"{long}\"}},\"jsonrpc\":\"2.0\",\"id\":7}}\n"
    ));
    let answer = host.next();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32600)));
    host.is_silent();
    // What still fits, fits.
    let frame =
        |text: &str| format!("{{\"id\":8,\"jsonrpc\":\"2.0\",\"method\":\"ping\",\"params\":{{\"x\":\"{text}\"}}}}");
    let fitting = frame(&long[frame("").len()..]);
    assert_eq!(fitting.len(), LINE_MAX);
    host.write(&format!("{fitting}\n"));
    assert_eq!(host.next(), json!({"jsonrpc": "2.0", "id": 8, "result": {}}));
}

#[test]
fn a_cancelled_request_is_given_up_and_never_answered() {
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
fn the_end_of_stdin_ends_it_within_two_seconds_whatever_waits() {
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
fn sigterm_ends_it_and_a_host_that_is_gone_does_too() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    host.is_silent();
    signal(host.bridge.pid(), libc::SIGTERM);
    assert_eq!(host.bridge.end(DEADLINE).code, 1000 + libc::SIGTERM);
    // stdout closed, stdin still open: nobody reads answers.
    let mut bridge = spawn(sandbox.command(&["mcp"]).stdin(Stdio::piped()));
    drop(bridge.stdout.take());
    let mut stdin = bridge.stdin.take().unwrap();
    wait_until("its end", || {
        let _ = stdin.write_all(format!("{}\n", ping(json!(1))).as_bytes());
        bridge.try_wait().unwrap().is_some()
    });
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

#[test]
fn two_hosts_that_begin_at_once_share_one_server() {
    let sandbox = Sandbox::new();
    let mut hosts: Vec<Host> = (0..4).map(|_| Host::new(&sandbox)).collect();
    for host in &mut hosts {
        for id in 0..4 {
            host.send(&ping(json!(id)));
        }
    }
    for host in &hosts {
        let mut ids: Vec<i64> = (0..4)
            .map(|_| host.next())
            .map(|answer| {
                assert_eq!(answer["result"], json!({}), "{answer}");
                answer["id"].as_i64().unwrap()
            })
            .collect();
        ids.sort();
        assert_eq!(ids, [0, 1, 2, 3]);
        assert_eq!(host.lines.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    }
}
