//! A reader that does not read or leaves, and servers that are missing or killed.

use super::*;
/// A wrapper whose output fills its pipe, because nobody reads it.
#[allow(unsafe_code)]
fn stuck(sandbox: &Sandbox, words: &[&str]) -> Guard {
    use std::os::fd::AsRawFd;
    let script = ["sh", "-c", "head -c 300000 /dev/zero; read never"];
    let wrapper = Guard(sandbox.spawn(&[words, &script].concat()));
    let out = wrapper.0.stdout.as_ref().unwrap().as_raw_fd();
    wait_until("a full pipe", || {
        let mut unread: libc::c_int = 0;
        unsafe { libc::ioctl(out, libc::FIONREAD as _, &mut unread) == 0 && unread > 60_000 }
    });
    wrapper
}

#[test]
fn a_signal_is_handled_even_while_the_output_is_not_read() {
    let sandbox = Sandbox::new();
    let mut wrapper = stuck(&sandbox, &["run"]);
    signal(wrapper.pid(), libc::SIGTERM);
    let status = wait_for("the wrapper to exit", || wrapper.0.try_wait().unwrap());
    assert_eq!((status.code(), sandbox.status(0)["state"].as_str()), (Some(143), Some("running")));

    let mut wrapper = stuck(&sandbox, &["run", "--on-exit", "stop"]);
    signal(wrapper.pid(), libc::SIGTERM);
    wait_until("the process to be stopped", || sandbox.status(0)["state"] == "terminated");
    drop(wrapper.0.stdout.take());
    assert_eq!(wait_for("the wrapper to exit", || wrapper.0.try_wait().unwrap()).code(), Some(143));
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_wrapper_but_not_the_process() {
    let sandbox = Sandbox::new();
    let mut wrapper = sandbox.spawn(&["sh", "-c", "while echo again; do sleep 0.01; done"]);
    let mut line = [0; 6];
    wrapper.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    drop(wrapper.stdout.take());
    assert_eq!(finish(wrapper, DEADLINE).code, 141);
    assert_eq!(sandbox.status(0)["state"], "running");
}

#[test]
fn a_server_is_started_when_none_answers_unless_that_is_forbidden() {
    let sandbox = Sandbox::new();
    for words in [
        &["--no-autostart", "true"][..],
        &["--no-autostart", "start", "true"],
        &["list"],
        &["stop", "x"],
        &["output", "x"],
        &["shutdown"],
    ] {
        let ended = sandbox.run(words);
        assert_eq!(ended.code, 3, "{words:?}: {ended:?}");
        assert!(ended.stderr.contains("persistproc serve"), "{}", ended.stderr);
    }
    let mut forbidden = sandbox.command(&["true"]);
    assert_eq!(finish(spawn(forbidden.env("PERSISTPROC_NO_AUTOSTART", "1")), DEADLINE).code, 3);
    assert!(!sandbox.data().exists());
    let first = sandbox.run(&["echo", "hello"]).ok();
    assert!(first.stderr.contains("started a server") && first.stderr.lines().count() == 1, "{}", first.stderr);
    assert_eq!(sandbox.run(&["echo", "hello"]).ok().stderr, "");
}

#[test]
fn many_that_need_a_server_at_once_get_one() {
    let sandbox = Sandbox::new();
    let words: Vec<Vec<String>> = (0..8).map(|i| vec!["echo".into(), format!("number {i}")]).collect();
    let children: Vec<_> = words.iter().map(|words| sandbox.spawn(words)).collect();
    for (i, child) in children.into_iter().enumerate() {
        assert_eq!(finish(child, DEADLINE).ok().out(), format!("number {i}\n"));
    }
    assert_eq!(sandbox.runs().len(), 8);
}

#[test]
fn the_wrapper_goes_on_when_the_server_is_killed_in_the_middle_of_a_restart() {
    let sandbox = Sandbox::new();
    let mut wrapper = Guard(sandbox.spawn(&["--label", "web", "sh", "-c", "echo run $$; read never"]));
    let mut out = std::io::BufReader::new(wrapper.0.stdout.take().unwrap());
    let mut read_line = move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        line
    };
    for i in 0..5 {
        assert_eq!(read_line(), format!("run {}\n", sandbox.status(i)["pid"]), "{i}");
        let server = wait_for("a server", || sandbox.pid_of_server());
        let restart = sandbox.spawn(&["restart", "web"]);
        wait_until("the next run", || sandbox.runs().len() > i + 1 && sandbox.status(i + 1)["state"] == "running");
        signal(server, libc::SIGKILL);
        finish(restart, DEADLINE); // it may not hear any more that it was obeyed
    }
    assert_eq!(read_line(), format!("run {}\n", sandbox.status(5)["pid"]));
    wait_until("a server", || sandbox.run(&["stop", "web"]).code == 0);
    let ended = wrapper.end(DEADLINE);
    assert_eq!(ended.code, 143, "{ended:?}");
}
