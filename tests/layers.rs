//! Modules and what they may import: a module calls those below it and never one above, and some things are done in one
//! module only.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module, from the top down, and the modules that it may import.
const MODULES: [(&str, &[&str]); 22] = [
    ("main", &["attributes", "cli", "client", "config", "error", "init", "server", "shim", "sys"]),
    ("init", &["client", "procs", "sys"]),
    (
        "client",
        &[
            "agents",
            "api",
            "attributes",
            "cli",
            "config",
            "discovery",
            "error",
            "http",
            "lease",
            "log",
            "mcp",
            "output",
            "procs",
            "sys",
            "os_text",
        ],
    ),
    ("cli", &["api", "config", "os_text"]),
    (
        "server",
        &[
            "api",
            "attributes",
            "config",
            "discovery",
            "error",
            "http",
            "log",
            "manager",
            "mcp",
            "output",
            "procs",
            "sys",
            "os_text",
        ],
    ),
    ("mcp", &["agents", "api", "attributes", "error", "log", "manager", "output", "rundir", "sys", "os_text"]),
    ("output", &["api", "error", "log", "manager", "os_text"]),
    ("manager", &["api", "attributes", "error", "lease", "log", "procs", "rundir", "shim", "sys", "os_text"]),
    ("shim", &["attributes", "lease", "log", "procs", "rundir", "sys"]),
    ("api", &["attributes", "error", "log", "rundir", "os_text"]),
    ("discovery", &["http", "procs", "sys"]),
    ("http", &["sys"]),
    ("config", &[]),
    ("rundir", &["attributes", "sys", "os_text"]),
    ("log", &["sys"]),
    ("attributes", &["sys"]),
    ("lease", &["sys"]),
    ("agents", &[]),
    ("procs", &["sys"]),
    ("error", &["os_text"]),
    ("os_text", &[]),
    ("sys", &[]),
];

/// Files below a directory, without what a build leaves there.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let entries = entries.filter(|path| !path.ends_with("target"));
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Module, file, and the code of the file without comments and tests.
fn code() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> = sources(&src);
    files.sort();
    files
        .iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let inside = path.strip_prefix(&src).unwrap();
            let module = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
            let text = fs::read_to_string(path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            (module, inside.display().to_string(), lines.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

#[test]
fn every_module_is_listed_and_imports_only_modules_below_it() {
    let position = |module: &str| MODULES.iter().position(|(name, _)| *name == module);
    let mut problems = Vec::new();
    for (module, file, text) in code() {
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            problems.push(format!("{file}: its module is not listed"));
            continue;
        };
        for used in text.split("crate::").skip(1) {
            let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // `use crate::{procs, sys};`
            let names = if name.is_empty() {
                used.trim_start_matches('{')
                    .split('}')
                    .next()
                    .unwrap()
                    .split(',')
                    .map(|n| n.trim().to_string())
                    .collect()
            } else {
                vec![name]
            };
            for name in names.iter().filter(|name| **name != module) {
                if !allowed.contains(&name.as_str()) {
                    problems.push(format!("{file}: may not import {name}"));
                }
            }
        }
    }
    for (module, allowed) in MODULES {
        let above = allowed.iter().filter(|imported| position(imported) <= position(module));
        problems.extend(above.map(|imported| format!("{module} may not import {imported}, which is above it")));
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn some_things_are_done_in_few_modules() {
    /// What is done, the modules that may do it, and how to recognise it in code.
    const RESERVED: [(&str, &[&str], &[&str]); 6] = [
        ("system calls", &["sys"], &["unsafe ", "libc::"]),
        (
            "JSON",
            &["api", "attributes", "cli", "client", "discovery", "manager", "mcp", "rundir", "server", "os_text"],
            &["serde_json"],
        ),
        ("sockets", &["http", "server"], &["TcpStream", "TcpListener", "UnixStream"]),
        ("parsing HTTP", &["http"], &["httparse"]),
        ("signalling processes", &["init", "shim"], &["sys::kill"]),
        ("printing", &["client"], &["println!", "print!(", "io::stdout", "io::stderr"]),
    ];
    let mut problems = Vec::new();
    for (module, file, text) in code() {
        for (what, modules, patterns) in RESERVED {
            let is_allowed = modules.contains(&module.as_str());
            let found = patterns.iter().filter(|pattern| !is_allowed && text.contains(**pattern));
            problems.extend(found.map(|pattern| format!("{file}: has {pattern}, but only {modules:?} do: {what}")));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// `terminal::print` accepts lines of text and escapes them; only these functions print bytes unchanged.
#[test]
fn only_what_programs_print_reaches_the_terminal_as_it_is() {
    const PASS_ON: [&str; 5] = [
        "client/bridge/mod.rs",
        "client/output.rs",
        "client/wait_ready.rs",
        "client/terminal.rs",
        "client/follow/writer.rs",
    ];
    const RAW: [&str; 2] = ["terminal::write(", "terminal::pass_on("];
    const STREAMS: [&str; 4] = ["io::stdout(", "io::stderr(", "stdout().write", "stderr().write"];
    let mut problems = Vec::new();
    for (_, file, text) in code() {
        let has = |patterns: &[&str]| patterns.iter().any(|pattern| text.contains(pattern));
        if has(&RAW) && !PASS_ON.contains(&file.as_str()) {
            problems.push(format!("{file}: our own text goes through terminal::print, note or complain"));
        }
        if has(&STREAMS) && file != "client/terminal.rs" {
            problems.push(format!("{file}: only client/terminal.rs prints"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn no_file_has_more_than_500_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [root.join("src"), root.join("tests")].iter().flat_map(|dir| sources(dir)).collect::<Vec<PathBuf>>();
    let rust = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().count();
    let long: Vec<String> = rust
        .filter(|path| lines(path) > 500)
        .map(|path| format!("{}: {} lines", path.display(), lines(path)))
        .collect();
    assert!(long.is_empty(), "which module do these hide? {long:#?}");
}

/// Files of one module import each other in one direction: none reaches itself again.
#[test]
fn files_of_a_module_do_not_import_each_other_in_a_circle() {
    let files = code();
    let mut problems = Vec::new();
    let names = |text: &str| -> Vec<String> {
        let words = text.split("super::").skip(1);
        let name = |used: &str| used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        words.map(name).filter(|name| !name.is_empty()).collect()
    };
    for module in ["api", "client/follow", "http", "log", "output", "server"] {
        let prefix = format!("{module}/");
        let imports: Vec<(String, Vec<String>)> = files
            .iter()
            .filter_map(|(_, file, text)| Some((file.strip_prefix(&prefix)?.strip_suffix(".rs")?.to_string(), text)))
            .filter(|(name, _)| name != "mod" && !name.contains('/'))
            .map(|(name, text)| (name, names(text)))
            .collect();
        let of = |name: &str| imports.iter().find(|(known, _)| known == name).map_or(&[][..], |(_, used)| used);
        for (start, used) in &imports {
            let (mut seen, mut next) = (Vec::new(), used.clone());
            while let Some(name) = next.pop() {
                if !seen.contains(&name) {
                    next.extend(of(&name).iter().cloned());
                    seen.push(name);
                }
            }
            if seen.contains(start) {
                problems.push(format!("{module}/{start}.rs imports itself through others"));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}
