//! More output than anybody can read: it passes through undamaged, and no process's memory grows with it.

use crate::torture::{flood, many_at_once, start_on_old_runs};

/// Of a debug build, in kB. Whoever kept only a hundredth of what goes through would be above.
const SHIM: u64 = 1500;
const OTHERS: u64 = 6000;

#[track_caller]
fn check(script: &str, bytes: u64) {
    let (most, _) = flood(script, bytes);
    let [shim, server, wrapper] = most;
    assert!(shim <= SHIM && server <= OTHERS && wrapper <= OTHERS, "shim, server, wrapper: {most:?} kB");
}

#[test]
fn a_hundred_megabytes_of_lines_pass_in_bounded_memory() {
    check(&format!("yes {} | head -c 100000000", "x".repeat(99)), 100_000_000);
}

#[test]
fn one_line_of_a_hundred_megabytes_passes_in_bounded_memory() {
    check("head -c 100000000 /dev/zero | tr '\\0' x; echo", 100_000_001);
}

#[test]
fn nul_bytes_empty_lines_and_binary_data_pass_in_bounded_memory() {
    check(
        "head -c 30000000 /dev/zero; head -c 3000000 /dev/zero | tr '\\0' '\\n'; head -c 30000000 /dev/urandom",
        63_000_000,
    );
}

#[test]
fn twenty_that_print_at_once_are_all_complete() {
    let [server, shim] = many_at_once(20, 20_000);
    assert!(server <= OTHERS && shim <= SHIM, "server {server}, shim {shim} kB");
}

#[test]
fn a_thousand_old_runs_are_no_burden() {
    assert!(start_on_old_runs(1000) < 5000.0);
}
