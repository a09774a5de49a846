//! Cursors return only later output: no line twice, none missed, whatever happens in between.

use crate::support::*;
use serde_json::{Value, json};

/// Lines and cursor of an answer as JSON.
fn read(sandbox: &Sandbox, words: &[&str]) -> (Vec<String>, String, Value) {
    let answer = sandbox.run(&[&["--format", "json", "output", "--lines", "10000"], words].concat()).ok().json();
    let lines = answer["output"].as_array().unwrap().iter();
    let lines = lines.map(|line| line.as_str().unwrap()[25..].to_string()).collect();
    (lines, answer["cursor"].as_str().unwrap().to_string(), answer)
}

fn input(sandbox: &Sandbox, label: &str, text: &str) {
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": label, "text": text}));
}

fn start_echo(sandbox: &Sandbox, label: &str) {
    sandbox.run(&["start", "--label", label, "sh", "-c", ECHO]).ok();
}

#[track_caller]
fn wait_for_line(sandbox: &Sandbox, label: &str, line: &str) {
    wait_until(line, || read(sandbox, &[label]).0.last().is_some_and(|last| last == line));
}

#[test]
fn a_cursor_goes_on_with_the_new_run_and_says_so() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_echo(&sandbox, "p");
    wait_for_line(&sandbox, "p", "up");
    let (_, cursor, _) = read(&sandbox, &["p"]);
    input(&sandbox, "p", "rest of the first");
    wait_for_line(&sandbox, "p", "rest of the first");
    sandbox.run(&["restart", "p"]).ok();
    sandbox.run(&["restart", "p"]).ok();
    wait_for_line(&sandbox, "p", "up");
    for words in [&["--after", &cursor, "p"][..], &["--after", &cursor, "r1"]] {
        let (lines, next, answer) = read(&sandbox, words);
        assert_eq!(lines, ["rest of the first", "up", "up"]);
        assert!(answer["note"].as_str().unwrap().contains("restarted; this goes on with r3"), "{answer}");
        assert!(next.starts_with("r3."), "{next}");
        assert_eq!(read(&sandbox, &["--after", &next, "p"]).0, [""; 0]);
    }
    let text = sandbox.tool_ok("output", json!({"after": cursor}));
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("'p' r3, running ") && first.contains("goes on after r2, which was stopped"), "{text}");
    assert!(text.contains("\nrest of the first\n\u{27e6}r2\u{27e7} up\n\u{27e6}r3\u{27e7} up\n"), "{text}");
    assert!(first.contains("; 3 lines, 1 before; r2 begins at line 2, r3 begins at line 3; cursor=r3."), "{text}");
    // Stopped and started again by hand is the same process, too.
    let (_, cursor, _) = read(&sandbox, &["p"]);
    sandbox.run(&["stop", "p"]).ok();
    start_echo(&sandbox, "p");
    wait_for_line(&sandbox, "p", "up");
    assert_eq!(read(&sandbox, &["--after", &cursor, "p"]).0, ["up"]);
    let ended = sandbox.run(&["output", "--after", &cursor, "p"]).ok();
    assert!(ended.stderr.contains("'p' was restarted; this goes on with r4"), "{ended:?}");
    assert!(ended.out().ends_with("Z up\n") && ended.out().lines().count() == 1, "{ended:?}");
}

#[test]
fn starts_and_restarts_return_a_cursor_after_what_they_show() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let work = sandbox.work();
    let start = json!({"action": "start", "command_or_label": echo_command(), "label": "p",
        "working_directory": work, "wait_for": "^up$"});
    for arguments in [start, json!({"action": "restart", "command_or_label": "p", "wait_for": "^up$"})] {
        let text = sandbox.tool_ok("ctrl", arguments);
        assert!(text.contains("\nup\n"), "{text}");
        input(&sandbox, "p", "new");
        wait_for_line(&sandbox, "p", "new");
        let cursor = cursor_of(&text);
        assert_eq!(read(&sandbox, &["--after", &cursor, "p"]).0, ["new"]);
    }
    // As JSON they show no line.
    let restarted = sandbox.run(&["--format", "json", "restart", "p"]).ok().json();
    assert_eq!(restarted["cursor"], "r3.combined.0", "{restarted}");
    wait_until("its first line", || read(&sandbox, &["--after", "r3.combined.0"]).0 == ["up"]);
    let started = sandbox.run(&["--format", "json", "start", "--label", "q", "echo", "hello"]).ok().json();
    let cursor = started["cursor"].as_str().unwrap();
    wait_until("its line", || read(&sandbox, &["--after", cursor]).0 == ["hello"]);
}

#[test]
fn two_agents_do_not_disturb_each_other() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_echo(&sandbox, "p");
    wait_for_line(&sandbox, "p", "up");
    let (_, one, _) = read(&sandbox, &["p"]);
    let mut other = one.clone();
    for i in 0..5 {
        let text = format!("line {i}");
        input(&sandbox, "p", &text);
        wait_for_line(&sandbox, "p", &text);
        let (lines, next, _) = read(&sandbox, &["--after", &other, "p"]);
        assert_eq!(lines, [text]);
        other = next;
    }
    assert_eq!(read(&sandbox, &["--after", &one, "p"]).0.len(), 5);
}

#[test]
fn an_outdated_or_unknown_cursor_says_what_is_gone_and_starts_at_what_is_kept() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve_with(&[("PERSISTPROC_MAX_LOG_BYTES", "100000")]);
    sandbox.run(&["--label", "p", "seq", "1", "50000"]).ok();
    let answer = sandbox.run(&["--format", "json", "output", "--after", "r1.combined.500", "-n", "10000"]).ok().json();
    let lines = answer["output"].as_array().unwrap();
    assert!(lines.len() > 1000 && lines.last().unwrap().as_str().unwrap().ends_with(" 50000"));
    assert!(answer["note"].as_str().unwrap().contains("bytes after the cursor are no longer kept"), "{answer}");
    let text = sandbox.tool_ok("output", json!({"after": "r1.combined.500"}));
    assert!(text.lines().next().unwrap().contains("bytes after the cursor are no longer kept"), "{text}");
    // Of a run that is gone, or of another data directory.
    sandbox.run(&["--label", "q", "echo", "here"]).ok();
    for cursor in ["r99.combined.17", "r2.combined.99999999"] {
        let (lines, next, answer) = read(&sandbox, &["--after", cursor, "q"]);
        assert_eq!((lines, next.starts_with("r2.")), (vec!["here".to_string()], true), "{cursor}");
        assert!(answer["note"].as_str().unwrap().contains("kept"), "{answer}");
    }
    let (text, is_error) = sandbox.tool("output", json!({"after": "r99.combined.17"}));
    assert!(is_error && text.contains("r99 is not kept any more; say command_or_label"), "{text}");
    let (text, is_error) = sandbox.tool("output", json!({"after": "r1.combined.17", "command_or_label": "q"}));
    assert!(is_error && text.contains("is one of 'p', not of 'q'"), "{text}");
    let (text, is_error) = sandbox.tool("output", json!({"after": "r1.combined.17", "stream": "stderr"}));
    assert!(is_error && text.contains("is of combined, not of stderr"), "{text}");
}

#[test]
fn a_cursor_of_a_removed_run_goes_on_with_those_that_came_after_it() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_echo(&sandbox, "p");
    let (_, cursor, _) = read(&sandbox, &["p"]);
    sandbox.run(&["restart", "p"]).ok();
    wait_for_line(&sandbox, "p", "up");
    // So many that the first run of `p` is removed.
    for _ in 0..50 {
        sandbox.run(&["start", "--label", "many", "true"]).ok();
        wait_until("its exit", || sandbox.run(&["output", "many", "--wait-for", "x", "--timeout", "5"]).code == 1);
    }
    wait_until("the clean-up", || !sandbox.runs().iter().any(|run| run.to_string_lossy().contains("000001.")));
    let (lines, _, answer) = read(&sandbox, &["--after", &cursor, "p"]);
    assert_eq!(lines, ["up"]);
    assert!(answer["note"].as_str().unwrap().contains("r1 of the cursor is not kept any more"), "{answer}");
    assert_eq!(read(&sandbox, &["--after", &cursor]).0, ["up"], "the run that took its place leads to it");
}

#[test]
fn a_cursor_survives_a_server_that_is_killed() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    start_echo(&sandbox, "p");
    wait_for_line(&sandbox, "p", "up");
    let (_, cursor, _) = read(&sandbox, &["p"]);
    input(&sandbox, "p", "before");
    wait_for_line(&sandbox, "p", "before");
    drop(server);
    let _server = sandbox.serve();
    input(&sandbox, "p", "after");
    wait_for_line(&sandbox, "p", "after");
    assert_eq!(read(&sandbox, &["--after", &cursor, "p"]).0, ["before", "after"]);
}

#[test]
fn an_open_line_far_above_the_end_is_known_to_the_cursor_and_comes_whole() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "printf 'Compiling'; sleep 0.3; seq 1 500 >&2; read x; echo ' done'";
    sandbox.run(&["start", "--label", "p", "sh", "-c", script]).ok();
    wait_until("the noise", || read(&sandbox, &["p"]).0.iter().any(|line| line == "500"));
    let answer = sandbox.run(&["--format", "json", "output", "p", "-n", "5"]).ok().json();
    let cursor = answer["cursor"].as_str().unwrap();
    assert!(cursor.contains(".o0"), "{cursor}");
    assert!(answer["output"][4].as_str().unwrap().ends_with("Z Compiling"), "an open line is the newest: {answer}");
    input(&sandbox, "p", "");
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    assert_eq!(read(&sandbox, &["--after", cursor, "p"]).0, ["Compiling done"]);
    let last = sandbox.run(&["output", "p", "-n", "1"]).ok().out();
    assert!(last.ends_with("Z Compiling done\n"), "its beginning is looked up: {last}");
}

/// Goes back from the end in pages, as the first line of each answer says, and gives all lines in their order.
fn page_back(sandbox: &Sandbox, first: Value, most_pages: usize) -> Vec<String> {
    let mut pages: Vec<Vec<String>> = Vec::new();
    let mut arguments = first;
    for _ in 0..most_pages {
        let text = sandbox.tool_ok("output", arguments.clone());
        assert!(text.len() <= arguments["max_bytes"].as_u64().unwrap_or(8000) as usize, "{} {text}", text.len());
        pages.push(text.lines().skip(1).map(String::from).collect());
        let Some(call) = next_call(&text) else {
            pages.reverse();
            return pages.concat();
        };
        arguments = call;
    }
    panic!("there is no end: {:?}", pages.last());
}

/// The call that the first line of an answer gives, `…; older lines: output name="value" name=5; …`, as its arguments.
pub fn next_call(text: &str) -> Option<Value> {
    let first = text.lines().next()?;
    let mut rest = [": output ", "; older lines: output "].iter().find_map(|start| first.split_once(start))?.1;
    let mut arguments = json!({});
    while let Some((name, behind)) = rest.split_once('=').filter(|(name, _)| !name.contains(';')) {
        let is_number = !behind.starts_with('"');
        let end = if is_number { behind.find([';', ' ']).unwrap_or(behind.len()) } else { behind.len() };
        let mut values = serde_json::Deserializer::from_str(&behind[..end]).into_iter::<Value>();
        arguments[name.trim()] = values.next().unwrap().unwrap();
        rest = &behind[values.byte_offset()..];
    }
    Some(arguments)
}

#[test]
fn paging_back_by_the_calls_that_are_given_shows_every_line_once() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    // Thousands of lines share a stamp here, and both streams mix.
    let script = "i=0; while [ $i -lt 1500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; printf unfinished";
    sandbox.run(&["--label", "p", "sh", "-c", script]).ok();
    let all = read(&sandbox, &["p"]).0;
    assert_eq!(all.len(), 3001);
    let expected: Vec<String> =
        all[..3000].iter().cloned().chain(["unfinished \u{27e6}unfinished\u{27e7}".into()]).collect();
    for arguments in
        [json!({"lines": 700}), json!({"lines": 10000, "max_bytes": 3000}), json!({"lines": 10000, "max_bytes": 18000})]
    {
        let mut arguments = arguments;
        arguments["command_or_label"] = json!("p");
        assert!(page_back(&sandbox, arguments, 100) == expected);
    }
    let grep = page_back(&sandbox, json!({"command_or_label": "p", "grep": "out .*7$", "lines": 40}), 20);
    assert_eq!(grep, (0..150).map(|i| format!("out {}7", i)).map(|l| l.replace("out 07", "out 7")).collect::<Vec<_>>());
    let errors = page_back(&sandbox, json!({"command_or_label": "p", "stream": "stderr", "lines": 400}), 20);
    assert_eq!(errors, (0..1500).map(|i| format!("err {i}")).collect::<Vec<_>>());
    // What came after a cursor, and does not fit, is paged down to the cursor and not below.
    let middle = sandbox.run(&["--format", "json", "output", "p", "--grep", "^out 700$"]).ok().json();
    assert_eq!(middle["output"].as_array().unwrap().len(), 1);
    let page = sandbox.tool_ok("output", json!({"command_or_label": "p", "lines": 1000}));
    let call = next_call(&page).unwrap();
    let before = call["before"].as_str().unwrap().to_string();
    let rest = page_back(&sandbox, json!({"after": before, "lines": 300}), 20);
    let shown = page.lines().count() - 1;
    assert!(rest == expected[expected.len() - shown..]);
}

#[test]
fn paging_back_works_over_several_runs_and_several_processes() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["a", "b"] {
        sandbox.run(&["--label", label, "sh", "-c", "for i in $(seq 1 300); do echo first $i; done"]).ok();
    }
    let begin = json!({"command_or_label": "a", "after": "r1.combined.0"});
    for label in ["a", "b"] {
        sandbox.run(&["restart", label]).ok();
        wait_until("its exit", || read(&sandbox, &[label]).0.len() == 300);
    }
    let mut arguments = begin;
    arguments["lines"] = json!(70);
    let mut paged = page_back(&sandbox, arguments, 30);
    paged.iter_mut().for_each(|line| *line = line.trim_start_matches("\u{27e6}r3\u{27e7} ").into());
    let expected: Vec<String> = (0..2).flat_map(|_| (1..=300).map(|i| format!("first {i}"))).collect();
    assert_eq!(paged, expected);
    for name in ["a,b", "*"] {
        let paged = page_back(&sandbox, json!({"command_or_label": name, "lines": 70}), 30);
        assert_eq!(paged.len(), 600);
        for label in ["a", "b"] {
            let own: Vec<&String> = paged.iter().filter(|line| line.starts_with(label)).collect();
            let expected: Vec<String> = (1..=300).map(|i| format!("{label}: first {i}")).collect();
            assert!(own.into_iter().eq(expected.iter()), "{name} {label}: {paged:?}");
        }
    }
}

#[test]
fn paging_back_to_a_cursor_includes_a_process_that_had_exited_there_and_was_restarted() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_echo(&sandbox, "lives");
    wait_for_line(&sandbox, "lives", "up");
    sandbox.run(&["--label", "ends", "sh", "-c", "for i in $(seq 1 300); do echo line $i; done"]).ok();
    sandbox.run(&["--label", "over", "echo", "over"]).ok();
    for name in ["lives,ends", "ends,over", "*"] {
        let cursor = sandbox.run(&["--format", "json", "output", name]).ok().json()["cursor"].clone();
        let run = sandbox.runs().len();
        sandbox.run(&["restart", "ends"]).ok();
        wait_until("its exit", || sandbox.status(run)["state"] == "exited" && read(&sandbox, &["ends"]).0.len() == 300);
        let work = sandbox.work();
        let first = json!({"command_or_label": name, "working_directory": work, "after": cursor, "lines": 70});
        let expected: Vec<String> = (1..=300).map(|i| format!("line {i}")).collect();
        let mut paged = page_back(&sandbox, first, 30);
        paged.iter_mut().for_each(|line| *line = line.trim_start_matches("ends: ").into());
        assert_eq!(paged, expected, "{name} {cursor}");
    }
}

#[test]
fn a_record_that_is_just_being_written_is_not_there_until_it_is_whole() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let start = json!({"action": "start", "command_or_label": "sh -c 'echo up; read never'", "label": "p",
        "working_directory": sandbox.work(), "wait_for": "up"});
    sandbox.tool_ok("ctrl", start);
    let append = |name: &str, text: &str| {
        let mut log = std::fs::OpenOptions::new().append(true).open(sandbox.runs()[0].join(name)).unwrap();
        std::io::Write::write_all(&mut log, text.as_bytes()).unwrap();
    };
    let record = format!("{} first second\n", &read_stamp(&sandbox));
    // A file that grows is seen at any size in between: in the middle of a stamp, behind it, in the middle of the text.
    for (name, cut) in [("combined", 9), ("combined", 24), ("combined", 31), ("stdout", 9), ("stdout", 24)] {
        let ask = |more: Value| {
            let mut arguments = json!({"command_or_label": "p", "stream": name});
            arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            sandbox.tool_ok("output", arguments)
        };
        let before = ask(json!({"lines": 1}));
        append(&format!("{name}.log"), &record[..cut]);
        let torn = ask(json!({"lines": 1}));
        assert_eq!(torn.lines().nth(1), before.lines().nth(1), "{name} {cut}: {torn}");
        assert_eq!(cursor_of(&torn), cursor_of(&before));
        let waited = ask(json!({"after": cursor_of(&torn), "wait_for": "first|T", "timeout": 0}));
        assert!(waited.contains("time is up"), "{waited}");
        append(&format!("{name}.log"), &record[cut..]);
        let whole = ask(json!({"after": cursor_of(&waited), "wait_for": "second", "timeout": 0}));
        assert!(whole.contains("wait_for matched; 1 line, ") && whole.ends_with("\nfirst second\n"), "{cut}: {whole}");
    }
}

/// The stamp of the newest line of `p`.
fn read_stamp(sandbox: &Sandbox) -> String {
    sandbox.run(&["output", "p", "--lines", "1"]).ok().out()[..24].into()
}
