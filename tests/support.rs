//! A sandbox per test: a port, a data directory, a working directory, and the certainty that nothing is left running.

use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The end of every wait: far more than anything here takes, also on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const BINARY: &str = env!("CARGO_BIN_EXE_persistproc");

/// Waits until `condition` gives something, or fails with `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// A port that nobody has, below the range from which the system takes its own.
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

/// What a command came to.
#[derive(Debug)]
pub struct Ended {
    /// Exit code, or 1000 + the signal.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    /// The command did what it should.
    #[track_caller]
    pub fn ok(self) -> Ended {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

pub struct Sandbox {
    pub root: PathBuf,
    pub port: u16,
}

impl Sandbox {
    pub fn new() -> Sandbox {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("persistproc-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        // Without links, as the program itself will name it.
        let root = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir_all(root.join("work")).unwrap();
        Sandbox { root, port: free_port() }
    }
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }
    /// Where commands run.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }
    /// An executable script in the working directory.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.work().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// `persistproc` with these words, in this sandbox.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(words).current_dir(self.work()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("PERSISTPROC") || name.starts_with("CODEX") || name == "RUST_BACKTRACE" {
                command.env_remove(name);
            }
        }
        command.env("PERSISTPROC_PORT", self.port.to_string()).env("PERSISTPROC_DATA_DIR", self.data());
        command
    }

    /// Runs `persistproc` to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Ended {
        finish(self.spawn(words), DEADLINE)
    }

    /// Starts `persistproc` with pipes.
    pub fn spawn<S: AsRef<OsStr>>(&self, words: &[S]) -> Child {
        spawn(&mut self.command(words))
    }

    /// A server in the foreground, up and answering.
    #[track_caller]
    pub fn serve(&self) -> Guard {
        let server = Guard(self.spawn(&["serve", "-q"]));
        self.wait_for_server();
        server
    }

    #[track_caller]
    pub fn wait_for_server(&self) {
        wait_until("a server that answers", || self.health().is_some());
    }

    /// A connection to the server's socket in the data directory.
    pub fn connect_private(&self) -> Option<UnixStream> {
        // By a descriptor of the directory, because its name may be longer than the address of a socket.
        let directory = fs::File::open(self.data()).ok()?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/server.sock", directory.as_raw_fd())).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Some(stream)
    }

    /// Sends bytes to the server's socket and reads one answer; `None` if there was none.
    pub fn try_private(&self, request: &[u8]) -> Option<Http> {
        let mut stream = self.connect_private()?;
        stream.write_all(request).ok()?;
        Http::read(&mut stream)
    }

    /// What the server says of itself; `None` if there is none.
    pub fn health(&self) -> Option<Value> {
        self.try_private(&get("/health", self.port)).filter(|answer| answer.status == 200).map(|answer| answer.json())
    }

    /// Clients that are connected to the server, by its port or by its socket.
    pub fn connections(&self) -> usize {
        let remote = format!(":{:04X} 01 ", self.port);
        let by_port = fs::read_to_string("/proc/net/tcp").unwrap().matches(&remote).count();
        // proc(5): number, references, protocol, flags, type, state (3: connected), inode, and the name of the listener.
        let name = self.data().join("server.sock").display().to_string();
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        let is_ours = |line: &&str| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            fields.get(5) == Some(&"03") && fields.get(7).is_some_and(|path| path.starts_with(&name))
        };
        by_port + sockets.lines().filter(is_ours).count()
    }

    /// Sends bytes to the port and reads one answer; `None` if there was none.
    pub fn try_http(&self, request: &[u8]) -> Option<Http> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request).ok()?;
        Http::read(&mut stream)
    }

    #[track_caller]
    pub fn http(&self, request: &[u8]) -> Http {
        self.try_http(request).unwrap_or_else(|| panic!("no answer to {}", String::from_utf8_lossy(request)))
    }

    /// Calls a tool as an agent does, without a handshake: the text, and whether it is an error.
    #[track_caller]
    pub fn tool(&self, name: &str, arguments: Value) -> (String, bool) {
        let call = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": name, "arguments": arguments}});
        let answer = self.http(&post("/mcp", self.port, "", &call.to_string()));
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

    /// Directories of all runs, in order.
    pub fn runs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data().join("runs")).into_iter().flatten().flatten();
        let is_born = |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with('.');
        let mut runs: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_born).collect();
        runs.sort();
        runs
    }

    /// The status file of a run, counted from 0.
    #[track_caller]
    pub fn status(&self, run: usize) -> Value {
        let read = || fs::read(self.runs().get(run)?.join("status.json")).ok();
        wait_for("a status file", || serde_json::from_slice(&read()?).ok())
    }

    /// The server that has the data directory, if it is alive.
    pub fn pid_of_server(&self) -> Option<i32> {
        let lock: Value = serde_json::from_slice(&fs::read(self.data().join("server.lock")).ok()?).ok()?;
        lock["pid"].as_i64().map(|pid| pid as i32).filter(|pid| is_alive(*pid))
    }

    /// Everybody alive who belongs to a run of this sandbox, shims aside.
    pub fn leftovers(&self) -> Vec<i32> {
        let mark = format!("PERSISTPROC_RUN={}/", self.data().display());
        pids()
            .into_iter()
            .filter(|pid| is_alive(*pid) && environment(*pid).iter().any(|entry| entry.starts_with(&mark)))
            .collect()
    }

    /// Servers and shims of this sandbox.
    fn own_processes(&self) -> Vec<i32> {
        let data = self.data().display().to_string();
        let is_own = |pid: i32| {
            let words = arguments(pid);
            let is_shim =
                words.get(1).is_some_and(|word| word == "__shim") && words.iter().any(|word| word.starts_with(&data));
            let is_ours = words.first().is_some_and(|word| word.contains("persistproc"));
            is_shim || is_ours && environment(pid).iter().any(|entry| *entry == format!("PERSISTPROC_DATA_DIR={data}"))
        };
        pids().into_iter().filter(|pid| is_alive(*pid) && is_own(*pid)).collect()
    }
}

/// Ends what is still there, and fails the test if it had to.
impl Drop for Sandbox {
    fn drop(&mut self) {
        let quietly =
            |words: &[&str]| self.command(words).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        if quietly(&["shutdown"]).code() == Some(3) && !self.own_processes().is_empty() {
            // The server went before its processes, as servers of tests may.
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
        let _ = fs::remove_dir_all(&self.root);
        if !std::thread::panicking() {
            assert!(shown.is_empty(), "left running: {shown:?}");
        }
    }
}

/// The same program, but with another version: its number is a text of five letters in the file, wherever it stands.
pub fn of_version(sandbox: &Sandbox, version: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let own = env!("CARGO_PKG_VERSION").as_bytes();
    assert_eq!(own.len(), version.len());
    let mut bytes = fs::read(BINARY).unwrap();
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, own).collect();
    for at in places {
        bytes[at..at + own.len()].copy_from_slice(version.as_bytes());
    }
    let path = sandbox.root.join(format!("persistproc-{version}"));
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // Busy as long as a test beside this one is between its fork and its exec, and has what we wrote it with.
    let said = wait_for("a program", || Command::new(&path).arg("--version").output().ok());
    assert_eq!(String::from_utf8(said.stdout).unwrap(), format!("persistproc {version}\n"));
    path
}

/// A command of the sandbox, as that program.
pub fn with(sandbox: &Sandbox, program: &PathBuf, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, value) in sandbox.command(&[""; 0]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.args(words).current_dir(sandbox.work()).stdin(Stdio::null());
    command
}

/// A child that does not outlive its test.
pub struct Guard(pub Child);

impl Guard {
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }
    #[track_caller]
    pub fn end(self, patience: Duration) -> Ended {
        let mut guard = self;
        let child = std::mem::replace(&mut guard.0, Command::new("true").spawn().unwrap());
        finish(child, patience)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Collects what a child prints until it ends, killing it after `patience`.
#[track_caller]
pub fn finish(mut child: Child, patience: Duration) -> Ended {
    fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    }
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > patience {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let (stdout, stderr) = (out.join().unwrap(), String::from_utf8_lossy(&err.join().unwrap()).into_owned());
    let status = status.unwrap_or_else(|| panic!("did not end: {} / {stderr}", String::from_utf8_lossy(&stdout)));
    let code = status.code().or(status.signal().map(|signal| 1000 + signal)).unwrap();
    Ended { code, stdout, stderr }
}

/// One HTTP answer.
#[derive(Debug)]
pub struct Http {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Http {
    pub fn read(stream: &mut impl Read) -> Option<Http> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let text = String::from_utf8(head).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
            .collect();
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        stream.read_exact(&mut body).ok()?;
        Some(Http { status, headers, body })
    }
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

pub fn get(target: &str, port: u16) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").into_bytes()
}

/// A POST of JSON; `headers` are lines that end in CRLF.
pub fn post(target: &str, port: u16, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Asks for lines as our own command does: `arguments` are those of the tool `output`.
pub fn post_lines(arguments: Value, port: u16) -> Vec<u8> {
    post("/lines", port, "", &serde_json::json!({"arguments": arguments}).to_string())
}

/// So that closing is a reset.
#[allow(unsafe_code)]
pub fn linger_zero(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of_val(&linger) as libc::socklen_t;
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
    };
}

/// Threads and descriptors of a process.
pub fn size_of_process(pid: i32) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("task"), count("fd"))
}

/// seccomp(2): a system call with this first argument (any, if it is -1) fails with `errno`, for the command and all that
/// it starts.
#[allow(unsafe_code)]
pub fn forbid(command: &mut Command, call: i64, argument: i32, errno: i32) {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset: u32| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let skip_unless = |value: u32, steps: u8| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, steps);
    let end = |value: u32| step(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    // struct seccomp_data: the number of the call at 0, its first argument at 16.
    let mut filter = vec![load(0), skip_unless(call as u32, 3), load(16), skip_unless(argument as u32, 1)];
    if argument == -1 {
        filter = vec![load(0), skip_unless(call as u32, 1)];
    }
    filter.extend([end(libc::SECCOMP_RET_ERRNO | errno as u32), end(libc::SECCOMP_RET_ALLOW)]);
    let install = move || unsafe {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, install) };
}

/// Says why a test does less than it could.
#[allow(clippy::print_stdout)]
pub fn skipped(reason: &str) {
    println!("skipped: {reason}");
}

#[allow(unsafe_code)]
pub fn signal(pid: i32, number: i32) -> bool {
    pid > 0 && unsafe { libc::kill(pid, number) == 0 }
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Running, and not a zombie that its parent has not asked for yet.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn words_of(path: String) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.split(|&b| b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

pub fn arguments(pid: i32) -> Vec<String> {
    words_of(format!("/proc/{pid}/cmdline"))
}

fn environment(pid: i32) -> Vec<String> {
    words_of(format!("/proc/{pid}/environ"))
}

/// Pids whose command line holds this text; not our shims, which have the words of what they run.
pub fn pids_with(text: &str) -> Vec<i32> {
    let fits = |words: Vec<String>| words.join(" ").contains(text) && words.get(1).is_none_or(|word| word != "__shim");
    pids().into_iter().filter(|pid| is_alive(*pid) && fits(arguments(*pid))).collect()
}

/// The bytes of a child from one of its own logs.
pub fn stripped(log: &Path) -> Vec<u8> {
    let bytes = fs::read(log).unwrap();
    bytes.split_inclusive(|&b| b == b'\n').flat_map(|line| without_stamp(line).to_vec()).collect()
}

/// A line of a log without its stamp, if it has one of its own.
pub fn without_stamp(line: &[u8]) -> &[u8] {
    let shape = b"dddd-dd-ddTdd:dd:dd.dddZ ";
    let fits = |(&byte, &shape): (&u8, &u8)| if shape == b'd' { byte.is_ascii_digit() } else { byte == shape };
    if line.len() >= 25 && line.iter().zip(shape).all(fits) { &line[25..] } else { line }
}

/// Makes system calls of a process fail, or late, as `rules` of strace(1) say, as long as the value lives. `None`, with the
/// reason printed, where that cannot be.
pub fn inject(pid: i32, rules: &[&str]) -> Option<Guard> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null"]).args(rules).args(["-p", &pid.to_string()]).stderr(Stdio::null());
    let Ok(mut tracer) = strace.spawn().map(Guard) else { return skip("strace is not there") };
    let is_traced = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
        tasks.map(status).all(|status| !status.contains("TracerPid:\t0\n"))
    };
    let mut has_ended = || tracer.0.try_wait().unwrap().is_some();
    if !wait_for("strace", || if has_ended() { Some(false) } else { is_traced().then_some(true) }) {
        return skip("one may not trace here");
    }
    Some(tracer)
}

/// Says why a test has nothing to test here.
#[allow(clippy::print_stderr)]
pub fn skip<T>(why: &str) -> Option<T> {
    eprintln!("skipped: {why}");
    None
}

/// An ordinary user beside root, for what root is never refused. Needs root and setpriv(1).
pub struct AnotherUser<'a> {
    sandbox: &'a Sandbox,
    program: PathBuf,
}

impl<'a> AnotherUser<'a> {
    const ID: u32 = 65_534;

    /// `None`, with the reason printed, where that cannot be had. From here on the sandbox is that user's.
    pub fn new(sandbox: &'a Sandbox) -> Option<AnotherUser<'a>> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if fs::metadata("/proc/self").unwrap().uid() != 0 || Command::new("setpriv").arg("--version").output().is_err()
        {
            return skip("needs root, and setpriv to become another user");
        }
        let program = sandbox.root.join("persistproc");
        fs::copy(BINARY, &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        // Busy as long as a test beside this one is between its fork and its exec, and has what we wrote it with.
        wait_for("a program", || Command::new(&program).arg("--version").output().ok());
        for path in [sandbox.root.clone(), sandbox.work()] {
            std::os::unix::fs::chown(path, Some(Self::ID), Some(Self::ID)).unwrap();
        }
        Some(AnotherUser { sandbox, program })
    }

    /// `persistproc` with these words, as that user; `limits` are words of a shell such as `ulimit -n 20;`.
    pub fn command_within(&self, limits: &str, words: &[&str]) -> Command {
        let mut command = self.sandbox.command(&[""; 0]);
        let variables: Vec<_> = command.get_envs().map(|(n, v)| (n.to_owned(), v.map(ToOwned::to_owned))).collect();
        command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c"]);
        command.arg(format!("{limits} exec \"$0\" \"$@\"")).arg(&self.program).args(words);
        command.current_dir(self.sandbox.work()).stdin(Stdio::null()).env("HOME", self.sandbox.work());
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ended {
        finish(spawn(&mut self.command_within("", words)), DEADLINE)
    }

    /// The words with which that user runs `program` as root, as sudo would. `None`, with the reason printed, where a file
    /// system does not allow that.
    pub fn as_root(&self, program: &str, argument: &str) -> Option<String> {
        use std::os::unix::fs::PermissionsExt;
        let found = Command::new("sh").args(["-c", "command -v setpriv"]).output().unwrap();
        let copy = self.sandbox.root.join("as-root");
        fs::copy(String::from_utf8(found.stdout).unwrap().trim(), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
        let as_root = format!("{} --reuid 0 --clear-groups", copy.display());
        let mut who = Command::new("setpriv");
        who.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", &format!("{as_root} id -u")]);
        if who.output().is_ok_and(|output| output.stdout == b"0\n") {
            return Some(format!("{as_root} {program} {argument}"));
        }
        skip("no program may be another user's in the temporary directory")
    }
}
