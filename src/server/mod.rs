//! The process behind `serve`: takes the data directory and the port, answers, and ends in order. It holds nothing that
//! is not on disk; processes belong to their shims.

pub mod follow;
mod gate;
pub mod handover;
mod journal;
pub mod place;
pub mod routes;
mod token_forms;
mod welcome;

use crate::config::{self, Config};
use crate::discovery::{self, PRODUCT, ServerInfo, is_persistproc};
use crate::error::Error;
use crate::http::client::{Call, Client};
use crate::http::server::{Limits, Server};
use crate::http::socket::Listener;
use crate::log::stamp::now_ms;
use crate::manager::watch::Run;
use crate::manager::{About, GRACE, Manager};
use crate::{procs, sys};
use gate::{Gate, Owners, TcpGate};
use journal::Journal;
use place::{Held, PATIENCE, Place};
use routes::Routes;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long requests that have begun may take before this server leaves its place to a newer one.
const LAST_REQUESTS: Duration = Duration::from_secs(3);
/// How long answers that are on their way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Events that may wait to be looked at; notices beyond that are dropped.
const EVENTS: usize = 1024;
/// While processes are being stopped, the person at the terminal hears something this often.
const PROGRESS: Duration = Duration::from_secs(2);
/// How often to look whether our socket is still there.
const RELOOK: Duration = Duration::from_secs(5);

/// Said where the system does not tell whose a connection is.
const UNTOLD: &str =
    "this system does not tell which user makes a connection, so other users of this machine could use the port";
const NOT_OPENED: &str = "it is not opened; agents can use the bridge, `persistproc mcp`. `serve` opens it with a \
PERSISTPROC_TOKEN, or with --trust-all-users";
const TRUSTED: &str = "they are trusted, as --trust-all-users says";

/// The wish to end this server.
pub struct Leave {
    /// Processes go on.
    pub keep: bool,
    /// The socket of the newer server that takes our place.
    pub successor: Option<String>,
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
    Stopped(u64, Result<(), Error>),
}

/// A server that has its data directory and its port, and does not serve yet.
pub struct Ready {
    config: Config,
    server_info: Arc<ServerInfo>,
    place: Place,
    /// Listener and gate of the port, if it is opened.
    tcp: Option<(Listener, TcpGate)>,
    journal: Journal,
    signals: Signals,
    /// What is to be said about the port.
    warning: Option<String>,
}

impl Ready {
    /// Takes directory and port. Errors name who has them.
    pub fn new(config: Config) -> Result<Ready, Error> {
        sys::close_on_exec_all();
        sys::share_heap();
        // Ours, and not for what we start: a token lets its bearer run anything as this user, and programs show their
        // environment around, in crash reports and on error pages.
        sys::forget_variable(config::TOKEN);
        sys::set_process_name(procs::SERVER_NAME);
        // An older server is not asked to leave for one that could not serve. Its own port comes free when it has left.
        let older_port =
            discovery::find(&config.data_dir).filter(discovery::is_older).map(|server_info| server_info.port);
        let is_free = older_port.is_some_and(|port| config.tcp && port != config.port);
        let mut early = is_free.then(|| bind(config.port)).transpose()?;
        let place = Place::take(&config.data_dir, config.token.as_ref())?;
        let (owners, warning) = owners(&config)?;
        let tcp = owners.map(|owners| {
            let listener = early.take().map_or_else(|| bind(config.port), Ok)?;
            let port = listener.port().unwrap_or(config.port);
            Ok((listener, TcpGate::new(port, owners, config.token.clone())))
        });
        let tcp = tcp.transpose()?;
        let port = tcp.as_ref().and_then(|(listener, _)| listener.port()).unwrap_or(0);
        let (version, data_dir) = (discovery::VERSION.to_string(), place.data_dir.clone());
        let unusable = |error: io::Error| Error::failed(format!("cannot use {}: {error}", data_dir.display()));
        let journal = data_dir.join("server.log");
        let journal = Journal::open(journal.clone())
            .map_err(|error| Error::failed(format!("cannot open {}: {error}", journal.display())))?;
        let server_info = ServerInfo { pid: std::process::id(), port, version, data_dir: data_dir.clone() };
        place.sign(&server_info).map_err(unusable)?;
        // Before anything says that we are up, so that no signal finds us unprepared. Under nohup the closing of the
        // terminal is not for us.
        let wanted = [SIGINT, SIGTERM, SIGHUP];
        let signals = Signals::new(wanted.iter().filter(|&&number| number != SIGHUP || !sys::is_ignored(SIGHUP)))
            .map_err(unusable)?;
        // At a file size limit (`ulimit -f`) server.log stops growing; that is no reason to die.
        signal_hook::flag::register(sys::SIGXFSZ, Arc::default()).map_err(unusable)?;
        Ok(Ready { config, server_info: Arc::new(server_info), place, tcp, journal, signals, warning })
    }

    pub fn server_info(&self) -> &ServerInfo {
        &self.server_info
    }

    /// What the one who started it should know about its port.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// How to connect agents, for the one who started it.
    pub fn welcome(&self) -> String {
        let binary = std::env::current_exe().unwrap_or_else(|_| "persistproc".into());
        let data_dir = self.config.is_data_dir_given.then_some(self.server_info.data_dir.as_path());
        welcome::text(&self.server_info, &binary, data_dir, self.config.token.is_some())
    }

    /// Serves until a signal or a request ends it. `say` tells the one at the terminal what it waits for.
    pub fn serve(self, say: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let Ready { config, server_info, place, tcp, mut journal, mut signals, warning } = self;
        let (events, received) = sync_channel(EVENTS);
        log_panics(events.clone());
        let about = About {
            pid: server_info.pid,
            port: server_info.port,
            started: now_ms(),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            log: server_info.data_dir.join("server.log"),
        };
        let failed = |what: &str, error: io::Error| Error::failed(format!("{what}: {error}"));
        let notices = events.clone();
        let notify = Box::new(move |text| drop(notices.try_send(Event::Notice(text))));
        let manager = Manager::open(&server_info.data_dir, config.max_log_bytes, about, notify)
            .map_err(|error| failed("cannot read the runs", error))?;
        let manager = Arc::new(manager);
        manager.resume_orders();
        let routes = Routes {
            manager: manager.clone(),
            gate: Arc::new(Gate::Private),
            server_info: server_info.clone(),
            events: events.clone(),
            is_replaced: Arc::new(AtomicBool::new(false)),
        };
        let predecessor = place.predecessor.clone();
        let servers = Servers::start(place, tcp, routes).map_err(|error| failed("cannot start the server", error))?;
        journal.write(&format!(
            "persistproc {} serves {}, PID {}",
            server_info.version,
            server_info.port_in_words(),
            server_info.pid
        ));
        for text in [warning, predecessor.map(|older| took_place_of(&older))].into_iter().flatten() {
            journal.write(&text);
            say(&text);
        }
        let signalled = events.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().try_for_each(|number| signalled.send(Event::Signal(number))))
            .map_err(|error| failed("cannot start the server", error))?;
        let mut desk = Desk { manager, journal, events, received, servers, is_verbose: config.is_verbose };
        let leave = desk.wait_for_end(say);
        if let Some(successor) = &leave.successor {
            desk.exchange_sockets(successor);
        }
        let problems = if leave.keep { desk.leave_alone() } else { desk.stop_everything(say) };
        if let Some(report) = leave.report {
            let _ = report.send(problems);
        }
        desk.file_notices(say);
        desk.received = sync_channel(0).1; // others that ask for the end are told at once that it is near
        desk.servers.stop();
        desk.journal.write("ended");
        Ok(())
    }
}

fn took_place_of(older: &ServerInfo) -> String {
    format!("took the place of the server of version {} (PID {}); its processes go on", older.version, older.pid)
}

/// How to know the owners of connections on TCP, if it is to be served; and what is to be said about that.
fn owners(config: &Config) -> Result<(Option<Owners>, Option<String>), Error> {
    if !config.tcp {
        return Ok((None, None));
    }
    let way = gate::find_way().map_err(|error| {
        Error::failed(format!(
            "cannot find out whether this system tells which user makes a connection: {error}; try again, or use --no-tcp"
        ))
    })?;
    Ok(match way {
        Some(way) => (Some(Owners::Checked(way)), None),
        None if config.token.is_some() => (Some(Owners::Unchecked), None),
        None if config.trusts_all_users => (Some(Owners::Unchecked), Some(format!("{UNTOLD}; {TRUSTED}"))),
        None => (None, Some(format!("{UNTOLD}; {NOT_OPENED}"))),
    })
}

/// The servers of this process: one behind the socket in the data directory, and one behind the port.
struct Servers {
    held: Held,
    private: Server,
    tcp: Option<Server>,
    /// Of the private one.
    routes: Routes,
    limits: Limits,
}

impl Servers {
    fn start(place: Place, tcp: Option<(Listener, TcpGate)>, routes: Routes) -> io::Result<Servers> {
        let descriptors = sys::descriptor_limit().saturating_sub(procs::open_descriptors());
        let limits = Limits::within(descriptors / if tcp.is_some() { 2 } else { 1 });
        let (socket, held) = place.split();
        let private = serve(socket, &limits, routes.clone())?;
        let tcp = tcp.map(|(listener, gate)| {
            serve(listener, &limits, Routes { gate: Arc::new(Gate::Tcp(gate)), ..routes.clone() })
        });
        Ok(Servers { held, private, tcp: tcp.transpose()?, routes, limits })
    }

    /// Serves a new socket, if ours was removed. True if that was so.
    fn restore_socket(&mut self) -> bool {
        let Some(socket) = self.held.restore() else { return false };
        let Ok(server) = serve(socket, &self.limits, self.routes.clone()) else {
            self.held.give_up_socket();
            return false;
        };
        std::mem::replace(&mut self.private, server).stop(Duration::ZERO);
        true
    }

    /// Makes a new `server.lock`, if ours was removed. True if that was so.
    fn restore_lock(&mut self) -> bool {
        self.held.restore_lock(&self.routes.server_info)
    }

    /// Lets a newer server's socket be found in the place of ours. What came before that is still answered.
    fn exchange(&mut self, successor: &str) -> io::Result<()> {
        self.held.exchange(successor)?;
        self.routes.is_replaced.store(true, Ordering::SeqCst);
        self.private.stop_accepting();
        // What has begun, such as a start, is not to fail because of us.
        self.private.wait_drained(LAST_REQUESTS);
        Ok(())
    }

    fn stop(&mut self) {
        let end = Instant::now() + LAST_ANSWERS;
        for server in self.tcp.iter_mut().chain([&mut self.private]) {
            server.stop(end.saturating_duration_since(Instant::now()));
        }
    }
}

fn serve(listener: Listener, limits: &Limits, routes: Routes) -> io::Result<Server> {
    let name = format!("{PRODUCT}{}", routes.server_info.version);
    Server::start(listener, limits.clone(), name, Box::new(routes))
}

/// Where everything that is not a request comes together.
struct Desk {
    manager: Arc<Manager>,
    journal: Journal,
    events: SyncSender<Event>,
    received: Receiver<Event>,
    servers: Servers,
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
        let mut look = Instant::now() + RELOOK;
        loop {
            if look <= Instant::now() {
                if self.servers.restore_socket() {
                    self.file("the socket was removed; made a new one", say);
                }
                if self.servers.restore_lock() {
                    self.file("server.lock was removed; made a new one", say);
                }
                look = Instant::now() + RELOOK;
            }
            match self.received.recv_timeout(look.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {}
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
                    return Leave { keep: number == SIGHUP, successor: None, report: None };
                }
                Ok(Event::Stopped(..)) => {}
                // Never: we hold a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => return Leave { keep: true, successor: None, report: None },
            }
        }
    }

    fn exchange_sockets(&mut self, successor: &str) {
        if let Err(error) = self.servers.exchange(successor) {
            self.journal.write(&format!("cannot put {successor} in the place of our socket: {error}"));
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
            let result = self.manager.stop(&run, GRACE, None);
            waiting.retain(|other| other.id != run.id);
            problems.extend(result.err().map(|error| error.to_string()));
        }
        problems.iter().for_each(|text| self.file(text, say));
        while !waiting.is_empty() {
            match self.received.recv_timeout(PROGRESS) {
                Ok(Event::Notice(text)) => self.file(&text, say),
                Ok(Event::Stopped(id, result)) => {
                    waiting.retain(|run| run.id != id);
                    if let Err(fault) = result {
                        self.file(&fault.to_string(), say);
                        problems.push(fault.to_string());
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
        let stop = move || drop(events.send(Event::Stopped(id, manager.stop(&run, GRACE, None).map(drop))));
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

fn bind(port: u16) -> Result<Listener, Error> {
    let begun = Instant::now();
    let error = loop {
        match Listener::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => break error,
        }
    };
    let who = if error.kind() == io::ErrorKind::AddrInUse { port_holder(port) } else { error.to_string() };
    Err(Error::conflict(format!(
        "cannot listen on port {port}: {who}; choose another with --port, or do without one with --no-tcp"
    )))
}

/// Which program has the port. One of ours is recognised by how it answers; nothing is said to it, for it may be any.
fn port_holder(port: u16) -> String {
    let call = Call { method: "GET", target: "/health", ..Call::default() };
    let answer = Client::of_port(port).send(&call, Duration::from_secs(1)).ok();
    let is_ours = answer.as_ref().is_some_and(|answer| is_persistproc(&answer.head));
    match procs::listener(port) {
        Some((pid, _)) if is_ours => {
            let of = discovery::directory_of(pid)
                .map_or(String::new(), |dir| format!(" with the data directory {}", dir.display()));
            format!("a persistproc server (PID {pid}){of} has it")
        }
        None if is_ours => "a persistproc server of another user has it".into(),
        Some((pid, name)) => format!("'{name}' (PID {pid}) has it"),
        None => "another program has it".into(),
    }
}
