//! The server may be killed at any moment: no line is lost, doubled or torn, and no child notices.

use crate::support::*;
use crate::torture::kill_servers_under_load;
use serde_json::json;
use std::io::Read;
use std::time::Duration;

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
    let log = |at_least: u64| {
        let length = |run: &std::path::PathBuf| std::fs::metadata(run.join("stdout.log")).map_or(0, |log| log.len());
        wait_until("output", || sandbox.runs().last().is_some_and(|run| length(run) > at_least));
    };
    log(0);
    let mut kills = 0;
    while kills < 20 {
        let pid = wait_for("a server", || sandbox.pid_of_server());
        sandbox.wait_for_server();
        assert!(signal(pid, libc::SIGKILL));
        kills += 1;
        wait_until("its exit", || !is_alive(pid));
        // Sometimes somebody else starts the next one, sometimes the wrapper has to.
        if kills % 2 == 0 {
            sandbox.run(&["serve", "--background", "-q"]);
        }
    }
    log(50_000); // more than a thousand lines
    std::fs::write(sandbox.work().join("enough"), "").unwrap();
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 42, "{}", ended.stderr);
    let lines = sandbox.status(0)["lines"][0].as_u64().unwrap();
    assert!(lines > 1000, "{lines}");
    let expected: String = (0..lines).map(|i| format!("line {i}\n")).collect();
    assert!(seen.join().unwrap() == expected, "what the wrapper showed");
    let run = &sandbox.runs()[0];
    assert!(stripped(&run.join("stdout.log")) == expected.as_bytes(), "what the log has");
    assert_eq!(sandbox.status(0)["exit_code"], 42);
}

#[test]
fn a_process_that_exits_without_a_server_keeps_its_output_and_exit_code() {
    let sandbox = Sandbox::new();
    let flag = sandbox.work().join("flag");
    let script = "while [ ! -e flag ]; do sleep 0.02; done; seq 1 20000; exit 7";
    for i in 0..3 {
        sandbox.run(&["start", "--label", &format!("p{i}"), "sh", "-c", script]).ok();
    }
    let pid = sandbox.pid_of_server().unwrap();
    signal(pid, libc::SIGKILL);
    wait_until("its exit", || !is_alive(pid));
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
fn a_server_killed_during_a_start_leaves_no_incomplete_run() {
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
    wait_until("shims that had just started", || {
        let listed = sandbox.listed();
        let processes = listed.as_array().unwrap();
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
        if let Some(pid) = sandbox.pid_of_server() {
            signal(pid, libc::SIGKILL);
            wait_until("its exit", || !is_alive(pid));
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
fn a_killed_shim_makes_its_run_lost_and_affects_no_other() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "other", "sh", "-c", "read never"]).ok();
    let mut wrapper = Guard(sandbox.spawn(&["--label", "victim", "sh", "-c", "while echo line; do sleep 0.01; done"]));
    wrapper.0.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    signal(sandbox.status(1)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("it is not known how 'victim' ended"), "{}", ended.stderr);
    let listed = sandbox.listed();
    let states: Vec<&str> = listed.as_array().unwrap().iter().map(|p| p["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["running", "lost"]);
    sandbox.run(&["stop", "victim"]).ok();
    sandbox.run(&["output", "victim", "-n", "1"]).ok();
    sandbox.run(&["restart", "victim"]).ok();
    assert_eq!(sandbox.status(2)["state"], "running");
}

#[test]
fn kills_under_load_are_not_noticed_by_any_wrapper_wait_or_process() {
    assert!(kill_servers_under_load(5).lines > 1000);
}

#[test]
fn a_wait_continues_at_the_next_server_from_the_same_position() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let script = "while [ ! -e flag ]; do sleep 0.01; done; echo ready; seq 1 2000; read never";
    sandbox.run(&["start", "--label", "slow", "sh", "-c", script]).ok();
    let begin = sandbox.run(&["--format", "json", "output", "slow"]).ok().json()["cursor"].clone();
    let words = ["output", "slow", "--wait-for", "^ready", "--timeout", "40", "--lines", "10000", "--after"];
    let wait = sandbox.spawn(&[&words[..], &[begin.as_str().unwrap()]].concat());
    let is_socket = |file: std::fs::DirEntry| {
        std::fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    wait_until("it is connected", || {
        std::fs::read_dir(format!("/proc/{}/fd", wait.id()))
            .is_ok_and(|mut files| files.any(|f| f.is_ok_and(is_socket)))
    });
    drop(server); // kill -9
    // What is waited for comes while there is no server.
    std::fs::write(sandbox.work().join("flag"), "").unwrap();
    wait_until("all is written", || sandbox.status(0)["lines"][0] == 2001);
    let _server = sandbox.serve();
    let answer = finish(wait, DEADLINE).ok().out();
    assert_eq!((answer.lines().count(), answer.contains("Z ready\n")), (2001, true), "{answer}");
}

#[test]
fn processes_left_by_a_killed_shim_are_reported_and_can_be_stopped() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "other", "sh", "-c", "read never"]).ok();
    // One of them has cleaned its environment, but not its parentage; one ignores TERM.
    let script =
        "trap '' TERM; setsid sleep 5000 & (setsid sh -c 'env -i sleep 5000; :' &); while :; do sleep 5000; done";
    sandbox.run(&["start", "--label", "web", "sh", "-c", script]).ok();
    wait_until("the tree", || pids_with("sleep 5000").len() >= 3);
    let tree: Vec<i32> = sandbox.leftovers();
    signal(sandbox.status(1)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
    let list =
        || sandbox.run(&["--format", "json", "list", "--command-or-label", "web"]).ok().json()["processes"][0].clone();
    wait_until("lost", || list()["status"] == "lost");
    let told = list()["error"].as_str().unwrap().to_string();
    assert!(told.contains("live on") && told.contains(&format!("PID {}", tree[1])), "{told}");
    assert!(std::fs::read_to_string(sandbox.data().join("server.log")).unwrap().contains("live on"));

    // It still has its port: nothing takes its place before it is gone.
    for words in [&["start", "--label", "web", "true"][..], &["--label", "web", "true"]] {
        let refused = sandbox.run(words);
        assert!(refused.code == 1 && refused.stderr.contains("live on"), "{refused:?}");
    }
    let stops: Vec<_> = (0..2).map(|_| sandbox.spawn(&["--format", "json", "stop", "web"])).collect();
    for stop in stops {
        finish(stop, DEADLINE).ok();
    }
    wait_until("only the other one", || sandbox.leftovers().len() == 1);
    assert_eq!(
        (sandbox.status(1)["state"].clone(), sandbox.status(1)["stop"]["killed"].as_u64() >= Some(1)),
        (json!("lost"), true)
    );
    assert!(!list()["error"].as_str().unwrap().contains("live on"));
    assert_eq!(sandbox.status(0)["state"], "running");
    sandbox.run(&["start", "--label", "web", "true"]).ok();
}

#[test]
fn restart_and_shutdown_stop_processes_left_by_a_killed_shim() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let script =
        // A shell says that its child was terminated, and without a shim there is nobody to say it to.
        "exec 2> /dev/null; trap 'rmdir taken; exit 0' TERM; mkdir taken || { echo OVERLAP; exit 9; }; while :; do sleep 0.05; done";
    sandbox.run(&["start", "--label", "web", "sh", "-c", script]).ok();
    wait_until("it is up", || sandbox.work().join("taken").exists());
    let kill = |run: usize| signal(sandbox.status(run)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
    kill(0);
    let states = || sandbox.run(&["list"]).ok().out();
    wait_until("lost", || states().contains("lost"));
    sandbox.run(&["restart", "web"]).ok();
    wait_until("it is up", || sandbox.work().join("taken").exists());
    assert_eq!(sandbox.status(1)["state"], "running");
    kill(1);
    wait_until("lost", || states().contains("lost"));
    // Also by a server that finds it so.
    drop(server);
    let _server = sandbox.serve();
    sandbox.run(&["shutdown"]).ok();
    assert_eq!(sandbox.leftovers(), Vec::<i32>::new());
    assert!(!sandbox.work().join("taken").exists(), "it was asked, not only killed");
}

/// Starts a process that goes on without its shim, and kills that: its pid.
fn lose(sandbox: &Sandbox, label: &str) -> i32 {
    sandbox.run(&["start", "--label", label, "sh", "-c", "exec sleep 5000"]).ok();
    let run = sandbox.runs().len() - 1;
    signal(sandbox.status(run)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
    wait_until("lost", || sandbox.run(&["list", "--command-or-label", label]).ok().out().contains("lost"));
    sandbox.status(run)["pid"].as_i64().unwrap() as i32
}

#[test]
fn a_shim_killed_before_it_could_say_that_its_command_runs_hides_no_process() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let pid = lose(&sandbox, "web");
    drop(server);
    // As the shim leaves it before it starts the command: that is the last word if it is killed right behind that.
    let unborn = json!({"version": 1, "state": "failed", "pid": 0, "shim": 1, "started": 1, "bytes": [0, 0, 0],
        "lines": [0, 0, 0], "error": {"errno": 0, "text": "the shim ended before it could start the command"}});
    std::fs::write(sandbox.runs()[0].join("status.json"), unborn.to_string()).unwrap();
    let _server = sandbox.serve();
    let listed = sandbox.listed()[0].clone();
    assert_eq!(listed["status"], "lost");
    assert!(listed["error"].as_str().unwrap().contains(&format!("PID {pid} of it live on")), "{listed}");
    sandbox.run(&["stop", "web"]).ok();
    assert!(!is_alive(pid));
}

#[test]
fn a_lost_run_is_kept_as_long_as_something_of_it_is_alive() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let pid = lose(&sandbox, "oldest");
    for _ in 0..52 {
        sandbox.run(&["--label", "short", "true"]).ok();
    }
    wait_until("old runs to go", || sandbox.runs().len() == 51);
    assert!(sandbox.runs()[0].ends_with("000001.sh_-c__exec_sleep_5000"), "{:?}", sandbox.runs()[0]);
    drop(server);
    let _server = sandbox.serve();
    wait_until("it is found", || sandbox.run(&["list"]).ok().out().contains(&format!("PID {pid} of it live on")));
    sandbox.run(&["stop", "oldest"]).ok();
    assert!(!is_alive(pid));
    // It is not the newest of its label any more either.
    sandbox.run(&["--label", "oldest", "true"]).ok();
    wait_until("it goes, too", || {
        sandbox.runs().len() == 50 && !sandbox.runs()[0].ends_with("000001.sh_-c__exec_sleep_5000")
    });
}

#[test]
#[allow(unsafe_code)]
fn a_stop_that_comes_while_a_shim_is_being_born_is_heard() {
    use std::fs::{File, OpenOptions};
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.run(&["--label", "web", "true"]).ok();
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    drop(server);
    // The same again, as its server left it when it was killed: the lock is the shim's, who does not listen yet.
    let run = sandbox.runs().remove(0);
    let ended = std::fs::read(run.join("status.json")).unwrap();
    std::fs::remove_file(run.join("status.json")).unwrap();
    let lock = File::open(run.join("lock")).unwrap();
    lock.lock().unwrap();
    // Somebody who listens to its bell would believe that it is gone.
    let _bell = OpenOptions::new().read(true).write(true).open(run.join("events")).unwrap();
    let _server = sandbox.serve();
    let stop = sandbox.spawn(&["stop", "web"]);
    wait_until("the request", || sandbox.connections() > 0);
    for _ in 0..5 {
        sandbox.run(&["list"]).ok(); // meanwhile it has been told, or gave up
    }
    let mut ctl = OpenOptions::new().read(true).write(true).open(run.join("ctl")).unwrap();
    let mut heard = libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&ctl), events: libc::POLLIN, revents: 0 };
    assert_eq!(unsafe { libc::poll(&mut heard, 1, 10_000) }, 1, "nobody told it to stop");
    let mut bytes = [0; 64];
    let n = ctl.read(&mut bytes).unwrap();
    assert_eq!(&bytes[..n], b"stop 8000\n");
    std::fs::write(run.join("status.json"), ended).unwrap();
    drop((lock, _bell));
    finish(stop, DEADLINE).ok();
}

#[test]
fn a_shim_killed_while_it_stops_its_run_does_not_end_the_stop() {
    let sandbox = Sandbox::new();
    // Ends when it is asked a second time: by whoever sees that the shim cannot go on.
    let script = "exec 2> /dev/null; trap 'mkdir asked || exit 0' TERM; touch up; while :; do sleep 0.02; done";
    let (up, asked) = (sandbox.work().join("up"), sandbox.work().join("asked"));
    for stop in [&["stop", "web"][..], &["restart", "web"], &["shutdown"]] {
        if !stop.contains(&"shutdown") {
            sandbox.run(&["start", "--label", "web", "sh", "-c", script]).ok();
        }
        wait_until("it is up", || up.exists());
        std::fs::remove_file(&up).unwrap();
        let run = sandbox.runs().len() - 1;
        let pid = |name: &str| sandbox.status(run)[name].as_i64().unwrap() as i32;
        let (leader, shim) = (pid("pid"), pid("shim"));
        let stop = sandbox.spawn(stop);
        wait_until("it was asked", || asked.exists());
        signal(shim, libc::SIGKILL);
        finish(stop, DEADLINE).ok();
        assert!(!is_alive(leader));
        std::fs::remove_dir(&asked).unwrap();
    }
}
