//! What a host may write: lines that are no messages, notifications, batches, long lines.

use super::*;

/// The longest message, in bytes.
const LINE_MAX: usize = 4 << 20;

#[test]
fn lines_that_are_not_messages_are_refused_and_the_next_one_is_read() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut host = Host::new(&sandbox);
    for (line, id, code) in [
        ("nonsense", Value::Null, -32700),
        ("{", Value::Null, -32700),
        ("\u{feff}{}", Value::Null, -32700),
        ("{} {}", Value::Null, -32700),
        ("7", Value::Null, -32600),
        ("{}", Value::Null, -32600),
        (r#"{"jsonrpc":"1.0","id":5,"method":"ping"}"#, json!(5), -32600),
        (r#"{"jsonrpc":"2.0","id":"a","method":7}"#, json!("a"), -32600),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, Value::Null, -32600),
        (r#"{"jsonrpc":"2.0","id":6,"method":"ping","params":[]}"#, json!(6), -32600),
        ("[]", Value::Null, -32600),
    ] {
        host.write(&format!("{line}\n"));
        let answer = host.next();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{line}: {answer}");
    }
    host.stdin.as_mut().unwrap().write_all(b"\"\xff\"\n").unwrap();
    assert_eq!(host.next()["error"]["code"], -32700, "not UTF-8");
    host.write("\n  \n\r\n\t\n");
    host.is_silent();
    host.write(&format!("{}\r\n", ping(json!(1))));
    assert_eq!(host.next()["id"], 1);
}

#[test]
fn notifications_and_answers_are_never_answered() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut host = Host::new(&sandbox);
    for message in [
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "method": "no/such/thing", "params": {}}),
        json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "list"}}),
        json!({"jsonrpc": "2.0", "id": 4, "result": {}}),
        json!({"jsonrpc": "2.0", "id": 4, "error": {"code": 1, "message": "x"}}),
        cancelled(4),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled"}),
        json!([{"jsonrpc": "2.0", "method": "notifications/initialized"}]),
    ] {
        host.send(&message);
        host.is_silent();
    }
}

#[test]
fn batches_are_answered_as_batches() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut host = Host::new(&sandbox);
    let batch = json!([ping(json!(1)), cancelled(9), call(2, "list", json!({})), 5]);
    host.send(&batch);
    let answers = host.next();
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!(2), &Value::Null]);
    // Those who have agreed on a version without batches get an answer for each request in one, too.
    host.ask(&request(json!(0), "initialize", json!({"protocolVersion": "2025-06-18"})));
    host.send(&batch);
    let answers = host.next();
    let refused: Vec<(&Value, &Value)> =
        answers.as_array().unwrap().iter().map(|answer| (&answer["id"], &answer["error"]["code"])).collect();
    assert_eq!(refused, [(&json!(1), &json!(-32603)), (&json!(2), &json!(-32603))]);
}

#[test]
fn a_line_that_is_too_long_is_refused_with_its_id_and_nothing_after_it_is_lost() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let mut host = Host::new(&sandbox);
    let long = "x".repeat(LINE_MAX);
    // As the TypeScript clients write it: the id behind everything else.
    host.write(&format!(
        "{{\"method\":\"tools/call\",\"params\":{{\"id\":1,\"text\":\"{long}\"}},\"jsonrpc\":\"2.0\",\"id\":7}}\n"
    ));
    let answer = host.next();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32600)));
    host.is_silent();
    // What still fits, fits.
    let frame =
        |text: &str| format!("{{\"id\":8,\"jsonrpc\":\"2.0\",\"method\":\"ping\",\"params\":{{\"x\":\"{text}\"}}}}");
    let fitting = frame(&long[frame("").len()..]);
    assert_eq!(fitting.len(), LINE_MAX);
    host.write(&format!("{fitting}\n"));
    assert_eq!(host.next(), json!({"jsonrpc": "2.0", "id": 8, "result": {}}));
}
