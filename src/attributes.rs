//! What programs inherit from the shell that starts them, besides arguments, directory and environment: umask, niceness,
//! ignored and blocked signals, resource limits, control group. A program started through the server gets those of the
//! shell where the start was requested, not those of whatever started the server.
//!
//! The command reads its own, the server stores them in `meta.json`, so that a restart uses them as well, and the shim
//! applies them to the program (see [`sys::Handed`]). What the system does not let us raise, such as a hard limit, is raised
//! as far as possible. SIGPIPE is left out: the Rust runtime ignores it before `main`, so the caller's setting is unknown.

use crate::sys;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// Attributes of a process. One that is `None` is left unchanged in the child.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// From -20 to 19, see nice(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub niceness: Option<i32>,
    /// Numbers of ignored signals, of those up to 31.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<i32>,
    /// Numbers of blocked signals, of those up to 31.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<i32>,
    /// Names as in [`sys::LIMITS`], soft limits and hard limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<(String, u64, u64)>,
    /// Path in the version 2 hierarchy, see cgroups(7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// Those with which this process was started.
static INHERITED: OnceLock<Attributes> = OnceLock::new();

/// Records the attributes of this process, and then sets those that our own programs need: a umask that keeps other users
/// away from our files, and no blocked signals. Must be called before anything else. `umask` is that of the command that
/// started this process as its server, because that command had changed its own already.
pub fn record_and_reset(umask: Option<u32>) {
    let before = sys::set_umask(0o077);
    let inherited = Attributes {
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
    let _ = INHERITED.set(inherited);
}

/// The attributes with which this process was started.
pub fn inherited() -> Attributes {
    INHERITED.get().cloned().unwrap_or_default()
}

/// Attributes for a program whose start was requested by an agent and not in a shell: only the umask, which the server has
/// changed for itself; everything else is passed on as the server has it.
pub fn for_agent_start() -> Attributes {
    Attributes { umask: inherited().umask, ..Attributes::default() }
}

fn own_cgroup() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(String::from)
}

impl Attributes {
    /// JSON, for an argument of the shim.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses that argument; `None` if it is malformed.
    pub fn from_json(text: &str) -> Option<Attributes> {
        serde_json::from_slice(text.as_bytes()).ok()
    }

    /// Prepares them for the program that is about to be started.
    pub fn for_child(&self) -> sys::Handed {
        // A program that is in the right control group already need not be moved.
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
    fn attributes_survive_a_round_trip_through_json() {
        let some = Attributes {
            umask: Some(0o27),
            niceness: Some(-3),
            ignored: vec![1],
            blocked: vec![10, 12],
            limits: vec![("nofile".into(), 64, u64::MAX)],
            cgroup: Some("/a b".into()),
        };
        assert_eq!(Attributes::from_json(&some.to_json()), Some(some));
        assert_eq!(Attributes::from_json(&Attributes::default().to_json()), Some(Attributes::default()));
        assert_eq!((Attributes::default().to_json(), Attributes::from_json("7")), ("{}".into(), None));
    }
}
