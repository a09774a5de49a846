//! Our server with clients that we did not write, and our client with servers that we did not write. Those that are not
//! installed are skipped, which is printed.

use crate::support::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a program that may not be installed, in the data directory, where the name of the socket is short.
fn foreign(sandbox: &Sandbox, program: &str, arguments: &[&str]) -> Option<Ended> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(sandbox.data())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    match command.spawn() {
        Ok(child) => Some(finish(child, DEADLINE)),
        Err(error) => skip(&format!("{program} cannot be run: {error}")),
    }
}

#[test]
fn curl_is_served() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", sandbox.port);
    let mcp = url("/mcp");
    let curl = |words: &[&str]| foreign(&sandbox, "curl", &[&["-sS", "--max-time", "30"], words].concat());
    let json = ["-H", "Content-Type: application/json"];
    // The socket of our own commands is HTTP, too.
    let health = "http://localhost/health";
    let private = |words: &[&str]| curl(&[&["--unix-socket", "server.sock"], words].concat());
    let Some(first) = private(&["-w", "#%{num_connects}#", health, health, health]) else { return };
    let first = first.ok().out();
    assert_eq!((first.matches("#1#").count(), first.matches("#0#").count()), (1, 2), "it is kept: {first}");
    let post = |more: &[&str]| curl(&[&json[..], &["-d", PING], more, &[mcp.as_str()]].concat()).unwrap().ok();
    for more in [&[][..], &["--http1.0"], &["-H", "Transfer-Encoding: chunked"], &["-H", "Expect: 100-continue"]] {
        assert_eq!(post(more).json()["id"], 1, "{more:?}");
    }
    let big = sandbox.root.join("big.json");
    std::fs::write(
        &big,
        json!({"jsonrpc": "2.0", "id": 8, "method": "ping", "params": {"x": "y".repeat(3 << 20)}}).to_string(),
    )
    .unwrap();
    let upload = format!("@{}", big.display());
    // curl asks before it sends that much.
    assert_eq!(curl(&[&json[..], &["--data-binary", &upload, &mcp]].concat()).unwrap().ok().json()["id"], 8);
    let head = private(&["-I", health]).unwrap().ok().out();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("Content-Length: "), "{head}");
    let status =
        |words: &[&str]| curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], words].concat()).unwrap().ok().out();
    assert_eq!(status(&["-H", "Host: evil.example", &mcp]), "403");
    assert_eq!(status(&["-H", "Origin: null", &mcp]), "403");
    assert_eq!(status(&["-H", "Sec-Fetch-Site: same-origin", &mcp]), "403");
    assert_eq!(status(&[&url("/health")]), "404");
    assert_eq!(status(&["-d", PING, &mcp]), "415");
    assert_eq!(status(&["-L", &url("/.well-known/oauth-protected-resource")]), "404");
    // What curl calls HTTP/2 from the start, and TLS: refused, not left waiting.
    assert_ne!(curl(&["--http2-prior-knowledge", &mcp]).unwrap().code, 0);
    assert_ne!(curl(&["-k", &mcp.replace("http:", "https:")]).unwrap().code, 0);
    sandbox.wait_for_server();
}

#[test]
fn ureq_is_served() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let url = |path: &str| format!("http://localhost:{}{path}", sandbox.port);
    let config = ureq::Agent::config_builder().timeout_global(Some(DEADLINE)).http_status_as_error(false).proxy(None);
    let agent = ureq::Agent::new_with_config(config.build());
    let ping = |agent: &ureq::Agent| {
        let sent = agent.post(url("/mcp")).header("Content-Type", "application/json").send(PING);
        let answer: Value = serde_json::from_str(&sent.unwrap().body_mut().read_to_string().unwrap()).unwrap();
        assert_eq!(answer["id"], 1);
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| ping(&agent)));
        }
    });
    assert_eq!(agent.head(url("/mcp")).call().unwrap().status(), 405);
    assert_eq!(agent.get(url("/mcp")).header("Origin", "null").call().unwrap().status(), 403);
    assert_eq!(agent.post(url("/mcp")).send(PING).unwrap().status(), 415);
    // Without a length: in chunks.
    let mut reader = PING.as_bytes();
    let body = ureq::SendBody::from_reader(&mut reader);
    let sent = agent.post(url("/mcp")).header("Content-Type", "application/json").send(body);
    assert_eq!(sent.unwrap().status(), 200);
}

#[test]
fn python_is_served() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = r#"
import http.client, json, sys, threading
port = int(sys.argv[1])
ping = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "ping"}).encode()
head = {"Content-Type": "application/json"}

def talk():
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    c.connect()
    sock = c.sock
    for i in range(50):
        if i % 3 == 2:
            c.request("POST", "/mcp", iter([ping[:9], ping[9:]]), head, encode_chunked=True)
        elif i % 3:
            c.request("POST", "/mcp", ping, head)
        else:
            c.request("POST", "/mcp/", ping, dict(head, Accept="text/event-stream"))
        r = c.getresponse()
        body = r.read()
        assert r.status == 200, (i, r.status, body)
        assert json.loads(body)["id"] == 7, body
    assert c.sock is sock, "the connection was not kept"
    c.close()

threads = [threading.Thread(target=talk) for _ in range(16)]
[t.start() for t in threads]
[t.join() for t in threads]
print("done")
"#;
    let Some(ended) = foreign(&sandbox, "python3", &["-c", script, &sandbox.port.to_string()]) else { return };
    assert_eq!((ended.stderr.as_str(), ended.out().as_str()), ("", "done\n"));
}

#[test]
fn httpx_is_served() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    if foreign(&sandbox, "python3", &["-c", "import httpx"]).is_none_or(|ended| ended.code != 0) {
        return skip("there is no httpx for python3");
    }
    let script = r#"
import asyncio, httpx, sys
url = f"http://localhost:{sys.argv[1]}"
ping = {"jsonrpc": "2.0", "id": 7, "method": "ping"}

async def main():
    limits = httpx.Limits(max_connections=40, max_keepalive_connections=40)
    async with httpx.AsyncClient(timeout=30, limits=limits, trust_env=False, follow_redirects=True) as c:
        for r in await asyncio.gather(*[c.post(url + "/mcp", json=ping) for _ in range(120)]):
            assert r.status_code == 200 and r.json()["id"] == 7 and not r.history, r
        async def pieces():
            for piece in (b'{"jsonrpc":"2.0",', b'"id":8,"method":"ping"}'):
                yield piece
        r = await c.post(url + "/mcp", content=pieces(), headers={"Content-Type": "application/json"})
        assert r.json()["id"] == 8
        assert (await c.head(url + "/mcp")).status_code == 405
        assert (await c.get(url + "/.well-known/oauth-authorization-server")).status_code == 404

asyncio.run(main())
print("done")
"#;
    let ended = foreign(&sandbox, "python3", &["-c", script, &sandbox.port.to_string()]).unwrap();
    assert_eq!((ended.stderr.as_str(), ended.out().as_str()), ("", "done\n"));
}

#[test]
fn node_is_served() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let script = r#"
const url = `http://127.0.0.1:${process.argv[1]}`;
const ping = JSON.stringify({jsonrpc: "2.0", id: 7, method: "ping"});
const post = body => fetch(url + "/mcp", {method: "POST", headers: {"Content-Type": "application/json"}, body, duplex: "half"});
(async () => {
  for (let round = 0; round < 10; round++) {
    const all = await Promise.all(Array.from({length: 25}, () => post(ping).then(r => r.json())));
    if (!all.every(a => a.id === 7)) throw new Error("wrong answer");
  }
  const stream = new ReadableStream({start(c) {
    for (const piece of [ping.slice(0, 9), ping.slice(9)]) c.enqueue(new TextEncoder().encode(piece));
    c.close();
  }});
  if ((await (await post(stream)).json()).id !== 7) throw new Error("wrong answer to chunks");
  // Given up in the middle of a wait: nobody minds.
  const given = new AbortController();
  const waits = JSON.stringify({jsonrpc: "2.0", id: 9, method: "tools/call", params: {name: "output",
    arguments: {command_or_label: "silent", wait_for: "never", timeout: 20}}});
  const headers = {"Content-Type": "application/json"};
  const waiting = fetch(url + "/mcp", {method: "POST", headers, body: waits, signal: given.signal}).catch(() => {});
  given.abort();
  await waiting;
  const r = await fetch(url + "/.well-known/oauth-protected-resource", {redirect: "manual"});
  if (r.status !== 404) throw new Error("status " + r.status);
  console.log("done");
})().catch(e => { console.error(e); process.exit(1); });
"#;
    let Some(ended) = foreign(&sandbox, "node", &["-e", script, &sandbox.port.to_string()]) else { return };
    assert_eq!((ended.stderr.as_str(), ended.out().as_str()), ("", "done\n"));
}

#[test]
fn under_the_load_of_wrk_every_request_is_answered() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let url = format!("http://127.0.0.1:{}/mcp", sandbox.port);
    let script = sandbox.root.join("ping.lua");
    let lua = format!("wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '{PING}'\n");
    std::fs::write(&script, lua).unwrap();
    let words = ["-t2", "-c100", "-d2s", "--timeout", "10s", "-s", &script.display().to_string(), &url];
    let Some(ended) = foreign(&sandbox, "wrk", &words) else { return };
    let report = ended.ok().out();
    let requests =
        report.lines().find_map(|line| line.trim().strip_suffix(" read")?.split_once(" requests in")?.0.parse().ok());
    assert!(requests.is_some_and(|requests: u64| requests > 100), "{report}");
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
    sandbox.wait_for_server();
}

/// Commands that talk to a server, of every kind.
const COMMANDS: [&[&str]; 6] =
    [&["list"], &["start", "true"], &["run", "true"], &["output", "x"], &["stop", "x"], &["shutdown"]];

/// A sandbox without a server, and the place where its socket would be.
fn sandbox_with_a_foreign_server() -> (Sandbox, ShortPath) {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.data()).unwrap();
    let data = sandbox.short_data();
    (sandbox, data)
}

/// None of our commands mistakes what answers at this socket for our server, hangs, or prints more than one line.
#[track_caller]
fn is_not_mistaken_for_our_server(name: &str, sandbox: &Sandbox) {
    let check = |words: &[&str]| {
        let begun = Instant::now();
        let ended = sandbox.run(words);
        assert!(begun.elapsed() < Duration::from_secs(30), "{name} {words:?}: {:?}", begun.elapsed());
        assert_eq!(ended.code, 3, "{name} {words:?}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{name} {words:?}: {}", ended.stderr);
        let place = sandbox.data().display().to_string();
        assert!(ended.stdout.is_empty() && ended.stderr.contains(&place), "{name} {words:?}: {ended:?}");
    };
    // Side by side, because each may try for some seconds.
    std::thread::scope(|scope| COMMANDS.map(|words| drop(scope.spawn(|| check(words)))));
    assert!(sandbox.runs().is_empty());
    // And it never prevents a server from starting.
    sandbox.run(&["serve", "--background", "-q"]).ok();
    sandbox.run(&["start", "true"]).ok();
}

#[test]
fn tiny_http_is_not_mistaken_for_our_server() {
    let (sandbox, data) = sandbox_with_a_foreign_server();
    let server = tiny_http::Server::http_unix(&data.join("server.sock")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for request in server.incoming_requests() {
                let _ = request.respond(tiny_http::Response::from_string(r#"{"pid": 1}"#));
            }
        });
        is_not_mistaken_for_our_server("tiny_http", &sandbox);
        server.unblock();
    });
    // It removes what has the name of its socket, and that is our server's now.
    drop(server);
    sandbox.wait_for_server();
}

/// A program that listens at the socket of the data directory, in which it runs, as soon as it does.
fn listening(sandbox: &Sandbox, program: &str, arguments: &[&str]) -> Option<Guard> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(sandbox.data())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => {
            let guard = Guard(child);
            wait_until(program, || sandbox.connect_private().is_some());
            Some(guard)
        }
        Err(error) => skip(&format!("{program} cannot be run: {error}")),
    }
}

#[test]
fn pythons_server_is_not_mistaken_for_our_server() {
    let (sandbox, _) = sandbox_with_a_foreign_server();
    let script = r#"
import http.server, socketserver, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def address_string(self): return "-"
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
Server(sys.argv[1], Handler).serve_forever()
"#;
    let Some(_server) = listening(&sandbox, "python3", &["-c", script, "server.sock"]) else { return };
    is_not_mistaken_for_our_server("http.server", &sandbox);
}

#[test]
fn nginx_is_not_mistaken_for_our_server() {
    let (sandbox, _) = sandbox_with_a_foreign_server();
    let root = sandbox.root.display().to_string();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {root}/{kind}; "))
        .concat();
    let text = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log; events {{}}
         http {{ access_log off; {paths} server {{ listen unix:/proc/self/cwd/server.sock; location / {{ return 200 '{{}}'; }} }} }}",
    );
    let file = sandbox.root.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let words = ["-e", &format!("{root}/error.log"), "-p", &root, "-c", &file.display().to_string()];
    let Some(_server) = listening(&sandbox, "nginx", &words) else { return };
    is_not_mistaken_for_our_server("nginx", &sandbox);
}

/// Answers every connection to this socket with these bytes, without end if it is told to.
fn babble(socket: &Path, bytes: Vec<u8>, is_endless: bool) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, bytes) = (stream.unwrap(), bytes.clone());
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
                let _ = stream.read(&mut [0; 4096]);
                while stream.write_all(&bytes).is_ok() && is_endless {}
                if !is_endless && !bytes.is_empty() {
                    let _ = stream.set_read_timeout(Some(DEADLINE));
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            });
        }
    });
}

#[test]
fn servers_that_speak_no_http_or_broken_http_neither_hang_nor_crash_us() {
    let ok = "HTTP/1.1 200 OK\r\nServer: persistproc/9\r\n";
    for (name, text, is_endless) in [
        ("it closes at once", String::new(), false),
        ("SSH", "SSH-2.0-OpenSSH_9.6\r\n".into(), false),
        ("zeros that never ends", "\0".repeat(4096), true),
        ("headers that never ends", format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(1000)), true),
        ("100 Continue that never ends", "HTTP/1.1 100 Continue\r\n\r\n".repeat(100), true),
        ("a huge length", format!("{ok}Content-Length: 18446744073709551615\r\n\r\n{{}}"), false),
        ("two lengths", format!("{ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"), false),
        ("an invalid chunk", format!("{ok}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), false),
        ("a chunk that is too large", format!("{ok}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n"), false),
        (
            "chunks that never ends",
            format!("{ok}Transfer-Encoding: chunked\r\n\r\n{}", "5\r\nabcde\r\n".repeat(9000)),
            true,
        ),
    ] {
        let (sandbox, data) = sandbox_with_a_foreign_server();
        babble(&data.join("server.sock"), text.into_bytes(), is_endless);
        is_not_mistaken_for_our_server(name, &sandbox);
    }
}

#[test]
fn our_client_reads_answers_however_others_frame_them() {
    let (sandbox, data) = sandbox_with_a_foreign_server();
    let server = tiny_http::Server::http_unix(&data.join("server.sock")).unwrap();
    let label = "a label ".repeat(6000);
    let process = json!({"pid": 1, "label": label.trim(), "command": ["x"], "status": "running", "run": "r1"});
    let answer = json!({"processes": [process]}).to_string();
    let name = tiny_http::Header::from_bytes("Server", "persistproc/9").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (i, mut request) in server.incoming_requests().enumerate() {
                let mut body = String::new();
                request.as_reader().read_to_string(&mut body).unwrap();
                let call: Value = serde_json::from_str(&body).unwrap();
                assert_eq!((request.url(), &call["arguments"]), ("/list", &json!({})));
                // Of known length, of unknown length (chunked), and chunked because it is large.
                let length = (i % 2 == 0).then_some(answer.len());
                let data = std::io::Cursor::new(answer.clone());
                let response = tiny_http::Response::new(200.into(), vec![name.clone()], data, length, None);
                let _ = request.respond(response.with_chunked_threshold(if i % 4 < 2 { usize::MAX } else { 1 }));
            }
        });
        for _ in 0..8 {
            let ended = sandbox.run(&["--format", "json", "list"]).ok();
            assert_eq!(ended.json()["processes"][0]["label"], label.trim());
        }
        server.unblock();
    });
}
