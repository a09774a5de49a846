//! Stops and restarts, which are written down before they begin (see [`Order`]): a server that is killed in the middle of
//! one leaves its order in the directory of the run, and the next server finishes it. Each is carried out once, also if
//! its request is sent again to the next server: the request is known by its key.
//!
//! Before anything is stopped in order to be started again, it is looked whether that can be: a process must not be lost
//! because its program is just being rebuilt.

use super::locks::{LockGuard, LockKey};
use super::watch::Run;
use super::{Manager, Started, Stopped, describe_unreadable, label_was_taken, launch};
use crate::error::{Error, ErrorKind, remedy};
use crate::log::stamp::now_ms;
use crate::procs;
use crate::rundir::{BootInstant, FORMAT_VERSION, Meta, Order};
use std::sync::Arc;
use std::time::Duration;

impl Manager {
    /// Stops a run, see [`stop_now`](Self::stop_now). `key` names the request.
    pub fn stop(&self, run: &Run, grace: Duration, key: Option<&str>) -> Result<Stopped, Error> {
        let order = Order {
            version: FORMAT_VERSION,
            grace: grace.as_millis() as u64,
            idempotency_key: key.map(String::from),
            next: None,
            given: now(),
            is_done: false,
        };
        // On a full disk it is stopped all the same: that may be what frees space again. A restart of the same run includes
        // the stop, and remains promised.
        let is_written = !run.is_over() && !run.dir.has_pending_restart() && run.dir.write_order(&order).is_ok();
        let stopped = self.stop_now(run, grace);
        if is_written {
            self.settle(run, order);
        }
        stopped
    }

    /// The run that a request stopped or was about to stop.
    pub fn stopped_by(&self, key: &str) -> Option<Arc<Run>> {
        let is_by = |run: &Arc<Run>| {
            let order = run.dir.read_order().ok();
            order.is_some_and(|order| order.next.is_none() && order.idempotency_key.as_deref() == Some(key))
        };
        self.registry.all().into_iter().rev().find(is_by)
    }

    /// A stop was carried out, or it was told why not. One whose request may be sent again is kept, so that this is not
    /// taken for another one.
    fn settle(&self, run: &Run, order: Order) {
        if run.dir.has_pending_restart() {
            return; // another request's, which came later
        }
        let is_kept = order.idempotency_key.is_some();
        if !is_kept || run.dir.write_order(&Order { is_done: true, ..order }).is_err() {
            run.dir.remove_order();
        }
    }

    /// Stops the process of `run` if it runs, and starts the same command again in its place. If another request has done
    /// that since `run` was looked up, the result of that is this one's too. `key` names the request.
    pub fn restart(&self, run: &Run, grace: Duration, key: Option<&str>) -> Result<Started, Error> {
        let label = run.meta.label.clone();
        let guard = self.locks.lock(LockKey::Label(label.clone()))?;
        if let Some(run) = key.and_then(|key| self.started_by(key)) {
            return Ok(Started { run, is_new: true });
        }
        let newest = self.registry.all().into_iter().rev().find(|other| other.meta.label == label);
        let newest = newest.ok_or_else(|| Error::not_found(format!("'{label}' is not kept any more")))?;
        if newest.meta.working_directory != run.meta.working_directory {
            return Err(label_was_taken(run, &newest));
        }
        if newest.id > run.id && !newest.is_over() {
            return Ok(Started { run: newest, is_new: false });
        }
        let meta = newest.dir.read_meta().map_err(|problem| {
            let what = describe_unreadable(&problem);
            Error::failed(format!("'{label}' cannot be started again: its meta.json {what}"))
        })?;
        let meta = Meta {
            created: now_ms(),
            previous: Some(newest.id),
            max_log_bytes: self.max_log_bytes,
            idempotency_key: key.map(String::from),
            ..meta
        };
        self.replace(guard, &newest, meta, grace, None)
    }

    /// Stops `run` and starts `next` in its place, for a reader with a lease, if there is one.
    pub(super) fn replace(
        &self,
        guard: LockGuard,
        run: &Run,
        next: Meta,
        grace: Duration,
        reader: Option<&str>,
    ) -> Result<Started, Error> {
        let restart = self.start_gate.restart()?;
        launch::working_directory(next.working_directory.as_path())
            .and_then(|_| launch::check_program(&next))
            .map_err(|error| goes_on(run, error))?;
        let order = Order {
            version: FORMAT_VERSION,
            grace: grace.as_millis() as u64,
            idempotency_key: next.idempotency_key.clone(),
            next: Some(next.clone()),
            given: now(),
            is_done: false,
        };
        // A disk without space for this has none for the next run either.
        run.dir.write_order(&order).map_err(|error| {
            let directory = self.registry.dir.display();
            goes_on(run, Error::failed(format!("cannot write in {directory}: {error}; {}", remedy(&error))))
        })?;
        // A server that ends with its processes closes the gate before it withdraws restarts: either it has found this order,
        // or it is seen here that the gate is closed.
        if let Err(ending) = restart.start() {
            run.dir.remove_order();
            return Err(ending);
        }
        let started =
            self.stop_now(run, grace).and_then(|_| self.launch_and_unlock(guard, next, reader, Some(restart)));
        clear(run, &started);
        started
    }

    /// Finishes what servers before this one have begun. To be called before any request is answered: labels whose
    /// processes are being restarted are locked when this returns.
    pub fn resume_orders(self: &Arc<Manager>) {
        // The newest first: of two restarts of one label it is the one that counts.
        for run in self.registry.all().into_iter().rev() {
            let Ok(order) = run.dir.read_order() else { continue };
            if order.is_done {
                continue;
            }
            if self.is_outdated(&run, &order) {
                run.dir.remove_order();
                continue;
            }
            let label = LockKey::Label(run.meta.label.clone());
            let guard = order.next.as_ref().map(|_| self.locks.lock_within(label, Duration::ZERO)).transpose();
            let Ok(guard) = guard else { continue }; // another order for the same label, which is the newer one
            let (manager, name) = (self.clone(), run.name());
            let finish = move || {
                let what = if order.next.is_some() { "restart" } else { "stop" };
                let label = run.meta.label.clone();
                let outcome = match manager.finish(&run, order, guard) {
                    Ok(()) => format!("finished the {what} of '{label}' that a server before this one had begun"),
                    Err(error) => format!("could not finish the {what} of '{label}': {error}"),
                };
                manager.registry.notice(outcome);
            };
            if std::thread::Builder::new().name(name).spawn(finish).is_err() {
                self.registry.notice("no thread to finish what a server before this one had begun".into());
            }
        }
    }

    /// Whether a restart is not to be finished any more: its label was started anew since, by a server that knew of no
    /// orders; or the system was, and with that nothing is started again.
    fn is_outdated(&self, run: &Run, order: &Order) -> bool {
        let Some(next) = &order.next else { return false };
        let is_later = |other: &Arc<Run>| other.id > run.id && other.meta.label == next.label;
        let is_other = |other: &Arc<Run>| is_later(other) && other.meta.previous != Some(run.id);
        let is_of_another_boot = order.given.zip(now()).is_some_and(|(given, now)| given.boot != now.boot);
        self.registry.all().iter().any(is_other) || is_of_another_boot && run.is_over()
    }

    /// Nothing that was to be started again is, also not by the next server: this one takes its processes with it.
    pub(super) fn withdraw_restarts(&self) {
        for run in self.registry.all() {
            if run.dir.read_order().is_ok_and(|order| order.next.is_some()) {
                run.dir.remove_order();
            }
        }
    }

    fn finish(&self, run: &Run, order: Order, guard: Option<LockGuard>) -> Result<(), Error> {
        let grace = Duration::from_millis(order.grace);
        let (Some(next), Some(guard)) = (order.next.clone(), guard) else {
            let stopped = self.stop_now(run, grace);
            self.settle(run, order);
            return stopped.map(drop);
        };
        // The server may have been killed after the start, and before it could say so.
        if self.successor(run.id).is_some_and(|next| self.is_born(&next)) {
            run.dir.remove_order();
            return Ok(());
        }
        let restart = self.start_gate.restart()?;
        let next = Meta { created: now_ms(), ..next };
        let started = self.stop_now(run, grace).and_then(|_| self.launch_and_unlock(guard, next, None, Some(restart)));
        clear(run, &started);
        started.map(drop)
    }
}

/// A restart was carried out, or failed for good: one that this server has begun, and leaves to the next one, is still to
/// be done.
fn clear(run: &Run, started: &Result<Started, Error>) {
    if !started.as_ref().is_err_and(|error| error.kind == ErrorKind::Ending) {
        run.dir.remove_order();
    }
}

fn now() -> Option<BootInstant> {
    procs::now().map(|(boot, tick)| BootInstant { boot, tick })
}

/// What was to be restarted was left alone.
fn goes_on(run: &Run, error: Error) -> Error {
    if run.is_over() {
        return error;
    }
    error.with_hint(&format!("'{}' goes on as it was (PID {})", run.meta.label, run.status().pid))
}
