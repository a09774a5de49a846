//! What users and agents say → the run they mean: by pid, run number, label or command, also when it has ended.
//!
//! A label means its newest run; `r12` means run 12 and nothing else. What fits several labels is never guessed: either the
//! rest of the request decides (directory of the caller, the only one that runs), or the candidates are named.

use super::watch::Run;
use crate::error::{Error, ErrorKind};
use crate::os_text;
use std::path::Path;
use std::sync::Arc;

/// How a request names a process, or one of its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The run of this number. What goes on with a run that it has seen uses this: names can be given again.
    Run(u64),
    /// The process whose leader has this pid, or had it last.
    Pid(i32),
    /// A label, a command with its arguments, a run (`r12`) or a pid, as users write them.
    Name(String),
}

/// Which runs a request means.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// `None`: it did not say.
    pub selector: Option<Selector>,
    /// Only runs in this directory.
    pub working_directory: Option<String>,
    /// Where the caller is: decides between several, excludes nothing.
    pub near: Option<String>,
}

impl Target {
    /// What users wrote to name processes, if they did.
    pub fn name(&self) -> Option<&str> {
        match &self.selector {
            Some(Selector::Name(name)) => Some(name),
            _ => None,
        }
    }
}

/// The name that means every process of a directory.
pub const EVERYTHING: &str = "*";
/// Candidates that an error names.
const NAMED: usize = 6;

/// The number in `r12`. Larger ones than there can be are numbers, too: no run has them.
pub fn run_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix('r').filter(|digits| is_number(digits))?;
    Some(digits.parse().unwrap_or(u64::MAX))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name of a process that a later request can use: its label, or, if that reads like the number of a run (which versions
/// before 0.4 allowed), the number of this run.
pub fn name_of(run: &Run) -> String {
    if run_number(&run.meta.label).is_some() { run.name() } else { run.meta.label.clone() }
}

/// The one run that `target` means. `runs` is all there is, oldest first.
pub fn find(runs: &[Arc<Run>], target: &Target) -> Result<Arc<Run>, Error> {
    let here: Vec<&Arc<Run>> = runs.iter().filter(|run| is_in(run, target.working_directory.as_deref())).collect();
    let found = match &target.selector {
        Some(Selector::Run(id)) => newest(&here, |run| run.id == *id),
        Some(Selector::Pid(pid)) => by_pid(&here, *pid),
        Some(Selector::Name(name)) => by_name(&here, name, target.near.as_deref())?,
        None => return Err(Error::invalid("say which process: a label, a command or a pid; list shows them all")),
    };
    found.cloned().ok_or_else(|| not_found(runs, &here, target))
}

/// The runs that `target` means, the newest of each process: `*` is everything in the directory, and a name that fits
/// nothing may be several, separated by commas.
pub fn find_all(runs: &[Arc<Run>], target: &Target) -> Result<Vec<Arc<Run>>, Error> {
    let name = target.name();
    if name == Some(EVERYTHING) {
        let all = in_directory(runs, target);
        return if all.is_empty() { Err(not_found(runs, &[], target)) } else { Ok(newest_per_label(&all)) };
    }
    let missing = match find(runs, target) {
        Err(error) if error.kind == ErrorKind::NotFound => error,
        found => return found.map(|run| vec![run]),
    };
    let parts: Vec<&str> = name.into_iter().flat_map(|name| name.split(',')).map(str::trim).collect();
    if parts.len() < 2 {
        return Err(missing);
    }
    let mut found: Vec<Arc<Run>> = Vec::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let run = find(runs, &Target { selector: Some(Selector::Name(part.into())), ..target.clone() })?;
        if !found.iter().any(|other| other.id == run.id) {
            found.push(run);
        }
    }
    if found.is_empty() { Err(missing) } else { Ok(found) }
}

/// The runs of the directory that is asked for, or of the caller's if there are some, or all.
pub fn in_directory(runs: &[Arc<Run>], target: &Target) -> Vec<Arc<Run>> {
    let of = |directory: Option<&str>| -> Vec<Arc<Run>> {
        runs.iter().filter(|run| is_in(run, directory)).cloned().collect()
    };
    if target.working_directory.is_some() {
        return of(target.working_directory.as_deref());
    }
    let near = of(target.near.as_deref());
    if near.is_empty() { of(None) } else { near }
}

/// The newest run of each label, oldest first.
pub fn newest_per_label(runs: &[Arc<Run>]) -> Vec<Arc<Run>> {
    let mut newest: Vec<Arc<Run>> = Vec::new();
    for run in runs.iter().rev() {
        if !newest.iter().any(|known| known.meta.label == run.meta.label) {
            newest.push(run.clone());
        }
    }
    newest.reverse();
    newest
}

pub fn is_in(run: &Run, directory: Option<&str>) -> bool {
    directory.is_none_or(|directory| {
        let path = Path::new(directory);
        run.meta.working_directory.as_path() == path
            || path.canonicalize().is_ok_and(|path| run.meta.working_directory.as_path() == path)
    })
}

fn newest<'a>(runs: &[&'a Arc<Run>], fits: impl Fn(&Run) -> bool) -> Option<&'a Arc<Run>> {
    runs.iter().rev().find(|run| fits(run)).copied()
}

/// Numbers are used again: the live one is meant, else the last one that had it.
fn by_pid<'a>(runs: &[&'a Arc<Run>], pid: i32) -> Option<&'a Arc<Run>> {
    let has = |run: &Run| pid > 0 && run.status().pid == pid;
    newest(runs, |run| has(run) && run.status().state.is_live()).or_else(|| newest(runs, has))
}

fn by_name<'a>(runs: &[&'a Arc<Run>], name: &str, near: Option<&str>) -> Result<Option<&'a Arc<Run>>, Error> {
    if let Some(id) = run_number(name) {
        return Ok(newest(runs, |run| run.id == id));
    }
    if let Some(run) = newest(runs, |run| run.meta.label == name) {
        return Ok(Some(run));
    }
    if is_number(name) {
        return Ok(name.parse().ok().and_then(|pid| by_pid(runs, pid)));
    }
    let words = os_text::split_plain(name).unwrap_or_else(|| vec![name.into()]);
    let is_command = |run: &Run| run.meta.argv.iter().map(os_text::OsText::shown).eq(words.iter().map(String::as_str));
    let all: Vec<Arc<Run>> = runs.iter().filter(|run| is_command(run)).map(|run| Arc::clone(run)).collect();
    let candidates = newest_per_label(&all);
    let only = |fits: &dyn Fn(&Run) -> bool| {
        let mut fitting = candidates.iter().filter(|run| fits(run));
        fitting.next().filter(|_| fitting.next().is_none()).map(|run| run.id)
    };
    let chosen = only(&|_| true)
        .or_else(|| only(&|run| near.is_some() && is_in(run, near)))
        .or_else(|| only(&|run| run.status().state.is_live()));
    match chosen {
        Some(id) => Ok(newest(runs, |run| run.id == id)),
        None if candidates.is_empty() => Ok(None),
        None => Err(Error::invalid(format!(
            "'{name}' could be {}; say which by its label, its pid or the working directory",
            names(&candidates.iter().collect::<Vec<_>>())
        ))),
    }
}

fn not_found(runs: &[Arc<Run>], here: &[&Arc<Run>], target: &Target) -> Error {
    let wanted = match &target.selector {
        Some(Selector::Run(id)) => return Error::not_found(format!("run r{id} is not kept; list shows what is")),
        Some(Selector::Pid(pid)) => format!("PID {pid}"),
        Some(Selector::Name(name)) => format!("'{name}'"),
        None => String::new(),
    };
    let place = target.working_directory.as_ref().map_or(String::new(), |d| format!(" in {d}"));
    let all: Vec<Arc<Run>> = here.iter().map(|run| Arc::clone(run)).collect();
    let known = newest_per_label(&all);
    let elsewhere = newest_per_label(runs);
    let hint = match (known.is_empty(), elsewhere.is_empty()) {
        (false, _) => format!("there are {}", names(&known.iter().rev().collect::<Vec<_>>())),
        (true, true) => "nothing has been started there yet".into(),
        (true, false) => format!(
            "nothing has been started there yet; in other directories there are {}",
            names(&elsewhere.iter().rev().collect::<Vec<_>>())
        ),
    };
    Error::not_found(format!("no process {wanted}{place}; {hint}"))
}

/// `'web' (running, PID 17), 'db' (exited) and 3 more`; with the run where the label is no name to use.
fn names(runs: &[&Arc<Run>]) -> String {
    let mut parts: Vec<String> = runs
        .iter()
        .take(NAMED)
        .map(|run| {
            let status = run.status();
            let pid = if status.state.is_live() { format!(", PID {}", status.pid) } else { String::new() };
            let number = run_number(&run.meta.label).map_or(String::new(), |_| format!("{}, ", run.name()));
            format!("'{}' ({number}{}{pid})", run.meta.label, status.state.name())
        })
        .collect();
    if runs.len() > NAMED {
        parts.push(format!("{} more", runs.len() - NAMED));
    }
    parts.join(", ")
}
