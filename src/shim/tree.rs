//! Everybody below a run, and how they are made to go away: a state machine that the shim's loop calls, so that
//! capturing goes on during the grace.
//!
//! Linux: the shim is a subreaper, so its subtree in /proc is all of them, whatever sessions and double forks they made.
//! Elsewhere, where a sandbox does not let it be one, and of a shim that was killed: what carries the mark of the run, is in
//! its session or holds its pipes, see [`family`](crate::procs::family).

use crate::procs::family::{self, Family, Session};
use crate::procs::{self, Process, Strangers};
use crate::rundir::{Pipes, RunDir, Status, StopReport};
use crate::sys;
use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

/// Between two rounds of KILL: long enough for the killed to be gone, short enough against those who fork.
const ROUND: Duration = Duration::from_millis(5);
/// After this many rounds the rest cannot be killed quickly (uninterruptible), so it is looked at less often.
const FAST_ROUNDS: u32 = 50;
const SLOW_ROUND: Duration = Duration::from_millis(100);
/// After this, whoever is left is reported as a survivor.
const GIVE_UP: Duration = Duration::from_secs(5);
/// The same as long as new ones come: that is a race with those who fork, and on a busy machine it takes longer to win.
pub const GIVE_UP_ON_FORKERS: Duration = Duration::from_secs(10);

/// How often nobody must be seen until nobody is believed to be there.
const LOOKS: usize = 3;

/// The processes of one run.
pub struct Tree {
    leader: i32,
    family: Family,
    /// The shim that looks is the one above them.
    is_ours: bool,
    /// It is a subreaper: "no child is left" says that nothing of the run is left.
    is_exact: bool,
}

impl Tree {
    /// All processes below this shim, whose pipes to them these are. `is_exact`: it is a subreaper.
    pub fn new(leader: i32, mark: String, pipes: Option<Pipes>, is_exact: bool) -> Tree {
        // The session is ours as long as we are here.
        let session = Session::new(std::process::id() as i32, u64::MAX / 2);
        Tree { leader, family: Family::new(mark, Some(session), pipes.map(held)), is_ours: true, is_exact }
    }

    /// Whether "no child is left" says that nothing of the run is left.
    pub fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// What a shim that was killed has left behind; `status` is the last that it wrote.
    pub fn left_behind(dir: &RunDir, status: &Status) -> Tree {
        let boot = procs::now().map(|(boot, _)| boot);
        let alive = status.alive.filter(|alive| Some(alive.boot) == boot); // before that, all numbers were others
        let session = alive.map(|alive| Session::new(status.shim_pid, alive.tick));
        let pipes = status.pipes.filter(|_| alive.is_some()).map(held);
        Tree { leader: 0, family: Family::new(dir.env_entry(), session, pipes), is_ours: false, is_exact: false }
    }

    /// Those who can be seen now.
    pub fn alive(&self) -> Vec<Process> {
        self.look().unwrap_or_default()
    }

    /// The same; an error says that the system had no room for looking.
    pub fn look(&self) -> io::Result<Vec<Process>> {
        self.see_alive(&mut Strangers::default(), |_| ())
    }

    /// The same for somebody who looks again and again, and so gets to know who is none of them. `see` gets each as soon
    /// as it is seen.
    fn see_alive(&self, strangers: &mut Strangers, mut see: impl FnMut(&Process)) -> io::Result<Vec<Process>> {
        let is_foreign = |process: &Process| self.is_foreign(process);
        let mut all = match self.is_ours {
            true => strangers.below(std::process::id() as i32, is_foreign, &mut see),
            false => Vec::new(),
        };
        if !(self.is_ours && self.is_exact) {
            let seen: Vec<i32> = all.iter().map(|process| process.pid).collect();
            let others = self.family.look(is_foreign)?.into_iter();
            all.extend(others.filter(|process| !seen.contains(&process.pid)).inspect(see));
        }
        Ok(all)
    }

    /// The same, where it matters that there is nobody. A look at the processes of a machine is no snapshot: who forks and
    /// ends meanwhile may be in none of it. So nobody must be seen several times.
    pub fn surely_alive(&self) -> io::Result<Vec<Process>> {
        let is_news = |look: &io::Result<Vec<Process>>| look.as_ref().map_or(true, |alive| !alive.is_empty());
        (0..LOOKS).map(|_| self.look()).find(is_news).unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Whether nobody was seen in all these looks.
    pub fn is_empty(&self) -> bool {
        self.surely_alive().is_ok_and(|alive| alive.is_empty())
    }

    /// Whether there are children, but only other servers and shims of ours, and what is below them: these are to be seen
    /// then, or else somebody was missed.
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
        (0..LOOKS).all(|_| look())
    }

    /// Signals this very process, or nobody.
    fn signal(&self, process: &Process, number: i32) -> io::Result<()> {
        if self.is_ours && process.parent == std::process::id() as i32 {
            return sys::kill(process.pid, number); // a child, and nobody reaps it while we are here
        }
        sys::kill_exactly(process.pid, number, || process.is_same_as_now())
    }

    /// Another server or shim of ours that was started from inside this run (somebody said `persistproc start` there
    /// while no server was up): not ours to signal, nor is anything below it. The leader itself always is.
    fn is_foreign(&self, process: &Process) -> bool {
        process.pid != self.leader && process.is_service()
    }
}

fn held(pipes: Pipes) -> family::Pipes {
    let Pipes { since, input, outputs } = pipes;
    family::Pipes { since, input, outputs }
}

/// The ladder: TERM once each, a grace, then rounds of KILL.
#[derive(Debug)]
pub enum Stop {
    No,
    /// TERM is out; at `until` it gets serious.
    Asked {
        until: Instant,
    },
    /// Every round kills whom it finds; at `give_up` those that cannot be killed are reported.
    Killing {
        begun: Instant,
        next: Instant,
        rounds: u32,
        /// Pids of the round before.
        before: Vec<i32>,
        strangers: Strangers,
    },
    /// Survivors were reported. A new request starts over.
    Failed,
}

impl Stop {
    /// Whether anybody has asked for the end of this run.
    pub fn is_wanted(&self) -> bool {
        !matches!(self, Stop::No)
    }

    /// A request to stop. A second one can only shorten the grace: nobody is sent TERM twice, because many programs take
    /// the second one as "at once". `leader_lives` says that the leader is not reaped, so that its group is still its.
    pub fn ask(&mut self, tree: &Tree, leader_lives: bool, grace: Duration, report: &mut StopReport) {
        let now = Instant::now();
        report.requests += 1;
        match self {
            Stop::Asked { until } => *until = (*until).min(now + grace),
            Stop::Killing { .. } => {}
            Stop::No | Stop::Failed => {
                report.survivors.clear();
                let force = grace.is_zero();
                report.asked = if force { tree.alive().len() } else { terminate(tree, leader_lives) };
                *self = if force { Stop::killing(now) } else { Stop::Asked { until: now + grace } };
            }
        }
    }

    fn killing(now: Instant) -> Stop {
        Stop::Killing { begun: now, next: now, rounds: 0, before: Vec::new(), strangers: Strangers::default() }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Stop::Asked { until } => Some(*until),
            Stop::Killing { next, .. } => Some(*next),
            Stop::No | Stop::Failed => None,
        }
    }

    /// Does what is due. True when it gave up, so that whoever waits must be told of the survivors.
    pub fn tick(&mut self, tree: &Tree, report: &mut StopReport) -> bool {
        let now = Instant::now();
        if let Stop::Asked { until } = *self
            && now >= until
        {
            *self = Stop::killing(now);
        }
        let Stop::Killing { begun, next, rounds, before, strangers } = self else { return false };
        if now < *next {
            return false;
        }
        let mut refused = 0;
        let seen = tree.see_alive(strangers, |process| match tree.signal(process, sys::SIGKILL) {
            // Once for each, however many rounds it takes to die.
            Ok(()) => report.killed += usize::from(!before.contains(&process.pid)),
            Err(error) if error.raw_os_error() == Some(sys::EPERM) => refused += 1,
            Err(_) => {}
        });
        let alive = seen.unwrap_or_default();
        *rounds += 1;
        // A pause is for those that are slow to die. It would give those that fork the time to do it again.
        let pids: Vec<i32> = alive.iter().map(|process| process.pid).collect();
        // That nobody was seen means that somebody was missed, or is being reaped.
        let are_new = pids.is_empty() || pids.iter().any(|pid| !before.contains(pid));
        let pause = if *rounds < FAST_ROUNDS { ROUND } else { SLOW_ROUND };
        *next = if are_new { now } else { now + pause };
        let is_late = begun.elapsed() > if are_new { GIVE_UP_ON_FORKERS } else { GIVE_UP };
        // Waiting helps with those that are slow to die, not with those that we may not signal.
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

/// TERM to the group, then to those outside it, once each; and CONT to all, because a stopped process does not hear it.
/// Tells how many were alive.
fn terminate(tree: &Tree, leader_lives: bool) -> usize {
    let alive = tree.alive();
    let group = leader_lives && sys::kill_group(tree.leader, sys::SIGTERM).is_ok();
    for process in &alive {
        if !(group && process.group == tree.leader) {
            let _ = tree.signal(process, sys::SIGTERM);
        }
        // Whatever its state was when it was seen: it may have been stopped since. A process that runs ignores it, unless
        // it has a handler. (So does systemd, see systemd.kill(5).)
        let _ = tree.signal(process, sys::SIGCONT);
    }
    alive.len()
}
