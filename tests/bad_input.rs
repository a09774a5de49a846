//! Bad input: one line that says what is wrong and what to do, nothing started, nothing lost.

use crate::support::*;
use serde_json::json;

#[test]
fn wrong_usage_is_exit_code_2_and_one_line() {
    let sandbox = Sandbox::new();
    for (words, expected) in [
        (&["--bogus"][..], "unknown option --bogus"),
        (&["stop", "x", "--bogus"], "unknown option --bogus"),
        (&["run"], "needs a program"),
        (&["start"], "needs a program"),
        (&["stop"], "needs a PID, a label or a command"),
        (&["output"], "needs a PID, a label or a command"),
        (&["--port"], "needs a value"),
        (&["--port", "65536", "list"], "0 to 65535"),
        (&["--port", "-1", "list"], "0 to 65535"),
        (&["--port", "http", "list"], "0 to 65535"),
        (&["--format", "yaml", "list"], "is not text or json"),
        (&["start", "--environment", "{", "true"], "JSON object whose values are strings"),
        (&["start", "--environment", "[]", "true"], "JSON object whose values are strings"),
        (&["start", "--environment", "{\"A\": 1}", "true"], "JSON object whose values are strings"),
        (&["output", "x", "--lines", "-5"], "whole number from 0"),
        (&["output", "x", "-n", "0"], "--lines 0 needs --follow"),
        (&["output", "x", "--timeout", "3601"], "from 0 to 3600"),
        (&["output", "x", "--follow", "--before-time", "5m"], "--follow prints new lines"),
        (&["output", "x", "--grep", "("], "cannot read the regular expression '('"),
        (&["output", "x", "--wait-for", "[z-a]"], "cannot read the regular expression"),
        (&["output", "x", "--follow", "--grep", "("], "cannot read the regular expression"),
        (&["output", "x", "--follow", "--wait-for", "("], "cannot read the regular expression"),
        (&["output", "x", "--follow", "--wait-for", "quiet"], "not 'quiet'"),
        (&["output", "x", "--run", "many"], "whole number"),
        (&["list", "--pid", "many"], "whole number"),
        (&["start", "--wait-for", "(", "true"], "cannot read the regular expression '('"),
        (&["restart", "x", "--wait-for", "[z-a]"], "cannot read the regular expression"),
        (&["start", "--timeout", "5", "true"], "--timeout needs --wait-for"),
        (&["sh -c 'unbalanced"], "unbalanced quotes"),
        (&["cd web && npm run dev"], "sh -c"),
    ] {
        let ended = sandbox.run(words);
        assert_eq!(ended.code, 2, "{words:?}: {ended:?}");
        assert!(
            ended.stderr.contains(expected) && ended.stderr.starts_with("persistproc: "),
            "{words:?}: {}",
            ended.stderr
        );
        assert!(ended.stderr.lines().count() == 1 && ended.stdout.is_empty(), "{words:?}: {ended:?}");
    }
    let mut command = sandbox.command(&["list"]);
    let ended = finish(spawn(command.env("PERSISTPROC_PORT", "eighty")), DEADLINE);
    assert!(ended.code == 2 && ended.stderr.contains("PERSISTPROC_PORT"), "{ended:?}");
    assert!(!sandbox.data().exists(), "nothing was started");
}

#[test]
fn what_only_the_server_can_judge_is_exit_code_1_and_one_line() {
    let sandbox = Sandbox::new();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "read never"]).ok();
    for (words, expected) in [
        (&["output", "web", "--since-time", "yesterday"][..], "cannot read the time 'yesterday'"),
        (&["output", "web", "--before-time", "2026-13-01"], "cannot read the time"),
        (&["output", "web", "--after", "12345"], "'12345' is not a valid cursor"),
        (&["output", "--before", "12345", "web"], "'12345' is not a valid cursor"),
        (&["output", "web", "--run", "9"], "'web' has no run 9; available runs: r1"),
        (&["output", "web,api"], "no process 'api'"),
        (&["start", "--label", "12", "true"], "could be a PID"),
        (&["start", "--label", "a\nb", "true"], "one line of text"),
        (&["start", "--working-directory", "/no/such/directory", "true"], "/no/such/directory does not exist"),
    ] {
        for format in ["text", "json"] {
            let ended = sandbox.run(&[&["--format", format], words].concat());
            assert_eq!(ended.code, 1, "{words:?}: {ended:?}");
            assert!(
                ended.stderr.contains(expected) && ended.stderr.lines().count() == 1,
                "{words:?}: {}",
                ended.stderr
            );
        }
    }
    assert_eq!(sandbox.runs().len(), 1, "nothing was started");
    assert_eq!(sandbox.status(0)["state"], "running");
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.root.join("file"), "").unwrap();
    let dir = sandbox.root.join("file/data").display().to_string();
    let foreground = sandbox.run(&["serve", "--data-dir", &dir]);
    assert_eq!(foreground.code, 1);
    let autostart = sandbox.run(&["--data-dir", &dir, "true"]);
    assert_eq!(autostart.code, 3);
    for ended in [foreground, autostart] {
        assert!(ended.stderr.contains(&dir) && ended.stderr.contains("--data-dir"), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
}

#[test]
fn in_a_removed_directory_the_message_says_what_to_do_and_commands_that_need_none_work() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let gone = sandbox.root.join("gone");
    let work = sandbox.work().display().to_string();
    let run = |words: &[&str]| {
        std::fs::create_dir(&gone).unwrap();
        let mut command = sandbox.shell("rmdir ../gone && exec \"$0\" \"$@\"");
        command.args(words).current_dir(&gone);
        finish(spawn(&mut command), DEADLINE)
    };
    for words in [&["true"][..], &["start", "true"], &["start", "--working-directory", ".", "true"]] {
        let ended = run(words);
        assert!(ended.code == 1 && ended.stderr.contains("does not exist any more; cd"), "{words:?}: {ended:?}");
    }
    run(&["start", "--working-directory", &work, "--label", "web", "sh", "-c", "read never"]).ok();
    assert!(run(&["list", "--working-directory", &work]).ok().out().contains("web"));
    run(&["stop", "web"]).ok();
}

#[test]
fn a_model_gets_texts_with_which_it_can_correct_itself() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let work = sandbox.work().display().to_string();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "read never"]).ok();
    for (tool, arguments, expected) in [
        ("list", json!({"pid": "many"}), "'pid' must be a whole number"),
        ("list", json!({"label": "x"}), "no parameter 'label'; there are: pid, command_or_label, working_directory"),
        ("output", json!({}), "say which process"),
        ("output", json!({"command_or_label": "nothing"}), "no process 'nothing'; there are 'web' (running, PID "),
        ("output", json!({"command_or_label": "web", "lines": 0}), "'lines' must be a whole number from 1 to 10000"),
        ("output", json!({"command_or_label": "web", "lines": -1}), "not -1"),
        ("output", json!({"command_or_label": "web", "stream": "stdin"}), "one of combined, stdout, stderr"),
        ("output", json!({"command_or_label": "web", "since_time": "then"}), "such as 30s, 5m"),
        ("output", json!({"command_or_label": "web", "wait_for": "*"}), "cannot read the regular expression '*'"),
        ("output", json!({"after": "r1.stdout.0", "stream": "stderr"}), "is of stdout, not of stderr"),
        ("ctrl", json!({}), "'action' is missing"),
        ("ctrl", json!({"action": "kill"}), "one of start, stop, restart"),
        ("ctrl", json!({"action": "start"}), "needs the command"),
        ("ctrl", json!({"action": "start", "command_or_label": "true"}), "needs 'working_directory'"),
        ("ctrl", json!({"action": "start", "command_or_label": "true", "working_directory": "."}), "absolute path"),
        ("ctrl", json!({"action": "start", "command_or_label": "a | b", "working_directory": work}), "sh -c 'a | b'"),
        ("ctrl", json!({"action": "start", "command_or_label": "A=1 b", "working_directory": work}), "env A=1 b"),
        (
            "ctrl",
            json!({"action": "start", "command_or_label": "no-such-command", "working_directory": work}),
            "command not found",
        ),
        (
            "ctrl",
            json!({"action": "start", "command_or_label": "true", "working_directory": "/no/such"}),
            "/no/such does not exist",
        ),
        (
            "ctrl",
            json!({"action": "start", "command_or_label": "true", "working_directory": work, "label": "web"}),
            "already running with PID",
        ),
        (
            "ctrl",
            json!({"action": "start", "command_or_label": "true", "working_directory": work, "environment": "A=1"}),
            "{\"PORT\": \"3000\"}",
        ),
        ("ctrl", json!({"action": "stop"}), "say which process"),
        ("ctrl", json!({"action": "input", "command_or_label": "web"}), "needs the parameter 'text'"),
        (
            "ctrl",
            json!({"action": "signal", "command_or_label": "web", "text": "LOUD"}),
            "'LOUD' is not a valid signal",
        ),
    ] {
        let (text, is_error) = sandbox.tool(tool, arguments.clone());
        assert!(is_error && text.contains(expected), "{tool} {arguments}: {text}");
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn help_is_there_for_every_command_and_agrees_with_what_is_taken() {
    let sandbox = Sandbox::new();
    let overview = sandbox.run(&["--help"]).ok().out();
    for command in
        ["run", "serve", "start", "stop", "restart", "list", "output", "ctrl", "shutdown", "mcp", "completions"]
    {
        assert!(overview.contains(&format!("\n  {command}")), "{command}");
        let help = sandbox.run(&[command, "--help"]).ok().out();
        assert!(help.contains(&format!("Usage: persistproc {command}")) && help.contains("Example"), "{help}");
        let listed = help.lines().filter_map(|line| line.strip_prefix("  ")?.get(4..)?.split(' ').next());
        for option in listed.filter(|word| word.starts_with("--")) {
            let mut words = vec![command, option];
            words.extend(["--help"].repeat(2)); // a value, if it takes one, and help again
            let ended = sandbox.run(&words);
            assert!(!ended.stderr.contains("unknown option"), "{command} {option}: {}", ended.stderr);
        }
    }
    assert_eq!(sandbox.run(&["--version"]).ok().out(), format!("persistproc {}\n", env!("CARGO_PKG_VERSION")));
    assert!(!sandbox.data().exists());
}
