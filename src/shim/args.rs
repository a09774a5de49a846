//! The command line of the shim.

use crate::attributes::Attributes;
use crate::rundir::RunDir;
use std::ffi::OsString;
use std::path::PathBuf;

/// The arguments after `__shim`, see [`shim`](super).
pub struct ShimArgs {
    /// Size at which a log file is rotated, in bytes; 0 for never.
    pub max_log_bytes: u64,
    /// What the child gets from the shell that requested the run.
    pub attributes: Option<Attributes>,
    pub dir: RunDir,
    pub program: OsString,
    pub arguments: Vec<OsString>,
}

impl ShimArgs {
    /// `None` if they are malformed.
    pub fn parse(arguments: Vec<OsString>) -> Option<ShimArgs> {
        let mut arguments = arguments.into_iter();
        if arguments.next()? != "--max-log-bytes" {
            return None;
        }
        let max_log_bytes = arguments.next()?.to_str()?.parse().ok()?;
        let mut argument = arguments.next()?;
        let mut attributes = None;
        if argument == "--attributes" {
            attributes = Some(Attributes::from_json(arguments.next()?.to_str()?)?);
            argument = arguments.next()?;
        }
        // Absolute, because the shim leaves the child's directory.
        let dir = RunDir(Some(PathBuf::from(argument)).filter(|path| path.is_absolute())?);
        Some(ShimArgs { max_log_bytes, attributes, dir, program: arguments.next()?, arguments: arguments.collect() })
    }
}
