//! `output`: of which processes, which lines, after which wait. Serves the tool, the command line and `GET /output`.

use super::{Arguments, Context, seconds, target};
use crate::fault::Fault;
use crate::log::Stream;
use crate::log::stamp::{format_ms, now_ms, parse_time};
use crate::manager::lookup::name_of;
use crate::manager::watch::Run;
use crate::output::cursor::Cursor;
use crate::output::lines::Line;
use crate::output::pattern::Pattern;
use crate::output::query::{Query, SEARCH, Selection, Unfinished, select};
use crate::output::scope::{Parts, Scope};
use crate::output::wait::{self, Caller, Outcome, Unattended, Until};
use crate::words;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A label of so many bytes is repeated in the next call.
const SHORT: usize = 60;

/// How long is searched, after a wait in vain, for a line that was there before it.
const COURTESY: Duration = Duration::from_secs(1);

/// What `output` read.
pub struct Output {
    pub processes: Vec<Process>,
    /// Lines of several processes may come together.
    pub is_merged: bool,
    pub selection: Selection,
    pub waited: Option<Outcome>,
    /// The newest line that matches what was waited for in vain: it may have been said before anybody waited.
    pub earlier: Option<Line>,
    /// Runs at which the cursor was, and which are not kept any more.
    pub gone_runs: Vec<u64>,
    /// How many lines were asked for.
    pub lines: usize,
    pub max_bytes: usize,
    /// Arguments of the same question, without those that say where to go on, and without a wait.
    asked: Map<String, Value>,
    /// How it was waited.
    wait: Map<String, Value>,
    after: Option<Cursor>,
}

/// One process, and its runs that were read.
pub struct Process {
    pub label: String,
    /// Short, for lines of several processes.
    pub name: String,
    /// Oldest first.
    pub runs: Vec<Arc<Run>>,
}

impl Output {
    /// Names in front of lines: none if it is clear whose they are.
    pub fn names(&self) -> Vec<String> {
        if self.is_merged {
            self.processes.iter().map(|process| words::one_line(&process.name)).collect()
        } else {
            Vec::new()
        }
    }

    /// The call that reads what came before the shown line of this number. The cursor says whose lines they are.
    pub fn call_before(&self, number: usize) -> String {
        let mut arguments = self.asked.clone();
        arguments.retain(|name, _| !matches!(name.as_str(), "command_or_label" | "working_directory"));
        arguments.insert("before".into(), json!(self.cursor_before(number)));
        if let Some(after) = &self.after {
            arguments.insert("after".into(), json!(after.to_string()));
        }
        as_call(&arguments)
    }

    /// The cursor of that call.
    pub fn cursor_before(&self, number: usize) -> String {
        self.selection.before_line(number).to_string()
    }

    pub fn waits_for_quiet(&self) -> bool {
        self.wait.get("wait_for").is_some_and(|wait_for| wait_for == "quiet")
    }

    /// The call that goes on waiting.
    pub fn call_again(&self) -> String {
        let mut arguments = self.asked.clone();
        if let Some(cursor) = &self.selection.cursor {
            arguments.insert("after".into(), json!(cursor.to_string()));
        }
        if !self.is_merged && self.processes.iter().any(|process| process.label.len() > SHORT) {
            arguments.remove("command_or_label"); // then the cursor has to say it
        }
        arguments.extend(self.wait.clone());
        as_call(&arguments)
    }
}

/// `output name="value" …`, in the order of the parameters.
fn as_call(arguments: &Map<String, Value>) -> String {
    let order = super::OUTPUT.iter().filter_map(|parameter| arguments.get_key_value(parameter.name));
    order.fold("output".into(), |call: String, (name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), words::quote_json);
        format!("{call} {name}={value}")
    })
}

pub fn call(arguments: &Arguments, context: &Context, adapt: impl Fn(&mut Query)) -> Result<Output, Fault> {
    let cursor = |name: &str| arguments.text(name).map(str::parse::<Cursor>).transpose();
    let (after, before) = (cursor("after")?, cursor("before")?);
    let until = arguments.text("wait_for").map(Until::parse).transpose()?;
    if until.is_some() {
        wait::admit(&context.caller)?;
    }
    let target = target(arguments, context)?;
    let scope = Scope::of(context.manager, &target, arguments.integer("run"), [after.as_ref(), before.as_ref()])?;
    let mut query = query(arguments, [after.as_ref(), before.as_ref()])?;
    adapt(&mut query);
    let (mut after, mut waited, mut earlier) = (after, None, None);
    if let Some(until) = until {
        let from = match &after {
            Some(after) => after.clone(),
            None => end(&scope.parts(None, None), &query)?,
        };
        let limit = seconds(arguments);
        let outcome = wait::wait(&scope, query.stream, &from, &until, limit, false, &context.caller)?;
        if outcome == Outcome::Matched && query.unfinished == Unfinished::HeldUnlessMatched {
            query.unfinished = Unfinished::Shown;
        }
        if let (Until::Match(pattern), Outcome::TimedOut | Outcome::Over, None) = (&until, outcome, &after)
            && !scope.is_merged()
        {
            earlier = newest_match(&scope, &from, pattern, query.stream, &context.caller)?;
        }
        waited = Some(outcome);
        after = Some(from);
    }
    let parts = scope.parts(after.as_ref(), before.as_ref());
    query.deadline = Instant::now() + SEARCH; // not counting the wait
    let selection = select(&parts, &query, &context.caller)?;
    let processes = processes(&parts);
    Ok(Output {
        is_merged: scope.is_merged(),
        selection,
        waited,
        earlier,
        gone_runs: parts.gone,
        lines: query.lines,
        max_bytes: arguments.integer("max_bytes").unwrap_or(8000) as usize,
        asked: asked(arguments, &processes, &query),
        wait: arguments.only(&["wait_for", "timeout"]),
        after,
        processes,
    })
}

/// The cursor behind all that there is now.
fn end(parts: &Parts, query: &Query) -> Result<Cursor, Fault> {
    let selection = select(parts, &Query::tail(query.stream, 1), &Unattended)?;
    selection.cursor.ok_or_else(|| Fault::not_found("there is no run whose output could be waited for"))
}

/// The newest line before `end` that matches.
fn newest_match(
    scope: &Scope,
    end: &Cursor,
    pattern: &Pattern,
    stream: Stream,
    caller: &dyn Caller,
) -> Result<Option<Line>, Fault> {
    let deadline = Instant::now() + COURTESY;
    let query = Query { grep: Some(pattern.clone()), deadline, ..Query::tail(stream, 1) };
    let selection = select(&scope.parts(None, Some(end)), &query, caller)?;
    Ok(selection.lines.into_iter().last().map(|selected| selected.line))
}

/// The same question, put so that it means the same later.
fn asked(arguments: &Arguments, processes: &[Process], query: &Query) -> Map<String, Value> {
    let mut asked =
        arguments.only(&["command_or_label", "working_directory", "stream", "lines", "grep", "context", "max_bytes"]);
    let name = |process: &Process| process.runs.last().map_or_else(|| process.label.clone(), |run| name_of(run));
    let names: Vec<String> = processes.iter().map(name).collect();
    if arguments.integer("pid").is_some() || arguments.text("command_or_label").is_none() {
        // A number may be somebody else's tomorrow.
        asked.insert("command_or_label".into(), json!(names.join(",")));
    }
    for (name, time) in [("since_time", query.since), ("before_time", query.before)] {
        if let Some(ms) = time {
            asked.insert(name.into(), json!(format_ms(ms)));
        }
    }
    asked
}

fn processes(parts: &Parts) -> Vec<Process> {
    let named = parts.sources.iter().filter(|source| !source.pieces.is_empty()).count();
    let process = |source: &crate::output::scope::Source| {
        let runs: Vec<Arc<Run>> = source.pieces.iter().map(|piece| piece.run.clone()).collect();
        let name = runs.last().filter(|_| named > 1).map_or_else(|| source.label.clone(), |run| short(run));
        Process { label: source.label.clone(), name, runs }
    };
    let mut processes: Vec<Process> = parts.sources.iter().map(process).collect();
    for i in 0..processes.len() {
        if processes.iter().enumerate().any(|(j, other)| j != i && other.name == processes[i].name) {
            processes[i].name = processes[i].label.clone();
        }
    }
    processes
}

/// A label without the directory that all share, and not longer than a name should be.
fn short(run: &Run) -> String {
    const LONGEST: usize = 40;
    let directory = format!(" in {}", run.meta.working_directory.shown());
    let name = run.meta.label.strip_suffix(&directory).unwrap_or(&run.meta.label);
    if name.chars().count() <= LONGEST { name.into() } else { name.chars().take(LONGEST - 1).chain(['…']).collect() }
}

fn query(arguments: &Arguments, cursors: [Option<&Cursor>; 2]) -> Result<Query, Fault> {
    let now = now_ms();
    let time = |name: &str| {
        let parse = |text: &str| parse_time(text, now).map_err(|problem| Fault::invalid(format!("{name}: {problem}")));
        arguments.text(name).map(parse).transpose()
    };
    let stream = arguments.text("stream").and_then(Stream::from_name);
    let of_cursors = cursors.into_iter().flatten().filter_map(|cursor| cursor.places.first()).map(|place| place.stream);
    let wanted = stream.or(of_cursors.clone().next()).unwrap_or(Stream::Combined);
    if let Some(other) = of_cursors.clone().find(|stream| *stream != wanted) {
        return Err(Fault::invalid(format!("the cursor is of {}, not of {}", other.name(), wanted.name())));
    }
    Ok(Query {
        since: time("since_time")?,
        before: time("before_time")?,
        grep: arguments.text("grep").map(Pattern::parse).transpose()?,
        context: arguments.integer("context").unwrap_or(0) as usize,
        ..Query::tail(wanted, arguments.integer("lines").unwrap_or(100) as usize)
    })
}
