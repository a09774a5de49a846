//! One connection of the server, from the first request to the last: what is read from it and written to it, and until
//! when each may take.

use super::buffer::Buffer;
use super::head::{Body, Head, reason};
use super::request_reader::{ReadError, RequestReader, Source};
use super::service::{Request, Response};
use super::shared::{Admission, Entry, Large, Phase, Shared};
use super::socket::Socket;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Bytes asked for in one read.
const BLOCK: usize = 8 << 10;
/// After the last answer: how long the client may take to read it before the connection is closed under it.
const LINGER: Duration = Duration::from_secs(1);

/// On every answer: a browser shall neither guess that it is a script or a picture, nor let a page of another origin
/// embed it (Fetch, "Cross-Origin-Resource-Policy header"; "nosniff").
pub(super) const FOR_BROWSERS: &str =
    "X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n";

/// Why reading a request came to an end.
enum End {
    /// The client is done, or has gone.
    Closed,
    /// Answered with this, then the connection is closed.
    Refused(Response),
}

impl From<ReadError> for End {
    fn from(halt: ReadError) -> End {
        match halt {
            ReadError::Closed => End::Closed,
            ReadError::Status(status) => End::Refused(Response::text(status, reason(status))),
        }
    }
}

pub(super) struct Connection<'a> {
    wire: TimedStream<'a>,
    intake: RequestReader,
    is_verified: bool,
    /// Of the last request: what the client can understand as an answer.
    form: Framing,
}

/// What the request says about how it can be answered.
#[derive(Clone, Copy)]
struct Framing {
    /// An answer to HEAD has no body.
    has_body: bool,
    /// HTTP/1.0 has to be told that its connection is kept.
    is_old: bool,
}

impl Framing {
    const USUAL: Framing = Framing { has_body: true, is_old: false };

    fn of(head: &Head) -> Framing {
        Framing { has_body: head.method != "HEAD", is_old: head.version == 0 }
    }
}

impl<'a> Connection<'a> {
    /// `is_verified`: its client is known to be one that may talk to us, and it has its place.
    pub(super) fn new(stream: &'a Socket, entry: &'a Entry, is_verified: bool) -> Connection<'a> {
        let Entry { shared, id } = entry;
        let (phase, deadline) = (Phase::Unverified, Instant::now());
        let wire = TimedStream { stream, shared, id: *id, phase, deadline, large: None };
        Connection { wire, intake: RequestReader::default(), is_verified, form: Framing::USUAL }
    }

    /// Until the client has gone (which is an error as often as not), is refused, or the server stops.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let shared = self.wire.shared;
        shared.count_used(4 * BLOCK); // a stack, a head, a buffer
        // Once for the connection: a client that hands its socket on to another user could as well hand on the bytes.
        if !self.is_verified {
            if let Err(refused) = shared.service.check_client(self.wire.stream) {
                self.respond(&refused, false)?;
                return self.wire.linger();
            }
            match shared.admit(self.wire.id) {
                Admission::Admitted => {}
                Admission::Full => return self.respond(&Response::empty(503), false),
                Admission::Evicted => return Ok(()),
            }
        }
        loop {
            if shared.is_stopping.load(Ordering::SeqCst) {
                // A request that has arrived is still answered. On a Unix socket the client's next one then fails as it is
                // written, by which the client knows that it was not carried out.
                let _ = self.wire.stream.shutdown(Shutdown::Read);
            }
            let request = match self.read_request() {
                Ok(request) => request,
                Err(End::Closed) => return Ok(()),
                Err(End::Refused(response)) => {
                    self.respond(&response, false)?;
                    return self.wire.linger();
                }
            };
            // From here on the connection is not evicted: what is carried out is also answered.
            if !self.wire.note(Phase::Answering) {
                return Ok(());
            }
            let response = catch_unwind(AssertUnwindSafe(|| shared.service.answer(&request)));
            let response =
                response.unwrap_or_else(|_| Response::text(500, "internal error (a bug); server.log has the details"));
            let keeps = request.head.keeps_alive() && !shared.is_stopping.load(Ordering::SeqCst);
            self.respond(&response, keeps)?;
            if !keeps {
                return self.wire.linger();
            }
        }
    }

    fn read_request(&mut self) -> Result<Request<'a>, End> {
        let (stream, shared) = (self.wire.stream, self.wire.shared);
        self.form = Framing::USUAL;
        self.wire.large = None;
        self.wire.begin(Phase::Idle, shared.limits.idle);
        shared.give_back();
        self.intake.skip_empty_lines(&mut self.wire)?;
        self.wire.begin(Phase::Reading, shared.limits.request);
        let head = self.intake.head(&mut self.wire)?;
        self.form = Framing::of(&head);
        shared.service.check_request(&head).map_err(End::Refused)?;
        let most = shared.service.longest_body(&head, shared.limits.body_bytes);
        let framing = head.request_body().map_err(ReadError::from)?;
        if matches!(framing, Body::Sized(length) if length > most) {
            return Err(ReadError::Status(413).into());
        }
        self.meet_expectation(&head)?;
        let body = self.intake.body(framing, most, &mut self.wire)?;
        shared.count_used(body.len());
        Ok(Request { head, body, stream, waiting: &shared.waiting })
    }

    /// RFC 9110, 10.1.1. HTTP/1.0 knows no expectations.
    fn meet_expectation(&mut self, head: &Head) -> Result<(), End> {
        match head.header("expect") {
            Some(_) if head.version == 0 => Ok(()),
            None => Ok(()),
            Some(value) if value.eq_ignore_ascii_case("100-continue") => {
                self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| End::Closed)
            }
            Some(_) => Err(ReadError::Status(417).into()),
        }
    }

    fn respond(&mut self, response: &Response, keeps: bool) -> io::Result<()> {
        let mut out = format!(
            "HTTP/1.1 {} {}\r\nServer: {}\r\n{FOR_BROWSERS}",
            response.status,
            reason(response.status),
            self.wire.shared.name
        );
        for (name, value) in &response.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        match (keeps, self.form.is_old) {
            (false, _) => out.push_str("Connection: close\r\n"),
            (true, true) => out.push_str("Connection: keep-alive\r\n"),
            (true, false) => {}
        }
        out.push_str(&format!("Content-Length: {}\r\n\r\n", response.body.len()));
        self.wire.shared.count_used(response.body.len());
        let mut out = out.into_bytes();
        if self.form.has_body {
            out.extend_from_slice(&response.body);
        }
        self.wire.write(&out)
    }
}

/// The socket with its time limits. The table of connections hears of everything that moves on it.
struct TimedStream<'a> {
    stream: &'a Socket,
    shared: &'a Shared,
    id: u64,
    phase: Phase,
    /// Of reading.
    deadline: Instant,
    /// Held from the body to the end of the answer.
    large: Option<Large<'a>>,
}

impl TimedStream<'_> {
    /// False if the connection was evicted.
    fn note(&mut self, phase: Phase) -> bool {
        self.phase = phase;
        self.shared.note(self.id, phase)
    }

    fn begin(&mut self, phase: Phase, limit: Duration) {
        self.note(phase);
        self.deadline = Instant::now() + limit;
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let limits = &self.shared.limits;
        let end = Instant::now() + limits.answer;
        while !bytes.is_empty() {
            self.note(Phase::Writing);
            let left = end.saturating_duration_since(Instant::now()).min(limits.write);
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
        self.large = None;
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

impl Source for TimedStream<'_> {
    /// What the client could not send in the meantime, it has its time for afterwards.
    fn wait_for_room(&mut self) -> Result<(), ReadError> {
        let limit = self.shared.limits.request;
        self.large = Some(self.shared.wait_for_room(limit).ok_or(ReadError::Status(503))?);
        self.begin(Phase::Reading, limit);
        Ok(())
    }

    /// Past the deadline it is a 408.
    fn fill(&mut self, buffer: &mut Buffer) -> Result<(), ReadError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReadError::Status(408));
        }
        self.stream.set_read_timeout(Some(left)).map_err(|_| ReadError::Closed)?;
        let mut stream = self.stream;
        let read = buffer.fill(BLOCK, |room| stream.read(room));
        match read {
            Ok(0) => Err(ReadError::Closed),
            Ok(_) => {
                self.note(self.phase);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(ReadError::Status(408))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(ReadError::Closed),
        }
    }
}
