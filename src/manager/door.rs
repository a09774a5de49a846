//! Whether anything may still be started. Closing waits for whoever is inside: a run that is just being born is not in
//! the table yet, and so would escape a shutdown.

use crate::fault::Fault;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Longer than a start may take (`launch` bounds it), and a stop with its grace mostly does, so that this end is hardly
/// ever the one that counts.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Default)]
pub struct Door {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    /// Nobody comes in any more.
    is_closed: bool,
    /// Nobody but those who have begun to replace a process: it must not be lost between its stop and its start.
    is_closing: bool,
    inside: usize,
    replacing: usize,
}

/// Somebody who starts something; goes when this is dropped, also by a panic.
pub struct Inside<'a>(&'a Door);

/// Somebody who stops something in order to start it again; as above.
pub struct Replacing<'a>(&'a Door);

impl Door {
    pub fn enter(&self) -> Result<Inside<'_>, Fault> {
        self.admit(|state| state.is_closed || state.is_closing)
    }

    /// To be asked for before the stop.
    pub fn begin_replacing(&self) -> Result<Replacing<'_>, Fault> {
        let _inside = self.enter()?;
        self.lock().replacing += 1;
        Ok(Replacing(self))
    }

    fn admit(&self, is_shut: impl Fn(&State) -> bool) -> Result<Inside<'_>, Fault> {
        let mut state = self.lock();
        if is_shut(&state) {
            return Err(Fault::conflict("the server is shutting down; try again when it has ended"));
        }
        state.inside += 1;
        Ok(Inside(self))
    }

    /// Lets nobody in any more, and waits until nobody is inside. For a server that takes all processes with it.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        drop(self.left.wait_timeout_while(state, PATIENCE, |state| state.inside > 0));
    }

    /// The same for a server whose processes go on: those who have begun to replace one still come in.
    pub fn close_behind_replacing(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        drop(self.left.wait_timeout_while(state, PATIENCE, |state| state.inside + state.replacing > 0));
        self.lock().is_closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A flag and a number, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<'a> Replacing<'a> {
    pub fn enter(&self) -> Result<Inside<'a>, Fault> {
        self.0.admit(|state| state.is_closed)
    }
}

impl Drop for Replacing<'_> {
    fn drop(&mut self) {
        self.0.lock().replacing -= 1;
        self.0.left.notify_all();
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.lock().inside -= 1;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn closing_waits_for_those_inside_and_lets_nobody_in() {
        let (door, has_left) = (Door::default(), AtomicBool::new(false));
        let inside = door.enter().ok().unwrap();
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| {
                door.close();
                assert!(has_left.load(Ordering::SeqCst));
            });
            while door.enter().is_ok() {
                std::thread::yield_now();
            }
            has_left.store(true, Ordering::SeqCst);
            drop(inside);
            closing.join().unwrap();
        });
        assert!(door.enter().is_err());
    }
}
