//! A blocking HTTP/1.1 client for one server on this machine: one kept connection, bounded answers, no host names.

use super::HEAD_MAX;
use super::buffer::Buffer;
use super::head::{Body, Head, parse_response};
use super::socket::Socket;
use crate::sys;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// Larger answers than this are a fault of the server.
const BODY_MAX: usize = 64 << 20;
const TRAILERS_MAX: usize = 100;
/// Answers like 100 Continue before the one that counts.
const INTERIM_MAX: usize = 16;
const CONNECT: Duration = Duration::from_secs(2);
const BLOCK: usize = 64 << 10;

/// What is sent.
#[derive(Clone, Debug, Default)]
pub struct Call<'a> {
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub headers: Vec<(&'a str, String)>,
    pub body: &'a [u8],
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Asked of every new connection before anything is said on it: whether the other end may hear what we say. The address is
/// our own, of a TCP connection.
pub type Verify = fn(&Socket) -> io::Result<()>;

/// One server, with the connection to it that is kept between calls.
pub struct Client {
    endpoint: Endpoint,
    verify: Verify,
    kept: Option<Connection>,
    cancel_handle: CancelHandle,
    /// As of the last call: the whole request was handed to the system. If not, it was not carried out.
    was_sent: bool,
}

/// Ends the call of a client from another thread: the server sees the connection close.
#[derive(Clone, Default)]
pub struct CancelHandle(Arc<Mutex<Line>>);

#[derive(Default)]
struct Line {
    is_cancelled: bool,
    stream: Weak<Socket>,
}

impl CancelHandle {
    fn line(&self) -> MutexGuard<'_, Line> {
        // Two fields that are set one by one: whole whatever happens to a thread.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Closes the connection of the present call, and of every later one.
    pub fn cancel(&self) {
        let mut line = self.line();
        line.is_cancelled = true;
        if let Some(stream) = line.stream.upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.line().is_cancelled
    }

    fn hold(&self, stream: &Arc<Socket>) -> io::Result<()> {
        let mut line = self.line();
        if line.is_cancelled {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        line.stream = Arc::downgrade(stream);
        Ok(())
    }
}

struct Connection {
    stream: Arc<Socket>,
    /// Read and not yet used.
    buffer: Buffer,
}

impl Client {
    /// A client of the server at `endpoint`.
    pub fn new(endpoint: Endpoint, verify: Verify) -> Client {
        Client { endpoint, verify, kept: None, cancel_handle: CancelHandle::default(), was_sent: false }
    }

    /// The server on 127.0.0.1 at `port`, whatever it is: nothing secret may be said to it.
    pub fn of_port(port: u16) -> Client {
        Client::new(Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))), |_| Ok(()))
    }

    /// What ends the calls of this client.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel_handle.clone()
    }

    /// Whether the last call was sent as a whole. One that was not was not carried out either.
    pub fn was_sent(&self) -> bool {
        self.was_sent
    }

    /// The next call makes a new connection.
    pub fn disconnect(&mut self) {
        self.kept = None;
    }

    /// Sends one request and waits up to `patience` for the whole answer. It is sent once: whether a request that got no
    /// answer was carried out cannot be known, so only the caller can say whether to repeat it. Only where a kept
    /// connection did not take it all, because the server has just closed it, another one is made.
    pub fn send(&mut self, call: &Call, patience: Duration) -> io::Result<Answer> {
        let end = Instant::now() + patience;
        self.was_sent = false;
        if let Some(kept) = self.kept.take().filter(Connection::is_usable) {
            let answer = self.exchange(kept, call, end);
            if answer.is_ok() || self.was_sent || self.cancel_handle.is_cancelled() {
                return answer;
            }
        }
        let connection = Connection { stream: Arc::new(self.connect()?), buffer: Buffer::default() };
        self.exchange(connection, call, end)
    }

    fn connect(&self) -> io::Result<Socket> {
        let socket = match &self.endpoint {
            Endpoint::Tcp(address) => Socket::connect_tcp(*address, CONNECT)?,
            Endpoint::Unix(path) => Socket::connect_unix(path, CONNECT)?,
        };
        (self.verify)(&socket)?;
        Ok(socket)
    }

    fn exchange(&mut self, mut connection: Connection, call: &Call, end: Instant) -> io::Result<Answer> {
        self.cancel_handle.hold(&connection.stream)?;
        let host = match &self.endpoint {
            Endpoint::Tcp(address) => address.to_string(),
            Endpoint::Unix(_) => "localhost".into(),
        };
        let mut out = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", call.method, call.target);
        for (name, value) in &call.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str(&format!("Content-Length: {}\r\n\r\n", call.body.len()));
        let mut out = out.into_bytes();
        out.extend_from_slice(call.body);
        connection.stream.set_write_timeout(Some(left(end)?))?;
        // A server that refuses early answers and closes while we still write: then its answer counts, not our error.
        let written = (&*connection.stream).write_all(&out);
        self.was_sent = written.is_ok();
        let mut interim = 0;
        let head = loop {
            match connection.read_head(end) {
                Err(_) if written.is_err() => return Err(written.err().unwrap_or(io::ErrorKind::BrokenPipe.into())),
                Err(error) => return Err(error),
                Ok(head) if head.status < 200 && interim < INTERIM_MAX => interim += 1,
                Ok(head) if head.status < 200 => return Err(bad("it never comes to the point")),
                Ok(head) => break head,
            }
        };
        let framing = head.response_body().map_err(|_| bad("the length of its body makes no sense"))?;
        let body = match framing {
            Body::Sized(length) => connection.take(length, end)?,
            Body::Chunked => connection.take_chunked(end)?,
            Body::UntilClose => connection.take_all(end)?,
        };
        if head.keeps_alive() && framing != Body::UntilClose && written.is_ok() {
            self.kept = Some(connection);
        }
        Ok(Answer { head, body })
    }
}

impl Connection {
    /// Whether the server has neither closed it in the meantime nor said something unasked.
    fn is_usable(&self) -> bool {
        self.buffer.rest().is_empty() && !sys::poll_readable([self.stream.as_raw_fd()], Some(Duration::ZERO))[0]
    }

    fn read_head(&mut self, end: Instant) -> io::Result<Head> {
        loop {
            let parsed = parse_response(self.buffer.rest()).map_err(|_| bad("it does not speak HTTP/1.1"))?;
            if let Some((head, length)) = parsed {
                self.buffer.skip(length);
                return Ok(head);
            }
            if self.buffer.rest().len() > HEAD_MAX {
                return Err(bad("its head is too long"));
            }
            if self.fill(end)? == 0 {
                let nothing = self.buffer.rest().is_empty();
                return Err(if nothing {
                    io::ErrorKind::ConnectionAborted.into()
                } else {
                    io::ErrorKind::UnexpectedEof.into()
                });
            }
        }
    }

    fn fill(&mut self, end: Instant) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(end)?))?;
        let mut stream = &*self.stream;
        self.buffer.fill(BLOCK, |room| {
            loop {
                match stream.read(room) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        break Err(io::ErrorKind::TimedOut.into());
                    }
                    read => break read,
                }
            }
        })
    }

    fn take(&mut self, length: usize, end: Instant) -> io::Result<Vec<u8>> {
        if length > BODY_MAX {
            return Err(bad("its body is too long"));
        }
        while self.buffer.rest().len() < length {
            if self.fill(end)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.take(length))
    }

    fn take_all(&mut self, end: Instant) -> io::Result<Vec<u8>> {
        while self.buffer.rest().len() <= BODY_MAX {
            if self.fill(end)? == 0 {
                return Ok(self.buffer.take(BODY_MAX));
            }
        }
        Err(bad("its body is too long"))
    }

    fn take_line(&mut self, end: Instant) -> io::Result<Vec<u8>> {
        loop {
            if let Some(newline) = memchr::memchr(b'\n', self.buffer.rest()) {
                let mut line = self.take(newline + 1, end)?;
                line.truncate(line.trim_ascii_end().len());
                return Ok(line);
            }
            if self.buffer.rest().len() > HEAD_MAX {
                return Err(bad("a line of it is too long"));
            }
            if self.fill(end)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take_chunked(&mut self, end: Instant) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line(end)?;
            let digits = line.split(|&b| b == b';').next().unwrap_or(&[]);
            let size = std::str::from_utf8(digits).ok().and_then(|d| usize::from_str_radix(d.trim(), 16).ok());
            let size = size
                .filter(|size| *size <= BODY_MAX - body.len())
                .ok_or_else(|| bad("a chunk of it makes no sense"))?;
            if size == 0 {
                for _ in 0..TRAILERS_MAX {
                    if self.take_line(end)?.is_empty() {
                        return Ok(body);
                    }
                }
                return Err(bad("it has too many trailers"));
            }
            body.extend(self.take(size, end)?);
            self.take_line(end)?;
        }
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer makes no sense: {what}"))
}
