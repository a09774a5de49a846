//! Why something was refused or failed: one type for every door, turned into an `isError` text in `mcp`, a status in
//! `server` and an exit code in `client`.

use crate::words::one_line;
use std::fmt;
use std::io::{self, ErrorKind};

/// What kind of refusal it is, for those who decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense as it stands; sending it again changes nothing.
    Invalid,
    /// It names something that is not there.
    NotFound,
    /// It cannot be done in the present state of things.
    Conflict,
    /// The server is ending, and has not begun with it.
    Ending,
    /// There is no place for it now, and it was not begun; a little later there may be one.
    Busy,
    /// It was tried and did not work.
    Failed,
}

/// A refusal or failure. `text` is one line for a person or a model: what happened, and what to do next. It names
/// commands, paths and arguments as they came, so everything in it that a terminal would obey is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub text: String,
    /// The number of the run that stands in the way.
    pub run: Option<u64>,
}

impl Fault {
    fn new(kind: Kind, text: impl Into<String>) -> Fault {
        Fault { kind, text: one_line(&text.into()), run: None }
    }
    pub fn invalid(text: impl Into<String>) -> Fault {
        Fault::new(Kind::Invalid, text)
    }
    pub fn not_found(text: impl Into<String>) -> Fault {
        Fault::new(Kind::NotFound, text)
    }
    pub fn conflict(text: impl Into<String>) -> Fault {
        Fault::new(Kind::Conflict, text)
    }
    pub fn ending(text: impl Into<String>) -> Fault {
        Fault::new(Kind::Ending, text)
    }
    pub fn busy(text: impl Into<String>) -> Fault {
        Fault::new(Kind::Busy, text)
    }
    pub fn failed(text: impl Into<String>) -> Fault {
        Fault::new(Kind::Failed, text)
    }
}

/// What to do where nothing can be written.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "free some room there",
        ErrorKind::ReadOnlyFilesystem => "mount that file system writable again",
        ErrorKind::PermissionDenied => "make it writable for you",
        _ => "put that right",
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}
