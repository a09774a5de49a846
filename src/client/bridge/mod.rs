//! `persistproc mcp`: MCP on stdin and stdout, for hosts that start a program instead of connecting to a URL. Each line
//! is a message that goes to the server on its own, so answers come back in the order in which they are ready; nothing
//! but answers is written to stdout.
//!
//! Every request is answered, whatever happens to the server. One that certainly was not carried out (no server accepted
//! it) is sent once there is a server again. One whose answer was cut off is sent a second time only if that changes
//! nothing: reads, the protocol's own requests, and starts, stops and restarts, which servers carry out once by the key that
//! they get here. Input and signals may have been carried out, and doing so twice is worse than an error that says how to
//! find out.
//!
//! Notifications end here: the server has no use for them. The bridge only acts on the cancellation of a request: it closes
//! the connection, which the server notices, and sends no answer. In both eras: the handshake revisions allow that, and a
//! wait that no client waits for any more is of no use to them either.

mod lines;
mod pending;

use super::connection::{ServerConnection, refusal};
use super::{ExitCode, terminal};
use crate::config::Config;
use crate::error;
use crate::http::client::{Answer, CancelHandle};
use crate::log::Stream;
use crate::mcp::rpc::{self, Body, Message, RpcError, code};
use crate::sys;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use lines::{LINE_MAX, Line, Lines};
use pending::PendingRequest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Requests in flight at a time. Each has a thread, and one of the 128 connections that the server allows in all.
const IN_FLIGHT_MAX: usize = 32;
const STACK: usize = 256 << 10;
/// The longest that an answer may take: a restart (8 s of grace) that then waits 45 s, or a batch of several, with a margin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take until there is a server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long answers may take after the end of stdin.
const LAST_ANSWERS: Duration = Duration::from_millis(1500);

/// Serves until stdin ends.
pub fn run(config: Config) -> Result<ExitCode, error::Error> {
    if io::stdin().is_terminal() {
        terminal::note("this speaks MCP with the agent that starts it; `persistproc serve` prints how to connect one");
    }
    terminal::give_stdout_away();
    let no = |error: io::Error| error::Error::failed("cannot begin to serve stdin").because(error);
    let stdin = sys::take_standard_fd(0).map_err(no)?;
    let (answers, to_write) = bounded(IN_FLIGHT_MAX);
    let (wanted, wants) = bounded(IN_FLIGHT_MAX);
    let (writing, written) = bounded(0);
    let for_starter = config.clone();
    thread::Builder::new().name("write".into()).spawn(move || write(&to_write, writing)).map_err(no)?;
    thread::Builder::new().name("start".into()).spawn(move || start(&for_starter, &wants)).map_err(no)?;
    let bridge = Arc::new(Bridge {
        project: project(),
        config,
        in_flight: Mutex::default(),
        one_finished: Condvar::new(),
        protocol_version: Mutex::default(),
        was_reached: AtomicBool::new(false),
        answers,
        wanted,
    });
    let mut lines = Lines::of(stdin);
    for number in 0.. {
        match lines.next() {
            Ok(Some(line)) => bridge.accept(line, number),
            Ok(None) | Err(_) => break,
        }
        if written.try_recv() == Err(TryRecvError::Disconnected) {
            break; // the host does not read the answers any more
        }
    }
    bridge.end(&written);
    Ok(ExitCode::Success)
}

/// Writes answers, each whole. `_writing` is dropped when nothing more is written.
fn write(answers: &Receiver<Option<Value>>, _writing: Sender<()>) {
    while let Ok(Some(answer)) = answers.recv() {
        if terminal::write(Stream::Stdout, format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// A request that needs a server: whether there was one before, and where the outcome goes.
struct ServerWanted {
    was_reached: bool,
    outcome: Sender<Result<(), String>>,
}

/// Makes sure that there is a server: once for all requests that need one at the same time.
fn start(config: &Config, wanted: &Receiver<ServerWanted>) {
    while let Ok(first) = wanted.recv() {
        let mut server = ServerConnection::new(config.clone());
        if first.was_reached && !config.autostart {
            server.comes_up(); // another program may be restarting it
        }
        let outcome = server.ensure_server().map_err(|error| error.to_string());
        for want in std::iter::once(first).chain(wanted.try_iter()) {
            let _ = want.outcome.send(outcome.clone());
        }
    }
}

/// The directory of the project that the host works on, as far as we can tell: the one that it names, else our own. A host
/// in the root or the home directory has no project.
fn project() -> Option<String> {
    let directory = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = directory("HOME");
    let own = || std::env::current_dir().ok().filter(|own| own != Path::new("/") && Some(own) != home.as_ref());
    let project = directory("CLAUDE_PROJECT_DIR").filter(|path| path.is_dir()).or_else(own)?;
    project.to_str().map(String::from)
}

struct Bridge {
    config: Config,
    project: Option<String>,
    in_flight: Mutex<BTreeMap<u64, InFlight>>,
    one_finished: Condvar,
    /// The protocol version of the handshake, which later requests carry.
    protocol_version: Mutex<Option<String>>,
    was_reached: AtomicBool,
    /// `None` is the end.
    answers: Sender<Option<Value>>,
    wanted: Sender<ServerWanted>,
}

/// A request in flight.
struct InFlight {
    /// The id by which it can be cancelled.
    id: Option<Value>,
    cancel_handle: CancelHandle,
}

impl Bridge {
    fn answer(&self, answer: Value) {
        let _ = self.answers.send(Some(answer)); // fails if the host does not read, then we are about to end
    }

    fn in_flight(&self) -> MutexGuard<'_, BTreeMap<u64, InFlight>> {
        // Insertions and removals: whole whatever happens to a thread.
        self.in_flight.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn accept(self: &Arc<Self>, line: Line, number: u64) {
        let line = match line {
            Line::Message(line) => line,
            Line::TooLong(id) => {
                let what = format!("Invalid request: the message is longer than {LINE_MAX} bytes");
                return self.answer(rpc::answer(&id, Err(RpcError::new(code::INVALID_REQUEST, what))));
            }
        };
        if line.trim_ascii().is_empty() {
            return;
        }
        match rpc::parse(&line) {
            Err(error) => self.answer(rpc::answer(&Value::Null, Err(error))),
            Ok(Body::Batch(messages)) => {
                self.send_out(PendingRequest::batch(messages, self.project.as_deref()), number)
            }
            Ok(Body::One(value)) => self.accept_one(value, number),
        }
    }

    fn accept_one(self: &Arc<Self>, value: Value, number: u64) {
        // An id that can be read goes back also with an error: a client waits for its id, not for null.
        let id = value.get("id").filter(|id| id.is_string() || id.is_i64() || id.is_u64()).cloned();
        if id.is_none() && value["method"] == "notifications/cancelled" {
            return self.cancel(&value["params"]["requestId"]);
        }
        match rpc::message(value) {
            Err(error) => self.answer(rpc::answer(&id.unwrap_or(Value::Null), Err(error))),
            Ok(Message::Silent) => {}
            Ok(Message::Request(request)) => {
                self.send_out(PendingRequest::one(request, self.project.as_deref()), number)
            }
        }
    }

    fn cancel(&self, id: &Value) {
        let in_flight = self.in_flight();
        for cancelled in in_flight.values().filter(|request| request.id.as_ref() == Some(id)) {
            cancelled.cancel_handle.cancel();
        }
    }

    /// Sends a request, in a thread of its own.
    fn send_out(self: &Arc<Self>, pending: PendingRequest, number: u64) {
        let server = ServerConnection::new(self.config.clone());
        let cancel_handle = server.cancel_handle();
        let mut in_flight = self.in_flight();
        if in_flight.len() >= IN_FLIGHT_MAX {
            drop(in_flight);
            let what = format!("{IN_FLIGHT_MAX} requests are in flight; wait for an answer before the next one");
            pending.failed(&what).into_iter().for_each(|answer| self.answer(answer));
            return;
        }
        in_flight.insert(number, InFlight { id: pending.cancelled_by(), cancel_handle: cancel_handle.clone() });
        drop(in_flight);
        let refused = pending.failed("the system allows no more threads; try again in a moment");
        let broken = pending.failed("internal error (a bug), please report it; the bridge's stderr says more");
        let bridge = self.clone();
        let carry = move || {
            let answer = catch_unwind(AssertUnwindSafe(|| bridge.exchange(pending, server))).unwrap_or(broken);
            bridge.finish(number, answer.filter(|_| !cancel_handle.is_cancelled()));
        };
        if thread::Builder::new().name("request".into()).stack_size(STACK).spawn(carry).is_err() {
            self.finish(number, refused);
        }
    }

    /// Finishes a request. Its answer is sent before it counts as finished.
    fn finish(&self, number: u64, answer: Option<Value>) {
        answer.into_iter().for_each(|answer| self.answer(answer));
        self.in_flight().remove(&number);
        self.one_finished.notify_all();
    }

    /// Delivers a request to a server, with as many tries as that takes, and returns its answer.
    fn exchange(&self, mut pending: PendingRequest, mut server: ServerConnection) -> Option<Value> {
        let begun = Instant::now();
        let (mut starts, mut is_repeated) = (0, false);
        loop {
            let sent = server.forward(
                pending.headers(self.protocol_version()),
                pending.body().to_string().as_bytes(),
                ANSWER_TIMEOUT,
            );
            let error = match sent {
                Ok(answer) => {
                    self.was_reached.store(true, Ordering::Relaxed);
                    return self.read(&pending, &answer);
                }
                Err(error) => error.to_string(),
            };
            if server.cancel_handle().is_cancelled() {
                return None;
            }
            if server.was_not_sent && starts < 2 {
                starts += 1;
            } else if server.is_cut && !is_repeated && pending.can_be_repeated(begun.elapsed()) {
                is_repeated = true;
            } else if !server.is_unanswered {
                return pending.failed(&error);
            } else {
                let why = if server.is_cut { "the server ended before it answered" } else { &error };
                return pending.lost(why, begun.elapsed());
            }
            if let Err(why) = self.ensure_server() {
                return pending.failed(&why);
            }
        }
    }

    fn ensure_server(&self) -> Result<(), String> {
        let (outcome, outcomes) = bounded(1);
        let want = ServerWanted { was_reached: self.was_reached.load(Ordering::Relaxed), outcome };
        let late = "no server came up in time; start one with `persistproc serve`";
        self.wanted.send(want).map_err(|_| late)?;
        outcomes.recv_timeout(SERVER_TIMEOUT).map_err(|_| late)?
    }

    fn protocol_version(&self) -> Option<String> {
        self.protocol_version.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn set_protocol_version(&self, version: &str) {
        *self.protocol_version.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(version.into());
    }

    /// What goes back to the host. A message of the protocol counts at any status; its id is the request's, also where
    /// the server could not know it.
    fn read(&self, pending: &PendingRequest, answer: &Answer) -> Option<Value> {
        let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match (pending, json) {
            (PendingRequest::Batch(..), Some(answers @ Value::Array(_))) => Some(answers),
            (PendingRequest::Batch(_, ids), Some(message)) if ids.is_empty() && message.get("jsonrpc").is_some() => {
                Some(message)
            }
            (PendingRequest::Batch(..), None) if answer.head.status == 202 => None,
            (PendingRequest::One(request), Some(mut message)) if message.get("jsonrpc").is_some() => {
                message["id"] = request.id.clone();
                let version = message["result"]["protocolVersion"].as_str().filter(|_| pending.is_handshake());
                if let Some(version) = version {
                    self.set_protocol_version(version);
                }
                Some(message)
            }
            (_, _) => pending.failed(&refusal(answer.head.status, &answer.body).to_string()),
        }
    }

    /// The host is done: what is almost ready still goes out, what waits is left.
    fn end(&self, written: &Receiver<()>) {
        let end = Instant::now() + LAST_ANSWERS;
        let left = || end.saturating_duration_since(Instant::now());
        drop(self.one_finished.wait_timeout_while(self.in_flight(), left(), |requests| !requests.is_empty()));
        let _ = self.answers.try_send(None); // fails if the host does not read, and then nothing more can be done
        let _ = written.recv_timeout(left());
    }
}
