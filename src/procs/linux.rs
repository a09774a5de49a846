//! Processes as /proc tells of them (proc(5)).

use super::Process;
use crate::sys;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// One line of /proc/PID/stat. The name stands in brackets and may itself hold brackets and blanks.
pub fn parse_stat(line: &str) -> Option<Process> {
    let (head, tail) = line.split_at(line.rfind(')')?);
    let (pid, name) = head.split_once(" (")?;
    let mut fields = tail.get(2..)?.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let threads = fields.nth(13)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    Some(Process { pid: pid.parse().ok()?, parent, group, session, start, state, threads, name: name.into() })
}

fn stat_line(pid: i32) -> io::Result<String> {
    let mut line = [0; 1024];
    let n = std::fs::File::open(format!("/proc/{pid}/stat"))?.read(&mut line)?;
    Ok(String::from_utf8_lossy(&line[..n]).into_owned())
}

/// What was read of a process that may have ended: an error only if the system had no resources for reading it.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if sys::is_exhaustion(&error) => Err(error),
        read => Ok(read.ok()),
    }
}

/// Processor time in milliseconds, that of reaped children included, and resident memory in bytes.
pub fn cpu_and_memory(pid: i32) -> Option<(u64, u64)> {
    let line = stat_line(pid).ok()?;
    let fields: Vec<&str> = line.rsplit_once(") ")?.1.split(' ').collect();
    let number = |i: usize| fields.get(i).and_then(|field| field.parse::<u64>().ok());
    let ticks: u64 = (11..15).filter_map(number).sum();
    Some((ticks * 1000 / sys::ticks_per_second(), number(21)? * sys::page_size()))
}

/// Sockets that listen, by their inodes. The tables begin with them (tcp_seq_start in the kernel's tcp_ipv4.c), so
/// what comes after them, thousands of connections on a busy machine, is not read.
pub fn listeners() -> BTreeMap<u64, u16> {
    let mut found = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(file) = std::fs::File::open(table) else { continue };
        // Small pieces, because the system makes as much of the table as is asked for.
        let lines = BufReader::with_capacity(1024, file).lines().skip(1).map_while(Result::ok);
        found.extend(lines.map_while(|line| parse_listener(&line)));
    }
    found
}

fn parse_listener(line: &str) -> Option<(u64, u16)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    if *fields.get(3)? == "0A" { Some((fields.get(9)?.parse().ok()?, port)) } else { None }
}

/// What a process has open: paths of files, `socket:[INODE]`, `pipe:[INODE]`.
pub fn open_files(pid: i32) -> Vec<PathBuf> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| std::fs::read_link(file.path()).ok()).collect()
}

/// Inodes of the pipes that a process holds, and whether it may write to each: the flags of the descriptor, in octal,
/// end in how it was opened (proc_pid_fdinfo(5)). An error means that the system had no resources for the lookup.
pub fn pipes(pid: i32) -> io::Result<Vec<(u64, bool)>> {
    let mut found = Vec::new();
    for entry in unless_gone(std::fs::read_dir(format!("/proc/{pid}/fd")))?.into_iter().flatten().flatten() {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        let inode = link.to_str().and_then(|link| link.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok());
        let Some(inode) = inode else { continue };
        let number = entry.file_name();
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy()));
        let info = unless_gone(info)?.unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        found.extend(flags.map(|flags| (inode, !flags.trim().ends_with('0'))));
    }
    Ok(found)
}

/// Inodes of the sockets that a process holds.
pub fn sockets(pid: i32) -> Vec<u64> {
    let inode = |link: &PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    open_files(pid).iter().filter_map(inode).collect()
}

pub fn look_up(pid: i32) -> Option<Process> {
    parse_stat(&stat_line(pid).ok()?)
}

pub use crate::sys::ticks_per_second;

/// The first half of the random name that the system gives itself at its start, and the namespaces (numbers of 32 bits)
/// in which pids and the clock mean what they mean here; 0 for a kernel without them.
pub fn now() -> Option<(u64, u64)> {
    let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = name.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    let namespace = |kind: &str| std::fs::metadata(format!("/proc/self/ns/{kind}")).map_or(0, |file| file.ino());
    let boot = u64::from_str_radix(&digits, 16).ok()? ^ namespace("pid") ^ (namespace("time") << 32);
    Some((boot, sys::ticks_since_boot()))
}

/// All processes whose pid is not among these, in the order of pids.
pub fn each_but(known: &BTreeSet<i32>, mut see: impl FnMut(Process)) -> io::Result<()> {
    for entry in unless_gone(std::fs::read_dir("/proc"))?.into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| !known.contains(pid)) else { continue };
        unless_gone(stat_line(pid))?.and_then(|line| parse_stat(&line)).into_iter().for_each(&mut see);
    }
    Ok(())
}

/// Whose environment holds a mark.
pub struct Holders<'a>(&'a str);

impl<'a> Holders<'a> {
    pub fn of(mark: &'a str) -> Holders<'a> {
        Holders(mark)
    }
    pub fn have(&self, pid: i32) -> io::Result<bool> {
        let environment = unless_gone(std::fs::read(format!("/proc/{pid}/environ")))?.unwrap_or_default();
        Ok(environment.split(|&b| b == 0).any(|entry| entry == self.0.as_bytes()))
    }
}

pub fn arguments(pid: i32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    line.split(|&b| b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// /proc/net/tcp tells the socket's inode, /proc/PID/fd which process has it.
pub fn listener(port: u16) -> Option<(i32, String)> {
    let own = listeners();
    let listens = |socket: &u64| own.get(socket) == Some(&port);
    let process = super::all_processes().ok()?.into_iter().find(|process| sockets(process.pid).iter().any(listens))?;
    Some((process.pid, process.name))
}
