//! JSON-RPC 2.0 as MCP uses it: what a body is, which id an answer carries, which code an error has.

use crate::os_text::one_line;
use serde_json::{Map, Value, json};

/// RpcError codes of JSON-RPC 2.0, and of MCP 2026-07-28 (basic/index, "RpcError codes").
pub mod code {
    pub const PARSE: i64 = -32700;
    pub const INVALID_REQUEST: i64 = -32600;
    pub const METHOD_NOT_FOUND: i64 = -32601;
    pub const INVALID_PARAMS: i64 = -32602;
    pub const INTERNAL: i64 = -32603;
    pub const HEADER_MISMATCH: i64 = -32020;
    pub const UNSUPPORTED_VERSION: i64 = -32022;
}

/// An error as it is sent: `message` is one short sentence, in which everything that a terminal would obey is escaped.
#[derive(Debug, PartialEq)]
pub struct RpcError {
    pub code: i64,
    pub message: String,
    pub data: Option<Value>,
}

impl RpcError {
    pub fn new(code: i64, message: impl Into<String>) -> RpcError {
        RpcError { code, message: one_line(&message.into()), data: None }
    }
}

/// A request that is to be answered. `id` is a string or an integer and goes back as it came.
#[derive(Debug, PartialEq)]
pub struct Request {
    pub id: Value,
    pub method: String,
    pub params: Map<String, Value>,
}

/// One message of a client.
#[derive(Debug, PartialEq)]
pub enum Message {
    Request(Request),
    /// Something that is not answered: a notification, or an answer to a request that we never send.
    Silent,
}

/// What a body holds.
pub enum Body {
    One(Value),
    Batch(Vec<Value>),
}

/// Reads a body. JSON that is not UTF-8 is no JSON.
pub fn parse(bytes: &[u8]) -> Result<Body, RpcError> {
    let value =
        serde_json::from_slice(bytes).map_err(|error| RpcError::new(code::PARSE, format!("Parse error: {error}")))?;
    Ok(match value {
        Value::Array(messages) => Body::Batch(messages),
        one => Body::One(one),
    })
}

/// Takes one message apart.
pub fn message(value: Value) -> Result<Message, RpcError> {
    let invalid = |what: &str| RpcError::new(code::INVALID_REQUEST, format!("Invalid request: {what}"));
    let Value::Object(mut members) = value else { return Err(invalid("not an object")) };
    if members.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(invalid("jsonrpc must be \"2.0\""));
    }
    let is_answer = members.contains_key("result") || members.contains_key("error");
    let method = match members.remove("method") {
        Some(Value::String(method)) => method,
        None if is_answer => return Ok(Message::Silent),
        _ => return Err(invalid("method must be a string")),
    };
    let params = match members.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(invalid("params must be an object")),
    };
    match members.remove("id") {
        None => Ok(Message::Silent),
        Some(id) if id.is_string() || id.is_i64() || id.is_u64() => {
            Ok(Message::Request(Request { id, method, params }))
        }
        Some(_) => Err(invalid("id must be a string or an integer")),
    }
}

/// The answer to request `id`.
pub fn answer(id: &Value, outcome: Result<Value, RpcError>) -> Value {
    match outcome {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => {
            let mut members = json!({"code": error.code, "message": error.message});
            if let Some(data) = error.data {
                members["data"] = data;
            }
            json!({"jsonrpc": "2.0", "id": id, "error": members})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_came_escaped() {
        let error = RpcError::new(code::INVALID_PARAMS, "no tool 'x\x1b]0;pwn\x07'");
        assert_eq!(error.message, "no tool 'x\\u{1b}]0;pwn\\u{7}'");
    }

    #[test]
    fn requests_keep_the_type_of_their_id() {
        for id in [json!(0), json!("0"), json!(-7), json!(u64::MAX), json!("server-discover-probe-1"), json!("")] {
            let Ok(Message::Request(request)) = message(json!({"jsonrpc": "2.0", "id": id, "method": "ping"})) else {
                panic!("{id}")
            };
            assert_eq!(answer(&request.id, Ok(json!({}))), json!({"jsonrpc": "2.0", "id": id, "result": {}}));
        }
    }

    #[test]
    fn what_needs_no_answer_is_silent() {
        for text in [
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":4,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":4,"error":{"code":1,"message":"x"}}"#,
        ] {
            assert_eq!(message(serde_json::from_str(text).unwrap()), Ok(Message::Silent), "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [
            "7",
            "null",
            "\"x\"",
            "{}",
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#,
            r#"{"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":99999999999999999999,"method":"ping"}"#,
        ] {
            let error = message(serde_json::from_str(text).unwrap()).unwrap_err();
            assert_eq!(error.code, code::INVALID_REQUEST, "{text}");
        }
        assert!(matches!(parse(b"{"), Err(RpcError { code: code::PARSE, .. })));
        assert!(matches!(parse(b"\"\xff\""), Err(RpcError { code: code::PARSE, .. })));
        assert!(matches!(parse(b""), Err(RpcError { code: code::PARSE, .. })));
    }
}
