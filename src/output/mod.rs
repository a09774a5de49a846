//! What runs have printed: which runs, which lines, how long to wait for more, and how lines are shown. One selection
//! serves every entry point: the tool and the command line.

pub mod caller;
mod context;
pub mod cursor;
pub mod lines;
pub mod pattern;
mod plain;
pub mod query;
mod reader;
mod recall;
pub mod scope;
mod search;
pub mod select;
pub mod view;
pub mod wait;

use crate::error::Error;
use crate::manager::watch::Run;
use std::io;

/// What to say when a log cannot be read.
pub fn unreadable(run: &Run, error: &io::Error) -> Error {
    Error::failed(format!("cannot read the output of '{}' in {}: {error}", run.meta.label, run.dir.path().display()))
}

#[cfg(test)]
pub mod tests {
    /// Cases of a property test: few by default, as many as `PERSISTPROC_CASES` says on demand.
    pub fn cases() -> usize {
        std::env::var("PERSISTPROC_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
    }

    /// The same numbers every time, from a linear congruential generator (Knuth's constants).
    pub struct Random(u64);
    impl Random {
        pub fn new(seed: u64) -> Random {
            Random(seed)
        }
        pub fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % end.max(1)
        }
    }
}
