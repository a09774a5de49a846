//! The modern era on the wire, byte by byte, and how a request indicates its era (2026-07-28, basic).

use crate::mcp::{CAPABILITIES, MODERN, VERSION, Wire, enveloped, has_null};
use serde_json::{Value, json};

#[test]
fn modern_requests_stand_alone() {
    let wire = Wire::new();
    let discovered = wire.modern("server/discover", json!({}));
    assert_eq!(discovered.status, 200);
    let result = discovered.json()["result"].clone();
    assert_eq!(result["supportedVersions"][0], MODERN);
    assert_eq!(result["capabilities"], json!({"tools": {}}));
    assert!(result.get("serverInfo").is_none() && result["instructions"].is_string());
    for (answer, is_cacheable) in [
        (discovered, true),
        (wire.modern("tools/list", json!({})), true),
        (wire.modern("tools/call", json!({"name": "list", "arguments": {}})), false),
    ] {
        assert_eq!(answer.status, 200);
        let json = answer.json();
        assert_eq!((&json["id"], &json["result"]["resultType"]), (&json!(7), &json!("complete")));
        assert_eq!(json["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "persistproc");
        assert_eq!(json["result"].get("ttlMs").is_some(), is_cacheable);
        assert_eq!(json["result"].get("cacheScope").is_some_and(|scope| scope == "private"), is_cacheable);
        assert!(!has_null(&json) && !answer.headers.contains_key("mcp-session-id"));
    }
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "subscriptions/listen",
        "prompts/list",
        "nothing",
    ] {
        let answer = wire.modern(method, json!({}));
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!(-32601)), "{method}");
        assert_eq!(answer.json()["id"], 7);
    }
    for params in [json!({"name": "nope"}), json!({"name": "list", "arguments": []})] {
        let answer = wire.modern("tools/call", params);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (200, &json!(-32602)));
        assert!(answer.json()["error"].get("resultType").is_none());
    }
}

#[test]
fn ids_are_returned_unchanged_even_with_errors() {
    let wire = Wire::new();
    for id in [json!(0), json!("0"), json!(-1), json!(""), json!("server-discover-probe-1"), json!(u64::MAX)] {
        let legacy = wire.legacy(json!({"jsonrpc": "2.0", "id": id, "method": "nothing"}));
        assert_eq!((&legacy["id"], &legacy["error"]["code"]), (&id, &json!(-32601)));
        let mut request = enveloped("tools/list", json!({}));
        request["id"] = id.clone();
        let headers = format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: tools/list\r\n");
        assert_eq!(wire.post(&headers, &request.to_string()).json()["id"], id);
        let refused = wire.post("", &request.to_string());
        assert_eq!((refused.status, &refused.json()["id"]), (400, &id));
        assert!(!has_null(&refused.json()) && refused.json().get("result").is_none());
    }
}

#[test]
fn the_era_is_decided_by_envelope_and_version_alone() {
    let wire = Wire::new();
    let code = |headers: &str, body: Value| {
        let answer = wire.post(headers, &body.to_string());
        (answer.status, answer.json()["error"]["code"].as_i64().unwrap_or(0))
    };
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    // Headers of the other era alone make no modern request, nor does its method.
    assert_eq!(code("Mcp-Method: ping\r\nMcp-Name: x\r\n", ping.clone()), (200, 0));
    assert_eq!(code("", json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover"})), (200, -32601));
    // What stands in _meta beside the version does not, either.
    for meta in [json!({}), json!([]), json!("x"), json!({CAPABILITIES: {}}), json!({"progressToken": 1})] {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": meta}});
        assert_eq!(code("MCP-Protocol-Version: 2025-11-25\r\n", request), (200, 0), "{meta}");
    }
    // The envelope does, whatever its value; so does any version that is none of the handshake's.
    let null = json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": {VERSION: null}}});
    assert_eq!(code("", null), (400, -32602));
    assert_eq!(code("MCP-Protocol-Version: 2026-07-28\r\n", ping.clone()), (400, -32602));
    assert_eq!(code("MCP-Protocol-Version: 2024-10-07\r\n", ping.clone()), (400, -32022));
    assert_eq!(code("MCP-Protocol-Version:\r\n", ping), (400, -32022));
    // With a valid envelope the handshake is a method that there is not.
    for method in ["initialize", "ping"] {
        let headers = format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {method}\r\n");
        assert_eq!(code(&headers, enveloped(method, json!({"protocolVersion": "2025-11-25"}))), (404, -32601));
    }
}

#[test]
fn of_several_errors_the_first_is_reported() {
    let wire = Wire::new();
    let v = format!("MCP-Protocol-Version: {MODERN}\r\n");
    let mut incomplete = enveloped("nothing", json!({}));
    incomplete["params"]["_meta"].as_object_mut().unwrap().remove(CAPABILITIES);
    let mut unknown = enveloped("nothing", json!({}));
    unknown["params"]["_meta"][VERSION] = json!("2099-01-01");
    for (what, headers, body, status, code) in [
        ("an incomplete envelope before its headers", String::new(), incomplete, 400, -32602),
        ("a version that differs before an unknown one", v.clone(), unknown.clone(), 400, -32020),
        ("an unknown version before the method", "MCP-Protocol-Version: 2099-01-01\r\n".into(), unknown, 400, -32022),
        ("the method's header before the method", v.clone(), enveloped("nothing", json!({})), 400, -32020),
        (
            "the name's header before the name",
            format!("{v}Mcp-Method: tools/call\r\n"),
            enveloped("tools/call", json!({"name": "nope"})),
            400,
            -32020,
        ),
        (
            "the method before its parameters",
            format!("{v}Mcp-Method: tools/nothing\r\n"),
            enveloped("tools/nothing", json!({"name": 5})),
            404,
            -32601,
        ),
    ] {
        let answer = wire.post(&headers, &body.to_string());
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)), "{what}");
    }
}

#[test]
fn names_and_uris_in_headers_may_be_base64_and_must_be_the_ones_in_the_body() {
    let wire = Wire::new();
    for (method, params, header, status, code) in [
        ("tools/call", json!({"name": "wörk"}), "=?base64?d8O2cms=?=", 200, -32602),
        ("tools/call", json!({"name": "=?base64?x?="}), "=?base64?PT9iYXNlNjQ/eD89?=", 200, -32602),
        ("tools/call", json!({"name": "=?base64?x?="}), "=?base64?x?=", 400, -32020),
        ("tools/call", json!({"name": "wörk"}), "=?base64?d8O2cms?=", 400, -32020),
        ("tools/call", json!({"name": "wörk"}), "=?base64?d8O2cmt=?=", 400, -32020),
        ("tools/call", json!({"name": "wörk"}), "=?base64?/w==?=", 400, -32020),
        ("tools/call", json!({"name": "list"}), "List", 400, -32020),
        ("tools/call", json!({"name": "list"}), "  list\t", 200, 0),
        ("prompts/get", json!({"name": "x"}), "x", 404, -32601),
        ("prompts/get", json!({"name": "x"}), "y", 400, -32020),
        ("resources/read", json!({"uri": "file:///a"}), "file:///a", 404, -32601),
        ("resources/read", json!({"uri": "file:///a"}), "file:///b", 400, -32020),
        ("resources/read", json!({"name": "file:///a"}), "file:///a", 400, -32020),
    ] {
        let headers = format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {method}\r\nMcp-Name: {header}\r\n");
        let answer = wire.post(&headers, &enveloped(method, params).to_string());
        let json = answer.json();
        assert_eq!((answer.status, json["error"]["code"].as_i64().unwrap_or(0)), (status, code), "{header}: {json}");
    }
}

/// A request whose envelope has another value for `key`, or none.
fn list_with(key: &str, value: Option<Value>) -> Value {
    let mut request = enveloped("tools/list", json!({}));
    let envelope = request["params"]["_meta"].as_object_mut().unwrap();
    match value {
        Some(value) => envelope.insert(key.into(), value),
        None => envelope.remove(key),
    };
    request
}

/// What is sent, its headers, its body, and the status and the code of the error of the answer.
type HeaderCase = (&'static str, String, Value, u16, i64);

fn header_cases() -> Vec<HeaderCase> {
    let list = enveloped("tools/list", json!({}));
    let call = enveloped("tools/call", json!({"name": "list", "arguments": {}}));
    let unnamed = enveloped("tools/call", json!({"arguments": {}}));
    let (v, m) = (format!("MCP-Protocol-Version: {MODERN}\r\n"), "Mcp-Method: tools/list\r\n");
    let c = "Mcp-Method: tools/call\r\n";
    vec![
        ("all is well", format!("{v}{m}"), list.clone(), 200, 0),
        (
            "spaces and case of names",
            format!("mcp-protocol-version:  {MODERN}  \r\nMCP-METHOD: tools/list\r\n"),
            list.clone(),
            200,
            0,
        ),
        ("no version header", m.into(), list.clone(), 400, -32020),
        ("another version header", format!("MCP-Protocol-Version: 2025-11-25\r\n{m}"), list.clone(), 400, -32020),
        ("two version headers", format!("{v}{v}{m}"), list.clone(), 400, -32020),
        ("no method header", v.clone(), list.clone(), 400, -32020),
        ("another method", format!("{v}Mcp-Method: tools/call\r\n"), list.clone(), 400, -32020),
        ("another case", format!("{v}Mcp-Method: Tools/List\r\n"), list.clone(), 400, -32020),
        ("two method headers", format!("{v}{m}{m}"), list.clone(), 400, -32020),
        ("named", format!("{v}{c}Mcp-Name: list\r\n"), call.clone(), 200, 0),
        ("named in Base64", format!("{v}{c}Mcp-Name: =?base64?bGlzdA==?=\r\n"), call.clone(), 200, 0),
        ("broken Base64", format!("{v}{c}Mcp-Name: =?base64?bGlzdA?=\r\n"), call.clone(), 400, -32020),
        ("no name", format!("{v}{c}"), call.clone(), 400, -32020),
        ("another name", format!("{v}{c}Mcp-Name: ctrl\r\n"), call.clone(), 400, -32020),
        ("two names", format!("{v}{c}Mcp-Name: list\r\nMcp-Name: list\r\n"), call.clone(), 400, -32020),
        ("a name only in the header", format!("{v}{c}Mcp-Name: list\r\n"), unnamed, 400, -32020),
        ("no capabilities", format!("{v}{m}"), list_with(CAPABILITIES, None), 400, -32602),
        ("capabilities no object", format!("{v}{m}"), list_with(CAPABILITIES, Some(json!([]))), 400, -32602),
        ("version no string", format!("{v}{m}"), list_with(VERSION, Some(json!(5))), 400, -32602),
        ("no version in the body", format!("{v}{m}"), list_with(VERSION, None), 400, -32602),
        (
            "unknown version, no envelope",
            "MCP-Protocol-Version: 2099-01-01\r\n".into(),
            json!({"jsonrpc": "2.0", "id": 7, "method": "ping"}),
            400,
            -32022,
        ),
        (
            "unknown version in both",
            format!("MCP-Protocol-Version: 2099-01-01\r\n{m}"),
            list_with(VERSION, Some(json!("2099-01-01"))),
            400,
            -32022,
        ),
        (
            "old version in an envelope",
            format!("MCP-Protocol-Version: 2025-11-25\r\n{m}"),
            list_with(VERSION, Some(json!("2025-11-25"))),
            400,
            -32022,
        ),
    ]
}

#[test]
fn a_modern_request_must_agree_with_its_headers() {
    let wire = Wire::new();
    let supported = wire.modern("server/discover", json!({})).json()["result"]["supportedVersions"].clone();
    for (what, headers, body, status, code) in header_cases() {
        let answer = wire.post(&headers, &body.to_string());
        let json = answer.json();
        assert_eq!((answer.status, json["error"]["code"].as_i64().unwrap_or(0)), (status, code), "{what}: {json}");
        assert_eq!(json["id"], 7, "{what}");
        if code == -32022 {
            assert!(json["error"]["data"]["supported"] == supported && json["error"]["data"]["requested"].is_string());
        }
    }
}
