//! The main loop of the server: everything that is not a request. Log lines, signals, the wish to end, and the end itself.

use super::events::{Event, Leave};
use super::listeners::Listeners;
use super::server_log::ServerLog;
use crate::manager::watch::Run;
use crate::manager::{GRACE, Manager};
use crate::sys;
use crossbeam_channel::{Receiver, Sender, after, never, select};
use signal_hook::consts::SIGHUP;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While processes are being stopped, the person at the terminal hears something this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// How often to check whether our socket and our lock file are still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

pub struct EventLoop {
    pub manager: Arc<Manager>,
    pub log: ServerLog,
    pub events: Sender<Event>,
    pub received: Receiver<Event>,
    pub signals: Receiver<i32>,
    pub servers: Listeners,
    /// The person at the terminal hears every line of the log.
    pub is_verbose: bool,
}

impl EventLoop {
    fn file(&mut self, text: &str, say: &mut dyn FnMut(&str)) {
        self.log.write(text);
        if self.is_verbose {
            say(text);
        }
    }

    fn file_notices(&mut self, say: &mut dyn FnMut(&str)) {
        while let Ok(event) = self.received.try_recv() {
            if let Event::Notice(text) = event {
                self.file(&text, say);
            }
        }
    }

    /// Serves until a signal or a request ends it. `say` tells the person at the terminal what is waited for.
    pub fn run(mut self, say: &mut dyn FnMut(&str)) {
        let leave = self.wait_for_end(say);
        if let Some(successor) = &leave.successor {
            self.exchange_sockets(successor);
        }
        let problems = if leave.keep { self.leave_alone() } else { self.stop_everything(say) };
        if let Some(report) = leave.report {
            let _ = report.send(problems);
        }
        self.file_notices(say);
        self.received = never(); // others that ask for the end are told at once that it is near
        self.servers.stop();
        self.log.write("ended");
    }

    fn wait_for_end(&mut self, say: &mut dyn FnMut(&str)) -> Leave {
        let mut check_at = Instant::now() + CHECK_INTERVAL;
        loop {
            select! {
                recv(self.signals) -> number => {
                    let number = number.unwrap_or(SIGHUP); // never fails: its thread lives as long as we do
                    self.file(&format!("received {}", sys::signal_name(number)), say);
                    // A closed terminal ends the server alone; the next one finds the processes.
                    return Leave { keep: number == SIGHUP, successor: None, report: None };
                },
                recv(self.received) -> event => match event {
                    Ok(Event::Notice(text)) => self.file(&text, say),
                    Ok(Event::Leave(leave)) => return self.accept(leave, say),
                    Ok(Event::Stopped(..)) | Err(_) => {} // never an error: we hold a sender ourselves
                },
                recv(after(check_at.saturating_duration_since(Instant::now()))) -> _ => {},
            }
            if check_at <= Instant::now() {
                self.restore_files(say);
                check_at = Instant::now() + CHECK_INTERVAL;
            }
        }
    }

    fn accept(&mut self, leave: Leave, say: &mut dyn FnMut(&str)) -> Leave {
        let what = if leave.keep { "asked to leave; the processes keep running" } else { "asked to shut down" };
        self.log.write(what);
        if leave.keep || self.is_verbose {
            say(what);
        }
        leave
    }

    fn restore_files(&mut self, say: &mut dyn FnMut(&str)) {
        if self.servers.restore_socket() {
            self.file("the socket was removed; made a new one", say);
        }
        if self.servers.restore_lock() {
            self.file("server.lock was removed; made a new one", say);
        }
    }

    fn exchange_sockets(&mut self, successor: &str) {
        if let Err(error) = self.servers.exchange(successor) {
            self.log.write(&format!("cannot put {successor} in the place of our socket: {error}"));
        }
    }

    fn leave_alone(&mut self) -> Vec<String> {
        self.manager.leave();
        Vec::new()
    }

    /// Stops all processes at once, tells which it waits for, and hurries when asked again. Gives back what could not be
    /// stopped.
    fn stop_everything(&mut self, say: &mut dyn FnMut(&str)) -> Vec<String> {
        self.manager.close();
        let mut waiting = self.manager.live();
        if !waiting.is_empty() {
            say(&format!("stopping {} (again to kill at once): {}", count(waiting.len()), labels(&waiting)));
        }
        // All are asked before any is waited for.
        self.manager.ask_all(&waiting, GRACE);
        let mut problems = Vec::new();
        let threadless: Vec<Arc<Run>> = waiting.iter().filter(|run| !self.stop_in_thread(run)).cloned().collect();
        for run in threadless {
            // The system allows no more threads. All were asked, so stopping one after the other takes no longer.
            let result = self.manager.stop(&run, GRACE, None);
            waiting.retain(|other| other.id != run.id);
            problems.extend(result.err().map(|error| error.to_string()));
        }
        problems.iter().for_each(|text| self.file(text, say));
        while !waiting.is_empty() {
            select! {
                recv(self.signals) -> _ => {
                    say("killing what is left");
                    self.manager.ask_all(&waiting, Duration::ZERO);
                },
                recv(self.received) -> event => match event {
                    Ok(Event::Notice(text)) => self.file(&text, say),
                    Ok(Event::Stopped(id, result)) => {
                        waiting.retain(|run| run.id != id);
                        if let Err(error) = result {
                            self.file(&error.to_string(), say);
                            problems.push(error.to_string());
                        }
                    }
                    Ok(Event::Leave(_)) => {} // it is happening; whoever asks is told so
                    Err(_) => break,
                },
                default(PROGRESS_INTERVAL) => say(&format!("still waiting for {}", labels(&waiting))),
            }
        }
        problems
    }

    /// False if there is no thread to be had.
    fn stop_in_thread(&self, run: &Arc<Run>) -> bool {
        let (manager, run, events) = (self.manager.clone(), run.clone(), self.events.clone());
        let id = run.id;
        let stop = move || drop(events.send(Event::Stopped(id, manager.stop(&run, GRACE, None).map(drop))));
        std::thread::Builder::new().name("stop".into()).spawn(stop).is_ok()
    }
}

fn count(processes: usize) -> String {
    if processes == 1 { "1 process".into() } else { format!("{processes} processes") }
}

fn labels(runs: &[Arc<Run>]) -> String {
    runs.iter().map(|run| format!("'{}'", run.meta.label)).collect::<Vec<_>>().join(", ")
}

/// A panic becomes one line in the log, never a trace at a user.
pub fn log_panics(events: Sender<Event>) {
    std::panic::set_hook(Box::new(move |panic| {
        let _ = events.try_send(Event::Notice(format!("internal error (a bug), please report it: {panic}")));
    }));
}
