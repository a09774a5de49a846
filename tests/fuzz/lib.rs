//! The rooms of the program, as far as bytes of strangers reach them: it is a binary, so its sources are taken by path.

#![allow(dead_code, unfulfilled_lint_expectations)]

#[path = "../../src/agents.rs"]
pub mod agents;
#[path = "../../src/config.rs"]
pub mod config;
#[path = "../../src/fault.rs"]
pub mod fault;
#[path = "../../src/http/mod.rs"]
pub mod http;
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
#[path = "../../src/words.rs"]
pub mod words;

/// A text out of these words: each byte chooses one.
pub fn sentence(bytes: &[u8], words: &[&str]) -> String {
    bytes.iter().map(|byte| words[usize::from(*byte) % words.len()]).collect()
}
