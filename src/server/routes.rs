//! Paths → handlers: what may be called how, and how each answer looks in HTTP.

use super::follow::{self, Ask};
use super::gate::{Gate, check_is_json};
use super::{Event, Holder, LAST_REQUESTS, Leave};
use crate::attributes::{self, Attributes};
use crate::fault::{Fault, Kind};
use crate::http::head::{Head, decode, encode};
use crate::http::server::{Request, Response, Service, Waiting};
use crate::http::socket::Socket;
use crate::manager::{self, IfRunning, Manager};
use crate::mcp::protocol;
use crate::mcp::text;
use crate::mcp::tools::{self, Context, Manner};
use crate::output::query::{Unfinished, stamped};
use crate::output::wait::Caller;
use crate::words::Word;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The header by which commands up to version 0.3, which know a server by its port, insist on a data directory.
pub const DATA_DIR: &str = "Persistproc-Data-Dir";
/// The header of an answer that says: not carried out, because a newer server takes the place of this one; ask again.
pub const LEAVING: &str = "Persistproc-Leaving";
/// How long a shutdown may take before its caller is told that it still goes on.
const SHUTDOWN: Duration = manager::LEAVE_MAX.saturating_add(LAST_REQUESTS).saturating_add(Duration::from_secs(2));
/// Clients give up after 60 s (`PATIENCE` in `client::link`, `answer` in `http::server`): both must follow if this grows.
const _: () = assert!(SHUTDOWN.as_secs() < 60);

/// Starts a command with all arguments and variables that the system takes (6 MiB, see execve(2)), of which JSON may make
/// six times as much.
const RUN: &str = "/run";
const COMMAND_MAX: usize = 40 << 20;

type Handler = fn(&Routes, &Request) -> Result<Response, Fault>;

struct Route {
    path: &'static str,
    method: &'static str,
    /// Also on TCP, and not for our own commands alone.
    is_public: bool,
    handler: Handler,
}

/// Everything else is 404, or 405 with the method that there is.
const ROUTES: [Route; 6] = [
    Route { path: "/mcp", method: "POST", is_public: true, handler: mcp },
    Route { path: "/mcp/", method: "POST", is_public: true, handler: mcp },
    Route { path: RUN, method: "POST", is_public: false, handler: run },
    Route { path: "/output", method: "GET", is_public: false, handler: output },
    Route { path: "/health", method: "GET", is_public: false, handler: health },
    Route { path: "/shutdown", method: "POST", is_public: false, handler: shutdown },
];

/// What the handlers of one listener need.
#[derive(Clone)]
pub struct Routes {
    pub manager: Arc<Manager>,
    pub gate: Arc<Gate>,
    pub holder: Arc<Holder>,
    /// Where the wish to end this server goes.
    pub events: SyncSender<Event>,
    /// A newer server's socket is in the place of ours.
    pub is_replaced: Arc<AtomicBool>,
}

impl Routes {
    fn is_private(&self) -> bool {
        matches!(*self.gate, Gate::Private)
    }

    /// A refusal for our own clients, who ask the newer server by the same name, if there is one in our place.
    fn replaced(&self) -> Option<Fault> {
        let is_replaced = self.is_private() && self.is_replaced.load(Ordering::SeqCst);
        is_replaced.then(|| Fault::ending("a newer server takes the place of this one"))
    }

    /// The route of a path, as far as this listener has it.
    fn find(&self, path: &str) -> Result<&'static Route, Response> {
        let not_found = |text: &str| Err(Response::text(404, text));
        match ROUTES.iter().find(|route| route.path == path) {
            Some(route) if route.is_public || self.is_private() => Ok(route),
            // Commands up to version 0.3 call these, and show the first line of the answer.
            Some(_) => not_found(&format!(
                "the server is of version {}, which this command is too old for; its processes go on: update it and run it again",
                self.holder.version
            )),
            None => not_found("there is nothing here; the endpoint of MCP is /mcp"),
        }
    }

    /// A command that insists on a data directory is not served from another one.
    fn check_data_dir(&self, head: &Head) -> Result<(), Response> {
        let own_dir = &self.holder.data_dir;
        let own = own_dir.to_string_lossy();
        let is_own = |wanted: &str| wanted == own || Path::new(wanted).canonicalize().is_ok_and(|dir| dir == *own_dir);
        match head.header(DATA_DIR).map(decode).filter(|wanted| !is_own(wanted)) {
            None => Ok(()),
            Some(wanted) => Err(failure(&Fault::conflict(format!(
                "the server on port {} (PID {}) has the data directory {own}, not {wanted}; choose another --port",
                self.holder.port, self.holder.pid
            )))),
        }
    }
}

/// Body of `POST /run`: exactly what the caller's shell would have run.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunRequest {
    pub argv: Vec<Word>,
    pub working_directory: Word,
    pub environment: Vec<(Word, Word)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// `refuse`, `attach` or `replace`.
    pub if_running: String,
    /// The same request sent again starts nothing a second time.
    pub idempotency_key: Option<String>,
    /// The lease of the command that is going to read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// Of the process that asks; not told by commands up to 0.4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

impl Service for Routes {
    fn knows(&self, socket: &Socket) -> bool {
        self.gate.knows(socket)
    }

    fn receive(&self, socket: &Socket) -> Result<(), Response> {
        self.gate.receive(socket)
    }

    fn admit(&self, head: &Head) -> Result<(), Response> {
        self.gate.check(head)?;
        match (self.find(head.path())?.method, head.method.as_str()) {
            ("GET", "GET" | "HEAD") | ("POST", "POST") => {}
            ("GET", _) => return Err(Response::text(405, "use GET").with("Allow", "GET, HEAD")),
            (method, _) => return Err(Response::text(405, &format!("use {method}")).with("Allow", method)),
        }
        if head.method == "POST" {
            check_is_json(head)?;
        }
        self.check_data_dir(head)
    }

    fn longest_body(&self, head: &Head, usual: usize) -> usize {
        if self.is_private() && head.path() == RUN { COMMAND_MAX } else { usual }
    }

    fn answer(&self, request: &Request) -> Response {
        let route = match self.find(request.head.path()) {
            Ok(route) => route,
            Err(refused) => return refused,
        };
        let answer = self.replaced().map_or_else(|| (route.handler)(self, request), Err);
        answer.unwrap_or_else(|fault| match fault.kind {
            // Our own commands ask the next server, which they find by the same name; also if it took our place while
            // they waited for their turn.
            Kind::Ending if self.replaced().is_some() => failure(&fault).with(LEAVING, "true"),
            _ => failure(&fault),
        })
    }
}

/// The client of a request, and the places that its calls have taken to wait.
struct Client<'a> {
    request: &'a Request<'a>,
    places: Mutex<Vec<Waiting<'a>>>,
}

impl<'a> Client<'a> {
    fn of(request: &'a Request<'a>) -> Client<'a> {
        Client { request, places: Mutex::default() }
    }
}

impl Caller for Client<'_> {
    fn is_gone(&self) -> bool {
        self.request.client_is_gone()
    }
    fn may_wait(&self) -> bool {
        let place = self.request.may_wait();
        let may_wait = place.is_some();
        self.places.lock().unwrap_or_else(PoisonError::into_inner).extend(place);
        may_wait
    }
}

fn answer(status: u16, body: &Value) -> Response {
    Response::new(status, "application/json", body.to_string())
}

fn failure(fault: &Fault) -> Response {
    let status = match fault.kind {
        Kind::Invalid => 400,
        Kind::NotFound => 404,
        Kind::Conflict | Kind::Ending => 409,
        Kind::Busy => 503,
        Kind::Failed => 500,
    };
    answer(status, &json!({"error": fault.text}))
}

fn body<T: for<'de> Deserialize<'de>>(request: &Request) -> Result<T, Fault> {
    serde_json::from_slice(&request.body).map_err(|error| Fault::invalid(format!("cannot read the request: {error}")))
}

fn mcp(routes: &Routes, request: &Request) -> Result<Response, Fault> {
    let client = Client::of(request);
    let headers = |name: &str| request.head.headers(name).map(String::from).collect();
    let context = Context::new(&routes.manager, &client);
    let reply = protocol::handle(&request.body, &headers, &context);
    // Of a batch the other calls were carried out.
    let is_alone = reply.body.as_ref().is_some_and(Value::is_object);
    if let Some(replaced) = routes.replaced().filter(|_| is_alone && context.is_ending.load(Ordering::Relaxed)) {
        return Err(replaced);
    }
    Ok(match reply.body {
        None => Response::empty(reply.status),
        Some(body) => answer(reply.status, &body),
    })
}

fn run(routes: &Routes, request: &Request) -> Result<Response, Fault> {
    let wanted: RunRequest = body(request)?;
    let if_running = match wanted.if_running.as_str() {
        "refuse" => IfRunning::Refuse,
        "attach" => IfRunning::Attach,
        "replace" => IfRunning::Replace,
        other => return Err(Fault::invalid(format!("'if_running' cannot be '{other}'"))),
    };
    let RunRequest { argv, working_directory, environment, label, idempotency_key, reader, attributes, .. } = wanted;
    let attributes = attributes.unwrap_or_else(attributes::for_agent_start);
    let working_directory = PathBuf::from(working_directory.0);
    let request = manager::Request { argv, working_directory, environment, label, idempotency_key, reader, attributes };
    let started = routes.manager.start(request, if_running)?;
    let mut value = json!(manager::overview(&started.run));
    value["number"] = json!(started.run.id);
    value["is_new"] = json!(started.is_new);
    value["cursor"] = json!(format!("{}.combined.0", started.run.name()));
    Ok(answer(200, &value))
}

/// Follows one run, or selects lines with the parameters of the tool.
fn output(routes: &Routes, request: &Request) -> Result<Response, Fault> {
    let client = Client::of(request);
    let query = request.head.query();
    if let Some(ask) = Ask::parse(&query) {
        let (following, bytes) = follow::follow(&routes.manager, &ask?, &client)?;
        let status = json!(following).to_string();
        return Ok(Response::new(200, "application/octet-stream", bytes).with(follow::HEADER, status));
    }
    let mut arguments: Map<String, Value> =
        query.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    let mut has = |name: &str| arguments.remove(name).is_some();
    let unfinished = match (has("is_held"), has("is_held_unless_matched")) {
        (true, _) => Unfinished::Held,
        (_, true) => Unfinished::HeldUnlessMatched,
        _ => Unfinished::Shown,
    };
    let (of_combined, is_forward) = (has("of_combined"), has("is_forward"));
    let mut text = |name: &str| arguments.remove(name).and_then(|value| value.as_str().map(String::from));
    let (near, context_from) = (text("near"), text("context_from"));
    let context_from = context_from.map(|cursor| cursor.parse()).transpose()?;
    let manner = Manner { of_combined, is_forward, context_from, unfinished };
    let context = Context::new(&routes.manager, &client).near(near);
    let output = tools::read(&arguments, &manner, &context)?;
    let mut response = Response::new(200, "application/octet-stream", stamped(&output.selection, &output.names()));
    for (name, value) in [
        ("Persistproc-Cursor", output.selection.cursor.as_ref().map(ToString::to_string)),
        ("Persistproc-Waited", output.waited.map(|outcome| text::outcome_name(outcome).to_string())),
        ("Persistproc-Open", output.selection.open_stream().map(|stream| stream.name().to_string())),
        ("Persistproc-Cut", output.selection.is_cut.then(|| "true".to_string())),
        ("Persistproc-Gone", (output.selection.gone > 0).then(|| output.selection.gone.to_string())),
        ("Persistproc-Unwritten", text::unwritten(&output).map(|text| encode(&text))),
        ("Persistproc-Note", text::note(&output).map(|note| encode(&note))),
    ] {
        if let Some(value) = value {
            response = response.with(name, value);
        }
    }
    Ok(response)
}

fn health(routes: &Routes, _: &Request) -> Result<Response, Fault> {
    let mut value = json!(*routes.holder);
    value["name"] = json!("persistproc");
    Ok(answer(200, &value))
}

fn shutdown(routes: &Routes, request: &Request) -> Result<Response, Fault> {
    #[derive(Deserialize)]
    struct Wish {
        keep: bool,
        /// The socket of the server that takes our place.
        successor: Option<String>,
    }
    let wish: Wish = body(request)?;
    let (report, reported) = sync_channel(1);
    let leave = Event::Leave(Leave { keep: wish.keep, successor: wish.successor, report: Some(report) });
    let closing = || Fault::conflict("the server is ending already");
    let _place = request.may_wait(); // it does, and is not one of those that the end waits for
    routes.events.try_send(leave).map_err(|_| closing())?;
    let problems = reported.recv_timeout(SHUTDOWN).map_err(|_| closing())?;
    Ok(answer(200, &json!({"pid": routes.holder.pid, "problems": problems})))
}
