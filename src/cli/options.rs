//! Options of the command line as data, and their values: what each takes, which commands have it, its help.

use crate::api::Members;
use crate::api::members::Member;
use crate::api::params::{CTRL, Kind, OUTPUT, PID_MAX, Parameter};
use crate::config::{Flags, Format, parse_format};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::LazyLock;

/// What follows the name of an option; the text is its placeholder in the help.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// It is a switch.
    Nothing,
    Text(&'static str),
    /// Any bytes.
    Path(&'static str),
    Number(&'static str, i64, i64),
    Choice(&'static str, &'static [&'static str]),
    /// A JSON object whose values are strings.
    Variables(&'static str),
}

impl Takes {
    /// `None` for a switch.
    pub fn placeholder(self) -> Option<&'static str> {
        match self {
            Takes::Nothing => None,
            Takes::Text(name)
            | Takes::Path(name)
            | Takes::Number(name, ..)
            | Takes::Choice(name, _)
            | Takes::Variables(name) => Some(name),
        }
    }

    /// The values that it can have, if those are a few words.
    pub fn choices(self) -> &'static [&'static str] {
        if let Takes::Choice(_, choices) = self { choices } else { &[] }
    }

    /// An error says what is wrong with the value.
    fn read(self, value: OsString) -> Result<OptionValue, String> {
        if let Takes::Path(_) = self {
            return Ok(OptionValue::Path(value));
        }
        let text = value.into_string().map_err(|_| "is not UTF-8")?;
        match self {
            Takes::Nothing => Ok(OptionValue::On),
            Takes::Text(_) | Takes::Path(_) => Ok(OptionValue::Text(text)),
            Takes::Number(_, least, most) => {
                let number = text.parse().ok().filter(|number| (least..=most).contains(number));
                let wrong = || format!("'{text}' is not a whole number from {least} to {most}");
                number.map(OptionValue::Number).ok_or_else(wrong)
            }
            Takes::Choice(_, choices) if choices.contains(&text.as_str()) => Ok(OptionValue::Text(text)),
            Takes::Choice(_, choices) => Err(format!("'{text}' is not {}", one_of(choices))),
            Takes::Variables(_) => {
                let wrong = "must be a JSON object whose values are strings, such as {\"PORT\": \"3000\"}";
                let value = serde_json::from_slice(text.as_bytes()).ok();
                let value = value.and_then(|value: Value| Kind::Strings.check(&value).ok());
                value.map(|value| OptionValue::Variables(Member::read(&value).unwrap_or_default())).ok_or(wrong.into())
            }
        }
    }
}

/// `combined, stdout or stderr`
pub fn one_of(choices: &[&str]) -> String {
    match choices {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => choices.concat(),
    }
}

/// One option.
#[derive(Clone, Debug)]
pub struct CliFlag {
    pub long: String,
    pub short: Option<char>,
    pub takes: Takes,
    /// Commands that have it; empty: all.
    pub commands: &'static [&'static str],
    pub help: String,
}

impl CliFlag {
    pub fn is_of(&self, command: &str) -> bool {
        self.is_global() || self.commands.contains(&command)
    }
    pub fn is_global(&self) -> bool {
        self.commands.is_empty()
    }
}

const ALL: &[&str] = &[];
const PROGRAMS: &[&str] = &["run", "start"];
const TARGETS: &[&str] = &["stop", "restart", "output"];
/// Commands whose options are made from the parameters of a tool.
const TOOLS: [(&[&str], &[Parameter]); 2] = [(&["output"], &OUTPUT), (&["start", "restart"], &CTRL)];

/// Name, short name, what it takes, commands, help.
type FlagRow = (&'static str, Option<char>, Takes, &'static [&'static str], &'static str);

#[rustfmt::skip]
const FLAGS: [FlagRow; 26] = [
    ("fresh", None, Takes::Nothing, &["run"], "if it is running already, stop it first and start it again"),
    ("on-exit", None, Takes::Choice("WHAT", &["ask", "stop", "detach"]), &["run"], "on Ctrl+C: ask (the default), stop, or detach"),
    ("raw", None, Takes::Nothing, &["run"], "show the time of each line, as the log has it"),
    ("label", None, Takes::Text("LABEL"), PROGRAMS, "its name; otherwise '<command> in <directory>'"),
    ("environment", None, Takes::Variables("JSON"), &["start"], "variables to add, as {\"NAME\": \"value\"}"),
    ("keep-agent-env", None, Takes::Nothing, PROGRAMS, "also pass the variables that identify an AI agent (CLAUDECODE, …)"),
    ("working-directory", None, Takes::Path("DIR"), &["start"], "where to run it"),
    ("working-directory", None, Takes::Path("DIR"), &["stop", "restart", "list", "output"], "only processes in this directory"),
    ("force", None, Takes::Nothing, &["stop", "restart"], "kill at once, without 8 seconds of grace"),
    ("pid", None, Takes::Number("PID", 0, PID_MAX), &["list"], "only this process; 0 is the server itself"),
    ("command-or-label", None, Takes::Text("NAME"), &["list"], "only this process"),
    ("follow", Some('f'), Takes::Nothing, &["output"], "keep printing new lines until the process ends or --timeout is over"),
    ("keep", None, Takes::Nothing, &["shutdown"], "end the server alone; its processes keep running"),
    ("background", None, Takes::Nothing, &["serve"], "return when the server is up, and leave it running"),
    ("port", None, Takes::Number("PORT", 0, 65_535), ALL, "where a server that is started listens (8947, or PERSISTPROC_PORT)"),
    ("no-tcp", None, Takes::Nothing, ALL, "a server that is started has no port (PERSISTPROC_NO_TCP=1)"),
    ("trust-all-users", None, Takes::Nothing, &["serve"], "open the port even where the system cannot tell users apart"),
    ("data-dir", None, Takes::Path("DIR"), ALL, "where runs, logs and the socket are (PERSISTPROC_DATA_DIR)"),
    ("format", None, Takes::Choice("FORMAT", &["text", "json"]), ALL, "text or json, also of errors (PERSISTPROC_FORMAT)"),
    ("no-autostart", None, Takes::Nothing, ALL, "do not start a server when none answers (PERSISTPROC_NO_AUTOSTART=1)"),
    ("verbose", Some('v'), Takes::Nothing, ALL, "print more"),
    ("quiet", Some('q'), Takes::Nothing, ALL, "print only results and errors"),
    ("help", Some('h'), Takes::Nothing, ALL, "show help"),
    ("version", Some('V'), Takes::Nothing, ALL, "show the version"),
    // As `list` has them, for users who are used to it.
    ("pid", None, Takes::Number("PID", 1, PID_MAX), TARGETS, "the process, instead of TARGET"),
    ("command-or-label", None, Takes::Text("NAME"), TARGETS, "the process, instead of TARGET"),
];

/// Every option, in the order of the help: those of parameters stand before the global ones.
static ALL_FLAGS: LazyLock<Vec<CliFlag>> = LazyLock::new(|| {
    let (global, own): (Vec<CliFlag>, Vec<CliFlag>) = FLAGS.into_iter().map(flag).partition(CliFlag::is_global);
    own.into_iter().chain(parameter_flags()).chain(global).collect()
});

pub fn flags() -> &'static [CliFlag] {
    &ALL_FLAGS
}

fn flag((long, short, takes, commands, help): FlagRow) -> CliFlag {
    CliFlag { long: long.into(), short, takes, commands, help: help.into() }
}

fn parameter_flags() -> impl Iterator<Item = CliFlag> {
    TOOLS.into_iter().flat_map(|(commands, parameters)| {
        parameters.iter().filter_map(move |parameter| {
            let option = parameter.option.as_ref()?;
            let takes = match option.kind {
                Kind::Integer(least, most) => Takes::Number(option.value, least, most),
                Kind::Choice(choices) => Takes::Choice(option.value, choices),
                Kind::Flag => Takes::Nothing,
                Kind::Text | Kind::Strings => Takes::Text(option.value),
            };
            let (long, help) = (long_name(parameter), parameter.option_help());
            Some(CliFlag { long, short: option.short, takes, commands, help })
        })
    })
}

/// `since_time` → `since-time`
fn long_name(parameter: &Parameter) -> String {
    parameter.name.replace('_', "-")
}

#[derive(Clone, Debug, PartialEq)]
enum OptionValue {
    On,
    Text(String),
    Path(OsString),
    Number(i64),
    Variables(BTreeMap<String, String>),
}

/// The options of one command line, by their long names. Of one that is given several times the last counts, but for
/// variables, which add up. Reading one removes it.
#[derive(Clone, Debug, Default)]
pub struct Options(Vec<(String, OptionValue)>);

impl Options {
    /// Adds one; an error says what is wrong with its value.
    pub fn add(&mut self, flag: &CliFlag, value: OsString) -> Result<(), String> {
        match (flag.takes.read(value)?, self.remove(&flag.long)) {
            (OptionValue::Variables(more), Some(OptionValue::Variables(mut variables))) => {
                variables.extend(more);
                self.0.push((flag.long.clone(), OptionValue::Variables(variables)));
            }
            (value, _) => self.0.push((flag.long.clone(), value)),
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&OptionValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn remove(&mut self, name: &str) -> Option<OptionValue> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub fn switch(&mut self, name: &str) -> bool {
        self.remove(name).is_some()
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.remove(name) {
            Some(OptionValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn path(&mut self, name: &str) -> Option<OsString> {
        match self.remove(name) {
            Some(OptionValue::Path(path)) => Some(path),
            _ => None,
        }
    }

    pub fn number(&mut self, name: &str) -> Option<i64> {
        match self.remove(name) {
            Some(OptionValue::Number(number)) => Some(number),
            _ => None,
        }
    }

    pub fn variables(&mut self, name: &str) -> BTreeMap<String, String> {
        match self.remove(name) {
            Some(OptionValue::Variables(variables)) => variables,
            _ => BTreeMap::new(),
        }
    }

    /// The request whose parameters these options set.
    pub fn request<T: Members>(&mut self, parameters: &[Parameter]) -> T {
        T::from_members(&self.arguments(parameters))
    }

    fn arguments(&mut self, parameters: &[Parameter]) -> Map<String, Value> {
        let mut arguments = Map::new();
        for parameter in parameters.iter().filter(|parameter| parameter.option.is_some()) {
            let value = match self.remove(&long_name(parameter)) {
                Some(OptionValue::On) => Value::Bool(true),
                Some(OptionValue::Text(text)) => Value::String(text),
                Some(OptionValue::Number(number)) => Value::from(number),
                _ => continue,
            };
            arguments.insert(parameter.name.into(), value);
        }
        arguments
    }

    /// How to print, if that was said.
    pub fn format(&self) -> Option<Format> {
        match self.get("format") {
            Some(OptionValue::Text(text)) => parse_format(text).ok(),
            _ => None,
        }
    }

    /// The options that all commands have.
    pub fn flags(&mut self) -> Flags {
        let format = self.format();
        self.remove("format");
        Flags {
            port: self.number("port").and_then(|port| u16::try_from(port).ok()),
            data_dir: self.path("data-dir").map(Into::into),
            format,
            is_verbose: self.switch("verbose"),
            is_quiet: self.switch("quiet"),
            no_autostart: self.switch("no-autostart"),
            no_tcp: self.switch("no-tcp"),
            trusts_all_users: self.switch("trust-all-users"),
        }
    }

    /// Names that nothing has read.
    #[cfg(test)]
    pub fn unread(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}
