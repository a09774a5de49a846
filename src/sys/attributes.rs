//! Attributes that a process hands on to its children: reading ours, and giving a child others.

use super::check;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `getrlimit` takes: signed or not, depending on the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

/// Limits by name, see getrlimit(2).
#[cfg(target_os = "linux")]
pub const LIMITS: [(&str, Resource); 15] = [
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];
#[cfg(not(target_os = "linux"))]
pub const LIMITS: [(&str, Resource); 9] = [
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("stack", libc::RLIMIT_STACK),
];

/// umask(2): sets it, and gives back the one before.
pub fn set_umask(umask: u32) -> u32 {
    #[allow(clippy::unnecessary_cast)] // mode_t has 16 bits on macOS
    unsafe {
        libc::umask(umask as libc::mode_t) as u32
    }
}

/// getpriority(2) of this process.
pub fn niceness() -> i32 {
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Blocks no signal any more, and tells which of those up to 31 were blocked: sigprocmask(2). To be called before there are
/// threads.
pub fn unblock_signals() -> Vec<i32> {
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, &mut before);
        (1..=31).filter(|number| libc::sigismember(&before, *number) == 1).collect()
    }
}

/// Soft limit and hard limit of this process, by the name of a resource.
pub fn limit(name: &str) -> Option<(u64, u64)> {
    let (_, resource) = LIMITS.iter().find(|(known, _)| *known == name)?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[allow(clippy::unnecessary_cast)] // the one type is as wide as the other, but not on every system by the same name
    (unsafe { libc::getrlimit(*resource, &mut limit) } == 0).then_some((limit.rlim_cur as u64, limit.rlim_max as u64))
}

/// Attributes for a child that is about to be started.
#[derive(Debug, Default)]
pub struct Handed {
    pub umask: Option<u32>,
    pub niceness: Option<i32>,
    pub ignored: Vec<i32>,
    pub blocked: Vec<i32>,
    /// Names, soft limits and hard ones.
    pub limits: Vec<(String, u64, u64)>,
    /// Its `cgroup.procs`, open for writing.
    pub cgroup: Option<File>,
}

impl Handed {
    /// Has the child of a complete `command` take them between fork and exec. What the system refuses is left as it is.
    ///
    /// It also executes the program. The standard library would do that by execvp(3), which gives what the system cannot run
    /// to a shell, as it does not without such a function before; a program is to be refused then, and not half understood.
    pub fn apply(self, command: &mut Command) -> io::Result<()> {
        let image = Image::of(command)?;
        let known = |name: &String| LIMITS.iter().find(|(known, _)| known == name).map(|(_, resource)| *resource);
        let limits: Vec<(Resource, libc::rlimit)> = self
            .limits
            .iter()
            .filter_map(|(name, soft, hard)| {
                Some((known(name)?, libc::rlimit { rlim_cur: *soft as _, rlim_max: *hard as _ }))
            })
            .collect();
        let take = move || -> io::Result<()> {
            // Only async-signal-safe calls (signal-safety(7)), and no allocation.
            unsafe {
                if let Some(cgroup) = &self.cgroup {
                    libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1);
                }
                for (resource, wanted) in &limits {
                    take_limit(*resource, *wanted);
                }
                if let Some(niceness) = self.niceness {
                    libc::setpriority(libc::PRIO_PROCESS, 0, niceness);
                }
                if let Some(umask) = self.umask {
                    libc::umask(umask as libc::mode_t);
                }
                for number in &self.ignored {
                    libc::signal(*number, libc::SIG_IGN);
                }
                let mut blocked: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut blocked);
                for number in &self.blocked {
                    libc::sigaddset(&mut blocked, *number);
                }
                check(libc::sigprocmask(libc::SIG_SETMASK, &blocked, std::ptr::null_mut()))?;
                Err(image.execute())
            }
        };
        // The standard library has reset the signals of the child before it calls this.
        unsafe { command.pre_exec(take) };
        Ok(())
    }
}

/// What execve(2) needs, made ready before the fork.
struct Image {
    /// Where the program may be, in the order of PATH.
    paths: Vec<CString>,
    arguments: Pointers,
    environment: Pointers,
}

/// Strings, and a list of pointers to them that ends with a null.
struct Pointers {
    _strings: Vec<CString>,
    list: Vec<*const libc::c_char>,
}

// The pointers are to what goes along with them and is never changed.
unsafe impl Send for Pointers {}
unsafe impl Sync for Pointers {}

impl Pointers {
    fn of(strings: Vec<CString>) -> Pointers {
        let list = strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Pointers { _strings: strings, list }
    }
}

impl Image {
    fn of(command: &Command) -> io::Result<Image> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let program = command.get_program();
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => drop(environment.insert(name.into(), value.into())),
                None => drop(environment.remove(name)),
            }
        }
        let paths: Vec<PathBuf> = match environment.get(OsStr::new("PATH")) {
            _ if program.as_bytes().contains(&b'/') => vec![program.into()],
            Some(path) => std::env::split_paths(path).map(|directory| directory.join(program)).collect(),
            None => ["/bin", "/usr/bin"].iter().map(|directory| Path::new(directory).join(program)).collect(),
        };
        let paths = paths.iter().map(|path| text(path.as_os_str())).collect::<io::Result<_>>()?;
        let arguments = [program].into_iter().chain(command.get_args()).map(text).collect::<io::Result<_>>()?;
        let entry =
            |(name, value): (&OsString, &OsString)| text(&[name, value].map(|t| t.as_os_str()).join(OsStr::new("=")));
        let environment = environment.iter().map(entry).collect::<io::Result<_>>()?;
        Ok(Image { paths, arguments: Pointers::of(arguments), environment: Pointers::of(environment) })
    }

    /// execve(2), with each of the paths: why none could be executed. As execvp(3), a file that may not be executed counts
    /// only if no other one can be.
    fn execute(&self) -> io::Error {
        let mut refused = None;
        let mut last = io::Error::from_raw_os_error(libc::ENOENT);
        for path in &self.paths {
            unsafe { libc::execve(path.as_ptr(), self.arguments.list.as_ptr(), self.environment.list.as_ptr()) };
            last = io::Error::last_os_error();
            match last.raw_os_error() {
                Some(libc::EACCES) => refused = Some(libc::EACCES),
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                _ => return last,
            }
        }
        refused.map_or(last, io::Error::from_raw_os_error)
    }
}

/// Makes the group of a child that is about to be started the foreground one of its terminal, if it has one on stdin:
/// tcsetpgrp(3), which stops those in the background unless they block SIGTTOU.
pub fn take_terminal(command: &mut Command) {
    let take = || -> io::Result<()> {
        unsafe {
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut blocked);
            libc::sigaddset(&mut blocked, libc::SIGTTOU);
            libc::sigprocmask(libc::SIG_BLOCK, &blocked, &mut before);
            libc::tcsetpgrp(0, libc::getpid()); // fails without a terminal, and then there is nothing to take
            libc::sigprocmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        }
        Ok(())
    };
    unsafe { command.pre_exec(take) };
}

/// setrlimit(2), as far as it may be: only a privileged process may raise a hard limit.
unsafe fn take_limit(resource: Resource, wanted: libc::rlimit) {
    unsafe {
        let mut own = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::setrlimit(resource, &wanted) != 0 && libc::getrlimit(resource, &mut own) == 0 {
            let hard = wanted.rlim_max.min(own.rlim_max);
            libc::setrlimit(resource, &libc::rlimit { rlim_cur: wanted.rlim_cur.min(hard), rlim_max: hard });
        }
    }
}
