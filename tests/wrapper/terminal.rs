//! At a terminal: questions, signals, readers that do not read, and notes on lines of their own.

use super::*;

/// A wrapper at a terminal of its own, 80 columns wide, to which something can be typed.
struct AtTerminal {
    child: Guard,
    terminal: std::fs::File,
    seen: String,
}

impl AtTerminal {
    #[allow(unsafe_code)]
    fn new(sandbox: &Sandbox, words: &[&str]) -> AtTerminal {
        use std::os::fd::FromRawFd;
        use std::os::unix::process::CommandExt;
        let (mut ours, mut its) = (0, 0);
        let mut size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let opened = unsafe {
            libc::openpty(&mut ours, &mut its, std::ptr::null_mut(), std::ptr::null_mut(), &raw mut size as _)
        };
        assert_eq!(opened, 0);
        let (terminal, its) = unsafe { (std::fs::File::from_raw_fd(ours), std::fs::File::from_raw_fd(its)) };
        unsafe { libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC) };
        let mut command = sandbox.command(words);
        let end = || Stdio::from(its.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        // Its terminal in every sense, so that what is typed becomes signals.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY as _, 0);
                Ok(())
            })
        };
        let child = Guard(command.spawn().unwrap());
        AtTerminal { child, terminal, seen: String::new() }
    }
    fn wait_for(&mut self, text: &str) {
        let mut bytes = [0; 1024];
        while !self.seen.contains(text) {
            let n = self.terminal.read(&mut bytes).unwrap_or_else(|error| panic!("{error}, after: {}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    }
    fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }
    fn end(self) -> i32 {
        let mut child = self.child;
        wait_for("the wrapper to exit", || child.0.try_wait().unwrap()).code().unwrap()
    }
}

#[test]
fn at_a_terminal_ctrl_c_asks_and_does_what_it_is_told() {
    let sandbox = Sandbox::new();
    let script = ["--label", "web", "sh", "-c", "echo up; read never"];
    for (typed, stops) in [("n\n", false), ("\n", false), ("\u{3}", false), ("y\n", true)] {
        let mut wrapper = AtTerminal::new(&sandbox, &script);
        wrapper.wait_for("up\r\n");
        wrapper.type_in("\u{3}");
        let pid = sandbox.status(0)["pid"].clone();
        wrapper.wait_for(&format!("Stop running process 'web' (PID {pid})? [y/N] "));
        assert_eq!(sandbox.status(0)["state"], "running");
        wrapper.type_in(typed);
        assert_eq!(wrapper.end(), if stops { 143 } else { 0 }, "{typed:?}");
        assert_eq!(sandbox.status(0)["state"], if stops { "terminated" } else { "running" }, "{typed:?}");
    }
}

/// A wrapper of 'web' at a terminal, after Ctrl+C, with its question open.
fn asking(sandbox: &Sandbox, script: &str) -> AtTerminal {
    let mut wrapper = AtTerminal::new(sandbox, &["--label", "web", "sh", "-c", script]);
    wrapper.wait_for("up\r\n");
    wrapper.type_in("\u{3}");
    wrapper.wait_for("[y/N] ");
    wrapper
}

#[test]
fn yes_applies_to_the_run_that_was_restarted_while_the_question_was_open() {
    let sandbox = Sandbox::new();
    let mut wrapper = asking(&sandbox, "echo up; read never");
    sandbox.run(&["restart", "web"]).ok();
    wrapper.type_in("y\n");
    assert_eq!(wrapper.end(), 143);
    assert_eq!((sandbox.runs().len(), sandbox.status(1)["state"].as_str()), (2, Some("terminated")));
}

#[test]
fn after_no_the_current_state_is_shown_and_not_the_earlier_one() {
    let sandbox = Sandbox::new();
    let mut wrapper = asking(&sandbox, "echo up; read never");
    sandbox.run(&["restart", "web"]).ok();
    wrapper.type_in("n\n");
    wrapper.wait_for(&format!("'web' keeps running (PID {})", sandbox.status(1)["pid"]));
    assert_eq!(wrapper.end(), 0);

    let mut wrapper = asking(&sandbox, "echo up; read never");
    sandbox.run(&["stop", "web"]).ok();
    wrapper.type_in("n\n");
    wrapper.wait_for("it was ended by SIGTERM");
    assert!(!wrapper.seen.contains("keeps running"), "{}", wrapper.seen);
    assert_eq!(wrapper.end(), 143);
}

#[test]
fn yes_is_obeyed_even_when_the_server_was_killed_while_the_question_was_open() {
    let sandbox = Sandbox::new();
    // What it says fills the way to the wrapper, so that this does not look for another server by itself.
    let mut wrapper = asking(&sandbox, "while echo up; do sleep 0.01; done");
    wait_until("a server that can be killed", || sandbox.pid_of_server().is_some_and(|pid| signal(pid, libc::SIGKILL)));
    wait_until("no server", || sandbox.health().is_none());
    wrapper.type_in("y\n");
    wrapper.wait_for("it was ended by SIGTERM");
    assert_eq!(wrapper.end(), 143);
    assert_eq!(sandbox.status(0)["state"], "terminated");
}

#[test]
fn notes_of_the_wrapper_begin_on_a_new_line_at_a_terminal() {
    let sandbox = Sandbox::new();
    let mut wrapper = AtTerminal::new(&sandbox, &["--label", "web", "sh", "-c", "printf 'done: 50%%'; read never"]);
    wrapper.wait_for("50%");
    wrapper.type_in("\u{3}");
    wrapper.wait_for("^C\r\nStop running process 'web' ");
    wrapper.type_in("\u{4}");
    wrapper.wait_for("[y/N] \r\npersistproc: 'web' keeps running");
    assert_eq!(wrapper.end(), 0);

    let mut wrapper = AtTerminal::new(&sandbox, &["--label", "web", "sh", "-c", "printf 'done: 50%%'; read never"]);
    wrapper.wait_for("50%");
    sandbox.run(&["restart", "web"]).ok();
    wrapper.wait_for("50%\r\npersistproc: restarted, PID ");
    wrapper.wait_for(&format!("PID {}\r\ndone: 50%", sandbox.status(1)["pid"]));
    sandbox.run(&["stop", "web"]).ok();
    wrapper.wait_for("50%\r\npersistproc: it was ended by SIGTERM\r\n");
    assert_eq!(wrapper.end(), 143);

    let words = ["run", "--on-exit", "stop", "--label", "web", "sh", "-c", "printf 'done: 50%%'; read never"];
    let mut wrapper = AtTerminal::new(&sandbox, &words);
    wrapper.wait_for("50%");
    wrapper.type_in("\u{3}");
    wrapper
        .wait_for("50%^C\r\npersistproc: stopping it; Ctrl+C again kills\r\npersistproc: it was ended by SIGTERM\r\n");
    assert_eq!(wrapper.end(), 143);
}

#[test]
fn a_list_is_as_wide_as_the_terminal() {
    let sandbox = Sandbox::new();
    let script = format!("echo {} end; read never", "much to say ".repeat(20));
    sandbox.run(&["start", "--label", "web", "sh", "-c", &script]).ok();
    wait_until("what it says", || sandbox.run(&["list"]).ok().out().contains("| much"));
    let mut list = AtTerminal::new(&sandbox, &["list"]);
    list.wait_for("…\r\n");
    let widths: Vec<usize> = list.seen.lines().map(|line| line.chars().count()).collect();
    assert!(widths.len() == 2 && (72..=80).contains(&widths[1]), "{}", list.seen);
    assert_eq!(list.end(), 0);
    let width = |line: &str| line.chars().count();
    assert_eq!(sandbox.run(&["list"]).ok().out().lines().map(width).max(), Some(100), "where no terminal tells");
}

#[test]
fn on_exit_stop_applies_even_when_the_terminal_closes_or_the_same_ctrl_c_ends_the_reader() {
    let sandbox = Sandbox::new();
    let words = ["run", "--on-exit", "stop", "sh", "-c", "while echo up; do sleep 0.002; done"];
    for round in 0..4 {
        let mut wrapper = AtTerminal::new(&sandbox, &words);
        wrapper.wait_for("up\r\n");
        let AtTerminal { mut child, terminal, .. } = wrapper;
        drop(terminal);
        assert_eq!(wait_for("the wrapper to exit", || child.0.try_wait().unwrap()).code(), Some(143));
        wait_until("the process to be stopped", || sandbox.status(2 * round)["state"] == "terminated");

        let mut wrapper = Guard(sandbox.spawn(&words));
        wrapper.0.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        signal(wrapper.pid(), libc::SIGINT);
        drop(wrapper.0.stdout.take());
        assert_eq!(wrapper.end(DEADLINE).code, 143);
        wait_until("the process to be stopped", || sandbox.status(2 * round + 1)["state"] == "terminated");
    }
}
