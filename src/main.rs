//! persistproc runs dev servers, watchers and databases so that the person at the terminal and every AI agent on the
//! machine see the same output and control the same processes.
//!
//! One binary, three roles:
//!
//! ```text
//! persistproc CMD ──socket──▶ server ──spawn, ctl──▶ shim ──pipes──▶ child and all its descendants
//!      client      agents ──TCP──▶ ▲ ◀──── events ────┤
//!                                  └─── reads ◀── runs/<id>/{stdout,stderr,combined}.log, status.json
//! ```
//!
//! The data directory is the truth. A server can be killed at any moment: no child notices, no byte is lost, and the next
//! server finds everything by reading `runs/`, which is how every server begins.
//!
//! A few words are ours:
//!
//! | word | meaning |
//! |---|---|
//! | process | what users manage: a command in a directory, known by its *label* |
//! | label | the name of a process; by default `<command> in <directory>` |
//! | run | one execution of a process, numbered forever: `r12`; a restart is a new run |
//! | leader | the process that a run started, beside its descendants |
//! | shim | the small process (of this binary) that is the parent of one run, reads its pipes and writes its logs |
//! | cursor | a position in the output of runs, as an opaque string: "everything after this" |
//! | doorbell | the FIFO by which a shim wakes the server; it says only that something has changed |
//! | lease | the file by which a reader says how far it has read, so that nothing before that is rotated away |
//! | wrapper | the command `persistproc npm run dev` in a terminal, which shows a run and ends as it does |
//! | bridge | the command `persistproc mcp`, for agents that speak MCP on stdin and stdout |
//!
//! The layers: each module imports only modules below it in this table (`tests/layers.rs` has the exact list).
//!
//! | module | owns |
//! |---|---|
//! | `init` | PID 1 of a container: reaps, passes signals on, ends the rest |
//! | `client` | the commands: finding and starting the server, the wrapper, the bridge, what is printed |
//! | `cli` | commands and options as tables; the command line → what to do |
//! | `server` | data directory, socket and port, signals, paths → handlers, which clients are let in |
//! | `mcp` | the protocol and the three tools; knows no sockets |
//! | `output` | which lines, how long to wait, how they are shown |
//! | `manager` | start, stop, restart, list; knows neither sockets nor protocol |
//! | `shim` | one run, from spawn to status; the only module that signals children |
//! | `api` | the contract between commands and server: requests, answers, parameters |
//! | `discovery` | how the server of a data directory is found and recognised |
//! | `http` | HTTP/1.1, server and client; knows no JSON |
//! | `config` | port, paths, limits |
//! | `rundir` | the directory of a run: the contract between shims and servers |
//! | `log` | how logs are written, rotated and read |
//! | `lease` | how far readers have read |
//! | `agents`, `attributes` | the variables that identify an AI agent; umask, limits and the like of the caller |
//! | `procs`, `error`, `os_text` | processes of the machine, what went wrong, text that is shown or passed to the system |
//! | `sys` | system calls: the only `unsafe` |
//!
//! Invariants:
//!
//! * `client` and `server` know nothing of each other but `api` and `discovery`.
//! * A server keeps nothing that is not on disk; what it is about to do to a run is recorded there before it does it.
//! * A status is on disk before any reader is told of it. Events and condition variables say only "look again".
//! * No lock is held across I/O. Every wait has an end, every buffer a bound.
//! * Bytes of programs reach the terminal only through the few functions that `tests/layers.rs` lists; text of our own is
//!   escaped.

mod agents;
mod api;
mod attributes;
mod cli;
mod client;
mod config;
mod discovery;
mod error;
mod http;
mod init;
mod lease;
mod log;
mod manager;
mod mcp;
mod os_text;
mod output;
mod procs;
mod rundir;
mod server;
mod shim;
mod sys;

use cli::{Command, Parsed};
use client::{ErrorReporter, ExitCode};
use config::{Config, Flags};
use error::Error;
use std::ffi::OsString;
use std::io::Write;

fn main() -> std::process::ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if init::is_init() {
        return init::run().into();
    }
    attributes::record_and_reset(umask_of_starter(&arguments));
    // Two roles are not for users: their arguments are fixed, and come from ourselves.
    let code = match arguments.first().and_then(|argument| argument.to_str()) {
        Some("__shim") => shim::main(arguments.into_iter().skip(1).collect()) as u8,
        Some("__serve") => serve_in_background(&arguments[1..]),
        _ => run_command(arguments).number(),
    };
    code.into()
}

/// `--umask N` after the other arguments of `__serve`.
fn umask_of_starter(words: &[OsString]) -> Option<u32> {
    let at = words.iter().position(|word| word == "--umask").filter(|_| words[0] == "__serve")?;
    words.get(at + 1)?.to_str()?.parse().ok()
}

/// Does what a user asks for, or reports why not.
fn run_command(arguments: Vec<OsString>) -> ExitCode {
    // Report panics as one line.
    std::panic::set_hook(Box::new(|panic| {
        client::complain(&format!("internal error (a bug), please report it: {panic}"))
    }));
    let parsed = cli::parse(arguments);
    let reporter = ErrorReporter::of(&parsed);
    let done = parsed.map_err(|error| Error::usage(error.text)).and_then(dispatch);
    done.unwrap_or_else(|error| reporter.show(&error))
}

fn dispatch(parsed: Parsed) -> Result<ExitCode, Error> {
    let config = config::resolve(parsed.flags, |name| std::env::var_os(name)).map_err(Error::usage)?;
    match parsed.command {
        Command::Serve { in_background: true } => start_in_background(&config),
        Command::Serve { in_background: false } => serve(config),
        command => client::main(command, config),
    }
}

fn serve(config: Config) -> Result<ExitCode, Error> {
    let is_quiet = config.is_quiet;
    let ready = server::BoundServer::new(config)?;
    if !is_quiet {
        client::print(&ready.connect_help());
    }
    let mut say = |text: &str| {
        if !is_quiet {
            client::complain(text)
        }
    };
    ready.serve(&mut say).map(|()| ExitCode::Success)
}

fn start_in_background(config: &Config) -> Result<ExitCode, Error> {
    let started = client::start_server(config)?;
    if let Some(port) = started.port.filter(|_| !config.is_quiet) {
        client::print(&format!("http://127.0.0.1:{port}/mcp\n"));
    }
    if let Some(warning) = started.warning.filter(|_| !config.is_quiet) {
        client::complain(&warning);
    }
    Ok(ExitCode::Success)
}

/// `__serve PORT|none DATA_DIR [--trust-all-users] [--umask N]`: a server without a terminal. Its starter reads one line, `ok PORT` (0
/// if there is none) then a warning if there is one, or `err TEXT`.
fn serve_in_background(words: &[OsString]) -> u8 {
    // It lives for days: a pipe of its starter that it kept would never end for its reader.
    sys::close_inherited();
    let Ok(mut starter) = sys::take_standard_fd(1) else { return 1 };
    let _ = sys::new_session();
    let _ = std::env::set_current_dir("/");
    let flags = Flags {
        port: words.first().and_then(|word| word.to_str()?.parse().ok()),
        no_tcp: words.first().is_some_and(|word| word == "none"),
        data_dir: words.get(1).map(Into::into),
        trusts_all_users: words.iter().skip(2).any(|word| word == "--trust-all-users"),
        ..Flags::default()
    };
    let ready =
        config::resolve(flags, |name| std::env::var_os(name)).map_err(Error::usage).and_then(server::BoundServer::new);
    match ready {
        Ok(ready) => {
            let warning = ready.warning().map_or(String::new(), |warning| format!(" {warning}"));
            let _ = writeln!(starter, "ok {}{warning}", ready.server_info().port);
            drop(starter);
            u8::from(ready.serve(&mut |_| {}).is_err())
        }
        Err(error) => {
            let _ = writeln!(starter, "err {error}");
            1
        }
    }
}
