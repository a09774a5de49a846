//! Processes left by a killed shim are found, reported and stopped, whatever happened to their environment, and nothing else
//! is mistaken for them. Also what continues inside the server meanwhile: locks, and restarts while the server exits.

use crate::support::*;
use serde_json::json;
use std::time::{Duration, Instant};

/// A number of seconds to sleep that no other process on this machine uses. What has it in its words ends with the test,
/// also if that fails: a sandbox does not recognise what cleaned its environment.
struct Mark(String);

impl Mark {
    fn new(sandbox: &Sandbox, i: u32) -> Mark {
        Mark(format!("{}.{}{i}", 6000 + sandbox.port % 1000, sandbox.port))
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // Several times, because some of them fork meanwhile.
        for _ in 0..100 {
            let left = pids_with(&self.0);
            if left.is_empty() {
                break;
            }
            for pid in left {
                signal(pid, libc::SIGKILL);
            }
        }
    }
}

/// Starts `words` as process `web`, waits until `count` processes have `mark` in their words, and kills its shim.
fn lose(sandbox: &Sandbox, words: &[&str], mark: &str, count: usize) {
    sandbox.run(&[&["start", "--label", "web"], words].concat()).ok();
    wait_until("the tree", || pids_with(mark).len() >= count);
    let run = sandbox.runs().len() - 1;
    signal(sandbox.status(run)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
    wait_until("lost", || list(sandbox)["status"] == "lost");
}

fn list(sandbox: &Sandbox) -> serde_json::Value {
    sandbox.run(&["--format", "json", "list", "--command-or-label", "web"]).ok().json()["processes"][0].clone()
}

/// Each of them is told, and a stop ends them all.
#[track_caller]
fn told_and_stopped(sandbox: &Sandbox, mark: &str) {
    let told = list(sandbox)["error"].as_str().unwrap().to_string();
    for pid in pids_with(mark) {
        assert!(told.contains(&format!("PID {pid}")), "{pid} is missing: {told}");
    }
    let stopped = sandbox.run(&["stop", "web"]).ok();
    assert!(!stopped.out().contains("had ended already"), "{stopped:?}");
    assert_eq!(pids_with(mark), Vec::<i32>::new());
    let told = list(sandbox)["error"].as_str().unwrap().to_string();
    assert!(!told.contains("live on"), "{told}");
}

#[test]
fn a_run_that_cleaned_its_environment_is_found_by_its_session() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let m = Mark::new(&sandbox, 1);
    let script = format!("/bin/sleep {m} & /bin/sleep {m}; :");
    lose(&sandbox, &["--", "env", "-i", "/bin/sh", "-c", &script], &m.0, 3);
    told_and_stopped(&sandbox, &m.0);
    // The next server finds them as well, and its shutdown leaves none.
    lose(&sandbox, &["--", "env", "-i", "/bin/sh", "-c", &script], &m.0, 3);
    drop(server);
    let _server = sandbox.serve();
    assert!(list(&sandbox)["error"].as_str().unwrap().contains("live on"));
    sandbox.run(&["shutdown"]).ok();
    assert_eq!(pids_with(&m.0), Vec::<i32>::new());
}

#[test]
fn a_double_fork_with_a_clean_environment_is_found_after_its_leader_has_gone() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let m = Mark::new(&sandbox, 2);
    let script =
        format!("(env -i sh -c 'trap \"\" TERM; while :; do sleep {m}; done' &); (setsid env sleep {m} &); exit 3");
    lose(&sandbox, &["sh", "-c", &script], &format!("sleep {m}"), 2);
    told_and_stopped(&sandbox, &m.0);
}

#[test]
fn a_process_that_overwrote_its_environment_is_found() {
    if std::process::Command::new("perl").arg("-v").output().is_err() {
        return skip("perl is not there to overwrite its environment");
    }
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let m = Mark::new(&sandbox, 3);
    // As setproctitle(3) does it: over the arguments and on over the environment behind them. Its script does not hold the
    // title as such, so that it is there only when that is done.
    let script = format!("$0 = 'tit' . 'le {m} ' . 'x' x 20000; sleep 5000");
    lose(&sandbox, &["perl", "-e", &script], &format!("title {m}"), 1);
    assert_eq!(sandbox.leftovers(), Vec::<i32>::new(), "its environment shows the mark, so this tests nothing");
    told_and_stopped(&sandbox, &m.0);
}

#[test]
fn processes_that_fork_with_a_clean_environment_while_they_are_stopped_all_end() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let m = Mark::new(&sandbox, 4);
    // Each ignores TERM and goes on as a child of its own.
    let script = format!(
        "trap '' TERM; f() {{ sleep 0.05; f & exit; }}; for i in 1 2 3 4 5 6 7 8; do f & done; while :; do sleep 0.1; done; : {m}"
    );
    lose(&sandbox, &["env", "-i", "PATH=/bin:/usr/bin", "sh", "-c", &script], &m.0, 8);
    sandbox.run(&["stop", "--force", "web"]).ok();
    assert_eq!(pids_with(&m.0), Vec::<i32>::new());
}

#[test]
fn a_session_with_the_pid_of_a_killed_shim_is_not_mistaken_for_its_run() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let m = Mark::new(&sandbox, 5);
    lose(&sandbox, &["sh", "-c", &format!("exec sleep {m}")], &m.0, 1);
    sandbox.run(&["stop", "web"]).ok();
    drop(server);
    // An unrelated session whose number the status has for its shim's, as if that had been given out again.
    let unrelated = Guard(std::process::Command::new("setsid").args(["sleep", &m.0]).spawn().unwrap());
    wait_until("its session", || pids_with(&format!("sleep {m}")).contains(&unrelated.pid()));
    let path = sandbox.runs()[0].join("status.json");
    let mut status = sandbox.status(0);
    assert!(status["alive"]["tick"].as_u64() > Some(0), "{status}");
    status["shim"] = json!(unrelated.pid());
    std::fs::write(&path, status.to_string()).unwrap();
    let _server = sandbox.serve();
    assert!(!list(&sandbox)["error"].as_str().unwrap().contains("live on"));
    let stopped = sandbox.run(&["stop", "web"]).ok();
    assert!(stopped.out().contains("had ended already") && is_alive(unrelated.pid()), "{stopped:?}");
}

#[test]
fn a_label_like_the_name_of_something_inside_blocks_nothing() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "while read line; do echo got $line; done; exec sleep 5000";
    sandbox.run(&["start", "--label", "what is left of r1", "sh", "-c", script]).ok();
    sandbox.run(&["start", "--label", "input of r2", "sh", "-c", script]).ok();
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "input of r2", "text": "x"}));
    signal(sandbox.status(0)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
    let states = || sandbox.run(&["list"]).ok().out();
    wait_until("lost", || states().contains("lost"));
    let begun = Instant::now();
    sandbox.run(&["restart", "what is left of r1"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(30), "the restart waited for itself");
}

/// Halts a process as a debugger does, so that no signal continues it; or lets it go on. From the same thread.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn halt(pid: i32, is_halted: bool) -> bool {
    let null = std::ptr::null_mut::<libc::c_void>();
    let call = |request: libc::c_uint| unsafe { libc::ptrace(request, pid, null, null) == 0 };
    if !is_halted {
        return call(libc::PTRACE_DETACH);
    }
    let mut status = 0;
    call(libc::PTRACE_SEIZE)
        && call(libc::PTRACE_INTERRUPT)
        && unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) == pid }
}

#[test]
#[cfg(target_os = "linux")]
fn a_restart_in_progress_is_finished_before_the_server_exits_however_long_it_takes() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "read never"]).ok();
    let (pid, shim) = (sandbox.status(0)["pid"].as_i64().unwrap(), sandbox.status(0)["shim"].as_i64().unwrap());
    // A machine that is too busy to let the shim run.
    if !halt(shim as i32, true) {
        return skip("one may not trace here");
    }
    let restart = sandbox.spawn(&["restart", "web"]);
    let log = || std::fs::read_to_string(sandbox.data().join("server.log")).unwrap();
    wait_until("the request", || std::fs::metadata(sandbox.runs()[0].join("ctl")).is_ok() && is_told(&sandbox));
    let mut leave = sandbox.spawn(&["shutdown", "--keep"]);
    wait_until("the server to begin its exit", || log().contains("asked to leave"));
    let begun = Instant::now();
    let has_left = wait_for("more than the grace and what is beyond", || {
        let has_left = leave.try_wait().unwrap().is_some();
        (has_left || begun.elapsed() > Duration::from_millis(15_500)).then_some(has_left)
    });
    assert!(halt(shim as i32, false));
    assert!(!has_left, "the server left between the stop and the start");
    finish(restart, DEADLINE).ok();
    finish(leave, DEADLINE).ok();
    assert_eq!(server.end(DEADLINE).code, 0);
    assert_eq!((is_alive(pid as i32), &sandbox.status(1)["state"]), (false, &json!("running")));
}

/// Whether there is a message for the shim of the first run that it has not read.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn is_told(sandbox: &Sandbox) -> bool {
    use std::os::fd::AsRawFd;
    let ctl = std::fs::OpenOptions::new().read(true).write(true).open(sandbox.runs()[0].join("ctl")).unwrap();
    let mut polled = libc::pollfd { fd: ctl.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    unsafe { libc::poll(&raw mut polled, 1, 0) == 1 }
}

#[test]
fn a_daemon_that_has_left_its_session_and_its_environment_is_found_by_its_output() {
    if !cfg!(target_os = "linux") {
        return skip("pipes of a process are told by /proc");
    }
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mark = Mark::new(&sandbox, 70);
    // Twice, so that its parent is gone as well.
    let daemon = format!("(env -i setsid sh -c 'sleep {mark} & exec sleep {mark}' &); exec sleep {mark}");
    lose(&sandbox, &["sh", "-c", &daemon], &mark.0, 3);
    told_and_stopped(&sandbox, &mark.0);
    assert_eq!(pids_with(&mark.0), Vec::<i32>::new());
}

#[test]
fn processes_that_hold_the_other_end_of_a_pipe_or_a_pipe_of_another_run_are_not_part_of_the_run() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let (mark, other) = (Mark::new(&sandbox, 71), Mark::new(&sandbox, 72));
    // A pipeline of the user's, and another run.
    let clean = format!("env -i setsid sleep {other} | env -i setsid sleep {other}");
    let mut pipeline = std::process::Command::new("sh").args(["-c", &clean]).spawn().unwrap();
    sandbox.run(&["start", "--label", "other", "sh", "-c", &format!("env -i setsid sleep {other}; true")]).ok();
    // Two shells, and three that sleep.
    wait_until("them", || pids_with(&other.0).len() == 5);
    lose(&sandbox, &["sleep", &mark.0], &mark.0, 1);
    told_and_stopped(&sandbox, &mark.0);
    assert_eq!(pids_with(&other.0).len(), 5);
    sandbox.run(&["stop", "other"]).ok();
    assert_eq!(pids_with(&other.0).len(), 3);
    drop(other);
    pipeline.wait().unwrap();
}
