//! Starting a server in the background.

use super::terminal;
use crate::agents::is_agent_variable;
use crate::attributes;
use crate::config::Config;
use crate::error::Error;
use crate::procs;
use crate::sys;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to report that it is up: an older one that hands over to it finishes its restarts first.
pub const HANDOVER_TIMEOUT: Duration = Duration::from_secs(75);
/// Stack of a thread that only waits for a process.
const REAPER_STACK: usize = 64 << 10;

/// A server that was started in the background.
pub struct Started {
    /// `None` if it does not listen on TCP.
    pub port: Option<u16>,
    /// What the user should know about that.
    pub warning: Option<String>,
}

impl Started {
    /// From the line that it wrote: `8947`, or `0`, then a warning if there is one.
    fn parse(line: &str) -> Option<Started> {
        let (port, warning) = line.split_once(' ').unwrap_or((line, ""));
        let port: u16 = port.parse().ok()?;
        Some(Started { port: (port > 0).then_some(port), warning: (!warning.is_empty()).then(|| warning.into()) })
    }

    /// Reports on one line that it was started, and where it is.
    pub fn report(&self, config: &Config) {
        if config.is_quiet {
            return;
        }
        match self.port {
            Some(port) => terminal::note(&format!("started a server on http://127.0.0.1:{port}/mcp")),
            None => terminal::note("started a server without a port"),
        }
        self.warning.iter().for_each(|warning| terminal::note(warning));
    }
}

/// Starts a server in the background, and waits until it serves.
pub fn start_server(config: &Config) -> Result<Started, Error> {
    let failed = |what: String| Error::unreachable(format!("cannot start a server: {what}"));
    let program = if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() };
    let mut command = Command::new(program.map_err(|error| failed(error.to_string()))?);
    std::os::unix::process::CommandExt::arg0(&mut command, "persistproc");
    let port = if config.tcp { config.port.to_string() } else { "none".into() };
    command.arg("__serve").arg(port).arg(&config.data_dir);
    command.args(config.trusts_all_users.then_some("--trust-all-users"));
    let umask = attributes::inherited().umask;
    command.args(umask.iter().flat_map(|umask| ["--umask".to_string(), umask.to_string()]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // It serves all agents and outlives the one whose shell this may be.
    for (name, _) in std::env::vars_os().filter(|(name, value)| is_agent_variable(name, value)) {
        command.env_remove(name);
    }
    // It outlives us: a pipe of our caller that it inherited would never end for its reader.
    sys::close_on_exec_all();
    let no_program = |error: io::Error| failed(procs::missing().map_or(error.to_string(), String::from));
    let mut server = command.spawn().map_err(no_program)?;
    let mut said = Vec::new();
    let end = Instant::now() + HANDOVER_TIMEOUT;
    let mut pipe = server.stdout.take();
    while let Some(open) = &mut pipe {
        let left = end.saturating_duration_since(Instant::now());
        let mut bytes = [0; 1024];
        match sys::poll_readable([open.as_raw_fd()], Some(left))[0].then(|| open.read(&mut bytes)) {
            Some(Ok(n)) if n > 0 => said.extend_from_slice(&bytes[..n]),
            _ => pipe = None,
        }
        if said.ends_with(b"\n") {
            break;
        }
    }
    reap(server);
    let said = String::from_utf8_lossy(&said).trim_end().to_string();
    match said.split_once(' ') {
        Some(("ok", said)) => Started::parse(said).ok_or_else(|| failed("it did not say its port".into())),
        Some(("err", problem)) => Err(failed(problem.into())),
        _ => Err(failed(format!("it said nothing; {} may say why", config.data_dir.join("server.log").display()))),
    }
}

/// Waits for the end of a server that we started, in a thread of its own: it is our child for as long as we live, which
/// may be days, and would stay a zombie. The thread ends with the server.
fn reap(mut server: Child) {
    let wait = move || drop(server.wait());
    // Without a thread nothing is lost but an entry in the table of processes.
    let _ = std::thread::Builder::new().name("reap".into()).stack_size(REAPER_STACK).spawn(wait);
}
