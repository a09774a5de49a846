//! The client that a call works for: whether it is still there, and whether it may wait.

use crate::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

/// A client that waits for an answer. Calls of a batch share one.
pub trait Caller: Sync {
    /// Whether the client has left.
    fn is_gone(&self) -> bool;
    /// Takes one of the server's slots for waiting requests, until the request is answered; false if none is left.
    fn may_wait(&self) -> bool;
}

/// The client as one call sees it: takes one slot, however often the call waits.
pub struct OneCall<'a> {
    caller: &'a dyn Caller,
    has_slot: AtomicBool,
}

impl<'a> OneCall<'a> {
    /// A call of `caller`.
    pub fn of(caller: &'a dyn Caller) -> OneCall<'a> {
        OneCall { caller, has_slot: AtomicBool::new(false) }
    }

    /// Another call of the same client.
    pub fn another(&self) -> OneCall<'a> {
        OneCall::of(self.caller)
    }
}

impl Caller for OneCall<'_> {
    fn is_gone(&self) -> bool {
        self.caller.is_gone()
    }
    fn may_wait(&self) -> bool {
        // Only one thread works on a call.
        let has_slot = self.has_slot.load(Ordering::Relaxed) || self.caller.may_wait();
        self.has_slot.store(has_slot, Ordering::Relaxed);
        has_slot
    }
}

/// The caller of a short read of our own: it never leaves.
pub struct Unattended;

impl Caller for Unattended {
    fn is_gone(&self) -> bool {
        false
    }
    fn may_wait(&self) -> bool {
        true
    }
}

/// Refuses a caller that wants to wait if too many do. Call it before anything is read for the request.
pub fn admit(caller: &dyn Caller) -> Result<(), Error> {
    let refusal = || Error::busy("too many requests are waiting at this server; try again in a moment");
    if caller.may_wait() { Ok(()) } else { Err(refusal()) }
}
