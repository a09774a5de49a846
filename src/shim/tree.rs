//! All processes of a run, and how they are stopped: a state machine that the shim's loop calls, so that capturing continues
//! during the grace.
//!
//! On Linux the shim is a subreaper, so its subtree in /proc contains all of them, whatever sessions and double forks they
//! made. Elsewhere, where a sandbox does not let it be one, and after a shim was killed, they are the processes that carry the
//! run's mark, are in its session or hold its pipes, see [`family`](crate::procs::family).

use crate::procs::family::{self, Family, Session};
use crate::procs::{self, NonDescendants, Process};
use crate::rundir::{Pipes, RunDir, Status, StopReport};
use crate::sys;
use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

/// Time between two rounds of KILL: long enough for killed processes to be gone, short enough to keep up with processes that
/// fork.
const KILL_INTERVAL: Duration = Duration::from_millis(5);
/// After this many rounds the remaining processes cannot be killed quickly (uninterruptible), so rounds become less frequent.
const FAST_ROUNDS: u32 = 50;
/// Time between two rounds after that.
const SLOW_KILL_INTERVAL: Duration = Duration::from_millis(100);
/// After this time, the remaining processes are reported as survivors.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// The same as long as new processes appear: that is a race against forks, and on a busy machine it takes longer to win.
pub const FORKING_KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How many consecutive looks must find no process before none is assumed to exist.
const EMPTY_LOOKS: usize = 3;

/// The processes of one run.
pub struct Tree {
    leader: i32,
    family: Family,
    /// This process is the shim of the run, and so their ancestor.
    is_ancestor: bool,
    /// The shim is a subreaper: when it has no child left, no process of the run is left.
    is_exact: bool,
}

impl Tree {
    /// The processes of the run whose shim is this process. `mark` is the run's environment entry, `pipes` are its pipes, and
    /// `is_exact` means that this shim is a subreaper.
    pub fn new(leader: i32, mark: String, pipes: Option<Pipes>, is_exact: bool) -> Tree {
        // The session is ours as long as we live.
        let session = Session::new(std::process::id() as i32, u64::MAX / 2);
        Tree { leader, family: Family::new(mark, Some(session), pipes.map(family_pipes)), is_ancestor: true, is_exact }
    }

    /// Whether having no child left means that no process of the run is left.
    pub fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// The processes of a run whose shim was killed; `status` is the last one that it wrote.
    pub fn of_dead_shim(dir: &RunDir, status: &Status) -> Tree {
        let boot = procs::now().map(|(boot, _)| boot);
        let alive = status.alive.filter(|alive| Some(alive.boot) == boot); // after a reboot, all pids and ticks are different
        let session = alive.map(|alive| Session::new(status.shim_pid, alive.tick));
        let pipes = status.pipes.filter(|_| alive.is_some()).map(family_pipes);
        Tree { leader: 0, family: Family::new(dir.env_entry(), session, pipes), is_ancestor: false, is_exact: false }
    }

    /// The processes found now; none if looking fails.
    pub fn alive(&self) -> Vec<Process> {
        self.look().unwrap_or_default()
    }

    /// The processes found now.
    ///
    /// # Errors
    ///
    /// The system lacks the resources to look for processes.
    pub fn look(&self) -> io::Result<Vec<Process>> {
        self.visit_alive(&mut NonDescendants::default(), |_| ())
    }

    /// Like [`look`](Self::look), for callers that look repeatedly: `non_descendants` remembers processes that are not part of the
    /// run. `see` is called for each process as soon as it is found.
    fn visit_alive(
        &self,
        non_descendants: &mut NonDescendants,
        mut see: impl FnMut(&Process),
    ) -> io::Result<Vec<Process>> {
        let is_foreign = |process: &Process| self.is_foreign(process);
        let mut all = match self.is_ancestor {
            true => non_descendants.below(std::process::id() as i32, is_foreign, &mut see),
            false => Vec::new(),
        };
        if !(self.is_ancestor && self.is_exact) {
            let seen: Vec<i32> = all.iter().map(|process| process.pid).collect();
            let others = self.family.look(is_foreign)?.into_iter();
            all.extend(others.filter(|process| !seen.contains(&process.pid)).inspect(see));
        }
        Ok(all)
    }

    /// Like [`look`](Self::look), for callers that depend on there being no process. A look at the processes of a machine is not
    /// a snapshot: a process may fork and exit meanwhile so that neither it nor its child is found. So several looks must find
    /// nothing.
    pub fn confirmed_alive(&self) -> io::Result<Vec<Process>> {
        let is_conclusive = |look: &io::Result<Vec<Process>>| look.as_ref().map_or(true, |alive| !alive.is_empty());
        (0..EMPTY_LOOKS).map(|_| self.look()).find(is_conclusive).unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Whether none of these looks found a process.
    pub fn is_empty(&self) -> bool {
        self.confirmed_alive().is_ok_and(|alive| alive.is_empty())
    }

    /// Whether there are children, but only other servers and shims of persistproc, and their descendants. Each look must find
    /// at least one of these, otherwise it has missed a process.
    pub fn is_foreign_only(&self) -> bool {
        let look = || {
            let has_foreign = Cell::new(false);
            let is_foreign = |process: &Process| {
                let is_foreign = self.is_foreign(process);
                has_foreign.set(has_foreign.get() || is_foreign && !process.is_dead());
                is_foreign
            };
            procs::below(std::process::id() as i32, is_foreign).is_empty() && has_foreign.get()
        };
        (0..EMPTY_LOOKS).all(|_| look())
    }

    /// Signals exactly this process, never another one that got its pid.
    fn signal(&self, process: &Process, number: i32) -> io::Result<()> {
        if self.is_ancestor && process.parent == std::process::id() as i32 {
            return sys::kill(process.pid, number); // a child, and it is not reaped while we are here
        }
        sys::kill_exactly(process.pid, number, || process.is_same_as_now())
    }

    /// Whether this is another server or shim of persistproc that was started from inside this run (by `persistproc start`
    /// while no server was up): neither it nor its descendants are ours to signal. The leader itself always is.
    fn is_foreign(&self, process: &Process) -> bool {
        process.pid != self.leader && process.is_service()
    }
}

fn family_pipes(pipes: Pipes) -> family::Pipes {
    let Pipes { since, input, outputs } = pipes;
    family::Pipes { since, input, outputs }
}

/// The escalation: TERM once for each process, a grace, then rounds of KILL.
#[derive(Debug)]
pub enum Stop {
    NotRequested,
    /// TERM has been sent; killing begins at `until`.
    Terminating {
        until: Instant,
    },
    /// Every round kills all processes that it finds; after a timeout those that cannot be killed are reported.
    Killing {
        begun: Instant,
        next: Instant,
        rounds: u32,
        /// Pids found in the previous round.
        before: Vec<i32>,
        non_descendants: NonDescendants,
    },
    /// Survivors have been reported. A new request starts over.
    Failed,
}

impl Stop {
    /// Whether a stop of this run has been requested.
    pub fn is_requested(&self) -> bool {
        !matches!(self, Stop::NotRequested)
    }

    /// Handles a request to stop. A second one can only shorten the grace: no process is sent TERM twice, because many programs
    /// exit immediately on the second one. `leader_lives` means that the leader has not been reaped, so that its process group
    /// is still its own.
    pub fn request(&mut self, tree: &Tree, leader_lives: bool, grace: Duration, report: &mut StopReport) {
        let now = Instant::now();
        report.requests += 1;
        match self {
            Stop::Terminating { until } => *until = (*until).min(now + grace),
            Stop::Killing { .. } => {}
            Stop::NotRequested | Stop::Failed => {
                report.survivors.clear();
                let force = grace.is_zero();
                report.asked = if force { tree.alive().len() } else { terminate(tree, leader_lives) };
                *self = if force { Stop::killing(now) } else { Stop::Terminating { until: now + grace } };
            }
        }
    }

    fn killing(now: Instant) -> Stop {
        Stop::Killing {
            begun: now,
            next: now,
            rounds: 0,
            before: Vec::new(),
            non_descendants: NonDescendants::default(),
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Stop::Terminating { until } => Some(*until),
            Stop::Killing { next, .. } => Some(*next),
            Stop::NotRequested | Stop::Failed => None,
        }
    }

    /// Does whatever is due. True when it has given up, so that the survivors must be reported.
    pub fn tick(&mut self, tree: &Tree, report: &mut StopReport) -> bool {
        let now = Instant::now();
        if let Stop::Terminating { until } = *self
            && now >= until
        {
            *self = Stop::killing(now);
        }
        let Stop::Killing { begun, next, rounds, before, non_descendants } = self else { return false };
        if now < *next {
            return false;
        }
        let mut refused = 0;
        let seen = tree.visit_alive(non_descendants, |process| match tree.signal(process, sys::SIGKILL) {
            // Counted once per process, however many rounds it takes to die.
            Ok(()) => report.killed += usize::from(!before.contains(&process.pid)),
            Err(error) if error.raw_os_error() == Some(sys::EPERM) => refused += 1,
            Err(_) => {}
        });
        let alive = seen.unwrap_or_default();
        *rounds += 1;
        // A pause is for processes that are slow to die. It would give processes that fork the time to do so again.
        let pids: Vec<i32> = alive.iter().map(|process| process.pid).collect();
        // Finding none means that a process was missed, or is being reaped.
        let are_new = pids.is_empty() || pids.iter().any(|pid| !before.contains(pid));
        let pause = if *rounds < FAST_ROUNDS { KILL_INTERVAL } else { SLOW_KILL_INTERVAL };
        *next = if are_new { now } else { now + pause };
        let is_late = begun.elapsed() > if are_new { FORKING_KILL_TIMEOUT } else { KILL_TIMEOUT };
        // Waiting helps with processes that are slow to die, but not with those that we may not signal.
        let is_hopeless = !alive.is_empty() && refused == alive.len();
        if !is_late && !is_hopeless {
            *before = pids;
            return false;
        }
        report.survivors = pids;
        *self = Stop::Failed;
        true
    }
}

/// Sends TERM to the leader's group, then to the processes outside it, once each; and CONT to all, because a stopped process
/// does not handle TERM. Returns how many were alive.
fn terminate(tree: &Tree, leader_lives: bool) -> usize {
    let alive = tree.alive();
    let group = leader_lives && sys::kill_group(tree.leader, sys::SIGTERM).is_ok();
    for process in &alive {
        if !(group && process.group == tree.leader) {
            let _ = tree.signal(process, sys::SIGTERM);
        }
        // Regardless of the state in which it was found: it may have been stopped since. A running process ignores CONT,
        // unless it has a handler. (systemd sends it as well, see systemd.kill(5).)
        let _ = tree.signal(process, sys::SIGCONT);
    }
    alive.len()
}
