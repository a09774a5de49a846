//! `start` and `restart` with `--wait-for`: a script goes on when the process is ready, and is told why if it never is.

use super::link::{Link, Reading};
use super::{Trouble, output, render, terminal};
use crate::log::Stream;
use crate::output::wait::Until;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// Lines shown of a process that did not become ready.
const LAST: u32 = 10;

/// Refuses what makes no sense, before anything is started for it.
pub fn check(asked: &Map<String, Value>) -> Result<(), Trouble> {
    match asked.get("wait_for").and_then(Value::as_str) {
        Some(text) => Until::parse(text).map(drop).map_err(|fault| Trouble::Usage(fault.text)),
        None if asked.contains_key("timeout") => Err(Trouble::Usage("--timeout goes with --wait-for".into())),
        None => Ok(()),
    }
}

/// Tells what became of a start or restart, and with `wait_for` among `asked` then waits for it in all that the run says.
pub fn report(link: &mut Link, answer: &Value, asked: &Map<String, Value>, is_json: bool) -> Result<u8, Trouble> {
    if !asked.contains_key("wait_for") {
        return print(answer, is_json).map(|()| 0);
    }
    if !is_json {
        print(answer, false)?; // the wait may be long
    }
    let begun = Instant::now();
    let mut arguments = asked.clone();
    let start = format!("{}.combined.0", answer["run"].as_str().unwrap_or_default());
    arguments.extend([("after".into(), json!(start)), ("lines".into(), json!(LAST))]);
    let read = output::wait(link, arguments, Link::read_output)?;
    if is_json {
        let mut answer = answer.clone();
        answer["waited"] = json!(read.waited);
        print(&answer, true)?;
    }
    let verdict = output::verdict(&read.waited, &output::text_of(asked, "wait_for"));
    match &verdict {
        Ok(_) if is_json => {}
        Ok(_) => terminal::print([format!("Ready after {:.1} s.", begun.elapsed().as_secs_f64())])?,
        Err(_) => show_last(&read),
    }
    verdict
}

fn print(answer: &Value, is_json: bool) -> Result<(), Trouble> {
    if is_json {
        terminal::print_json(&render::control_json(answer))
    } else {
        terminal::print([render::control(answer)])
    }
}

/// On stderr: what it said is why.
fn show_last(read: &Reading) {
    let _ = terminal::pass_on(Stream::Stderr, &read.bytes);
}
