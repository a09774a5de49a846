//! `persistproc PROGRAM`: input and output are exactly as they would be without it.

mod readers_and_servers;
mod terminal;

use crate::support::*;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;
#[test]
fn three_hundred_thousand_lines_come_through_unchanged() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(&["seq", "1", "300000"]).ok();
    let expected: String = (1..=300_000).map(|i| format!("{i}\n")).collect();
    assert!(ended.stdout == expected.as_bytes(), "{} bytes of {}", ended.stdout.len(), expected.len());
}

#[test]
fn both_streams_come_through_unchanged_at_once() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(&["sh", "-c", "seq 1 50000 & seq 100000 150000 >&2; wait"]).ok();
    let lines = |from: u32, to: u32| (from..=to).map(|i| format!("{i}\n")).collect::<String>();
    assert!(ended.out() == lines(1, 50_000));
    let notes = ended.stderr.lines().filter(|line| line.starts_with("persistproc:")).count();
    let errors: String = ended.stderr.lines().skip(notes).map(|line| format!("{line}\n")).collect();
    assert!(errors == lines(100_000, 150_000));
}

#[test]
fn arguments_arrive_exactly_as_they_are() {
    let sandbox = Sandbox::new();
    let words = [
        "",
        " ",
        "a b",
        "'",
        "\"",
        "\\",
        "$HOME",
        "*",
        "--",
        "-h",
        "--port",
        "1",
        "--label=x",
        "ünï",
        "a\nb",
        "\t",
        "#",
        "!",
    ];
    let mut line = vec!["sh", "-c", "for word; do printf '[%s]' \"$word\"; done", "name"];
    line.extend(words);
    let expected: String = words.iter().map(|word| format!("[{word}]")).collect();
    assert_eq!(sandbox.run(&line).ok().out(), expected);
    let mut dashed = vec!["run", "--"];
    dashed.extend(&line);
    assert_eq!(sandbox.run(&dashed).ok().out(), expected);
    let bytes = std::ffi::OsString::from_vec(b"not \xff UTF-8".to_vec());
    let raw = sandbox.run(&["printf".into(), "%s".into(), bytes]).ok();
    assert_eq!(raw.stdout, b"not \xff UTF-8");
}

#[test]
fn one_argument_with_spaces_is_split_as_a_shell_would() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&["printf '[%s]' 'a b' c"]).ok().out(), "[a b][c]");
}

#[test]
fn environment_and_directory_are_those_of_the_caller_not_of_the_server() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let elsewhere = sandbox.root.join("else where");
    std::fs::create_dir(&elsewhere).unwrap();
    let mut command = sandbox.command(&["sh", "-c", "pwd; env | grep ^ONLY_HERE; echo \"[$UNSET_HERE]\""]);
    command.current_dir(&elsewhere).env("ONLY_HERE", "a=b c").env("PATH", std::env::var_os("PATH").unwrap());
    let ended = finish(spawn(&mut command), DEADLINE).ok();
    assert_eq!(ended.out(), format!("{}\nONLY_HERE=a=b c\n[]\n", elsewhere.display()));
    let mut bare = sandbox.command(&["/usr/bin/env"]);
    bare.env_clear().env("PERSISTPROC_PORT", sandbox.port.to_string()).env("PERSISTPROC_DATA_DIR", sandbox.data());
    let ended = finish(spawn(&mut bare), DEADLINE).ok();
    let names: Vec<String> = ended.out().lines().map(|line| line.split('=').next().unwrap().to_string()).collect();
    assert_eq!(names, ["PERSISTPROC_DATA_DIR", "PERSISTPROC_PORT", "PERSISTPROC_RUN"]);
}

#[test]
fn it_exits_as_the_program_exits() {
    let sandbox = Sandbox::new();
    for code in [0, 1, 2, 3, 42, 127, 255] {
        assert_eq!(sandbox.run(&["sh", "-c", &format!("exit {code}")]).code, code);
    }
    for signal in [1, 2, 9, 15, 6] {
        assert_eq!(sandbox.run(&["sh", "-c", &format!("kill -{signal} $$; sleep 60")]).code, 128 + signal);
    }
}

#[test]
fn the_last_line_of_a_short_program_is_always_there() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for i in 0..100 {
        let script = format!("echo first {i}; echo warning {i} >&2; printf 'last {i}'; exit 3");
        let ended = sandbox.run(&["-q", "sh", "-c", &script]);
        assert_eq!(ended.code, 3);
        assert_eq!((ended.out(), ended.stderr), (format!("first {i}\nlast {i}"), format!("warning {i}\n")));
    }
}

#[test]
fn bytes_that_are_not_text_come_through_unchanged() {
    let sandbox = Sandbox::new();
    let bytes: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(sandbox.work().join("bytes"), &bytes).unwrap();
    assert!(sandbox.run(&["cat", "bytes"]).ok().stdout == bytes);
    let long = vec![b'x'; 3_000_000];
    std::fs::write(sandbox.work().join("long"), &long).unwrap();
    assert!(sandbox.run(&["cat", "long"]).ok().stdout == long, "one line without an end");
    assert!(stripped(&sandbox.runs()[1].join("stdout.log")) == long);
}

#[test]
fn a_prompt_without_a_newline_is_visible_and_the_answer_follows_it() {
    let sandbox = Sandbox::new();
    let mut child =
        sandbox.spawn(&["sh", "-c", "printf 'Continue? '; echo waiting >&2; read answer; echo \"got $answer\""]);
    let mut out = child.stdout.take().unwrap();
    let mut prompt = [0; 10];
    out.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"Continue? ");
    let target = serde_json::json!({"action": "input", "pid": sandbox.status(0)["pid"], "text": "yes"});
    sandbox.tool_ok("ctrl", target);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got yes\n");
    assert_eq!(finish(child, DEADLINE).code, 0);
}

#[test]
fn output_arrives_while_the_program_runs_not_at_its_end() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.spawn(&["sh", "-c", "echo now; read never"]);
    let mut line = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"now\n");
    sandbox.run(&["stop", "r1"]).ok();
    assert_eq!(finish(child, DEADLINE).code, 143);
}

#[test]
fn the_wrapper_exits_with_its_program_even_when_a_grandchild_holds_the_pipe() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(&["sh", "-c", "(sleep 300 &) ; echo all of it; exit 5"]);
    assert_eq!((ended.code, ended.out().as_str()), (5, "all of it\n"));
    assert!(ended.stderr.contains("keep running"), "{}", ended.stderr);
    assert_eq!(sandbox.status(0)["state"], "detached");
    assert_eq!(sandbox.listed()[0]["exit_code"], 5);
    assert_eq!(sandbox.leftovers().len(), 1);
    sandbox.run(&["stop", "r1"]).ok();
    assert_eq!((sandbox.leftovers().len(), sandbox.status(0)["state"].as_str()), (0, Some("terminated")));
}

#[test]
fn the_same_command_again_attaches_and_sees_it_from_the_first_byte() {
    let sandbox = Sandbox::new();
    let script = ["sh", "-c", "echo begun; read line; echo end; exit 4"];
    let mut first = Guard(sandbox.spawn(&script));
    let mut line = [0; 6];
    first.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    let mut second = Guard(sandbox.spawn(&script));
    second.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"begun\n");
    assert_eq!(sandbox.runs().len(), 1);
    sandbox.tool_ok("ctrl", serde_json::json!({"action": "input", "command_or_label": "r1", "text": ""}));
    for wrapper in [first, second] {
        let ended = wrapper.end(DEADLINE);
        assert_eq!((ended.code, ended.out().as_str()), (4, "end\n"));
    }
    assert_eq!(finish(sandbox.spawn(&["--label", "other", "true"]), DEADLINE).code, 0);
}

#[test]
fn fresh_stops_the_running_process_and_starts_a_new_one() {
    let sandbox = Sandbox::new();
    let script = ["sh", "-c", "echo $$; read never"];
    let mut first = Guard(sandbox.spawn(&script));
    wait_until("the first one", || sandbox.runs().len() == 1 && sandbox.status(0)["pid"] != 0);
    let fresh = ["run", "--fresh", "sh", "-c", "echo $$; read never"];
    let second = Guard(sandbox.spawn(&fresh));
    // As the server sees it: the shim's file is there a moment before.
    let newest = || sandbox.listed()[0].clone();
    wait_until("the second one", || newest()["run"] == "r2" && newest()["status"] == "running");
    assert_eq!(sandbox.status(0)["state"], "terminated");
    sandbox.run(&["stop", "r2"]).ok();
    // The first wrapper went on with what took its place.
    let mut seen = String::new();
    first.0.stdout.as_mut().unwrap().read_to_string(&mut seen).unwrap();
    assert_eq!(seen, format!("{}\n{}\n", sandbox.status(0)["pid"], sandbox.status(1)["pid"]));
    assert_eq!((first.end(DEADLINE).code, second.end(DEADLINE).code), (143, 143));
}

#[test]
fn it_follows_a_restart_by_another_command() {
    let sandbox = Sandbox::new();
    let mut wrapper = Guard(sandbox.spawn(&["--label", "web", "sh", "-c", "echo run $$; read never"]));
    let mut out = wrapper.0.stdout.take().unwrap();
    let mut read_line = move || {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\n") {
            out.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    };
    for i in 0..4 {
        assert_eq!(read_line(), format!("run {}\n", sandbox.status(i)["pid"]));
        if i == 1 {
            sandbox.tool_ok("ctrl", serde_json::json!({"action": "restart", "command_or_label": "web"}));
        } else {
            sandbox.run(&["restart", "web"]).ok();
        }
    }
    sandbox.run(&["stop", "web"]).ok();
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 143);
    assert_eq!(ended.stderr.matches("restarted").count(), 4, "{}", ended.stderr);
}

#[test]
fn a_restart_that_fails_ends_the_wrapper_with_the_reason() {
    let sandbox = Sandbox::new();
    let script = sandbox.script("app", "#!/bin/sh\necho up\nread never\n");
    let mut wrapper = Guard(sandbox.spawn(&["--label", "app", "./app"]));
    let mut line = [0; 3];
    wrapper.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    std::fs::write(script, "\0\0\0").unwrap(); // only the system can tell that this is no program
    let restart = sandbox.run(&["restart", "app"]);
    assert_eq!(restart.code, 1);
    assert!(restart.stderr.contains("the system cannot run this file"), "{}", restart.stderr);
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("could not be started again"), "{}", ended.stderr);
}

#[test]
fn without_a_terminal_ctrl_c_leaves_the_process_running_and_on_exit_stop_stops_it() {
    let sandbox = Sandbox::new();
    let wrapper = Guard(sandbox.spawn(&["sh", "-c", "echo up; read never"]));
    wait_until("the process", || sandbox.runs().len() == 1 && sandbox.status(0)["state"] == "running");
    signal(wrapper.pid(), libc::SIGINT);
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 0);
    assert!(ended.stderr.contains("keeps running"), "{}", ended.stderr);
    assert_eq!(sandbox.status(0)["state"], "running");

    let wrapper = Guard(sandbox.spawn(&["run", "--on-exit", "stop", "sh", "-c", "echo up; read never"]));
    wait_until("attached", || sandbox.leftovers().len() == 1);
    let mut wrapper = wrapper;
    let mut line = [0; 3];
    wrapper.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    signal(wrapper.pid(), libc::SIGINT);
    assert_eq!(wrapper.end(DEADLINE).code, 143);
    assert_eq!(sandbox.status(0)["state"], "terminated");
}

#[test]
fn raw_shows_the_time_of_each_line() {
    let sandbox = Sandbox::new();
    let out = sandbox.run(&["run", "--raw", "sh", "-c", "echo one; sleep 0.3; printf two; echo err >&2"]).ok().out();
    let lines: Vec<&str> = out.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[0] == "one" && lines.contains(&"two") && lines.contains(&"err"), "{out}");
}

#[test]
fn a_command_that_cannot_be_started_is_reported_immediately_with_what_was_missing() {
    let sandbox = Sandbox::new();
    sandbox.script("bad-interpreter", "#!/no/such/interpreter\n");
    sandbox.script("no-interpreter", "just text\n");
    std::fs::write(sandbox.work().join("not-executable"), "").unwrap();
    for (words, expected) in [
        (&["no-such-command-at-all"][..], "'no-such-command-at-all': command not found in PATH"),
        (&["./no-such-file"], "'./no-such-file': there is no such file"),
        (&["./bad-interpreter"], "/no/such/interpreter"),
        (&["./no-interpreter"], "#!/bin/sh"),
        (&["./not-executable"], "not executable"),
        (&["/"], "'/': it is a directory"),
        (&["start", "--working-directory", "no/such/dir", "true"], "no/such/dir does not exist"),
        (&["start", "--working-directory", "not-executable", "true"], "is not a directory"),
    ] {
        let ended = sandbox.run(words);
        assert_eq!(ended.code, 1, "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(expected), "{words:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty());
    }
    let listed = sandbox.run(&["list"]).ok().out();
    assert!(listed.contains("failed") && listed.contains("command not found"), "{listed}");
}
