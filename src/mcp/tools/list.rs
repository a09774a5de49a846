//! `list`: the newest run of each process, with what it takes and what it said last.

use super::{Answer, Arguments, Context, target};
use crate::fault::Fault;
use crate::log::Stream;
use crate::log::read::Log;
use crate::log::stamp::now_ms;
use crate::manager::watch::{LastWords, Run};
use crate::manager::{Overview, Usage, overview, usage};
use crate::output::query::{Query, select};
use crate::output::scope::{Parts, Piece, Source};
use crate::output::view;
use serde::Serialize;
use std::sync::Arc;

/// One process in the list. Absent members are not known, or nothing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub overview: Overview,
    /// TCP ports on which somebody in its tree listens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Processor time of the tree since its start, of one processor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Resident memory of the tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Lines since the start of the run, of both streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// What its logs take on the disk.
    pub log_bytes: u64,
    /// What it said last, as a terminal would show it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_line: String,
    /// Milliseconds since it started, or since it ended.
    #[serde(skip)]
    pub age_ms: u64,
}

/// Lines that came since the status was written are counted only in so many bytes; the shim writes it once a second.
const COUNTED: u64 = 16 << 20;
/// Of the last line, so much is looked at, in bytes.
const LONGEST: usize = 4 << 10;

pub fn call(arguments: &Arguments, context: &Context) -> Result<Answer, Fault> {
    let target = target(arguments, context);
    if target.pid == Some(0) {
        let row = Row { overview: context.manager.own_overview(), ..Row::default() };
        return Ok(Answer::Processes(vec![row]));
    }
    let runs = context.manager.list(&target)?;
    let usages = usage(&runs.iter().map(AsRef::as_ref).collect::<Vec<&Run>>());
    let now = now_ms();
    let row = |(run, usage): (&Arc<Run>, Option<Usage>)| {
        let is_over = run.is_over();
        let status = run.status();
        let words = run.last_words.get().cloned().unwrap_or_else(|| {
            let words = last_words(run);
            if is_over {
                let _ = run.last_words.set(words.clone());
            }
            words
        });
        let age_ms = now.saturating_sub(status.ended.unwrap_or(status.started));
        let usage = usage.unwrap_or_default();
        Row {
            overview: overview(run),
            ports: usage.ports,
            cpu_percent: (!is_over && age_ms > 0).then(|| (usage.cpu_ms * 1000 / age_ms) as f64 / 10.0),
            memory_bytes: (usage.memory > 0).then_some(usage.memory),
            lines: words.lines,
            log_bytes: words.log_bytes,
            last_line: words.line,
            age_ms,
        }
    };
    Ok(Answer::Processes(runs.iter().zip(usages).map(row).collect()))
}

/// The end of the logs of a run. Reads its last line and no more.
fn last_words(run: &Arc<Run>) -> LastWords {
    let status = run.status();
    let i = Stream::Combined.index();
    let log = Log::open(run.dir.path(), Stream::Combined);
    let recent = log.as_ref().ok().filter(|log| log.end().saturating_sub(status.bytes[i]) <= COUNTED);
    let recent = recent.and_then(|log| log.count_lines(status.bytes[i], log.end()).ok());
    let sizes = Stream::ALL.map(|stream| Log::size(run.dir.path(), stream));
    let piece = Piece { run: run.clone(), after: None, before: None };
    let sources = vec![Source { label: String::new(), pieces: vec![piece] }];
    let parts = Parts { sources, known: None, is_everything: false, gone: Vec::new() };
    let query = Query { longest: LONGEST, ..Query::tail(Stream::Combined, 3) };
    let lines = select(&parts, &query).map_or(Vec::new(), |selection| selection.lines);
    // The very last one is often empty.
    let said = lines.iter().rev().map(|selected| view::clean(&selected.line.text)).find(|text| !text.is_empty());
    LastWords {
        line: said.map_or(String::new(), |text| view::clip(text.trim_start(), 200)),
        lines: recent.map(|recent| recent + status.lines[i]),
        log_bytes: sizes.iter().sum(),
    }
}
