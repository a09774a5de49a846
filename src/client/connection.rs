//! The connection to the server: finding it by the socket in the data directory, starting it when none answers, sending a
//! request again when that is safe, and knowing what became of one that got no answer.

use super::launch::{HANDOVER_TIMEOUT, start_server};
use super::silence::{Watch, silence};
use super::terminal;
use crate::api::{HEALTH, LEAVING, Refusal};
use crate::config::Config;
use crate::discovery::{self, SOCKET, is_persistproc, verify_user};
use crate::error::Error;
use crate::http::client::{Answer, Call, CancelHandle, Client, Endpoint};
use serde_json::Value;
use std::cmp::Ordering;
use std::io;
use std::sync::atomic::{self, AtomicBool};
use std::time::{Duration, Instant};

/// Name and value of a header.
pub type Header = (&'static str, String);

/// The longest that a call may take: a wait of 45 s, and what comes with it.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server may take to come up.
pub const STARTUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to answer `GET /health`; [`HANDOVER_TIMEOUT`] if it may be about to take over from an older
/// one, whose socket it has already.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to look for the server that another command has started, and how often.
const OTHER_SERVER_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// How long a newer server may take to answer at the socket that the one before has left to it.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long to ask again when a server has no capacity for a request, and the longest pause before that.
const BUSY_TIMEOUT: Duration = Duration::from_secs(120);
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often a request is sent again whose connection was cut by a server that is alive.
pub const CUTS_MAX: u32 = 10;
/// Servers that are started one after the other, each because the one before has ended.
const STARTS_MAX: u32 = 3;

/// The connection, and what became of its last call.
pub struct ServerConnection {
    pub config: Config,
    client: Client,
    /// As of the last call: no server accepted it, so it was not carried out.
    pub was_not_sent: bool,
    /// As of the last call: a server accepted the connection, whatever became of it.
    pub was_reached: bool,
    /// As of the last call: the connection was cut, as when a server ends; whether the request was carried out is unknown.
    pub is_cut: bool,
    /// As of the last call: it was sent, and no answer came.
    pub is_unanswered: bool,
    /// Version of the server that answered, if that is older than ours.
    pub older_version: Option<String>,
    /// Servers that were started since one answered.
    starts: u32,
}

impl ServerConnection {
    pub fn new(config: Config) -> ServerConnection {
        let client = Client::new(Endpoint::Unix(config.data_dir.join(SOCKET)), verify_user);
        ServerConnection {
            config,
            client,
            was_not_sent: false,
            was_reached: false,
            is_cut: false,
            is_unanswered: false,
            older_version: None,
            starts: 0,
        }
    }

    /// Cancels the calls of this connection from another thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.client.cancel_handle()
    }

    /// Posts an MCP message as its client wrote it.
    pub fn forward(&mut self, headers: Vec<Header>, body: &[u8], patience: Duration) -> Result<Answer, Error> {
        self.send_with(headers, "POST", "/mcp", body, patience)
    }

    pub fn send(&mut self, method: &str, target: &str, body: &[u8], patience: Duration) -> Result<Answer, Error> {
        self.send_with(Vec::new(), method, target, body, patience)
    }

    fn send_with(
        &mut self,
        mut headers: Vec<Header>,
        method: &str,
        target: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<Answer, Error> {
        headers.push(("Content-Type", "application/json".to_string()));
        let call = Call { method, target, headers, body };
        let begun = Instant::now();
        let answer = loop {
            let answer = self.client.send(&call, patience);
            let Some(limit) = retried_for(&answer, self.client.was_sent()).filter(|limit| begun.elapsed() < *limit)
            else {
                break answer;
            };
            self.client.disconnect();
            let is_busy = limit == BUSY_TIMEOUT;
            std::thread::sleep(if is_busy {
                RETRY_PAUSE.max(begun.elapsed() / 8).min(BUSY_PAUSE_MAX)
            } else {
                RETRY_PAUSE
            });
        };
        let failure = answer.as_ref().err().map(io::Error::kind);
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof,
        };
        let is_cut = failure
            .is_some_and(|kind| matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof));
        self.was_reached = !failure.is_some_and(|kind| matches!(kind, ConnectionRefused | NotFound));
        self.was_not_sent = !self.was_reached || is_cut && !self.client.was_sent();
        self.is_cut = is_cut && !self.was_not_sent;
        self.is_unanswered = failure.is_some() && !self.was_not_sent;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        if is_persistproc(&answer.head) {
            let version = answer.head.header("server").and_then(|name| name.split_once('/'));
            self.compare_versions(version.map_or("", |(_, version)| version));
            self.compare_ports();
            if target != HEALTH {
                self.starts = 0;
            }
            return Ok(answer);
        }
        Err(Error::unreachable(format!(
            "what answers at {} is not persistproc; choose another --data-dir",
            self.config.data_dir.join(SOCKET).display()
        )))
    }

    /// Reports once if the server does not listen on the port that was asked for: the data directory decides which server it
    /// is.
    fn compare_ports(&self) {
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        let Config { port, is_port_given, tcp, is_quiet, data_dir, .. } = &self.config;
        if !is_port_given || !tcp || *is_quiet || *port == 0 || IS_TOLD.swap(true, atomic::Ordering::Relaxed) {
            return;
        }
        if let Some(server_info) = discovery::find(data_dir).filter(|server_info| server_info.port != *port) {
            terminal::note(&format!(
                "the server of this data directory has {}, not port {port}; another one needs a --data-dir of its own",
                server_info.port_in_words()
            ));
        }
    }

    /// Reports once if the server is of another version. What both have in common works all the same.
    fn compare_versions(&mut self, version: &str) {
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        let order = discovery::compare(version);
        self.older_version = (order == Some(Ordering::Less)).then(|| version.into());
        let what = match order {
            Some(Ordering::Less) => "older; `persistproc serve` takes its place, and the processes keep running",
            Some(Ordering::Greater) => "newer, and may not be understood; update this one",
            _ => return,
        };
        if !self.config.is_quiet && !IS_TOLD.swap(true, atomic::Ordering::Relaxed) {
            terminal::note(&format!(
                "the server ({version}) and this command ({}) differ: it is {what}",
                discovery::VERSION
            ));
        }
    }

    /// Whether the last call failed because the server has gone. Another one may come.
    pub fn is_gone(&self) -> bool {
        self.is_cut || self.was_not_sent
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        if std::env::var_os("CODEX_SANDBOX_NETWORK_DISABLED").is_some() {
            return Error::unreachable(
                "Codex's sandbox allows no connections, so the server cannot be reached from here; use persistproc's MCP tools instead",
            );
        }
        let Config { data_dir, is_data_dir_given, .. } = &self.config;
        let of =
            if *is_data_dir_given { format!(" for the data directory {}", data_dir.display()) } else { String::new() };
        let start = "start one with `persistproc serve`";
        Error::unreachable(match (error.kind(), discovery::find(data_dir)) {
            (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, Some(server_info)) => format!(
                "the server{of} (PID {}, version {}) is not reached by its socket; `persistproc serve --background` of a newer version takes its place, and the processes keep running",
                server_info.pid, server_info.version
            ),
            (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, None) => {
                format!("no server runs{of}; {start}")
            }
            (io::ErrorKind::NotADirectory, _) => {
                format!("cannot use the data directory {}: {error}; choose another with --data-dir", data_dir.display())
            }
            (io::ErrorKind::TimedOut, _) => {
                format!("{}, and then try again; its processes keep running", silence(&self.config))
            }
            (io::ErrorKind::PermissionDenied, _) if discovery::is_closed_to_owner(data_dir) => format!(
                "the data directory is yours, but its permissions keep you out: `chmod u+rwx {}` ends that",
                data_dir.display()
            ),
            (io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidFilename, _) => format!(
                "cannot reach the server by {}: {error}; choose another --data-dir",
                data_dir.join(SOCKET).display()
            ),
            _ => format!("the connection to the server{of} failed ({error}); {start}"),
        })
    }

    /// Whether a server answers, or does so soon.
    pub fn comes_up(&mut self) -> bool {
        let begun = Instant::now();
        while !self.is_up() {
            if begun.elapsed() > OTHER_SERVER_TIMEOUT {
                return false;
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        true
    }

    fn is_up(&mut self) -> bool {
        let call = Call { method: "GET", target: HEALTH, ..Call::default() };
        self.client.send(&call, Duration::from_secs(2)).is_ok()
    }

    /// Makes sure that a server answers: starts one if none does and that is allowed.
    pub fn ensure_server(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        let mut cuts = 0;
        let is_older =
            discovery::find(&self.config.data_dir).is_some_and(|server_info| discovery::is_older(&server_info));
        let patience = if is_older { HANDOVER_TIMEOUT } else { HEALTH_TIMEOUT };
        loop {
            let watch = Watch::start(&self.config, is_older);
            let answer = self.send("GET", HEALTH, b"", patience);
            drop(watch);
            match answer {
                Ok(answer) if answer.head.status == 200 => return Ok(()),
                Ok(answer) => return Err(refusal(answer.head.status, &answer.body)),
                Err(_) if self.config.autostart && self.was_not_sent => return self.start_server(),
                // One that is just ending still accepted the connection: a moment later there is none.
                Err(_) if self.is_cut && begun.elapsed() < STARTUP_TIMEOUT => std::thread::sleep(RETRY_PAUSE),
                // A busy one closes idle connections, also one that has waited long for its turn.
                Err(_) if self.is_cut && cuts < CUTS_MAX => cuts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn start_server(&mut self) -> Result<(), Error> {
        if self.starts >= STARTS_MAX {
            let log = self.config.data_dir.join("server.log");
            return Err(Error::unreachable(format!(
                "each server that was started has ended at once, as under a limit that is too low (`ulimit -a`); {} may say why",
                log.display()
            )));
        }
        self.starts += 1;
        match start_server(&self.config) {
            Ok(started) => started.report(&self.config),
            // Another command may have been faster; then its server, which may not answer yet, is as good.
            Err(error) if !self.comes_up() => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }
}

/// For how long to send a request again that certainly was not carried out: the server hands over to another one, which has
/// its socket already, or it has no capacity for another request or connection.
fn retried_for(answer: &io::Result<Answer>, was_sent: bool) -> Option<Duration> {
    match answer {
        Ok(answer) if answer.head.header(LEAVING).is_some() => Some(TAKEOVER_TIMEOUT),
        Ok(answer) if answer.head.status == 503 => Some(BUSY_TIMEOUT),
        Err(error) if error.kind() == io::ErrorKind::TimedOut && !was_sent => Some(BUSY_TIMEOUT),
        _ => None,
    }
}

/// What an answer that is not a result says: a [`Refusal`], an error of JSON-RPC, or text.
pub fn refusal(status: u16, body: &[u8]) -> Error {
    let ours = || serde_json::from_slice(body).ok().map(|Refusal { error }| error);
    let of_protocol = || {
        let answer: Value = serde_json::from_slice(body).ok()?;
        answer.pointer("/error/message").and_then(Value::as_str).map(String::from)
    };
    let text = || String::from_utf8_lossy(body).trim().to_string();
    let text = ours().or_else(of_protocol).unwrap_or_else(text);
    let line = text.lines().next().unwrap_or("");
    Error::failed(match (status, line) {
        (413, _) => {
            "the request is too large for the server: shorten the arguments or the environment of the command".into()
        }
        (503, "") => "the server has no capacity for another connection; try again in a moment".into(),
        (_, "") => format!("the server refused it (status {status})"),
        _ => line.to_string(),
    })
}
