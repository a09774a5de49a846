use super::*;
use crate::log::Stream;
use crate::log::header::parse_header;
use crate::log::tail::{Tail, TailRead};
use crate::sys;

fn directory(name: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix(&format!("persistproc-writer-{name}-")).tempdir().unwrap();
    let path = directory.path().to_path_buf();
    (directory, path)
}

#[test]
fn whatever_happens_to_the_file_later_writes_are_found_and_lost_bytes_counted() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 6] = [
        ("emptied", |path| drop(File::create(path).unwrap())),
        ("removed", |path| std::fs::remove_file(path).unwrap()),
        ("moved", |path| std::fs::rename(path, path.with_extension("moved")).unwrap()),
        ("replaced", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, "foreign").unwrap();
        }),
        ("a directory", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir_all(path.join("full")).unwrap();
        }),
        ("a FIFO", |path| {
            std::fs::remove_file(path).unwrap();
            sys::mkfifo(path).unwrap();
        }),
    ];
    for (name, damage) in cases {
        let (_directory, dir) = directory(&name.replace(' ', "-"));
        let path = dir.join("combined.log");
        let mut log = LogWriter::create(path.clone(), 0).unwrap();
        log.append(b"one\n");
        damage(&path);
        log.append(b"two\n");
        log.append(b"three\n");
        let mut tail = Tail::new(&dir, Stream::Combined, 0);
        let mut buffer = [0; 100];
        assert_eq!(tail.read(&mut buffer).unwrap(), TailRead::Gone(4), "{name}");
        assert_eq!(tail.read(&mut buffer).unwrap(), TailRead::Bytes(10), "{name}");
        assert_eq!((&buffer[..10], log.end(), log.io_error()), (&b"two\nthree\n"[..], 14, None), "{name}");
        let foreign = dir.join("combined.log.foreign").exists();
        assert_eq!(foreign, ["replaced", "a directory", "a FIFO"].contains(&name), "{name}");
    }
}

#[test]
fn a_log_that_cannot_be_rotated_stays_within_its_bound_and_reports_why() {
    let (_directory, dir) = directory("bound");
    // No new file can be created, because a directory that is not empty is in its place.
    std::fs::create_dir_all(dir.join("combined.new/full")).unwrap();
    let mut log = LogWriter::create(dir.join("combined.log"), 1000).unwrap();
    for written in [900, 1800] {
        log.append(&[b'x'; 900]);
        assert_eq!((log.end(), log.has_failed()), (written, false));
    }
    assert!(log.warning().unwrap().contains("cannot start a new file for combined.log"), "{:?}", log.warning());
    log.append(&[b'y'; 900]);
    assert!(log.end() == 1800 && log.has_failed());
    std::fs::remove_dir_all(dir.join("combined.new")).unwrap();
    log.retry();
    assert_eq!((log.end(), log.is_stalled(), log.io_error(), log.warning()), (2700, false, None, None));
}

#[test]
fn two_logs_are_one_file_until_unshared_even_when_it_is_rotated_or_one_name_is_removed() {
    let (_directory, dir) = directory("alias");
    let [combined, stdout] = ["combined.log", "stdout.log"].map(|name| dir.join(name));
    let mut log = LogWriter::create(combined.clone(), 1000).unwrap();
    assert!(log.share_with(stdout.clone()));
    let read = |stream| {
        let mut tail = Tail::new(&dir, stream, 0);
        let mut buffer = [0; 4000];
        let mut all = Vec::new();
        while let TailRead::Bytes(n) = tail.read(&mut buffer).unwrap() {
            all.extend_from_slice(&buffer[..n]);
        }
        all
    };
    (b'a'..=b'b').for_each(|letter| log.append(&[letter; 600]));
    assert_eq!(
        (read(Stream::Stdout), read(Stream::Combined)),
        (read(Stream::Combined), [[b'a'; 600], [b'b'; 600]].concat())
    );
    assert!(log.is_at(&stdout) && log.is_at(&combined));
    assert!(is_linked_at(&previous(&combined).metadata().unwrap(), &previous(&stdout)));
    std::fs::remove_file(&stdout).unwrap();
    log.append(b"c");
    assert!(log.is_at(&stdout) && read(Stream::Combined).len() == 1201, "the other log is unchanged");
    log.defer(b"d");
    let mut own = log.unshare().unwrap().unwrap();
    assert!(log.unshare().unwrap().is_none());
    [&mut own, &mut log].into_iter().for_each(LogWriter::retry);
    log.append(b"only here");
    own.append(b"there");
    assert!(read(Stream::Stdout).ends_with(b"bcdthere") && read(Stream::Combined).ends_with(b"bcdonly here"));
    assert_eq!((own.end(), log.end()), (1207, 1211));
}

#[test]
fn a_log_emptied_or_moved_between_two_writes_continues_in_a_new_file_whether_noticed_before_or_after_the_write() {
    let (_directory, dir) = directory("between");
    let path = dir.join("combined.log");
    let mut log = LogWriter::create(path.clone(), 0).unwrap();
    for (i, pause) in [Duration::ZERO, 2 * CHECK_MAX_AGE, Duration::ZERO, 2 * CHECK_MAX_AGE].into_iter().enumerate() {
        log.append(b"before\n");
        if i < 2 {
            File::create(&path).unwrap();
        } else {
            std::fs::rename(&path, dir.join(format!("moved{i}"))).unwrap();
        }
        let end = log.end();
        std::thread::sleep(pause);
        log.append(b"after\n");
        let file = std::fs::read(&path).unwrap();
        assert_eq!((parse_header(&file), &file[HEADER_LEN..]), (Some(end), &b"after\n"[..]), "{i}");
    }
    let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["combined.log", "moved2", "moved3"], "nothing else is left");
}

#[test]
fn a_torn_write_is_not_divided_between_two_files() {
    let (_directory, dir) = directory("torn");
    let mut log = LogWriter::create(dir.join("combined.log"), 1000).unwrap();
    log.append(&[b'x'; 900]);
    log.is_torn = true; // as if the disk had refused the bytes below
    log.defer(&[b'y'; 200]);
    log.retry();
    assert_eq!((log.start(), log.end(), log.is_torn), (0, 1100, false));
    log.append(b"z");
    assert_eq!(log.start(), 1100);
}
