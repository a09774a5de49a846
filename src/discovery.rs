//! How the server of a data directory is found and recognised, by commands and by the next server: the name of its socket,
//! what stands in its lock, its version, and whose it is.

use crate::http::head::Head;
use crate::http::socket::Socket;
use crate::{procs, sys};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The socket in a data directory.
pub const SOCKET: &str = "server.sock";
/// The file that the server of a data directory keeps locked; its content is [`ServerInfo`].
pub const LOCK: &str = "server.lock";

/// How the `Server` header begins by which ours are recognised.
pub const PRODUCT: &str = "persistproc/";

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Which server has a data directory: content of `server.lock`, and of `GET /health`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    pub pid: u32,
    /// 0 if it does not listen on TCP.
    pub port: u16,
    pub version: String,
    pub data_dir: PathBuf,
}

impl ServerInfo {
    pub fn has_port(&self) -> bool {
        self.port != 0
    }

    /// `port 8947`, or `no port`.
    pub fn port_in_words(&self) -> String {
        if self.has_port() { format!("port {}", self.port) } else { "no port".into() }
    }
}

/// Which server has a data directory, if one lives: what it wrote into its lock. `None` as well if it could not write.
pub fn find(data_dir: &Path) -> Option<ServerInfo> {
    let lock = open_own(OpenOptions::new().read(true), &data_dir.join(LOCK)).ok()?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read_server_info(&lock),
        _ => None,
    }
}

/// The data directory of the server that is this process, as far as the system tells which files it has open.
pub fn directory_of(pid: i32) -> Option<PathBuf> {
    let lock = procs::open_files(pid).into_iter().find(|path| path.file_name().is_some_and(|name| name == LOCK))?;
    lock.parent().map(PathBuf::from)
}

pub fn read_server_info(lock: &File) -> Option<ServerInfo> {
    const LARGEST: u64 = 64 << 10;
    let mut text = Vec::new();
    lock.take(LARGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether an answer comes from a persistproc server.
pub fn is_persistproc(answer: &Head) -> bool {
    answer.header("server").is_some_and(|name| name.starts_with(PRODUCT))
}

/// How `version` compares with ours. `None` if it is no version as we write them.
pub fn compare(version: &str) -> Option<Ordering> {
    let numbers = |text: &str| text.split('.').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<u64>>>();
    Some(numbers(version)?.cmp(&numbers(VERSION)?))
}

pub fn is_older(server_info: &ServerInfo) -> bool {
    compare(&server_info.version) == Some(Ordering::Less)
}

/// That a Unix socket is served by this user.
pub fn verify_user(socket: &Socket) -> io::Result<()> {
    match socket.peer_user()? {
        user if user == sys::own_user() => Ok(()),
        user => Err(not_ours(user)),
    }
}

pub fn not_ours(user: u32) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to another user (uid {user})"))
}

/// Whether a directory is this user's, and does not even let its owner in, as versions up to 0.4 made it under a umask such as
/// 0177.
pub fn is_closed_to_owner(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|found| found.uid() == sys::own_user() && found.mode() & 0o700 != 0o700)
}

/// Opens a file of ours in a data directory, mode 0600 if it is made, and nothing else that has its name.
pub fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    sys::open_regular(path, options.mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_numbers() {
        let newer = format!("{}.1", VERSION);
        for (version, expected) in [
            (VERSION, Some(Ordering::Equal)),
            ("0.2.99", Some(Ordering::Less)),
            ("0.2.9", Some(Ordering::Less)),
            ("999.0.0", Some(Ordering::Greater)),
            (&newer, Some(Ordering::Greater)),
            ("", None),
            ("new", None),
            ("1.0-rc1", None),
        ] {
            assert_eq!(compare(version), expected, "{version}");
        }
    }
}
