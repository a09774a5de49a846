//! `output`: what there is, and with `--wait-for` what came until then. See `follow` for what goes on.

use super::link::{Link, Reading};
use super::{COMING, RECONNECT, Trouble, WAIT, asked, follow, target_arguments, terminal};
use crate::cli::{Given, Target};
use crate::log::Stream;
use crate::output::pattern::Pattern;
use crate::output::wait::{LONGEST, Until};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

pub fn output(mut link: Link, target: &Target, given: &Given, is_json: bool) -> Result<u8, Trouble> {
    let mut arguments = target_arguments(target, given)?;
    arguments.extend(asked(given));
    check_expressions(&arguments)?;
    if given.follow {
        return follow::follow(link, arguments, is_json);
    }
    let wanted = text_of(&arguments, "wait_for");
    if is_json {
        let answer = wait(&mut link, arguments, |link, arguments| link.call_tool("output", arguments))?;
        terminal::print_json(&answer)?;
        return verdict(answer.waited(), &wanted);
    }
    let read = wait(&mut link, arguments, Link::read_output)?;
    read.note(&link);
    terminal::pass_on(Stream::Stdout, &read.bytes)?;
    if !read.unwritten.is_empty() {
        terminal::note(&read.unwritten);
    }
    verdict(&read.waited, &wanted)
}

/// Refuses what is no regular expression, before anything is asked for.
fn check_expressions(arguments: &Map<String, Value>) -> Result<(), Trouble> {
    let given = |name| arguments.get(name).and_then(Value::as_str);
    let grep = given("grep").map(Pattern::parse).transpose().map(drop);
    let wait_for = given("wait_for").map(Until::parse).transpose().map(drop);
    grep.and(wait_for).map_err(|fault| Trouble::Usage(fault.text))
}

/// What was read, and why waiting for it ended.
pub trait Waited {
    fn waited(&self) -> &str;
}

impl Waited for Reading {
    fn waited(&self) -> &str {
        &self.waited
    }
}

impl Waited for Value {
    fn waited(&self) -> &str {
        self["waited"].as_str().unwrap_or_default()
    }
}

/// Reads output. A wait may be longer than what a server does in one go, and if the server goes meanwhile, the next one
/// is asked for the rest of the time; always from the same place, so that what was written in between is not missed.
pub fn wait<T: Waited>(
    link: &mut Link,
    mut arguments: Map<String, Value>,
    read: impl Fn(&mut Link, &Map<String, Value>) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let timeout = arguments.remove("timeout");
    if !arguments.contains_key("wait_for") {
        return read(link, &arguments);
    }
    let seconds = timeout.and_then(|text| text.as_str()?.parse().ok()).unwrap_or(WAIT);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut was_there = !arguments.contains_key("after");
    if was_there {
        let target = ["pid", "command_or_label", "working_directory", "run", "stream"];
        let mut newest = only(&arguments, &target);
        newest.insert("lines".into(), json!("1"));
        let newest = patiently(link, end, false, |link| link.read_output(&newest))?;
        arguments.insert("after".into(), json!(newest.cursor));
    }
    loop {
        let answer = patiently(link, end, was_there, |link| {
            let left = end.saturating_duration_since(Instant::now()).min(LONGEST);
            arguments.insert("timeout".into(), json!(left.as_millis().div_ceil(1000).to_string()));
            read(link, &arguments)
        })?;
        if answer.waited() != "timeout" || Instant::now() >= end {
            return Ok(answer);
        }
        was_there = true;
    }
}

/// Asks again when a server that was there has gone, until `COMING` after `end`.
fn patiently<T>(
    link: &mut Link,
    end: Instant,
    mut was_there: bool,
    mut ask: impl FnMut(&mut Link) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    loop {
        let answer = ask(link);
        was_there |= link.was_reached;
        if answer.is_ok() || !(was_there && link.is_gone()) || Instant::now() > end + COMING {
            return answer;
        }
        std::thread::sleep(RECONNECT);
    }
}

/// The exit code of a wait for `wanted`: only if it came, that is success.
pub fn verdict(waited: &str, wanted: &str) -> Result<u8, Trouble> {
    let problem = match (waited, wanted) {
        ("timeout", "quiet") => "timed out: it kept printing",
        ("timeout", _) => "timed out: no line matched",
        ("ended", "quiet") => "the process ended before it was quiet",
        ("ended", _) => "the process ended, and no line matched",
        _ => return Ok(0),
    };
    Err(Trouble::Refused(problem.into()))
}

/// A parameter as text; empty if it was not given.
pub fn text_of(arguments: &Map<String, Value>, name: &str) -> String {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default().into()
}

/// Parameters of these names.
fn only(arguments: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    names.iter().filter_map(|name| Some((name.to_string(), arguments.get(*name)?.clone()))).collect()
}
