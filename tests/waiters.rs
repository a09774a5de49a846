//! A call that waits: no other call is affected, the server does not wait for a client that has disconnected, and no call
//! waits forever.

use crate::support::*;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Sends the call and leaves it waiting; both eras carry it.
fn send(sandbox: &Sandbox, is_modern: bool, name: &str, arguments: Value) -> TcpStream {
    let mut params = json!({"name": name, "arguments": arguments});
    let mut headers = String::new();
    if is_modern {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
        headers = format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {name}\r\n");
    }
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&post("/mcp", sandbox.port, &headers, &call.to_string())).unwrap();
    stream
}

/// Fails if there is an answer already.
#[track_caller]
fn assert_waits(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]).map_err(|error| error.kind());
    stream.set_nonblocking(false).unwrap();
    assert_eq!(peeked, Err(ErrorKind::WouldBlock));
}

/// Threads of the server that serve a connection.
fn connections(server: &Guard) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.trim() == "http").count()
}

/// A process with the label `web` that prints its input.
fn start_echo(sandbox: &Sandbox) {
    let start =
        json!({"action": "start", "command_or_label": "cat", "working_directory": sandbox.work(), "label": "web"});
    sandbox.tool_ok("ctrl", start);
}

#[test]
fn a_waiting_call_delays_no_other_and_is_answered_when_its_line_arrives() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_echo(&sandbox);
    let wait = json!({"command_or_label": "web", "wait_for": "hello", "timeout": 45});
    let waiting: Vec<TcpStream> = (0..20).map(|i| send(&sandbox, i % 2 == 0, "output", wait.clone())).collect();
    for _ in 0..20 {
        sandbox.tool_ok("list", json!({}));
        sandbox.tool_ok("output", json!({"command_or_label": "web"}));
    }
    waiting.iter().for_each(assert_waits);
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "web", "text": "hello"}));
    for mut stream in waiting {
        let answer = Http::read(&mut stream).expect("an answer").json();
        assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("hello"), "{answer}");
    }
}

#[test]
fn a_waiting_call_ends_when_its_client_disconnects_and_does_not_touch_the_process() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    start_echo(&sandbox);
    wait_until("a quiet server", || connections(&server) == 0);
    let wait = json!({"command_or_label": "web", "wait_for": "never", "timeout": 45});
    let restart = json!({"action": "restart", "command_or_label": "web", "wait_for": "never", "timeout": 45});
    for is_modern in [false, true] {
        for (name, arguments) in [("output", &wait), ("ctrl", &restart)] {
            let waiting: Vec<TcpStream> = (0..3).map(|_| send(&sandbox, is_modern, "output", wait.clone())).collect();
            let last = send(&sandbox, is_modern, name, arguments.clone());
            wait_until("all of them", || connections(&server) == 4);
            drop((waiting, last));
            let begun = Instant::now();
            wait_until("their exit", || connections(&server) == 0);
            assert!(begun.elapsed() < Duration::from_secs(20), "they did not wait until their time was over");
        }
    }
    let listed = sandbox.listed();
    let states: Vec<&Value> = listed.as_array().unwrap().iter().map(|process| &process["status"]).collect();
    assert!(states.contains(&&json!("running")), "{listed}");
}

#[test]
fn no_call_waits_longer_than_clients_do() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_echo(&sandbox);
    // Clients give up after 60 s: more than 45 is refused, and the limit is named.
    for (name, action) in [("output", Value::Null), ("ctrl", json!("restart"))] {
        for seconds in [json!(46), json!(3600), json!(-1), json!("50")] {
            let arguments = json!({"action": action, "command_or_label": "web", "wait_for": "x", "timeout": seconds});
            let mut arguments = arguments.as_object().unwrap().clone();
            arguments.retain(|_, value| !value.is_null());
            let (text, is_error) = sandbox.tool(name, Value::Object(arguments));
            assert!(is_error && text.contains("45"), "{seconds}: {text}");
        }
    }
    // An allowed wait takes that long, and the answer has the cursor to continue with.
    let begun = Instant::now();
    let waited = sandbox.tool_ok("output", json!({"command_or_label": "web", "wait_for": "never", "timeout": 1}));
    assert!((1..30).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(waited.contains("cursor="), "{waited}");
    sandbox.tool_ok("output", json!({"command_or_label": "web", "wait_for": "never", "timeout": 0}));
    let mut stream =
        send(&sandbox, true, "output", json!({"command_or_label": "web", "wait_for": "never", "timeout": 45}));
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let early = stream.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(early, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "45 is allowed: {early:?}");
}

/// Passes requests from a socket on to the server of `sandbox`, one at a time, but cuts the longest waits short: they are
/// over at once. Counts those in `cut`.
fn cut_longest_waits_short(sandbox: &Sandbox, socket: &tiny_http::Server, cut: &AtomicU64) {
    for mut request in socket.incoming_requests() {
        let mut body = String::new();
        request.as_reader().read_to_string(&mut body).unwrap();
        let shorter = body.replace("\"timeout\":45", "\"timeout\":0");
        let message = if body.is_empty() {
            get(request.url(), sandbox.port)
        } else {
            post(request.url(), sandbox.port, "", &shorter)
        };
        let answer = sandbox.try_private(&message).unwrap();
        let header = |(name, value): (&String, &String)| tiny_http::Header::from_bytes(name.as_str(), value.as_str());
        let headers = answer.headers.iter().map(|pair| header(pair).unwrap()).collect();
        let length = answer.body.len();
        let body_of_answer = std::io::Cursor::new(answer.body);
        let _ = request.respond(tiny_http::Response::new(
            answer.status.into(),
            headers,
            body_of_answer,
            Some(length),
            None,
        ));
        cut.fetch_add(u64::from(shorter != body), Ordering::Relaxed);
    }
}

/// Ends [`cut_longest_waits_short`] also if the test fails.
struct Unblock<'a>(&'a tiny_http::Server);

impl Drop for Unblock<'_> {
    fn drop(&mut self) {
        self.0.unblock();
    }
}

#[test]
fn a_command_waits_longer_than_any_single_call_may() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "echo up; while [ ! -e go ]; do sleep 0.02; done; echo ready; read never";
    sandbox.run(&["start", "--label", "slow", "sh", "-c", script]).ok();
    // Commands of this one reach the server of the other, by way of a proxy.
    let proxied = Sandbox::new();
    std::fs::create_dir(proxied.data()).unwrap();
    let data = proxied.short_data();
    let proxy = tiny_http::Server::http_unix(&data.join("server.sock")).unwrap();
    let cut = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| cut_longest_waits_short(&sandbox, &proxy, &cut));
        let _unblock = Unblock(&proxy);
        let wait = proxied.spawn(&[
            "output",
            "--pid",
            &sandbox.status(0)["pid"].to_string(),
            "--wait-for",
            "^ready",
            "--timeout",
            "300",
        ]);
        wait_until("five waits of 45 s that timed out", || cut.load(Ordering::Relaxed) >= 5);
        std::fs::write(sandbox.work().join("go"), "").unwrap();
        let ended = finish(wait, DEADLINE);
        assert!(ended.ok().out().ends_with("Z ready\n"));
    });
}

/// A batch of calls of `output`, with the ids 0, 1, 2, …
fn batch(calls: impl IntoIterator<Item = Value>) -> String {
    let calls = calls.into_iter().enumerate().map(|(id, arguments)| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "output", "arguments": arguments}})
    });
    Value::Array(calls.collect()).to_string()
}

#[test]
fn the_calls_of_a_batch_wait_in_parallel_and_are_answered_in_order() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_echo(&sandbox);
    let wait = json!({"command_or_label": "web", "wait_for": "never", "timeout": 2});
    let wrong = json!({"command_or_label": "nobody"});
    let begun = Instant::now();
    let calls = [wait.clone(), wrong, wait.clone(), wait.clone(), wait.clone(), wait.clone(), wait.clone(), wait];
    let answers = sandbox.http(&post("/mcp", sandbox.port, "", &batch(calls))).json();
    assert!(begun.elapsed() < Duration::from_secs(10), "seven waits of 2 s: {:?}", begun.elapsed());
    let answers = answers.as_array().unwrap();
    for (i, answer) in answers.iter().enumerate() {
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(answer["id"], i);
        assert!(text.contains(if i == 1 { "no process 'nobody'" } else { "time is up" }), "{text}");
    }
    assert_eq!(answers.len(), 8);
}

#[test]
fn each_waiting_call_of_a_batch_uses_a_slot_and_returns_it() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_echo(&sandbox);
    let wait = |seconds: u32| json!({"command_or_label": "web", "wait_for": "never", "timeout": seconds});
    let many = batch((0..32).map(|_| wait(45)));
    let mut batches: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
        stream.write_all(&post("/mcp", sandbox.port, "", &many)).unwrap();
        batches.push(stream);
    }
    let is_refused = || {
        let (text, is_error) = sandbox.tool("output", wait(0));
        assert!(!is_error || text.contains("too many requests are waiting"), "{text}");
        is_error
    };
    // This question uses a slot, too, for a moment in which a call of the batches may have been refused because of it.
    wait_until("all slots to be used", || {
        let is_refused = is_refused();
        if !is_refused {
            batches.push(send(&sandbox, false, "output", wait(45)));
        }
        is_refused
    });
    sandbox.tool_ok("output", json!({"command_or_label": "web"}));
    drop(batches);
    wait_until("a free slot", || !is_refused());
}
