//! The commands as data: name, what follows it, help, and the constructor that makes a [`Command`] of what was given.

use super::options::{Options, one_of};
use super::{Command, ControlOptions, OnExit, OutputOptions, Program, RunOptions, StartOptions, WaitOptions};
use crate::api::params::{self, Action, ControlRequest, ListRequest, OutputRequest};
use crate::os_text;
use std::ffi::OsString;

/// What follows the name of a command, beside options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positional {
    /// A program and its arguments, which are not looked at.
    Program,
    /// Words that name a process.
    Target,
    /// The name of another command.
    Subcommand(&'static [&'static str]),
    Choice(&'static [&'static str]),
    Nothing,
}

/// The words after a command, and the name by which it was called: `ls`, where the command is `list`.
pub struct Words {
    pub called: String,
    pub words: Vec<OsString>,
}

pub struct CommandSpec {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub positional: Positional,
    /// One line.
    pub summary: &'static str,
    /// The rest of its help, with an example.
    pub details: &'static str,
    /// An error is one line that says what is wrong and what to do.
    pub build: fn(Words, &mut Options) -> Result<Command, String>,
}

impl CommandSpec {
    /// What follows its name, for the help.
    pub fn usage(&self) -> String {
        match self.positional {
            Positional::Program => "[OPTIONS] PROGRAM [ARG…]".into(),
            Positional::Target => "[OPTIONS] TARGET…".into(),
            Positional::Subcommand(names) => format!("{} …", names.join("|")),
            Positional::Choice(choices) => choices.join("|"),
            Positional::Nothing => "[OPTIONS]".into(),
        }
    }

    /// The words that can follow its name, if those are a few.
    pub fn choices(&self) -> &'static [&'static str] {
        match self.positional {
            Positional::Subcommand(choices) | Positional::Choice(choices) => choices,
            _ => &[],
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// The command of this name.
pub fn command(name: &str) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|spec| spec.names().any(|known| known == name))
}

const CONTROLS: &[&str] = &["start", "stop", "restart"];
const SHELLS: &[&str] = &["bash", "zsh", "fish"];

pub static COMMANDS: [CommandSpec; 11] = [
    CommandSpec {
        name: "run",
        aliases: &[],
        positional: Positional::Program,
        summary: "run a process and show its output; the word `run` may be left out",
        details: "Starts the program under persistproc, or attaches to it if the same command is already running in this \
directory, and shows its output from the first byte: stdout on stdout, stderr on stderr. Ends with the program's exit \
code (128+n for signal n). Follows restarts that others make. Everything after PROGRAM belongs to the program. A single \
argument with spaces is split as a shell would split it; pipes and && need sh -c '…'.\n\n\
Ctrl+C asks whether to stop the process; without a terminal, or if you answer no, it keeps running. Other keys do not \
reach the program, and it sees pipes instead of a terminal.\n\n\
Example:\n  persistproc npm run dev\n  persistproc run --label api -- cargo run --release",
        build: |words, options| {
            Ok(Command::Run(RunOptions {
                program: program("run", words, options)?,
                is_fresh: options.switch("fresh"),
                is_raw: options.switch("raw"),
                on_exit: match options.text("on-exit").as_deref() {
                    Some("stop") => OnExit::Stop,
                    Some("detach") => OnExit::Detach,
                    _ => OnExit::Ask,
                },
            }))
        },
    },
    CommandSpec {
        name: "serve",
        aliases: &[],
        positional: Positional::Nothing,
        summary: "run the server in the foreground; so does plain `persistproc`",
        details: "Prints how to connect agents, unless -q. Ctrl+C and SIGTERM end the server and all processes; closing the \
terminal (SIGHUP) ends the server alone, and the next one finds the processes. An older server that is already running \
hands over to this one, and no process notices.\n\n\
Commands and the bridge find it by the socket in the data directory; agents that connect to a URL, by the port. With \
PERSISTPROC_TOKEN set the port serves only clients that present this token. Where the system cannot tell which user made \
a connection, the port is opened only with such a token or with --trust-all-users.\n\nExample:\n  persistproc serve",
        build: |words, options| nothing(words, Command::Serve { in_background: options.switch("background") }),
    },
    CommandSpec {
        name: "start",
        aliases: &[],
        positional: Positional::Program,
        summary: "start a process and return",
        details: "Starts the program with the environment and directory of the caller. If a process with that label, or the \
same command in the same directory, is already running, that is an error that names its PID. With --wait-for it returns \
when a line says that it is ready; if none does, with exit code 1 and the last lines, and the process keeps running.\n\n\
Example:\n  persistproc start --label api cargo run\n  persistproc start --wait-for 'ready in' npm run dev && npx playwright test",
        build: |words, options| {
            Ok(Command::Start(StartOptions {
                program: program("start", words, options)?,
                environment: options.variables("environment"),
                working_directory: options.path("working-directory"),
                wait: wait(options)?.0,
            }))
        },
    },
    CommandSpec {
        name: "stop",
        aliases: &[],
        positional: Positional::Target,
        summary: "stop a process and everything below it",
        details: "Asks every process of the tree to end (SIGTERM), including those in sessions of their own, and kills after \
8 seconds what is left. TARGET is a PID, a label, a run (r12), or a command with its arguments; put -- before one that \
has options of its own.\n\nExample:\n  persistproc stop api",
        build: |words, options| control(Action::Stop, words, options),
    },
    CommandSpec {
        name: "restart",
        aliases: &[],
        positional: Positional::Target,
        summary: "stop a process and start it again with the same command, directory and environment",
        details: "Also starts one that has ended. Two instances never overlap. --wait-for as with start.\n\nExample:\n  persistproc restart npm run dev",
        build: |words, options| control(Action::Restart, words, options),
    },
    CommandSpec {
        name: "list",
        aliases: &["ls"],
        positional: Positional::Nothing,
        summary: "show processes, running and ended",
        details: "--pid 0 describes the server itself.\n\nExample:\n  persistproc list",
        build: |words, options| {
            let request = ListRequest {
                pid: options.number("pid"),
                command_or_label: options.text("command-or-label"),
                working_directory: directory(options),
            };
            nothing(words, Command::List(request))
        },
    },
    CommandSpec {
        name: "output",
        aliases: &[],
        positional: Positional::Target,
        summary: "show what a process printed, also after it has ended",
        details: "Times are ISO 8601 (UTC without a zone) or ages such as 30s, 5m, 2h. TARGET may be several, as in web,api, \
or '*' for all in this directory: their lines are merged by time, each with its name. Lines are what the process \
wrote, colours included. --follow ends with the process, with a line that --wait-for matches, or after --timeout \
seconds: then the exit code is 0, or 1 if a line was waited for. Options may stand before or after TARGET.\n\n\
Example:\n  persistproc output api --lines 20\n  persistproc output api --follow --grep error\n  \
persistproc output web,api --since-time 5m",
        build: output,
    },
    CommandSpec {
        name: "ctrl",
        aliases: &[],
        positional: Positional::Subcommand(CONTROLS),
        summary: "the same three under the name of the agents' tool",
        details: "Example:\n  persistproc ctrl restart api",
        build: |_, _| Err(format!("ctrl needs {}; see `persistproc ctrl --help`", one_of(CONTROLS))),
    },
    CommandSpec {
        name: "shutdown",
        aliases: &[],
        positional: Positional::Nothing,
        summary: "stop all processes and end the server",
        details: "With --keep the processes keep running, and the next server finds them.\n\nExample:\n  persistproc shutdown",
        build: |words, options| nothing(words, Command::Shutdown { keep: options.switch("keep") }),
    },
    CommandSpec {
        name: "mcp",
        aliases: &[],
        positional: Positional::Nothing,
        summary: "MCP on stdin and stdout, for agents that cannot speak HTTP",
        details: "Passes messages between the agent that started it and the server, and starts a server when none answers. \
Ends when its stdin does. Agents that can connect to a URL are better off without it: `persistproc serve` prints how.\n\n\
Example:\n  claude mcp add --scope user persistproc -- persistproc mcp",
        build: |words, _| nothing(words, Command::Bridge),
    },
    CommandSpec {
        name: "completions",
        aliases: &[],
        positional: Positional::Choice(SHELLS),
        summary: "print completions for a shell",
        details: "Example:\n  persistproc completions bash > ~/.local/share/bash-completion/completions/persistproc",
        build: |words, _| {
            let text = match words.words.as_slice() {
                [shell] => shell.to_str().and_then(super::completions::completions),
                _ => None,
            };
            let wrong = || format!("`persistproc completions` needs one of {}", SHELLS.join(", "));
            text.map(Command::Print).ok_or_else(wrong)
        },
    },
];

/// `command`, if no words follow its name.
fn nothing(words: Words, command: Command) -> Result<Command, String> {
    match words.words.first() {
        None => Ok(command),
        Some(word) => Err(format!(
            "`persistproc {called}` takes no '{}'; {}",
            word.to_string_lossy(),
            program_called(&words.called),
            called = words.called,
        )),
    }
}

/// Some of our commands have the name of a program, too.
pub fn program_called(name: &str) -> String {
    format!("to run a program called {name}: persistproc run {name} …")
}

fn program(command: &str, words: Words, options: &mut Options) -> Result<Program, String> {
    let argv = match words.words.as_slice() {
        [] => {
            return Err(format!(
                "`persistproc {command}` needs a program; for example: persistproc {command} npm run dev"
            ));
        }
        [only] if only.as_encoded_bytes().iter().any(u8::is_ascii_whitespace) => {
            let text = only.to_str().ok_or("the command is not UTF-8; give its words one by one")?;
            os_text::split(text)?.into_iter().map(OsString::from).collect()
        }
        [first, ..] if first.is_empty() => return Err("the program's name is empty".into()),
        _ => words.words,
    };
    Ok(Program { argv, label: options.text("label"), keeps_agent_env: options.switch("keep-agent-env") })
}

/// The options of a wait, and the request that they are members of.
fn wait(options: &mut Options) -> Result<(WaitOptions, ControlRequest), String> {
    let mut request: ControlRequest = options.request(&params::CTRL);
    let wait = WaitOptions { wait_for: request.wait_for.take(), timeout: request.timeout.take() };
    match wait {
        WaitOptions { wait_for: None, timeout: Some(_) } => Err("--timeout needs --wait-for".into()),
        wait => Ok((wait, request)),
    }
}

fn directory(options: &mut Options) -> Option<String> {
    options.path("working-directory").map(|directory| directory.to_string_lossy().into_owned())
}

/// The name in TARGET, or in the option that says the same.
fn target(words: &Words, options: &mut Options) -> Option<String> {
    let option = options.text("command-or-label");
    match words.words.as_slice() {
        [] => option,
        [only] => Some(only.to_string_lossy().into_owned()),
        several => Some(os_text::quote(several)),
    }
}

fn no_target(command: &str) -> String {
    format!("`persistproc {command}` needs a PID, a label or a command; `persistproc list` shows them")
}

fn control(action: Action, words: Words, options: &mut Options) -> Result<Command, String> {
    let (wait, request) = wait(options)?;
    let request = ControlRequest {
        action,
        pid: options.number("pid"),
        command_or_label: target(&words, options),
        working_directory: directory(options),
        force: options.switch("force"),
        ..request
    };
    if request.pid.is_none() && request.command_or_label.is_none() {
        return Err(no_target(action.name()));
    }
    Ok(Command::Control(ControlOptions { request, wait }))
}

fn output(words: Words, options: &mut Options) -> Result<Command, String> {
    let request: OutputRequest = options.request(&params::OUTPUT);
    let request = OutputRequest {
        pid: options.number("pid"),
        command_or_label: target(&words, options),
        working_directory: directory(options),
        ..request
    };
    let is_follow = options.switch("follow");
    if request.lines == Some(0) && !is_follow {
        return Err(format!("--lines 0 needs --follow; without it, N is from 1 to {}", params::LINES_MAX));
    }
    // A cursor, or the number of a run, names its process.
    let names_process = request.after.is_some() || request.before.is_some() || request.run.is_some();
    if request.pid.is_none() && request.command_or_label.is_none() && !names_process {
        return Err(no_target("output"));
    }
    Ok(Command::Output(OutputOptions { request, is_follow }))
}
