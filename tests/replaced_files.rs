//! What a program puts in place of the files of its run delays no request: FIFOs, directories and links are recognised, and
//! what the files would have held is reported as missing or is not needed.

use crate::support::*;
use serde_json::json;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// More than anything takes here, also on a loaded machine, and less than a request waits in vain.
const SOON: Duration = Duration::from_secs(15);

/// A program that puts `what` (a command of a shell that makes `$f`) into the place of these files of its run.
fn replace(sandbox: &Sandbox, label: &str, files: &str, what: &str) {
    let script =
        format!("cd \"$PERSISTPROC_RUN\"; for f in {files}; do rm -rf $f; {what}; done; echo done; read never");
    sandbox.run(&["start", "--label", label, "sh", "-c", &script]).ok();
}

#[track_caller]
fn soon(sandbox: &Sandbox, words: &[&str]) -> Ended {
    let begun = Instant::now();
    let ended = finish(sandbox.spawn(words), SOON);
    assert!(begun.elapsed() < SOON, "{words:?}");
    ended
}

/// Every command ends soon, also with a server that finds such files at its start.
fn no_request_is_delayed(what: &str, expected: &str) {
    const FILES: [&str; 6] = [
        "lock",
        "status.json status.new",
        "meta.json",
        "stdout.log combined.log",
        "ctl events",
        "combined.log.1 stderr.log",
    ];
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    for (i, files) in FILES.iter().enumerate() {
        replace(&sandbox, &format!("p{i}"), files, what);
    }
    sandbox.run(&["start", "--label", "whole", "sh", "-c", "echo fine; read never"]).ok();
    let last = |i: usize| sandbox.runs()[i].join(FILES[i].rsplit(' ').next().unwrap());
    // A shim puts it aside when it has something to write there.
    let is_put_aside = |i: usize| last(i).with_added_extension("foreign").symlink_metadata().is_ok();
    let is_foreign =
        |i: usize| is_put_aside(i) || last(i).symlink_metadata().is_ok_and(|found| !found.is_file() || i == 4);
    for i in 0..FILES.len() {
        wait_until("its files to be replaced", || is_foreign(i) || last(i).file_name().unwrap() == "status.new");
    }
    let read_all = || {
        assert_eq!(soon(&sandbox, &["list"]).ok().out().lines().count(), 1 + FILES.len() + 1);
        for i in 0..FILES.len() {
            soon(&sandbox, &["output", &format!("p{i}")]);
        }
        assert!(soon(&sandbox, &["output", "whole"]).ok().out().ends_with("fine\n"));
    };
    read_all();
    wait_until("its log to be recreated", || soon(&sandbox, &["output", "p3"]).out().ends_with("done\n"));
    soon(&sandbox, &["stop", "p0"]).ok();
    drop(server);
    let _server = sandbox.serve();
    // Its label is gone with that file, but not its number.
    let log = fs::read_to_string(sandbox.data().join("server.log")).unwrap();
    assert!(log.contains(&format!("meta.json is damaged ({expected})")), "{log}");
    sandbox.run(&["list"]).ok();
    soon(&sandbox, &["stop", "p1"]).ok();
    soon(&sandbox, &["stop", "r3"]).ok();
    assert!(soon(&sandbox, &["output", "whole"]).ok().out().ends_with("fine\n"));
    let begun = Instant::now();
    soon(&sandbox, &["shutdown"]).ok();
    assert!(begun.elapsed() < SOON);
    assert_eq!(sandbox.leftovers(), Vec::<i32>::new());
}

#[test]
fn fifos_in_the_place_of_a_runs_files_delay_no_request() {
    no_request_is_delayed("mkfifo $f", "it is a FIFO, not a file");
}

#[test]
fn directories_in_the_place_of_a_runs_files_delay_no_request() {
    no_request_is_delayed("mkdir -p $f/full", "it is a directory, not a file");
}

#[test]
fn links_in_the_place_of_a_runs_files_delay_no_request() {
    no_request_is_delayed("ln -s /dev/zero $f", "it is a symbolic link, not a file");
}

#[test]
fn a_run_continues_when_another_fifo_replaces_its_doorbell() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    replace(&sandbox, "web", "events", "mkfifo $f; kill -STOP $$");
    let pid = sandbox.status(0)["pid"].as_i64().unwrap() as i32;
    let state = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    wait_until("it has replaced it", || state(pid).contains(") T "));
    drop(server);
    let _server = sandbox.serve();
    // A server that listens there hears nothing, and the lock tells that the shim lives.
    signal(pid, libc::SIGCONT);
    wait_until("its line", || sandbox.run(&["output", "web"]).ok().out().contains("done"));
    let listed = || sandbox.listed()[0]["status"].clone();
    let begun = Instant::now();
    wait_until("longer than a dying shim takes", || {
        assert_eq!(listed(), "running");
        begun.elapsed() > Duration::from_millis(2500)
    });
    soon(&sandbox, &["stop", "web"]).ok();
    wait_until("its end is known", || listed() == "terminated");
}

#[test]
#[allow(unsafe_code)]
fn a_shim_keeps_no_pipe_of_the_process_that_started_it() {
    let sandbox = Sandbox::new();
    let run = sandbox.root.join("run");
    fs::create_dir(&run).unwrap();
    for fifo in ["ctl", "events"] {
        assert!(Command::new("mkfifo").arg(run.join(fifo)).status().unwrap().success());
    }
    let lock = File::create(run.join("lock")).unwrap();
    lock.lock().unwrap();
    let (mut stray, writer) = std::io::pipe().unwrap();
    let number = writer.as_raw_fd();
    let mut shim = Command::new(BINARY);
    shim.args(["__shim", "--max-log-bytes", "0"]).arg(&run).args(["sh", "-c", "read never"]);
    shim.stdin(lock).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir(sandbox.work());
    // As macOS does it between its pipe(2) and its fcntl(2): this end goes to whatever is started meanwhile.
    unsafe {
        shim.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut shim = Guard(shim.spawn().unwrap());
    drop(writer);
    let mut line = [0; 3];
    shim.0.stdout.take().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ok ");
    let mut polled = libc::pollfd { fd: stray.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let has_ended = unsafe { libc::poll(&raw mut polled, 1, 60_000) } == 1;
    let is_living = shim.0.try_wait().unwrap().is_none();
    // Without a server nothing else ends it: its process reads its stdin, which the shim has.
    signal(shim.pid(), libc::SIGTERM);
    shim.0.wait().unwrap();
    assert!(has_ended && is_living && stray.read(&mut [0]).unwrap() == 0);
    let status: serde_json::Value = serde_json::from_slice(&fs::read(run.join("status.json")).unwrap()).unwrap();
    assert_eq!(status["state"], json!("terminated"));
}

#[test]
fn a_server_keeps_its_data_directory_to_itself_even_without_its_lock_file() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let lock = sandbox.data().join("server.lock");
    fs::remove_file(&lock).unwrap();
    let port = (sandbox.port + 1).to_string();
    let second = soon(&sandbox, &["--port", &port, "serve", "-q"]);
    assert!(second.code == 1 && second.stderr.contains("has the data directory"), "{second:?}");
    // It makes another one, by which it is known.
    wait_until("a new lock", || fs::read_to_string(&lock).is_ok_and(|text| text.contains("\"pid\"")));
    let second = soon(&sandbox, &["--port", &port, "serve", "-q"]);
    assert!(second.code == 1 && second.stderr.contains("PID "), "{second:?}");
    soon(&sandbox, &["shutdown"]).ok();
    let _next = sandbox.serve();
}
