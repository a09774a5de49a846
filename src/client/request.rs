//! What a request takes from where the command was called: directory, environment, a key that names it.

use crate::agents::is_agent_variable;
use crate::api::{IfRunning, RunRequest};
use crate::attributes;
use crate::cli::Program;
use crate::config;
use crate::error::Error;
use crate::log::stamp::now_ms;
use crate::os_text::OsText;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

fn current_directory() -> Result<PathBuf, Error> {
    std::env::current_dir().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::failed("the current directory does not exist any more; cd to one that does")
        }
        _ => Error::failed("cannot determine the current directory").because(error),
    })
}

/// The directory that was named, seen from here.
fn directory_named(directory: &OsString) -> Result<PathBuf, Error> {
    let path = PathBuf::from(directory);
    if path.is_absolute() { Ok(path) } else { Ok(current_directory()?.join(path)) }
}

/// Makes the directory of a request absolute, if it has one.
pub fn absolute(directory: &mut Option<String>) -> Result<(), Error> {
    if let Some(directory) = directory {
        *directory = directory_named(&OsString::from(&directory))?.to_string_lossy().into_owned();
    }
    Ok(())
}

/// A key that names a request, unique on this machine for long enough.
pub fn new_key() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}.{}", std::process::id(), now_ms(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The request that runs `program` as this shell would have: in this directory, with this environment.
pub fn run_request(
    program: Program,
    environment: &BTreeMap<String, String>,
    working_directory: Option<&OsString>,
    if_running: IfRunning,
) -> Result<RunRequest, Error> {
    let working_directory = working_directory.map_or_else(current_directory, directory_named)?;
    let is_added = |name: &OsString| name.to_str().is_some_and(|name| environment.contains_key(name));
    let is_passed = |name: &OsString, value: &OsString| program.keeps_agent_env || !is_agent_variable(name, value);
    // Exactly as here, but for the token: it opens the server, is not for programs, and must not stand in files.
    let inherited = std::env::vars_os()
        .filter(|(name, value)| !is_added(name) && name != config::TOKEN && is_passed(name, value))
        .map(|(name, value)| (OsText(name), OsText(value)));
    let added = environment.iter().map(|(name, value)| (OsText::from(name), OsText::from(value)));
    Ok(RunRequest {
        argv: program.argv.into_iter().map(OsText).collect(),
        working_directory: OsText(working_directory.into_os_string()),
        environment: inherited.chain(added).collect(),
        label: program.label,
        if_running,
        idempotency_key: Some(new_key()),
        reader: None,
        attributes: Some(attributes::inherited()),
    })
}
