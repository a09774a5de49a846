//! What all connections of the server share: the table of connections and their phases, which one is evicted when there are
//! too many, and how much there may be of what costs memory.

use super::service::{Limits, Service, WaitSlots};
use super::socket::Socket;
use crate::sys;
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Bytes used by connections after which memory is given back: when nothing goes on, and in any case.
const TRIM_WHEN_IDLE: usize = 1 << 20;
const TRIM_ALWAYS: usize = 32 << 20;
/// A client that takes nothing of its answer for this long may lose it to a newcomer.
const STALL_LIMIT: Duration = Duration::from_secs(1);

/// What all connections share.
pub(super) struct Shared {
    pub(super) limits: Limits,
    /// Value of the `Server` header.
    pub(super) name: String,
    pub(super) service: Box<dyn Service>,
    pub(super) is_stopping: AtomicBool,
    /// Nothing is accepted any more.
    pub(super) is_closed: AtomicBool,
    /// Requests that wait for something at present.
    pub(super) waiting: WaitSlots,
    /// Bytes that connections have taken, roughly, since memory was last given back.
    used: AtomicUsize,
    connections: Mutex<BTreeMap<u64, ConnectionState>>,
    pub(super) one_ended: Condvar,
    /// Large bodies at present.
    pub(super) large: Mutex<usize>,
    one_less: Condvar,
}

/// The right to hold a large body.
pub(super) struct Large<'a>(&'a Shared);

impl Drop for Large<'_> {
    fn drop(&mut self) {
        *self.0.large.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        self.0.one_less.notify_one();
    }
}

pub(super) struct ConnectionState {
    pub(super) stream: Arc<Socket>,
    pub(super) phase: Phase,
    /// When a byte went through it last.
    pub(super) moved: Instant,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not known yet whether its client may talk to us; after a refusal, until it is closed.
    Unverified,
    /// Waits for a request.
    Idle,
    /// Reads a request.
    Reading,
    /// Works on the answer.
    Answering,
    /// Writes the answer.
    Writing,
}

impl ConnectionState {
    /// Whether it may be evicted: never while its request is carried out, and while the answer is written
    /// only if the client has stopped reading it.
    fn may_be_evicted(&self) -> bool {
        match self.phase {
            Phase::Unverified | Phase::Idle | Phase::Reading => true,
            Phase::Answering => false,
            Phase::Writing => self.moved.elapsed() > STALL_LIMIT,
        }
    }
}

/// What became of a connection whose client may talk to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// All the others are being answered.
    Full,
    /// It was evicted while its client was verified.
    Evicted,
}

impl Shared {
    pub(super) fn new(limits: Limits, name: String, service: Box<dyn Service>) -> Shared {
        Shared {
            waiting: WaitSlots::new(limits.waiting),
            limits,
            name,
            service,
            is_stopping: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            used: AtomicUsize::new(0),
            connections: Mutex::default(),
            one_ended: Condvar::new(),
            large: Mutex::default(),
            one_less: Condvar::new(),
        }
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, ConnectionState>> {
        // Insertions, removals and plain fields: whole whatever happens to a thread.
        self.connections.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
    /// False if the connection is no longer in the table: it was evicted.
    pub(super) fn note(&self, id: u64, phase: Phase) -> bool {
        let mut connections = self.connections();
        let Some(connection) = connections.get_mut(&id) else { return false };
        connection.phase = phase;
        connection.moved = Instant::now();
        true
    }

    /// Takes in a connection whose client is not verified yet. These have places of their own, so that clients which are
    /// not let in compete with each other alone; the one that came first is evicted.
    pub(super) fn insert(&self, id: u64, stream: Arc<Socket>) {
        let mut connections = self.connections();
        let is_unverified = |connection: &ConnectionState| connection.phase == Phase::Unverified;
        if connections.values().filter(|connection| is_unverified(connection)).count() >= self.limits.unverified {
            evict(&mut connections, is_unverified);
        }
        connections.insert(id, ConnectionState { stream, phase: Phase::Unverified, moved: Instant::now() });
    }

    /// Gives a verified connection one of the places for such, if need be that of another one.
    pub(super) fn admit(&self, id: u64) -> Admission {
        let mut connections = self.connections();
        if !connections.contains_key(&id) {
            return Admission::Evicted;
        }
        let is_verified = |connection: &ConnectionState| connection.phase != Phase::Unverified;
        let is_full =
            connections.values().filter(|connection| is_verified(connection)).count() >= self.limits.connections;
        let may_go = |connection: &ConnectionState| is_verified(connection) && connection.may_be_evicted();
        if is_full && !evict(&mut connections, may_go) {
            return Admission::Full;
        }
        if let Some(connection) = connections.get_mut(&id) {
            connection.phase = Phase::Idle;
            connection.moved = Instant::now();
        }
        Admission::Admitted
    }

    /// Waits until one large body less is there than there may be; `None` if that takes longer than `limit`.
    pub(super) fn wait_for_room(&self, limit: Duration) -> Option<Large<'_>> {
        let large = self.large.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_full = |large: &mut usize| *large >= self.limits.large;
        let waited = self.one_less.wait_timeout_while(large, limit, is_full);
        let (mut large, waited) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if waited.timed_out() && *large >= self.limits.large {
            return None;
        }
        *large += 1;
        Some(Large(self))
    }
    pub(super) fn count_used(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Gives back what the allocator keeps after a lot was used: at once after very much, else when nothing goes on.
    pub(super) fn give_back(&self) {
        let used = self.used.load(Ordering::Relaxed);
        if used < TRIM_WHEN_IDLE {
            return;
        }
        let rests = self.connections().values().all(|connection| connection.phase == Phase::Idle);
        if rests || used >= TRIM_ALWAYS {
            // What other connections still hold now is not counted again: memory is given back once more when all are idle.
            self.used.store(if rests { 0 } else { TRIM_WHEN_IDLE }, Ordering::Relaxed);
            sys::trim_heap();
        }
    }
    /// Closes the connection that has been silent the longest. False if there is none but such as are being answered.
    pub(super) fn evict_one(&self) -> bool {
        evict(&mut self.connections(), ConnectionState::may_be_evicted)
    }
}

/// Closes the connection that has been silent the longest among those that `may_go`; false if there is none.
fn evict(connections: &mut BTreeMap<u64, ConnectionState>, may_go: impl Fn(&ConnectionState) -> bool) -> bool {
    let candidates = connections.iter().filter(|(_, connection)| may_go(connection));
    let Some((_, longest)) = candidates.map(|(id, connection)| (connection.moved, *id)).min() else { return false };
    // Out of the table at once: its thread needs a moment to see it, and the next newcomer must find another one.
    if let Some(connection) = connections.remove(&longest) {
        let _ = connection.stream.shutdown(Shutdown::Both);
    }
    true
}

/// Takes a connection out of the table when its thread ends, also by a panic.
pub(super) struct Entry {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.connections().remove(&self.id);
        self.shared.give_back();
        self.shared.one_ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::Head;
    use super::super::service::{Request, Response};
    use super::*;
    use std::os::unix::net::UnixStream;

    struct Silent;

    impl Service for Silent {
        fn is_known(&self, _: &Socket) -> bool {
            false
        }
        fn check_client(&self, _: &Socket) -> Result<(), Response> {
            Ok(())
        }
        fn check_request(&self, _: &Head) -> Result<(), Response> {
            Ok(())
        }
        fn answer(&self, _: &Request) -> Response {
            Response::empty(202)
        }
    }

    fn shared(connections: usize, unverified: usize) -> Shared {
        let limits = Limits { connections, unverified, ..Limits::within(1024) };
        Shared::new(limits, "test".into(), Box::new(Silent))
    }

    fn insert(shared: &Shared, id: u64) {
        shared.insert(id, Arc::new(Socket::Unix(UnixStream::pair().unwrap().0)));
    }

    #[test]
    fn clients_that_are_not_verified_compete_with_each_other_alone() {
        let shared = shared(2, 2);
        for id in 1..=2 {
            insert(&shared, id);
            assert_eq!(shared.admit(id), Admission::Admitted);
        }
        (3..=9).for_each(|id| insert(&shared, id));
        assert!(shared.connections().keys().eq(&[1, 2, 8, 9]));
        assert_eq!(shared.admit(7), Admission::Evicted, "the first of them made room");
        // A verified one takes the place of the one that has been silent the longest.
        assert_eq!(shared.admit(9), Admission::Admitted);
        assert!(shared.connections().keys().eq(&[2, 8, 9]));
    }

    #[test]
    fn from_the_moment_a_request_is_carried_out_until_it_is_answered_its_connection_stays() {
        let shared = shared(1, 9);
        insert(&shared, 1);
        assert_eq!(shared.admit(1), Admission::Admitted);
        for (phase, admission) in
            [(Phase::Answering, Admission::Full), (Phase::Writing, Admission::Full), (Phase::Idle, Admission::Admitted)]
        {
            assert!(shared.note(1, phase));
            insert(&shared, 2);
            assert_eq!(shared.admit(2), admission, "{phase:?}");
            if admission == Admission::Full {
                shared.connections().remove(&2);
            }
        }
        // A request of a connection that was evicted before it was read is not carried out any more.
        assert!(!shared.note(1, Phase::Answering));
        // A client that takes nothing of its answer gives its place to a newcomer after a while.
        assert!(shared.note(2, Phase::Writing));
        shared.connections().get_mut(&2).unwrap().moved -= 2 * STALL_LIMIT;
        insert(&shared, 3);
        assert_eq!(shared.admit(3), Admission::Admitted);
    }
}
