//! One run, from the spawn of its leader to the last byte of its last descendant: a single thread around one `poll`.
//!
//! The shim is the parent of the leader, the subreaper of all its descendants, the only reader of its pipes and the only
//! writer of its logs and status. It depends on no other process: the server that started it may be killed at any moment, and
//! the next one finds everything in the run's directory (see [`rundir`](crate::rundir)). Changes are published in this order:
//! log files, `status.json`, one byte into `events`; at the very end, the lock is released as the process exits.
//!
//! It is started as `persistproc __shim --max-log-bytes N [--attributes JSON] RUNDIR PROGRAM [ARG…]` and inherits everything
//! else, so that nothing has to be looked up here: directory and environment are the child's; fd 0 is the `lock` file,
//! locked already; fd 1 is a pipe for one line, `ok PID` or `err ERRNO TEXT`; fd 2 is `shim.log`.
//!
//! Modeled on conmon and containerd's shim, and on s6-supervise for "control by a FIFO, state by a file".

mod args;
mod batch;
mod capture;
mod input;
pub mod orphans;
mod readers;
mod source;
mod tree;

pub use input::INPUT_MAX;

use crate::log::stamp::now_ms;
use crate::procs;
use crate::rundir::{
    self, BootInstant, FORMAT_VERSION, InputReport, LOG_GREW, MAX_MESSAGE_LEN, Pipes, RUN_ENV, RunDir, STATUS_CHANGED,
    StartError, State, Status, StopReport,
};
use crate::sys::{self, Reaped};
use args::ShimArgs;
use capture::Capture;
use input::Input;
use readers::Readers;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tree::{Stop, Tree};

/// The grace of a stop that begins because the system (or a user) sent TERM to the shim itself.
const SIGTERM_GRACE: Duration = Duration::from_secs(8);
/// While there is output, the counts in the status are updated this often.
const COUNTS_INTERVAL: Duration = Duration::from_secs(1);
/// While the run is being stopped, remaining processes are looked for this often where that is slow.
const LOOK_INTERVAL_IN_STOP: Duration = Duration::from_millis(100);
/// Delay before a status that could not be written is written again.
const REPUBLISH_DELAY: Duration = Duration::from_millis(500);
/// How often to check whether a server has read a status that was sent to it.
const STATUS_READ_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long to keep trying when the run is over and the disk is still full.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// While there is output, the doorbell rings at most this often: in heavy output, waking the server for every read costs more
/// than the reading itself. Output after a pause rings immediately.
const MIN_RING_INTERVAL: Duration = Duration::from_millis(1);

/// The entry point of `__shim`; see the module's comment for `arguments`. Returns the exit code of the process.
pub fn main(arguments: Vec<OsString>) -> i32 {
    // Inherited descriptors are closed first, whatever happens later: a shim lives for days, and if it kept an unrelated
    // pipe open, the reader of that pipe would wait. Only the standard three are ours.
    sys::close_inherited();
    let (Ok(lock), Ok(mut starter)) = (sys::take_standard_fd(0), sys::take_standard_fd(1)) else { return 1 };
    let Some(args) = ShimArgs::parse(arguments) else {
        let _ = writeln!(starter, "err 0 the shim was called with wrong arguments");
        return 2;
    };
    sys::set_process_name(procs::NAME);
    let _ = sys::new_session();
    let is_subreaper = sys::become_subreaper().is_ok();
    // This is the same open file description as the server's, so this only proves that the lock is ours. It is kept until the
    // process exits.
    if lock.try_lock().is_err() {
        let _ = writeln!(starter, "err 0 the lock of the run is not held");
        return 1;
    }
    match Shim::start(args, is_subreaper) {
        Ok(shim) => {
            let _ = writeln!(starter, "ok {}", shim.status.pid);
            drop(starter); // end of file for the process that started us
            shim.run();
            0
        }
        Err(error) => {
            let _ = writeln!(starter, "err {} {error}", error.raw_os_error().unwrap_or(0));
            1
        }
    }
}

struct Shim {
    dir: RunDir,
    /// Keeps the path in `dir` valid, see [`RunDir::pin`].
    _dir_handle: File,
    status: Status,
    capture: Capture,
    tree: Tree,
    stop: Stop,
    stop_report: StopReport,
    input: Input,
    signals: File,
    ctl: File,
    /// The beginning of a message from `ctl` whose end has not been read yet.
    partial_message: Vec<u8>,
    events: File,
    /// The last status that could not be written was sent through `events`.
    is_status_sent: bool,
    /// No process of the run is left.
    is_over: bool,
    /// The leader has exited, and not everything that it wrote has been read yet.
    is_leader_drain_pending: bool,
    /// When to write the status next, if that is due at all.
    publish_at: Option<Instant>,
    last_ring: Instant,
    /// When to ring for output that has not been announced yet.
    ring_at: Option<Instant>,
    /// Where looking for remaining processes is slow: not to be done before this.
    next_look: Option<Instant>,
}

impl Shim {
    /// Everything that can fail happens before the child is started, so that a child never runs without being captured.
    fn start(args: ShimArgs, is_subreaper: bool) -> io::Result<Shim> {
        let (dir, dir_handle) = args.dir.pin()?;
        // Handlers, because ignored signals would be inherited. XFSZ would kill us at a file size limit, which is handled like
        // a full disk; INT and HUP are not meant for us.
        let signals = sys::signals_as_bytes(&[sys::SIGCHLD, sys::SIGTERM, sys::SIGINT, sys::SIGHUP, sys::SIGXFSZ])?;
        let ctl = sys::open_fifo_both(&dir.ctl())?;
        let events = sys::open_fifo_both(&dir.events())?;
        let readers = Readers::new(dir.path().to_path_buf(), args.dir.number().unwrap_or(0));
        let mut capture = Capture::create(dir.path(), args.max_log_bytes, readers)?;
        let mut status = initial_status();
        // This also allocates all the disk space that the status will ever need, so a full disk is noticed here.
        dir.write_status(&status)?;

        let (since, spawned) = spawn(&args);
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                set_start_error(&mut status, &error);
                status.ended = Some(now_ms());
                stamp_status(&mut status);
                dir.write_status(&status)?;
                return Err(error);
            }
        };
        status.error = None;
        status.input = Some(InputReport::default());
        status.pid = child.id() as i32;
        let input = Input::new(child.stdin.take())?;
        let pipe = |end: Option<OwnedFd>| end.map(File::from).ok_or(io::ErrorKind::BrokenPipe);
        let [out, err] = [pipe(child.stdout.take().map(OwnedFd::from))?, pipe(child.stderr.take().map(OwnedFd::from))?];
        status.pipes = since.and_then(|since| pipe_inodes(since, &input, &out, &err));
        capture.attach([out, err])?;
        drop(child); // neither kills nor waits: `reap` owns every child from here on
        let tree = Tree::new(status.pid, args.dir.env_entry(), status.pipes, is_subreaper);
        let mut shim = Shim {
            dir,
            _dir_handle: dir_handle,
            status,
            capture,
            tree,
            stop: Stop::NotRequested,
            stop_report: StopReport::default(),
            input,
            signals,
            ctl,
            partial_message: Vec::new(),
            events,
            is_status_sent: false,
            is_over: false,
            is_leader_drain_pending: false,
            publish_at: None,
            last_ring: Instant::now(),
            ring_at: None,
            next_look: None,
        };
        shim.publish();
        let _ = std::env::set_current_dir("/"); // the child has its directory; we must not keep it in use
        Ok(shim)
    }

    /// Runs until the run is over. If our own code panics, the run is killed rather than left without a reader of its pipes.
    fn run(mut self) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.reap(); // a child may have exited before the signals were polled
            while !self.is_over {
                self.poll_once();
            }
            self.drain_to_end();
        }));
        if result.is_err() {
            self.kill_all();
            self.status.io_error = Some("the shim crashed and killed the run; see shim.log".into());
        }
        self.status.ended = Some(now_ms());
        let begun = Instant::now();
        // Without the directory there is no reader of the status. A status sent through the FIFO is delivered once a server
        // has read it.
        while !self.publish() && self.dir.exists() && begun.elapsed() < FINAL_WRITE_TIMEOUT {
            let next = Instant::now() + REPUBLISH_DELAY;
            while self.is_status_sent && Instant::now() < next {
                if sys::unread(&self.events) == 0 {
                    return;
                }
                std::thread::sleep(STATUS_READ_POLL_INTERVAL);
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// One iteration of the event loop.
    fn poll_once(&mut self) {
        let [out, err] = self.capture.fds();
        let timeout = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let [out, err, ctl, signalled] =
            sys::poll_readable([out, err, self.ctl.as_raw_fd(), self.signals.as_raw_fd()], timeout);
        // The order of writes to two pipes is unknown. When both are ready, a program is usually exiting, and its last lines,
        // on stderr, are the reason: so stdout is read first.
        let grew = (out && self.capture.read(0)) | (err && self.capture.read(1)) | self.capture.tick();
        if grew {
            self.ring_at.get_or_insert(self.last_ring + MIN_RING_INTERVAL);
            self.publish_by(COUNTS_INTERVAL);
        }
        if self.ring_at.is_some_and(|at| at <= Instant::now()) {
            self.ring(LOG_GREW);
        }
        if self.output_problem() != (self.status.io_error.clone(), self.status.capture_continues) {
            self.publish(); // the disk is full, a reader is slow, or the problem is over
        }
        if ctl {
            self.read_messages();
        }
        if signalled {
            self.handle_signals();
        } else if self.status.leader_ended.is_some() && !self.tree.is_exact() {
            self.reap(); // processes that are not our children exit without a signal to us
        }
        if self.is_leader_drain_pending {
            self.drain_leader();
        }
        self.input.flush();
        if self.stop.tick(&self.tree, &mut self.stop_report) || self.publish_at.is_some_and(|at| at <= Instant::now()) {
            self.publish();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let input = self.input.deadline();
        let look = self.next_look.filter(|_| self.status.leader_ended.is_some());
        let times = [self.capture.deadline(), self.stop.deadline(), self.publish_at, self.ring_at, input, look];
        times.into_iter().flatten().min()
    }

    /// Reaps exited processes. The leader's outcome is published immediately; the run is over when no process is left.
    fn reap(&mut self) {
        let mut leader_ended = false;
        loop {
            match sys::reap() {
                Reaped::One { pid, status } if pid == self.status.pid && self.status.leader_ended.is_none() => {
                    (self.status.exit_code, self.status.signal) = sys::outcome(status);
                    self.status.leader_ended = Some(now_ms());
                    leader_ended = true;
                }
                Reaped::One { .. } => {} // an orphan that we adopted
                Reaped::NotYet => {
                    // There are children, but perhaps only another server or shim that was started from inside this run.
                    self.is_over = self.status.leader_ended.is_some() && self.may_look() && self.tree.is_foreign_only();
                    break;
                }
                Reaped::NoChildren => {
                    self.is_over = self.tree.is_exact() || self.may_look() && self.tree.is_empty();
                    break;
                }
            }
        }
        if leader_ended && !self.is_over {
            self.is_leader_drain_pending = true;
            self.publish(); // the state is "detached" now; if no process were left, the final status would follow immediately
        }
    }

    /// Whether it is time to look for remaining processes again, where that is slow: it runs ps(1), whose exit is a signal to
    /// us as well.
    fn may_look(&mut self) -> bool {
        let now = Instant::now();
        if self.tree.is_exact() || self.next_look.is_none_or(|at| at <= now) {
            self.next_look = (!self.tree.is_exact())
                .then(|| now + if self.stop.is_requested() { LOOK_INTERVAL_IN_STOP } else { COUNTS_INTERVAL });
            return true;
        }
        false
    }

    /// Reads what the leader wrote before it exited, without waiting for processes that still hold the pipe, and records the
    /// offset. While the disk is full that offset is unknown; the event loop tries again.
    fn drain_leader(&mut self) {
        self.capture.drain();
        if !self.capture.is_stalled() {
            self.is_leader_drain_pending = false;
            self.status.leader_bytes = Some(self.capture.bytes()[2]);
            self.ring(LOG_GREW);
            self.publish();
        }
    }

    /// Reads the rest of the output. No process can write any more: the pipes contain all that there will ever be.
    fn drain_to_end(&mut self) {
        let begun = Instant::now();
        self.capture.stop_waiting_for_readers();
        self.capture.tick();
        self.capture.drain();
        while self.capture.is_stalled() && begun.elapsed() < FINAL_WRITE_TIMEOUT {
            self.publish(); // reports the error
            std::thread::sleep(Duration::from_millis(200));
            self.capture.tick();
            self.capture.drain();
        }
        self.capture.give_up();
        self.status.leader_bytes.get_or_insert(self.capture.bytes()[2]);
    }

    fn handle_signals(&mut self) {
        let mut numbers = [0; 64];
        let n = self.signals.read(&mut numbers).unwrap_or(0);
        if numbers[..n].contains(&(sys::SIGTERM as u8)) {
            self.request_stop(SIGTERM_GRACE);
        }
        self.reap();
    }

    fn request_stop(&mut self, grace: Duration) {
        let leader_lives = self.status.leader_ended.is_none();
        self.next_look = None; // a client waits for the end now
        self.capture.shorten_reader_timeouts();
        self.stop.request(&self.tree, leader_lives, grace, &mut self.stop_report);
    }

    /// Reads and handles messages from servers, one per line. Unknown ones come from a newer server and are ignored.
    fn read_messages(&mut self) {
        let mut bytes = [0; 8 * MAX_MESSAGE_LEN];
        let n = self.ctl.read(&mut bytes).unwrap_or(0);
        let mut received = std::mem::take(&mut self.partial_message);
        received.extend_from_slice(&bytes[..n]);
        let mut lines = received.split(|&byte| byte == b'\n');
        // The next read completes a message that this one has cut off; a longer rest than a message may be is discarded.
        self.partial_message =
            lines.next_back().filter(|rest| rest.len() < MAX_MESSAGE_LEN).unwrap_or_default().to_vec();
        for line in lines {
            let line = String::from_utf8_lossy(line);
            let Some((verb, value)) = line.split_once(' ') else { continue };
            match (verb, value.parse::<u32>()) {
                ("look", _) => drop(self.publish()), // which checks the logs
                ("stop", Ok(grace)) => self.request_stop(Duration::from_millis(u64::from(grace))),
                ("signal", Ok(number)) if self.status.leader_ended.is_none() => {
                    let _ = sys::kill(self.status.pid, number as i32);
                }
                ("input", _) => {
                    self.status.input = Some(self.input.accept_hex(value));
                    self.publish(); // a client waits for it
                }
                _ => {}
            }
        }
    }

    fn kill_all(&mut self) {
        self.stop = Stop::NotRequested;
        self.request_stop(Duration::ZERO);
        while self.stop.deadline().is_some() {
            self.stop.tick(&self.tree, &mut self.stop_report);
            while let Reaped::One { pid, status } = sys::reap() {
                if pid == self.status.pid {
                    (self.status.exit_code, self.status.signal) = sys::outcome(status);
                    self.status.leader_ended = Some(now_ms());
                }
            }
            if self.tree.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Rings the doorbell, which carries no message but "look again". If no server listens, the files have the truth.
    fn ring(&mut self, byte: u8) {
        let _ = self.events.write(&[byte]);
        (self.last_ring, self.ring_at) = (Instant::now(), None);
    }

    /// Schedules a write of the status within `delay`.
    fn publish_by(&mut self, delay: Duration) {
        self.publish_at.get_or_insert_with(|| Instant::now() + delay);
    }

    /// What is wrong with the output, and whether it is captured nevertheless.
    fn output_problem(&self) -> (Option<String>, bool) {
        let (stall_reason, warning) = (self.capture.stall_reason(), self.capture.warning());
        let capture_continues = stall_reason.is_none() && warning.is_some();
        (stall_reason.or(warning), capture_continues)
    }

    fn state(&self) -> State {
        match (self.status.ended, self.status.leader_ended) {
            (Some(_), _) if self.stop.is_requested() => State::Terminated,
            (Some(_), _) => State::Exited,
            (None, Some(_)) => State::Detached,
            (None, None) => State::Running,
        }
    }

    /// Writes the status and rings the doorbell. False if it could not be written; then it is tried again later.
    fn publish(&mut self) -> bool {
        self.capture.recreate_replaced_logs();
        self.status.state = self.state();
        self.status.bytes = self.capture.bytes();
        self.status.lines = self.capture.lines();
        self.status.lost_bytes = self.capture.lost_bytes();
        if self.status.ended.is_none() {
            (self.status.io_error, self.status.capture_continues) = self.output_problem();
        }
        self.status.stop = self.stop.is_requested().then(|| self.stop_report.clone());
        self.publish_at = None;
        stamp_status(&mut self.status);
        let written = self.dir.write_status(&self.status);
        if let Err(error) = &written {
            self.send_status(error);
            self.publish_by(REPUBLISH_DELAY);
        }
        self.ring(STATUS_CHANGED);
        written.is_ok()
    }

    /// Sends the status to the server through the FIFO, which needs no disk. The server keeps it in memory.
    fn send_status(&mut self, error: &io::Error) {
        let mut sent = self.status.clone();
        if sent.io_error.is_none() && sent.ended.is_none() {
            sent.capture_continues = true;
            sent.io_error = Some(format!("its status cannot be written: {error}"));
        }
        self.is_status_sent = rundir::status_message(&sent).is_ok_and(|message| self.events.write(&message).is_ok());
    }
}

/// The status in case the shim is killed before it has started the program.
fn initial_status() -> Status {
    let mut status =
        Status { version: FORMAT_VERSION, shim_pid: std::process::id() as i32, started: now_ms(), ..Status::default() };
    set_start_error(&mut status, &io::Error::other("the shim ended before it could start the command"));
    stamp_status(&mut status);
    status
}

fn set_start_error(status: &mut Status, error: &io::Error) {
    let errno = error.raw_os_error().unwrap_or(0);
    status.error = Some(StartError { errno, text: error.to_string() });
}

/// Starts the program. Also returns a moment before its pipes existed, as [`BootInstant::tick`].
fn spawn(args: &ShimArgs) -> (Option<u64>, io::Result<Child>) {
    // stdin is a pipe that stays open and silent, like a terminal at which no one types: watchers such as esbuild's exit at
    // end of file.
    let mut command = Command::new(&args.program);
    command
        .args(&args.arguments)
        .env(RUN_ENV, args.dir.path())
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let handed = args.attributes.as_ref().map_or(Ok(()), |attributes| attributes.for_child().apply(&mut command));
    let since = procs::now().map(|(_, tick)| tick); // before any process could hold the pipes
    let spawned = handed.and_then(|()| command.spawn());
    (since, spawned)
}

/// The inodes by which processes that hold the pipes open can be found if we are killed.
fn pipe_inodes(since: u64, input: &Input, out: &File, err: &File) -> Option<Pipes> {
    let inode = |pipe: &File| pipe.metadata().ok().map(|pipe| pipe.ino());
    let input = File::from(input.pipe()?.as_fd().try_clone_to_owned().ok()?);
    Some(Pipes { since, input: inode(&input)?, outputs: [inode(out)?, inode(err)?] })
}

/// Must be called before every write of the status.
fn stamp_status(status: &mut Status) {
    status.sequence += 1;
    status.alive = procs::now().map(|(boot, tick)| BootInstant { boot, tick });
}
