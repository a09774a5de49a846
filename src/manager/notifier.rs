//! Waking requests that wait for several runs at once.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// The longest that a waiter sleeps before it checks by itself. A request that waits for a client then also sees that the
/// client has gone, which frees its slot within a second.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Is notified when something happens to any of the runs that it is subscribed to.
#[derive(Default)]
pub struct ChangeNotifier {
    generation: Mutex<u64>,
    changed: Condvar,
}

impl ChangeNotifier {
    /// Read it before checking the runs, and pass it to [`wait`](Self::wait).
    pub fn generation(&self) -> u64 {
        *self.generation.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn notify(&self) {
        *self.generation.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += 1;
        self.changed.notify_all();
    }

    /// Sleeps until it is notified after `generation`, for `limit`, at most [`CHECK_INTERVAL`]. Returns whether it was.
    pub fn wait(&self, generation: u64, limit: Duration) -> bool {
        let current = self.generation.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let limit = limit.min(CHECK_INTERVAL);
        let waited = self.changed.wait_timeout_while(current, limit, |current| *current == generation);
        !waited.unwrap_or_else(|poisoned| poisoned.into_inner()).1.timed_out()
    }
}
