//! `output --follow` shows what the same command without it shows at the end, and it ends when it is told to.

use crate::support::*;
use serde_json::json;
use std::io::Read;
use std::process::Child;
use std::time::{Duration, Instant};

/// Obeys lines of its input: `1n text` prints a line on stdout, `2-text` the beginning of one on stderr, `.` ends it.
const OBEDIENT: &str = r#"while IFS= read -r line; do
    text=${line#??}; rest=${line#?}
    case $line in
        .) exit 0 ;;
        1n*) printf '%s\n' "$text" ;;
        2n*) printf '%s\n' "$text" >&2 ;;
        1*) printf '%s' "${rest#?}" ;;
        2*) printf '%s' "${rest#?}" >&2 ;;
    esac
done"#;
/// A label that looks like the beginning of a line of several processes, and one that is a word of the lines.
const LABELS: [&str; 2] = ["x: y", "other"];

fn start_obedient(sandbox: &Sandbox) {
    for label in LABELS {
        sandbox.run(&["start", "--label", label, "sh", "-c", OBEDIENT]).ok();
    }
}

fn input(sandbox: &Sandbox, label: &str, lines: &[String]) {
    sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": label, "text": lines.join("\n")}));
}

/// Something that follows, and what it has printed so far.
struct Follower {
    child: Child,
    seen: Vec<u8>,
}

impl Follower {
    fn new(sandbox: &Sandbox, words: &[&str]) -> Follower {
        Follower { child: sandbox.spawn(words), seen: Vec::new() }
    }

    /// Reads lines until it has printed this many that end like this.
    fn read_until(&mut self, count: usize, end: &str) {
        let out = self.child.stdout.as_mut().unwrap();
        let mut byte = [0];
        let mut found = 0;
        while found < count {
            out.read_exact(&mut byte).unwrap();
            self.seen.push(byte[0]);
            found += usize::from(byte == *b"\n" && self.seen.ends_with(format!("{end}\n").as_bytes()));
        }
    }

    /// All lines, once it has ended by itself.
    fn lines(self) -> Vec<String> {
        let ended = finish(self.child, DEADLINE).ok();
        lines(&[self.seen, ended.stdout].concat())
    }
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(String::from).collect()
}

fn texts(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| &line[25..]).collect()
}

/// The lines of each process: how those of several mix depends on when each is read.
fn by_process(lines: &[String]) -> Vec<Vec<&String>> {
    let is_of = |line: &&String, label: &str| line[25..].starts_with(&format!("{label}: "));
    let of = |label: &&str| lines.iter().filter(|line| is_of(line, label)).collect();
    LABELS.iter().map(of).collect()
}

#[test]
fn a_search_looks_at_the_line_and_not_at_the_name_in_front_of_it() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_obedient(&sandbox);
    LABELS.iter().for_each(|label| input(&sandbox, label, &["1nmsg error start".into()]));
    let followed = |words: &[&str]| Follower::new(&sandbox, &[&["output", "--follow", "--grep"], words].concat());
    let mut one = followed(&["^error|start$", "other"]);
    let mut both = followed(&["^msg", "x: y,other"]);
    let mut named = followed(&["other|start$", "x: y,other"]);
    one.read_until(1, "start");
    [&mut both, &mut named].into_iter().for_each(|follower| follower.read_until(2, "start"));
    for label in LABELS {
        let lines = ["1nmsg 1", "1nnote: error 2", "1nerror 3", "1nmsg 4", "."];
        input(&sandbox, label, &lines.map(String::from));
    }
    assert_eq!(texts(&one.lines()), ["msg error start", "error 3"]);
    let (both, named) = (both.lines(), named.lines());
    for (lines, label) in by_process(&both).into_iter().zip(LABELS) {
        let texts: Vec<String> = lines.iter().map(|line| line[25..].replace(&format!("{label}: "), "")).collect();
        assert_eq!(texts, ["msg error start", "msg 1", "msg 4"], "{both:?}");
    }
    assert_eq!(named.len(), 2, "{named:?}");
}

/// The same numbers every time (Knuth's linear congruential generator).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    /// A line of input that prints a line, or a part of one.
    fn order(&mut self) -> String {
        let stream = 1 + self.below(2);
        let end = if self.below(4) == 0 { '-' } else { 'n' };
        let texts = ["error", "note: error", "msg", "other", "x: y: z", "y: msg", "plain", "", "nothing: to: see"];
        format!("{stream}{end}{} {}", texts[self.below(texts.len())], self.below(1000))
    }

    fn orders(&mut self, most: usize) -> Vec<String> {
        (0..1 + self.below(most)).map(|_| self.order()).collect()
    }
}

#[test]
fn a_search_while_following_finds_what_it_finds_at_the_end() {
    const PATTERNS: [&str; 5] = ["^error", "^msg", "other", "x", "y: "];
    for seed in 0..4 {
        let sandbox = Sandbox::new();
        let _server = sandbox.serve();
        start_obedient(&sandbox);
        let mut random = Random(seed);
        for label in LABELS {
            let start = ["2n".to_string(), "1n".into(), "1n start".to_string()];
            input(&sandbox, label, &[random.orders(12), start.into()].concat());
        }
        let questions: Vec<Vec<String>> = (0..6)
            .map(|i| {
                let target = if i < 4 { "x: y,other" } else { LABELS[i % 2] };
                let pattern = format!("{}| start$", PATTERNS[random.below(PATTERNS.len())]);
                let context = random.below(4).to_string();
                if i == 3 {
                    return ["output", target, "--lines", "10000"].map(String::from).into();
                }
                ["output", target, "--lines", "10000", "--grep", &pattern, "--context", &context]
                    .map(String::from)
                    .into()
            })
            .collect();
        let question = |i: usize| questions[i].iter().map(String::as_str).collect::<Vec<_>>();
        let mut followers: Vec<Follower> =
            (0..questions.len()).map(|i| Follower::new(&sandbox, &[question(i), vec!["--follow"]].concat())).collect();
        // Each has had its first answer, and what comes now comes in later ones.
        followers
            .iter_mut()
            .enumerate()
            .for_each(|(i, follower)| follower.read_until(if i < 4 { 2 } else { 1 }, " start"));
        for _ in 0..6 {
            let label = LABELS[random.below(2)];
            input(&sandbox, label, &random.orders(5));
            let shown = sandbox.run(&["output", label, "--lines", "1"]).ok(); // and some time passes
            assert!(!shown.stdout.is_empty());
        }
        // One of them ends in the middle of a line, which comes once, and the other goes on.
        input(&sandbox, LABELS[0], &["1-msg x: y: the end of other".into(), ".".into()]);
        for _ in 0..4 {
            input(&sandbox, LABELS[1], &random.orders(3));
            sandbox.run(&["output", LABELS[0], "--lines", "1"]).ok();
        }
        input(&sandbox, LABELS[1], &[".".into()]);
        for (i, follower) in followers.into_iter().enumerate() {
            let followed = follower.lines();
            let at_the_end = lines(&sandbox.run(&question(i)).ok().stdout);
            if i < 4 {
                assert_eq!(by_process(&followed), by_process(&at_the_end), "seed {seed}: {:?}", question(i));
                assert_eq!(followed.len(), at_the_end.len(), "seed {seed}: {:?}", question(i));
            } else {
                assert_eq!(followed, at_the_end, "seed {seed}: {:?}", question(i));
            }
        }
    }
}

#[test]
fn the_context_of_a_match_begins_where_following_began() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    start_obedient(&sandbox);
    let print = |lines: &[&str]| input(&sandbox, "other", &lines.iter().map(|l| format!("1n{l}")).collect::<Vec<_>>());
    let first = |words: &[&str]| sandbox.run(&[&["--format", "json", "output", "other"], words].concat()).ok().json();
    print(&["one", "match 1", "two", "three"]);
    wait_until("its lines", || first(&[])["output"].as_array().unwrap().len() == 4);
    let cursor = first(&[])["cursor"].as_str().unwrap().to_string();
    print(&["four"]);
    wait_until("its line", || first(&[])["output"].as_array().unwrap().len() == 5);
    let follow = |words: &[&str]| {
        let all = ["output", "other", "--follow", "--grep", "match", "--context", "3"];
        Follower::new(&sandbox, &[&all, words].concat())
    };
    let all = follow(&[]);
    let after = follow(&["--after", &cursor]);
    let since = follow(&["--since-time", "1h"]);
    let news = follow(&["--lines", "0"]);
    let mut followers = [all, after, since, news];
    // One line after the other, so that some of them come in answers of their own.
    for i in 2..6 {
        print(&[&format!("match {i}")]);
        followers[0].read_until(1, &format!("match {i}"));
    }
    print(&["five"]);
    input(&sandbox, "other", &[".".into()]);
    let [all, after, since, news] = followers.map(Follower::lines);
    let matches = ["match 2", "match 3", "match 4", "match 5", "five"];
    let whole = [&["one", "match 1", "two", "three", "four"][..], &matches].concat();
    assert_eq!(texts(&all), whole);
    assert_eq!(texts(&since), whole);
    assert_eq!(texts(&after), [&["four"][..], &matches].concat());
    let news = texts(&news);
    assert!(matches.ends_with(&news), "only what came after it began, be it nothing: {news:?}");
}

#[test]
fn a_line_that_is_waited_for_counts_if_it_came_after_the_cursor_and_before_following_began() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    sandbox.run(&["start", "--label", "live", "sh", "-c", "echo up; echo ready; echo more; read never"]).ok();
    sandbox.run(&["start", "--label", "over", "sh", "-c", "echo up; echo ready; echo more"]).ok();
    for (label, run) in [("live", "r1"), ("over", "r2")] {
        wait_until("its last line", || sandbox.run(&["output", label]).ok().out().contains("more"));
        let cursor = format!("{run}.combined.0");
        for options in [&[][..], &["--lines", "1"], &["--grep", "more"], &["--grep", "ready"]] {
            let words = [
                &["output", label, "--follow", "--after", &cursor, "--wait-for", "^ready$", "--timeout", "5"],
                options,
            ];
            let ended = sandbox.run(&words.concat());
            assert_eq!(ended.code, 0, "{words:?}: {ended:?}");
        }
    }
    let words = ["output", "over", "--follow", "--after", "r2.combined.0", "--wait-for", "never"];
    let ended = sandbox.run(&words);
    assert!(ended.code == 1 && ended.stderr.contains("no line matched"), "{ended:?}");
}

/// What `--follow` is asked for, in all the ways in which it reads: bytes, lines of several, a search.
const WAYS: [&[&str]; 4] = [&["p"], &["p,q"], &["p", "--grep", "up"], &["p", "--lines", "0", "--stream", "stderr"]];

#[test]
fn a_timeout_ends_following_whatever_is_followed() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["p", "q"] {
        sandbox.run(&["start", "--label", label, "sh", "-c", "echo up; exec sleep 600"]).ok();
    }
    let began = Instant::now();
    let follow = |words: &[&str]| sandbox.spawn(&[&["output", "--follow", "--timeout", "1"], words].concat());
    let following: Vec<Child> = WAYS.iter().map(|words| follow(words)).collect();
    let waiting = follow(&["p", "--wait-for", "never"]);
    for (child, words) in following.into_iter().zip(WAYS) {
        let ended = finish(child, DEADLINE);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{words:?}: {ended:?}");
    }
    let ended = finish(waiting, DEADLINE);
    assert!(ended.code == 1 && ended.stderr.contains("timed out: no line matched"), "{ended:?}");
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_timeout_ends_following_even_while_the_process_is_restarted_repeatedly() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    for label in ["p", "q"] {
        sandbox.run(&["start", "--label", label, "sh", "-c", "echo up; exec sleep 600"]).ok();
    }
    let follow = |words: &&[&str]| sandbox.spawn(&[&["output", "--follow", "--timeout", "1"], *words].concat());
    let mut following: Vec<Child> = WAYS.iter().map(follow).collect();
    let begun = Instant::now();
    while following.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        assert!(begun.elapsed() < DEADLINE, "it goes on and on");
        sandbox.run(&["restart", "p"]).ok();
    }
    following.into_iter().for_each(|child| drop(finish(child, DEADLINE).ok()));
}

#[test]
fn a_timeout_ends_following_even_if_its_output_is_not_read() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    // More than a pipe holds, at first and later.
    let script = "seq 1 10000; echo up; while read x; do seq 1 10000; done";
    for label in ["p", "q"] {
        sandbox.run(&["start", "--label", label, "sh", "-c", script]).ok();
        wait_until("its lines", || sandbox.run(&["output", label, "-n", "1"]).ok().out().ends_with("up\n"));
    }
    let follow = |words: &[&str]| sandbox.spawn(&[&["output", "--follow", "--timeout", "1"], words].concat());
    let mut following = [
        follow(&["p", "--lines", "10000"]),
        follow(&["p,q", "--lines", "10000"]),
        follow(&["p", "--lines", "10000", "--grep", "[0-9]"]),
        follow(&["p", "--lines", "1"]),
        follow(&["p,q", "--lines", "1"]),
        follow(&["p", "--lines", "1", "--grep", "[0-9]"]),
    ];
    for _ in 0..5 {
        sandbox.tool_ok("ctrl", json!({"action": "input", "command_or_label": "p", "text": ""}));
    }
    let begun = Instant::now();
    for (i, child) in following.iter_mut().enumerate() {
        let code = wait_for(&format!("the end of {i}"), || child.try_wait().unwrap()).code();
        assert_eq!(code, Some(0), "{i}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
}
