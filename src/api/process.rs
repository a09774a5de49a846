//! A process and its newest run, as `list` shows it.

pub use crate::rundir::State;
use serde::{Deserialize, Serialize};

/// A run in the words of `list`, with the member names of the Python program. Absent members are unknown, or nothing; what
/// its processes use and what it printed is only in answers to `list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// `r12`; empty for the server itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub run: String,
    pub pid: i32,
    pub label: String,
    pub command: Vec<String>,
    pub working_directory: String,
    #[serde(rename = "status")]
    pub state: State,
    /// ISO 8601, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// `SIGTERM`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    pub log_stdout: String,
    pub log_stderr: String,
    pub log_combined: String,
    /// Why it could not be started, or what is wrong with it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// TCP ports on which a process of its tree listens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// The address that it printed when it began, if a process of its tree still listens there: the last line seldom has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// CPU time of the tree since its start, in percent of one processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Resident memory of the tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Lines of both streams since the start of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// Size of its logs on disk.
    pub log_bytes: u64,
    /// The last line, as a terminal would show it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_line: String,
    /// Invisible characters that were left out of `last_line`.
    #[serde(skip)]
    pub hidden: usize,
    /// Milliseconds since it started, or since it ended.
    #[serde(skip)]
    pub age_ms: u64,
}
