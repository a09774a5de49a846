//! Every command and every option, as data: names, what they take, what they do, and the help that is printed.

use super::{Given, OnExit, Value};
use crate::config::{parse_format, parse_port};

/// One option.
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    /// Name of its value in the help; `None` for a switch.
    pub value: Option<&'static str>,
    /// Commands that take it; `GLOBAL` ones are taken everywhere.
    pub of: &'static [&'static str],
    pub help: &'static str,
    /// Words that the value can be, for completions.
    pub choices: &'static [&'static str],
    pub set: fn(&mut Given, Value) -> Result<(), String>,
}

/// One command.
pub struct Spec {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// What follows its name.
    pub usage: &'static str,
    /// One line.
    pub summary: &'static str,
    /// The rest of its help, with an example.
    pub details: &'static str,
}

pub const GLOBAL: &[&str] = &["*"];
const PROGRAMS: &[&str] = &["run", "start"];
const WAITING: &[&str] = &["start", "restart", "output"];

pub static COMMANDS: [Spec; 11] = [
    Spec {
        name: "run",
        aliases: &[],
        usage: "[OPTIONS] PROGRAM [ARG…]",
        summary: "run a process and show its output; the word `run` may be left out",
        details: "Starts the program under persistproc, or attaches to it if the same command already runs in this \
directory, and shows its output from the first byte: stdout on stdout, stderr on stderr. Ends with the program's exit \
code (128+n for signal n). Follows restarts that others make. Everything behind PROGRAM belongs to the program. A single \
argument with blanks is split as a shell would split it; pipes and && need sh -c '…'.\n\n\
Ctrl+C asks whether to stop the process; without a terminal, or with the answer no, it goes on without you. What is \
typed otherwise does not reach the program, and it sees pipes instead of a terminal.\n\n\
Example:\n  persistproc npm run dev\n  persistproc run --label api -- cargo run --release",
    },
    Spec {
        name: "serve",
        aliases: &[],
        usage: "[OPTIONS]",
        summary: "run the server in the foreground; so does plain `persistproc`",
        details: "Prints how to connect agents, unless -q. Ctrl+C and SIGTERM end the server and all processes; a closed \
terminal (SIGHUP) ends the server alone, and the next one finds the processes. An older server that is there already \
leaves its place to this one, and no process notices.\n\n\
Commands and the bridge find it by the socket in the data directory; agents that connect to a URL, by the port. With \
PERSISTPROC_TOKEN set the port serves only clients that show this token. Where the system does not tell which user makes \
a connection, the port is opened with such a token only, or with --trust-all-users.\n\nExample:\n  persistproc serve",
    },
    Spec {
        name: "start",
        aliases: &[],
        usage: "[OPTIONS] PROGRAM [ARG…]",
        summary: "start a process and return",
        details: "Starts the program with the environment and directory of the caller. If a process of that label, or the \
same command in the same directory, runs already, that is an error that names its PID. With --wait-for it returns when a \
line says that it is ready; if none does, with exit code 1 and the last lines, and the process goes on.\n\n\
Example:\n  persistproc start --label api cargo run\n  persistproc start --wait-for 'ready in' npm run dev && npx playwright test",
    },
    Spec {
        name: "stop",
        aliases: &[],
        usage: "[OPTIONS] TARGET…",
        summary: "stop a process and everything below it",
        details: "Asks everybody in the process tree to end (SIGTERM), also those in sessions of their own, and kills after \
8 seconds who is left. TARGET is a PID, a label, a run (r12), or a command with its arguments; put -- before one that \
has options of its own.\n\nExample:\n  persistproc stop api",
    },
    Spec {
        name: "restart",
        aliases: &[],
        usage: "[OPTIONS] TARGET…",
        summary: "stop a process and start it again with the same command, directory and environment",
        details: "Also starts one that has ended. Two instances never overlap. --wait-for as with start.\n\nExample:\n  persistproc restart npm run dev",
    },
    Spec {
        name: "list",
        aliases: &["ls"],
        usage: "[OPTIONS]",
        summary: "show processes, running and ended",
        details: "--pid 0 describes the server itself.\n\nExample:\n  persistproc list",
    },
    Spec {
        name: "output",
        aliases: &[],
        usage: "[OPTIONS] TARGET…",
        summary: "show what a process printed, also after it has ended",
        details: "Times are ISO 8601 (UTC without a zone) or ages such as 30s, 5m, 2h. TARGET may be several, as in web,api, \
or '*' for all in this directory: their lines come in the order of time, each with its name. Lines are what the process \
wrote, colours included. --follow ends with the process, with a line that --wait-for matches, or after --timeout \
seconds: then the exit code is 0, or 1 if a line was waited for. Options may stand before or after TARGET.\n\n\
Example:\n  persistproc output api --lines 20\n  persistproc output api --follow --grep error\n  \
persistproc output web,api --since-time 5m",
    },
    Spec {
        name: "ctrl",
        aliases: &[],
        usage: "start|stop|restart …",
        summary: "the same three under the name of the agents' tool",
        details: "Example:\n  persistproc ctrl restart api",
    },
    Spec {
        name: "shutdown",
        aliases: &[],
        usage: "[OPTIONS]",
        summary: "stop all processes and end the server",
        details: "With --keep the processes go on, and the next server finds them.\n\nExample:\n  persistproc shutdown",
    },
    Spec {
        name: "mcp",
        aliases: &[],
        usage: "[OPTIONS]",
        summary: "MCP on stdin and stdout, for agents that cannot speak HTTP",
        details: "Passes messages between the agent that started it and the server, and starts a server when none answers. \
Ends with its stdin. Agents that can connect to a URL do better without it: `persistproc serve` prints how.\n\n\
Example:\n  claude mcp add --scope user persistproc -- persistproc mcp",
    },
    Spec {
        name: "completions",
        aliases: &[],
        usage: "bash|zsh|fish",
        summary: "print completions for a shell",
        details: "Example:\n  persistproc completions bash > ~/.local/share/bash-completion/completions/persistproc",
    },
];

pub static FLAGS: [Flag; 36] = [
    Flag {
        long: "fresh",
        short: None,
        value: None,
        of: &["run"],
        help: "if it runs already, stop it first and start it anew",
        choices: &[],
        set: |given, _| on(&mut given.fresh),
    },
    Flag {
        long: "on-exit",
        short: None,
        value: Some("WHAT"),
        of: &["run"],
        help: "on Ctrl+C: ask (the default), stop, or detach",
        choices: &["ask", "stop", "detach"],
        set: |given, value| {
            given.on_exit = match value.text()?.as_str() {
                "ask" => OnExit::Ask,
                "stop" => OnExit::Stop,
                "detach" => OnExit::Detach,
                other => return Err(format!("'{other}' is not ask, stop or detach")),
            };
            Ok(())
        },
    },
    Flag {
        long: "raw",
        short: None,
        value: None,
        of: &["run"],
        help: "show the time of each line, as the log has it",
        choices: &[],
        set: |given, _| on(&mut given.raw),
    },
    Flag {
        long: "label",
        short: None,
        value: Some("LABEL"),
        of: PROGRAMS,
        help: "its name; otherwise '<command> in <directory>'",
        choices: &[],
        set: |given, value| put(&mut given.label, value.text()?),
    },
    Flag {
        long: "environment",
        short: None,
        value: Some("JSON"),
        of: &["start"],
        help: "variables to add, as {\"NAME\": \"value\"}",
        choices: &[],
        set: |given, value| {
            let problem =
                |_| "must be a JSON object whose values are strings, such as {\"PORT\": \"3000\"}".to_string();
            let members: std::collections::BTreeMap<String, String> =
                serde_json::from_str(&value.text()?).map_err(problem)?;
            given.environment.extend(members);
            Ok(())
        },
    },
    Flag {
        long: "keep-agent-env",
        short: None,
        value: None,
        of: PROGRAMS,
        help: "also pass on what tells that an AI agent is at work (CLAUDECODE, …)",
        choices: &[],
        set: |given, _| on(&mut given.keep_agent_env),
    },
    Flag {
        long: "working-directory",
        short: None,
        value: Some("DIR"),
        of: &["start", "stop", "restart", "list", "output"],
        help: "start: where to run it; else: only processes there",
        choices: &[],
        set: |given, value| put(&mut given.working_directory, value.0),
    },
    Flag {
        long: "force",
        short: None,
        value: None,
        of: &["stop", "restart"],
        help: "kill at once, without 8 seconds of grace",
        choices: &[],
        set: |given, _| on(&mut given.force),
    },
    Flag {
        long: "pid",
        short: None,
        value: Some("PID"),
        of: &["list"],
        help: "only this process; 0 is the server itself",
        choices: &[],
        set: |given, value| put(&mut given.pid, value.number(0, 4_194_304)?),
    },
    Flag {
        long: "command-or-label",
        short: None,
        value: Some("NAME"),
        of: &["list"],
        help: "only this process",
        choices: &[],
        set: |given, value| put(&mut given.command_or_label, value.text()?),
    },
    Flag {
        long: "stream",
        short: None,
        value: Some("STREAM"),
        of: &["output"],
        help: "combined (the default), stdout or stderr",
        choices: &["combined", "stdout", "stderr"],
        set: |given, value| match value.text()?.as_str() {
            stream @ ("combined" | "stdout" | "stderr") => ask(given, "stream", stream),
            other => Err(format!("'{other}' is not combined, stdout or stderr")),
        },
    },
    Flag {
        long: "lines",
        short: Some('n'),
        value: Some("N"),
        of: &["output"],
        help: "the newest N lines (100); with --follow 0 shows only what comes",
        choices: &[],
        set: |given, value| ask(given, "lines", value.number(0, 10_000)?),
    },
    Flag {
        long: "since-time",
        short: None,
        value: Some("TIME"),
        of: &["output"],
        help: "only lines from then on",
        choices: &[],
        set: |given, value| ask(given, "since_time", value.text()?),
    },
    Flag {
        long: "before-time",
        short: None,
        value: Some("TIME"),
        of: &["output"],
        help: "only lines before then",
        choices: &[],
        set: |given, value| ask(given, "before_time", value.text()?),
    },
    Flag {
        long: "after",
        short: None,
        value: Some("CURSOR"),
        of: &["output"],
        help: "only what came after an earlier answer (JSON tells its cursor)",
        choices: &[],
        set: |given, value| ask(given, "after", value.text()?),
    },
    Flag {
        long: "before",
        short: None,
        value: Some("CURSOR"),
        of: &["output"],
        help: "only what came before a cursor",
        choices: &[],
        set: |given, value| ask(given, "before", value.text()?),
    },
    Flag {
        long: "run",
        short: None,
        value: Some("N"),
        of: &["output"],
        help: "-1 is the run before the newest; or the number of a run",
        choices: &[],
        set: |given, value| ask(given, "run", value.number(-50, 999_999_999)?),
    },
    Flag {
        long: "wait-for",
        short: None,
        value: Some("REGEX"),
        of: WAITING,
        help: "wait for a line that matches, or 'quiet'; exit code 1 if none comes",
        choices: &[],
        set: |given, value| ask(given, "wait_for", value.text()?),
    },
    Flag {
        long: "timeout",
        short: None,
        value: Some("SECONDS"),
        of: WAITING,
        help: "maximum wait in seconds (15); --follow ends after it",
        choices: &[],
        set: |given, value| ask(given, "timeout", value.number(0, 3600)?),
    },
    Flag {
        long: "grep",
        short: None,
        value: Some("REGEX"),
        of: &["output"],
        help: "only lines that match (1 KB at most; of a line 16 KB are searched)",
        choices: &[],
        set: |given, value| ask(given, "grep", value.text()?),
    },
    Flag {
        long: "context",
        short: Some('C'),
        value: Some("N"),
        of: &["output"],
        help: "also show N lines around each match (0)",
        choices: &[],
        set: |given, value| ask(given, "context", value.number(0, 100)?),
    },
    Flag {
        long: "follow",
        short: Some('f'),
        value: None,
        of: &["output"],
        help: "go on with what comes, until the process ends or --timeout is over",
        choices: &[],
        set: |given, _| on(&mut given.follow),
    },
    Flag {
        long: "keep",
        short: None,
        value: None,
        of: &["shutdown"],
        help: "end the server alone; its processes go on",
        choices: &[],
        set: |given, _| on(&mut given.keep),
    },
    Flag {
        long: "background",
        short: None,
        value: None,
        of: &["serve"],
        help: "return when the server is up, and leave it running",
        choices: &[],
        set: |given, _| on(&mut given.background),
    },
    Flag {
        long: "port",
        short: None,
        value: Some("PORT"),
        of: GLOBAL,
        help: "where a server that is started listens (8947, or PERSISTPROC_PORT)",
        choices: &[],
        set: |given, value| put(&mut given.flags.port, parse_port(&value.text()?)?),
    },
    Flag {
        long: "no-tcp",
        short: None,
        value: None,
        of: GLOBAL,
        help: "a server that is started has no port (PERSISTPROC_NO_TCP=1)",
        choices: &[],
        set: |given, _| on(&mut given.flags.no_tcp),
    },
    Flag {
        long: "trust-all-users",
        short: None,
        value: None,
        of: &["serve"],
        help: "open the port also where the system does not tell users apart",
        choices: &[],
        set: |given, _| on(&mut given.flags.trusts_all_users),
    },
    Flag {
        long: "data-dir",
        short: None,
        value: Some("DIR"),
        of: GLOBAL,
        help: "where runs, logs and the socket are (PERSISTPROC_DATA_DIR)",
        choices: &[],
        set: |given, value| put(&mut given.flags.data_dir, value.0.into()),
    },
    Flag {
        long: "format",
        short: None,
        value: Some("FORMAT"),
        of: GLOBAL,
        help: "text or json, also of errors (PERSISTPROC_FORMAT)",
        choices: &["text", "json"],
        set: |given, value| put(&mut given.flags.format, parse_format(&value.text()?)?),
    },
    Flag {
        long: "no-autostart",
        short: None,
        value: None,
        of: GLOBAL,
        help: "do not start a server when none answers (PERSISTPROC_NO_AUTOSTART=1)",
        choices: &[],
        set: |given, _| on(&mut given.flags.no_autostart),
    },
    Flag {
        long: "verbose",
        short: Some('v'),
        value: None,
        of: GLOBAL,
        help: "say more",
        choices: &[],
        set: |given, _| on(&mut given.flags.is_verbose),
    },
    Flag {
        long: "quiet",
        short: Some('q'),
        value: None,
        of: GLOBAL,
        help: "say nothing but results and errors",
        choices: &[],
        set: |given, _| on(&mut given.flags.is_quiet),
    },
    Flag {
        long: "help",
        short: Some('h'),
        value: None,
        of: GLOBAL,
        help: "show help",
        choices: &[],
        set: |given, _| on(&mut given.help),
    },
    Flag {
        long: "version",
        short: Some('V'),
        value: None,
        of: GLOBAL,
        help: "show the version",
        choices: &[],
        set: |given, _| on(&mut given.version),
    },
    // As `list` has them, for those who are used to it.
    Flag {
        long: "pid",
        short: None,
        value: Some("PID"),
        of: &["stop", "restart", "output"],
        help: "the process, in place of TARGET",
        choices: &[],
        set: |given, value| put(&mut given.pid, value.number(1, 4_194_304)?),
    },
    Flag {
        long: "command-or-label",
        short: None,
        value: Some("NAME"),
        of: &["stop", "restart", "output"],
        help: "the process, in place of TARGET",
        choices: &[],
        set: |given, value| put(&mut given.command_or_label, value.text()?),
    },
];

fn on(switch: &mut bool) -> Result<(), String> {
    *switch = true;
    Ok(())
}
fn put<T>(place: &mut Option<T>, value: T) -> Result<(), String> {
    *place = Some(value);
    Ok(())
}
/// A parameter that goes to the tool as it is.
fn ask(given: &mut Given, name: &'static str, value: impl ToString) -> Result<(), String> {
    given.asked.push((name, value.to_string()));
    Ok(())
}

/// The command of this name.
pub fn command(name: &str) -> Option<&'static Spec> {
    COMMANDS.iter().find(|spec| spec.name == name || spec.aliases.contains(&name))
}

impl Flag {
    pub fn is_of(&self, command: &str) -> bool {
        self.is_global() || self.of.contains(&command)
    }
    pub fn is_global(&self) -> bool {
        self.of == GLOBAL
    }
}
