//! What comes through the `events` FIFO: single bytes that say "look", and now and then a status.

use crate::rundir::{MAX_MESSAGE_LEN, STATUS_CHANGED, STATUS_FOLLOWS, Status, parse_status_message};

/// Takes the bytes of the FIFO apart, in pieces as they are read.
#[derive(Default)]
pub struct DoorbellReader {
    /// The beginning of a status.
    message: Option<Vec<u8>>,
}

/// What a piece of it said.
#[derive(Default)]
pub struct Heard {
    /// The files of the run have changed.
    pub is_changed: bool,
    /// The last one that was sent.
    pub status: Option<Status>,
}

impl DoorbellReader {
    pub fn read(&mut self, bytes: &[u8]) -> Heard {
        let mut heard = Heard::default();
        for &byte in bytes {
            match (&mut self.message, byte) {
                (None, STATUS_FOLLOWS) => self.message = Some(Vec::new()),
                (None, byte) => heard.is_changed |= byte == STATUS_CHANGED,
                (Some(message), b'\n') => {
                    heard.status = parse_status_message(message).or(heard.status.take());
                    self.message = None;
                }
                (Some(message), byte) if message.len() < MAX_MESSAGE_LEN => message.push(byte),
                (Some(_), _) => self.message = None,
            }
        }
        heard
    }
}
