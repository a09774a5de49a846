//! The two kinds of stream sockets that HTTP goes over here: TCP on loopback, for agents, and a Unix socket in the data
//! directory, for our own commands.
//!
//! The name of a Unix socket has room for 107 bytes (unix(7); 103 on macOS), and a data directory may lie deeper. On
//! Linux such a socket is then named through a descriptor of its directory, as `/proc/self/fd/N/server.sock`.

use crate::sys;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A connected socket. Reading and writing go through shared references, as with the types of std.
#[derive(Debug)]
pub enum Socket {
    /// `peer` as it was when the connection was made: a socket that was reset no longer tells.
    Tcp {
        stream: TcpStream,
        peer: SocketAddr,
    },
    Unix(UnixStream),
}

impl Socket {
    /// Connects to 127.0.0.1 or ::1.
    pub fn connect_tcp(address: SocketAddr, timeout: Duration) -> io::Result<Socket> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        // While nothing listens on a port of the ephemeral range, the system may pick that very port for our side and
        // connect us to ourselves (tcp(7), simultaneous open), which also takes the port from the server.
        if stream.local_addr()? == address {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        Ok(Socket::Tcp { stream, peer: address })
    }

    /// Connects to the socket at `path`. `timeout` bounds the wait for a place in the listener's queue.
    pub fn connect_unix(path: &Path, timeout: Duration) -> io::Result<Socket> {
        with_short_name(path, |path| sys::connect_unix(path, timeout)).map(|fd| Socket::Unix(UnixStream::from(fd)))
    }

    /// The user at the other end of a Unix socket, as the kernel recorded it when the connection was made; an error for
    /// TCP, where the kernel records none.
    pub fn peer_user(&self) -> io::Result<u32> {
        match self {
            Socket::Tcp { .. } => Err(io::ErrorKind::Unsupported.into()),
            Socket::Unix(stream) => sys::peer_user(stream),
        }
    }

    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp { stream, .. } => stream.set_read_timeout(timeout),
            Socket::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp { stream, .. } => stream.set_write_timeout(timeout),
            Socket::Unix(stream) => stream.set_write_timeout(timeout),
        }
    }

    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Socket::Tcp { stream, .. } => stream.set_nonblocking(on),
            Socket::Unix(stream) => stream.set_nonblocking(on),
        }
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Socket::Tcp { stream, .. } => stream.shutdown(how),
            Socket::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Socket::Tcp { stream, .. } => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp { stream, .. } => (&mut &*stream).read(out),
            Socket::Unix(stream) => (&mut &*stream).read(out),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp { stream, .. } => (&mut &*stream).write(bytes),
            Socket::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // nothing is buffered
    }
}

/// A socket that connections arrive at. Non-blocking: [`Server`](super::server::Server) waits for it by poll(2).
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub fn tcp(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Listener::Tcp(listener))
    }

    /// Listens at `path`, which must not exist, with mode 0600.
    pub fn unix(path: &Path) -> io::Result<Listener> {
        let listener = with_short_name(path, |path| UnixListener::bind(path))?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(listener))
    }

    /// Whether [`close`](Listener::close) wakes a thread that waits for connections. Linux documents it for Unix sockets
    /// (unix(7) is silent, but shutdown(2) applies) and does it for TCP, too; macOS refuses it.
    pub const WAKES_AT_CLOSE: bool = cfg!(target_os = "linux");

    /// Lets no connections in any more. Those that wait in the queue of a Unix socket can still be accepted.
    pub fn close(&self) {
        let _ = sys::shut_down_reading(self);
    }

    /// Port of a TCP listener.
    pub fn port(&self) -> Option<u16> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Listener::Unix(_) => None,
        }
    }

    /// The next connection; `WouldBlock` if there is none.
    pub fn accept(&self) -> io::Result<Socket> {
        let socket = match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, peer)| Socket::Tcp { stream, peer })?,
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Socket::Unix(stream))?,
        };
        socket.set_nonblocking(false)?; // BSD systems hand the listener's mode on
        if let Socket::Tcp { stream, .. } = &socket {
            let _ = stream.set_nodelay(true); // fails if it was reset meanwhile, which reading then tells
        }
        Ok(socket)
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Listener::Tcp(listener) => listener.as_raw_fd(),
            Listener::Unix(listener) => listener.as_raw_fd(),
        }
    }
}

/// Calls `act` with a name of `path` that fits into the address of a socket. `InvalidFilename` if there is none.
fn with_short_name<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let length = path.as_os_str().len();
    if length <= sys::UNIX_NAME_MAX {
        return act(path);
    }
    let too_long = || {
        let most = sys::UNIX_NAME_MAX;
        io::Error::new(
            io::ErrorKind::InvalidFilename,
            format!("the name of a socket may have {most} bytes here, and {} has {length}", path.display()),
        )
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(too_long()) };
    let directory = File::open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    if !short.is_dir() {
        return Err(too_long()); // no such names on this system, or /proc is not mounted
    }
    act(&short.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(path: &Path) {
        let listener = Listener::unix(path).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = Socket::connect_unix(path, Duration::from_secs(1)).unwrap();
        assert!(sys::poll_readable([listener.as_raw_fd()], Some(Duration::from_secs(10)))[0]);
        let served = listener.accept().unwrap();
        (&client).write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        (&served).read_exact(&mut bytes).unwrap();
        assert_eq!((&bytes, served.peer_user().unwrap()), (b"hello", sys::own_user()));
        assert_eq!(client.peer_user().unwrap(), sys::own_user());
        drop(listener);
        let refused = Socket::connect_unix(path, Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_socket_may_lie_as_deep_as_any_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let deep = root.join("a name with spaces\nand a newline").join("x".repeat(200)).join("y".repeat(200));
        fs::create_dir_all(&deep).unwrap();
        echo(&root.join("server.sock"));
        echo(&deep.join("server.sock"));
        let missing = Socket::connect_unix(&deep.join("other.sock"), Duration::from_secs(1)).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_full_queue_is_waited_for_only_so_long() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let path = root.join("s");
        let _listener = Listener::unix(&path).unwrap();
        let short = Duration::from_millis(50);
        let mut waiting = Vec::new();
        let error = loop {
            match Socket::connect_unix(&path, short) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100_000);
        };
        assert!(
            matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused),
            "{error} after {}",
            waiting.len()
        );
    }
}
