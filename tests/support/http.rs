//! HTTP requests and responses.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// The smallest good body for `/mcp`.
pub const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
/// A token with all kinds of characters that a token may have.
pub const TOKEN: &str = "correct-horse.battery_staple~42";

/// One HTTP response.
#[derive(Debug)]
pub struct Http {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Http {
    /// Reads one response that has a `Content-Length`; `None` if the connection ends first or stays silent.
    pub fn read(stream: &mut impl Read) -> Option<Http> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let text = String::from_utf8(head).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
            .collect();
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        stream.read_exact(&mut body).ok()?;
        Some(Http { status, headers, body })
    }
    /// The body, which must be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// A GET request without further headers.
pub fn get(target: &str, port: u16) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").into_bytes()
}

/// A POST of JSON; `headers` are lines that end in CRLF.
pub fn post(target: &str, port: u16, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The request with which the command `output` asks for lines; `arguments` are those of the tool `output`.
pub fn post_lines(arguments: Value, port: u16) -> Vec<u8> {
    post("/lines", port, "", &json!({"arguments": arguments}).to_string())
}

/// The JSON-RPC message with the id 1 that calls a tool.
pub fn tool_call(name: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}})
}

/// A request to `/mcp` that calls a tool.
pub fn post_tool(port: u16, name: &str, arguments: Value) -> Vec<u8> {
    post("/mcp", port, "", &tool_call(name, arguments).to_string())
}

/// Makes closing the stream reset the connection.
pub fn reset_on_close(stream: &TcpStream) {
    set_socket_option(stream, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// Makes the buffers of the connection on this side as small as the system allows.
pub fn shrink_buffers(stream: &TcpStream) {
    set_socket_option(stream, libc::SO_RCVBUF, &4096i32);
    set_socket_option(stream, libc::SO_SNDBUF, &4096i32);
}

#[allow(unsafe_code)]
fn set_socket_option<T>(stream: &TcpStream, option: i32, value: &T) {
    let size = size_of_val(value) as libc::socklen_t;
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, option, std::ptr::from_ref(value).cast(), size)
    };
    assert_eq!(set, 0);
}
