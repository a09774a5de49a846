//! Writing in a thread of its own: whoever writes to a reader that takes nothing, or to a terminal that was told to hold
//! (Ctrl+S), still hears signals.

use super::{Trouble, terminal};
use crate::log::Stream;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// The most that is written at a time, in bytes.
const PIECE: usize = 64 << 10;

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

    /// Grows as long as somebody takes something.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}
