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

/// The server as a follower needs it, which may go at any moment.
trait Server {
    /// The log of `run` from an offset on, as soon as there is something, or after `wait`.
    fn follow(&mut self, run: u64, from: u64, wait: Duration) -> Result<(Following, Vec<u8>), Trouble>;
    /// Makes sure that there is one.
    fn ensure_server(&mut self) -> Result<(), Trouble>;
    /// Whether one may be started if there is none.
    fn may_start(&self) -> bool;
}

impl Server for Link {
    fn follow(&mut self, run: u64, from: u64, wait: Duration) -> Result<(Following, Vec<u8>), Trouble> {
        Link::follow(self, run, from, wait)
    }
    fn ensure_server(&mut self) -> Result<(), Trouble> {
        Link::ensure_server(self)
    }
    fn may_start(&self) -> bool {
        self.config.autostart
    }
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

struct Follower<S> {
    link: S,
    run: u64,
    from: u64,
    events: SyncSender<Event>,
    /// The server said that it leaves its processes.
    is_left: bool,
}

impl<S: Server> Follower<S> {
    fn tell(&self, news: News) -> Result<(), ()> {
        self.events.send(Event::News(news)).map_err(|_| ())
    }

    /// Until the process ends, or nobody listens any more.
    fn go(&mut self) -> Result<(), Trouble> {
        loop {
            let (following, bytes) = self.poll(POLL)?;
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
                let (next, _) = self.poll(Duration::ZERO)?;
                if self.tell(News::Restarted(next)).is_err() {
                    return Ok(());
                }
            } else if following.is_leaving {
                // Its last answers come at once; do not ask in a circle.
                std::thread::sleep(RECONNECT);
            }
        }
    }

    /// Asks for what comes next: this server, or the one after it.
    fn poll(&mut self, wait: Duration) -> Result<(Following, Vec<u8>), Trouble> {
        loop {
            match self.link.follow(self.run, self.from, wait) {
                Err(Trouble::Unreachable(_)) => self.reconnect()?,
                answer => return answer,
            }
        }
    }

    /// The server has gone; the process has not. Another server finds it.
    fn reconnect(&mut self) -> Result<(), Trouble> {
        let begun = Instant::now();
        let may_start = self.link.may_start() && !self.is_left;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::mpsc::sync_channel;

    /// Gives these answers one after the other; `None` is a connection that is cut.
    struct Scripted(VecDeque<Option<Following>>);

    impl Server for Scripted {
        fn follow(&mut self, run: u64, from: u64, _: Duration) -> Result<(Following, Vec<u8>), Trouble> {
            let answer = self.0.pop_front().expect("another question than was expected");
            let following = answer.ok_or_else(|| Trouble::Unreachable("cut".into()))?;
            assert_eq!((following.run, following.from), (run, from));
            let bytes = vec![b'x'; (following.next - following.from) as usize];
            Ok((following, bytes))
        }
        fn ensure_server(&mut self) -> Result<(), Trouble> {
            Ok(())
        }
        fn may_start(&self) -> bool {
            true
        }
    }

    fn answer(run: u64, from: u64, next: u64) -> Following {
        Following { run, from, next, ..Following::default() }
    }

    /// What is told of a run that is restarted once and then ends.
    fn told(script: Vec<Option<Following>>) -> Vec<String> {
        let (events, heard) = sync_channel(100);
        let mut follower = Follower { link: Scripted(script.into()), run: 1, from: 0, events, is_left: false };
        let outcome = follower.go();
        assert_eq!((outcome, follower.link.0.len()), (Ok(()), 0));
        drop(follower);
        let shown = |event: Event| match event {
            Event::News(News::Output(following, bytes)) => format!("{}: {} bytes", following.run, bytes.len()),
            Event::News(News::Restarted(following)) => format!("restarted as {}", following.run),
            Event::News(News::Ended(following)) => format!("{} ended", following.run),
            _ => "something else".into(),
        };
        heard.iter().map(shown).collect()
    }

    #[test]
    fn the_server_may_go_at_every_single_question() {
        let restarted = Following { is_final: true, successor: Some(2), ..answer(1, 3, 5) };
        let ended = Following { is_final: true, ..answer(2, 4, 4) };
        let answers = [answer(1, 0, 3), restarted, answer(2, 0, 4), answer(2, 0, 4), ended].map(Some);
        let expected = ["1: 3 bytes", "1: 2 bytes", "restarted as 2", "2: 4 bytes", "2 ended"];
        assert_eq!(told(answers.to_vec()), expected);
        for cut in 0..answers.len() {
            let mut script = answers.to_vec();
            // The next server answers the question whether it is there, and then the one that was cut.
            let repeated = script[cut].clone();
            script.splice(cut..cut, [None, None, None, repeated]);
            assert_eq!(told(script), expected, "cut at question {cut}");
        }
    }
}
