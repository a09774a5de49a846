//! The processes of a run whose shim was killed. init(1) adopts them, so their parents no longer tell that they belong
//! together. Three things do:
//!
//! * the **mark**, a variable that each of them inherits, unless a process cleans or overwrites its environment;
//! * the **session**, which the shim made and which a process leaves only for one of its own;
//! * the **pipes** between the shim and the program: a daemon that has left the other two often still has its output there.
//!   Only the ends of the program count, and only in processes that are younger than the pipes: an older one, such as a
//!   server of the desktop, can only have been handed them.
//!
//! The descendants of a process that has one of these belong to the run as well.
//!
//! A session is a number: the pid of the process that made it. The kernel does not give out a number that a session has,
//! but when the last process of the session has ended, an unrelated process may get that number and make a session of it.
//! So the session counts only if a process in it is not younger than the last moment at which the shim was certainly alive
//! (it writes that into its status). That process was born into the session while the number was the shim's, and has kept
//! the number in use ever since; so everything in the session belongs to the run. Without such a process the session is
//! ignored, even if the processes in it belong to the run after all: an unrelated process must never be stopped.
//!
//! Each look that proves the session to be the run's moves that moment forward, so that during a stop the children of
//! processes that have just been killed are found, too.

use super::{Process, all_processes, platform, select_below};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;

/// By how much a process may be younger than that moment, in hundredths of a second: the clock has ticks, and a look takes
/// time. The kernel gives out pids in a circle (idr_alloc_cyclic), so a number comes again only after all others, tens of
/// thousands, have been given out, and that takes longer than this.
const MARGIN: u64 = 10;

/// A session that was certainly the run's at some moment.
#[derive(Debug)]
pub struct Session {
    id: i32,
    known_until: Cell<u64>,
}

impl Session {
    /// `tick` is a moment at which the session was the run's, since the present start of the system; see [`super::now`].
    pub fn new(id: i32, tick: u64) -> Session {
        Session { id, known_until: Cell::new(tick) }
    }

    /// The members among `all`, if the session is still the run's. `tick` is when the look began.
    fn members(&self, all: &[Process], tick: Option<u64>) -> BTreeSet<i32> {
        // Not the shim itself: its lock was found free, so it is a zombie at most.
        let is_member = |process: &&Process| process.session == self.id && process.pid != self.id && !process.is_dead();
        let oldest = all.iter().filter(is_member).map(|process| process.start).min();
        let margin = MARGIN * platform::ticks_per_second() / 100;
        if self.id <= 1 || oldest.is_none_or(|oldest| oldest > self.known_until.get() + margin) {
            return BTreeSet::new();
        }
        self.known_until.set(self.known_until.get().max(tick.unwrap_or(0)));
        all.iter().filter(is_member).map(|process| process.pid).collect()
    }
}

/// The pipes of a run, by their inodes.
#[derive(Clone, Copy, Debug)]
pub struct Pipes {
    /// When they were made, since the present start of the system; see [`super::now`].
    pub since: u64,
    pub input: u64,
    pub outputs: [u64; 2],
}

impl Pipes {
    /// Whether a process holds the program's end of one of them.
    fn are_held_by(&self, process: &Process) -> io::Result<bool> {
        let margin = MARGIN * platform::ticks_per_second() / 100;
        if process.start + margin < self.since {
            return Ok(false);
        }
        let is_own = |(inode, is_written): &(u64, bool)| match is_written {
            true => self.outputs.contains(inode),
            false => self.input == *inode,
        };
        Ok(platform::pipes(process.pid)?.iter().any(is_own))
    }
}

/// What tells the processes of one run.
#[derive(Debug)]
pub struct Family {
    mark: String,
    session: Option<Session>,
    pipes: Option<Pipes>,
}

impl Family {
    /// `mark` is `NAME=value`.
    pub fn new(mark: String, session: Option<Session>, pipes: Option<Pipes>) -> Family {
        Family { mark, session, pipes }
    }

    /// All of them that live, without those that `skip` names and all that is below these. Another user's process is
    /// recognised only by root, or by its session. An error means that the system had no resources for the lookup, which says nothing of the process.
    pub fn look(&self, skip: impl Fn(&Process) -> bool) -> io::Result<Vec<Process>> {
        let tick = super::now().map(|(_, tick)| tick);
        let all = all_processes()?;
        let members = self.session.as_ref().map_or_else(BTreeSet::new, |session| session.members(&all, tick));
        let members = without_skipped(members, &all, &skip);
        let (holders, mut found, mut others) = (platform::Holders::of(&self.mark), Vec::new(), Vec::new());
        for process in all {
            let holds_pipes = || self.pipes.map_or(Ok(false), |pipes| pipes.are_held_by(&process));
            let is_own = members.contains(&process.pid)
                || !process.is_dead() && (holders.have(process.pid)? || holds_pipes()?) && !skip(&process);
            if is_own { found.push(process) } else { others.push(process) }
        }
        found.extend(select_below(others, found.iter().map(|process| process.pid).collect(), skip));
        Ok(found)
    }
}

/// `members` without those that `skip` names and their descendants: these may be in the same session, as below a server of
/// ours that was started from inside the run.
fn without_skipped(members: BTreeSet<i32>, all: &[Process], skip: impl Fn(&Process) -> bool) -> BTreeSet<i32> {
    let is_skipped = |process: &&Process| members.contains(&process.pid) && skip(process);
    let skipped: Vec<i32> = all.iter().filter(is_skipped).map(|process| process.pid).collect();
    if skipped.is_empty() {
        return members;
    }
    let below = select_below(all.to_vec(), skipped.clone(), |_| false);
    let out: BTreeSet<i32> = below.iter().map(|process| process.pid).chain(skipped).collect();
    &members - &out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, session: i32, start: u64) -> Process {
        Process { pid, parent: 1, group: pid, session, start, state: b'S', threads: 1, name: "x".into() }
    }

    #[test]
    fn members_below_a_skipped_one_are_skipped() {
        let below = |pid: i32, parent: i32| Process { parent, ..process(pid, 50, 1) };
        let all = [below(51, 1), below(52, 51), below(53, 52), below(54, 1), process(55, 55, 1)];
        let members = BTreeSet::from([51, 52, 53, 54]);
        assert_eq!(without_skipped(members.clone(), &all, |process| process.pid == 52), BTreeSet::from([51, 54]));
        assert_eq!(without_skipped(members.clone(), &all, |process| process.pid == 55), members);
    }

    #[test]
    fn a_session_counts_only_with_a_member_from_the_time_of_the_shim() {
        let margin = MARGIN * platform::ticks_per_second() / 100;
        let pids = |session: &Session, all: &[Process], tick| Vec::from_iter(session.members(all, Some(tick)));
        let (young, old) = (process(51, 50, 9000), process(52, 50, 1000 + margin));
        let (stranger, shim) = (process(53, 53, 10), process(50, 50, 900));
        // The number was used again: everything in the session came later, also if the process that made it has ended.
        let reused = [process(50, 50, 8000), young.clone(), stranger.clone()];
        assert_eq!(pids(&Session::new(50, 1000), &reused, 9500), [0; 0]);
        assert_eq!(pids(&Session::new(50, 1000), &reused[1..], 9500), [0; 0]);
        // A process that lived then keeps the number in use, so the others belong to the run, too.
        let session = Session::new(50, 1000);
        assert_eq!(pids(&session, &[shim.clone(), young.clone(), old.clone(), stranger.clone()], 9500), [51, 52]);
        // Now that this is known, the others are enough.
        assert_eq!(pids(&session, &[young.clone(), stranger.clone()], 9600), [51]);
        // But not where it is not known.
        assert_eq!(pids(&Session::new(50, 1000), &[young, stranger], 9600), [0; 0]);
        // A zombie proves nothing by itself: what it was is over.
        let zombie = Process { state: b'Z', ..old };
        assert_eq!(pids(&Session::new(50, 1000), &[shim, zombie], 9500), [0; 0]);
        assert_eq!(pids(&Session::new(1, 1000), &[process(2, 1, 5)], 9500), [0; 0]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_found_by_its_session_and_so_is_what_it_starts() {
        let mut command = std::process::Command::new("setsid");
        // Whether it forks first depends on its parent, so the number is asked for.
        command.args(["env", "-i", "/bin/sh", "-c", "echo $$; sleep 5000 & read never; kill $!"]);
        let pipes = || std::process::Stdio::piped();
        let mut leader = command.stdin(pipes()).stdout(pipes()).spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(leader.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let id: i32 = line.trim().parse().unwrap();
        let (_, tick) = super::super::now().unwrap();
        let look = |tick: u64| {
            let family = Family::new("PERSISTPROC_RUN=/nowhere".into(), Some(Session::new(id, tick)), None);
            family.look(|_| false).unwrap().len()
        };
        let begun = std::time::Instant::now();
        while look(tick) == 0 && begun.elapsed().as_secs() < 60 {
            std::thread::yield_now(); // until it has a child; it is the maker of the session, as a shim is
        }
        let found = (look(tick), look(tick.saturating_sub(1_000_000)));
        drop(leader.stdin.take());
        leader.wait().unwrap();
        assert_eq!(found, (1, 0));
    }
}
