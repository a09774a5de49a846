//! Writing in a thread of its own: while a reader reads nothing, or a terminal was told to pause (Ctrl+S), signals are
//! still handled.

use super::super::terminal;
use crate::error::Error;
use crate::log::Stream;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most that is written in one piece, in bytes.
const PIECE: usize = 64 << 10;

pub struct Writer {
    to_write: Sender<(Stream, Vec<u8>)>,
    /// The result of what [`Writer::begin`] was given.
    pub results: Receiver<io::Result<()>>,
    /// Pieces that were written so far.
    written: Arc<AtomicUsize>,
}

impl Writer {
    pub fn start() -> Result<Writer, Error> {
        let (to_write, ordered) = bounded::<(Stream, Vec<u8>)>(1);
        let (result, results) = bounded(1);
        let written = Arc::new(AtomicUsize::new(0));
        let count = written.clone();
        let write = move |stream: Stream, bytes: &[u8]| {
            bytes.chunks(PIECE).try_for_each(|piece| {
                terminal::write(stream, piece)?;
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        };
        let serve = move || {
            let _ = ordered.iter().try_for_each(|(stream, bytes)| result.send(write(stream, &bytes)));
        };
        let thread = std::thread::Builder::new().name("write".into()).spawn(serve);
        thread.map_err(|error| Error::failed("cannot write the output").because(error))?;
        Ok(Writer { to_write, results, written })
    }

    /// Begins to write. The result of what was written before must have been received.
    pub fn begin(&self, stream: Stream, bytes: Vec<u8>) {
        let _ = self.to_write.send((stream, bytes)); // fails with the thread, whose results end then
    }

    /// Grows as long as something reads.
    pub fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }
}
