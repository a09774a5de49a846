//! Paths → handlers: what may be called how, and how each answer looks in HTTP.

use super::LAST_REQUESTS;
use super::events::{Event, Leave};
use super::follow;
use super::gate::{Gate, check_is_json};
use crate::api::params::{self, Parameter};
use crate::api::{
    self, Call, FOLLOWING, Follow, LEAVING, ListAnswer, Members, ReadOptions, Refusal, RunAnswer, RunRequest,
    ShutdownAnswer, ShutdownRequest, to_json,
};
use crate::attributes;
use crate::discovery::ServerInfo;
use crate::error::{Error, ErrorKind};
use crate::http::head::{Head, decode};
use crate::http::service::{Request, Response, Service, WaitSlot};
use crate::http::socket::Socket;
use crate::manager::{self, Manager};
use crate::mcp::protocol;
use crate::mcp::tools::{self, Context};
use crate::output::caller::Caller;
use crate::output::query::stamped;
use crossbeam_channel::{Sender, bounded};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The header by which commands up to version 0.3, which know a server by its port, insist on a data directory.
pub const DATA_DIR: &str = "Persistproc-Data-Dir";
/// How long a shutdown may take before its caller is told that it still goes on.
const SHUTDOWN: Duration = manager::LEAVE_MAX.saturating_add(LAST_REQUESTS).saturating_add(Duration::from_secs(2));
/// Clients give up after 60 s (`PATIENCE` in `client::link`, `answer` in `http::server`): both must follow if this grows.
const _: () = assert!(SHUTDOWN.as_secs() < 60);

/// Starts a command with all arguments and variables that the system takes (6 MiB, see execve(2)), of which JSON may make
/// six times as much.
const COMMAND_MAX: usize = 40 << 20;

type Handler = fn(&Routes, &Request) -> Result<Response, Error>;

struct Route {
    path: &'static str,
    method: &'static str,
    /// Also on TCP, and not for our own commands alone.
    is_public: bool,
    handler: Handler,
}

/// Everything else is 404, or 405 with the method that there is.
const ROUTES: [Route; 9] = [
    Route { path: "/mcp", method: "POST", is_public: true, handler: mcp },
    Route { path: "/mcp/", method: "POST", is_public: true, handler: mcp },
    Route { path: api::RUN, method: "POST", is_public: false, handler: run },
    Route { path: api::LIST, method: "POST", is_public: false, handler: list },
    Route { path: api::CTRL, method: "POST", is_public: false, handler: ctrl },
    Route { path: api::LINES, method: "POST", is_public: false, handler: output },
    Route { path: api::FOLLOW, method: "GET", is_public: false, handler: follow },
    Route { path: api::HEALTH, method: "GET", is_public: false, handler: health },
    Route { path: api::SHUTDOWN, method: "POST", is_public: false, handler: shutdown },
];

/// What the handlers of one listener need.
#[derive(Clone)]
pub struct Routes {
    pub manager: Arc<Manager>,
    pub gate: Arc<Gate>,
    pub server_info: Arc<ServerInfo>,
    /// Where the wish to end this server goes.
    pub events: Sender<Event>,
    /// A newer server's socket is in the place of ours.
    pub is_replaced: Arc<AtomicBool>,
}

impl Routes {
    fn is_private(&self) -> bool {
        matches!(*self.gate, Gate::Private)
    }

    /// A refusal for our own clients, which then ask the newer server by the same name, if one has taken over.
    fn replaced(&self) -> Option<Error> {
        let is_replaced = self.is_private() && self.is_replaced.load(Ordering::SeqCst);
        is_replaced.then(|| Error::ending("a newer server takes the place of this one"))
    }

    /// The route of a path, as far as this listener has it.
    fn find(&self, path: &str) -> Result<&'static Route, Response> {
        let not_found = |text: &str| Err(Response::text(404, text));
        match ROUTES.iter().find(|route| route.path == path) {
            Some(route) if route.is_public || self.is_private() => Ok(route),
            // Commands up to version 0.3 call these, and show the first line of the answer.
            Some(_) => not_found(&format!(
                "the server is of version {}, which this command is too old for; its processes keep running: update it and run it again",
                self.server_info.version
            )),
            None => not_found("there is nothing here; the endpoint of MCP is /mcp"),
        }
    }

    /// A command that insists on a data directory is not served from another one.
    fn check_data_dir(&self, head: &Head) -> Result<(), Response> {
        let own_dir = &self.server_info.data_dir;
        let own = own_dir.to_string_lossy();
        let is_own = |wanted: &str| wanted == own || Path::new(wanted).canonicalize().is_ok_and(|dir| dir == *own_dir);
        match head.header(DATA_DIR).map(decode).filter(|wanted| !is_own(wanted)) {
            None => Ok(()),
            Some(wanted) => Err(failure(&Error::conflict(format!(
                "the server on port {} (PID {}) has the data directory {own}, not {wanted}; choose another --port",
                self.server_info.port, self.server_info.pid
            )))),
        }
    }
}

impl Service for Routes {
    fn is_known(&self, socket: &Socket) -> bool {
        self.gate.is_known(socket)
    }

    fn check_client(&self, socket: &Socket) -> Result<(), Response> {
        self.gate.check_client(socket)
    }

    fn check_request(&self, head: &Head) -> Result<(), Response> {
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
        if self.is_private() && head.path() == api::RUN { COMMAND_MAX } else { usual }
    }

    fn answer(&self, request: &Request) -> Response {
        let route = match self.find(request.head.path()) {
            Ok(route) => route,
            Err(refused) => return refused,
        };
        let answer = self.replaced().map_or_else(|| (route.handler)(self, request), Err);
        answer.unwrap_or_else(|error| match error.kind {
            // Our own commands ask the next server, which they find by the same name; also if it took our place while
            // they waited for their turn.
            ErrorKind::Ending if self.replaced().is_some() => failure(&error).with(LEAVING, "true"),
            _ => failure(&error),
        })
    }
}

/// The client of a request, and the places that its calls have taken to wait.
struct Client<'a> {
    request: &'a Request<'a>,
    places: Mutex<Vec<WaitSlot<'a>>>,
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

fn json_response(status: u16, body: &impl Serialize) -> Response {
    Response::new(status, "application/json", to_json(body))
}

fn answer(body: &impl Serialize) -> Response {
    json_response(200, body)
}

fn answer_members(answer: &impl Members) -> Response {
    json_response(200, &answer.members())
}

fn failure(error: &Error) -> Response {
    let status = match error.kind {
        ErrorKind::Invalid | ErrorKind::Usage => 400,
        ErrorKind::NotFound => 404,
        ErrorKind::Conflict | ErrorKind::AlreadyRunning(_) | ErrorKind::Ending => 409,
        ErrorKind::Busy => 503,
        ErrorKind::Failed | ErrorKind::Unreachable => 500,
    };
    json_response(status, &Refusal { error: error.to_string() })
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Error> {
    serde_json::from_slice(&request.body).map_err(|error| Error::invalid("cannot read the request").because(error))
}

fn mcp(routes: &Routes, request: &Request) -> Result<Response, Error> {
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
        Some(body) => json_response(reply.status, &body),
    })
}

fn run(routes: &Routes, request: &Request) -> Result<Response, Error> {
    let RunRequest { argv, working_directory, environment, label, if_running, idempotency_key, reader, attributes } =
        body(request)?;
    let attributes = attributes.unwrap_or_else(attributes::for_agent_start);
    let working_directory = PathBuf::from(working_directory.0);
    let start = manager::Request { argv, working_directory, environment, label, idempotency_key, reader, attributes };
    let started = routes.manager.start(start, if_running)?;
    let process = manager::describe(&started.run);
    let cursor = api::start_cursor(&process.run);
    let started = RunAnswer { process, number: started.run.id, is_new: started.is_new, cursor };
    Ok(Response::new(200, "application/json", started.to_json()))
}

/// One call of a tool by our own commands: `tool` gets its parameters, checked, and what goes with them.
fn call<T: Members, A>(
    routes: &Routes,
    request: &Request,
    parameters: &[Parameter],
    tool: fn(T, &ReadOptions, &Context) -> Result<A, Error>,
) -> Result<A, Error> {
    let Call { arguments, near, idempotency_key, options } = Call::from_members(&body(request)?);
    let client = Client::of(request);
    let context = Context { near, idempotency_key, ..Context::new(&routes.manager, &client) };
    tool(params::parse(parameters, &arguments)?, &options, &context)
}

fn list(routes: &Routes, request: &Request) -> Result<Response, Error> {
    let listing = call(routes, request, &params::LIST, |request, _, context| tools::list::call(&request, context))?;
    Ok(answer_members(&ListAnswer { processes: listing.rows.into_iter().map(|row| row.process).collect() }))
}

fn ctrl(routes: &Routes, request: &Request) -> Result<Response, Error> {
    let control = call(routes, request, &params::CTRL, |request, _, context| tools::ctrl::call(&request, context))?;
    Ok(answer_members(&control.answer()))
}

fn output(routes: &Routes, request: &Request) -> Result<Response, Error> {
    let output = call(routes, request, &params::OUTPUT, tools::output::call)?;
    let mut body = output.status().to_json().into_bytes();
    body.push(b'\n');
    body.extend(stamped(&output.selection, &output.names()));
    Ok(Response::new(200, "application/octet-stream", body))
}

fn follow(routes: &Routes, request: &Request) -> Result<Response, Error> {
    let missing = || Error::invalid("'run' and 'from' are missing");
    let follow = Follow::parse(&request.head.query()).ok_or_else(missing)?;
    let follow =
        follow.map_err(|(name, text)| Error::invalid(format!("'{name}' must be a whole number, not '{text}'")))?;
    let (following, bytes) = follow::follow(&routes.manager, &follow, &Client::of(request))?;
    let status = following.to_json();
    Ok(Response::new(200, "application/octet-stream", bytes).with(FOLLOWING, status))
}

/// The answer to `GET /health`.
#[derive(Serialize)]
struct Health<'a> {
    name: &'static str,
    #[serde(flatten)]
    server: &'a ServerInfo,
}

fn health(routes: &Routes, _: &Request) -> Result<Response, Error> {
    Ok(answer(&Health { name: "persistproc", server: &routes.server_info }))
}

fn shutdown(routes: &Routes, request: &Request) -> Result<Response, Error> {
    let ShutdownRequest { keep, successor } = body(request)?;
    let (report, reported) = bounded(1);
    let leave = Event::Leave(Leave { keep, successor, report: Some(report) });
    let closing = || Error::conflict("the server is shutting down already");
    let _place = request.may_wait(); // it does, and is not one of those that the end waits for
    routes.events.try_send(leave).map_err(|_| closing())?;
    let problems = reported.recv_timeout(SHUTDOWN).map_err(|_| closing())?;
    Ok(answer_members(&ShutdownAnswer { pid: routes.server_info.pid as i32, problems }))
}
