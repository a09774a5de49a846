//! Names, directories and errors may contain what a terminal obeys, because they come from repositories, agents and files:
//! they are always shown escaped. What a program prints is passed on unchanged.

use crate::support::*;
use serde_json::json;

/// A title, a colour in one character (C1), a deletion, and a carriage return.
const HOSTILE: &str = "a\x1b]0;pwn\x07b\u{9b}31m\x7f\rc";

/// Nothing in this text is obeyed by a terminal; newlines only end lines.
#[track_caller]
fn is_harmless(what: &str, text: &str) {
    assert!(!text.is_empty() && !text.chars().any(|c| c.is_control() && c != '\n'), "{what}: {text:?}");
}

#[test]
fn a_directory_with_a_hostile_name_is_shown_escaped() {
    let sandbox = Sandbox::new();
    let directory = sandbox.work().join(HOSTILE);
    std::fs::create_dir(&directory).unwrap();
    let directory = directory.to_str().unwrap();
    let start = ["start", "--working-directory", directory];
    sandbox.run(&[&start[..], &["--label", "web", "cat"]].concat()).ok();
    let list = sandbox.run(&["list"]).ok().out();
    is_harmless("list", &list);
    is_harmless("list in JSON", &sandbox.run(&["--format", "json", "list"]).ok().out());
    assert_eq!(sandbox.listed()[0]["working_directory"], directory, "and still says what it is");
    for words in [&["output", "nothing", "--working-directory", directory][..], &["output", "web,nothing"]] {
        is_harmless("a refusal", &sandbox.run(words).stderr);
    }
    // A label of its own would be one that no terminal can show.
    let ended = sandbox.run(&[&start[..], &["true"]].concat());
    is_harmless("a start", &(ended.out() + &ended.stderr));
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "web", "text": "a\x1b[1mb"}));
    wait_until("its line, as it is", || sandbox.run(&["output", "web"]).ok().out().ends_with(" a\x1b[1mb\n"));
}

#[test]
fn a_program_with_a_hostile_name_that_cannot_be_started_is_named_escaped() {
    let sandbox = Sandbox::new();
    let program = format!("./{HOSTILE}");
    let work = sandbox.work().display().to_string();
    for words in [&["start", &program][..], &["run", &program], &["start", "--label", "named", &program, "x"]] {
        let ended = sandbox.run(words);
        is_harmless("a start", &ended.stderr);
        assert!(ended.code == 1 && ended.stderr.contains("cannot start './a\\u{1b}]0;pwn"), "{ended:?}");
    }
    let ended = sandbox.run(&["restart", "named"]);
    assert_eq!(ended.code, 1);
    is_harmless("a restart", &(ended.out() + &ended.stderr));
    is_harmless("list", &sandbox.run(&["list"]).ok().out());
    let script = sandbox.script("script", &format!("#!/no/{HOSTILE} x\n"));
    is_harmless("an interpreter", &sandbox.run(&["start", script.to_str().unwrap()]).stderr);
    // A model, too.
    let command = format!("'{program}'");
    let start = json!({"action": "start", "command_or_label": command, "working_directory": work});
    let restart = json!({"action": "restart", "command_or_label": "named"});
    let unknown = json!({"action": "stop", "command_or_label": HOSTILE});
    let elsewhere = json!({"action": "start", "command_or_label": "true", "working_directory": format!("/{HOSTILE}")});
    for arguments in [start, restart, unknown, elsewhere, json!({"action": HOSTILE}), json!({HOSTILE: 1})] {
        let (text, is_error) = sandbox.tool("ctrl", arguments.clone());
        assert!(is_error, "{arguments}: {text}");
        is_harmless("an error for a model", &text);
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn words_of_the_command_line_come_back_escaped() {
    let sandbox = Sandbox::new();
    let option = format!("--{HOSTILE}");
    for words in [
        &[option.as_str()][..],
        &["stop", "x", &option],
        &["list", HOSTILE],
        &["list", "--pid", HOSTILE],
        &["--port", HOSTILE, "list"],
        &["--format", HOSTILE, "list"],
        &["output", "x", "--grep", &format!("({HOSTILE}"), "--follow"],
        &["completions", HOSTILE],
        &["--format", "json", "list", HOSTILE],
    ] {
        let ended = sandbox.run(words);
        assert_eq!(ended.code, 2, "{words:?}: {ended:?}");
        is_harmless("wrong usage", &(ended.out() + &ended.stderr));
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
}

#[test]
fn our_own_texts_keep_their_lines() {
    let sandbox = Sandbox::new();
    for (words, least) in [
        (&["--help"][..], 20),
        (&["output", "--help"], 20),
        (&["completions", "bash"], 20),
        (&["completions", "zsh"], 20),
        (&["completions", "fish"], 20),
    ] {
        let out = sandbox.run(words).ok().out();
        assert!(out.lines().count() >= least && out.ends_with('\n') && !out.contains("\\n\n"), "{out}");
        assert!(!out.contains("\\u{") && !out.contains("\\t"), "{out}");
    }
}
