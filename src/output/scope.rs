//! Which runs: the processes that a request names, and the positions of its cursors → the parts of runs to read.
//!
//! A process is its label, and its runs one after the other are what it said. A cursor in an older run goes on with the
//! runs that came after it; without one the newest is meant. A run that is named means that one alone.

use super::cursor::{Cursor, Place};
use crate::error::Error;
use crate::manager::Manager;
use crate::manager::lookup::{self, EVERYTHING, Target};
use crate::manager::watch::Run;
use std::sync::Arc;

/// A part of what one run said.
#[derive(Clone)]
pub struct RunSlice {
    pub run: Arc<Run>,
    /// Only after this.
    pub after: Option<Place>,
    /// Only before this.
    pub before: Option<Place>,
}

/// Runs of one process, one after the other.
pub struct Source {
    pub label: String,
    /// Oldest first.
    pub pieces: Vec<RunSlice>,
}

/// What to read, as of a moment.
pub struct Parts {
    pub sources: Vec<Source>,
    /// If several processes are read: the newest run of all, at that moment.
    pub known: Option<u64>,
    /// All processes of a directory are read: `'*'` leaves finished runs out of the cursor; named processes stay in it.
    pub is_everything: bool,
    /// Runs at which a cursor was, and which are not kept any more.
    pub gone: Vec<u64>,
}

/// Whose output is meant.
pub struct Scope<'a> {
    manager: &'a Manager,
    processes: Processes,
}

enum Processes {
    /// Processes, by their labels.
    Labels(Vec<String>),
    /// All processes of a directory, also those that are still to come.
    Everything(Target),
    /// These runs and no others.
    Runs(Vec<Arc<Run>>),
}

impl<'a> Scope<'a> {
    /// This run and no other.
    pub fn of_run(manager: &'a Manager, run: Arc<Run>) -> Scope<'a> {
        Scope { manager, processes: Processes::Runs(vec![run]) }
    }

    /// `run` is the number of a run, or, counted backwards from -1, one before the newest. Cursors say by themselves
    /// whose they are.
    pub fn of(
        manager: &'a Manager,
        target: &Target,
        run: Option<i64>,
        [after, before]: [Option<&Cursor>; 2],
    ) -> Result<Scope<'a>, Error> {
        let is_named = target.selector.is_some();
        let run = run.filter(|run| *run != 0);
        let processes = match (is_named, run) {
            (false, Some(id @ 1..)) => Processes::Runs(vec![run_of(manager, id)?]),
            (true, Some(run)) => Processes::Runs(numbered(manager, &manager.find_all(target)?, run)?),
            (true, None) if target.name() == Some(EVERYTHING) => {
                manager.find_all(target)?;
                Processes::Everything(target.clone())
            }
            (true, None) => named(manager, manager.find_all(target)?, after.is_some()),
            // A cursor of several processes does not name those that had ended, and that may have begun again since. One
            // that was given to go back with does: it names the processes that have lines above it.
            (false, _) => match before.filter(|before| before.known.is_some()).or(after).or(before) {
                Some(cursor) => Processes::Labels(labels_of(manager, cursor)?),
                None => named(manager, vec![manager.find(target)?], false), // which says what is missing
            },
        };
        let scope = Scope { manager, processes };
        [after, before].into_iter().flatten().try_for_each(|cursor| scope.check(cursor))?;
        Ok(scope)
    }

    /// A cursor of other processes than the ones that were named is an error.
    fn check(&self, cursor: &Cursor) -> Result<(), Error> {
        let labels = match &self.processes {
            Processes::Labels(labels) => labels.clone(),
            Processes::Runs(runs) => runs.iter().map(|run| run.meta.label.clone()).collect(),
            Processes::Everything(_) => return Ok(()),
        };
        let runs: Vec<Arc<Run>> = cursor.places.iter().filter_map(|place| self.manager.get(place.run)).collect();
        match runs.first().filter(|_| !runs.iter().any(|run| labels.contains(&run.meta.label))) {
            Some(run) if cursor.known.is_none() => Err(Error::invalid(format!(
                "the cursor {cursor} is one of '{}', not of '{}'",
                run.meta.label,
                labels.join(", ")
            ))),
            _ => Ok(()),
        }
    }

    /// Whether lines of several processes may come together, and so must say whose they are.
    pub fn is_merged(&self) -> bool {
        match &self.processes {
            Processes::Labels(labels) => labels.len() > 1,
            Processes::Everything(_) => true,
            Processes::Runs(runs) => runs.len() > 1,
        }
    }

    /// Whether one of the processes is just being started again: then its end is not the end.
    pub fn is_being_started(&self) -> bool {
        match &self.processes {
            Processes::Labels(labels) => labels.iter().any(|label| self.manager.is_being_started(label)),
            Processes::Everything(_) | Processes::Runs(_) => false,
        }
    }

    /// What there is to read now.
    pub fn parts(&self, after: Option<&Cursor>, before: Option<&Cursor>) -> Parts {
        let all = self.manager.runs();
        let known = self.is_merged().then(|| all.last().map_or(0, |run| run.id));
        let gone = after.into_iter().flat_map(|cursor| &cursor.places).map(|place| place.run);
        let gone: Vec<u64> = gone.filter(|id| !all.iter().any(|run| run.id == *id)).collect();
        let (runs, labels) = match &self.processes {
            Processes::Labels(labels) => (all, labels.clone()),
            Processes::Everything(target) => {
                let runs = lookup::in_directory(&all, target);
                let labels = lookup::newest_per_label(&runs).iter().map(|run| run.meta.label.clone()).collect();
                (runs, labels)
            }
            Processes::Runs(runs) => (runs.clone(), runs.iter().map(|run| run.meta.label.clone()).collect()),
        };
        let source = |label: String| {
            let own: Vec<&Arc<Run>> = runs.iter().filter(|run| run.meta.label == label).collect();
            let pieces = pieces(&own, after, before, &gone);
            Source { label, pieces }
        };
        let mut sources: Vec<Source> = labels.into_iter().map(source).collect();
        if let [only] = sources.as_mut_slice()
            && only.pieces.is_empty()
            && !gone.is_empty()
        {
            // Of this cursor nothing is known, so all that there is came later.
            let own: Vec<&Arc<Run>> = runs.iter().filter(|run| run.meta.label == only.label).collect();
            only.pieces = slices_until(&own, None, before);
        }
        Parts { sources, known, is_everything: matches!(self.processes, Processes::Everything(_)), gone }
    }
}

fn run_of(manager: &Manager, id: i64) -> Result<Arc<Run>, Error> {
    let missing = || Error::not_found(format!("run r{id} is not kept; list shows what is"));
    u64::try_from(id).ok().and_then(|id| manager.get(id)).ok_or_else(missing)
}

/// Of each process in `found` the run of this number, or so many before its newest.
fn numbered(manager: &Manager, found: &[Arc<Run>], run: i64) -> Result<Vec<Arc<Run>>, Error> {
    let all = manager.runs();
    let of = |newest: &Arc<Run>| -> Option<Arc<Run>> {
        let mut own = all.iter().rev().filter(|other| other.meta.label == newest.meta.label);
        let chosen = match usize::try_from(-run) {
            Ok(steps) => own.nth(steps),
            Err(_) => own.find(|other| i64::try_from(other.id) == Ok(run)),
        };
        chosen.cloned()
    };
    let chosen: Vec<Arc<Run>> = found.iter().filter_map(of).collect();
    match found.first().filter(|_| chosen.is_empty()) {
        None => Ok(chosen),
        Some(newest) => {
            let own = all.iter().filter(|other| other.meta.label == newest.meta.label);
            let kept: Vec<String> = own.map(|run| run.name()).collect();
            let label = &newest.meta.label;
            Err(Error::not_found(format!("'{label}' has no run {run}; available runs: {}", kept.join(", "))))
        }
    }
}

/// By pid or number an older run may be named; then it alone is meant, unless a cursor is to go on from.
fn named(manager: &Manager, found: Vec<Arc<Run>>, has_cursor: bool) -> Processes {
    let newest = lookup::newest_per_label(&manager.runs());
    let is_newest = |run: &Arc<Run>| newest.iter().any(|other| other.id == run.id);
    if has_cursor || found.iter().all(is_newest) {
        let mut labels: Vec<String> = Vec::new();
        for run in found {
            if !labels.contains(&run.meta.label) {
                labels.push(run.meta.label.clone());
            }
        }
        Processes::Labels(labels)
    } else {
        Processes::Runs(found)
    }
}

/// The processes that a cursor alone means.
fn labels_of(manager: &Manager, cursor: &Cursor) -> Result<Vec<String>, Error> {
    // One of a run that is gone leads to the run that took its place.
    let run = |id: u64| manager.get(id).or_else(|| manager.successor(id));
    let mut labels: Vec<String> =
        cursor.places.iter().filter_map(|place| run(place.run)).map(|run| run.meta.label.clone()).collect();
    labels.dedup();
    if labels.is_empty() {
        let name = match cursor.places.first() {
            Some(place) if cursor.known.is_none() => format!("the run r{} is not kept any more", place.run),
            _ => "a cursor of several processes does not say which".into(),
        };
        return Err(Error::not_found(format!("{name}; say command_or_label as well")));
    }
    Ok(labels)
}

/// The parts of the runs of one process, oldest first, that lie between the cursors.
fn pieces(own: &[&Arc<Run>], after: Option<&Cursor>, before: Option<&Cursor>, gone: &[u64]) -> Vec<RunSlice> {
    let Some(after) = after else { return slices_until(own, None, before) };
    if let Some(place) = own.iter().rev().find_map(|run| after.place(run.id)) {
        return slices_until(own, Some((place.run, Some(*place))), before);
    }
    let known = after.known.or(after.places.first().map(|place| place.run).filter(|run| gone.contains(run)));
    // A cursor of another process says nothing about this one.
    slices_until(own, known.map(|known| (known + 1, None)), before)
}

fn slices_until(own: &[&Arc<Run>], from: Option<(u64, Option<Place>)>, before: Option<&Cursor>) -> Vec<RunSlice> {
    let named = before.and_then(|before| own.iter().rev().find_map(|run| before.place(run.id)));
    let to = match (named, before) {
        (Some(place), _) => place.run,
        (None, Some(before)) => before.known.unwrap_or(u64::MAX),
        (None, None) => u64::MAX,
    };
    let newest = own.iter().rev().find(|run| run.id <= to).map_or(u64::MAX, |run| run.id);
    let (first, after) = from.unwrap_or((newest, None));
    let is_meant = |run: &&&Arc<Run>| (first..=to).contains(&run.id);
    own.iter()
        .filter(is_meant)
        .map(|run| RunSlice {
            run: Arc::clone(run),
            after: after.filter(|place| place.run == run.id),
            before: named.filter(|place| place.run == run.id).copied(),
        })
        .collect()
}
