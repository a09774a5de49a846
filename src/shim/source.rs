//! One of the child's two output streams: its pipe, and the part of an unfinished line that is held back.

use crate::sys;
use std::fs::File;
use std::time::Instant;

/// The capacity of a pipe, in bytes.
pub const PIPE_CAPACITY: usize = 64 << 10;
/// After this many bytes of large reads without a pause, output counts as a flood.
const FLOOD_THRESHOLD: usize = 1 << 20;
/// The capacity of a pipe during a flood, in bytes: with more space the child and the shim need not wait for each other all
/// the time (`seq` takes a quarter longer without it). It is reset after the flood, because all pipes of a user together may
/// hold only 64 MiB (pipe(7), `pipe-user-pages-soft`).
const FLOOD_PIPE_CAPACITY: usize = 1 << 20;

/// One of the child's two output streams.
#[derive(Default)]
pub struct Source {
    /// `None` once no process can write to it any more.
    pub pipe: Option<File>,
    /// The end of what was read, as far as it is not a whole line yet.
    pub held: Vec<u8>,
    /// Since when `held` has not been empty.
    pub held_since: Option<Instant>,
    /// Part of the current line is in the logs already.
    pub is_mid_line: bool,
    /// Bytes of large reads since the last silence.
    flood_bytes: usize,
    /// The pipe has been made larger.
    is_enlarged: bool,
}

impl Source {
    /// Whether the next byte begins a line.
    pub fn is_between_lines(&self) -> bool {
        self.held.is_empty() && !self.is_mid_line
    }

    /// Counts a large read, and enlarges the pipe if this is a flood.
    pub fn record_large_read(&mut self, bytes: usize) {
        self.flood_bytes += bytes;
        if self.flood_bytes >= FLOOD_THRESHOLD && !self.is_enlarged {
            // If the system refuses that, capturing is slower, but nothing worse.
            self.is_enlarged = true;
            self.pipe.iter().for_each(|pipe| drop(sys::set_pipe_size(pipe, FLOOD_PIPE_CAPACITY)));
        }
    }

    /// Resets the pipe after a flood. It stays enlarged while it still contains more than its normal capacity.
    pub fn end_flood(&mut self) {
        self.flood_bytes = 0;
        if let Some(pipe) = self.pipe.as_ref().filter(|_| self.is_enlarged) {
            self.is_enlarged = sys::set_pipe_size(pipe, PIPE_CAPACITY).is_err();
        }
    }
}
