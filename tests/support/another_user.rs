//! Commands of a user who is not root.

use super::programs::wait_until_executable;
use super::{BINARY, DEADLINE, Ended, Sandbox, finish, skip, spawn};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// An ordinary user, for tests of what root is never refused. Needs root and setpriv(1).
pub struct AnotherUser<'a> {
    sandbox: &'a Sandbox,
    program: PathBuf,
}

impl<'a> AnotherUser<'a> {
    const ID: u32 = 65_534;

    /// Gives the sandbox to that user. `None`, with the reason printed, where that is not possible.
    pub fn new(sandbox: &'a Sandbox) -> Option<AnotherUser<'a>> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if fs::metadata("/proc/self").unwrap().uid() != 0 || Command::new("setpriv").arg("--version").output().is_err()
        {
            return skip("needs root, and setpriv to become another user");
        }
        let program = sandbox.root.join("persistproc");
        fs::copy(BINARY, &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        wait_until_executable(&program);
        for path in [sandbox.root.clone(), sandbox.work()] {
            std::os::unix::fs::chown(path, Some(Self::ID), Some(Self::ID)).unwrap();
        }
        Some(AnotherUser { sandbox, program })
    }

    /// `persistproc` with these arguments, as that user; `limits` are commands of a shell such as `ulimit -n 20;`.
    pub fn command_within(&self, limits: &str, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.program("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c"]);
        command.arg(format!("{limits} exec \"$0\" \"$@\"")).arg(&self.program).args(arguments);
        command.env("HOME", self.sandbox.work());
        command
    }

    /// Runs `persistproc` as that user until it exits.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        finish(spawn(&mut self.command_within("", arguments)), DEADLINE)
    }

    /// The command line with which that user runs `program` as root, as with sudo. `None`, with the reason printed, where the
    /// file system does not allow that.
    pub fn as_root(&self, program: &str, argument: &str) -> Option<String> {
        use std::os::unix::fs::PermissionsExt;
        let found = Command::new("sh").args(["-c", "command -v setpriv"]).output().unwrap();
        let copy = self.sandbox.root.join("as-root");
        fs::copy(String::from_utf8(found.stdout).unwrap().trim(), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
        let as_root = format!("{} --reuid 0 --clear-groups", copy.display());
        let mut id = Command::new("setpriv");
        id.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", &format!("{as_root} id -u")]);
        if id.output().is_ok_and(|output| output.stdout == b"0\n") {
            return Some(format!("{as_root} {program} {argument}"));
        }
        skip("the temporary directory is mounted without set-user-ID programs")
    }
}
