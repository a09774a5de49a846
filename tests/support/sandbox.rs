//! A directory, a port and a server per test.

use super::processes::{environment, pids};
use super::*;
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// A temporary directory with the data directory and the working directory of a test, and a port for its server.
pub struct Sandbox {
    pub root: PathBuf,
    pub port: u16,
    /// Removes `root`, after [`Drop`] of this has ended all processes.
    _directory: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Sandbox {
        Sandbox::new_in(&std::env::temp_dir())
    }

    /// One whose paths are short, whatever TMPDIR is: for tests of texts that clip long paths, and of servers without /proc,
    /// which need it for the socket of a data directory with a long path.
    pub fn with_short_path() -> Sandbox {
        Sandbox::new_in(Path::new("/tmp"))
    }

    fn new_in(parent: &Path) -> Sandbox {
        // Open to other users, as homes of users often are: what keeps them out must be the data directory itself.
        let mut builder = tempfile::Builder::new();
        builder.prefix("persistproc-test-").permissions(fs::Permissions::from_mode(0o755));
        // Without symbolic links, because persistproc resolves them before it shows the path.
        let directory = builder.tempdir_in(parent.canonicalize().unwrap()).unwrap();
        let root = directory.path().to_path_buf();
        fs::create_dir(root.join("work")).unwrap();
        Sandbox { root, port: free_port(), _directory: directory }
    }

    /// Where the server of this sandbox keeps its files. Nothing creates it before a server starts.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }
    /// Where commands run.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }
    /// An executable script in the working directory.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.work().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Another program, in the working directory and with the environment that `persistproc` gets in this sandbox.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.work()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("PERSISTPROC") || name.starts_with("CODEX") || name == "RUST_BACKTRACE" {
                command.env_remove(name);
            }
        }
        command.env("PERSISTPROC_PORT", self.port.to_string()).env("PERSISTPROC_DATA_DIR", self.data());
        command
    }

    /// A script of a shell, in which `$0` is persistproc.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = self.program("sh");
        command.args(["-c", script, BINARY]);
        command
    }

    /// `persistproc` with these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.program(BINARY);
        command.args(arguments);
        command
    }

    /// Runs `persistproc` until it exits.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ended {
        finish(self.spawn(arguments), DEADLINE)
    }

    /// Starts `persistproc` with pipes for what it prints.
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Child {
        spawn(&mut self.command(arguments))
    }

    /// The processes that `list` shows, in JSON, newest first.
    #[track_caller]
    pub fn listed(&self) -> Value {
        self.run(&["--format", "json", "list"]).ok().json()["processes"].take()
    }

    /// A server in the foreground that answers.
    #[track_caller]
    pub fn serve(&self) -> Guard {
        self.serve_with::<&str, &str>(&[])
    }

    /// The same, with more environment variables.
    #[track_caller]
    pub fn serve_with<N: AsRef<OsStr>, V: AsRef<OsStr>>(&self, variables: &[(N, V)]) -> Guard {
        let mut command = self.command(&["serve", "-q"]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let server = Guard(spawn(&mut command));
        self.wait_for_server();
        server
    }

    #[track_caller]
    pub fn wait_for_server(&self) {
        wait_until("a server that answers", || self.health().is_some());
    }

    /// The data directory, by a path that is short enough for sockets.
    pub fn short_data(&self) -> ShortPath {
        ShortPath::new(&self.data()).unwrap()
    }

    /// A connection to the server's socket in the data directory.
    pub fn connect_private(&self) -> Option<UnixStream> {
        let data = ShortPath::new(&self.data()).ok()?;
        let stream = UnixStream::connect(data.join("server.sock")).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Some(stream)
    }

    /// Sends bytes to the server's socket and reads one response; `None` if there is none.
    pub fn try_private(&self, request: &[u8]) -> Option<Http> {
        let mut stream = self.connect_private()?;
        stream.write_all(request).ok()?;
        Http::read(&mut stream)
    }

    /// The response to `GET /health`; `None` if no server answers.
    pub fn health(&self) -> Option<Value> {
        self.try_private(&get("/health", self.port)).filter(|answer| answer.status == 200).map(|answer| answer.json())
    }

    /// Number of clients that are connected to the server's port or to its socket.
    pub fn connections(&self) -> usize {
        let remote = format!(":{:04X} 01 ", self.port);
        let by_port = fs::read_to_string("/proc/net/tcp").unwrap().matches(&remote).count();
        // Its path is in /proc/net/unix, but another one to the same socket if it is too long for an address: then the
        // number (inode) of the server's end tells.
        let path = self.data().join("server.sock").display().to_string();
        let pid = self.pid_of_server().unwrap_or(0);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let ends: Vec<PathBuf> = descriptors.filter_map(|file| fs::read_link(file.path()).ok()).collect();
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        // proc(5): number, references, protocol, flags, type, state (3: connected), inode, and the path of the listener.
        let is_ours = |line: &&str| {
            let [_, _, _, _, _, "03", inode, listener] = line.split_ascii_whitespace().collect::<Vec<_>>()[..] else {
                return false;
            };
            listener.starts_with(&path)
                || listener.contains("/server.sock") && ends.contains(&format!("socket:[{inode}]").into())
        };
        by_port + sockets.lines().filter(is_ours).count()
    }

    /// Sends bytes to the port and reads one response; `None` if there is none.
    pub fn try_http(&self, request: &[u8]) -> Option<Http> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request).ok()?;
        Http::read(&mut stream)
    }

    /// Sends bytes to the port and reads the response.
    #[track_caller]
    pub fn http(&self, request: &[u8]) -> Http {
        self.try_http(request).unwrap_or_else(|| panic!("no response to {}", String::from_utf8_lossy(request)))
    }

    /// Calls a tool as an agent does, without a handshake. Returns the text, and whether it is an error.
    #[track_caller]
    pub fn tool(&self, name: &str, arguments: Value) -> (String, bool) {
        let answer = self.http(&post_tool(self.port, name, arguments));
        let json = answer.json();
        assert_eq!(json["result"]["content"].as_array().map(Vec::len), Some(1), "{json}");
        let text = json["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{json}"));
        (text.to_string(), json["result"]["isError"] == Value::Bool(true))
    }

    /// A tool call that must work.
    #[track_caller]
    pub fn tool_ok(&self, name: &str, arguments: Value) -> String {
        let (text, is_error) = self.tool(name, arguments);
        assert!(!is_error, "{text}");
        text
    }

    /// The directories of all runs, oldest first.
    pub fn runs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data().join("runs")).into_iter().flatten().flatten();
        let is_complete = |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with('.');
        let mut runs: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_complete).collect();
        runs.sort();
        runs
    }

    /// The status file of a run, which is counted from 0.
    #[track_caller]
    pub fn status(&self, run: usize) -> Value {
        let read = || fs::read(self.runs().get(run)?.join("status.json")).ok();
        wait_for("a status file", || serde_json::from_slice(&read()?).ok())
    }

    /// The server that holds the data directory, if it is alive.
    pub fn pid_of_server(&self) -> Option<i32> {
        let lock: Value = serde_json::from_slice(&fs::read(self.data().join("server.lock")).ok()?).ok()?;
        lock["pid"].as_i64().map(|pid| pid as i32).filter(|pid| is_alive(*pid))
    }

    /// All live processes that belong to a run of this sandbox, without the shims.
    pub fn leftovers(&self) -> Vec<i32> {
        let mark = format!("PERSISTPROC_RUN={}/", self.data().display());
        pids()
            .into_iter()
            .filter(|pid| is_alive(*pid) && environment(*pid).iter().any(|entry| entry.starts_with(&mark)))
            .collect()
    }

    /// The servers and shims of this sandbox.
    fn own_processes(&self) -> Vec<i32> {
        let data = self.data().display().to_string();
        let is_own = |pid: i32| {
            let arguments = arguments(pid);
            let is_shim = arguments.get(1).is_some_and(|first| first == "__shim")
                && arguments.iter().any(|argument| argument.starts_with(&data));
            let is_persistproc = arguments.first().is_some_and(|program| program.contains("persistproc"));
            is_shim
                || is_persistproc
                    && environment(pid).iter().any(|entry| *entry == format!("PERSISTPROC_DATA_DIR={data}"))
        };
        pids().into_iter().filter(|pid| is_alive(*pid) && is_own(*pid)).collect()
    }
}

/// Ends what still runs, and fails the test if the server's shutdown left anything running.
impl Drop for Sandbox {
    fn drop(&mut self) {
        let quietly =
            |arguments: &[&str]| self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        if quietly(&["shutdown"]).code() == Some(3) && !self.own_processes().is_empty() {
            // The server exited before its processes, as servers of tests may: the next one finds them.
            quietly(&["serve", "--background"]);
            quietly(&["shutdown"]);
        }
        let begun = Instant::now();
        let mut left = vec![0];
        while !left.is_empty() && begun.elapsed() < Duration::from_secs(15) {
            left = [self.own_processes(), self.leftovers()].concat();
            std::thread::sleep(Duration::from_millis(5));
        }
        let shown: Vec<String> = left.iter().map(|pid| format!("{pid}: {}", arguments(*pid).join(" "))).collect();
        for pid in left {
            signal(pid, libc::SIGKILL);
        }
        if !std::thread::panicking() {
            assert!(shown.is_empty(), "left running: {shown:?}");
        }
    }
}

/// A port that is free, below the range from which the system assigns ports.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..2000 {
        let number = NEXT.fetch_add(1, Ordering::SeqCst) + std::process::id() * 101;
        let port = 20_000 + (number % 12_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
