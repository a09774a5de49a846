//! The command line as a client: finds or starts the server, calls it, and shows what it says. Knows nothing of runs and
//! logs but what the server answers.

mod bridge;
mod errand;
mod follow;
mod follower;
mod frames;
mod lines;
mod link;
mod output;
mod ready;
mod render;
mod run;
mod silence;
mod terminal;
mod writer;

use crate::agents::is_agent_variable;
use crate::attributes;
use crate::cli::{Command, Given, Mistake, Parsed, Target};
use crate::config::{self, Config, Format};
use crate::http::head::encode;
use crate::log::stamp::now_ms;
use crate::server::routes::RunRequest;
use crate::words::Word;
use link::Link;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use link::start_server;
pub use terminal::complain;

/// A result that is no answer of a server; several lines, if it has newlines.
pub fn print(text: &str) {
    let _ = terminal::print(text.lines());
}

/// How long a wait takes if nobody said, in seconds.
const WAIT: u64 = 15;
/// How long beyond that another server may take to come, and how often it is looked for.
const COMING: Duration = Duration::from_secs(2);
const RECONNECT: Duration = Duration::from_millis(50);

/// Why a command did not do what it was asked for. The text is one line for a person.
#[derive(Debug, PartialEq)]
pub enum Trouble {
    /// The server, or the system, said no.
    Refused(String),
    /// The command line makes no sense.
    Usage(String),
    /// No server could be reached.
    Unreachable(String),
}

impl Trouble {
    pub fn exit_code(&self) -> u8 {
        match self {
            Trouble::Refused(_) => 1,
            Trouble::Usage(_) => 2,
            Trouble::Unreachable(_) => 3,
        }
    }
    pub fn text(&self) -> &str {
        match self {
            Trouble::Refused(text) | Trouble::Usage(text) | Trouble::Unreachable(text) => text,
        }
    }
}

/// How refusals are shown: on stderr, and for those who want JSON on stdout as well.
pub struct Refusals {
    is_json: bool,
    action: Option<&'static str>,
}

impl Refusals {
    /// For a command line, as far as it could be read.
    pub fn of(parsed: &Result<Parsed, Mistake>) -> Refusals {
        let (format, action) = match parsed {
            Ok(parsed) => (parsed.given.flags.format, parsed.command.action()),
            Err(mistake) => (mistake.format, mistake.action),
        };
        let format = config::format(format, |name| std::env::var_os(name));
        Refusals { is_json: format == Format::Json, action }
    }

    /// Shows one: the exit code. A document is printed once, so if stdout has the result of a wait already, which says
    /// that it was in vain, or the output of a program, nothing comes after it.
    pub fn show(&self, trouble: &Trouble) -> u8 {
        if self.is_json && !terminal::is_stdout_used() {
            let mut document = json!({"error": terminal::on_one_line(trouble.text())});
            if let Some(action) = self.action {
                document["action"] = json!(action);
            }
            let _ = terminal::print_json(&document); // stderr says it, too
        }
        terminal::complain(trouble.text());
        trouble.exit_code()
    }
}

/// Does what a command line asks for; the exit code.
pub fn main(parsed: Parsed, config: Config) -> Result<u8, Trouble> {
    let Parsed { command, given } = parsed;
    let is_json = config.format == Format::Json;
    let mut link = Link::new(config);
    match command {
        Command::Run { argv } => run::run(link, argv, &given),
        Command::Start { argv } => start(&mut link, argv, &given, is_json),
        Command::Stop(target) => control(&mut link, "stop", &target, &given, is_json),
        Command::Restart(target) => control(&mut link, "restart", &target, &given, is_json),
        Command::List(target) => list(&mut link, &target, &given, is_json),
        Command::Output(target) => output::output(link, &target, &given, is_json),
        Command::Bridge => bridge::run(link.config),
        Command::Shutdown => shutdown(&mut link, &given, is_json),
        Command::Say(text) => terminal::print(text.lines()).map(|()| 0),
        Command::Serve => Err(Trouble::Usage("serve is not a command of the client".into())), // main has it
    }
}

fn own_directory() -> Result<PathBuf, Trouble> {
    std::env::current_dir().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Trouble::Refused("the present directory does not exist any more; cd to one that does".into())
        }
        _ => Trouble::Refused(format!("cannot tell the present directory: {error}")),
    })
}

/// The directory that was named, seen from here.
fn directory_named(directory: &OsString) -> Result<PathBuf, Trouble> {
    let path = PathBuf::from(directory);
    if path.is_absolute() { Ok(path) } else { Ok(own_directory()?.join(path)) }
}

/// Names a request, on this machine and for long enough.
fn new_key() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}.{}", std::process::id(), now_ms(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The request that runs `argv` as this shell would have: in this directory, with this environment.
fn run_request(argv: Vec<OsString>, given: &Given, if_running: &str) -> Result<RunRequest, Trouble> {
    let working_directory = given.working_directory.as_ref().map_or_else(own_directory, directory_named)?;
    let is_added = |name: &OsString| given.environment.iter().any(|(added, _)| name == added.as_str());
    let is_meant_for_it = |name: &OsString, value: &OsString| given.keep_agent_env || !is_agent_variable(name, value);
    // Exactly as here, but for the token: it opens the server, is not for programs, and must not stand in files.
    let inherited = std::env::vars_os()
        .filter(|(name, value)| !is_added(name) && name != config::TOKEN && is_meant_for_it(name, value))
        .map(|(name, value)| (Word(name), Word(value)));
    let added = given.environment.iter().map(|(name, value)| (Word::from(name), Word::from(value)));
    Ok(RunRequest {
        argv: argv.into_iter().map(Word).collect(),
        working_directory: Word(working_directory.into_os_string()),
        environment: inherited.chain(added).collect(),
        label: given.label.clone(),
        if_running: if_running.into(),
        idempotency_key: Some(new_key()),
        reader: None,
        attributes: Some(attributes::inherited()),
    })
}

fn start(link: &mut Link, argv: Vec<OsString>, given: &Given, is_json: bool) -> Result<u8, Trouble> {
    ready::check(&asked(given))?;
    let request = run_request(argv, given, "refuse")?;
    let mut started = link.run(&request)?;
    started["action"] = json!("start");
    ready::report(link, &started, &asked(given), is_json)
}

/// Parameters of a tool that were given as options.
fn asked(given: &Given) -> Map<String, Value> {
    given.asked.iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}

/// Members that say which process is meant.
fn target_arguments(target: &Target, given: &Given) -> Result<Map<String, Value>, Trouble> {
    let mut arguments = Map::new();
    if let Some(pid) = target.pid {
        arguments.insert("pid".into(), json!(pid));
    }
    if let Some(name) = &target.name {
        arguments.insert("command_or_label".into(), json!(name));
    }
    if let Some(directory) = &given.working_directory {
        let path = directory_named(directory)?;
        arguments.insert("working_directory".into(), json!(path.to_string_lossy()));
    }
    Ok(arguments)
}

fn control(link: &mut Link, action: &str, target: &Target, given: &Given, is_json: bool) -> Result<u8, Trouble> {
    let mut arguments = target_arguments(target, given)?;
    arguments.insert("action".into(), json!(action));
    arguments.insert("force".into(), json!(given.force));
    let asked = asked(given);
    ready::check(&asked)?;
    if !asked.is_empty() {
        arguments.insert("timeout".into(), json!(0)); // it is waited for here
    }
    let answer = link.control(&arguments)?;
    ready::report(link, &answer, &asked, is_json)
}

fn list(link: &mut Link, target: &Target, given: &Given, is_json: bool) -> Result<u8, Trouble> {
    let answer = link.call_tool("list", &target_arguments(target, given)?)?;
    let is_narrowed = given.working_directory.is_some();
    let width = terminal::columns().unwrap_or(render::WIDTH);
    let printed = if is_json {
        terminal::print_json(&answer)
    } else {
        terminal::print(render::list(&answer, is_narrowed, width))
    };
    printed.map(|()| 0)
}

fn shutdown(link: &mut Link, given: &Given, is_json: bool) -> Result<u8, Trouble> {
    let answer = link.shut_down(given.keep)?;
    let problems: Vec<&str> = answer["problems"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let pid = &answer["pid"];
    if !problems.is_empty() {
        return Err(Trouble::Refused(format!("the server (PID {pid}) has ended, but {}", problems.join("; "))));
    }
    let printed = match (is_json, given.keep) {
        (true, _) => terminal::print_json(&json!({"pid": pid})),
        (false, true) => terminal::print([format!("The server (PID {pid}) has ended; its processes go on.")]),
        (false, false) => terminal::print([format!("The server (PID {pid}) and its processes have ended.")]),
    };
    printed.map(|()| 0)
}

/// Parameters as the query of a GET.
fn query(arguments: &Map<String, Value>) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let pairs = arguments.iter().map(|(name, value)| format!("{name}={}", encode(&text(value))));
    pairs.collect::<Vec<_>>().join("&")
}
