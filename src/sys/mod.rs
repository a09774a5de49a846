//! The only `unsafe` of the program: system calls that std has no safe function for, Linux and macOS side by side.
//!
//! Nothing here decides anything. Each function is one call of the manual page it names, with its result as Rust;
//! `libc` is used nowhere else, so the constants that others need are handed on from here.
//!
//! macOS differs where it must: no subreaper, no pidfd, no `close_range`. What that costs is said at each place.
#![allow(unsafe_code)]

mod attributes;
mod files;
mod socket;

pub use attributes::{Handed, LIMITS, limit, niceness, set_umask, take_terminal, unblock_signals};
pub use files::{mkfifo, open_fifo_both, open_fifo_reader, open_fifo_writer, open_regular, read_linked, read_regular};
#[cfg(target_os = "linux")]
pub use socket::ask_sock_diag;
pub use socket::{UNIX_NAME_MAX, connect_unix, is_connected, is_hung_up, peer_user, shut_down_reading};

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

pub use libc::{
    E2BIG, EACCES, EAGAIN, EMFILE, ENFILE, ENOENT, ENOEXEC, ENOMEM, ENXIO, EPERM, SIGCHLD, SIGCONT, SIGHUP, SIGINT,
    SIGKILL, SIGPIPE, SIGQUIT, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGXFSZ,
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

/// Whether the system had no resources for it (descriptors, memory, processes): a reason to try again, which says nothing of
/// whatever was asked for.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM | EAGAIN | libc::ENOBUFS))
}

/// fcntl(2) `O_NONBLOCK`, of the open file description of `file` (so of every descriptor that shares it).
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

/// fcntl(2) `F_SETPIPE_SZ`: how much a pipe holds, in bytes, for all processes that have it. `EBUSY` if there is more in it, `EPERM`
/// beyond what the system lets a user have. Only Linux has this; others decide by themselves, and nothing happens.
pub fn set_pipe_size(pipe: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    unsafe {
        check(libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes as libc::c_int)).map(drop)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (pipe, bytes);
        Ok(())
    }
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
    // Linux before 5.11, and all other systems: one by one, up to a limit that any shell's leftovers stay below.
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
    // Linux before 5.9, sandboxes that forbid it, and all other systems: those that can be seen, one by one.
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

/// Whether signal `number` was ignored by the process that started us (as nohup(1) does with SIGHUP).
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

/// The signal by which a child was stopped, if that was since the last call (waitid(2)). It is not reaped by this.
pub fn stopped_by(child: i32) -> Option<i32> {
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let answer = libc::waitid(libc::P_PID, child as libc::id_t, &mut info, libc::WSTOPPED | libc::WNOHANG);
        // Without news all stays zero.
        (answer == 0 && info.si_signo == libc::SIGCHLD).then(|| info.si_status())
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

/// kill(2) to all processes but this one. Only for PID 1, of its container.
pub fn kill_all(signal: i32) {
    unsafe { libc::kill(-1, signal) };
}

/// kill(2) to one process. Only for a child that we have not reaped: its number is pinned.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Signals this very process or none: a pidfd (pidfd_open(2)) pins it while `is_same` looks whether the number still
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
    fn poll_tells_which_descriptor_is_ready_and_ends_in_time() {
        let (reader, writer) = io::pipe().unwrap();
        let wait = Some(Duration::from_millis(1));
        assert_eq!(poll_readable([reader.as_raw_fd(), -1], wait), [false, false]);
        assert!(poll_writable(writer.as_raw_fd(), Duration::ZERO));
        drop(writer);
        assert_eq!(poll_readable([-1, reader.as_raw_fd()], wait), [false, true]);
    }
}
