//! The processes of a run above which nothing is left: a shim that was killed leaves them to init(1), so their parents do not
//! tell any more. Two things do:
//!
//! * the **mark**, a variable that each of them inherited, as long as it has not cleaned or overwritten its environment;
//! * the **session**: the shim made one, and a process leaves it only for one of its own.
//!
//! What is below one of these by its parents belongs to them, too.
//!
//! A session is a number, the pid of the process that made it, and numbers are used again. The kernel gives out none that a
//! session still has; but when the last process of that session has gone, a stranger may get the number and make a session of
//! it. So the session is believed in only if one process in it is older than the last moment in which the shim was surely
//! alive. That one was born into the session when the number was the shim's, it has kept the number in use ever since, and
//! so everything that is in the session now belongs to the run. With no such process the session is not looked at, even if
//! that means that nobody is found: a stranger must not be stopped.
//!
//! Each look that finds the session to be ours says so of a later moment: members that it saw may have gone by the next
//! look, and others, which they made meanwhile, are then old enough.

use super::{Process, everybody, platform, select_below};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;

/// By how much a process may be younger than the last moment, in hundredths of a second: clocks tick, and looking takes
/// time. Numbers are given out in a circle (idr_alloc_cyclic in the kernel), so that one comes again only when all others,
/// tens of thousands, have been given out; that takes longer.
const MARGIN: u64 = 10;

/// A session that was certainly that of the run at some moment.
#[derive(Debug)]
pub struct Session {
    id: i32,
    known_until: Cell<u64>,
}

impl Session {
    /// `tick` is a moment of this start of the system in which the session was that of the run; see [`super::now`].
    pub fn new(id: i32, tick: u64) -> Session {
        Session { id, known_until: Cell::new(tick) }
    }

    /// The members among `all`, if the session is still that of the run. `tick` is when the look began.
    fn members(&self, all: &[Process], tick: Option<u64>) -> BTreeSet<i32> {
        // The shim itself may be there as a zombie that init has not asked for.
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

/// What tells the processes of one run.
#[derive(Debug)]
pub struct Family {
    mark: String,
    session: Option<Session>,
}

impl Family {
    /// `mark` is `NAME=value`.
    pub fn new(mark: String, session: Option<Session>) -> Family {
        Family { mark, session }
    }

    /// All of them that live, without those that `skip` names and all that is below these. Another user's process is
    /// recognised only by root, or by its session. An error says that the system had no room for looking, which is no news.
    pub fn look(&self, skip: impl Fn(&Process) -> bool) -> io::Result<Vec<Process>> {
        let tick = super::now().map(|(_, tick)| tick);
        let all = everybody()?;
        let mut members = self.session.as_ref().map_or_else(BTreeSet::new, |session| session.members(&all, tick));
        // What a server of ours that was started in here has below it is in the same session, and still not of this run.
        let is_foreign = |process: &&Process| members.contains(&process.pid) && skip(process);
        let foreign: Vec<i32> = all.iter().filter(is_foreign).map(|process| process.pid).collect();
        for process in select_below(all.clone(), foreign.clone(), |_| false) {
            members.remove(&process.pid);
        }
        members.retain(|pid| !foreign.contains(pid));
        let (holders, mut found, mut others) = (platform::Holders::of(&self.mark), Vec::new(), Vec::new());
        for process in all {
            let is_own =
                members.contains(&process.pid) || !process.is_dead() && holders.have(process.pid)? && !skip(&process);
            if is_own { found.push(process) } else { others.push(process) }
        }
        found.extend(select_below(others, found.iter().map(|process| process.pid).collect(), skip));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, session: i32, start: u64) -> Process {
        Process { pid, parent: 1, group: pid, session, start, state: b'S', threads: 1, name: "x".into() }
    }

    #[test]
    fn a_session_is_believed_in_only_with_a_member_from_the_days_of_the_shim() {
        let margin = MARGIN * platform::ticks_per_second() / 100;
        let pids = |session: &Session, all: &[Process], tick| Vec::from_iter(session.members(all, Some(tick)));
        let (young, old) = (process(51, 50, 9000), process(52, 50, 1000 + margin));
        let (stranger, shim) = (process(53, 53, 10), process(50, 50, 900));
        // The number was used again: all that is in the session came later, also if its maker has gone.
        let reused = [process(50, 50, 8000), young.clone(), stranger.clone()];
        assert_eq!(pids(&Session::new(50, 1000), &reused, 9500), [0; 0]);
        assert_eq!(pids(&Session::new(50, 1000), &reused[1..], 9500), [0; 0]);
        // One that lived then keeps the number in use, so the others are of the run, too.
        let session = Session::new(50, 1000);
        assert_eq!(pids(&session, &[shim.clone(), young.clone(), old.clone(), stranger.clone()], 9500), [51, 52]);
        // Now that this is known, what was there is enough without it.
        assert_eq!(pids(&session, &[young.clone(), stranger.clone()], 9600), [51]);
        // But not the young one alone for somebody who has not seen that.
        assert_eq!(pids(&Session::new(50, 1000), &[young, stranger], 9600), [0; 0]);
        // A dead one keeps a number, too, but who knows for how long.
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
            let family = Family::new("PERSISTPROC_RUN=/nowhere".into(), Some(Session::new(id, tick)));
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
