//! `output --follow`: what there is, and then what comes. The output of one process is passed on byte by byte, as it comes;
//! a search, a wait, and several processes go line by line, and the server finds the lines.

use super::link::{Link, Reading};
use super::output::{text_of, verdict};
use super::writer::{Printed, Writer};
use super::{RECONNECT, Trouble, run};
use crate::log::stamp::{format_ms, now_ms, parse_time};
use crate::output::cursor::Cursor;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// One long-poll. With `--wait-for`, which only the server can answer before a line is finished, it also is how long
/// lines may be held back.
const POLL: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(1)];
/// Lines of one answer.
const LINES: u32 = 10_000;
/// How long to try to find a server again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after the deadline a reader may take to read what was found before it.
pub const LAST_TAKEN: Duration = Duration::from_millis(500);

/// Follows until the process ends, a line comes that was waited for, or the timeout is over.
pub fn follow(mut link: Link, mut arguments: Map<String, Value>, is_json: bool) -> Result<u8, Trouble> {
    check(&arguments, is_json)?;
    let until = arguments.remove("wait_for").map(|value| text(&value));
    let seconds = arguments.remove("timeout").and_then(|value| text(&value).parse().ok());
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    fix_since_time(&mut arguments);
    // What there is already is asked for all the same: it tells where to go on.
    let is_shown = arguments.get("lines") != Some(&json!("0"));
    if !is_shown {
        arguments.insert("lines".into(), json!(1));
    }
    if until.is_none() && !arguments.contains_key("grep") {
        // The place to go on from is one in combined.log, whatever stream is shown.
        let mut first = arguments.clone();
        first.insert("of_combined".into(), json!(true));
        let mut read = link.read_output(&first)?;
        let cursor: Cursor = read.cursor()?;
        if let ([place], None) = (cursor.places.as_slice(), cursor.known) {
            read.note(&link);
            if !is_shown {
                (read.bytes, read.open) = (Vec::new(), None);
            }
            return run::follow(link, &arguments, *place, read, deadline);
        }
    }
    // Line by line: one that is not finished comes when it is, or at the end, unless it is what is waited for.
    arguments.insert(if until.is_some() { "is_held_unless_matched" } else { "is_held" }.into(), json!(true));
    let mut first = arguments.clone();
    if !is_shown {
        first.remove("grep"); // nothing of it is shown, so nothing has to be searched
    }
    if let (Some(until), true) = (&until, first.contains_key("after") && is_shown) {
        // What came after a cursor may be there already.
        first.extend([("wait_for".to_string(), json!(until)), ("timeout".to_string(), json!(0))]);
    }
    let mut read = link.read_output(&first)?;
    if !is_shown {
        read.bytes.clear();
        arguments.insert("after".into(), json!(read.cursor));
    }
    Lines::new(link, arguments, read, until, deadline)?.go()
}

/// Refuses what does not go together, before anything is asked for.
fn check(arguments: &Map<String, Value>, is_json: bool) -> Result<(), Trouble> {
    if is_json || ["before", "before_time"].iter().any(|name| arguments.contains_key(*name)) {
        return Err(Trouble::Usage(
            "--follow prints what comes, as text: it does not go with --format json, --before or --before-time".into(),
        ));
    }
    if text_of(arguments, "wait_for") == "quiet" {
        return Err(Trouble::Usage("--follow goes with a regular expression to wait for, not with 'quiet'".into()));
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// Makes an age such as `5m` a time: asked for again and again, it would be another one each time.
fn fix_since_time(arguments: &mut Map<String, Value>) {
    if let Some(since) = arguments.get_mut("since_time")
        && let Ok(ms) = parse_time(&text(since), now_ms())
    {
        *since = json!(format_ms(ms));
    }
}

/// Whether following is over.
fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|end| end <= Instant::now())
}

/// Follows line by line.
struct Lines {
    link: Link,
    arguments: Map<String, Value>,
    /// The last answer, with what of it is not printed yet.
    read: Reading,
    until: Option<String>,
    deadline: Option<Instant>,
    writer: Writer,
    /// Output is missing.
    has_gap: bool,
    /// What was told of what the disk did not take.
    unwritten: String,
}

impl Lines {
    /// Goes on behind `read`, the first answer.
    fn new(
        link: Link,
        mut arguments: Map<String, Value>,
        read: Reading,
        until: Option<String>,
        deadline: Option<Instant>,
    ) -> Result<Lines, Trouble> {
        arguments.remove("run");
        if let Some(began) = arguments.remove("after") {
            arguments.insert("context_from".into(), began);
        }
        arguments.insert("lines".into(), json!(LINES));
        arguments.insert("is_forward".into(), json!(true));
        // Without a wait of its own it is one for anything at all.
        arguments.insert("wait_for".into(), json!(until.as_deref().unwrap_or("")));
        Ok(Lines {
            link,
            arguments,
            read,
            until,
            deadline,
            writer: Writer::start()?,
            has_gap: false,
            unwritten: String::new(),
        })
    }

    fn go(&mut self) -> Result<u8, Trouble> {
        // Who trusts the exit code is not to take a part for the whole.
        self.follow().map(|code| code.max(self.has_gap.into()))
    }

    fn follow(&mut self) -> Result<u8, Trouble> {
        let (mut has_matched, mut is_first) = (false, true);
        loop {
            self.read.note(&self.link);
            self.has_gap |= self.read.has_gap;
            let bytes = std::mem::take(&mut self.read.bytes);
            match self.writer.print(bytes, self.deadline.map(|end| end + LAST_TAKEN))? {
                Printed::All => {}
                Printed::Late => return self.verdict("timeout"),
                Printed::ReaderLeft => return Ok(0),
            }
            self.tell_unwritten();
            has_matched |= self.until.is_some() && self.read.waited == "matched";
            // Also with no time at all it is looked once at what is new.
            let is_late = is_over(self.deadline) && !std::mem::take(&mut is_first);
            if has_matched && (is_late || !self.read.is_cut) {
                return Ok(0);
            }
            if self.read.waited == "ended" && !self.read.is_cut {
                return self.verdict("ended");
            }
            if is_late || !self.ask(has_matched)? {
                return self.verdict("timeout");
            }
        }
    }

    /// Says once what is missing at the end of something that is over.
    fn tell_unwritten(&mut self) {
        if self.read.is_cut || self.read.unwritten == self.unwritten {
            return; // there is more to show before that end
        }
        self.unwritten = std::mem::take(&mut self.read.unwritten);
        if !self.unwritten.is_empty() {
            self.has_gap = true;
            super::terminal::note(&self.unwritten);
        }
    }

    /// Only of a wait it is a failure that following is over.
    fn verdict(&self, waited: &str) -> Result<u8, Trouble> {
        self.until.as_ref().map_or(Ok(0), |until| verdict(waited, until))
    }

    /// Reads what comes next, also from the next server, should this one go. False if the deadline came first.
    fn ask(&mut self, has_matched: bool) -> Result<bool, Trouble> {
        let longest = POLL[usize::from(self.until.is_some())];
        let begun = Instant::now();
        self.arguments.insert("after".into(), json!(self.read.cursor));
        loop {
            let left = self.deadline.map_or(longest, |end| end.saturating_duration_since(Instant::now()).min(longest));
            let seconds = if has_matched { 0 } else { left.as_millis().div_ceil(1000) };
            self.arguments.insert("timeout".into(), json!(seconds));
            match self.link.read_output(&self.arguments) {
                Ok(read) => {
                    self.read = read;
                    return Ok(true);
                }
                Err(Trouble::Unreachable(_)) if is_over(self.deadline) => return Ok(false),
                Err(Trouble::Unreachable(_)) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(RECONNECT);
                    if self.link.config.autostart && begun.elapsed() > 6 * RECONNECT {
                        let _ = self.link.ensure_server();
                    }
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }
}
