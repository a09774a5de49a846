//! `ctrl`: start, stop, restart, input, signal; and what came of a start.

use super::{Context, target, urls};
use crate::agents::is_agent_variable;
use crate::api::params::{Action, ControlRequest};
use crate::api::{self, ControlAnswer};
use crate::attributes;
use crate::error::{Error, ErrorKind};
use crate::log::Stream;
use crate::manager::lookup::{Selector, Target};
use crate::manager::watch::Run;
use crate::manager::{self, GRACE, IfRunning, Request, Stopped, usage};
use crate::os_text::{self, OsText};
use crate::output::caller::Unattended;
use crate::output::cursor::{Cursor, Place};
use crate::output::lines::Line;
use crate::output::query::{Query, Selection, Unfinished};
use crate::output::scope::{Parts, RunSlice, Scope, Source};
use crate::output::select::select;
use crate::output::wait::{self, Until, WAIT_MAX, WaitOutcome};
use crate::sys;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a new process is watched when the caller did not say what to wait for: most of what fails at once fails in this
/// time.
const SETTLE_TIME: Duration = Duration::from_millis(300);
/// How long to wait after a match: what a server says of itself comes in several lines, and the first one to say
/// `ready` is seldom the one with the address.
const BANNER_TIME: Duration = Duration::from_millis(50);
/// Lines of the beginning, and of the end, that are shown of a fresh process.
const SHOWN_LINES: usize = 15;
/// So much of the beginning is looked at for URLs, in lines and bytes.
const URL_SEARCH_MAX: (usize, usize) = (1000, 256 << 10);

/// What `ctrl` did.
pub struct Control {
    pub action: Action,
    pub run: Arc<Run>,
    /// Of a stop, also as part of a restart.
    pub stopped: Option<Stopped>,
    /// Of a start.
    pub verdict: Option<StartOutcome>,
    /// Of input and signals: after all that was there before, so that no response to them is missed.
    pub cursor: Option<Cursor>,
    /// Of a start: another process that runs the same command in the same directory.
    pub duplicate: Option<Arc<Run>>,
}

/// What came out of a start so far.
pub struct StartOutcome {
    pub outcome: WaitOutcome,
    /// What was waited for.
    pub wait_for: Option<String>,
    pub took: Duration,
    /// The first lines; if it has ended, the last ones of stdout.
    pub lines: Vec<Line>,
    /// Lines between those, as far as they were counted, and the last ones.
    pub left_out: u64,
    pub last: Vec<Line>,
    /// If it has ended: its last lines on stderr.
    pub errors: Vec<Line>,
    pub urls: Vec<String>,
    pub ports: Vec<u16>,
    /// Behind all of these lines.
    pub cursor: Cursor,
}

impl Control {
    /// What our own commands get.
    pub fn answer(&self) -> ControlAnswer {
        let mut process = manager::describe(&self.run);
        if let Some(stopped) = &self.stopped {
            process.exit_code = stopped.status.exit_code;
            process.signal = stopped.status.signal.map(sys::signal_name);
        }
        let stopped = self.stopped.as_ref();
        let killed = stopped.and_then(|stopped| stopped.status.stop.as_ref()).map_or(0, |stop| stop.killed);
        ControlAnswer {
            action: self.action,
            cursor: self.verdict.as_ref().map(|_| api::start_cursor(&process.run)),
            was_over: stopped.is_some_and(|stopped| stopped.was_over),
            killed_processes: killed as u64,
            process,
        }
    }
}

pub fn call(request: &ControlRequest, context: &Context) -> Result<Control, Error> {
    refuse_unused(request)?;
    let grace = if request.force { Duration::ZERO } else { GRACE };
    let key = context.idempotency_key.as_deref();
    let found = || context.manager.find(&meant(request, context)?);
    let done = |run: Arc<Run>| Control {
        action: request.action,
        run,
        stopped: None,
        verdict: None,
        cursor: None,
        duplicate: None,
    };
    Ok(match request.action {
        Action::Start => start(request, context)?,
        Action::Stop => {
            // Sent again, it means the run that it meant before, and not one that has its label now.
            let before = key.and_then(|key| context.manager.stopped_by(key));
            let is_first = before.is_none();
            let run = before.map_or_else(found, Ok)?;
            let stopped = context.manager.stop(&run, grace, key)?;
            // That it is over by now is what came of this very request.
            let was_over = stopped.was_over && is_first;
            Control { stopped: Some(Stopped { was_over, ..stopped }), ..done(run) }
        }
        Action::Restart => {
            let old = found()?;
            let until = until(request)?;
            let run = context.manager.restart(&old, grace, key)?.run;
            let verdict = verdict(&run, until, request, context)?;
            Control { verdict: Some(verdict), ..done(run) }
        }
        Action::Input => {
            let run = found()?;
            let text = request.text.as_ref().ok_or_else(|| Error::invalid("input needs the parameter 'text'"))?;
            let cursor = end(&run);
            context.manager.input(&run, format!("{}\n", text.strip_suffix('\n').unwrap_or(text)).as_bytes())?;
            Control { cursor, ..done(run) }
        }
        Action::Signal => {
            let run = found()?;
            let name = request.text.as_deref().unwrap_or("");
            let number = sys::signal_number(name);
            let number = number.ok_or_else(|| {
                Error::invalid(format!("'{name}' is not a valid signal; 'text' names one, such as HUP or USR1"))
            })?;
            let cursor = end(&run);
            context.manager.signal(&run, number)?;
            Control { cursor, ..done(run) }
        }
    })
}

/// The process that is meant. A run is named by its number alone, so that nothing else can be meant by it.
fn meant(request: &ControlRequest, context: &Context) -> Result<Target, Error> {
    let directory = request.working_directory.as_deref();
    let target = target(request.pid, request.command_or_label.as_deref(), directory, context)?;
    match run(request) {
        None => Ok(target),
        Some(id) if target.selector.is_none() => Ok(Target { selector: Some(Selector::Run(id)), ..target }),
        Some(_) => Err(Error::invalid("'run' alone says which process; leave out 'pid' and 'command_or_label'")),
    }
}

/// The number of a run, if one is given; some models write 0 for what they do not need.
fn run(request: &ControlRequest) -> Option<u64> {
    request.run.filter(|run| *run > 0)
}

/// Refuses what an action would silently ignore, and a caller would then rely on: a restart with another environment, a
/// line to wait for.
fn refuse_unused(request: &ControlRequest) -> Result<(), Error> {
    let action = request.action;
    let starts = matches!(action, Action::Start | Action::Restart);
    let has_text = matches!(action, Action::Input | Action::Signal);
    let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let is_name = request.label == request.command_or_label;
    let parameters = [
        (
            "environment",
            !request.environment.is_empty(),
            action == Action::Start,
            "a process keeps what it was started with: stop it, and start it anew",
        ),
        (
            "label",
            is_given(&request.label),
            action == Action::Start || is_name,
            "name the process by command_or_label; it keeps the label it has",
        ),
        (
            "wait_for",
            is_given(&request.wait_for),
            starts,
            "to wait for what it says, call output with wait_for and after=<cursor>",
        ),
        ("text", is_given(&request.text), has_text, "that is for input and signal"),
        ("run", run(request).is_some(), action != Action::Start, "to start a run's command again, use restart"),
    ];
    match parameters.into_iter().find(|(_, is_given, is_used, _)| *is_given && !is_used) {
        Some((name, _, _, hint)) => Err(Error::invalid(format!("{} does not take '{name}'; {hint}", action.name()))),
        None => Ok(()),
    }
}

fn until(request: &ControlRequest) -> Result<Option<Until>, Error> {
    request.wait_for.as_deref().map(Until::parse).transpose()
}

fn start(request: &ControlRequest, context: &Context) -> Result<Control, Error> {
    let until = until(request)?;
    let start = start_request(request, context)?;
    let duplicate = if request.environment.is_empty() { context.manager.running(&start) } else { None };
    let started = context.manager.start(start, IfRunning::Refuse).map_err(|error| with_cursor(error, context))?;
    let duplicate = duplicate.filter(|duplicate| duplicate.id != started.run.id); // this call may have come before
    let verdict = verdict(&started.run, until, request, context)?;
    let action = Action::Start;
    Ok(Control { action, run: started.run, stopped: None, verdict: Some(verdict), cursor: None, duplicate })
}

/// What the manager is to start.
fn start_request(request: &ControlRequest, context: &Context) -> Result<Request, Error> {
    let command = request.command_or_label.as_deref().unwrap_or("").trim();
    if command.is_empty() {
        return Err(Error::invalid("start needs the command in 'command_or_label'"));
    }
    let directory = request.working_directory.as_deref().map(str::trim).filter(|directory| !directory.is_empty());
    let directory = directory.ok_or_else(|| {
        Error::invalid("start needs 'working_directory', the absolute path of the project: this server does not know where you are")
    })?;
    let argv = os_text::split(command).map_err(Error::invalid)?.into_iter().map(OsText::from).collect();
    let added = &request.environment;
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if command.contains('\0') || added.iter().any(|(name, value)| !is_name(name) || value.contains('\0')) {
        return Err(Error::invalid(
            "no program can be given this: NUL in the command or in a variable, or a variable whose name is empty or holds =",
        ));
    }
    // The server may have been started from the shell of one agent, and starts things for all.
    let is_added = |name: &OsString| name.to_str().is_some_and(|name| added.contains_key(name));
    let inherited = std::env::vars_os().filter(|(name, value)| !is_agent_variable(name, value) && !is_added(name));
    Ok(Request {
        argv,
        working_directory: PathBuf::from(directory),
        environment: inherited
            .map(|(name, value)| (OsText(name), OsText(value)))
            .chain(added.iter().map(|(name, value)| (OsText::from(name), OsText::from(value))))
            .collect(),
        label: request.label.clone(),
        idempotency_key: context.idempotency_key.clone(),
        reader: None,
        attributes: attributes::for_agent_start(),
    })
}

/// Adds where the output of the process that is running already can be read from here on.
fn with_cursor(error: Error, context: &Context) -> Error {
    let ErrorKind::AlreadyRunning(id) = error.kind else { return error };
    match context.manager.get(id).and_then(|run| end(&run)) {
        Some(cursor) => error.with_hint(&format!("to read what it says from now on: cursor={cursor}")),
        None => error,
    }
}

/// Behind all that a run has said so far.
fn end(run: &Arc<Run>) -> Option<Cursor> {
    select(&whole(run), &Query::tail(Stream::Combined, 1), &Unattended).ok()?.cursor
}

/// All that a run said.
pub fn whole(run: &Arc<Run>) -> Parts {
    let piece = RunSlice { run: run.clone(), after: None, before: None };
    let source = Source { label: run.meta.label.clone(), pieces: vec![piece] };
    Parts { sources: vec![source], known: None, is_everything: false, gone: Vec::new() }
}

fn verdict(
    run: &Arc<Run>,
    until: Option<Until>,
    request: &ControlRequest,
    context: &Context,
) -> Result<StartOutcome, Error> {
    let begun = Instant::now();
    let is_told = until.is_some() || request.timeout.is_some();
    let limit = if is_told { request.timeout().min(WAIT_MAX) } else { SETTLE_TIME };
    let start = Cursor::of(Place { run: run.id, stream: Stream::Combined, offset: 0, open: [None; 2] });
    let scope = Scope::of_run(context.manager, run.clone());
    // Of what goes into the background the first process ends at once, and only a caller that waits for a line of the
    // rest wants to wait on.
    let with_leader = until.is_none();
    let until = until.unwrap_or(Until::Ended);
    let wait_for =
        |until: &Until, limit| wait::wait(&scope, Stream::Combined, &start, until, limit, with_leader, &context.caller);
    let outcome = wait_for(&until, limit)?;
    if outcome == WaitOutcome::Matched {
        wait_for(&Until::Ended, BANNER_TIME)?;
    }
    let took = begun.elapsed();
    let (lines, most_bytes) = URL_SEARCH_MAX;
    let parts = whole(run);
    let head =
        Query { is_forward: true, unfinished: Unfinished::Held, most_bytes, ..Query::tail(Stream::Combined, lines) };
    let head = select(&parts, &head, &context.caller)?;
    let tail = select(&parts, &Query::tail(Stream::Combined, SHOWN_LINES), &context.caller)?;
    let urls = urls::find(head.lines.iter().chain(&tail.lines).map(|selected| selected.line.text.as_slice()));
    let ports = usage(&[run]).remove(0).map_or(Vec::new(), |usage| usage.ports);
    let cursor = tail.cursor.clone().unwrap_or(start);
    let mut verdict = StartOutcome {
        outcome,
        wait_for: request.wait_for.clone(),
        took,
        lines: Vec::new(),
        left_out: 0,
        last: Vec::new(),
        errors: Vec::new(),
        urls,
        ports,
        cursor,
    };
    if run.status().leader_ended.is_some() {
        let last = |stream| select(&parts, &Query::tail(stream, SHOWN_LINES), &context.caller).map(lines_of);
        (verdict.lines, verdict.errors) = (last(Stream::Stdout)?, last(Stream::Stderr)?);
        return Ok(verdict);
    }
    let total = tail.before.map(|before| before + tail.lines.len() as u64);
    (verdict.lines, verdict.last) = (lines_of(head), lines_of(tail));
    join(&mut verdict, total);
    Ok(verdict)
}

fn lines_of(selection: Selection) -> Vec<Line> {
    selection.lines.into_iter().map(|selected| selected.line).collect()
}

/// The beginning and the end of the output may be the same lines; and both shall be short.
fn join(verdict: &mut StartOutcome, total: Option<u64>) {
    let behind = verdict.lines.last().map_or(0, |line| line.last + u64::from(line.is_finished));
    verdict.last.retain(|line| line.last >= behind);
    verdict.lines.append(&mut verdict.last);
    if verdict.lines.len() > 2 * SHOWN_LINES {
        verdict.last = verdict.lines.split_off(verdict.lines.len() - SHOWN_LINES);
        let known = verdict.lines.len() - SHOWN_LINES;
        verdict.left_out = total.map_or(known as u64, |total| total.saturating_sub(2 * SHOWN_LINES as u64));
        verdict.lines.truncate(SHOWN_LINES);
    }
}
