//! Why something was refused or failed: one type for every layer. `mcp` turns it into an `isError` text, `server` into an
//! HTTP status, `client` into an exit code.

use crate::os_text::one_line;
use std::fmt;
use std::io;
use std::sync::Arc;

/// What kind of error it is, for code that decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request makes no sense as it stands; sending it again changes nothing.
    Invalid,
    /// The command line makes no sense.
    Usage,
    /// The request names something that does not exist.
    NotFound,
    /// It cannot be done in the present state.
    Conflict,
    /// The process is running already, as the run of this number.
    AlreadyRunning(u64),
    /// The server is shutting down, and has not begun to carry the request out.
    Ending,
    /// The server has no capacity for the request and has not begun to carry it out; retrying a little later may work.
    Busy,
    /// It was tried and did not work.
    Failed,
    /// No server could be reached.
    Unreachable,
}

/// A refusal or a failure. Its text is one line for a person or a model: what happened, and what to do next. It quotes
/// commands, paths and arguments as they came, so everything in it that a terminal would interpret is escaped.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl AsRef<str>) -> Error {
        Error { kind, message: one_line(message.as_ref()), source: None }
    }
    pub fn invalid(message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }
    pub fn usage(message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::Usage, message)
    }
    pub fn not_found(message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }
    pub fn conflict(message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::Conflict, message)
    }
    pub fn already_running(run: u64, message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::AlreadyRunning(run), message)
    }
    pub fn ending(message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::Ending, message)
    }
    pub fn busy(message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::Busy, message)
    }
    pub fn failed(message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::Failed, message)
    }
    pub fn unreachable(message: impl AsRef<str>) -> Error {
        Error::new(ErrorKind::Unreachable, message)
    }

    /// The same error with the one that caused it, which is shown after the message and a colon.
    pub fn because(self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error { source: Some(Arc::new(source)), ..self }
    }

    /// The same error with more to say after its text.
    pub fn with_hint(self, hint: &str) -> Error {
        Error::new(self.kind, format!("{self}; {hint}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {}", one_line(&source.to_string())),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

impl PartialEq for Error {
    fn eq(&self, other: &Error) -> bool {
        self.kind == other.kind && self.to_string() == other.to_string()
    }
}

/// What a user can do about a file or directory that cannot be written to.
pub fn remedy(error: &io::Error) -> &'static str {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "free some space there",
        ErrorKind::ReadOnlyFilesystem => "mount that file system writable again",
        ErrorKind::PermissionDenied => "make it writable for you",
        _ => "fix that",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn an_error_shows_its_cause_and_hands_it_on_and_both_are_escaped() {
        let cause = io::Error::other("no\x1b[31m luck");
        let error = Error::failed("cannot read 'a\nb'").because(cause);
        assert_eq!(error.to_string(), "cannot read 'a\\nb': no\\u{1b}[31m luck");
        assert_eq!(error.source().unwrap().to_string(), "no\x1b[31m luck");
        let hinted = error.with_hint("try again");
        assert_eq!(hinted.to_string(), "cannot read 'a\\nb': no\\u{1b}[31m luck; try again");
        assert_eq!(hinted.kind, ErrorKind::Failed);
    }
}
