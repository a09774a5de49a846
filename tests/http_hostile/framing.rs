//! Which response a request gets: HEAD, methods that are not allowed, connections that are kept or closed, HTTP/1.0.

use super::*;

#[test]
fn responses_match_their_requests() {
    let victim = Victim::new();
    let port = victim.port();
    // What GET and HEAD are answered with there is on the socket only; of them and of all the rest, the server is the same.
    let ask = |request: String| {
        let mut stream = victim.sandbox.connect_private().unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    let get = ask(format!("GET /health HTTP/1.1\r\n{host}\r\n"));
    let (head, body) = get.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())) && !body.is_empty());
    // HEAD: the same head, and nothing else. Also when it is refused.
    assert_eq!(ask(format!("HEAD /health HTTP/1.1\r\n{host}\r\n")), format!("{head}\r\n\r\n"));
    for (line, status) in [("HEAD /mcp", 405), ("HEAD /nothing", 404)] {
        let answer = ask(format!("{line} HTTP/1.1\r\n{host}\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with("\r\n\r\n"), "{answer}");
    }
    for (request, allowed) in [("POST /health", "GET, HEAD"), ("GET /mcp", "POST"), ("GET /run", "POST")] {
        let answer = ask(format!("{request} HTTP/1.1\r\n{host}\r\n"));
        assert!(answer.contains(&format!("\r\nAllow: {allowed}\r\n")), "{answer}");
    }
    // Two requests on one connection: whether the second is answered is whether it was kept.
    for (version, header, connection, answers) in [
        ("1.1", "", None, 2),
        ("1.1", "Connection: keep-alive\r\n", None, 2),
        ("1.1", "Connection: close\r\n", Some("close"), 1),
        ("1.1", "Connection: foo, Close\r\n", Some("close"), 1),
        ("1.0", "", Some("close"), 1),
        ("1.0", "Connection: keep-alive\r\n", Some("keep-alive"), 2),
    ] {
        let request = format!("GET /health HTTP/{version}\r\n{host}{header}\r\n");
        let text = ask(request.repeat(2));
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), answers, "{version} {header}: {text}");
        let head = text.split("\r\n\r\n").next().unwrap();
        let said = head.lines().find_map(|line| line.strip_prefix("Connection: "));
        assert_eq!(said, connection, "{version} {header}");
    }
    // HTTP/1.0 knows no 100 Continue, and too long a body is not asked for.
    let expecting = format!("Expect: 100-continue\r\nContent-Type: application/json\r\n{host}");
    let old = ask(format!("POST /mcp HTTP/1.0\r\n{expecting}Content-Length: {}\r\n\r\n{PING}", PING.len()));
    assert!(old.starts_with("HTTP/1.1 200"), "{old}");
    let long = ask(format!("POST /mcp HTTP/1.1\r\n{expecting}Content-Length: 5000000\r\n\r\n"));
    assert!(long.starts_with("HTTP/1.1 413"), "{long}");
    victim.is_as_before("all kinds of requests");
}
