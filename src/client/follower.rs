//! Following a run in a thread: by long-polls, through restarts of the process, and of the server, which is waited for or
//! started anew. It goes on at its offset, so nothing is missed and nothing comes twice.

use super::Trouble;
use super::link::Link;
use crate::server::follow::Following;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// One long-poll.
const POLL: Duration = Duration::from_secs(20);
/// After the server has gone: how long another one may take to come by itself before we start one.
pub const WAIT_FOR_ANOTHER: Duration = Duration::from_millis(300);
/// How long to try to get one of our own up.
pub const WAIT_FOR_OURS: Duration = Duration::from_secs(10);
/// The same when it was told to leave, or when we may not start one: somebody will.
const WAIT_FOR_SOMEBODY: Duration = Duration::from_secs(600);
pub const RECONNECT: Duration = Duration::from_millis(20);

/// Everything that wakes the main thread.
pub enum Event {
    News(News),
    /// There is a signal to look at.
    Signal,
}

/// What the following thread tells.
pub enum News {
    Output(Following, Vec<u8>),
    /// The process was restarted: this is the new run.
    Restarted(Following),
    /// It has ended; nothing more comes.
    Ended(Following),
    /// So many bytes of the log are gone.
    Skipped(u64),
    Note(String),
    Lost(Trouble),
}

/// Begins to follow `run` at the offset `from`; tells `events` what there is.
pub fn follow_in_thread(link: Link, run: u64, from: u64, events: SyncSender<Event>) -> Result<(), Trouble> {
    let mut follower = Follower { link, run, from, events, is_left: false };
    let follow = move || {
        if let Err(trouble) = follower.go() {
            let _ = follower.tell(News::Lost(trouble));
        }
    };
    let thread = std::thread::Builder::new().name("follow".into()).spawn(follow);
    thread.map(drop).map_err(|error| Trouble::Refused(format!("cannot follow the output: {error}")))
}

struct Follower {
    link: Link,
    run: u64,
    from: u64,
    events: SyncSender<Event>,
    /// The server said that it leaves its processes.
    is_left: bool,
}

impl Follower {
    fn tell(&self, news: News) -> Result<(), ()> {
        self.events.send(Event::News(news)).map_err(|_| ())
    }

    /// Until the process ends, or nobody listens any more.
    fn go(&mut self) -> Result<(), Trouble> {
        loop {
            let (following, bytes) = match self.link.follow(self.run, self.from, POLL) {
                Ok(answer) => answer,
                Err(Trouble::Unreachable(_)) => {
                    self.reconnect()?;
                    continue;
                }
                Err(trouble) => return Err(trouble),
            };
            let skipped = following.from.saturating_sub(self.from);
            if skipped > 0 && self.tell(News::Skipped(skipped)).is_err() {
                return Ok(());
            }
            self.from = following.next;
            self.is_left = following.is_leaving;
            let ends = following.is_final;
            if !bytes.is_empty() && self.tell(News::Output(following.clone(), bytes)).is_err() {
                return Ok(());
            }
            if ends {
                let Some(successor) = following.successor else {
                    let _ = self.tell(News::Ended(following));
                    return Ok(());
                };
                (self.run, self.from) = (successor, 0);
                let (next, _) = self.link.follow(successor, 0, Duration::ZERO)?;
                if self.tell(News::Restarted(next)).is_err() {
                    return Ok(());
                }
            } else if following.is_leaving {
                // Its last answers come at once; do not ask in a circle.
                std::thread::sleep(RECONNECT);
            }
        }
    }

    /// The server has gone; the process has not. Another server finds it.
    fn reconnect(&mut self) -> Result<(), Trouble> {
        let begun = Instant::now();
        let may_start = self.link.config.autostart && !self.is_left;
        let mut is_told = false;
        loop {
            match self.link.follow(self.run, self.from, Duration::ZERO) {
                Err(Trouble::Unreachable(_)) => {}
                _ => return Ok(()),
            }
            if may_start && begun.elapsed() > WAIT_FOR_ANOTHER {
                match self.link.ensure_server() {
                    // Servers may come and go faster than we look.
                    Err(_) if begun.elapsed() < WAIT_FOR_OURS => {}
                    result => return result,
                }
            }
            if !is_told && begun.elapsed() > 3 * WAIT_FOR_ANOTHER {
                is_told = true;
                let _ = self.tell(News::Note(
                    "the server has ended, the process goes on; waiting for another server (`persistproc serve`)"
                        .into(),
                ));
            }
            if begun.elapsed() > WAIT_FOR_SOMEBODY {
                return Err(Trouble::Unreachable(
                    "the server has ended; the process goes on: start a server and run the same command again to see it".into(),
                ));
            }
            std::thread::sleep(RECONNECT);
        }
    }
}
