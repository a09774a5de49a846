//! A blocking HTTP/1.1 server: a thread per connection, every wait has an end, every buffer a bound.
//!
//! What one client can cost is in [`Limits`]. At the cap the connection that has been idle the longest makes room for a
//! newcomer; a request that waits for something (a long-poll) takes one of fewer places and can see whether its client
//! is still there. Nothing a client sends or leaves out ends the accept loop: when the system has no descriptors or
//! threads left, it waits a moment and goes on.

use super::HEAD_MAX;
use super::head::{Body, Head, Refused, parse_request, reason};
use crate::sys;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// What one client, and all of them, may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Requests that wait for something at the same time.
    pub waiting: usize,
    pub body_bytes: usize,
    /// From the first byte of a request to the last one of its body.
    pub request: Duration,
    /// How long a connection may sit idle.
    pub idle: Duration,
    /// How long one write may make no progress, and how long a whole answer may take.
    pub write: Duration,
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 128,
            waiting: 96,
            body_bytes: 4 << 20,
            request: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(10),
            answer: Duration::from_secs(60),
        }
    }
}

const STACK: usize = 256 << 10;
/// Pause of the accept loop when the system has nothing left to give.
const EXHAUSTED: Duration = Duration::from_millis(20);
/// After the last answer: how long the client may take to read it before the connection is closed under it.
const LINGER: Duration = Duration::from_secs(1);
/// One line of chunked framing, in bytes.
const CHUNK_LINE_MAX: usize = 256;

/// What the server is for.
pub trait Service: Send + Sync {
    /// Whether a request may come in at all. Asked when its head is there and before its body is read; a refusal is sent
    /// and the connection closed.
    fn admit(&self, head: &Head, peer: SocketAddr) -> Result<(), Response>;
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
    stream: &'a TcpStream,
    shared: &'a Shared,
}

/// One of the places for requests that wait.
pub struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Request<'_> {
    /// Whether the client has closed the connection, or at least its sending side. To be asked now and then while
    /// waiting, so that those who left free their place.
    pub fn client_is_gone(&self) -> bool {
        let [readable] = sys::poll_readable([self.stream.as_raw_fd()], Some(Duration::ZERO));
        readable && matches!(self.stream.peek(&mut [0]), Ok(0) | Err(_))
    }

    /// A place to wait; `None` if there are too many who do.
    pub fn may_wait(&self) -> Option<Waiting<'_>> {
        let places = &self.shared.waiting;
        let place = Waiting(places);
        (places.fetch_add(1, Ordering::SeqCst) < self.shared.limits.waiting).then_some(place)
    }
}

struct Shared {
    limits: Limits,
    /// Value of the `Server` header.
    name: String,
    service: Box<dyn Service>,
    is_stopping: AtomicBool,
    waiting: AtomicUsize,
    connections: Mutex<BTreeMap<u64, Connection>>,
    one_ended: Condvar,
}

struct Connection {
    stream: Arc<TcpStream>,
    /// Since when it has been waiting for a request; `None` while one is being served.
    idle_since: Option<Instant>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, Connection>> {
        // Insertions, removals and one field: whole whatever happens to a thread.
        self.connections.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
    fn set_idle(&self, id: u64, is_idle: bool) {
        if let Some(connection) = self.connections().get_mut(&id) {
            connection.idle_since = is_idle.then(Instant::now);
        }
    }
    /// Makes room for one more. False if everybody is busy.
    fn make_room(&self) -> bool {
        let mut connections = self.connections();
        if connections.len() < self.limits.connections {
            return true;
        }
        let idle = connections.iter().filter_map(|(id, connection)| Some((connection.idle_since?, *id)));
        let Some((_, longest)) = idle.min() else { return false };
        // Out of the table at once: its thread needs a moment to see it, and the next newcomer must find another one.
        if let Some(connection) = connections.remove(&longest) {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        true
    }
}

/// Takes a connection out of the table when its thread ends, also by a panic.
struct Entry {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.connections().remove(&self.id);
        self.shared.one_ended.notify_all();
    }
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves what arrives at `listener`. `name` goes into the `Server` header.
    pub fn start(listener: TcpListener, limits: Limits, name: String, service: Box<dyn Service>) -> io::Result<Server> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            limits,
            name,
            service,
            is_stopping: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            connections: Mutex::default(),
            one_ended: Condvar::new(),
        });
        let accepting = shared.clone();
        let acceptor = thread::Builder::new().name("accept".into()).spawn(move || accept(&listener, &accepting))?;
        Ok(Server { shared, address, acceptor: Some(acceptor) })
    }

    /// Accepts nobody any more, lets idle connections go, and waits up to `grace` for the busy ones.
    pub fn stop(mut self, grace: Duration) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)); // wakes accept()
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let connections = self.shared.connections();
        for connection in connections.values().filter(|c| c.idle_since.is_some()) {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        let waited = self.shared.one_ended.wait_timeout_while(connections, grace, |all| !all.is_empty());
        drop(waited);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut next = 0;
    while !shared.is_stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, peer)) => {
                next += 1;
                take_in(stream, peer, next, shared);
            }
            // ECONNABORTED passes at once; EMFILE, ENFILE and ENOBUFS need others to let go.
            Err(_) => thread::sleep(EXHAUSTED),
        }
    }
}

fn take_in(stream: TcpStream, peer: SocketAddr, id: u64, shared: &Arc<Shared>) {
    let turn_away = |stream: &TcpStream| {
        let _ = stream.set_nonblocking(true);
        let _ =
            (&*stream).write_all(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    };
    if !shared.make_room() {
        return turn_away(&stream);
    }
    let stream = Arc::new(stream);
    let connection = Connection { stream: stream.clone(), idle_since: Some(Instant::now()) };
    shared.connections().insert(id, connection);
    let entry = Entry { shared: shared.clone(), id };
    let for_thread = stream.clone();
    let serve = move || {
        let _ = Conversation::new(&for_thread, peer, &entry).run(); // an error means that the client has gone
    };
    if thread::Builder::new().name("http".into()).stack_size(STACK).spawn(serve).is_err() {
        turn_away(&stream); // the closure is gone, and with it the entry
    }
}

/// Why reading a request came to an end.
enum End {
    /// The client is done, or has gone.
    Closed,
    /// Answered with this, then the connection is closed.
    Refused(Response),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Closed
    }
}
impl From<Refused> for End {
    fn from(Refused(status): Refused) -> End {
        End::Refused(Response::text(status, reason(status)))
    }
}

/// One connection, from the first request to the last.
struct Conversation<'a> {
    stream: &'a TcpStream,
    peer: SocketAddr,
    shared: &'a Shared,
    id: u64,
    /// Read from the socket and not yet used.
    buffer: Vec<u8>,
    deadline: Instant,
}

impl<'a> Conversation<'a> {
    fn new(stream: &'a TcpStream, peer: SocketAddr, entry: &'a Entry) -> Conversation<'a> {
        let Entry { shared, id } = entry;
        Conversation { stream, peer, shared, id: *id, buffer: Vec::new(), deadline: Instant::now() }
    }

    fn run(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        while !self.shared.is_stopping.load(Ordering::SeqCst) {
            self.shared.set_idle(self.id, true);
            let request = match self.read_request() {
                Ok(request) => request,
                Err(End::Closed) => return Ok(()),
                Err(End::Refused(response)) => {
                    self.respond(&response, false, true)?;
                    return self.linger();
                }
            };
            let response = catch_unwind(AssertUnwindSafe(|| self.shared.service.answer(&request)));
            let response =
                response.unwrap_or_else(|_| Response::text(500, "the server made a mistake; server.log says which"));
            let keeps = request.head.keeps_alive() && !self.shared.is_stopping.load(Ordering::SeqCst);
            self.respond(&response, keeps, request.head.method != "HEAD")?;
            if !keeps {
                return self.linger();
            }
        }
        Ok(())
    }

    fn read_request(&mut self) -> Result<Request<'a>, End> {
        let limits = &self.shared.limits;
        self.deadline = Instant::now() + limits.idle;
        self.skip_empty_lines()?;
        self.shared.set_idle(self.id, false);
        self.deadline = Instant::now() + limits.request;
        let head = self.read_head()?;
        self.shared.service.admit(&head, self.peer).map_err(End::Refused)?;
        let body = head.request_body()?;
        if let Body::Sized(length) = body
            && length > limits.body_bytes
        {
            return Err(Refused(413).into());
        }
        match head.header("expect") {
            None => {}
            Some(value) if value.eq_ignore_ascii_case("100-continue") => {
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?
            }
            Some(_) => return Err(Refused(417).into()),
        }
        let body = match body {
            Body::Sized(length) => self.take(length)?,
            Body::Chunked => self.take_chunked()?,
            Body::UntilClose => return Err(Refused(400).into()), // never of a request
        };
        Ok(Request { head, body, stream: self.stream, shared: self.shared })
    }

    /// Waits for the first byte of a request. Some clients send an empty line behind a body (RFC 9112, 2.2).
    fn skip_empty_lines(&mut self) -> Result<(), End> {
        for _ in 0..4 {
            while self.buffer.len() < 2 && self.buffer.first().is_none_or(|b| *b == b'\r') {
                self.fill().map_err(|_| End::Closed)?;
            }
            if !self.buffer.starts_with(b"\r\n") {
                return Ok(());
            }
            self.buffer.drain(..2);
        }
        Ok(())
    }

    fn read_head(&mut self) -> Result<Head, End> {
        loop {
            if let Some((head, length)) = parse_request(&self.buffer)? {
                if length > HEAD_MAX {
                    return Err(Refused(431).into());
                }
                self.buffer.drain(..length);
                return Ok(head);
            }
            if self.buffer.len() > HEAD_MAX {
                return Err(Refused(431).into());
            }
            self.fill()?;
        }
    }

    /// Reads more bytes. Past the deadline it is a 408, at the end of the stream the end.
    fn fill(&mut self) -> Result<(), End> {
        const BLOCK: usize = 8 << 10;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refused(408).into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let filled = self.buffer.len();
        self.buffer.resize(filled + BLOCK, 0);
        let read = self.stream.read(&mut self.buffer[filled..]);
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(Refused(408).into())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, End> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// A line of chunked framing, without its CRLF.
    fn take_line(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(newline) = memchr::memchr(b'\n', &self.buffer) {
                let line = self.take(newline + 1)?;
                return line.strip_suffix(b"\r\n").map(Vec::from).ok_or(Refused(400).into());
            }
            if self.buffer.len() > CHUNK_LINE_MAX {
                return Err(Refused(400).into());
            }
            self.fill()?;
        }
    }

    /// RFC 9112, 7.1. Extensions and trailers are read and dropped.
    fn take_chunked(&mut self) -> Result<Vec<u8>, End> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line()?;
            let size =
                line.split(|&b| b == b';').next().and_then(|s| std::str::from_utf8(s).ok()).map(str::trim_ascii_end);
            let size =
                size.filter(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(Refused(400))?;
            let size = usize::from_str_radix(size, 16).map_err(|_| Refused(413))?;
            if size > self.shared.limits.body_bytes - body.len() {
                return Err(Refused(413).into());
            }
            if size == 0 {
                return self.skip_trailers().map(|()| body);
            }
            body.extend(self.take(size)?);
            if !self.take_line()?.is_empty() {
                return Err(Refused(400).into());
            }
        }
    }

    fn skip_trailers(&mut self) -> Result<(), End> {
        let mut room = HEAD_MAX;
        loop {
            let line = self.take_line()?;
            if line.is_empty() {
                return Ok(());
            }
            room = room.checked_sub(line.len()).ok_or(Refused(431))?;
        }
    }

    fn respond(&mut self, response: &Response, keeps: bool, with_body: bool) -> io::Result<()> {
        let mut out =
            format!("HTTP/1.1 {} {}\r\nServer: {}\r\n", response.status, reason(response.status), self.shared.name);
        for (name, value) in &response.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        if !keeps {
            out.push_str("Connection: close\r\n");
        }
        out.push_str(&format!("Content-Length: {}\r\n\r\n", response.body.len()));
        let mut out = out.into_bytes();
        if with_body {
            out.extend_from_slice(&response.body);
        }
        self.write(&out)
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let end = Instant::now() + self.shared.limits.answer;
        while !bytes.is_empty() {
            let left = end.saturating_duration_since(Instant::now()).min(self.shared.limits.write);
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets the client read our last answer: closing with its bytes unread would be a reset, which can destroy it.
    fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let end = Instant::now() + LINGER;
        let mut sink = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.stream.set_read_timeout(Some(left))?;
            if self.stream.read(&mut sink)? == 0 {
                return Ok(());
            }
        }
    }
}
