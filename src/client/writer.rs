//! Writing in a thread of its own: whoever writes to a reader that takes nothing, or to a terminal that was told to hold
//! (Ctrl+S), still hears signals.

use super::{Trouble, terminal};
use crate::log::Stream;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The most that is written at a time, in bytes.
const PIECE: usize = 64 << 10;
/// How long it is waited at a time for a reader that does not read.
const STUCK: Duration = Duration::from_secs(3600);

/// What became of something that was printed.
pub enum Printed {
    All,
    /// The reader has not taken all of it in time.
    Late,
    /// The reader has closed its end.
    ReaderLeft,
}

pub struct Writer {
    to_write: SyncSender<(Stream, Vec<u8>)>,
    outcomes: Receiver<io::Result<()>>,
    /// Pieces that were taken so far.
    taken: Arc<AtomicUsize>,
}

impl Writer {
    pub fn start() -> Result<Writer, Trouble> {
        let (to_write, ordered) = sync_channel::<(Stream, Vec<u8>)>(1);
        let (outcome, outcomes) = sync_channel(1);
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let write = move |stream: Stream, bytes: &[u8]| {
            bytes.chunks(PIECE).try_for_each(|piece| {
                terminal::write(stream, piece)?;
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        };
        let serve = move || {
            let _ = ordered.iter().try_for_each(|(stream, bytes)| outcome.send(write(stream, &bytes)));
        };
        let thread = std::thread::Builder::new().name("write".into()).spawn(serve);
        thread.map_err(|error| Trouble::Refused(format!("cannot write the output: {error}")))?;
        Ok(Writer { to_write, outcomes, taken })
    }

    /// Begins to write. The outcome of what was written before must have been seen.
    pub fn begin(&self, stream: Stream, bytes: Vec<u8>) {
        let _ = self.to_write.send((stream, bytes)); // fails with the thread, which `outcome` tells
    }

    /// How that went; `None` if it has not been taken within `patience`.
    pub fn outcome(&self, patience: Duration) -> Option<io::Result<()>> {
        match self.outcomes.recv_timeout(patience) {
            Ok(outcome) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Writes program output to stdout, until `end` at the latest. After `Printed::Late` nothing more can be written.
    pub fn print(&self, bytes: Vec<u8>, end: Option<Instant>) -> Result<Printed, Trouble> {
        if bytes.is_empty() {
            return Ok(Printed::All);
        }
        self.begin(Stream::Stdout, bytes);
        let left = || end.map_or(STUCK, |end| end.saturating_duration_since(Instant::now()));
        loop {
            match self.outcome(left()) {
                Some(Ok(())) => return Ok(Printed::All),
                Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Printed::ReaderLeft),
                Some(Err(error)) => return Err(Trouble::Refused(format!("cannot write to stdout: {error}"))),
                None if left().is_zero() => return Ok(Printed::Late),
                None => {}
            }
        }
    }

    /// Grows as long as somebody takes something.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}
