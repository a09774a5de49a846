//! `persistproc npm run dev`: the process in the server's hands, its output and its exit code here.
//!
//! One thread follows the log, one writes what comes, one takes signals; the main thread decides, and is never held up by
//! any of them.

use super::follow::LAST_TAKEN;
use super::follower::{Event, News, RECONNECT, Start, WAIT_FOR_ANOTHER, WAIT_FOR_OURS, follow_in_thread};
use super::frames::{Frames, Show};
use super::link::{Link, Reading};
use super::writer::Writer;
use super::{Trouble, run_request, terminal};
use crate::cli::{Given, OnExit};
use crate::lease::{self, Lease};
use crate::log::Stream;
use crate::output::cursor::Place;
use crate::server::follow::{Ask, Following};
use crate::sys;
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Signals that wait to be looked at; what comes beyond says nothing new.
const SIGNALS: usize = 16;
/// While a question is open, signals are looked at this often.
const ANSWER: Duration = Duration::from_millis(50);
/// The same while nobody takes our output.
const STUCK: Duration = Duration::from_millis(50);
/// How long nobody may take it before we stop waiting: for a note, and for the rest of what is being stopped.
const NOTE_TAKEN: Duration = Duration::from_secs(2);
const REST_TAKEN: Duration = Duration::from_secs(10);
/// Who reads our output, or the terminal, often ends by the signal that is on its way to us, too.
const SAME_SIGNAL: Duration = Duration::from_millis(300);
/// Exit code of a program that ended well, if not all of its output could be shown.
const INCOMPLETE: u8 = 1;

/// What the main thread listens to. Signals have a way of their own, so that they are also heard while a question is open,
/// and while nobody takes our output.
struct Ears {
    events: Receiver<Event>,
    signals: Receiver<i32>,
}

/// The wrapper. Returns the exit code of the process.
pub fn run(mut link: Link, argv: Vec<OsString>, given: &Given) -> Result<u8, Trouble> {
    let mut request = run_request(argv, given, if given.fresh { "replace" } else { "attach" })?;
    // Before there is a process that a signal could orphan.
    let (events, ears) = watch_signals()?;
    link.ensure_server()?; // it makes the data directory
    let lease = take_lease(&link, terminal::is_stdout());
    request.reader = lease.as_ref().map(Lease::name);
    let started = link.run(&request)?;
    terminal::give_stdout_away();
    let number = started["number"].as_u64().unwrap_or(0);
    let label = started["label"].as_str().unwrap_or("?").to_string();
    if started["is_new"] == json!(false) && !link.config.is_quiet {
        terminal::note(&format!("attached to '{label}' (PID {})", started["pid"]));
    }
    let show = if given.raw { Show::Stamped(Stream::Combined) } else { Show::Bytes };
    let start = Start { run: number, offset: 0, frames: Frames::new(show), reader: request.reader };
    follow_in_thread(Link::new(link.config.clone()), start, events)?;
    let mut wrapper = Wrapper {
        link,
        lease,
        has_gap: false,
        label,
        run: number,
        pid: started["pid"].as_i64().unwrap_or(0) as i32,
        on_exit: given.on_exit,
        deadline: None,
        ears,
        writer: Writer::start()?,
        is_in_line: false,
        is_stopping: false,
        is_mute: false,
    };
    wrapper.run()
}

/// `output --follow` of one process: what was `read`, and what comes after `place`, with stamps, until `deadline`.
pub fn follow(
    link: Link,
    arguments: &Map<String, Value>,
    place: Place,
    mut read: Reading,
    deadline: Option<Instant>,
) -> Result<u8, Trouble> {
    let (events, ears) = watch_signals()?;
    let stream =
        arguments.get("stream").and_then(Value::as_str).and_then(Stream::from_name).unwrap_or(Stream::Combined);
    let show = Show::Stamped(stream);
    let lease = Lease::acquire(&link.config.data_dir, lease::ReaderKind::Observer).ok();
    let reader = lease.as_ref().map(Lease::name);
    let start = Start { run: place.run, offset: place.offset, frames: Frames::within(show, read.open), reader };
    follow_in_thread(Link::new(link.config.clone()), start, events)?;
    let mut wrapper = Wrapper {
        link,
        lease,
        has_gap: read.has_gap,
        label: String::new(),
        run: place.run,
        pid: 0,
        on_exit: OnExit::Detach,
        deadline,
        ears,
        writer: Writer::start()?,
        is_in_line: false,
        is_stopping: false,
        is_mute: false,
    };
    if read.open.is_some() {
        read.bytes.pop(); // the rest of this line comes right behind it
    }
    let is_over = !read.bytes.is_empty() && wrapper.write(Stream::Stdout, read.bytes)?.is_some();
    if !is_over {
        wrapper.run()?;
    }
    Ok(u8::from(wrapper.has_gap))
}

/// The lease of a wrapper. A run is not held up for ever by a terminal, see [`shim`](crate::shim).
fn take_lease(link: &Link, is_at_terminal: bool) -> Option<Lease> {
    let kind = if is_at_terminal { lease::ReaderKind::Terminal } else { lease::ReaderKind::Pipe };
    Lease::acquire(&link.config.data_dir, kind).ok()
}

/// The channel of events, and the signals that wake it. It holds one, so that whoever does not read our output holds back the
/// reading of the log.
fn watch_signals() -> Result<(SyncSender<Event>, Ears), Trouble> {
    let failed = |error: io::Error| Trouble::Refused(format!("cannot watch for signals: {error}"));
    let wanted = [SIGINT, SIGTERM, SIGHUP];
    let mut signals = Signals::new(wanted.iter().filter(|&&number| !sys::is_ignored(number))).map_err(failed)?;
    let (sender, events) = sync_channel(1);
    let (heard, heard_here) = sync_channel(SIGNALS);
    let wake = sender.clone();
    let pass_on = move || {
        signals.forever().try_for_each(|number| {
            let sent = heard.try_send(number);
            let _ = wake.try_send(Event::Signal); // no room: then there is something to wake for
            if matches!(sent, Err(TrySendError::Disconnected(_))) { Err(()) } else { Ok(()) }
        })
    };
    std::thread::Builder::new().name("signals".into()).spawn(pass_on).map_err(failed)?;
    Ok((sender, Ears { events, signals: heard_here }))
}

struct Wrapper {
    link: Link,
    label: String,
    run: u64,
    pid: i32,
    /// Says what was read; without it (the disk took none) the run does not wait for us.
    lease: Option<Lease>,
    /// Output is missing.
    has_gap: bool,
    on_exit: OnExit,
    /// When it is over at the latest.
    deadline: Option<Instant>,
    ears: Ears,
    writer: Writer,
    /// Something stands on the terminal's last line, so that a note must begin one of its own.
    is_in_line: bool,
    /// Somebody here has asked for the end.
    is_stopping: bool,
    /// Nobody reads any more; we only wait for the end.
    is_mute: bool,
}

impl Wrapper {
    fn run(&mut self) -> Result<u8, Trouble> {
        loop {
            let event = match self.deadline {
                None => self.ears.events.recv().map_err(RecvTimeoutError::from),
                Some(end) => self.ears.events.recv_timeout(end.saturating_duration_since(Instant::now())),
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(1), // never: the thread of the signals holds a sender
            };
            let exit = match (self.hear()?, event) {
                (None, Event::News(news)) => self.take(news)?,
                (exit, _) => exit,
            };
            if let Some(code) = exit {
                return Ok(code);
            }
            if self.is_late(Duration::ZERO) {
                break;
            }
        }
        self.end_line();
        Ok(0)
    }

    /// Whether the deadline was so long ago.
    fn is_late(&self, by: Duration) -> bool {
        self.deadline.is_some_and(|end| Instant::now() >= end + by)
    }

    /// Obeys the signals that have come. `Some` is the exit code: it is over.
    fn hear(&mut self) -> Result<Option<u8>, Trouble> {
        while let Ok(number) = self.ears.signals.try_recv() {
            if let Some(code) = self.on_signal(number)? {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    /// `Some` is the exit code: it is over.
    fn take(&mut self, news: News) -> Result<Option<u8>, Trouble> {
        match news {
            News::Output { pieces, run, offset } => self.show(pieces, run, offset),
            News::Restarted(following) => {
                (self.run, self.pid) = (following.run, following.pid);
                self.note(&format!("restarted, PID {}", following.pid));
                if self.is_stopping {
                    // It was to be stopped, and somebody was faster.
                    self.is_stopping = false;
                    self.stop();
                }
                Ok(None)
            }
            News::Skipped(bytes) => {
                self.tell_gap(&format!("{bytes} bytes of the log are no longer kept"));
                Ok(None)
            }
            News::Unwritten(bytes, why) => {
                let why = why.map_or(String::new(), |why| format!(" ({why})"));
                self.tell_gap(&format!("{bytes} bytes could not be written to the log{why}"));
                Ok(None)
            }
            News::Trouble(trouble) => {
                self.note(&trouble.map_or("the output goes on".into(), |why| format!("the output is held up: {why}")));
                Ok(None)
            }
            News::Note(text) => {
                self.note(&text);
                Ok(None)
            }
            News::Ended(following) => self.end(&following).map(Some),
            News::Lost(trouble) => Err(trouble),
        }
    }

    /// Writes what the log of `run` has brought up to `offset`.
    fn show(&mut self, pieces: Vec<(Stream, Vec<u8>)>, run: u64, offset: u64) -> Result<Option<u8>, Trouble> {
        for (stream, bytes) in pieces {
            if let Some(code) = self.write(stream, bytes)? {
                return Ok(Some(code));
            }
        }
        if let Some(lease) = &mut self.lease {
            lease.advance(run, offset);
        }
        Ok(None)
    }

    /// Writes all of `bytes`, and hears signals also while nobody takes them.
    fn write(&mut self, stream: Stream, bytes: Vec<u8>) -> Result<Option<u8>, Trouble> {
        if self.is_mute {
            return Ok(None);
        }
        let is_in_line = !bytes.ends_with(b"\n") && terminal::is_shared_with_notes(stream);
        self.writer.begin(stream, bytes);
        let (mut taken, mut taken_at) = (self.writer.taken(), Instant::now());
        loop {
            match self.writer.outcome(STUCK) {
                Some(Ok(())) => {
                    self.is_in_line = is_in_line;
                    return self.hear();
                }
                Some(Err(error)) => return self.on_write_error(&error),
                None => {}
            }
            if let Some(code) = self.hear()? {
                return Ok(Some(code));
            }
            if std::mem::replace(&mut taken, self.writer.taken()) != taken {
                taken_at = Instant::now();
                self.lease.iter_mut().for_each(Lease::record_progress);
            }
            if self.is_late(LAST_TAKEN) {
                return Ok(Some(0));
            }
            if self.is_stopping && taken_at.elapsed() > REST_TAKEN {
                self.fall_silent();
                return Ok(None);
            }
        }
    }

    /// Nobody reads any more. The process is not told: it is not ours alone. But what took the reader may be a Ctrl+C for
    /// all of a pipeline, or a terminal that closes, and then that is what counts.
    fn on_write_error(&mut self, error: &io::Error) -> Result<Option<u8>, Trouble> {
        if !self.is_stopping
            && let Ok(number) = self.ears.signals.recv_timeout(SAME_SIGNAL)
            && let Some(code) = self.on_signal(number)?
        {
            return Ok(Some(code));
        }
        match error.kind() {
            _ if self.is_stopping => self.fall_silent(),
            io::ErrorKind::BrokenPipe => return Ok(Some(128 + 13)),
            _ => return Err(Trouble::Refused(format!("cannot write the output: {error}"))),
        }
        Ok(None)
    }

    /// Nothing is passed on any more, so nothing has to wait for that.
    fn fall_silent(&mut self) {
        self.is_mute = true;
        self.lease.iter_mut().for_each(Lease::become_observer);
    }

    fn end(&mut self, following: &Following) -> Result<u8, Trouble> {
        match (following.exit_code, following.signal) {
            _ if following.state == "lost" => Err(Trouble::Refused(format!(
                "it is not known how '{}' ended: the shim that watched over it was killed, or could not write it down",
                self.label
            ))),
            (Some(code), _) => {
                if following.state == "detached" {
                    self.note("it has ended, but processes that it started go on; `persistproc stop` ends them");
                }
                // Who trusts the exit code is not to take a part for the whole.
                Ok(if self.has_gap && code == 0 { INCOMPLETE } else { code as u8 })
            }
            (None, Some(signal)) => {
                self.note(&format!("it was ended by {}", sys::signal_name(signal)));
                Ok((128 + signal) as u8)
            }
            (None, None) => Err(Trouble::Refused(format!("'{}' could not be started again", self.label))),
        }
    }

    /// Says that output is missing, also to those who want no notes.
    fn tell_gap(&mut self, what: &str) {
        self.has_gap = true;
        let text = format!("output is missing here: {what}");
        terminal::note_within(&text, std::mem::take(&mut self.is_in_line), NOTE_TAKEN);
    }

    /// Worth knowing, but never worth hanging for.
    fn note(&mut self, text: &str) {
        if !self.link.config.is_quiet {
            terminal::note_within(text, std::mem::take(&mut self.is_in_line), NOTE_TAKEN);
        }
    }

    fn on_signal(&mut self, number: i32) -> Result<Option<u8>, Trouble> {
        // The terminal shows ^C where its cursor is.
        self.is_in_line |= number == SIGINT && terminal::can_ask();
        let is_asked = !self.is_stopping && self.on_exit == OnExit::Ask && number == SIGINT && terminal::can_ask();
        if self.is_stopping || self.on_exit == OnExit::Stop || is_asked && self.ask() {
            self.stop();
            return Ok(None);
        }
        if is_asked && !self.is_still_there() {
            return Ok(None); // what comes of that is on its way
        }
        if !self.label.is_empty() {
            self.note(&format!("'{}' goes on (PID {}); the same command shows it again", self.label, self.pid));
        }
        self.end_line();
        Ok(Some(if number == SIGINT { 0 } else { (128 + number) as u8 }))
    }

    /// What comes next, be it the prompt of a shell, begins a line.
    fn end_line(&mut self) {
        if std::mem::take(&mut self.is_in_line) {
            terminal::end_line(NOTE_TAKEN);
        }
    }

    /// After a question, in which time passes: whether there is still what was asked about, maybe as another run.
    fn is_still_there(&mut self) -> bool {
        let mut link = Link::new(self.link.config.clone());
        let mut run = self.run;
        let ask =
            |run| Ask { run, from: 0, wait: Duration::ZERO, with_bytes: false, reader: None, knows_trouble: true };
        while let Ok((following, _)) = link.follow(&ask(run)) {
            match following.successor {
                Some(successor) if following.is_final => run = successor,
                _ => {
                    self.pid = following.pid;
                    return !following.is_final;
                }
            }
        }
        true // nobody who knows answers
    }

    fn ask(&mut self) -> bool {
        terminal::ask(&format!("Stop running process '{}' (PID {})? [y/N]", self.label, self.pid));
        self.is_in_line = true;
        loop {
            if let Some(answer) = terminal::read_answer(ANSWER) {
                self.is_in_line = !answer.ends_with('\n');
                return matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
            }
            // Another Ctrl+C, or a terminal that closes, is no yes.
            if self.ears.signals.try_recv().is_ok() {
                return false;
            }
        }
    }

    /// Asks the server to stop it, and to hurry the second time. What comes of it, the follower sees.
    fn stop(&mut self) {
        let arguments = json!({"action": "stop", "run": self.run, "force": self.is_stopping});
        self.note(if self.is_stopping { "killing it" } else { "stopping it; Ctrl+C again kills" });
        self.is_stopping = true;
        let link = Link::new(self.link.config.clone());
        let stop = move || {
            if let Err(trouble) = stop_surely(link, arguments.as_object().unwrap_or(&Map::new())) {
                terminal::complain(trouble.text());
            }
        };
        if std::thread::Builder::new().name("stop".into()).spawn(stop).is_err() {
            terminal::complain("cannot ask for the stop: the system has no room for another thread");
        }
    }
}

/// Stops by way of whatever server there is: the one that we knew may have gone, and the next is found, or started.
fn stop_surely(mut link: Link, arguments: &Map<String, Value>) -> Result<(), Trouble> {
    let begun = Instant::now();
    loop {
        match link.call_tool("ctrl", arguments) {
            Err(_) if link.is_gone() && begun.elapsed() < WAIT_FOR_OURS => {}
            result => return result.map(drop),
        }
        if link.config.autostart && begun.elapsed() > WAIT_FOR_ANOTHER {
            let _ = link.ensure_server(); // if there is none, the next call says why
        }
        std::thread::sleep(RECONNECT);
    }
}
