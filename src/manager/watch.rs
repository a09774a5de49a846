//! One run as the server sees it: a cache of its status, refreshed when the doorbell rings, and a condition to wait for.
//!
//! A live run has a thread that sleeps in a read of the `events` FIFO. End of file there means that the shim is gone. The
//! cache lags behind the files by one doorbell at most; waiters check again twice a second, so that a doorbell which another
//! program has read (`cat events`) costs half a second and not the answer.

use super::doorbell::DoorbellReader;
use super::notifier::{CHECK_INTERVAL, ChangeNotifier};
use crate::log::Stream;
use crate::log::read::Log;
use crate::rundir::{Meta, RunDir, StartError, State, Status, Unreadable};
use crate::shim::orphans;
use crate::sys;
use std::io::{self, Read};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A dying process closes its descriptors one by one: the lock may go a moment after the FIFO.
const LOCK_RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// When the system has no descriptors or threads left: how often to try again, and how long it may take to read the last
/// status of a run.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
const EXHAUSTED_MAX: Duration = Duration::from_secs(60);
const STACK: usize = 256 << 10;
/// How long a shim may take to begin a log anew that something has removed or emptied.
const LOG_RECREATED_TIMEOUT: Duration = Duration::from_millis(500);
/// What is wrong with a run without a directory.
const REMOVED: &str = "its directory was removed, so its output is not kept";

/// One run. Cheap to share; holds no file open.
pub struct Run {
    pub id: u64,
    pub dir: RunDir,
    /// Without its environment, which is large and full of secrets: a restart reads the file again.
    pub meta: Meta,
    seen: Mutex<Seen>,
    /// Its shim, if this server started it and has not reaped it yet.
    shim: Mutex<Option<Child>>,
    changed: Condvar,
    notifiers: Mutex<Vec<Weak<ChangeNotifier>>>,
    /// The end of its logs, cached when `list` first reads it after the run has ended.
    pub log_tail: OnceLock<LogTail>,
}

/// The end of the logs of a run, as `list` shows it.
#[derive(Clone, Debug, Default)]
pub struct LogTail {
    pub line: String,
    /// Invisible characters that were dropped from it.
    pub hidden: usize,
    pub lines: Option<u64>,
    pub log_bytes: u64,
}

struct Seen {
    status: Arc<Status>,
    /// The shim is gone, so nothing changes any more.
    is_over: bool,
    /// A thread follows its events; without one (the system allowed no more) waiters check the files themselves.
    is_followed: bool,
    /// It is over, and how it ended may not be on disk yet.
    is_unsaved: bool,
    /// Lost, and nothing of it is alive any more. Nothing else can come to belong to it, so this stays true.
    is_clean: bool,
    /// Counts what happened; tells a waiter that it must look.
    generation: u64,
}

/// What [`Run::follow`] tells when a run is over.
pub type OnEnd = Box<dyn FnOnce(&Run) + Send>;

impl Run {
    /// A run whose shim has just been started or was found on disk; call [`follow`](Self::follow) next.
    pub fn new(id: u64, dir: RunDir, meta: Meta) -> Run {
        let meta = Meta { environment: Vec::new(), ..meta };
        let seen = Seen {
            status: Arc::default(),
            is_over: false,
            is_followed: true,
            is_unsaved: false,
            is_clean: false,
            generation: 0,
        };
        Run {
            id,
            dir,
            meta,
            seen: Mutex::new(seen),
            shim: Mutex::default(),
            changed: Condvar::new(),
            notifiers: Mutex::default(),
            log_tail: OnceLock::new(),
        }
    }

    /// As users write it: `r12`.
    pub fn name(&self) -> String {
        format!("r{}", self.id)
    }

    /// What is kept of one of its logs; of a live run without a record that is just being written.
    /// `NotFound` if it was removed or moved away.
    pub fn log(&self, stream: Stream) -> io::Result<Log> {
        let is_over = self.is_over(); // before the log: who is gone then writes no more
        let log = self.whole_log(stream)?;
        if is_over { Ok(log) } else { log.without_torn() }
    }

    /// The same with a record that is just being written.
    pub fn whole_log(&self, stream: Stream) -> io::Result<Log> {
        let open = || Log::open(self.dir.path(), stream).map(|log| self.check(log, stream));
        let checked = open()?;
        if checked.is_ok() || self.is_over() {
            return checked;
        }
        // Its shim begins it anew as soon as it looks.
        super::messages::ask_to_look(self);
        let begun = Instant::now();
        while begun.elapsed() < LOG_RECREATED_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
            if let Ok(log) = open()? {
                return Ok(log);
            }
        }
        checked
    }

    /// Whether a log holds what the shim has written into it, the end at least.
    fn check(&self, log: Log, stream: Stream) -> io::Result<Log> {
        let written = self.status().bytes[stream.index()];
        let path = self.dir.path().join(stream.file_name());
        let what = match () {
            // A part of it is shown as what it is.
            _ if log.end() >= written || log.end() > log.start() => return Ok(log),
            _ if log.is_missing() => format!("{} was removed or moved away", path.display()),
            _ => format!("{} was emptied or replaced: it had {written} bytes", path.display()),
        };
        Err(io::Error::new(io::ErrorKind::NotFound, what))
    }

    /// Starts the thread that follows the events of the shim, or, if that is gone already, takes the final status.
    /// `shim` is the process if this server started it and so must reap it. `Err` with what the status has against being
    /// read.
    pub fn follow(self: &Arc<Run>, shim: Option<Child>, on_end: OnEnd) -> Result<(), String> {
        if shim.is_none() && !self.dir.is_shim_alive() {
            return self.refresh(true);
        }
        *self.lock_shim() = shim;
        let read = self.refresh(false);
        let run = self.clone();
        let follow = move || {
            run.listen();
            run.outlast_shim();
            run.conclude();
            on_end(&run);
        };
        let thread = std::thread::Builder::new().name(self.name()).stack_size(STACK).spawn(follow);
        self.lock().is_followed = thread.is_ok();
        read.and(thread.map(drop).map_err(|error| format!("no thread to follow it: {error}")))
    }

    /// Waits for the end of the shim. Mostly it has just closed the FIFO by that; but a program may have removed that FIFO,
    /// or put something else in its place.
    fn outlast_shim(&self) {
        let mut pause = Duration::from_millis(1);
        while self.has_shim() {
            std::thread::sleep(pause);
            pause = CHECK_INTERVAL.min(2 * pause);
            let _ = self.refresh(false);
        }
        let begun = Instant::now();
        while self.dir.is_shim_alive() && begun.elapsed() < LOCK_RELEASE_TIMEOUT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the shim lives. One that this server started is reaped when it has ended; then its lock may be held for a
    /// moment more, by a child of ours between its fork and its exec.
    fn has_shim(&self) -> bool {
        let mut shim = self.lock_shim();
        let Some(child) = &mut *shim else { return self.dir.is_shim_alive() };
        let lives = matches!(child.try_wait(), Ok(None));
        if !lives {
            *shim = None;
        }
        lives
    }

    fn lock_shim(&self) -> MutexGuard<'_, Option<Child>> {
        self.shim.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Until the shim is gone, whose end of the FIFO closes with it, or there is nothing to listen to.
    fn listen(&self) {
        let mut notifier = loop {
            match sys::open_fifo_reader(&self.dir.events()) {
                Ok(notifier) => break notifier,
                Err(error) if sys::is_exhaustion(&error) => std::thread::sleep(EXHAUSTED_PAUSE),
                Err(_) => return,
            }
        };
        let mut bytes = [0; 512];
        let mut reader = DoorbellReader::default();
        // What rang before the FIFO was open is caught up with here.
        let _ = self.refresh(false);
        loop {
            match notifier.read(&mut bytes) {
                Ok(0) => return,
                Ok(n) => {
                    let heard = reader.read(&bytes[..n]);
                    if let Some(status) = heard.status {
                        let _ = self.take(Some(Arc::new(status)), None, false, false);
                    }
                    if heard.is_changed { drop(self.refresh(false)) } else { self.notify() }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// The shim is gone: takes the final status, also if that needs patience.
    fn conclude(&self) {
        let begun = Instant::now();
        while matches!(self.dir.read_status(), Err(Unreadable::Exhausted(_))) && begun.elapsed() < EXHAUSTED_MAX {
            std::thread::sleep(EXHAUSTED_PAUSE);
        }
        let _ = self.refresh(true);
        // What only we know is there for the next server, if the disk takes it now.
        self.lock().is_unsaved = true;
        self.save();
    }

    /// Writes down what only we know, because the disk did not take it from the shim.
    fn save(&self) {
        let (is_unsaved, known) = {
            let seen = self.lock();
            (seen.is_unsaved, seen.status.clone())
        };
        if !is_unsaved {
            return;
        }
        let is_written = || matches!(self.dir.read_status(), Ok(written) if written.sequence >= known.sequence);
        let has_directory = self.dir.path().exists();
        if known.sequence == 0 || !has_directory || is_written() || self.dir.write_status(&known).is_ok() {
            self.lock().is_unsaved = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // The guarded values are replaced whole, so a panic elsewhere leaves nothing half done.
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Reads the status file; `shim_gone` says that it is final. `Err` with what is wrong with the file.
    fn refresh(&self, shim_gone: bool) -> Result<(), String> {
        let (read, problem) = match self.dir.read_status() {
            Ok(status) => (Some(Arc::new(status)), None),
            Err(Unreadable::Missing) => (None, None),
            Err(problem) => (None, Some(format!("status.json {}", super::describe_unreadable(&problem)))),
        };
        let is_removed = read.is_none() && problem.is_none() && !self.dir.path().exists();
        self.take(read, problem, is_removed, shim_gone)
    }

    /// Takes what was read of the status file. Two may read it at once, and the one with the older status come here last:
    /// what it brings is known to be older by its number.
    fn take(
        &self,
        read: Option<Arc<Status>>,
        problem: Option<String>,
        is_removed: bool,
        shim_gone: bool,
    ) -> Result<(), String> {
        let mut seen = self.lock();
        if seen.is_over {
            return Ok(());
        }
        // What was known before its directory was removed is better than nothing.
        let read = read.or_else(|| (is_removed && seen.status.pid > 0).then(|| without_directory(&seen.status)));
        if shim_gone {
            // What the shim has told and could not write is newer than what is written.
            let written = read.as_ref().map_or(0, |read| read.sequence);
            let is_known = seen.status.sequence > written && seen.status.pid > 0;
            seen.status = match is_known {
                true => conclude(Some(seen.status.clone()), None),
                false => conclude(read, problem.as_deref()),
            };
            seen.is_over = true;
        } else {
            match read {
                Some(status) if status.sequence >= seen.status.sequence && status != seen.status => {
                    seen.status = status
                }
                // Nothing new: a hundred waiters that check now and then must not wake each other.
                _ => return problem.map_or(Ok(()), Err),
            }
        }
        seen.generation += 1;
        drop(seen);
        self.wake();
        problem.map_or(Ok(()), Err)
    }

    /// Replaces the status of a run that is over by what is known better now.
    pub fn settle(&self, status: Status) {
        self.lock().status = Arc::new(status);
        self.notify();
    }

    /// Pids of what a killed shim has left alive, as far as it can be seen; none for a run that is not lost.
    pub fn orphans(&self) -> Vec<i32> {
        self.look_for_orphans().unwrap_or_default()
    }

    /// Whether a killed shim has left processes alive. None is believed to be gone just because it cannot be seen now.
    pub fn may_have_orphans(&self) -> bool {
        self.look_for_orphans().map_or(true, |pids| !pids.is_empty())
    }

    fn look_for_orphans(&self) -> io::Result<Vec<i32>> {
        let (may_have_some, status) = {
            let seen = self.lock();
            (seen.is_over && !seen.is_clean && seen.status.state == State::Lost, seen.status.clone())
        };
        if !may_have_some || self.dir.probe_shim()? {
            return Ok(Vec::new());
        }
        let pids = orphans::find(&self.dir, &status)?;
        self.lock().is_clean = pids.is_empty();
        Ok(pids)
    }

    /// Wakes all waiters, to check again.
    pub fn notify(&self) {
        self.lock().generation += 1;
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify_all();
        let notifiers = self.notifiers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        notifiers.iter().filter_map(Weak::upgrade).for_each(|notifier| notifier.notify());
    }

    /// Notifies `notifier` when something happens to this run, until it is dropped.
    pub fn subscribe(&self, notifier: &Arc<ChangeNotifier>) {
        let mut notifiers = self.notifiers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        notifiers.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(notifier)));
        notifiers.push(Arc::downgrade(notifier));
    }

    /// Looks at the status file, in case that a doorbell was swallowed.
    pub fn look(&self) {
        let (is_over, is_followed) = {
            let seen = self.lock();
            (seen.is_over, seen.is_followed)
        };
        if !is_over {
            let _ = self.refresh(!is_followed && !self.has_shim());
        }
    }

    /// Does what its thread would do, if it has none: reads its status, and reaps its shim.
    pub fn catch_up(&self) {
        if !self.lock().is_followed {
            self.look();
        }
        self.save();
    }

    /// The status as last seen.
    pub fn status(&self) -> Arc<Status> {
        self.lock().status.clone()
    }

    /// Whether the shim is gone, so that status and logs are final.
    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// If its program has ended: waits at most `limit` until the shim, which may still be draining the pipes, is gone too.
    /// A process that the program started and left keeps it there.
    pub fn let_go(&self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let generation = self.generation();
            let left = end.saturating_duration_since(Instant::now());
            if self.is_over() || self.status().leader_ended.is_none() || left.is_zero() {
                return;
            }
            self.wait(generation, left);
        }
    }

    /// To be asked for *before* looking at status and logs, and then given to [`wait`](Self::wait): what happens in
    /// between is not missed.
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Sleeps until something happened after `generation`, or until it is time to look again: after `limit`, at most
    /// [`CHECK_INTERVAL`].
    pub fn wait(&self, generation: u64, limit: Duration) {
        let seen = self.lock();
        let unchanged = |seen: &mut Seen| seen.generation == generation && !seen.is_over;
        let (seen, waited) = self
            .changed
            .wait_timeout_while(seen, limit.min(CHECK_INTERVAL), unchanged)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_followed = seen.is_followed;
        drop(seen);
        if waited.timed_out() && (limit >= CHECK_INTERVAL || !is_followed) {
            self.look();
        }
    }
}

// A status is large for the stack of a thread that does nearly nothing but wait, of which there is one per live run: so
// it goes around as an `Arc`, and these are not to become part of their callers.

#[inline(never)]
fn without_directory(known: &Status) -> Arc<Status> {
    Arc::new(Status { io_error: Some(REMOVED.into()), ..known.clone() })
}

/// Whether something of a run may be alive whose shim is gone, judged by its directory alone.
pub fn may_have_left_somebody(dir: &RunDir) -> bool {
    let status = match dir.read_status() {
        Ok(status) => conclude(Some(Arc::new(status)), None),
        Err(_) => Arc::new(Status { state: State::Lost, ..Status::default() }),
    };
    status.state == State::Lost && orphans::find(dir, &status).map_or(true, |pids| !pids.is_empty())
}

/// What is known of a run whose shim is gone.
#[inline(never)]
fn conclude(read: Option<Arc<Status>>, problem: Option<&str>) -> Arc<Status> {
    let unborn = || {
        let text = "it has no status: its server was killed before it could start it, or the disk took none".into();
        Status { error: Some(StartError { errno: 0, text }), ..Status::default() }
    };
    // A shim that could not start its command says when that ended. Without it the shim was killed, and perhaps between
    // the start of the command and the word of it.
    let was_cut = read.as_ref().is_some_and(|read| read.state == State::Failed && read.ended.is_none());
    let mut status = read.map_or_else(unborn, Arc::unwrap_or_clone);
    if let Some(problem) = problem {
        status.state = State::Lost;
        status.io_error = Some(problem.into());
    } else if status.state.is_live() || was_cut {
        status.state = State::Lost;
        status.error = None;
    }
    Arc::new(status)
}

#[cfg(test)]
mod tests;
