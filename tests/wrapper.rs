//! `persistproc PROGRAM`: what goes in and what comes out is exactly what would without it.

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
fn one_argument_with_blanks_is_split_as_a_shell_would() {
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
fn it_ends_as_the_program_ends() {
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
fn bytes_that_are_no_text_come_through_as_they_are() {
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
fn a_prompt_without_a_newline_is_visible_and_the_answer_goes_on_behind_it() {
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
fn the_wrapper_ends_with_its_program_also_when_a_grandchild_holds_the_pipe() {
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
fn fresh_stops_what_runs_and_starts_anew() {
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
fn it_follows_a_restart_by_somebody_else() {
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
fn without_a_terminal_ctrl_c_leaves_the_process_and_on_exit_stop_takes_it_along() {
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

/// A wrapper at a terminal of its own, 80 columns wide, to which something can be typed.
struct AtTerminal {
    child: Guard,
    terminal: std::fs::File,
    seen: String,
}

impl AtTerminal {
    #[allow(unsafe_code)]
    fn new(sandbox: &Sandbox, words: &[&str]) -> AtTerminal {
        use std::os::fd::FromRawFd;
        use std::os::unix::process::CommandExt;
        let (mut ours, mut its) = (0, 0);
        let mut size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let opened = unsafe {
            libc::openpty(&mut ours, &mut its, std::ptr::null_mut(), std::ptr::null_mut(), &raw mut size as _)
        };
        assert_eq!(opened, 0);
        let (terminal, its) = unsafe { (std::fs::File::from_raw_fd(ours), std::fs::File::from_raw_fd(its)) };
        unsafe { libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC) };
        let mut command = sandbox.command(words);
        let end = || Stdio::from(its.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        // Its terminal in every sense, so that what is typed becomes signals.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY as _, 0);
                Ok(())
            })
        };
        let child = Guard(command.spawn().unwrap());
        AtTerminal { child, terminal, seen: String::new() }
    }
    fn wait_for(&mut self, text: &str) {
        let mut bytes = [0; 1024];
        while !self.seen.contains(text) {
            let n = self.terminal.read(&mut bytes).unwrap_or_else(|error| panic!("{error}, after: {}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    }
    fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }
    fn end(self) -> i32 {
        let mut child = self.child;
        wait_for("the wrapper to end", || child.0.try_wait().unwrap()).code().unwrap()
    }
}

#[test]
fn at_a_terminal_ctrl_c_asks_and_does_what_it_is_told() {
    let sandbox = Sandbox::new();
    let script = ["--label", "web", "sh", "-c", "echo up; read never"];
    for (typed, stops) in [("n\n", false), ("\n", false), ("\u{3}", false), ("y\n", true)] {
        let mut wrapper = AtTerminal::new(&sandbox, &script);
        wrapper.wait_for("up\r\n");
        wrapper.type_in("\u{3}");
        let pid = sandbox.status(0)["pid"].clone();
        wrapper.wait_for(&format!("Stop running process 'web' (PID {pid})? [y/N] "));
        assert_eq!(sandbox.status(0)["state"], "running");
        wrapper.type_in(typed);
        assert_eq!(wrapper.end(), if stops { 143 } else { 0 }, "{typed:?}");
        assert_eq!(sandbox.status(0)["state"], if stops { "terminated" } else { "running" }, "{typed:?}");
    }
}

/// A wrapper of 'web' at a terminal, after Ctrl+C, with its question open.
fn asking(sandbox: &Sandbox, script: &str) -> AtTerminal {
    let mut wrapper = AtTerminal::new(sandbox, &["--label", "web", "sh", "-c", script]);
    wrapper.wait_for("up\r\n");
    wrapper.type_in("\u{3}");
    wrapper.wait_for("[y/N] ");
    wrapper
}

#[test]
fn yes_is_meant_for_what_was_restarted_while_the_question_was_open() {
    let sandbox = Sandbox::new();
    let mut wrapper = asking(&sandbox, "echo up; read never");
    sandbox.run(&["restart", "web"]).ok();
    wrapper.type_in("y\n");
    assert_eq!(wrapper.end(), 143);
    assert_eq!((sandbox.runs().len(), sandbox.status(1)["state"].as_str()), (2, Some("terminated")));
}

#[test]
fn after_no_it_is_said_how_things_are_then_and_not_how_they_were() {
    let sandbox = Sandbox::new();
    let mut wrapper = asking(&sandbox, "echo up; read never");
    sandbox.run(&["restart", "web"]).ok();
    wrapper.type_in("n\n");
    wrapper.wait_for(&format!("'web' keeps running (PID {})", sandbox.status(1)["pid"]));
    assert_eq!(wrapper.end(), 0);

    let mut wrapper = asking(&sandbox, "echo up; read never");
    sandbox.run(&["stop", "web"]).ok();
    wrapper.type_in("n\n");
    wrapper.wait_for("it was ended by SIGTERM");
    assert!(!wrapper.seen.contains("keeps running"), "{}", wrapper.seen);
    assert_eq!(wrapper.end(), 143);
}

#[test]
fn yes_is_obeyed_also_when_the_server_was_killed_while_the_question_was_open() {
    let sandbox = Sandbox::new();
    // What it says fills the way to the wrapper, so that this does not look for another server by itself.
    let mut wrapper = asking(&sandbox, "while echo up; do sleep 0.01; done");
    wait_until("a server that can be killed", || sandbox.pid_of_server().is_some_and(|pid| signal(pid, libc::SIGKILL)));
    wait_until("no server", || sandbox.health().is_none());
    wrapper.type_in("y\n");
    wrapper.wait_for("it was ended by SIGTERM");
    assert_eq!(wrapper.end(), 143);
    assert_eq!(sandbox.status(0)["state"], "terminated");
}

#[test]
fn what_the_wrapper_says_begins_a_line_of_its_own_at_a_terminal() {
    let sandbox = Sandbox::new();
    let mut wrapper = AtTerminal::new(&sandbox, &["--label", "web", "sh", "-c", "printf 'done: 50%%'; read never"]);
    wrapper.wait_for("50%");
    wrapper.type_in("\u{3}");
    wrapper.wait_for("^C\r\nStop running process 'web' ");
    wrapper.type_in("\u{4}");
    wrapper.wait_for("[y/N] \r\npersistproc: 'web' keeps running");
    assert_eq!(wrapper.end(), 0);

    let mut wrapper = AtTerminal::new(&sandbox, &["--label", "web", "sh", "-c", "printf 'done: 50%%'; read never"]);
    wrapper.wait_for("50%");
    sandbox.run(&["restart", "web"]).ok();
    wrapper.wait_for("50%\r\npersistproc: restarted, PID ");
    wrapper.wait_for(&format!("PID {}\r\ndone: 50%", sandbox.status(1)["pid"]));
    sandbox.run(&["stop", "web"]).ok();
    wrapper.wait_for("50%\r\npersistproc: it was ended by SIGTERM\r\n");
    assert_eq!(wrapper.end(), 143);

    let words = ["run", "--on-exit", "stop", "--label", "web", "sh", "-c", "printf 'done: 50%%'; read never"];
    let mut wrapper = AtTerminal::new(&sandbox, &words);
    wrapper.wait_for("50%");
    wrapper.type_in("\u{3}");
    wrapper
        .wait_for("50%^C\r\npersistproc: stopping it; Ctrl+C again kills\r\npersistproc: it was ended by SIGTERM\r\n");
    assert_eq!(wrapper.end(), 143);
}

#[test]
fn a_list_is_as_wide_as_the_terminal() {
    let sandbox = Sandbox::new();
    let script = format!("echo {} end; read never", "much to say ".repeat(20));
    sandbox.run(&["start", "--label", "web", "sh", "-c", &script]).ok();
    wait_until("what it says", || sandbox.run(&["list"]).ok().out().contains("| much"));
    let mut list = AtTerminal::new(&sandbox, &["list"]);
    list.wait_for("…\r\n");
    let widths: Vec<usize> = list.seen.lines().map(|line| line.chars().count()).collect();
    assert!(widths.len() == 2 && (72..=80).contains(&widths[1]), "{}", list.seen);
    assert_eq!(list.end(), 0);
    let width = |line: &str| line.chars().count();
    assert_eq!(sandbox.run(&["list"]).ok().out().lines().map(width).max(), Some(100), "where no terminal tells");
}

/// A wrapper whose output fills its pipe, because nobody reads it.
#[allow(unsafe_code)]
fn stuck(sandbox: &Sandbox, words: &[&str]) -> Guard {
    use std::os::fd::AsRawFd;
    let script = ["sh", "-c", "head -c 300000 /dev/zero; read never"];
    let wrapper = Guard(sandbox.spawn(&[words, &script].concat()));
    let out = wrapper.0.stdout.as_ref().unwrap().as_raw_fd();
    wait_until("a full pipe", || {
        let mut unread: libc::c_int = 0;
        unsafe { libc::ioctl(out, libc::FIONREAD as _, &mut unread) == 0 && unread > 60_000 }
    });
    wrapper
}

#[test]
fn a_signal_is_heard_also_while_nobody_reads_the_output() {
    let sandbox = Sandbox::new();
    let mut wrapper = stuck(&sandbox, &["run"]);
    signal(wrapper.pid(), libc::SIGTERM);
    let status = wait_for("the wrapper to end", || wrapper.0.try_wait().unwrap());
    assert_eq!((status.code(), sandbox.status(0)["state"].as_str()), (Some(143), Some("running")));

    let mut wrapper = stuck(&sandbox, &["run", "--on-exit", "stop"]);
    signal(wrapper.pid(), libc::SIGTERM);
    wait_until("the process to be stopped", || sandbox.status(0)["state"] == "terminated");
    drop(wrapper.0.stdout.take());
    assert_eq!(wait_for("the wrapper to end", || wrapper.0.try_wait().unwrap()).code(), Some(143));
}

#[test]
fn on_exit_stop_holds_also_when_the_terminal_closes_or_the_same_ctrl_c_ends_who_reads() {
    let sandbox = Sandbox::new();
    let words = ["run", "--on-exit", "stop", "sh", "-c", "while echo up; do sleep 0.002; done"];
    for round in 0..4 {
        let mut wrapper = AtTerminal::new(&sandbox, &words);
        wrapper.wait_for("up\r\n");
        let AtTerminal { mut child, terminal, .. } = wrapper;
        drop(terminal);
        assert_eq!(wait_for("the wrapper to end", || child.0.try_wait().unwrap()).code(), Some(143));
        wait_until("the process to be stopped", || sandbox.status(2 * round)["state"] == "terminated");

        let mut wrapper = Guard(sandbox.spawn(&words));
        wrapper.0.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        signal(wrapper.pid(), libc::SIGINT);
        drop(wrapper.0.stdout.take());
        assert_eq!(wrapper.end(DEADLINE).code, 143);
        wait_until("the process to be stopped", || sandbox.status(2 * round + 1)["state"] == "terminated");
    }
}

#[test]
fn a_reader_that_leaves_ends_the_wrapper_and_not_the_process() {
    let sandbox = Sandbox::new();
    let mut wrapper = sandbox.spawn(&["sh", "-c", "while echo again; do sleep 0.01; done"]);
    let mut line = [0; 6];
    wrapper.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    drop(wrapper.stdout.take());
    assert_eq!(finish(wrapper, DEADLINE).code, 141);
    assert_eq!(sandbox.status(0)["state"], "running");
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
fn a_command_that_cannot_be_started_is_said_at_once_with_what_was_missing() {
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

#[test]
fn a_server_is_started_when_none_answers_unless_that_is_forbidden() {
    let sandbox = Sandbox::new();
    for words in [
        &["--no-autostart", "true"][..],
        &["--no-autostart", "start", "true"],
        &["list"],
        &["stop", "x"],
        &["output", "x"],
        &["shutdown"],
    ] {
        let ended = sandbox.run(words);
        assert_eq!(ended.code, 3, "{words:?}: {ended:?}");
        assert!(ended.stderr.contains("persistproc serve"), "{}", ended.stderr);
    }
    let mut forbidden = sandbox.command(&["true"]);
    assert_eq!(finish(spawn(forbidden.env("PERSISTPROC_NO_AUTOSTART", "1")), DEADLINE).code, 3);
    assert!(!sandbox.data().exists());
    let first = sandbox.run(&["echo", "hello"]).ok();
    assert!(first.stderr.contains("started a server") && first.stderr.lines().count() == 1, "{}", first.stderr);
    assert_eq!(sandbox.run(&["echo", "hello"]).ok().stderr, "");
}

#[test]
fn many_that_need_a_server_at_once_get_one() {
    let sandbox = Sandbox::new();
    let words: Vec<Vec<String>> = (0..8).map(|i| vec!["echo".into(), format!("number {i}")]).collect();
    let children: Vec<_> = words.iter().map(|words| sandbox.spawn(words)).collect();
    for (i, child) in children.into_iter().enumerate() {
        assert_eq!(finish(child, DEADLINE).ok().out(), format!("number {i}\n"));
    }
    assert_eq!(sandbox.runs().len(), 8);
}

#[test]
fn the_wrapper_goes_on_when_the_server_is_killed_in_the_middle_of_a_restart() {
    let sandbox = Sandbox::new();
    let mut wrapper = Guard(sandbox.spawn(&["--label", "web", "sh", "-c", "echo run $$; read never"]));
    let mut out = std::io::BufReader::new(wrapper.0.stdout.take().unwrap());
    let mut read_line = move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        line
    };
    for i in 0..5 {
        assert_eq!(read_line(), format!("run {}\n", sandbox.status(i)["pid"]), "{i}");
        let server = wait_for("a server", || sandbox.pid_of_server());
        let restart = sandbox.spawn(&["restart", "web"]);
        wait_until("the next run", || sandbox.runs().len() > i + 1 && sandbox.status(i + 1)["state"] == "running");
        signal(server, libc::SIGKILL);
        finish(restart, DEADLINE); // it may not hear any more that it was obeyed
    }
    assert_eq!(read_line(), format!("run {}\n", sandbox.status(5)["pid"]));
    wait_until("a server", || sandbox.run(&["stop", "web"]).code == 0);
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 143, "{ended:?}");
}
