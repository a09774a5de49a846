//! Very many connections, very large bodies, and clients that leave at any moment.

use super::*;
use serde_json::json;

#[test]
fn five_thousand_connections_do_not_lock_out_others() {
    let victim = Victim::new();
    let most = raise_descriptor_limit(5200).saturating_sub(200).min(5000) as usize;
    if most < 5000 {
        skip::<()>(&format!("only {most} connections: the limit of descriptors allows no more"));
    }
    let mut idle = Vec::new();
    for i in 0..most {
        idle.push(victim.connect());
        // Answered after those before it, so that the queue of the port has space again: a connection that finds it full
        // is only tried again after a second (tcp(7)). The last few hundred come without a pause, and fill it.
        if i % 100 == 99 && i < most - 400 {
            victim.serves_others_promptly("thousands of connections");
        }
    }
    victim.serves_others_promptly("5000 connections");
    wait_until("the limit of connections", || {
        size_of_process(victim.server.pid()).threads <= 128 + victim.before.threads
    });
    drop(idle);
    victim.is_as_before("5000 connections");
}

#[test]
fn without_free_descriptors_it_waits_and_recovers() {
    let sandbox = Sandbox::new();
    let server = {
        // Some of them are in use already, as if left open by mistake.
        let script = "exec 7</dev/null 8</dev/null 9</dev/null; ulimit -n 20; exec \"$0\" serve -q";
        Guard(spawn(sandbox.shell(script).current_dir("/")))
    };
    sandbox.wait_for_server();
    let victim = Victim::watch(sandbox, server);
    let clients: Vec<TcpStream> = (0..100).map(|_| victim.connect()).collect();
    wait_until("a good request to be answered", || {
        let answer = victim.sandbox.try_http(&post("/mcp", victim.port(), "", PING));
        answer.is_some_and(|answer| answer.status == 200)
    });
    victim.serves_others_promptly("100 clients for 20 descriptors");
    drop(clients);
    victim.is_as_before("100 clients for 20 descriptors");
}

#[test]
fn clients_may_disconnect_at_any_byte_and_in_any_way() {
    let victim = Victim::new();
    let head = format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n", victim.port());
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x};x\r\n{PING}\r\n0\r\nA: b\r\n\r\n", PING.len());
    for way in ["with a reset", "half", "in order"] {
        for end in 0..=chunked.len() {
            let mut stream = victim.connect();
            stream.write_all(&chunked.as_bytes()[..end]).unwrap();
            match way {
                "with a reset" => reset_on_close(&stream),
                "half" => drop(stream.shutdown(Shutdown::Write)),
                _ => {}
            }
            if way == "half" && end == chunked.len() {
                assert_eq!(Http::read(&mut stream).unwrap().status, 200, "a client that sends no more may still read");
            }
        }
        victim.is_as_before(&format!("clients that leave {way}"));
    }
}

#[test]
fn the_memory_of_the_largest_bodies_is_released() {
    let victim = Victim::new();
    let padding = "x".repeat((4 << 20) - 100);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{padding}"}}}}"#);
    assert!(body.len() <= 4 << 20 && body.len() > (4 << 20) - 100);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut stream = victim.connect();
                    stream.write_all(&post("/mcp", victim.port(), "", &body)).unwrap();
                    assert_eq!(Http::read(&mut stream).unwrap().status, 200);
                });
            }
        });
    }
    victim.is_as_before("96 MB of bodies");
}

#[test]
fn a_waiting_client_that_disconnects_frees_its_slot_within_a_second() {
    let victim = Victim::new();
    victim.sandbox.run(&["start", "--label", "silent", "sh", "-c", "read never"]).ok();
    let before = size_of_process(victim.server.pid());
    let arguments = json!({"command_or_label": "silent", "wait_for": "never", "timeout": 45});
    let waits = post_tool(victim.port(), "output", arguments);
    let clients: Vec<TcpStream> = (0..96)
        .map(|i| {
            let mut stream = victim.connect();
            stream.write_all(&waits).unwrap();
            if i % 2 == 0 {
                stream.write_all(&waits).unwrap(); // one that has sent more, and disconnects as well
            }
            stream
        })
        .collect();
    let is_refused = || {
        let mut stream = victim.connect();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        stream.write_all(&waits).unwrap();
        Http::read(&mut stream).is_some_and(|answer| String::from_utf8_lossy(&answer.body).contains("too many"))
    };
    wait_until("the last slot to be used", is_refused);
    victim.serves_others_promptly("96 requests that wait");
    drop(clients);
    let begun = Instant::now();
    wait_until("all of them to be gone", || size_of_process(victim.server.pid()).threads <= before.threads);
    // A waiting request checks its client twice a second; the rest is for a loaded machine.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Descriptors that this process may have, after asking for `wanted`.
#[allow(unsafe_code)]
fn raise_descriptor_limit(wanted: u64) -> u64 {
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let raised = libc::rlimit { rlim_cur: limit.rlim_cur.max(wanted.min(limit.rlim_max)), ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 { raised.rlim_cur } else { limit.rlim_cur }
    }
}
