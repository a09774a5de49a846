//! A blocking HTTP/1.1 server: a thread per connection, every wait has an end, every buffer a bound.
//!
//! What one client can cost is in [`Limits`]. At the cap the connection that has been silent the longest makes room for a
//! newcomer: idle, in the middle of a request, or not reading its answer, so that slow clients hold up only each other.
//! A request that waits for something (a long-poll) takes one of fewer places and can see whether its client is still
//! there. Nothing a client sends or leaves out ends the accept loop: when the system has no descriptors or threads left,
//! it lets somebody go, waits a moment and goes on.

use super::conversation::Conversation;
use super::head::Head;
use super::shared::{Connection, Entry, Phase, Shared};
use crate::sys;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What one client, and all of them, may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Requests that wait for something at the same time.
    pub waiting: usize,
    pub body_bytes: usize,
    /// Large bodies that are read and answered at the same time: what is made of one can be twenty times its size.
    pub large: usize,
    /// From the first byte of a request to the last one of its body.
    pub request: Duration,
    /// How long a connection may sit idle.
    pub idle: Duration,
    /// How long one write may make no progress, and how long a whole answer may take.
    pub write: Duration,
    pub answer: Duration,
}

impl Limits {
    /// The usual ones, as far as `descriptors`, the number that this process may still open, allows: half of them are for
    /// what else an answer needs, such as files.
    pub fn within(descriptors: u64) -> Limits {
        let connections = usize::try_from(descriptors / 2).unwrap_or(usize::MAX).clamp(4, 128);
        Limits {
            connections,
            waiting: connections / 4 * 3,
            body_bytes: 4 << 20,
            large: 4,
            request: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(10),
            answer: Duration::from_secs(60),
        }
    }
}

const STACK: usize = 256 << 10;
/// Pause of the accept loop when the system has nothing left to give.
const EXHAUSTED: Duration = Duration::from_millis(20);

/// Between two attempts to wake it.
const AGAIN: Duration = Duration::from_millis(1);

/// What the server is for.
pub trait Service: Send + Sync {
    /// Whether this client may talk to us at all. Asked once for each connection, when its first head is there.
    fn receive(&self, peer: SocketAddr) -> Result<(), Response>;
    /// Whether a request may come in. Asked when its head is there and before its body is read. Here as there, a refusal
    /// is sent and the connection closed.
    fn admit(&self, head: &Head) -> Result<(), Response>;
    /// The answer. A panic becomes a 500 and ends only this request.
    fn answer(&self, request: &Request) -> Response;
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        Response { status, headers: vec![("Content-Type", content_type.into())], body: body.into() }
    }
    /// A status with one line of text.
    pub fn text(status: u16, text: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", format!("{text}\n"))
    }
    pub fn empty(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new() }
    }
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }
}

/// A request whose body has been read.
pub struct Request<'a> {
    pub head: Head,
    pub body: Vec<u8>,
    pub(super) stream: &'a TcpStream,
    pub(super) shared: &'a Shared,
}

/// One of the places for requests that wait.
pub struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Request<'_> {
    /// Whether the client has closed the connection, or at least its sending side. To be asked now and then while
    /// waiting, so that those who left free their place.
    pub fn client_is_gone(&self) -> bool {
        sys::is_hung_up(self.stream)
    }

    /// A place to wait; `None` if there are too many who do.
    pub fn may_wait(&self) -> Option<Waiting<'_>> {
        let places = &self.shared.waiting;
        let place = Waiting(places);
        (places.fetch_add(1, Ordering::SeqCst) < self.shared.limits.waiting).then_some(place)
    }
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves what arrives at `listener`. `name` goes into the `Server` header.
    pub fn start(listener: TcpListener, limits: Limits, name: String, service: Box<dyn Service>) -> io::Result<Server> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(limits, name, service));
        let accepting = shared.clone();
        let acceptor = thread::Builder::new().name("accept".into()).spawn(move || accept(&listener, &accepting))?;
        Ok(Server { shared, address, acceptor: Some(acceptor) })
    }

    /// Accepts nobody any more, lets idle connections go, and waits up to `grace` for the busy ones.
    pub fn stop(mut self, grace: Duration) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        self.end_accepting(Instant::now() + grace);
        let connections = self.shared.connections();
        for connection in connections.values().filter(|connection| connection.phase == Phase::Idle) {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        let waited = self.shared.one_ended.wait_timeout_while(connections, grace, |all| !all.is_empty());
        drop(waited);
    }

    /// Wakes accept() by a connection until it has seen that this is the end. Where there is no descriptor for one, somebody
    /// else has to let go of his.
    fn end_accepting(&mut self, end: Instant) {
        let Some(acceptor) = self.acceptor.take() else { return };
        while !acceptor.is_finished() && Instant::now() < end {
            if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_err() {
                self.shared.let_one_go();
            }
            thread::sleep(AGAIN);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut next = 0;
    while !shared.is_stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, peer)) => {
                next += 1;
                take_in(stream, peer, next, shared);
            }
            // ECONNABORTED passes at once; EMFILE, ENFILE and ENOBUFS need somebody to let go.
            Err(error) => {
                if matches!(error.raw_os_error(), Some(sys::EMFILE | sys::ENFILE)) {
                    shared.let_one_go();
                }
                thread::sleep(EXHAUSTED);
            }
        }
    }
}

fn take_in(stream: TcpStream, peer: SocketAddr, id: u64, shared: &Arc<Shared>) {
    let turn_away = |stream: &TcpStream| {
        let name = &shared.name;
        let text = format!(
            "HTTP/1.1 503 Service Unavailable\r\nServer: {name}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let _ = stream.set_nonblocking(true);
        let _ = (&*stream).write_all(text.as_bytes());
    };
    if !shared.make_room() {
        return turn_away(&stream);
    }
    let stream = Arc::new(stream);
    let connection = Connection { stream: stream.clone(), phase: Phase::Idle, moved: Instant::now() };
    shared.connections().insert(id, connection);
    let entry = Entry { shared: shared.clone(), id };
    let for_thread = stream.clone();
    let serve = move || {
        let _ = Conversation::new(&for_thread, peer, &entry).run(); // an error means that the client has gone
    };
    if thread::Builder::new().name("http".into()).stack_size(STACK).spawn(serve).is_err() {
        turn_away(&stream); // the closure is gone, and with it the entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::Mutex;

    const LONG: Duration = Duration::from_secs(30);

    /// `/panic`, `/large`, `/slow`, `/together` and everything else.
    #[derive(Default)]
    struct Odd {
        /// Requests for `/together` at present, and the most there ever were.
        together: Mutex<(usize, usize)>,
    }

    impl Service for Odd {
        fn receive(&self, _: SocketAddr) -> Result<(), Response> {
            Ok(())
        }
        fn admit(&self, _: &Head) -> Result<(), Response> {
            Ok(())
        }
        fn answer(&self, request: &Request) -> Response {
            match request.head.path() {
                "/panic" => panic!("on purpose"),
                "/large" => Response::new(200, "text/plain", vec![b'x'; 64 << 20]),
                "/slow" => {
                    thread::sleep(Duration::from_secs(2));
                    Response::empty(200)
                }
                "/together" => {
                    let change = |by: isize| {
                        let mut together = self.together.lock().unwrap();
                        together.0 = together.0.strict_add_signed(by);
                        together.1 = together.1.max(together.0);
                        together.1
                    };
                    change(1);
                    thread::sleep(Duration::from_millis(100));
                    Response::text(200, &change(-1).to_string())
                }
                _ => Response::empty(202),
            }
        }
    }

    fn serve(limits: Limits) -> (Server, impl Fn(&str) -> TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let ask = move |path: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
            stream
        };
        (Server::start(listener, limits, "test".into(), Box::new(Odd::default())).unwrap(), ask)
    }

    fn status(stream: &mut TcpStream) -> u16 {
        let mut bytes = [0; 12];
        stream.read_exact(&mut bytes).unwrap();
        std::str::from_utf8(&bytes[9..]).unwrap().parse().unwrap()
    }

    /// All that comes, and how long it took until the end.
    fn read_all(stream: &mut TcpStream) -> (usize, Duration) {
        let begun = Instant::now();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        (bytes.len(), begun.elapsed())
    }

    #[test]
    fn an_idle_connection_is_closed_without_a_word() {
        let (server, ask) = serve(Limits { idle: Duration::from_millis(300), ..Limits::within(1024) });
        let mut stream = ask("/");
        assert_eq!(status(&mut stream), 202);
        let (rest, waited) = read_all(&mut stream);
        assert!(rest < 100 && waited > Duration::from_millis(200) && waited < LONG, "{rest} {waited:?}");
        server.stop(LONG);
    }

    #[test]
    fn who_does_not_read_or_reads_too_slowly_is_let_go() {
        let write = Duration::from_millis(300);
        let (server, ask) = serve(Limits { write, answer: Duration::from_secs(1), ..Limits::within(1024) });
        let mut deaf = ask("/large");
        let begun = Instant::now();
        deaf.peek(&mut [0]).unwrap(); // the answer has begun
        while !server.shared.connections().is_empty() {
            assert!(begun.elapsed() < LONG);
            thread::sleep(Duration::from_millis(1));
        }
        assert!(read_all(&mut deaf).0 < 64 << 20);
        let mut slow = ask("/large");
        let begun = Instant::now();
        let mut bytes = vec![0; 64 << 10];
        let mut total = 0;
        while let Ok(n) = slow.read(&mut bytes) {
            if n == 0 || begun.elapsed() > LONG {
                break;
            }
            total += n;
            thread::sleep(Duration::from_millis(2));
        }
        assert!(total < 64 << 20 && begun.elapsed() < LONG, "{total}");
        server.stop(LONG);
    }

    #[test]
    fn a_panic_ends_only_its_request() {
        let (server, ask) = serve(Limits::within(1024));
        let mut stream = ask("/panic");
        assert_eq!(status(&mut stream), 500);
        assert_eq!(status(&mut ask("/")), 202);
        server.stop(LONG);
    }

    #[test]
    fn when_all_are_being_answered_a_newcomer_is_told_to_come_again() {
        let (server, ask) = serve(Limits { connections: 3, ..Limits::within(1024) });
        let mut busy: Vec<TcpStream> = (0..3).map(|_| ask("/slow")).collect();
        let end = Instant::now() + LONG;
        while server.shared.connections().values().filter(|c| c.phase == Phase::Answering).count() < 3 {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(status(&mut ask("/")), 503);
        assert_eq!(busy.iter_mut().map(status).collect::<Vec<_>>(), [200; 3]);
        assert_eq!(status(&mut ask("/")), 202);
        server.stop(LONG);
    }

    #[test]
    fn stopping_waits_for_the_busy_and_not_for_the_idle() {
        let (server, ask) = serve(Limits::within(1024));
        let mut idle = ask("/");
        assert_eq!(status(&mut idle), 202);
        let mut busy = ask("/slow");
        let end = Instant::now() + LONG;
        while !server.shared.connections().values().any(|c| c.phase == Phase::Answering) {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
        server.stop(LONG);
        assert_eq!(status(&mut busy), 200);
        assert!(read_all(&mut idle).1 < LONG);
    }

    fn large(path: &str, sent: usize) -> Vec<u8> {
        const LENGTH: usize = 300 << 10;
        let mut bytes = format!("POST {path} HTTP/1.1\r\nContent-Length: {LENGTH}\r\n\r\n").into_bytes();
        bytes.extend(vec![b'x'; LENGTH.min(sent)]);
        bytes
    }

    #[test]
    fn only_so_many_large_bodies_are_held_at_once_and_all_have_their_turn() {
        let (server, ask) = serve(Limits { large: 2, ..Limits::within(1024) });
        let address = server.address;
        let post = |i: usize| {
            let mut stream = TcpStream::connect(address).unwrap();
            let chunked = [
                b"POST /together HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
                [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat().repeat(5),
                b"0\r\n\r\n".to_vec(),
            ];
            stream
                .write_all(&if i.is_multiple_of(2) { large("/together", usize::MAX) } else { chunked.concat() })
                .unwrap();
            let mut text = String::new();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 200") && !text.contains("\r\n\r\n3"), "{text}");
        };
        thread::scope(|scope| {
            (0..10).for_each(|i| drop(scope.spawn(move || post(i))));
            assert_eq!(status(&mut ask("/")), 202);
        });
        server.stop(LONG);
    }

    #[test]
    fn stalled_large_bodies_hold_up_only_large_bodies_and_not_for_long() {
        let request = Duration::from_secs(1);
        let (server, ask) = serve(Limits { large: 2, request, ..Limits::within(1024) });
        let send = |sent: usize| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream.write_all(&large("/", sent)).unwrap();
            stream
        };
        let mut stalled: Vec<TcpStream> = (0..2).map(|_| send(1000)).collect();
        let end = Instant::now() + LONG;
        while *server.shared.large.lock().unwrap() < 2 {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
        let mut next = send(usize::MAX);
        assert_eq!(status(&mut ask("/")), 202);
        assert!([202, 503].contains(&status(&mut next)), "its turn comes when theirs is over, at the same moment");
        assert_eq!(stalled.iter_mut().map(status).collect::<Vec<_>>(), [408; 2]);
        assert_eq!(status(&mut send(usize::MAX)), 202);
        server.stop(LONG);
    }

    #[test]
    fn few_descriptors_mean_few_connections() {
        assert_eq!(Limits::within(20_000).connections, 128);
        assert_eq!(Limits::within(64).connections, 32);
        assert_eq!(Limits::within(64).waiting, 24);
        assert_eq!(Limits::within(0).connections, 4);
    }
}
