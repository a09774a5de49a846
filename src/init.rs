//! PID 1 of a container: `docker run IMAGE persistproc CMD` makes us what init(1) is elsewhere. When that ends, the kernel
//! kills all the rest of the container at once, and what loses its parent becomes our child and stays a zombie until it is
//! reaped. So PID 1 only does this: it runs persistproc as a child, passes signals on to it, reaps, and when the child has
//! ended asks all that is left to end, too: servers and shims first, which stop their programs in order.
//!
//! Models: tini and dumb-init.

use crate::procs::{self, Process};
use crate::sys::{self, Reaped};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Signals that are the child's.
const PASSED_ON: [i32; 7] =
    [sys::SIGTERM, sys::SIGINT, sys::SIGHUP, sys::SIGQUIT, sys::SIGUSR1, sys::SIGUSR2, sys::SIGWINCH];
/// Those that ask it to end, for which it has to run.
const ENDING: [i32; 4] = [sys::SIGTERM, sys::SIGINT, sys::SIGHUP, sys::SIGQUIT];
/// How long what is left may take to end: a little more than programs get from the server. (docker stop kills after 10 s,
/// unless it is told to wait longer.)
const GRACE: Duration = Duration::from_secs(9);
/// What belongs to no run has at least this long, also if the programs took all the time there was.
const LAST: Duration = Duration::from_millis(500);
/// It is looked again after this, should a signal get lost.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether this process is PID 1.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// Runs this program with the same arguments as a child: its exit code, 128 and more for a signal.
pub fn run() -> u8 {
    supervise().unwrap_or_else(|error| {
        crate::client::complain(&format!("cannot start as PID 1: {error}"));
        1
    })
}

fn supervise() -> io::Result<u8> {
    let caught: Vec<i32> = PASSED_ON.into_iter().chain([sys::SIGCHLD]).collect();
    let mut signals = sys::signals_as_bytes(&caught)?;
    let program = std::env::current_exe()?;
    let words: Vec<_> = std::env::args_os().collect();
    let mut command = Command::new(program);
    command.arg0(words.first().map_or("persistproc".as_ref(), |word| word.as_os_str())).args(&words[1..]);
    // A group of its own, so that what is typed (Ctrl+C) reaches it once: by the terminal, and not by us as well.
    command.process_group(0);
    sys::take_terminal(&mut command);
    let child = command.spawn()?.id() as i32;
    let code = loop {
        if let Some(code) = reap_until(child) {
            break code;
        }
        // Ctrl+Z: there is no shell here to continue it. A STOP is sent on purpose, and is left alone.
        if sys::stopped_by(child).is_some_and(|number| number != sys::SIGSTOP) {
            let _ = sys::kill_group(child, sys::SIGCONT);
        }
        for number in wait_for_signals(&mut signals, CHECK_INTERVAL) {
            if number != sys::SIGCHLD {
                let _ = sys::kill(child, number); // ours, and not reaped
            }
            if ENDING.contains(&number) {
                let _ = sys::kill_group(child, sys::SIGCONT);
            }
        }
    };
    end_the_rest(&mut signals);
    Ok(code)
}

/// Asks everything in the container to end, and waits until it has. Programs are asked by their shims: by us as well they
/// would be sent TERM twice, and many take the second one as "at once".
fn end_the_rest(signals: &mut std::fs::File) {
    let end = Instant::now() + GRACE;
    let mut wait_until = |end: Instant| {
        wait_for_signals(signals, CHECK_INTERVAL.min(end.saturating_duration_since(Instant::now())));
    };
    let mut asked = BTreeSet::new();
    while !is_alone() && ask_services(&mut asked) && Instant::now() < end {
        wait_until(end);
    }
    sys::kill_all(sys::SIGTERM);
    let end = end.max(Instant::now() + LAST);
    while !is_alone() && Instant::now() < end {
        wait_until(end);
    }
}

/// Asks servers and shims to end that were not asked before. False if there are none.
fn ask_services(asked: &mut BTreeSet<i32>) -> bool {
    // Without a table of processes all are asked at once.
    let mut services = procs::all_processes().unwrap_or_default();
    services.retain(|process: &Process| !process.is_dead() && process.is_service());
    for process in services.iter().filter(|process| asked.insert(process.pid)) {
        // One that was stopped hears nothing until it is continued.
        for number in [sys::SIGTERM, sys::SIGCONT] {
            let _ = sys::kill_exactly(process.pid, number, || process.is_same_as_now());
        }
    }
    !services.is_empty()
}

/// Reaps what has ended; the exit code of `child` if it is among that.
fn reap_until(child: i32) -> Option<u8> {
    while let Reaped::One { pid, status } = sys::reap() {
        if pid == child {
            let (code, signal) = sys::outcome(status);
            return Some(code.unwrap_or(128 + signal.unwrap_or(0)) as u8);
        }
    }
    None
}

/// Reaps, and tells whether no child is left.
fn is_alone() -> bool {
    loop {
        match sys::reap() {
            Reaped::One { .. } => {}
            Reaped::NotYet => return false,
            Reaped::NoChildren => return true,
        }
    }
}

/// The signals that have come, or come within `limit`.
fn wait_for_signals(signals: &mut std::fs::File, limit: Duration) -> Vec<i32> {
    sys::poll_readable([signals.as_raw_fd()], Some(limit));
    let mut numbers = [0; 64];
    let n = signals.read(&mut numbers).unwrap_or(0);
    numbers[..n].iter().map(|number| i32::from(*number)).collect()
}
