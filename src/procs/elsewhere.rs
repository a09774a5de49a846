//! Processes as ps(1) tells of them, where there is no /proc (macOS). What it does not tell is left out.

use super::Process;
use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Stdio};

fn ps(arguments: &[&str]) -> String {
    listed(arguments).map_or(String::new(), |(_, text)| text)
}

/// The pid of ps itself, which is a child of this process, and its output.
fn listed(arguments: &[&str]) -> io::Result<(i32, String)> {
    let mut ps = Command::new("/bin/ps");
    ps.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = ps.spawn()?;
    let pid = child.id() as i32;
    let output = child.wait_with_output()?;
    Ok((pid, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// `pid ppid pgid state Mon Nov 23 15:00:58 2026 name`: the start as text is as good an identity as a number.
fn parse(line: &str) -> Option<Process> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |i: usize| words.get(i)?.parse().ok();
    let start = words.get(4..9)?.join(" ");
    let hash = start.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    Some(Process {
        pid: number(0)?,
        parent: number(1)?,
        group: number(2)?,
        session: 0,
        start: hash,
        state: *words.get(3)?.as_bytes().first()?,
        threads: 1,
        name: words.get(9)?.rsplit('/').next()?.into(),
    })
}

const COLUMNS: &str = "pid=,ppid=,pgid=,state=,lstart=,comm=";

pub fn look_up(pid: i32) -> Option<Process> {
    ps(&["-p", &pid.to_string(), "-o", COLUMNS]).lines().find_map(parse)
}

pub fn ticks_per_second() -> u64 {
    1
}

/// Start times are no numbers here.
pub fn now() -> Option<(u64, u64)> {
    None
}

pub fn each_but(known: &BTreeSet<i32>, see: impl FnMut(Process)) -> io::Result<()> {
    let (own, all) = listed(&["-A", "-o", COLUMNS])?;
    let is_wanted = |process: &Process| process.pid != own && !known.contains(&process.pid);
    all.lines().filter_map(parse).filter(is_wanted).for_each(see);
    Ok(())
}

/// Whose environment holds a mark, which may hold blanks, as the usual data directory does. One ps(1) tells all.
pub struct Holders(BTreeSet<i32>);

impl Holders {
    pub fn of(mark: &str) -> Holders {
        let mark = format!(" {mark} ");
        let all = ps(&["-A", "-E", "-ww", "-o", "pid=,command="]);
        let lines = all.lines().filter(|line| format!("{line} ").contains(&mark));
        Holders(lines.filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok()).collect())
    }
    pub fn have(&self, pid: i32) -> io::Result<bool> {
        Ok(self.0.contains(&pid))
    }
}

pub fn arguments(pid: i32) -> Vec<String> {
    let line = ps(&["-ww", "-p", &pid.to_string(), "-o", "command="]);
    line.split_ascii_whitespace().map(String::from).collect()
}

pub fn listener(_port: u16) -> Option<(i32, String)> {
    None
}

pub fn listeners() -> std::collections::BTreeMap<u64, u16> {
    Default::default()
}

pub fn open_files(_pid: i32) -> Vec<std::path::PathBuf> {
    Vec::new()
}

pub fn pipes(_pid: i32) -> io::Result<Vec<(u64, bool)>> {
    Ok(Vec::new())
}

pub fn sockets(_pid: i32) -> Vec<u64> {
    Vec::new()
}

pub fn cpu_and_memory(_pid: i32) -> Option<(u64, u64)> {
    None
}
