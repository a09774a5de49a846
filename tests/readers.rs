//! Nothing is lost on the way to a reader: what a wrapper or `output --follow` shows is complete, or it reports that it is
//! not and fails. With default settings, and more output than the logs keep.

use crate::support::*;
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::ChildStdout;

/// Bytes of a line.
const LINE: usize = 1000;
/// What a log file holds before it is rotated, in bytes.
const CAP: u64 = 64 << 20;
/// More lines than the logs keep, by far.
const MANY: u64 = 300_000;

/// A command that prints so many numbered lines.
fn numbers(lines: u64) -> String {
    format!("seq -f %0{}.0f 1 {lines}", LINE - 1)
}

/// The numbers that come, up to the end: how many, and the first one that does not follow the one before.
fn check(out: impl Read) -> (u64, Option<String>) {
    let (mut count, mut problem) = (0, None);
    for line in BufReader::with_capacity(1 << 18, out).split(b'\n') {
        let line = line.unwrap();
        let number =
            std::str::from_utf8(&line).ok().filter(|_| line.len() == LINE - 1).and_then(|line| line.parse().ok());
        count += 1;
        if number != Some(count) {
            problem.get_or_insert_with(|| format!("line {count}: {:?}", String::from_utf8_lossy(&line)));
        }
    }
    (count, problem)
}

fn trouble(sandbox: &Sandbox, run: usize) -> String {
    sandbox.status(run)["trouble"].as_str().unwrap_or_default().to_string()
}

fn size(run: &Path) -> u64 {
    ["combined.log", "combined.log.1"]
        .iter()
        .map(|name| std::fs::metadata(run.join(name)).map_or(0, |file| file.len()))
        .sum()
}

/// A wrapper whose output is not read yet, and whose program waits for that.
fn held(sandbox: &Sandbox, words: &[&str]) -> (Guard, ChildStdout) {
    let mut wrapper = Guard(sandbox.spawn(words));
    let out = wrapper.0.stdout.take().unwrap();
    wait_until("the program to wait for the reader", || {
        sandbox.runs().len() == 1 && trouble(sandbox, 0).contains("waits for a reader")
    });
    (wrapper, out)
}

#[test]
fn a_reader_that_starts_late_gets_all_and_the_program_waits_for_it_meanwhile() {
    let sandbox = Sandbox::new();
    let (wrapper, out) = held(&sandbox, &["-q", "sh", "-c", &numbers(MANY)]);
    assert!(trouble(&sandbox, 0).contains(&format!("PID {}", wrapper.pid())), "{}", trouble(&sandbox, 0));
    wait_until("list to report it", || sandbox.run(&["list"]).ok().out().contains("waits for a reader"));
    assert!(size(&sandbox.runs()[0]) <= 2 * (CAP + 64), "{}", size(&sandbox.runs()[0]));
    assert_eq!(check(out), (MANY, None));
    let ended = wrapper.end(DEADLINE);
    assert_eq!((ended.code, &*ended.stderr), (0, ""));
    assert_eq!(trouble(&sandbox, 0), "");
}

#[test]
fn a_reader_that_is_killed_or_exits_delays_nothing() {
    let sandbox = Sandbox::new();
    let (mut wrapper, _out) = held(&sandbox, &["-q", "sh", "-c", &numbers(MANY)]);
    wrapper.0.kill().unwrap();
    wait_until("the program to exit", || sandbox.status(0)["state"] == "exited");
    assert_eq!(sandbox.status(0)["lines"][0], MANY);
    wait_until("its lease to be removed", || {
        sandbox.run(&["start", "true"]).ok();
        std::fs::read_dir(sandbox.data().join("readers")).unwrap().count() == 0
    });
}

#[test]
fn a_process_stopped_while_it_waits_for_a_reader_exits_and_the_gap_is_reported() {
    let sandbox = Sandbox::new();
    // What it prints when it is stopped is more than the logs keep, so that its reader, which takes nothing, must miss some.
    let script = format!("trap '{}; exit 0' TERM; {}", numbers(MANY), numbers(MANY));
    let (wrapper, out) = held(&sandbox, &["-q", "sh", "-c", &script]);
    sandbox.run(&["stop", "r1"]).ok();
    let (_, problem) = check(out);
    let ended = wrapper.end(DEADLINE);
    // On a slow machine it is killed before it is done, and has that exit code.
    assert!([1, 137].contains(&ended.code), "{problem:?}, {}", ended.code);
    assert!(problem.is_some() && ended.stderr.contains("output is missing here"), "{problem:?}, {}", ended.stderr);
}

#[test]
fn a_gap_is_reported_even_with_quiet_and_is_a_failure() {
    let sandbox = Sandbox::new();
    let script = format!("{}; read go", numbers(200_000));
    sandbox.run(&["start", "sh", "-c", &script]).ok();
    wait_until("all of it", || sandbox.status(0)["lines"][0] == 200_000);
    // Attached when the beginning was rotated away long ago.
    let wrapper = Guard(sandbox.spawn(&["-q", "sh", "-c", &script]));
    let follower = Guard(sandbox.spawn(&["-q", "output", "--follow", "r1", "--after", "r1.combined.0"]));
    let leases = || std::fs::read_dir(sandbox.runs()[0].join("readers")).map_or(0, Iterator::count);
    wait_until("both to read", || leases() == 2);
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "r1", "text": "go"}));
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let gone = first_kept(&sandbox);
    assert_eq!(
        ended.stderr.trim(),
        format!("persistproc: output is missing here: {gone} bytes of the log are no longer kept")
    );
    let kept = ended.out();
    assert_eq!(kept.lines().last().unwrap().trim_start_matches('0'), "200000");
    let numbers: Vec<u64> = kept.lines().skip(1).map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 66_000 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{}", numbers.len());
    // What is gone is the rest, with a stamp for every few lines.
    let text = 200_000 * LINE as u64 - kept.len() as u64;
    assert!((text..text + text / 50).contains(&gone), "{gone} of {text}");
    let followed = follower.end(DEADLINE);
    assert_eq!(followed.code, 1, "{}", followed.stderr);
    assert!(followed.stderr.contains("no longer kept"), "{}", followed.stderr);
}

/// The offset with which the older file begins.
fn first_kept(sandbox: &Sandbox) -> u64 {
    let mut text = [0; 64];
    std::fs::File::open(sandbox.runs()[0].join("combined.log.1")).unwrap().read_exact(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split_whitespace().nth(5).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn a_lagging_reader_follows_a_restart_and_loses_nothing_of_either_run() {
    let sandbox = Sandbox::new();
    // The first run prints more than the pipes hold; each is told apart by its last line.
    let script = format!("{}; echo end; exec sleep 1000", numbers(20_000));
    let mut wrapper = Guard(sandbox.spawn(&["-q", "--label", "web", "sh", "-c", &script]));
    wait_until("all of it", || sandbox.runs().len() == 1 && sandbox.status(0)["lines"][0] == 20_001);
    sandbox.run(&["restart", "web"]).ok();
    wait_until("all of it again", || sandbox.status(1)["lines"][0] == 20_001);
    let mut out = BufReader::new(wrapper.0.stdout.take().unwrap());
    for _ in 0..2 {
        let mut text = vec![0; 20_000 * LINE];
        out.read_exact(&mut text).unwrap();
        assert_eq!(check(&text[..]), (20_000, None));
        let mut end = String::new();
        out.read_line(&mut end).unwrap();
        assert_eq!(end, "end\n");
    }
}

#[test]
fn what_is_being_read_is_kept_however_many_runs_end_meanwhile() {
    let sandbox = Sandbox::new();
    let mut wrapper = Guard(sandbox.spawn(&["-q", "sh", "-c", &format!("{}; exit 7", numbers(2000))]));
    let out = wrapper.0.stdout.take().unwrap();
    wait_until("its exit", || sandbox.runs().len() == 1 && sandbox.status(0)["state"] == "exited");
    for _ in 0..60 {
        sandbox.run(&["--label", "short", "true"]).ok();
    }
    assert_eq!(check(out), (2000, None));
    let ended = wrapper.end(DEADLINE);
    assert_eq!((ended.code, &*ended.stderr), (7, ""));
    // Of the others, as many as ever.
    wait_until("old ones to be removed", || (50..=52).contains(&sandbox.runs().len()));
}

#[test]
fn the_newest_run_of_a_label_is_kept_however_many_others_end_after_it() {
    let sandbox = Sandbox::new();
    sandbox.run(&["--label", "api", "sh", "-c", "echo Traceback; exit 1"]);
    for round in 0..60 {
        sandbox.run(&["--label", &format!("short {}", round % 3), "true"]).ok();
    }
    let output = sandbox.run(&["output", "api"]).ok().out();
    assert!(output.contains("Traceback"), "{output}");
    wait_until("old ones to be removed", || sandbox.runs().len() == 51);
    // The next server sees it the same way.
    sandbox.run(&["shutdown"]).ok();
    let _server = sandbox.serve();
    assert!(sandbox.run(&["output", "api"]).ok().out().contains("Traceback"));
}

/// So many wrappers at once, of programs that end at the same moment; all must show the line and the exit code.
pub fn wrappers_at_once(wrappers: usize) -> Vec<String> {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = "while [ ! -e go ]; do sleep 2; done; echo last words; exit 9";
    let start = |i: usize| Guard(sandbox.spawn(&["--label", &format!("w{i}"), "sh", "-c", script]));
    let started: Vec<Guard> = (0..wrappers).map(start).collect();
    let begun = std::time::Instant::now();
    let is_up = |run: &std::path::PathBuf| run.join("status.json").exists();
    while sandbox.runs().iter().filter(|run| is_up(run)).count() < wrappers {
        assert!(begun.elapsed() < 3 * DEADLINE, "{} of {wrappers} have begun", sandbox.runs().len());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::fs::write(sandbox.work().join("go"), "").unwrap();
    let ended = started.into_iter().map(|wrapper| wrapper.end(3 * DEADLINE));
    ended.filter(|ended| ended.code != 9 || ended.out() != "last words\n").map(|ended| format!("{ended:?}")).collect()
}

#[test]
fn a_hundred_and_fifty_wrappers_at_once_all_show_the_last_line_and_the_exit_code() {
    let wrong = wrappers_at_once(150);
    assert!(wrong.is_empty(), "{} are wrong: {:?}", wrong.len(), wrong.first());
}
