//! Showing what a follower reports. One thread follows, one writes, one takes signals; this one decides, and is never held
//! up by any of them.

use super::super::ExitCode;
use super::super::terminal;
use super::FollowEvent;
use super::writer::Writer;
use crate::api::{Following, State};
use crate::error::Error;
use crate::lease::Lease;
use crate::log::Stream;
use crate::sys;
use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::time::{Duration, Instant};

/// Signals that wait to be handled; more of them say nothing new.
const SIGNALS: usize = 16;
/// While the reader of our output reads nothing, this often its progress is checked.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);
/// How long the terminal may read nothing before a note is given up.
const NOTE_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for the rest of the output of what is being stopped.
const REST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after its deadline a reader may take to read what was found before it.
const LAST_WRITE: Duration = Duration::from_millis(500);
/// The reader of our output, or the terminal, often ends by the signal that is on its way to us, too.
const SAME_SIGNAL: Duration = Duration::from_millis(300);

/// What the events of a [`Viewer`] mean to the command that shows them. An exit code ends it.
pub trait Session {
    fn on_signal(&mut self, viewer: &mut Viewer, number: i32) -> Result<Option<ExitCode>, Error>;
    fn on_restart(&mut self, viewer: &mut Viewer, following: &Following);
    fn on_end(&mut self, viewer: &mut Viewer, following: &Following) -> Result<ExitCode, Error>;
    /// The time is over.
    fn on_deadline(&mut self) -> Result<ExitCode, Error>;
    /// The reader of stdout has closed its end.
    fn on_reader_left(&self) -> ExitCode;
    /// The user has asked here for the end of the process.
    fn is_stopping(&self) -> bool;
}

pub struct Viewer {
    /// Holds one, so that a reader that does not read our output holds back the reading of the log.
    events: Receiver<FollowEvent>,
    pub signals: Receiver<i32>,
    writer: Writer,
    is_quiet: bool,
    /// When to stop waiting for events, and when to stop writing.
    event_deadline: Option<Instant>,
    write_deadline: Option<Instant>,
    /// Tells the server what was read; without it (the disk was full) the run does not wait for us.
    pub lease: Option<Lease>,
    /// Output is missing.
    pub has_gap: bool,
    /// The last line on the terminal is not finished, so a note has to begin a new one.
    pub is_in_line: bool,
    /// Nothing reads our output any more; we only wait for the end.
    is_muted: bool,
}

/// The signals that a command handles itself, unless its caller ignores them.
fn watch_signals() -> io::Result<Receiver<i32>> {
    let wanted = [SIGINT, SIGTERM, SIGHUP];
    let mut signals = Signals::new(wanted.iter().filter(|&&number| !sys::is_ignored(number)))?;
    let (sender, receiver) = bounded(SIGNALS);
    let pass_on = move || {
        let _ = signals.forever().try_for_each(|number| match sender.try_send(number) {
            Err(error) if error.is_disconnected() => Err(()),
            _ => Ok(()),
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(pass_on)?;
    Ok(receiver)
}

impl Viewer {
    /// With the channel for a follower. Signals are handled from here on.
    pub fn new(
        is_quiet: bool,
        event_deadline: Option<Instant>,
        write_deadline: Option<Instant>,
    ) -> Result<(Viewer, Sender<FollowEvent>), Error> {
        let signals = watch_signals().map_err(|error| Error::failed("cannot watch for signals").because(error))?;
        let (sender, events) = bounded(1);
        let viewer = Viewer {
            events,
            signals,
            writer: Writer::start()?,
            is_quiet,
            event_deadline,
            write_deadline,
            lease: None,
            has_gap: false,
            is_in_line: false,
            is_muted: false,
        };
        Ok((viewer, sender))
    }

    /// Shows events until one of them is the end.
    pub fn run(&mut self, session: &mut dyn Session) -> Result<ExitCode, Error> {
        loop {
            if let Some(code) = self.handle_signals(session)? {
                return Ok(code);
            }
            let timer = self.event_deadline.map_or_else(never, |end| after(left(end)));
            let code = select! {
                recv(self.signals) -> number => match number {
                    Ok(number) => session.on_signal(self, number)?,
                    Err(_) => return Ok(ExitCode::Failure), // never: the thread of the signals lives as long as we do
                },
                recv(self.events) -> event => match event {
                    Ok(event) => self.handle(event, session)?,
                    Err(_) => return Err(Error::failed("the output cannot be followed any further")),
                },
                recv(timer) -> _ => None,
            };
            if let Some(code) = code {
                return Ok(code);
            }
            if self.event_deadline.is_some_and(|end| end <= Instant::now()) {
                self.end_line();
                return session.on_deadline();
            }
        }
    }

    /// The exit code when not all output was shown: a success would let a part pass for the whole.
    pub fn complete(&self, code: ExitCode) -> ExitCode {
        if self.has_gap && code.number() == 0 { ExitCode::Failure } else { code }
    }

    /// Handles the signals that have arrived, before anything else.
    fn handle_signals(&mut self, session: &mut dyn Session) -> Result<Option<ExitCode>, Error> {
        while let Ok(number) = self.signals.try_recv() {
            if let Some(code) = session.on_signal(self, number)? {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    fn handle(&mut self, event: FollowEvent, session: &mut dyn Session) -> Result<Option<ExitCode>, Error> {
        match event {
            FollowEvent::Output { pieces, position } => return self.show(session, pieces, position),
            FollowEvent::Restarted(following) => session.on_restart(self, &following),
            FollowEvent::Missing(what) => self.report_missing(&what),
            FollowEvent::Blocked(Some(why)) => self.note(&format!("the output is blocked: {why}")),
            FollowEvent::Blocked(None) => self.note("the output goes on"),
            FollowEvent::Note(text) => self.note(&text),
            FollowEvent::Ended(following) => return session.on_end(self, &following).map(Some),
            FollowEvent::Finished(result) => return result.map(Some),
        }
        Ok(None)
    }

    /// Writes output, and reports with the lease how far the log was read.
    fn show(
        &mut self,
        session: &mut dyn Session,
        pieces: Vec<(Stream, Vec<u8>)>,
        position: Option<(u64, u64)>,
    ) -> Result<Option<ExitCode>, Error> {
        for (stream, bytes) in pieces {
            if let Some(code) = self.write(session, stream, bytes)? {
                return Ok(Some(code));
            }
        }
        if let (Some(lease), Some((run, offset))) = (&mut self.lease, position) {
            lease.advance(run, offset);
        }
        Ok(None)
    }

    /// Writes all of `bytes`, and handles signals also while nothing reads them.
    pub fn write(
        &mut self,
        session: &mut dyn Session,
        stream: Stream,
        bytes: Vec<u8>,
    ) -> Result<Option<ExitCode>, Error> {
        if self.is_muted || bytes.is_empty() {
            return Ok(None);
        }
        let is_in_line = !bytes.ends_with(b"\n") && terminal::is_shared_with_notes(stream);
        self.writer.begin(stream, bytes);
        let (mut written, mut written_at) = (self.writer.written(), Instant::now());
        loop {
            select! {
                recv(self.writer.results) -> result => match result {
                    Ok(Ok(())) => {
                        self.is_in_line = is_in_line;
                        return Ok(None);
                    }
                    Ok(Err(error)) => return self.on_write_error(session, error),
                    Err(_) => return self.on_write_error(session, io::ErrorKind::BrokenPipe.into()),
                },
                recv(self.signals) -> number => {
                    let code = number.map_or(Ok(None), |number| session.on_signal(self, number))?;
                    if code.is_some() {
                        return Ok(code);
                    }
                },
                default(PROGRESS_INTERVAL) => {},
            }
            if std::mem::replace(&mut written, self.writer.written()) != written {
                written_at = Instant::now();
                self.lease.iter_mut().for_each(Lease::record_progress);
            }
            if self.write_deadline.is_some_and(|end| Instant::now() >= end + LAST_WRITE) {
                return session.on_deadline().map(Some);
            }
            if session.is_stopping() && written_at.elapsed() > REST_TIMEOUT {
                self.mute();
                return Ok(None);
            }
        }
    }

    /// Nothing reads our output any more. The process does not notice: it is not ours alone. But what ended the reader may
    /// be a Ctrl+C for all of a pipeline, or a terminal that closes, and then that is what counts.
    fn on_write_error(&mut self, session: &mut dyn Session, error: io::Error) -> Result<Option<ExitCode>, Error> {
        if !session.is_stopping()
            && let Ok(number) = self.signals.recv_timeout(SAME_SIGNAL)
            && let Some(code) = session.on_signal(self, number)?
        {
            return Ok(Some(code));
        }
        match error.kind() {
            _ if session.is_stopping() => self.mute(),
            io::ErrorKind::BrokenPipe => return Ok(Some(session.on_reader_left())),
            _ => return Err(Error::failed("cannot write the output").because(error)),
        }
        Ok(None)
    }

    /// Nothing is written any more, so no run has to wait for that.
    fn mute(&mut self) {
        self.is_muted = true;
        self.lease.iter_mut().for_each(Lease::become_observer);
    }

    /// Reports that output is missing, also with `-q`.
    fn report_missing(&mut self, what: &str) {
        self.has_gap = true;
        let text = format!("output is missing here: {what}");
        terminal::note_within(&text, std::mem::take(&mut self.is_in_line), NOTE_TIMEOUT);
    }

    /// Worth knowing, but not worth blocking for.
    pub fn note(&mut self, text: &str) {
        if !self.is_quiet {
            terminal::note_within(text, std::mem::take(&mut self.is_in_line), NOTE_TIMEOUT);
        }
    }

    /// Makes what comes next, such as the prompt of a shell, begin a new line.
    pub fn end_line(&mut self) {
        if std::mem::take(&mut self.is_in_line) {
            terminal::end_line(NOTE_TIMEOUT);
        }
    }
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// Notes how the process ended, and returns that as an exit code.
pub fn end(viewer: &mut Viewer, name: &str, following: &Following) -> Result<ExitCode, Error> {
    match (following.exit_code, following.signal) {
        _ if following.state == State::Lost => Err(Error::failed(format!(
            "it is not known how '{name}' ended: its shim was killed, or could not record it"
        ))),
        (Some(code), _) => {
            if following.state == State::Detached {
                viewer.note("it has ended, but processes that it started keep running; `persistproc stop` ends them");
            }
            Ok(ExitCode::Program(code as u8))
        }
        (None, Some(signal)) => {
            viewer.note(&format!("it was ended by {}", sys::signal_name(signal)));
            Ok(ExitCode::Signal(signal))
        }
        (None, None) => Err(Error::failed(format!("'{name}' could not be started again"))),
    }
}
