//! The cost of a search is bounded: expressions and lines have limits, and time and client are checked every few lines.

use crate::support::*;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// Slow on lines of `a`: it takes up to 60 of them at every place.
const SLOW: &str = "(?:a?){60}b";

/// A process that has printed 100 long lines on which [`SLOW`] takes minutes.
fn print_long_lines(sandbox: &Sandbox) {
    let script = "import sys\nfor i in range(100): print('a' * 16000)\n";
    sandbox.script("long.py", script);
    sandbox.run(&["--label", "long", "python3", "long.py"]).ok();
}

/// Sends a call and does not read its answer.
fn send(sandbox: &Sandbox, arguments: &Value) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sandbox.port)).unwrap();
    stream.write_all(&post_tool(sandbox.port, "output", arguments.clone())).unwrap();
    stream
}

#[test]
fn the_length_and_size_of_an_expression_are_bounded() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["--label", "p", "echo", "hello"]).ok();
    for parameter in ["grep", "wait_for"] {
        for (expression, why) in
            [("x|".repeat(1000), "2000 bytes; at most 1024"), ("(?:a{1000}){20}".into(), "repetitions")]
        {
            let (text, is_error) = sandbox.tool("output", json!({"command_or_label": "p", parameter: expression}));
            assert!(is_error && text.contains(why) && text.len() < 600, "{parameter}: {text}");
        }
    }
    let long = format!("{}hello", "x|".repeat(500));
    assert!(sandbox.tool_ok("output", json!({"command_or_label": "p", "grep": long})).contains("\nhello\n"));
    let ended = sandbox.run(&["output", "p", "--grep", &"x".repeat(2000)]);
    assert!(ended.code != 0 && ended.stderr.contains("at most 1024"), "{ended:?}");
}

#[test]
fn a_search_ends_when_its_client_goes() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    print_long_lines(&sandbox);
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim() == "http").count()
    };
    wait_until("a quiet server", || threads() == 0);
    let searches = [
        json!({"command_or_label": "long", "grep": SLOW}),
        json!({"after": "r1.combined.0", "wait_for": SLOW, "timeout": 45}),
        json!({"after": "r1.combined.0", "wait_for": SLOW, "timeout": 45, "stream": "combined"}),
    ];
    let waiting: Vec<TcpStream> = searches.iter().map(|arguments| send(&sandbox, arguments)).collect();
    wait_until("all of them", || threads() == searches.len());
    drop(waiting);
    let begun = Instant::now();
    wait_until("their exit", || threads() == 0);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_wait_with_a_slow_expression_keeps_to_its_time() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    print_long_lines(&sandbox);
    let begun = Instant::now();
    let wait = json!({"after": "r1.combined.0", "wait_for": SLOW, "timeout": 1, "lines": 1});
    let text = sandbox.tool_ok("output", wait);
    assert!(begun.elapsed() < Duration::from_secs(20) && text.contains("time is up"), "{:?}: {text}", begun.elapsed());
}

#[test]
fn of_a_long_line_only_the_beginning_is_searched() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "print('x' * 16000 + 'near' + 'x' * 1000 + 'far', flush=True)";
    sandbox.run(&["--label", "p", "python3", "-c", script]).ok();
    let found = |grep: &str| sandbox.tool_ok("output", json!({"command_or_label": "p", "grep": grep})).lines().count();
    assert_eq!((found("near"), found("far")), (2, 1));
}
