//! Bytes that were read and not yet used.

/// Taking from the front costs what is taken, not what is left: a body may come in millions of tiny chunks.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// How many of them have been taken.
    taken: usize,
}

impl Buffer {
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub fn take(&mut self, length: usize) -> Vec<u8> {
        if self.taken == 0 && length >= self.bytes.len() {
            return std::mem::take(&mut self.bytes);
        }
        let start = self.taken;
        self.skip(length);
        self.bytes[start..self.taken].to_vec()
    }

    /// Takes without looking.
    pub fn skip(&mut self, length: usize) {
        self.taken = (self.taken + length).min(self.bytes.len());
    }

    /// Lets `read` append up to `most` bytes. It returns how many it has appended.
    pub fn fill<E>(&mut self, most: usize, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        let filled = self.bytes.len();
        if filled == 0 {
            self.bytes.shrink_to(most); // what a large body needed is not needed by what follows
        }
        self.bytes.resize(filled + most, 0);
        let read = read(&mut self.bytes[filled..]);
        self.bytes.truncate(filled + *read.as_ref().unwrap_or(&0));
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_stays() {
        let mut buffer = Buffer::default();
        let put = |buffer: &mut Buffer, text: &str| {
            let read = |room: &mut [u8]| -> Result<usize, ()> {
                room[..text.len()].copy_from_slice(text.as_bytes());
                Ok(text.len())
            };
            buffer.fill(10, read).unwrap()
        };
        assert_eq!(put(&mut buffer, "abcdef"), 6);
        assert_eq!(buffer.take(2), b"ab");
        buffer.skip(1);
        assert_eq!(put(&mut buffer, "gh"), 2);
        assert_eq!(buffer.rest(), b"defgh");
        assert_eq!(buffer.fill(10, |_| Err::<usize, _>("no more")), Err("no more"));
        assert_eq!(buffer.take(5), b"defgh");
        assert!(buffer.rest().is_empty());
    }
}
