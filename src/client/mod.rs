//! The command line as a client: finds or starts the server, calls it, and shows what it answers. Knows nothing of runs and
//! logs but what the server answers, and the log that it follows.

mod bridge;
mod calls;
mod connection;
mod exit_code;
mod follow;
mod launch;
mod output;
mod render;
mod request;
mod silence;
mod terminal;
mod wait_ready;
mod wrapper;

use crate::api::params::{Action, ListRequest};
use crate::api::{IfRunning, Members};
use crate::cli::{Command, ControlOptions, Parsed, StartOptions, UsageError};
use crate::config::{self, Config, Format};
use crate::error::Error;
use connection::ServerConnection;
use request::{absolute, run_request};
use serde_json::json;
use std::time::Duration;

pub use exit_code::ExitCode;
pub use launch::start_server;
pub use terminal::complain;

/// A result that is not an answer of a server; several lines, if it has newlines.
pub fn print(text: &str) {
    let _ = terminal::print(text.lines());
}

/// How long beyond the end of a wait another server may take to come up, and how often it is looked for.
const NEXT_SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How errors are shown: on stderr, and with `--format json` on stdout as well.
pub struct ErrorReporter {
    is_json: bool,
    action: Option<Action>,
}

impl ErrorReporter {
    /// For a command line, as far as it could be read.
    pub fn of(parsed: &Result<Parsed, UsageError>) -> ErrorReporter {
        let (format, action) = match parsed {
            Ok(parsed) => (parsed.flags.format, parsed.command.action()),
            Err(error) => (error.format, error.action),
        };
        let format = config::format(format, |name| std::env::var_os(name));
        ErrorReporter { is_json: format == Format::Json, action }
    }

    /// Shows one and returns its exit code. A document is printed once, so if stdout has the result of a wait already, which
    /// says that it was in vain, or the output of a program, nothing comes after it.
    pub fn show(&self, error: &Error) -> ExitCode {
        let text = error.to_string();
        if self.is_json && !terminal::is_stdout_used() {
            let mut document = json!({"error": terminal::on_one_line(&text)});
            if let Some(action) = self.action {
                document["action"] = json!(action);
            }
            let _ = terminal::print_json(&document); // stderr says it, too
        }
        terminal::complain(&text);
        error.kind.into()
    }
}

/// Runs a command other than `serve`.
pub fn main(command: Command, config: Config) -> Result<ExitCode, Error> {
    let is_json = config.format == Format::Json;
    let mut server = ServerConnection::new(config);
    match command {
        Command::Run(options) => wrapper::run(server, options),
        Command::Start(options) => start(&mut server, options, is_json),
        Command::Control(options) => control(&mut server, options, is_json),
        Command::List(request) => list(&mut server, request, is_json),
        Command::Output(options) => output::output(server, options, is_json),
        Command::Bridge => bridge::run(server.config),
        Command::Shutdown { keep } => shutdown(&mut server, keep, is_json),
        Command::Print(text) => terminal::print(text.lines()).map(|()| ExitCode::Success),
        Command::Serve { .. } => Err(Error::usage("serve is not a command of the client")), // `main` has it
    }
}

fn start(server: &mut ServerConnection, options: StartOptions, is_json: bool) -> Result<ExitCode, Error> {
    let StartOptions { program, environment, working_directory, wait } = options;
    wait_ready::check(&wait)?;
    let request = run_request(program, &environment, working_directory.as_ref(), IfRunning::Refuse)?;
    let answer = server.run(&request)?.into();
    wait_ready::report(server, &answer, &wait, is_json)
}

fn control(server: &mut ServerConnection, options: ControlOptions, is_json: bool) -> Result<ExitCode, Error> {
    let ControlOptions { mut request, wait } = options;
    wait_ready::check(&wait)?;
    absolute(&mut request.working_directory)?;
    if wait.wait_for.is_some() {
        request.timeout = Some(0); // the wait comes afterwards
    }
    let answer = server.control(&request)?;
    wait_ready::report(server, &answer, &wait, is_json)
}

fn list(server: &mut ServerConnection, mut request: ListRequest, is_json: bool) -> Result<ExitCode, Error> {
    absolute(&mut request.working_directory)?;
    let answer = server.list(&request)?;
    let is_narrowed = request.working_directory.is_some();
    let width = terminal::columns().unwrap_or(render::WIDTH);
    let printed = if is_json {
        terminal::print_json(&answer.members())
    } else {
        terminal::print(render::list(&answer, is_narrowed, width))
    };
    printed.map(|()| ExitCode::Success)
}

fn shutdown(server: &mut ServerConnection, keep: bool, is_json: bool) -> Result<ExitCode, Error> {
    let answer = server.shut_down(keep)?;
    let pid = answer.pid;
    if !answer.problems.is_empty() {
        return Err(Error::failed(format!("the server (PID {pid}) has ended, but {}", answer.problems.join("; "))));
    }
    let printed = match (is_json, keep) {
        (true, _) => terminal::print_json(&json!({"pid": pid})),
        (false, true) => terminal::print([format!("The server (PID {pid}) has ended; its processes keep running.")]),
        (false, false) => terminal::print([format!("The server (PID {pid}) and its processes have ended.")]),
    };
    printed.map(|()| ExitCode::Success)
}
