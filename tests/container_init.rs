//! As PID 1 of a container: signals are passed on, programs end in order, no zombie remains, and the exit code is reported.
#![cfg(target_os = "linux")]

use crate::support::*;
use std::process::{Child, Stdio};

/// A shell in a container of its own, as far as pids go; it becomes what `script` says by `exec`. `None`, with the reason
/// printed, where there are none.
fn container(sandbox: &Sandbox, script: &str) -> Option<Child> {
    let unshare = |script: &str| {
        let mut command = sandbox.program("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            script,
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    match unshare("exit 0").output() {
        Ok(tried) if tried.status.success() => Some(unshare(script).spawn().unwrap()),
        Ok(tried) => skip(&format!("no container: {}", String::from_utf8_lossy(&tried.stderr))),
        Err(error) => skip(&format!("no unshare: {error}")),
    }
}

/// The pid, as seen from here, of PID 1 in the container: the child of unshare(1).
fn first(container: &Child) -> i32 {
    let children = format!("/proc/{0}/task/{0}/children", container.id());
    wait_for("PID 1", || std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok())
}

#[test]
fn the_exit_code_of_the_program_is_that_of_the_container() {
    let sandbox = Sandbox::new();
    let script = format!("exec {BINARY} -q sh -c 'echo works; exit 7'");
    let Some(child) = container(&sandbox, &script) else { return };
    let ended = finish(child, DEADLINE);
    assert_eq!((ended.code, ended.out().as_str()), (7, "works\n"), "{ended:?}");
}

#[test]
fn a_signal_to_the_container_lets_its_program_end_in_order() {
    for role in ["wrapper", "server"] {
        let sandbox = Sandbox::new();
        let program = "trap 'sleep 0.3; echo done > ended; exit 0' TERM; echo > begun; while :; do sleep 0.05; done";
        std::fs::write(sandbox.work().join("program"), program).unwrap();
        let script = match role {
            "wrapper" => format!("exec {BINARY} -q sh program"),
            _ => format!(
                "(while ! {BINARY} --no-autostart list; do sleep 0.05; done > /dev/null 2>&1; {BINARY} start sh program) & exec {BINARY} serve -q"
            ),
        };
        let Some(child) = container(&sandbox, &script) else { return };
        let child = Guard(child);
        wait_until("the program", || sandbox.work().join("begun").exists());
        signal(first(&child.0), libc::SIGTERM);
        let ended = child.end(DEADLINE);
        let last = std::fs::read_to_string(sandbox.work().join("ended")).unwrap_or_default();
        assert_eq!(last, "done\n", "{role}: the program was killed before its last word: {ended:?}");
        assert_eq!(ended.code, if role == "wrapper" { 143 } else { 0 }, "{ended:?}");
    }
}

#[test]
fn what_killed_shims_leave_is_reaped() {
    let sandbox = Sandbox::new();
    // Each shim is killed, and its program with it; zombies would be seen for good.
    let script = format!(
        "(while ! {BINARY} --no-autostart list > /dev/null 2>&1; do sleep 0.05; done
          for i in 1 2 3 4; do {BINARY} -q start --label p$i sleep 1000; done
          for name in /proc/[0-9]*; do
            case \"$(tr '\\0' ' ' < $name/cmdline)\" in 'persistproc __shim '*|'sleep 1000 ') kill -9 ${{name#/proc/}};; esac
          done
          for i in $(seq 100); do
            sleep 0.05; ps -eo stat,args > table; grep -q '^Z' table || break
          done
          echo end >> table) & exec {BINARY} serve -q"
    );
    let Some(child) = container(&sandbox, &script) else { return };
    let child = Guard(child);
    let table = || std::fs::read_to_string(sandbox.work().join("table")).unwrap_or_default();
    wait_until("the table", || table().ends_with("end\n"));
    assert!(!table().lines().any(|line| line.starts_with('Z')), "{}", table());
    signal(first(&child.0), libc::SIGTERM);
    assert_eq!(child.end(DEADLINE).code, 0);
}

#[test]
fn each_program_gets_one_sigterm_even_when_the_container_ends() {
    let sandbox = Sandbox::new();
    // A signal to all ends the sleep, too, so that each TERM is counted at once.
    let program = "n=0; trap 'n=$((n+1))' TERM; echo > begun$1; i=0
        while [ $n -eq 0 ] || [ $i -lt 20 ]; do [ $n -eq 0 ] || i=$((i+1)); sleep 0.05; done; echo TERM $n > ended$1";
    std::fs::write(sandbox.work().join("program"), program).unwrap();
    let script = format!(
        "for i in 1 2 3 4 5 6 7; do {BINARY} -q start --label p$i sh program $i; done; exec {BINARY} -q sh program 0"
    );
    let Some(child) = container(&sandbox, &script) else { return };
    let child = Guard(child);
    let file = |name: &str, i: u32| sandbox.work().join(format!("{name}{i}"));
    wait_until("the programs", || (0..8).all(|i| file("begun", i).exists()));
    signal(first(&child.0), libc::SIGTERM);
    child.end(DEADLINE);
    let said: Vec<String> = (0..8).map(|i| std::fs::read_to_string(file("ended", i)).unwrap_or_default()).collect();
    assert_eq!(said, vec!["TERM 1\n"; 8]);
}

/// The wrapper in a container, as seen from here: the child of PID 1.
fn wrapper(container: &Child) -> i32 {
    let children = format!("/proc/{0}/task/{0}/children", first(container));
    wait_for("the wrapper", || std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok())
}

#[test]
fn ctrl_z_stops_nothing_in_a_container_because_nothing_there_would_continue_it() {
    let sandbox = Sandbox::new();
    std::fs::write(
        sandbox.work().join("program"),
        "echo > begun; while [ ! -e go ]; do sleep 0.05; done; echo more; exit 5",
    )
    .unwrap();
    let Some(child) = container(&sandbox, &format!("exec {BINARY} -q sh program")) else { return };
    let child = Guard(child);
    wait_until("the program", || sandbox.work().join("begun").exists());
    signal(wrapper(&child.0), libc::SIGTSTP);
    std::fs::write(sandbox.work().join("go"), "").unwrap();
    let ended = child.end(DEADLINE);
    assert_eq!((ended.code, ended.out().as_str()), (5, "more\n"), "{ended:?}");
}

#[test]
fn a_container_ends_in_order_although_its_wrapper_was_stopped() {
    let sandbox = Sandbox::new();
    let program = "trap 'echo done > ended; exit 0' TERM; echo > begun; while :; do sleep 0.05; done";
    std::fs::write(sandbox.work().join("program"), program).unwrap();
    let Some(child) = container(&sandbox, &format!("exec {BINARY} -q sh program")) else { return };
    let child = Guard(child);
    wait_until("the program", || sandbox.work().join("begun").exists());
    let wrapper = wrapper(&child.0);
    signal(wrapper, libc::SIGSTOP);
    let state = || std::fs::read_to_string(format!("/proc/{wrapper}/stat")).unwrap_or_default();
    wait_until("it to be stopped", || state().contains(") T "));
    signal(first(&child.0), libc::SIGTERM);
    assert_eq!(child.end(DEADLINE).code, 143);
    assert_eq!(std::fs::read_to_string(sandbox.work().join("ended")).unwrap_or_default(), "done\n");
}
