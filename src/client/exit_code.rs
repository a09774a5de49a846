//! Exit codes.

use crate::error::ErrorKind;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    Success,
    /// It was refused or failed, or not all output could be shown.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// No server could be reached.
    NoServer,
    /// That of the program.
    Program(u8),
    /// The program, or this command, was ended by a signal: 128 and its number, as shells report it.
    Signal(i32),
}

impl ExitCode {
    pub fn number(self) -> u8 {
        match self {
            ExitCode::Success => 0,
            ExitCode::Failure => 1,
            ExitCode::Usage => 2,
            ExitCode::NoServer => 3,
            ExitCode::Program(code) => code,
            ExitCode::Signal(signal) => (128 + signal) as u8,
        }
    }
}

impl From<ErrorKind> for ExitCode {
    fn from(kind: ErrorKind) -> ExitCode {
        match kind {
            ErrorKind::Usage => ExitCode::Usage,
            ErrorKind::Unreachable => ExitCode::NoServer,
            ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::AlreadyRunning(_)
            | ErrorKind::Ending
            | ErrorKind::Busy
            | ErrorKind::Failed => ExitCode::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_help() {
        let codes = [ExitCode::Success, ExitCode::Failure, ExitCode::Usage, ExitCode::NoServer];
        assert_eq!(codes.map(ExitCode::number), [0, 1, 2, 3]);
        assert_eq!([ExitCode::Program(42), ExitCode::Signal(15)].map(ExitCode::number), [42, 143]);
        let kinds = [ErrorKind::Usage, ErrorKind::Unreachable, ErrorKind::AlreadyRunning(1), ErrorKind::Failed];
        assert_eq!(kinds.map(ExitCode::from).map(ExitCode::number), [2, 3, 1, 1]);
    }
}
