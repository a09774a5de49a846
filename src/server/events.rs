//! What the main loop of the server is told, beside signals.

use crate::error::Error;
use crossbeam_channel::Sender;

/// The wish to end this server.
pub struct Leave {
    /// Processes go on.
    pub keep: bool,
    /// The socket of the newer server that takes our place.
    pub successor: Option<String>,
    /// Gets what could not be stopped, a line each.
    pub report: Option<Sender<Vec<String>>>,
}

/// What the main loop is told, beside signals.
pub enum Event {
    /// A line for the log.
    Notice(String),
    Leave(Leave),
    /// A process is stopped, or cannot be.
    Stopped(u64, Result<(), Error>),
}
