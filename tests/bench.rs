//! `make bench`: speed and memory, each next to something public that is measured in the same run. It prints figures and
//! judges nothing.
//!
//! `BENCH_MB` is the size of the large log in MB (1000).
#![allow(clippy::print_stdout)]

#[allow(dead_code)]
pub mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{Guard, Sandbox, wait_for, wait_until};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("ping") => return ping(),
        Some("pong") => return pong(),
        _ => {}
    }
    let megabytes: usize = std::env::var("BENCH_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    println!("{:<52} {:>12} {:>12} {:>8}", "", "persistproc", "beside it", "ratio");
    commands();
    memory();
    latency();
    reaction();
    large_log(megabytes);
    throughput(100);
}

/// One line of the table.
fn row(what: &str, ours: f64, theirs: f64, unit: &str) {
    println!(
        "{what:<52} {:>12} {:>12} {:>7.2}x",
        format!("{ours:.1} {unit}"),
        format!("{theirs:.1} {unit}"),
        ours / theirs
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median of the time that a command takes from spawn to end, in ms.
fn time(times: usize, mut command: impl FnMut() -> Command) -> f64 {
    let once = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        assert!(command.status().unwrap().success());
        begun.elapsed().as_secs_f64() * 1000.0
    };
    once(command());
    median((0..times).map(|_| once(command())).collect())
}

fn commands() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for i in 0..50 {
        sandbox.run(&["start", "--label", &format!("old {i}"), "true"]).ok();
    }
    for i in 0..3 {
        sandbox.run(&["start", "--label", &format!("live {i}"), "sleep", "1000"]).ok();
    }
    let truth = time(100, || Command::new("true"));
    row("list, 3 live and 47 ended; beside: true", time(100, || sandbox.command(&["list"])), truth, "ms");
    let mut i = 0;
    let start = time(40, || {
        i += 1;
        sandbox.command(&["start", "--label", &format!("s{i}"), "true"])
    });
    row("start; beside: setsid true", start, time(40, || arguments_of("setsid", &["true"])), "ms");
    row("run true to its end; beside: true", time(40, || sandbox.command(&["true"])), truth, "ms");
    sandbox.run(&["shutdown"]).ok();
    let up = || {
        let begun = Instant::now();
        let server = Guard(sandbox.spawn(&["serve", "-q"]));
        while sandbox.connect_private().is_none() {
            std::thread::sleep(Duration::from_micros(100));
        }
        let up = begun.elapsed().as_secs_f64() * 1000.0;
        drop(server);
        up
    };
    row("serve to listening, 50 old runs; beside: true", median((0..20).map(|_| up()).collect()), truth, "ms");
}

fn arguments_of(program: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// A value in kB from one of the tables of /proc.
fn kilobytes(pid: i32, file: &str, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn private(pid: i32) -> f64 {
    kilobytes(pid, "smaps_rollup", "Private_Dirty") + kilobytes(pid, "smaps_rollup", "Private_Clean")
}

fn memory() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let beside = Guard(arguments_of("cat", &[]).stdin(Stdio::piped()).spawn().unwrap());
    let cat = beside.pid();
    wait_until("cat to wait", || fs::read_to_string(format!("/proc/{cat}/wchan")).is_ok_and(|at| at != "0"));
    row(
        "server, idle: RSS; beside: cat",
        kilobytes(server.pid(), "status", "VmRSS"),
        kilobytes(cat, "status", "VmRSS"),
        "kB",
    );
    let before = kilobytes(server.pid(), "status", "VmRSS");
    for i in 0..10 {
        sandbox.run(&["start", "--label", &format!("s{i}"), "sleep", "1000"]).ok();
    }
    let ten = kilobytes(server.pid(), "status", "VmRSS");
    for i in 10..60 {
        sandbox.run(&["start", "--label", &format!("s{i}"), "sleep", "1000"]).ok();
    }
    let sixty = kilobytes(server.pid(), "status", "VmRSS");
    row("server, first ten live runs: RSS grows by; cat", ten - before, kilobytes(cat, "status", "VmRSS"), "kB");
    row("server, each live run more; beside: cat private", (sixty - ten) / 50.0, private(cat), "kB");
    let shim = sandbox.status(0)["shim"].as_i64().unwrap() as i32;
    row("shim: private; beside: cat private", private(shim), private(cat), "kB");
    fs::write(sandbox.work().join("burst"), "line\n".repeat(4 << 20)).unwrap();
    sandbox.run(&["start", "--label", "burst", "sh", "-c", "cat burst; exec sleep 1000"]).ok();
    let burst = sandbox.runs().len() - 1;
    wait_until("the burst", || sandbox.status(burst)["lines"][0] == 4 << 20);
    let shim = sandbox.status(burst)["shim"].as_i64().unwrap() as i32;
    let settled = wait_for("quiet", || {
        let value = private(shim);
        std::thread::sleep(Duration::from_millis(2500)); // longer than a shim waits before it gives its buffers back
        (private(shim) == value).then_some(value)
    });
    row("shim after a burst of 4 M lines; cat private", settled, private(cat), "kB");
}

/// Prints the time, again and again: the child of the latency test.
fn ping() {
    let mut out = std::io::stdout();
    for _ in 0..400 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let _ = out.write_all(format!("{now}\n").as_bytes()).and_then(|()| out.flush());
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Prints the time for each line that it reads: the child of the test of reactions.
fn pong() {
    let mut out = std::io::stdout();
    for _ in std::io::stdin().lines() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let _ = out.write_all(format!("at {now}\n").as_bytes()).and_then(|()| out.flush());
    }
}

/// Age in ms of the time at the end of a text.
fn age(text: &str) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let written: u128 = text.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    (now - written) as f64 / 1e6
}

/// From the write of a line to the answer of a call that waits for it.
fn reaction() {
    const TIMES: usize = 200;
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let own = std::env::current_exe().unwrap().display().to_string();
    sandbox.run(&["start", "--label", "pong", &own, "pong"]).ok();
    let mut stream = sandbox.connect_private().unwrap();
    let mut cursor = "r1.combined.0".to_string();
    let mut ours = Vec::new();
    for _ in 0..TIMES {
        let arguments = serde_json::json!({"after": cursor, "wait_for": "^at [0-9]+$", "timeout": 20});
        stream.write_all(&support::post_lines(arguments, sandbox.port)).unwrap();
        std::thread::sleep(Duration::from_millis(5)); // by then it waits
        sandbox.tool_ok("ctrl", serde_json::json!({"action": "input", "command_or_label": "pong", "text": "x"}));
        let answer = support::Http::read(&mut stream).unwrap();
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let (status, lines) = body.split_once('\n').unwrap();
        ours.push(age(lines));
        cursor = serde_json::from_str::<serde_json::Value>(status).unwrap()["cursor"].as_str().unwrap().into();
    }
    let log = sandbox.work().join("log");
    let mut child = arguments_of(&own, &["pong"]);
    let mut child = Guard(child.stdin(Stdio::piped()).stdout(fs::File::create(&log).unwrap()).spawn().unwrap());
    let mut tail = arguments_of("tail", &["-n", "+1", "-f", "log"]);
    let mut tail = Guard(tail.current_dir(sandbox.work()).stdout(Stdio::piped()).spawn().unwrap());
    let mut grep = arguments_of("grep", &["--line-buffered", "-E", "^at [0-9]+$"]);
    let grep = grep.stdin(tail.0.stdout.take().unwrap()).stdout(Stdio::piped());
    let mut grep = Guard(grep.spawn().unwrap());
    let mut lines = BufReader::new(grep.0.stdout.take().unwrap()).lines();
    let mut input = child.0.stdin.take().unwrap();
    let mut theirs = Vec::new();
    for _ in 0..TIMES {
        std::thread::sleep(Duration::from_millis(5));
        input.write_all(b"x\n").unwrap();
        theirs.push(age(&lines.next().unwrap().unwrap()));
    }
    drop(input);
    assert!(child.0.wait().unwrap().success());
    row("wait_for, from write to answer; tail -f | grep", median(ours), median(theirs), "ms");
}

/// Median age in ms of the lines that `command` prints, when they arrive.
fn age_of_lines(mut command: Command) -> f64 {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut ages = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let written: u128 = line.unwrap().parse().unwrap();
        ages.push((now - written) as f64 / 1e6);
    }
    child.wait().unwrap();
    ages.remove(0);
    median(ages)
}

fn latency() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let own = std::env::current_exe().unwrap().display().to_string();
    let ours = age_of_lines(sandbox.command(&[&own, "ping"]));
    let theirs = age_of_lines(arguments_of("sh", &["-c", &format!("'{own}' ping | cat")]));
    row("a line, from write to the wrapper's stdout; | cat", ours, theirs, "ms");
}

/// CPU seconds of a process so far.
fn cpu(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Reading a log that is larger than the default bound, so without one. [`throughput`] has the default settings.
fn large_log(megabytes: usize) {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve_with(&[("PERSISTPROC_MAX_LOG_BYTES", "0")]);
    let line = format!("{}\n", "x".repeat(99));
    let lines = megabytes * 10_000;
    let source = sandbox.work().join("source");
    let mut file = std::io::BufWriter::new(fs::File::create(&source).unwrap());
    file.write_all(format!("needle {}\n", "x".repeat(92)).as_bytes()).unwrap();
    (1..lines).for_each(|_| file.write_all(line.as_bytes()).unwrap());
    drop(file);

    // Memory that was just used is faster than memory that was not, so both sides have a round to warm up, and then take
    // turns in being first.
    let mut rates = [Vec::new(), Vec::new()];
    let mut nanoseconds = Vec::new();
    for round in 0..6 {
        for turn in 0..2 {
            if turn == round % 2 {
                let (rate, cpu) = capture(&sandbox, round, megabytes);
                rates[0].push(rate);
                nanoseconds.push(cpu);
            } else {
                rates[1].push(tee(&sandbox, megabytes));
            }
        }
        if round == 0 {
            (rates, nanoseconds) = Default::default();
        }
    }
    let [ours, theirs] = rates.map(median);
    row(&format!("capture of {megabytes} MB in lines of 100; cat | tee a > b"), ours, theirs, "MB/s");
    println!("{:<52} {:>12}", "  CPU of the shim per line", format!("{:.0} ns", median(nanoseconds)));

    read_large_log(&sandbox);
}

/// Reading the log of the newest run of `sandbox`.
fn read_large_log(sandbox: &Sandbox) {
    let log = sandbox.runs().last().unwrap().join("combined.log");
    let log = log.to_str().unwrap();
    let ours = time(30, || sandbox.command(&["output", "big 5", "--lines", "100"]));
    row(
        "output --lines 100 of it, whole command; tail",
        ours,
        time(30, || arguments_of("tail", &["-n", "100", log])),
        "ms",
    );
    let stamp = stamp_in_the_middle(Path::new(log));
    let ours = time(30, || sandbox.command(&["output", "big 5", "--since-time", &stamp, "--lines", "100"]));
    row("output --since-time of it; tail -n 100", ours, time(30, || arguments_of("tail", &["-n", "100", log])), "ms");
    for (what, pattern) in [("word", "needle"), ("regex", "need[l]e")] {
        let ours = time(3, || sandbox.command(&["output", "big 5", "--grep", pattern]));
        // Into a pipe, because grep stops at the first match when nobody can see how many there are.
        let theirs = time(3, || arguments_of("sh", &["-c", "grep -cE \"$0\" \"$1\" | cat", pattern, log]));
        row(&format!("output --grep of it, a {what} in the first line; grep -c"), ours, theirs, "ms");
    }
    // Without the command around it: what the server takes.
    let mut answers = Vec::new();
    let mut stream = sandbox.connect_private().unwrap();
    for _ in 0..200 {
        let begun = Instant::now();
        let arguments = serde_json::json!({"command_or_label": "big 5", "lines": 100});
        stream.write_all(&support::post_lines(arguments, sandbox.port)).unwrap();
        assert_eq!(support::Http::read(&mut stream).unwrap().status, 200);
        answers.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    row(
        "  in the server, with HTTP; beside: tail",
        median(answers),
        time(30, || arguments_of("tail", &["-n", "100", log])),
        "ms",
    );
}

/// What comes through the wrapper, with default settings, beside a pipeline that keeps a copy, too.
fn throughput(megabytes: usize) {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let cat = |width: usize| {
        let lines = megabytes * 1_000_000 / width;
        (format!("seq -f %0{}.0f 1 {lines} > source", width - 1), "exec cat source source source".to_string())
    };
    let seq = ("true".to_string(), format!("exec seq 10000000 {}", 10_000_000 + megabytes * 1_000_000 / 3));
    for (what, (setup, command)) in [("lines of 100", cat(100)), ("lines of 50", cat(50)), ("seq, lines of 9", seq)] {
        assert!(in_directory(arguments_of("sh", &["-c", &setup]), &sandbox).status().unwrap().success());
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..8 {
            let script = format!("sh -c '{command}' | tee log | cat");
            let ours = || rate_of(sandbox.command(&["-q", "--fresh", "--label", "wrapped", "sh", "-c", &command]));
            let theirs = || rate_of(in_directory(arguments_of("sh", &["-c", &script]), &sandbox));
            let pair = if round % 2 == 0 { [ours(), theirs()] } else { [theirs(), ours()] };
            let pair = if round % 2 == 0 { pair } else { [pair[1], pair[0]] };
            if round > 1 {
                rates.iter_mut().zip(pair).for_each(|(rates, rate)| rates.push(rate));
            }
        }
        let [ours, theirs] = rates.map(median);
        row(&format!("through the wrapper, {what}; CMD | tee log | cat"), ours, theirs, "MB/s");
    }
}

fn in_directory(mut command: Command, sandbox: &Sandbox) -> Command {
    command.current_dir(sandbox.work());
    command
}

/// What a command prints into a file, in MB/s.
fn rate_of(mut command: Command) -> f64 {
    let out = command.get_current_dir().unwrap().join("out");
    let begun = Instant::now();
    assert!(command.stdout(fs::File::create(&out).unwrap()).status().unwrap().success());
    let elapsed = begun.elapsed().as_secs_f64();
    let size = fs::metadata(&out).unwrap().len();
    fs::remove_file(out).unwrap();
    size as f64 / 1e6 / elapsed
}

/// Captures the source as run `round`: MB/s, and the shim's CPU in ns per line. Only the last log is kept.
fn capture(sandbox: &Sandbox, round: usize, megabytes: usize) -> (f64, f64) {
    let begun = Instant::now();
    let label = format!("big {round}");
    sandbox.run(&["start", "--label", &label, "sh", "-c", "cat source; echo end; exec sleep 1000"]).ok();
    let shim = sandbox.status(round)["shim"].as_i64().unwrap() as i32;
    let run = sandbox.runs()[round].clone();
    let lines = megabytes * 10_000;
    wait_until("the whole log", || ends_with(&run.join("stdout.log"), b"end\n"));
    let rate = megabytes as f64 / begun.elapsed().as_secs_f64();
    let nanoseconds = cpu(shim) * 1e9 / lines as f64;
    sandbox.run(&["stop", &label]).ok();
    if round < 5 {
        let _ = (fs::remove_file(run.join("stdout.log")), fs::remove_file(run.join("combined.log")));
    }
    (rate, nanoseconds)
}

/// The same through a pipe and into two files by other means, in MB/s.
fn tee(sandbox: &Sandbox, megabytes: usize) -> f64 {
    let begun = Instant::now();
    let status = arguments_of("sh", &["-c", "cat source | tee a > b"]).current_dir(sandbox.work()).status().unwrap();
    assert!(status.success());
    let rate = megabytes as f64 / begun.elapsed().as_secs_f64();
    let _ = (fs::remove_file(sandbox.work().join("a")), fs::remove_file(sandbox.work().join("b")));
    rate
}

fn ends_with(file: &Path, text: &[u8]) -> bool {
    let file = fs::File::open(file).unwrap();
    let mut end = vec![0; text.len()];
    let at = file.metadata().unwrap().len().checked_sub(text.len() as u64);
    at.is_some_and(|at| file.read_exact_at(&mut end, at).is_ok() && end == text)
}

fn stamp_in_the_middle(log: &Path) -> String {
    let file = fs::File::open(log).unwrap();
    let mut bytes = [0; 8 << 10]; // within which there is one
    file.read_exact_at(&mut bytes, file.metadata().unwrap().len() / 2).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines().find(|line| support::without_stamp(line.as_bytes()).len() < line.len()).unwrap()[..24].to_string()
}
