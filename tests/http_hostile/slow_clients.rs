//! Clients that stop in the middle of a request, or never read the responses.

use super::*;

/// A request that stands still somewhere.
fn stalled(port: u16) -> Vec<(&'static str, Vec<u8>)> {
    let head = format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n");
    [
        ("in the method", "P".to_string()),
        ("in the target", "POST /mc".into()),
        ("in a header", format!("{head}Content-Le")),
        ("before the last line", format!("{head}Content-Length: 2\r\n")),
        ("in the last line", format!("{head}Content-Length: 2\r\n\r")),
        ("before its body", format!("{head}Content-Length: 2\r\n\r\n")),
        ("in its body", format!("{head}Content-Length: 4000000\r\n\r\n{}", "x".repeat(100_000))),
        ("after 100 Continue", format!("{head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")),
        ("before a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n")),
        ("in the size of a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n1")),
        ("in a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n10\r\nabc")),
        ("after a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc")),
        ("in its trailers", format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\nA: ")),
    ]
    .map(|(what, text)| (what, text.into_bytes()))
    .into()
}

#[test]
fn a_request_has_ten_seconds_and_slow_ones_delay_no_other() {
    let victim = Victim::new();
    let begun = Instant::now();
    let mut streams: Vec<(String, TcpStream)> = Vec::new();
    for (what, bytes) in stalled(victim.port()) {
        let mut stream = victim.connect();
        stream.write_all(&bytes).unwrap();
        streams.push((format!("it stops {what}"), stream));
    }
    // A byte now and then does not buy time.
    for (what, lead) in [("head", "GET /health HTTP/1.1\r\nA: "), ("body", "")] {
        let mut stream = victim.connect();
        let long = post("/mcp", victim.port(), "", &" ".repeat(10_000));
        let start = if lead.is_empty() { &long[..long.len() - 9000] } else { lead.as_bytes() };
        stream.write_all(start).unwrap();
        let mut dripping = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            while begun.elapsed() < Duration::from_secs(20) && dripping.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        streams.push((format!("its {what} drips"), stream));
    }
    victim.serves_others_promptly("stalled requests");
    for (what, mut stream) in streams {
        if what.contains("100 Continue") {
            stream.read_exact(&mut [0; 25]).unwrap();
        }
        let answer = read_answer(&mut stream, &what).unwrap_or_else(|| panic!("{what}: no answer"));
        let waited = begun.elapsed();
        assert_eq!(answer.status, 408, "{what}");
        assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(15), "{what}: {waited:?}");
    }
    victim.is_as_before("stalled requests");
}

#[test]
fn more_stalled_requests_than_slots_do_not_lock_out_others() {
    let victim = Victim::new();
    let kinds = stalled(victim.port());
    let stalled: Vec<TcpStream> = (0..400)
        .map(|i| {
            let mut stream = victim.connect();
            let _ = stream.write_all(&kinds[i % kinds.len()].1);
            if i % 100 == 0 {
                victim.serves_others_promptly("some stalled requests");
            }
            stream
        })
        .collect();
    victim.serves_others_promptly("400 stalled requests");
    drop(stalled);
    victim.is_as_before("400 stalled requests");
}

/// Sends until the other side accepts no more, because it waits for us to read. Returns the number of bytes sent.
fn stuff(stream: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    while sent < most {
        match stream.write(bytes) {
            Ok(n) if n == bytes.len() => sent += n,
            Ok(n) => return sent + n,
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn a_hundred_thousand_requests_of_a_client_that_never_reads_delay_no_other() {
    let victim = Victim::new();
    let mut stream = victim.connect();
    let request = post("/mcp", victim.port(), "", PING);
    let many = request.repeat(1000);
    let sent = stuff(&mut stream, &many, 100 * many.len());
    assert!(sent > many.len(), "{sent}");
    victim.serves_others_promptly("100 000 requests");
    let now = size_of_process(victim.server.pid());
    assert!(now.memory < victim.before.memory + MEMORY, "{:?} has become {now:?}", victim.before);
    // They are answered in their order, as far as they were sent, as soon as somebody reads.
    stream.shutdown(Shutdown::Write).unwrap();
    let whole = sent / request.len();
    let mut answers = std::io::BufReader::new(&stream);
    for i in 0..whole {
        let answer = Http::read(&mut answers).unwrap_or_else(|| panic!("{i} of {whole}"));
        assert_eq!(answer.status, 200);
    }
    drop(stream);
    victim.is_as_before("100 000 requests");
}

#[test]
fn more_clients_that_never_read_than_slots_do_not_lock_out_others() {
    let victim = Victim::new();
    let request = post("/mcp", victim.port(), "", PING).repeat(100);
    let deaf: Vec<TcpStream> = (0..160)
        .map(|_| {
            let mut stream = victim.connect();
            shrink_buffers(&stream);
            stream.set_nonblocking(true).unwrap();
            while stream.write(&request).is_ok() {}
            stream
        })
        .collect();
    victim.serves_others_promptly("160 clients who never read");
    drop(deaf);
    victim.is_as_before("160 clients who never read");
}
