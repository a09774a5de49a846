//! A process and its newest run, as `list` shows it.

use super::members::{Member, Members, members, named, required};
pub use crate::rundir::State;
use serde::Deserialize;
use serde_json::Value;

required! {
    State: |value: &Value| State::deserialize(value).ok(), |state: &State| state.name().into();
}
named!(State);

members! {
    /// A run in the words of `list`, with the member names of the Python program. Absent members are unknown, or nothing;
    /// what its processes use and what it printed is only in answers to `list`.
    Process {
        /// `r12`; empty for the server itself.
        run: String,
        pid: i32,
        label: String,
        command: Vec<String>,
        working_directory: String,
        state as "status": State,
        /// ISO 8601, UTC.
        start_time: Option<String>,
        end_time: Option<String>,
        exit_code: Option<i32>,
        /// `SIGTERM`
        signal: Option<String>,
        log_stdout: String,
        log_stderr: String,
        log_combined: String,
        /// Why it could not be started, or what is wrong with it now.
        error: Option<String>,
        /// TCP ports on which a process of its tree listens.
        ports: Vec<u16>,
        /// The address that it printed when it began, if a process of its tree still listens there: the last line seldom
        /// has it.
        url: Option<String>,
        /// CPU time of the tree since its start, in percent of one processor.
        cpu_percent: Option<f64>,
        /// Resident memory of the tree.
        memory_bytes: Option<u64>,
        /// Lines of both streams since the start of the run.
        lines: Option<u64>,
        /// Size of its logs on disk.
        log_bytes: u64,
        /// The last line, as a terminal would show it.
        last_line: String,
    }
}

impl Member for Process {
    fn read(value: &Value) -> Option<Self> {
        value.as_object().map(Process::from_members)
    }
    fn write(&self) -> Option<Value> {
        Some(Value::Object(self.members()))
    }
}

impl Member for Vec<Process> {
    fn read(value: &Value) -> Option<Self> {
        value.as_array().map(|processes| processes.iter().filter_map(Member::read).collect())
    }
    fn write(&self) -> Option<Value> {
        Some(self.iter().map(Process::members).collect())
    }
}
