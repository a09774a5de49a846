//! The process that `serve` runs: it claims the data directory and the port, answers, and shuts down in order. It keeps
//! nothing that is not on disk; processes belong to their shims.

mod connect_help;
mod data_dir;
mod event_loop;
mod events;
mod follow;
mod gate;
mod handover;
mod listeners;
mod routes;
mod server_log;
mod token_help;

use crate::config::{self, Config};
use crate::discovery::{self, ServerInfo, is_persistproc};
use crate::error::Error;
use crate::http::client::{Call, Client};
use crate::http::socket::Listener;
use crate::log::stamp::now_ms;
use crate::manager::{About, Manager};
use crate::{procs, sys};
use crossbeam_channel::bounded;
use data_dir::{LOCK_TIMEOUT, OwnedDataDir};
use event_loop::{EventLoop, log_panics};
use events::Event;
use gate::{Gate, Owners, TcpGate};
use listeners::Listeners;
use routes::Routes;
use server_log::ServerLog;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long requests that have begun may take before this server leaves its place to a newer one.
const LAST_REQUESTS: Duration = Duration::from_secs(3);
/// Events that may wait to be looked at; notices beyond that are dropped.
const EVENTS: usize = 1024;
/// Signals that wait to be handled.
const SIGNALS: usize = 16;

/// Said where the system does not tell whose a connection is.
const UNTOLD: &str =
    "this system does not tell which user makes a connection, so other users of this machine could use the port";
const NOT_OPENED: &str = "it is not opened; agents can use the bridge, `persistproc mcp`. `serve` opens it with a \
PERSISTPROC_TOKEN, or with --trust-all-users";
const TRUSTED: &str = "they are trusted, as --trust-all-users says";

/// A server that has its data directory and its port, and does not serve yet.
pub struct BoundServer {
    config: Config,
    server_info: Arc<ServerInfo>,
    place: OwnedDataDir,
    /// Listener and gate of the port, if it is opened.
    tcp: Option<(Listener, TcpGate)>,
    log: ServerLog,
    signals: Signals,
    /// What is to be said about the port.
    warning: Option<String>,
}

impl BoundServer {
    /// Claims the directory and the port. Errors name the process that has them.
    pub fn new(config: Config) -> Result<BoundServer, Error> {
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
        let place = OwnedDataDir::take(&config.data_dir, config.token.as_ref())?;
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
        let log = data_dir.join("server.log");
        let log = ServerLog::open(log.clone())
            .map_err(|error| Error::failed(format!("cannot open {}: {error}", log.display())))?;
        let server_info = ServerInfo { pid: std::process::id(), port, version, data_dir: data_dir.clone() };
        place.sign(&server_info).map_err(unusable)?;
        // Before anything says that we are up, so that no signal finds us unprepared. Under nohup the closing of the
        // terminal is not for us.
        let wanted = [SIGINT, SIGTERM, SIGHUP];
        let signals = Signals::new(wanted.iter().filter(|&&number| number != SIGHUP || !sys::is_ignored(SIGHUP)))
            .map_err(unusable)?;
        // At a file size limit (`ulimit -f`) server.log stops growing; that is no reason to die.
        signal_hook::flag::register(sys::SIGXFSZ, Arc::default()).map_err(unusable)?;
        Ok(BoundServer { config, server_info: Arc::new(server_info), place, tcp, log, signals, warning })
    }

    pub fn server_info(&self) -> &ServerInfo {
        &self.server_info
    }

    /// What the user should know about its port.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// How to connect agents, for the user.
    pub fn connect_help(&self) -> String {
        let binary = std::env::current_exe().unwrap_or_else(|_| "persistproc".into());
        let data_dir = self.config.is_data_dir_given.then_some(self.server_info.data_dir.as_path());
        connect_help::text(&self.server_info, &binary, data_dir, self.config.token.is_some())
    }

    /// Serves until a signal or a request ends it. `say` tells the one at the terminal what it waits for.
    pub fn serve(self, say: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let BoundServer { config, server_info, place, tcp, mut log, mut signals, warning } = self;
        let (events, received) = bounded(EVENTS);
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
        let servers = Listeners::start(place, tcp, routes).map_err(|error| failed("cannot start the server", error))?;
        log.write(&format!(
            "persistproc {} serves {}, PID {}",
            server_info.version,
            server_info.port_in_words(),
            server_info.pid
        ));
        for text in [warning, predecessor.map(|older| took_over_from(&older))].into_iter().flatten() {
            log.write(&text);
            say(&text);
        }
        let (signalled, pending) = bounded(SIGNALS);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().try_for_each(|number| signalled.send(number)))
            .map_err(|error| failed("cannot start the server", error))?;
        let is_verbose = config.is_verbose;
        EventLoop { manager, log, events, received, signals: pending, servers, is_verbose }.run(say);
        Ok(())
    }
}

fn took_over_from(older: &ServerInfo) -> String {
    format!("took the place of the server of version {} (PID {}); its processes keep running", older.version, older.pid)
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

fn bind(port: u16) -> Result<Listener, Error> {
    let begun = Instant::now();
    let error = loop {
        match Listener::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < LOCK_TIMEOUT => {
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
