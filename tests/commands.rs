//! The commands, with text and JSON output, and how a process is found again.

use crate::support::*;
use serde_json::{Value, json};

fn json(sandbox: &Sandbox, words: &[&str]) -> Value {
    sandbox.run(&[&["--format", "json"], words].concat()).ok().json()
}

/// Names of the members, sorted.
fn members(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn start_returns_at_once_and_tells_pid_label_and_logs() {
    let sandbox = Sandbox::new();
    let started = json(&sandbox, &["start", "sh", "-c", "read never"]);
    assert_eq!(
        members(&started),
        ["action", "cursor", "label", "log_combined", "log_stderr", "log_stdout", "pid", "run"]
    );
    assert_eq!(started["action"], "start");
    assert_eq!(started["label"], format!("sh -c 'read never' in {}", sandbox.work().display()));
    assert!(is_alive(started["pid"].as_i64().unwrap() as i32));
    for log in ["log_stdout", "log_stderr", "log_combined"] {
        assert!(std::path::Path::new(started[log].as_str().unwrap()).exists());
    }
    let again = sandbox.run(&["start", "sh", "-c", "read never"]);
    assert_eq!(again.code, 1);
    let expected = format!("{}' is already running with PID {}", started["label"].as_str().unwrap(), started["pid"]);
    assert!(again.stderr.contains(&expected), "{}", again.stderr);
    let text = sandbox.run(&["start", "--label", "other", "sh", "-c", "read never"]).ok().out();
    assert!(text.starts_with("Started 'other', PID ") && text.lines().count() == 1, "{text}");
}

#[test]
fn start_and_restart_can_wait_until_it_is_ready_and_say_why_it_is_not() {
    let sandbox = Sandbox::new();
    let script =
        "echo up; [ -e broken ] && { echo 'no database' >&2; exit 3; }; read x; echo \"ready: $x\"; read never";
    let mut starting = sandbox.spawn(&["start", "--label", "web", "--wait-for", "ready: go", "sh", "-c", script]);
    wait_until("its first line", || sandbox.runs().len() == 1 && sandbox.status(0)["lines"][0] == 1);
    assert!(starting.try_wait().unwrap().is_none(), "it waits");
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "web", "text": "go"}));
    let text = finish(starting, DEADLINE).ok().out();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("Started 'web', PID ") && lines[1].starts_with("Ready after "), "{text}");
    // What came before the answer counts.
    assert_eq!(json(&sandbox, &["restart", "web", "--wait-for", "^up$"])["waited"], "matched");
    let late = sandbox.run(&["--format", "json", "restart", "web", "--wait-for", "ready", "--timeout", "0"]);
    assert!(late.code == 1 && late.stderr.ends_with("persistproc: timed out: no line matched\n"));
    assert_eq!((&late.json()["waited"], &sandbox.status(2)["state"]), (&json!("timeout"), &json!("running")));
    std::fs::write(sandbox.work().join("broken"), "").unwrap();
    let broken = sandbox.run(&["restart", "web", "--wait-for", "ready"]);
    assert!(broken.code == 1 && broken.out().starts_with("Restarted 'web', PID "), "{broken:?}");
    let errors: Vec<&str> = broken.stderr.lines().collect();
    assert!(errors[0].ends_with("Z up") && errors[1].ends_with("Z no database"), "{errors:?}");
    assert_eq!(errors[2], "persistproc: the process ended, and no line matched");
}

#[test]
fn start_accepts_directory_environment_and_label() {
    let sandbox = Sandbox::new();
    let environment = r#"{"ADDED": "a b", "HOME": "/changed"}"#;
    std::fs::create_dir(sandbox.work().join("sub")).unwrap();
    let script = "echo \"$ADDED|$HOME|$PWD\"; pwd";
    let words =
        ["start", "--working-directory", "sub", "--environment", environment, "--label", "x", "sh", "-c", script];
    assert_eq!(json(&sandbox, &words)["label"], "x");
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    let sub = sandbox.work().join("sub").display().to_string();
    assert_eq!(stripped(&sandbox.runs()[0].join("stdout.log")), format!("a b|/changed|{sub}\n{sub}\n").into_bytes());
}

#[test]
fn stop_and_restart_tell_what_became_of_it_in_the_shape_of_the_python_program() {
    let sandbox = Sandbox::new();
    json(&sandbox, &["start", "--label", "web", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"]);
    let first = sandbox.status(0)["pid"].clone();
    let restarted = json(&sandbox, &["restart", "web"]);
    assert_eq!((&restarted["action"], &restarted["label"]), (&json!("restart"), &json!("web")));
    assert!(restarted["pid"] != first && restarted["run"] == "r2", "{restarted}");
    assert_eq!(sandbox.status(0)["exit_code"], 7);
    let stopped = json(&sandbox, &["ctrl", "stop", "web"]);
    assert_eq!(
        members(&stopped),
        ["action", "exit_code", "label", "log_combined", "log_stderr", "log_stdout", "pid", "run"]
    );
    assert_eq!(
        (&stopped["action"], &stopped["exit_code"], &stopped["pid"]),
        (&json!("stop"), &json!(7), &restarted["pid"])
    );
    let failed = sandbox.run(&["--format", "json", "stop", "nothing"]);
    assert_eq!(failed.code, 1);
    assert_eq!(failed.json()["action"], "stop");
    assert!(
        failed.json()["error"].as_str().unwrap().contains("'web'") && failed.stderr.contains("'web'"),
        "{failed:?}"
    );
    // One that has ended is started again.
    assert_eq!(json(&sandbox, &["ctrl", "restart", "web"])["run"], "r3");
    let last = sandbox.run(&["stop", "web"]).ok().out();
    assert_eq!(last, format!("Stopped 'web', PID {} (exit code 7).\n", sandbox.status(2)["pid"]));
}

#[test]
fn a_restart_keeps_arguments_directory_environment_and_label() {
    let sandbox = Sandbox::new();
    let mut command =
        sandbox.command(&["start", "--label", "keep", "sh", "-c", "pwd; echo \"$KEPT\" \"$@\"", "", "a  b", ""]);
    finish(spawn(command.env("KEPT", "kept value")), DEADLINE).ok();
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    let mut restart = sandbox.command(&["restart", "keep"]);
    finish(spawn(restart.current_dir("/")), DEADLINE).ok();
    wait_until("its exit", || sandbox.status(1)["state"] == "exited");
    let [first, second] = [0, 1].map(|i| stripped(&sandbox.runs()[i].join("stdout.log")));
    assert_eq!(first, second);
    assert_eq!(first, format!("{}\nkept value a  b \n", sandbox.work().display()).into_bytes());
}

#[test]
fn list_shows_one_row_per_process_with_what_became_of_it() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&["serve", "--background", "-q"]).ok().out(), "");
    assert!(sandbox.run(&["list"]).ok().out().contains("Nothing has been started"));
    sandbox.run(&["sh", "-c", "exit 3"]);
    sandbox.run(&["--label", "twice", "true"]).ok();
    sandbox.run(&["--label", "twice", "true"]).ok();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "read never"]).ok();
    let listed = json(&sandbox, &["list"]);
    let rows = listed["processes"].as_array().unwrap();
    assert_eq!(
        rows.iter().map(|row| row["status"].as_str().unwrap()).collect::<Vec<_>>(),
        ["exited", "exited", "running"]
    );
    assert_eq!((&rows[0]["exit_code"], &rows[0]["command"]), (&json!(3), &json!(["sh", "-c", "exit 3"])));
    assert_eq!((&rows[1]["label"], &rows[1]["run"]), (&json!("twice"), &json!("r3")));
    assert!(rows[2].get("exit_code").is_none() && rows[2].get("end_time").is_none());
    assert_eq!(rows[2]["working_directory"], sandbox.work().display().to_string());
    assert!(rows.iter().all(
        |row| row["start_time"].as_str().unwrap().ends_with('Z') && row["start_time"].as_str().unwrap().len() == 24
    ));
    let table = sandbox.run(&["ls"]).ok().out();
    assert!(table.lines().nth(1).unwrap().contains("web") && table.contains("exited, exit code 3"), "{table}");

    let pid = rows[2]["pid"].to_string();
    for words in [
        &["list", "--pid", &pid][..],
        &["list", "--command-or-label", "web"],
        &["list", "--command_or_label", "sh -c 'read never'"],
    ] {
        let found = json(&sandbox, words)["processes"].clone();
        // What it takes at this moment is another figure at another one.
        let at_rest = |row: &Value| {
            let mut row = row.clone();
            for name in ["memory_bytes", "cpu_percent"] {
                assert!(row.as_object_mut().unwrap().remove(name).is_some(), "{row}");
            }
            row
        };
        assert_eq!((found.as_array().unwrap().len(), at_rest(&found[0])), (1, at_rest(&rows[2])), "{words:?}");
    }
    let elsewhere = json(&sandbox, &["list", "--working-directory", "/"]);
    assert_eq!(elsewhere["processes"], json!([]));
    let elsewhere = sandbox.run(&["list", "--working-directory", "/"]).ok().out();
    assert!(elsewhere.contains("there") && !elsewhere.contains("yet"), "{elsewhere}");
    let server = json(&sandbox, &["list", "--pid", "0"]);
    let server = &server["processes"][0];
    assert!(
        is_alive(server["pid"].as_i64().unwrap() as i32)
            && server["label"].as_str().unwrap().contains(&sandbox.port.to_string())
    );
}

#[test]
fn a_process_is_found_by_pid_run_label_and_command_even_after_it_exited() {
    let sandbox = Sandbox::new();
    sandbox.run(&["--label", "my label", "printf", "%s\n", "a b", "it's"]).ok();
    let pid = sandbox.status(0)["pid"].to_string();
    for target in [
        &["my label"][..],
        &[&pid],
        &["r1"],
        &["printf", "%s\n", "a b", "it's"],
        &["printf '%s\n' 'a b' \"it's\""],
        &["--pid", &pid],
        &["--command-or-label", "my label"],
    ] {
        let out = sandbox.run(&[&["output"], target].concat()).ok().out();
        assert_eq!(
            out.lines().map(|line| line.split_once("Z ").unwrap().1).collect::<Vec<_>>(),
            ["a b", "it's"],
            "{target:?}"
        );
    }
    // A label means its newest run.
    sandbox.run(&["--label", "my label", "echo", "newer"]).ok();
    assert!(sandbox.run(&["output", "my label"]).ok().out().ends_with(" newer\n"));
    assert!(sandbox.run(&["output", "r1"]).ok().out().ends_with(" it's\n"));
}

#[test]
fn what_could_be_several_is_not_guessed() {
    let sandbox = Sandbox::new();
    let dirs = ["a", "b", "c"].map(|name| sandbox.work().join(name));
    for dir in &dirs {
        std::fs::create_dir(dir).unwrap();
        let mut start = sandbox.command(&["start", "sh", "-c", "read never"]);
        finish(spawn(start.current_dir(dir)), DEADLINE).ok();
    }
    let script = ["--", "sh", "-c", "read never"];
    let ambiguous = sandbox.run(&[&["stop"], &script[..]].concat());
    assert_eq!(ambiguous.code, 1);
    for dir in &dirs {
        assert!(ambiguous.stderr.contains(&format!(" in {}'", dir.display())), "{}", ambiguous.stderr);
    }
    assert_eq!((0..3).filter(|i| sandbox.status(*i)["state"] == "running").count(), 3);
    // The directory decides: the one that is named, or the one where the caller is.
    sandbox.run(&[&["stop", "--working-directory", "b"], &script[..]].concat()).ok();
    assert_eq!(sandbox.status(1)["state"], "terminated");
    let mut near = sandbox.command(&[&["stop"], &script[..]].concat());
    finish(spawn(near.current_dir(&dirs[0])), DEADLINE).ok();
    assert_eq!(sandbox.status(0)["state"], "terminated");
    // And when only one runs, it is meant.
    sandbox.run(&[&["stop"], &script[..]].concat()).ok();
    assert_eq!(sandbox.status(2)["state"], "terminated");
}

#[test]
fn an_unknown_target_gets_the_names_that_there_are() {
    let sandbox = Sandbox::new();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "read never"]).ok();
    sandbox.run(&["--label", "done", "true"]).ok();
    for command in ["stop", "restart", "output"] {
        for target in ["nothing", "999999999", "r77", "npm run dev"] {
            let ended = sandbox.run(&[command, target]);
            assert_eq!(ended.code, 1, "{ended:?}");
            assert!(ended.stderr.contains(target) && ended.stderr.contains("'web' (running, PID "), "{}", ended.stderr);
            assert!(ended.stderr.contains("'done' (exited)") && ended.stderr.lines().count() == 1, "{}", ended.stderr);
        }
    }
}

#[test]
fn of_two_that_start_the_same_label_at_once_exactly_one_wins() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for round in 0..5 {
        let label = format!("round {round}");
        let starts: Vec<_> =
            (0..4).map(|_| sandbox.spawn(&["start", "--label", &label, "sh", "-c", "read never"])).collect();
        let codes: Vec<i32> = starts.into_iter().map(|child| finish(child, DEADLINE).code).collect();
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
        assert_eq!(codes.iter().filter(|code| **code == 1).count(), 3, "{codes:?}");
    }
    assert_eq!(sandbox.runs().len(), 5);
}

#[test]
fn fifty_finished_runs_are_kept_and_live_ones_always() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "oldest", "sh", "-c", "read never"]).ok();
    for _ in 0..55 {
        sandbox.run(&["--label", "n", "true"]).ok();
    }
    wait_until("old runs to go", || sandbox.runs().len() == 51);
    let number = |i: usize| sandbox.runs()[i].file_name().unwrap().to_string_lossy()[..6].to_string();
    assert_eq!([0, 1, 50].map(number), ["000001", "000007", "000056"]);
    let listed = json(&sandbox, &["list"]);
    let labels: Vec<&str> =
        listed["processes"].as_array().unwrap().iter().map(|p| p["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["oldest", "n"]);
}

#[test]
fn completions_are_understood_by_their_shells() {
    let sandbox = Sandbox::new();
    let bash = sandbox.run(&["completions", "bash"]).ok().out();
    let test = format!(
        r#"{bash}
        try() {{ COMP_WORDS=(persistproc "$@"); COMP_CWORD=$#; COMPREPLY=(); _persistproc; echo "${{COMPREPLY[*]}}"; }}
        try output --str; try output --stream st; try --port 1 output --str; try --port = 1 output --format = j
        try completions ""; try ctrl st; try --fre; try ls --pi; try stop --on; try run --label x some-program --fre
        try some-program --fre; try restar"#
    );
    let shell = std::process::Command::new("bash").args(["--norc", "-c", &test]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&shell.stdout),
        "--stream\nstdout stderr\n--stream\njson\nbash zsh fish\nstart stop\n--fresh\n--pid\n\n\n\nrestart\n",
        "{}",
        String::from_utf8_lossy(&shell.stderr)
    );
    for shell in ["zsh", "fish"] {
        assert!(sandbox.run(&["completions", shell]).ok().out().contains("wait-for"));
    }
}

#[test]
fn fish_completes_commands_and_options() {
    let sandbox = Sandbox::new();
    let file = sandbox.root.join("completions.fish");
    std::fs::write(&file, sandbox.run(&["completions", "fish"]).ok().stdout).unwrap();
    for (line, expected) in [
        ("outp", &["output"][..]),
        ("--port 1 outp", &["output"]),
        ("--port 1 output --str", &["--stream"]),
        ("output --stream std", &["stderr", "stdout"]),
        ("completions ", &["bash", "fish", "zsh"]),
        ("ctrl st", &["start", "stop"]),
        ("--fre", &["--fresh"]),
        ("ls --pi", &["--pid"]),
        ("stop --on", &[]),
    ] {
        let script = format!("source {}; complete -C 'persistproc {line}'", file.display());
        let shell = std::process::Command::new("fish").args(["--no-config", "-c", &script]).output();
        let Ok(shell) = shell else { return skip("fish is not there") };
        let text = String::from_utf8_lossy(&shell.stdout).into_owned();
        let words: Vec<&str> = text.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!(words, expected, "{line}: {}", String::from_utf8_lossy(&shell.stderr));
    }
}

/// Asked of zsh as its users ask it: at a terminal, with the Tab key.
#[test]
fn zsh_completes_commands_and_options() {
    let sandbox = Sandbox::new();
    let file = sandbox.root.join("_persistproc");
    std::fs::write(&file, sandbox.run(&["completions", "zsh"]).ok().stdout).unwrap();
    for (line, expected) in [
        ("outpu", "output "),
        ("output --str", "output --stream "),
        ("--port 1 output --stre", "output --stream "),
        ("ls --pi", "ls --pid "),
        ("stop --forc", "stop --force "),
        ("completions b", "completions bash "),
        ("ctrl sta", "ctrl start "),
        ("--fre", "--fresh "),
    ] {
        // ^X prints the line as it stands then.
        let script = format!(
            "zmodload zsh/zpty; zpty z zsh -f -i; zpty -w z 'PS1= TERM=dumb; unsetopt prompt_sp; fpath=({root} $fpath); \
             autoload -Uz compinit; compinit -u -D; show() {{ print -r -- \"<$BUFFER>\" }}; zle -N show; \
             bindkey \"^X\" show; print ready$((6 * 7))'; zpty -r -m z text '*ready42*'; \
             zpty -w -n z $'persistproc {line}\\t\\x18'; zpty -r -m z text '*<*>*'; print -r -- $text; zpty -d z",
            root = sandbox.root.display()
        );
        let mut zsh = std::process::Command::new("timeout");
        let shell = zsh.args(["30", "zsh", "-f", "-c", &script]).stdin(std::process::Stdio::null()).output().unwrap();
        if matches!(shell.status.code(), Some(126 | 127)) {
            return skip("zsh is not there");
        }
        let text = String::from_utf8_lossy(&shell.stdout);
        assert!(text.contains(&format!("{expected}>")), "{line}: {text} {}", String::from_utf8_lossy(&shell.stderr));
    }
}

#[test]
fn a_caller_that_saw_a_program_exit_may_start_the_next_one_immediately() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for round in 0..40 {
        let shown = sandbox.run(&["--label", "p", "sh", "-c", &format!("sleep 0.01; printf {round}")]).ok().out();
        assert_eq!(shown, round.to_string());
    }
}

#[test]
fn what_could_not_be_started_is_kept_no_longer_than_the_rest() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for _ in 0..53 {
        let (refused, is_error) = sandbox.tool(
            "ctrl",
            json!({"action": "start", "command_or_label": "/nonexistent", "label": "n", "working_directory": "/"}),
        );
        assert!(is_error, "{refused}");
    }
    assert_eq!(sandbox.runs().len(), 50);
}
