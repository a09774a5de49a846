//! From an older server to this one: `serve` of a newer version takes the place of an older server, whose processes do
//! not notice. Never the other way round, and never among equals.

use super::{Holder, routes};
use crate::config::Token;
use crate::fault::Fault;
use crate::http::client::{Call, Client};
use crate::http::head::encode;
use crate::manager::LEAVE_MAX;
use std::cmp::Ordering;
use std::time::Duration;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long the older server may take to answer that it leaves: it waits for restarts that have begun.
const ANSWER: Duration = LEAVE_MAX.saturating_add(Duration::from_secs(5));

/// How `version` compares with ours. `None` if it is no version as we write them.
pub fn compare(version: &str) -> Option<Ordering> {
    let numbers = |text: &str| text.split('.').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<u64>>>();
    Some(numbers(version)?.cmp(&numbers(VERSION)?))
}

pub fn is_older(holder: &Holder) -> bool {
    compare(&holder.version) == Some(Ordering::Less)
}

/// Asks an older server to leave its processes to us; `token` is ours, and so most likely its. It is gone when its lock is
/// free.
pub fn ask_to_leave(holder: &Holder, token: Option<&Token>) -> Result<(), Fault> {
    let data_dir = encode(&holder.data_dir.to_string_lossy());
    let mut headers = vec![("Content-Type", "application/json".to_string()), (routes::DATA_DIR, data_dir)];
    headers.extend(token.map(|token| ("Authorization", token.authorization())));
    let call = Call { method: "POST", target: "/shutdown", headers, body: b"{\"keep\":true}" };
    let refused = |why: String| {
        Fault::conflict(format!(
            "the server of version {} (PID {}) does not leave its place to version {VERSION}: {why}; end it with SIGHUP, its processes go on",
            holder.version, holder.pid
        ))
    };
    match Client::new(holder.port).send(&call, ANSWER) {
        Ok(answer) if answer.head.status == 200 => Ok(()),
        Ok(answer) => Err(refused(format!("it answers with status {}", answer.head.status))),
        Err(error) => Err(refused(error.to_string())),
    }
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
