//! `persistproc npm run dev`: the process under the server, its output and its exit code here.

use super::connection::ServerConnection;
use super::follow::run_follower::{OTHER_SERVER_TIMEOUT, OWN_SERVER_TIMEOUT, RECONNECT_PAUSE, Start, follow_in_thread};
use super::follow::viewer::{self, Session, Viewer};
use super::request::run_request;
use super::{ExitCode, terminal};
use crate::api::params::{Action, ControlRequest};
use crate::api::{Follow, Following, IfRunning, RunAnswer};
use crate::cli::{OnExit, RunOptions};
use crate::config::Config;
use crate::error::Error;
use crate::lease::{self, Lease};
use signal_hook::consts::SIGINT;
use std::time::{Duration, Instant};

/// While a question is open, signals are checked this often.
const ANSWER_INTERVAL: Duration = Duration::from_millis(50);

/// Starts or attaches to the process and shows it until it ends. Returns its exit code.
pub fn run(mut server: ServerConnection, options: RunOptions) -> Result<ExitCode, Error> {
    let if_running = if options.is_fresh { IfRunning::Replace } else { IfRunning::Attach };
    let mut request = run_request(options.program, &Default::default(), None, if_running)?;
    let config = server.config.clone();
    // Before there is a process that a signal could orphan.
    let (mut viewer, events) = Viewer::new(config.is_quiet, None, None)?;
    server.ensure_server()?; // it makes the data directory
    let lease = take_lease(&config, terminal::is_stdout());
    request.reader = lease.as_ref().map(Lease::name);
    viewer.lease = lease;
    let RunAnswer { process, number, is_new, .. } = server.run(&request)?;
    terminal::give_stdout_away();
    if !is_new && !config.is_quiet {
        terminal::note(&format!("attached to '{}' (PID {})", process.label, process.pid));
    }
    let start = Start::of_run(number, options.is_raw, request.reader);
    follow_in_thread(server, start, events)?;
    let mut wrapper = Wrapper {
        config,
        label: process.label,
        run: number,
        pid: process.pid,
        on_exit: options.on_exit,
        is_stopping: false,
    };
    viewer.run(&mut wrapper).map(|code| viewer.complete(code))
}

/// The lease of a wrapper. A terminal does not hold a run up forever, see [`shim`](crate::shim).
fn take_lease(config: &Config, is_at_terminal: bool) -> Option<Lease> {
    let kind = if is_at_terminal { lease::ReaderKind::Terminal } else { lease::ReaderKind::Pipe };
    Lease::acquire(&config.data_dir, kind).ok()
}

struct Wrapper {
    config: Config,
    label: String,
    run: u64,
    pid: i32,
    on_exit: OnExit,
    /// The user has asked here for the end.
    is_stopping: bool,
}

impl Session for Wrapper {
    fn on_signal(&mut self, viewer: &mut Viewer, number: i32) -> Result<Option<ExitCode>, Error> {
        // The terminal shows ^C where its cursor is.
        viewer.is_in_line |= number == SIGINT && terminal::can_ask();
        let is_asked = !self.is_stopping && self.on_exit == OnExit::Ask && number == SIGINT && terminal::can_ask();
        if self.is_stopping || self.on_exit == OnExit::Stop || is_asked && self.ask(viewer) {
            self.stop(viewer);
            return Ok(None);
        }
        if is_asked && !self.is_still_there() {
            return Ok(None); // what comes of that is on its way
        }
        let text = format!("'{}' keeps running (PID {}); the same command shows it again", self.label, self.pid);
        viewer.note(&text);
        viewer.end_line();
        Ok(Some(if number == SIGINT { ExitCode::Success } else { ExitCode::Signal(number) }))
    }

    fn on_restart(&mut self, viewer: &mut Viewer, following: &Following) {
        (self.run, self.pid) = (following.run, following.pid);
        viewer.note(&format!("restarted, PID {}", following.pid));
        if std::mem::take(&mut self.is_stopping) {
            self.stop(viewer); // a restart came between the wish to stop it and the stop
        }
    }

    fn on_end(&mut self, viewer: &mut Viewer, following: &Following) -> Result<ExitCode, Error> {
        viewer::end(viewer, &self.label, following)
    }

    fn on_deadline(&mut self) -> Result<ExitCode, Error> {
        Ok(ExitCode::Success) // a wrapper has none
    }

    fn on_reader_left(&self) -> ExitCode {
        ExitCode::Signal(signal_hook::consts::SIGPIPE)
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping
    }
}

impl Wrapper {
    /// After a question, in which time passes: whether the process that was asked about is still there, maybe as another
    /// run.
    fn is_still_there(&mut self) -> bool {
        let mut server = ServerConnection::new(self.config.clone());
        let mut run = self.run;
        let ask = |run| Follow { run, knows_blocked: true, ..Follow::default() };
        while let Ok((following, _)) = server.follow(&ask(run)) {
            match following.successor {
                Some(successor) if following.is_final => run = successor,
                _ => {
                    self.pid = following.pid;
                    return !following.is_final;
                }
            }
        }
        true // no server answers that knows
    }

    fn ask(&mut self, viewer: &mut Viewer) -> bool {
        terminal::ask(&format!("Stop running process '{}' (PID {})? [y/N]", self.label, self.pid));
        viewer.is_in_line = true;
        loop {
            if let Some(answer) = terminal::read_answer(ANSWER_INTERVAL) {
                viewer.is_in_line = !answer.ends_with('\n');
                return matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
            }
            // Another Ctrl+C, or a terminal that closes, is not a yes.
            if viewer.signals.try_recv().is_ok() {
                return false;
            }
        }
    }

    /// Asks the server to stop it, and to kill it the second time. The follower sees what comes of it.
    fn stop(&mut self, viewer: &mut Viewer) {
        let request = ControlRequest {
            action: Action::Stop,
            run: Some(self.run),
            force: self.is_stopping,
            ..ControlRequest::default()
        };
        viewer.note(if self.is_stopping { "killing it" } else { "stopping it; Ctrl+C again kills" });
        self.is_stopping = true;
        let server = ServerConnection::new(self.config.clone());
        let stop = move || {
            if let Err(error) = stop_reliably(server, &request) {
                terminal::complain(&error.to_string());
            }
        };
        if std::thread::Builder::new().name("stop".into()).spawn(stop).is_err() {
            terminal::complain("cannot ask for the stop: the system allows no more threads");
        }
    }
}

/// Stops it through whatever server there is: the one that we knew may have gone, and the next is found, or started.
fn stop_reliably(mut server: ServerConnection, request: &ControlRequest) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        match server.control_once(request) {
            Err(_) if server.is_gone() && begun.elapsed() < OWN_SERVER_TIMEOUT => {}
            result => return result.map(drop),
        }
        if server.config.autostart && begun.elapsed() > OTHER_SERVER_TIMEOUT {
            let _ = server.ensure_server(); // if there is none, the next call says why
        }
        std::thread::sleep(RECONNECT_PAUSE);
    }
}
