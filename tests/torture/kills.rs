//! Servers that are killed under load.

use crate::support::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    pub megabytes_per_second: f64,
    /// Median and longest time from a kill to the next server's answer, in ms.
    pub gap: [f64; 2],
    pub waits: u32,
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
    let wrappers: Vec<Checked> = (0..RUNS)
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
        wait_until("its exit", || !is_alive(pid));
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
    let lines = check_wrappers(&sandbox, wrappers);
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

/// A wrapper, and the thread that checks its output.
type Checked = (Guard, JoinHandle<Result<u64, String>>);

/// Waits until wrapper i exits with 40 + i; checks what it has shown, and the log of run i. How many lines that were.
fn check_wrappers(sandbox: &Sandbox, wrappers: Vec<Checked>) -> u64 {
    let mut lines = 0;
    for (i, (wrapper, reader)) in wrappers.into_iter().enumerate() {
        let shown = reader.join().unwrap().unwrap_or_else(|problem| panic!("wrapper {i}: {problem}"));
        let ended = wrapper.end(DEADLINE);
        assert_eq!(ended.code, 40 + i as i32, "{}", ended.stderr);
        assert_eq!(check_kept(&sandbox.runs()[i]), Ok(shown), "the log of run {i}");
        assert_eq!(sandbox.status(i)["lines"][0], shown + 1);
        lines += shown;
    }
    lines
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
