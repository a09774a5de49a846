//! Start, stop, restart and list. Knows runs and their files, no sockets and no protocol; holds nothing that is not on
//! disk, so that a server may be killed at any moment.
//!
//! Several callers at once: starting and restarting lock the label (see [`locks`]), so that of two starts one wins and two
//! restarts never overlap; stopping needs no lock.

mod describe;
mod doorbell;
mod label;
mod launch;
mod locks;
pub mod lookup;
mod lost;
mod messages;
pub mod notifier;
mod orders;
pub mod registry;
mod start_gate;
pub mod watch;

pub use crate::api::IfRunning;
use crate::api::Process;
use crate::attributes::Attributes;
use crate::error::Error;
use crate::lease;
use crate::log::stamp::{format_ms, now_ms};
use crate::os_text::{self, OsText};
use crate::rundir::{FORMAT_VERSION, Meta, RunDir, State, Status};
use crate::shim::orphans;
pub use describe::{Usage, age, describe, describe_end, describe_unreadable, problem, usage};
use locks::{LockGuard, LockKey, Locks};
use lookup::Target;
use messages::ask_to_stop;
use registry::{Notify, Registry};
use start_gate::{RestartPermit, StartGate};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use watch::Run;

/// Between asking nicely and killing.
pub const GRACE: Duration = Duration::from_secs(8);
/// What stopping may take beyond the grace: rounds of KILL, the last bytes onto a slow disk.
const BEYOND_GRACE: Duration = Duration::from_secs(12);
/// How long a shim may take to be gone when it was killed.
const SHIM_KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest stop: the shim takes all the time it has, is killed then, and its processes are left to us to kill.
const STOP_MAX: Duration =
    GRACE.saturating_add(BEYOND_GRACE).saturating_add(SHIM_KILL_TIMEOUT).saturating_add(orphans::STOP_OVERHEAD_MAX);
/// How long [`Manager::leave`] may take: the longest restart that can have begun. What waits for a server to leave has to
/// wait longer than this.
pub const LEAVE_MAX: Duration = STOP_MAX.saturating_add(launch::START_MAX);
/// How long a shim that was just being started by a server that is gone may take.
const SHIM_BIRTH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the shim of a program that has ended may take to read its last bytes and go.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_millis(500);

/// What a command is started with.
#[derive(Clone, Debug)]
pub struct Request {
    pub argv: Vec<OsText>,
    /// Absolute.
    pub working_directory: PathBuf,
    pub environment: Vec<(OsText, OsText)>,
    /// `None`: `<command> in <directory>`.
    pub label: Option<String>,
    /// Names this request. Sent again, because its answer was lost with a server, it starts nothing a second time.
    pub idempotency_key: Option<String>,
    /// The lease of the command that is going to read it, see [`lease`].
    pub reader: Option<String>,
    pub attributes: Attributes,
}

/// A run, and whether this request started it.
pub struct Started {
    pub run: Arc<Run>,
    pub is_new: bool,
}

/// How a stop went.
pub struct Stopped {
    pub status: Arc<Status>,
    /// It had ended before.
    pub was_over: bool,
}

/// The server that all this belongs to, for `list --pid 0`.
#[derive(Clone, Debug)]
pub struct About {
    pub pid: u32,
    /// 0 if it has none.
    pub port: u16,
    pub started: u64,
    pub command: Vec<String>,
    pub log: PathBuf,
}

pub struct Manager {
    registry: Arc<Registry>,
    locks: Arc<Locks>,
    about: About,
    max_log_bytes: u64,
    start_gate: StartGate,
    is_leaving: AtomicBool,
}

impl Manager {
    /// Finds all runs below `data_dir`. `notify` gets what belongs into the server's log.
    pub fn open(data_dir: &Path, max_log_bytes: u64, about: About, notify: Notify) -> io::Result<Manager> {
        let registry = Registry::open(data_dir.join("runs"), notify)?;
        let (start_gate, is_leaving) = Default::default();
        Ok(Manager { registry, locks: Arc::default(), about, max_log_bytes, start_gate, is_leaving })
    }

    /// Starts a command, or does what `if_running` says. Errors name what was missing.
    pub fn start(&self, request: Request, if_running: IfRunning) -> Result<Started, Error> {
        let working_directory = launch::working_directory(&request.working_directory)?;
        let command = os_text::quote(&request.argv);
        if request.argv.first().is_none_or(|program| program.0.is_empty()) {
            return Err(Error::invalid("the command is empty"));
        }
        let default = || format!("{} in {}", os_text::brief(&command), os_text::brief(&working_directory.shown()));
        let label = request.label.as_deref().map(str::trim).map_or_else(default, String::from);
        label::check(&label)?;
        let guard = self.locks.lock(LockKey::Label(label.clone()))?;
        if let Some(run) = request.idempotency_key.as_deref().and_then(|key| self.started_by(key)) {
            return Ok(Started { run, is_new: true });
        }
        let same = |run: &Run| is_same(run, &request, &working_directory);
        // A client that saw a program end may start the next one at once.
        let before = self.registry.all().into_iter().filter(|run| run.meta.label == label || same(run));
        before.for_each(|run| run.let_go(LAST_BYTES_TIMEOUT));
        // Without a label of its own it is also found under another one.
        let unnamed = || self.live_run(same).filter(|_| request.label.is_none());
        let live = self.live_run(|run| run.meta.label == label).or_else(unnamed);
        let replaced = match (&live, if_running) {
            (None, _) => None,
            (Some(live), IfRunning::Replace) => Some(live.clone()),
            (Some(live), IfRunning::Attach) if same(live) && !live.is_over() => {
                self.attach(live, request.reader.as_deref());
                return Ok(Started { run: live.clone(), is_new: false });
            }
            (Some(live), _) => return Err(already_running(live, &request.argv, &working_directory)),
        };
        let meta = Meta {
            version: FORMAT_VERSION,
            argv: request.argv,
            working_directory,
            environment: request.environment,
            label,
            created: now_ms(),
            previous: replaced.as_ref().map(|live| live.id),
            max_log_bytes: self.max_log_bytes,
            idempotency_key: request.idempotency_key,
            attributes: Some(request.attributes),
        };
        match replaced {
            Some(live) => self.replace(guard, &live, meta, GRACE, request.reader.as_deref()),
            None => self.launch_and_unlock(guard, meta, request.reader.as_deref(), None),
        }
    }

    /// A live run of the same command in the same directory, whatever its label.
    pub fn running(&self, request: &Request) -> Option<Arc<Run>> {
        let directory = launch::working_directory(&request.working_directory).ok()?;
        self.live_run(|run| is_same(run, request, &directory))
    }

    /// Launches, unlocks the label, and then wakes requests that wait: they may go on with this run. `restart` if another
    /// one was stopped for it.
    fn launch_and_unlock(
        &self,
        guard: LockGuard,
        meta: Meta,
        reader: Option<&str>,
        restart: Option<RestartPermit>,
    ) -> Result<Started, Error> {
        let permit = restart.as_ref().map_or_else(|| self.start_gate.start(), RestartPermit::start);
        let launched = permit.and_then(|_permit| self.launch(meta, reader));
        drop(guard);
        // A wait for several processes may be one for new ones, too.
        self.registry.all().iter().for_each(|run| run.notify());
        launched.map(|run| Started { run, is_new: true })
    }

    /// The run that a request started through a server that is gone. One whose shim was not born with it does not count.
    fn started_by(&self, key: &str) -> Option<Arc<Run>> {
        let runs = self.registry.all();
        let run = runs.into_iter().rev().find(|run| run.meta.idempotency_key.as_deref() == Some(key))?;
        self.is_born(&run).then_some(run)
    }

    /// Whether the shim of a run has started its command, which it may be about to do.
    fn is_born(&self, run: &Run) -> bool {
        let end = Instant::now() + SHIM_BIRTH_TIMEOUT;
        while run.status().pid == 0 && !run.is_over() && Instant::now() < end {
            let generation = run.generation();
            run.wait(generation, end.saturating_duration_since(Instant::now()));
        }
        // One that is slow is about to.
        run.status().pid != 0 || !run.is_over()
    }

    /// From now on the reader with this lease is known to read `run`. It reads all the same if that fails.
    pub fn attach(&self, run: &Run, reader: Option<&str>) {
        let _ = reader.map(|reader| lease::link(self.registry.data_dir(), reader, run.dir.path()));
    }

    fn launch(&self, meta: Meta, reader: Option<&str>) -> Result<Arc<Run>, Error> {
        let id = self.registry.next_id();
        let previous = meta.previous.and_then(|previous| self.registry.get(previous));
        let attach = |dir: &RunDir| {
            previous.iter().for_each(|previous| lease::carry_over(previous.dir.path(), dir.path()));
            let _ = reader.map(|reader| lease::link(self.registry.data_dir(), reader, dir.path()));
        };
        let (dir, lock) = launch::prepare(&self.registry.dir, id, &meta, attach)?;
        let (shim, started) = launch::start_shim(&dir, lock, &meta);
        let run = Arc::new(Run::new(id, dir, meta));
        self.registry.adopt(run.clone(), shim);
        if started.is_err() {
            self.registry.retire(); // it had no end at which that would be done
        }
        started.map(|()| {
            self.registry.notice(format!("{} '{}' started, PID {}", run.name(), run.meta.label, run.status().pid));
            run
        })
    }

    /// Ends everything below a run, asks first and kills after `grace`. Asking again, or for a run that has ended, does
    /// no harm. An error names the survivors.
    fn stop_now(&self, run: &Run, grace: Duration) -> Result<Stopped, Error> {
        let polite = Instant::now() + grace;
        let end = polite + BEYOND_GRACE;
        if run.is_over() {
            return self.stop_orphans(run, polite, end);
        }
        let requests = run.status().stop.as_ref().map_or(0, |stop| stop.requests);
        orphans::continue_shim(&run.dir, run.status().shim_pid);
        ask_to_stop(run, grace, end)?;
        let mut is_killed = false;
        loop {
            let generation = run.generation();
            let status = run.status();
            if run.is_over() {
                // Its shim may have been killed meanwhile, before it was done.
                return self.stop_orphans(run, polite, end).map(|stopped| Stopped { was_over: false, ..stopped });
            }
            let survivors = status.stop.as_ref().filter(|stop| stop.requests > requests && !stop.survivors.is_empty());
            if let Some(stop) = survivors {
                return Err(not_gone(run, &stop.survivors));
            }
            orphans::continue_shim(&run.dir, status.shim_pid);
            let mut left = end.saturating_duration_since(Instant::now());
            if left.is_zero() && !is_killed && orphans::kill_frozen_shim(&run.dir, status.shim_pid).is_ok() {
                is_killed = true;
            }
            if is_killed {
                left = (end + SHIM_KILL_TIMEOUT).saturating_duration_since(Instant::now());
            }
            if left.is_zero() {
                return Err(Error::failed(format!(
                    "'{}' did not end in time; its shim (PID {}) may be starved, or its control group frozen: see to that, and try again",
                    run.meta.label, status.shim_pid
                )));
            }
            run.wait(generation, left);
        }
    }

    /// No more starts from now on; those that have begun are waited for, so that [`live`](Self::live) then tells all.
    /// Wakes all requests that wait, so that they can see it.
    pub fn close(&self) {
        self.start_gate.close(launch::START_MAX);
        self.withdraw_restarts();
        self.registry.all().iter().for_each(|run| run.notify());
    }

    /// The server goes, the processes stay: what was stopped to be started again is started again first, which takes at
    /// most [`LEAVE_MAX`], and then no request waits any longer.
    pub fn leave(&self) {
        self.start_gate.close_after_restarts(LEAVE_MAX);
        self.is_leaving.store(true, Ordering::SeqCst);
        self.registry.all().iter().for_each(|run| run.notify());
    }

    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::SeqCst)
    }

    /// Asks all of `runs` to stop, without waiting for any; [`stop`](Self::stop) waits.
    pub fn ask_all(&self, runs: &[Arc<Run>], grace: Duration) {
        for run in runs {
            let _ = ask_to_stop(run, grace, Instant::now() + Duration::from_secs(1));
        }
    }

    /// The run that `target` means.
    pub fn find(&self, target: &Target) -> Result<Arc<Run>, Error> {
        lookup::find(&self.registry.all(), target)
    }

    /// The runs that `target` means, the newest of each process.
    pub fn find_all(&self, target: &Target) -> Result<Vec<Arc<Run>>, Error> {
        lookup::find_all(&self.registry.all(), target)
    }

    /// All runs that are kept, oldest first.
    pub fn runs(&self) -> Vec<Arc<Run>> {
        self.registry.all()
    }

    pub fn get(&self, id: u64) -> Option<Arc<Run>> {
        self.registry.get(id)
    }

    /// The run that took the place of run `id`, if one did.
    pub fn successor(&self, id: u64) -> Option<Arc<Run>> {
        // The newest: one that was never born, because its server was killed, was started again.
        self.registry.all().into_iter().rev().find(|run| run.meta.previous == Some(id))
    }

    /// Whether a request is just starting or restarting the process of this label.
    pub fn is_being_started(&self, label: &str) -> bool {
        self.locks.is_locked(&LockKey::Label(label.into()))
    }

    /// The newest run of each process that fits, oldest first.
    pub fn list(&self, target: &Target) -> Result<Vec<Arc<Run>>, Error> {
        if target.selector.is_some() {
            return self.find_all(target);
        }
        let runs: Vec<Arc<Run>> = self
            .registry
            .all()
            .into_iter()
            .filter(|run| lookup::is_in(run, target.working_directory.as_deref()))
            .collect();
        Ok(lookup::newest_per_label(&runs))
    }

    /// The server itself, as a process.
    pub fn own_process(&self) -> Process {
        let About { pid, port, started, command, log } = &self.about;
        let log = log.display().to_string();
        Process {
            run: String::new(),
            pid: *pid as i32,
            label: format!("persistproc {} {}", env!("CARGO_PKG_VERSION"), on_port(*port)),
            command: command.clone(),
            working_directory: self.registry.dir.parent().unwrap_or(&self.registry.dir).display().to_string(),
            state: State::Running,
            start_time: Some(format_ms(*started)),
            log_stdout: log.clone(),
            log_stderr: log.clone(),
            log_combined: log,
            ..Process::default()
        }
    }
}

fn is_same(run: &Run, request: &Request, directory: &OsText) -> bool {
    run.meta.argv == request.argv && run.meta.working_directory == *directory
}

/// A label was used again in another directory, so that its newest run is not a later one of this process.
fn label_was_taken(run: &Run, newest: &Run) -> Error {
    Error::conflict(format!(
        "{} of '{}' was in {}, and that label is now one of {}; start it there anew, under another label",
        run.name(),
        run.meta.label,
        run.meta.working_directory.shown(),
        newest.meta.working_directory.shown()
    ))
}

fn on_port(port: u16) -> String {
    if port == 0 { "without a port".into() } else { format!("on port {port}") }
}

/// Says of the run what is not as it was asked for: its label may be in use for something else.
fn already_running(run: &Run, argv: &[OsText], directory: &OsText) -> Error {
    if let Some(pids) = lost::shown(&run.orphans()) {
        return Error::conflict(format!(
            "the shim of '{}' was killed, but its processes live on ({pids}); restart it, or stop it first",
            run.meta.label
        ));
    }
    let status = run.status();
    let ports = usage(&[run]).remove(0).map_or(Vec::new(), |usage| usage.ports);
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let listens = if ports.is_empty() { String::new() } else { format!(", listens on {}", ports.join(", ")) };
    let is_elsewhere = run.meta.working_directory != *directory;
    let command = os_text::brief(&os_text::quote(&run.meta.argv));
    let what = match (is_elsewhere, run.meta.argv == argv) {
        (true, _) => format!(" in {}: {command}", run.meta.working_directory.shown()),
        (false, false) => format!(": {command}"),
        (false, true) => String::new(),
    };
    let next = if is_elsewhere { "choose another label" } else { "restart it, or stop it first" };
    let text = format!(
        "'{}' is already running with PID {} (for {}{listens}){what}; {next}",
        run.meta.label,
        status.pid,
        age(now_ms().saturating_sub(status.started)),
    );
    Error::already_running(run.id, text)
}

fn not_gone(run: &Run, survivors: &[i32]) -> Error {
    let pids: Vec<String> = survivors.iter().map(i32::to_string).collect();
    Error::failed(format!(
        "'{}' is not gone: PID {} could not be stopped (another user's, or stuck in the system)",
        run.meta.label,
        pids.join(", ")
    ))
}
