//! The first line of a log file that is not the first of its run, and the name of the file before it.

use std::path::{Path, PathBuf};

/// Length of the first line of a file that is not the first of its run, in bytes.
pub const HEADER_LEN: usize = 64;
/// The beginning of that line. A record never begins with `#`.
const HEADER_START: &str = "# persistproc: continues at byte ";

/// The first line of a file that begins at offset `at` of the run.
pub(super) fn header(at: u64) -> String {
    format!("{:<width$}\n", format!("{HEADER_START}{at} of the run"), width = HEADER_LEN - 1)
}

/// The offset in such a line; `None` if `bytes` is something else, which means that the file is the first of its run.
pub fn parse_header(bytes: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(bytes.get(..HEADER_LEN)?).ok()?;
    line.strip_prefix(HEADER_START)?.split_once(' ')?.0.parse().ok()
}

/// The path at which the file before this one is kept.
pub fn previous(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_a_fixed_length_and_survives_a_round_trip() {
        for at in [0, 1, 64 << 20, 999_999_999_999_999] {
            let line = header(at);
            assert_eq!(line.len(), HEADER_LEN);
            assert_eq!(parse_header(line.as_bytes()), Some(at));
        }
        assert_eq!(parse_header(b"# persistproc: continues at byte 5"), None);
        assert_eq!(parse_header(format!("{:<64}", "2026-01-02T03:04:05.678Z text").as_bytes()), None);
    }
}
