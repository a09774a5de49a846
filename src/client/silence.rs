//! A server that is alive and does not answer: says what is waited for, and what helps.

use super::terminal;
use crate::config::Config;
use crate::discovery;
use crate::procs;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::time::Duration;

/// How long a call may take before that is reported.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// Why the server does not answer, as far as that is known.
pub fn silence(config: &Config) -> String {
    let Some(server_info) = discovery::find(&config.data_dir) else { return "the server does not answer".into() };
    let pid = server_info.pid;
    match state(pid) {
        Some(b'T') => format!("the server (PID {pid}) is stopped: `kill -CONT {pid}` continues it"),
        // No signal continues it.
        Some(b't') => {
            format!("the server (PID {pid}) is stopped by a debugger, which has to continue or detach from it")
        }
        _ => format!("the server (PID {pid}) does not answer; it may get no CPU time, or its control group is frozen"),
    }
}

/// The state letter of ps(1).
fn state(pid: u32) -> Option<u8> {
    procs::look_up(pid as i32).map(|process| process.state)
}

/// Reports once, after a while, what is waited for, unless it is dropped before because the answer has come.
pub struct Watch {
    /// The thread waits until this is dropped.
    _answered: Sender<()>,
}

impl Watch {
    /// `may_take_long`: the request may take its time, so that only a stopped server is reported.
    pub fn start(config: &Config, may_take_long: bool) -> Option<Watch> {
        if config.is_quiet {
            return None;
        }
        let (answered, waiting) = bounded(0);
        let config = config.clone();
        let watch = move || {
            if waiting.recv_timeout(SILENCE_LIMIT) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let server_info = discovery::find(&config.data_dir);
            let is_stopped = server_info.is_some_and(|server_info| matches!(state(server_info.pid), Some(b'T' | b't')));
            if is_stopped || !may_take_long {
                terminal::note(&format!("{}; waiting for it", silence(&config)));
            }
        };
        // Without a thread the wait is silent.
        std::thread::Builder::new().name("watch".into()).spawn(watch).ok()?;
        Some(Watch { _answered: answered })
    }
}
