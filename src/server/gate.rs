//! Which clients may come in. Asked for every path and method, before a body is read.
//!
//! Our own commands come by the Unix socket in the data directory: the file system lets only this user get there, and the
//! kernel tells the user of each connection.
//!
//! A TCP port on loopback is open to every web page that the user visits: a page may send what a form can send, and by
//! DNS rebinding anything at all. So the names in `Host` and `Origin` must be ours, a POST must say that it is JSON, which
//! no form can, and what a browser sends for a page is refused by `Sec-Fetch-Site` (Fetch Metadata Request Headers, W3C):
//! our own origin proves nothing, because another program can have had this port, or have `[::1]` at this port. No CORS
//! header is ever sent. (Should the server ever have a page of its own, [`TcpGate::check_page`] is the place that lets its
//! requests in, by a secret that only this page was given; not by its origin.)
//!
//! The port is also open to every user of the machine. So the other end of a connection must have been made by the user of
//! this server, where the system tells (Linux). Root of a container that shares the network is no exception; root is let
//! in only where the system relays connections as root (WSL). Where the system does not tell, a token is wanted, or the
//! word of the user that all users are trusted; without either the port is not opened.

use crate::config::Token;
use crate::http::head::Head;
use crate::http::service::Response;
use crate::http::socket::Socket;
use crate::procs::owner::{self, Way};
use crate::sys;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const ROOT: u32 = 0;
/// How often, and after which pause, to look for the owner of a connection that was not found, or could not be looked for.
const LOOKUPS: usize = 4;
const LOOKUP_PAUSE: Duration = Duration::from_millis(2);
/// The same for finding out how owners can be told at all.
const PROBES: usize = 20;
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// What is asked of the clients of one listener.
pub enum Gate {
    /// The Unix socket.
    Private,
    Tcp(TcpGate),
}

impl Gate {
    /// Whether the client at the other end is known at once to be of our user. If not, [`check_client`](Gate::check_client) tells.
    pub fn is_known(&self, socket: &Socket) -> bool {
        match (self, socket) {
            (Gate::Tcp(gate), Socket::Tcp { stream, peer }) => gate.is_known(stream, *peer),
            (Gate::Private, Socket::Unix(_)) => socket.peer_user().is_ok_and(|user| user == sys::own_user()),
            _ => false,
        }
    }

    /// Whether the client at the other end may talk to us at all.
    pub fn check_client(&self, socket: &Socket) -> Result<(), Response> {
        match (self, socket) {
            (Gate::Tcp(gate), Socket::Tcp { stream, peer }) => gate.check_owner(stream, *peer),
            (Gate::Private, Socket::Unix(_)) => match socket.peer_user() {
                Ok(user) if user == sys::own_user() => Ok(()),
                Ok(_) => Err(Response::text(403, "this server belongs to another user")),
                Err(_) => Err(Response::text(403, "cannot determine the user of this connection")),
            },
            _ => Err(Response::text(403, "this socket is not one that is served")), // never: each listener has its gate
        }
    }

    /// Whether a request may come in, as far as its head tells.
    pub fn check(&self, head: &Head) -> Result<(), Response> {
        match self {
            Gate::Private => Ok(()),
            Gate::Tcp(gate) => gate.check(head),
        }
    }
}

/// How the server knows that a TCP connection is its own user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// It looks the owner up.
    Checked(Way),
    /// It does not: a token is asked for, or all users are trusted.
    Unchecked,
}

/// What is asked of clients on TCP.
pub struct TcpGate {
    /// The names under which the server may be called.
    hosts: [String; 3],
    address: SocketAddr,
    owners: Owners,
    allows_root: bool,
    token: Option<Token>,
}

impl TcpGate {
    pub fn new(port: u16, owners: Owners, token: Option<Token>) -> TcpGate {
        let hosts = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpGate { hosts, address, owners, allows_root: owner::relays_as_root(), token }
    }

    fn is_ours(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    /// The user who made the other end of a connection, as far as one lookup shows; `None` if the client has closed it. An
    /// error means that the system had no resources for the lookup.
    fn owner(&self, way: Way, stream: &TcpStream, peer: SocketAddr) -> io::Result<Option<u32>> {
        let owner = way.owner(peer, self.address)?;
        // After the look, not before it: a client that closes its socket gives its port back, and the next one to get
        // that port may be of our user. As long as our end lives nothing else can have the port, so the owner that was
        // found is the client's.
        Ok(owner.filter(|_| sys::is_connected(stream)))
    }

    fn is_allowed(&self, user: u32) -> bool {
        user == sys::own_user() || user == ROOT && self.allows_root
    }

    /// What one look tells, where that takes microseconds.
    fn is_known(&self, stream: &TcpStream, peer: SocketAddr) -> bool {
        match self.owners {
            Owners::Unchecked => true,
            Owners::Checked(Way::Tables) => false,
            Owners::Checked(way) => {
                self.owner(way, stream, peer).is_ok_and(|owner| owner.is_some_and(|user| self.is_allowed(user)))
            }
        }
    }

    fn check_owner(&self, stream: &TcpStream, peer: SocketAddr) -> Result<(), Response> {
        let Owners::Checked(way) = self.owners else { return Ok(()) };
        // The connection was there before we accepted it. But the tables are no snapshot, and one of them may miss it.
        let is_final = |owner: &io::Result<Option<u32>>| match owner {
            Ok(Some(_)) => true,
            Ok(None) => way == Way::Diag || !sys::is_connected(stream),
            Err(_) => false,
        };
        let mut owner = self.owner(way, stream, peer);
        for _ in 1..LOOKUPS {
            if is_final(&owner) {
                break;
            }
            std::thread::sleep(LOOKUP_PAUSE);
            owner = self.owner(way, stream, peer);
        }
        match owner {
            Ok(Some(user)) if self.is_allowed(user) => Ok(()),
            Ok(Some(_)) => Err(Response::text(403, "this server belongs to another user")),
            _ => Err(Response::text(403, "cannot determine the user of this connection; try again")),
        }
    }

    /// `Host` exactly once and ours; `Origin` absent, or exactly once and ours; no page of a browser; the token, if there
    /// is one.
    fn check(&self, head: &Head) -> Result<(), Response> {
        let forbidden = |what: &str| Err(Response::text(403, what));
        let hosts: Vec<&str> = head.headers("host").collect();
        if !matches!(hosts.as_slice(), [host] if self.is_ours(host)) {
            return forbidden(&format!("Host must be one of {}", self.hosts.join(", ")));
        }
        let origins: Vec<&str> = head.headers("origin").collect();
        let is_ours = |origin: &str| origin.strip_prefix("http://").is_some_and(|host| self.is_ours(host));
        match origins.as_slice() {
            [] => {}
            [origin] if is_ours(origin) => {}
            _ => return forbidden("requests of web pages are refused (Origin)"),
        }
        TcpGate::check_page(head)?;
        self.check_token(head)
    }

    /// Browsers say with every request to this machine where it comes from. `none` is a person who typed the address;
    /// everything else is a page, and `same-origin` is one that was loaded from whatever had this port at that time.
    fn check_page(head: &Head) -> Result<(), Response> {
        if head.headers("sec-fetch-site").all(|site| site == "none") {
            return Ok(());
        }
        Err(Response::text(403, "requests of web pages are refused (Sec-Fetch-Site)"))
    }

    fn check_token(&self, head: &Head) -> Result<(), Response> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown: Vec<&str> = head.headers("authorization").collect();
        if matches!(shown.as_slice(), [shown] if token.is_shown_by(shown)) {
            return Ok(());
        }
        let what = "this server asks for its token, the PERSISTPROC_TOKEN that it was started with";
        Err(Response::text(401, what).with("WWW-Authenticate", "Bearer"))
    }
}

/// How this system tells whose a TCP connection is; `None` if it does not tell. An error: it could not be found out now,
/// also after some trials.
///
/// Tried with a connection to a listener of our own on a port that is known to no one else: at the one that is to be served another
/// user could fill the queue, and so make the trial fail.
pub fn find_way() -> io::Result<Option<Way>> {
    let mut trial = try_way();
    for _ in 1..PROBES {
        if trial.is_ok() {
            break;
        }
        std::thread::sleep(PROBE_PAUSE);
        trial = try_way();
    }
    trial
}

fn try_way() -> io::Result<Option<Way>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let own = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    Way::that_works(own.local_addr()?, address, sys::own_user())
}

/// Whether a body is announced as JSON, once.
pub fn check_is_json(head: &Head) -> Result<(), Response> {
    let types: Vec<&str> = head.headers("content-type").collect();
    let essence = |value: &str| value.split(';').next().unwrap_or("").trim_ascii().to_ascii_lowercase();
    match types.as_slice() {
        [one] if essence(one) == "application/json" => Ok(()),
        _ => Err(Response::text(415, "Content-Type must be application/json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::parse_request;

    fn status(headers: &str) -> u16 {
        let text = format!("POST /mcp HTTP/1.1\r\n{headers}\r\n");
        let (head, _) = parse_request(text.as_bytes()).unwrap().unwrap();
        let gate = TcpGate::new(8947, Owners::Unchecked, None);
        gate.check(&head).and_then(|()| check_is_json(&head)).map_or_else(|refused| refused.status, |()| 200)
    }

    #[test]
    fn only_our_own_names_come_in() {
        const JSON: &str = "Content-Type: application/json\r\n";
        for host in ["127.0.0.1:8947", "localhost:8947", "LOCALHOST:8947", "[::1]:8947"] {
            assert_eq!(status(&format!("Host: {host}\r\n{JSON}")), 200, "{host}");
            assert_eq!(status(&format!("Host: {host}\r\nOrigin: http://{host}\r\n{JSON}")), 200, "{host}");
        }
        for host in [
            "127.0.0.1",
            "localhost",
            "127.0.0.1:80",
            "127.0.0.1:8947.evil.com",
            "evil.com:8947",
            "",
            "127.0.0.1:8947 x",
            "127.0.0.1:8947\u{a0}",
            "0.0.0.0:8947",
            "localhost.:8947",
        ] {
            assert_eq!(status(&format!("Host: {host}\r\n{JSON}")), 403, "{host}");
        }
        assert_eq!(status(JSON), 403);
        assert_eq!(status(&format!("Host: 127.0.0.1:8947\r\nHost: 127.0.0.1:8947\r\n{JSON}")), 403);
        for origin in [
            "null",
            "http://evil.com",
            "http://127.0.0.1.evil.com",
            "http://127.0.0.1:3000",
            "https://127.0.0.1:8947",
            "http://127.0.0.1:8947/",
            "127.0.0.1:8947",
            "",
        ] {
            assert_eq!(status(&format!("Host: 127.0.0.1:8947\r\nOrigin: {origin}\r\n{JSON}")), 403, "{origin}");
        }
    }

    #[test]
    fn what_a_browser_sends_for_a_page_is_refused_whatever_its_origin() {
        let with = |headers: &str| {
            status(&format!(
                "Host: localhost:8947\r\nOrigin: http://localhost:8947\r\nContent-Type: application/json\r\n{headers}"
            ))
        };
        // Node's fetch sends a mode, and no site.
        for headers in ["", "Sec-Fetch-Site: none\r\n", "Sec-Fetch-Mode: cors\r\n"] {
            assert_eq!(with(headers), 200, "{headers}");
        }
        for headers in [
            "Sec-Fetch-Site: same-origin\r\n",
            "Sec-Fetch-Site: same-site\r\n",
            "Sec-Fetch-Site: cross-site\r\n",
            "sec-fetch-site: None\r\n",
            "Sec-Fetch-Site:\r\n",
            "Sec-Fetch-Site: none\r\nSec-Fetch-Site: same-origin\r\n",
        ] {
            assert_eq!(with(headers), 403, "{headers}");
        }
    }

    #[test]
    fn a_body_must_be_announced_as_json() {
        for (kind, expected) in [
            ("application/json", 200),
            ("Application/JSON; charset=utf-8", 200),
            ("text/plain", 415),
            ("application/jsonx", 415),
            ("text/plain; application/json", 415),
            ("application/x-www-form-urlencoded", 415),
            ("", 415),
            ("application/json\r\nContent-Type: application/json", 415),
        ] {
            assert_eq!(status(&format!("Host: localhost:8947\r\nContent-Type: {kind}\r\n")), expected, "{kind}");
        }
        assert_eq!(status("Host: localhost:8947\r\n"), 415);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_system_tells_owners() {
        assert!(find_way().unwrap().is_some());
    }
}
