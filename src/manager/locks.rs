//! What only one request at a time may do: start or restart the process of a label, write input, stop what a killed shim
//! left behind.

use crate::error::Error;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How long a request waits for another one. Less than a client waits for its answer (60 s), so that it hears why.
const LOCK_TIMEOUT: Duration = Duration::from_secs(45);

/// What is locked. Labels are the user's words and can be anything, so nothing else is locked by a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockKey {
    /// Starting and restarting the process of this label.
    Label(String),
    /// Writing to the stdin of this run: the parts of two inputs must not mix.
    Input(u64),
    /// Stopping what is left of this run, whose shim was killed: each process is to be sent TERM once.
    Orphans(u64),
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            LockKey::Label(label) => write!(f, "starting or restarting '{label}'"),
            LockKey::Input(run) => write!(f, "writing to the stdin of r{run}"),
            LockKey::Orphans(run) => write!(f, "stopping what is left of r{run}"),
        }
    }
}

/// The keys that are locked now.
#[derive(Default)]
pub struct Locks {
    held: Mutex<Vec<LockKey>>,
    released: Condvar,
}

/// A lock that is held until this is dropped, also by a panic.
pub struct LockGuard {
    locks: Arc<Locks>,
    key: LockKey,
}

impl Locks {
    /// Waits until no other request holds `key`, for at most 45 s.
    pub fn lock(self: &Arc<Self>, key: LockKey) -> Result<LockGuard, Error> {
        self.lock_within(key, LOCK_TIMEOUT)
    }

    /// The same with a limit of the caller's.
    pub fn lock_within(self: &Arc<Self>, key: LockKey, limit: Duration) -> Result<LockGuard, Error> {
        let waited = self.released.wait_timeout_while(self.held(), limit, |held| held.contains(&key));
        let (mut held, timeout) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if timeout.timed_out() {
            return Err(Error::conflict(format!(
                "another request has been {key} for {} s; try again",
                limit.as_secs_f32().round()
            )));
        }
        held.push(key.clone());
        drop(held);
        Ok(LockGuard { locks: self.clone(), key })
    }

    /// Whether a request holds `key`.
    pub fn is_locked(&self, key: &LockKey) -> bool {
        self.held().contains(key)
    }

    fn held(&self) -> MutexGuard<'_, Vec<LockKey>> {
        // Insertions and removals only, so a panic elsewhere leaves it whole.
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.locks.held().retain(|other| *other != self.key);
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn label(text: &str) -> LockKey {
        LockKey::Label(text.into())
    }

    #[test]
    fn one_request_at_a_time_holds_a_key_and_different_keys_do_not_disturb_each_other() {
        let locks = Arc::new(Locks::default());
        let inside = AtomicUsize::new(0);
        let other = locks.lock(label("other")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _guard = locks.lock(label("web")).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(!locks.is_locked(&label("web")) && locks.is_locked(&label("other")));
        drop(other);
        assert!(!locks.is_locked(&label("other")));
    }

    #[test]
    fn no_label_is_the_key_of_something_else() {
        let locks = Arc::new(Locks::default());
        let keys = [LockKey::Input(1), LockKey::Orphans(1), LockKey::Input(2)];
        let labels = keys.iter().map(|key| label(&key.to_string()));
        let all: Vec<LockKey> = keys.iter().cloned().chain(labels).collect();
        let guards: Vec<_> = all.iter().map(|key| locks.lock_within(key.clone(), Duration::ZERO)).collect();
        assert!(guards.iter().all(Result::is_ok));
        let refused = locks.lock_within(LockKey::Orphans(1), Duration::ZERO).err().unwrap();
        assert_eq!(refused.to_string(), "another request has been stopping what is left of r1 for 0 s; try again");
    }
}
