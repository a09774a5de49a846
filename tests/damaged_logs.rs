//! Runs whose disk fails, or whose logs are emptied, moved or replaced: what is known is reported, what is written later is
//! complete, and what is missing is reported as missing.

use crate::support::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The directory of a run, and its status, cannot be written by their user any more.
fn spoil(run: &Path) {
    for (path, mode) in [(run.join("status.json"), 0o444), (run.to_path_buf(), 0o555)] {
        chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn how_a_process_exited_is_known_even_if_it_cannot_be_written_to_disk() {
    let sandbox = Sandbox::new();
    let Some(user) = AnotherUser::new(&sandbox) else { return };
    let wait = |code: u8| format!("trap 'exit 7' TERM; echo up; while [ ! -e go ]; do sleep 0.02; done; exit {code}");
    user.run(&["start", "--label", "stopped", "sh", "-c", &wait(1)]).ok();
    let mut wrapper = user.command_within("", &["--label", "shown", "sh", "-c", &wait(9)]);
    let wrapper = Guard(spawn(&mut wrapper));
    wait_until("both", || sandbox.runs().len() == 2 && (0..2).all(|run| sandbox.status(run)["lines"][0] == 1));
    sandbox.runs().iter().for_each(|run| spoil(run));
    let begun = Instant::now();
    user.run(&["stop", "stopped"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    fs::write(sandbox.work().join("go"), "").unwrap();
    assert_eq!(wrapper.end(DEADLINE).code, 9);
    let listed = user.run(&["--format", "json", "list"]).ok().json();
    let told: Vec<_> =
        listed["processes"].as_array().unwrap().iter().map(|p| (&p["status"], &p["exit_code"])).collect();
    assert_eq!(told, [(&"terminated".into(), &7.into()), (&"exited".into(), &9.into())], "{listed}");
    user.run(&["shutdown"]).ok();
    // On disk is what could be written at last.
    assert_eq!(sandbox.status(0)["state"], "running");
}

#[test]
fn a_status_that_could_not_be_written_is_reported_and_written_when_the_disk_accepts_it() {
    let sandbox = Sandbox::new();
    let Some(user) = AnotherUser::new(&sandbox) else { return };
    // A line now and then, because a status is written only if there is something new.
    let script = "trap 'exit 7' TERM; while :; do echo up; sleep 0.2; done";
    user.run(&["start", "--label", "web", "sh", "-c", script]).ok();
    wait_until("its line", || sandbox.status(0)["lines"][0] != 0);
    let run = sandbox.runs()[0].clone();
    spoil(&run);
    let error = || user.run(&["--format", "json", "list"]).ok().json()["processes"][0]["error"].clone();
    wait_until("list to report it", || error().as_str().is_some_and(|e| e.starts_with("its status cannot be written")));
    user.run(&["stop", "web"]).ok();
    assert_eq!(sandbox.status(0)["state"], "running");
    for path in [run.join("status.json"), run.clone()] {
        chown(&path, Some(65_534), Some(65_534)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    user.run(&["list"]).ok();
    wait_until("it to be written", || sandbox.status(0)["state"] == "terminated");
    // So the next server knows it, too.
    user.run(&["shutdown"]).ok();
    let listed = user.run(&["--format", "json", "list"]);
    assert_eq!(listed.code, 3);
    user.run(&["serve", "--background", "-q"]).ok();
    let listed = user.run(&["--format", "json", "list"]).ok().json()["processes"][0].clone();
    assert_eq!((&listed["status"], &listed["exit_code"]), (&"terminated".into(), &7.into()), "{listed}");
    user.run(&["shutdown"]).ok();
}

/// What a disk says that has gone bad, and a file system that the kernel has made read-only because of that.
const BAD: [(&str, &str); 2] = [("EIO", "Input/output error"), ("EROFS", "Read-only file system")];

#[test]
fn on_a_broken_disk_the_process_waits_which_is_reported_and_on_a_repaired_one_it_continues() {
    for (error, words) in BAD {
        let sandbox = Sandbox::new();
        let _server = sandbox.serve();
        let out = sandbox.root.join("out");
        let mut wrapper = sandbox.command(&["--label", "web", "sh", "-c", &format!("{COUNT_UNTIL_ENOUGH}; exit 42")]);
        wrapper.stdout(fs::File::create(&out).unwrap()).stderr(Stdio::piped());
        let wrapper = Guard(wrapper.spawn().unwrap());
        let shown = || fs::read_to_string(&out).unwrap().lines().count();
        wait_until("some lines", || shown() > 20);
        let Some(bad) = break_disk(&sandbox, error) else { return };
        let listed = || sandbox.listed()[0].clone();
        wait_until("list to report it", || {
            listed()["error"].as_str().is_some_and(|e| e.contains("output is blocked") && e.contains(words))
        });
        assert_eq!(listed()["status"], "running");
        drop(bad);
        let then = shown();
        wait_until("it to continue", || shown() > then + 50);
        fs::write(sandbox.work().join("enough"), "").unwrap();
        let ended = wrapper.end(DEADLINE);
        assert_eq!(ended.code, 42);
        let told = [format!("the output is blocked: {words}"), "the output goes on".to_string()];
        assert!(told.iter().all(|text| ended.stderr.contains(text)), "{error}: {}", ended.stderr);
        let text = fs::read_to_string(&out).unwrap();
        let last = text.lines().count();
        let expected: String = (1..last).map(|i| format!("{i}\n")).chain([format!("end {last}\n")]).collect();
        assert!(text == expected, "{error}: {text}");
    }
}

#[test]
fn on_a_broken_disk_a_process_can_be_stopped_and_its_exit_code_is_known() {
    // Side by side: each time, the shim tries for five seconds to write the rest.
    std::thread::scope(|scope| BAD.map(|(error, words)| drop(scope.spawn(move || stop_on_bad_disk(error, words)))));
}

fn stop_on_bad_disk(error: &str, words: &str) {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let wrapper = Guard(sandbox.spawn(&[
        "-q",
        "--label",
        "web",
        "sh",
        "-c",
        &format!("trap 'exit 0' TERM; {COUNT_UNTIL_ENOUGH}"),
    ]));
    wait_until("some lines", || sandbox.runs().len() == 1 && sandbox.run(&["output", "web"]).out().lines().count() > 5);
    let Some(_bad) = break_disk(&sandbox, error) else { return };
    let listed = || sandbox.listed()[0].clone();
    wait_until("list to report it", || !listed()["error"].is_null());
    sandbox.run(&["stop", "web"]).ok();
    let listed = listed();
    assert_eq!((&listed["status"], &listed["exit_code"]), (&"terminated".into(), &0.into()), "{listed}");
    let lost = listed["error"].as_str().unwrap();
    assert!(lost.contains("bytes of output were lost") && lost.contains(words), "{listed}");
    let ended = wrapper.end(DEADLINE);
    assert!(ended.code == 1 && ended.stderr.contains("could not be written to the log"), "{ended:?}");
    // The server, which can write, has put down what the shim told it.
    wait_until("its status", || sandbox.status(0)["state"] == "terminated");
}

/// From now on nothing can be written in the directory of the run by its shim, but into FIFOs.
fn break_disk(sandbox: &Sandbox, error: &str) -> Option<Guard> {
    let run = fs::canonicalize(&sandbox.runs()[0]).unwrap();
    let shim = sandbox.status(0)["shim"].as_i64().unwrap() as i32;
    const CALLS: &str = "write,ftruncate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat";
    let mut rules = vec!["-e".into(), format!("trace={CALLS}"), "-e".into(), format!("inject={CALLS}:error={error}")];
    for name in ["stdout.log", "stderr.log", "combined.log", "combined.new", "stdout.new", "status.json", "status.new"]
    {
        for directory in [run.display().to_string(), "/proc/self/fd/3".into()] {
            rules.extend(["-P".into(), format!("{directory}/{name}")]);
        }
    }
    inject(shim, &rules.iter().map(String::as_str).collect::<Vec<&str>>())
}

type Spoil = fn(&Path);

/// What people and logrotate(8) do to logs.
const SPOILS: [(&str, Spoil); 6] = [
    ("emptied", |log| drop(fs::File::create(log).unwrap())),
    ("copied and truncated", |log| {
        fs::copy(log, log.with_extension("copy")).unwrap();
        fs::File::options().write(true).open(log).unwrap().set_len(0).unwrap();
    }),
    ("moved", |log| fs::rename(log, log.with_extension("moved")).unwrap()),
    ("moved and created", |log| {
        fs::rename(log, log.with_extension("moved")).unwrap();
        fs::write(log, "").unwrap();
    }),
    ("removed", |log| fs::remove_file(log).unwrap()),
    ("replaced by a directory", |log| {
        fs::remove_file(log).unwrap();
        fs::create_dir(log).unwrap();
    }),
];

#[test]
fn a_wrapper_that_keeps_up_misses_nothing_whatever_happens_to_the_log() {
    for (what, spoil) in SPOILS {
        let sandbox = Sandbox::new();
        let out = sandbox.root.join("out");
        let mut wrapper = sandbox.command(&["-q", "--label", "web", "sh", "-c", COUNT_UNTIL_ENOUGH]);
        wrapper.stdout(fs::File::create(&out).unwrap()).stderr(Stdio::piped());
        let wrapper = Guard(wrapper.spawn().unwrap());
        let shown = || fs::read_to_string(&out).unwrap().lines().count();
        wait_until("some lines", || shown() > 20);
        spoil(&sandbox.runs()[0].join("combined.log"));
        let then = shown();
        wait_until(&format!("more lines after it was {what}"), || shown() > then + 50);
        fs::write(sandbox.work().join("enough"), "").unwrap();
        let ended = wrapper.end(DEADLINE);
        let text = fs::read_to_string(&out).unwrap();
        let numbers: Vec<usize> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let is_whole = numbers.iter().enumerate().all(|(i, number)| *number == i + 1);
        let last = *numbers.last().unwrap();
        assert!(text.ends_with(&format!("\n{last}\nend {}\n", last + 1)), "{what}: {text}");
        // What was being written when it happened may be gone with the old file; then it is said.
        let is_told = ended.stderr.contains("output is missing here");
        assert_eq!((is_whole, ended.code), (!is_told, i32::from(is_told)), "{what}: {ended:?}");
        let output = sandbox.run(&["output", "web", "--lines", "3"]).ok().out();
        assert!(output.trim_end().ends_with(&format!("Z end {}", last + 1)), "{what}: {output}");
    }
}

#[test]
fn a_reader_that_lags_when_the_log_is_emptied_is_told_what_is_missing() {
    let sandbox = Sandbox::new();
    // More than the pipes of the wrapper hold, so that it is behind.
    let script = format!("seq -f %0999.0f 1 3000; echo all; {COUNT_UNTIL_ENOUGH}");
    let mut wrapper = Guard(sandbox.spawn(&["-q", "--label", "web", "sh", "-c", &script]));
    wait_until("all of it", || sandbox.runs().len() == 1 && sandbox.status(0)["lines"][0].as_u64() > Some(3001));
    fs::File::create(sandbox.runs()[0].join("combined.log")).unwrap();
    let lines = sandbox.status(0)["lines"][0].as_u64().unwrap();
    wait_until("more lines", || sandbox.status(0)["lines"][0].as_u64() > Some(lines + 50));
    fs::write(sandbox.work().join("enough"), "").unwrap();
    let out = wrapper.0.stdout.take().unwrap();
    let text = std::io::read_to_string(out).unwrap();
    let ended = wrapper.end(DEADLINE);
    assert!(ended.code == 1 && ended.stderr.contains("output is missing here"), "{ended:?}");
    let (long, short): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.len() > 20);
    // At most the one in which it was when that happened is torn.
    let whole = long.iter().filter(|line| line.len() == 999).count();
    assert!(whole + 1 >= long.len() && whole < 3000, "{} of {}", whole, long.len());
    let numbers: Vec<u64> = short.iter().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && !numbers.is_empty(), "{short:?}");
    assert_eq!(*short.last().unwrap(), format!("end {}", numbers.last().unwrap() + 1));
}

#[test]
fn a_missing_log_is_reported_and_not_mistaken_for_an_empty_one() {
    let sandbox = Sandbox::new();
    sandbox.run(&["--label", "web", "echo", "up"]).ok();
    sandbox.run(&["--label", "silent", "true"]).ok();
    fs::remove_file(sandbox.runs()[0].join("combined.log")).unwrap();
    for words in [&["output", "web"][..], &["output", "--follow", "web"], &["--format", "json", "output", "web"]] {
        let ended = sandbox.run(words);
        assert!(ended.code == 1 && ended.stderr.contains("combined.log was removed or moved away"), "{ended:?}");
    }
    let (text, is_error) = sandbox.tool("output", serde_json::json!({"command_or_label": "web"}));
    assert!(is_error && text.contains("was removed or moved away"), "{text}");
    // The others are there; and what never said anything is just silent.
    assert!(sandbox.run(&["output", "--stream", "stdout", "web"]).ok().out().ends_with("Z up\n"));
    fs::File::create(sandbox.runs()[0].join("stdout.log")).unwrap();
    let ended = sandbox.run(&["output", "--stream", "stdout", "web"]);
    assert!(ended.code == 1 && ended.stderr.contains("was emptied or replaced: it had 28 bytes"), "{ended:?}");
    assert_eq!(sandbox.run(&["output", "silent"]).ok().out(), "");
}

#[test]
fn a_damaged_log_of_a_silent_process_is_recreated_when_it_is_requested() {
    let sandbox = Sandbox::new();
    sandbox.run(&["start", "--label", "web", "sh", "-c", "echo up; read go; echo gone on; sleep 1000"]).ok();
    wait_until("its line", || sandbox.status(0)["bytes"][2] != 0);
    for (i, spoil) in [|log: &Path| fs::remove_file(log).unwrap(), |log: &Path| drop(fs::File::create(log).unwrap())]
        .into_iter()
        .enumerate()
    {
        spoil(&sandbox.runs()[0].join("combined.log"));
        wait_until("the server to have seen its status", || sandbox.run(&["output", "web", "--lines", "5"]).code == 0);
        assert!(sandbox.runs()[0].join("combined.log").exists(), "{i}");
    }
    sandbox.tool_ok("ctrl", serde_json::json!({"action": "input", "command_or_label": "web", "text": "go"}));
    wait_until("its next line", || sandbox.run(&["output", "web"]).ok().out().ends_with("Z gone on\n"));
}
