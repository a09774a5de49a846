//! Starting one run: its directory, its shim, and what to say when the command cannot be started.
//!
//! The directory is complete, and its lock taken, before it gets its final name: a server that sees it can trust it, and a
//! free lock always means "no shim". What a killed server leaves under a temporary name is swept by the next one.

use crate::attributes;
use crate::error::{Error, remedy};
use crate::log::stamp::now_ms;
use crate::os_text::{self, OsText};
use crate::procs;
use crate::rundir::{FORMAT_VERSION, Meta, RUN_ENV, RunDir, StartError, Status};
use crate::sys;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long a shim may take to say whether the command runs.
const SHIM_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a shim that has said its last word may take to end.
const SHIM_EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest start: what the shim takes, and the files of the run before it.
pub const START_MAX: Duration =
    SHIM_ANSWER_TIMEOUT.saturating_add(SHIM_EXIT_TIMEOUT).saturating_add(Duration::from_secs(2));
/// Prefix of directories that are being made.
pub const UNFINISHED_PREFIX: &str = ".new.";

/// Makes the directory of run `id` and takes its lock; the lock goes to the shim. `attach` is called before it gets its
/// name.
pub fn prepare(runs: &Path, id: u64, meta: &Meta, attach: impl Fn(&RunDir)) -> Result<(RunDir, File), Error> {
    let build = || -> io::Result<(RunDir, File)> {
        let unfinished = RunDir(runs.join(format!("{UNFINISHED_PREFIX}{}.{id}", std::process::id())));
        DirBuilder::new().mode(0o700).create(unfinished.path())?;
        let filled = fill(&unfinished, meta).and_then(|lock| {
            attach(&unfinished);
            let dir = RunDir(runs.join(directory_name(id, &os_text::quote(&meta.argv))));
            fs::rename(unfinished.path(), dir.path()).map(|()| (dir, lock))
        });
        if filled.is_err() {
            let _ = fs::remove_dir_all(unfinished.path());
        }
        filled
    };
    build().map_err(|error| {
        Error::failed(format!(
            "cannot prepare the run in {}: {error}; {}, or choose another place with --data-dir",
            runs.display(),
            remedy(&error)
        ))
    })
}

fn fill(dir: &RunDir, meta: &Meta) -> io::Result<File> {
    for fifo in [dir.ctl(), dir.events()] {
        sys::mkfifo(&fifo)
            .map_err(|error| io::Error::new(error.kind(), format!("{error} (the file system must support FIFOs)")))?;
    }
    dir.write_meta(meta)?;
    let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.lock())?;
    lock.lock()?;
    Ok(lock)
}

/// `000012.npm_run_dev`: the number, and what people recognise the command by.
fn directory_name(id: u64, command: &str) -> String {
    let mut name: String =
        command.chars().map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' }).collect();
    name.truncate(40);
    format!("{id:06}.{}", name.trim_matches(['_', '.']))
}

/// Starts the shim of a prepared run and waits for its word on whether the command runs. If it does not, the status of
/// the run says why, in the words of the error. The shim is returned as long as it may live: it must be reaped.
pub fn start_shim(dir: &RunDir, lock: File, meta: &Meta) -> (Option<Child>, Result<(), Error>) {
    let command = os_text::quote(&meta.argv);
    let (child, mut answer) = match spawn(dir, lock, meta) {
        Ok(started) => started,
        Err(error) => {
            let text = format!("cannot start '{command}': {}", explain_spawn(&error));
            return (None, Err(failed(dir, error.raw_os_error().unwrap_or(0), text)));
        }
    };
    let answer = read_answer(&mut answer).unwrap_or_default();
    match answer.split_once(' ') {
        Some(("ok", _)) => (Some(child), Ok(())),
        Some(("err", problem)) => {
            let left = reap_within(child, SHIM_EXIT_TIMEOUT); // when it is gone, only this server writes the status
            let (errno, text) = problem.split_once(' ').unwrap_or(("0", problem));
            let errno = errno.parse().unwrap_or(0);
            (left, Err(failed(dir, errno, explain(meta, errno, text))))
        }
        _ => {
            let log = dir.shim_log();
            let text = format!("cannot start '{command}': its shim ended or hung; {} may say why", log.display());
            (Some(child), Err(Error::failed(text)))
        }
    }
}

/// Reaps a child that is about to end; gives it back if it has not by then.
fn reap_within(mut child: Child, limit: Duration) -> Option<Child> {
    let end = Instant::now() + limit;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > end {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

fn failed(dir: &RunDir, errno: i32, text: String) -> Error {
    let now = now_ms();
    let failure = Error::failed(text);
    // Escaped, as it is shown: clients print what is on disk.
    let error = Some(StartError { errno, text: failure.to_string() });
    let status = Status { version: FORMAT_VERSION, started: now, ended: Some(now), error, ..Status::default() };
    let _ = dir.write_status(&status); // without it the run is `failed` all the same
    failure
}

fn spawn(dir: &RunDir, lock: File, meta: &Meta) -> io::Result<(Child, io::PipeReader)> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.shim_log())?;
    let (answer, starter) = io::pipe()?;
    let environment = meta.environment.iter().filter(|(name, _)| name.0 != RUN_ENV && !name.0.is_empty());
    // Without any, as in files of 0.4, it would get our own umask, which is for our files.
    let attributes = meta.attributes.clone().unwrap_or_else(attributes::for_agent_start).to_json();
    let mut shim = Command::new(own_program()?);
    shim.arg0("persistproc")
        .args(["__shim", "--max-log-bytes", &meta.max_log_bytes.to_string()])
        .args(["--attributes", &attributes])
        .arg(dir.path())
        .args(&meta.argv)
        .env_clear()
        .envs(environment.map(|(name, value)| (name, value)))
        .current_dir(meta.working_directory.as_path())
        .stdin(OwnedFd::from(lock))
        .stdout(starter)
        .stderr(log);
    // `shim` goes here, and with it our copies of the lock and of the pipe's writing end.
    shim.spawn().map(|child| (child, answer))
}

/// The program file of this very process, also when a newer one has taken its place on disk.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

/// The shim's one line, or what there is of it after `SHIM_ANSWER_TIMEOUT`.
fn read_answer(pipe: &mut io::PipeReader) -> io::Result<String> {
    let end = Instant::now() + SHIM_ANSWER_TIMEOUT;
    let mut answer = Vec::new();
    let mut bytes = [0; 512];
    while !answer.ends_with(b"\n") && answer.len() < 4096 {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if sys::poll_readable([pipe.as_raw_fd()], Some(left))[0] {
            match pipe.read(&mut bytes)? {
                0 => break,
                n => answer.extend_from_slice(&bytes[..n]),
            }
        }
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().into())
}

/// Why the shim itself could not be started.
fn explain_spawn(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(sys::E2BIG) => "its arguments and environment are longer than the system allows".into(),
        Some(errno @ (sys::EAGAIN | sys::ENOMEM)) => no_room(errno),
        Some(sys::ENOENT) => procs::missing().map_or(error.to_string(), String::from),
        Some(sys::EMFILE | sys::ENFILE) => {
            format!("too many open files ({error}); stop some processes, or raise `ulimit -n` and restart the server")
        }
        _ => error.to_string(),
    }
}

fn no_room(errno: i32) -> String {
    format!("the system has no room for another process ({}); stop some", io::Error::from_raw_os_error(errno))
}

/// Why the shim could not start the command, with the name of what was missing.
fn explain(meta: &Meta, errno: i32, text: &str) -> String {
    let program = meta.argv.first().map_or(String::new(), OsText::shown);
    let directory = meta.working_directory.as_path();
    let is_path = program.contains('/');
    let reason = match errno {
        sys::ENOENT if is_path => missing_file(&directory.join(&program), directory),
        sys::ENOENT => "command not found in PATH; check the spelling, or give the path of the program".into(),
        sys::EACCES if directory.join(&program).is_dir() => "it is a directory".into(),
        sys::EACCES => "it is not executable; `chmod +x` makes it so".into(),
        sys::ENOEXEC => "the system cannot run this file; a script must begin with a line such as #!/bin/sh".into(),
        sys::E2BIG => "its arguments and environment are longer than the system allows".into(),
        sys::EAGAIN | sys::ENOMEM => no_room(errno),
        _ => text.to_string(),
    };
    format!("cannot start '{program}': {reason}")
}

/// A file that is there and still "not found" lacks the interpreter that its first line names.
fn missing_file(path: &Path, directory: &Path) -> String {
    if !path.exists() {
        return format!("there is no such file, seen from {}", directory.display());
    }
    match interpreter(path) {
        Some(interpreter) => {
            let is_of_windows = interpreter.as_os_str().as_bytes().ends_with(b"\r");
            let hint =
                if is_of_windows { "; its lines end as on Windows, and must end in a newline alone" } else { "" };
            format!("its interpreter {}, named in its first line, was not found{hint}", interpreter.display())
        }
        None => "the loader that it was linked for was not found".into(),
    }
}

/// Whether the program of a run can be started, as far as its file tells. What is not certain is left to the system.
pub fn check_program(meta: &Meta) -> Result<(), Error> {
    let Some(program) = meta.argv.first().map(OsText::as_path) else { return Ok(()) };
    let directory = meta.working_directory.as_path();
    if program.as_os_str().as_bytes().contains(&b'/') {
        return check_file(meta, &directory.join(program));
    }
    // Of several the last one counts, as it does for the program.
    let Some((_, paths)) = meta.environment.iter().rev().find(|(name, _)| name.0 == "PATH") else { return Ok(()) };
    let files = std::env::split_paths(&paths.0).map(|entry| directory.join(entry).join(program));
    let checked: Vec<_> = files.filter(|path| path.exists()).map(|path| check_file(meta, &path)).collect();
    // As execvp(3), which goes on with the next one.
    if checked.iter().any(Result::is_ok) {
        return Ok(());
    }
    checked.into_iter().next().unwrap_or_else(|| Err(Error::failed(explain(meta, sys::ENOENT, ""))))
}

fn check_file(meta: &Meta, path: &Path) -> Result<(), Error> {
    let directory = meta.working_directory.as_path();
    let refuse = |errno| Err(Error::failed(explain(meta, errno, "")));
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => refuse(sys::ENOENT),
        Ok(file) if file.is_dir() || !is_executable(&file) => refuse(sys::EACCES),
        Ok(file) if file.len() == 0 && file.is_file() => refuse(sys::ENOEXEC),
        Ok(_) if interpreter(path).is_some_and(|interpreter| !directory.join(interpreter).exists()) => {
            let program = meta.argv.first().map_or(String::new(), OsText::shown);
            Err(Error::failed(format!("cannot start '{program}': {}", missing_file(path, directory))))
        }
        _ => Ok(()),
    }
}

fn is_executable(file: &fs::Metadata) -> bool {
    file.permissions().mode() & 0o111 != 0
}

/// What the first line of a script names as its interpreter, as the system reads it (execve(2)): up to a space or a tab, so
/// that a carriage return is a part of the name.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    sys::read_regular(&path.canonicalize().ok()?).ok()?.take(256).read_to_end(&mut start).ok()?;
    let first = start.strip_prefix(b"#!")?.split(|byte| matches!(byte, b'\n' | 0)).next()?;
    let name = first.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?;
    Some(OsStr::from_bytes(name).into())
}

/// The directory in which a command is to run, absolute and without links, or why it cannot.
pub fn working_directory(path: &Path) -> Result<OsText, Error> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(Error::invalid(format!("the working directory must be an absolute path, not '{shown}'")));
    }
    match path.canonicalize() {
        Ok(real) if real.is_dir() => Ok(OsText(real.into_os_string())),
        Ok(_) => Err(Error::invalid(format!("the working directory {shown} is not a directory"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::not_found(format!("the working directory {shown} does not exist")))
        }
        Err(error) => Err(Error::failed(format!("cannot use the working directory {shown}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_number(name: &str) -> Option<u64> {
        RunDir(name.into()).number()
    }

    #[test]
    fn a_shim_that_said_its_last_word_is_reaped_or_given_back() {
        let child = |program: &str| Command::new(program).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let ended = child("true");
        let pid = ended.id() as i32;
        assert!(reap_within(ended, Duration::from_secs(60)).is_none());
        assert!(crate::procs::look_up(pid).is_none_or(|process| process.parent != std::process::id() as i32));
        let mut frozen = reap_within(child("cat"), Duration::ZERO).unwrap();
        frozen.kill().unwrap();
        frozen.wait().unwrap();
    }

    #[test]
    fn a_directory_is_named_after_its_run_and_command() {
        for (command, name) in [
            ("npm run dev", "000012.npm_run_dev"),
            ("../../bin/x", "000012.bin_x"),
            ("'ünïcode' \u{0}", "000012.n_code"),
            ("/", "000012."),
        ] {
            assert_eq!(directory_name(12, command), name);
            assert_eq!(run_number(name), Some(12));
        }
        assert_eq!(directory_name(1_234_567, &"x".repeat(99)).len(), 48);
        assert_eq!(run_number("1234567.x"), Some(1_234_567));
        for foreign in [".new.5.6", "notes", "12.x", "000012", "", "00001a.x", "+00012.x", "99999999999999999999999.x"]
        {
            assert_eq!(run_number(foreign), None, "{foreign}");
        }
    }
}
