//! What somebody searches for: a regular expression over lines as they are seen, so that colours do not count. Text
//! without anything special in it, or several such behind `|`, is searched in whole blocks first, at memory speed.

use super::view;
use crate::fault::Fault;
use memchr::memmem::Finder;
use regex_lite::Regex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Cheap to share.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// If it is nothing else than that: one of these is there.
    literals: Arc<Vec<Finder<'static>>>,
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, Fault> {
        let regex = Regex::new(text).map_err(|error| {
            Fault::invalid(format!(
                "cannot read the regular expression '{text}': {error}; put a \\ before characters that stand for themselves"
            ))
        })?;
        let is_literal = |part: &str| !part.is_empty() && !part.contains(|c| r"\.+*?()[]{}^$".contains(c));
        let parts: Vec<&str> = text.split('|').collect();
        let is_plain = parts.iter().all(|part| is_literal(part) && !part.contains(char::is_control));
        let literals = parts.iter().filter(|_| is_plain).map(|part| Finder::new(part.as_bytes()).into_owned());
        Ok(Pattern { regex, literals: Arc::new(literals.collect()) })
    }

    /// Whether a line of the child matches.
    pub fn is_match(&self, line: &[u8]) -> bool {
        let text = view::clean(line);
        if self.literals.is_empty() {
            return self.regex.is_match(&text);
        }
        self.literals.iter().any(|literal| literal.find(text.as_bytes()).is_some())
    }

    /// False if certainly no line of `block`, which are whole lines of a log, matches.
    pub fn may_match(&self, block: &[u8]) -> bool {
        self.literals.is_empty()
            || self.literals.iter().any(|literal| literal.find(block).is_some())
            || !is_shown_as_it_is(block)
    }
}

/// Matches, and so many lines around each.
pub struct Around<T> {
    most: usize,
    /// The lines before the present one, and how many behind a match are still wanted.
    before: VecDeque<T>,
    wanted: usize,
}

impl<T> Around<T> {
    pub fn new(most: usize) -> Around<T> {
        Around { most, before: VecDeque::new(), wanted: 0 }
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

/// Whether nothing in these lines is taken away or moved when they are shown.
fn is_shown_as_it_is(block: &[u8]) -> bool {
    let is_control = |&byte: &u8| (byte < 0x20 && byte != b'\n' && byte != b'\t') || byte == 0x7f;
    // The controls of Latin-1 (C1) in UTF-8.
    let is_c1 = |i: usize| matches!(block.get(i + 1), Some(0x80..=0x9f));
    !block.iter().any(is_control) && !memchr::memchr_iter(0xc2, block).any(is_c1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_passed_over_only_if_no_line_in_it_matches() {
        for (pattern, block, may) in [
            ("error", "an error\n", true),
            ("error", "all is well\n", false),
            ("error|warning", "a warning\n", true),
            ("error|warning", "all is well\n", false),
            ("err", "\x1b[1me\x1b[0mrr", true),
            ("err", "e\u{9b}31mrr", true),
            ("err", "\u{e4}\u{a0}\tall is well", false),
            ("e.r", "all is well", true),
            ("(?i)error", "all is well", true),
            ("", "all is well", true),
            ("error|", "all is well", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().may_match(block.as_bytes()), may, "{pattern} in {block}");
        }
        for line in [&b"\x1b[1me\x1b[0mrr"[..], b"terror", b"e\rerr"] {
            assert!(Pattern::parse("err").unwrap().is_match(line) && Pattern::parse("e[r]r").unwrap().is_match(line));
            assert!(
                Pattern::parse("none|err").unwrap().is_match(line) && !Pattern::parse("none").unwrap().is_match(line)
            );
        }
        assert!(Pattern::parse("a(").unwrap_err().text.contains("put a \\ before"));
    }
}
