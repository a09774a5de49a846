//! The modules of the program that read bytes from others: it is a binary, so its sources are included by path.

#![allow(dead_code, unfulfilled_lint_expectations)]

#[path = "../../src/agents.rs"]
pub mod agents;
#[path = "../../src/api/mod.rs"]
pub mod api;
#[path = "../../src/attributes.rs"]
pub mod attributes;
#[path = "../../src/config.rs"]
pub mod config;
#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/http/mod.rs"]
pub mod http;
#[path = "../../src/lease.rs"]
pub mod lease;
#[path = "../../src/log/mod.rs"]
pub mod log;
#[path = "../../src/manager/mod.rs"]
pub mod manager;
#[path = "../../src/mcp/mod.rs"]
pub mod mcp;
#[path = "../../src/output/mod.rs"]
pub mod output;
#[path = "../../src/procs/mod.rs"]
pub mod procs;
#[path = "../../src/rundir/mod.rs"]
pub mod rundir;
#[path = "../../src/shim/mod.rs"]
pub mod shim;
#[path = "../../src/sys/mod.rs"]
pub mod sys;
#[path = "../../src/os_text.rs"]
pub mod os_text;

/// A text out of these words: each byte chooses one.
pub fn sentence(bytes: &[u8], words: &[&str]) -> String {
    bytes.iter().map(|byte| words[usize::from(*byte) % words.len()]).collect()
}
