//! Paths → handlers: what may be called how, and how each answer looks in HTTP.

use super::follow::{self, Ask};
use super::gate::{Gate, check_is_json};
use super::{Event, Holder, Leave};
use crate::fault::{Fault, Kind};
use crate::http::head::{Head, decode, encode};
use crate::http::server::{Request, Response, Service, Waiting};
use crate::manager::{self, IfRunning, Manager};
use crate::mcp::protocol;
use crate::mcp::text;
use crate::mcp::tools::{self, Context, Manner};
use crate::output::query::{Unfinished, stamped};
use crate::output::wait::Caller;
use crate::words::Word;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The header by which a client insists on a data directory.
pub const DATA_DIR: &str = "Persistproc-Data-Dir";
/// How long a shutdown may take before its caller is told that it still goes on.
const SHUTDOWN: Duration = Duration::from_secs(40);

type Handler = fn(&Routes, &Request) -> Result<Response, Fault>;

/// Path, method, handler. Everything else is 404, or 405 with the method that there is.
const ROUTES: [(&str, &str, Handler); 6] = [
    ("/mcp", "POST", mcp),
    ("/mcp/", "POST", mcp),
    ("/run", "POST", run),
    ("/output", "GET", output),
    ("/health", "GET", health),
    ("/shutdown", "POST", shutdown),
];

pub struct Routes {
    pub manager: Arc<Manager>,
    pub gate: Gate,
    pub holder: Holder,
    /// Where the wish to end this server goes.
    pub events: SyncSender<Event>,
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
}

impl Service for Routes {
    fn receive(&self, peer: SocketAddr) -> Result<(), Response> {
        self.gate.check_owner(peer)
    }

    fn admit(&self, head: &Head) -> Result<(), Response> {
        self.gate.check(head)?;
        let allowed = ROUTES.iter().find(|(path, ..)| *path == head.path()).map(|(_, method, _)| *method);
        match (allowed, head.method.as_str()) {
            (None, _) => return Err(Response::text(404, "there is nothing here; the endpoint of MCP is /mcp")),
            (Some("GET"), "GET" | "HEAD") | (Some("POST"), "POST") => {}
            (Some("GET"), _) => return Err(Response::text(405, "use GET").with("Allow", "GET, HEAD")),
            (Some(method), _) => return Err(Response::text(405, &format!("use {method}")).with("Allow", method)),
        }
        if head.method == "POST" {
            check_is_json(head)?;
        }
        let wanted = head.header(DATA_DIR).map(decode);
        let own_dir = &self.holder.data_dir;
        let own = own_dir.to_string_lossy();
        let is_own = |wanted: &str| wanted == own || Path::new(wanted).canonicalize().is_ok_and(|dir| dir == *own_dir);
        match wanted.filter(|wanted| !is_own(wanted)) {
            None => Ok(()),
            Some(wanted) => Err(failure(&Fault::conflict(format!(
                "the server on port {} (PID {}) has the data directory {own}, not {wanted}; choose another --port",
                self.holder.port, self.holder.pid
            )))),
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let handler = ROUTES.iter().find(|(path, ..)| *path == request.head.path()).map(|(_, _, handler)| handler);
        let handler = handler.ok_or_else(|| Fault::not_found("there is nothing here"));
        handler.and_then(|handler| handler(self, request)).unwrap_or_else(|fault| failure(&fault))
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
        Kind::Conflict => 409,
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
    let reply = protocol::handle(&request.body, &headers, &Context::new(&routes.manager, &client));
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
    let RunRequest { argv, working_directory, environment, label, idempotency_key, .. } = wanted;
    let working_directory = PathBuf::from(working_directory.0);
    let request = manager::Request { argv, working_directory, environment, label, idempotency_key };
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
    let manner = Manner { of_combined: has("of_combined"), is_forward: has("is_forward"), unfinished };
    let near = arguments.remove("near").and_then(|near| near.as_str().map(String::from));
    let context = Context::new(&routes.manager, &client).near(near);
    let output = tools::read(&arguments, &manner, &context)?;
    let mut response = Response::new(200, "application/octet-stream", stamped(&output.selection, &output.names()));
    for (name, value) in [
        ("Persistproc-Cursor", output.selection.cursor.as_ref().map(ToString::to_string)),
        ("Persistproc-Waited", output.waited.map(|outcome| text::outcome_name(outcome).to_string())),
        ("Persistproc-Open", output.selection.open_stream().map(|stream| stream.name().to_string())),
        ("Persistproc-Cut", output.selection.is_cut.then(|| "true".to_string())),
        ("Persistproc-Note", text::note(&output).map(|note| encode(&note))),
    ] {
        if let Some(value) = value {
            response = response.with(name, value);
        }
    }
    Ok(response)
}

fn health(routes: &Routes, _: &Request) -> Result<Response, Fault> {
    let mut value = json!(routes.holder);
    value["name"] = json!("persistproc");
    Ok(answer(200, &value))
}

fn shutdown(routes: &Routes, request: &Request) -> Result<Response, Fault> {
    #[derive(Deserialize)]
    struct Wish {
        keep: bool,
    }
    let wish: Wish = body(request)?;
    let (report, reported) = sync_channel(1);
    let leave = Event::Leave(Leave { keep: wish.keep, report: Some(report) });
    let closing = || Fault::conflict("the server is ending already");
    routes.events.try_send(leave).map_err(|_| closing())?;
    let problems = reported.recv_timeout(SHUTDOWN).map_err(|_| closing())?;
    Ok(answer(200, &json!({"pid": routes.holder.pid, "problems": problems})))
}
