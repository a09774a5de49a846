//! What is in an environment is not shown to others, and what agents put there does not reach the process.

use crate::support::*;
use serde_json::json;

const SECRET: &str = "hunter2-correct-horse";
/// What an agent's shell may have, and what a person may have set.
const AGENT: [(&str, &str); 7] = [
    ("CLAUDECODE", "1"),
    ("CLAUDE_CODE_SESSION_ID", "s"),
    ("CODEX_THREAD_ID", "t"),
    ("CURSOR_AGENT", "1"),
    ("GEMINI_CLI", "1"),
    ("AGENT", "goose"),
    ("AI_AGENT", "x"),
];
const OWN: [(&str, &str); 4] = [("NO_COLOR", "1"), ("PAGER", "cat"), ("GEMINI_API_KEY", "k"), ("TERM", "dumb")];

fn from_an_agent(sandbox: &Sandbox, words: &[&str]) -> Ended {
    let mut command = sandbox.command(words);
    command.envs(AGENT).envs(OWN);
    finish(spawn(&mut command), DEADLINE).ok()
}

#[track_caller]
fn check(environment: &str, names: &[(&str, &str)], is_there: bool) {
    for (name, value) in names {
        let entry = format!("{name}={value}");
        assert_eq!(environment.lines().any(|line| line == entry), is_there, "{name} in:\n{environment}");
    }
}

#[test]
fn what_marks_an_agent_is_not_passed_on_unless_asked() {
    let sandbox = Sandbox::new();
    let seen = from_an_agent(&sandbox, &["env"]).out();
    check(&seen, &AGENT, false);
    check(&seen, &OWN, true);
    let seen = from_an_agent(&sandbox, &["run", "--keep-agent-env", "--label", "kept", "env"]).out();
    check(&seen, &AGENT, true);

    let start = |words: &[&str], label: &str| {
        from_an_agent(&sandbox, &[&["start", "--label", label], words, &["sh", "-c", "env; echo over"]].concat());
        let log = || std::fs::read(sandbox.runs().last().unwrap().join("stdout.log")).unwrap_or_default();
        wait_until("its exit", || log().ends_with(b" over\n"));
        String::from_utf8(stripped(&sandbox.runs().last().unwrap().join("stdout.log"))).unwrap()
    };
    check(&start(&[], "a"), &AGENT, false);
    check(&start(&["--keep-agent-env"], "b"), &AGENT, true);
    check(&start(&["--environment", r#"{"CLAUDECODE": "1"}"#], "c"), &[("CLAUDECODE", "1")], true);
}

#[test]
fn a_server_started_by_an_agent_passes_nothing_of_it_on_to_what_others_start() {
    let sandbox = Sandbox::new();
    from_an_agent(&sandbox, &["serve", "--background"]);
    let server = std::fs::read(format!("/proc/{}/environ", sandbox.pid_of_server().unwrap())).unwrap();
    check(&String::from_utf8_lossy(&server).replace('\0', "\n"), &AGENT, false);
    // In the foreground it has what its terminal has.
    sandbox.run(&["shutdown"]).ok();
    let mut server = sandbox.command(&["serve", "-q"]);
    let _server = Guard(spawn(server.envs(AGENT).envs(OWN)));
    sandbox.wait_for_server();
    let started = |environment: serde_json::Value| {
        sandbox.tool_ok(
            "ctrl",
            json!({"action": "start", "command_or_label": "env", "working_directory": sandbox.work(),
                "environment": environment, "label": format!("e{}", sandbox.runs().len()), "wait_for": "PERSISTPROC_RUN"}),
        );
        wait_until("its exit", || sandbox.status(sandbox.runs().len() - 1)["state"] == "exited");
        String::from_utf8(stripped(&sandbox.runs().last().unwrap().join("stdout.log"))).unwrap()
    };
    let seen = started(json!({}));
    check(&seen, &AGENT, false);
    check(&seen, &OWN, true);
    check(&started(json!({"CLAUDECODE": "1"})), &[("CLAUDECODE", "1")], true);
}

#[test]
fn values_of_the_environment_are_shown_nowhere() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let mut shown = Vec::new();
    let say = |words: &[&str]| {
        let mut command = sandbox.command(words);
        let ended = finish(spawn(command.env("API_KEY", SECRET).env("PATH_TO_NOTHING", SECRET)), DEADLINE);
        format!("{} {}", ended.out(), ended.stderr)
    };
    shown.push(say(&[
        "-v",
        "start",
        "--label",
        "web",
        "--environment",
        &format!("{{\"TOKEN\": \"{SECRET}\"}}"),
        "sh",
        "-c",
        "read never",
    ]));
    shown.push(say(&["start", "--label", "missing", "./no-such-program"]));
    shown.push(say(&["start", "--label", "web", "sh", "-c", "read never"]));
    shown.push(say(&["-v", "list"]));
    shown.push(say(&["--format", "json", "list"]));
    shown.push(say(&["restart", "web"]));
    shown.push(say(&["output", "web"]));
    let shim = sandbox.status(sandbox.runs().len() - 1)["shim"].as_i64().unwrap() as i32;
    shown.push(arguments(shim).join(" "));
    shown.push(sandbox.tool_ok("list", json!({})));
    shown.push(say(&["stop", "web"]));
    let files = ["status.json", "shim.log", "stdout.log", "stderr.log", "combined.log"];
    let logs = sandbox.runs().iter().flat_map(|run| files.map(|name| run.join(name))).collect::<Vec<_>>();
    for path in logs.iter().chain(&[sandbox.data().join("server.log"), sandbox.data().join("server.lock")]) {
        shown.push(format!("{}: {}", path.display(), std::fs::read_to_string(path).unwrap_or_default()));
    }
    assert!(shown.len() > 20 && shown.iter().all(|text| !text.contains(SECRET)), "{shown:#?}");
    // It is where it has to be, and for the owner only.
    let meta = sandbox.runs()[0].join("meta.json");
    assert!(std::fs::read_to_string(&meta).unwrap().contains(SECRET));
    assert_eq!(std::fs::metadata(&meta).unwrap().permissions().mode() & 0o777, 0o600);
}
