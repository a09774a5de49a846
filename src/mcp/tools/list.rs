//! `list`: the newest run of each process, with what it takes and what it said last.

use super::{Context, ctrl, target, urls};
use crate::api::Process;
use crate::api::params::ListRequest;
use crate::error::Error;
use crate::log::Stream;
use crate::log::read::Log;
use crate::log::stamp::now_ms;
use crate::manager::lookup::{Selector, Target};
use crate::manager::watch::{LogTail, Run};
use crate::manager::{Usage, describe, usage};
use crate::output::caller::Unattended;
use crate::output::query::Query;
use crate::output::select::select;
use crate::output::view;
use std::sync::Arc;

/// The processes that were asked for.
#[derive(Default)]
pub struct Listing {
    pub rows: Vec<Row>,
    /// If those of one directory were asked for: which, and how many processes there are in others.
    pub elsewhere: Option<(String, usize)>,
}

/// One of them.
#[derive(Default)]
pub struct Row {
    pub process: Process,
    /// Invisible characters that were left out of its last line.
    pub hidden: usize,
    /// Milliseconds since it started, or since it ended.
    pub age_ms: u64,
}

/// Lines that came since the status was written are counted only in so many bytes; the shim writes it once a second.
const COUNT_MAX: u64 = 16 << 20;
/// So much of the beginning is looked at for a URL, in bytes, stamps included.
const URL_SEARCH_MAX: u64 = 32 << 10;
/// Of the last line, so much is looked at, in bytes.
const LINE_MAX: usize = 4 << 10;

pub fn call(request: &ListRequest, context: &Context) -> Result<Listing, Error> {
    let directory = request.working_directory.as_deref();
    let target = target(request.pid, request.command_or_label.as_deref(), directory, context)?;
    if target.selector == Some(Selector::Pid(0)) {
        return Ok(Listing {
            rows: vec![Row { process: context.manager.own_process(), ..Row::default() }],
            ..Listing::default()
        });
    }
    let runs = context.manager.list(&target)?;
    let usages = usage(&runs.iter().map(AsRef::as_ref).collect::<Vec<&Run>>());
    let now = now_ms();
    let rows: Vec<Row> = runs.iter().zip(usages).map(|(run, usage)| row(run, usage.unwrap_or_default(), now)).collect();
    let all = || context.manager.list(&Target::default()).map_or(0, |all| all.len());
    let elsewhere = target.working_directory.map(|directory| (directory, all().saturating_sub(rows.len())));
    Ok(Listing { rows, elsewhere })
}

fn row(run: &Arc<Run>, usage: Usage, now: u64) -> Row {
    let is_over = run.is_over();
    let status = run.status();
    let words = run.log_tail.get().cloned().unwrap_or_else(|| {
        let words = log_tail(run);
        if is_over {
            let _ = run.log_tail.set(words.clone());
        }
        words
    });
    let age_ms = now.saturating_sub(status.ended.unwrap_or(status.started));
    let process = Process {
        url: url(run, &usage.ports),
        ports: usage.ports,
        cpu_percent: (!is_over && age_ms > 0).then(|| (usage.cpu_ms * 1000 / age_ms) as f64 / 10.0),
        memory_bytes: (usage.memory > 0).then_some(usage.memory),
        lines: words.lines,
        log_bytes: words.log_bytes,
        last_line: words.line,
        ..describe(run)
    };
    Row { process, hidden: words.hidden, age_ms }
}

/// The first of the URLs in the beginning of a run's output that leads to one of `ports` on this machine.
fn url(run: &Arc<Run>, ports: &[u16]) -> Option<String> {
    if ports.is_empty() {
        return None;
    }
    let log = run.log(Stream::Combined).ok()?;
    let mut head = vec![0; URL_SEARCH_MAX.min(log.end().saturating_sub(log.start())) as usize];
    let n = log.read_at(log.start(), &mut head).ok()?;
    let found = urls::find(head[..n].split(|byte| *byte == b'\n'));
    found.into_iter().filter(|url| !urls::is_foreign(url)).find(|url| port_of(url).is_some_and(|p| ports.contains(&p)))
}

/// The port of a URL; `None` if it does not say one.
fn port_of(url: &str) -> Option<u16> {
    let place = url.split("//").nth(1)?.split(['/', '?', '#']).next()?;
    place.rsplit_once(':')?.1.parse().ok()
}

/// The end of the logs of a run. Reads its last line and no more.
fn log_tail(run: &Arc<Run>) -> LogTail {
    let status = run.status();
    let i = Stream::Combined.index();
    let log = run.log(Stream::Combined);
    // Not if it has been rotated past what is known: then it is unknown.
    let is_countable =
        |log: &&Log| log.start() <= status.bytes[i] && log.end().saturating_sub(status.bytes[i]) <= COUNT_MAX;
    let recent = log.as_ref().ok().filter(is_countable);
    let recent = recent.and_then(|log| log.count_lines(status.bytes[i], log.end()).ok());
    let sizes = Stream::ALL.map(|stream| Log::size(run.dir.path(), stream));
    let query = Query { longest: LINE_MAX, ..Query::tail(Stream::Combined, 3) };
    let lines = select(&ctrl::whole(run), &query, &Unattended).map_or(Vec::new(), |selection| selection.lines);
    // The very last one is often empty.
    let said = lines.iter().rev().map(|selected| view::shown(&selected.line.text)).find(|shown| !shown.text.is_empty());
    LogTail {
        line: said.as_ref().map_or(String::new(), |shown| shorten(shown.text.trim_start())),
        hidden: said.map_or(0, |shown| shown.hidden),
        lines: recent.map(|recent| recent + status.lines[i]),
        log_bytes: sizes.iter().sum(),
    }
}

fn shorten(text: &str) -> String {
    const LAST_LINE_MAX: usize = 200;
    match text.char_indices().nth(LAST_LINE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
