//! `output`: what there is, and with `--follow` what comes. Without a search the bytes are passed on as they come; with
//! one, or of several processes, line by line.

use super::link::{Link, Reading};
use super::{COMING, RECONNECT, Trouble, WAIT, asked, render, run, target_arguments, terminal};
use crate::cli::{Given, Target};
use crate::log::record::PREFIX;
use crate::output::cursor::Cursor;
use crate::output::pattern::{Around, Pattern};
use crate::output::wait::LONGEST;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// One long-poll. With `--wait-for`, which only the server can answer before a line is finished, it also is how long
/// lines may be held back.
const POLL: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(1)];
/// Lines of one answer.
const LINES: u32 = 10_000;
/// How long to try to find a server again.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn output(mut link: Link, target: &Target, given: &Given, is_json: bool) -> Result<u8, Trouble> {
    let mut arguments = target_arguments(target, given)?;
    arguments.extend(asked(given));
    if given.follow {
        return follow(link, arguments, is_json);
    }
    if is_json {
        let answer = wait(&mut link, arguments, |link, arguments| link.call_tool("output", arguments))?;
        terminal::print(render::json(&answer).as_bytes())?;
        return verdict(answer.waited());
    }
    let read = wait(&mut link, arguments, Link::read_output)?;
    read.note(&link);
    terminal::print(&read.bytes)?;
    verdict(&read.waited)
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
        was_there |= link.is_cut;
        if answer.is_ok() || !(was_there && link.is_gone()) || Instant::now() > end + COMING {
            return answer;
        }
        std::thread::sleep(RECONNECT);
    }
}

/// The exit code of a wait: only what was waited for is success.
pub fn verdict(waited: &str) -> Result<u8, Trouble> {
    match waited {
        "timeout" => Err(Trouble::Refused("time is up, and what was waited for has not come".into())),
        "ended" => Err(Trouble::Refused("the process ended before what was waited for came".into())),
        _ => Ok(0),
    }
}

fn follow(mut link: Link, mut arguments: Map<String, Value>, is_json: bool) -> Result<u8, Trouble> {
    if is_json || ["before", "before_time"].iter().any(|name| arguments.contains_key(*name)) {
        return Err(Trouble::Usage(
            "--follow goes on with what comes, in text; it has no --format json, no --before and no --before-time"
                .into(),
        ));
    }
    let text = |arguments: &mut Map<String, Value>, name: &str| {
        arguments.remove(name).and_then(|value| value.as_str().map(String::from))
    };
    let until = text(&mut arguments, "wait_for");
    let timeout = text(&mut arguments, "timeout");
    // What there is already is asked for all the same: it tells where to go on.
    let is_shown = arguments.get("lines") != Some(&json!("0"));
    if !is_shown {
        arguments.insert("lines".into(), json!(1));
    }
    let show = |bytes: &[u8]| if is_shown { terminal::print(bytes) } else { Ok(()) };
    if until.is_none() && !arguments.contains_key("grep") {
        // The place to go on from is one in combined.log, whatever stream is shown.
        let mut first = arguments.clone();
        first.insert("of_combined".into(), json!(true));
        let read = link.read_output(&first)?;
        let cursor: Cursor = read.cursor()?;
        if let ([place], None) = (cursor.places.as_slice(), cursor.known) {
            read.note(&link);
            // Of a line that is not finished the rest comes behind it.
            let end = read.bytes.len() - usize::from(read.open.is_some());
            show(&read.bytes[..end])?;
            return run::follow(link, &arguments, *place, read.open.filter(|_| is_shown));
        }
    }
    // Line by line: one that is not finished comes when it is, or at the end, unless it is what is waited for.
    arguments.insert(if until.is_some() { "is_held_unless_matched" } else { "is_held" }.into(), json!(true));
    if until.as_deref() == Some("quiet") {
        return Err(Trouble::Usage("--follow goes with a regular expression to wait for, not with 'quiet'".into()));
    }
    let deadline = timeout.and_then(|text| text.parse().ok()).map(|s| Instant::now() + Duration::from_secs(s));
    let grep = arguments.get("grep").and_then(Value::as_str).map(Pattern::parse).transpose();
    let grep = grep.map_err(|fault| Trouble::Usage(fault.text))?;
    let read = link.read_output(&arguments)?;
    read.note(&link);
    show(&read.bytes)?;
    arguments.remove("grep");
    let context = text(&mut arguments, "context").and_then(|text| text.parse().ok()).unwrap_or(0);
    let grep = match grep {
        Some(pattern) => Some(Search::behind(&mut link, &arguments, &read.cursor, pattern, context)?),
        None => None,
    };
    Lines::new(link, arguments, grep, read).go(until, deadline)
}

/// What is searched for in what comes, and the lines around it, which may come in other answers than the match.
struct Search {
    pattern: Pattern,
    around: Around<Vec<u8>>,
}

impl Search {
    /// One that goes on behind `cursor`: a match there may want lines from before, and a match from before lines there.
    fn behind(
        link: &mut Link,
        arguments: &Map<String, Value>,
        cursor: &str,
        pattern: Pattern,
        context: usize,
    ) -> Result<Search, Trouble> {
        let mut search = Search { pattern, around: Around::new(context) };
        if context > 0 && !cursor.is_empty() {
            let target = ["pid", "command_or_label", "working_directory", "run", "stream"];
            let mut last = only(arguments, &target);
            // A line is kept for a later match unless it was shown behind an earlier one: twice as far back tells.
            last.extend([
                ("lines".into(), json!(2 * context)),
                ("before".into(), json!(cursor)),
                ("is_held".into(), json!(true)),
            ]);
            search.choose(&link.read_output(&last)?.bytes); // shown already, as far as it is wanted
        }
        Ok(search)
    }

    /// The lines of these that are to be shown.
    fn choose(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut chosen = Vec::new();
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = line.get(PREFIX..).unwrap_or(line);
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            // Of several processes, the name of this one stands before its line.
            let behind_name = text.windows(2).position(|pair| pair == b": ").map(|at| &text[at + 2..]);
            let is_match = self.pattern.is_match(text) || behind_name.is_some_and(|text| self.pattern.is_match(text));
            self.around.push(line.to_vec(), is_match).into_iter().for_each(|(line, _)| chosen.extend(line));
        }
        chosen
    }
}

/// Arguments of these names.
fn only(arguments: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    names.iter().filter_map(|name| Some((name.to_string(), arguments.get(*name)?.clone()))).collect()
}

/// Follows line by line.
struct Lines {
    link: Link,
    arguments: Map<String, Value>,
    grep: Option<Search>,
    read: Reading,
}

impl Lines {
    fn new(link: Link, mut arguments: Map<String, Value>, grep: Option<Search>, read: Reading) -> Lines {
        for name in ["since_time", "lines", "run"] {
            arguments.remove(name);
        }
        arguments.insert("lines".into(), json!(LINES));
        arguments.insert("is_forward".into(), json!(true));
        Lines { link, arguments, grep, read }
    }

    fn go(&mut self, until: Option<String>, deadline: Option<Instant>) -> Result<u8, Trouble> {
        self.arguments.insert("wait_for".into(), json!(until.as_deref().unwrap_or("")));
        let mut has_matched = false;
        loop {
            let longest = POLL[usize::from(until.is_some())];
            let left = deadline.map_or(longest, |end| end.saturating_duration_since(Instant::now()).min(longest));
            let cursor = self.read.cursor.clone();
            self.arguments.insert("after".into(), json!(cursor));
            self.arguments
                .insert("timeout".into(), json!(if has_matched { 0 } else { left.as_millis().div_ceil(1000) }));
            self.read = self.ask()?;
            self.read.note(&self.link);
            self.show()?;
            has_matched |= self.read.waited == "matched" && until.is_some();
            if self.read.is_cut {
                continue; // there is more already
            }
            if has_matched {
                return Ok(0);
            }
            if self.read.waited == "ended" {
                return if until.is_some() { verdict("ended") } else { Ok(0) };
            }
            if deadline.is_some_and(|end| end <= Instant::now()) {
                return if until.is_some() { verdict("timeout") } else { Ok(0) };
            }
        }
    }

    /// Also from the next server, should this one go.
    fn ask(&mut self) -> Result<Reading, Trouble> {
        let begun = Instant::now();
        loop {
            match self.link.read_output(&self.arguments) {
                Err(Trouble::Unreachable(_)) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(RECONNECT);
                    if self.link.config.autostart && begun.elapsed() > 6 * RECONNECT {
                        let _ = self.link.ensure_server();
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Prints what was read, as far as it is searched for.
    fn show(&mut self) -> Result<(), Trouble> {
        let bytes = std::mem::take(&mut self.read.bytes);
        match &mut self.grep {
            Some(search) => terminal::print(&search.choose(&bytes)),
            None => terminal::print(&bytes),
        }
    }
}
