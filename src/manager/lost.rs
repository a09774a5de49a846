//! Runs whose shim was killed: how they end is unknown, but the processes that they left are found, reported and stopped.

use super::locks::LockKey;
use super::watch::Run;
use super::{Manager, Stopped};
use crate::error::Error;
use crate::log::stamp::now_ms;
use crate::rundir::{State, Status, Unreadable};
use crate::shim::orphans;
use std::sync::Arc;
use std::time::Instant;

impl Manager {
    /// Stops the processes that a finished run has left, if any: asks until `polite`, and then kills. Begins by `end`, and
    /// takes [`orphans::KILLING_MAX`] from there at most.
    pub(super) fn stop_orphans(&self, run: &Run, polite: Instant, end: Instant) -> Result<Stopped, Error> {
        if run.status().state != State::Lost {
            return Ok(Stopped { status: run.status(), was_over: true });
        }
        let patience = end.saturating_duration_since(Instant::now());
        let _guard = self.locks.lock_within(LockKey::Orphans(run.id), patience)?;
        if !run.may_have_orphans() {
            return Ok(Stopped { status: run.status(), was_over: true });
        }
        let grace = polite.saturating_duration_since(Instant::now());
        let report = orphans::stop(&run.dir, &run.status(), grace).map_err(|error| {
            Error::failed(format!("cannot see what is left of '{}': {error}; try again", run.meta.label))
        })?;
        let survivors = report.survivors.clone();
        let status = Status { stop: Some(report), ended: Some(now_ms()), ..Status::clone(&run.status()) };
        if !matches!(run.dir.read_status(), Err(Unreadable::Newer(_))) {
            let _ = run.dir.write_status(&status); // it is as lost without
        }
        run.settle(status);
        self.registry.notice(format!("{} '{}': what it left behind was stopped", run.name(), run.meta.label));
        if survivors.is_empty() {
            Ok(Stopped { status: run.status(), was_over: false })
        } else {
            Err(super::not_gone(run, &survivors))
        }
    }

    /// Runs of which something is alive.
    pub fn live(&self) -> Vec<Arc<Run>> {
        self.registry.all().into_iter().filter(|run| is_alive(run)).collect()
    }

    pub(super) fn live_run(&self, fits: impl Fn(&Run) -> bool) -> Option<Arc<Run>> {
        self.registry.all().into_iter().rev().find(|run| fits(run) && is_alive(run))
    }
}

fn is_alive(run: &Run) -> bool {
    !run.is_over() || run.may_have_orphans()
}

/// `PID 12, PID 13 and 2 more`, or nothing.
pub fn shown(orphans: &[i32]) -> Option<String> {
    const NAMED: usize = 4;
    let mut parts: Vec<String> = orphans.iter().take(NAMED).map(|pid| format!("PID {pid}")).collect();
    if orphans.len() > NAMED {
        parts.push(format!("{} more", orphans.len() - NAMED));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}
