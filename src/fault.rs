//! Why something was refused or failed: one type for every door, turned into an `isError` text in `mcp`, a status in
//! `server` and an exit code in `client`.

use std::fmt;

/// What kind of refusal it is, for those who decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense as it stands; sending it again changes nothing.
    Invalid,
    /// It names something that is not there.
    NotFound,
    /// It cannot be done in the present state of things.
    Conflict,
    /// It was tried and did not work.
    Failed,
}

/// A refusal or failure. `text` is one line for a person or a model: what happened, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub text: String,
    /// The number of the run that stands in the way.
    pub run: Option<u64>,
}

impl Fault {
    pub fn invalid(text: impl Into<String>) -> Fault {
        Fault { kind: Kind::Invalid, text: text.into(), run: None }
    }
    pub fn not_found(text: impl Into<String>) -> Fault {
        Fault { kind: Kind::NotFound, text: text.into(), run: None }
    }
    pub fn conflict(text: impl Into<String>) -> Fault {
        Fault { kind: Kind::Conflict, text: text.into(), run: None }
    }
    pub fn failed(text: impl Into<String>) -> Fault {
        Fault { kind: Kind::Failed, text: text.into(), run: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}
