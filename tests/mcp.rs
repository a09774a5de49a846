//! MCP on the wire, byte by byte, as the specifications from 2024-11-05 to 2025-11-25 require it, and what both eras share.

use crate::support::*;
use serde_json::{Value, json};

pub const MODERN: &str = "2026-07-28";
const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
pub const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// A server, and what it answers to a body with these headers.
pub struct Wire {
    sandbox: Sandbox,
    _server: Guard,
}

impl Wire {
    pub fn new() -> Wire {
        let sandbox = Sandbox::new();
        let server = sandbox.serve();
        Wire { sandbox, _server: server }
    }
    pub fn post(&self, headers: &str, body: &str) -> Http {
        self.sandbox.http(&post("/mcp", self.sandbox.port, headers, body))
    }
    #[track_caller]
    pub fn legacy(&self, body: Value) -> Value {
        let answer = self.post("", &body.to_string());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "application/json");
        answer.json()
    }
    pub fn modern(&self, method: &str, params: Value) -> Http {
        let name = params["name"].as_str().map_or(String::new(), |name| format!("Mcp-Name: {name}\r\n"));
        let headers = format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {method}\r\n{name}");
        self.post(&headers, &enveloped(method, params).to_string())
    }
}

/// A modern request with id 7.
pub fn enveloped(method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({VERSION: MODERN, CAPABILITIES: {}});
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

/// No member anywhere is null: TypeScript clients reject the whole message.
pub fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}

#[test]
fn the_handshake_agrees_on_every_old_version_and_on_the_newest_old_one_otherwise() {
    let wire = Wire::new();
    for (offered, agreed) in LEGACY.map(|v| (v, v)).into_iter().chain([
        (MODERN, "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
        ("", "2025-11-25"),
    ]) {
        let request = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": offered, "capabilities": {"roots": {"listChanged": true}}, "clientInfo": {"name": "x", "version": "1"}}});
        let answer = wire.legacy(request);
        assert_eq!(answer["id"], 0);
        let result = &answer["result"];
        assert_eq!(
            (&result["protocolVersion"], &result["capabilities"]),
            (&json!(agreed), &json!({"tools": {}})),
            "{offered}"
        );
        assert_eq!(result["serverInfo"]["name"], "persistproc");
        assert_eq!(result["serverInfo"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(result["instructions"].as_str().unwrap().len() <= 800 && !has_null(&answer), "{answer}");
    }
    // Some clients send a version here already, and members that we do not know; it is ignored.
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "extra": 1, "params": {
        "protocolVersion": "2025-06-18", "new": {"a": null}, "task": {}, "_meta": {"progressToken": 1}}});
    let answer = wire.post("MCP-Protocol-Version: 2025-11-25\r\n", &request.to_string());
    assert_eq!((answer.status, &answer.json()["result"]["protocolVersion"]), (200, &json!("2025-06-18")));
    assert!(!answer.headers.contains_key("mcp-session-id"));
    for params in [json!({}), json!({"protocolVersion": 5})] {
        let answer = wire.legacy(json!({"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": params}));
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("a"), &json!(-32602)));
    }
    let done = wire.post("", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert_eq!((done.status, done.body.len(), done.headers["content-length"].as_str()), (202, 0, "0"));
}

#[test]
fn legacy_requests_need_no_handshake_and_get_their_ids_back() {
    let wire = Wire::new();
    for id in [json!(0), json!("0"), json!(-1), json!(9_007_199_254_740_993_u64), json!("ü")] {
        let answer = wire.legacy(json!({"jsonrpc": "2.0", "id": id, "method": "ping"}));
        assert_eq!(answer, json!({"jsonrpc": "2.0", "id": id, "result": {}}));
    }
    // A version header as clients send it after the handshake, and headers of the other era, change nothing.
    for version in LEGACY {
        let headers = format!(
            "MCP-Protocol-Version: {version}\r\nMcp-Method: nonsense\r\nMcp-Session-Id: x\r\nAccept: text/html\r\n"
        );
        assert_eq!(wire.post(&headers, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).status, 200);
    }
    for method in ["resources/list", "prompts/list", "logging/setLevel", "server/discover", "tools/nothing", ""] {
        let answer = wire.legacy(json!({"jsonrpc": "2.0", "id": 1, "method": method}));
        assert_eq!(answer["error"]["code"], -32601, "{method}");
        assert!(answer.get("result").is_none());
    }
}

#[test]
fn the_three_tools_are_listed_small_flat_and_always_in_the_same_order() {
    let wire = Wire::new();
    let first = wire.post("", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    assert!(first.body.len() < 6000, "{} bytes", first.body.len());
    let tools = first.json()["result"]["tools"].clone();
    let names: Vec<&str> = tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["list", "output", "ctrl"]);
    for tool in tools.as_array().unwrap() {
        assert_eq!(tool["inputSchema"]["type"], "object");
        assert!(tool.get("outputSchema").is_none() && !has_null(tool));
        assert_eq!(tool["annotations"]["openWorldHint"], false);
        assert_eq!(tool["annotations"]["readOnlyHint"], tool["name"] != "ctrl");
        let name = tool["name"].as_str().unwrap();
        assert!(name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert_eq!(tool["title"], tool["annotations"]["title"]);
        assert!(tool["title"].is_string() && tool["description"].as_str().unwrap().len() <= 1000, "{tool}");
        for (name, property) in tool["inputSchema"]["properties"].as_object().unwrap() {
            assert!(property["type"].is_string(), "{name}");
        }
    }
    assert!(first.json()["result"].get("nextCursor").is_none());
    let again = wire.legacy(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}));
    assert_eq!(again["result"]["tools"], tools);
    // Nor does what was called before change anything.
    wire.sandbox.tool_ok(
        "ctrl",
        json!({"action": "start", "command_or_label": "true", "working_directory": wire.sandbox.work()}),
    );
    let modern = wire.modern("tools/list", json!({})).json();
    assert_eq!(modern["result"]["tools"], tools);
    let paged = wire.legacy(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"cursor": "x"}}));
    assert_eq!(paged["error"]["code"], -32602);
}

#[test]
fn a_call_answers_one_text_and_its_failure_is_a_text_too() {
    let wire = Wire::new();
    let call =
        |params: Value| wire.legacy(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}));
    for params in [
        json!({"name": "list"}),
        json!({"name": "list", "arguments": null}),
        json!({"name": "list", "arguments": {}, "_meta": {"progressToken": 5}}),
    ] {
        let result = call(params)["result"].clone();
        assert_eq!(result["content"].as_array().unwrap().len(), 1);
        assert_eq!(result["content"][0]["type"], "text");
        assert!(result.get("isError").is_none() && result.get("structuredContent").is_none());
    }
    let failed = call(json!({"name": "output", "arguments": {"command_or_label": "nothing"}}));
    assert_eq!(failed["result"]["isError"], true);
    assert!(failed["result"].get("structuredContent").is_none() && failed.get("error").is_none());
    // Arguments that the schema does not have are a failure of the call, which names those that there are.
    for arguments in [json!({"bogus": 1}), json!({"command_or_label": 5}), json!({"command_or_label": "x", "lines": 0})]
    {
        let wrong = call(json!({"name": "output", "arguments": arguments}));
        let text = wrong["result"]["content"][0]["text"].as_str().unwrap();
        assert!(
            wrong["result"]["isError"] == true && (text.contains("lines") || text.contains("command_or_label")),
            "{text}"
        );
    }
    assert!(failed["result"]["content"][0]["text"].as_str().unwrap().contains("'nothing'"));
    for params in [
        json!({}),
        json!({"name": 5}),
        json!({"name": "nope"}),
        json!({"name": "list", "arguments": []}),
        json!({"name": "list", "arguments": "x"}),
    ] {
        assert_eq!(call(params.clone())["error"]["code"], -32602, "{params}");
    }
}

#[test]
fn what_is_no_message_is_refused_with_the_right_code() {
    let wire = Wire::new();
    for (body, code) in [
        ("", -32700),
        ("{", -32700),
        ("nonsense", -32700),
        ("{} {}", -32700),
        ("7", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","method":7}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        ("\"ping\"", -32600),
        ("null", -32600),
        // Deeper than any message is; refused before it costs anything.
        (&format!("{}{}", "[".repeat(5000), "]".repeat(5000)), -32700),
        (
            &format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}1{}}}"#,
                r#"{"a":"#.repeat(200),
                "}".repeat(200)
            ),
            -32700,
        ),
    ] {
        let answer = wire.post("", body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!((&answer.json()["error"]["code"], &answer.json()["id"]), (&json!(code), &Value::Null), "{body}");
    }
    let mut bytes = post("/mcp", wire.sandbox.port, "", "\"x\"");
    let at = bytes.len() - 2;
    bytes[at] = 0xff;
    assert_eq!(wire.sandbox.http(&bytes).json()["error"]["code"], -32700, "not UTF-8");
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"list"}}"#,
    ] {
        for headers in ["", "MCP-Protocol-Version: 2026-07-28\r\n", "MCP-Protocol-Version: 2024-11-05\r\n"] {
            let answer = wire.post(headers, body);
            assert_eq!((answer.status, answer.body.as_slice()), (202, &b""[..]), "{body}");
        }
    }
    assert_eq!(
        wire.post("MCP-Protocol-Version: 1999-01-01\r\n", r#"{"jsonrpc":"2.0","method":"x"}"#).json()["error"]["code"],
        -32022
    );
}

#[test]
fn batches_are_only_for_versions_that_have_them() {
    let wire = Wire::new();
    let ping = |id: i32| json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
    let silent = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let handshake =
        json!({"jsonrpc": "2.0", "id": 5, "method": "initialize", "params": {"protocolVersion": "2025-03-26"}});
    for headers in ["", "MCP-Protocol-Version: 2025-03-26\r\n", "MCP-Protocol-Version: 2024-11-05\r\n"] {
        let answer = wire.post(headers, &json!([ping(1), silent, ping(2), 5, handshake]).to_string());
        let answers = answer.json();
        assert_eq!(answer.status, 200);
        let shown: Vec<(&Value, &Value)> =
            answers.as_array().unwrap().iter().map(|a| (&a["id"], &a["error"]["code"])).collect();
        assert_eq!(
            shown,
            [
                (&json!(1), &Value::Null),
                (&json!(2), &Value::Null),
                (&Value::Null, &json!(-32600)),
                (&json!(5), &json!(-32600))
            ]
        );
        assert_eq!(wire.post(headers, &json!([silent, silent]).to_string()).status, 202);
    }
    let many: Vec<Value> = (0..33).map(ping).collect();
    for (headers, body) in [
        ("", json!([])),
        ("", json!(many)),
        ("", json!([enveloped("tools/list", json!({}))])),
        ("MCP-Protocol-Version: 2025-06-18\r\n", json!([ping(1)])),
        ("MCP-Protocol-Version: 2026-07-28\r\n", json!([ping(1)])),
    ] {
        let answer = wire.post(headers, &body.to_string());
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!(-32600)), "{headers}{body}");
    }
}

#[test]
fn other_methods_and_paths_are_answered_as_clients_expect() {
    let wire = Wire::new();
    let port = wire.sandbox.port;
    for method in ["GET", "DELETE", "PUT", "OPTIONS", "PATCH"] {
        let answer = wire
            .sandbox
            .http(format!("{method} /mcp HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, "POST"), "{method}");
        assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")), "{method}");
    }
    for path in [
        "/",
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server/mcp",
        "/mcp/x",
        "/MCP",
        "/sse",
        "//mcp",
    ] {
        assert_eq!(wire.sandbox.http(&get(path, port)).status, 404, "{path}");
    }
    let query = wire.sandbox.http(&post("/mcp?x=1", port, "", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
    assert_eq!(query.status, 200);
    // As Node's fetch sends it, without an Origin.
    let fetch = "Sec-Fetch-Mode: cors\r\nAccept: application/json, text/event-stream\r\n";
    assert_eq!(wire.post(fetch, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).status, 200);
    let slash = wire.sandbox.http(&post("/mcp/", port, "", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
    assert_eq!(slash.status, 200);
    let large =
        format!("POST /mcp HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json; charset=utf-8\r\n");
    let large = |length: usize| {
        wire.sandbox.http(format!("{large}Content-Length: {length}\r\n\r\n{}", " ".repeat(length)).as_bytes())
    };
    assert_eq!((large(4 << 20).status, large((4 << 20) + 1).status), (400, 413));
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json-patch+json"] {
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: {kind}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        assert_eq!(wire.sandbox.http(request.as_bytes()).status, 415, "{kind}");
    }
}

#[test]
fn an_agent_of_either_era_starts_reads_restarts_and_stops_a_process() {
    let wire = Wire::new();
    let work = wire.sandbox.work().display().to_string();
    let legacy = |arguments: Value, name: &str| {
        let answer = wire.legacy(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}));
        answer["result"]["content"][0]["text"].as_str().unwrap().to_string()
    };
    let modern = |arguments: Value, name: &str| {
        let answer = wire.modern("tools/call", json!({"name": name, "arguments": arguments})).json();
        answer["result"]["content"][0]["text"].as_str().unwrap().to_string()
    };
    for (era, call) in [("old", &legacy as &dyn Fn(Value, &str) -> String), ("new", &modern)] {
        let command = "sh -c 'echo \"serving $WHAT\"; echo problem >&2; read never'";
        let start = json!({"action": "start", "command_or_label": command, "working_directory": work, "environment": {"WHAT": era}, "label": era, "wait_for": "problem"});
        let started = call(start, "ctrl");
        assert!(started.contains("ready") && started.contains("PID") && started.contains("cursor="), "{started}");
        let read = call(json!({"command_or_label": era}), "output");
        assert!(read.contains(&format!("serving {era}\n")) && read.contains("problem\n"), "{read}");
        let errors = call(json!({"command_or_label": era, "stream": "stderr"}), "output");
        assert!(errors.contains("problem\n") && !errors.contains("serving"), "{errors}");
        assert!(call(json!({}), "list").contains(&format!("{era}: running")));
        let restarted = call(json!({"action": "restart", "command_or_label": era}), "ctrl");
        assert!(restarted.contains("running"), "{restarted}");
        let stopped = call(json!({"action": "stop", "command_or_label": era}), "ctrl");
        assert!(stopped.contains("stopped (SIGTERM)"), "{stopped}");
        assert!(call(json!({"command_or_label": era}), "output").contains("stopped (SIGTERM)"));
    }
    let listed = legacy(json!({}), "list");
    assert!(
        listed.starts_with("0 running, 2 ended\n") && listed.lines().skip(1).all(|line| line.len() < 300),
        "{listed}"
    );
}
