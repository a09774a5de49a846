//! Logs are bounded, exactly, while they are written and read: nothing that is kept is missing, torn or doubled.

use crate::support::*;
use serde_json::{Value, json};

const CAP: u64 = 1_000_000;

/// Bytes of a line of the child, its newline included.
const LINE: u64 = 100;

/// A command that prints so many numbered lines.
fn numbers(lines: u64) -> String {
    format!("seq -f %099.0f 1 {lines}")
}

fn output(sandbox: &Sandbox, words: &[&str]) -> Value {
    sandbox.run(&[&["--format", "json", "output", "p"], words].concat()).ok().json()
}

/// Numbers of the lines in an answer, which have no gap.
#[track_caller]
fn gap_free(answer: &Value) -> Vec<u64> {
    let lines = answer["output"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    // The newest may not be finished yet.
    let whole = lines.filter(|line| line.len() as u64 == 25 + LINE - 1);
    let numbers: Vec<u64> = whole.map(|line| line[25..].parse().unwrap()).collect();
    for pair in numbers.windows(2) {
        assert_eq!(pair[1], pair[0] + 1);
    }
    numbers
}

#[test]
fn half_a_gigabyte_under_a_cap_of_one_megabyte_is_gap_free_while_it_is_written() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve_with(&[("PERSISTPROC_MAX_LOG_BYTES", CAP.to_string())]);
    let lines = 500_000_000 / LINE;
    let begun = std::time::Instant::now();
    sandbox.run(&["start", "--label", "p", "sh", "-c", &numbers(lines)]).ok();
    let run = sandbox.runs()[0].clone();
    wait_until("the first lines", || output(&sandbox, &["--lines", "500"])["output"].as_array().unwrap().len() == 500);
    let mut reads = 0;
    let mut newest = 0;
    let mut cursor: Option<String> = None;
    while sandbox.status(0)["state"] == "running" {
        // The tail, and everything that is kept behind a cursor of some time ago.
        let tail = gap_free(&output(&sandbox, &["--lines", "500"]));
        assert!(tail.len() >= 400, "{}", tail.len());
        assert!(*tail.last().unwrap() >= newest);
        newest = *tail.last().unwrap();
        let after: Vec<&str> = cursor.iter().flat_map(|cursor| ["--after", cursor]).collect();
        let answer = output(&sandbox, &[&["--lines", "10000"], after.as_slice()].concat());
        gap_free(&answer);
        cursor = Some(answer["cursor"].as_str().unwrap().to_string());
        for name in ["stdout.log", "stdout.log.1", "combined.log", "combined.log.1"] {
            let size = std::fs::metadata(run.join(name)).map_or(0, |file| file.len());
            // One write is not divided: 64 KiB of the child's bytes with their stamps.
            assert!(size <= CAP + 64, "{name}: {size}");
        }
        reads += 1;
        assert!(begun.elapsed() < DEADLINE * 3, "it takes too long");
    }
    assert!(reads > 5, "{reads}");
    let status = sandbox.status(0);
    assert_eq!((&status["lines"], &status["exit_code"]), (&json!([lines, 0, lines]), &json!(0)), "totals are kept");
    let newest = std::fs::read(run.join("stdout.log")).unwrap();
    let begins_at: u64 = String::from_utf8_lossy(&newest[..64]).split(' ').nth(5).unwrap().parse().unwrap();
    assert_eq!(status["bytes"][0].as_u64(), Some(begins_at + newest.len() as u64 - 64));
    // All that is kept, across the border of the two files.
    let answer = output(&sandbox, &["--lines", "10000"]);
    let kept = gap_free(&answer);
    assert!(kept.len() > 7500 && *kept.last().unwrap() == lines, "{}", kept.len());
    assert_eq!(answer["lines_before"], lines - kept.len() as u64);
    let both = ["stdout.log.1", "stdout.log"].map(|name| std::fs::read(run.join(name)).unwrap());
    let records = both.iter().flat_map(|file| file.split(|&byte| byte == b'\n'));
    let numbers: Vec<u64> = records
        .map(without_stamp)
        .filter(|line| line.len() as u64 == LINE - 1 && line.starts_with(b"0"))
        .map(|line| std::str::from_utf8(line).unwrap().parse().unwrap())
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers.last() == Some(&lines));
}

#[test]
fn a_slow_reader_is_told_what_it_missed_and_gets_the_rest_without_a_gap() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve_with(&[("PERSISTPROC_MAX_LOG_BYTES", CAP.to_string())]);
    sandbox
        .run(&["start", "--label", "p", "sh", "-c", &format!("{}; read x; {}", numbers(5000), numbers(50_000))])
        .ok();
    wait_until("the first part", || sandbox.status(0)["lines"][0] == 5000);
    let cursor = output(&sandbox, &[])["cursor"].as_str().unwrap().to_string();
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "p", "text": ""}));
    wait_until("its exit", || sandbox.status(0)["state"] == "exited");
    let answer = output(&sandbox, &["--after", &cursor, "--lines", "10000"]);
    assert!(answer["note"].as_str().unwrap().contains("bytes after the cursor are no longer kept"), "{answer}");
    assert_eq!(gap_free(&answer).last(), Some(&50_000));
    let text = sandbox.tool_ok("output", json!({"after": cursor}));
    assert!(text.lines().next().unwrap().contains("bytes after the cursor are no longer kept"), "{text}");
}

#[test]
fn following_across_rotations_misses_nothing_or_reports_it() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve_with(&[("PERSISTPROC_MAX_LOG_BYTES", CAP.to_string())]);
    // 100 lines every few milliseconds, 30 000 in all: about three rotations.
    let script = "for i in $(seq 0 100 29900); do seq -f %099.0f $((i + 1)) $((i + 100)); sleep 0.01; done";
    sandbox.run(&["start", "--label", "p", "sh", "-c", script]).ok();
    for (words, step) in [(&["--grep", "0$"][..], 10), (&[], 1)] {
        let ended = sandbox.run(&[&["output", "p", "--follow"], words].concat()).ok();
        let out = ended.out();
        let (whole, torn): (Vec<&str>, Vec<&str>) = out.lines().partition(|line| line.len() as u64 == 25 + LINE - 1);
        let numbers: Vec<u64> = whole.iter().map(|line| line[25..].parse().unwrap()).collect();
        let gaps = numbers.windows(2).filter(|pair| pair[1] != pair[0] + step).count();
        let told = ended.stderr.matches("no longer kept").count();
        assert!(gaps <= told && torn.len() <= told, "{gaps} gaps, {torn:?}; {}", ended.stderr);
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers.last() == Some(&30_000));
        sandbox.run(&["restart", "p"]).ok();
    }
}
