//! System calls that fail, or that take long.

use super::{Guard, skip, wait_for};
use std::fs;
use std::process::{Command, Stdio};

/// Makes a system call with this first argument (-1: with any) fail with `errno`, in the command and in all that it starts;
/// see seccomp(2).
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

/// Makes system calls of a process fail, or delays them, according to `rules` of strace(1), as long as the returned value lives.
/// `None`, with the reason printed, where that is not possible.
pub fn inject(pid: i32, rules: &[&str]) -> Option<Guard> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null"]).args(rules).args(["-p", &pid.to_string()]).stderr(Stdio::null());
    let Ok(mut tracer) = strace.spawn().map(Guard) else { return skip("strace is not installed") };
    let is_traced = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
        tasks.map(status).all(|status| !status.contains("TracerPid:\t0\n"))
    };
    let mut has_ended = || tracer.0.try_wait().unwrap().is_some();
    if !wait_for("strace", || if has_ended() { Some(false) } else { is_traced().then_some(true) }) {
        return skip("tracing is not permitted here");
    }
    Some(tracer)
}
