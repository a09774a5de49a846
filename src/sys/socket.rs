//! Sockets: what std has no function for.

use super::check;
#[cfg(not(target_os = "linux"))]
use super::poll_readable;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// One question to sock_diag(7) and its answer, over a netlink socket that lives as long as that takes: the length of
/// the answer. Fails where netlink sockets are forbidden, and everywhere but on Linux.
#[cfg(target_os = "linux")]
pub fn ask_sock_diag(question: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let length = |n: isize| usize::try_from(n).map_err(|_| io::Error::last_os_error());
    unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let socket = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG))?);
        let (fd, limit) = (socket.as_raw_fd(), libc::timeval { tv_sec: 1, tv_usec: 0 });
        let size = size_of_val(&limit) as libc::socklen_t;
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const limit).cast(), size))?;
        length(libc::send(fd, question.as_ptr().cast(), question.len(), libc::MSG_NOSIGNAL))?;
        length(libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0))
    }
}

/// Bytes that the name of a Unix socket may have, without its final NUL (unix(7)).
pub const UNIX_NAME_MAX: usize = size_of::<libc::sockaddr_un>() - std::mem::offset_of!(libc::sockaddr_un, sun_path) - 1;

/// connect(2) to a Unix socket. `timeout` bounds the wait for a place in the listener's queue: `TimedOut` if there is
/// none by then. (macOS does not wait; there a full queue is `ConnectionRefused`.)
pub fn connect_unix(path: &Path, timeout: Duration) -> io::Result<OwnedFd> {
    let name = path.as_os_str().as_bytes();
    if name.len() > UNIX_NAME_MAX || name.contains(&0) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    unsafe {
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in address.sun_path.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        let socket = unix_socket()?;
        let limit = libc::timeval {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_usec: timeout.subsec_micros() as _,
        };
        let size = size_of_val(&limit) as libc::socklen_t;
        let fd = socket.as_raw_fd();
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, (&raw const limit).cast(), size))?;
        let size = size_of_val(&address) as libc::socklen_t;
        match check(libc::connect(fd, (&raw const address).cast(), size)) {
            Ok(_) => Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }
}

/// socket(2) of family `AF_UNIX`, close-on-exec.
fn unix_socket() -> io::Result<OwnedFd> {
    unsafe {
        #[cfg(target_os = "linux")]
        {
            let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
            Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0))?))
        }
        #[cfg(not(target_os = "linux"))]
        {
            let socket = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0))?);
            check(libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC))?;
            Ok(socket)
        }
    }
}

/// The effective user of the process at the other end of a Unix socket when the connection was made: `SO_PEERCRED`
/// (unix(7)), or getpeereid(3) on macOS. The side that listens is the process that called listen(2).
pub fn peer_user(socket: &impl AsRawFd) -> io::Result<u32> {
    let fd = socket.as_raw_fd();
    #[cfg(target_os = "linux")]
    unsafe {
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut size = size_of_val(&peer) as libc::socklen_t;
        check(libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut size))?;
        Ok(peer.uid)
    }
    #[cfg(not(target_os = "linux"))]
    unsafe {
        let (mut user, mut group) = (0, 0);
        check(libc::getpeereid(fd, &mut user, &mut group))?;
        Ok(user)
    }
}

/// shutdown(2) `SHUT_RD`, also of a socket that listens: it lets no connections in then.
pub fn shut_down_reading(socket: &impl AsRawFd) -> io::Result<()> {
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RD) }).map(drop)
}

/// Whether the other end of a TCP connection may still be there: `TCP_INFO` (tcp(7)) says that it is established, or
/// that only its sending side was closed. As long as that holds, no other socket can have the peer's address and port.
#[cfg(target_os = "linux")]
pub fn is_connected(socket: &impl AsRawFd) -> bool {
    const ESTABLISHED: u8 = 1;
    const CLOSE_WAIT: u8 = 8;
    let mut state: u8 = 0; // the first member of `struct tcp_info`; the kernel writes as much as there is room for
    let mut size = 1;
    let fd = socket.as_raw_fd();
    let asked =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut state).cast(), &raw mut size) };
    asked == 0 && matches!(state, ESTABLISHED | CLOSE_WAIT)
}
#[cfg(not(target_os = "linux"))]
pub fn is_connected(_: &impl AsRawFd) -> bool {
    false // nothing here tells the owner of a connection, so nothing asks
}

/// Whether the other end of a connection has closed it, or at least its sending side, whatever is still unread of it.
pub fn is_hung_up(socket: &impl AsRawFd) -> bool {
    let fd = socket.as_raw_fd();
    #[cfg(target_os = "linux")]
    {
        // poll(2): POLLRDHUP reports it also after bytes that have not been read yet.
        let mut polled = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
        unsafe { libc::poll(&mut polled, 1, 0) > 0 }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let mut byte = 0u8;
        poll_readable([fd], Some(Duration::ZERO))[0]
            && unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK) } <= 0
    }
}
