//! What a run is and uses, in words and members, for every entry point.

use super::lost;
use super::watch::Run;
use crate::api::Process;
use crate::log::Stream;
use crate::log::stamp::format_ms;
use crate::os_text::OsText;
use crate::procs;
pub use crate::procs::Usage;
use crate::rundir::{State, Status, Unreadable};
use crate::sys;

/// `3 s`, `5 min`, `2 h`, `4 d`: an age of so many milliseconds in one number.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// What the processes of each run take now; `None` for one that has ended, or where the system does not tell.
pub fn usage(runs: &[&Run]) -> Vec<Option<procs::Usage>> {
    let shim = |run: &&Run| (!run.is_over()).then(|| run.status().shim_pid).filter(|pid| *pid > 0);
    let roots: Vec<i32> = runs.iter().filter_map(shim).collect();
    // A server or shim of ours that was started inside a run, and what is below it, is not part of that run.
    let mut found = procs::usage(&roots, procs::Process::is_service).into_iter();
    runs.iter().map(|run| shim(run).and_then(|_| found.next().flatten())).collect()
}

/// What `list` shows of a run.
pub fn describe(run: &Run) -> Process {
    let status = run.status();
    let time = |ms: Option<u64>| ms.filter(|&ms| ms > 0).map(format_ms);
    let log = |stream: Stream| run.dir.path().join(stream.file_name()).display().to_string();
    Process {
        run: run.name(),
        pid: status.pid,
        label: run.meta.label.clone(),
        command: run.meta.argv.iter().map(OsText::shown).collect(),
        working_directory: run.meta.working_directory.shown(),
        state: status.state,
        start_time: time(Some(if status.started > 0 { status.started } else { run.meta.created })),
        end_time: time(status.ended.or(status.leader_ended)),
        exit_code: status.exit_code,
        signal: status.signal.map(sys::signal_name),
        log_stdout: log(Stream::Stdout),
        log_stderr: log(Stream::Stderr),
        log_combined: log(Stream::Combined),
        error: problem_of(run),
        ..Process::default()
    }
}

/// `is missing`, `is damaged: …`: what is the matter with a file of a run.
pub fn describe_unreadable(problem: &Unreadable) -> String {
    match problem {
        Unreadable::Missing => "is missing".into(),
        Unreadable::Newer(version) => format!("has format {version}, which is newer than this persistproc"),
        Unreadable::Damaged(error) => format!("is damaged ({error})"),
        Unreadable::Exhausted(error) => format!("cannot be read now ({error})"),
    }
}

/// What is wrong with a run now, in a few words: as [`problem`] says it, and which processes of a lost one are still alive.
fn problem_of(run: &Run) -> Option<String> {
    let problem = problem(&run.status());
    match lost::shown(&run.orphans()) {
        Some(pids) => Some(format!("{}; {pids} of it live on until it is stopped", problem.unwrap_or_default())),
        None => problem,
    }
}

/// What is wrong with a run, in a few words.
pub fn problem(status: &Status) -> Option<String> {
    let io_error = status.io_error.as_deref();
    let unknown = || {
        io_error
            .unwrap_or(
                "its shim ended and left no word of how the process ended: it was killed, or the disk took no more",
            )
            .to_string()
    };
    let why = io_error.map_or(String::new(), |io_error| format!(" ({io_error})"));
    let missing = || format!("{} bytes of output were lost{why}", status.lost_bytes);
    let error = status.error.as_ref().map(|error| error.text.clone());
    error
        .or_else(|| (status.state == State::Lost).then(unknown))
        .or_else(|| (status.lost_bytes > 0).then(missing))
        .or_else(|| io_error.map(|io_error| blocked(status, io_error)))
}

fn blocked(status: &Status, io_error: &str) -> String {
    if status.state.is_live() && !status.capture_continues {
        format!("output is blocked: {io_error}")
    } else {
        io_error.into()
    }
}

/// `exited with code 1`, `was ended by SIGKILL`, `could not be started: …`: the end of a run, for people and models.
pub fn describe_end(status: &Status) -> String {
    let how = match (status.exit_code, status.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => sys::signal_name(signal),
        (None, None) => String::new(),
    };
    match status.state {
        State::Running => "is running".into(),
        State::Detached => format!("has ended ({how}), but processes that it started keep running"),
        State::Exited => format!("has ended by itself ({how})"),
        State::Terminated if how.is_empty() => "was stopped".into(),
        State::Terminated => format!("was stopped ({how})"),
        State::Failed => format!("could not be started: {}", problem(status).unwrap_or_default()),
        State::Lost => format!("is lost: {}", problem(status).unwrap_or_default()),
    }
}
