//! From an older server to this one: `serve` of a newer version takes the place of an older server, whose processes do
//! not notice. Never the other way round, and never among equals.
//!
//! The older server is asked by its socket, and puts ours in its place before it accepts no more connections. Servers up
//! to 0.3 have no socket; they are asked by their port, whose owner is looked up first if a token is to be shown there.

use super::routes;
use crate::config::Token;
use crate::discovery::{SOCKET, ServerInfo, VERSION, not_ours, verify_user};
use crate::error::Error;
use crate::http::client::{Answer, Call, Client, Endpoint, Verify};
use crate::http::head::encode;
use crate::http::socket::Socket;
use crate::manager::LEAVE_MAX;
use crate::procs::owner::Way;
use crate::sys;
use serde_json::{Value, json};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How long the older server may take to answer that it leaves: it waits for restarts that have begun.
pub const LEAVE_TIMEOUT: Duration = LEAVE_MAX.saturating_add(Duration::from_secs(8));

/// How long it may take to accept a connection.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks an older server to leave its processes to us, and to put our socket, of the name `successor`, in the place of its
/// own. `token` is ours, and so most likely its. It is gone when its lock is free. False if it does not listen: it leaves
/// already, or is about to notice that its socket was removed.
pub fn ask_to_leave(server_info: &ServerInfo, successor: &str, token: Option<&Token>) -> Result<bool, Error> {
    let answer = match ask_by_socket(server_info, successor) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            ask_by_port(server_info, token)
        }
        answer => answer,
    };
    let refused = |why: String| {
        Err(Error::conflict(format!(
            "the server of version {} (PID {}) does not leave its place to version {VERSION}: {why}; end it with SIGHUP, its processes keep running",
            server_info.version, server_info.pid
        )))
    };
    match answer {
        Ok(answer) if answer.head.status == 200 => Ok(true),
        Ok(answer) if answer.head.status == 404 => Ok(false), // a port on which nobody is asked to leave
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Ok(answer) => refused(format!("it answers with status {}", answer.head.status)),
        Err(error) => refused(error.to_string()),
    }
}

fn ask_by_socket(server_info: &ServerInfo, successor: &str) -> io::Result<Answer> {
    let client = Client::new(Endpoint::Unix(server_info.data_dir.join(SOCKET)), verify_user);
    ask(client, Vec::new(), &json!({"keep": true, "successor": successor}))
}

fn ask_by_port(server_info: &ServerInfo, token: Option<&Token>) -> io::Result<Answer> {
    let mut headers = vec![(routes::DATA_DIR, encode(&server_info.data_dir.to_string_lossy()))];
    headers.extend(token.map(|token| ("Authorization", token.authorization())));
    let verify: Verify = if token.is_some() { verify_owner } else { |_| Ok(()) };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server_info.port));
    ask(Client::new(Endpoint::Tcp(address), verify), headers, &json!({"keep": true}))
}

fn ask(mut client: Client, mut headers: Vec<(&str, String)>, body: &Value) -> io::Result<Answer> {
    headers.push(("Content-Type", "application/json".to_string()));
    let body = body.to_string();
    client.send(&Call { method: "POST", target: "/shutdown", headers, body: body.as_bytes() }, LEAVE_TIMEOUT)
}

/// That a TCP connection is served by this user. Asked when the connection is made, because another program may have
/// taken the port a moment ago.
fn verify_owner(socket: &Socket) -> io::Result<()> {
    let Socket::Tcp { stream, peer } = socket else { return Err(io::ErrorKind::Unsupported.into()) };
    let (ours, theirs) = (stream.local_addr()?, *peer);
    let look = || [Way::Diag, Way::Tables].into_iter().find_map(|way| way.owner(theirs, ours).ok().flatten());
    // Until the server has accepted the connection, its end has no owner.
    let begun = Instant::now();
    let mut owner = look();
    while owner.is_none() && begun.elapsed() < ACCEPT_TIMEOUT {
        std::thread::sleep(Duration::from_millis(2));
        owner = look();
    }
    match owner {
        Some(user) if user == sys::own_user() => Ok(()),
        Some(user) => Err(not_ours(user)),
        None => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "this system does not tell which user has its port, so no token is shown there",
        )),
    }
}
