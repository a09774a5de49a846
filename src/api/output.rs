//! Reading output: selected lines, and how far the log of a run that is followed has grown.

use super::members::{Member, Members, members, named, read, write};
use super::process::State;
use super::to_json;
use crate::log::Stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// What to do with a line that the program has not finished, at the end of what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unfinished {
    /// Show the part that exists. The cursor returns it again, whole, once it is finished.
    #[default]
    Shown,
    /// Hold it back unless nothing more can come: a follower gets each line once.
    Held,
    /// Hold it back unless a wait has found what it was for, because that may be in this line.
    HeldUnlessMatched,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitOutcome {
    #[serde(rename = "matched")]
    Matched,
    #[serde(rename = "quiet")]
    Quiet,
    /// The process ended; nothing more will come.
    #[serde(rename = "ended")]
    Ended,
    #[serde(rename = "timeout")]
    TimedOut,
    /// The client that asked has disconnected.
    #[serde(rename = "abandoned")]
    Abandoned,
}

members! {
    /// How to read, for callers that render or follow: not offered to agents.
    ReadOptions {
        /// Read the lines of one stream from combined.log, so that the cursor is a position there.
        of_combined: bool,
        /// The first lines instead of the newest.
        is_forward: bool,
        /// Cursor at which a search that goes forward began: earlier lines are not context of its matches.
        context_from: Option<String>,
        /// `None`: it is shown.
        unfinished: Option<Unfinished>,
    }
}

impl Member for ReadOptions {
    fn read(value: &Value) -> Option<Self> {
        value.as_object().map(ReadOptions::from_members)
    }
    fn write(&self) -> Option<Value> {
        Some(Value::Object(self.members()))
    }
}

named!(Unfinished WaitOutcome);

members! {
    /// What `--format json output` prints beside the lines. Absent members are unknown, or nothing.
    OutputSummary {
        /// After all of these lines.
        cursor: Option<String>,
        /// Of one process: its label, its newest run and that run's state.
        label: Option<String>,
        run: Option<String>,
        state as "status": Option<State>,
        /// Of several processes.
        labels: Vec<String>,
        /// Lines of these runs before the first and after the last of the shown lines, where that is known cheaply.
        lines_before: Option<u64>,
        lines_after: Option<u64>,
        waited: Option<WaitOutcome>,
        /// Restarts, and what is no longer kept.
        note: Option<String>,
        /// What is missing at the end because it could not be written to disk.
        unwritten: Option<String>,
    }
}

/// The first line of the answer to `POST /lines`; the lines of output follow it, each with its time stamp.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputStatus {
    pub summary: OutputSummary,
    /// The stream of the last line, if that line is not finished.
    pub open: Option<Stream>,
    /// More lines matched the request than are in the answer.
    pub is_cut: bool,
    /// Bytes after the requested cursor that are no longer kept.
    pub gone: u64,
}

impl OutputStatus {
    pub fn to_json(&self) -> String {
        let mut members = self.summary.members();
        write(&mut members, "open", self.open.write());
        write(&mut members, "is_cut", self.is_cut.write());
        write(&mut members, "gone", self.gone.write());
        to_json(&members)
    }

    /// `None` if it is not one.
    pub fn parse(text: &[u8]) -> Option<OutputStatus> {
        let members: Map<String, Value> = serde_json::from_slice(text).ok()?;
        Some(OutputStatus {
            summary: OutputSummary::from_members(&members),
            open: read(&members, "open"),
            is_cut: read(&members, "is_cut"),
            gone: read(&members, "gone"),
        })
    }
}

/// Asks how far `combined.log` of a run has grown beyond an offset, as soon as it has, and what became of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Follow {
    /// Number of the run.
    pub run: u64,
    /// Offset in the log, in bytes from the start of the run.
    pub from: u64,
    /// How long to wait for something new.
    pub wait: Duration,
    /// The answer is to contain the bytes themselves, as commands up to 0.4 expect.
    pub with_bytes: bool,
    /// The lease of the command that asks.
    pub reader: Option<String>,
    /// The command knows that something blocks the output, and also waits for the end of that.
    pub knows_blocked: bool,
}

impl Follow {
    /// From the parameters of the query; `None` if it has no `from`, which makes it one of something else. An error is the
    /// name and the value of a parameter that is not a number.
    pub fn parse(query: &[(String, String)]) -> Option<Result<Follow, (&'static str, String)>> {
        let get = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let number = |name: &'static str, default: u64| match get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| (name, text.to_string())),
        };
        get("run").filter(|run| !run.is_empty()).zip(get("from"))?;
        let parse = || {
            Ok(Follow {
                run: number("run", 0)?,
                from: number("from", 0)?,
                wait: Duration::from_secs(number("wait", 0)?),
                with_bytes: get("bytes") != Some("no"),
                reader: get("reader").map(String::from),
                knows_blocked: get("trouble") == Some("known"),
            })
        };
        Some(parse())
    }

    /// The parameters of the query.
    pub fn query(&self) -> String {
        let Follow { run, from, wait, with_bytes, reader, knows_blocked } = self;
        let mut query = format!("run={run}&from={from}&wait={}", wait.as_secs());
        query.push_str(if *with_bytes { "" } else { "&bytes=no" });
        query.push_str(if *knows_blocked { "&trouble=known" } else { "" });
        reader.iter().for_each(|reader| query.push_str(&format!("&reader={reader}")));
        query
    }
}

members! {
    /// Where a follower is, and what became of the run. Texts are percent-encoded, as the header that carries it is ASCII.
    Following {
        /// Number of the run.
        run: u64,
        pid: i32,
        state: State,
        /// Offset of the first byte of the answer: later than requested if those bytes are no longer kept.
        from: u64,
        /// Offset from which to go on.
        next: u64,
        /// The leader has ended, and all that it wrote lies before `next`.
        is_final: bool,
        exit_code: Option<i32>,
        signal: Option<i32>,
        /// The run that replaced it in a restart.
        successor: Option<u64>,
        /// This server is shutting down and leaves its processes running.
        is_leaving: bool,
        /// Name of the directory of the run in `runs/`; servers up to 0.4 do not send it.
        directory: Option<String>,
        /// What blocks its output.
        blocked as "trouble": Option<String>,
        /// Bytes of its log that could never be written to disk, and why.
        lost_bytes: u64,
        lost_to: Option<String>,
        /// The server has no capacity for another wait: ask again after a pause.
        is_busy: bool,
    }
}

impl Following {
    pub fn to_json(&self) -> String {
        to_json(&self.members())
    }

    /// `None` if it is not one.
    pub fn parse(text: &str) -> Option<Following> {
        let members: Map<String, Value> = serde_json::from_slice(text.as_bytes()).ok()?;
        (members.contains_key("run") && members.contains_key("next")).then(|| Following::from_members(&members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follow_request_is_read_back_as_it_was_written() {
        for (wait, with_bytes, reader, knows_blocked) in
            [(0, true, None, false), (20, false, Some("47.0".to_string()), true)]
        {
            let wait = Duration::from_secs(wait);
            let follow = Follow { run: 12, from: 5120, wait, with_bytes, reader, knows_blocked };
            let query = follow.query();
            let pairs: Vec<(String, String)> =
                query.split('&').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect();
            assert_eq!(Follow::parse(&pairs), Some(Ok(follow)), "{query}");
        }
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
        };
        assert_eq!(Follow::parse(&pairs(&[("run", "1")])), None);
        assert_eq!(Follow::parse(&pairs(&[("run", "1"), ("from", "x")])), Some(Err(("from", "x".into()))));
    }

    #[test]
    fn what_a_run_became_is_read_from_what_earlier_servers_send() {
        let old = r#"{"run":1,"pid":7,"state":"running","from":0,"next":5}"#;
        let following = Following::parse(old).unwrap();
        assert_eq!(Following::parse(&following.to_json()), Some(following.clone()));
        assert_eq!((following.state, following.next, following.directory), (State::Running, 5, None));
    }
}
