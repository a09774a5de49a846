//! Which lines of which runs of which processes; all selections combine, at every entry point.

use crate::support::*;
use serde_json::{Value, json};

fn json_of(sandbox: &Sandbox, words: &[&str]) -> Value {
    sandbox.run(&[&["--format", "json", "output"], words].concat()).ok().json()
}

fn lines_of(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let answer = json_of(sandbox, words);
    answer["output"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()[25..].to_string()).collect()
}

/// Three runs of `p`, which say which they are; the last one lives.
fn three_runs(sandbox: &Sandbox) {
    let script = "echo x >> runs; n=$(wc -l < runs); echo run $n; echo problem $n >&2; read x";
    sandbox.run(&["start", "--label", "p", "sh", "-c", script]).ok();
    for n in 2..=3 {
        wait_until("its lines", || lines_of(sandbox, &["p"]).len() == 2);
        sandbox.run(&["restart", "p"]).ok();
        wait_until("the next run", || lines_of(sandbox, &["p"]).contains(&format!("problem {n}")));
    }
}

#[test]
fn an_earlier_run_is_read_by_its_distance_or_its_number() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    three_runs(&sandbox);
    for (words, expected) in [
        (&["p"][..], "run 3"),
        (&["p", "--run", "0"], "run 3"),
        (&["p", "--run", "-1"], "run 2"),
        (&["p", "--run", "-2"], "run 1"),
        (&["p", "--run", "2"], "run 2"),
        (&["--run", "1"], "run 1"),
        (&["r2"], "run 2"),
    ] {
        assert_eq!(lines_of(&sandbox, words)[0], expected, "{words:?}");
    }
    assert_eq!(lines_of(&sandbox, &["p", "--run", "-1", "--stream", "stderr", "--grep", "2"]), ["problem 2"]);
    let text = sandbox.tool_ok("output", json!({"command_or_label": "p", "run": -1}));
    assert!(text.starts_with("'p' r2, was stopped (SIGTERM), "), "{text}");
    for (run, expected) in
        [(-3, "'p' has no run -3; available runs: r1, r2, r3"), (7, "'p' has no run 7; available runs:")]
    {
        let (text, is_error) = sandbox.tool("output", json!({"command_or_label": "p", "run": run}));
        assert!(is_error && text.contains(expected), "{text}");
    }
    // A cursor of an earlier run that was asked for stays in it.
    let cursor =
        json_of(&sandbox, &["p", "--run", "-1", "--before-time", "1h"])["cursor"].as_str().unwrap().to_string();
    assert!(cursor.starts_with("r2."), "{cursor}");
    assert_eq!(lines_of(&sandbox, &["--after", &cursor, "--run", "2"]), ["run 2", "problem 2"]);
}

#[test]
fn several_processes_come_in_the_order_of_time_each_line_with_its_label() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["web", "api", "has, comma"] {
        sandbox
            .run(&["start", "--label", label, "sh", "-c", "while read x; do echo \"$x\"; echo \"e$x\" >&2; done"])
            .ok();
    }
    let elsewhere = sandbox.work().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    sandbox
        .run(&["start", "--working-directory", "elsewhere", "--label", "other", "sh", "-c", "echo here; read x"])
        .ok();
    let mut expected = Vec::new();
    for (i, label) in ["web", "api", "web", "has, comma", "api"].iter().enumerate() {
        sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": label, "text": format!("{i}")}));
        wait_until("its line", || lines_of(&sandbox, &[label]).last().is_some_and(|line| *line == format!("e{i}")));
        expected.extend([format!("{label}: {i}"), format!("{label}: e{i}")]);
    }
    // Of a directory: the caller's, or the one that is named.
    assert_eq!(lines_of(&sandbox, &["*"]), expected);
    assert_eq!(lines_of(&sandbox, &["*", "--working-directory", "elsewhere"]), ["other: here"]);
    let of = |labels: &[&str]| -> Vec<String> {
        let is_of = |line: &&String| labels.iter().any(|label| line.starts_with(&format!("{label}: ")));
        expected.iter().filter(is_of).cloned().collect()
    };
    assert_eq!(lines_of(&sandbox, &["web,api"]), of(&["web", "api"]));
    assert_eq!(lines_of(&sandbox, &["api , web, r1"]), of(&["web", "api"]), "each once");
    assert_eq!(lines_of(&sandbox, &["has, comma"]), ["3", "e3"], "a label that fits exactly is that label");
    assert_eq!(lines_of(&sandbox, &["web,r3"]), of(&["web", "has, comma"]));
    let ended = sandbox.run(&["output", "web,nothing"]);
    assert!(ended.code == 1 && ended.stderr.contains("no process 'nothing'"), "{ended:?}");
    let ended = sandbox.run(&["output", "*", "--working-directory", "/"]);
    assert!(ended.code == 1 && ended.stderr.contains("nothing has been started there"), "{ended:?}");
    // All that narrows one narrows several.
    assert_eq!(lines_of(&sandbox, &["*", "--stream", "stderr", "--lines", "2"]), ["has, comma: e3", "api: e4"]);
    assert_eq!(lines_of(&sandbox, &["*", "--grep", "^e[02]$"]), ["web: e0", "web: e2"]);
    assert_eq!(lines_of(&sandbox, &["web,api", "--grep", "^1$", "--context", "1"]), ["api: 1", "api: e1"]);
    assert_eq!(lines_of(&sandbox, &["*", "--since-time", "1h", "-n", "3"]).len(), 3);
    assert_eq!(lines_of(&sandbox, &["*", "--before-time", "1h"]), [""; 0]);
    // By the other doors.
    let text = sandbox.tool_ok("output", json!({"command_or_label": "*", "working_directory": sandbox.work()}));
    let body: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(body, expected);
    let raw = sandbox.run(&["output", "web,api"]).ok().out();
    assert!(raw.lines().all(|line| line.as_bytes()[23] == b'Z' && line[25..].starts_with(['w', 'a'])), "{raw}");
}

#[test]
fn a_cursor_of_several_processes_is_one_string_and_knows_new_ones() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["a", "b"] {
        sandbox.run(&["start", "--label", label, "sh", "-c", "echo up; while read x; do echo \"$x\"; done"]).ok();
        wait_until("up", || lines_of(&sandbox, &[label]) == ["up"]);
    }
    sandbox.run(&["--label", "ended", "echo", "over"]).ok();
    let first = json_of(&sandbox, &["*"]);
    assert_eq!(first["labels"], json!(["a", "b", "ended"]));
    let cursor = first["cursor"].as_str().unwrap().to_string();
    assert!(cursor.ends_with("_n3") && !cursor.contains("r3."), "what has ended costs nothing: {cursor}");
    assert_eq!(lines_of(&sandbox, &["*", "--after", &cursor]), [""; 0]);
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "b", "text": "news"}));
    wait_until("the change to be noticed", || lines_of(&sandbox, &["b"]).len() == 2);
    sandbox.run(&["--label", "new", "echo", "I am new"]).ok();
    sandbox.run(&["restart", "a"]).ok();
    wait_until("the restart", || lines_of(&sandbox, &["a"]) == ["up"]);
    sandbox.run(&["restart", "ended"]).ok();
    wait_until("its exit", || lines_of(&sandbox, &["ended"]) == ["over"]);
    let mut lines = lines_of(&sandbox, &["*", "--after", &cursor]);
    lines.sort();
    assert_eq!(lines, ["a: up", "b: news", "ended: over", "new: I am new"]);
    assert_eq!(lines_of(&sandbox, &["a,b", "--after", &cursor]), ["b: news", "a: up"]);
    assert_eq!(lines_of(&sandbox, &["--after", &cursor]), ["b: news", "a: up"], "alone it means those that it names");
}

#[test]
fn the_newest_of_many_are_the_newest_of_all() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for i in 0..12 {
        let script = format!("for j in $(seq 1 40); do echo {i} $j; done");
        sandbox.run(&["--label", &format!("p{i}"), "sh", "-c", &script]).ok();
    }
    let all = lines_of(&sandbox, &["*", "-n", "10000"]);
    assert_eq!(all.len(), 480);
    for n in [1, 39, 40, 41, 100, 479] {
        assert_eq!(lines_of(&sandbox, &["*", "-n", &n.to_string()]), all[480 - n..], "{n}");
    }
    let answer = json_of(&sandbox, &["*", "-n", "100"]);
    assert_eq!((&answer["lines_before"], &answer["lines_after"]), (&json!(380), &json!(0)));
}

#[test]
fn a_search_finds_everything_in_a_large_log_and_its_context() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    // 3 MB, so several windows; the borders lie anywhere. Some matches are coloured in the middle of the word.
    let script = "import sys\nfor i in range(40000):\n    sys.stdout.write('%d needle\\n' % i if i % 10000 == 9999 else \
        '%d nee\\033[1mdle\\033[0m\\n' % i if i % 10000 == 5000 else '%d %s\\n' % (i, 'x' * 40))\n";
    sandbox.script("many.py", script);
    sandbox.run(&["--label", "p", "python3", "many.py"]).ok();
    let numbers = |words: &[&str]| -> Vec<u32> {
        let lines = lines_of(&sandbox, &[&["p"], words].concat());
        lines.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    };
    let all = [5000, 9999, 15000, 19999, 25000, 29999, 35000, 39999];
    let expected: Vec<u32> = all[..7].iter().flat_map(|n| n - 2..=n + 2).chain(39_997..=39_999).collect();
    assert_eq!(numbers(&["--grep", "needle"]), all);
    assert_eq!(numbers(&["--grep", "needle", "-n", "3"]), all[5..]);
    assert_eq!(numbers(&["--grep", "needle", "--context", "2"]), expected);
    assert_eq!(numbers(&["--grep", "need[l]e", "-n", "3"]), all[5..]);
    assert_eq!(numbers(&["--grep", "need[l]e|pin", "--context", "2"]), expected);
    assert_eq!(numbers(&["--grep", "^7 x"]), [7], "the very first window is searched, too");
    assert_eq!(numbers(&["--grep", "nothing"]), [0; 0]);
}

#[test]
fn a_cursor_of_named_processes_continues_all_of_them_even_one_that_had_exited() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "echo up; read never"]).ok();
    wait_until("up", || lines_of(&sandbox, &["web"]) == ["up"]);
    sandbox.run(&["--label", "api", "echo", "crashed"]).ok();
    let cursor = json_of(&sandbox, &["web,api"])["cursor"].as_str().unwrap().to_string();
    assert_eq!(lines_of(&sandbox, &["--after", &cursor]), [""; 0]);
    sandbox.run(&["restart", "api"]).ok();
    wait_until("the next run", || {
        lines_of(&sandbox, &["api"]) == ["crashed"] && sandbox.status(2)["state"] == "exited"
    });
    assert_eq!(lines_of(&sandbox, &["--after", &cursor]), ["api: crashed"], "{cursor}");
}
