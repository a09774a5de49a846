//! What a shell hands on to the programs that it starts, beside arguments, directory and environment: umask, niceness,
//! ignored and blocked signals, limits, control group. A program that is started through the server is to have those of
//! the shell where it was asked for, and not those of whatever started the server.
//!
//! The command reads its own, the server keeps them in `meta.json`, so that a restart has them, too, and the shim gives
//! them to the program (see [`sys::Handed`]). What the system does not let us raise, such as a hard limit, is taken as far
//! as it goes. SIGPIPE is left out: the runtime of Rust ignores it before `main`, so that what the caller did is not known.

use crate::sys;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// From -20 to 19, see nice(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub niceness: Option<i32>,
    /// Numbers of signals, of those up to 31.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<i32>,
    /// Names as in [`sys::LIMITS`], soft limits and hard ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<(String, u64, u64)>,
    /// Path in the hierarchy of version 2, see cgroups(7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// As they were when this process began.
static OWN: OnceLock<Attributes> = OnceLock::new();

/// Reads those of this process, and then makes them fit for a program of ours: no other user gets at our files, whatever the
/// umask is, and no signal is blocked. To be called first of all. `umask` is the one of a command that started this as its
/// server, which had changed its own.
pub fn take_over(umask: Option<u32>) {
    let before = sys::set_umask(0o077);
    let own = Attributes {
        umask: Some(umask.unwrap_or(before)),
        niceness: Some(sys::niceness()),
        ignored: (1..=31).filter(|number| *number != sys::SIGPIPE && sys::is_ignored(*number)).collect(),
        blocked: sys::unblock_signals(),
        limits: sys::LIMITS
            .iter()
            .filter_map(|(name, _)| sys::limit(name).map(|(s, h)| (name.to_string(), s, h)))
            .collect(),
        cgroup: own_cgroup(),
    };
    let _ = OWN.set(own);
}

/// All that this process was started with.
pub fn own() -> Attributes {
    OWN.get().cloned().unwrap_or_default()
}

/// What a program gets that was not asked for in a shell, but by an agent: the server has changed its own umask, and hands
/// on the rest as it is.
pub fn of_server() -> Attributes {
    Attributes { umask: own().umask, ..Attributes::default() }
}

fn own_cgroup() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(String::from)
}

impl Attributes {
    /// As an argument of the shim.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub fn parse(text: &str) -> Option<Attributes> {
        serde_json::from_str(text).ok()
    }

    /// For the program that is about to be started.
    pub fn handed(&self) -> sys::Handed {
        // Where it is already it need not be moved.
        let cgroup = self.cgroup.as_ref().filter(|cgroup| own_cgroup().as_ref() != Some(cgroup));
        let members = cgroup.and_then(|cgroup| {
            let open = |root: &str| {
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(format!("{root}{}/cgroup.procs", cgroup.trim_end_matches('/')))
            };
            open("/sys/fs/cgroup").or_else(|_| open("/sys/fs/cgroup/unified")).ok()
        });
        sys::Handed {
            umask: self.umask,
            niceness: self.niceness,
            ignored: self.ignored.clone(),
            blocked: self.blocked.clone(),
            limits: self.limits.clone(),
            cgroup: members,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_nothing_is_nothing() {
        let some = Attributes {
            umask: Some(0o27),
            niceness: Some(-3),
            ignored: vec![1],
            blocked: vec![10, 12],
            limits: vec![("nofile".into(), 64, u64::MAX)],
            cgroup: Some("/a b".into()),
        };
        assert_eq!(Attributes::parse(&some.text()), Some(some));
        assert_eq!(Attributes::parse(&Attributes::default().text()), Some(Attributes::default()));
        assert_eq!((Attributes::default().text(), Attributes::parse("7")), ("{}".into(), None));
    }
}
