//! Refusals with `--format json`: every command prints one document with the reason on stdout, the usual line on stderr, and
//! has the usual exit code.

use crate::support::*;
use serde_json::{Value, json};

/// Checks a refusal, and gives back its document.
#[track_caller]
fn refused(ended: &Ended, words: &[&str], code: i32, expected: &str) -> Value {
    assert_eq!(ended.code, code, "{words:?}: {ended:?}");
    let document: Value =
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}: {ended:?}"));
    let error = document["error"].as_str().unwrap_or_else(|| panic!("{words:?}: {document}"));
    assert!(error.contains(expected) && error.lines().count() == 1, "{words:?}: {error}");
    assert!(ended.stderr.ends_with(&format!("persistproc: {error}\n")), "{words:?}: {}", ended.stderr);
    document
}

#[test]
fn every_command_refuses_in_json_if_json_is_wanted() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "echo up; read never"]).ok();
    let action = |name: &str| json!(name);
    for (words, code, expected, action) in [
        // What the server, or the system, refuses.
        (&["start", "--label", "web", "true"][..], 1, "running", action("start")),
        (&["start", "./nope"], 1, "cannot start './nope'", action("start")),
        (&["ctrl", "start", "./nope"], 1, "cannot start './nope'", action("start")),
        (&["stop", "nothing"], 1, "no process 'nothing'", action("stop")),
        (&["ctrl", "stop", "nothing"], 1, "no process 'nothing'", action("stop")),
        (&["restart", "nothing"], 1, "no process 'nothing'", action("restart")),
        (&["list", "--command-or-label", "nothing"], 1, "no process 'nothing'", Value::Null),
        (&["ls", "--pid", "1"], 1, "no process", Value::Null),
        (&["output", "nothing"], 1, "no process 'nothing'", Value::Null),
        (&["run", "./nope"], 1, "cannot start './nope'", Value::Null),
        (&["./nope"], 1, "cannot start './nope'", Value::Null),
        (&["serve"], 1, "server", Value::Null),
        // Wrong usage.
        (&["--bogus"], 2, "unknown option --bogus", Value::Null),
        (&["stop"], 2, "needs a PID, a label or a command", action("stop")),
        (&["start"], 2, "needs a program", action("start")),
        (&["restart", "web", "--wait-for", "("], 2, "cannot read the regular expression", action("restart")),
        (&["start", "--timeout", "5", "true"], 2, "--timeout needs --wait-for", action("start")),
        (&["output", "web", "--grep", "("], 2, "cannot read the regular expression", Value::Null),
        (&["output", "web", "--follow"], 2, "--follow", Value::Null),
        (&["output", "web", "-n", "0"], 2, "--lines 0 needs --follow", Value::Null),
        (&["list", "--pid", "many"], 2, "whole number", Value::Null),
        (&["shutdown", "now"], 2, "takes no 'now'", Value::Null),
        (&["completions", "tcsh"], 2, "bash, zsh, fish", Value::Null),
        (&["ctrl"], 2, "start, stop or restart", Value::Null),
        (&["--port", "http", "list"], 2, "0 to 65535", Value::Null),
    ] {
        let by_option = sandbox.run(&[&["--format", "json"], words].concat());
        let by_variable = finish(spawn(sandbox.command(words).env("PERSISTPROC_FORMAT", "json")), DEADLINE);
        for ended in [by_option, by_variable] {
            let document = refused(&ended, words, code, expected);
            assert_eq!(document["action"], action, "{words:?}: {document}");
        }
        // As text there is nothing on stdout; and --follow is only refused because it prints no JSON.
        if !words.contains(&"--follow") {
            let ended = sandbox.run(&[&["--format", "text"], words].concat());
            assert_eq!((ended.code, ended.stdout.as_slice()), (code, &b""[..]), "{words:?}: {ended:?}");
        }
    }
    drop(server);
}

#[test]
fn every_command_without_a_server_refuses_in_json_if_json_is_wanted() {
    let sandbox = Sandbox::new();
    for words in [
        &["list"][..],
        &["stop", "web"],
        &["restart", "web"],
        &["output", "web"],
        &["shutdown"],
        &["--no-autostart", "start", "true"],
        &["--no-autostart", "true"],
    ] {
        let ended = sandbox.run(&[&["--format", "json"], words].concat());
        refused(&ended, words, 3, "start one with `persistproc serve`");
    }
}

#[test]
fn an_option_counts_wherever_it_stands_and_a_bad_one_hides_no_other() {
    let sandbox = Sandbox::new();
    for words in [
        &["stop", "x", "--bogus", "--format", "json"][..],
        &["--bogus", "--format=json", "list"],
        &["list", "--pid", "many", "--format", "json"],
        &["list", "too", "many", "--format", "json"],
    ] {
        refused(&sandbox.run(words), words, 2, "");
    }
    // What belongs to a program is no option of ours.
    let words = ["--bogus", "echo", "--format", "json"];
    let ended = sandbox.run(&words);
    assert!(ended.code == 2 && ended.stdout.is_empty(), "{ended:?}");
    let mut command = sandbox.command(&["list"]);
    command.env("PERSISTPROC_PORT", "eighty").env("PERSISTPROC_FORMAT", "json");
    refused(&finish(spawn(&mut command), DEADLINE), &["list"], 2, "PERSISTPROC_PORT");
    assert!(!sandbox.data().exists(), "nothing was started");
}

#[test]
fn a_wait_in_vain_is_one_document_and_exit_code_1() {
    let sandbox = Sandbox::new();
    let wait = ["--wait-for", "never", "--timeout", "0"];
    let web = ["--label", "web", "sh", "-c", "echo up; read never"];
    for words in [
        [&["start"], &wait[..], &web].concat(),
        [&["restart", "web"], &wait[..]].concat(),
        [&["output", "web"], &wait[..]].concat(),
    ] {
        let ended = sandbox.run(&[&["--format", "json"], &words[..]].concat());
        assert_eq!((ended.code, &ended.json()["waited"]), (1, &json!("timeout")), "{words:?}: {ended:?}");
        assert!(ended.stderr.ends_with("persistproc: timed out: no line matched\n"), "{words:?}: {ended:?}");
    }
}

#[test]
fn what_goes_wrong_after_the_program_began_leaves_its_stdout_alone() {
    let sandbox = Sandbox::new();
    let script = sandbox.script("app", "#!/bin/sh\necho up >&2\nread never\n");
    let wrapper = Guard(sandbox.spawn(&["--format", "json", "--label", "app", "./app"]));
    wait_until("the process", || sandbox.runs().len() == 1 && sandbox.status(0)["lines"][1] == 1);
    std::fs::write(script, "\0\0\0").unwrap(); // only the system can tell that this is no program
    sandbox.run(&["restart", "app"]);
    let ended = wrapper.end(DEADLINE);
    assert_eq!((ended.code, ended.stdout.as_slice()), (1, &b""[..]), "{ended:?}");
    assert!(ended.stderr.contains("could not be started again"), "{ended:?}");
}
