//! What the bridge delivers to the server: a request or a batch, the headers that repeat what it says, whether it may be
//! sent a second time, and what its sender gets if there is no answer.

use super::super::connection::Header;
use super::super::request::new_key;
use crate::api::params::TIMEOUT;
use crate::mcp::protocol::{KEY_VERSION, encode_header, routing_header};
use crate::mcp::rpc::{self, Message, Request, RpcError, code};
use crate::mcp::tools::{self, META_DIRECTORY, META_KEY};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A request or a batch on its way to the server.
pub enum PendingRequest {
    One(Request),
    /// Its messages, and the ids of the requests among them.
    Batch(Value, Vec<Value>),
}

impl PendingRequest {
    /// `project` is added to a call that does not itself say where its caller is.
    pub fn one(mut request: Request, project: Option<&str>) -> PendingRequest {
        if request.method == "tools/call" {
            add_directory(&mut request.params, project);
            if Call(&request.params).is_recorded() {
                add_key(&mut request.params);
            }
        }
        PendingRequest::One(request)
    }

    pub fn batch(mut messages: Vec<Value>, project: Option<&str>) -> PendingRequest {
        for message in messages.iter_mut().filter(|message| message["method"] == "tools/call") {
            if let Some(params) = message["params"].as_object_mut() {
                add_directory(params, project);
            }
        }
        let ids = messages.iter().filter_map(|message| match rpc::message(message.clone()) {
            Ok(Message::Request(request)) => Some(request.id),
            _ => None,
        });
        let ids = ids.collect();
        PendingRequest::Batch(Value::Array(messages), ids)
    }

    pub fn body(&self) -> Value {
        match self {
            PendingRequest::One(Request { id, method, params }) => {
                json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
            }
            PendingRequest::Batch(messages, _) => messages.clone(),
        }
    }

    /// The headers that repeat what the body says, as its era requires them. `agreed` is the version of the handshake.
    pub fn headers(&self, agreed: Option<String>) -> Vec<Header> {
        let mut headers = vec![("Accept", "application/json, text/event-stream".to_string())];
        match self {
            PendingRequest::One(request) if envelope(request).is_some() => headers.extend(modern_headers(request)),
            PendingRequest::One(request) if request.method == "initialize" => {}
            _ => headers.extend(agreed.map(|version| ("MCP-Protocol-Version", version))),
        }
        headers
    }

    /// Whether this is the handshake, which settles on a version.
    pub fn is_handshake(&self) -> bool {
        matches!(self, PendingRequest::One(request) if request.method == "initialize" && envelope(request).is_none())
    }

    /// The id by which it can be cancelled: the handshake cannot be (2025-11-25, basic/utilities/cancellation), nor can a
    /// part of a batch.
    pub fn cancelled_by(&self) -> Option<Value> {
        match self {
            PendingRequest::One(request) if !self.is_handshake() => Some(request.id.clone()),
            _ => None,
        }
    }

    /// An error for each request in it that says why there is no answer.
    pub fn failed(&self, why: &str) -> Option<Value> {
        let answer = |id: &Value| rpc::answer(id, Err(RpcError::new(code::INTERNAL, why)));
        match self {
            PendingRequest::One(request) => Some(answer(&request.id)),
            PendingRequest::Batch(_, ids) if ids.is_empty() => None,
            PendingRequest::Batch(_, ids) => Some(ids.iter().map(answer).collect()),
        }
    }

    fn call(&self) -> Option<Call<'_>> {
        match self {
            PendingRequest::One(request) if request.method == "tools/call" => Some(Call(&request.params)),
            _ => None,
        }
    }

    /// Whether it may be sent again, `elapsed` after it was sent; if so, its timeout becomes what is left of it.
    pub fn can_be_repeated(&mut self, elapsed: Duration) -> bool {
        let Some(call) = self.call() else { return matches!(self, PendingRequest::One(_)) };
        let is_safe = call.is_read_only() && !call.is_wait_from_now();
        if !is_safe && !call.is_recorded() {
            return false;
        }
        let left = call.is_wait().then(|| call.timeout().saturating_sub(elapsed.as_secs()));
        if let (Some(left), PendingRequest::One(request)) = (left, self) {
            request.params["arguments"]["timeout"] = json!(left);
        }
        true
    }

    /// The answer to a request that was sent and got none. For a call it is a text for the model, which can find out what
    /// became of it.
    pub fn lost(&self, why: &str, elapsed: Duration) -> Option<Value> {
        let (Some(call), PendingRequest::One(request)) = (self.call(), self) else { return self.failed(why) };
        let text = if !call.is_read_only() {
            let action = call.argument("action").and_then(Value::as_str).unwrap_or("it");
            format!(
                "{why}, so it is not known whether {action} was carried out: call list to see, before trying again\n"
            )
        } else if call.is_wait() {
            let age = elapsed.as_secs() + 1;
            format!("{why}, but no output is lost: read what came since you asked with output since_time=\"{age}s\"\n")
        } else {
            format!("{why}; nothing was changed by this call, so try it again\n")
        };
        let mut result = json!({"content": [{"type": "text", "text": text}], "isError": true});
        if envelope(request).is_some() {
            result["resultType"] = json!("complete");
        }
        Some(rpc::answer(&request.id, Ok(result)))
    }
}

/// The version in the envelope of a modern request.
fn envelope(request: &Request) -> Option<&Value> {
    request.params.get("_meta")?.get(KEY_VERSION)
}

fn modern_headers(request: &Request) -> Vec<Header> {
    let version = envelope(request).and_then(Value::as_str);
    let version = version.map(|version| ("MCP-Protocol-Version", encode_header(version)));
    let name = routing_header(&request.method).map(|(header, member)| {
        // A missing name is empty here, too: then the server says what is wrong with the body.
        (header, encode_header(request.params.get(member).and_then(Value::as_str).unwrap_or("")))
    });
    version.into_iter().chain([("Mcp-Method", encode_header(&request.method))]).chain(name).collect()
}

/// Adds where the caller is, unless it said so itself.
fn add_directory(params: &mut Map<String, Value>, project: Option<&str>) {
    let Some(project) = project else { return };
    let meta = params.entry("_meta").or_insert_with(|| json!({}));
    if let Some(meta) = meta.as_object_mut() {
        meta.entry(META_DIRECTORY).or_insert_with(|| json!(project));
    }
}

/// Adds a key to the call, unless its sender did: by it the next server knows the call, should it come again.
fn add_key(params: &mut Map<String, Value>) {
    let meta = params.entry("_meta").or_insert_with(|| json!({}));
    if let Some(meta) = meta.as_object_mut() {
        meta.entry(META_KEY).or_insert_with(|| json!(new_key()));
    }
}

/// The parameters of `tools/call`.
struct Call<'a>(&'a Map<String, Value>);

impl Call<'_> {
    fn argument(&self, name: &str) -> Option<&Value> {
        self.0.get("arguments")?.get(name).filter(|value| !value.is_null())
    }
    /// As its definition says; an unknown tool may do anything.
    fn is_read_only(&self) -> bool {
        let is_it = |tool: &Value| Some(&tool["name"]) == self.0.get("name");
        tools::definitions().iter().any(|tool| is_it(tool) && tool["annotations"]["readOnlyHint"] == true)
    }
    /// Whether servers record what it asks for before they do it, so that it can be sent again. Input and signals go to the
    /// program at once.
    fn is_recorded(&self) -> bool {
        let action = self.argument("action").and_then(Value::as_str);
        self.0.get("name").is_some_and(|name| name == "ctrl") && matches!(action, Some("start" | "restart" | "stop"))
    }
    fn is_wait(&self) -> bool {
        self.argument("wait_for").is_some()
    }
    /// Waits for what comes after the call, and not after a cursor: sent again, it would miss what came in between.
    fn is_wait_from_now(&self) -> bool {
        self.is_wait() && self.argument("after").is_none()
    }
    /// In seconds. Models also write numbers in quotes.
    fn timeout(&self) -> u64 {
        let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        self.argument("timeout").and_then(number).map_or(TIMEOUT as u64, |seconds| seconds as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(method: &str, params: Value) -> PendingRequest {
        let params = params.as_object().unwrap().clone();
        PendingRequest::one(Request { id: json!(7), method: method.into(), params }, Some("/project"))
    }
    fn call(name: &str, arguments: Value) -> PendingRequest {
        pending("tools/call", json!({"name": name, "arguments": arguments}))
    }

    #[test]
    fn only_what_changes_nothing_and_misses_nothing_is_sent_again() {
        const LONG: Duration = Duration::from_millis(10_900);
        for (mut pending, can_be_repeated) in [
            (pending("initialize", json!({})), true),
            (pending("tools/list", json!({})), true),
            (call("list", json!({})), true),
            (call("output", json!({"command_or_label": "web"})), true),
            (call("output", json!({"wait_for": "x", "after": "c", "timeout": 45})), true),
            (call("output", json!({"wait_for": "x", "after": null})), false),
            (call("ctrl", json!({"action": "start"})), true),
            (call("ctrl", json!({"action": "stop"})), true),
            (call("ctrl", json!({"action": "input"})), false),
            (call("ctrl", json!({"action": "signal"})), false),
            (call("unknown", json!({})), false),
            (pending("tools/call", json!({})), false),
            (PendingRequest::batch(vec![json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})], None), false),
        ] {
            assert_eq!(pending.can_be_repeated(LONG), can_be_repeated, "{}", pending.body());
        }
        for (timeout, left) in [(json!(45), 35), (json!("45"), 35), (json!(5), 0), (Value::Null, 5)] {
            let mut wait = call("output", json!({"wait_for": "x", "after": "c", "timeout": timeout}));
            assert!(wait.can_be_repeated(LONG));
            assert_eq!(wait.body()["params"]["arguments"]["timeout"], left, "{timeout}");
        }
    }

    #[test]
    fn headers_are_those_of_the_era() {
        let names = |pending: &PendingRequest| -> Vec<String> {
            let headers = pending.headers(Some("2025-06-18".into()));
            headers.iter().skip(1).map(|(name, value)| format!("{name}: {value}")).collect()
        };
        let meta = json!({KEY_VERSION: "2026-07-28"});
        assert!(names(&pending("initialize", json!({}))).is_empty());
        assert_eq!(names(&pending("ping", json!({}))), ["MCP-Protocol-Version: 2025-06-18"]);
        assert_eq!(
            names(&pending("initialize", json!({"_meta": meta}))),
            ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: initialize"]
        );
        assert_eq!(
            names(&pending("tools/call", json!({"_meta": meta, "name": "a\r\nX: y"}))),
            ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: =?base64?YQ0KWDogeQ==?="]
        );
        assert_eq!(
            names(&pending("resources/read", json!({"_meta": meta, "uri": "file:///a"}))),
            ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: resources/read", "Mcp-Name: file:///a"]
        );
    }

    #[test]
    fn a_call_says_where_it_comes_from_unless_it_does_already() {
        let directory = |pending: &PendingRequest| pending.body()["params"]["_meta"][META_DIRECTORY].clone();
        assert_eq!(directory(&call("list", json!({}))), "/project");
        assert_eq!(directory(&pending("tools/call", json!({"_meta": {META_DIRECTORY: "/other"}}))), "/other");
        assert_eq!(directory(&pending("tools/list", json!({}))), Value::Null);
        let params = json!({"_meta": "nonsense"});
        assert_eq!(pending("tools/call", params.clone()).body()["params"], params);
    }
}
