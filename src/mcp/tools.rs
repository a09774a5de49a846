//! The three tools as data: name, text, parameters, function. Each function looks up, acts and gives back an answer,
//! which `text` turns into what a model reads, or into the JSON of the command line.

use super::arguments::{Arguments, Kind, Parameter, optional, required, schema};
use super::text;
use crate::agents::is_of_agent;
use crate::fault::Fault;
use crate::log::Stream;
use crate::log::stamp::{now_ms, parse_time};
use crate::manager::lookup::Target;
use crate::manager::watch::Run;
use crate::manager::{GRACE, IfRunning, Manager, Overview, Request, Stopped};
use crate::output::cursor::Cursor;
use crate::output::query::{Query, Selection, select};
use crate::output::wait::{self, Caller, LONGEST, Outcome, Until};
use crate::sys;
use crate::words::{self, Word};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a call may use.
pub struct Context<'a> {
    pub manager: &'a Manager,
    pub caller: &'a dyn Caller,
    /// The caller is our own command line, which renders for people.
    wants_json: bool,
    /// Where the caller is, if it said so.
    near: Option<String>,
}

/// Members of `params._meta` by which our own command line asks for JSON, and says where it is.
pub const META_JSON: &str = "persistproc/json";
pub const META_DIRECTORY: &str = "persistproc/directory";

impl<'a> Context<'a> {
    pub fn new(manager: &'a Manager, caller: &'a dyn Caller) -> Context<'a> {
        Context { manager, caller, wants_json: false, near: None }
    }

    /// The same for one call, with what its `_meta` says.
    pub fn for_call(&self, meta: Option<&Map<String, Value>>) -> Context<'a> {
        let member = |key: &str| meta.and_then(|meta| meta.get(key));
        Context {
            wants_json: member(META_JSON) == Some(&Value::Bool(true)),
            near: member(META_DIRECTORY).and_then(Value::as_str).map(String::from),
            ..*self
        }
    }
}

/// What a tool found out or did.
pub enum Answer {
    Processes(Vec<Overview>),
    Control(Box<Control>),
    Output(Box<Output>),
}

/// What `ctrl` did.
pub struct Control {
    pub action: &'static str,
    pub run: Arc<Run>,
    /// Of a stop, also as part of a restart.
    pub stopped: Option<Stopped>,
    /// Of a start: what came out of it so far.
    pub first: Option<(Selection, Outcome)>,
}

/// What `output` read.
pub struct Output {
    pub run: Arc<Run>,
    pub selection: Selection,
    pub waited: Option<Outcome>,
    pub max_bytes: usize,
}

pub struct Tool {
    pub name: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    parameters: &'static [Parameter],
    is_read_only: bool,
    function: fn(&Arguments, &Context) -> Result<Answer, Fault>,
}

const PID: Parameter = optional("pid", Kind::Integer(0, 4_194_304), "");
const NAME: Parameter = optional("command_or_label", Kind::Text, "Label, command, PID or run (r12).");
const DIRECTORY: Parameter = optional("working_directory", Kind::Text, "Absolute path; only processes there.");
const LINES_MAX: i64 = 10_000;

const OUTPUT: &[Parameter] = &[
    PID,
    NAME,
    DIRECTORY,
    optional("stream", Kind::Choice(&["combined", "stdout", "stderr"]), "Default combined."),
    optional("lines", Kind::Integer(1, LINES_MAX), "The newest so many (100)."),
    optional("since_time", Kind::Text, "ISO 8601 (UTC without zone), or an age: 30s, 5m, 2h."),
    optional("before_time", Kind::Text, "Likewise; only lines older than this."),
    optional("after", Kind::Text, "A cursor from an earlier answer: only what came later."),
    optional(
        "wait_for",
        Kind::Text,
        "Regex over new lines, or \"quiet\": something new, then 500 ms of silence. Also returns when the process ends.",
    ),
    optional("timeout", Kind::Integer(0, 45), "Seconds to wait at most (15)."),
    optional("grep", Kind::Text, "Regex: only lines that match."),
    optional("context", Kind::Integer(0, 100), "Lines around each match (0)."),
    optional("max_bytes", Kind::Integer(500, 18_000), "Budget of the answer (8000)."),
];

/// In the order of `tools/list`, which never changes; the harmless one comes first.
static TOOLS: [Tool; 3] = [
    Tool {
        name: "list",
        title: "List processes",
        description: "List the processes that persistproc manages (dev servers, watchers, databases), started by the user or by any agent: \
label, PID, status, age, directory; for ended ones the exit code. Read-only. Call it before starting anything. Without \
arguments it lists all.",
        parameters: &[PID, NAME, DIRECTORY],
        is_read_only: true,
        function: list,
    },
    Tool {
        name: "output",
        title: "Read output",
        description: "Read what a managed process printed, the newest lines last; works for ended processes, too. Read-only. \
Every answer ends its first line with a cursor: pass it as `after` to get only what came later. To wait for something, \
use wait_for instead of sleeping or polling: after an edit, after=<cursor> with wait_for=\"quiet\" returns what the edit did.",
        parameters: OUTPUT,
        is_read_only: true,
        function: |arguments, context| {
            output(arguments, context, |_| {}).map(|output| Answer::Output(Box::new(output)))
        },
    },
    Tool {
        name: "ctrl",
        title: "Start, stop or restart a process",
        description: "Start, stop or restart a process that outlives this session. start runs `command_or_label` (no shell: for pipes or && use \
sh -c '…') in `working_directory`; it fails if that already runs, and says so. restart keeps command, directory, environment and label. \
stop ends the whole process tree, also what left its group. input writes `text` and a newline to stdin; signal sends the signal named in `text`. \
Stops and restarts affect the user and other agents.",
        parameters: &[
            required("action", Kind::Choice(&["start", "stop", "restart", "input", "signal"]), ""),
            PID,
            optional("command_or_label", Kind::Text, "For start the command, else as in output."),
            optional("working_directory", Kind::Text, "Absolute path; needed for start."),
            optional("environment", Kind::Strings, "For start: variables to add."),
            optional("force", Kind::Flag, "Stop: kill at once instead of after 8 s."),
            optional("label", Kind::Text, "For start: a short unique name."),
            optional("wait_for", Kind::Text, "Start, restart: regex that says it is ready."),
            optional("timeout", Kind::Integer(0, 45), "Seconds to wait for it (15)."),
            optional("text", Kind::Text, "For input and signal."),
        ],
        is_read_only: false,
        function: ctrl,
    },
];

pub fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name)
}

/// The answer of `tools/list`.
pub fn definitions() -> Vec<Value> {
    let define = |tool: &Tool| {
        let mut annotations = json!({"title": tool.title, "readOnlyHint": tool.is_read_only, "openWorldHint": false});
        if !tool.is_read_only {
            annotations["destructiveHint"] = json!(true);
            annotations["idempotentHint"] = json!(false);
        }
        json!({
            "name": tool.name,
            "title": tool.title,
            "description": tool.description,
            "inputSchema": schema(tool.parameters),
            "annotations": annotations,
        })
    };
    TOOLS.iter().map(define).collect()
}

/// Calls a tool; the text of its result, or the text of its failure.
pub fn call(tool: &Tool, arguments: &Map<String, Value>, context: &Context) -> Result<String, Fault> {
    let arguments = Arguments::check(arguments, tool.parameters)?;
    let answer = (tool.function)(&arguments, context)?;
    Ok(if context.wants_json { text::json(&answer).to_string() } else { text::text(&answer) })
}

/// Reads output for somebody who wants its bytes and not a text. `of_combined` takes the lines of a stream from
/// combined.log, so that the cursor is one of that.
pub fn read(arguments: &Map<String, Value>, of_combined: bool, context: &Context) -> Result<Output, Fault> {
    let arguments = Arguments::check(arguments, OUTPUT)?;
    output(&arguments, context, |query| {
        if of_combined && query.stream != Stream::Combined {
            query.only = Some(std::mem::replace(&mut query.stream, Stream::Combined));
        }
    })
}

fn target(arguments: &Arguments, context: &Context) -> Target {
    Target {
        pid: arguments.integer("pid").and_then(|pid| i32::try_from(pid).ok()),
        name: arguments.text("command_or_label").map(String::from),
        working_directory: arguments.text("working_directory").map(String::from),
        near: context.near.clone(),
    }
}

fn list(arguments: &Arguments, context: &Context) -> Result<Answer, Fault> {
    context.manager.list(&target(arguments, context)).map(Answer::Processes)
}

fn seconds(arguments: &Arguments) -> Duration {
    arguments.integer("timeout").map_or(Duration::from_secs(15), |s| Duration::from_secs(s.max(0) as u64)).min(LONGEST)
}

fn output(arguments: &Arguments, context: &Context, adapt: impl Fn(&mut Query)) -> Result<Output, Fault> {
    let after = arguments.text("after").map(str::parse::<Cursor>).transpose()?;
    let run = match after {
        // A cursor says by itself which run it belongs to.
        Some(cursor) => run_of(&cursor, arguments, context)?,
        None => context.manager.find(&target(arguments, context))?,
    };
    let mut query = query(arguments, after)?;
    adapt(&mut query);
    let until = arguments.text("wait_for").map(Until::parse).transpose()?;
    let mut selected = query.clone();
    let waited = match until {
        None => None,
        Some(until) => {
            let begun = begin(&run, &query)?;
            let outcome = wait::wait(&run, query.stream, begun.offset, &until, seconds(arguments), context.caller)?;
            selected.after = Some(begun);
            Some(outcome)
        }
    };
    let selection = select(&run, &selected).map_err(|error| wait::unreadable(&run, &error))?;
    let max_bytes = arguments.integer("max_bytes").unwrap_or(8000) as usize;
    Ok(Output { run, selection, waited, max_bytes })
}

/// The run of a cursor. One that is no longer kept is no error for somebody who also said which process is meant.
fn run_of(cursor: &Cursor, arguments: &Arguments, context: &Context) -> Result<Arc<Run>, Fault> {
    match context.manager.get(cursor.run) {
        Some(run) => Ok(run),
        None => Err(Fault::not_found(format!(
            "the cursor {cursor} belongs to a run that is not kept any more; leave `after` out to read {}",
            arguments.text("command_or_label").map_or("the newest run".into(), |name| format!("'{name}' as it is now"))
        ))),
    }
}

/// Where waiting begins: at the cursor, or at what is the end now.
fn begin(run: &Run, query: &Query) -> Result<Cursor, Fault> {
    match query.after {
        Some(after) => Ok(after),
        None => {
            let end = select(run, &Query { lines: 1, ..Query::tail(query.stream, 1) });
            end.map(|selection| selection.cursor).map_err(|error| wait::unreadable(run, &error))
        }
    }
}

fn query(arguments: &Arguments, after: Option<Cursor>) -> Result<Query, Fault> {
    let now = now_ms();
    let time = |name: &str| {
        let parse = |text: &str| parse_time(text, now).map_err(|problem| Fault::invalid(format!("{name}: {problem}")));
        arguments.text(name).map(parse).transpose()
    };
    let stream = arguments.text("stream").and_then(Stream::from_name);
    if let (Some(cursor), Some(stream)) = (after, stream)
        && cursor.stream != stream
    {
        return Err(Fault::invalid(format!(
            "the cursor {cursor} is of {}, not of {}",
            cursor.stream.name(),
            stream.name()
        )));
    }
    Ok(Query {
        since: time("since_time")?,
        before: time("before_time")?,
        after,
        grep: arguments.text("grep").map(wait::regex).transpose()?,
        context: arguments.integer("context").unwrap_or(0) as usize,
        ..Query::tail(
            stream.or(after.map(|cursor| cursor.stream)).unwrap_or(Stream::Combined),
            arguments.integer("lines").unwrap_or(100) as usize,
        )
    })
}

fn ctrl(arguments: &Arguments, context: &Context) -> Result<Answer, Fault> {
    let grace = if arguments.flag("force") { Duration::ZERO } else { GRACE };
    let control = match arguments.text("action") {
        Some("start") => start(arguments, context)?,
        Some("stop") => {
            let run = context.manager.find(&target(arguments, context))?;
            let stopped = context.manager.stop(&run, grace)?;
            Control { action: "stop", run, stopped: Some(stopped), first: None }
        }
        Some("restart") => {
            let old = context.manager.find(&target(arguments, context))?;
            let until = arguments.text("wait_for").map(wait::regex).transpose()?;
            let started = context.manager.restart(&old, grace)?;
            let first = first_output(&started.run, until.map(Until::Match), arguments, context)?;
            Control { action: "restart", run: started.run, stopped: None, first: Some(first) }
        }
        Some("input") => {
            let run = context.manager.find(&target(arguments, context))?;
            let text = arguments.text("text").ok_or_else(|| Fault::invalid("input needs the parameter 'text'"))?;
            context.manager.input(&run, format!("{}\n", text.strip_suffix('\n').unwrap_or(text)).as_bytes())?;
            Control { action: "input", run, stopped: None, first: None }
        }
        _ => {
            let run = context.manager.find(&target(arguments, context))?;
            let name = arguments.text("text").unwrap_or("");
            let number = sys::signal_number(name);
            let number = number.ok_or_else(|| {
                Fault::invalid(format!("'{name}' is no signal; 'text' names one, such as HUP or USR1"))
            })?;
            context.manager.signal(&run, number)?;
            Control { action: "signal", run, stopped: None, first: None }
        }
    };
    Ok(Answer::Control(Box::new(control)))
}

fn start(arguments: &Arguments, context: &Context) -> Result<Control, Fault> {
    let command = arguments.text("command_or_label").unwrap_or("").trim();
    if command.is_empty() {
        return Err(Fault::invalid("start needs the command in 'command_or_label'"));
    }
    let directory = arguments.text("working_directory").map(str::trim).filter(|d| !d.is_empty()).ok_or_else(|| {
        Fault::invalid("start needs 'working_directory', the absolute path of the project: this server does not know where you are")
    })?;
    let until = arguments.text("wait_for").map(wait::regex).transpose()?;
    let argv = words::split(command).map_err(Fault::invalid)?.into_iter().map(Word::from).collect();
    let added = arguments.strings("environment");
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if command.contains('\0') || added.iter().any(|(name, value)| !is_name(name) || value.contains('\0')) {
        return Err(Fault::invalid(
            "no program can be given this: NUL in the command or in a variable, or a variable whose name is empty or holds =",
        ));
    }
    // The server may have been started from the shell of one agent, and starts things for all.
    let inherited = std::env::vars_os()
        .filter(|(name, value)| !is_of_agent(name, value) && !added.iter().any(|(added, _)| name == added));
    let environment = inherited
        .map(|(name, value)| (Word(name), Word(value)))
        .chain(added.iter().map(|(name, value)| (Word::from(*name), Word::from(*value))))
        .collect();
    let request = Request {
        argv,
        working_directory: PathBuf::from(directory),
        environment,
        label: arguments.text("label").map(String::from),
        idempotency_key: None,
    };
    let started = context.manager.start(request, IfRunning::Refuse)?;
    let first = first_output(&started.run, until.map(Until::Match), arguments, context)?;
    Ok(Control { action: "start", run: started.run, stopped: None, first: Some(first) })
}

/// How long a fresh process is watched when nobody said what to wait for: most of what fails at once fails in this.
const SETTLING: Duration = Duration::from_millis(300);

fn first_output(
    run: &Run,
    until: Option<Until>,
    arguments: &Arguments,
    context: &Context,
) -> Result<(Selection, Outcome), Fault> {
    let limit = if until.is_some() { seconds(arguments) } else { SETTLING };
    let outcome = wait::wait(run, Stream::Combined, 0, &until.unwrap_or(Until::Over), limit, context.caller)?;
    let selection = select(run, &Query::tail(Stream::Combined, 20)).map_err(|error| wait::unreadable(run, &error))?;
    Ok((selection, outcome))
}
