//! A server that is stopped (SIGSTOP), as by a debugger: commands report what they wait for and what helps, and wrappers
//! outlast it.
#![cfg(target_os = "linux")]

use crate::support::*;
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

fn stop(pid: i32) {
    signal(pid, libc::SIGSTOP);
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    wait_until("it to be stopped", || state().contains(") T "));
}

#[test]
fn a_command_reports_what_it_waits_for_and_continues_when_the_server_does() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.run(&["--label", "web", "echo", "up"]).ok();
    stop(server.pid());
    let commands = [&["list"][..], &["output", "web"], &["restart", "web"], &["start", "true"]];
    let mut started: Vec<_> = commands.iter().map(|words| Guard(sandbox.spawn(words))).collect();
    for (words, command) in commands.iter().zip(&mut started) {
        let mut first = String::new();
        BufReader::new(command.0.stderr.as_mut().unwrap()).read_line(&mut first).unwrap();
        let expected = format!("the server (PID {0}) is stopped: `kill -CONT {0}` continues it", server.pid());
        assert!(first.contains(&expected), "{words:?}: {first}");
    }
    signal(server.pid(), libc::SIGCONT);
    started.into_iter().for_each(|command| drop(command.end(DEADLINE).ok()));
}

#[test]
fn a_wrapper_continues_while_its_server_is_stopped_and_shows_what_is_printed() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let script =
        "echo 1; while [ ! -e go ]; do sleep 0.02; done; seq 2 100; while [ ! -e enough ]; do sleep 0.02; done; exit 5";
    let mut wrapper = Guard(sandbox.spawn(&["sh", "-c", script]));
    let mut out = BufReader::new(wrapper.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    stop(server.pid());
    std::fs::write(sandbox.work().join("go"), "").unwrap();
    // Its long-poll has to end first.
    for expected in 2..=100 {
        line.clear();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{expected}\n"));
    }
    let mut note = String::new();
    BufReader::new(wrapper.0.stderr.as_mut().unwrap()).read_line(&mut note).unwrap();
    std::fs::write(sandbox.work().join("enough"), "").unwrap();
    wait_until("the program to exit", || sandbox.status(0)["state"] == "exited");
    let begun = std::time::Instant::now();
    wait_until("longer than a wrapper tries to reach a server that is gone", || {
        assert!(is_alive(wrapper.pid()));
        begun.elapsed() > Duration::from_secs(16)
    });
    signal(server.pid(), libc::SIGCONT);
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 5, "{ended:?}");
    let all = note + &ended.stderr;
    assert!(all.contains("is stopped") && all.contains("the process keeps running"), "{all}");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
