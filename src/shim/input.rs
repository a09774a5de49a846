//! Input on its way to the child's stdin, which it reads when it likes.

use crate::rundir::InputReport;
use crate::sys;
use std::io::{self, Write};
use std::process::ChildStdin;
use std::time::{Duration, Instant};

/// Input that the child does not read: how much is kept for it, in bytes, and how often it is offered.
pub const MOST: usize = 64 << 10;
const RETRY: Duration = Duration::from_millis(50);

pub struct Input {
    /// `None` when the child has closed it.
    pipe: Option<ChildStdin>,
    pending: Vec<u8>,
    report: InputReport,
}

impl Input {
    /// For the child with this stdin.
    pub fn new(pipe: Option<ChildStdin>) -> io::Result<Input> {
        if let Some(pipe) = &pipe {
            sys::set_nonblocking(pipe, true)?;
        }
        Ok(Input { pipe, pending: Vec::new(), report: InputReport::default() })
    }

    pub fn pipe(&self) -> Option<&ChildStdin> {
        self.pipe.as_ref()
    }

    /// Takes what a server sends, as hexadecimal digits; what there is no room for is dropped, and counted.
    pub fn take(&mut self, hex: &str) -> InputReport {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        let bytes = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
        self.offer(); // what can go makes room
        let room = MOST.saturating_sub(self.pending.len());
        self.report.received += bytes.len() as u64;
        self.report.dropped += bytes.len().saturating_sub(room) as u64;
        self.pending.extend(bytes.take(room));
        self.report
    }

    /// Writes what the child takes now.
    pub fn offer(&mut self) {
        let Input { pipe, pending, .. } = self;
        let Some(open) = pipe else { return pending.clear() };
        while !pending.is_empty() {
            match open.write(pending) {
                Ok(n) => drop(pending.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    *pipe = None;
                    return pending.clear();
                }
            }
        }
    }

    /// When to [`offer`](Self::offer) again.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.pending.is_empty()).then(|| Instant::now() + RETRY)
    }
}
