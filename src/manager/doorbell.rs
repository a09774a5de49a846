//! What comes through the `events` FIFO: single bytes that say "look", and now and then a status.

use crate::rundir::{STATUS_CHANGED, STATUS_FOLLOWS, Status, parse_status_message};

/// No message is longer: what a pipe takes in one piece (PIPE_BUF of Linux).
const STATUS_MESSAGE_MAX: usize = 4096;

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
                (Some(message), byte) if message.len() < STATUS_MESSAGE_MAX => message.push(byte),
                (Some(_), _) => self.message = None,
            }
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rundir::{FORMAT_VERSION, StartError, status_message};

    #[test]
    fn a_status_of_any_length_is_read_in_pieces_of_any_size_and_bytes_around_it_ring() {
        let text = "x".repeat(290);
        let error = Some(StartError { errno: 2, text: text.clone() });
        let status =
            Status { version: FORMAT_VERSION, pid: 7, io_error: Some(text.clone()), error, ..Status::default() };
        let message = status_message(&status).unwrap();
        assert!(message.len() > 600, "longer than what goes the other way: {}", message.len());
        let bytes = [&[STATUS_CHANGED][..], &message, &[STATUS_CHANGED]].concat();
        for size in [1, 7, 512, 4096] {
            let mut reader = DoorbellReader::default();
            let heard: Vec<Heard> = bytes.chunks(size).map(|piece| reader.read(piece)).collect();
            assert!(heard.iter().any(|heard| heard.is_changed), "{size}");
            let read: Vec<&Status> = heard.iter().filter_map(|heard| heard.status.as_ref()).collect();
            assert_eq!(read, [&status], "{size}");
        }
    }
}
