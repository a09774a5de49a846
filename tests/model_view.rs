//! What a model sees: what a terminal would show, folded, clipped, within its budget, with the exact next call.

use crate::cursor::next_call;
use crate::support::*;
use serde_json::json;
use std::time::Duration;

fn say(sandbox: &Sandbox, script: &str) {
    sandbox.script("say.py", &format!("import sys, time\nw = sys.stdout.write\n{script}"));
    sandbox.run(&["--label", "p", "python3", "say.py"]).ok();
}

fn body(text: &str) -> Vec<&str> {
    text.lines().skip(1).collect()
}

#[test]
fn nothing_that_only_a_terminal_could_use_reaches_a_model() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    say(
        &sandbox,
        r"
w('\x1b[32mready\x1b[0m\n')
w('\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n')
w('\x1b(B\x1b7single\x1b8\x1b=\n')
sys.stdout.flush()
sys.stdout.buffer.write('\u009b1mC1\u009b0m\n'.encode())
sys.stdout.buffer.write(b'bad \xff\xfe bytes\n')
sys.stdout.flush()
w(''.join('\r%3d%% [%s]' % (i, '#' * (i // 10)) for i in range(101)) + '\n')
w('left\x1b[60Cright\n')
w('a\rb\x1b[K\n')
",
    );
    let text = sandbox.tool_ok("output", json!({"command_or_label": "p"}));
    assert_eq!(
        body(&text),
        ["ready", "link", "single", "C1", "bad \u{fffd}\u{fffd} bytes", "100% [##########]", "left right", "b"]
    );
    // People and files get the bytes.
    let raw = sandbox.run(&["output", "p", "-n", "8"]).ok().stdout;
    assert!(raw.windows(9).any(|w| w == b"\x1b[32mread") && raw.windows(5).any(|w| w == b"\xff\xfe by"));
}

#[test]
fn equal_neighbours_are_folded_and_long_lines_clipped_with_their_length() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    say(
        &sandbox,
        "w('same\\n' * 37 + 'other\\n' + '\\n' * 3 + 'same\\n' + '\u{fc}' * 501 + '\\n' + 'x' * 2000000 + '\\n')\n",
    );
    let text = sandbox.tool_ok("output", json!({"command_or_label": "p"}));
    let expected = [
        "same \u{27e6}×37\u{27e7}".to_string(),
        "other".into(),
        String::new(),
        "same".into(),
        format!("{}\u{27e6}2 more bytes\u{27e7}", "ü".repeat(500)),
        format!("{}\u{27e6}1999500 more bytes\u{27e7}", "x".repeat(500)),
    ];
    assert_eq!(body(&text), expected);
}

#[test]
fn an_answer_never_exceeds_its_budget_and_begins_with_the_exact_next_call() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    say(&sandbox, "for i in range(3000): w('%d %s\\n' % (i, '\u{20ac}' * (i % 90)))\n");
    let long = "l".repeat(190);
    sandbox.run(&["--label", &long, "python3", "say.py"]).ok();
    for label in ["p", &long, "*", &format!("p,{long}")] {
        for max_bytes in [500, 501, 640, 1000, 8000, 18000] {
            let arguments = json!({"command_or_label": label, "lines": 10000, "max_bytes": max_bytes,
                "working_directory": sandbox.work(), "grep": "^[0-9]+ ?", "since_time": "1h"});
            let text = sandbox.tool_ok("output", arguments);
            assert!(text.len() <= max_bytes, "{label} {max_bytes}: {} {text}", text.len());
            assert!(text.lines().next().unwrap().contains("; older lines: output "), "{text}");
            let next = next_call(&text).unwrap();
            assert!(next["before"].is_string() && next["grep"] == "^[0-9]+ ?" && next["lines"] == 10000, "{next}");
            // The newest line that fits is the newest there is.
            let last = text.lines().last().unwrap();
            assert!(last.contains("2999 "), "{last}");
            sandbox.tool_ok("output", next);
        }
    }
    let text = sandbox.tool_ok("output", json!({"command_or_label": "p", "lines": 10000}));
    assert!((7000..=8000).contains(&text.len()), "the default is 8000: {}", text.len());
    let (text, is_error) = sandbox.tool("output", json!({"command_or_label": "p", "max_bytes": 18001}));
    assert!(is_error && text.contains("from 500 to 18000"), "{text}");
}

#[test]
fn a_list_is_compact_and_has_all_that_matters() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.script(
        "web.py",
        "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n\
         print('http://localhost:%d/' % s.getsockname()[1], flush=True)\nx = 0\nwhile True: x += 1\n",
    );
    sandbox.run(&["start", "--label", "web", "sh", "-c", "echo up; python3 web.py; true"]).ok();
    sandbox
        .run(&[
            "start",
            "--label",
            "bad",
            "sh",
            "-c",
            "seq 1 1000; printf '\\033[31mlast \\033[0mwords\\n\\n' >&2; exit 7",
        ])
        .ok();
    sandbox.run(&["--label", "killed", "sh", "-c", "kill -9 $$"]);
    let web =
        || sandbox.run(&["--format", "json", "list", "--command-or-label", "web"]).ok().json()["processes"][0].clone();
    wait_until("it listens", || {
        web()["ports"].is_array() && web()["last_line"].as_str().is_some_and(|l| l.starts_with("http"))
    });
    wait_until("it has run for a while", || web()["cpu_percent"].as_f64().is_some_and(|cpu| cpu > 5.0));
    let web = web();
    let port = web["last_line"].as_str().unwrap().trim_end_matches('/').rsplit(':').next().unwrap().to_string();
    assert_eq!(web["ports"], json!([port.parse::<u16>().unwrap()]));
    assert!(web["memory_bytes"].as_u64().unwrap() > 1_000_000 && web["lines"] == 2, "{web}");
    assert!(web["log_bytes"].as_u64().unwrap() > 50);
    wait_until("its exit", || sandbox.status(1)["state"] == "exited");
    let text = sandbox.tool_ok("list", json!({}));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "1 running, 2 ended");
    let line = |label: &str| *lines.iter().find(|line| line.starts_with(label)).unwrap();
    let web = line("web: running ");
    for part in [
        &format!(", port {port}, "),
        "% CPU, ",
        " MB, 2 lines, logs ",
        " in /",
        " \u{27e6}last line\u{27e7} http://localhost:",
        ", r1, ",
        ", PID ",
    ] {
        assert!(web.contains(part), "{part}: {web}");
    }
    let bad = line("bad: exited ");
    for part in [" ago, exit code 7, PID ", ", r2, 1002 lines, logs ", " \u{27e6}last line\u{27e7} last words"] {
        assert!(bad.contains(part), "{part}: {bad}");
    }
    assert!(line("killed: exited ").contains("SIGKILL"), "{text}");
    assert!(lines.iter().all(|line| line.len() < 300));
    // For people, too; nothing is wider than a screen.
    let table = sandbox.run(&["list"]).ok().out();
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert!(table.contains(&port) && table.contains("exited, exit code 7") && table.contains("last words"), "{table}");
}

#[test]
fn follow_ends_with_the_awaited_line_and_filters_as_it_goes() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "echo old error; while read x; do echo \"$x\"; done; exit 3";
    sandbox.run(&["start", "--label", "p", "sh", "-c", script]).ok();
    wait_until("its line", || sandbox.run(&["output", "p"]).ok().out().ends_with("old error\n"));
    let input =
        |text: &str| drop(sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "p", "text": text})));
    let texts = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).lines().map(|line| line[25..].to_string()).collect::<Vec<String>>()
    };
    let mut until = sandbox.spawn(&["output", "p", "--follow", "--wait-for", "^ready [0-9]"]);
    let searching = sandbox.spawn(&["output", "p", "--follow", "--grep", "error", "--context", "1"]);
    let mut i = 0;
    while until.try_wait().unwrap().is_none() {
        i += 1;
        ["before", "an error", "after", "between", &format!("ready {i}")].into_iter().for_each(input);
        std::thread::sleep(Duration::from_millis(20));
    }
    let until = finish(until, DEADLINE).ok();
    let lines = texts(&until.stdout);
    assert!(lines[0] == "old error" && lines.last().unwrap().starts_with("ready "), "{lines:?}");
    let last = format!("ready {i}\n");
    wait_until("the last line", || sandbox.run(&["output", "p", "-n", "1"]).ok().out().ends_with(&last));
    sandbox.run(&["stop", "p"]).ok();
    let found = texts(&finish(searching, DEADLINE).ok().stdout);
    assert_eq!(found[0], "old error");
    let groups: Vec<&[String]> = found[1..].chunks(3).collect();
    assert!(found.len() > 3 || i == 1, "{found:?}");
    let last = groups.last().unwrap();
    assert!(last.len() == 3, "{found:?}");
    assert_eq!(last[last.len() - 3..], ["before", "an error", "after"], "{found:?}");
    // A wait that was in vain is exit code 1 and says why, and stdout has the lines alone.
    let ended = sandbox.run(&["output", "p", "--wait-for", "never", "-n", "1"]);
    assert!(ended.code == 1 && ended.stderr.contains("the process ended, and no line matched"), "{ended:?}");
    assert!(ended.stdout.is_empty());
    sandbox.run(&["restart", "p"]).ok();
    let ended = sandbox.run(&["output", "p", "--wait-for", "never", "--timeout", "0"]);
    assert!(ended.code == 1 && ended.stderr.contains("timed out: no line matched"), "{ended:?}");
    let ended = sandbox.run(&["output", "p", "--follow", "--wait-for", "never", "--timeout", "0"]);
    assert!(ended.code == 1 && ended.stderr.contains("timed out: no line matched"), "{ended:?}");
}

#[test]
fn follow_shows_several_processes_and_an_open_line_once() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["a", "b"] {
        sandbox
            .run(&["start", "--label", label, "sh", "-c", "printf \"Name? \"; read x; echo \"hello $x\"; sleep 0.2"])
            .ok();
    }
    wait_until("the prompts", || sandbox.run(&["output", "a,b"]).ok().out().matches("Name?").count() == 2);
    let one = sandbox.spawn(&["output", "a", "--follow"]);
    let both = sandbox.spawn(&["output", "a,b", "--follow"]);
    // Both have read what there is and wait for more.
    wait_until("two waiting calls", || sandbox.connections() >= 2);
    for label in ["a", "b"] {
        sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": label, "text": label}));
    }
    let one = finish(one, DEADLINE).ok().out();
    assert!(one.lines().count() == 1 && one.ends_with("Z Name? hello a\n"), "{one}");
    let both = finish(both, DEADLINE).ok().out();
    assert!(both.contains(" a: Name? hello a\n") && both.contains(" b: Name? hello b\n"), "{both}");
    assert_eq!(both.lines().count(), 2, "{both}");
}

#[test]
fn following_with_a_search_shows_whole_lines_and_an_awaited_prompt() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    // `10` matches as far as it is there, and no longer when it is whole; `2` the other way round.
    let script = "printf '5\\n10'; read x; printf '1\\n2'; read x; printf '0\\nGo on? '; read x; echo 'yes '";
    sandbox.run(&["start", "--label", "p", "sh", "-c", script]).ok();
    wait_until("its open line", || sandbox.run(&["output", "p"]).ok().out().ends_with("10\n"));
    let searching = sandbox.spawn(&["output", "p", "--follow", "--grep", "0$|Go on[?] $|yes $"]);
    let until = sandbox.spawn(&["output", "p", "--follow", "--wait-for", "Go on[?] $"]);
    let around = sandbox.spawn(&["output", "p", "--follow", "--grep", "0$", "--context", "2"]);
    let only_new = sandbox.spawn(&["output", "p", "--follow", "-n", "0"]);
    wait_until("four who wait", || sandbox.connections() >= 4);
    let enter = || drop(sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "p", "text": ""})));
    let texts =
        |ended: Ended| ended.ok().out().lines().map(|line| line[25..].to_string()).collect::<Vec<String>>().join("|");
    enter();
    wait_until("the second line", || sandbox.run(&["output", "p"]).ok().out().ends_with(" 2\n"));
    enter();
    assert_eq!(texts(finish(until, DEADLINE)), "5|101|20|Go on? ");
    let late = sandbox.run(&["output", "p", "--follow", "--wait-for", "nothing", "--timeout", "0"]);
    assert_eq!(late.out().lines().last().map(|line| &line[25..]), Some("20"), "{late:?}");
    enter();
    assert_eq!(texts(finish(searching, DEADLINE)), "20|Go on? yes ");
    assert_eq!(texts(finish(only_new, DEADLINE)), "1|20|Go on? yes ");
    assert_eq!(texts(finish(around, DEADLINE)), "5|101|20|Go on? yes ");
}
