//! One connection of the server, from the first request to the last: what is read from it and written to it, and until
//! when each may take.

use super::buffer::Buffer;
use super::head::{Body, Head, reason};
use super::intake::{Halt, Intake, Source};
use super::server::{Request, Response};
use super::shared::{Entry, Large, Phase, Shared};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Bytes asked for in one read.
const BLOCK: usize = 8 << 10;
/// After the last answer: how long the client may take to read it before the connection is closed under it.
const LINGER: Duration = Duration::from_secs(1);

/// Why reading a request came to an end.
enum End {
    /// The client is done, or has gone.
    Closed,
    /// Answered with this, then the connection is closed.
    Refused(Response),
}

impl From<Halt> for End {
    fn from(halt: Halt) -> End {
        match halt {
            Halt::Closed => End::Closed,
            Halt::Status(status) => End::Refused(Response::text(status, reason(status))),
        }
    }
}

pub(super) struct Conversation<'a> {
    wire: Wire<'a>,
    peer: SocketAddr,
    intake: Intake,
    /// The client was let in. That holds for the connection: whoever hands its socket on to another user could as well
    /// have handed on the bytes.
    is_received: bool,
    /// Of the last request: what the client can understand as an answer.
    form: Form,
}

/// What the request says about how it can be answered.
#[derive(Clone, Copy)]
struct Form {
    /// An answer to HEAD has no body.
    has_body: bool,
    /// HTTP/1.0 has to be told that its connection is kept.
    is_old: bool,
}

impl Form {
    const USUAL: Form = Form { has_body: true, is_old: false };

    fn of(head: &Head) -> Form {
        Form { has_body: head.method != "HEAD", is_old: head.version == 0 }
    }
}

impl<'a> Conversation<'a> {
    pub(super) fn new(stream: &'a TcpStream, peer: SocketAddr, entry: &'a Entry) -> Conversation<'a> {
        let Entry { shared, id } = entry;
        let (phase, deadline) = (Phase::Idle, Instant::now());
        let wire = Wire { stream, shared, id: *id, phase, deadline, large: None };
        Conversation { wire, peer, intake: Intake::default(), is_received: false, form: Form::USUAL }
    }

    /// Until the client has gone (which is an error as often as not), is refused, or the server stops.
    pub(super) fn run(&mut self) -> io::Result<()> {
        self.wire.stream.set_nodelay(true)?;
        let shared = self.wire.shared;
        shared.count_used(4 * BLOCK); // a stack, a head, a buffer
        while !shared.is_stopping.load(Ordering::SeqCst) {
            let request = match self.read_request() {
                Ok(request) => request,
                Err(End::Closed) => return Ok(()),
                Err(End::Refused(response)) => {
                    self.respond(&response, false)?;
                    return self.wire.linger();
                }
            };
            self.wire.note(Phase::Answering);
            let response = catch_unwind(AssertUnwindSafe(|| shared.service.answer(&request)));
            let response =
                response.unwrap_or_else(|_| Response::text(500, "the server made a mistake; server.log says which"));
            let keeps = request.head.keeps_alive() && !shared.is_stopping.load(Ordering::SeqCst);
            self.respond(&response, keeps)?;
            if !keeps {
                return self.wire.linger();
            }
        }
        Ok(())
    }

    fn read_request(&mut self) -> Result<Request<'a>, End> {
        let (stream, shared) = (self.wire.stream, self.wire.shared);
        self.form = Form::USUAL;
        self.wire.large = None;
        self.wire.begin(Phase::Idle, shared.limits.idle);
        shared.give_back();
        self.intake.skip_empty_lines(&mut self.wire)?;
        self.wire.begin(Phase::Moving, shared.limits.request);
        let head = self.intake.head(&mut self.wire)?;
        self.form = Form::of(&head);
        if !self.is_received {
            shared.service.receive(self.peer).map_err(End::Refused)?;
            self.is_received = true;
        }
        shared.service.admit(&head).map_err(End::Refused)?;
        let most = shared.limits.body_bytes;
        let framing = head.request_body().map_err(Halt::from)?;
        if matches!(framing, Body::Sized(length) if length > most) {
            return Err(Halt::Status(413).into());
        }
        self.meet_expectation(&head)?;
        let body = self.intake.body(framing, most, &mut self.wire)?;
        shared.count_used(body.len());
        Ok(Request { head, body, stream, shared })
    }

    /// RFC 9110, 10.1.1. HTTP/1.0 knows no expectations.
    fn meet_expectation(&mut self, head: &Head) -> Result<(), End> {
        match head.header("expect") {
            Some(_) if head.version == 0 => Ok(()),
            None => Ok(()),
            Some(value) if value.eq_ignore_ascii_case("100-continue") => {
                self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| End::Closed)
            }
            Some(_) => Err(Halt::Status(417).into()),
        }
    }

    fn respond(&mut self, response: &Response, keeps: bool) -> io::Result<()> {
        let mut out = format!(
            "HTTP/1.1 {} {}\r\nServer: {}\r\n",
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
struct Wire<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    id: u64,
    phase: Phase,
    /// Of reading.
    deadline: Instant,
    /// Held from the body to the end of the answer.
    large: Option<Large<'a>>,
}

impl Wire<'_> {
    fn note(&mut self, phase: Phase) {
        self.phase = phase;
        self.shared.note(self.id, phase);
    }

    fn begin(&mut self, phase: Phase, limit: Duration) {
        self.note(phase);
        self.deadline = Instant::now() + limit;
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let limits = &self.shared.limits;
        let end = Instant::now() + limits.answer;
        while !bytes.is_empty() {
            self.note(Phase::Moving);
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

impl Source for Wire<'_> {
    /// What the client could not send in the meantime, it has its time for afterwards.
    fn wait_for_room(&mut self) -> Result<(), Halt> {
        let limit = self.shared.limits.request;
        self.large = Some(self.shared.wait_for_room(limit).ok_or(Halt::Status(503))?);
        self.begin(Phase::Moving, limit);
        Ok(())
    }

    /// Past the deadline it is a 408.
    fn fill(&mut self, buffer: &mut Buffer) -> Result<(), Halt> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Halt::Status(408));
        }
        self.stream.set_read_timeout(Some(left)).map_err(|_| Halt::Closed)?;
        let mut stream = self.stream;
        let read = buffer.fill(BLOCK, |room| stream.read(room));
        match read {
            Ok(0) => Err(Halt::Closed),
            Ok(_) => {
                self.note(self.phase);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(Halt::Status(408))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(Halt::Closed),
        }
    }
}
