//! Stopping ends everything below a process, however it tried to get away, and reports what was needed for that.

use crate::support::*;
use crate::torture::stop_forkers;
use serde_json::json;
use std::time::{Duration, Instant};

/// Starts `script` in a shell and waits until `count` processes of it, shells included, carry `mark` in their words.
fn start(sandbox: &Sandbox, script: &str, mark: &str, count: usize) {
    sandbox.run(&["start", "--label", "tree", "sh", "-c", script]).ok();
    wait_until("the tree", || pids_with(mark).len() >= count);
}

/// Stops it and checks that nobody is left.
#[track_caller]
fn stop(sandbox: &Sandbox, words: &[&str], mark: &str) -> Ended {
    let stopped = sandbox.run(&[&["stop", "tree"], words].concat()).ok();
    assert_eq!(pids_with(mark), Vec::<i32>::new());
    assert_eq!(sandbox.leftovers(), Vec::<i32>::new());
    assert_eq!(sandbox.status(0)["state"], "terminated");
    stopped
}

/// A number of seconds to sleep that nobody else on this machine uses, as a mark.
fn mark(sandbox: &Sandbox, i: u32) -> String {
    format!("{}.{}{i}", 5000 + sandbox.port % 1000, sandbox.port)
}

#[test]
fn a_child_in_another_session_is_stopped() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 1);
    start(&sandbox, &format!("setsid sh -c 'sleep {m} & exec sleep {m}' & exec sleep {m}"), &m, 3);
    stop(&sandbox, &[], &m);
}

#[test]
fn a_double_fork_does_not_get_away() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 2);
    start(&sandbox, &format!("(setsid sleep {m} &); (sleep {m} &); exec sleep {m}"), &m, 3);
    stop(&sandbox, &[], &m);
}

#[test]
fn the_nasty_tree_of_the_peers_is_stopped() {
    // The leader ends on TERM; A ignores TERM in the same group; B has left with setsid; C is a double fork.
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 3);
    let script = format!(
        "trap 'exit 0' TERM
        (trap '' TERM; while :; do sleep {m}; done) &
        setsid sh -c 'trap \"\" TERM; while :; do sleep {m}; done' &
        ( (setsid sleep {m} &) & )
        while :; do echo line; sleep 0.2; done"
    );
    start(&sandbox, &script, &format!("sleep {m}"), 3);
    let begun = Instant::now();
    stop(&sandbox, &[], &m);
    assert!(begun.elapsed() >= Duration::from_secs(8), "those who ignore TERM have the grace of 8 s");
    let stop = &sandbox.status(0)["stop"];
    assert!(stop["killed"].as_u64() >= Some(2) && stop["survivors"] == json!([]), "{stop}");
}

#[test]
fn a_leader_that_ignores_term_is_killed_after_the_grace_and_at_once_by_force() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 4);
    start(&sandbox, &format!("trap '' TERM; echo deaf; while :; do sleep {m}; done"), &format!("sleep {m}"), 1);
    let begun = Instant::now();
    let stopped = stop(&sandbox, &["--force"], &m);
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert!(stopped.out().contains("SIGKILL") && stopped.out().contains("had to be killed"), "{}", stopped.out());
    assert_eq!(sandbox.status(0)["signal"], 9);
}

#[test]
fn processes_that_exit_on_sigterm_are_not_killed_and_get_it_once() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 5);
    let count = format!(
        "n=0; trap 'n=$((n+1))' TERM; echo ready; i=0; while [ $i -lt 40 ] && [ $n -eq 0 -o $i -lt 20 ]; do i=$((i+1)); sleep 0.05; done; echo \"TERM $n {m}\""
    );
    sandbox.script("polite", &format!("#!/bin/sh\n{count}\n"));
    sandbox.run(&["start", "--label", "tree", "sh", "-c", "./polite & setsid ./polite & wait; wait"]).ok();
    wait_until("both", || sandbox.run(&["output", "tree"]).out().matches("ready").count() == 2);
    sandbox.run(&["stop", "tree"]).ok();
    let said = sandbox.run(&["output", "tree"]).out();
    assert_eq!(said.matches("TERM 1 ").count(), 2, "{said}");
    assert_eq!(sandbox.status(0)["stop"]["killed"], 0);
}

#[test]
fn a_stopped_process_is_woken_so_that_it_can_end() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 6);
    start(&sandbox, &format!("setsid sleep {m} & exec sleep {m}"), &m, 2);
    for pid in pids_with(&m) {
        signal(pid, libc::SIGSTOP);
    }
    stop(&sandbox, &[], &m);
    assert_eq!(sandbox.status(0)["stop"]["killed"], 0, "TERM was enough for all");
}

#[test]
fn processes_left_by_the_leader_are_listed_captured_and_stopped() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 7);
    start(&sandbox, &format!("(setsid sh -c 'while echo alive; do sleep 0.1; done; sleep {m}' &); exit 3"), &m, 1);
    let listed = || sandbox.listed()[0].clone();
    wait_until("detached", || listed()["status"] == "detached");
    assert_eq!(listed()["exit_code"], 3);
    let lines = || sandbox.run(&["output", "tree", "--lines", "10000"]).out().lines().count();
    let before = lines();
    wait_until("more output", || lines() > before + 2);
    let stopped = stop(&sandbox, &[], &m);
    assert!(stopped.out().contains("exit code 3"), "{}", stopped.out());
}

#[test]
fn stopping_is_idempotent_and_safe_from_many_at_once() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 8);
    start(&sandbox, &format!("sleep {m}; echo survived"), &m, 1);
    let stops: Vec<_> = (0..6).map(|_| sandbox.spawn(&["stop", "tree"])).collect();
    for child in stops {
        let ended = finish(child, DEADLINE).ok();
        assert!(ended.out().contains("'tree'") && ended.out().contains("SIGTERM"), "{}", ended.out());
    }
    let again = stop(&sandbox, &[], &m);
    assert!(again.out().contains("had ended already"), "{}", again.out());
    assert_eq!(sandbox.status(0)["stop"]["asked"], 2);
}

#[test]
fn two_hundred_children_are_stopped_together() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 9);
    start(&sandbox, &format!("i=0; while [ $i -lt 200 ]; do sleep {m} & i=$((i+1)); done; wait"), &m, 200);
    stop(&sandbox, &[], &m);
}

#[test]
fn a_server_started_inside_a_run_is_not_part_of_it() {
    let sandbox = Sandbox::new();
    let inner = Sandbox::new();
    let _server = sandbox.serve();
    let script = format!(
        "PERSISTPROC_PORT={} PERSISTPROC_DATA_DIR={} {BINARY} start sh -c 'read never'; read never",
        inner.port,
        inner.data().display()
    );
    sandbox.run(&["start", "--label", "tree", "sh", "-c", &script]).ok();
    wait_until("the inner run", || inner.runs().len() == 1 && inner.status(0)["state"] == "running");
    sandbox.run(&["stop", "tree"]).ok();
    assert_eq!(sandbox.status(0)["state"], "terminated");
    assert_eq!(inner.status(0)["state"], "running");
    inner.run(&["list"]).ok();
}

#[test]
fn restart_never_lets_two_instances_overlap() {
    let sandbox = Sandbox::new();
    // Takes what only one can have, and lets go slowly.
    let script = "mkdir taken || { echo OVERLAP; exit 9; }; trap 'sleep 0.3; rmdir taken; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    sandbox.run(&["start", "--label", "one", "sh", "-c", script]).ok();
    wait_until("the first", || sandbox.run(&["output", "one"]).out().contains("up"));
    for _ in 0..2 {
        let restarts: Vec<_> = (0..3).map(|_| sandbox.spawn(&["--format", "json", "restart", "one"])).collect();
        for child in restarts {
            assert_eq!(finish(child, DEADLINE).ok().json()["action"], "restart");
        }
        wait_until("it is up", || sandbox.run(&["output", "one"]).out().contains("up"));
    }
    for (i, run) in sandbox.runs().iter().enumerate() {
        assert!(
            !String::from_utf8(std::fs::read(run.join("combined.log")).unwrap()).unwrap().contains("OVERLAP"),
            "run {i}"
        );
    }
    let live = (0..sandbox.runs().len()).filter(|i| sandbox.status(*i)["state"] == "running").count();
    assert_eq!(live, 1);
}

#[test]
fn fifty_that_fork_while_they_are_stopped_all_go() {
    assert!(stop_forkers(50) > 0);
}

#[test]
fn a_stop_frees_the_port_of_what_its_leader_left_behind() {
    let sandbox = Sandbox::new();
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        return skip("python3 is not there to listen on a port");
    }
    let listen = "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('port', s.getsockname()[1], flush=True); time.sleep(5000)";
    let script = format!("(setsid python3 -c \"{listen}\" &); exit 0");
    sandbox.run(&["start", "--label", "tree", "sh", "-c", &script]).ok();
    let port: u16 = wait_for("it listens", || {
        let said = sandbox.run(&["output", "tree"]).ok().out();
        said.split_once(" port ")?.1.trim().parse().ok()
    });
    wait_until("detached", || sandbox.status(0)["state"] == "detached");
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    sandbox.run(&["stop", "tree"]).ok();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody still listens");
}

#[test]
fn zombies_are_neither_waited_for_nor_left() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 10);
    // Ten children end, and their parent, which is not a shell, never asks.
    let script = format!("for i in 1 2 3 4 5 6 7 8 9 10; do true & done; exec sleep {m}");
    start(&sandbox, &script, &format!("sleep {m}"), 1);
    let leader = sandbox.status(0)["pid"].as_i64().unwrap() as i32;
    let zombies = || children(leader).into_iter().filter(|pid| !is_alive(*pid)).count();
    wait_until("zombies", || zombies() == 10);
    stop(&sandbox, &[], &m);
    assert_eq!(sandbox.status(0)["stop"]["killed"], 0, "TERM was enough for all");
    assert!(children(sandbox.status(0)["shim"].as_i64().unwrap() as i32).is_empty());
}

fn children(of: i32) -> Vec<i32> {
    let path = format!("/proc/{of}/task/{of}/children");
    std::fs::read_to_string(path).unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn stopped_children_in_every_corner_are_woken_and_end() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 11);
    let script = format!("i=0; while [ $i -lt 20 ]; do setsid sleep {m} & sleep {m} & i=$((i+1)); done; wait");
    start(&sandbox, &script, &format!("sleep {m}"), 40);
    for pid in pids_with(&m) {
        signal(pid, libc::SIGSTOP);
    }
    stop(&sandbox, &[], &m);
    assert_eq!(sandbox.status(0)["stop"]["killed"], 0, "TERM was enough for all");
    assert_eq!(sandbox.status(0)["stop"]["killed"], 0);
}

#[test]
fn a_process_we_may_not_stop_is_named_and_the_run_stays_until_it_exits() {
    let sandbox = Sandbox::new();
    let Some(user) = AnotherUser::new(&sandbox) else { return };
    let m = mark(&sandbox, 12);
    // What sudo does: a descendant that belongs to root.
    let Some(root) = user.as_root("sleep", &m) else { return };
    user.run(&["start", "--label", "tree", "sh", "-c", &format!("{root} & exec sleep {m}")]).ok();
    wait_until("both", || pids_with(&m).len() == 2);
    let begun = Instant::now();
    let refused = user.run(&["stop", "tree"]);
    assert!(refused.code == 1 && refused.stderr.contains("could not be stopped"), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let left = pids_with(&m);
    assert!(left.len() == 1 && refused.stderr.contains(&left[0].to_string()), "{refused:?} {left:?}");
    assert_eq!(sandbox.status(0)["state"], "detached");
    assert_eq!(user.run(&["stop", "--force", "tree"]).code, 1, "again, and soon");
    signal(left[0], libc::SIGKILL);
    wait_until("the end", || sandbox.status(0)["state"] == "terminated");
    user.run(&["stop", "tree"]).ok();
    user.run(&["shutdown"]).ok();
}

#[test]
fn a_storm_of_ctrl_c_at_wrapper_and_server_ends_both_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let m = mark(&sandbox, 13);
    let script = format!("trap '' INT TERM; setsid sleep {m} & echo up; while :; do sleep {m}; done");
    let wrapper = Guard(sandbox.spawn(&["--on-exit", "stop", "--label", "tree", "sh", "-c", &script]));
    wait_until("the tree", || pids_with(&format!("sleep {m}")).len() >= 2);
    for pid in [wrapper.pid(), server.pid()] {
        for _ in 0..50 {
            signal(pid, libc::SIGINT);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    // Both had more than one, so nobody waits for the grace.
    let begun = Instant::now();
    let ended = wrapper.end(DEADLINE);
    assert!(ended.code != 0 && !ended.stderr.contains("mistake"), "{ended:?}");
    let ended = server.end(DEADLINE);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(begun.elapsed() < Duration::from_secs(7), "it took the whole grace");
    assert_eq!((pids_with(&m), sandbox.leftovers()), (vec![], vec![]));
    assert_eq!(sandbox.status(0)["state"], "terminated");
}

#[test]
fn a_process_whose_first_thread_exited_is_not_a_zombie_and_is_stopped() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        return skip("python3 is not there to end a thread");
    }
    let sandbox = Sandbox::new();
    let script = "import ctypes, signal, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Thread(target=time.sleep, args=(5000,)).start()
print('up', flush=True)
ctypes.CDLL(None).pthread_exit(None)";
    sandbox.run(&["start", "--label", "tree", "python3", "-c", script]).ok();
    let leader = sandbox.status(0)["pid"].as_i64().unwrap() as i32;
    wait_until("it to look dead", || sandbox.run(&["output", "tree"]).out().contains("up") && !is_alive(leader));
    let tasks = || std::fs::read_dir(format!("/proc/{leader}/task")).map_or(0, Iterator::count);
    assert_eq!((tasks(), &sandbox.status(0)["state"]), (2, &json!("running")));
    let stopped = sandbox.run(&["stop", "--force", "tree"]).ok();
    assert!(stopped.out().contains("SIGKILL"), "{}", stopped.out());
    assert_eq!((tasks(), &sandbox.status(0)["stop"]["killed"]), (0, &json!(1)));
}

#[test]
fn where_a_sandbox_forbids_pidfds_signals_arrive_all_the_same() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 14);
    start(&sandbox, &format!("setsid sleep {m} & exec sleep {m}"), &m, 2);
    let shim = sandbox.status(0)["shim"].as_i64().unwrap();
    let rule = ["-e", "trace=pidfd_open", "-e", "inject=pidfd_open:error=EPERM"];
    let Some(_tracer) = inject(shim as i32, &rule) else { return };
    stop(&sandbox, &[], &m);
    assert_eq!(sandbox.status(0)["stop"]["killed"], 0, "TERM was enough for all");
}

#[test]
fn a_persistproc_command_inside_a_run_is_stopped_with_it_whatever_its_arguments_but_a_server_is_not() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.script("serve", "#!/bin/sh\necho inner; read never\n");
    let data = sandbox.root.join("other");
    let words = format!("-q --label inner{} ./serve serve", sandbox.port);
    let other = format!("PERSISTPROC_DATA_DIR={} PERSISTPROC_PORT=0 setsid {BINARY}", data.display());
    let script = format!("{other} & {BINARY} {words}");
    sandbox.run(&["start", "--label", "outer", "sh", "-c", &script]).ok();
    wait_until("the one inside", || sandbox.run(&["output", "outer"]).ok().out().contains("inner"));
    let holder = wait_for("the other server", || {
        let text = std::fs::read_to_string(data.join("server.lock")).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()
    });
    let other = holder["pid"].as_i64().unwrap() as i32;
    sandbox.run(&["stop", "outer"]).ok();
    assert_eq!(pids_with(&words), [0; 0]);
    // What it showed is a run of its own.
    assert!(is_alive(other) && sandbox.run(&["list"]).ok().out().contains("running"));
    signal(other, libc::SIGTERM);
    wait_until("the end of the other server", || !is_alive(other));
}

#[test]
fn a_run_whose_shim_is_stopped_is_stopped_all_the_same() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let shim = |run: usize| sandbox.status(run)["shim"].as_i64().unwrap() as i32;
    let m = mark(&sandbox, 60);
    for (run, words) in
        [&["stop", "tree"][..], &["stop", "--force", "tree"], &["restart", "tree"], &["shutdown"]].iter().enumerate()
    {
        if run < 3 {
            start(&sandbox, &format!("exec sleep {m}"), &m, 1);
        }
        let stopped = shim(run);
        signal(stopped, libc::SIGSTOP);
        let state = || std::fs::read_to_string(format!("/proc/{stopped}/stat")).unwrap_or_default();
        wait_until("it to be stopped", || !cfg!(target_os = "linux") || state().contains(") T "));
        let begun = Instant::now();
        sandbox.run(words).ok();
        assert!(begun.elapsed() < Duration::from_secs(10), "{words:?}: {:?}", begun.elapsed());
        assert_eq!(sandbox.status(run)["state"], "terminated", "{words:?}");
    }
    assert_eq!(pids_with(&m), Vec::<i32>::new());
}

#[test]
fn a_program_with_a_name_of_ours_is_stopped_like_any_other() {
    let sandbox = Sandbox::new();
    let m = mark(&sandbox, 61);
    let sleep = std::process::Command::new("sh").args(["-c", "command -v sleep"]).output().unwrap().stdout;
    let sleep = String::from_utf8(sleep).unwrap().trim().to_string();
    for name in ["persistproc-srv", "persistproc"] {
        std::fs::copy(&sleep, sandbox.work().join(name)).unwrap();
    }
    // Names and words of a server and of a shim; and a lock that is not held.
    std::fs::write(sandbox.work().join("server.lock"), "{\"pid\":1,").unwrap();
    let script = format!(
        "setsid ./persistproc-srv {m} 3< server.lock & setsid bash -c 'exec -a x ./persistproc {m}' & exec sleep {m}"
    );
    start(&sandbox, &script, &m, 3);
    stop(&sandbox, &[], &m);
}

#[test]
fn a_server_that_was_started_from_inside_a_run_is_not_stopped_with_it() {
    let sandbox = Sandbox::new();
    let other = sandbox.root.join("other");
    let script =
        format!("{BINARY} --data-dir {} --no-tcp -q start --label inner sleep 1000; read never", other.display());
    sandbox.run(&["start", "--label", "tree", "sh", "-c", &script]).ok();
    let inner = |words: &[&str]| {
        let data = other.display().to_string();
        sandbox.run(&[&["--data-dir", &data, "--no-autostart"], words].concat())
    };
    wait_until("the other server", || inner(&["list"]).out().contains("inner"));
    sandbox.run(&["stop", "tree"]).ok();
    assert!(inner(&["list"]).ok().out().contains("running"), "{}", inner(&["list"]).out());
    inner(&["shutdown"]).ok();
}

#[test]
#[cfg(target_os = "linux")]
fn where_a_shim_may_not_adopt_what_double_forks_it_is_stopped_all_the_same() {
    const PR_SET_CHILD_SUBREAPER: i32 = 36;
    let sandbox = Sandbox::new();
    let mut server = sandbox.command(&["serve", "-q"]);
    forbid(&mut server, libc::SYS_prctl, PR_SET_CHILD_SUBREAPER, libc::EPERM);
    let Ok(server) = server.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn() else {
        return skip("no system call may be forbidden here");
    };
    let _server = Guard(server);
    sandbox.wait_for_server();
    let m = mark(&sandbox, 62);
    let script = format!(
        "(setsid sleep {m} &); (env -i sleep {m} &); (env -i setsid sleep {m} &); setsid sleep {m} & exec sleep {m}"
    );
    start(&sandbox, &script, &m, 5);
    stop(&sandbox, &[], &m);
    // The end of a program whose children have all ended is noticed.
    sandbox.run(&["--label", "short", "sh", "-c", "(sleep 0.2 &); exit 3"]);
    wait_until("its exit", || sandbox.status(1)["state"] == "exited");
}
