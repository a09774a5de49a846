//! The parameters of the three tools, each described once: name, kind, range, default, help. The schema that agents read,
//! the check of what they send, the options of the command line, their help and completions, and the calls that answers
//! suggest are made from these tables.
//!
//! To add a parameter: a row in its table and a member in its request; the tests of this file fail if one is forgotten.

use super::members::{Members, members, required};
use crate::error::Error;
use crate::log::Stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What values a parameter takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Text,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A whole number in this range.
    Integer(i64, i64),
    Flag,
    /// An object whose values are strings.
    Strings,
}

/// What it is if it is left out, as help texts show it.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    Nothing,
    Number(i64),
    Word(&'static str),
}

pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub is_required: bool,
    pub default: DefaultValue,
    /// For models; `{}` stands for the default.
    pub help: &'static str,
    /// The option of the command line that sets it.
    pub option: Option<CliOption>,
}

/// A parameter as an option of the command line, by the same name.
pub struct CliOption {
    pub short: Option<char>,
    /// Placeholder of its value in the help.
    pub value: &'static str,
    /// Differs where a command does more than one call can.
    pub kind: Kind,
    /// For people; `{}` stands for the default.
    pub help: &'static str,
}

const fn optional(name: &'static str, kind: Kind, help: &'static str) -> Parameter {
    Parameter { name, kind, is_required: false, default: DefaultValue::Nothing, help, option: None }
}

impl Parameter {
    const fn required(self) -> Parameter {
        Parameter { is_required: true, ..self }
    }
    const fn or(self, default: DefaultValue) -> Parameter {
        Parameter { default, ..self }
    }
    /// The option takes the same values as the parameter.
    const fn option(self, value: &'static str, help: &'static str) -> Parameter {
        let option = CliOption { short: None, value, kind: self.kind, help };
        Parameter { option: Some(option), ..self }
    }
    const fn short(self, short: char) -> Parameter {
        let Some(option) = self.option else { return self };
        Parameter { option: Some(CliOption { short: Some(short), ..option }), ..self }
    }
    const fn option_takes(self, kind: Kind) -> Parameter {
        let Some(option) = self.option else { return self };
        Parameter { option: Some(CliOption { kind, ..option }), ..self }
    }

    /// The help for models, with the default.
    pub fn help(&self) -> String {
        self.fill(self.help)
    }

    /// The help of its option, with the default.
    pub fn option_help(&self) -> String {
        self.option.as_ref().map_or(String::new(), |option| self.fill(option.help))
    }

    fn fill(&self, help: &str) -> String {
        match self.default {
            DefaultValue::Nothing => help.into(),
            DefaultValue::Number(number) => help.replace("{}", &number.to_string()),
            DefaultValue::Word(word) => help.replace("{}", word),
        }
    }
}

/// Seconds that a wait takes at most if the caller does not say.
pub const TIMEOUT: i64 = 15;
/// The longest wait in one call, in seconds: clients give up at 60.
pub const TIMEOUT_MAX: i64 = 45;
/// The longest wait of the command line, which asks again.
const LONG_TIMEOUT_MAX: i64 = 3600;
const LINES: i64 = 100;
pub const LINES_MAX: i64 = 10_000;
const CONTEXT: i64 = 0;
const MAX_BYTES: i64 = 8000;
pub const PID_MAX: i64 = 4_194_304;
const RUN_MAX: i64 = 999_999_999;
/// Runs that can be counted backwards.
const RUNS_BACK: i64 = 50;

const PID: Parameter = optional("pid", Kind::Integer(0, PID_MAX), "");
const DIRECTORY: Parameter = optional("working_directory", Kind::Text, "Absolute path; only processes there.");

/// A wait of `start` and `restart`, as of `output`, on the command line.
const WAIT_FOR_OPTION: &str = "wait for a line that matches, or 'quiet'; exit code 1 if none comes";
const TIMEOUT_OPTION: &str = "maximum wait in seconds ({}); --follow ends after it";

pub static LIST: [Parameter; 3] =
    [PID, optional("command_or_label", Kind::Text, "Label, command, PID or run (r12)."), DIRECTORY];

pub static OUTPUT: [Parameter; 15] = [
    PID,
    optional("command_or_label", Kind::Text, "Label, command or run (r12); \"a,b\" or \"*\" (all here) merge by time."),
    DIRECTORY,
    optional("run", Kind::Integer(-RUNS_BACK, RUN_MAX), "-1: the run before the newest; or a run's number.")
        .option("N", "-1 is the run before the newest; or the number of a run"),
    optional("stream", Kind::Choice(&["combined", "stdout", "stderr"]), "Default {}.")
        .or(DefaultValue::Word("combined"))
        .option("STREAM", "{} (the default), stdout or stderr"),
    optional("lines", Kind::Integer(1, LINES_MAX), "The newest so many ({}); of few, long lines are shown longer.")
        .or(DefaultValue::Number(LINES))
        .option("N", "the newest N lines ({}); with --follow 0 shows only new ones")
        .option_takes(Kind::Integer(0, LINES_MAX))
        .short('n'),
    optional("since_time", Kind::Text, "ISO 8601 (UTC without zone), or an age: 30s, 5m, 2h.")
        .option("TIME", "only lines from then on"),
    optional("before_time", Kind::Text, "Likewise; only older lines.").option("TIME", "only lines before then"),
    optional("after", Kind::Text, "A cursor from an earlier answer: only what came later, also in later runs.")
        .option("CURSOR", "only what came after an earlier answer (JSON has its cursor)"),
    optional("before", Kind::Text, "A cursor: only what came earlier. Answers that left lines out say it.")
        .option("CURSOR", "only what came before a cursor"),
    optional(
        "wait_for",
        Kind::Text,
        "Regex over new lines, or \"quiet\": something new, then 500 ms of silence. Also returns when the process ends.",
    )
    .option("REGEX", WAIT_FOR_OPTION),
    optional("timeout", Kind::Integer(0, TIMEOUT_MAX), "Seconds to wait at most ({}).")
        .or(DefaultValue::Number(TIMEOUT))
        .option("SECONDS", TIMEOUT_OPTION)
        .option_takes(Kind::Integer(0, LONG_TIMEOUT_MAX)),
    optional("grep", Kind::Text, "Regex: only lines that match.")
        .option("REGEX", "only lines that match (at most 1 KB; the first 16 KB of a line are searched)"),
    optional("context", Kind::Integer(0, 100), "Lines around each match ({}).")
        .or(DefaultValue::Number(CONTEXT))
        .option("N", "also show N lines around each match ({})")
        .short('C'),
    optional("max_bytes", Kind::Integer(500, 18_000), "Budget of the answer ({}).").or(DefaultValue::Number(MAX_BYTES)),
];

pub static CTRL: [Parameter; 11] = [
    optional("action", Kind::Choice(&["start", "stop", "restart", "input", "signal"]), "").required(),
    PID,
    optional("command_or_label", Kind::Text, "For start the command, else as in list."),
    optional("run", Kind::Integer(0, RUN_MAX), "A run's number, instead of these two."),
    optional("working_directory", Kind::Text, "Absolute path; needed for start."),
    optional("environment", Kind::Strings, "For start: variables to add."),
    optional("force", Kind::Flag, "Stop: kill at once instead of after 8 s."),
    optional("label", Kind::Text, "For start: a short unique name."),
    optional("wait_for", Kind::Text, "Start, restart: regex that says it is ready, or \"quiet\".")
        .option("REGEX", WAIT_FOR_OPTION),
    optional("timeout", Kind::Integer(0, TIMEOUT_MAX), "Seconds to wait for it ({}).")
        .or(DefaultValue::Number(TIMEOUT))
        .option("SECONDS", TIMEOUT_OPTION)
        .option_takes(Kind::Integer(0, LONG_TIMEOUT_MAX)),
    optional("text", Kind::Text, "For input and signal."),
];

/// What `ctrl` is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    #[default]
    Start,
    Stop,
    Restart,
    Input,
    Signal,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Restart => "restart",
            Action::Input => "input",
            Action::Signal => "signal",
        }
    }
}

required! {
    Action: |value: &Value| Action::deserialize(value).ok(), |action: &Action| action.name().into();
}

members! {
    /// The parameters of `list`.
    ListRequest {
        pid: Option<i64>,
        command_or_label: Option<String>,
        working_directory: Option<String>,
    }
}

members! {
    /// The parameters of `output`.
    OutputRequest {
        pid: Option<i64>,
        command_or_label: Option<String>,
        working_directory: Option<String>,
        run: Option<i64>,
        stream: Option<Stream>,
        lines: Option<u32>,
        since_time: Option<String>,
        before_time: Option<String>,
        after: Option<String>,
        before: Option<String>,
        wait_for: Option<String>,
        timeout: Option<u32>,
        grep: Option<String>,
        context: Option<u32>,
        max_bytes: Option<u32>,
    }
}

members! {
    /// The parameters of `ctrl`.
    ControlRequest {
        action: Action,
        pid: Option<i64>,
        command_or_label: Option<String>,
        run: Option<u64>,
        working_directory: Option<String>,
        environment: BTreeMap<String, String>,
        force: bool,
        label: Option<String>,
        wait_for: Option<String>,
        timeout: Option<u32>,
        text: Option<String>,
    }
}

impl OutputRequest {
    /// What is waited for, or nothing.
    pub fn wanted(&self) -> &str {
        self.wait_for.as_deref().unwrap_or_default()
    }
    pub fn lines(&self) -> usize {
        self.lines.unwrap_or(LINES as u32) as usize
    }
    pub fn context(&self) -> usize {
        self.context.unwrap_or(CONTEXT as u32) as usize
    }
    pub fn max_bytes(&self) -> usize {
        self.max_bytes.unwrap_or(MAX_BYTES as u32) as usize
    }
    pub fn timeout(&self) -> Duration {
        timeout(self.timeout)
    }
}

impl ControlRequest {
    pub fn timeout(&self) -> Duration {
        timeout(self.timeout)
    }
}

/// How long a wait takes at most.
pub fn timeout(seconds: Option<u32>) -> Duration {
    Duration::from_secs(seconds.map_or(TIMEOUT as u64, u64::from))
}

/// `output name="value" …`, in the order of the table: the call of a tool as a model writes it.
pub fn as_call(tool: &str, parameters: &[Parameter], request: &impl Members) -> String {
    let arguments = request.members();
    let given = parameters.iter().filter_map(|parameter| arguments.get_key_value(parameter.name));
    given.fold(tool.into(), |call, (name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), crate::os_text::quote_json);
        format!("{call} {name}={value}")
    })
}

/// The same call without empty strings, which some models write for everything that they do not need. Only `text` may be
/// empty: it is input.
pub fn without_empty(arguments: &Map<String, Value>) -> Map<String, Value> {
    let is_meant = |(name, value): &(&String, &Value)| name.as_str() == "text" || value.as_str() != Some("");
    arguments.iter().filter(is_meant).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Checks names and values of a call and returns it as a request. `null` counts as absent, and a number or flag in quotes
/// as what it is: models write all of these. What does not fit gets a text that tells a model how to correct itself.
pub fn parse<T: Members>(parameters: &[Parameter], arguments: &Map<String, Value>) -> Result<T, Error> {
    check(parameters, arguments).map(|members| T::from_members(&members))
}

fn check(parameters: &[Parameter], arguments: &Map<String, Value>) -> Result<Map<String, Value>, Error> {
    let mut checked = Map::new();
    for (name, value) in arguments {
        let Some(parameter) = parameters.iter().find(|parameter| parameter.name == name) else {
            let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name).collect();
            return Err(Error::invalid(format!("there is no parameter '{name}'; there are: {}", names.join(", "))));
        };
        if !value.is_null() {
            checked.insert(name.clone(), parameter.kind.check(value).map_err(|wanted| wrong(name, &wanted, value))?);
        }
    }
    let missing = parameters.iter().find(|parameter| parameter.is_required && !checked.contains_key(parameter.name));
    if let Some(missing) = missing {
        let choices = if let Kind::Choice(choices) = missing.kind { choices.join(", ") } else { missing.help() };
        return Err(Error::invalid(format!("the parameter '{}' is missing: {choices}", missing.name)));
    }
    Ok(checked)
}

fn wrong(name: &str, wanted: &str, value: &Value) -> Error {
    let shown: String = value.to_string().chars().take(60).collect();
    Error::invalid(format!("'{name}' must be {wanted}, not {shown}"))
}

impl Kind {
    /// The value as it is meant; an error says what is wanted instead.
    pub fn check(self, value: &Value) -> Result<Value, String> {
        let (meant, wanted) = match self {
            Kind::Text => (value.as_str().map(Value::from), "a string".into()),
            Kind::Choice(choices) => {
                let meant = value.as_str().filter(|value| choices.contains(value));
                (meant.map(Value::from), format!("one of {}", choices.join(", ")))
            }
            Kind::Integer(least, most) => {
                let meant = as_integer(value).filter(|number| (least..=most).contains(number));
                (meant.map(Value::from), format!("a whole number from {least} to {most}"))
            }
            Kind::Flag => (as_flag(value).map(Value::from), "true or false".into()),
            Kind::Strings => {
                let meant = value.as_object().filter(|members| members.values().all(Value::is_string));
                let wanted = "an object whose values are strings, such as {\"PORT\": \"3000\"}";
                (meant.map(|_| value.clone()), wanted.into())
            }
        };
        meant.ok_or(wanted)
    }

    /// As JSON Schema (2020-12).
    fn schema(self) -> Value {
        match self {
            Kind::Text => json!({"type": "string"}),
            Kind::Choice(choices) => json!({"type": "string", "enum": choices}),
            Kind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Strings => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        }
    }
}

fn as_integer(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole)).or_else(|| value.as_str()?.trim().parse().ok())
}

fn as_flag(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| match value.as_str()? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    })
}

/// The JSON Schema of all parameters (2020-12; flat, so that every client understands it).
pub fn schema(parameters: &[Parameter]) -> Value {
    let property = |parameter: &Parameter| {
        let mut property = parameter.kind.schema();
        if !parameter.help.is_empty() {
            property["description"] = json!(parameter.help());
        }
        (parameter.name.to_string(), property)
    };
    let properties: Map<String, Value> = parameters.iter().map(property).collect();
    let required: Vec<&str> =
        parameters.iter().filter(|parameter| parameter.is_required).map(|parameter| parameter.name).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

#[cfg(test)]
mod tests;
