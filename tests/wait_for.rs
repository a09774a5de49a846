//! Waiting for output instead of sleeping: for a line, for silence, across a restart; and how a start ended.

use crate::support::*;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn ctrl(sandbox: &Sandbox, action: &str, label: &str, more: Value) -> (String, bool) {
    let mut arguments = json!({"action": action, "command_or_label": label});
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    sandbox.tool("ctrl", arguments)
}

fn start(sandbox: &Sandbox, label: &str, script: &str, more: Value) -> (String, bool) {
    let mut more = more;
    more["label"] = json!(label);
    more["working_directory"] = json!(sandbox.work());
    ctrl(sandbox, "start", &format!("sh -c '{script}'"), more)
}

fn input(sandbox: &Sandbox, label: &str, text: &str) {
    assert!(!ctrl(sandbox, "input", label, json!({"text": text})).1);
}

fn output(sandbox: &Sandbox, arguments: Value) -> String {
    sandbox.tool_ok("output", arguments)
}

/// Does `act` again and again until what waits has its answer: it may begin to wait later than the first time.
fn while_waiting(sandbox: &Sandbox, arguments: Value, mut act: impl FnMut()) -> String {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || output(sandbox, arguments));
        while !waiting.is_finished() {
            act();
            std::thread::sleep(Duration::from_millis(20));
        }
        waiting.join().unwrap()
    })
}

#[test]
fn an_unfinished_line_counts_as_far_as_it_is_there() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let (text, _) = start(
        &sandbox,
        "p",
        "printf \"Port 3000 is in use, use 3001? \"; read x; printf \"y/\"; read x",
        json!({"wait_for": "3001\\?$"}),
    );
    assert!(text.contains(" ready: ") && text.contains("use 3001? \u{27e6}unfinished\u{27e7}"), "{text}");
    let after = cursor_of(&text);
    // What was there before is not new; joined with what comes it is seen as the one line that it is.
    let text = output(&sandbox, json!({"after": after, "wait_for": "in use", "timeout": 1}));
    assert!(text.contains("time is up"), "{text}");
    input(&sandbox, "p", "");
    let text = output(&sandbox, json!({"after": after, "wait_for": "3001\\? y/$"}));
    assert!(
        text.contains("wait_for matched")
            && text.contains("\nPort 3000 is in use, use 3001? y/ \u{27e6}unfinished\u{27e7}\n"),
        "{text}"
    );
}

#[test]
fn each_end_of_a_wait_is_named() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let after = cursor_of(&start(&sandbox, "p", ECHO, json!({"wait_for": "up"})).0);
    let text = output(&sandbox, json!({"after": after, "wait_for": "new", "timeout": 0}));
    assert!(text.contains("time is up, nothing yet"), "{text}");
    let again = format!(
        "; to go on waiting: output command_or_label=\"p\" after=\"{after}\" wait_for=\"new\" timeout=0; cursor="
    );
    assert!(text.contains(&again) && text.lines().count() == 1, "{text}");
    input(&sandbox, "p", "something new");
    let text = output(&sandbox, json!({"after": after, "wait_for": "new"}));
    assert!(text.contains("wait_for matched") && text.ends_with("\nsomething new\n"), "{text}");
    let text = output(&sandbox, json!({"after": after, "wait_for": "quiet"}));
    assert!(text.contains("quiet again") && text.ends_with("\nsomething new\n"), "{text}");
    let next = cursor_of(&text);
    let text = output(&sandbox, json!({"after": next, "wait_for": "quiet", "timeout": 1}));
    assert!(text.contains("time is up, nothing yet"), "nothing new is not quiet: {text}");
    input(&sandbox, "p", "end");
    let text = output(&sandbox, json!({"after": next, "wait_for": "never"}));
    assert!(
        text.contains("it ended while waiting") && text.contains("exit code 3") && text.ends_with("\nend\n"),
        "{text}"
    );
    let text = output(&sandbox, json!({"after": cursor_of(&text), "wait_for": "never"}));
    assert!(text.contains("it ended while waiting"), "what has ended is not waited for: {text}");
    let (text, is_error) = sandbox.tool("output", json!({"command_or_label": "p", "wait_for": "x", "timeout": 46}));
    assert!(is_error && text.contains("from 0 to 45"), "{text}");
}

#[test]
fn silence_is_half_a_second_after_the_last_line() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let after = cursor_of(&start(&sandbox, "p", ECHO, json!({"wait_for": "up"})).0);
    let mut left = 15;
    let mut last = Instant::now();
    let text = while_waiting(&sandbox, json!({"after": after, "wait_for": "quiet"}), || {
        if left > 0 {
            input(&sandbox, "p", "noise");
            (left, last) = (left - 1, Instant::now());
        }
    });
    assert!(last.elapsed() >= Duration::from_millis(450), "{:?}", last.elapsed());
    assert!(text.contains("quiet again") && text.contains("\nnoise \u{27e6}×15\u{27e7}\n"), "{text}");
}

#[test]
fn only_the_stream_that_is_asked_for_ends_a_wait() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start(&sandbox, "p", "while read x; do echo problem; echo problem >&2; done", json!({"timeout": 0}));
    let text =
        while_waiting(&sandbox, json!({"command_or_label": "p", "stream": "stderr", "wait_for": "problem"}), || {
            input(&sandbox, "p", "");
        });
    assert!(text.contains("wait_for matched") && text.contains("cursor=r1.stderr."), "{text}");
    let text = output(&sandbox, json!({"after": cursor_of(&text), "wait_for": "out", "timeout": 0}));
    assert!(text.contains("cursor=r1.stderr."), "a cursor says by itself of which stream it is: {text}");
}

#[test]
fn a_wait_goes_on_through_a_restart_and_says_so() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "echo try >> tries; if [ $(wc -l < tries) -lt 3 ]; then echo up; else echo really up; fi; read x";
    start(&sandbox, "p", script, json!({"wait_for": "up"}));
    let text = while_waiting(&sandbox, json!({"command_or_label": "p", "wait_for": "^really up$"}), || {
        if sandbox.runs().len() < 3 {
            sandbox.run(&["restart", "p"]).ok();
        }
    });
    assert!(
        text.contains("'p' r3, running") && text.contains("wait_for matched") && text.contains("goes on after r"),
        "{text}"
    );
    assert!(text.ends_with("\u{27e6}r3\u{27e7} really up\n") && text.contains("; r3 begins at line "), "{text}");
}

#[test]
fn several_processes_are_waited_for_at_once_also_new_ones() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["a", "b"] {
        start(&sandbox, label, ECHO, json!({"wait_for": "up"}));
    }
    for (name, label) in [("*", "a"), ("a,b", "b")] {
        let text = while_waiting(
            &sandbox,
            json!({"command_or_label": name, "working_directory": sandbox.work(), "wait_for": "^something$"}),
            || {
                input(&sandbox, label, "something");
            },
        );
        assert!(text.contains("wait_for matched") && text.contains(&format!("\n{label}: something")), "{text}");
    }
    let mut is_started = false;
    let text = while_waiting(
        &sandbox,
        json!({"command_or_label": "*", "working_directory": sandbox.work(), "wait_for": "^new process$"}),
        || {
            if !std::mem::replace(&mut is_started, true) {
                std::thread::sleep(Duration::from_millis(100));
                start(&sandbox, "c", "echo new process; read x", json!({"timeout": 0}));
            }
        },
    );
    assert!(text.ends_with("\nc: new process\n"), "{text}");
    // It goes on until the last of them has ended.
    let text = while_waiting(&sandbox, json!({"command_or_label": "a,b", "wait_for": "never"}), || {
        ctrl(&sandbox, "stop", "a", json!({}));
        ctrl(&sandbox, "stop", "b", json!({}));
    });
    assert!(text.contains("it ended while waiting"), "{text}");
}

#[test]
fn a_start_is_ready_running_or_exited_and_tells_urls_and_ports() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.script(
        "serve.py",
        "import http.server, sys\ns = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)\n\
         print('\\033[32mLocal\\033[0m: \\033[36mhttp://localhost:%d/\\033[0m' % s.server_port, flush=True)\ns.serve_forever()\n",
    );
    let serve = "exec python3 serve.py";
    let (text, is_error) = start(&sandbox, "web", serve, json!({"wait_for": "Local"}));
    assert!(!is_error && text.starts_with("start: 'web' r1 ready: wait_for matched after "), "{text}");
    let port: u16 = text.split("http://localhost:").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.contains(&format!("; http://localhost:{port}/; listens on {port}; cursor=r1.combined.")), "{text}");
    assert_eq!(text.lines().nth(1), Some(format!("Local: http://localhost:{port}/").as_str()));
    // What runs already is named with all that is needed to use it.
    let (text, is_error) = start(&sandbox, "web", serve, json!({}));
    let pid = sandbox.status(0)["pid"].as_i64().unwrap();
    assert!(is_error && text.starts_with(&format!("'web' is already running with PID {pid} (for ")), "{text}");
    assert!(text.contains(&format!("listens on {port}")) && text.contains("cursor=r1.combined."), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1);
    let (text, _) = ctrl(&sandbox, "restart", "web", json!({"wait_for": "Local"}));
    assert!(text.starts_with("restart: 'web' r2 ready: ") && text.contains("listens on "), "{text}");

    let begun = Instant::now();
    let (text, is_error) =
        start(&sandbox, "fails", "echo first; echo why >&2; exit 3", json!({"wait_for": "never", "timeout": 40}));
    assert!(begun.elapsed() < Duration::from_secs(20), "what has ended answers at once");
    assert!(!is_error && text.contains("'fails' r3 exited: it has ended by itself (exit code 3)"), "{text}");
    assert!(text.contains("; stderr: line 1, stdout: line 2; cursor=") && text.ends_with("\nwhy\nfirst\n"), "{text}");
    let (text, _) = start(&sandbox, "built", "echo built; exit 0", json!({"wait_for": "built"}));
    assert!(text.contains(" exited: wait_for matched, but it has ended by itself (exit code 0) after "), "{text}");
    let (text, _) = start(&sandbox, "killed", "kill -9 $$", json!({}));
    assert!(text.contains("exited: it has ended by itself (SIGKILL)"), "{text}");

    let begun = Instant::now();
    let (text, _) = start(&sandbox, "slow", "echo hello; read x", json!({}));
    assert!(begun.elapsed() >= Duration::from_millis(300), "it is given a moment");
    assert!(text.contains("'slow' r6 running after 0.") && text.ends_with("\nhello\n"), "{text}");
    let (text, _) = start(&sandbox, "slower", "read x", json!({"wait_for": "ready", "timeout": 1}));
    let cursor = cursor_of(&text);
    assert!(
        text.contains("running after 1.")
            && text.ends_with(&format!(
                "; not ready yet; to go on waiting: output after=\"{cursor}\" wait_for=\"ready\"; cursor={cursor}\n"
            )),
        "{text}"
    );
    let (text, _) =
        start(&sandbox, "settles", "for i in 1 2 3; do echo $i; sleep 0.1; done; read x", json!({"wait_for": "quiet"}));
    assert!(text.contains("running and quiet after ") && text.ends_with("\n1\n2\n3\n"), "{text}");
}

#[test]
fn what_goes_into_the_background_answers_at_once_and_can_be_waited_for() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let begun = Instant::now();
    let script = "(sleep 0.5; echo daemon ready; exec sleep 1000) & echo started; exit 0";
    let (text, _) = start(&sandbox, "p", script, json!({"timeout": 40}));
    assert!(begun.elapsed() < Duration::from_secs(20), "{text}");
    assert!(text.contains("exited: it has ended (exit code 0), but processes that it started keep running"), "{text}");
    assert!(text.contains("\nstarted\n"), "{text}");
    let (text, _) = ctrl(&sandbox, "restart", "p", json!({"wait_for": "daemon ready"}));
    assert!(text.contains("\ndaemon ready\n"), "a wait for a line waits for the rest of the run: {text}");
}

#[test]
fn of_a_long_start_the_first_and_the_last_lines_are_shown_and_the_rest_is_counted() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let (text, _) =
        start(&sandbox, "p", "seq 1 5000; echo http://localhost:1/ ready; read x", json!({"wait_for": "ready"}));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("; 4971 lines left out after line 15; cursor="), "{text}");
    assert_eq!((lines[1], lines[15], lines[16], lines.len()), ("1", "15", "4987", 31), "{text}");
    assert_eq!(lines.last(), Some(&"http://localhost:1/ ready"));
    assert!(lines[0].contains("; http://localhost:1/; 4971"), "{text}");
    // Of few long lines the first and the last ones, too.
    let long = "for i in 1 2 3 4 5 6 7 8 9; do printf \"%0700d\\n\" $i; done; echo ready; read x";
    let (text, _) = start(&sandbox, "long", long, json!({"wait_for": "ready"}));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("; 3 lines left out after line 3; cursor=") && lines.len() == 8, "{text}");
    assert!(lines[1].ends_with("\u{27e6}200 more bytes\u{27e7}") && lines[7] == "ready" && text.len() < 4300, "{text}");
}

#[test]
fn a_port_of_another_process_is_not_shown() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let _other = TcpListener::bind("127.0.0.1:0").unwrap();
    let (text, _) = start(&sandbox, "p", "read x", json!({}));
    assert!(!text.contains("listens"), "{text}");
    let list = sandbox.tool_ok("list", json!({}));
    assert!(!list.contains("port"), "{list}");
}
