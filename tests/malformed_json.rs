//! JSON that is too deep, too large or too strange: an error of the protocol that keeps the id where there is one, or a text
//! from which a model can correct itself. Never more text than a model can read.

use crate::support::*;
use serde_json::{Value, json};

/// Status, and the error or the result.
fn send(sandbox: &Sandbox, body: &str) -> (u16, Value) {
    let answer = sandbox.http(&post("/mcp", sandbox.port, "", body));
    (answer.status, answer.json())
}

#[test]
fn what_is_no_message_gets_an_error_of_the_protocol_and_keeps_its_id() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let nested = |depth: usize| {
        let (open, close) = (r#"{"a":"#.repeat(depth), "}".repeat(depth));
        format!(r#"{{"jsonrpc":"2.0","id":7,"method":"ping","params":{open}1{close}}}"#)
    };
    for (body, status, code) in [
        (nested(127), 400, -32700),
        ("[".repeat(1 << 20), 400, -32700),
        (r#"{"a":"#.repeat(1 << 18), 400, -32700),
        (r#"{"jsonrpc":"2.0","id":1e400,"method":"ping"}"#.into(), 400, -32700),
        (r#"{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}"#.into(), 400, -32600),
        (r#"{"jsonrpc":"2.0","id":-9223372036854775809,"method":"ping"}"#.into(), 400, -32600),
        (r#"{"jsonrpc":"2.0","id":"\ud800","method":"ping"}"#.into(), 400, -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"} x"#.into(), 400, -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping",}"#.into(), 400, -32700),
        ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}".into(), 400, -32700),
        ("{'jsonrpc':'2.0'}".into(), 400, -32700),
        ("NaN".into(), 400, -32700),
        ("\0".into(), 400, -32700),
        (String::new(), 400, -32700),
    ] {
        let shown: String = body.chars().take(100).collect();
        let (got, answer) = send(&sandbox, &body);
        assert_eq!((got, &answer["error"]["code"]), (status, &json!(code)), "{shown}: {answer}");
        assert_eq!(answer["id"], Value::Null, "{shown}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.len() < 200 && message.lines().count() == 1, "{shown}: {message}");
    }
    for (id, body) in [
        (json!(7), nested(126)),
        (json!(u64::MAX), r#"{"jsonrpc":"2.0","id":18446744073709551615,"method":"ping"}"#.into()),
        (json!(i64::MIN), r#"{"jsonrpc":"2.0","id":-9223372036854775808,"method":"ping"}"#.into()),
        (json!("a\0b"), r#"{"jsonrpc":"2.0","id":"a\u0000b","method":"ping"}"#.into()),
        // Of members that are there twice the last one counts, as in the parsers of most clients.
        (json!(2), r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list","method":"ping"}"#.into()),
    ] {
        assert_eq!(send(&sandbox, &body), (200, json!({"jsonrpc": "2.0", "id": id, "result": {}})), "{id}");
    }
}

/// A tool, arguments of it that are out of bounds, and what the answer must contain.
fn arguments_out_of_bounds() -> Vec<((&'static str, String), &'static str)> {
    let long = "x".repeat(3_000_000);
    let start = |more: &str| ("ctrl", format!(r#"{{"action":"start","working_directory":"/",{more}}}"#));
    let output = |more: &str| ("output", format!(r#"{{"command_or_label":"silent",{more}}}"#));
    vec![
        (output(r#""lines":-1"#), "a whole number from 1 to"),
        (output(r#""lines":0"#), "a whole number from 1 to"),
        (output(r#""lines":1000000000000000000"#), "not 1000000000000000000"),
        (output(r#""lines":99999999999999999999"#), "a whole number from 1 to"),
        (output(r#""lines":-9223372036854775809"#), "a whole number from 1 to"),
        (output(r#""lines":2.5"#), "not 2.5"),
        (output(r#""lines":"-5""#), "a whole number from 1 to"),
        (output(r#""lines":[[[[]]]]"#), "a whole number from 1 to"),
        (output(r#""timeout":-1,"wait_for":"x""#), "from 0 to 45"),
        (output(r#""timeout":1e308,"wait_for":"x""#), "from 0 to 45"),
        (output(r#""max_bytes":0"#), "'max_bytes' must be"),
        (output(r#""max_bytes":99999999999"#), "'max_bytes' must be"),
        (output(r#""context":-1,"grep":"x""#), "'context' must be"),
        (output(r#""after":"r1.combined.99999999999999999999""#), "is not a valid cursor"),
        (output(r#""after":"\u0000""#), "is not a valid cursor"),
        (output(r#""since_time":"99999999999999999999d""#), "cannot read the time"),
        (output(r#""since_time":"-5m""#), "cannot read the time"),
        (output(r#""grep":"(a{1000}){1000}""#), "size limit"),
        (output(&format!(r#""grep":"{}""#, "(".repeat(5000))), "regular expression"),
        (output(&format!(r#""grep":"{}""#, "[a".repeat(100_000))), "regular expression"),
        (("list", r#"{"pid":-1}"#.into()), "'pid' must be"),
        (("list", r#"{"pid":4294967297}"#.into()), "'pid' must be"),
        (("list", r#"{"pid":18446744073709551615}"#.into()), "'pid' must be"),
        (("list", r#"{"pid":0,"pid":4194304}"#.into()), "no process"),
        (("list", format!(r#"{{"{long}":1}}"#)), "there is no parameter"),
        (("output", r#"{"command_or_label":"si\u0000lent"}"#.into()), "no process"),
        (("output", format!(r#"{{"command_or_label":"{long}"}}"#)), "no process"),
        (("output", r#"{"pid":1,"stream":"stdin"}"#.into()), "one of"),
        (start(r#""command_or_label":"tr\u0000ue""#), "NUL"),
        (start(r#""command_or_label":"true","environment":{"A\u0000":"b"}"#), "NUL"),
        (start(r#""command_or_label":"true","environment":{"A":"b\u0000"}"#), "NUL"),
        (start(r#""command_or_label":"true","environment":{"A=B":"c"}"#), "="),
        (start(r#""command_or_label":"true","environment":{"":"c"}"#), "empty"),
        (start(r#""command_or_label":"true","environment":{"A":1}"#), "values are strings"),
        (start(r#""command_or_label":"true","label":"a\u0000b""#), "one line of text"),
        (start(&format!(r#""command_or_label":"true","label":"{long}""#)), "characters"),
        (start(&format!(r#""command_or_label":"true {long}""#)), "cannot start"),
        (("ctrl", r#"{"action":"start","command_or_label":"true","working_directory":"/\u0000"}"#.into()), "NUL"),
        (
            ("ctrl", format!(r#"{{"action":"start","command_or_label":"true","working_directory":"/{long}"}}"#)),
            "working directory",
        ),
        (
            ("ctrl", r#"{"action":"signal","command_or_label":"silent","text":"99999999999"}"#.into()),
            "is not a valid signal",
        ),
        (("ctrl", r#"{"action":"signal","command_or_label":"silent","text":"-9"}"#.into()), "is not a valid signal"),
        (("ctrl", format!(r#"{{"action":"input","command_or_label":"silent","text":"{long}"}}"#)), "bytes"),
    ]
}

#[test]
fn arguments_out_of_bounds_get_a_text_that_names_the_bounds() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "silent", "sh", "-c", "read never"]).ok();
    for ((tool, arguments), expected) in arguments_out_of_bounds() {
        let shown: String = arguments.chars().take(120).collect();
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
        );
        let (status, answer) = send(&sandbox, &call);
        assert_eq!((status, &answer["result"]["isError"]), (200, &json!(true)), "{shown}: {answer:.300}");
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(expected), "{shown}: {text:.600}");
        assert!(text.chars().count() <= 4100, "{shown}: {} characters", text.chars().count());
    }
    assert_eq!(sandbox.listed()[0]["status"], "running");
}
