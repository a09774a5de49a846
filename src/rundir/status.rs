//! `status.json`: its contents, and how they are encoded in its file and in the `events` FIFO.

use super::FORMAT_VERSION;
use serde::{Deserialize, Serialize};
use std::io;

/// Size of `status.json`, in bytes.
pub const STATUS_SIZE: usize = 2048;
/// First byte of a status in the `events` FIFO. Servers up to 0.4 take its bytes for doorbell bytes, which does no harm.
pub const STATUS_FOLLOWS: u8 = b'j';

/// What a run is doing, or how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    /// The leader has exited but descendants live: their output is still captured, and the run can still be stopped.
    Detached,
    /// Exited without having been stopped through persistproc.
    Exited,
    /// Stopped through persistproc.
    Terminated,
    /// Could not be started.
    #[default]
    Failed,
    /// The shim was killed, so the outcome is unknown.
    Lost,
}

impl State {
    /// The name in `status.json` and in output.
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Detached => "detached",
            State::Exited => "exited",
            State::Terminated => "terminated",
            State::Failed => "failed",
            State::Lost => "lost",
        }
    }
    /// Whether processes of the run may still be alive.
    pub fn is_live(self) -> bool {
        match self {
            State::Running | State::Detached => true,
            State::Exited | State::Terminated | State::Failed | State::Lost => false,
        }
    }
}

/// `status.json`. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    pub state: State,
    /// The leader's pid; 0 if there never was one.
    pub pid: i32,
    #[serde(rename = "shim")]
    pub shim_pid: i32,
    pub started: u64,
    /// The leader's exit code, present as soon as it exited, even while descendants live. Either this or `signal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that killed the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// When the leader exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_ended: Option<u64>,
    /// The end of `combined.log` once everything that the leader wrote had been read: a reader that got this far has all of
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_bytes: Option<u64>,
    /// When no process of the run was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Sizes of the three logs since the start of the run, in bytes, in the order of `Stream::ALL`.
    pub bytes: [u64; 3],
    /// Lines of the child in them.
    pub lines: [u64; 3],
    /// Why capturing is held up: the system's error message.
    #[serde(rename = "trouble", default, skip_serializing_if = "Option::is_none")]
    pub io_error: Option<String>,
    /// Capturing continues in spite of `io_error`.
    #[serde(rename = "goes_on", default, skip_serializing_if = "std::ops::Not::not")]
    pub capture_continues: bool,
    /// Bytes of the child that had to be dropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_bytes: u64,
    /// Present once a stop was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopReport>,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StartError>,
    /// Shims up to 0.4 report neither this nor the fields below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipes: Option<Pipes>,
    /// What happened to the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputReport>,
    /// Counts how often the shim has written this file, so that a reader can discard a status older than the one it has. 0:
    /// written by 0.3.0, or by a server after the shim was gone.
    #[serde(default)]
    pub sequence: u64,
    /// When this was written, and thus a moment at which the shim was certainly alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alive: Option<BootInstant>,
}

/// The pipes between a shim and its program, by inode number: unique until the system reboots (see pipe(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipes {
    /// When they were created, as [`BootInstant::tick`].
    pub since: u64,
    /// stdin.
    pub input: u64,
    /// stdout and stderr.
    pub outputs: [u64; 2],
}

/// Bytes sent to the program's stdin since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReport {
    pub received: u64,
    /// Those among them for which there was no space, because the program does not read.
    pub dropped: u64,
}

/// A moment on the clock in which the system reports the start times of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootInstant {
    /// Identifies the boot from which the clock counts.
    pub boot: u64,
    /// Clock ticks since that boot.
    pub tick: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What it took to stop a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StopReport {
    /// Number of requests so far; distinguishes an answer to the current one from an answer to an earlier one.
    pub requests: u32,
    /// Processes alive when the stop was requested.
    pub asked: usize,
    /// Processes that were sent SIGKILL.
    pub killed: usize,
    /// Pids that could not be stopped; only the first few of them.
    pub survivors: Vec<i32>,
}

/// Why the program could not be started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartError {
    /// 0 if the system did not return one.
    pub errno: i32,
    /// The error message.
    pub text: String,
}

/// Encodes a status for the `events` FIFO. It is written atomically, being shorter than PIPE_BUF.
///
/// # Errors
///
/// The status does not fit [`STATUS_SIZE`].
pub fn status_message(status: &Status) -> io::Result<Vec<u8>> {
    let text = encode_status(status)?;
    Ok([&[STATUS_FOLLOWS], text.trim_ascii_end(), b"\n"].concat())
}

/// Decodes such a message, without its first byte and its newline; `None` if it is malformed or of a newer version.
pub fn parse_status_message(text: &[u8]) -> Option<Status> {
    serde_json::from_slice(text).ok().filter(|status: &Status| status.version <= FORMAT_VERSION)
}

/// JSON of exactly [`STATUS_SIZE`] bytes, padded with spaces. Error messages and lists are truncated to make it fit.
pub(super) fn encode_status(status: &Status) -> io::Result<Vec<u8>> {
    let mut status = status.clone();
    let clip = |text: &mut String| {
        text.truncate(text.floor_char_boundary(300));
        text.retain(|c| !c.is_control()); // a control character takes six bytes in JSON
    };
    if let Some(error) = &mut status.io_error {
        clip(error);
    }
    if let Some(error) = &mut status.error {
        clip(&mut error.text);
    }
    if let Some(stop) = &mut status.stop {
        stop.survivors.truncate(8);
    }
    let mut bytes = serde_json::to_vec(&status)?;
    if bytes.len() >= STATUS_SIZE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the status does not fit its file"));
    }
    bytes.resize(STATUS_SIZE - 1, b' ');
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_status_fits_its_file() {
        let long = "\u{1}\"\\ä".repeat(500);
        let status = Status {
            version: u32::MAX,
            state: State::Terminated,
            pid: i32::MIN,
            shim_pid: i32::MIN,
            started: u64::MAX,
            exit_code: Some(i32::MIN),
            signal: Some(i32::MIN),
            leader_ended: Some(u64::MAX),
            leader_bytes: Some(u64::MAX),
            ended: Some(u64::MAX),
            bytes: [u64::MAX; 3],
            lines: [u64::MAX; 3],
            io_error: Some(long.clone()),
            capture_continues: true,
            lost_bytes: u64::MAX,
            stop: Some(StopReport {
                requests: u32::MAX,
                asked: usize::MAX,
                killed: usize::MAX,
                survivors: vec![i32::MIN; 100],
            }),
            error: Some(StartError { errno: i32::MIN, text: long }),
            pipes: Some(Pipes { since: u64::MAX, input: u64::MAX, outputs: [u64::MAX; 2] }),
            input: Some(InputReport { received: u64::MAX, dropped: u64::MAX }),
            sequence: u64::MAX,
            alive: Some(BootInstant { boot: u64::MAX, tick: u64::MAX }),
        };
        assert_eq!(encode_status(&status).unwrap().len(), STATUS_SIZE);
    }

    #[test]
    fn a_status_written_by_0_3_0_can_be_read_and_vice_versa() {
        let old = r#"{"version":1,"state":"running","pid":7,"shim":6,"started":5,"bytes":[0,0,0],"lines":[0,0,0]}"#;
        let status: Status = serde_json::from_str(old).unwrap();
        assert_eq!((status.pid, status.sequence, status.alive), (7, 0, None));
        // That version ignores unknown members; only a newer format version would make it reject the file.
        let ours = serde_json::to_value(Status { version: FORMAT_VERSION, sequence: 3, ..status }).unwrap();
        assert_eq!((&ours["version"], &ours["pid"], &ours["sequence"]), (&1.into(), &7.into(), &3.into()));
    }
}
