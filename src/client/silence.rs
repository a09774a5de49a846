//! A server that lives and does not answer: what is waited for is said, and what helps.

use super::terminal;
use crate::config::Config;
use crate::discovery;
use crate::procs;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::time::Duration;

/// A call that takes longer than this is said to.
const LONG: Duration = Duration::from_secs(3);

/// What is known of the silence of a server.
pub fn silence(config: &Config) -> String {
    let Some(server_info) = discovery::find(&config.data_dir) else { return "the server does not answer".into() };
    let pid = server_info.pid;
    match state(pid) {
        Some(b'T') => format!("the server (PID {pid}) is stopped: `kill -CONT {pid}` continues it"),
        // No signal continues it.
        Some(b't') => format!("the server (PID {pid}) is halted by a debugger, which has to continue it or let it go"),
        _ => format!("the server (PID {pid}) does not answer; it may be starved, or its control group frozen"),
    }
}

/// As ps(1) shows it.
fn state(pid: u32) -> Option<u8> {
    procs::look_up(pid as i32).map(|process| process.state)
}

/// Says once, after a while, what is waited for, unless the answer comes before: until this is dropped.
pub struct Watch {
    /// Its end is what the thread waits for.
    _answered: Sender<()>,
}

impl Watch {
    /// `may_take_long`: the request may take its time, so that only a stopped server is worth a word.
    pub fn start(config: &Config, may_take_long: bool) -> Option<Watch> {
        if config.is_quiet {
            return None;
        }
        let (answered, waiting) = bounded(0);
        let config = config.clone();
        let watch = move || {
            if waiting.recv_timeout(LONG) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let server_info = discovery::find(&config.data_dir);
            let is_stopped = server_info.is_some_and(|server_info| matches!(state(server_info.pid), Some(b'T' | b't')));
            if is_stopped || !may_take_long {
                terminal::note(&format!("{}; waiting for it", silence(&config)));
            }
        };
        // Without a thread it is waited for in silence.
        std::thread::Builder::new().name("watch".into()).spawn(watch).ok()?;
        Some(Watch { _answered: answered })
    }
}
