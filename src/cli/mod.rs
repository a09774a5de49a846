//! The command line → what to do. The table says which words there are; this reads them with lexopt.
//!
//! One rule is unusual: behind the first free word of `run` and `start` everything belongs to the program, untouched, so
//! that `persistproc npm run dev -- --port 1` is what it looks like.

mod help;
mod table;

use crate::config::{Flags, Format};
use crate::words;
use std::ffi::{OsStr, OsString};
use table::{FLAGS, Spec};

pub use help::{completions, of as help_of, overview as help_overview};

/// What Ctrl+C does to the process that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    #[default]
    Ask,
    Stop,
    Detach,
}

/// Options as they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    pub flags: Flags,
    pub fresh: bool,
    pub raw: bool,
    pub force: bool,
    pub follow: bool,
    pub keep: bool,
    pub background: bool,
    pub keep_agent_env: bool,
    pub on_exit: OnExit,
    pub label: Option<String>,
    pub environment: Vec<(String, String)>,
    pub working_directory: Option<OsString>,
    pub pid: Option<i64>,
    pub command_or_label: Option<String>,
    /// Parameters of the tool `output`, by their names there.
    pub asked: Vec<(&'static str, String)>,
    help: bool,
    version: bool,
}

/// The value of an option.
pub struct Value(pub OsString);

impl Value {
    fn text(&self) -> Result<String, String> {
        self.0.to_str().map(String::from).ok_or_else(|| "is not UTF-8".into())
    }
    fn number(&self, least: i64, most: i64) -> Result<i64, String> {
        let number = self.text()?.parse().ok().filter(|n| (least..=most).contains(n));
        number.ok_or_else(|| format!("'{}' is not a whole number from {least} to {most}", self.0.to_string_lossy()))
    }
}

/// Which process a command is about, as it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    pub pid: Option<i64>,
    pub name: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Serve,
    Run {
        argv: Vec<OsString>,
    },
    Start {
        argv: Vec<OsString>,
    },
    Stop(Target),
    Restart(Target),
    List(Target),
    Output(Target),
    Shutdown,
    /// MCP on stdin and stdout.
    Bridge,
    /// Text to print.
    Say(String),
}

/// A command line that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub command: Command,
    pub given: Given,
}

/// A command line that makes no sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// One line that says what is wrong and what to do.
    pub text: String,
    /// What could be read all the same: how to print, and which of the actions was meant.
    pub format: Option<Format>,
    pub action: Option<&'static str>,
}

/// Commands whose answer names them as its `action`.
const ACTIONS: [&str; 3] = ["start", "stop", "restart"];

impl Command {
    /// What its answer calls it.
    pub fn action(&self) -> Option<&'static str> {
        match self {
            Command::Start { .. } => Some("start"),
            Command::Stop(_) => Some("stop"),
            Command::Restart(_) => Some("restart"),
            _ => None,
        }
    }
}

/// Reads the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, Mistake> {
    let mut reader = Reader { given: Given::default(), spec: None, words: Vec::new(), is_ctrl: false, named: None };
    let read = reader.read(lexopt::Parser::from_args(words));
    let action = reader.spec.map(|spec| spec.name).filter(|name| ACTIONS.contains(name));
    let format = reader.given.flags.format;
    read.and_then(|()| reader.finish()).map_err(|text| Mistake { text, format, action })
}

struct Reader {
    given: Given,
    /// The command, when its name, an option of its own or a program was seen.
    spec: Option<&'static Spec>,
    words: Vec<OsString>,
    /// Behind the word `ctrl`, which needs another.
    is_ctrl: bool,
    /// The name of the command as it was written: `ls`, where `spec` says `list`.
    named: Option<String>,
}

impl Reader {
    /// Reads all that is there, also after a mistake, of which the first one counts: `--format` may come later.
    fn read(&mut self, mut parser: lexopt::Parser) -> Result<(), String> {
        let mut first = Ok(());
        loop {
            match self.read_one(&mut parser) {
                Ok(true) => {}
                Ok(false) => return first,
                Err(mistake) => first = first.and(Err(mistake)),
            }
        }
    }

    /// Takes the next argument, or the rest if it is a program's. False at the end.
    fn read_one(&mut self, parser: &mut lexopt::Parser) -> Result<bool, String> {
        // lexopt swallows `--` itself, but whether it was there decides what the words behind it are.
        if let Some(mut raw) = parser.try_raw_args()
            && raw.peek() == Some(OsStr::new("--"))
        {
            raw.next();
            self.words.extend(raw);
            self.spec = self.spec.or(table::command("run"));
            return Ok(false);
        }
        let Some(argument) = parser.next().map_err(|error| error.to_string())? else { return Ok(false) };
        match argument {
            lexopt::Arg::Value(word) => {
                if self.take_word(word) {
                    self.words.extend(parser.raw_args().map_err(|error| error.to_string())?);
                    return Ok(false);
                }
            }
            lexopt::Arg::Long(name) => {
                let name = name.replace('_', "-");
                self.take_flag(&format!("--{name}"), |flag| flag.long == name, parser)?;
            }
            lexopt::Arg::Short(letter) => {
                self.take_flag(&format!("-{letter}"), |flag| flag.short == Some(letter), parser)?;
            }
        }
        Ok(true)
    }

    /// True if the rest of the line belongs to a program.
    fn take_word(&mut self, word: OsString) -> bool {
        if self.spec.is_none() || self.is_ctrl {
            // As with git, cargo or npm; a program of that name can still be run as `run help`.
            if self.spec.is_none() && word == "help" {
                self.given.help = true;
                return false;
            }
            let named = word.to_str().and_then(table::command);
            let named = named.filter(|spec| !self.is_ctrl || matches!(spec.name, "start" | "stop" | "restart"));
            if let Some(spec) = named {
                self.is_ctrl = spec.name == "ctrl";
                self.spec = Some(spec);
                self.named = word.to_str().map(String::from);
                return false;
            }
            if self.is_ctrl {
                self.words.push(word);
                return false; // `finish` says what is wrong
            }
            self.spec = table::command("run");
        }
        self.words.push(word);
        matches!(self.spec.map(|spec| spec.name), Some("run" | "start"))
    }

    fn take_flag(
        &mut self,
        shown: &str,
        is: impl Fn(&table::Flag) -> bool,
        parser: &mut lexopt::Parser,
    ) -> Result<(), String> {
        // Before any command an option may be one of `run`, whose name may be left out, or of `serve`, too.
        let commands: &[&str] = match self.spec {
            Some(spec) => &[spec.name],
            None => &["run", "serve"],
        };
        let flag = FLAGS.iter().find(|flag| is(flag) && commands.iter().any(|name| flag.is_of(name)));
        let flag = flag.ok_or_else(|| self.unknown_option(shown))?;
        if self.spec.is_none() && !flag.is_global() {
            self.spec = commands.iter().find(|name| flag.is_of(name)).and_then(|name| table::command(name));
        }
        let value = match flag.value {
            Some(name) => parser.value().map_err(|_| format!("{shown} needs a value: {shown} {name}"))?,
            None => OsString::new(),
        };
        (flag.set)(&mut self.given, Value(value)).map_err(|problem| format!("{shown}: {problem}"))?;
        // `--force=yes` is a mistake; `-vq` is `-v -q`.
        match if shown.starts_with("--") { parser.optional_value() } else { None } {
            Some(value) => Err(format!("{shown} takes no value, but got '{}'", value.to_string_lossy())),
            None => Ok(()),
        }
    }

    fn unknown_option(&self, shown: &str) -> String {
        let name = self.spec.map_or("", |spec| spec.name);
        let of = if name.is_empty() { String::new() } else { format!(" of `persistproc {name}`") };
        let hint = match (name, &self.named) {
            ("stop" | "restart" | "output", _) => "; if it is part of a command, put -- before the command".into(),
            _ if FLAGS.iter().any(|flag| format!("--{}", flag.long) == shown) => {
                "; it belongs to another command".into()
            }
            // Some of our commands have the name of a program, too.
            ("list" | "serve", Some(named)) => format!("; {}", program_called(named)),
            _ => String::new(),
        };
        let help = if name.is_empty() { "persistproc --help".into() } else { format!("persistproc {name} --help") };
        format!("unknown option {shown}{of}{hint}; see `{help}`")
    }

    fn finish(self) -> Result<Parsed, String> {
        let Reader { given, spec, words, is_ctrl, named } = self;
        if given.version {
            return Ok(Parsed { command: Command::Say(format!("persistproc {}\n", env!("CARGO_PKG_VERSION"))), given });
        }
        if given.help {
            return Ok(Parsed { command: Command::Say(spec.map_or_else(help_overview, help_of)), given });
        }
        let name = spec.map_or("serve", |spec| spec.name);
        let none = |command: Command| match words.first() {
            None => Ok(command),
            Some(word) => Err(format!(
                "`persistproc {name}` takes no '{}'; {}",
                word.to_string_lossy(),
                program_called(named.as_deref().unwrap_or(name))
            )),
        };
        let command = match name {
            _ if is_ctrl => return Err("ctrl needs start, stop or restart; see `persistproc ctrl --help`".into()),
            "run" => Command::Run { argv: program(name, words)? },
            "start" => Command::Start { argv: program(name, words)? },
            "stop" => Command::Stop(target(name, &given, words)?),
            "restart" => Command::Restart(target(name, &given, words)?),
            "output" => {
                let asks_for_none = given.asked.iter().any(|(name, value)| *name == "lines" && value == "0");
                if asks_for_none && !given.follow {
                    return Err("--lines 0 needs --follow; without it, N is a whole number from 1 to 10000".into());
                }
                Command::Output(target(name, &given, words)?)
            }
            "list" => none(Command::List(Target { pid: given.pid, name: given.command_or_label.clone() }))?,
            "shutdown" => none(Command::Shutdown)?,
            "mcp" => none(Command::Bridge)?,
            "completions" => Command::Say(shell_completions(&words)?),
            _ => none(Command::Serve)?,
        };
        Ok(Parsed { command, given })
    }
}

fn program_called(name: &str) -> String {
    format!("to run a program called {name}: persistproc run {name} …")
}

fn program(command: &str, words: Vec<OsString>) -> Result<Vec<OsString>, String> {
    match words.as_slice() {
        [] => Err(format!("`persistproc {command}` needs a program; for example: persistproc {command} npm run dev")),
        [only] if only.as_encoded_bytes().iter().any(u8::is_ascii_whitespace) => {
            let text = only.to_str().ok_or("the command is not UTF-8; give its words one by one")?;
            Ok(words::split(text)?.into_iter().map(OsString::from).collect())
        }
        [first, ..] if first.is_empty() => Err("the program's name is empty".into()),
        _ => Ok(words),
    }
}

fn target(command: &str, given: &Given, words: Vec<OsString>) -> Result<Target, String> {
    let name = match words.as_slice() {
        [] => given.command_or_label.clone(),
        [only] => Some(only.to_string_lossy().into_owned()),
        several => Some(words::quote(several)),
    };
    // A cursor, or the number of a run, says by itself whose it is.
    let says_whose = |(name, _): &(&str, String)| matches!(*name, "after" | "before" | "run");
    if name.is_none() && given.pid.is_none() && !given.asked.iter().any(says_whose) {
        return Err(format!(
            "`persistproc {command}` needs a PID, a label or a command; `persistproc list` shows them"
        ));
    }
    Ok(Target { pid: given.pid, name })
}

fn shell_completions(words: &[OsString]) -> Result<String, String> {
    let text = match words {
        [shell] => shell.to_str().and_then(completions),
        _ => None,
    };
    text.ok_or_else(|| "`persistproc completions` needs one of bash, zsh, fish".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    fn parsed(line: &[&str]) -> Parsed {
        parse(line.iter().map(OsString::from)).unwrap_or_else(|mistake| panic!("{line:?}: {mistake:?}"))
    }
    fn problem(line: &[&str]) -> String {
        parse(line.iter().map(OsString::from)).expect_err(&format!("{line:?}")).text
    }
    fn run(argv: &[&str]) -> Command {
        Command::Run { argv: argv.iter().map(OsString::from).collect() }
    }
    fn named(name: &str) -> Target {
        Target { pid: None, name: Some(name.into()) }
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
            assert_eq!(parsed(line).command, run(argv), "{line:?}");
        }
        assert_eq!(
            parsed(&["start", "x", "--label", "y"]).command,
            Command::Start { argv: ["x", "--label", "y"].map(Into::into).into() }
        );
        assert_eq!(parsed(&["ctrl", "start", "--label", "y", "x"]).given.label.as_deref(), Some("y"));
    }

    #[test]
    fn global_options_stand_before_or_behind_the_command() {
        for line in [
            &["--port", "1", "--format=json", "list"][..],
            &["list", "--format", "json", "--port=1"],
            &["ls", "--port", "1", "--format", "json"],
        ] {
            let flags = parsed(line).given.flags;
            assert_eq!((flags.port, flags.format), (Some(1), Some(Format::Json)), "{line:?}");
        }
        assert_eq!(parsed(&[]).command, Command::Serve);
        assert!(parsed(&["-q"]).given.flags.is_quiet && parsed(&["-vq", "serve"]).given.flags.is_verbose);
        assert_eq!(parsed(&["--background"]).command, Command::Serve);
    }

    #[test]
    fn options_may_stand_behind_the_target_and_old_spellings_work() {
        for line in [
            &["stop", "--force", "npm", "run", "dev"][..],
            &["stop", "npm", "run", "dev", "--force"],
            &["stop", "npm", "--force", "run", "dev"],
        ] {
            assert_eq!(parsed(line).command, Command::Stop(named("npm run dev")), "{line:?}");
            assert!(parsed(line).given.force);
        }
        assert_eq!(
            parsed(&["stop", "--", "node", "x.js", "--force"]).command,
            Command::Stop(named("node x.js --force"))
        );
        assert_eq!(parsed(&["stop", "my label with blanks"]).command, Command::Stop(named("my label with blanks")));
        let output = parsed(&["output", "web", "--since_time", "5m", "-n", "7", "--wait-for=a b"]);
        assert_eq!(output.command, Command::Output(named("web")));
        assert_eq!(
            output.given.asked,
            [("since_time", "5m".into()), ("lines", "7".into()), ("wait_for", "a b".into())]
        );
        assert_eq!(parsed(&["list", "--pid", "0"]).command, Command::List(Target { pid: Some(0), name: None }));
        assert_eq!(parsed(&["ctrl", "restart", "web"]).command, Command::Restart(named("web")));
        let start = parsed(&["start", "--environment", r#"{"B":"2","A":"1"}"#, "x"]);
        assert_eq!(start.given.environment, [("A".into(), "1".into()), ("B".into(), "2".into())]);
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
            (&["--port", "70000", "list"], "a number from 0 to 65535"),
            (&["--port=", "list"], "is no port"),
            (&["--format", "xml", "list"], "text and json"),
            (&["run", "--on-exit", "die", "x"], "ask, stop or detach"),
            (&["output", "x", "--lines", "0"], "from 1 to 10000"),
            (&["output", "x", "--lines", "many"], "'many' is not a whole number"),
            (&["output", "x", "--stream", "stdin"], "combined, stdout or stderr"),
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
            let Command::Say(text) = parsed(line).command else { panic!("{line:?}") };
            assert!(text.contains(expected), "{line:?}: {text}");
        }
        for spec in &table::COMMANDS {
            assert!(help_of(spec).contains(spec.usage) && help_of(spec).contains("Example"));
            assert!(help_of(spec).lines().all(|line| line.chars().count() <= 110), "{}", help_of(spec));
        }
    }
}
