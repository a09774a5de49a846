//! What an HTTP server serves, and what it may cost: the service, its requests and answers, limits.

use super::head::Head;
use super::socket::Socket;
use crate::sys;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What one client, and all of them, may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Connections beside these whose client has not been verified yet, or was refused.
    pub unverified: usize,
    /// Requests that wait for something at the same time.
    pub waiting: usize,
    pub body_bytes: usize,
    /// Large bodies that are read and answered at the same time: what is made of one can be twenty times its size.
    pub large: usize,
    /// From the first byte of a request to the last one of its body.
    pub request: Duration,
    /// How long a connection may sit idle.
    pub idle: Duration,
    /// How long one write may make no progress, and how long a whole answer may take.
    pub write: Duration,
    pub answer: Duration,
}

impl Limits {
    /// The usual ones, as far as `descriptors`, the number that this process may still open, allows: half of them are for
    /// what else an answer needs, such as files.
    pub fn within(descriptors: u64) -> Limits {
        let all = usize::try_from(descriptors / 2).unwrap_or(usize::MAX).clamp(5, 160);
        let unverified = all / 5;
        let connections = all - unverified;
        Limits {
            connections,
            unverified,
            waiting: connections / 4 * 3,
            body_bytes: 4 << 20,
            large: 4,
            request: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(10),
            answer: Duration::from_secs(60),
        }
    }
}

/// What the server serves.
pub trait Service: Send + Sync {
    /// Whether this client is known at once to be allowed. Called in the accepting thread.
    fn is_known(&self, socket: &Socket) -> bool;
    /// Whether this client is allowed at all. Called once for each connection that is not known, before anything is read
    /// from it; may take a while.
    fn check_client(&self, socket: &Socket) -> Result<(), Response>;
    /// Whether a request is allowed. Called when its head has been read and before its body is. A refusal of either kind is
    /// sent, and the connection closed.
    fn check_request(&self, head: &Head) -> Result<(), Response>;
    /// The longest body of a request, in bytes; `usual` is what [`Limits`] say.
    fn longest_body(&self, _: &Head, usual: usize) -> usize {
        usual
    }
    /// The answer. A panic becomes a 500 and ends only this request.
    fn answer(&self, request: &Request) -> Response;
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        Response { status, headers: vec![("Content-Type", content_type.into())], body: body.into() }
    }
    /// A status with one line of text.
    pub fn text(status: u16, text: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", format!("{text}\n"))
    }
    pub fn empty(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new() }
    }
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }
}

/// A request whose body has been read.
pub struct Request<'a> {
    pub head: Head,
    pub body: Vec<u8>,
    pub(super) stream: &'a Socket,
    pub(super) waiting: &'a WaitSlots,
}

/// The slots for requests that wait for something.
pub struct WaitSlots {
    taken: AtomicUsize,
    all: usize,
}

impl WaitSlots {
    pub fn new(all: usize) -> WaitSlots {
        WaitSlots { taken: AtomicUsize::new(0), all }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// `None` if all are taken.
    fn take(&self) -> Option<WaitSlot<'_>> {
        let slot = WaitSlot(&self.taken);
        (self.taken.fetch_add(1, Ordering::SeqCst) < self.all).then_some(slot)
    }
}

/// One of them, until it is dropped.
pub struct WaitSlot<'a>(&'a AtomicUsize);

impl Drop for WaitSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Request<'_> {
    /// Whether the client has closed the connection, or at least its sending side. Check it now and then while waiting, so
    /// that a client that has left frees its slot.
    pub fn client_is_gone(&self) -> bool {
        sys::is_hung_up(self.stream)
    }

    /// A slot to wait in; `None` if too many requests wait already.
    pub fn may_wait(&self) -> Option<WaitSlot<'_>> {
        self.waiting.take()
    }
}
