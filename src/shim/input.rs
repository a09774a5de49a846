//! Input on its way to the child's stdin, which the child reads at its own pace.

use crate::rundir::InputReport;
use crate::sys;
use std::io::{self, Write};
use std::process::ChildStdin;
use std::time::{Duration, Instant};

/// How much input that the child has not read is kept for it, in bytes.
pub const INPUT_MAX: usize = 64 << 10;
/// How often writing pending input is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The writing end of the child's stdin, and what waits to be written to it.
pub struct Input {
    /// `None` once the child has closed its end.
    pipe: Option<ChildStdin>,
    pending: Vec<u8>,
    report: InputReport,
}

impl Input {
    /// Takes over the stdin of the child.
    ///
    /// # Errors
    ///
    /// It cannot be made non-blocking.
    pub fn new(pipe: Option<ChildStdin>) -> io::Result<Input> {
        if let Some(pipe) = &pipe {
            sys::set_nonblocking(pipe, true)?;
        }
        Ok(Input { pipe, pending: Vec::new(), report: InputReport::default() })
    }

    /// The pipe; `None` once the child has closed its end.
    pub fn pipe(&self) -> Option<&ChildStdin> {
        self.pipe.as_ref()
    }

    /// Accepts input that a server sends as hexadecimal digits; bytes for which there is no space are dropped and counted.
    pub fn accept_hex(&mut self, hex: &str) -> InputReport {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        let bytes = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
        self.flush(); // makes space
        let space = INPUT_MAX.saturating_sub(self.pending.len());
        self.report.received += bytes.len() as u64;
        self.report.dropped += bytes.len().saturating_sub(space) as u64;
        self.pending.extend(bytes.take(space));
        self.report
    }

    /// Writes as much as fits the pipe now.
    pub fn flush(&mut self) {
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

    /// When to [`flush`](Self::flush) again.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.pending.is_empty()).then(|| Instant::now() + RETRY_INTERVAL)
    }
}
