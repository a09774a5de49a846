//! Disks that are full, read-only or slow, directories that vanish, and a system without descriptors or processes: no
//! process is killed because of it, the problem is reported, and afterwards everything continues without help.

use crate::support::*;
use crate::torture::anonymous;
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// A small file system of its own below a sandbox.
struct SmallDisk<'a>(&'a Sandbox);

impl<'a> SmallDisk<'a> {
    /// As the data directory. `None`, with the reason printed, where one may not mount.
    fn new(sandbox: &'a Sandbox, kilobytes: u32) -> Option<SmallDisk<'a>> {
        fs::create_dir_all(sandbox.data()).unwrap();
        let size = format!("size={kilobytes}k,mode=700");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(sandbox.data()).output();
        match mount {
            Ok(output) if output.status.success() => Some(SmallDisk(sandbox)),
            Ok(output) => skip(String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => skip(&format!("cannot mount: {error}")),
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Nothing may hold it any more.
        let _ = self.0.command(&["shutdown"]).output();
        let _ = Command::new("umount").arg("-l").arg(self.0.data()).output();
    }
}

/// A server for which a shell has set `limits` before.
fn serve_within(sandbox: &Sandbox, limits: &str) -> Guard {
    let server = Guard(spawn(&mut sandbox.shell(&format!("{limits}; exec \"$0\" serve -q"))));
    sandbox.wait_for_server();
    server
}

/// Numbers, as many as there are, to the end of `enough`.
const COUNT: &str =
    "i=0; while [ ! -e enough ]; do seq $i $((i+999)); i=$((i+1000)); sleep 0.005; done; echo end $i; exit 42";

#[track_caller]
fn check_count(log: &std::path::Path) {
    let text = String::from_utf8(stripped(log)).unwrap();
    let end: usize = text.trim_end().rsplit_once("end ").unwrap().1.parse().unwrap();
    let expected: String = (0..end).map(|i| format!("{i}\n")).chain([format!("end {end}\n")]).collect();
    assert!(text == expected, "{} of {end} lines", text.lines().count());
}

#[test]
fn on_a_full_disk_the_process_waits_and_with_space_it_continues_without_loss() {
    let sandbox = Sandbox::new();
    let Some(_disk) = SmallDisk::new(&sandbox, 4096) else { return };
    let ballast = sandbox.data().join("ballast");
    fs::write(&ballast, vec![1; 3 << 20]).unwrap();
    let server = sandbox.serve();
    sandbox.run(&["start", "--label", "web", "sh", "-c", COUNT]).ok();
    wait_until("the I/O error to be reported", || {
        sandbox.listed()[0]["error"].as_str().is_some_and(|error| error.contains("No space left"))
    });
    assert_eq!(sandbox.listed()[0]["status"], "running");
    // Everything else is as ever, and a new server sees the same.
    assert!(sandbox.run(&["output", "web", "--lines", "3"]).ok().out().lines().count() == 3);
    drop(server);
    let _server = sandbox.serve();
    assert!(sandbox.listed()[0]["error"].as_str().unwrap().contains("No space left"));
    let refused = sandbox.run(&["start", "--label", "next", "true"]);
    assert!(refused.code == 1 && refused.stderr.contains("No space left"), "{refused:?}");
    assert!(refused.stderr.contains("--data-dir") || refused.stderr.contains("free some room"), "{}", refused.stderr);

    fs::remove_file(&ballast).unwrap();
    wait_until("it goes on", || sandbox.listed()[0]["error"].is_null());
    fs::write(sandbox.work().join("enough"), "").unwrap();
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    assert_eq!((&sandbox.status(0)["exit_code"], &sandbox.status(0)["lost_bytes"]), (&json!(42), &json!(null)));
    check_count(&sandbox.runs()[0].join("stdout.log"));
}

#[test]
fn a_stop_on_a_full_disk_finishes_and_reports_how_much_was_lost() {
    let sandbox = Sandbox::new();
    let Some(_disk) = SmallDisk::new(&sandbox, 1024) else { return };
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "web", "yes"]).ok();
    wait_until("the I/O error to be reported", || !sandbox.listed()[0]["error"].is_null());
    sandbox.run(&["stop", "web"]).ok();
    let status = sandbox.status(0);
    assert_eq!(status["state"], "terminated");
    let lost = status["lost_bytes"].as_u64().unwrap();
    let told = sandbox.listed()[0]["error"].as_str().unwrap().to_string();
    assert!(lost > 0 && told.contains(&format!("{lost} bytes of output were lost")), "{told}");
    assert!(told.contains("No space left"), "{told}");
}

#[test]
fn output_that_a_full_disk_never_accepted_is_reported_to_every_reader_and_is_a_failure() {
    let sandbox = Sandbox::new();
    let Some(_disk) = SmallDisk::new(&sandbox, 1024) else { return };
    let _server = sandbox.serve();
    let wrapper = Guard(sandbox.spawn(&[
        "-q",
        "--label",
        "web",
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do seq 1000 & wait $!; done",
    ]));
    let follow = |words: &[&str]| Guard(sandbox.spawn(&[&["-q", "output", "web", "--follow"], words].concat()));
    wait_until("the process", || sandbox.listed()[0]["status"] == "running");
    let followers = [follow(&[]), follow(&["--grep", "^1$"])];
    wait_until("the I/O error to be reported", || !sandbox.listed()[0]["error"].is_null());
    sandbox.run(&["stop", "web"]).ok();
    let lost = sandbox.status(0)["lost_bytes"].as_u64().unwrap();
    let ended = wrapper.end(DEADLINE);
    let expected = format!(
        "persistproc: output is missing here: {lost} bytes could not be written to the log (No space left on device"
    );
    assert!(lost > 0 && ended.stderr.contains(&expected) && !ended.stderr.contains("goes on"), "{lost}: {ended:?}");
    assert_eq!(ended.code, 1);
    for follower in followers {
        let ended = follower.end(DEADLINE);
        assert!(ended.code == 1 && ended.stderr.contains(&format!("{lost} bytes ")), "{lost}: {}", ended.stderr);
    }
    // What was kept, and what was shown, ends with a whole line, and is what the program printed.
    let kept = String::from_utf8(stripped(&sandbox.runs()[0].join("stdout.log"))).unwrap();
    for (what, text) in [("kept", &kept), ("shown", &ended.out())] {
        let lines = text.split_terminator('\n').enumerate();
        let wrong = lines.clone().find(|(i, line)| *line != format!("{}", i % 1000 + 1));
        assert!(wrong.is_none() && text.ends_with('\n') && lines.count() > 10_000, "{what}: {wrong:?}");
    }
    let read = sandbox.run(&["-q", "output", "web", "--lines", "1"]).ok();
    assert!(read.out().trim_end().ends_with(kept.lines().last().unwrap()), "{read:?}");
    assert!(read.stderr.contains(&format!("'web' r1: {lost} bytes of output were lost (No space left")), "{read:?}");
}

#[test]
fn a_file_size_limit_is_a_full_disk() {
    let sandbox = Sandbox::new();
    // In blocks of 512 bytes or of 1 KiB, as the shell has it.
    let server = serve_within(&sandbox, "ulimit -f 200");
    sandbox.run(&["start", "--label", "web", "sh", "-c", COUNT]).ok();
    wait_until("the I/O error to be reported", || {
        sandbox.listed()[0]["error"].as_str().is_some_and(|error| error.contains("File too large"))
    });
    let pid = sandbox.status(0)["pid"].as_i64().unwrap() as i32;
    assert!(is_alive(pid) && is_alive(server.pid()));
    // The log of the server reaches its limit, too.
    fs::OpenOptions::new().write(true).open(sandbox.data().join("server.log")).unwrap().set_len(250_000).unwrap();
    sandbox.run(&["start", "--label", "other", "true"]).ok();
    sandbox.run(&["stop", "web"]).ok();
    assert!(is_alive(server.pid()));
    assert_eq!(sandbox.status(0)["state"], "terminated");
    assert!(sandbox.status(0)["lost_bytes"].as_u64() > Some(0));
}

#[test]
fn a_data_directory_that_cannot_be_written_is_reported_and_harms_no_running_process() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let Some(user) = AnotherUser::new(&sandbox) else { return };
    user.run(&["start", "--label", "web", "sh", "-c", COUNT]).ok();
    let runs = sandbox.data().join("runs");
    let set = |mode: u32| {
        for dir in [&sandbox.runs()[0], &runs, &sandbox.data()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set(0o500);
    let refused = user.run(&["start", "--label", "next", "true"]);
    assert!(refused.code == 1 && refused.stderr.contains("Permission denied"), "{refused:?}");
    // What runs is captured, told and ended as ever.
    let lines = sandbox.status(0)["lines"][0].as_u64().unwrap();
    wait_until("more lines", || sandbox.status(0)["lines"][0].as_u64() > Some(lines + 1000));
    fs::write(sandbox.work().join("enough"), "").unwrap();
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    user.run(&["shutdown"]).ok();
    let refused = user.run(&["list"]);
    assert_eq!(refused.code, 3);
    let refused = user.run(&["serve"]);
    assert!(refused.code == 1 && refused.stderr.contains("--data-dir"), "{refused:?}");
    set(0o700);
    check_count(&sandbox.runs()[0].join("stdout.log"));
    user.run(&["start", "--label", "next", "true"]).ok();
    user.run(&["shutdown"]).ok();
}

#[test]
fn a_run_whose_directory_is_removed_lives_on_is_reported_and_can_be_stopped() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "web", "sh", "-c", COUNT]).ok();
    let pid = sandbox.status(0)["pid"].as_i64().unwrap() as i32;
    // The shim may be writing a file anew just now.
    wait_until("it to be gone", || sandbox.runs().first().is_none_or(|run| fs::remove_dir_all(run).is_ok()));
    wait_until("it is told", || {
        sandbox.listed()[0]["error"].as_str().is_some_and(|error| error.contains("directory was removed"))
    });
    assert!(is_alive(pid) && sandbox.listed()[0]["status"] == "running");
    sandbox.run(&["start", "--label", "other", "true"]).ok();
    sandbox.run(&["stop", "web"]).ok();
    // Its shim has told the server what it could write nowhere.
    assert_eq!(sandbox.listed()[0]["status"], "terminated");
    assert!(sandbox.listed()[0]["error"].as_str().unwrap().contains("directory was removed"));
    assert!(!is_alive(pid) && sandbox.leftovers().is_empty());
}

#[test]
fn a_removed_log_is_recreated_and_reports_how_much_is_gone() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut wrapper = Guard(sandbox.spawn(&["--label", "web", "sh", "-c", COUNT]));
    let mut out = wrapper.0.stdout.take().unwrap();
    // Nothing is kept of what nobody reads: this wrapper reads on, and so does whoever comes later.
    let shown = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()).unwrap());
    wait_until("some lines", || sandbox.runs().len() == 1 && sandbox.status(0)["lines"][0].as_u64() > Some(5000));
    for name in ["stdout.log", "combined.log"] {
        fs::remove_file(sandbox.runs()[0].join(name)).unwrap();
    }
    wait_until("the new ones", || sandbox.runs()[0].join("combined.log").exists());
    wait_until("new lines in them", || sandbox.run(&["output", "web", "--lines", "2"]).ok().out().lines().count() == 2);
    fs::write(sandbox.work().join("enough"), "").unwrap();
    let ended = wrapper.end(DEADLINE);
    assert!(ended.code == 42 && shown.join().unwrap() > 0, "{}", ended.stderr);
    assert!(sandbox.run(&["output", "web", "--lines", "1"]).ok().out().contains("Z end "));
    assert!(
        fs::read(sandbox.runs()[0].join("combined.log")).unwrap().starts_with(b"# persistproc: continues at byte ")
    );
}

#[test]
fn while_the_output_is_not_read_the_process_waits_and_memory_does_not_grow() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    // A shim that does not get to write is what a slow disk makes of it.
    let script = format!("yes {} | head -c 40000000; echo; echo end; read never", "x".repeat(99));
    sandbox.run(&["start", "--label", "web", "sh", "-c", &script]).ok();
    let shim = sandbox.status(0)["shim"].as_i64().unwrap() as i32;
    let mut most = [0; 2];
    for _ in 0..10 {
        signal(shim, libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(20));
        // It answers nothing, and still everybody else is served.
        assert_eq!(sandbox.listed()[0]["status"], "running");
        signal(shim, libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(5));
        for (most, pid) in most.iter_mut().zip([shim, server.pid()]) {
            *most = anonymous(pid).unwrap().max(*most);
        }
    }
    wait_until("the end", || sandbox.run(&["output", "web", "--lines", "1"]).ok().out().contains("Z end"));
    assert_eq!(sandbox.status(0)["lost_bytes"], json!(null));
    assert!(most[0] <= 1500 && most[1] <= 5000, "{most:?} kB");
    // A stop that comes while it is frozen waits for it.
    signal(shim, libc::SIGSTOP);
    let stop = sandbox.spawn(&["stop", "web"]);
    std::thread::sleep(Duration::from_millis(50));
    signal(shim, libc::SIGCONT);
    finish(stop, DEADLINE).ok();
}

#[test]
fn without_descriptors_a_server_still_ends_in_order() {
    let sandbox = Sandbox::new();
    let descriptors = |server: &Guard| fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let server = sandbox.serve();
    wait_until("no client to be connected", || sandbox.connections() == 0);
    let own = descriptors(&server);
    drop(server);
    let limit = own + 4; // as few connections as there may be at least
    let server = serve_within(&sandbox, &format!("ulimit -n {limit}"));
    wait_until("no client to be connected", || descriptors(&server) == own);
    // They say nothing and stay.
    let mut idle = Vec::new();
    while own + idle.len() < limit {
        idle.push(std::net::TcpStream::connect(("127.0.0.1", sandbox.port)).unwrap());
        wait_until("one more is connected", || descriptors(&server) == own + idle.len());
    }
    signal(server.pid(), libc::SIGHUP);
    let ended = server.end(DEADLINE);
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn without_descriptors_errors_are_clear_no_run_is_thought_dead_and_all_comes_back() {
    let sandbox = Sandbox::new();
    let server = serve_within(&sandbox, "ulimit -n 40");
    sandbox.run(&["start", "--label", "first", "sh", "-c", "while [ ! -e flag ]; do sleep 0.01; done; exit 7"]).ok();
    // Every live run takes one, so some start is refused.
    let mut started = vec!["first".to_string()];
    let refused = wait_for("a refusal", || {
        let label = format!("p{}", started.len());
        let ended = sandbox.run(&["start", "--label", &label, "sh", "-c", "read never"]);
        (ended.code != 0).then_some(ended).or_else(|| {
            started.push(label);
            None
        })
    });
    assert!(started.len() > 10, "{refused:?}");
    assert!(refused.stderr.contains("open files") && refused.stderr.lines().count() == 1, "{refused:?}");
    // With connections that take the rest nothing can be opened at all. One ends meanwhile.
    let connections: Vec<_> =
        (0..30).filter_map(|_| std::net::TcpStream::connect(("127.0.0.1", sandbox.port)).ok()).collect();
    fs::write(sandbox.work().join("flag"), "").unwrap();
    wait_until("the end of the first", || sandbox.status(0)["state"] == "exited");
    drop(connections);
    wait_until("it is known", || sandbox.listed()[0]["status"] == "exited" && sandbox.listed()[0]["exit_code"] == 7);
    let states = sandbox.listed();
    let states: Vec<&str> = states.as_array().unwrap()[1..].iter().map(|p| p["status"].as_str().unwrap()).collect();
    assert!(states[..started.len() - 1].iter().all(|state| *state == "running"), "{states:?}");
    for label in &started[1..6] {
        sandbox.run(&["stop", label]).ok();
    }
    sandbox.run(&["start", "--label", "again", "sh", "-c", "echo works"]).ok();
    wait_until("it works", || sandbox.run(&["output", "again"]).ok().out().contains("works"));
    assert!(is_alive(server.pid()));
}

#[test]
fn without_free_processes_errors_are_clear_and_everything_recovers() {
    let sandbox = Sandbox::new();
    let Some(user) = AnotherUser::new(&sandbox) else { return };
    let mine = || {
        let tasks = |pid: &i32| fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let uid = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        pids_with("").iter().filter(|pid| uid(pid).contains("Uid:\t65534\t")).map(tasks).sum::<usize>()
    };
    // The limit counts all tasks of the user, also those of tests beside this one.
    let limit = mine() + 24;
    let limit = format!("ulimit -u {limit} 2> /dev/null || ulimit -p {limit};"); // as bash, and as dash names it
    let server = Guard(spawn(&mut user.command_within(&limit, &["serve", "-q"])));
    wait_until("a server that answers to its user", || user.run(&["list"]).code == 0);
    let mut started = 0;
    let refused = wait_for("a refusal", || {
        let ended = user.run(&["start", "--label", &format!("p{started}"), "sleep", "5000"]);
        started += usize::from(ended.code == 0);
        (ended.code != 0).then_some(ended)
    });
    assert!(refused.code == 1 && refused.stderr.lines().count() == 1, "{refused:?}");
    assert!(refused.stderr.contains("no room for another"), "{refused:?}");
    let is_running = |i: usize| sandbox.status(i)["state"] == "running";
    assert!(started > 0 && (0..started).all(is_running));
    user.run(&["shutdown"]).ok();
    assert_eq!(server.end(DEADLINE).code, 0);
    user.run(&["start", "--label", "p0", "sleep", "5000"]).ok();
    user.run(&["shutdown"]).ok();
}

#[test]
fn a_pipe_of_many_small_packets_is_read_to_its_end() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("python3 is not there to change a pipe");
    }
    let sandbox = Sandbox::new();
    // More packets than a pipe has room for at first, and its reader sleeps until the writer has ended.
    let script = "import fcntl, os, signal
F_SETPIPE_SZ = 1031
fcntl.fcntl(1, F_SETPIPE_SZ, 1 << 20)
fcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT | os.O_WRONLY)
os.kill(os.getppid(), signal.SIGSTOP)
for i in range(200): os.write(1, b'line %d\\n' % i)";
    sandbox.run(&["start", "--label", "web", "python3", "-c", script]).ok();
    let (pid, shim) = (sandbox.status(0)["pid"].as_i64().unwrap(), sandbox.status(0)["shim"].as_i64().unwrap());
    wait_until("its exit", || !is_alive(pid as i32));
    signal(shim as i32, libc::SIGCONT);
    wait_until("the end of the run", || sandbox.status(0)["state"] == "exited");
    let expected: String = (0..200).map(|i| format!("line {i}\n")).collect();
    assert_eq!(String::from_utf8(stripped(&sandbox.runs()[0].join("stdout.log"))).unwrap(), expected);
    assert_eq!((&sandbox.status(0)["exit_code"], &sandbox.status(0)["lost_bytes"]), (&json!(0), &json!(null)));
}

#[test]
fn without_space_for_a_single_file_a_new_server_still_finds_and_stops_what_runs() {
    let sandbox = Sandbox::new();
    let Some(_disk) = SmallDisk::new(&sandbox, 4096) else { return };
    let limit = ["-o", "remount,nr_inodes=40"];
    assert!(Command::new("mount").args(limit).arg(sandbox.data()).status().unwrap().success());
    let server = sandbox.serve();
    sandbox.run(&["start", "--label", "web", "sh", "-c", COUNT]).ok();
    let fill = |i: u32| fs::write(sandbox.data().join(format!("x{i}")), "").is_err();
    assert!((0..100).any(fill), "there is room for ever");
    drop(server);
    let _server = sandbox.serve();
    assert_eq!(sandbox.listed()[0]["status"], "running");
    let refused = sandbox.run(&["start", "--label", "next", "true"]);
    assert!(refused.code == 1 && refused.stderr.contains("No space left"), "{refused:?}");
    sandbox.run(&["stop", "web"]).ok();
    assert_eq!(sandbox.listed()[0]["status"], "terminated");
}

#[test]
#[allow(unsafe_code)]
fn processes_left_by_a_killed_shim_are_not_forgotten_while_there_are_no_descriptors() {
    use std::io::Write;
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "exec sleep 5000"]).ok();
    let (pid, shim) = (sandbox.status(0)["pid"].as_i64().unwrap(), sandbox.status(0)["shim"].as_i64().unwrap());
    signal(shim as i32, libc::SIGKILL);
    wait_until("lost", || sandbox.listed()[0]["status"] == "lost");
    // A connection that is there already is the only way in now.
    let mut stream = sandbox.connect_private().unwrap();
    let mut ask = |request: &[u8]| {
        stream.write_all(request).unwrap();
        Http::read(&mut stream).unwrap()
    };
    assert_eq!(ask(&get("/health", sandbox.port)).status, 200);
    let descriptors: Vec<u64> = fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let free = (3..).find(|number| !descriptors.contains(number)).unwrap();
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let limit = |new: *const libc::rlimit, old: *mut libc::rlimit| {
        assert_eq!(unsafe { libc::prlimit(server.pid(), libc::RLIMIT_NOFILE, new, old) }, 0);
    };
    limit(std::ptr::null(), &raw mut before);
    // None at all, and one or two, which are enough to see that there are processes, and not who they are.
    for allowed in [3, free + 1, free + 2, free + 3] {
        limit(&libc::rlimit { rlim_cur: allowed, ..before }, std::ptr::null_mut());
        ask(&post_tool(sandbox.port, "list", json!({})));
    }
    limit(&libc::rlimit { rlim_cur: 3, ..before }, std::ptr::null_mut());
    let stop = json!({"action": "stop", "command_or_label": "web"});
    let refused = ask(&post_tool(sandbox.port, "ctrl", stop)).json();
    limit(&before, std::ptr::null_mut());
    assert_eq!(refused["result"]["isError"], true, "{refused}");
    assert!(refused.to_string().contains("cannot see what is left of 'web'"), "{refused}");
    assert!(sandbox.listed()[0]["error"].as_str().unwrap().contains(&format!("PID {pid} of it live on")));
    sandbox.run(&["stop", "web"]).ok();
    assert!(!is_alive(pid as i32));
}
