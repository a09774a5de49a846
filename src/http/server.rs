//! A blocking HTTP/1.1 server: a thread per connection, every wait has an end, every buffer a bound.
//!
//! What one client can cost is in [`Limits`]. At the cap the connection that has been silent the longest is closed for a
//! newcomer: idle, in the middle of a request, or not reading its answer, so that slow clients hold up only each other.
//! Connections whose client is not known to be allowed in have a few places of their own.
//! A request that waits for something (a long-poll) takes one of fewer places and can see whether its client is still
//! there. Nothing a client sends or leaves out ends the accept loop: when the system has no descriptors or threads left,
//! it closes an idle connection, waits a moment and continues.

use super::connection::{Connection, FOR_BROWSERS};
use super::service::{Limits, Service};
use super::shared::{Admission, Entry, Phase, Shared};
use super::socket::{Listener, Socket};
use crate::sys;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

const STACK: usize = 256 << 10;
/// Pause of the accept loop when the system has nothing left to give.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// At the end: how long to accept what waits in the queue.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How often to look whether requests that have begun are answered.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// How often to look whether this is the end, where closing a listener does not wake its thread.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves what arrives at `listener`. `name` goes into the `Server` header.
    pub fn start(listener: Listener, limits: Limits, name: String, service: Box<dyn Service>) -> io::Result<Server> {
        let (shared, listener) = (Arc::new(Shared::new(limits, name, service)), Arc::new(listener));
        let (accepting, arriving) = (shared.clone(), listener.clone());
        let accept = move || accept(&arriving, &accepting);
        let acceptor = thread::Builder::new().name("accept".into()).stack_size(STACK).spawn(accept)?;
        Ok(Server { shared, listener, acceptor: Some(acceptor) })
    }

    /// Accepts no connections any more but those that wait in the queue, as far as the system keeps them (it does on Unix
    /// sockets).
    pub fn stop_accepting(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.listener.close();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join(); // at once: it only accepts
        }
    }

    /// Waits up to `limit` until all requests that have begun are answered, but for those that wait for something.
    pub fn wait_drained(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let is_busy = |shared: &Shared| {
            let connections = shared.connections();
            let answering = connections.values().filter(|connection| connection.phase == Phase::Answering).count();
            answering > shared.waiting.taken()
        };
        while is_busy(&self.shared) && Instant::now() < end {
            thread::sleep(DRAIN_CHECK_INTERVAL);
        }
    }

    /// Accepts no connections any more, closes idle ones, and waits up to `grace` for those that are being answered.
    pub fn stop(&mut self, grace: Duration) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        self.stop_accepting();
        let connections = self.shared.connections();
        for connection in connections.values().filter(|connection| connection.phase == Phase::Idle) {
            let _ = connection.stream.shutdown(Shutdown::Read); // wakes its thread, see `Connection::run`
        }
        let waited = self.shared.one_ended.wait_timeout_while(connections, grace, |all| !all.is_empty());
        drop(waited);
    }
}

fn accept(listener: &Listener, shared: &Arc<Shared>) {
    let mut next = 0;
    let mut end = None;
    loop {
        let timeout = if Listener::WAKES_AT_CLOSE { None } else { Some(STOP_CHECK_INTERVAL) };
        sys::poll_readable([listener.as_raw_fd()], timeout);
        // Before the next one is accepted: what had connected by then is served.
        let is_closed = shared.is_closed.load(Ordering::SeqCst);
        if is_closed && *end.get_or_insert(Instant::now() + DRAIN_TIMEOUT) <= Instant::now() {
            return;
        }
        match listener.accept() {
            Ok(socket) => {
                next += 1;
                take_in(socket, next, shared);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if is_closed => return, // the queue is empty, or gone
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // ECONNABORTED passes at once; EMFILE, ENFILE and ENOBUFS need another connection to end.
            Err(error) => {
                if matches!(error.raw_os_error(), Some(sys::EMFILE | sys::ENFILE)) {
                    shared.evict_one();
                }
                thread::sleep(EXHAUSTED_PAUSE);
            }
        }
    }
}

fn take_in(socket: Socket, id: u64, shared: &Arc<Shared>) {
    let socket = Arc::new(socket);
    let turn_away = || {
        let name = &shared.name;
        let text = format!(
            "HTTP/1.1 503 Service Unavailable\r\nServer: {name}\r\n{FOR_BROWSERS}Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let _ = socket.set_nonblocking(true);
        let _ = (&*socket).write_all(text.as_bytes());
    };
    shared.insert(id, socket.clone());
    let entry = Entry { shared: shared.clone(), id };
    let is_verified = shared.service.is_known(&socket);
    if is_verified && shared.admit(id) == Admission::Full {
        return turn_away();
    }
    let for_thread = socket.clone();
    let serve = move || {
        let _ = Connection::new(&for_thread, &entry, is_verified).run(); // an error means that the client has gone
    };
    // If there is no thread, the closure is gone, and with it the entry.
    if thread::Builder::new().name("http".into()).stack_size(STACK).spawn(serve).is_err() {
        turn_away();
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::Head;
    use super::super::service::{Request, Response};
    use super::*;
    use std::io::Read;
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};
    use std::sync::Mutex;

    const LONG: Duration = Duration::from_secs(30);

    /// `/panic`, `/large`, `/slow`, `/together` and everything else.
    #[derive(Default)]
    struct Odd {
        /// Requests for `/together` at present, and the most there ever were.
        together: Mutex<(usize, usize)>,
    }

    impl Service for Odd {
        fn is_known(&self, _: &Socket) -> bool {
            true
        }
        fn check_client(&self, _: &Socket) -> Result<(), Response> {
            Ok(())
        }
        fn check_request(&self, _: &Head) -> Result<(), Response> {
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

    /// A server with its port; it can be asked for a path by [`ask`].
    fn serve(limits: Limits) -> (Server, u16) {
        let listener = Listener::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.port().unwrap();
        (Server::start(listener, limits, "test".into(), Box::new(Odd::default())).unwrap(), port)
    }

    fn connect(port: u16) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    fn ask(port: u16, path: &str) -> TcpStream {
        let mut stream = connect(port);
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        stream
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
        let (mut server, port) = serve(Limits { idle: Duration::from_millis(300), ..Limits::within(1024) });
        let mut stream = ask(port, "/");
        let begun = Instant::now();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let waited = begun.elapsed();
        assert!(said.starts_with("HTTP/1.1 202") && said.matches("HTTP/").count() == 1, "{said}");
        assert!(waited > Duration::from_millis(200) && waited < LONG, "{waited:?}");
        server.stop(LONG);
    }

    #[test]
    fn who_does_not_read_or_reads_too_slowly_is_let_go() {
        let write = Duration::from_millis(300);
        let (mut server, port) = serve(Limits { write, answer: Duration::from_secs(1), ..Limits::within(1024) });
        let mut deaf = ask(port, "/large");
        let begun = Instant::now();
        deaf.peek(&mut [0]).unwrap(); // the answer has begun
        while !server.shared.connections().is_empty() {
            assert!(begun.elapsed() < LONG);
            thread::sleep(Duration::from_millis(1));
        }
        assert!(read_all(&mut deaf).0 < 64 << 20);
        let mut slow = ask(port, "/large");
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
        let (mut server, port) = serve(Limits::within(1024));
        let mut stream = ask(port, "/panic");
        assert_eq!(status(&mut stream), 500);
        assert_eq!(status(&mut ask(port, "/")), 202);
        server.stop(LONG);
    }

    #[test]
    fn when_all_are_being_answered_a_newcomer_is_told_to_come_again() {
        let (mut server, port) = serve(Limits { connections: 3, ..Limits::within(1024) });
        let mut busy: Vec<TcpStream> = (0..3).map(|_| ask(port, "/slow")).collect();
        let end = Instant::now() + LONG;
        while server.shared.connections().values().filter(|c| c.phase == Phase::Answering).count() < 3 {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(status(&mut ask(port, "/")), 503);
        assert_eq!(busy.iter_mut().map(status).collect::<Vec<_>>(), [200; 3]);
        assert_eq!(status(&mut ask(port, "/")), 202);
        server.stop(LONG);
    }

    #[test]
    fn stopping_waits_for_the_busy_and_not_for_the_idle() {
        let (mut server, port) = serve(Limits::within(1024));
        let mut idle = ask(port, "/");
        assert_eq!(status(&mut idle), 202);
        let mut busy = ask(port, "/slow");
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
        let (mut server, port) = serve(Limits { large: 2, ..Limits::within(1024) });
        let post = |i: usize| {
            let mut stream = connect(port);
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
            assert_eq!(status(&mut ask(port, "/")), 202);
        });
        server.stop(LONG);
    }

    #[test]
    fn stalled_large_bodies_hold_up_only_large_bodies_and_not_for_long() {
        let request = Duration::from_secs(1);
        let (mut server, port) = serve(Limits { large: 2, request, ..Limits::within(1024) });
        let send = |sent: usize| {
            let mut stream = connect(port);
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
        assert_eq!(status(&mut ask(port, "/")), 202);
        assert!([202, 503].contains(&status(&mut next)), "its turn comes when theirs is over, at the same moment");
        assert_eq!(stalled.iter_mut().map(status).collect::<Vec<_>>(), [408; 2]);
        assert_eq!(status(&mut send(usize::MAX)), 202);
        server.stop(LONG);
    }

    #[test]
    fn few_descriptors_mean_few_connections() {
        let limits = |descriptors: u64| {
            let Limits { connections, unverified, waiting, .. } = Limits::within(descriptors);
            (connections, unverified, waiting)
        };
        assert_eq!(limits(20_000), (128, 32, 96));
        assert_eq!(limits(64), (26, 6, 18), "together they take half of the descriptors");
        assert_eq!(limits(0), (4, 1, 3));
    }
}
