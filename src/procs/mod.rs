//! Processes of this machine: pid, parent, group and start time, and which are descendants of which.
//!
//! Linux reads /proc (proc(5)); elsewhere ps(1) is asked, which is slower and is used only when something is to be
//! stopped. Reads only: signals are sent by the shim.

pub mod family;
pub mod owner;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod platform;
mod service;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;
use std::path::PathBuf;

/// Names of our processes, at most 15 bytes (prctl(2), `PR_SET_NAME`). Servers have one of their own, so that people tell
/// them from commands, whatever the command lines of both are.
pub const NAME: &CStr = c"persistproc";
pub const SERVER_NAME: &CStr = c"persistproc-srv";

/// One process, as of the moment it was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    /// The pid of the process that made its session. 0 where the system does not tell.
    pub session: i32,
    /// When it started, in whatever unit the system counts. Together with `pid` it is an identity: a recycled number
    /// has another start time.
    pub start: u64,
    /// State letter of ps(1): `Z` is a zombie, `T` is stopped. That of its first thread.
    pub state: u8,
    /// How many threads it has, a first one that has ended included.
    pub threads: u32,
    /// Name of the executable, shortened by the system.
    pub name: String,
}

impl Process {
    /// Zombies are dead: they wait for their parent to ask, and have no children. A process that has only ended its first thread
    /// (pthread_exit(3) in `main`) looks like one, and lives on in the others.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads < 2
    }

    /// Whether it is a server or a shim of ours, see [`service`].
    pub fn is_service(&self) -> bool {
        service::is_one(self)
    }

    /// Whether `pid` still means the process that this was.
    pub fn is_same_as_now(&self) -> bool {
        look_up(self.pid).is_some_and(|now| now.start == self.start)
    }
}

/// What to say if the table of processes is not there, without which nothing can be started or found.
pub fn missing() -> Option<&'static str> {
    let is_missing = cfg!(target_os = "linux") && std::fs::symlink_metadata("/proc/self/exe").is_err();
    is_missing.then_some("/proc is not mounted here, and persistproc cannot work without it")
}

/// All living descendants of `root`, without those that `skip` names and all that is below these.
pub fn below(root: i32, skip: impl Fn(&Process) -> bool) -> Vec<Process> {
    select_below(all_processes().unwrap_or_default(), vec![root], skip)
}

/// Processes that are certainly not descendants of a process, so that they need not be read each time: on a machine with hundreds
/// of processes that makes looking ten times faster, and those that fork are caught by fast looks only.
///
/// A process becomes a descendant only at its birth, so an older one is none, and neither are its children. That holds for
/// processes, and numbers are used again: after some looks all are read anew. (Linux; elsewhere
/// start times have no order, and every look is a whole one.)
#[derive(Debug, Default)]
pub struct NonDescendants {
    pids: BTreeSet<i32>,
    looks: u32,
}

impl NonDescendants {
    const LOOKS: u32 = 16;

    /// As [`below`]. `see` gets each of them in the moment in which it is seen, most of them at least: a look takes longer
    /// than some processes live.
    pub fn below(&mut self, root: i32, skip: impl Fn(&Process) -> bool, mut see: impl FnMut(&Process)) -> Vec<Process> {
        if self.looks.is_multiple_of(Self::LOOKS) {
            self.pids.clear();
        }
        self.looks += 1;
        let (mut above, mut seen) = (BTreeSet::from([root]), BTreeSet::new());
        let mut all = Vec::new();
        let looked = platform::each_but(&self.pids, |process| {
            // The numbers of children are mostly greater, so that they come after their parents.
            if above.contains(&process.parent) && !skip(&process) {
                above.insert(process.pid);
                if !process.is_dead() {
                    see(&process);
                    seen.insert(process.pid);
                }
            }
            all.push(process);
        });
        if looked.is_ok() && cfg!(target_os = "linux") {
            self.learn(&all, root);
        }
        let found = select_below(all, vec![root], skip);
        found.iter().filter(|process| !seen.contains(&process.pid)).for_each(see);
        found
    }

    fn learn(&mut self, all: &[Process], root: i32) {
        let Some(born) = all.iter().find(|process| process.pid == root).map(|root| root.start) else { return };
        for process in all.iter().filter(|process| process.pid != root) {
            if process.start < born || self.pids.contains(&process.parent) {
                self.pids.insert(process.pid);
            }
        }
    }
}

/// All descendants of `roots`, which are not descendants of each other.
fn select_below(all: Vec<Process>, roots: Vec<i32>, skip: impl Fn(&Process) -> bool) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process);
    }
    let (mut found, mut todo) = (Vec::new(), roots);
    while let Some(parent) = todo.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if skip(&child) {
                continue;
            }
            todo.push(child.pid);
            if !child.is_dead() {
                found.push(child);
            }
        }
    }
    found
}

/// What a tree of processes takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time so far in milliseconds, including that of children that have ended.
    pub cpu_ms: u64,
    /// Resident memory in bytes; what processes share counts for each.
    pub memory: u64,
    /// TCP ports on which a process in it listens, in order.
    pub ports: Vec<u16>,
}

/// What each of the trees below `roots` takes, the roots aside, as far as the system tells (Linux). Looks at every
/// process once, whatever the number of trees.
pub fn usage(roots: &[i32], skip: impl Fn(&Process) -> bool) -> Vec<Option<Usage>> {
    if !cfg!(target_os = "linux") || roots.is_empty() {
        return vec![None; roots.len()];
    }
    let all = all_processes().unwrap_or_default();
    // Only if there is a socket at all: the system's table of them may be long.
    let listeners = LazyCell::new(platform::listeners);
    let of = |root: &i32| {
        let below = select_below(all.clone(), vec![*root], &skip);
        let mut ports = BTreeSet::new();
        let mut usage = Usage::default();
        for process in &below {
            let (cpu_ms, memory) = platform::cpu_and_memory(process.pid).unwrap_or_default();
            usage.cpu_ms += cpu_ms;
            usage.memory += memory;
            ports.extend(platform::sockets(process.pid).iter().filter_map(|socket| listeners.get(socket)));
        }
        usage.ports = ports.into_iter().collect();
        (!below.is_empty()).then_some(usage)
    };
    roots.iter().map(of).collect()
}

/// The process with this number, if there is one.
pub fn look_up(pid: i32) -> Option<Process> {
    platform::look_up(pid)
}

/// A number for the present start of the system, as seen from these namespaces (another container has another), and how
/// long ago that was, in the unit of [`Process::start`]. `None` where start times cannot be compared (macOS).
pub fn now() -> Option<(u64, u64)> {
    platform::now()
}

/// An error only if the system had no resources for the lookup.
pub fn all_processes() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    platform::each_but(&BTreeSet::new(), |process| all.push(process))?;
    Ok(all)
}

/// The command line of a process, for people and for recognising our own; empty if it cannot be read.
pub fn arguments(pid: i32) -> Vec<String> {
    platform::arguments(pid)
}

/// Paths of the files that a process has open, as far as they can be seen (Linux; own processes, or all as root).
pub fn open_files(pid: i32) -> Vec<PathBuf> {
    platform::open_files(pid)
}

/// How many descriptors this process has open, those that it inherited included.
pub fn open_descriptors() -> u64 {
    let open = std::fs::read_dir("/dev/fd").map_or(0, |entries| entries.count() as u64);
    open.saturating_sub(1) // the one that looked
}

/// Pid and name of the process that listens on this TCP port, as far as it can be seen (Linux; own processes, or all as root).
pub fn listener(port: u16) -> Option<(i32, String)> {
    platform::listener(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, name: &str) -> Process {
        Process { pid, parent, group: pid, session: pid, start: 1, state: b'S', threads: 1, name: name.into() }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_may_hold_brackets_and_blanks() {
        let line = "42 (a) b (c) Z 7 40 41 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 98765 1 2";
        let parsed = platform::parse_stat(line).unwrap();
        assert_eq!((parsed.pid, parsed.parent, parsed.group, parsed.session, parsed.start), (42, 7, 40, 41, 98765));
        assert!(parsed.threads == 3 && !parsed.is_dead() && Process { threads: 1, ..parsed.clone() }.is_dead());
        assert_eq!(parsed.name, "a) b (c");
        assert!(platform::parse_stat("42 (short) S").is_none());
        assert!(platform::parse_stat("").is_none());
    }

    #[test]
    fn below_walks_the_whole_tree_and_leaves_out_what_is_skipped() {
        let mut zombie = process(5, 3, "zombie");
        zombie.state = b'Z';
        let all = vec![
            process(2, 1, "root"),
            process(3, 2, "child"),
            process(4, 3, "grandchild"),
            zombie,
            process(6, 2, "foreign"),
            process(7, 6, "below-foreign"),
            process(8, 1, "stranger"),
        ];
        let mut found: Vec<i32> = select_below(all, vec![2], |p| p.name == "foreign").iter().map(|p| p.pid).collect();
        found.sort();
        assert_eq!(found, [3, 4]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_tree_is_measured_with_the_ports_on_which_it_listens() {
        let own = look_up(std::process::id() as i32).unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let usage = usage(&[own.parent, i32::MAX], |process| process.pid != own.pid);
        let tree = usage[0].as_ref().unwrap();
        assert!(tree.memory > 100_000 && tree.ports.contains(&port), "{tree:?}");
        assert_eq!(usage[1], None);
        assert_eq!(listener(port).map(|(pid, _)| pid), Some(own.pid));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn strangers_become_known_and_whoever_is_born_later_is_seen_in_every_look() {
        let own = std::process::id() as i32;
        let mut non_descendants = NonDescendants::default();
        for _ in 0..2 * NonDescendants::LOOKS {
            let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
            let mut seen = Vec::new();
            let found = non_descendants.below(own, |_| false, |process| seen.push(process.clone()));
            let is_seen = seen.iter().any(|process| process.pid == child.id() as i32 && process.parent == own);
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(is_seen && seen.len() == found.len(), "{seen:?}, {found:?}");
            assert!(non_descendants.pids.contains(&1) && !non_descendants.pids.contains(&own));
        }
    }

    #[test]
    fn we_find_ourselves() {
        let own = look_up(std::process::id() as i32).unwrap();
        assert!(own.is_same_as_now());
        assert!(!arguments(own.pid).is_empty());
    }
}
