//! Following line by line: the server selects, this asks again and again for what comes after the last answer.

use super::super::calls::Reading;
use super::super::connection::ServerConnection;
use super::super::output::verdict;
use super::super::{ExitCode, RECONNECT_PAUSE};
use super::FollowEvent;
use crate::api::params::OutputRequest;
use crate::api::{ReadOptions, WaitOutcome};
use crate::error::{Error, ErrorKind};
use crate::log::Stream;
use crossbeam_channel::Sender;
use std::time::{Duration, Instant};

/// One long-poll. With `--wait-for`, which only the server can answer before a line is finished, it also is how long
/// lines may be held back.
const POLL: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(1)];
/// How long to try to find a server again.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How much later than the deadline the last answer may come: waits are whole seconds.
pub const LAST_ANSWER: Duration = Duration::from_secs(2);
/// Matches every line.
const ANY_LINE: &str = "";

pub struct LineFollower {
    server: ServerConnection,
    request: OutputRequest,
    options: ReadOptions,
    /// The last answer.
    read: Reading,
    until: Option<String>,
    deadline: Option<Instant>,
    /// What was reported of output that could not be written to disk.
    unwritten: Option<String>,
}

impl LineFollower {
    /// Goes on after `read`, the first answer.
    pub fn new(
        server: ServerConnection,
        mut request: OutputRequest,
        mut options: ReadOptions,
        read: Reading,
        until: Option<String>,
        deadline: Option<Instant>,
    ) -> LineFollower {
        request.run = None;
        options.context_from = request.after.take();
        options.is_forward = true;
        // Without a wait of its own it is one for anything at all.
        request.wait_for = Some(until.clone().unwrap_or_else(|| ANY_LINE.into()));
        LineFollower { server, request, options, read, until, deadline, unwritten: None }
    }

    /// Reports to `events` until following is over, or nothing receives them any more.
    pub fn follow_in_thread(mut self, events: Sender<FollowEvent>) -> Result<(), Error> {
        let follow = move || {
            if let Some(result) = self.follow(&events).transpose() {
                let _ = events.send(FollowEvent::Finished(result));
            }
        };
        let thread = std::thread::Builder::new().name("follow".into()).spawn(follow);
        thread.map(drop).map_err(|error| Error::failed("cannot follow the output").because(error))
    }

    /// `None`: nothing receives the events any more.
    fn follow(&mut self, events: &Sender<FollowEvent>) -> Result<Option<ExitCode>, Error> {
        let (mut has_matched, mut is_first) = (false, true);
        loop {
            if self.report(events).is_none() {
                return Ok(None);
            }
            has_matched |= self.until.is_some() && self.read.waited() == Some(WaitOutcome::Matched);
            // Also with no time at all it is looked once at what is new.
            let is_late = self.is_over() && !std::mem::take(&mut is_first);
            let is_cut = self.read.status.is_cut;
            if has_matched && (is_late || !is_cut) {
                return Ok(Some(ExitCode::Success));
            }
            if self.read.waited() == Some(WaitOutcome::Ended) && !is_cut {
                return self.verdict(WaitOutcome::Ended);
            }
            if is_late || !self.ask(has_matched)? {
                return self.verdict(WaitOutcome::TimedOut);
            }
        }
    }

    /// Reports the last answer.
    fn report(&mut self, events: &Sender<FollowEvent>) -> Option<()> {
        let has_gap = self.read.has_gap();
        if let Some(note) = self.read.status.summary.note.take() {
            events.send(if has_gap { FollowEvent::Missing(note) } else { FollowEvent::Note(note) }).ok()?;
        }
        let bytes = std::mem::take(&mut self.read.bytes);
        if !bytes.is_empty() {
            events.send(FollowEvent::Output { pieces: vec![(Stream::Stdout, bytes)], position: None }).ok()?;
        }
        // Once, and only at the end of what there is.
        if !self.read.status.is_cut && self.read.status.summary.unwritten != self.unwritten {
            self.unwritten = self.read.status.summary.unwritten.take();
            if let Some(unwritten) = &self.unwritten {
                events.send(FollowEvent::Missing(unwritten.clone())).ok()?;
            }
        }
        Some(())
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|end| end <= Instant::now())
    }

    /// Only of a wait it is a failure that following is over.
    fn verdict(&self, waited: WaitOutcome) -> Result<Option<ExitCode>, Error> {
        self.until.as_ref().map_or(Ok(ExitCode::Success), |until| verdict(Some(waited), until)).map(Some)
    }

    /// Reads what comes next, also from the next server, should this one go. False if the deadline came first.
    fn ask(&mut self, has_matched: bool) -> Result<bool, Error> {
        let longest = POLL[usize::from(self.until.is_some())];
        let begun = Instant::now();
        self.request.after = Some(self.read.cursor());
        loop {
            let left = self.deadline.map_or(longest, |end| end.saturating_duration_since(Instant::now()).min(longest));
            let seconds = if has_matched { 0 } else { left.as_millis().div_ceil(1000) };
            self.request.timeout = Some(seconds as u32);
            match self.server.read_output(&self.request, &self.options) {
                Ok(read) => {
                    self.read = read;
                    return Ok(true);
                }
                Err(error) if error.kind != ErrorKind::Unreachable => return Err(error),
                Err(_) if self.is_over() => return Ok(false),
                Err(error) if begun.elapsed() >= SERVER_TIMEOUT => return Err(error),
                Err(_) => {
                    std::thread::sleep(RECONNECT_PAUSE);
                    if self.server.config.autostart && begun.elapsed() > 6 * RECONNECT_PAUSE {
                        let _ = self.server.ensure_server();
                    }
                }
            }
        }
    }
}
