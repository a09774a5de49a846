//! Following a run in a thread: through restarts of the process, and of the server, which is waited for or started anew.
//! It goes on at its offset, so nothing is missed and nothing comes twice.
//!
//! The server says that there is something, and this reads it from the log file itself: at the speed of the file, and also
//! while there is no server. Servers up to 0.4 send the bytes along.

use super::super::connection::ServerConnection;
use super::super::silence::silence;
use super::FollowEvent;
use super::frames::{Frames, Show};
use crate::api::{Follow, Following};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::http::head::decode;
use crate::log::Stream;
use crate::log::read::Log;
use crate::log::tail::{Tail, TailRead};
use crossbeam_channel::Sender;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One long-poll.
const POLL: Duration = Duration::from_secs(20);
/// After the server has gone: how long another one may take to come by itself before we start one.
pub const OTHER_SERVER_TIMEOUT: Duration = Duration::from_millis(300);
/// How long to try to get one of our own up.
pub const OWN_SERVER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same when it was told to leave, or when we may not start one: the user will.
const USER_SERVER_TIMEOUT: Duration = Duration::from_secs(600);
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Pauses when the server has no place for one more that waits.
const BUSY_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// Bytes that are read at once. More than the caches of a processor hold would be slower.
const CHUNK: usize = 128 << 10;
/// After this many bytes without a pause it is a flood: then the file is checked before the next question, so that the
/// server is not asked for each write.
const FLOOD: u64 = 128 << 10;
const FLOOD_PAUSE: Duration = Duration::from_millis(2);
/// After this many bytes the server is asked all the same what became of the process.
const ASK_AFTER: u64 = 64 << 20;
/// What the server has said of the log is to be found in it within this.
const LOG_TIMEOUT: Duration = Duration::from_secs(5);

/// The server as a follower needs it, which may go at any moment.
trait Server {
    /// How far a log has grown beyond an offset, as soon as it has.
    fn follow(&mut self, ask: &Follow) -> Result<(Following, Vec<u8>), Error>;
    /// Makes sure that there is one.
    fn ensure_server(&mut self) -> Result<(), Error>;
    fn config(&self) -> &Config;
    /// Whether there is one, which took the last question and has not answered it.
    fn is_silent(&self) -> bool;
}

impl Server for ServerConnection {
    fn follow(&mut self, ask: &Follow) -> Result<(Following, Vec<u8>), Error> {
        ServerConnection::follow(self, ask)
    }
    fn ensure_server(&mut self) -> Result<(), Error> {
        ServerConnection::ensure_server(self)
    }
    fn config(&self) -> &Config {
        &self.config
    }
    fn is_silent(&self) -> bool {
        self.is_unanswered && !self.is_cut
    }
}

/// Where to begin, and how to show it.
pub struct Start {
    pub run: u64,
    pub offset: u64,
    pub frames: Frames,
    /// The name of the lease under which it is read.
    pub reader: Option<String>,
}

impl Start {
    /// At the beginning of a run; `is_raw`: with the time of each line.
    pub fn of_run(run: u64, is_raw: bool, reader: Option<String>) -> Start {
        let show = if is_raw { Show::Stamped(Stream::Combined) } else { Show::Bytes };
        Start { run, offset: 0, frames: Frames::new(show), reader }
    }
}

/// Begins to follow a run, and reports to `events`.
pub fn follow_in_thread(server: ServerConnection, start: Start, events: Sender<FollowEvent>) -> Result<(), Error> {
    let mut follower = Follower::new(server, start, events);
    let follow = move || {
        if let Err(Stop::Failed(error)) = follower.go() {
            let _ = follower.send(FollowEvent::Finished(Err(error)));
        }
    };
    let thread = std::thread::Builder::new().name("follow".into()).spawn(follow);
    thread.map(drop).map_err(|error| Error::failed(format!("cannot follow the output: {error}")))
}

/// Why following ends before the process does.
#[derive(Debug, PartialEq)]
enum Stop {
    /// Nothing receives the events any more.
    Disconnected,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

struct Follower<S> {
    server: S,
    run: u64,
    from: u64,
    frames: Frames,
    reader: Option<String>,
    events: Sender<FollowEvent>,
    /// The log of the present run, once it is known where that is.
    log: Option<Tail>,
    buffer: Vec<u8>,
    /// What blocks the output, as it was reported.
    blocked: Option<String>,
    /// The server said that it leaves its processes.
    is_left: bool,
    /// Pause before the next question, when the server is busy.
    pause: Duration,
}

impl<S: Server> Follower<S> {
    fn new(server: S, start: Start, events: Sender<FollowEvent>) -> Follower<S> {
        let Start { run, offset, frames, reader } = start;
        let pause = BUSY_PAUSES[0];
        Follower {
            server,
            run,
            from: offset,
            frames,
            reader,
            events,
            log: None,
            buffer: Vec::new(),
            blocked: None,
            is_left: false,
            pause,
        }
    }

    fn send(&self, event: FollowEvent) -> Result<(), Stop> {
        self.events.send(event).map_err(|_| Stop::Disconnected)
    }

    fn send_output(&self, pieces: Vec<(Stream, Vec<u8>)>) -> Result<(), Stop> {
        self.send(FollowEvent::Output { pieces, position: Some((self.run, self.from)) })
    }

    /// Follows until the process ends, or nothing receives the events.
    fn go(&mut self) -> Result<(), Stop> {
        loop {
            let (following, bytes) = self.poll(POLL)?;
            self.is_left = following.is_leaving;
            self.report_blocked(&following)?;
            if bytes.is_empty() {
                self.read_up_to(&following)?;
            } else {
                self.skip(following.from.saturating_sub(self.from))?;
                self.from = following.next;
                self.show(&bytes)?;
            }
            if following.is_final {
                self.report_unwritten(&following)?;
                let Some(successor) = following.successor else { return self.send(FollowEvent::Ended(following)) };
                (self.run, self.from, self.log) = (successor, 0, None);
                let (next, _) = self.poll(Duration::ZERO)?;
                self.frames.restart();
                self.send(FollowEvent::Restarted(next))?;
            } else if following.is_busy {
                std::thread::sleep(self.pause);
                self.pause = BUSY_PAUSES[1].min(2 * self.pause);
            } else if following.is_leaving {
                // Its last answers come at once; do not ask in a circle.
                std::thread::sleep(RECONNECT_PAUSE);
            } else {
                self.pause = BUSY_PAUSES[0];
            }
        }
    }

    /// Tells once what holds up the output, and once that it goes on.
    fn report_blocked(&mut self, following: &Following) -> Result<(), Stop> {
        let blocked = following.blocked.as_deref().map(decode);
        if blocked == self.blocked {
            return Ok(());
        }
        self.blocked = blocked.clone();
        if blocked.is_none() && following.is_final {
            return Ok(()); // nothing goes on
        }
        self.send(FollowEvent::Blocked(blocked))
    }

    /// Tells what is missing at the end because the disk did not take it.
    fn report_unwritten(&mut self, following: &Following) -> Result<(), Stop> {
        let why = following.lost_to.as_deref().map_or(String::new(), |why| format!(" ({})", decode(why)));
        match following.lost_bytes {
            0 => Ok(()),
            bytes => self.send(FollowEvent::Missing(format!("{bytes} bytes could not be written to the log{why}"))),
        }
    }

    /// So many bytes are not there.
    fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        if bytes == 0 {
            return Ok(());
        }
        if self.frames.is_in_line() {
            self.send_output(vec![(Stream::Stdout, b"\n".to_vec())])?;
        }
        self.frames.restart();
        self.send(FollowEvent::Missing(format!("{bytes} bytes of the log are no longer kept")))
    }

    /// Shows what the log has brought.
    fn show(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut pieces: Vec<(Stream, Vec<u8>)> = Vec::new();
        let _ = self.frames.push(bytes, &mut |stream, bytes| {
            pieces.push((stream, bytes));
            Ok::<(), std::convert::Infallible>(())
        });
        self.send_output(pieces)
    }

    /// Reads the log as far as the server says that it reaches, and what has come since.
    fn read_up_to(&mut self, following: &Following) -> Result<(), Stop> {
        let Some(directory) = following.directory.as_deref().map(decode).filter(|_| following.next > self.from) else {
            return Ok(());
        };
        let runs = self.server.config().data_dir.join("runs");
        let directory = runs.join(PathBuf::from(directory).file_name().unwrap_or_default());
        let begun = Instant::now();
        if self.log.is_none() {
            // It may begin between lines that share a stamp.
            let shared = Log::open(&directory, Stream::Combined).and_then(|log| log.shared_prefix_before(self.from));
            self.frames.share(shared.unwrap_or(None));
            self.log = Some(Tail::new(&directory, Stream::Combined, self.from));
        }
        loop {
            let why = match self.read_log() {
                Err(Failed::Stop(stop)) => return Err(stop),
                _ if self.from >= following.next => return Ok(()),
                Err(Failed::Reading(error)) if error.kind() == io::ErrorKind::NotFound => {
                    "it was removed or moved".into()
                }
                Err(Failed::Reading(error)) => error.to_string(),
                Ok(()) => "it has become shorter".to_string(),
            };
            if begun.elapsed() > LOG_TIMEOUT {
                let path = directory.join(Stream::Combined.file_name());
                return Err(Error::failed(format!("cannot read the log {}: {why}", path.display())).into());
            }
            std::thread::sleep(RECONNECT_PAUSE);
        }
    }

    /// Reads what is there.
    fn read_log(&mut self) -> Result<(), Failed> {
        let begun = self.from;
        let mut was_empty = false;
        loop {
            self.buffer.resize(CHUNK, 0);
            let Some(log) = &mut self.log else { return Ok(()) };
            let next = log.read(&mut self.buffer).map_err(Failed::Reading)?;
            self.from = log.at();
            match next {
                TailRead::Bytes(n) => {
                    was_empty = false;
                    let buffer = std::mem::take(&mut self.buffer);
                    let shown = self.show(&buffer[..n]);
                    self.buffer = buffer;
                    shown.map_err(Failed::Stop)?;
                    if self.from - begun >= ASK_AFTER {
                        return Ok(());
                    }
                }
                TailRead::Gone(bytes) => self.skip(bytes).map_err(Failed::Stop)?,
                TailRead::Pending if self.from - begun >= FLOOD && !was_empty => {
                    was_empty = true;
                    std::thread::sleep(FLOOD_PAUSE);
                }
                TailRead::Pending => {
                    if self.from - begun < FLOOD {
                        self.buffer = Vec::new(); // it may sleep for days
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Asks for what comes next: this server, or the one after it.
    fn poll(&mut self, wait: Duration) -> Result<(Following, Vec<u8>), Stop> {
        loop {
            match self.ask(wait) {
                Err(error) if error.kind == ErrorKind::Unreachable => self.reconnect()?,
                answer => return answer.map_err(Stop::from),
            }
        }
    }

    fn ask(&mut self, wait: Duration) -> Result<(Following, Vec<u8>), Error> {
        self.server.follow(&Follow {
            run: self.run,
            from: self.from,
            wait,
            with_bytes: false,
            reader: self.reader.clone(),
            knows_blocked: self.blocked.is_some(),
        })
    }

    /// The server has gone, or does not answer; the process has not. Another server finds it, and meanwhile its output is
    /// read.
    fn reconnect(&mut self) -> Result<(), Stop> {
        let begun = Instant::now();
        let may_start = self.server.config().autostart && !self.is_left;
        let mut is_told = false;
        loop {
            match self.ask(Duration::ZERO) {
                Err(error) if error.kind == ErrorKind::Unreachable => {}
                _ => return Ok(()),
            }
            if let Err(Failed::Stop(stop)) = self.read_log() {
                return Err(stop);
            }
            if self.server.is_silent() {
                // It lives, so no other one can come: it is waited for as long as it does.
                if !std::mem::replace(&mut is_told, true) {
                    let text = format!(
                        "{}; the process keeps running, and so does this when it answers",
                        silence(self.server.config())
                    );
                    self.send(FollowEvent::Note(text))?;
                }
                std::thread::sleep(RECONNECT_PAUSE);
                continue;
            }
            if may_start && begun.elapsed() > OTHER_SERVER_TIMEOUT {
                match self.server.ensure_server() {
                    // Servers may come and go faster than we look; and one that is there may answer later.
                    Err(_) if begun.elapsed() < OWN_SERVER_TIMEOUT || self.server.is_silent() => {}
                    result => return result.map_err(Stop::from),
                }
            }
            if !is_told && begun.elapsed() > 3 * OTHER_SERVER_TIMEOUT {
                is_told = true;
                self.send(FollowEvent::Note(
                    "the server has ended, the process keeps running; waiting for another server (`persistproc serve`)"
                        .into(),
                ))?;
            }
            if begun.elapsed() > USER_SERVER_TIMEOUT {
                return Err(Error::unreachable(
                    "the server has ended; the process keeps running: start a server and run the same command again to see it",
                ).into());
            }
            std::thread::sleep(RECONNECT_PAUSE);
        }
    }
}

/// Why reading the log ended early.
enum Failed {
    Reading(io::Error),
    Stop(Stop),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;
    use std::collections::VecDeque;

    /// Gives these answers one after the other; `None` is a connection that is cut.
    struct Scripted {
        answers: VecDeque<Option<Following>>,
        config: Config,
    }

    impl Server for Scripted {
        fn follow(&mut self, ask: &Follow) -> Result<(Following, Vec<u8>), Error> {
            let answer = self.answers.pop_front().expect("another question than was expected");
            let following = answer.ok_or_else(|| Error::unreachable("cut"))?;
            assert_eq!((following.run, following.from), (ask.run, ask.from));
            // With a directory its log is read, as of servers since 0.5.
            let size = if following.directory.is_none() { following.next - following.from } else { 0 };
            Ok((following, vec![b'x'; size as usize]))
        }
        fn ensure_server(&mut self) -> Result<(), Error> {
            Ok(())
        }
        fn config(&self) -> &Config {
            &self.config
        }
        fn is_silent(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_follower_that_begins_between_lines_that_share_a_stamp_knows_their_stream() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().to_path_buf();
        std::fs::create_dir_all(dir.join("runs/x")).unwrap();
        std::fs::write(dir.join("runs/x/combined.log"), "2026-01-02T03:04:05.001z one\ntwo\n").unwrap();
        let (events, heard) = bounded(100);
        let environment =
            |name: &str| (name == "HOME" || name == "PERSISTPROC_DATA_DIR").then(|| dir.clone().into_os_string());
        let config = crate::config::resolve(crate::config::Flags::default(), environment).unwrap();
        let ended = Following { directory: Some("x".into()), is_final: true, ..answer(1, 29, 33) };
        let server = Scripted { answers: [Some(ended)].into(), config };
        let start = Start { run: 1, offset: 29, frames: Frames::new(Show::Bytes), reader: None };
        Follower::new(server, start, events).go().unwrap();
        let shown = heard.iter().find_map(|event| match event {
            FollowEvent::Output { pieces, .. } => Some(pieces),
            _ => None,
        });
        assert_eq!(shown, Some(vec![(Stream::Stderr, b"two\n".to_vec())]));
    }

    fn answer(run: u64, from: u64, next: u64) -> Following {
        Following { run, from, next, ..Following::default() }
    }

    /// What is told of a run that is restarted once and then ends.
    fn told(script: Vec<Option<Following>>) -> Vec<String> {
        let (events, heard) = bounded(100);
        let environment = |name: &str| (name == "HOME").then(|| "/nowhere".into());
        let config = crate::config::resolve(crate::config::Flags::default(), environment).unwrap();
        let server = Scripted { answers: script.into(), config };
        let start = Start { run: 1, offset: 0, frames: Frames::new(Show::Bytes), reader: None };
        let mut follower = Follower::new(server, start, events);
        let outcome = follower.go();
        assert_eq!((outcome, follower.server.answers.len()), (Ok(()), 0));
        drop(follower);
        let shown = |event: FollowEvent| match event {
            FollowEvent::Output { position: Some((run, offset)), .. } => format!("{run}: up to {offset}"),
            FollowEvent::Restarted(following) => format!("restarted as {}", following.run),
            FollowEvent::Ended(following) => format!("{} ended", following.run),
            _ => "something else".into(),
        };
        heard.iter().map(shown).collect()
    }

    #[test]
    fn the_server_may_go_at_every_single_question() {
        let restarted = Following { is_final: true, successor: Some(2), ..answer(1, 3, 5) };
        let ended = Following { is_final: true, ..answer(2, 4, 4) };
        let answers = [answer(1, 0, 3), restarted, answer(2, 0, 4), answer(2, 0, 4), ended].map(Some);
        let expected = ["1: up to 3", "1: up to 5", "restarted as 2", "2: up to 4", "2 ended"];
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
