//! Following output: a follower in a thread of its own reports what there is as [`FollowEvent`]s, and a [`Viewer`] shows it
//! and listens to signals meanwhile. The wrapper, `output --follow` and what waits while it follows share both; they differ
//! in their [`Session`], which decides what a signal, a restart and the end mean.
//!
//! Of one process the log is read byte by byte as it grows ([`run_follower`]); a search, a wait, and several processes go
//! line by line, and the server finds the lines ([`line_follower`]).

mod frames;
pub mod line_follower;
pub mod run_follower;
pub mod viewer;
mod writer;

use super::connection::ServerConnection;
use super::{ExitCode, output::verdict};
use crate::api::params::{LINES_MAX, OutputRequest};
use crate::api::{Following, ReadOptions, Unfinished, WaitOutcome};
use crate::error::Error;
use crate::lease::{self, Lease};
use crate::log::Stream;
use crate::log::stamp::{format_ms, now_ms, parse_time};
use crate::output::cursor::Place;
use frames::{Frames, Show};
use line_follower::LineFollower;
use run_follower::{Start, follow_in_thread};
use std::time::{Duration, Instant};
use viewer::{Session, Viewer};

/// What a follower reports.
pub enum FollowEvent {
    /// Output; and of which run, and up to which offset its log is read.
    Output {
        pieces: Vec<(Stream, Vec<u8>)>,
        position: Option<(u64, u64)>,
    },
    /// The process was restarted: this is the new run.
    Restarted(Following),
    /// Output is missing here.
    Missing(String),
    /// What blocks the output, or that nothing does any more.
    Blocked(Option<String>),
    Note(String),
    /// The process has ended; nothing more comes.
    Ended(Following),
    /// Following is over.
    Finished(Result<ExitCode, Error>),
}

/// Follows until the process ends, a line comes that was waited for, or the timeout is over.
pub fn follow(mut server: ServerConnection, mut request: OutputRequest, is_json: bool) -> Result<ExitCode, Error> {
    check(&request, is_json)?;
    let until = request.wait_for.take();
    let seconds = request.timeout.take();
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    fix_since_time(&mut request);
    // What there is already is asked for all the same: it tells where to go on.
    let is_shown = request.lines != Some(0);
    if !is_shown {
        request.lines = Some(1);
    }
    if until.is_none() && request.grep.is_none() {
        // The position to go on from is one in combined.log, whatever stream is shown.
        let options = ReadOptions { of_combined: true, ..ReadOptions::default() };
        let mut read = server.read_output(&request, &options)?;
        let cursor = read.parsed_cursor()?;
        if let ([place], None) = (cursor.places.as_slice(), cursor.known) {
            read.note(&server);
            let has_gap = read.has_gap();
            let (mut bytes, mut open) = (std::mem::take(&mut read.bytes), read.status.open);
            if !is_shown {
                (bytes, open) = (Vec::new(), None);
            }
            if open.is_some() {
                bytes.pop(); // the rest of this line comes right after it
            }
            return follow_run(server, &request, *place, Shown { bytes, open, has_gap }, deadline);
        }
    }
    follow_lines(server, request, until, deadline, is_shown)
}

/// Refuses what does not go together, before anything is asked for.
fn check(request: &OutputRequest, is_json: bool) -> Result<(), Error> {
    if is_json || request.before.is_some() || request.before_time.is_some() {
        return Err(Error::usage(
            "--follow prints new lines as text: it does not go with --format json, --before or --before-time",
        ));
    }
    if request.wanted() == "quiet" {
        return Err(Error::usage("--follow needs a regular expression to wait for, not 'quiet'"));
    }
    Ok(())
}

/// Makes an age such as `5m` a time: asked for again and again, it would be another one each time.
fn fix_since_time(request: &mut OutputRequest) {
    if let Some(since) = &mut request.since_time
        && let Ok(ms) = parse_time(since, now_ms())
    {
        *since = format_ms(ms);
    }
}

/// What of a run has been read, and is shown first.
struct Shown {
    bytes: Vec<u8>,
    /// The stream of its last line, if that is not finished.
    open: Option<Stream>,
    has_gap: bool,
}

/// Follows one run, and those that it is restarted as, byte by byte after `place`.
fn follow_run(
    server: ServerConnection,
    request: &OutputRequest,
    place: Place,
    shown: Shown,
    deadline: Option<Instant>,
) -> Result<ExitCode, Error> {
    let show = Show::Stamped(request.stream.unwrap_or(Stream::Combined));
    let lease = Lease::acquire(&server.config.data_dir, lease::ReaderKind::Observer).ok();
    let reader = lease.as_ref().map(Lease::name);
    let start = Start { run: place.run, offset: place.offset, frames: Frames::within(show, shown.open), reader };
    let (mut viewer, events) = Viewer::new(server.config.is_quiet, deadline, deadline)?;
    viewer.lease = lease;
    viewer.has_gap = shown.has_gap;
    follow_in_thread(server, start, events)?;
    let mut session = Observer { run: place.run, until: None };
    match viewer.write(&mut session, Stream::Stdout, shown.bytes)? {
        Some(code) => Ok(code),
        None => viewer.run(&mut session),
    }
    .map(|code| viewer.complete(code))
}

/// Follows line by line: one that is not finished comes when it is, or at the end, unless it is what is waited for.
fn follow_lines(
    mut server: ServerConnection,
    mut request: OutputRequest,
    until: Option<String>,
    deadline: Option<Instant>,
    is_shown: bool,
) -> Result<ExitCode, Error> {
    let unfinished = if until.is_some() { Unfinished::HeldUnlessMatched } else { Unfinished::Held };
    let options = ReadOptions { unfinished: Some(unfinished), ..ReadOptions::default() };
    let mut first = request.clone();
    if !is_shown {
        first.grep = None; // nothing of it is shown, so nothing has to be searched
    }
    if let (Some(until), true) = (&until, first.after.is_some() && is_shown) {
        // What came after a cursor may be there already.
        (first.wait_for, first.timeout) = (Some(until.clone()), Some(0));
    }
    let mut read = server.read_output(&first, &options)?;
    if !is_shown {
        read.bytes.clear();
        request.after = Some(read.cursor());
    }
    request.lines = Some(LINES_MAX as u32);
    let event_deadline = deadline.map(|end| end + line_follower::LAST_ANSWER);
    let (mut viewer, events) = Viewer::new(server.config.is_quiet, event_deadline, deadline)?;
    let mut session = Observer { run: 0, until: until.clone() };
    LineFollower::new(server, request, options, read, until, deadline).follow_in_thread(events)?;
    viewer.run(&mut session).map(|code| viewer.complete(code))
}

/// A command that only watches: a signal ends it, and the process does not notice.
struct Observer {
    run: u64,
    /// What is waited for: then it is a failure if following is over before that comes.
    until: Option<String>,
}

impl Session for Observer {
    fn on_signal(&mut self, viewer: &mut Viewer, number: i32) -> Result<Option<ExitCode>, Error> {
        viewer.end_line();
        let is_success = number == signal_hook::consts::SIGINT && self.until.is_none();
        Ok(Some(if is_success { ExitCode::Success } else { ExitCode::Signal(number) }))
    }

    fn on_restart(&mut self, viewer: &mut Viewer, following: &Following) {
        self.run = following.run;
        viewer.note(&format!("restarted, PID {}", following.pid));
    }

    fn on_end(&mut self, viewer: &mut Viewer, following: &Following) -> Result<ExitCode, Error> {
        self.run = following.run;
        let name = format!("r{}", self.run);
        viewer::end(viewer, &name, following).map(|_| ExitCode::Success)
    }

    fn on_deadline(&mut self) -> Result<ExitCode, Error> {
        match &self.until {
            Some(until) => verdict(Some(WaitOutcome::TimedOut), until),
            None => Ok(ExitCode::Success),
        }
    }

    fn on_reader_left(&self) -> ExitCode {
        ExitCode::Success
    }

    fn is_stopping(&self) -> bool {
        false
    }
}
