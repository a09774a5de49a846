//! A server that a command started is the child of that command as long as both live: when it exits, it is reaped.

use crate::support::*;
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

/// State and PID of every child of `parent`, also of those that have ended and that nobody has reaped.
fn children(parent: i32) -> Vec<(String, i32)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.to_string();
        (fields.next()?.parse::<i32>().ok()? == parent).then_some((state, pid))
    })
    .collect()
}

fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// Kills the server three times; each time `starter` starts the next, as soon as `need_one` gives it a reason.
fn kill_three_times(sandbox: &Sandbox, starter: i32, mut need_one: impl FnMut()) {
    let server = || wait_for("a server", || sandbox.pid_of_server());
    sandbox.wait_for_server();
    let before = threads(starter);
    for _ in 0..3 {
        let pid = server();
        assert!(signal(pid, libc::SIGKILL));
        wait_until("its exit", || !is_alive(pid));
        wait_until("the next server", || {
            need_one();
            sandbox.pid_of_server().is_some_and(|next| next != pid)
        });
        sandbox.wait_for_server();
    }
    wait_until("no zombie", || children(starter).iter().all(|(state, _)| state != "Z"));
    wait_until("no more threads than before", || threads(starter) <= before + 1);
}

#[test]
fn a_wrapper_reaps_the_servers_that_it_starts() {
    if !cfg!(target_os = "linux") {
        return skip("children are counted in /proc");
    }
    let sandbox = Sandbox::new();
    let wrapper = Guard(sandbox.spawn(&["sh", "-c", "echo up; read never"]));
    wait_until("the process", || sandbox.runs().len() == 1 && sandbox.status(0)["state"] == "running");
    kill_three_times(&sandbox, wrapper.pid(), || {});
}

#[test]
fn a_bridge_reaps_the_servers_that_it_starts() {
    if !cfg!(target_os = "linux") {
        return skip("children are counted in /proc");
    }
    let sandbox = Sandbox::new();
    let mut bridge = Guard(spawn(sandbox.command(&["mcp"]).stdin(Stdio::piped())));
    let mut stdin = bridge.0.stdin.take().unwrap();
    let mut answers = BufReader::new(bridge.0.stdout.take().unwrap()).lines();
    let mut ask = move || {
        stdin.write_all(format!("{}\n", tool_call("list", json!({}))).as_bytes()).unwrap();
        assert!(answers.next().is_some_and(|answer| answer.is_ok()), "an answer");
    };
    ask();
    kill_three_times(&sandbox, bridge.pid(), ask);
}
