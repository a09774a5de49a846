//! `make torture`: what `make test` does briefly, done for long, with figures printed. Each is a function with a size, which
//! the short tests in the other files call as well.
#![allow(clippy::print_stdout)]

mod kills;
mod loads;

pub use kills::kill_servers_under_load;

use crate::support::*;
use serde_json::json;
use std::io::Read;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One line of the table.
fn figure(what: &str, value: impl std::fmt::Display) {
    println!("\n{what:<66} {value:>20}");
}

/// The most memory of its own that each of some processes had while this was alive, in kB.
pub struct Memory {
    stop: std::sync::Arc<AtomicBool>,
    watcher: JoinHandle<Vec<u64>>,
}

impl Memory {
    pub fn watch(pids: Vec<i32>) -> Memory {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let watcher = std::thread::spawn(move || {
            let mut most = vec![0; pids.len()];
            while !flag.load(Ordering::SeqCst) {
                for (most, pid) in most.iter_mut().zip(&pids) {
                    *most = anonymous(*pid).unwrap_or(0).max(*most);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        Memory { stop, watcher }
    }
    pub fn most(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.watcher.join().unwrap()
    }
}

/// Memory that no other process shares and no file backs, in kB.
pub fn anonymous(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find(|line| line.starts_with("RssAnon"))?.split_whitespace().nth(1)?.parse().ok()
}

/// A flood through wrapper, server and shim. `script` must print exactly `bytes` bytes; gives the most memory in kB of
/// shim, server and wrapper, and MB/s.
#[track_caller]
pub fn flood(script: &str, bytes: u64) -> ([u64; 3], f64) {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let mut wrapper = Guard(sandbox.spawn(&["-q", "sh", "-c", &format!("read go; {script}")]));
    let mut out = wrapper.0.stdout.take().unwrap();
    let counted = std::thread::spawn(move || count(&mut out));
    wait_until("the shim", || sandbox.runs().len() == 1 && sandbox.status(0)["state"] == "running");
    let shim = sandbox.status(0)["shim"].as_i64().unwrap() as i32;
    let memory = Memory::watch(vec![shim, server.pid(), wrapper.pid()]);
    let begun = Instant::now();
    // The run is on disk a moment before it is known.
    let go = json!({"action": "input", "command_or_label": "r1", "text": "go"});
    wait_until("it is known", || !sandbox.tool("ctrl", go.clone()).1);
    let ended = wrapper.end(10 * DEADLINE);
    assert_eq!((ended.code, counted.join().unwrap()), (0, bytes), "{}", ended.stderr);
    let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    // Everything is answered as ever, and within its bound.
    assert!(sandbox.tool_ok("output", json!({"command_or_label": "r1"})).len() <= 9000);
    let most = memory.most();
    (std::array::from_fn(|i| most[i]), rate)
}

fn count(reader: &mut impl Read) -> u64 {
    let mut buffer = vec![0; 1 << 18];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => return total,
            n => total += n as u64,
        }
    }
}

/// `runs` that print `lines` numbered lines at once. The most memory in kB of the server and of the largest shim.
#[track_caller]
pub fn many_at_once(runs: usize, lines: u64) -> [u64; 2] {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let script = format!("while [ ! -e go ]; do sleep 0.05; done; seq 1 {lines}; echo done; read never");
    for i in 0..runs {
        sandbox.run(&["start", "--label", &format!("p{i}"), "sh", "-c", &script]).ok();
    }
    let shims = (0..runs).map(|i| sandbox.status(i)["shim"].as_i64().unwrap() as i32);
    let memory = Memory::watch([server.pid()].into_iter().chain(shims).collect());
    std::fs::write(sandbox.work().join("go"), "").unwrap();
    wait_until("all of it", || (0..runs).all(|i| sandbox.status(i)["lines"][0] == lines + 1));
    let expected: Vec<u8> = (1..=lines).flat_map(|i| format!("{i}\n").into_bytes()).chain(*b"done\n").collect();
    for run in sandbox.runs() {
        assert!(stripped(&run.join("stdout.log")) == expected, "{}", run.display());
    }
    let most = memory.most();
    let begun = Instant::now();
    sandbox.run(&["shutdown"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(30) && sandbox.leftovers().is_empty());
    [most[0], most[1..].iter().copied().max().unwrap_or(0)]
}

/// A data directory with `finished` runs that somebody left there, and how long a server takes to answer on it, in ms;
/// then all but the newest 50 go.
#[track_caller]
pub fn start_on_old_runs(finished: usize) -> f64 {
    let sandbox = Sandbox::new();
    sandbox.run(&["--label", "model", "true"]).ok();
    sandbox.run(&["shutdown"]).ok();
    let model = sandbox.runs()[0].clone();
    let files: Vec<(String, Vec<u8>)> =
        ["meta.json", "status.json", "lock", "stdout.log", "stderr.log", "combined.log"]
            .iter()
            .map(|name| (name.to_string(), std::fs::read(model.join(name)).unwrap()))
            .collect();
    for i in 2..=finished {
        let dir = model.with_file_name(format!("{i:06}.true"));
        std::fs::create_dir(&dir).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes).unwrap());
    }
    let begun = Instant::now();
    let server = Guard(sandbox.spawn(&["serve", "-q"]));
    sandbox.wait_for_server();
    let listed = sandbox.run(&["--format", "json", "list"]).ok();
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(listed.json()["processes"].as_array().unwrap().len(), 1);
    wait_until("old runs to go", || sandbox.runs().len() == 50);
    drop(server);
    took
}

/// Processes that spawn their own replacement every 5 ms, in sessions of their own and deaf to TERM. How many KILLs it
/// took.
#[track_caller]
pub fn stop_forkers(forkers: usize) -> u64 {
    let sandbox = Sandbox::new();
    // Each leaves a trace: a look at the processes of the machine sees few of those that live so shortly.
    sandbox.script("fork", "#!/bin/sh\ntrap '' TERM\necho >> born\nsleep 0.005\nsetsid ./fork 2>/dev/null &\nexit 0\n");
    let script = format!(
        "trap '' TERM; i=0; while [ $i -lt {forkers} ]; do setsid ./fork & i=$((i+1)); done; echo up; read never"
    );
    sandbox.run(&["start", "--label", "forkers", "sh", "-c", &script]).ok();
    wait_until("the forkers", || sandbox.run(&["output", "forkers"]).out().contains("up"));
    let born = || std::fs::metadata(sandbox.work().join("born")).map_or(0, |file| file.len());
    wait_until("some generations", || born() >= 3 * forkers as u64);
    let stopped = finish(sandbox.spawn(&["--format", "json", "stop", "--force", "forkers"]), DEADLINE).ok();
    let last = born();
    assert_eq!(sandbox.leftovers(), Vec::<i32>::new(), "{stopped:?}");
    assert_eq!(born(), last, "somebody lives on: {stopped:?}");
    assert_eq!(sandbox.status(0)["state"], "terminated");
    assert_eq!(sandbox.status(0)["stop"]["survivors"], json!([]));
    sandbox.status(0)["stop"]["killed"].as_u64().unwrap()
}

#[test]
#[ignore = "long: make torture"]
fn a_hundred_kills_of_the_server_under_load() {
    let kills = kill_servers_under_load(100);
    figure("100 x kill -9 of the server, 5 runs: lines lost, doubled, torn", 0);
    figure("  lines checked at the wrappers and in the logs", kills.lines);
    figure("  output of the five in that time", format!("{:.1} MB/s", kills.megabytes_per_second));
    figure("  kill to the next server's answer, median", format!("{:.0} ms", kills.gap[0]));
    figure("  longest", format!("{:.0} ms", kills.gap[1]));
    figure("  calls of 10 s that the wait took, none unanswered", kills.waits);
}

#[test]
#[ignore = "long: make torture"]
fn floods_of_every_kind() {
    let gigabyte = 1_000_000_000u64;
    let kinds = [
        ("1 GB in lines of 100", format!("yes {} | head -c {gigabyte}", "x".repeat(99)), gigabyte),
        ("1 GB of one line", format!("head -c {gigabyte} /dev/zero | tr '\\0' x; echo"), gigabyte + 1),
        ("1 GB of NUL", format!("head -c {gigabyte} /dev/zero"), gigabyte),
        ("50 MB of empty lines", "head -c 50000000 /dev/zero | tr '\\0' '\\n'".into(), 50_000_000),
        ("200 MB of random bytes", "head -c 200000000 /dev/urandom".into(), 200_000_000),
    ];
    for (what, script, bytes) in kinds {
        let ([shim, server, wrapper], rate) = flood(&script, bytes);
        figure(&format!("{what}, through the wrapper"), format!("{rate:.0} MB/s"));
        figure("  most memory of its own: shim, server, wrapper", format!("{shim}, {server}, {wrapper} kB"));
        assert!(shim <= 1500 && server <= 4000 && wrapper <= 4000, "{what}");
    }
}

#[test]
#[ignore = "long: make torture"]
fn fifty_runs_at_once() {
    let [server, shim] = many_at_once(50, 200_000);
    figure("50 runs of 200,000 lines at once, most memory: server", format!("{server} kB"));
    figure("  the largest shim", format!("{shim} kB"));
    assert!(server <= 4000 && shim <= 1500);
}

#[test]
#[ignore = "long: make torture"]
fn ten_thousand_old_runs() {
    let took = start_on_old_runs(10_000);
    figure("serve and list with 10,000 old runs on disk", format!("{took:.0} ms"));
    assert!(took < 1000.0);
}

#[test]
#[ignore = "long: make torture"]
fn stops_again_and_again() {
    let rounds = 20;
    let mut killed = Vec::new();
    let begun = Instant::now();
    for _ in 0..rounds {
        killed.push(stop_forkers(50));
    }
    figure("50 forkers, 20 times: survivors", 0);
    figure("  KILLs at most in one stop", killed.iter().max().unwrap());
    figure("  one round, with its start", format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1000.0 / rounds as f64));
}

#[test]
#[ignore = "long: make torture"]
fn shims_killed_again_and_again() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "other", "sh", "-c", "read never"]).ok();
    let mut told = Vec::new();
    for i in 1..=30 {
        let script = "setsid sleep 5000 & (setsid sleep 5000 &) ; exec sleep 5000";
        sandbox.run(&["start", "--label", &format!("v{i}"), "sh", "-c", script]).ok();
        let mine = || sandbox.leftovers().len();
        wait_until("the tree", || mine() == 4);
        signal(sandbox.status(i)["shim"].as_i64().unwrap() as i32, libc::SIGKILL);
        let killed = Instant::now();
        let listed = || sandbox.run(&["--format", "json", "list", "--command-or-label", &format!("v{i}")]).json();
        wait_until("lost", || listed()["processes"][0]["status"] == "lost");
        told.push(killed.elapsed().as_secs_f64() * 1000.0);
        sandbox.run(&["stop", &format!("v{i}")]).ok();
        assert_eq!(mine(), 1, "round {i}");
    }
    told.sort_by(f64::total_cmp);
    figure("30 x kill -9 of a shim: processes of its tree not found", 0);
    figure("  told to be lost after, median, with the list", format!("{:.0} ms", told[told.len() / 2]));
}

#[test]
#[ignore = "long: make torture"]
fn a_hundred_live_runs() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let idle = anonymous(server.pid()).unwrap();
    let begun = Instant::now();
    for i in 0..100 {
        sandbox.run(&["start", "--label", &format!("p{i}"), "sleep", "5000"]).ok();
    }
    figure("100 starts, one after the other", format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1000.0));
    let full = anonymous(server.pid()).unwrap();
    figure("server's own memory idle, and with 100 live runs", format!("{idle}, {full} kB"));
    assert!(full - idle <= 100 * 15 + 500);
    let shims: u64 = (0..100).filter_map(|i| anonymous(sandbox.status(i)["shim"].as_i64().unwrap() as i32)).sum();
    figure("a shim's own memory, mean of 100", format!("{} kB", shims / 100));
    drop(server);
    let begun = Instant::now();
    let _server = sandbox.serve();
    let listed = sandbox.run(&["--format", "json", "list"]).ok().json();
    assert!(listed["processes"].as_array().unwrap().iter().all(|process| process["status"] == "running"));
    figure(
        "the next server's list of them, after kill -9",
        format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1000.0),
    );
    let begun = Instant::now();
    sandbox.run(&["shutdown"]).ok();
    figure("shutdown of all 100", format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1000.0));
}

/// The last commit of version 0.3.0.
const COMMIT_OF_0_3_0: &str = "6ea8b88";

/// Builds version 0.3.0 out of the history of this repository; `None` if that is not here.
fn build_0_3_0() -> Option<std::path::PathBuf> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let sh = |script: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]).arg(here.join("target/version-0.3.0")).current_dir(here);
        // Those of the build of this program are not for that one.
        sh.env_remove("RUSTFLAGS").status().unwrap().success()
    };
    if !sh(&format!("git cat-file -e {COMMIT_OF_0_3_0}")) {
        return None;
    }
    let script = format!(
        "mkdir -p \"$0\" && git archive {COMMIT_OF_0_3_0} | tar -x -C \"$0\" && \
         cargo build -q --locked --manifest-path \"$0/Cargo.toml\" --target-dir \"$0/target\""
    );
    assert!(sh(&script), "version 0.3.0 could not be built");
    Some(here.join("target/version-0.3.0/target/debug/persistproc"))
}

#[test]
#[ignore = "builds version 0.3.0: make torture"]
fn live_runs_go_on_from_version_0_3_0_to_this_one_and_back() {
    let Some(older) = build_0_3_0() else { return skip("the history of this repository is not here") };
    let sandbox = Sandbox::new();
    let old = |words: &[&str]| finish(spawn(sandbox.program(&older).args(words)), DEADLINE);
    let script = "i=0; while [ ! -e enough ]; do echo line $i; i=$((i+1)); sleep 0.001; done; exit 42";
    let start = ["start", "--label", "web", "sh", "-c", script];
    old(&start).ok();
    let pid = sandbox.status(0)["pid"].clone();
    let (mut exchanges, begun) = (0, Instant::now());
    while exchanges < 10 {
        // This version takes the place of the older one by itself, also when it only starts something.
        let new: &[&str] = if exchanges % 2 == 0 { &["serve", "--background"] } else { &["start", "true"] };
        sandbox.run(new).ok();
        assert!(sandbox.run(&["list"]).ok().out().contains("running"));
        assert!(sandbox.run(&["output", "web", "--lines", "1"]).ok().out().contains("line"));
        // The older one never takes the place of this one, but finds all that it left.
        assert_ne!(old(&["serve", "--background"]).code, 0);
        sandbox.run(&["shutdown", "--keep"]).ok();
        old(&["serve", "--background"]).ok();
        let listed = old(&["--format", "json", "list"]).ok().json();
        let web = listed["processes"].as_array().unwrap().iter().find(|process| process["label"] == "web").unwrap();
        assert_eq!((&web["pid"], &web["status"]), (&pid, &json!("running")));
        exchanges += 1;
    }
    let elapsed = begun.elapsed().as_millis() / 20;
    // A wrapper of this version, attached across the last exchange, sees everything from the first byte.
    let wrapper = Guard(sandbox.spawn(&["-q", "run", "--label", "web", "sh", "-c", script]));
    wait_until("this version", || sandbox.health().is_some());
    std::fs::write(sandbox.work().join("enough"), "").unwrap();
    let ended = wrapper.end(DEADLINE);
    let lines = ended.out().lines().count();
    let expected: String = (0..lines).map(|i| format!("line {i}\n")).collect();
    assert_eq!((ended.code, ended.out() == expected), (42, true), "{}", ended.stderr);
    assert_eq!(stripped(&sandbox.runs()[0].join("stdout.log")), expected.as_bytes());
    figure("from 0.3.0 to this version and back, 10 times: lines, 0 lost", lines);
    figure("  and a change took on average, ms", elapsed);
}
