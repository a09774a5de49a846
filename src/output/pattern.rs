//! Search patterns: a regular expression over lines as they are seen, so that colours do not count.
//!
//! Most such expressions hold a word that must be there. It is looked for first, in whole blocks, which is a hundred
//! times faster than the expression itself.

use super::{plain, view};
use crate::error::Error;
use regex_lite::{Regex, RegexBuilder};
use std::collections::VecDeque;

/// Bytes of an expression, and of what it is compiled to. Together with [`SEARCHED`] they bound the time for one line:
/// measured in release, 7 ms for each KB compiled, so less than a second.
const PATTERN_MAX: usize = 1024;
const LARGEST: usize = 128 << 10;
/// So many bytes of a line are searched, as it is shown.
const SEARCHED: usize = 16 << 10;
/// A word of fewer bytes is found too often to be of use.
const LEAST: usize = 2;

#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// One of these is in every match; none if nothing is known.
    words: Vec<Vec<u8>>,
    /// Whether their case does not matter. As in `regex-lite`, of ASCII alone.
    ignores_case: bool,
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, Error> {
        if text.len() > PATTERN_MAX {
            return Err(Error::invalid(format!(
                "the regular expression has {} bytes; at most {PATTERN_MAX} are searched for: search for a part of it",
                text.len()
            )));
        }
        let regex = RegexBuilder::new(text).size_limit(LARGEST).build().map_err(|error| cannot_read(text, &error))?;
        let (text, ignores_case) = text.strip_prefix("(?i)").map_or((text, false), |rest| (rest, true));
        let words = if text.contains("(?") { None } else { words(text) };
        Ok(Pattern { regex, words: words.unwrap_or_default(), ignores_case })
    }

    /// Whether the first [`SEARCHED`] bytes of a line of the child match, with the blanks at its end or without them:
    /// they cannot be seen, so `done$` finds `done `, and a prompt is found by `> $` and by `>$`.
    pub fn is_match(&self, line: &[u8]) -> bool {
        let text = view::with_last_blanks(line);
        let text = &text[..text.floor_char_boundary(SEARCHED)];
        let shown = text.trim_end();
        let is_match = |text: &str| self.regex.is_match(text);
        self.has_word(text.as_bytes()) && (is_match(shown) || shown.len() < text.len() && is_match(text))
    }

    /// False if certainly no line of `block`, which are whole lines of a log, matches.
    pub fn may_match(&self, block: &[u8]) -> bool {
        self.has_word(block) || plain::text(block).is_none()
    }

    fn has_word(&self, text: &[u8]) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| holds(text, word, self.ignores_case))
    }
}

fn cannot_read(text: &str, error: &regex_lite::Error) -> Error {
    // Which of the two it was, only its words tell.
    let next = if error.to_string().contains("size limit") {
        "use fewer or smaller repetitions, such as {0,100}"
    } else {
        "put a \\ before characters that stand for themselves"
    };
    Error::invalid(format!("cannot read the regular expression '{text}': {error}; {next}"))
}

/// Of each alternative of an expression the longest run of characters that stand for themselves. `None` if there is an
/// alternative without one, or anything that this does not understand.
fn words(text: &str) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let (mut best, mut run) = (String::new(), String::new());
    let end = |run: &mut String, best: &mut String| {
        let run = std::mem::take(run);
        if run.len() > best.len() {
            *best = run;
        }
    };
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '|' => {
                end(&mut run, &mut best);
                found.push(std::mem::take(&mut best));
            }
            '*' | '?' | '{' => {
                run.pop(); // what stands before it may be missing
                end(&mut run, &mut best);
                if c == '{' {
                    characters.by_ref().find(|c| *c == '}');
                }
            }
            '[' => {
                end(&mut run, &mut best);
                // `[]…]` and `[^]…]` hold the bracket itself; classes in classes are left to the expression.
                characters.next_if_eq(&'^');
                characters.next_if_eq(&']');
                loop {
                    match characters.next()? {
                        ']' => break,
                        '[' | '\\' | '&' | '~' | '-' if characters.peek() == Some(&'[') => return None,
                        '[' => return None,
                        '\\' => drop(characters.next()),
                        _ => {}
                    }
                }
            }
            '(' | ')' => return None,
            '\\' => match characters.next()? {
                escaped if escaped.is_ascii_punctuation() => run.push(escaped),
                'x' | 'u' | 'U' | 'p' | 'P' => return None,
                _ => end(&mut run, &mut best),
            },
            '.' | '^' | '$' | '+' => end(&mut run, &mut best),
            c if c.is_control() => return None,
            c => run.push(c),
        }
    }
    end(&mut run, &mut best);
    found.push(best);
    let is_useful = found.iter().all(|word| word.len() >= LEAST);
    is_useful.then(|| found.into_iter().map(String::into_bytes).collect())
}

/// Whether `text` holds `word`, searched by its rarest end: letters at the beginning of a word are common.
fn holds(text: &[u8], word: &[u8], ignores_case: bool) -> bool {
    let Some((&last, start)) = word.split_last() else { return true };
    let fits = |at: usize| {
        let Some(found) = (at + 1).checked_sub(word.len()).map(|from| &text[from..at]) else { return false };
        if ignores_case { found.eq_ignore_ascii_case(start) } else { found == start }
    };
    if ignores_case {
        memchr::memchr2_iter(last.to_ascii_lowercase(), last.to_ascii_uppercase(), text).any(fits)
    } else {
        memchr::memchr_iter(last, text).any(fits)
    }
}

/// Matches, and so many lines around each.
pub struct ContextWindow<T> {
    most: usize,
    /// The lines before the current one, and how many after a match are still wanted.
    before: VecDeque<T>,
    wanted: usize,
}

impl<T> ContextWindow<T> {
    pub fn new(most: usize) -> ContextWindow<T> {
        ContextWindow { most, before: VecDeque::new(), wanted: 0 }
    }

    /// Takes the next line, and gives back those that are wanted now, each with whether it matched.
    pub fn push(&mut self, line: T, is_match: bool) -> Vec<(T, bool)> {
        if is_match {
            self.wanted = self.most;
            let before = std::mem::take(&mut self.before).into_iter().map(|line| (line, false));
            return before.chain([(line, true)]).collect();
        }
        if self.wanted > 0 {
            self.wanted -= 1;
            return vec![(line, false)];
        }
        if self.most > 0 {
            if self.before.len() == self.most {
                self.before.pop_front();
            }
            self.before.push_back(line);
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::{Random, cases};

    #[test]
    fn the_word_of_an_expression_is_the_longest_run_that_must_be_there() {
        for (pattern, expected) in [
            ("needle", &["needle"][..]),
            ("need[l]e", &["need"]),
            ("error|warning", &["error", "warning"]),
            ("^ready in [0-9]+ ms$", &["ready in "]),
            ("colou?r", &["colo"]),
            ("ab*cde", &["cde"]),
            ("ab+cde", &["cde"]),
            ("ab{0,2}cde", &["cde"]),
            ("\\[vite\\]", &["[vite]"]),
            ("\\d+ errors", &[" errors"]),
            ("[]x]word", &["word"]),
            ("[^]x]word", &["word"]),
            ("(?i)Error", &["Error"]),
        ] {
            let words = Pattern::parse(pattern).unwrap().words;
            let words: Vec<String> = words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect();
            assert_eq!(words, expected, "{pattern}");
        }
        for pattern in [
            "",
            "a",
            "error|",
            "error|a",
            "[0-9]+",
            "x*",
            "(error)",
            "(?:error)?",
            "err(?i)or",
            "\\x41bcd",
            "[[:alpha:]]word",
            ".",
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().words, [b""; 0], "{pattern}");
        }
    }

    #[test]
    fn a_block_is_passed_over_only_if_no_line_in_it_matches() {
        for (pattern, block, may) in [
            ("error", "an error\n", true),
            ("error", "all is well\n", false),
            ("error|warning", "a warning\n", true),
            ("error|warning", "all is well\n", false),
            ("(?i)error", "an ERROR\n", true),
            ("(?i)error", "all is well\n", false),
            ("err", "\x1b[1me\x1b[0mrr", true),
            ("err", "e\u{9b}31mrr", true),
            ("err", "\u{e4}\u{a0}\tall is well", false),
            ("err", "e\u{200b}rr", true),
            ("e\\[r", "e\u{27e6}rr", true),
            ("\u{fffd}x", "\u{e4}\u{27e8}", false),
            ("err", "all is well\x7f, more or less", true),
            ("", "all is well", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().may_match(block.as_bytes()), may, "{pattern} in {block}");
        }
        for line in [&b"\x1b[1me\x1b[0mrr"[..], b"terror", b"e\rerr"] {
            assert!(Pattern::parse("err").unwrap().is_match(line) && Pattern::parse("e[r]r").unwrap().is_match(line));
            assert!(!Pattern::parse("none").unwrap().is_match(line));
        }
        for line in [&b"mysql> "[..], b"\x1b[32mmysql\x1b[0m> "] {
            for pattern in ["mysql>", "mysql> ", "mysql> $", "mysql>$", "sql>\\s*$"] {
                assert!(Pattern::parse(pattern).unwrap().is_match(line), "{pattern}");
            }
            assert!(!Pattern::parse("mysql>  ").unwrap().is_match(line));
        }
        assert!(Pattern::parse("a(").unwrap_err().to_string().contains("put a \\ before"));
    }

    #[test]
    fn looking_for_the_word_first_never_changes_what_matches() {
        let parts =
            ["\\[", "er", "ror", "e", "[er]", "r?", "o*", "o+", ".", "^", "$", "\\.", "|", "ab", "\\d", "{2}", "(?i)"];
        let letters = [
            "er", "ror", "ER", "o", "ab", ".", "7", " ", "\u{e4}", "\x1b[1m", "\u{212a}", "\u{17f}", "\u{200b}",
            "\u{27e6}",
        ];
        let mut random = Random::new(11);
        for _ in 0..cases() / 10 {
            let pattern: String = (0..1 + random.below(6)).map(|_| parts[random.below(parts.len())]).collect();
            let line: String = (0..random.below(9)).map(|_| letters[random.below(letters.len())]).collect();
            let Ok(pattern) = Pattern::parse(&pattern) else { continue };
            let shown = [view::clean(line.as_bytes()), view::with_last_blanks(line.as_bytes())];
            let is_match = shown.iter().any(|text| pattern.regex.is_match(text));
            assert_eq!(pattern.is_match(line.as_bytes()), is_match, "{pattern:?} in {line:?}");
            assert!(!is_match || pattern.may_match(line.as_bytes()), "{pattern:?} in {line:?}");
        }
    }
}
