//! What comes through the wrapper, whole, with default settings and consumers of every kind: the loads at which version
//! 0.3.0 lost lines.

use super::figure;
use crate::readers::wrappers_at_once;
use crate::support::*;
use std::io::{BufReader, Read};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const LINES: u64 = 40_000_000;

/// A wrapper of `seq 1 40000000`, and what `consume` makes of its output, must agree; the time that took.
fn flood(what: &str, consume: impl FnOnce(&Sandbox, ChildStdout) -> Box<dyn Read>) {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let begun = Instant::now();
    let mut wrapper = Guard(sandbox.spawn(&["-q", "seq", "1", &LINES.to_string()]));
    let mut out = consume(&sandbox, wrapper.0.stdout.take().unwrap());
    assert_eq!(count(&mut out), Ok(LINES), "{what}");
    let ended = wrapper.end(DEADLINE);
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{what}");
    figure(&format!("40,000,000 lines {what}: lines missing"), 0);
    figure("  in", format!("{:.1} s", begun.elapsed().as_secs_f64()));
}

/// How many lines there are, if they are 1, 2, 3 and so on.
fn count(out: &mut impl Read) -> Result<u64, String> {
    let (mut next, mut number, mut is_empty) = (1u64, 0u64, true);
    for byte in BufReader::with_capacity(1 << 18, out).bytes() {
        match byte.map_err(|error| error.to_string())? {
            b'\n' if number == next && !is_empty => (next, number, is_empty) = (next + 1, 0, true),
            digit @ b'0'..=b'9' => (number, is_empty) = (number * 10 + u64::from(digit - b'0'), false),
            other => return Err(format!("in line {next}, behind {number}: {other:?}")),
        }
    }
    Ok(next - 1)
}

/// What a program makes of it, and another one makes of that.
fn piped(sandbox: &Sandbox, out: ChildStdout, script: &str) -> Box<dyn Read> {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(sandbox.work()).stdin(out).stdout(Stdio::piped());
    Box::new(command.spawn().unwrap().stdout.unwrap())
}

/// Reads at a rate that a person at a network would be glad of.
struct Slow<R>(R, Instant, u64);

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        const RATE: f64 = 30e6;
        let due = Duration::from_secs_f64(self.2 as f64 / RATE);
        std::thread::sleep(due.saturating_sub(self.1.elapsed()));
        let n = self.0.read(buffer)?;
        self.2 += n as u64;
        Ok(n)
    }
}

#[test]
#[ignore = "long: make torture"]
fn forty_million_lines_are_whole_whatever_reads_them() {
    flood("into a file", |sandbox, out| piped(sandbox, out, "cat > out && cat out; rm out"));
    flood("through gzip -6", |sandbox, out| piped(sandbox, out, "gzip -6 | gzip -d"));
    flood("to a reader of 30 MB/s", |_, out| Box::new(Slow(out, Instant::now(), 0)));
    flood("to a reader that sleeps for 3 s first", |_, out| {
        std::thread::sleep(Duration::from_secs(3));
        Box::new(out)
    });
}

#[test]
#[ignore = "long: make torture"]
fn ninety_programs_that_exit_at_once_and_five_hundred_wrappers() {
    for round in 0..3 {
        assert_eq!(wrappers_at_once(90), Vec::<String>::new(), "round {round}");
    }
    figure("3 x 90 programs that end at once: last lines missing", 0);
    let begun = Instant::now();
    assert_eq!(wrappers_at_once(500), Vec::<String>::new());
    figure("500 wrappers at once: wrong ones", 0);
    figure("  in", format!("{:.1} s", begun.elapsed().as_secs_f64()));
}

#[test]
#[ignore = "long: make torture"]
fn sixty_servers_killed_during_a_restart() {
    assert_eq!(crate::durable_requests::restarts_with_kills(60), 0);
    figure("60 x kill -9 of the server during a restart: processes lost or doubled", 0);
}
