//! What an agent can rely on in an answer, and what would otherwise trip it up: other directories, labels that are in use,
//! parameters that have no effect, lines that were there before.

use crate::cursor::next_call;
use crate::support::*;
use serde_json::{Value, json};
use std::path::PathBuf;

fn start(sandbox: &Sandbox, directory: &PathBuf, label: &str, command: &str) -> (String, bool) {
    let arguments = json!({"action": "start", "command_or_label": command, "label": label,
        "working_directory": directory, "wait_for": "up"});
    sandbox.tool("ctrl", arguments)
}

fn directories(sandbox: &Sandbox) -> [PathBuf; 2] {
    ["a", "b"].map(|name| {
        let directory = sandbox.work().join(name);
        std::fs::create_dir(&directory).unwrap();
        directory
    })
}

fn refused(sandbox: &Sandbox, tool: &str, arguments: Value) -> String {
    let (text, is_error) = sandbox.tool(tool, arguments);
    assert!(is_error, "{text}");
    text
}

#[test]
fn a_directory_without_processes_does_not_hide_those_of_others() {
    let sandbox = Sandbox::with_short_path();
    let _server = sandbox.serve();
    let [a, b] = directories(&sandbox);
    let empty = sandbox.tool_ok("list", json!({"working_directory": b}));
    assert_eq!(empty, "0 running, 0 ended; nothing has been started yet\n");
    start(&sandbox, &a, "web", &echo_command());
    let empty = sandbox.tool_ok("list", json!({"working_directory": b}));
    let expected = "; list without working_directory shows 1 in other directories\n";
    assert_eq!(empty, format!("0 running, 0 ended in {}{expected}", b.display()));
    let text = refused(&sandbox, "output", json!({"command_or_label": "web", "working_directory": b}));
    assert!(
        text.contains("nothing has been started there yet; in other directories there are 'web' (running"),
        "{text}"
    );
    // What is left empty is not asked for, and nobody knows where a relative path begins.
    let everything = json!({"working_directory": "", "command_or_label": "", "pid": null});
    assert!(sandbox.tool_ok("list", everything).starts_with("1 running, 0 ended\nweb: running "));
    let unset = json!({"command_or_label": "web", "working_directory": "", "after": "", "wait_for": "", "grep": ""});
    assert!(sandbox.tool_ok("output", unset).contains("; 1 line, 0 before; cursor="));
    for relative in [".", "a", "~/shop"] {
        let text = refused(&sandbox, "list", json!({"working_directory": relative}));
        assert!(text.contains("must be an absolute path, not"), "{text}");
    }
}

#[test]
fn a_label_that_is_taken_says_by_whom_and_a_directory_that_is_named_is_heeded() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let [a, b] = directories(&sandbox);
    start(&sandbox, &a, "web", "echo up");
    start(&sandbox, &b, "web", &echo_command());
    // Nobody is to stop a process of another project because it has the same name.
    let (text, is_error) = start(&sandbox, &a, "web", "echo up");
    assert!(is_error && text.contains(&format!(") in {}: sh -c ", b.display())), "{text}");
    assert!(text.contains("; choose another label") && !text.contains("stop it first"), "{text}");
    let (text, is_error) = start(&sandbox, &b, "web", "echo up");
    assert!(is_error && text.contains("): sh -c ") && text.contains("; restart it, or stop it first"), "{text}");
    let restart = |target: Value| {
        let mut arguments = json!({"action": "restart"});
        arguments.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        arguments
    };
    for target in [json!({"command_or_label": "web", "working_directory": a}), json!({"command_or_label": "r1"})] {
        let text = refused(&sandbox, "ctrl", restart(target));
        assert!(text.contains(&format!("r1 of 'web' was in {}, and that label is now one of ", a.display())), "{text}");
    }
    assert!(sandbox.tool_ok("list", json!({})).contains("web: running "), "it was left alone");
    let text = sandbox.tool_ok("ctrl", restart(json!({"command_or_label": "web", "working_directory": b})));
    assert!(text.starts_with("restart: 'web' r3 running "), "{text}");
}

#[test]
fn a_second_process_of_the_same_command_is_told_of_the_first() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let [a, b] = directories(&sandbox);
    let (text, _) = start(&sandbox, &a, "users", &echo_command());
    assert!(!text.contains("the same command"), "{text}");
    let pid = sandbox.status(0)["pid"].as_i64().unwrap();
    let (text, is_error) = start(&sandbox, &a, "mine", &echo_command());
    let note = format!(
        "; the same command runs there as 'users' r1, PID {pid}, too: if one is enough, stop this one; cursor="
    );
    assert!(!is_error && text.lines().next().unwrap().contains(&note), "{text}");
    let (text, _) = start(&sandbox, &b, "elsewhere", &echo_command());
    assert!(!text.contains("the same command"), "{text}");
    let with_port = json!({"action": "start", "command_or_label": echo_command(), "label": "other port", "working_directory": a,
        "environment": {"PORT": "1"}});
    assert!(!sandbox.tool_ok("ctrl", with_port).contains("the same command"));
}

#[test]
fn a_parameter_that_an_action_does_not_have_is_refused_before_anything_happens() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start(&sandbox, &sandbox.work(), "web", &echo_command());
    for (action, more, expected) in [
        ("restart", json!({"environment": {"PORT": "1"}}), "restart does not take 'environment'; a process keeps what"),
        ("restart", json!({"label": "new"}), "restart does not take 'label'; name the process by command_or_label"),
        ("restart", json!({"text": "x"}), "restart does not take 'text'"),
        ("stop", json!({"wait_for": "x"}), "stop does not take 'wait_for'"),
        ("input", json!({"text": "x", "wait_for": "x"}), "call output with wait_for and after=<cursor>"),
        ("signal", json!({"text": "HUP", "environment": {"A": "b"}}), "signal does not take 'environment'"),
    ] {
        let mut arguments = json!({"action": action, "command_or_label": "web"});
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let text = refused(&sandbox, "ctrl", arguments);
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(sandbox.runs().len(), 1);
    // What some clients send for everything that they do not mean.
    let filled = json!({"action": "restart", "command_or_label": "web", "label": "web", "environment": {}, "text": "",
        "force": false, "pid": null, "working_directory": "", "wait_for": "up", "timeout": 30});
    assert!(sandbox.tool_ok("ctrl", filled).starts_with("restart: 'web' r2 ready: "));
}

#[test]
fn the_answer_to_an_input_is_found_after_its_cursor_however_fast_it_comes() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start(&sandbox, &sandbox.work(), "web", &echo_command());
    for i in 0..5 {
        let said = format!("answer {i}");
        let input = json!({"action": "input", "command_or_label": "web", "text": said});
        let text = sandbox.tool_ok("ctrl", input);
        let cursor = text.trim_end().split("; cursor=").nth(1).unwrap_or_else(|| panic!("{text}"));
        let text = sandbox.tool_ok("output", json!({"after": cursor, "wait_for": "answer", "timeout": 45}));
        assert!(text.contains("wait_for matched; 1 line, ") && text.ends_with(&format!("\n{said}\n")), "{text}");
    }
    let signal = json!({"action": "signal", "command_or_label": "web", "text": "CONT"});
    assert!(sandbox.tool_ok("ctrl", signal).contains("; cursor=r1.combined."));
}

#[test]
fn a_wait_that_times_out_reports_an_earlier_matching_line() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let command = "sh -c 'echo server is ready; echo GET /; echo up; read x'";
    start(&sandbox, &sandbox.work(), "web", command);
    let wait = |pattern: &str| json!({"command_or_label": "web", "wait_for": pattern, "timeout": 0});
    let text = sandbox.tool_ok("output", wait("is ready"));
    assert!(text.contains("time is up, nothing yet; line 1 matched before the wait; 0 new lines, 3 before"), "{text}");
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), ["server is ready"]);
    assert!(!sandbox.tool_ok("output", wait("never")).contains("before the wait"));
    // And what never falls silent has said something.
    let loud = "sh -c 'echo up; while sleep 0.05; do echo $((i = i + 1)); done'";
    start(&sandbox, &sandbox.work(), "loud", loud);
    let loud = json!({"command_or_label": "loud", "after": "r2.combined.0", "wait_for": "quiet", "timeout": 1});
    assert!(sandbox.tool_ok("output", loud).contains("; time is up, not quiet yet; "));
    // Who has a cursor has seen what lies before it.
    let again = next_call(&text).unwrap();
    assert!(!sandbox.tool_ok("output", again).contains("before the wait"));
}

#[test]
fn when_few_lines_are_requested_long_ones_are_shown_as_far_as_they_fit() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "for i in 1 2 3; do printf '{\"n\": %d, \"stack\": \"' $i; head -c 6000 /dev/zero | tr '\\0' x; echo '\"}'; done";
    sandbox.run(&["--label", "json", "sh", "-c", script]).ok();
    let longest = |more: Value| {
        let mut arguments = json!({"command_or_label": "json"});
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let text = sandbox.tool_ok("output", arguments);
        assert!(text.len() <= more["max_bytes"].as_u64().unwrap_or(8000) as usize, "{}", text.len());
        text.lines().filter(|line| line.starts_with('{')).map(str::len).max().unwrap()
    };
    let whole = "{\"n\": 1, \"stack\": \"\"}".len() + 6000;
    assert_eq!(longest(json!({"lines": 1})), whole);
    assert_eq!(longest(json!({"lines": 2, "grep": "stack", "max_bytes": 18000})), whole);
    assert!((2000..3000).contains(&longest(json!({"lines": 3}))));
    assert!(longest(json!({})) < 550, "of many each has little");
}

#[test]
fn a_list_has_one_line_a_process_and_the_address_that_still_answers() {
    let sandbox = Sandbox::with_short_path();
    let _server = sandbox.serve();
    let script = "import socket\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\np = s.getsockname()[1]\n\
        print('docs http://localhost:1/ https://vite.dev')\nprint('\\033[36mhttp://localhost:\\033[1m%d\\033[22m/app/' % p)\n\
        print('use --host to expose', flush=True)\ninput()\ns.close()\nprint('closed', flush=True)\ninput()\n";
    let command = format!("python3 -c \"{script}\"");
    let arguments = json!({"action": "start", "command_or_label": command, "label": "web",
        "working_directory": sandbox.work(), "wait_for": "expose"});
    sandbox.tool_ok("ctrl", arguments);
    let line = || {
        let text = sandbox.tool_ok("list", json!({}));
        assert!(text.lines().count() == 2 && text.lines().all(|line| line.len() < 300), "{text}");
        text.lines().nth(1).unwrap().to_string()
    };
    let shown = line();
    let port = shown.split(", port ").nth(1).unwrap().split(',').next().unwrap();
    assert!(shown.contains(&format!(", port {port}, http://localhost:{port}/app/, ")), "{shown}");
    assert!(
        shown.contains(r#", "python3 -c \"import socket\ns = "#)
            && shown.ends_with(" \u{27e6}last line\u{27e7} use --host to expose"),
        "{shown}"
    );
    assert_eq!(sandbox.listed()[0]["url"], format!("http://localhost:{port}/app/"));
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "web", "text": "close"}));
    wait_until("it listens no more", || line().ends_with(" closed"));
    assert!(!line().contains("http://"));
}

#[test]
fn input_that_is_not_read_is_reported_as_dropped_with_its_size() {
    let sandbox = Sandbox::new();
    sandbox.run(&["start", "--label", "deaf", "sleep", "1000"]).ok();
    let text = "x".repeat(16_000);
    let send = || sandbox.tool("ctrl", json!({"action": "input", "command_or_label": "deaf", "text": text}));
    // Its pipe holds 64 KiB, and its shim as much.
    let mut taken = 0;
    let (refused, is_error) = wait_for("a refusal", || {
        let (answer, is_error) = send();
        taken += u64::from(!is_error);
        is_error.then_some((answer, is_error))
    });
    assert!(is_error && refused.contains("does not read its input") && refused.contains("were dropped"), "{refused}");
    // A pipe is full a little earlier, because its pages are.
    assert!((7..=8).contains(&taken), "{taken}: {refused}");
    let status = sandbox.status(0);
    let [received, dropped] = ["received", "dropped"].map(|name| status["input"][name].as_u64().unwrap());
    assert!(received == (taken + 1) * 16_001 && (1..=16_001).contains(&dropped), "{status}");
    assert!(refused.contains(&format!("{dropped} of these 16001 bytes")), "{refused}");
}
