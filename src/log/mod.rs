//! Log files of a run: the format of a record, writing and rotating a file, and reading it without reading all of it.
//!
//! There are three files per run. `stdout.log` and `stderr.log` hold one line of the child per line, each either prefixed with
//! a stamp (a UTC timestamp) or following lines that were read at the same moment: strip the stamps and you have the child's
//! bytes, down to the last one. `combined.log` holds both streams in the order in which they were read (see [`record`]).
//!
//! All positions are **offsets from the start of the run**, regardless of rotation, so a cursor survives it.

pub mod header;
pub mod read;
pub mod record;
pub mod scan;
pub mod stamp;
pub mod tail;
pub mod writer;

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

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Combined => "combined",
        }
    }

    /// The stream of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Stream> {
        Stream::ALL.into_iter().find(|stream| stream.name() == name)
    }

    /// The file's name in the directory of the run.
    pub fn file_name(self) -> String {
        format!("{}.log", self.name())
    }

    /// Index in arrays of three, in the order of [`Stream::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}
