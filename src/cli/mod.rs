//! The command line → what to do. The tables say which commands and options there are; this reads them with lexopt.
//!
//! One rule is unusual: after the first free word of `run` and `start` everything belongs to the program, untouched, so
//! that `persistproc npm run dev -- --port 1` is what it looks like.

mod commands;
mod completions;
mod help;
mod options;

use crate::api::params::{Action, ControlRequest, ListRequest, OutputRequest};
use crate::config::{Flags, Format};
use commands::{CommandSpec, Positional, Words, command, program_called};
use options::{CliFlag, Options, flags};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// What Ctrl+C does to the process that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    #[default]
    Ask,
    Stop,
    Detach,
}

/// A program to start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    pub argv: Vec<OsString>,
    pub label: Option<String>,
    /// It also gets the variables that identify an AI agent.
    pub keeps_agent_env: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunOptions {
    pub program: Program,
    /// Stop it first if it is running already.
    pub is_fresh: bool,
    /// Show the time of each line.
    pub is_raw: bool,
    pub on_exit: OnExit,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StartOptions {
    pub program: Program,
    /// Variables to add.
    pub environment: BTreeMap<String, String>,
    pub working_directory: Option<OsString>,
    pub wait: WaitOptions,
}

/// What to wait for after a start, and for how many seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WaitOptions {
    pub wait_for: Option<String>,
    pub timeout: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlOptions {
    pub request: ControlRequest,
    pub wait: WaitOptions,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputOptions {
    pub request: OutputRequest,
    /// Go on with new lines.
    pub is_follow: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Serve {
        in_background: bool,
    },
    Run(RunOptions),
    Start(StartOptions),
    /// Stop or restart.
    Control(ControlOptions),
    List(ListRequest),
    Output(OutputOptions),
    Shutdown {
        /// The processes keep running.
        keep: bool,
    },
    /// MCP on stdin and stdout.
    Bridge,
    /// Text to print.
    Print(String),
}

/// A command line that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub command: Command,
    pub flags: Flags,
}

/// A command line that makes no sense.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageError {
    /// One line that says what is wrong and what to do.
    pub text: String,
    /// What could be read all the same: how to print, and which action was meant.
    pub format: Option<Format>,
    pub action: Option<Action>,
}

impl Command {
    /// The `action` that answers and errors of this command name.
    pub fn action(&self) -> Option<Action> {
        match self {
            Command::Start(_) => Some(Action::Start),
            Command::Control(control) => Some(control.request.action),
            _ => None,
        }
    }
}

/// Commands whose name may be left out: before any command an option may be one of these, too.
const IMPLIED: [&str; 2] = ["run", "serve"];

/// Reads the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let mut reader = Reader::default();
    let read = reader.read(lexopt::Parser::from_args(arguments));
    let actions = [Action::Start, Action::Stop, Action::Restart];
    let named = reader.spec.map(|spec| spec.name);
    let action = actions.into_iter().find(|action| named == Some(action.name()));
    let format = reader.options.format();
    read.and_then(|()| reader.finish()).map_err(|text| UsageError { text, format, action })
}

#[derive(Default)]
struct Reader {
    options: Options,
    /// The command, once its name, an option of its own or a program was seen.
    spec: Option<&'static CommandSpec>,
    words: Vec<OsString>,
    /// The name of the command as it was written: `ls`, where `spec` says `list`.
    called: Option<String>,
    /// The word `help` came first.
    asks_help: bool,
}

impl Reader {
    /// Reads everything, also after an error, of which the first one counts: `--format` may come later.
    fn read(&mut self, mut parser: lexopt::Parser) -> Result<(), String> {
        let mut first = Ok(());
        loop {
            match self.read_one(&mut parser) {
                Ok(true) => {}
                Ok(false) => return first,
                Err(error) => first = first.and(Err(error)),
            }
        }
    }

    /// Reads the next argument, or the rest if it is a program's. False at the end.
    fn read_one(&mut self, parser: &mut lexopt::Parser) -> Result<bool, String> {
        // lexopt swallows `--` itself, but whether it was there decides what the words after it are.
        if let Some(mut raw) = parser.try_raw_args()
            && raw.peek() == Some(OsStr::new("--"))
        {
            raw.next();
            self.words.extend(raw);
            self.spec = self.spec.or(command("run"));
            return Ok(false);
        }
        let Some(argument) = parser.next().map_err(|error| error.to_string())? else { return Ok(false) };
        match argument {
            lexopt::Arg::Value(word) => {
                if self.read_word(word) {
                    self.words.extend(parser.raw_args().map_err(|error| error.to_string())?);
                    return Ok(false);
                }
            }
            lexopt::Arg::Long(name) => {
                let name = name.replace('_', "-");
                self.read_flag(&format!("--{name}"), |flag| flag.long == name, parser)?;
            }
            lexopt::Arg::Short(letter) => {
                self.read_flag(&format!("-{letter}"), |flag| flag.short == Some(letter), parser)?;
            }
        }
        Ok(true)
    }

    /// True if the rest of the line belongs to a program.
    fn read_word(&mut self, word: OsString) -> bool {
        let choices = match self.spec.map(|spec| spec.positional) {
            None => None,
            Some(Positional::Subcommand(names)) => Some(names),
            Some(positional) => {
                self.words.push(word);
                return positional == Positional::Program;
            }
        };
        // As with git, cargo or npm; a program of that name can still be run as `run help`.
        if choices.is_none() && word == "help" {
            self.asks_help = true;
            return false;
        }
        let name = word.to_str().filter(|name| choices.is_none_or(|choices| choices.contains(name)));
        if let Some(spec) = name.and_then(command) {
            self.called = name.map(String::from);
            self.spec = Some(spec);
            return false;
        }
        self.words.push(word);
        if choices.is_some() {
            return false; // the constructor says what is wrong
        }
        self.spec = command("run");
        true
    }

    fn read_flag(
        &mut self,
        shown: &str,
        is: impl Fn(&CliFlag) -> bool,
        parser: &mut lexopt::Parser,
    ) -> Result<(), String> {
        let commands = self.spec.map_or(&IMPLIED[..], |spec| std::slice::from_ref(&spec.name));
        let flag = flags().iter().find(|flag| is(flag) && commands.iter().any(|name| flag.is_of(name)));
        let flag = flag.ok_or_else(|| self.unknown_option(shown))?;
        if self.spec.is_none() && !flag.is_global() {
            self.spec = commands.iter().find(|name| flag.is_of(name)).and_then(|name| command(name));
        }
        let value = match flag.takes.placeholder() {
            Some(name) => parser.value().map_err(|_| format!("{shown} needs a value: {shown} {name}"))?,
            None => OsString::new(),
        };
        self.options.add(flag, value).map_err(|problem| format!("{shown}: {problem}"))?;
        // `--force=yes` is an error; `-vq` is `-v -q`.
        match if shown.starts_with("--") { parser.optional_value() } else { None } {
            Some(value) => Err(format!("{shown} takes no value, but got '{}'", value.to_string_lossy())),
            None => Ok(()),
        }
    }

    fn unknown_option(&self, shown: &str) -> String {
        let name = self.spec.map_or("", |spec| spec.name);
        let of = if name.is_empty() { String::new() } else { format!(" of `persistproc {name}`") };
        let positional = self.spec.map(|spec| spec.positional);
        let is_of_another = flags().iter().any(|flag| format!("--{}", flag.long) == shown);
        let hint = match (positional, &self.called) {
            (Some(Positional::Target), _) => "; if it is part of a command, put -- before the command".into(),
            _ if is_of_another => "; it belongs to another command".into(),
            (Some(Positional::Nothing), Some(called)) => format!("; {}", program_called(called)),
            _ => String::new(),
        };
        let help = if name.is_empty() { "persistproc --help".into() } else { format!("persistproc {name} --help") };
        format!("unknown option {shown}{of}{hint}; see `{help}`")
    }

    fn finish(self) -> Result<Parsed, String> {
        let Reader { mut options, spec, words, called, asks_help } = self;
        let (asks_version, asks_help) = (options.switch("version"), options.switch("help") || asks_help);
        let global = options.flags();
        let print = |text: String| Ok(Parsed { command: Command::Print(text), flags: global.clone() });
        if asks_version {
            return print(format!("persistproc {}\n", env!("CARGO_PKG_VERSION")));
        }
        if asks_help {
            return print(spec.map_or_else(help::overview, help::of));
        }
        let spec = spec.or(command("serve")).ok_or("there is no command")?;
        let called = called.unwrap_or_else(|| spec.name.into());
        let command = (spec.build)(Words { called, words }, &mut options)?;
        Ok(Parsed { command, flags: global })
    }
}

#[cfg(test)]
mod tests {
    use super::commands::COMMANDS;
    use super::options::Takes;
    use super::*;

    fn parsed(line: &[&str]) -> Parsed {
        parse(line.iter().map(OsString::from)).unwrap_or_else(|error| panic!("{line:?}: {error:?}"))
    }
    fn problem(line: &[&str]) -> String {
        parse(line.iter().map(OsString::from)).expect_err(&format!("{line:?}")).text
    }
    fn program(argv: &[&str], label: Option<&str>) -> Program {
        let argv = argv.iter().map(OsString::from).collect();
        Program { argv, label: label.map(String::from), keeps_agent_env: false }
    }
    fn control(action: Action, name: &str, force: bool) -> Command {
        let command_or_label = Some(name.to_string());
        let request = ControlRequest { action, command_or_label, force, ..ControlRequest::default() };
        Command::Control(ControlOptions { request, wait: WaitOptions::default() })
    }

    #[test]
    fn the_program_gets_its_words_untouched() {
        for (line, argv) in [
            (&["npm", "run", "dev"][..], &["npm", "run", "dev"][..]),
            (&["run", "npm", "run", "dev"], &["npm", "run", "dev"]),
            (&["npm", "run", "dev", "--", "--port", "1", "-h"], &["npm", "run", "dev", "--", "--port", "1", "-h"]),
            (&["--", "npm", "--", "x"], &["npm", "--", "x"]),
            (&["run", "--", "list"], &["list"]),
            (&["--", "list"], &["list"]),
            (&["run", "list"], &["list"]),
            (&["--label", "x", "stop"], &["stop"]),
            (&["node", "", "a b", "'", "--format", "json"], &["node", "", "a b", "'", "--format", "json"]),
            (&["npm run 'my dev'"], &["npm", "run", "my dev"]),
            (&["--port", "9", "run", "--raw", "x", "--port", "1"], &["x", "--port", "1"]),
        ] {
            let Command::Run(run) = parsed(line).command else { panic!("{line:?}") };
            assert_eq!(run.program.argv, argv, "{line:?}");
        }
        let start = |line: &[&str]| match parsed(line).command {
            Command::Start(start) => start.program,
            other => panic!("{other:?}"),
        };
        assert_eq!(start(&["start", "x", "--label", "y"]), program(&["x", "--label", "y"], None));
        assert_eq!(start(&["ctrl", "start", "--label", "y", "x"]), program(&["x"], Some("y")));
    }

    #[test]
    fn global_options_stand_before_or_behind_the_command() {
        for line in [
            &["--port", "1", "--format=json", "list"][..],
            &["list", "--format", "json", "--port=1"],
            &["ls", "--port", "1", "--format", "json"],
        ] {
            let flags = parsed(line).flags;
            assert_eq!((flags.port, flags.format), (Some(1), Some(Format::Json)), "{line:?}");
        }
        assert_eq!(parsed(&[]).command, Command::Serve { in_background: false });
        assert!(parsed(&["-q"]).flags.is_quiet && parsed(&["-vq", "serve"]).flags.is_verbose);
        assert_eq!(parsed(&["--background"]).command, Command::Serve { in_background: true });
    }

    #[test]
    fn options_may_stand_behind_the_target_and_old_spellings_work() {
        for line in [
            &["stop", "--force", "npm", "run", "dev"][..],
            &["stop", "npm", "run", "dev", "--force"],
            &["stop", "npm", "--force", "run", "dev"],
        ] {
            assert_eq!(parsed(line).command, control(Action::Stop, "npm run dev", true), "{line:?}");
        }
        let stop = parsed(&["stop", "--", "node", "x.js", "--force"]).command;
        assert_eq!(stop, control(Action::Stop, "node x.js --force", false));
        let stop = parsed(&["stop", "my label with spaces"]).command;
        assert_eq!(stop, control(Action::Stop, "my label with spaces", false));
        assert_eq!(parsed(&["ctrl", "restart", "web"]).command, control(Action::Restart, "web", false));
        let output = parsed(&["output", "web", "--since_time", "5m", "-n", "7", "--wait-for=a b"]).command;
        let request = OutputRequest {
            command_or_label: Some("web".into()),
            since_time: Some("5m".into()),
            lines: Some(7),
            wait_for: Some("a b".into()),
            ..OutputRequest::default()
        };
        assert_eq!(output, Command::Output(OutputOptions { request, is_follow: false }));
        let request = ListRequest { pid: Some(0), ..ListRequest::default() };
        assert_eq!(parsed(&["list", "--pid", "0"]).command, Command::List(request));
        let start = parsed(&["start", "--environment", r#"{"B":"2"}"#, "--environment", r#"{"A":"1"}"#, "x"]).command;
        let Command::Start(start) = start else { panic!("{start:?}") };
        assert_eq!(start.environment, [("A".into(), "1".into()), ("B".into(), "2".into())].into());
    }

    #[test]
    fn wrong_usage_is_one_line_that_says_what_to_do() {
        for (line, expected) in [
            (&["--bogus"][..], "unknown option --bogus; see `persistproc --help`"),
            (&["stop", "web", "--bogus"], "put -- before the command"),
            (&["list", "--force"], "it belongs to another command"),
            (&["list", "extra"], "takes no 'extra'"),
            (&["serve", "./dist"], "persistproc run serve"),
            (&["serve", "-p", "3000"], "persistproc run serve"),
            (&["ls", "/tmp"], "to run a program called ls: persistproc run ls …"),
            (&["ls", "-la"], "to run a program called ls: persistproc run ls …"),
            (&["stop"], "needs a PID, a label or a command"),
            (&["run"], "needs a program"),
            (&["run", "--"], "needs a program"),
            (&["start", ""], "name is empty"),
            (&["--port"], "--port needs a value: --port PORT"),
            (&["--port", "70000", "list"], "'70000' is not a whole number from 0 to 65535"),
            (&["--port=", "list"], "'' is not a whole number from 0 to 65535"),
            (&["--format", "xml", "list"], "'xml' is not text or json"),
            (&["run", "--on-exit", "die", "x"], "ask, stop or detach"),
            (&["output", "x", "--lines", "0"], "from 1 to 10000"),
            (&["output", "x", "--lines", "many"], "'many' is not a whole number"),
            (&["output", "x", "--stream", "stdin"], "combined, stdout or stderr"),
            (&["restart", "web", "--timeout", "5"], "--timeout needs --wait-for"),
            (&["stop", "--force=yes", "x"], "takes no value"),
            (&["start", "--environment", "[1]", "x"], "JSON object whose values are strings"),
            (&["start", "--environment", r#"{"A":1}"#, "x"], "JSON object whose values are strings"),
            (&["npm run 'dev"], "unbalanced quotes"),
            (&["a && b"], "sh -c"),
            (&["ctrl"], "start, stop or restart"),
            (&["ctrl", "list"], "start, stop or restart"),
            (&["completions", "tcsh"], "bash, zsh, fish"),
        ] {
            let problem = problem(line);
            assert!(problem.contains(expected) && !problem.contains('\n'), "{line:?}: {problem}");
        }
    }

    #[test]
    fn help_and_version_are_texts() {
        for (line, expected) in [
            (&["--help"][..], "Usage: persistproc [OPTIONS] PROGRAM"),
            (&["-h"], "Exit codes"),
            (&["stop", "-h"], "Usage: persistproc stop"),
            (&["stop", "x", "--help"], "kills after"),
            (&["help"], "Usage: persistproc [OPTIONS] PROGRAM"),
            (&["help", "stop"], "Usage: persistproc stop"),
            (&["--version"], env!("CARGO_PKG_VERSION")),
            (&["-V"], env!("CARGO_PKG_VERSION")),
            (&["completions", "fish"], "complete -c persistproc"),
        ] {
            let Command::Print(text) = parsed(line).command else { panic!("{line:?}") };
            assert!(text.contains(expected), "{line:?}: {text}");
        }
        for spec in &COMMANDS {
            let help = help::of(spec);
            assert!(help.contains(&spec.usage()) && help.contains("Example"));
            assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
        }
    }

    /// A value that an option takes.
    fn sample(takes: Takes) -> String {
        match takes {
            Takes::Nothing => String::new(),
            Takes::Text(_) | Takes::Path(_) => "x".into(),
            Takes::Number(_, _, most) => most.to_string(),
            Takes::Choice(_, choices) => choices[0].into(),
            Takes::Variables(_) => r#"{"A":"1"}"#.into(),
        }
    }

    #[test]
    fn every_command_reads_every_option_that_it_has() {
        for spec in &COMMANDS {
            let mut options = Options::default();
            for flag in flags().iter().filter(|flag| flag.is_of(spec.name)) {
                options.add(flag, sample(flag.takes).into()).unwrap();
            }
            let words = match spec.positional {
                Positional::Program | Positional::Target => vec!["web".into()],
                Positional::Choice(choices) => vec![choices[0].into()],
                Positional::Subcommand(_) | Positional::Nothing => Vec::new(),
            };
            options.switch("help");
            options.switch("version");
            options.flags();
            let built = (spec.build)(Words { called: spec.name.into(), words }, &mut options);
            assert_eq!(built.is_ok(), spec.name != "ctrl", "{}: {built:?}", spec.name);
            assert_eq!(options.unread(), [""; 0], "{} has options that nothing reads", spec.name);
        }
    }
}
