//! Programs to run.

use super::{BINARY, Sandbox, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A script that prints `up` and then whatever is sent to it, until `end`: then it exits with 3.
pub const ECHO: &str = "echo up; while read x; do echo \"$x\"; [ \"$x\" != end ] || exit 3; done";

/// [`ECHO`] as a command line.
pub fn echo_command() -> String {
    format!("sh -c '{ECHO}'")
}

/// Arguments that start a program that prints `up` and runs until it is stopped.
pub const FOREVER: [&str; 4] = ["start", "sh", "-c", "echo up; read never"];

/// A script that prints 1, 2, 3, … until there is a file `enough`, then `end` and the next number.
pub const COUNT_UNTIL_ENOUGH: &str =
    "i=1; while [ ! -e enough ]; do echo $i; i=$((i+1)); sleep 0.002; done; echo end $i";

/// A copy of persistproc with another version, which must have five characters, too: the number is replaced wherever the file
/// contains it.
pub fn of_version(sandbox: &Sandbox, version: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let own = env!("CARGO_PKG_VERSION").as_bytes();
    assert_eq!(own.len(), version.len());
    let mut bytes = fs::read(BINARY).unwrap();
    let offsets: Vec<usize> = memchr::memmem::find_iter(&bytes, own).collect();
    for at in offsets {
        bytes[at..at + own.len()].copy_from_slice(version.as_bytes());
    }
    let path = sandbox.root.join(format!("persistproc-{version}"));
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(wait_until_executable(&path), format!("persistproc {version}\n"));
    path
}

/// Waits until a program that was just written can be run, and returns its version. It is busy (ETXTBSY) as long as another
/// test is between fork and exec, because that child has inherited the descriptor through which the program was written.
pub(super) fn wait_until_executable(program: &Path) -> String {
    let run = || Command::new(program).arg("--version").output().ok();
    String::from_utf8(wait_for("a program that was just written", run).stdout).unwrap()
}
