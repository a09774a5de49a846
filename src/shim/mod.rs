//! One run, from the spawn of its leader to the last byte of its last descendant: a single thread around one `poll`.
//!
//! The shim is the parent of the leader, the subreaper of all below it, the only reader of its pipes and the only writer
//! of its logs and status. It needs nobody: the server that started it may be killed at any moment, and the next one
//! finds everything in the directory of the run (see [`rundir`](crate::rundir)). News is told in this order: log files,
//! `status.json`, one byte into `events`; then, at the very end, the lock goes with the process.
//!
//! It is started as `persistproc __shim --max-log-bytes N [--attributes JSON] RUNDIR PROGRAM [ARG…]` and inherits everything
//! else, so that nothing has to be looked up here: directory and environment are the child's; fd 0 is the `lock` file,
//! locked already; fd 1 is a pipe for one line, `ok PID` or `err ERRNO TEXT`; fd 2 is `shim.log`.
//!
//! Models: conmon and containerd's shim, and s6-supervise for "control by a FIFO, state by a file".

mod batch;
mod capture;
mod input;
pub mod orphans;
mod readers;
mod source;
mod tree;

pub use input::MOST as INPUT_MAX;

use crate::attributes::Attributes;
use crate::log::stamp::now_ms;
use crate::procs;
use crate::rundir::{
    self, BootInstant, FORMAT_VERSION, InputReport, LOG_GREW, MAX_MESSAGE_LEN, Pipes, RUN_ENV, RunDir, STATUS_CHANGED,
    StartError, State, Status, StopReport,
};
use crate::sys::{self, Reaped};
use capture::Capture;
use input::Input;
use readers::Readers;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tree::{Stop, Tree};

/// The grace when the system (or a user) sends TERM to the shim itself.
const SYSTEM_GRACE: Duration = Duration::from_secs(8);
/// While output comes, the counts in the status are brought up to date this often.
const COUNTS: Duration = Duration::from_secs(1);
/// While the run is being stopped, others are looked for this often where that is slow.
const LOOK_IN_STOP: Duration = Duration::from_millis(100);
/// A status that could not be written is tried again after this.
const REPUBLISH: Duration = Duration::from_millis(500);
/// How often to look whether a server has read a status that was sent to it.
const TAKEN: Duration = Duration::from_millis(5);
/// With the run over and the disk still full: how long to hope.
const LAST_HOPE: Duration = Duration::from_secs(5);
/// While output comes, the doorbell rings at most this often: under a flood, waking the server for every read costs more
/// than the reading. What comes after a pause rings at once.
const RINGS: Duration = Duration::from_millis(1);
/// The role behind `__shim`; `arguments` as in the module's comment. Returns the exit code of the process.
pub fn main(arguments: Vec<OsString>) -> i32 {
    // Descriptors first, whatever comes: a shim lives for days, and as long as it kept a stranger's pipe, its reader would
    // wait. Only the standard three are ours.
    sys::close_inherited();
    let (Ok(lock), Ok(mut starter)) = (sys::take_standard_fd(0), sys::take_standard_fd(1)) else { return 1 };
    let Some(order) = Order::parse(arguments) else {
        let _ = writeln!(starter, "err 0 the shim was called with wrong arguments");
        return 2;
    };
    sys::set_process_name(procs::NAME);
    let _ = sys::new_session();
    let is_subreaper = sys::become_subreaper().is_ok();
    // The same open file as the server's, so this only proves that it is ours. Kept until the process ends.
    if lock.try_lock().is_err() {
        let _ = writeln!(starter, "err 0 the lock of the run is not held");
        return 1;
    }
    match Shim::start(order, is_subreaper) {
        Ok(shim) => {
            let _ = writeln!(starter, "ok {}", shim.status.pid);
            drop(starter); // end of file for whoever started us
            shim.see_it_through();
            0
        }
        Err(error) => {
            let _ = writeln!(starter, "err {} {error}", error.raw_os_error().unwrap_or(0));
            1
        }
    }
}

struct Order {
    max_log_bytes: u64,
    /// What the child gets from the shell where it was asked for.
    attributes: Option<Attributes>,
    dir: RunDir,
    program: OsString,
    arguments: Vec<OsString>,
}

impl Order {
    fn parse(arguments: Vec<OsString>) -> Option<Order> {
        let mut words = arguments.into_iter();
        if words.next()? != "--max-log-bytes" {
            return None;
        }
        let max_log_bytes = words.next()?.to_str()?.parse().ok()?;
        let mut word = words.next()?;
        let mut attributes = None;
        if word == "--attributes" {
            attributes = Some(Attributes::from_json(words.next()?.to_str()?)?);
            word = words.next()?;
        }
        // Absolute, because the shim leaves the child's directory.
        let dir = RunDir(Some(PathBuf::from(word)).filter(|path| path.is_absolute())?);
        Some(Order { max_log_bytes, attributes, dir, program: words.next()?, arguments: words.collect() })
    }
}

struct Shim {
    dir: RunDir,
    /// What `dir` goes by.
    _home: File,
    status: Status,
    capture: Capture,
    tree: Tree,
    stop: Stop,
    report: StopReport,
    input: Input,
    signals: File,
    ctl: File,
    /// The beginning of a message from `ctl` whose end has not been read.
    heard: Vec<u8>,
    events: File,
    /// The last status that could not be written was sent.
    is_sent: bool,
    /// Nobody of the run is left.
    alone: bool,
    /// The leader is gone, and what it wrote is not all read yet.
    drain_due: bool,
    publish_at: Option<Instant>,
    rang_at: Instant,
    /// Output that has not been rung for yet is, then.
    ring_at: Option<Instant>,
    /// Where looking for others is slow, and not to be done before that.
    look_at: Option<Instant>,
}

impl Shim {
    /// Everything that can fail comes before the child, so that a child never runs without being captured.
    fn start(order: Order, is_subreaper: bool) -> io::Result<Shim> {
        let Order { max_log_bytes, attributes, dir: named, program, arguments } = order;
        let (dir, home) = named.pin()?;
        // Handlers, not ignored signals: those would be inherited. XFSZ would end us at a file size limit, which is
        // handled as a full disk; INT and HUP are not meant for us.
        let signals = sys::signals_as_bytes(&[sys::SIGCHLD, sys::SIGTERM, sys::SIGINT, sys::SIGHUP, sys::SIGXFSZ])?;
        let ctl = sys::open_fifo_both(&dir.ctl())?;
        let events = sys::open_fifo_both(&dir.events())?;
        let readers = Readers::new(dir.path().to_path_buf(), named.number().unwrap_or(0));
        let mut capture = Capture::create(dir.path(), max_log_bytes, readers)?;
        let mut status = Status {
            version: FORMAT_VERSION,
            shim_pid: std::process::id() as i32,
            started: now_ms(),
            ..Status::default()
        };
        let unborn = |status: &mut Status, error: &io::Error| {
            let errno = error.raw_os_error().unwrap_or(0);
            status.error = Some(StartError { errno, text: error.to_string() });
        };
        // Also takes the room that the status needs for ever; a disk without it is found out here.
        unborn(&mut status, &io::Error::other("the shim ended before it could start the command"));
        number(&mut status);
        dir.write_status(&status)?;

        // stdin is a pipe that stays open and silent, like a terminal at which nobody types: watchers such as esbuild's end
        // at its end of file.
        let mut command = Command::new(&program);
        command
            .args(&arguments)
            .env(RUN_ENV, named.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let handed = attributes.map_or(Ok(()), |attributes| attributes.for_child().apply(&mut command));
        let since = procs::now().map(|(_, tick)| tick); // before there is anything that could hold the pipes
        let spawned = handed.and_then(|()| command.spawn());
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                unborn(&mut status, &error);
                status.ended = Some(now_ms());
                number(&mut status);
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
        status.pipes = since.and_then(|since| pipes(since, &input, &out, &err));
        capture.attach([out, err])?;
        drop(child); // neither kills nor waits: `reap` owns every child from here on
        let tree = Tree::new(status.pid, named.env_entry(), status.pipes, is_subreaper);
        let mut shim = Shim {
            dir,
            _home: home,
            status,
            capture,
            tree,
            stop: Stop::No,
            report: StopReport::default(),
            input,
            signals,
            ctl,
            heard: Vec::new(),
            events,
            is_sent: false,
            alone: false,
            drain_due: false,
            publish_at: None,
            rang_at: Instant::now(),
            ring_at: None,
            look_at: None,
        };
        shim.publish();
        let _ = std::env::set_current_dir("/"); // the child has its directory; we do not keep it busy
        Ok(shim)
    }

    /// To the end. Should our own code break, the run is killed rather than left without anybody who reads its pipes.
    fn see_it_through(mut self) {
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.reap(); // a child that ended before the handler was watched
            while !self.alone {
                self.turn();
            }
            self.drain_finally();
        }));
        if worked.is_err() {
            self.kill_everybody();
            self.status.io_error = Some("the shim broke and ended the run; see shim.log".into());
        }
        self.status.ended = Some(now_ms());
        let begun = Instant::now();
        // Without its directory there is nobody left to tell. What went by the FIFO is told when a server has read it.
        while !self.publish() && self.dir.exists() && begun.elapsed() < LAST_HOPE {
            let next = Instant::now() + REPUBLISH;
            while self.is_sent && Instant::now() < next {
                if sys::unread(&self.events) == 0 {
                    return;
                }
                std::thread::sleep(TAKEN);
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// One turn of the loop.
    fn turn(&mut self) {
        let [out, err] = self.capture.fds();
        let timeout = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let [out, err, ctl, signalled] =
            sys::poll_readable([out, err, self.ctl.as_raw_fd(), self.signals.as_raw_fd()], timeout);
        // Two pipes do not tell their order. With both ready it is mostly the end of a program, whose last words, on
        // stderr, say why: so stdout comes first.
        let grew = (out && self.capture.read(0)) | (err && self.capture.read(1)) | self.capture.tick();
        if grew {
            self.ring_at.get_or_insert(self.rang_at + RINGS);
            self.publish_by(COUNTS);
        }
        if self.ring_at.is_some_and(|at| at <= Instant::now()) {
            self.ring(LOG_GREW);
        }
        if self.trouble() != (self.status.io_error.clone(), self.status.capture_continues) {
            self.publish(); // the disk is full, a reader is slow, or all is well again
        }
        if ctl {
            self.obey();
        }
        if signalled {
            self.on_signals();
        } else if self.status.leader_ended.is_some() && !self.tree.is_exact() {
            self.reap(); // those who are not our children end without a signal to us
        }
        if self.drain_due {
            self.drain_leader();
        }
        self.input.offer();
        if self.stop.tick(&self.tree, &mut self.report) || self.publish_at.is_some_and(|at| at <= Instant::now()) {
            self.publish();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let input = self.input.deadline();
        let look = self.look_at.filter(|_| self.status.leader_ended.is_some());
        let times = [self.capture.deadline(), self.stop.deadline(), self.publish_at, self.ring_at, input, look];
        times.into_iter().flatten().min()
    }

    /// Collects the dead. The leader's outcome is told at once; the run is over when nobody is left.
    fn reap(&mut self) {
        let mut leader_ended = false;
        loop {
            match sys::reap() {
                Reaped::One { pid, status } if pid == self.status.pid && self.status.leader_ended.is_none() => {
                    (self.status.exit_code, self.status.signal) = sys::outcome(status);
                    self.status.leader_ended = Some(now_ms());
                    leader_ended = true;
                }
                Reaped::One { .. } => {} // an orphan that came to us
                Reaped::NotYet => {
                    // There are children, but perhaps only another server or shim that was started from in here.
                    self.alone = self.status.leader_ended.is_some() && self.may_look() && self.tree.is_foreign_only();
                    break;
                }
                Reaped::NoChildren => {
                    self.alone = self.tree.is_exact() || self.may_look() && self.tree.is_empty();
                    break;
                }
            }
        }
        if leader_ended && !self.alone {
            self.drain_due = true;
            self.publish(); // detached; if nobody is left the final status follows at once
        }
    }

    /// Whether it is time to look for others again, where that is slow: it asks ps(1), whose end is a signal to us, too.
    fn may_look(&mut self) -> bool {
        let now = Instant::now();
        if self.tree.is_exact() || self.look_at.is_none_or(|at| at <= now) {
            self.look_at =
                (!self.tree.is_exact()).then(|| now + if self.stop.is_wanted() { LOOK_IN_STOP } else { COUNTS });
            return true;
        }
        false
    }

    /// Reads what the leader wrote before it ended, without waiting for whoever still holds the pipe, and marks the
    /// place. While the disk is full that place is not known; the loop comes back.
    fn drain_leader(&mut self) {
        self.capture.drain();
        if !self.capture.is_stalled() {
            self.drain_due = false;
            self.status.leader_bytes = Some(self.capture.bytes()[2]);
            self.ring(LOG_GREW);
            self.publish();
        }
    }

    /// Nobody can write any more: what is in the pipes now is all there will ever be.
    fn drain_finally(&mut self) {
        let begun = Instant::now();
        self.capture.wait_for_no_reader();
        self.capture.tick();
        self.capture.drain();
        while self.capture.is_stalled() && begun.elapsed() < LAST_HOPE {
            self.publish(); // the trouble
            std::thread::sleep(Duration::from_millis(200));
            self.capture.tick();
            self.capture.drain();
        }
        self.capture.give_up();
        self.status.leader_bytes.get_or_insert(self.capture.bytes()[2]);
    }

    fn on_signals(&mut self) {
        let mut numbers = [0; 64];
        let n = self.signals.read(&mut numbers).unwrap_or(0);
        if numbers[..n].contains(&(sys::SIGTERM as u8)) {
            self.ask(SYSTEM_GRACE);
        }
        self.reap();
    }

    fn ask(&mut self, grace: Duration) {
        let leader_lives = self.status.leader_ended.is_none();
        self.look_at = None; // somebody waits for the end now
        self.capture.hurry_readers();
        self.stop.ask(&self.tree, leader_lives, grace, &mut self.report);
    }

    /// Messages of servers, a line each. What is not understood comes from a newer one and is left alone.
    fn obey(&mut self) {
        let mut bytes = [0; 8 * MAX_MESSAGE_LEN];
        let n = self.ctl.read(&mut bytes).unwrap_or(0);
        let mut heard = std::mem::take(&mut self.heard);
        heard.extend_from_slice(&bytes[..n]);
        let mut lines = heard.split(|&byte| byte == b'\n');
        // What a read has cut, the next one ends; longer than a message it is none.
        self.heard = lines.next_back().filter(|rest| rest.len() < MAX_MESSAGE_LEN).unwrap_or_default().to_vec();
        for line in lines {
            let line = String::from_utf8_lossy(line);
            let Some((verb, value)) = line.split_once(' ') else { continue };
            match (verb, value.parse::<u32>()) {
                ("look", _) => drop(self.publish()), // which looks at the logs
                ("stop", Ok(grace)) => self.ask(Duration::from_millis(u64::from(grace))),
                ("signal", Ok(number)) if self.status.leader_ended.is_none() => {
                    let _ = sys::kill(self.status.pid, number as i32);
                }
                ("input", _) => {
                    self.status.input = Some(self.input.take(value));
                    self.publish(); // it is waited for
                }
                _ => {}
            }
        }
    }

    fn kill_everybody(&mut self) {
        self.stop = Stop::No;
        self.ask(Duration::ZERO);
        while self.stop.deadline().is_some() {
            self.stop.tick(&self.tree, &mut self.report);
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

    /// A doorbell, not a message: "look again". If nobody answers it, the files have the truth.
    fn ring(&mut self, tone: u8) {
        let _ = self.events.write(&[tone]);
        (self.rang_at, self.ring_at) = (Instant::now(), None);
    }

    fn publish_by(&mut self, delay: Duration) {
        self.publish_at.get_or_insert_with(|| Instant::now() + delay);
    }

    /// What is wrong with the output, and whether it is captured all the same.
    fn trouble(&self) -> (Option<String>, bool) {
        let (trouble, remark) = (self.capture.trouble(), self.capture.warning());
        let goes_on = trouble.is_none() && remark.is_some();
        (trouble.or(remark), goes_on)
    }

    fn state(&self) -> State {
        match (self.status.ended, self.status.leader_ended) {
            (Some(_), _) if self.stop.is_wanted() => State::Terminated,
            (Some(_), _) => State::Exited,
            (None, Some(_)) => State::Detached,
            (None, None) => State::Running,
        }
    }

    /// Writes the status and rings. False if it could not be written; then it is tried again later.
    fn publish(&mut self) -> bool {
        self.capture.recreate_replaced_logs();
        self.status.state = self.state();
        self.status.bytes = self.capture.bytes();
        self.status.lines = self.capture.lines();
        self.status.lost_bytes = self.capture.lost();
        if self.status.ended.is_none() {
            (self.status.io_error, self.status.capture_continues) = self.trouble();
        }
        self.status.stop = self.stop.is_wanted().then(|| self.report.clone());
        self.publish_at = None;
        number(&mut self.status);
        let written = self.dir.write_status(&self.status);
        if let Err(error) = &written {
            self.send_status(error);
            self.publish_by(REPUBLISH);
        }
        self.ring(STATUS_CHANGED);
        written.is_ok()
    }

    /// Tells the server the status by the FIFO, which needs no disk. It keeps it in memory.
    fn send_status(&mut self, error: &io::Error) {
        let mut told = self.status.clone();
        if told.io_error.is_none() && told.ended.is_none() {
            told.capture_continues = true;
            told.io_error = Some(format!("its status cannot be written: {error}"));
        }
        self.is_sent = rundir::status_message(&told).is_ok_and(|message| self.events.write(&message).is_ok());
    }
}

/// By which what holds them open is known, should we be killed.
fn pipes(since: u64, input: &Input, out: &File, err: &File) -> Option<Pipes> {
    let inode = |pipe: &File| pipe.metadata().ok().map(|pipe| pipe.ino());
    let input = File::from(input.pipe()?.as_fd().try_clone_to_owned().ok()?);
    Some(Pipes { since, input: inode(&input)?, outputs: [inode(out)?, inode(err)?] })
}

/// To be done each time before the status is written.
fn number(status: &mut Status) {
    status.sequence += 1;
    status.alive = procs::now().map(|(boot, tick)| BootInstant { boot, tick });
}
