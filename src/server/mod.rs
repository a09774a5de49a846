//! The process behind `serve`: takes the data directory and the port, answers, and ends in order. It holds nothing that
//! is not on disk; processes belong to their shims.

pub mod follow;
mod gate;
pub mod handover;
mod journal;
pub mod routes;
mod token_forms;
mod welcome;

use crate::config::{self, Config, Token};
use crate::fault::Fault;
use crate::http::client::{Call, Client};
use crate::http::head::Head;
use crate::http::server::{Limits, Server};
use crate::log::stamp::now_ms;
use crate::manager::watch::Run;
use crate::manager::{About, GRACE, Manager};
use crate::{procs, sys};
use gate::Gate;
use journal::Journal;
use routes::Routes;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// A server that was killed while it started a shim leaves a child between fork and exec that holds its lock and its
/// port for a moment more. So both are asked for this long before another server is believed in.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an older server may take to go after it said that it will.
const HANDOVER: Duration = Duration::from_secs(10);
/// How long answers that are on their way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Events that may wait to be looked at; notices beyond that are dropped.
const EVENTS: usize = 1024;
/// While processes are being stopped, the person at the terminal hears something this often.
const PROGRESS: Duration = Duration::from_secs(2);

/// How the `Server` header begins by which ours are recognised.
const PRODUCT: &str = "persistproc/";

/// Whether an answer comes from a persistproc server.
pub fn is_persistproc(answer: &Head) -> bool {
    answer.header("server").is_some_and(|name| name.starts_with(PRODUCT))
}

/// Said where the gate cannot tell users apart.
const OPEN_TO_ALL: &str = "this system does not tell whose a connection is: other users of this machine can use this server \
unless it is started with a PERSISTPROC_TOKEN";

/// Who has a data directory: content of `server.lock`, and of `GET /health`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub port: u16,
    pub version: String,
    pub data_dir: PathBuf,
}

/// The wish to end this server.
pub struct Leave {
    /// Processes go on.
    pub keep: bool,
    /// Gets what could not be stopped, a line each.
    pub report: Option<SyncSender<Vec<String>>>,
}

/// Everything that the server's main loop hears of.
pub enum Event {
    /// A line for the log.
    Notice(String),
    Signal(i32),
    Leave(Leave),
    /// A process is stopped, or cannot be.
    Stopped(u64, Result<(), Fault>),
}

/// A server that has its data directory and its port, and does not serve yet.
pub struct Ready {
    config: Config,
    holder: Holder,
    listener: TcpListener,
    journal: Journal,
    signals: Signals,
    /// The older server whose place this one took.
    predecessor: Option<Holder>,
    /// Kept for the lock on it.
    _lock: File,
}

impl Ready {
    /// Takes directory and port. Errors name who has them.
    pub fn new(config: Config) -> Result<Ready, Fault> {
        sys::close_on_exec_all();
        sys::share_heap();
        // Ours, and not for what we start: who has the token can run anything as this user, and programs show their
        // environment around, in crash reports and on error pages.
        sys::forget_variable(config::TOKEN);
        sys::set_process_name(procs::SERVER_NAME);
        // By one name, whatever link leads there: processes of a run are known by it.
        let data_dir = make_private(&config.data_dir.join("runs"))
            .and_then(|()| config.data_dir.canonicalize())
            .map_err(|error| {
                Fault::failed(format!(
                    "cannot use the data directory {}: {error}; choose another with --data-dir",
                    config.data_dir.display()
                ))
            })?;
        let (lock, predecessor) = take_over(&data_dir, config.token.as_ref())?;
        let listener = bind(config.port)?;
        let unusable = |error: io::Error| Fault::failed(format!("cannot use {}: {error}", data_dir.display()));
        let port = listener.local_addr().map_err(unusable)?.port();
        let version = handover::VERSION.to_string();
        let holder = Holder { pid: std::process::id(), port, version, data_dir: data_dir.clone() };
        sign(&lock, &holder).map_err(unusable)?;
        let journal = Journal::open(data_dir.join("server.log")).map_err(unusable)?;
        // Before anything says that we are up, so that no signal finds us unprepared. Under nohup the closing of the
        // terminal is not for us.
        let wanted = [SIGINT, SIGTERM, SIGHUP];
        let signals = Signals::new(wanted.iter().filter(|&&number| number != SIGHUP || !sys::is_ignored(SIGHUP)))
            .map_err(unusable)?;
        // At a file size limit (`ulimit -f`) server.log stops growing; that is no reason to die.
        signal_hook::flag::register(sys::SIGXFSZ, Arc::default()).map_err(unusable)?;
        Ok(Ready { config, holder, listener, journal, signals, predecessor, _lock: lock })
    }

    pub fn port(&self) -> u16 {
        self.holder.port
    }

    /// How to connect agents, for the one who started it.
    pub fn welcome(&self) -> String {
        let binary = std::env::current_exe().unwrap_or_else(|_| "persistproc".into());
        let data_dir = self.config.is_data_dir_given.then_some(self.holder.data_dir.as_path());
        welcome::text(&self.holder, &binary, data_dir, self.config.token.is_some())
    }

    /// Serves until a signal or a request ends it. `say` tells the one at the terminal what it waits for.
    pub fn serve(self, say: &mut dyn FnMut(&str)) -> Result<(), Fault> {
        let Ready { config, holder, listener, mut journal, mut signals, predecessor, _lock } = self;
        let (events, received) = sync_channel(EVENTS);
        log_panics(events.clone());
        let about = About {
            pid: holder.pid,
            port: holder.port,
            started: now_ms(),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            log: holder.data_dir.join("server.log"),
        };
        let failed = |what: &str, error: io::Error| Fault::failed(format!("{what}: {error}"));
        let notices = events.clone();
        let notify = Box::new(move |text| drop(notices.try_send(Event::Notice(text))));
        let manager = Manager::open(&holder.data_dir, config.max_log_bytes, about, notify)
            .map_err(|error| failed("cannot read the runs", error))?;
        let manager = Arc::new(manager);
        let address = listener.local_addr().map_err(|error| failed("cannot start the server", error))?;
        let way = gate::way_that_works(&listener);
        let gate = Gate::new(address, way, config.token);
        let routes = Routes { manager: manager.clone(), gate, holder: holder.clone(), events: events.clone() };
        let name = format!("{PRODUCT}{}", holder.version);
        let descriptors = sys::descriptor_limit().saturating_sub(procs::open_descriptors());
        let server = Server::start(listener, Limits::within(descriptors), name, Box::new(routes))
            .map_err(|error| failed("cannot start the server", error))?;
        journal.write(&format!("persistproc {} serves port {}, PID {}", holder.version, holder.port, holder.pid));
        if way.is_none() {
            journal.write(OPEN_TO_ALL);
            say(OPEN_TO_ALL);
        }
        if let Some(Holder { version, pid, .. }) = predecessor {
            let text = format!("took the place of the server of version {version} (PID {pid}); its processes go on");
            journal.write(&text);
            say(&text);
        }
        let signalled = events.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().try_for_each(|number| signalled.send(Event::Signal(number))))
            .map_err(|error| failed("cannot start the server", error))?;
        let mut desk = Desk { manager, journal, events, received, is_verbose: config.is_verbose };
        let leave = desk.wait_for_end(say);
        let problems = if leave.keep { desk.leave_alone() } else { desk.stop_everything(say) };
        if let Some(report) = leave.report {
            let _ = report.send(problems);
        }
        server.stop(LAST_ANSWERS);
        desk.file_notices(say);
        desk.journal.write("ended");
        Ok(())
    }
}

/// Where everything that is not a request comes together.
struct Desk {
    manager: Arc<Manager>,
    journal: Journal,
    events: SyncSender<Event>,
    received: Receiver<Event>,
    is_verbose: bool,
}

impl Desk {
    fn file(&mut self, text: &str, say: &mut dyn FnMut(&str)) {
        self.journal.write(text);
        if self.is_verbose {
            say(text);
        }
    }

    fn file_notices(&mut self, say: &mut dyn FnMut(&str)) {
        while let Ok(event) = self.received.try_recv() {
            if let Event::Notice(text) = event {
                self.file(&text, say);
            }
        }
    }

    fn wait_for_end(&mut self, say: &mut dyn FnMut(&str)) -> Leave {
        loop {
            match self.received.recv() {
                Ok(Event::Notice(text)) => self.file(&text, say),
                Ok(Event::Leave(leave)) => {
                    let what = if leave.keep { "asked to leave; the processes go on" } else { "asked to shut down" };
                    self.journal.write(what);
                    if leave.keep || self.is_verbose {
                        say(what);
                    }
                    return leave;
                }
                Ok(Event::Signal(number)) => {
                    self.file(&format!("received {}", sys::signal_name(number)), say);
                    // A closed terminal ends the server alone; the next one finds the processes.
                    return Leave { keep: number == SIGHUP, report: None };
                }
                Ok(Event::Stopped(..)) => {}
                Err(_) => return Leave { keep: true, report: None }, // never: we hold a sender ourselves
            }
        }
    }

    fn leave_alone(&mut self) -> Vec<String> {
        self.manager.leave();
        Vec::new()
    }

    /// Stops all processes at once, tells which it waits for, and hurries when asked again. Gives back what could not be
    /// stopped.
    fn stop_everything(&mut self, say: &mut dyn FnMut(&str)) -> Vec<String> {
        self.manager.close();
        let mut waiting = self.manager.live();
        if !waiting.is_empty() {
            say(&format!("stopping {} (again to kill at once): {}", count(waiting.len()), labels(&waiting)));
        }
        // Everybody is asked before anybody is waited for.
        self.manager.ask_all(&waiting, GRACE);
        let mut problems = Vec::new();
        let threadless: Vec<Arc<Run>> = waiting.iter().filter(|run| !self.stop_in_thread(run)).cloned().collect();
        for run in threadless {
            // The system has no room for a thread. All were asked, so one after the other takes no longer.
            let result = self.manager.stop(&run, GRACE);
            waiting.retain(|other| other.id != run.id);
            problems.extend(result.err().map(|fault| fault.text));
        }
        problems.iter().for_each(|text| self.file(text, say));
        while !waiting.is_empty() {
            match self.received.recv_timeout(PROGRESS) {
                Ok(Event::Notice(text)) => self.file(&text, say),
                Ok(Event::Stopped(id, result)) => {
                    waiting.retain(|run| run.id != id);
                    if let Err(fault) = result {
                        self.file(&fault.text, say);
                        problems.push(fault.text);
                    }
                }
                Ok(Event::Signal(_)) => {
                    say("killing what is left");
                    self.manager.ask_all(&waiting, Duration::ZERO);
                }
                Ok(Event::Leave(_)) => {} // it is happening; whoever asks is told so
                Err(RecvTimeoutError::Timeout) => say(&format!("still waiting for {}", labels(&waiting))),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        problems
    }

    /// False if there is no thread to be had.
    fn stop_in_thread(&self, run: &Arc<Run>) -> bool {
        let (manager, run, events) = (self.manager.clone(), run.clone(), self.events.clone());
        let id = run.id;
        let stop = move || drop(events.send(Event::Stopped(id, manager.stop(&run, GRACE).map(drop))));
        std::thread::Builder::new().name("stop".into()).spawn(stop).is_ok()
    }
}

fn count(processes: usize) -> String {
    if processes == 1 { "1 process".into() } else { format!("{processes} processes") }
}

fn labels(runs: &[Arc<Run>]) -> String {
    runs.iter().map(|run| format!("'{}'", run.meta.label)).collect::<Vec<_>>().join(", ")
}

/// A panic becomes one line in the log, never a trace at a user.
fn log_panics(events: SyncSender<Event>) {
    std::panic::set_hook(Box::new(move |panic| {
        let _ = events.try_send(Event::Notice(format!("mistake in the server, please report it: {panic}")));
    }));
}

fn make_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    // Writing may be forbidden although the directory is there.
    let probe = dir.join(format!(".probe.{}", std::process::id()));
    match OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&probe) {
        Err(error) if is_full(&error) => Ok(()),
        probed => probed.and_then(|_| std::fs::remove_file(probe)),
    }
}

/// A full disk keeps no server from coming up: without one, what runs could be neither seen nor stopped.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes into the lock who has it: over what is there, because a full disk might not give back the room for it.
fn sign(lock: &File, holder: &Holder) -> io::Result<()> {
    let text = serde_json::to_vec(holder)?;
    match lock.write_all_at(&text, 0) {
        Err(error) if is_full(&error) => lock.set_len(0), // nobody, rather than the one before
        written => written.and_then(|()| lock.set_len(text.len() as u64)),
    }
}

/// Takes `server.lock`, if need be from an older server, which is asked to leave.
fn take_over(data_dir: &Path, token: Option<&Token>) -> Result<(File, Option<Holder>), Fault> {
    let path = data_dir.join("server.lock");
    let failed = |error: io::Error| Fault::failed(format!("cannot open {}: {error}", path.display()));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    if lock_within(&file, PATIENCE).map_err(failed)? {
        return Ok((file, None));
    }
    let mut text = String::new();
    let _ = (&file).read_to_string(&mut text);
    let holder: Option<Holder> = serde_json::from_str(&text).ok();
    if let Some(older) = holder.as_ref().filter(|holder| handover::is_older(holder)) {
        handover::ask_to_leave(older, token)?;
        if lock_within(&file, HANDOVER).map_err(failed)? {
            return Ok((file, holder));
        }
    }
    let who = holder.map_or("another persistproc server".into(), |holder| {
        format!("a persistproc server (PID {}, port {}, version {})", holder.pid, holder.port, holder.version)
    });
    Err(Fault::conflict(format!(
        "{who} has the data directory {}; use that one, end it with `persistproc shutdown`, or choose another --data-dir",
        data_dir.display()
    )))
}

fn lock_within(file: &File, patience: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => std::thread::sleep(Duration::from_millis(2)),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn bind(port: u16) -> Result<TcpListener, Fault> {
    let begun = Instant::now();
    let error = loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => break error,
        }
    };
    let who = if error.kind() == io::ErrorKind::AddrInUse { port_holder(port) } else { error.to_string() };
    Err(Fault::conflict(format!("cannot listen on port {port}: {who}; choose another with --port")))
}

/// Who has the port: a server of ours says so itself, others are looked up. No token is shown: it may be a stranger.
fn port_holder(port: u16) -> String {
    let call = Call { method: "GET", target: "/health", ..Call::default() };
    let answer = Client::new(port).send(&call, Duration::from_secs(1)).ok();
    let is_ours = answer.as_ref().is_some_and(|answer| is_persistproc(&answer.head));
    let holder = answer.and_then(|answer| serde_json::from_slice::<Holder>(&answer.body).ok());
    match (holder, procs::listener(port)) {
        (Some(holder), _) => {
            format!(
                "a persistproc server (PID {}) with the data directory {} has it",
                holder.pid,
                holder.data_dir.display()
            )
        }
        (None, Some((pid, _))) if is_ours => format!("a persistproc server (PID {pid}) has it"),
        (None, None) if is_ours => "a persistproc server of another user has it".into(),
        (None, Some((pid, name))) => format!("'{name}' (PID {pid}) has it"),
        (None, None) => "another program has it".into(),
    }
}
