//! `output`: of which processes, which lines, after which wait. Serves the tool, the command line and `GET /output`.

use super::{Context, target};
use crate::api::params::{self, OutputRequest};
use crate::api::{OutputStatus, OutputSummary, ReadOptions};
use crate::error::Error;
use crate::log::Stream;
use crate::log::stamp::{format_ms, now_ms, parse_time};
use crate::manager::lookup::name_of;
use crate::manager::problem;
use crate::manager::watch::Run;
use crate::os_text;
use crate::output::caller::{Caller, Unattended, admit};
use crate::output::cursor::Cursor;
use crate::output::lines::Line;
use crate::output::pattern::Pattern;
use crate::output::query::{Query, SEARCH, Selection, Unfinished};
use crate::output::scope::{Parts, Scope};
use crate::output::select::select;
use crate::output::wait::{self, Until, WAIT_MAX, WaitOutcome};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A label of so many bytes is repeated in the next call.
const REPEATED_LABEL_MAX: usize = 60;

/// How long is searched, after a wait in vain, for a line that was there before it.
const EARLIER_MATCH_TIMEOUT: Duration = Duration::from_secs(1);

/// What `output` read.
pub struct Output {
    pub processes: Vec<Process>,
    /// Lines of several processes may come together.
    pub is_merged: bool,
    pub selection: Selection,
    pub waited: Option<WaitOutcome>,
    /// The newest line that matches what was waited for in vain: it may have been printed before the wait began.
    pub earlier: Option<Line>,
    /// Runs at which the cursor was, and which are not kept any more.
    pub gone_runs: Vec<u64>,
    /// How many lines were asked for.
    pub lines: usize,
    pub max_bytes: usize,
    /// The same request, put so that it means the same later; without cursors and without a wait.
    repeated: OutputRequest,
    wait_for: Option<String>,
    timeout: Option<u32>,
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
            self.processes.iter().map(|process| os_text::one_line(&process.name)).collect()
        } else {
            Vec::new()
        }
    }

    /// The call that reads what came before the shown line of this number. The cursor says whose lines they are.
    pub fn call_before(&self, number: usize) -> String {
        let request = OutputRequest {
            command_or_label: None,
            working_directory: None,
            before: Some(self.cursor_before(number)),
            after: self.after.as_ref().map(Cursor::to_string),
            ..self.repeated.clone()
        };
        params::as_call("output", &params::OUTPUT, &request)
    }

    /// The cursor of that call.
    pub fn cursor_before(&self, number: usize) -> String {
        self.selection.before_line(number).to_string()
    }

    pub fn waits_for_quiet(&self) -> bool {
        self.wait_for.as_deref() == Some("quiet")
    }

    /// The call that goes on waiting.
    pub fn call_again(&self) -> String {
        let mut request = OutputRequest {
            after: self.selection.cursor.as_ref().map(Cursor::to_string),
            wait_for: self.wait_for.clone(),
            timeout: self.timeout,
            ..self.repeated.clone()
        };
        if !self.is_merged && self.processes.iter().any(|process| process.label.len() > REPEATED_LABEL_MAX) {
            request.command_or_label = None; // then the cursor has to say it
        }
        params::as_call("output", &params::OUTPUT, &request)
    }

    /// What `--format json output` prints beside the lines.
    pub fn summary(&self) -> OutputSummary {
        let mut summary = OutputSummary {
            cursor: self.selection.cursor.as_ref().map(Cursor::to_string),
            lines_before: self.selection.before,
            lines_after: self.selection.after,
            waited: self.waited,
            note: self.note(),
            unwritten: self.unwritten(),
            ..OutputSummary::default()
        };
        if let [Process { label, runs, .. }] = self.processes.as_slice() {
            summary.label = Some(label.clone());
            summary.run = runs.last().map(|run| run.name());
            summary.state = runs.last().map(|run| run.status().state);
        } else {
            summary.labels = self.processes.iter().map(|process| process.label.clone()).collect();
        }
        summary
    }

    /// What is no longer kept, or was not searched.
    pub fn gone(&self) -> Vec<String> {
        let kept = |run| format!("r{run} of the cursor is not kept any more, this is what is");
        let mut gone: Vec<String> = self.gone_runs.iter().map(kept).collect();
        if !self.selection.stopped.is_empty() {
            gone.push("the search took too long, so older lines were not searched".into());
        }
        if self.selection.gone > 0 {
            gone.push(format!("{} bytes after the cursor are no longer kept", self.selection.gone));
        }
        gone
    }

    /// What a person should know beside the lines: restarts, and what is gone.
    fn note(&self) -> Option<String> {
        let mut notes = self.gone();
        for process in &self.processes {
            if let [_, .., newest] = process.runs.as_slice() {
                notes.push(format!("'{}' was restarted; this goes on with {}", process.label, newest.name()));
            }
        }
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    /// What is missing at the end of finished runs because it could not be written to disk.
    fn unwritten(&self) -> Option<String> {
        let runs = self.processes.iter().flat_map(|process| process.runs.iter().map(move |run| (process, run)));
        let lost = runs.filter(|(_, run)| run.is_over() && run.status().lost_bytes > 0);
        let texts = lost.map(|(process, run)| {
            format!("'{}' {}: {}", process.label, run.name(), problem(&run.status()).unwrap_or_default())
        });
        Some(texts.collect::<Vec<String>>().join("; ")).filter(|text| !text.is_empty())
    }

    /// What our own commands get before the lines.
    pub fn status(&self) -> OutputStatus {
        OutputStatus {
            summary: self.summary(),
            open: self.selection.open_stream(),
            is_cut: self.selection.is_cut,
            gone: self.selection.gone,
        }
    }
}

pub fn call(request: OutputRequest, options: &ReadOptions, context: &Context) -> Result<Output, Error> {
    let cursor = |text: &Option<String>| text.as_deref().map(str::parse::<Cursor>).transpose();
    let (after, before) = (cursor(&request.after)?, cursor(&request.before)?);
    let until = request.wait_for.as_deref().map(Until::parse).transpose()?;
    if until.is_some() {
        admit(&context.caller)?;
    }
    let directory = request.working_directory.as_deref();
    let target = target(request.pid, request.command_or_label.as_deref(), directory, context)?;
    let scope = Scope::of(context.manager, &target, request.run, [after.as_ref(), before.as_ref()])?;
    let mut query = query(&request, [after.as_ref(), before.as_ref()])?;
    apply(&mut query, options)?;
    let (mut after, mut waited, mut earlier) = (after, None, None);
    if let Some(until) = until {
        let from = match &after {
            Some(after) => after.clone(),
            None => end(&scope.parts(None, None), &query)?,
        };
        let limit = request.timeout().min(WAIT_MAX);
        let outcome = wait::wait(&scope, query.stream, &from, &until, limit, false, &context.caller)?;
        if outcome == WaitOutcome::Matched && query.unfinished == Unfinished::HeldUnlessMatched {
            query.unfinished = Unfinished::Shown;
        }
        if let (Until::Match(pattern), WaitOutcome::TimedOut | WaitOutcome::Ended, None) = (&until, outcome, &after)
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
        max_bytes: request.max_bytes(),
        repeated: repeated(&request, &processes, &query),
        wait_for: request.wait_for,
        timeout: request.timeout,
        after,
        processes,
    })
}

/// The cursor after all that there is now.
fn end(parts: &Parts, query: &Query) -> Result<Cursor, Error> {
    let selection = select(parts, &Query::tail(query.stream, 1), &Unattended)?;
    selection.cursor.ok_or_else(|| Error::not_found("there is no run whose output could be waited for"))
}

/// The newest line before `end` that matches.
fn newest_match(
    scope: &Scope,
    end: &Cursor,
    pattern: &Pattern,
    stream: Stream,
    caller: &dyn Caller,
) -> Result<Option<Line>, Error> {
    let deadline = Instant::now() + EARLIER_MATCH_TIMEOUT;
    let query = Query { grep: Some(pattern.clone()), deadline, ..Query::tail(stream, 1) };
    let selection = select(&scope.parts(None, Some(end)), &query, caller)?;
    Ok(selection.lines.into_iter().last().map(|selected| selected.line))
}

fn repeated(request: &OutputRequest, processes: &[Process], query: &Query) -> OutputRequest {
    let name = |process: &Process| process.runs.last().map_or_else(|| process.label.clone(), |run| name_of(run));
    let mut repeated = OutputRequest {
        pid: None,
        run: None,
        since_time: query.since.map(format_ms),
        before_time: query.before.map(format_ms),
        after: None,
        before: None,
        wait_for: None,
        timeout: None,
        ..request.clone()
    };
    if request.pid.is_some() || request.command_or_label.is_none() {
        // A PID may be another process's tomorrow.
        repeated.command_or_label = Some(processes.iter().map(name).collect::<Vec<String>>().join(","));
    }
    repeated
}

/// What only our own commands ask for.
fn apply(query: &mut Query, options: &ReadOptions) -> Result<(), Error> {
    (query.is_forward, query.unfinished) = (options.is_forward, options.unfinished.unwrap_or_default());
    query.context_from = options.context_from.as_deref().map(str::parse).transpose()?;
    if options.of_combined && query.stream != Stream::Combined {
        query.only = Some(std::mem::replace(&mut query.stream, Stream::Combined));
    }
    Ok(())
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
    const NAME_MAX: usize = 40;
    let directory = format!(" in {}", run.meta.working_directory.shown());
    let name = run.meta.label.strip_suffix(&directory).unwrap_or(&run.meta.label);
    if name.chars().count() <= NAME_MAX {
        name.into()
    } else {
        name.chars().take(NAME_MAX - 1).chain(['…']).collect()
    }
}

fn query(request: &OutputRequest, cursors: [Option<&Cursor>; 2]) -> Result<Query, Error> {
    let now = now_ms();
    let time = |name: &str, text: &Option<String>| {
        let parse = |text: &str| parse_time(text, now).map_err(|problem| Error::invalid(format!("{name}: {problem}")));
        text.as_deref().map(parse).transpose()
    };
    let of_cursors = cursors.into_iter().flatten().filter_map(|cursor| cursor.places.first()).map(|place| place.stream);
    let wanted = request.stream.or(of_cursors.clone().next()).unwrap_or(Stream::Combined);
    if let Some(other) = of_cursors.clone().find(|stream| *stream != wanted) {
        return Err(Error::invalid(format!("the cursor is of {}, not of {}", other.name(), wanted.name())));
    }
    Ok(Query {
        since: time("since_time", &request.since_time)?,
        before: time("before_time", &request.before_time)?,
        grep: request.grep.as_deref().map(Pattern::parse).transpose()?,
        context: request.context(),
        ..Query::tail(wanted, request.lines())
    })
}
