//! `start` and `restart` with `--wait-for`: a script goes on when the process is ready, and is told why if it never is.

use super::calls::Reading;
use super::connection::ServerConnection;
use super::render::{self, ControlReport};
use super::{ExitCode, output, terminal};
use crate::api::params::OutputRequest;
use crate::api::{self, ControlAnswer, WaitOutcome};
use crate::cli::WaitOptions;
use crate::error::Error;
use crate::log::Stream;
use crate::output::wait::Until;
use std::time::Instant;

/// Lines shown of a process that did not become ready.
const LAST_LINES: u32 = 10;

/// Refuses what makes no sense, before anything is started for it.
pub fn check(wait: &WaitOptions) -> Result<(), Error> {
    let until = wait.wait_for.as_deref().map(Until::parse).transpose();
    until.map(drop).map_err(|error| Error::usage(error.to_string()))
}

/// Reports what became of a start or restart, and then waits for what was asked for, in everything that the run prints.
pub fn report(
    server: &mut ServerConnection,
    answer: &ControlAnswer,
    wait: &WaitOptions,
    is_json: bool,
) -> Result<ExitCode, Error> {
    let Some(wait_for) = &wait.wait_for else {
        return print(answer, None, is_json).map(|()| ExitCode::Success);
    };
    if !is_json {
        print(answer, None, false)?; // the wait may be long
    }
    let begun = Instant::now();
    let request = OutputRequest {
        after: Some(api::start_cursor(&answer.process.run)),
        lines: Some(LAST_LINES),
        wait_for: wait.wait_for.clone(),
        timeout: wait.timeout,
        ..OutputRequest::default()
    };
    let read = output::wait(server, request)?;
    if is_json {
        print(answer, read.waited(), true)?;
    }
    let verdict = output::verdict(read.waited(), wait_for);
    match &verdict {
        Ok(_) if is_json => {}
        Ok(_) => terminal::print([format!("Ready after {:.1} s.", begun.elapsed().as_secs_f64())])?,
        Err(_) => show_last(&read),
    }
    verdict
}

fn print(answer: &ControlAnswer, waited: Option<WaitOutcome>, is_json: bool) -> Result<(), Error> {
    if is_json {
        terminal::print_json(&ControlReport::new(answer, waited))
    } else {
        terminal::print([render::control(answer)])
    }
}

/// On stderr: what it printed is why.
fn show_last(read: &Reading) {
    let _ = terminal::pass_on(Stream::Stderr, &read.bytes);
}
