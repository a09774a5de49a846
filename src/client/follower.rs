//! Following a run in a thread: through restarts of the process, and of the server, which is waited for or started anew.
//! It goes on at its offset, so nothing is missed and nothing comes twice.
//!
//! The server says that there is something, and this reads it from the log file itself: at the speed of the file, and also
//! while there is no server. Servers up to 0.4 send the bytes along.

use super::Trouble;
use super::frames::Frames;
use super::link::Link;
use super::silence::silence;
use crate::config::Config;
use crate::http::head::decode;
use crate::log::Stream;
use crate::log::read::Log;
use crate::log::tail::{Tail, TailRead};
use crate::server::follow::{Ask, Following};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// One long-poll.
const POLL: Duration = Duration::from_secs(20);
/// After the server has gone: how long another one may take to come by itself before we start one.
pub const WAIT_FOR_ANOTHER: Duration = Duration::from_millis(300);
/// How long to try to get one of our own up.
pub const WAIT_FOR_OURS: Duration = Duration::from_secs(10);
/// The same when it was told to leave, or when we may not start one: the user will.
const WAIT_FOR_SOMEBODY: Duration = Duration::from_secs(600);
pub const RECONNECT: Duration = Duration::from_millis(20);
/// Pauses when the server has no place for one more that waits.
const BUSY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// Bytes that are read at once. More than the caches of a processor hold would be slower.
const CHUNK: usize = 128 << 10;
/// After so many bytes without a pause it is a flood: then a look at the file comes before the next question, so that the
/// server is not asked for each write.
const FLOOD: u64 = 128 << 10;
const FLOOD_PAUSE: Duration = Duration::from_millis(2);
/// After so many bytes the server is asked all the same what became of the process.
const ENOUGH: u64 = 64 << 20;
/// What the server has said of the log is to be found in it within this.
const FOUND: Duration = Duration::from_secs(5);

/// Everything that wakes the main thread.
pub enum Event {
    News(News),
    /// There is a signal to look at.
    Signal,
}

/// What the following thread tells.
pub enum News {
    /// Output, and where the log is read up to now.
    Output {
        pieces: Vec<(Stream, Vec<u8>)>,
        run: u64,
        offset: u64,
    },
    /// The process was restarted: this is the new run.
    Restarted(Following),
    /// It has ended; nothing more comes.
    Ended(Following),
    /// So many bytes of the log are gone.
    Skipped(u64),
    /// So many bytes at the end of the log could not be written, and why.
    Unwritten(u64, Option<String>),
    /// What holds up the output, or that nothing does any more.
    Trouble(Option<String>),
    Note(String),
    Lost(Trouble),
}

/// The server as a follower needs it, which may go at any moment.
trait Server {
    /// How far a log reaches behind an offset, as soon as it does.
    fn follow(&mut self, ask: &Ask) -> Result<(Following, Vec<u8>), Trouble>;
    /// Makes sure that there is one.
    fn ensure_server(&mut self) -> Result<(), Trouble>;
    fn config(&self) -> &Config;
    /// Whether there is one, which took the last question and has not answered it.
    fn is_silent(&self) -> bool;
}

impl Server for Link {
    fn follow(&mut self, ask: &Ask) -> Result<(Following, Vec<u8>), Trouble> {
        Link::follow(self, ask)
    }
    fn ensure_server(&mut self) -> Result<(), Trouble> {
        Link::ensure_server(self)
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

/// Begins to follow a run; tells `events` what there is.
pub fn follow_in_thread(link: Link, start: Start, events: SyncSender<Event>) -> Result<(), Trouble> {
    let mut follower = Follower::new(link, start, events);
    let follow = move || {
        if let Err(Stop::Trouble(trouble)) = follower.go() {
            let _ = follower.tell(News::Lost(trouble));
        }
    };
    let thread = std::thread::Builder::new().name("follow".into()).spawn(follow);
    thread.map(drop).map_err(|error| Trouble::Refused(format!("cannot follow the output: {error}")))
}

/// Why following ends before the process does.
#[derive(Debug, PartialEq)]
enum Stop {
    /// The main thread has ended.
    Unheard,
    Trouble(Trouble),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Stop {
        Stop::Trouble(trouble)
    }
}

struct Follower<S> {
    link: S,
    run: u64,
    from: u64,
    frames: Frames,
    reader: Option<String>,
    events: SyncSender<Event>,
    /// The log of the present run, once it is known where that is.
    log: Option<Tail>,
    buffer: Vec<u8>,
    /// What holds up the output, as it was told.
    trouble: Option<String>,
    /// The server said that it leaves its processes.
    is_left: bool,
    /// Pause before the next question, when the server is busy.
    pause: Duration,
}

impl<S: Server> Follower<S> {
    fn new(link: S, start: Start, events: SyncSender<Event>) -> Follower<S> {
        let Start { run, offset, frames, reader } = start;
        let (trouble, pause) = (None, BUSY[0]);
        Follower {
            link,
            run,
            from: offset,
            frames,
            reader,
            events,
            log: None,
            buffer: Vec::new(),
            trouble,
            is_left: false,
            pause,
        }
    }

    fn tell(&self, news: News) -> Result<(), Stop> {
        self.events.send(Event::News(news)).map_err(|_| Stop::Unheard)
    }

    /// Until the process ends, or the main thread has.
    fn go(&mut self) -> Result<(), Stop> {
        loop {
            let (following, bytes) = self.poll(POLL)?;
            self.is_left = following.is_leaving;
            self.tell_trouble(&following)?;
            if bytes.is_empty() {
                self.read_up_to(&following)?;
            } else {
                self.skip(following.from.saturating_sub(self.from))?;
                self.from = following.next;
                self.show(&bytes)?;
            }
            if following.is_final {
                self.tell_unwritten(&following)?;
                let Some(successor) = following.successor else { return self.tell(News::Ended(following)) };
                (self.run, self.from, self.log) = (successor, 0, None);
                let (next, _) = self.poll(Duration::ZERO)?;
                self.frames.restart();
                self.tell(News::Restarted(next))?;
            } else if following.is_busy {
                std::thread::sleep(self.pause);
                self.pause = BUSY[1].min(2 * self.pause);
            } else if following.is_leaving {
                // Its last answers come at once; do not ask in a circle.
                std::thread::sleep(RECONNECT);
            } else {
                self.pause = BUSY[0];
            }
        }
    }

    /// Tells once what holds up the output, and once that it goes on.
    fn tell_trouble(&mut self, following: &Following) -> Result<(), Stop> {
        let trouble = following.trouble.as_deref().map(decode);
        if trouble == self.trouble {
            return Ok(());
        }
        self.trouble = trouble.clone();
        if trouble.is_none() && following.is_final {
            return Ok(()); // nothing goes on
        }
        self.tell(News::Trouble(trouble))
    }

    /// Tells what is missing at the end because the disk did not take it.
    fn tell_unwritten(&mut self, following: &Following) -> Result<(), Stop> {
        match following.lost_bytes {
            0 => Ok(()),
            bytes => self.tell(News::Unwritten(bytes, following.lost_to.as_deref().map(decode))),
        }
    }

    /// So many bytes are not there.
    fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        if bytes == 0 {
            return Ok(());
        }
        if self.frames.is_in_line() {
            self.tell(News::Output {
                pieces: vec![(Stream::Stdout, b"\n".to_vec())],
                run: self.run,
                offset: self.from,
            })?;
        }
        self.frames.restart();
        self.tell(News::Skipped(bytes))
    }

    /// Shows what the log has brought.
    fn show(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut pieces: Vec<(Stream, Vec<u8>)> = Vec::new();
        let _ = self.frames.push(bytes, &mut |stream, bytes| {
            pieces.push((stream, bytes));
            Ok::<(), std::convert::Infallible>(())
        });
        self.tell(News::Output { pieces, run: self.run, offset: self.from })
    }

    /// Reads the log as far as the server says that it reaches, and what has come since.
    fn read_up_to(&mut self, following: &Following) -> Result<(), Stop> {
        let Some(directory) = following.directory.as_deref().map(decode).filter(|_| following.next > self.from) else {
            return Ok(());
        };
        let runs = self.link.config().data_dir.join("runs");
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
            if begun.elapsed() > FOUND {
                let path = directory.join(Stream::Combined.file_name());
                return Err(Trouble::Refused(format!("cannot read the log {}: {why}", path.display())).into());
            }
            std::thread::sleep(RECONNECT);
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
                    if self.from - begun >= ENOUGH {
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
                Err(Trouble::Unreachable(_)) => self.reconnect()?,
                answer => return answer.map_err(Stop::from),
            }
        }
    }

    fn ask(&mut self, wait: Duration) -> Result<(Following, Vec<u8>), Trouble> {
        self.link.follow(&Ask {
            run: self.run,
            from: self.from,
            wait,
            with_bytes: false,
            reader: self.reader.clone(),
            knows_trouble: self.trouble.is_some(),
        })
    }

    /// The server has gone, or does not answer; the process has not. Another server finds it, and meanwhile its output is
    /// read.
    fn reconnect(&mut self) -> Result<(), Stop> {
        let begun = Instant::now();
        let may_start = self.link.config().autostart && !self.is_left;
        let mut is_told = false;
        loop {
            match self.ask(Duration::ZERO) {
                Err(Trouble::Unreachable(_)) => {}
                _ => return Ok(()),
            }
            if let Err(Failed::Stop(stop)) = self.read_log() {
                return Err(stop);
            }
            if self.link.is_silent() {
                // It lives, so no other one can come: it is waited for as long as it does.
                if !std::mem::replace(&mut is_told, true) {
                    let text = format!(
                        "{}; the process goes on, and so does this when it answers",
                        silence(self.link.config())
                    );
                    self.tell(News::Note(text))?;
                }
                std::thread::sleep(RECONNECT);
                continue;
            }
            if may_start && begun.elapsed() > WAIT_FOR_ANOTHER {
                match self.link.ensure_server() {
                    // Servers may come and go faster than we look; and one that is there may answer later.
                    Err(_) if begun.elapsed() < WAIT_FOR_OURS || self.link.is_silent() => {}
                    result => return result.map_err(Stop::from),
                }
            }
            if !is_told && begun.elapsed() > 3 * WAIT_FOR_ANOTHER {
                is_told = true;
                self.tell(News::Note(
                    "the server has ended, the process goes on; waiting for another server (`persistproc serve`)"
                        .into(),
                ))?;
            }
            if begun.elapsed() > WAIT_FOR_SOMEBODY {
                return Err(Trouble::Unreachable(
                    "the server has ended; the process goes on: start a server and run the same command again to see it".into(),
                ).into());
            }
            std::thread::sleep(RECONNECT);
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
    use super::super::frames::Show;
    use super::*;
    use std::collections::VecDeque;
    use std::sync::mpsc::sync_channel;

    /// Gives these answers one after the other; `None` is a connection that is cut.
    struct Scripted {
        answers: VecDeque<Option<Following>>,
        config: Config,
    }

    impl Server for Scripted {
        fn follow(&mut self, ask: &Ask) -> Result<(Following, Vec<u8>), Trouble> {
            let answer = self.answers.pop_front().expect("another question than was expected");
            let following = answer.ok_or_else(|| Trouble::Unreachable("cut".into()))?;
            assert_eq!((following.run, following.from), (ask.run, ask.from));
            // With a directory its log is read, as of servers since 0.5.
            let size = if following.directory.is_none() { following.next - following.from } else { 0 };
            Ok((following, vec![b'x'; size as usize]))
        }
        fn ensure_server(&mut self) -> Result<(), Trouble> {
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
        let dir = std::env::temp_dir().join(format!("persistproc-follower-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("runs/x")).unwrap();
        std::fs::write(dir.join("runs/x/combined.log"), "2026-01-02T03:04:05.001z one\ntwo\n").unwrap();
        let (events, heard) = sync_channel(100);
        let environment =
            |name: &str| (name == "HOME" || name == "PERSISTPROC_DATA_DIR").then(|| dir.clone().into_os_string());
        let config = crate::config::resolve(crate::config::Flags::default(), environment).unwrap();
        let ended = Following { directory: Some("x".into()), is_final: true, ..answer(1, 29, 33) };
        let link = Scripted { answers: [Some(ended)].into(), config };
        let start = Start { run: 1, offset: 29, frames: Frames::new(Show::Bytes), reader: None };
        Follower::new(link, start, events).go().unwrap();
        let shown = heard.iter().find_map(|event| match event {
            Event::News(News::Output { pieces, .. }) => Some(pieces),
            _ => None,
        });
        assert_eq!(shown, Some(vec![(Stream::Stderr, b"two\n".to_vec())]));
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn answer(run: u64, from: u64, next: u64) -> Following {
        Following { run, from, next, ..Following::default() }
    }

    /// What is told of a run that is restarted once and then ends.
    fn told(script: Vec<Option<Following>>) -> Vec<String> {
        let (events, heard) = sync_channel(100);
        let environment = |name: &str| (name == "HOME").then(|| "/nowhere".into());
        let config = crate::config::resolve(crate::config::Flags::default(), environment).unwrap();
        let link = Scripted { answers: script.into(), config };
        let start = Start { run: 1, offset: 0, frames: Frames::new(Show::Bytes), reader: None };
        let mut follower = Follower::new(link, start, events);
        let outcome = follower.go();
        assert_eq!((outcome, follower.link.answers.len()), (Ok(()), 0));
        drop(follower);
        let shown = |event: Event| match event {
            Event::News(News::Output { run, offset, .. }) => format!("{run}: up to {offset}"),
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
