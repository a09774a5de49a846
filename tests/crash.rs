//! The server may be killed at any moment: no line is lost, doubled or torn, and no child notices.

use crate::support::*;
use serde_json::json;
use std::io::Read;
use std::time::Duration;

fn pid_of_server(sandbox: &Sandbox) -> Option<i32> {
    let lock: serde_json::Value =
        serde_json::from_slice(&std::fs::read(sandbox.data().join("server.lock")).ok()?).ok()?;
    lock["pid"].as_i64().map(|pid| pid as i32).filter(|pid| is_alive(*pid))
}

#[test]
fn twenty_kills_in_the_middle_of_output_lose_and_double_no_line() {
    let sandbox = Sandbox::new();
    let script =
        "i=0; while [ ! -e enough ]; do echo line $i; i=$((i+1)); [ $((i % 200)) -ne 0 ] || sleep 0.005; done; exit 42";
    let mut wrapper = Guard(sandbox.spawn(&["-q", "sh", "-c", script]));
    let mut out = wrapper.0.stdout.take().unwrap();
    let seen = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let mut kills = 0;
    while kills < 20 {
        let pid = wait_for("a server", || pid_of_server(&sandbox));
        sandbox.wait_for_server();
        assert!(signal(pid, libc::SIGKILL));
        kills += 1;
        wait_until("its death", || !is_alive(pid));
        // Sometimes somebody else starts the next one, sometimes the wrapper has to.
        if kills % 2 == 0 {
            sandbox.run(&["serve", "--background", "-q"]);
        }
    }
    std::fs::write(sandbox.work().join("enough"), "").unwrap();
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 42, "{}", ended.stderr);
    // The first kill may have come before the shim was born; then the run that counts is the next one.
    let last = sandbox.runs().len() - 1;
    let lines = sandbox.status(last)["lines"][0].as_u64().unwrap();
    assert!(lines > 1000, "{lines}");
    let expected: String = (0..lines).map(|i| format!("line {i}\n")).collect();
    assert!(seen.join().unwrap() == expected, "what the wrapper showed");
    let run = &sandbox.runs()[last];
    assert!(stripped(&run.join("stdout.log")) == expected.as_bytes(), "what the log has");
    assert_eq!(sandbox.status(last)["exit_code"], 42);
}

#[test]
fn what_ends_while_no_server_is_there_keeps_its_output_and_its_exit_code() {
    let sandbox = Sandbox::new();
    let flag = sandbox.work().join("flag");
    let script = "while [ ! -e flag ]; do sleep 0.02; done; seq 1 20000; exit 7";
    for i in 0..3 {
        sandbox.run(&["start", "--label", &format!("p{i}"), "sh", "-c", script]).ok();
    }
    let pid = pid_of_server(&sandbox).unwrap();
    signal(pid, libc::SIGKILL);
    wait_until("its death", || !is_alive(pid));
    std::fs::write(flag, "").unwrap();
    wait_until("the end of all", || (0..3).all(|i| sandbox.status(i)["state"] == "exited"));
    let _server = sandbox.serve();
    for i in 0..3 {
        let label = format!("p{i}");
        let listed = sandbox.run(&["--format", "json", "list", "--command-or-label", &label]).ok().json();
        assert_eq!(
            (&listed["processes"][0]["status"], &listed["processes"][0]["exit_code"]),
            (&json!("exited"), &json!(7))
        );
        assert!(sandbox.run(&["output", &label]).ok().out().ends_with("Z 20000\n"));
        assert_eq!(sandbox.status(i)["lines"][0], 20_000);
    }
}

#[test]
fn a_server_killed_while_it_starts_something_leaves_no_half_run() {
    let sandbox = Sandbox::new();
    let mut answered = 0;
    for i in 0..25 {
        let server = sandbox.serve();
        let start = sandbox.spawn(&["--no-autostart", "start", "--label", &format!("p{i}"), "sh", "-c", "read never"]);
        std::thread::sleep(Duration::from_micros(i * 400));
        signal(server.pid(), libc::SIGKILL);
        answered += usize::from(finish(start, DEADLINE).code == 0);
        drop(server);
    }
    let _server = sandbox.serve();
    // Alive and known are the same; those that had an answer are among them.
    wait_until("shims that had just been born", || {
        let listed = sandbox.run(&["--format", "json", "list"]).ok().json();
        let processes = listed["processes"].as_array().unwrap().clone();
        let running = processes.iter().filter(|p| p["status"] == "running").count();
        assert!(processes.iter().all(|p| ["running", "failed"].contains(&p["status"].as_str().unwrap())), "{listed}");
        running == sandbox.leftovers().len() && running >= answered
    });
    assert!(
        !std::fs::read_dir(sandbox.data().join("runs")).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".new"))
    );
}

#[test]
fn a_command_whose_server_dies_before_it_answers_is_run_exactly_once() {
    let sandbox = Sandbox::new();
    for i in 0..20 {
        let server = sandbox.serve();
        let start =
            sandbox.spawn(&["-q", "start", "--label", &format!("p{i}"), "sh", "-c", &format!("echo {i} >> once")]);
        std::thread::sleep(Duration::from_micros(i * 400));
        drop(server); // kill -9
        finish(start, DEADLINE).ok();
        // The one that took its place, unless it was not needed.
        if let Some(pid) = pid_of_server(&sandbox) {
            signal(pid, libc::SIGKILL);
            wait_until("its death", || !is_alive(pid));
        }
    }
    let expected: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    let lines = || std::fs::read_to_string(sandbox.work().join("once")).unwrap_or_default();
    wait_until("all of them", || lines().lines().count() >= 20);
    let mut seen: Vec<String> = lines().lines().map(String::from).collect();
    seen.sort_by_key(|line| line.parse::<u32>().unwrap());
    assert_eq!(seen, expected);
}

#[test]
fn a_killed_shim_makes_its_run_lost_and_disturbs_nobody_else() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "other", "sh", "-c", "read never"]).ok();
    let mut wrapper = Guard(sandbox.spawn(&["--label", "victim", "sh", "-c", "while echo line; do sleep 0.01; done"]));
    wrapper.0.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    signal(sandbox.status(1)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("nobody knows how it ended"), "{}", ended.stderr);
    let listed = sandbox.run(&["--format", "json", "list"]).ok().json();
    let states: Vec<&str> =
        listed["processes"].as_array().unwrap().iter().map(|p| p["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["running", "lost"]);
    sandbox.run(&["stop", "victim"]).ok();
    sandbox.run(&["output", "victim", "-n", "1"]).ok();
    sandbox.run(&["restart", "victim"]).ok();
    assert_eq!(sandbox.status(2)["state"], "running");
}
