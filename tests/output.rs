//! What is read of a process: which lines, from when, until when.

use crate::support::*;
use serde_json::{Value, json};
use std::io::Read;
use std::time::{Duration, Instant};

/// A process that printed these lines, 0.02 s apart, and ended; its label is `p`.
fn with_lines(sandbox: &Sandbox, lines: &[&str]) {
    let script: String = lines.iter().map(|line| format!("printf '{line}\\n'; sleep 0.02; ")).collect();
    sandbox.run(&["--label", "p", "sh", "-c", &script]).ok();
}

fn json_of(sandbox: &Sandbox, words: &[&str]) -> Value {
    sandbox.run(&[&["--format", "json", "output", "p"], words].concat()).ok().json()
}

/// Texts of the lines that were answered.
fn lines_of(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let answer = json_of(sandbox, words);
    let lines = answer["output"].as_array().unwrap().iter();
    lines.map(|line| line.as_str().unwrap().split_at(25).1.to_string()).collect()
}

#[test]
fn the_newest_lines_and_how_many_there_are_around_them() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["--label", "p", "seq", "1", "5000"]).ok();
    for lines in [1, 2, 99, 100, 4999] {
        let answer = json_of(&sandbox, &["--lines", &lines.to_string()]);
        let output = answer["output"].as_array().unwrap();
        assert_eq!(output.len(), lines);
        assert!(output[0].as_str().unwrap().ends_with(&format!("Z {}", 5001 - lines)));
        assert_eq!((&answer["lines_before"], &answer["lines_after"]), (&json!(5000 - lines), &json!(0)));
    }
    assert_eq!(json_of(&sandbox, &[])["output"].as_array().unwrap().len(), 100);
    assert_eq!(json_of(&sandbox, &["-n", "10000"])["output"].as_array().unwrap().len(), 5000);
    let text = sandbox.run(&["output", "-n", "2", "p"]).ok().out();
    assert!(text.lines().count() == 2 && text.ends_with("Z 5000\n"), "{text}");
}

#[test]
fn streams_are_distinguished_and_all_times_end_in_a_capital_z() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    with_lines(&sandbox, &["one", "two"]);
    sandbox.run(&["--label", "p", "sh", "-c", "echo out1; sleep 0.05; echo err1 >&2; sleep 0.05; printf out2"]).ok();
    assert_eq!(lines_of(&sandbox, &[]), ["out1", "err1", "out2"]);
    assert_eq!(lines_of(&sandbox, &["--stream", "stdout"]), ["out1", "out2"]);
    assert_eq!(lines_of(&sandbox, &["--stream", "stderr"]), ["err1"]);
    let stamps = json_of(&sandbox, &[]);
    assert!(stamps["output"].as_array().unwrap().iter().all(|line| line.as_str().unwrap().as_bytes()[23] == b'Z'));
    assert_eq!(json_of(&sandbox, &["--stream", "stderr"])["lines_before"], 0);
}

#[test]
fn a_line_in_parts_with_the_other_stream_between_is_one_line() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "printf 'Compiling'; sleep 0.3; echo warning >&2; printf '...'; sleep 0.3; echo ' done'; printf 'end'; sleep 0.3; echo last >&2";
    sandbox.run(&["--label", "p", "sh", "-c", script]).ok();
    assert_eq!(lines_of(&sandbox, &[]), ["warning", "Compiling... done", "last", "end"]);
    assert_eq!(lines_of(&sandbox, &["--stream", "stdout"]), ["Compiling... done", "end"]);
    assert_eq!(lines_of(&sandbox, &["--grep", "ing\\.\\.\\. d"]), ["Compiling... done"]);
}

#[test]
fn times_bound_what_is_read() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    with_lines(&sandbox, &["a", "b", "c", "d", "e"]);
    let all = json_of(&sandbox, &[]);
    let stamps: Vec<&str> =
        all["output"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().split_at(24).0).collect();
    assert_eq!(lines_of(&sandbox, &["--since-time", stamps[2]]), ["c", "d", "e"]);
    assert_eq!(lines_of(&sandbox, &["--before-time", stamps[2]]), ["a", "b"]);
    assert_eq!(lines_of(&sandbox, &["--since-time", stamps[1], "--before-time", stamps[3]]), ["b", "c"]);
    assert_eq!(lines_of(&sandbox, &["--since_time", &stamps[3].replace('Z', "")]), ["d", "e"], "no zone is UTC");
    assert_eq!(lines_of(&sandbox, &["--since-time", "1h"]).len(), 5);
    assert_eq!(lines_of(&sandbox, &["--before-time", "1h"]).len(), 0);
    assert_eq!(lines_of(&sandbox, &["--since-time", "2099-01-01"]).len(), 0);
    let between = json_of(&sandbox, &["--since-time", stamps[1], "--before-time", stamps[4], "--lines", "2"]);
    assert_eq!((&between["lines_before"], &between["lines_after"]), (&json!(2), &json!(1)));
    for (name, time) in [("since_time", "2026-01-02T03:04+1\u{e9}1"), ("before_time", "2026-01-02T03:04+-1")] {
        let (text, is_error) = sandbox.tool("output", json!({"command_or_label": "p", name: time}));
        assert!(is_error && text.starts_with(&format!("{name}: cannot read the time '")), "{text}");
    }
}

#[test]
fn grep_finds_lines_and_their_context_whatever_their_colours() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    with_lines(&sandbox, &["one", "\\033[31mErr\\033[0mor: x", "three", "four", "five", "Error: y", "seven"]);
    assert_eq!(lines_of(&sandbox, &["--grep", "^Error: [xy]$"]).len(), 2);
    assert_eq!(lines_of(&sandbox, &["--grep", "Error: y", "--context", "1"]), ["five", "Error: y", "seven"]);
    assert_eq!(lines_of(&sandbox, &["--grep", "Error", "-C", "1"]).len(), 6, "four is between, and in neither context");
    assert_eq!(lines_of(&sandbox, &["--grep", "Error", "--lines", "1"]), ["Error: y"]);
    assert_eq!(lines_of(&sandbox, &["--grep", "nothing"]), Vec::<String>::new());
    assert_eq!(lines_of(&sandbox, &["--grep", "(?i)error", "--before-time", "1h"]).len(), 0);
}

#[test]
fn a_cursor_gives_each_line_once_and_none_is_missed() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "i=0; while [ $i -lt 400 ]; do echo out $i; echo err $i >&2; i=$((i+1)); [ $((i % 20)) -ne 0 ] || sleep 0.02; done; printf unfinished";
    sandbox.run(&["start", "--label", "p", "sh", "-c", script]).ok();
    for stream in ["combined", "stdout", "stderr"] {
        let mut cursor: Option<String> = None;
        let mut seen: Vec<String> = Vec::new();
        loop {
            let is_over = sandbox.status(0)["state"] == "exited";
            let mut words = vec!["--stream", stream, "--lines", "10000"];
            words.extend(cursor.iter().flat_map(|cursor| ["--after", cursor]));
            let answer = json_of(&sandbox, &words);
            let new = answer["output"].as_array().unwrap();
            seen.extend(
                new.iter().map(|line| line.as_str().unwrap()[25..].to_string()).filter(|line| line != "unfinished"),
            );
            cursor = Some(answer["cursor"].as_str().unwrap().into());
            if is_over {
                break;
            }
        }
        for (name, wanted) in [("out", stream != "stderr"), ("err", stream != "stdout")] {
            let found: Vec<&String> = seen.iter().filter(|line| line.starts_with(name)).collect();
            let expected: Vec<String> = if wanted { (0..400).map(|i| format!("{name} {i}")).collect() } else { vec![] };
            assert!(found.into_iter().eq(expected.iter()), "{stream} {name}");
        }
    }
}

#[test]
fn an_unfinished_line_is_shown_and_given_again_when_it_is_whole() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox
        .run(&[
            "start",
            "--label",
            "p",
            "sh",
            "-c",
            "echo first; printf 'Continue? '; read x; echo warning >&2; read x; echo yes",
        ])
        .ok();
    for stream in ["combined", "stdout"] {
        wait_until("the prompt", || lines_of(&sandbox, &["--stream", stream]).contains(&"Continue? ".to_string()));
    }
    let cursor = |stream: &str, after: Option<&str>| {
        let words: Vec<&str> =
            ["--stream", stream].into_iter().chain(after.into_iter().flat_map(|after| ["--after", after])).collect();
        let answer = json_of(&sandbox, &words);
        let lines: Vec<String> =
            answer["output"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()[25..].into()).collect();
        (answer["cursor"].as_str().unwrap().to_string(), lines)
    };
    let [(combined, lines), (stdout, _)] = ["combined", "stdout"].map(|stream| cursor(stream, None));
    assert_eq!(lines, ["first", "Continue? "]);
    let input = || drop(sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "p", "text": ""})));
    input();
    wait_until("the warning", || lines_of(&sandbox, &[]).contains(&"warning".into()));
    let (combined, lines) = cursor("combined", Some(&combined));
    assert_eq!(lines, ["warning"], "what has not gone on since is not given a second time");
    input();
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    assert_eq!(cursor("combined", Some(&combined)).1, ["Continue? yes"]);
    assert_eq!(cursor("stdout", Some(&stdout)).1, ["Continue? yes"]);
}

#[test]
fn a_wait_ends_with_the_line_the_process_or_the_timeout_and_reports_which() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox
        .run(&["start", "--label", "p", "sh", "-c", "echo old ready; while read line; do echo \"$line\"; done; exit 3"])
        .ok();
    wait_until("it is up", || !lines_of(&sandbox, &[]).is_empty());
    let waited = |wait_for: &str, timeout: &str| {
        let words = ["--format", "json", "output", "p", "--wait-for", wait_for, "--timeout", timeout];
        let ended = sandbox.run(&words);
        let is_done = ["matched", "quiet"].iter().any(|waited| ended.json()["waited"] == *waited);
        assert_eq!(ended.code, i32::from(!is_done), "{ended:?}");
        ended.json()
    };
    let begun = Instant::now();
    assert_eq!(waited("ready", "1")["waited"], "timeout", "what was there before does not count");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let input =
        |text: &str| drop(sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "p", "text": text})));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waited("^new ready$", "40"));
        // It may begin to wait only after the first of them.
        while !waiting.is_finished() {
            input("new ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        let answer = waiting.join().unwrap();
        assert_eq!(
            (
                &answer["waited"],
                answer["output"].as_array().unwrap().last().unwrap().as_str().unwrap().ends_with("new ready")
            ),
            (&json!("matched"), true)
        );
        let waiting = scope.spawn(|| waited("quiet", "40"));
        for _ in 0..20 {
            input("noise");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(waiting.join().unwrap()["waited"], "quiet");
        let waiting = scope.spawn(|| waited("never", "40"));
        std::thread::sleep(Duration::from_millis(50));
        sandbox.run(&["stop", "p"]).ok();
        assert_eq!(waiting.join().unwrap()["waited"], "ended");
    });
}

#[test]
fn follow_shows_new_output_until_the_exit_and_across_a_restart() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox
        .run(&["start", "--label", "p", "sh", "-c", "echo one; echo problem >&2; echo two; read x; echo three; read x"])
        .ok();
    wait_until("it is up", || lines_of(&sandbox, &[]).len() == 3);
    let mut all = Guard(sandbox.spawn(&["output", "p", "-f"]));
    let mut errors = Guard(sandbox.spawn(&["output", "p", "--follow", "--stream", "stderr", "--lines", "5"]));
    let mut first = [0; 25 * 3 + 16];
    all.0.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let mut error = [0; 25 + 8];
    errors.0.stdout.as_mut().unwrap().read_exact(&mut error).unwrap();
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "p", "text": ""}));
    wait_until("the third line", || lines_of(&sandbox, &[]).len() == 4);
    sandbox.run(&["restart", "p"]).ok();
    wait_until("it is up again", || lines_of(&sandbox, &[]).len() == 3);
    sandbox.run(&["stop", "p"]).ok();
    let (all, errors) = (all.end(DEADLINE).ok(), errors.end(DEADLINE).ok());
    let texts =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(|line| line[25..].to_string()).collect::<Vec<_>>();
    let mut seen = texts(&[&first[..], &all.stdout].concat());
    seen.retain(|line| line != "problem");
    assert_eq!(seen, ["one", "two", "three", "one", "two"]);
    assert_eq!(texts(&[&error[..], &errors.stdout].concat()), ["problem", "problem"]);
}

#[test]
fn logs_are_bounded_and_what_is_kept_has_no_gap() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["start", "--label", "p", "seq", "1", "400000"]);
    finish(spawn(command.env("PERSISTPROC_MAX_LOG_BYTES", "1000000")), DEADLINE).ok();
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    let run = sandbox.runs()[0].clone();
    for name in ["stdout.log", "stdout.log.1", "combined.log", "combined.log.1"] {
        let size = std::fs::metadata(run.join(name)).unwrap().len();
        assert!(size <= 1_000_100, "{name}: {size}");
    }
    let answer = json_of(&sandbox, &["--lines", "10000"]);
    let lines = answer["output"].as_array().unwrap();
    for (i, line) in lines.iter().enumerate() {
        assert!(line.as_str().unwrap().ends_with(&format!("Z {}", 390_001 + i)), "{line}");
    }
    assert_eq!(answer["lines_before"], 390_000);
    assert_eq!(sandbox.status(0)["lines"], json!([400_000, 0, 400_000]));
}

#[test]
fn a_follower_for_which_the_run_does_not_wait_says_how_much_is_missing_and_fails() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["start", "--label", "p", "sh", "-c", "echo 0; read go; seq 1 400000"]);
    finish(spawn(command.env("PERSISTPROC_MAX_LOG_BYTES", "100000")), DEADLINE).ok();
    let mut follower = sandbox.spawn(&["output", "p", "--follow"]);
    let mut out = follower.stdout.take().unwrap();
    // What it writes is not read until the process has ended.
    let leases = || std::fs::read_dir(sandbox.runs()[0].join("readers")).map_or(0, Iterator::count);
    wait_until("it to follow", || leases() == 1);
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "p", "text": "go"}));
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    let ended = finish(follower, DEADLINE);
    assert!(ended.code == 1 && ended.stderr.contains("bytes of the log are no longer kept"), "{ended:?}");
    let numbers: Vec<u32> = text.lines().map(|line| line[25..].parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers.last() == Some(&400_000));
}

#[test]
fn a_model_gets_what_a_terminal_would_show_within_its_budget() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "printf '\\033[32mready\\033[0m\\n10%%\\r50%%\\r100%%\\n'; for i in 1 2 3 4 5; do echo same; done; printf 'x%.0s' $(seq 1 2000); echo; printf 'open'";
    sandbox.run(&["--label", "p", "sh", "-c", script]).ok();
    let text = sandbox.tool_ok("output", json!({"command_or_label": "p"}));
    assert!(text.contains("\nready\n100%\nsame \u{27e6}×5\u{27e7}\n"), "{text}");
    assert!(text.contains(&format!("{}\u{27e6}1500 more bytes\u{27e7}\n", "x".repeat(500))), "{text}");
    assert!(text.ends_with("open \u{27e6}unfinished\u{27e7}\n") && !text.contains('\u{1b}'), "{text}");
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with("'p' r1, ") && first.contains("exit code 0") && first.contains("cursor=r1.combined."),
        "{first}"
    );

    sandbox.run(&["--label", "p", "seq", "100000", "110000"]).ok();
    for (arguments, most) in [(json!({}), 8000), (json!({"max_bytes": 500}), 500), (json!({"max_bytes": 18000}), 18000)]
    {
        let mut arguments = arguments;
        arguments["command_or_label"] = json!("p");
        arguments["lines"] = json!(10000);
        let text = sandbox.tool_ok("output", arguments);
        assert!(text.len() <= most && text.len() > most / 3, "{} of {most}", text.len());
        assert!(text.contains("\n110000\n") && text.contains("; older lines: output "), "{text}");
    }
}
