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
//! The rooms, and what they may know; calls go down this list and never up (`tests/rooms.rs` holds it):
//!
//! | room | owns |
//! |---|---|
//! | `init` | PID 1 of a container: reaps, passes signals on, ends the rest |
//! | `client` | finding and starting the server, the wrapper, the bridge for agents on stdio, what is printed |
//! | `cli` | commands and options as a table; the command line → what to do |
//! | `server` | data directory, socket and port, signals, paths → handlers, which clients may come in |
//! | `mcp` | the protocol and the three tools; knows no sockets |
//! | `output` | which lines, until when to wait, how they are shown |
//! | `manager` | start, stop, restart, list; knows neither sockets nor protocol |
//! | `shim` | one run, from spawn to status; the only one that signals children |
//! | `http` | HTTP/1.1, server and client; knows no JSON |
//! | `config` | port, paths, limits |
//! | `rundir` | the directory of a run: the contract between shims and servers |
//! | `log` | how logs are written, rotated and read |
//! | `lease` | how far readers are: what must not be rotated away or removed yet |
//! | `agents`, `attributes` | which variables tell that an AI agent is at work; umask, limits and the like of the caller |
//! | `procs`, `fault`, `words` | processes of the machine, why something failed, words as bytes |
//! | `sys` | system calls: the only `unsafe` |
//!
//! No lock is held across I/O, every wait has an end, and news goes up only as an event or a condition variable.

mod agents;
mod attributes;
mod cli;
mod client;
mod config;
mod fault;
mod http;
mod init;
mod lease;
mod log;
mod manager;
mod mcp;
mod output;
mod procs;
mod rundir;
mod server;
mod shim;
mod sys;
mod words;

use cli::{Command, Parsed};
use client::{Refusals, Trouble};
use config::{Config, Flags};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if init::is_init() {
        return ExitCode::from(init::run());
    }
    attributes::record_and_reset(umask_of_starter(&words));
    // Two roles are not for users: their words are fixed, and come from ourselves.
    ExitCode::from(match words.first().and_then(|word| word.to_str()) {
        Some("__shim") => shim::main(words.into_iter().skip(1).collect()) as u8,
        Some("__serve") => serve_in_background(&words[1..]),
        _ => obey(words),
    })
}

/// `--umask N` behind the other words of `__serve`.
fn umask_of_starter(words: &[OsString]) -> Option<u32> {
    let at = words.iter().position(|word| word == "--umask").filter(|_| words[0] == "__serve")?;
    words.get(at + 1)?.to_str()?.parse().ok()
}

/// Does what a user asks for, or says why not: the exit code.
fn obey(words: Vec<OsString>) -> u8 {
    // Report panics as one line.
    std::panic::set_hook(Box::new(|panic| {
        client::complain(&format!("internal error (a bug), please report it: {panic}"))
    }));
    let parsed = cli::parse(words);
    let refusals = Refusals::of(&parsed);
    let done = parsed.map_err(|mistake| Trouble::Usage(mistake.text)).and_then(dispatch);
    done.unwrap_or_else(|trouble| refusals.show(&trouble))
}

fn dispatch(parsed: Parsed) -> Result<u8, Trouble> {
    let config = config::resolve(parsed.given.flags.clone(), |name| std::env::var_os(name)).map_err(Trouble::Usage)?;
    match parsed {
        Parsed { command: Command::Serve, given } if given.background => start_in_background(&config),
        Parsed { command: Command::Serve, .. } => serve(config),
        parsed => client::main(parsed, config),
    }
}

fn serve(config: Config) -> Result<u8, Trouble> {
    let is_quiet = config.is_quiet;
    let refused = |fault: fault::Fault| Trouble::Refused(fault.text);
    let ready = server::Ready::new(config).map_err(refused)?;
    if !is_quiet {
        client::print(&ready.welcome());
    }
    let mut say = |text: &str| {
        if !is_quiet {
            client::complain(text)
        }
    };
    ready.serve(&mut say).map_err(refused).map(|()| 0)
}

fn start_in_background(config: &Config) -> Result<u8, Trouble> {
    let started = client::start_server(config)?;
    if let Some(port) = started.port.filter(|_| !config.is_quiet) {
        client::print(&format!("http://127.0.0.1:{port}/mcp\n"));
    }
    if let Some(warning) = started.warning.filter(|_| !config.is_quiet) {
        client::complain(&warning);
    }
    Ok(0)
}

/// `__serve PORT|none DATA_DIR [--trust-all-users] [--umask N]`: a server without a terminal. Its starter reads one line, `ok PORT` (0
/// if there is none) with a warning behind it if there is one, or `err TEXT`.
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
    let ready = config::resolve(flags, |name| std::env::var_os(name))
        .map_err(fault::Fault::invalid)
        .and_then(server::Ready::new);
    match ready {
        Ok(ready) => {
            let warning = ready.warning().map_or(String::new(), |warning| format!(" {warning}"));
            let _ = writeln!(starter, "ok {}{warning}", ready.holder().port);
            drop(starter);
            u8::from(ready.serve(&mut |_| {}).is_err())
        }
        Err(fault) => {
            let _ = writeln!(starter, "err {}", fault.text);
            1
        }
    }
}
