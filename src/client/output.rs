//! `output`: what there is, and with `--wait-for` what came until then. See `follow` for new lines as they come.

use super::calls::Reading;
use super::connection::ServerConnection;
use super::request::absolute;
use super::{ExitCode, NEXT_SERVER_TIMEOUT, RECONNECT_PAUSE, follow, terminal};
use crate::api::params::{self, OutputRequest};
use crate::api::{Members, ReadOptions, WaitOutcome};
use crate::cli::OutputOptions;
use crate::error::Error;
use crate::log::Stream;
use crate::output::pattern::Pattern;
use crate::output::wait::{Until, WAIT_MAX};
use serde_json::{Map, Value};
use std::time::Instant;

pub fn output(mut server: ServerConnection, options: OutputOptions, is_json: bool) -> Result<ExitCode, Error> {
    let OutputOptions { mut request, is_follow } = options;
    absolute(&mut request.working_directory)?;
    check_expressions(&request)?;
    if is_follow {
        return follow::follow(server, request, is_json);
    }
    let wanted = request.wanted().to_string();
    let read = wait(&mut server, request)?;
    if is_json {
        terminal::print_json(&document(&read))?;
        return verdict(read.waited(), &wanted);
    }
    read.note(&server);
    terminal::pass_on(Stream::Stdout, &read.bytes)?;
    if let Some(unwritten) = &read.status.summary.unwritten {
        terminal::note(unwritten);
    }
    verdict(read.waited(), &wanted)
}

/// What `--format json output` prints.
fn document(read: &Reading) -> Map<String, Value> {
    let lines = read.bytes.strip_suffix(b"\n").unwrap_or(&read.bytes).split(|byte| *byte == b'\n');
    let output = lines.map(|line| String::from_utf8_lossy(line).into_owned());
    let output: Vec<Value> = if read.bytes.is_empty() { Vec::new() } else { output.map(Value::from).collect() };
    let mut document = read.status.summary.members();
    document.insert("output".into(), output.into());
    document
}

/// Refuses what is not a regular expression, before anything is asked for.
fn check_expressions(request: &OutputRequest) -> Result<(), Error> {
    let grep = request.grep.as_deref().map(Pattern::parse).transpose().map(drop);
    let wait_for = request.wait_for.as_deref().map(Until::parse).transpose().map(drop);
    grep.and(wait_for).map_err(|error| Error::usage(error.to_string()))
}

/// Reads output. A wait may be longer than what a server does in one call, and if the server goes meanwhile, the next one
/// is asked for the rest of the time; always from the same place, so that what was written in between is not missed.
pub fn wait(server: &mut ServerConnection, mut request: OutputRequest) -> Result<Reading, Error> {
    let options = ReadOptions::default();
    let timeout = params::timeout(request.timeout.take());
    if request.wait_for.is_none() {
        return server.read_output(&request, &options);
    }
    let end = Instant::now() + timeout;
    let mut was_there = request.after.is_none();
    if was_there {
        let newest = OutputRequest {
            pid: request.pid,
            command_or_label: request.command_or_label.clone(),
            working_directory: request.working_directory.clone(),
            run: request.run,
            stream: request.stream,
            lines: Some(1),
            ..OutputRequest::default()
        };
        let newest = retry(server, end, false, |server| server.read_output(&newest, &options))?;
        request.after = Some(newest.cursor());
    }
    loop {
        let answer = retry(server, end, was_there, |server| {
            let left = end.saturating_duration_since(Instant::now()).min(WAIT_MAX);
            request.timeout = Some(left.as_millis().div_ceil(1000) as u32);
            server.read_output(&request, &options)
        })?;
        if answer.waited() != Some(WaitOutcome::TimedOut) || Instant::now() >= end {
            return Ok(answer);
        }
        was_there = true;
    }
}

/// Asks again when a server that was there has gone, until `NEXT_SERVER_TIMEOUT` after `end`.
fn retry<T>(
    server: &mut ServerConnection,
    end: Instant,
    mut was_there: bool,
    mut ask: impl FnMut(&mut ServerConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        let answer = ask(server);
        was_there |= server.was_reached;
        if answer.is_ok() || !(was_there && server.is_gone()) || Instant::now() > end + NEXT_SERVER_TIMEOUT {
            return answer;
        }
        std::thread::sleep(RECONNECT_PAUSE);
    }
}

/// The exit code of a wait for `wanted`: it is a success only if that came.
pub fn verdict(waited: Option<WaitOutcome>, wanted: &str) -> Result<ExitCode, Error> {
    let problem = match (waited, wanted) {
        (Some(WaitOutcome::TimedOut | WaitOutcome::Abandoned), "quiet") => "timed out: it kept printing",
        (Some(WaitOutcome::TimedOut | WaitOutcome::Abandoned), _) => "timed out: no line matched",
        (Some(WaitOutcome::Ended), "quiet") => "the process ended before it was quiet",
        (Some(WaitOutcome::Ended), _) => "the process ended, and no line matched",
        (Some(WaitOutcome::Matched | WaitOutcome::Quiet) | None, _) => return Ok(ExitCode::Success),
    };
    Err(Error::failed(problem))
}
