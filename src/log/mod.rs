//! Log files of a run: how a record looks, how a file is written and rotated, how it is read without reading it whole.
//!
//! Three files per run. `stdout.log` and `stderr.log` hold one line of the child per line, behind its stamp, or after lines
//! that were read at the same moment: strip the stamps and you have the child's bytes, to the last one. `combined.log` holds
//! both streams in the order in which they were read (see [`record`]).
//!
//! All positions are **offsets from the start of the run**, rotation or not, so a cursor survives it.

pub mod read;
pub mod record;
pub mod rotate;
pub mod scan;
pub mod stamp;
pub mod tail;

use serde::{Deserialize, Serialize};

/// Which of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
    Combined,
}

impl Stream {
    pub const ALL: [Stream; 3] = [Stream::Stdout, Stream::Stderr, Stream::Combined];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Combined => "combined",
        }
    }

    pub fn from_name(name: &str) -> Option<Stream> {
        Stream::ALL.into_iter().find(|stream| stream.name() == name)
    }

    /// The file's name in the directory of the run.
    pub fn file_name(self) -> String {
        format!("{}.log", self.name())
    }

    /// Place in arrays of three, in the order of [`Stream::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}
