//! Clients that are broken, careless or malicious. Whatever they send, leave out or hold back: the next good request is
//! answered within 100 ms, and the threads, descriptors and memory of the server are what they were before.

mod framing;
mod many_clients;
mod nonsense;
mod slow_clients;

use crate::support::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};
/// Limit for a good request, whatever other clients do.
const PROMPT: Duration = Duration::from_millis(100);

/// What the server's memory may have grown by when it is quiet again: glibc keeps the stacks of ended threads for the next
/// ones, of which those of 128 connections have touched some 24 KB each in a debug build.
const MEMORY: u64 = 6 << 20;

/// A server, and its size before it was attacked.
struct Victim {
    sandbox: Sandbox,
    server: Guard,
    before: ProcessSize,
}

impl Victim {
    fn new() -> Victim {
        let sandbox = Sandbox::new();
        let server = sandbox.serve();
        Victim::watch(sandbox, server)
    }

    fn watch(sandbox: Sandbox, server: Guard) -> Victim {
        for _ in 0..20 {
            sandbox.http(&post("/mcp", sandbox.port, "Connection: close\r\n", PING));
        }
        // Threads that only start-up needs end first.
        let mut before = size_of_process(server.pid());
        wait_until("the server to be at rest", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = size_of_process(server.pid());
            let rests = (now.threads, now.descriptors) == (before.threads, before.descriptors);
            before = now;
            rests
        });
        Victim { sandbox, server, before }
    }

    fn port(&self) -> u16 {
        self.sandbox.port
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// A well-behaved client is served promptly. The best of several tries counts: a loaded machine may delay any of them,
    /// but the server must not delay all.
    #[track_caller]
    fn serves_others_promptly(&self, after: &str) {
        let mut best = DEADLINE;
        for _ in 0..50 {
            let begun = Instant::now();
            let answer = self.sandbox.try_http(&post("/mcp", self.port(), "Connection: close\r\n", PING));
            if answer.is_some_and(|answer| answer.status == 200) {
                best = best.min(begun.elapsed());
            }
            if best < PROMPT {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("after {after}: the next good request took {best:?}");
    }

    /// The same, and nothing is left of the other clients.
    #[track_caller]
    fn is_as_before(&self, after: &str) {
        self.serves_others_promptly(after);
        let (pid, before) = (self.server.pid(), self.before);
        let begun = Instant::now();
        loop {
            let now = size_of_process(pid);
            let is_fine = now.threads <= before.threads
                && now.descriptors <= before.descriptors
                && now.memory <= before.memory + MEMORY;
            if is_fine {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "after {after}: {before:?} has become {now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Reads one response, which must look like ours: no headers for web pages, no redirect.
#[track_caller]
fn read_answer(stream: &mut impl Read, after: &str) -> Option<Http> {
    let answer = Http::read(stream)?;
    let has = |name: &str| answer.headers.keys().any(|header| header.starts_with(name));
    assert!(!has("access-control") && !has("location") && !has("set-cookie"), "{after}: {answer:?}");
    let said = |name: &str| answer.headers.get(name).map(String::as_str);
    assert_eq!(
        (said("x-content-type-options"), said("cross-origin-resource-policy")),
        (Some("nosniff"), Some("same-origin")),
        "{after}: {answer:?}"
    );
    assert!(answer.headers["server"].starts_with("persistproc/"), "{after}: {answer:?}");
    Some(answer)
}
