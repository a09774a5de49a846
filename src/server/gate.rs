//! Who may come in. Asked for every path and method, before a body is read.
//!
//! A TCP port on loopback is open to every web page that the user visits: a page may send what a form can send, and by
//! DNS rebinding anything at all. So the names in `Host` and `Origin` must be ours, and a POST must say that it is JSON,
//! which no form can. No CORS header is ever sent.
//!
//! It is also open to every user of the machine. So the other end of a connection must have been made by the user of this
//! server, where the system tells (Linux); or by root, who can do everything anyway, and as whom relays of the system
//! connect (WSL's, for one). And whoever has given the server a token is asked for it.

use crate::config::Token;
use crate::http::head::Head;
use crate::http::server::Response;
use crate::procs::owner::Way;
use crate::sys;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const ROOT: u32 = 0;
/// How often, and after which pause, to look for a connection. It is there before its first byte can be sent, but the
/// tables are no snapshot.
const LOOKS: usize = 4;
const PAUSE: Duration = Duration::from_millis(2);

/// What is asked of a client.
pub struct Gate {
    /// The names under which the server may be called.
    hosts: [String; 3],
    address: SocketAddr,
    /// How to tell whose a connection is; `None` if the system does not tell.
    way: Option<Way>,
    token: Option<Token>,
}

impl Gate {
    pub fn new(address: SocketAddr, way: Option<Way>, token: Option<Token>) -> Gate {
        let hosts = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{}", address.port()));
        Gate { hosts, address, way, token }
    }

    fn is_ours(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    /// The user at the other end is ours, or root.
    pub fn check_owner(&self, peer: SocketAddr) -> Result<(), Response> {
        let Some(way) = self.way else { return Ok(()) };
        let look = |again: usize| {
            if again > 0 {
                std::thread::sleep(PAUSE);
            }
            way.owner(peer, self.address)
        };
        match (0..LOOKS).find_map(look) {
            Some(user) if user == sys::own_user() || user == ROOT => Ok(()),
            Some(_) => Err(Response::text(403, "this server belongs to another user")),
            None => Err(Response::text(403, "whose this connection is cannot be told")),
        }
    }

    /// `Host` exactly once and ours; `Origin` absent, or exactly once and ours; the token, if there is one.
    pub fn check(&self, head: &Head) -> Result<(), Response> {
        let forbidden = |what: &str| Err(Response::text(403, what));
        let hosts: Vec<&str> = head.headers("host").collect();
        if !matches!(hosts.as_slice(), [host] if self.is_ours(host)) {
            return forbidden(&format!("Host must be one of {}", self.hosts.join(", ")));
        }
        let origins: Vec<&str> = head.headers("origin").collect();
        let is_ours = |origin: &str| origin.strip_prefix("http://").is_some_and(|host| self.is_ours(host));
        match origins.as_slice() {
            [] => self.check_token(head),
            [origin] if is_ours(origin) => self.check_token(head),
            _ => forbidden("requests of web pages are refused (Origin)"),
        }
    }

    fn check_token(&self, head: &Head) -> Result<(), Response> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown: Vec<&str> = head.headers("authorization").collect();
        if matches!(shown.as_slice(), [shown] if token.is_shown_by(shown)) {
            return Ok(());
        }
        let what = "this server asks for its token: set PERSISTPROC_TOKEN to the one that it was started with";
        Err(Response::text(401, what).with("WWW-Authenticate", "Bearer"))
    }
}

/// How this system tells whose a connection to `listener` is, as tried with one of ours.
pub fn way_that_works(listener: &TcpListener) -> Option<Way> {
    let address = listener.local_addr().ok()?;
    let own = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    Way::that_works(own.local_addr().ok()?, address, sys::own_user())
}

/// Whether a body is announced as JSON, once.
pub fn check_is_json(head: &Head) -> Result<(), Response> {
    let types: Vec<&str> = head.headers("content-type").collect();
    let essence = |value: &str| value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
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
        let gate = Gate::new(SocketAddr::from(([127, 0, 0, 1], 8947)), None, None);
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
}
