//! One of the child's two streams, as far as it is read: its pipe, and what of an unfinished line is held back.

use crate::sys;
use std::fs::File;
use std::time::Instant;

/// What a pipe holds, in bytes.
pub const PIPE_CAPACITY: usize = 64 << 10;
/// After so many bytes of large reads without a pause it is a flood, and how much a pipe holds then: with more room the child
/// and the shim need not wait for each other all the time (`seq` takes a quarter longer without it). Not for longer, because
/// all pipes of a user together may hold 64 MiB (pipe(7), `pipe-user-pages-soft`).
const FLOOD_THRESHOLD: usize = 1 << 20;
const FLOOD_PIPE_CAPACITY: usize = 1 << 20;

/// One of the child's two streams.
#[derive(Default)]
pub struct Source {
    /// `None` once no process can write to it any more.
    pub pipe: Option<File>,
    /// The end of what was read that is not a whole line yet.
    pub held: Vec<u8>,
    pub held_since: Option<Instant>,
    /// Part of the present line is in the logs already.
    pub mid_line: bool,
    /// Bytes of large reads since the last silence.
    flood: usize,
    /// The pipe has been made larger.
    is_enlarged: bool,
}

impl Source {
    /// Whether what comes next begins a line.
    pub fn is_between_lines(&self) -> bool {
        self.held.is_empty() && !self.mid_line
    }

    /// After a large read of so many bytes.
    pub fn note_flood(&mut self, bytes: usize) {
        self.flood += bytes;
        if self.flood >= FLOOD_THRESHOLD && !self.is_enlarged {
            // Where the system refuses that, it is slower and no more.
            self.is_enlarged = true;
            self.pipe.iter().for_each(|pipe| drop(sys::set_pipe_size(pipe, FLOOD_PIPE_CAPACITY)));
        }
    }

    /// The flood is over. While there is still more in the pipe than it should hold, it stays as it is.
    pub fn end_flood(&mut self) {
        self.flood = 0;
        if let Some(pipe) = self.pipe.as_ref().filter(|_| self.is_enlarged) {
            self.is_enlarged = sys::set_pipe_size(pipe, PIPE_CAPACITY).is_err();
        }
    }
}
