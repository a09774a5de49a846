//! The server is killed, replaced, missing, or not ours: every request is answered once, and a start happens once.

use super::*;
use std::os::unix::net::UnixListener;

#[test]
fn a_killed_server_is_replaced_and_reads_are_asked_again() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    let start = json!({"action": "start", "command_or_label": "sh -c 'echo one; read x; echo two; read never'", "working_directory": sandbox.work(), "label": "web", "wait_for": "one"});
    let (started, is_error) = host.call("ctrl", start);
    assert!(!is_error, "{started}");
    let cursor = started.split("cursor=").nth(1).unwrap().split_whitespace().next().unwrap().to_string();
    for _ in 0..3 {
        kill_server(&sandbox);
        let (listed, is_error) = host.call("list", json!({}));
        assert!(listed.contains("web: running") && !is_error, "{listed}");
    }
    // A wait behind a cursor is carried on by the next server, and misses nothing.
    let wait = json!({"command_or_label": "web", "after": cursor, "wait_for": "two", "timeout": 45});
    host.send(&call(1, "output", wait));
    wait_for_request(&sandbox);
    kill_server(&sandbox);
    sandbox.wait_for_server();
    host.send(&call(2, "ctrl", json!({"action": "input", "command_or_label": "web", "text": "go"})));
    let answers = [host.next(), host.next()];
    let waited = answers.iter().find(|answer| answer["id"] == 1).expect("an answer to the wait");
    assert!(text_of(waited).0.contains("two\n") && !text_of(waited).1, "{waited}");
    // One for whatever comes next would miss what came in between; it says so instead.
    host.send(&call(3, "output", json!({"command_or_label": "web", "wait_for": "three", "timeout": 45})));
    wait_for_request(&sandbox);
    kill_server(&sandbox);
    let lost = host.next();
    assert_eq!(lost["id"], 3);
    assert!(text_of(&lost).1 && text_of(&lost).0.contains("since_time="), "{lost}");
    assert!(!host.call("list", json!({})).1);
}

#[test]
fn every_request_is_answered_once_however_often_the_server_is_killed() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    const ROUNDS: i32 = 12;
    const EACH: i32 = 20;
    for round in 0..ROUNDS {
        host.is_silent();
        let server = pid_of_server(&sandbox);
        for id in round * EACH..(round + 1) * EACH {
            match id % 3 {
                0 => host.send(&call(id, "list", json!({}))),
                1 => host.send(&modern(json!(id), "tools/list", json!({}))),
                _ => host.send(&call(id, "ctrl", json!({"action": "stop", "command_or_label": "nothing"}))),
            }
            if id % EACH == round {
                signal(server, libc::SIGKILL);
            }
        }
        let mut ids: Vec<i64> = (0..EACH).map(|_| host.next()["id"].as_i64().expect("an id")).collect();
        ids.sort();
        assert!(ids.into_iter().eq((round * EACH..(round + 1) * EACH).map(i64::from)));
    }
    host.is_silent();
}

/// Waits until somebody is connected to the server (proc_tid_net(5): remote port, state 01).
#[track_caller]
fn wait_for_request(sandbox: &Sandbox) {
    wait_until("a request at the server", || sandbox.connections() > 0);
}

#[test]
fn a_start_whose_server_is_killed_is_sent_again_and_happens_once() {
    let sandbox = Sandbox::new();
    let mut host = Host::new(&sandbox);
    let mark = sandbox.work().join("starts");
    // Counts its starts, and is not ready before the server is gone.
    let wait = "while [ ! -e go ]; do sleep 0.02; done";
    let script = sandbox.script("web.sh", &format!("#!/bin/sh\necho x >> starts\n{wait}\necho ready\nread never\n"));
    let start = json!({"action": "start", "command_or_label": script, "working_directory": sandbox.work(), "label": "web", "wait_for": "ready", "timeout": 45});
    let go = sandbox.work().join("go");
    for era in ["old", "new"] {
        let mut message = call(1, "ctrl", start.clone());
        if era == "new" {
            message = modern(json!(1), "tools/call", message["params"].clone());
        }
        message["params"]["arguments"]["label"] = json!(era);
        for file in [&mark, &go] {
            let _ = std::fs::remove_file(file);
        }
        host.send(&message);
        wait_until("its start", || mark.exists());
        kill_server(&sandbox);
        std::fs::write(&go, "").unwrap();
        let answer = host.next();
        let (text, is_error) = text_of(&answer);
        assert!(answer["id"] == 1 && !is_error && text.starts_with(&format!("start: '{era}' r")), "{answer}");
        assert_eq!(answer["result"]["resultType"] == "complete", era == "new");
        let (listed, _) = host.call("list", json!({}));
        assert!(listed.contains(&format!("{era}: running")), "{listed}");
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "x\n", "started once");
    }
}

#[test]
fn a_start_that_waits_for_its_lock_goes_to_the_next_server_if_ours_exits_meanwhile() {
    let sandbox = Sandbox::new();
    let older = of_version(&sandbox, "0.3.9");
    let old = Guard(spawn(sandbox.program(&older).args(["serve", "-q"])));
    sandbox.wait_for_server();
    // Can be restarted as far as is seen before, and cannot when it has ended: then nothing is in the way of the start.
    let program = sandbox.script(
        "web",
        "#!/bin/sh\ntrap 'echo ending; while [ ! -e go ]; do sleep 0.02; done; rm web; exit 0' TERM\necho up\nwhile :; do sleep 0.02; done\n",
    );
    sandbox.run(&["-q", "start", "--label", "web", "./web"]).ok();
    let says = |text: &str| sandbox.run(&["-q", "output", "web"]).out().contains(text);
    wait_until("it is up", || says("up"));
    let restart = sandbox.spawn(&["-q", "restart", "web"]);
    wait_until("its stop", || says("ending"));
    let mut host = Host::new(&sandbox);
    let start = json!({"action": "start", "command_or_label": "sleep 1000", "working_directory": sandbox.work(), "label": "web"});
    host.send(&call(1, "ctrl", start));
    wait_until("two requests that wait", || sandbox.connections() == 2);
    let new = Guard(sandbox.spawn(&["serve", "-q"]));
    crate::upgrade::wait_for_closing(&sandbox);
    std::fs::write(sandbox.work().join("go"), "").unwrap();
    assert_eq!((finish(restart, DEADLINE).code, program.exists()), (1, false));
    assert_eq!(old.end(DEADLINE).code, 0);
    let (text, is_error) = text_of(&host.next());
    assert!(!is_error && text.starts_with("start: 'web' r"), "{text}");
    wait_until("the new server", || sandbox.pid_of_server() == Some(new.pid()));
    let listed = sandbox.run(&["list"]).ok().out();
    assert!(listed.lines().any(|line| line.contains("web") && line.contains("running")), "{listed}");
}

#[test]
fn without_a_server_and_without_permission_to_start_one_every_request_reports_it() {
    let sandbox = Sandbox::new();
    let mut host = Host::with(&mut sandbox.command(&["mcp", "--no-autostart"]));
    for message in [
        request(json!(0), "initialize", json!({"protocolVersion": "2025-11-25"})),
        modern(json!("probe"), "server/discover", json!({})),
        call(1, "list", json!({})),
        call(2, "ctrl", json!({"action": "stop", "command_or_label": "web"})),
    ] {
        let answer = host.ask(&message);
        assert_eq!(answer["error"]["code"], -32603);
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.contains(&sandbox.data().display().to_string()) && text.contains("persistproc serve"), "{text}");
    }
    host.send(&json!([ping(json!(1)), ping(json!(2))]));
    let answers = host.next();
    assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!(1), &json!(2)));
    // As soon as there is one, it is used; and found again when somebody restarts it.
    for _ in 0..2 {
        let server = sandbox.serve();
        host.is_silent();
        drop(server);
    }
    assert!(host.ask(&ping(json!(5))).get("error").is_some());
}

#[test]
fn what_is_not_our_server_is_not_believed() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.data()).unwrap();
    let listener = UnixListener::bind(sandbox.short_data().join("server.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let _ = BufReader::new(&stream).read_line(&mut String::new());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{\"id\":1}\n");
        }
    });
    let mut host = Host::new(&sandbox);
    let answer = host.ask(&ping(json!(1)));
    assert!(answer["error"]["message"].as_str().unwrap().contains("not persistproc"), "{answer}");
    let answer = host.ask(&call(2, "ctrl", json!({"action": "stop", "command_or_label": "web"})));
    assert!(answer["error"]["message"].as_str().unwrap().contains("not persistproc"), "{answer}");
}

#[test]
fn a_server_of_another_data_directory_that_has_the_port_is_named() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let server = sandbox.serve();
    let mut command = other.command(&["mcp", "--port", &sandbox.port.to_string()]);
    let answer = Host::with(&mut command).ask(&ping(json!(1)));
    let text = answer["error"]["message"].as_str().unwrap();
    for part in [&sandbox.data().display().to_string(), &format!("PID {}", server.pid()), "--port", "--no-tcp"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    // It needs no port of its own.
    let mut command = other.command(&["mcp", "--no-tcp", "--port", &sandbox.port.to_string()]);
    assert_eq!(Host::with(&mut command).ask(&ping(json!(1)))["result"], json!({}));
}

#[test]
fn two_hosts_that_begin_at_once_share_one_server() {
    let sandbox = Sandbox::new();
    let mut hosts: Vec<Host> = (0..4).map(|_| Host::new(&sandbox)).collect();
    for host in &mut hosts {
        for id in 0..4 {
            host.send(&ping(json!(id)));
        }
    }
    for host in &hosts {
        let mut ids: Vec<i64> = (0..4)
            .map(|_| host.next())
            .map(|answer| {
                assert_eq!(answer["result"], json!({}), "{answer}");
                answer["id"].as_i64().unwrap()
            })
            .collect();
        ids.sort();
        assert_eq!(ids, [0, 1, 2, 3]);
        assert_eq!(host.lines.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    }
}
