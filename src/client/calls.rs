//! The calls of `api`, typed, with what each needs when the server goes away before it answers.

use super::connection::{CALL_TIMEOUT, CUTS_MAX, STARTUP_TIMEOUT, ServerConnection, refusal};
use super::request::new_key;
use super::silence::Watch;
use super::terminal;
use crate::api::params::{ControlRequest, ListRequest, OutputRequest};
use crate::api::{
    self, Call, ControlAnswer, FOLLOWING, Follow, Following, ListAnswer, Members, OutputStatus, ReadOptions, RunAnswer,
    RunRequest, ShutdownAnswer, ShutdownRequest, WaitOutcome, to_json,
};
use crate::error::Error;
use crate::output::cursor::Cursor;
use crate::procs;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long to bring a call of `ctrl` to the next server, and the one after that.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the process of a server may take to go after its last answer.
const SERVER_EXIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than its wait a long-poll may take.
const FOLLOW_MARGIN: Duration = Duration::from_secs(10);

/// Lines that were read, as they are printed, and what is known beside them.
pub struct Reading {
    pub bytes: Vec<u8>,
    pub status: OutputStatus,
}

impl Reading {
    /// Where to go on, as text.
    pub fn cursor(&self) -> String {
        self.status.summary.cursor.clone().unwrap_or_default()
    }

    pub fn parsed_cursor(&self) -> Result<Cursor, Error> {
        self.cursor().parse().map_err(|_| unexpected())
    }

    /// Why waiting ended, if there was a wait.
    pub fn waited(&self) -> Option<WaitOutcome> {
        self.status.summary.waited
    }

    /// Some of what was asked for is not kept any more.
    pub fn has_gap(&self) -> bool {
        self.status.gone > 0
    }

    /// Reports restarts, and what is not kept any more, the latter also with `-q`.
    pub fn note(&self, server: &ServerConnection) {
        if let Some(note) = self.status.summary.note.as_ref().filter(|_| self.has_gap() || !server.config.is_quiet) {
            terminal::note(note);
        }
    }
}

fn unexpected() -> Error {
    Error::failed("unexpected response of the server")
}

impl ServerConnection {
    /// Sends a request and reads the answer; `may_take_long`: it may wait for something.
    fn ask<T: Members>(&mut self, path: &str, request: &impl Serialize, may_take_long: bool) -> Result<T, Error> {
        let answer = self.post(path, &to_json(request), may_take_long)?;
        serde_json::from_slice(&answer).map(|members| T::from_members(&members)).map_err(|_| unexpected())
    }

    /// The body of the answer.
    fn post(&mut self, path: &str, body: &str, may_take_long: bool) -> Result<Vec<u8>, Error> {
        let watch = Watch::start(&self.config, may_take_long);
        let answer = self.send("POST", path, body.as_bytes(), CALL_TIMEOUT)?;
        drop(watch);
        match answer.head.status {
            200 => Ok(answer.body),
            status => Err(self.refusal(path, status, &answer.body)),
        }
    }

    /// Why a call was refused. A path that the server does not have is one of a newer version.
    fn refusal(&self, path: &str, status: u16, body: &[u8]) -> Error {
        match (status, &self.older_version) {
            (404, Some(version)) if path != api::FOLLOW && path != api::RUN => Error::failed(format!(
                "the server is of version {version}, which does not know this call; `persistproc serve --background` takes its place, and the processes keep running"
            )),
            _ => refusal(status, body),
        }
    }

    pub fn list(&mut self, request: &ListRequest) -> Result<ListAnswer, Error> {
        self.ask(api::LIST, &tool_call(request).members(), false)
    }

    /// Calls `ctrl`. Should the server go before it answers, the next one is asked for the same: it finishes what the one
    /// before had begun, and by the key of the call it is carried out once.
    pub fn control(&mut self, request: &ControlRequest) -> Result<ControlAnswer, Error> {
        let call = Call { idempotency_key: Some(new_key()), ..tool_call(request) };
        let begun = Instant::now();
        let mut was_sent = false;
        loop {
            let answer = self.ask(api::CTRL, &call.members(), true);
            was_sent |= self.is_cut;
            if answer.is_ok() || !was_sent || !self.is_gone() || begun.elapsed() > CONTROL_TIMEOUT {
                return answer;
            }
            if self.config.autostart {
                self.ensure_server()?;
            } else if !self.comes_up() {
                return answer;
            }
        }
    }

    /// The same without a second try.
    pub fn control_once(&mut self, request: &ControlRequest) -> Result<ControlAnswer, Error> {
        self.ask(api::CTRL, &tool_call(request).members(), true)
    }

    /// Starts or attaches to a process, and before that a server if none answers. Should the server go before it
    /// answers, the request is sent again to the next one: by its key it is carried out once.
    pub fn run(&mut self, request: &RunRequest) -> Result<RunAnswer, Error> {
        let begun = Instant::now();
        let mut cuts = 0;
        loop {
            let is_patient = self.config.autostart && begun.elapsed() < STARTUP_TIMEOUT;
            self.ensure_server()?;
            let answer = self.post(api::RUN, &to_json(request), true);
            match answer.and_then(|body| RunAnswer::parse(&body).ok_or_else(unexpected)) {
                Err(_) if self.is_gone() && is_patient => {}
                // A busy server closes idle connections, also one that has waited long for its turn.
                Err(_) if self.is_cut && cuts < CUTS_MAX => cuts += 1,
                answer => return answer,
            }
        }
    }

    /// Reads selected lines.
    pub fn read_output(&mut self, request: &OutputRequest, options: &ReadOptions) -> Result<Reading, Error> {
        let call = Call { options: options.clone(), ..tool_call(request) };
        let mut bytes = self.post(api::LINES, &to_json(&call.members()), request.wait_for.is_some())?;
        let end = memchr::memchr(b'\n', &bytes).ok_or_else(unexpected)?;
        let status = OutputStatus::parse(&bytes[..end]).ok_or_else(unexpected)?;
        bytes.drain(..=end);
        Ok(Reading { bytes, status })
    }

    /// How far the log of a run has grown beyond an offset, as soon as it has, or after the wait. Servers up to 0.4 send
    /// its bytes, too.
    pub fn follow(&mut self, follow: &Follow) -> Result<(Following, Vec<u8>), Error> {
        let target = format!("{}?{}", api::FOLLOW, follow.query());
        let answer = self.send("GET", &target, b"", follow.wait + FOLLOW_MARGIN)?;
        let following = answer.head.header(FOLLOWING).and_then(Following::parse);
        match (answer.head.status, following) {
            (200, Some(following)) => Ok((following, answer.body)),
            (status, _) => Err(refusal(status, &answer.body)),
        }
    }

    /// Ends the server, and waits until it is gone.
    pub fn shut_down(&mut self, keep: bool) -> Result<ShutdownAnswer, Error> {
        let answer: ShutdownAnswer = self.ask(api::SHUTDOWN, &ShutdownRequest { keep, successor: None }, true)?;
        let is_there = || procs::look_up(answer.pid).is_some_and(|process| !process.is_dead() && process.is_service());
        let begun = Instant::now();
        while is_there() && begun.elapsed() < SERVER_EXIT_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(answer)
    }
}

/// A call from this directory.
fn tool_call(request: &impl Members) -> Call {
    let near = std::env::current_dir().ok().map(|directory| directory.to_string_lossy().into_owned());
    Call { arguments: request.members(), near, idempotency_key: None, options: ReadOptions::default() }
}
