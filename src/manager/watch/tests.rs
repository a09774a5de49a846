use super::*;
use crate::rundir::FORMAT_VERSION;

fn run(name: &str) -> (tempfile::TempDir, Arc<Run>) {
    let directory = tempfile::tempdir().unwrap();
    let dir = RunDir(directory.path().to_path_buf());
    let meta = Meta {
        version: FORMAT_VERSION,
        argv: Vec::new(),
        working_directory: "/".into(),
        environment: Vec::new(),
        label: name.into(),
        created: 0,
        previous: None,
        max_log_bytes: 0,
        idempotency_key: None,
        attributes: None,
    };
    (directory, Arc::new(Run::new(1, dir, meta)))
}

#[test]
fn of_two_that_read_the_status_the_older_one_never_wins() {
    let (_dir, run) = run("order");
    let status = |sequence: u64, state: State| {
        Some(Arc::new(Status { version: FORMAT_VERSION, sequence, state, ..Status::default() }))
    };
    run.take(status(1, State::Running), None, false, false).unwrap();
    let generation = run.generation();
    run.take(status(3, State::Detached), None, false, false).unwrap();
    run.take(status(2, State::Running), None, false, false).unwrap();
    assert_eq!((run.status().state, run.status().sequence), (State::Detached, 3));
    assert_eq!(run.generation(), generation + 1, "nothing happened for which to wake requests that wait");
    // With the end of the shim its last status is final, also one that a server wrote, which counts from 0.
    run.take(status(0, State::Exited), None, false, true).unwrap();
    run.take(status(3, State::Detached), None, false, false).unwrap();
    assert_eq!((run.status().state, run.is_over()), (State::Exited, true));
    // 0.3.0 did not count; of its files each is taken.
    let (_old_dir, old) = self::run("uncounted");
    for state in [State::Running, State::Detached] {
        old.take(status(0, state), None, false, false).unwrap();
        assert_eq!(old.status().state, state);
    }
}

#[test]
fn a_shim_is_reaped_also_if_there_was_no_thread_to_follow_its_run() {
    let (_dir, run) = run("unfollowed");
    // Ends by itself if this fails: its stdin is closed then.
    let shim = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let pid = shim.id() as i32;
    *run.lock_shim() = Some(shim);
    run.lock().is_followed = false;
    run.catch_up();
    assert!(!run.is_over());
    run.lock_shim().as_mut().unwrap().kill().unwrap();
    let begun = Instant::now();
    while !run.is_over() && begun.elapsed() < Duration::from_secs(60) {
        run.catch_up();
    }
    let is_ours = |process: crate::procs::Process| process.parent == std::process::id() as i32;
    assert!(run.is_over() && !crate::procs::look_up(pid).is_some_and(is_ours));
}
