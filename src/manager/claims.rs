//! Turns: whoever starts or restarts the process of a label does it alone.

use crate::fault::Fault;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// As long as a client waits for an answer; a turn takes at most a stop and a start.
const PATIENCE: Duration = Duration::from_secs(45);

/// Labels whose turn is taken.
#[derive(Default)]
pub struct Claims {
    taken: Mutex<Vec<String>>,
    freed: Condvar,
}

/// A turn; it ends when this is dropped, also by a panic.
pub struct Claim<'a> {
    claims: &'a Claims,
    label: String,
}

impl Claims {
    /// Waits for its turn, but not for ever.
    pub fn take(&self, label: &str) -> Result<Claim<'_>, Fault> {
        let busy = |taken: &mut Vec<String>| taken.iter().any(|other| other == label);
        let waited = self.freed.wait_timeout_while(self.lock(), PATIENCE, busy);
        let (mut taken, timeout) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if timeout.timed_out() {
            return Err(Fault::conflict(format!(
                "somebody else has been starting or restarting '{label}' for a while; try again"
            )));
        }
        taken.push(label.into());
        Ok(Claim { claims: self, label: label.into() })
    }

    pub fn is_taken(&self, label: &str) -> bool {
        self.lock().iter().any(|other| other == label)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        // Insertions and removals only, so a panic elsewhere leaves it whole.
        self.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.lock().retain(|other| *other != self.label);
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_label_is_one_turn_at_a_time_and_labels_do_not_disturb_each_other() {
        let claims = Claims::default();
        let inside = AtomicUsize::new(0);
        let other = claims.take("other").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _turn = claims.take("web").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(!claims.is_taken("web") && claims.is_taken("other"));
        drop(other);
        assert!(!claims.is_taken("other"));
    }
}
