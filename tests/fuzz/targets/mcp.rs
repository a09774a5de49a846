//! Bodies of POST /mcp in both eras, against a server with one finished run and no others. It is closing, so that
//! nothing can be started. A body that begins with a zero is not taken as it is: its bytes choose the arguments of a call
//! from tables, because chance seldom writes a time or a cursor.

#![no_main]

use libfuzzer_sys::fuzz_target;
use persistproc_fuzz::log::Stream;
use persistproc_fuzz::log::stamp::format_ms;
use persistproc_fuzz::manager::{About, Manager};
use persistproc_fuzz::mcp::protocol::{LEGACY, MODERN, handle};
use persistproc_fuzz::mcp::tools::Context;
use persistproc_fuzz::output::caller::Caller;
use persistproc_fuzz::rundir::{FORMAT_VERSION, Meta, RunDir, State, Status};
use persistproc_fuzz::sentence;
use persistproc_fuzz::os_text::{self, MARK, OsText};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// One who is gone already: nobody waits for anything.
struct Gone;

impl Caller for Gone {
    fn is_gone(&self) -> bool {
        true
    }
    fn may_wait(&self) -> bool {
        true
    }
}

const LINES: u64 = 300;
/// How its lines end: as words of ours, among others.
const ENDS: [&str; 8] = [
    "\u{fc}",
    "\u{27e6}×9\u{27e7}",
    "cursor=r9.combined.1",
    "er\u{200b}ror",
    "\u{e0041}\u{202e}",
    "http://localhost:1/;cursor=r9.combined.1",
    "\u{1f468}\u{200d}\u{27e7}",
    "\u{27e6}unfinished",
];

const NAMES: [&str; 15] = [
    "command_or_label",
    "working_directory",
    "run",
    "stream",
    "lines",
    "since_time",
    "before_time",
    "after",
    "before",
    "wait_for",
    "timeout",
    "grep",
    "context",
    "max_bytes",
    "pid",
];
const WORDS: [&str; 64] = [
    "make watch",
    "r1",
    "*",
    ",",
    "/",
    "nobody",
    "4711",
    "1",
    "-1",
    "0",
    "500",
    "18000",
    "10000",
    "combined",
    "stdout",
    "stderr",
    "r1.combined.",
    "r1.stdout.",
    "r9.combined.",
    "_n1",
    "_",
    ".",
    ".o0",
    ".e7",
    "5120",
    "999999",
    "2026-01-02T03:04",
    "2026-01-02",
    ":05",
    "Z",
    "+01:00",
    "+1",
    "é",
    "5m",
    "30s",
    "d",
    "line",
    "[0-9]+",
    "er",
    "ror",
    "^",
    "$",
    "|",
    ".*",
    "(",
    "{900}",
    "\\[",
    "(?i)",
    "quiet",
    "unfinished",
    "\u{27e6}",
    "\u{27e7}",
    "×9",
    "\u{200b}",
    "\u{e0041}",
    "\u{202e}",
    "\n",
    "\u{1b}",
    "'",
    "\"",
    "\\",
    "; cursor=",
    ": ",
    "\u{1f468}\u{200d}",
];

/// A call of `output` whose arguments these bytes choose: name, how many words, the words.
fn call_of(mut bytes: &[u8]) -> Value {
    let mut arguments = Map::new();
    while let [name, count, rest @ ..] = bytes {
        let (words, rest) = rest.split_at(usize::from(count % 5).min(rest.len()));
        let value = sentence(words, &WORDS);
        let is_number = count & 8 != 0;
        let value = value.parse::<i64>().ok().filter(|_| is_number).map_or(json!(value), |number| json!(number));
        arguments.insert(NAMES[usize::from(*name) % NAMES.len()].into(), value);
        bytes = rest;
    }
    arguments.entry("command_or_label").or_insert(json!("r1"));
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "output", "arguments": arguments}})
}

/// What a model reads: nothing hidden, and our brackets around our marks alone.
fn check_text(text: &str) {
    assert!(text.ends_with('\n') && os_text::hidden(text).count() == 0, "{text:?}");
    assert!(text.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()), "{text:?}");
    let (first, body) = text.split_once('\n').unwrap();
    assert!(first.matches("; cursor=").count() <= 1 || first.contains('"') || first.contains('\''), "{first}");
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    for part in text.split(MARK[0]).skip(1) {
        let (mark, rest) = part.split_once(MARK[1]).expect("a mark has its end");
        let is_ours = ["unfinished", "beginning missing", "last line"].contains(&mark)
            || ["×", "r"].iter().any(|start| mark.strip_prefix(start).is_some_and(is_number))
            || mark.strip_suffix(" more bytes").is_some_and(is_number);
        assert!(is_ours && mark != "×9" && !rest.contains(MARK[1]), "{text:?}");
    }
    assert!(!body.contains(MARK[1]) || text.contains(MARK[0]), "{text:?}");
}

fn manager() -> &'static Manager {
    static MANAGER: OnceLock<Manager> = OnceLock::new();
    MANAGER.get_or_init(|| {
        // Beside what is built: nobody tidies up after a fuzzer.
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/data-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data);
        let dir = RunDir(data.join("runs/000001.make_watch"));
        fs::create_dir_all(dir.path()).unwrap();
        fs::write(dir.lock(), "").unwrap();
        let lines = |marks: &dyn Fn(u64) -> &'static str| -> Vec<u8> {
            let line = |i: u64| {
                let stamp = format_ms(1_767_323_045_000 + i * 250);
                let end = ENDS[i as usize % ENDS.len()];
                format!("{}{} line {i} \u{1b}[32mof\u{1b}[0m {end}\n", &stamp[..stamp.len() - 1], marks(i))
            };
            (0..LINES).flat_map(|i| line(i).into_bytes()).collect()
        };
        let logs = [
            (Stream::Stdout, lines(&|_| "Z")),
            (Stream::Stderr, Vec::new()),
            (Stream::Combined, lines(&|i| if i % 7 == 0 { "z" } else { "Z" })),
        ];
        for (stream, bytes) in &logs {
            fs::write(dir.path().join(format!("{}.log", stream.name())), bytes).unwrap();
        }
        let meta = Meta {
            version: FORMAT_VERSION,
            argv: ["make", "watch"].map(OsText::from).into(),
            working_directory: OsText::from("/"),
            environment: Vec::new(),
            label: "make watch in /".into(),
            created: 1_767_323_045_000,
            previous: None,
            max_log_bytes: 0,
            idempotency_key: None,
            attributes: None,
        };
        dir.write_meta(&meta).unwrap();
        let status = Status {
            version: FORMAT_VERSION,
            state: State::Exited,
            pid: 4711,
            exit_code: Some(1),
            ended: Some(1_767_323_200_000),
            bytes: [logs[0].1.len() as u64, 0, logs[2].1.len() as u64],
            lines: [LINES, 0, LINES],
            ..Status::default()
        };
        dir.write_status(&status).unwrap();
        let about = About { pid: 1, port: 8947, started: 0, command: Vec::new(), log: data.join("server.log") };
        let manager = Manager::open(&data, 0, about, Box::new(drop)).unwrap();
        manager.close();
        manager
    })
}

/// Headers as a client of either era sends them, or a broken one.
fn headers(kind: u8, name: &str, method: &str) -> Vec<String> {
    let version = |text: &str| vec![text.to_string()];
    match (name, kind % 8) {
        ("mcp-protocol-version", 0) => vec![],
        ("mcp-protocol-version", 1 | 2) => version(MODERN),
        ("mcp-protocol-version", 3 | 4) => version(LEGACY[usize::from(kind / 8) % LEGACY.len()]),
        ("mcp-protocol-version", 5) => version("1999-01-01"),
        ("mcp-protocol-version", _) => vec![MODERN.into(), LEGACY[0].into()],
        ("Mcp-Method", 1 | 6) => version(method),
        ("Mcp-Name", 1) => version(["list", "output", "ctrl"][usize::from(kind / 8) % 3]),
        ("Mcp-Name", 6) => version("=?base64?bGlzdA==?="),
        _ => vec![],
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    let call = body.strip_prefix(&[0]).map(|choice| call_of(choice).to_string());
    let (kind, body) = call.as_ref().map_or((kind, body), |call| (&0, call.as_bytes()));
    let asked: Option<Value> = serde_json::from_slice(body).ok();
    let method = asked.as_ref().and_then(|v| v["method"].as_str()).unwrap_or("").to_string();
    let headers = |name: &str| headers(*kind, name, &method);
    let reply = handle(body, &headers, &Context::new(manager(), &Gone));
    assert!([200, 202, 400, 404].contains(&reply.status), "{}", reply.status);
    assert_eq!(reply.body.is_none(), reply.status == 202);
    let Some(Value::Object(answer)) = reply.body else { return };
    assert_eq!(answer["jsonrpc"], "2.0");
    assert!(answer.contains_key("result") != answer.contains_key("error"));
    if reply.status == 200 {
        assert_eq!(Some(&answer["id"]), asked.as_ref().map(|value| &value["id"]), "the id goes back as it came");
    }
    if let Some(error) = answer.get("error") {
        assert!(error["code"].is_i64() && error["message"].is_string());
    }
    if let Some(result) = answer.get("result").and_then(Value::as_object) {
        assert!(!result.values().any(Value::is_null), "an absent member is left out");
        if let Some(text) = result.get("content").and_then(|content| content[0]["text"].as_str()) {
            // Errors repeat what was asked; everything else is made for a model.
            assert!(text.len() <= 80_000 + 2 * body.len(), "{} bytes", text.len());
            check_text(text);
            if call.is_some() && result.get("isError").is_none() {
                let most = asked.as_ref().and_then(|asked| asked["params"]["arguments"]["max_bytes"].as_i64());
                assert!(text.len() as i64 <= most.unwrap_or(18_000), "{} bytes: {text}", text.len());
            }
        }
    }
});
