//! A requested stop or restart is carried out exactly once, whatever happens to the server; and nothing is stopped for a
//! restart that could not start it again.

use crate::support::*;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// A program that notes its start and takes 0.3 s to end.
const SLOW: &str = "#!/bin/sh
trap 'sleep 0.3; exit 0' TERM
echo >> births
echo up
while :; do sleep 0.05; done
";

fn births(sandbox: &Sandbox) -> u64 {
    std::fs::metadata(sandbox.work().join("births")).map_or(0, |file| file.len())
}

fn orders(sandbox: &Sandbox) -> Vec<PathBuf> {
    sandbox.runs().iter().map(|run| run.join("order.json")).filter(|order| order.exists()).collect()
}

/// Pids of the leaders that live. A run that was never born has no status, and old runs may be removed meanwhile.
fn live(sandbox: &Sandbox) -> Vec<i64> {
    let status = |run: &PathBuf| serde_json::from_slice::<Value>(&std::fs::read(run.join("status.json")).ok()?).ok();
    let statuses: Vec<Value> = sandbox.runs().iter().filter_map(status).collect();
    let running = statuses.iter().filter(|status| status["state"] == "running");
    running.map(|status| status["pid"].as_i64().unwrap()).filter(|pid| is_alive(*pid as i32)).collect()
}

/// Kills the server with -9, `delay` after `command` has begun.
fn kill_during(sandbox: &Sandbox, words: &[&str], delay: Duration) -> Child {
    let server = wait_for("a server", || sandbox.pid_of_server());
    let command = sandbox.spawn(words);
    let begun = Instant::now();
    // Not a wait for something: the moments of the kills are what is tried.
    std::thread::sleep(delay.saturating_sub(begun.elapsed()));
    assert!(signal(server, libc::SIGKILL));
    command
}

/// Servers killed during restarts: how many processes were lost, or started more than once.
pub fn restarts_with_kills(rounds: u64) -> u64 {
    let sandbox = Sandbox::new();
    sandbox.script("slow", SLOW);
    let wrapper = Guard(sandbox.spawn(&["-q", "--label", "web", "./slow"]));
    wait_until("its start", || births(&sandbox) == 1);
    let mut wrong = 0;
    for round in 0..rounds {
        let before = births(&sandbox);
        let delay = Duration::from_micros(round * 450_000 / rounds);
        let ended = finish(kill_during(&sandbox, &["-q", "restart", "web"], delay), DEADLINE);
        // Killed before the request came there: then nobody has promised anything.
        let is_refused = ended.code == 3;
        assert!(ended.code == 0 || is_refused, "round {round}: {ended:?}");
        sandbox.run(&["-q", "start", "--label", "other", "true"]);
        wait_until("the order to be carried out", || orders(&sandbox).is_empty());
        let expected = before + u64::from(!is_refused);
        wait_until("one live process", || live(&sandbox).len() == 1);
        wrong += u64::from(births(&sandbox) != expected);
    }
    assert!(is_alive(wrapper.pid()), "the wrapper goes on with the new run");
    wrong
}

#[test]
fn a_restart_is_finished_by_the_next_server_and_happens_once() {
    assert_eq!(restarts_with_kills(10), 0);
}

#[test]
fn a_stop_is_finished_by_the_next_server() {
    let sandbox = Sandbox::new();
    sandbox.script("slow", SLOW);
    for round in 0..6 {
        let before = births(&sandbox);
        sandbox.run(&["-q", "start", "--label", "web", "./slow"]).ok();
        wait_until("its start", || births(&sandbox) == before + 1);
        let ended = finish(kill_during(&sandbox, &["-q", "stop", "web"], Duration::from_millis(round * 60)), DEADLINE);
        if ended.code == 3 {
            sandbox.run(&["-q", "start", "true"]).ok();
            sandbox.run(&["-q", "stop", "web"]).ok();
        } else {
            ended.ok();
        }
        assert_eq!(live(&sandbox), Vec::<i64>::new(), "round {round}");
        assert_eq!(births(&sandbox), before + 1, "round {round}");
    }
}

#[test]
fn a_stop_that_is_sent_again_does_not_reach_a_newer_run_of_the_label() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let call = |action: &str| {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ctrl",
            "arguments": {"action": action, "command_or_label": "web"}, "_meta": {"persistproc/key": action}}});
        sandbox.http(&post("/mcp", sandbox.port, "", &call.to_string())).json()["result"].clone()
    };
    sandbox.run(&["start", "--label", "web", "sleep", "1000"]).ok();
    let first = call("stop");
    assert_ne!(first["isError"], true);
    sandbox.run(&["start", "--label", "web", "sleep", "1000"]).ok();
    assert_eq!(call("stop"), first);
    assert_eq!(live(&sandbox).len(), 1);
    // A restart neither.
    let first = call("restart");
    let runs = sandbox.runs().len();
    assert_eq!((call("restart")["isError"].clone(), sandbox.runs().len()), (first["isError"].clone(), runs));
}

#[test]
fn a_request_that_was_carried_out_or_refused_leaves_no_order() {
    let sandbox = Sandbox::new();
    sandbox.script("slow", SLOW);
    sandbox.run(&["start", "--label", "web", "./slow"]).ok();
    wait_until("its start", || births(&sandbox) == 1);
    sandbox.run(&["restart", "web"]).ok();
    assert_eq!(orders(&sandbox), Vec::<PathBuf>::new());
    wait_until("its start", || births(&sandbox) == 2);
    // The server ends while it restarts: nothing is started later.
    let restart = sandbox.spawn(&["--no-autostart", "restart", "web"]);
    wait_until("the order", || !orders(&sandbox).is_empty());
    sandbox.run(&["shutdown"]).ok();
    finish(restart, DEADLINE);
    assert_eq!((orders(&sandbox), live(&sandbox)), (Vec::new(), Vec::new()));
    let _server = sandbox.serve();
    let births_then = births(&sandbox);
    assert!(sandbox.run(&["list"]).ok().out().contains("terminated") && births(&sandbox) == births_then);
}

/// Makes it impossible to start `web` again.
type Break = fn(&Sandbox);

#[test]
fn a_program_that_cannot_be_started_again_is_left_running_and_the_reason_reported() {
    let interpreter = |sandbox: &Sandbox| sandbox.work().join("shell");
    const BREAKS: [(&str, Break); 6] = [
        ("no such file", |s| std::fs::remove_file(s.work().join("web")).unwrap()),
        ("not executable", |s| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(s.work().join("web"), std::fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("cannot run this file", |s| std::fs::write(s.work().join("web"), "").unwrap()),
        ("its interpreter", |s| std::fs::remove_file(s.work().join("shell")).unwrap()),
        // As by an editor that ends lines as on Windows: for the system the name ends in a carriage return.
        (r"its interpreter /bin/sh\r", |s| {
            std::fs::write(s.work().join("web"), "#!/bin/sh\r\nread never\r\n").unwrap()
        }),
        ("does not exist", |s| std::fs::rename(s.work(), s.root.join("moved")).unwrap()),
    ];
    for (why, spoil) in BREAKS {
        let sandbox = Sandbox::new();
        let _server = sandbox.serve();
        std::os::unix::fs::symlink("/bin/sh", interpreter(&sandbox)).unwrap();
        sandbox.script("web", &format!("#!{}\necho up\nread never\n", interpreter(&sandbox).display()));
        sandbox.run(&["start", "--label", "web", "./web"]).ok();
        // Before that its shell may not have read the script, and would exit without it.
        wait_until("its line", || sandbox.status(0)["lines"][0] == 1);
        let pid = sandbox.status(0)["pid"].clone();
        spoil(&sandbox);
        let text = |answer: (String, bool)| {
            assert!(answer.1, "{}", answer.0);
            answer.0
        };
        let told = text(sandbox.tool("ctrl", json!({"action": "restart", "command_or_label": "web"})));
        assert!(told.contains(why) && told.contains(&format!("'web' goes on as it was (PID {pid})")), "{told}");
        assert_eq!(live(&sandbox), [pid.as_i64().unwrap()], "{why}");
        let listed: Value = sandbox.status(0);
        assert_eq!(listed["stop"], Value::Null, "{why}: it was not even asked to stop");
        if sandbox.work().exists() {
            let ended = sandbox.run(&["run", "--fresh", "--label", "web", "./web"]);
            assert!(ended.code == 1 && ended.stderr.contains(why), "{ended:?}");
            assert_eq!(live(&sandbox), [pid.as_i64().unwrap()], "{why}");
        } else {
            std::fs::rename(sandbox.root.join("moved"), sandbox.work()).unwrap();
        }
    }
}

#[test]
fn a_program_that_is_found_further_down_the_path_can_be_restarted() {
    let sandbox = Sandbox::new();
    for (directory, first) in [("a", "#!/no/such/shell"), ("b", "#!/bin/sh")] {
        std::fs::create_dir(sandbox.work().join(directory)).unwrap();
        sandbox.script(&format!("{directory}/app"), &format!("{first}\necho up\nread never\n"));
    }
    let path = format!("{0}/a:{0}/b:{1}", sandbox.work().display(), std::env::var("PATH").unwrap());
    finish(spawn(sandbox.command(&["start", "--label", "web", "app"]).env("PATH", path)), DEADLINE).ok();
    sandbox.run(&["restart", "web"]).ok();
    assert_eq!(live(&sandbox).len(), 1);
}

#[test]
fn a_program_whose_interpreter_has_a_name_that_is_not_text_can_be_restarted() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    let interpreter = sandbox.work().join(std::ffi::OsStr::from_bytes(b"sh\xff"));
    std::os::unix::fs::symlink("/bin/sh", &interpreter).unwrap();
    let program = sandbox.script("web", "");
    let text = [b"#!", interpreter.as_os_str().as_bytes(), b"\necho up\nread never\n"].concat();
    std::fs::write(program, text).unwrap();
    sandbox.run(&["start", "--label", "web", "./web"]).ok();
    sandbox.run(&["restart", "web"]).ok();
    assert_eq!((sandbox.runs().len(), live(&sandbox).len()), (2, 1));
}

#[test]
fn a_restart_that_begins_while_the_server_shuts_down_is_not_carried_out_later() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.script("slow", SLOW);
    sandbox.run(&["start", "--label", "web", "./slow"]).ok();
    wait_until("its start", || births(&sandbox) == 1);
    // The order is being written while the server begins to end: it appears a second after it was prepared.
    let run = sandbox.runs()[0].clone();
    let rule = ["-e", "trace=rename,renameat,renameat2", "-e", "inject=rename,renameat,renameat2:delay_enter=1000000"];
    let Some(_tracer) = inject(server.pid(), &rule) else { return };
    let restart = sandbox.spawn(&["--no-autostart", "restart", "web"]);
    let is_prepared = |file: std::fs::DirEntry| file.file_name().to_string_lossy().starts_with("order.new");
    wait_until("an order that is prepared", || std::fs::read_dir(&run).unwrap().flatten().any(is_prepared));
    sandbox.run(&["shutdown"]).ok();
    let refused = finish(restart, DEADLINE);
    assert!(refused.code == 1 && refused.stderr.contains("shutting down"), "{refused:?}");
    assert_eq!((orders(&sandbox), live(&sandbox), births(&sandbox)), (Vec::new(), Vec::new(), 1));
}

#[test]
fn a_stop_during_a_restart_does_not_hinder_what_the_next_server_finishes() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    sandbox.script("slow", &SLOW.replace("sleep 0.3", "while [ ! -e go ]; do sleep 0.02; done"));
    sandbox.run(&["start", "--label", "web", "./slow"]).ok();
    wait_until("its start", || births(&sandbox) == 1);
    let asked = || sandbox.status(0)["stop"]["requests"].as_u64().unwrap_or(0);
    // Agents at the port, who send nothing again.
    let send = |action: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", sandbox.port)).unwrap();
        let arguments = json!({"action": action, "command_or_label": "web"});
        stream.write_all(&post_tool(sandbox.port, "ctrl", arguments)).unwrap();
        stream
    };
    let restart = send("restart");
    wait_until("the restart", || asked() == 1);
    let stop = send("stop");
    wait_until("the stop", || asked() == 2);
    assert!(signal(server.pid(), libc::SIGKILL));
    drop((server, restart, stop));
    std::fs::write(sandbox.work().join("go"), "").unwrap();
    let _next = sandbox.serve();
    wait_until("the restart to be finished", || births(&sandbox) == 2 && live(&sandbox).len() == 1);
    wait_until("the order to be carried out", || orders(&sandbox).is_empty());
}

#[test]
fn a_fresh_run_whose_server_is_killed_replaces_the_old_one_exactly_once() {
    let sandbox = Sandbox::new();
    sandbox.script("slow", SLOW);
    sandbox.run(&["-q", "start", "--label", "web", "./slow"]).ok();
    for round in 0..6 {
        wait_until("one live process", || live(&sandbox).len() == 1);
        let before = births(&sandbox);
        let words = ["-q", "run", "--fresh", "--on-exit", "detach", "--label", "web", "./slow"];
        let wrapper = Guard(kill_during(&sandbox, &words, Duration::from_millis(round * 70)));
        wait_until("its start", || births(&sandbox) == before + 1 && live(&sandbox).len() == 1);
        wait_until("the order to be carried out", || orders(&sandbox).is_empty());
        signal(wrapper.pid(), libc::SIGTERM);
        let ended = wrapper.end(DEADLINE);
        assert!(ended.stderr.is_empty(), "round {round}: {ended:?}");
        assert_eq!((births(&sandbox), live(&sandbox).len()), (before + 1, 1), "round {round}");
    }
}

#[test]
fn where_no_order_can_be_written_a_stop_is_carried_out_and_a_restart_leaves_the_process_alone() {
    let sandbox = Sandbox::new();
    let Some(user) = AnotherUser::new(&sandbox) else { return };
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done";
    user.run(&["start", "--label", "web", "sh", "-c", script]).ok();
    wait_until("its line", || sandbox.status(0)["lines"][0] == 1);
    let (run, pid) = (sandbox.runs()[0].clone(), sandbox.status(0)["pid"].clone());
    std::fs::create_dir(run.join("order.json")).unwrap(); // which no file can take the place of
    let refused = user.run(&["restart", "web"]);
    assert!(refused.code == 1 && refused.stderr.contains(&format!("goes on as it was (PID {pid})")), "{refused:?}");
    assert_eq!((live(&sandbox).len(), sandbox.status(0)["stop"].clone()), (1, Value::Null));
    user.run(&["stop", "web"]).ok();
    assert_eq!(live(&sandbox), Vec::<i64>::new());
    user.run(&["shutdown"]).ok();
}

#[test]
fn a_pending_restart_is_not_carried_out_in_addition_to_a_later_start() {
    let sandbox = Sandbox::new();
    sandbox.run(&["-q", "--label", "web", "true"]).ok();
    sandbox.run(&["-q", "start", "--label", "web", "sleep", "1000"]).ok();
    sandbox.run(&["shutdown", "--keep"]).ok();
    // As if a server that was killed had been about to restart the first run.
    let mut next: Value = serde_json::from_slice(&std::fs::read(sandbox.runs()[0].join("meta.json")).unwrap()).unwrap();
    next["previous"] = json!(1);
    let order = json!({"version": 1, "grace": 8000, "next": next});
    std::fs::write(sandbox.runs()[0].join("order.json"), order.to_string()).unwrap();
    let _server = sandbox.serve();
    sandbox.run(&["list"]).ok();
    wait_until("it to be dropped", || orders(&sandbox).is_empty());
    assert_eq!((sandbox.runs().len(), live(&sandbox).len()), (2, 1));
}
