//! A program gets the umask, niceness, signal settings, limits and control group of the shell from which it was requested,
//! not those of whatever started the server. Our own files are private, whatever the umask is.

use crate::support::*;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Runs persistproc with these arguments in a shell that has run `setup` before.
fn run(sandbox: &Sandbox, setup: &str, arguments: &str) -> String {
    finish(spawn(&mut sandbox.shell(&format!("{setup} \"$0\" {arguments}"))), DEADLINE).ok().out()
}

/// The words behind `name` in a table of /proc.
fn field(table: &str, name: &str) -> String {
    let line = table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {table}"));
    line[name.len()..].trim().to_string()
}

/// What a signal set of /proc/PID/status holds.
fn holds(table: &str, name: &str, number: i32) -> bool {
    let bits = u64::from_str_radix(field(table, name).as_str(), 16).unwrap();
    bits & 1 << (number - 1) != 0
}

fn mode(sandbox: &Sandbox, name: &str) -> u32 {
    std::fs::metadata(sandbox.work().join(name)).unwrap().permissions().mode() & 0o777
}

#[test]
fn files_of_a_program_have_the_umask_of_its_shell_and_of_no_other() {
    let sandbox = Sandbox::new();
    // The server is started by a shell that lets everybody read, and knows of no secrets.
    run(&sandbox, "umask 022;", "-q start --label first sh -c 'echo > first'");
    run(&sandbox, "umask 077;", "-q --label secret sh -c 'echo > secret'");
    run(&sandbox, "umask 0002;", "-q --label shared sh -c 'echo > shared'");
    wait_until("the files", || ["first", "secret", "shared"].iter().all(|name| sandbox.work().join(name).exists()));
    assert_eq!([mode(&sandbox, "first"), mode(&sandbox, "secret"), mode(&sandbox, "shared")], [0o644, 0o600, 0o664]);
    // Also when it is restarted, by whomever, and by another server.
    std::fs::remove_file(sandbox.work().join("secret")).unwrap();
    run(&sandbox, "umask 022;", "shutdown");
    run(&sandbox, "umask 000;", "serve --background -q");
    run(&sandbox, "umask 022;", "-q restart secret");
    wait_until("the file", || sandbox.work().join("secret").exists());
    assert_eq!(mode(&sandbox, "secret"), 0o600);
    // What an agent starts has that of the server's shell.
    let start =
        json!({"action": "start", "command_or_label": "sh -c 'echo > agent'", "working_directory": sandbox.work()});
    sandbox.tool_ok("ctrl", start);
    wait_until("the file", || sandbox.work().join("agent").exists());
    assert_eq!(mode(&sandbox, "agent"), 0o666);
}

#[test]
fn a_program_of_an_older_version_is_restarted_with_the_umask_of_the_server() {
    let sandbox = Sandbox::new();
    run(&sandbox, "umask 022;", "-q --label old sh -c 'echo > old'");
    run(&sandbox, "umask 022;", "shutdown");
    // As 0.4 wrote it: it knew of no attributes.
    let path = sandbox.runs()[0].join("meta.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    meta.as_object_mut().unwrap().remove("attributes").expect("attributes in meta.json");
    std::fs::write(&path, meta.to_string()).unwrap();
    std::fs::remove_file(sandbox.work().join("old")).unwrap();
    run(&sandbox, "umask 022;", "serve --background -q");
    run(&sandbox, "umask 077;", "-q restart old");
    wait_until("the file", || sandbox.work().join("old").exists());
    assert_eq!(mode(&sandbox, "old"), 0o644);
}

#[test]
fn a_program_has_the_signals_and_the_niceness_of_its_shell() {
    if !cfg!(target_os = "linux") {
        return skip("signals of a process are told by /proc");
    }
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let plain = run(&sandbox, "", "-q cat /proc/self/status");
    for number in 1..=31 {
        assert!(!holds(&plain, "SigIgn:", number) && !holds(&plain, "SigBlk:", number), "{number}: {plain}");
    }
    let nohup = run(&sandbox, "trap '' HUP USR1;", "-q --label nohup cat /proc/self/status");
    assert!(holds(&nohup, "SigIgn:", libc::SIGHUP) && holds(&nohup, "SigIgn:", libc::SIGUSR1), "{nohup}");
    assert!(!holds(&nohup, "SigIgn:", libc::SIGTERM) && !holds(&nohup, "SigIgn:", libc::SIGPIPE), "{nohup}");
    let stat = run(&sandbox, "exec nice -n 7", "-q --label nice cat /proc/self/stat");
    assert_eq!(stat.rsplit(") ").next().unwrap().split(' ').nth(16), Some("7"), "{stat}");
    let stat = run(&sandbox, "", "-q --label normal cat /proc/self/stat");
    assert_eq!(stat.rsplit(") ").next().unwrap().split(' ').nth(16), Some("0"), "{stat}");
}

#[test]
fn a_program_has_the_limits_of_its_shell_as_far_as_the_server_may_give_them() {
    if !cfg!(target_os = "linux") {
        return skip("limits of a process are told by /proc");
    }
    let sandbox = Sandbox::new();
    // Its own soft limit is lower than that of others.
    let mut server = sandbox.shell("ulimit -S -n 200; exec \"$0\" serve -q");
    let _server = Guard(spawn(&mut server));
    sandbox.wait_for_server();
    let words =
        |table: &str, name: &str| field(table, name).split_whitespace().take(2).map(String::from).collect::<Vec<_>>();
    let table = run(&sandbox, "ulimit -n 500; ulimit -c 0; ulimit -f 4000;", "-q cat /proc/self/limits");
    assert_eq!(words(&table, "Max open files"), ["500", "500"], "{table}");
    assert_eq!(words(&table, "Max core file size"), ["0", "0"], "{table}");
    // dash counts in blocks of 512 bytes, bash in those of 1024.
    assert!(["2048000", "4096000"].contains(&words(&table, "Max file size")[0].as_str()), "{table}");
    // The shim, whose logs and files must go on, has not.
    run(&sandbox, "ulimit -f 1;", "-q --label long sh -c 'seq 1 20000; exit 0'");
    assert_eq!(sandbox.status(1)["lines"][0], 20_000);
}

/// Runs persistproc with SIGTERM and SIGINT blocked, as some process managers do by mistake.
#[allow(unsafe_code)]
fn with_blocked_signals(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let block = || unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for number in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR2] {
            libc::sigaddset(&mut set, number);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        Ok(())
    };
    unsafe { command.pre_exec(block) };
}

#[test]
fn servers_and_wrappers_hear_signals_that_were_blocked_and_programs_have_them_blocked() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.command(&["serve", "-q"]);
    with_blocked_signals(&mut server);
    let server = Guard(spawn(&mut server));
    sandbox.wait_for_server();
    if cfg!(target_os = "linux") {
        let mut program = sandbox.command(&["-q", "cat", "/proc/self/status"]);
        with_blocked_signals(&mut program);
        let table = finish(spawn(&mut program), DEADLINE).ok().out();
        assert!(holds(&table, "SigBlk:", libc::SIGUSR2) && !holds(&table, "SigBlk:", libc::SIGUSR1), "{table}");
    }
    let mut wrapper = sandbox.command(&["-q", "sh", "-c", "echo up; read never"]);
    with_blocked_signals(&mut wrapper);
    let wrapper = Guard(spawn(&mut wrapper));
    wait_until("its output", || {
        sandbox.runs().last().is_some() && sandbox.status(sandbox.runs().len() - 1)["lines"][0] == 1
    });
    signal(wrapper.pid(), libc::SIGTERM);
    assert_eq!(wrapper.end(DEADLINE).code, 143);
    signal(server.pid(), libc::SIGTERM);
    assert_eq!(server.end(DEADLINE).code, 0);
}

#[test]
fn whatever_the_umask_is_our_files_are_ours_alone_and_work() {
    for umask in ["0", "0177", "0777"] {
        let sandbox = Sandbox::new();
        assert_eq!(run(&sandbox, &format!("umask {umask};"), "-q echo works"), "works\n", "{umask}");
        let private = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0;
        let run = sandbox.runs()[0].clone();
        assert!(private(&sandbox.data()) && private(&run) && private(&run.join("combined.log")), "{umask}");
    }
}

#[test]
fn an_ordinary_user_can_use_a_data_directory_whatever_the_umask_and_is_told_what_opens_a_closed_one() {
    let sandbox = Sandbox::new();
    let Some(user) = AnotherUser::new(&sandbox) else { return };
    // Root is never refused, so that only another user shows this.
    let ended = finish(spawn(&mut user.command_within("umask 0177;", &["-q", "echo", "works"])), DEADLINE);
    assert_eq!(ended.ok().out(), "works\n");
    user.run(&["shutdown"]).ok();
    // Versions up to 0.4 made it so, with such a umask.
    std::fs::set_permissions(sandbox.data(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let ended = user.run(&["-q", "echo", "works"]);
    std::fs::set_permissions(sandbox.data(), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(ended.code == 3 && ended.stderr.contains("`chmod u+rwx"), "{ended:?}");
}

#[test]
fn a_program_is_put_into_the_control_group_of_its_shell() {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let Some(root) = roots.iter().find(|root| std::path::Path::new(root).join("cgroup.procs").exists()) else {
        return skip("there are no control groups of version 2");
    };
    let group = format!("{root}/persistproc-test-{}", std::process::id());
    if let Err(error) = std::fs::create_dir(&group) {
        return skip(&format!("no control group can be made here: {error}"));
    }
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let words = format!("echo $$ > {group}/cgroup.procs;");
    let table = run(&sandbox, &words, "-q cat /proc/self/cgroup");
    let other = run(&sandbox, "", "-q --label other cat /proc/self/cgroup");
    wait_until("the group to be empty", || std::fs::remove_dir(&group).is_ok());
    assert!(table.lines().any(|line| line.starts_with("0::/persistproc-test-")), "{table}");
    assert!(!other.contains("persistproc-test-"), "{other}");
}

#[test]
fn an_environment_that_the_system_accepts_is_accepted_whatever_is_in_it() {
    let sandbox = Sandbox::new();
    // A string has at most 128 KiB (execve(2)); as JSON, control characters take six times their room.
    let value = "\u{1}".repeat(120_000);
    let mut command = sandbox.command(&["-q", "--label", "large", "sh", "-c", "echo ${#V0} ${#V11}"]);
    command.envs((0..12).map(|i| (format!("V{i}"), &value)));
    assert_eq!(finish(spawn(&mut command), DEADLINE).ok().out(), "120000 120000\n");
    let mut restart = sandbox.command(&["-q", "restart", "large"]);
    assert_eq!(finish(spawn(&mut restart), DEADLINE).code, 0);
}

#[test]
fn a_server_that_cannot_live_is_not_started_again_and_again() {
    if !cfg!(target_os = "linux") {
        return skip("only Linux limits the address space");
    }
    let sandbox = Sandbox::new();
    let ended = finish(spawn(&mut sandbox.shell("ulimit -v 30000; \"$0\" echo works")), DEADLINE);
    let started = ended.stderr.matches("started a server").count();
    assert!(started <= 3 && (ended.code == 0 || !ended.stderr.is_empty()), "{ended:?}");
    // Too little for the threads of a server, and enough for a command.
    for kilobytes in [8000, 12_000, 16_000, 20_000] {
        let ended = finish(spawn(&mut sandbox.shell(&format!("ulimit -v {kilobytes}; \"$0\" echo works"))), DEADLINE);
        assert!(ended.stderr.matches("started a server").count() <= 3, "{kilobytes}: {ended:?}");
    }
}

#[test]
fn without_proc_the_message_names_what_is_missing() {
    let sandbox = Sandbox::new();
    let mut unshare = sandbox.program("unshare");
    unshare.args(["-r", "-m", "sh", "-c", &format!("mount -t tmpfs none /proc && exec {BINARY} echo works")]);
    unshare.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let Ok(child) = unshare.spawn() else { return skip("there is no unshare") };
    let ended = finish(child, DEADLINE);
    if ended.stderr.contains("unshare:") || ended.stderr.contains("mount:") {
        return skip(&ended.stderr);
    }
    assert!(ended.code == 3 && ended.stderr.contains("/proc is not mounted"), "{ended:?}");
}
