//! The way to the server: finding it by the socket in the data directory, starting it when none answers, and calling it.

use super::silence::{Watch, silence};
use super::{Trouble, new_key, query, terminal};
use crate::agents::is_agent_variable;
use crate::attributes;
use crate::config::Config;
use crate::http::client::{Answer, Call, Client, Endpoint, Hangup};
use crate::http::head::{decode, encode};
use crate::log::Stream;
use crate::mcp::tools::{META_DIRECTORY, META_JSON, META_KEY};
use crate::output::cursor::Cursor;
use crate::procs;
use crate::server::follow::{Ask, Following, HEADER};
use crate::server::handover::{self, verify_user};
use crate::server::is_persistproc;
use crate::server::place::{self, SOCKET};
use crate::server::routes::{LEAVING, RunRequest};
use crate::sys;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{self, AtomicBool};
use std::time::{Duration, Instant};

/// Name and value of a header.
pub type Header = (&'static str, String);

/// The longest that a call may take: a wait of 45 s, and what comes with it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may take to come up.
const STARTING: Duration = Duration::from_secs(5);
/// How long a server may take to say that it is up: an older one that leaves it its place ends its restarts first.
const HANDOVER: Duration = Duration::from_secs(75);
/// How long a server may take to say who it is; [`HANDOVER`] if it may be about to take the place of an older one, whose
/// socket it has already.
const ANSWERS: Duration = Duration::from_secs(60);
/// How long to bring a call of `ctrl` to the next server, and the one after that.
const CONTROL: Duration = Duration::from_secs(60);
/// How long to look for the server of somebody who was faster.
const COMING: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(10);
/// How long the process of a server may take to go after its last answer.
const ENDING: Duration = Duration::from_secs(5);
/// How long a newer server may take to answer at the socket that the one before has left to it.
const EXCHANGE: Duration = Duration::from_secs(15);

/// How long to ask again when a server has no place for a request, and the longest pause before that.
const BUSY: Duration = Duration::from_secs(120);
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// How often a request is sent again whose connection was cut by a server that lives.
const CUTS: u32 = 10;
/// Servers that are started one after the other, each because the one before has ended.
const STARTS: u32 = 3;
/// Asks whether there is a server.
const HEALTH: &str = "/health";

/// Stack of a thread that only waits for a process.
const REAPER_STACK: usize = 64 << 10;

/// Lines that were read, as they are printed.
pub struct Reading {
    pub bytes: Vec<u8>,
    /// Where to go on.
    pub cursor: String,
    /// Why waiting ended, if there was any.
    pub waited: String,
    note: String,
    /// What is missing at the end, because the disk did not take it.
    pub unwritten: String,
    /// The last line is not finished, and is one of this stream.
    pub open: Option<Stream>,
    /// There was more than what was asked for.
    pub is_cut: bool,
    /// Some of what was asked for is not kept any more.
    pub has_gap: bool,
}

impl Reading {
    pub fn cursor(&self) -> Result<Cursor, Trouble> {
        self.cursor.parse().map_err(|_| Trouble::Refused("unexpected response of the server".into()))
    }

    /// Tells of restarts, and of what is not kept any more, the latter also with `-q`.
    pub fn note(&self, link: &Link) {
        if !self.note.is_empty() && (self.has_gap || !link.config.is_quiet) {
            terminal::note(&self.note);
        }
    }
}

pub struct Link {
    pub config: Config,
    client: Client,
    /// As of the last call: no server took it, so it was not carried out.
    pub is_nobody_there: bool,
    /// As of the last call: there was a server that took the connection, whatever became of it.
    pub was_reached: bool,
    /// As of the last call: the connection was cut, as when a server ends; whether it was obeyed cannot be known.
    pub is_cut: bool,
    /// As of the last call: it was sent, and nothing came back.
    pub is_unanswered: bool,
    /// Servers that were started since one answered.
    starts: u32,
}

impl Link {
    pub fn new(config: Config) -> Link {
        let client = Client::new(Endpoint::Unix(config.data_dir.join(SOCKET)), verify_user);
        Link {
            config,
            client,
            is_nobody_there: false,
            was_reached: false,
            is_cut: false,
            is_unanswered: false,
            starts: 0,
        }
    }

    /// What ends the calls of this link from another thread.
    pub fn hangup(&self) -> Hangup {
        self.client.hangup()
    }

    /// Posts a message of MCP as somebody else wrote it.
    pub fn forward(&mut self, headers: Vec<Header>, body: &[u8], patience: Duration) -> Result<Answer, Trouble> {
        self.send_with(headers, "POST", "/mcp", body, patience)
    }

    fn send(&mut self, method: &str, target: &str, body: &[u8], patience: Duration) -> Result<Answer, Trouble> {
        self.send_with(Vec::new(), method, target, body, patience)
    }

    fn send_with(
        &mut self,
        mut headers: Vec<Header>,
        method: &str,
        target: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<Answer, Trouble> {
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
            let is_busy = limit == BUSY;
            std::thread::sleep(if is_busy { AGAIN.max(begun.elapsed() / 8).min(BUSY_PAUSE) } else { AGAIN });
        };
        let failure = answer.as_ref().err().map(io::Error::kind);
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof,
        };
        let is_cut = failure
            .is_some_and(|kind| matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof));
        self.was_reached = !failure.is_some_and(|kind| matches!(kind, ConnectionRefused | NotFound));
        self.is_nobody_there = !self.was_reached || is_cut && !self.client.was_sent();
        self.is_cut = is_cut && !self.is_nobody_there;
        self.is_unanswered = failure.is_some() && !self.is_nobody_there;
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
        Err(Trouble::Unreachable(format!(
            "what answers at {} is not persistproc; choose another --data-dir",
            self.config.data_dir.join(SOCKET).display()
        )))
    }

    /// Says once if the server does not listen where it was asked for: the data directory decides which server it is.
    fn compare_ports(&self) {
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        let Config { port, is_port_given, tcp, is_quiet, data_dir, .. } = &self.config;
        if !is_port_given || !tcp || *is_quiet || *port == 0 || IS_TOLD.swap(true, atomic::Ordering::Relaxed) {
            return;
        }
        if let Some(holder) = place::holder(data_dir).filter(|holder| holder.port != *port) {
            terminal::note(&format!(
                "the server of this data directory has {}, not port {port}; another one needs a --data-dir of its own",
                holder.port_in_words()
            ));
        }
    }

    /// Says once if the server is of another version. What it has in common with us works all the same.
    fn compare_versions(&self, version: &str) {
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        let what = match handover::compare(version) {
            Some(Ordering::Less) => "older; `persistproc serve` takes its place, and the processes go on",
            Some(Ordering::Greater) => "newer, and may not be understood; update this one",
            _ => return,
        };
        if !self.config.is_quiet && !IS_TOLD.swap(true, atomic::Ordering::Relaxed) {
            terminal::note(&format!(
                "the server ({version}) and this command ({}) differ: it is {what}",
                handover::VERSION
            ));
        }
    }

    /// Whether the last call failed because the server has gone. Another one may come.
    pub fn is_gone(&self) -> bool {
        self.is_cut || self.is_nobody_there
    }

    fn unreachable(&self, error: &io::Error) -> Trouble {
        if std::env::var_os("CODEX_SANDBOX_NETWORK_DISABLED").is_some() {
            return Trouble::Unreachable(
                "Codex's sandbox allows no connections, so the server cannot be reached from here; use persistproc's MCP tools instead".into(),
            );
        }
        let Config { data_dir, is_data_dir_given, .. } = &self.config;
        let of =
            if *is_data_dir_given { format!(" for the data directory {}", data_dir.display()) } else { String::new() };
        let start = "start one with `persistproc serve`";
        Trouble::Unreachable(match (error.kind(), place::holder(data_dir)) {
            (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, Some(holder)) => format!(
                "the server{of} (PID {}, version {}) is not reached by its socket; `persistproc serve --background` of a newer version takes its place, and the processes go on",
                holder.pid, holder.version
            ),
            (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, None) => {
                format!("no server runs{of}; {start}")
            }
            (io::ErrorKind::NotADirectory, _) => {
                format!("cannot use the data directory {}: {error}; choose another with --data-dir", data_dir.display())
            }
            (io::ErrorKind::TimedOut, _) => {
                format!("{}, and then try again; its processes go on", silence(&self.config))
            }
            (io::ErrorKind::PermissionDenied, _) if place::is_closed_to_owner(data_dir) => format!(
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

    /// Sends, and reads the JSON of the answer; a refusal becomes its text.
    fn ask(&mut self, method: &str, target: &str, body: &Value) -> Result<Value, Trouble> {
        let may_take_long = target != "/mcp" || body["params"]["name"] == "ctrl";
        let watch = Watch::start(&self.config, may_take_long || body["params"]["arguments"]["wait_for"].is_string());
        let answer = self.send(method, target, body.to_string().as_bytes(), PATIENCE)?;
        drop(watch);
        let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match (answer.head.status, json) {
            (200, Some(json)) => Ok(json),
            (_, json) => Err(refusal(answer.head.status, json.as_ref(), &answer.body)),
        }
    }

    /// Calls a tool and gives back its result as JSON.
    pub fn call_tool(&mut self, name: &str, arguments: &Map<String, Value>) -> Result<Value, Trouble> {
        self.call(name, arguments, json!({META_JSON: true}))
    }

    /// Calls `ctrl`. Should the server go before it answers, the next one is asked for the same: it finishes what the one
    /// before had begun, and by the key of the call it is obeyed once.
    pub fn control(&mut self, arguments: &Map<String, Value>) -> Result<Value, Trouble> {
        let meta = json!({META_JSON: true, META_KEY: new_key()});
        let begun = Instant::now();
        let mut was_sent = false;
        loop {
            let answer = self.call("ctrl", arguments, meta.clone());
            was_sent |= self.is_cut;
            if answer.is_ok() || !was_sent || !self.is_gone() || begun.elapsed() > CONTROL {
                return answer;
            }
            if self.config.autostart {
                self.ensure_server()?;
            } else if !self.comes_up() {
                return answer;
            }
        }
    }

    fn call(&mut self, name: &str, arguments: &Map<String, Value>, mut meta: Value) -> Result<Value, Trouble> {
        if let Ok(directory) = std::env::current_dir() {
            meta[META_DIRECTORY] = json!(directory.to_string_lossy());
        }
        let params = json!({"name": name, "arguments": arguments, "_meta": meta});
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let answer = self.ask("POST", "/mcp", &call)?;
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str();
        let text =
            text.or(answer["error"]["message"].as_str()).unwrap_or("unexpected response of the server").trim_end();
        if result["isError"] == json!(true) || answer.get("error").is_some() {
            return Err(Trouble::Refused(text.into()));
        }
        serde_json::from_str(text).map_err(|_| Trouble::Refused("unexpected response of the server".into()))
    }

    /// Starts or attaches to a process, and before that a server if none answers. Should the server go before it
    /// answers, the request is sent again to the next one: by its key it is obeyed once.
    pub fn run(&mut self, request: &RunRequest) -> Result<Value, Trouble> {
        let begun = Instant::now();
        let mut cuts = 0;
        loop {
            let is_patient = self.config.autostart && begun.elapsed() < STARTING;
            self.ensure_server()?;
            match self.ask("POST", "/run", &json!(request)) {
                Err(_) if self.is_gone() && is_patient => {}
                // A busy server closes connections to make room, also after a long wait for a place.
                Err(_) if self.is_cut && cuts < CUTS => cuts += 1,
                answer => return answer,
            }
        }
    }

    /// Selected lines as bytes.
    pub fn read_output(&mut self, arguments: &Map<String, Value>) -> Result<Reading, Trouble> {
        let mut query = query(arguments);
        if let Ok(directory) = std::env::current_dir() {
            query.push_str(&format!("&near={}", encode(&directory.to_string_lossy())));
        }
        let watch = Watch::start(&self.config, arguments.contains_key("wait_for"));
        let answer = self.send("GET", &format!("/output?{query}"), b"", PATIENCE)?;
        drop(watch);
        if answer.head.status != 200 {
            let json = serde_json::from_slice(&answer.body).ok();
            return Err(refusal(answer.head.status, json.as_ref(), &answer.body));
        }
        let header = |name: &str| answer.head.header(name).map(decode).unwrap_or_default();
        let [cursor, waited, note, unwritten] =
            ["persistproc-cursor", "persistproc-waited", "persistproc-note", "persistproc-unwritten"].map(header);
        let is_cut = answer.head.header("persistproc-cut").is_some();
        let open = answer.head.header("persistproc-open").and_then(Stream::from_name);
        let has_gap = answer.head.header("persistproc-gone").is_some();
        Ok(Reading { bytes: answer.body, cursor, waited, note, unwritten, open, is_cut, has_gap })
    }

    /// How far the log of a run reaches behind an offset, as soon as it does, or after `wait`. Servers up to 0.4 send its
    /// bytes, too.
    pub fn follow(&mut self, ask: &Ask) -> Result<(Following, Vec<u8>), Trouble> {
        let answer = self.send("GET", &format!("/output?{}", ask.query()), b"", ask.wait + Duration::from_secs(10))?;
        let status = answer.head.header(HEADER).and_then(|text| serde_json::from_str(text).ok());
        match (answer.head.status, status) {
            (200, Some(following)) => Ok((following, answer.body)),
            (status, _) => {
                let json = serde_json::from_slice(&answer.body).ok();
                Err(refusal(status, json.as_ref(), &answer.body))
            }
        }
    }

    /// Ends the server, and waits until it is gone.
    pub fn shut_down(&mut self, keep: bool) -> Result<Value, Trouble> {
        let answer = self.ask("POST", "/shutdown", &json!({"keep": keep}))?;
        let pid = answer["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let is_there = || procs::look_up(pid).is_some_and(|process| !process.is_dead() && process.is_service());
        let begun = Instant::now();
        while is_there() && begun.elapsed() < ENDING {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(answer)
    }

    /// Whether a server answers, or does so soon.
    pub fn comes_up(&mut self) -> bool {
        let begun = Instant::now();
        while !self.is_up() {
            if begun.elapsed() > COMING {
                return false;
            }
            std::thread::sleep(AGAIN);
        }
        true
    }

    fn is_up(&mut self) -> bool {
        let call = Call { method: "GET", target: HEALTH, ..Call::default() };
        self.client.send(&call, Duration::from_secs(2)).is_ok()
    }

    /// Makes sure that a server answers: starts one if none does and that is allowed.
    pub fn ensure_server(&mut self) -> Result<(), Trouble> {
        let begun = Instant::now();
        let mut cuts = 0;
        let is_older = place::holder(&self.config.data_dir).is_some_and(|holder| handover::is_older(&holder));
        let patience = if is_older { HANDOVER } else { ANSWERS };
        loop {
            let watch = Watch::start(&self.config, is_older);
            let answer = self.send("GET", HEALTH, b"", patience);
            drop(watch);
            match answer {
                Ok(answer) if answer.head.status == 200 => return Ok(()),
                Ok(answer) => {
                    let json = serde_json::from_slice(&answer.body).ok();
                    return Err(refusal(answer.head.status, json.as_ref(), &answer.body));
                }
                Err(_) if self.config.autostart && self.is_nobody_there => return self.start_server(),
                // One that is just ending still took the connection: a moment later nobody is there.
                Err(_) if self.is_cut && begun.elapsed() < STARTING => std::thread::sleep(AGAIN),
                // A busy one closes connections to make room, also after a long wait for a place.
                Err(_) if self.is_cut && cuts < CUTS => cuts += 1,
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn start_server(&mut self) -> Result<(), Trouble> {
        if self.starts >= STARTS {
            let log = self.config.data_dir.join("server.log");
            return Err(Trouble::Unreachable(format!(
                "each server that was started has ended at once, as under a limit that is too low (`ulimit -a`); {} may say why",
                log.display()
            )));
        }
        self.starts += 1;
        match start_server(&self.config) {
            Ok(started) => started.tell(&self.config),
            // Another command may have been faster; then its server, which may not answer yet, is as good.
            Err(trouble) if !self.comes_up() => return Err(trouble),
            Err(_) => {}
        }
        Ok(())
    }
}

/// A server that was started in the background.
pub struct Started {
    /// `None` if it does not listen on TCP.
    pub port: Option<u16>,
    /// What its starter should know about that.
    pub warning: Option<String>,
}

impl Started {
    /// From the line that it said: `8947`, or `0`, and behind it what is to be told.
    fn parse(line: &str) -> Option<Started> {
        let (port, warning) = line.split_once(' ').unwrap_or((line, ""));
        let port: u16 = port.parse().ok()?;
        Some(Started { port: (port > 0).then_some(port), warning: (!warning.is_empty()).then(|| warning.into()) })
    }

    /// Says on one line that it was started, and where it is.
    fn tell(&self, config: &Config) {
        if config.is_quiet {
            return;
        }
        match self.port {
            Some(port) => terminal::note(&format!("started a server on http://127.0.0.1:{port}/mcp")),
            None => terminal::note("started a server without a port"),
        }
        self.warning.iter().for_each(|warning| terminal::note(warning));
    }
}

/// Starts a server in the background, and waits until it serves.
pub fn start_server(config: &Config) -> Result<Started, Trouble> {
    let failed = |what: String| Trouble::Unreachable(format!("cannot start a server: {what}"));
    let program = if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() };
    let mut command = Command::new(program.map_err(|error| failed(error.to_string()))?);
    std::os::unix::process::CommandExt::arg0(&mut command, "persistproc");
    let port = if config.tcp { config.port.to_string() } else { "none".into() };
    command.arg("__serve").arg(port).arg(&config.data_dir);
    command.args(config.trusts_all_users.then_some("--trust-all-users"));
    let umask = attributes::inherited().umask;
    command.args(umask.iter().flat_map(|umask| ["--umask".to_string(), umask.to_string()]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // It serves everybody and outlives the agent whose shell this may be.
    for (name, _) in std::env::vars_os().filter(|(name, value)| is_agent_variable(name, value)) {
        command.env_remove(name);
    }
    // It lives on: a pipe of our caller that it kept would never end for whoever reads it.
    sys::close_on_exec_all();
    let no_program = |error: io::Error| failed(procs::missing().map_or(error.to_string(), String::from));
    let mut server = command.spawn().map_err(no_program)?;
    let mut said = Vec::new();
    let end = Instant::now() + HANDOVER;
    let mut pipe = server.stdout.take();
    while let Some(open) = &mut pipe {
        let left = end.saturating_duration_since(Instant::now());
        let mut bytes = [0; 1024];
        match sys::poll_readable([open.as_raw_fd()], Some(left))[0].then(|| open.read(&mut bytes)) {
            Some(Ok(n)) if n > 0 => said.extend_from_slice(&bytes[..n]),
            _ => pipe = None,
        }
        if said.ends_with(b"\n") {
            break;
        }
    }
    reap(server);
    let said = String::from_utf8_lossy(&said).trim_end().to_string();
    match said.split_once(' ') {
        Some(("ok", said)) => Started::parse(said).ok_or_else(|| failed("it did not say its port".into())),
        Some(("err", problem)) => Err(failed(problem.into())),
        _ => Err(failed(format!("it said nothing; {} may say why", config.data_dir.join("server.log").display()))),
    }
}

/// Waits for the end of a server that we started, in a thread of its own: it is our child for as long as we live, which
/// may be days, and would stay a zombie. The thread ends with the server.
fn reap(mut server: Child) {
    let wait = move || drop(server.wait());
    // Without a thread nothing is lost but an entry in the table of processes.
    let _ = std::thread::Builder::new().name("reap".into()).stack_size(REAPER_STACK).spawn(wait);
}

/// For how long a request is to be sent again that was certainly not carried out: the server leaves its place to another
/// one, which has its socket already, or it has no place for another request or connection.
fn retried_for(answer: &io::Result<Answer>, was_sent: bool) -> Option<Duration> {
    match answer {
        Ok(answer) if answer.head.header(LEAVING).is_some() => Some(EXCHANGE),
        Ok(answer) if answer.head.status == 503 => Some(BUSY),
        Err(error) if error.kind() == io::ErrorKind::TimedOut && !was_sent => Some(BUSY),
        _ => None,
    }
}

/// What an answer that is no result says.
pub fn refusal(status: u16, json: Option<&Value>, body: &[u8]) -> Trouble {
    let text = json.and_then(|json| json["error"].as_str().or(json["error"]["message"].as_str()));
    let text = text.map_or_else(|| String::from_utf8_lossy(body).trim().to_string(), String::from);
    let text = text.lines().next().unwrap_or("").to_string();
    if status == 413 {
        return Trouble::Refused(
            "the request is too large for the server: shorten the arguments or the environment of the command".into(),
        );
    }
    if text.is_empty() && status == 503 {
        return Trouble::Refused("the server has no room for another connection; try again in a moment".into());
    }
    Trouble::Refused(if text.is_empty() { format!("the server refused it (status {status})") } else { text })
}
