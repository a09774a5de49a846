//! What a label may be. It stands beside run numbers, PIDs and commands in everything that names a process, in every list
//! and in every error that names candidates.

use super::lookup::{EVERYTHING, run_number};
use crate::error::Error;
use crate::os_text;

/// Characters of a label.
const LABEL_MAX: usize = 500;

/// Refuses a label that could mean something else, or that shows something else than it is.
pub fn check(label: &str) -> Result<(), Error> {
    if label.is_empty() || label.chars().any(char::is_control) {
        return Err(Error::invalid("a label is one line of text"));
    }
    if let Some(hidden) = os_text::hidden(label).next() {
        return Err(Error::invalid(format!(
            "the label has an invisible character (U+{:04X}), so that two labels could look the same; leave it out",
            u32::from(hidden)
        )));
    }
    if label.chars().count() > LABEL_MAX {
        return Err(Error::invalid(format!("a label has at most {LABEL_MAX} characters")));
    }
    if label == EVERYTHING {
        return Err(Error::invalid("the label '*' means all processes; use at least one letter"));
    }
    if label.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::invalid(format!("the label '{label}' could be a PID; use at least one letter")));
    }
    if run_number(label).is_some() {
        return Err(Error::invalid(format!(
            "the label '{label}' reads like the number of a run; choose another, such as '{label}-server'"
        )));
    }
    Ok(())
}
