//! Whether anything may still be started. Closing waits for starts that have begun: a run that is just being born is not
//! in the table yet, and so would escape a shutdown.

use crate::error::Error;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Open until the server ends.
#[derive(Default)]
pub struct StartGate {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    /// Nothing starts any more.
    is_closed: bool,
    /// Only restarts that have begun start something: a process must not be lost between its stop and its start.
    is_closing: bool,
    starts: usize,
    restarts: usize,
}

/// Something is being started as long as this lives; it also goes by a panic.
pub struct StartPermit<'a>(&'a StartGate);

/// Something is being stopped in order to be started again; as above.
pub struct RestartPermit<'a>(&'a StartGate);

impl StartGate {
    /// To be asked for before a start.
    pub fn start(&self) -> Result<StartPermit<'_>, Error> {
        self.admit(|state| state.is_closed || state.is_closing)
    }

    /// To be asked for before a stop that a start is to follow.
    pub fn restart(&self) -> Result<RestartPermit<'_>, Error> {
        let _start = self.start()?;
        self.lock().restarts += 1;
        Ok(RestartPermit(self))
    }

    fn admit(&self, is_shut: impl Fn(&State) -> bool) -> Result<StartPermit<'_>, Error> {
        let mut state = self.lock();
        if is_shut(&state) {
            return Err(Error::ending("the server is shutting down; try again when it has ended"));
        }
        state.starts += 1;
        Ok(StartPermit(self))
    }

    /// Lets nothing start any more, and waits until no start is under way. For a server that takes all processes with it.
    pub fn close(&self, limit: Duration) {
        let mut state = self.lock();
        state.is_closed = true;
        drop(self.released.wait_timeout_while(state, limit, |state| state.starts > 0));
    }

    /// The same for a server whose processes go on: restarts that have begun are waited for, and still start something.
    pub fn close_after_restarts(&self, limit: Duration) {
        let mut state = self.lock();
        state.is_closing = true;
        drop(self.released.wait_timeout_while(state, limit, |state| state.starts + state.restarts > 0));
        self.lock().is_closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Flags and numbers, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<'a> RestartPermit<'a> {
    /// To be asked for between the stop and the start.
    pub fn start(&self) -> Result<StartPermit<'a>, Error> {
        self.0.admit(|state| state.is_closed)
    }
}

impl Drop for RestartPermit<'_> {
    fn drop(&mut self) {
        self.0.lock().restarts -= 1;
        self.0.released.notify_all();
    }
}

impl Drop for StartPermit<'_> {
    fn drop(&mut self) {
        self.0.lock().starts -= 1;
        self.0.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn closing_waits_for_starts_that_have_begun_and_admits_no_other() {
        let (gate, has_started) = (StartGate::default(), AtomicBool::new(false));
        let start = gate.start().ok().unwrap();
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| {
                gate.close(LONG);
                assert!(has_started.load(Ordering::SeqCst));
            });
            while gate.start().is_ok() {
                std::thread::yield_now();
            }
            has_started.store(true, Ordering::SeqCst);
            drop(start);
            closing.join().unwrap();
        });
        assert!(gate.start().is_err());
    }

    #[test]
    fn a_restart_that_has_begun_starts_its_process_while_the_gate_closes_behind_it() {
        let gate = StartGate::default();
        let restart = gate.restart().ok().unwrap();
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| gate.close_after_restarts(LONG));
            while gate.start().is_ok() {
                std::thread::yield_now();
            }
            assert!(gate.restart().is_err());
            drop(restart.start().ok().unwrap());
            assert!(!closing.is_finished());
            drop(restart);
            closing.join().unwrap();
        });
        // One that took longer than a server waits finds it closed, and not half gone.
        let gate = StartGate::default();
        let restart = gate.restart().ok().unwrap();
        gate.close_after_restarts(Duration::ZERO);
        assert!(restart.start().is_err());
    }
}
