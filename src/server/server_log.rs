//! `server.log`: what the server did, a line each, in two files of at most a MiB. Never what processes printed, and
//! never what is in their environment.

use crate::discovery::open_own;
use crate::log::stamp::{format_ms, now_ms};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

const MAX: u64 = 1 << 20;

pub struct ServerLog {
    path: PathBuf,
    file: File,
    size: u64,
}

impl ServerLog {
    pub fn open(path: PathBuf) -> io::Result<ServerLog> {
        let file = open_own(OpenOptions::new().append(true).create(true), &path)?;
        let size = file.metadata()?.len();
        Ok(ServerLog { path, file, size })
    }

    /// Adds a line. That it cannot be written, on a full disk, is no reason to do anything else.
    pub fn write(&mut self, text: &str) {
        let line = format!("{} {}\n", format_ms(now_ms()), text.replace(['\n', '\r'], " "));
        if self.size + line.len() as u64 > MAX {
            let _ = self.rotate();
        }
        if self.file.write_all(line.as_bytes()).is_ok() {
            self.size += line.len() as u64;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        // If it is missing, it was removed, or there was no space for a new one the last time.
        match std::fs::rename(&self.path, self.path.with_extension("log.1")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        *self = ServerLog::open(self.path.clone())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_a_mebibyte_hold_the_newest_lines() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let mut log = ServerLog::open(dir.join("server.log")).unwrap();
        for i in 0..3000 {
            log.write(&format!("line {i}\n{}", "x".repeat(1000)));
        }
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let (old, new) = (read("server.log.1"), read("server.log"));
        assert!(old.len() as u64 <= MAX && new.len() as u64 <= MAX);
        assert!(new.lines().last().unwrap().contains("line 2999 x"));
        // No space for a new one, or it was removed: it is created again as soon as that is possible.
        std::fs::remove_file(dir.join("server.log")).unwrap();
        (3000..6000).for_each(|i| log.write(&format!("line {i} {}", "x".repeat(1000))));
        assert!(read("server.log").lines().last().unwrap().contains("line 5999 x"));
    }
}
