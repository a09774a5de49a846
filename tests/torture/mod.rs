//! `make torture`: what `make test` does briefly, done for long, with its figures printed. Each is a function with a size;
//! the short tests of the other files call the same ones.
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

/// Numbered lines of about 60 bytes, in bursts of 150 KB with 10 ms between them, until there is a file `enough`.
fn numbered_lines(exit_code: usize) -> String {
    let pad = "x".repeat(52);
    format!(
        "awk 'BEGIN {{ while (system(\"test ! -e enough\") == 0) {{ for (n = 0; n < 2600; n++) print i++ + 0, \"{pad}\"; fflush(); system(\"sleep 0.01\") }} print \"end\", i + 0 }}'; exit {exit_code}"
    )
}

/// Reads what a wrapper shows, and checks it line by line: how many, or what was wrong.
fn check_lines(reader: impl Read, seen: &AtomicU64) -> Result<u64, String> {
    let mut next = 0;
    for line in BufReader::with_capacity(1 << 18, reader).lines() {
        let line = line.map_err(|error| error.to_string())?;
        let (first, rest) = line.split_once(' ').ok_or_else(|| format!("after line {next}: '{line}'"))?;
        if first == "end" {
            return if rest == next.to_string() { Ok(next) } else { Err(format!("{next} lines, and then '{line}'")) };
        }
        if first.parse() != Ok(next) || rest.len() != 52 {
            return Err(format!("in place of line {next}: '{line}'"));
        }
        next += 1;
        seen.fetch_add(line.len() as u64 + 1, Ordering::Relaxed);
    }
    Err(format!("it ended after {next} lines"))
}

/// Checks what is kept of a log, from the first whole line on; as [`check_lines`].
fn check_kept(run: &Path) -> Result<u64, String> {
    let mut kept = Vec::new();
    for name in ["stdout.log.1", "stdout.log"] {
        let file = std::fs::read(run.join(name)).unwrap_or_default();
        // Without the line that says where the file begins: a line of the child may go on behind it.
        kept.extend_from_slice(if file.starts_with(b"# persistproc") { &file[64..] } else { &file });
    }
    let mut next = None;
    for line in kept.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(without_stamp(line)).ok()) {
        match (line.split_once(' '), next) {
            (Some(("end", count)), Some(next)) if count == format!("{next}") => return Ok(next),
            (Some((number, rest)), _) if rest.len() == 52 && next.is_none_or(|next| number == format!("{next}")) => {
                next = Some(number.parse::<u64>().map_err(|error| error.to_string())? + 1);
            }
            _ if next.is_none() => {}
            _ => return Err(format!("in place of line {next:?}: '{line}'")),
        }
    }
    Err(format!("it ended before line {next:?}"))
}

/// What killing servers came to.
pub struct Kills {
    pub lines: u64,
    megabytes_per_second: f64,
    /// Median and longest time from a kill to the next server's answer, in ms.
    gap: [f64; 2],
    waits: u32,
}

/// Five runs that print, each with a wrapper, somebody who waits, and runs that end in between; and the server killed
/// with -9 again and again. Nothing may be missing, doubled or torn, and nobody may notice.
#[track_caller]
pub fn kill_servers_under_load(kills: usize) -> Kills {
    const RUNS: usize = 5;
    let sandbox = Sandbox::new();
    let command = |words: &[&str]| sandbox.command(words);
    finish(spawn(&mut command(&["serve", "--background", "-q"])), DEADLINE).ok();
    let begun = Instant::now();
    let seen: &'static AtomicU64 = Box::leak(Box::default());
    let wrappers: Vec<(Guard, JoinHandle<Result<u64, String>>)> = (0..RUNS)
        .map(|i| {
            let words = ["-q", "--label", &format!("w{i}"), "sh", "-c", &numbered_lines(40 + i)];
            let mut wrapper = Guard(spawn(&mut command(&words)));
            let out = wrapper.0.stdout.take().unwrap();
            // One after the other, so that run i is that of wrapper i.
            wait_until("its run", || sandbox.runs().len() > i && sandbox.status(i)["lines"][0] != 0);
            (wrapper, std::thread::spawn(move || check_lines(out, seen)))
        })
        .collect();
    let pids: Vec<Value> = (0..RUNS).map(|i| sandbox.status(i)["pid"].clone()).collect();
    let calm = "i=0; while [ ! -e enough ]; do echo tick $i; i=$((i+1)); sleep 0.01; done; echo end $i";
    finish(spawn(&mut command(&["start", "--label", "calm", "sh", "-c", calm])), DEADLINE).ok();
    let waiter = wait_for_the_end(&sandbox);
    let mut gaps = Vec::new();
    let mut short_lived = 0;
    for i in 0..kills {
        let pid = wait_for("a server", || sandbox.pid_of_server());
        sandbox.wait_for_server();
        if i % 4 == 0 {
            let words = ["--no-autostart", "start", "--label", &format!("s{i}"), "sh", "-c", "sleep 0.02; exit 42"];
            short_lived += usize::from(finish(spawn(&mut command(&words)), DEADLINE).code == 0);
        }
        std::thread::sleep(Duration::from_millis((i * 7 % 50) as u64));
        assert!(signal(pid, libc::SIGKILL));
        let killed = Instant::now();
        wait_until("its death", || !is_alive(pid));
        // Sometimes somebody else starts the next one, sometimes a wrapper has to.
        if i % 2 == 0 {
            finish(spawn(&mut command(&["serve", "--background", "-q"])), DEADLINE);
        }
        sandbox.wait_for_server();
        gaps.push(killed.elapsed().as_secs_f64() * 1000.0);
    }
    let unhurt: Vec<Value> = (0..RUNS).map(|i| sandbox.status(i)["pid"].clone()).collect();
    assert!(unhurt == pids && (0..RUNS).all(|i| sandbox.status(i)["state"] == "running"));
    std::fs::write(sandbox.work().join("enough"), "").unwrap();
    let mut lines = 0;
    for (i, (wrapper, reader)) in wrappers.into_iter().enumerate() {
        let shown = reader.join().unwrap().unwrap_or_else(|problem| panic!("wrapper {i}: {problem}"));
        let ended = wrapper.end(DEADLINE);
        assert_eq!(ended.code, 40 + i as i32, "{}", ended.stderr);
        assert_eq!(check_kept(&sandbox.runs()[i]), Ok(shown), "the log of run {i}");
        assert_eq!(sandbox.status(i)["lines"][0], shown + 1);
        lines += shown;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let waits = waiter.join().unwrap();
    sandbox.wait_for_server();
    let ended = || (RUNS + 1..sandbox.runs().len()).filter(|i| sandbox.status(*i)["exit_code"] == 42).count();
    wait_until("the short-lived ones", || ended() >= short_lived);
    gaps.sort_by(f64::total_cmp);
    let gap = [gaps[gaps.len() / 2], gaps[gaps.len() - 1]];
    let megabytes_per_second = seen.load(Ordering::Relaxed) as f64 / 1e6 / seconds;
    Kills { lines, megabytes_per_second, gap, waits }
}

/// Waits for the last line of the calm run, in as many calls as it takes, each from where the one before ended. A call
/// that begins while no server is there is told so, as any other. How many were answered.
fn wait_for_the_end(sandbox: &Sandbox) -> JoinHandle<u32> {
    let words = ["--format", "json", "output", "calm", "--wait-for", "^end ", "--timeout", "10", "--lines", "1"];
    let (first, mut next) = (sandbox.command(&words), sandbox.command(&words));
    next.arg("--after");
    let (mut command, mut after) = (first, None);
    std::thread::spawn(move || {
        let mut answered = 0;
        loop {
            let ended = finish(spawn(&mut command), DEADLINE);
            if ended.code == 3 {
                assert!(ended.stderr.contains("no server runs"), "{ended:?}");
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let answer = ended.json();
            let is_in_vain = answer["waited"] == "timeout";
            assert_eq!(ended.code, i32::from(is_in_vain), "{ended:?}");
            answered += 1;
            if answer["waited"] == "matched" {
                assert!(answer["output"][0].as_str().unwrap().contains("Z end "), "{answer}");
                return answered;
            }
            let cursor = answer["cursor"].as_str().unwrap().to_string();
            assert!(after.replace(cursor.clone()).is_none_or(|before| before != cursor), "{answer}");
            command = copy(&next);
            command.arg(cursor);
        }
    })
}

/// A command that can be started more than once with other words behind it.
fn copy(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args()).stdin(std::process::Stdio::null());
    copy.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    copy
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
