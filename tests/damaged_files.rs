//! Files in the data directory that are damaged or foreign are reported, never stop the server, and hide nothing else.

use crate::support::*;
use std::fs;
use std::path::PathBuf;

fn log(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.data().join("server.log")).unwrap_or_default()
}

/// The state of each run, by number of the run.
fn states(sandbox: &Sandbox) -> Vec<(String, String)> {
    let listed = sandbox.listed();
    let processes = listed.as_array().unwrap();
    processes.iter().map(|p| (p["run"].as_str().unwrap().into(), p["status"].as_str().unwrap().into())).collect()
}

/// Damages files of runs 1 to 6, 8 and 9.
fn damage(runs: &[PathBuf]) {
    let file = |i: usize, name: &str| runs[i - 1].join(name);
    fs::write(file(1, "status.json"), "").unwrap();
    fs::write(file(2, "status.json"), "{\"version\":1,\"state\":\"exi").unwrap();
    let meta = fs::read(file(3, "meta.json")).unwrap();
    fs::write(file(3, "meta.json"), &meta[..meta.len() / 2]).unwrap();
    fs::remove_file(file(4, "status.json")).unwrap();
    fs::write(file(5, "status.json"), [0u8; 2048]).unwrap();
    fs::write(file(6, "combined.log"), b"\xff\xfe no record at all\n\0\0\n").unwrap();
    fs::write(file(8, "meta.json"), "[]").unwrap();
    fs::write(file(9, "status.json"), "").unwrap();
}

#[test]
fn damaged_files_of_runs_are_reported_and_hide_no_other() {
    let sandbox = Sandbox::new();
    for i in 1..=7 {
        sandbox.run(&["--label", &format!("p{i}"), "echo", &format!("output {i}")]).ok();
    }
    sandbox.run(&["start", "--label", "live1", "sh", "-c", "echo up; read never"]).ok();
    sandbox.run(&["start", "--label", "live2", "sh", "-c", "echo up; read never"]).ok();
    sandbox.run(&["shutdown", "--keep"]).ok();
    let runs = sandbox.runs();
    damage(&runs);
    let foreign = sandbox.data().join("runs");
    fs::write(foreign.join("notes.txt"), "mine").unwrap();
    fs::create_dir(foreign.join("000099.not_ours")).unwrap();
    fs::create_dir(foreign.join(".new.1.77")).unwrap();
    std::os::unix::fs::symlink("/nowhere", foreign.join("000098.link")).unwrap();

    let _server = sandbox.serve();
    let states = states(&sandbox);
    let expected = [
        ("r1", "lost"),
        ("r2", "lost"),
        ("r3", "exited"),
        ("r4", "failed"),
        ("r5", "lost"),
        ("r6", "exited"),
        ("r7", "exited"),
        ("r8", "running"),
    ];
    for (run, state) in expected {
        assert!(states.contains(&(run.into(), state.into())), "{run} {state}: {states:?}");
    }
    let log = log(&sandbox);
    for run in [1, 2, 3, 5, 8, 9] {
        assert!(log.contains(&runs[run - 1].display().to_string()), "r{run} is not in:\n{log}");
    }
    assert!(log.contains("notes.txt") && log.contains("000099.not_ours"), "{log}");
    assert!(foreign.join("notes.txt").exists() && foreign.join("000099.not_ours").exists());
    assert!(!foreign.join(".new.1.77").exists(), "what a killed server left half-made is swept");

    // What is whole is read as ever, and what is live is stopped as ever.
    assert!(sandbox.run(&["output", "p7"]).ok().out().ends_with(" output 7\n"));
    assert!(sandbox.run(&["output", "p1"]).ok().out().ends_with(" output 1\n"), "its log is whole");
    sandbox.run(&["output", "p6"]).ok();
    for run in ["r8", "r9"] {
        sandbox.run(&["stop", run]).ok();
    }
    assert_eq!(sandbox.leftovers(), Vec::<i32>::new());
    let restart = sandbox.run(&["restart", "r3"]);
    assert!(restart.code == 1 && restart.stderr.contains("meta.json"), "{restart:?}");
    // Numbers go on behind everything that is there.
    sandbox.run(&["--label", "next", "true"]).ok();
    assert!(sandbox.runs().iter().any(|run| run.file_name().unwrap().to_string_lossy().starts_with("000010.true")));
}

#[test]
fn files_of_a_newer_version_are_left_alone_and_reported() {
    let sandbox = Sandbox::new();
    sandbox.run(&["--label", "old", "true"]).ok();
    sandbox.run(&["shutdown"]).ok();
    let run = sandbox.runs()[0].clone();
    let newer = "{\"version\": 99, \"wonders\": []}";
    fs::write(run.join("meta.json"), newer).unwrap();
    let _server = sandbox.serve();
    assert_eq!(states(&sandbox), []);
    assert!(log(&sandbox).contains("newer persistproc (format 99)"), "{}", log(&sandbox));
    for _ in 0..52 {
        sandbox.run(&["--label", "n", "true"]).ok();
    }
    wait_until("old runs to go", || sandbox.runs().len() <= 51);
    assert_eq!(fs::read_to_string(run.join("meta.json")).unwrap(), newer);
}

#[test]
fn the_data_directory_may_vanish_under_a_server_without_ending_it() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["--label", "gone", "echo", "x"]).ok();
    fs::remove_dir_all(sandbox.data().join("runs")).unwrap();
    let ended = sandbox.run(&["true"]);
    assert!(ended.code == 1 && ended.stderr.contains("--data-dir"), "{ended:?}");
    sandbox.run(&["list"]).ok();
    let ended = sandbox.run(&["output", "gone"]);
    assert!(ended.code == 1 && ended.stderr.contains("was removed or moved away"), "{ended:?}");
}

/// Counts into the log, with a name from its environment, until it is told to end.
const WRITER: &str = "while [ ! -e end-$WHO ]; do echo $WHO; sleep 0.02; done; exit 42";

fn start_writer(sandbox: &Sandbox, who: &str) -> i32 {
    let mut start = sandbox.command(&["start", "--label", "web", "sh", "-c", WRITER]);
    finish(spawn(start.env("WHO", who)), DEADLINE).ok();
    wait_until("output", || fs::metadata(sandbox.runs()[0].join("stdout.log")).is_ok_and(|log| log.len() > 0));
    sandbox.status(0)["pid"].as_i64().unwrap() as i32
}

#[test]
fn what_ran_before_the_data_directory_was_removed_writes_nothing_into_the_new_one() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    start_writer(&sandbox, "old");
    let shim = sandbox.status(0)["shim"].as_i64().unwrap() as i32;
    drop(server);
    fs::remove_dir_all(sandbox.data()).unwrap();
    let _server = sandbox.serve();
    let new = start_writer(&sandbox, "new"); // the first run again, and so the same name
    fs::write(sandbox.work().join("end-old"), "").unwrap();
    wait_until("the end of the old one", || !is_alive(shim));
    let status = sandbox.status(0);
    assert_eq!((status["pid"].as_i64(), status["state"].as_str()), (Some(i64::from(new)), Some("running")));
    fs::write(sandbox.work().join("end-new"), "").unwrap();
    wait_until("the end of the new one", || sandbox.status(0)["exit_code"] == 42);
    for log in ["stdout.log", "combined.log"] {
        let text = String::from_utf8(stripped(&sandbox.runs()[0].join(log))).unwrap();
        assert!(text.lines().count() > 0 && text.lines().all(|line| line == "new"), "{text}");
    }
}

#[test]
fn runs_go_on_in_a_data_directory_that_is_moved() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let pid = start_writer(&sandbox, "web");
    drop(server);
    let elsewhere = sandbox.root.join("elsewhere");
    fs::rename(sandbox.data(), &elsewhere).unwrap();
    let on = |words: &[&str]| sandbox.run(&[&["--data-dir", elsewhere.to_str().unwrap()], words].concat());
    on(&["serve", "--background", "-q"]).ok();
    assert!(on(&["list"]).ok().out().contains(&pid.to_string()));
    fs::write(sandbox.work().join("end-web"), "").unwrap();
    wait_until("its exit", || on(&["list"]).ok().out().contains("exited, exit code 42"));
    on(&["shutdown"]).ok();
    fs::rename(&elsewhere, sandbox.data()).unwrap();
}
