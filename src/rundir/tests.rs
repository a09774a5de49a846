use super::*;

#[test]
fn concurrently_written_orders_are_all_written_and_never_mixed() {
    let directory = tempfile::tempdir().unwrap();
    let dir = RunDir(directory.path().to_path_buf());
    let order = |key: &str| Order {
        version: FORMAT_VERSION,
        grace: 0,
        idempotency_key: Some(key.into()),
        next: None,
        given: None,
        is_done: false,
    };
    let (short, long) = (order("short"), order(&"long".repeat(500)));
    let is_whole = |order: &Order| dir.write_order(order).is_ok() && dir.read_order().is_ok();
    let are_all_whole = |order: &Order| (0..300).all(|_| is_whole(order));
    let results = std::thread::scope(|scope| {
        let other = scope.spawn(|| are_all_whole(&long));
        (are_all_whole(&short), other.join().unwrap())
    });
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!((results, files), ((true, true), 1));
}

#[test]
fn foreign_files_in_the_place_of_the_status_are_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("run");
    let run = RunDir(dir.clone());
    let status = Status { version: FORMAT_VERSION, state: State::Exited, exit_code: Some(3), ..Status::default() };
    for name in ["status.json", "status.new"] {
        for kind in ["FIFO", "directory", "symbolic link"] {
            std::fs::create_dir_all(&dir).unwrap();
            let place = dir.join(name);
            match kind {
                "FIFO" => sys::mkfifo(&place).unwrap(),
                "directory" => std::fs::create_dir_all(place.join("full")).unwrap(),
                _ => std::os::unix::fs::symlink("/dev/full", &place).unwrap(),
            }
            if name == "status.json" {
                let Err(Unreadable::Damaged(text)) = run.read_status() else { panic!("{kind}") };
                assert_eq!(text, format!("it is a {kind}, not a file"));
            }
            run.write_status(&status).unwrap();
            assert_eq!(run.read_status().unwrap(), status, "{name} {kind}");
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn newer_damaged_and_missing_files_are_distinguished() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_path_buf();
    let run = RunDir(dir.clone());
    assert!(matches!(run.read_status(), Err(Unreadable::Missing)));
    for text in ["", "{", "[]", "\0\0\0", "{\"version\":1}", "{\"version\":\"1\"}"] {
        std::fs::write(run.status(), text).unwrap();
        assert!(matches!(run.read_status(), Err(Unreadable::Damaged(_))), "{text}");
    }
    std::fs::write(run.status(), "{\"version\":2,\"state\":\"dreaming\"}").unwrap();
    assert!(matches!(run.read_status(), Err(Unreadable::Newer(2))));
    let status = Status { version: FORMAT_VERSION, state: State::Exited, exit_code: Some(3), ..Status::default() };
    run.write_status(&status).unwrap();
    assert_eq!(run.read_status().unwrap(), status);
}
