//! The contract between our own commands and the server: every request and every answer, with its path, its header and
//! the meaning of its members. Both sides import this module and nothing of each other.
//!
//! Requests go to the Unix socket in the data directory, as JSON, and are not served on TCP:
//!
//! | path | request | answer |
//! |---|---|---|
//! | `POST /run` | [`RunRequest`] | [`RunAnswer`] |
//! | `POST /list` | [`Call`] of [`ListRequest`] | [`ListAnswer`] |
//! | `POST /ctrl` | [`Call`] of [`ControlRequest`] | [`ControlAnswer`] |
//! | `POST /lines` | [`Call`] of [`OutputRequest`] | [`OutputStatus`] on the first line, then the lines |
//! | `GET /output` | [`Follow`], as a query | [`Following`], in a header |
//! | `POST /shutdown` | [`ShutdownRequest`] | [`ShutdownAnswer`] |
//! | `GET /health` | | `ServerInfo` |
//!
//! An error is a [`Refusal`] with a status that is not 200. Members are only ever added, each with a default, because a
//! command and the server that it finds can be of different versions.

pub mod members;
pub mod output;
pub mod params;
pub mod process;

use crate::attributes::Attributes;
use crate::log::Stream;
use crate::os_text::OsText;
use members::members;
#[cfg(doc)]
use params::{ControlRequest, ListRequest, OutputRequest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use members::Members;
pub use output::{Follow, Following, OutputStatus, OutputSummary, ReadOptions, Unfinished, WaitOutcome};
pub use process::{Process, State};

pub const RUN: &str = "/run";
pub const LIST: &str = "/list";
pub const CTRL: &str = "/ctrl";
pub const LINES: &str = "/lines";
pub const FOLLOW: &str = "/output";
pub const HEALTH: &str = "/health";
pub const SHUTDOWN: &str = "/shutdown";

/// The header of an answer that says: not carried out, because a newer server takes the place of this one; ask again.
pub const LEAVING: &str = "Persistproc-Leaving";
/// The header of `GET /output` that carries [`Following`], as JSON in ASCII.
pub const FOLLOWING: &str = "Persistproc-Status";

/// What to do if the process is running already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IfRunning {
    Refuse,
    /// Return the run that exists.
    Attach,
    /// Stop it, then start a new one.
    Replace,
}

/// Starts exactly what the caller's shell would have run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRequest {
    pub argv: Vec<OsText>,
    /// Absolute.
    pub working_directory: OsText,
    pub environment: Vec<(OsText, OsText)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub if_running: IfRunning,
    /// The same request sent again starts nothing a second time.
    pub idempotency_key: Option<String>,
    /// The lease of the command that is going to read the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// Of the process that asks; commands up to 0.4 do not send them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// The run that was started or attached to.
#[derive(Clone, Debug)]
pub struct RunAnswer {
    pub process: Process,
    /// Number of the run.
    pub number: u64,
    /// Whether this request started it.
    pub is_new: bool,
    /// Before its first line.
    pub cursor: String,
}

impl RunAnswer {
    /// One object, as commands up to 0.5 expect it.
    pub fn to_json(&self) -> String {
        let mut members = self.process.members();
        members.insert("number".into(), self.number.into());
        members.insert("is_new".into(), self.is_new.into());
        members.insert("cursor".into(), self.cursor.as_str().into());
        to_json(&members)
    }

    /// `None` if it is not one.
    pub fn parse(body: &[u8]) -> Option<RunAnswer> {
        let members: Map<String, Value> = serde_json::from_slice(body).ok()?;
        Some(RunAnswer {
            process: Process::from_members(&members),
            number: members.get("number")?.as_u64()?,
            is_new: members.get("is_new")?.as_bool()?,
            cursor: members.get("cursor")?.as_str()?.into(),
        })
    }
}

/// A start that is reported as what `ctrl` does is.
impl From<RunAnswer> for ControlAnswer {
    fn from(RunAnswer { process, cursor, .. }: RunAnswer) -> ControlAnswer {
        let (action, cursor) = (params::Action::Start, Some(cursor));
        ControlAnswer { action, process, cursor, was_over: false, killed_processes: 0 }
    }
}

members! {
    /// A call of one of the three tools by our own command line, which renders the answer itself.
    Call {
        /// The parameters of the tool, see [`params`].
        arguments: Map<String, Value>,
        /// The directory of the caller, which decides between several processes that a name fits.
        near: Option<String>,
        /// The same call sent again is carried out once.
        idempotency_key: Option<String>,
        /// Only for `output`.
        options: ReadOptions,
    }
}

members! {
    ListAnswer {
        processes: Vec<Process>,
    }
}

members! {
    /// What `ctrl` did.
    ControlAnswer {
        action: params::Action,
        /// The run afterwards; its exit code and signal are those of the run that was stopped, if one was.
        process: Process,
        /// Before the first line of a run that was started.
        cursor: Option<String>,
        /// Of a stop: it had ended before.
        was_over: bool,
        /// Processes that a stop ended with SIGKILL.
        killed_processes: u64,
    }
}

/// Always with `keep`, which servers up to 0.5 require.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShutdownRequest {
    /// The processes keep running without a server.
    pub keep: bool,
    /// The socket of the newer server that takes the place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
}

members! {
    ShutdownAnswer {
        pid: i32,
        /// What could not be stopped, one text each.
        problems: Vec<String>,
    }
}

/// The body of an answer that is not a result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
}

/// A value as JSON text. Not by way of [`Value`]: a second serializer for each type would cost the binary its size.
pub fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() // fails for maps whose keys are not strings; there are none
}

/// The cursor before the first line of a run, which is named as in `r12`.
pub fn start_cursor(run: &str) -> String {
    format!("{run}.{}.0", Stream::Combined.name())
}
