//! `ctrl`: start, stop, restart, input, signal; and what came of a start.

use super::{Answer, Arguments, Context, seconds, target};
use crate::agents::is_agent_variable;
use crate::attributes;
use crate::fault::Fault;
use crate::log::Stream;
use crate::manager::lookup::{Selector, Target};
use crate::manager::watch::Run;
use crate::manager::{GRACE, IfRunning, Request, Stopped, usage};
use crate::output::cursor::{Cursor, Place};
use crate::output::lines::Line;
use crate::output::query::{Query, Selection, Unfinished, select};
use crate::output::scope::{Parts, Piece, Scope, Source};
use crate::output::view;
use crate::output::wait::{self, Outcome, Unattended, Until};
use crate::sys;
use crate::words::{self, Word};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a fresh process is watched when nobody said what to wait for: most of what fails at once fails in this.
const SETTLING: Duration = Duration::from_millis(300);
/// How long is waited behind a match: what a server says of itself comes in several lines, and the first one to say
/// `ready` is seldom the one with the address.
const BANNER: Duration = Duration::from_millis(50);
/// Lines of the beginning, and of the end, that are shown of a fresh process.
const FIRST: usize = 15;
/// So much of the beginning is looked at for URLs, in lines and bytes.
const LOOKED_AT: (usize, usize) = (1000, 256 << 10);
/// URLs that are told.
const URLS: usize = 5;

/// What `ctrl` did.
pub struct Control {
    pub action: &'static str,
    pub run: Arc<Run>,
    /// Of a stop, also as part of a restart.
    pub stopped: Option<Stopped>,
    /// Of a start.
    pub verdict: Option<Verdict>,
    /// Of input and signals: behind all that was there before, so that no answer to them is missed.
    pub cursor: Option<Cursor>,
    /// Of a start: another process that runs the same command in the same directory.
    pub twin: Option<Arc<Run>>,
}

/// What came out of a start so far.
pub struct Verdict {
    pub outcome: Outcome,
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

pub fn call(arguments: &Arguments, context: &Context) -> Result<Answer, Fault> {
    refuse_unused(arguments)?;
    let grace = if arguments.flag("force") { Duration::ZERO } else { GRACE };
    let key = context.idempotency_key.as_deref();
    let found = || context.manager.find(&meant(arguments, context)?);
    let done = |action: &'static str, run: Arc<Run>| Control {
        action,
        run,
        stopped: None,
        verdict: None,
        cursor: None,
        twin: None,
    };
    let control = match arguments.text("action") {
        Some("start") => start(arguments, context)?,
        Some("stop") => {
            // Sent again, it means the run that it meant before, and not one that has its label now.
            let before = key.and_then(|key| context.manager.stopped_by(key));
            let is_first = before.is_none();
            let run = before.map_or_else(found, Ok)?;
            let stopped = context.manager.stop(&run, grace, key)?;
            // That it is over by now is what came of this very request.
            let was_over = stopped.was_over && is_first;
            Control { stopped: Some(Stopped { was_over, ..stopped }), ..done("stop", run) }
        }
        Some("restart") => {
            let old = found()?;
            let until = until(arguments)?;
            let run = context.manager.restart(&old, grace, key)?.run;
            let verdict = verdict(&run, until, arguments, context)?;
            Control { verdict: Some(verdict), ..done("restart", run) }
        }
        Some("input") => {
            let run = found()?;
            let text = arguments.text("text").ok_or_else(|| Fault::invalid("input needs the parameter 'text'"))?;
            let cursor = end(&run);
            context.manager.input(&run, format!("{}\n", text.strip_suffix('\n').unwrap_or(text)).as_bytes())?;
            Control { cursor, ..done("input", run) }
        }
        _ => {
            let run = found()?;
            let name = arguments.text("text").unwrap_or("");
            let number = sys::signal_number(name);
            let number = number.ok_or_else(|| {
                Fault::invalid(format!("'{name}' is no signal; 'text' names one, such as HUP or USR1"))
            })?;
            let cursor = end(&run);
            context.manager.signal(&run, number)?;
            Control { cursor, ..done("signal", run) }
        }
    };
    Ok(Answer::Control(Box::new(control)))
}

/// The process that is meant. A run is named by its number alone, so that nothing else can be meant by it.
fn meant(arguments: &Arguments, context: &Context) -> Result<Target, Fault> {
    let target = target(arguments, context)?;
    match run(arguments) {
        None => Ok(target),
        Some(id) if target.selector.is_none() => Ok(Target { selector: Some(Selector::Run(id)), ..target }),
        Some(_) => Err(Fault::invalid("'run' alone says which process; leave out 'pid' and 'command_or_label'")),
    }
}

/// The number of a run, if one is given; some models write 0 for what they do not need.
fn run(arguments: &Arguments) -> Option<u64> {
    arguments.integer("run").and_then(|run| u64::try_from(run).ok()).filter(|run| *run > 0)
}

/// What an action would pass over in silence, and somebody would then believe in: a restart with another environment, a
/// line that was waited for.
fn refuse_unused(arguments: &Arguments) -> Result<(), Fault> {
    let action = arguments.text("action").unwrap_or_default();
    let begins = matches!(action, "start" | "restart");
    let speaks = matches!(action, "input" | "signal");
    let is_given = |name: &str| match name {
        "run" => run(arguments).is_some(),
        _ => arguments.text(name).is_some_and(|text| !text.is_empty()) || !arguments.strings(name).is_empty(),
    };
    let is_name = arguments.text("label") == arguments.text("command_or_label");
    let unused = [
        ("environment", action == "start", "a process keeps what it was started with: stop it, and start it anew"),
        ("label", action == "start" || is_name, "name the process by command_or_label; it keeps the label it has"),
        ("wait_for", begins, "to wait for what it says, call output with wait_for and after=<cursor>"),
        ("text", speaks, "that is for input and signal"),
        ("run", action != "start", "to start a run's command again, use restart"),
    ];
    match unused.into_iter().find(|(name, is_used, _)| !is_used && is_given(name)) {
        Some((name, _, hint)) => Err(Fault::invalid(format!("{action} does not take '{name}'; {hint}"))),
        None => Ok(()),
    }
}

fn until(arguments: &Arguments) -> Result<Option<Until>, Fault> {
    arguments.text("wait_for").map(Until::parse).transpose()
}

fn start(arguments: &Arguments, context: &Context) -> Result<Control, Fault> {
    let command = arguments.text("command_or_label").unwrap_or("").trim();
    if command.is_empty() {
        return Err(Fault::invalid("start needs the command in 'command_or_label'"));
    }
    let directory = arguments.text("working_directory").map(str::trim).filter(|d| !d.is_empty()).ok_or_else(|| {
        Fault::invalid("start needs 'working_directory', the absolute path of the project: this server does not know where you are")
    })?;
    let until = until(arguments)?;
    let argv = words::split(command).map_err(Fault::invalid)?.into_iter().map(Word::from).collect();
    let added = arguments.strings("environment");
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if command.contains('\0') || added.iter().any(|(name, value)| !is_name(name) || value.contains('\0')) {
        return Err(Fault::invalid(
            "no program can be given this: NUL in the command or in a variable, or a variable whose name is empty or holds =",
        ));
    }
    // The server may have been started from the shell of one agent, and starts things for all.
    let inherited = std::env::vars_os()
        .filter(|(name, value)| !is_agent_variable(name, value) && !added.iter().any(|(added, _)| name == added));
    let environment = inherited
        .map(|(name, value)| (Word(name), Word(value)))
        .chain(added.iter().map(|(name, value)| (Word::from(*name), Word::from(*value))))
        .collect();
    let request = Request {
        argv,
        working_directory: PathBuf::from(directory),
        environment,
        label: arguments.text("label").map(String::from),
        idempotency_key: context.idempotency_key.clone(),
        reader: None,
        attributes: attributes::for_agent_start(),
    };
    let twin = if added.is_empty() { context.manager.running(&request) } else { None };
    let started = context.manager.start(request, IfRunning::Refuse);
    let started = started.map_err(|fault| with_cursor(fault, context))?;
    let twin = twin.filter(|twin| twin.id != started.run.id); // this call may have come before
    let verdict = verdict(&started.run, until, arguments, context)?;
    Ok(Control { action: "start", run: started.run, stopped: None, verdict: Some(verdict), cursor: None, twin })
}

/// What runs already can be read from here on.
fn with_cursor(fault: Fault, context: &Context) -> Fault {
    let run = fault.run.and_then(|id| context.manager.get(id));
    match run.and_then(|run| end(&run)) {
        Some(cursor) => {
            Fault { text: format!("{}; to read what it says from now on: cursor={cursor}", fault.text), ..fault }
        }
        None => fault,
    }
}

/// Behind all that a run has said so far.
fn end(run: &Arc<Run>) -> Option<Cursor> {
    select(&whole(run), &Query::tail(Stream::Combined, 1), &Unattended).ok()?.cursor
}

/// All that a run said.
pub fn whole(run: &Arc<Run>) -> Parts {
    let piece = Piece { run: run.clone(), after: None, before: None };
    let source = Source { label: run.meta.label.clone(), pieces: vec![piece] };
    Parts { sources: vec![source], known: None, is_everything: false, gone: Vec::new() }
}

fn verdict(run: &Arc<Run>, until: Option<Until>, arguments: &Arguments, context: &Context) -> Result<Verdict, Fault> {
    let begun = Instant::now();
    let is_told = until.is_some() || arguments.integer("timeout").is_some();
    let limit = if is_told { seconds(arguments) } else { SETTLING };
    let start = Cursor::of(Place { run: run.id, stream: Stream::Combined, offset: 0, open: [None; 2] });
    let scope = Scope::of_run(context.manager, run.clone());
    // Of what goes into the background the first process ends at once, and only somebody who waits for a line of the
    // rest wants to wait on.
    let with_leader = until.is_none();
    let until = until.unwrap_or(Until::Over);
    let wait_for =
        |until: &Until, limit| wait::wait(&scope, Stream::Combined, &start, until, limit, with_leader, &context.caller);
    let outcome = wait_for(&until, limit)?;
    if outcome == Outcome::Matched {
        wait_for(&Until::Over, BANNER)?;
    }
    let took = begun.elapsed();
    let (lines, most_bytes) = LOOKED_AT;
    let parts = whole(run);
    let head =
        Query { is_forward: true, unfinished: Unfinished::Held, most_bytes, ..Query::tail(Stream::Combined, lines) };
    let head = select(&parts, &head, &context.caller)?;
    let tail = select(&parts, &Query::tail(Stream::Combined, FIRST), &context.caller)?;
    let urls = urls(head.lines.iter().chain(&tail.lines).map(|selected| selected.line.text.as_slice()));
    let ports = usage(&[run]).remove(0).map_or(Vec::new(), |usage| usage.ports);
    let cursor = tail.cursor.clone().unwrap_or(start);
    let mut verdict = Verdict {
        outcome,
        wait_for: arguments.text("wait_for").map(String::from),
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
        let last = |stream| select(&parts, &Query::tail(stream, FIRST), &context.caller).map(lines_of);
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
fn join(verdict: &mut Verdict, total: Option<u64>) {
    let behind = verdict.lines.last().map_or(0, |line| line.last + u64::from(line.is_finished));
    verdict.last.retain(|line| line.last >= behind);
    verdict.lines.append(&mut verdict.last);
    if verdict.lines.len() > 2 * FIRST {
        verdict.last = verdict.lines.split_off(verdict.lines.len() - FIRST);
        let known = verdict.lines.len() - FIRST;
        verdict.left_out = total.map_or(known as u64, |total| total.saturating_sub(2 * FIRST as u64));
        verdict.lines.truncate(FIRST);
    }
}

/// URLs in these lines, those of this machine first. They stand in sentences of ours, so they end where a part of one could
/// begin, and one that holds what looks like a cursor is left out.
pub fn urls<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in lines {
        let text = view::clean(line);
        let mut rest = &*text;
        while let Some(at) = ["http://", "https://"].iter().filter_map(|scheme| rest.find(scheme)).min() {
            let end = rest[at..].find(|c: char| !c.is_ascii_graphic() || "\"'`<>\\^{}|,;".contains(c));
            let (url, behind) = rest[at..].split_at(end.unwrap_or(rest.len() - at));
            rest = behind;
            let url = url.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '*', '…']);
            let is_sound = ("https://".len() + 1..=200).contains(&url.len()) && !url.contains("cursor=");
            if is_sound && !found.iter().any(|known| known == url) {
                found.push(url.into());
            }
        }
    }
    found.sort_by_key(|url| is_foreign(url));
    found.truncate(URLS);
    found
}

/// Whether a URL leads to another machine, or at least does not say that it is this one.
pub fn is_foreign(url: &str) -> bool {
    let host = url.split("//").nth(1).unwrap_or("");
    !["localhost", "127.", "0.0.0.0", "[::"].iter().any(|own| host.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_found_whole_clean_and_with_those_of_this_machine_first() {
        let lines: [&[u8]; 7] = [
            b"docs: https://vite.dev/guide/.",
            b"  \x1b[32m\xe2\x9e\x9c\x1b[39m  Local:   \x1b[36mhttp://localhost:\x1b[1m5173\x1b[22m/\x1b[39m",
            b"  Network: http://192.168.0.7:5173/, (http://127.0.0.1:9/x?y=1)",
            b"again http://localhost:5173/ http:// https://",
            b"{\"url\":\"http://[::1]:80\"}",
            b"https://x.org/\xe2\x98\x83 http",
            b"http://localhost:7/;cursor=r1 http://localhost:8/?cursor=r1.combined.5",
        ];
        assert_eq!(
            urls(lines.into_iter()),
            [
                "http://localhost:5173/",
                "http://127.0.0.1:9/x?y=1",
                "http://[::1]:80",
                "http://localhost:7/",
                "https://vite.dev/guide/"
            ]
        );
    }
}
