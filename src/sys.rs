//! The only `unsafe` of the program: system calls that std has no safe function for, Linux and macOS side by side.
//!
//! Nothing here decides anything. Each function is one call of the manual page it names, with its result as Rust;
//! `libc` is used nowhere else, so the constants that others need are handed on from here.
//!
//! macOS differs where it must: no subreaper, no pidfd, no `close_range`. What that costs is said at each place.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

pub use libc::{
    E2BIG, EACCES, EAGAIN, EMFILE, ENFILE, ENOENT, ENOEXEC, ENOMEM, ENXIO, EPERM, SIGCHLD, SIGCONT, SIGHUP, SIGINT,
    SIGKILL, SIGTERM, SIGXFSZ,
};

/// geteuid(2).
pub fn own_user() -> u32 {
    unsafe { libc::geteuid() }
}

/// How many descriptors this process may have: getrlimit(2), the soft limit.
pub fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // The one type is as wide as the other, but not on every system by the same name.
    #[allow(clippy::unnecessary_cast)]
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 { limit.rlim_cur as u64 } else { 256 }
}

/// unsetenv(3): takes a variable out of our environment, and so out of our children's. Only while there is one thread.
pub fn forget_variable(name: &str) {
    unsafe { std::env::remove_var(name) }
}

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

/// Signals by name, as `ctrl signal` takes them and as people read them. Not complete: the ones that make sense to
/// send to, or to see as the end of, a process.
const SIGNALS: [(&str, i32); 20] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("XFSZ", libc::SIGXFSZ),
    ("WINCH", libc::SIGWINCH),
];

/// `SIGTERM` for 15; `signal 42` for one without a name here.
pub fn signal_name(number: i32) -> String {
    let known = SIGNALS.iter().find(|(_, n)| *n == number);
    known.map_or_else(|| format!("signal {number}"), |(name, _)| format!("SIG{name}"))
}

/// The number of `HUP`, `SIGHUP`, `hup` or `1`.
pub fn signal_number(name: &str) -> Option<i32> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().find(|(n, _)| *n == short).map(|(_, n)| *n);
    named.or_else(|| short.parse().ok().filter(|n| (1..=31).contains(n)))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether the system had no room for it (descriptors, memory, processes): a reason to try again, and no news about
/// whatever was asked for.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM | EAGAIN | libc::ENOBUFS))
}

/// mkfifo(3), mode 0600. Fails on file systems without FIFOs (vfat, some network mounts).
pub fn mkfifo(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    check(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }).map(drop)
}

/// Opens a regular file and nothing else: a program may put whatever it likes into the place of a file of ours, and opening
/// a FIFO waits for its other end, a link leads elsewhere, and a device does what devices do. Never waits; the error says
/// what is there.
pub fn open_regular(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let opened = options.clone().custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let kind = match &opened {
        Ok(file) => file.metadata()?.file_type(),
        // A file that cannot be opened for another reason, or none at all, says so itself.
        Err(_) => match path.symlink_metadata() {
            Ok(found) if !found.is_file() => found.file_type(),
            _ => return opened,
        },
    };
    if kind.is_file() { opened } else { Err(not_a("file", kind)) }
}

/// The same for reading.
pub fn read_regular(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().read(true))
}

/// `InvalidInput` with what was found instead of a `wanted`.
fn not_a(wanted: &str, found: FileType) -> io::Error {
    let what = match found {
        found if found.is_fifo() => "a FIFO",
        found if found.is_dir() => "a directory",
        found if found.is_symlink() => "a symbolic link",
        found if found.is_socket() => "a socket",
        found if found.is_file() => "a file",
        _ => "a device",
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a {wanted}"))
}

/// Opens a FIFO and nothing else; as [`open_regular`], for the same reason.
fn open_fifo(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let kind = match &file {
        Ok(file) => file.metadata()?.file_type(),
        Err(_) => match path.symlink_metadata() {
            Ok(found) if !found.file_type().is_fifo() => found.file_type(),
            _ => return file,
        },
    };
    if kind.is_fifo() { file } else { Err(not_a("FIFO", kind)) }
}

/// Both ends of a FIFO in one descriptor, non-blocking: opening never waits, the writer gets no SIGPIPE, the reader no
/// end of file. Linux documents this (fifo(7)); POSIX leaves it undefined and macOS allows it.
pub fn open_fifo_both(path: &Path) -> io::Result<File> {
    let fifo = open_fifo(path, OpenOptions::new().read(true).write(true))?;
    shrink_pipe(&fifo);
    Ok(fifo)
}

/// The reading end. Opens at once even without a writer; reads then block, and end of file means "no writer is left".
pub fn open_fifo_reader(path: &Path) -> io::Result<File> {
    let fifo = open_fifo(path, OpenOptions::new().read(true))?;
    set_nonblocking(&fifo, false)?;
    Ok(fifo)
}

/// The writing end, non-blocking. `ENXIO` = nobody has it open for reading.
pub fn open_fifo_writer(path: &Path) -> io::Result<File> {
    open_fifo(path, OpenOptions::new().write(true))
}

/// An ordinary user may hold 1024 pipes of default size (pipe(7), pipe-user-pages-soft); a FIFO that carries single
/// bytes needs one page. A refusal costs nothing.
#[cfg(target_os = "linux")]
fn shrink_pipe(fifo: &File) {
    unsafe { libc::fcntl(fifo.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
}
#[cfg(not(target_os = "linux"))]
fn shrink_pipe(_: &File) {}

/// fcntl(2) `O_NONBLOCK`, of the open file behind `file` (so of every descriptor that shares it).
pub fn set_nonblocking(file: &impl AsRawFd, on: bool) -> io::Result<()> {
    unsafe {
        let flags = check(libc::fcntl(file.as_raw_fd(), libc::F_GETFL))?;
        let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        check(libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags)).map(drop)
    }
}

/// poll(2) for reading. Waits until one of `fds` has something or has ended (descriptor -1 is skipped), a signal
/// arrives, or `timeout` is over (`None`: no limit). Tells which are ready.
pub fn poll_readable<const N: usize>(fds: [RawFd; N], timeout: Option<Duration>) -> [bool; N] {
    poll(fds, libc::POLLIN, timeout)
}

/// Columns of a terminal; `None` if it is none, or does not know.
pub fn columns(fd: RawFd) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let told = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ as _, &mut size) };
    (told == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}

/// poll(2) for writing one descriptor: false when `timeout` passed first.
pub fn poll_writable(fd: RawFd, timeout: Duration) -> bool {
    poll([fd], libc::POLLOUT, Some(timeout))[0]
}

fn poll<const N: usize>(fds: [RawFd; N], events: libc::c_short, timeout: Option<Duration>) -> [bool; N] {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events, revents: 0 });
    // Rounded up: rounded down, the last millisecond before a deadline becomes a busy loop.
    let ms = timeout.map_or(-1, |t| t.as_micros().div_ceil(1000).min(1 << 30) as i32);
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, ms) };
    polled.map(|p| ready > 0 && p.revents != 0)
}

/// ioctl(2) `FIONREAD`: how many bytes wait in a pipe.
pub fn unread(pipe: &impl AsRawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    let asked = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if asked == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// Whether the other end of a connection has closed it, or at least its sending side, whatever is still unread of it.
pub fn is_hung_up(socket: &impl AsRawFd) -> bool {
    let fd = socket.as_raw_fd();
    #[cfg(target_os = "linux")]
    {
        // poll(2): POLLRDHUP tells it also behind bytes that nobody has read yet.
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

/// Moves an inherited descriptor out of the standard three (close-on-exec) and leaves /dev/null in its place.
pub fn take_standard_fd(fd: RawFd) -> io::Result<File> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    unsafe {
        let moved = File::from_raw_fd(check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3))?);
        check(libc::dup2(null.as_raw_fd(), fd))?;
        Ok(moved)
    }
}

/// Marks every inherited descriptor above the standard three close-on-exec: one stray pipe end in a long-lived child
/// keeps a stranger waiting for its end of file.
pub fn close_on_exec_all() {
    #[cfg(target_os = "linux")]
    {
        const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
        if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOSE_RANGE_CLOEXEC) } == 0 {
            return;
        }
    }
    // Linux before 5.11, and everybody else: one by one, up to a limit that any shell's leftovers stay below.
    for fd in 3..1024 {
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Closes every inherited descriptor above the standard three. To be called first of all, while none of them is ours.
pub fn close_inherited() {
    #[cfg(target_os = "linux")]
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0) } == 0 {
        return;
    }
    // Linux before 5.9, sandboxes that forbid it, and everybody else: those that can be seen, one by one.
    let open = std::fs::read_dir("/dev/fd").into_iter().flatten().flatten();
    let mut numbers: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    if numbers.is_empty() {
        numbers = (3..1024).collect(); // as in `close_on_exec_all`
    }
    for fd in numbers.into_iter().filter(|fd| *fd > 2) {
        unsafe { libc::close(fd) }; // the one by which they were seen is closed already
    }
}

/// setsid(2): no controlling terminal for us and everyone below. Fails for the leader of a process group.
pub fn new_session() -> io::Result<()> {
    check(unsafe { libc::setsid() }).map(drop)
}

/// prctl(2) `PR_SET_CHILD_SUBREAPER`: every descendant that loses its parent becomes our child, so that "no child left"
/// means "no descendant left". Only Linux has it.
#[cfg(target_os = "linux")]
pub fn become_subreaper() -> io::Result<()> {
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}
#[cfg(not(target_os = "linux"))]
pub fn become_subreaper() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// prctl(2) `PR_SET_NAME`: the name in `ps` and `top`, which exec by way of /proc/self/exe has made "exe".
pub fn set_process_name(name: &std::ffi::CStr) {
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn signal_to_pipe(number: libc::c_int) {
    // Only async-signal-safe calls (signal-safety(7)), and errno as it was.
    unsafe {
        let errno = errno_location();
        let saved = *errno;
        let byte = number as u8;
        libc::write(SIGNAL_PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *errno = saved;
    }
}
#[cfg(target_os = "linux")]
unsafe fn errno_location() -> *mut libc::c_int {
    unsafe { libc::__errno_location() }
}
#[cfg(not(target_os = "linux"))]
unsafe fn errno_location() -> *mut libc::c_int {
    unsafe { libc::__error() }
}

/// A clean signal state for us and, through exec, for the child: nothing blocked, nothing ignored (SIGPIPE aside, which
/// std handles), and each of `caught` arrives as a byte in the returned pipe (non-blocking).
///
/// Handlers and not signalfd or `SIG_IGN`: handlers vanish at exec, blocked and ignored signals would be inherited.
/// To be called once, before there are threads.
pub fn signals_as_bytes(caught: &[i32]) -> io::Result<File> {
    let (reader, writer) = io::pipe()?;
    set_nonblocking(&reader, true)?;
    set_nonblocking(&writer, true)?;
    SIGNAL_PIPE.store(writer.as_raw_fd(), Ordering::Relaxed);
    std::mem::forget(writer); // the handler's, for as long as we live
    unsafe {
        for number in 1..=31 {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(number, std::ptr::null(), &mut old);
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_flags = libc::SA_RESTART;
            if caught.contains(&number) {
                new.sa_sigaction = signal_to_pipe as *const () as usize;
            } else if old.sa_sigaction == libc::SIG_IGN && number != libc::SIGPIPE {
                new.sa_sigaction = libc::SIG_DFL;
            } else {
                continue;
            }
            libc::sigaction(number, &new, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
    Ok(std::os::fd::OwnedFd::from(reader).into())
}

/// Whether signal `number` was ignored by whoever started us (as nohup(1) does with SIGHUP).
pub fn is_ignored(number: i32) -> bool {
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// One answer of waitpid(2).
pub enum Reaped {
    /// A child ended; `status` is its wait status, see [`outcome`].
    One { pid: i32, status: i32 },
    /// There are children, none has ended.
    NotYet,
    /// No child is left. Exact for a subreaper: then no descendant is left either.
    NoChildren,
}

/// waitpid(2) for any child, without waiting.
pub fn reap() -> Reaped {
    let mut status = 0;
    match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
        0 => Reaped::NotYet,
        pid if pid > 0 => Reaped::One { pid, status },
        _ => Reaped::NoChildren,
    }
}

/// Exit code and signal of a wait status; one of them is there.
pub fn outcome(status: i32) -> (Option<i32>, Option<i32>) {
    if libc::WIFEXITED(status) { (Some(libc::WEXITSTATUS(status)), None) } else { (None, Some(libc::WTERMSIG(status))) }
}

/// kill(2) to a process group. Only for a group whose leader we have not reaped: the leader pins the number.
pub fn kill_group(pgid: i32, signal: i32) -> io::Result<()> {
    check(unsafe { libc::kill(-pgid, signal) }).map(drop)
}

/// kill(2) to one process. Only for a child that we have not reaped: its number is pinned.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Signals this very process or nobody: a pidfd (pidfd_open(2)) pins it while `is_same` looks whether the number still
/// means the process that was meant. `ESRCH` if it does not. Without pidfds (before Linux 5.3, macOS) there is a gap of
/// microseconds between looking and signalling.
pub fn kill_exactly(pid: i32, signal: i32, is_same: impl FnOnce() -> bool) -> io::Result<()> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    #[cfg(target_os = "linux")]
    {
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd;
        if fd >= 0 {
            let pinned = unsafe { File::from_raw_fd(fd) };
            if !is_same() {
                return Err(gone());
            }
            let null = std::ptr::null::<libc::siginfo_t>();
            let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pinned.as_raw_fd(), signal, null, 0) };
            return check(sent as i32).map(drop);
        }
        let error = io::Error::last_os_error();
        // Sandboxes refuse what they do not know with EPERM; pidfd_open itself never does.
        if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
            return Err(error);
        }
    }
    if is_same() { kill(pid, signal) } else { Err(gone()) }
}

/// clock_gettime(2) `CLOCK_BOOTTIME`: time since the start of the system, in the unit in which /proc says when a process
/// started.
#[cfg(target_os = "linux")]
pub fn ticks_since_boot() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let part = |number: libc::c_long| u64::try_from(number).unwrap_or(0);
    #[allow(clippy::useless_conversion)] // time_t is no c_long on every system
    let seconds = u64::try_from(i64::from(time.tv_sec)).unwrap_or(0);
    seconds * ticks_per_second() + part(time.tv_nsec) * ticks_per_second() / 1_000_000_000
}

/// In what /proc counts processor time.
#[cfg(target_os = "linux")]
pub fn ticks_per_second() -> u64 {
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(0).max(1)
}

/// In what /proc counts memory, in bytes.
#[cfg(target_os = "linux")]
pub fn page_size() -> u64 {
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// malloc_trim(3): glibc keeps freed memory at the top of its heap; a process that may be idle for days should not.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// mallopt(3): one heap for all threads. glibc gives threads heaps of their own, up to eight for each core, and keeps
/// what is freed at the top of each, where [`trim_heap`] does not reach. To be called before there are threads.
pub fn share_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(signal_number(text), Some(15), "{text}");
        }
        assert_eq!((signal_number("CONT"), signal_number("sigstop")), (Some(libc::SIGCONT), Some(libc::SIGSTOP)));
        for text in ["", "SIG", "0", "32", "-1", "TERMINATE"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(40), "signal 40");
    }

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("persistproc-regular-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let [file, fifo, link] = ["file", "fifo", "link"].map(|name| dir.join(name));
        std::fs::write(&file, "text").unwrap();
        mkfifo(&fifo).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(io::read_to_string(read_regular(&file).unwrap()).unwrap(), "text");
        let writing = OpenOptions::new().write(true).create(true).truncate(true).clone();
        for (path, expected) in [
            (&fifo, "it is a FIFO, not a file"),
            (&link, "it is a symbolic link, not a file"),
            (&dir, "it is a directory, not a file"),
            (&"/dev/zero".into(), "it is a device, not a file"),
        ] {
            for opened in [read_regular(path), open_regular(path, &writing)] {
                assert_eq!(opened.unwrap_err().to_string(), expected);
            }
        }
        assert_eq!(read_regular(&dir.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(std::fs::read(&file).unwrap(), b"text", "nothing was truncated by way of a link");
        assert_eq!(open_fifo_writer(&file).unwrap_err().to_string(), "it is a file, not a FIFO");
        assert_eq!(open_fifo_writer(&fifo).unwrap_err().raw_os_error(), Some(ENXIO));
        open_fifo_both(&fifo).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn poll_tells_which_descriptor_is_ready_and_ends_in_time() {
        let (reader, writer) = io::pipe().unwrap();
        let wait = Some(Duration::from_millis(1));
        assert_eq!(poll_readable([reader.as_raw_fd(), -1], wait), [false, false]);
        assert!(poll_writable(writer.as_raw_fd(), Duration::ZERO));
        drop(writer);
        assert_eq!(poll_readable([-1, reader.as_raw_fd()], wait), [false, true]);
    }
}
