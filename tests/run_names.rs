//! A run is named by its number only: no label can be mistaken for one, and a command that means a run never reaches another
//! process.

use crate::support::*;
use serde_json::json;
use std::fs;

/// Run 1, with a label that versions before 0.4 allowed and that reads like the number of run 2.
fn with_old_label(sandbox: &Sandbox, script: &str) -> Guard {
    sandbox.run(&["start", "--label", "old-label", "sh", "-c", script]).ok();
    sandbox.run(&["shutdown", "--keep"]).ok();
    let meta = sandbox.runs()[0].join("meta.json");
    let text = fs::read_to_string(&meta).unwrap().replace("\"old-label\"", "\"r2\"");
    fs::write(meta, text).unwrap();
    sandbox.serve()
}

#[test]
fn a_wrapper_stops_its_own_process_even_when_another_has_a_label_like_its_run() {
    let sandbox = Sandbox::new();
    let _server = with_old_label(&sandbox, "read never");
    let wrapper =
        Guard(sandbox.spawn(&["run", "--on-exit", "stop", "--label", "web", "sh", "-c", "echo up; read never"]));
    wait_until("run 2", || sandbox.runs().len() == 2 && sandbox.status(1)["state"] == "running");
    wait_until("it is up", || sandbox.run(&["output", "web"]).out().contains("up"));
    signal(wrapper.pid(), libc::SIGTERM);
    let ended = wrapper.end(DEADLINE);
    assert_eq!(sandbox.status(1)["state"], "terminated", "{ended:?}");
    assert_eq!(sandbox.status(0)["state"], "running");
}

#[test]
fn a_start_that_worked_reports_success_even_when_another_process_has_a_label_like_its_run() {
    let sandbox = Sandbox::new();
    let _server = with_old_label(&sandbox, "read never");
    let start = json!({"action": "start", "command_or_label": "sh -c 'echo up; read never'",
        "working_directory": sandbox.work(), "label": "api"});
    let text = sandbox.tool_ok("ctrl", start);
    assert!(text.contains("'api' r2") && text.contains("up"), "{text}");
}

#[test]
fn a_process_with_an_old_label_like_a_run_is_listed_read_and_stopped_by_everything_else() {
    let sandbox = Sandbox::new();
    let _server = with_old_label(&sandbox, "echo old; read never");
    let listed = sandbox.listed()[0].clone();
    assert_eq!((&listed["label"], &listed["run"]), (&json!("r2"), &json!("r1")));
    // There is no run 2: that name is nobody's, and the answer says what to say instead.
    for command in ["output", "stop", "restart"] {
        let refused = sandbox.run(&[command, "r2"]);
        assert!(refused.code == 1 && refused.stderr.contains("'r2' (r1, running, PID "), "{refused:?}");
    }
    let pid = listed["pid"].to_string();
    for name in [&["r1"][..], &[&pid], &["sh -c 'echo old; read never'"]] {
        assert!(sandbox.run(&[&["output"][..], name].concat()).ok().out().contains("old"), "{name:?}");
    }
    // What an answer says to call next means the same process.
    let waited = sandbox.tool_ok("output", json!({"pid": listed["pid"], "wait_for": "nothing", "timeout": 0}));
    assert!(waited.contains("command_or_label=\"r1\""), "{waited}");
    sandbox.run(&["start", "--label", "second", "sh", "-c", "read never"]).ok();
    sandbox.run(&["stop", "r1"]).ok();
    assert_eq!((&sandbox.status(0)["state"], &sandbox.status(1)["state"]), (&json!("terminated"), &json!("running")));
    sandbox.run(&["stop", "r2"]).ok();
    assert_eq!(sandbox.status(1)["state"], "terminated");
}

#[test]
fn a_label_that_could_be_a_run_or_that_hides_something_is_refused_with_the_way_out() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["r2", "r0", "r007", "r99999999999999999999999999"] {
        let refused = sandbox.run(&["start", "--label", label, "true"]);
        let expected =
            format!("the label '{label}' reads like the number of a run; choose another, such as '{label}-server'");
        assert!(refused.code == 1 && refused.stderr.contains(&expected), "{refused:?}");
        let (text, is_error) = sandbox.tool(
            "ctrl",
            json!({"action": "start", "command_or_label": "true", "working_directory": sandbox.work(), "label": label}),
        );
        assert!(is_error && text.contains(&expected), "{text}");
    }
    for (label, name) in [("we\u{200b}b", "U+200B"), ("\u{202e}bew", "U+202E"), ("web\u{e0041}", "U+E0041")] {
        let refused = sandbox.run(&["start", "--label", label, "true"]);
        let is_told = refused.stderr.contains(name) && refused.stderr.contains("leave it out");
        assert!(refused.code == 1 && is_told && !refused.stderr.contains(label), "{refused:?}");
    }
    assert_eq!(sandbox.runs(), Vec::<std::path::PathBuf>::new());
    for label in ["r2-server", "R2", "r", "r2d2", "web 2", "\u{1f469}\u{200d}\u{1f4bb} web"] {
        sandbox.run(&["start", "--label", label, "true"]).ok();
    }
    // What its directory is called is no fault of a process without a label.
    let odd = sandbox.work().join("a\u{202e}b\u{200b}");
    fs::create_dir(&odd).unwrap();
    sandbox.run(&["start", "--working-directory", odd.to_str().unwrap(), "true"]).ok();
    let listed = sandbox.listed();
    let labels: Vec<&str> = listed.as_array().unwrap().iter().map(|row| row["label"].as_str().unwrap()).collect();
    assert!(labels.iter().any(|label| label.ends_with("a\\u{202e}b\\u{200b}")), "{labels:?}");
}

#[test]
fn ctrl_accepts_the_number_of_a_run_but_no_other_selector_with_it() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["a", "b"] {
        sandbox.run(&["start", "--label", label, "sh", "-c", "read line; echo got $line; read never"]).ok();
    }
    sandbox.tool_ok("ctrl", json!({"action": "input", "run": 2, "text": "hello"}));
    wait_until("the input", || sandbox.run(&["output", "b"]).ok().out().contains("got hello"));
    for (arguments, expected) in [
        (json!({"action": "stop", "run": 9}), "run r9 is not kept; list shows"),
        (json!({"action": "stop", "run": 1, "command_or_label": "b"}), "'run' alone"),
        (json!({"action": "stop", "run": 1, "pid": 1}), "'run' alone"),
        (
            json!({"action": "start", "run": 1, "command_or_label": "true", "working_directory": "/"}),
            "start does not take 'run'",
        ),
    ] {
        let (text, is_error) = sandbox.tool("ctrl", arguments.clone());
        assert!(is_error && text.contains(expected), "{arguments}: {text}");
    }
    assert_eq!(sandbox.status(0)["state"], "running");
    sandbox.tool_ok("ctrl", json!({"action": "stop", "run": 1}));
    assert_eq!((&sandbox.status(0)["state"], &sandbox.status(1)["state"]), (&json!("terminated"), &json!("running")));
    let restarted = sandbox.tool_ok("ctrl", json!({"action": "restart", "run": 1}));
    assert!(restarted.contains("'a' r3"), "{restarted}");
}
