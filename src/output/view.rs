//! How lines are shown to a model: what a terminal would show of them, as text without anything that only a terminal
//! could use, that a reader would not see, or that our own marks look like. People and files get the bytes as they are.
//!
//! A pure state machine over one line: bounded in memory, total over all bytes, never longer than what came in, and never
//! in the middle of a character.

use super::plain;
use crate::os_text::{self, MARK};
use std::borrow::Cow;
use std::fmt::Display;

/// Columns that a line may have if there is something to obey in it; what lies beyond is not kept.
const COLUMNS: usize = 16 << 10;
/// A column that nothing was written into.
const NOTHING: char = '\0';

/// A line as a model sees it.
pub struct Shown<'a> {
    pub text: Cow<'a, str>,
    /// Invisible characters that were dropped from it, see [`os_text::hidden`].
    pub hidden: usize,
}

/// What a terminal shows after it was sent `line` (ECMA-48): escape and control sequences gone, `\r` and `\b` obeyed, so
/// that of a progress bar the last picture is left. A gap that was jumped over is one space, whatever its width. Invalid
/// UTF-8 becomes `�`, the brackets of our marks `[` and `]`, and what is invisible or at the end a space is dropped. Has
/// at most as many characters as `line` has bytes.
pub fn shown(line: &[u8]) -> Shown<'_> {
    let mut shown = with_spaces(line);
    match &mut shown.text {
        Cow::Borrowed(text) => *text = text.trim_end(),
        Cow::Owned(text) => text.truncate(text.trim_end().len()),
    }
    shown
}

/// The text of [`shown`].
pub fn clean(line: &[u8]) -> Cow<'_, str> {
    shown(line).text
}

/// As [`clean`], with the spaces at its end, which may be searched for: prompts have them.
pub fn with_last_blanks(line: &[u8]) -> Cow<'_, str> {
    with_spaces(line).text
}

fn with_spaces(line: &[u8]) -> Shown<'_> {
    // Nearly all lines hold nothing to change.
    if let Some(text) = plain::text(line).filter(|text| !text.contains('\n')) {
        return Shown { text: Cow::Borrowed(text), hidden: 0 };
    }
    let text = String::from_utf8_lossy(line);
    let mut screen = Screen::default();
    let mut state = State::Text;
    for c in text.chars() {
        state = state.step(c, &mut screen);
    }
    let on_screen = screen.text();
    if plain::text(on_screen.as_bytes()).is_some() {
        return Shown { text: Cow::Owned(on_screen), hidden: 0 };
    }
    let mut hidden = 0;
    let mut text = String::with_capacity(on_screen.len());
    for (c, is_hidden) in os_text::with_hidden(&on_screen) {
        if is_hidden { hidden += 1 } else { text.push(c) }
    }
    Shown { text: Cow::Owned(text), hidden }
}

fn without_mark(c: char) -> char {
    match MARK.iter().position(|mark| *mark == c) {
        Some(i) => ['[', ']'][i],
        None => c,
    }
}

/// A mark of ours, `⟦×37⟧`: nothing that a program prints is shown like it.
pub fn mark(text: impl Display) -> String {
    format!("{}{text}{}", MARK[0], MARK[1])
}

/// Words of others in a sentence of ours: on one line, with everything visible and nothing like our marks.
pub fn plain(text: &str) -> String {
    os_text::one_line(&text.chars().map(without_mark).collect::<String>())
}

/// One line of a terminal.
#[derive(Default)]
struct Screen {
    cells: Vec<char>,
    column: usize,
}

impl Screen {
    fn put(&mut self, c: char) {
        if self.column >= COLUMNS {
            return;
        }
        if self.column >= self.cells.len() {
            self.cells.resize(self.column, NOTHING);
            self.cells.push(c);
        } else {
            self.cells[self.column] = c;
        }
        self.column += 1;
    }

    fn text(self) -> String {
        let mut text = String::with_capacity(self.cells.len());
        let mut is_gap = false;
        for c in self.cells {
            if c != NOTHING {
                text.push(c);
            } else if !is_gap {
                text.push(' ');
            }
            is_gap = c == NOTHING;
        }
        text
    }

    /// `CSI … final`, as far as it moves within the line or erases in it.
    fn obey(&mut self, parameter: &Parameter, last: char) {
        let count = parameter.value.unwrap_or(0);
        let steps = count.max(1);
        match last {
            'C' => self.column = (self.column + steps).min(COLUMNS),
            'D' => self.column = self.column.saturating_sub(steps),
            'G' | '`' => self.column = (steps - 1).min(COLUMNS),
            'K' if count == 0 => self.cells.truncate(self.column),
            'K' if count == 1 => {
                let end = (self.column + 1).min(self.cells.len());
                self.cells[..end].fill(NOTHING);
            }
            'K' if count == 2 => self.cells.clear(),
            // Clearing the screen clears the line, too.
            'J' if count >= 2 => self.cells.clear(),
            _ => {}
        }
    }
}

/// The first parameter of a control sequence; others do not matter here.
#[derive(Clone, Copy, Default)]
struct Parameter {
    value: Option<usize>,
    is_done: bool,
}

impl Parameter {
    fn push(mut self, c: char) -> Parameter {
        match c.to_digit(10) {
            Some(digit) if !self.is_done => {
                self.value = Some((self.value.unwrap_or(0) * 10 + digit as usize).min(COLUMNS));
            }
            Some(_) => {}
            None => self.is_done = true,
        }
        self
    }
}

enum State {
    Text,
    /// Behind ESC.
    Escape,
    /// Behind ESC and an intermediate character: one final character follows.
    Designate,
    /// In a control sequence, after CSI.
    Control(Parameter),
    /// In a control string (OSC, DCS, SOS, PM, APC), up to ST or BEL.
    String,
    /// In a control string, after ESC.
    StringEscape,
}

impl State {
    fn step(self, c: char, screen: &mut Screen) -> State {
        match (self, c) {
            (State::String | State::StringEscape, '\u{7}' | '\u{9c}') | (State::StringEscape, '\\') => State::Text,
            (State::String | State::StringEscape, '\u{1b}') => State::StringEscape,
            (State::String | State::StringEscape, _) => State::String,
            // CAN and SUB end any sequence, ESC begins another.
            (_, '\u{18}' | '\u{1a}') => State::Text,
            (_, '\u{1b}') => State::Escape,
            (_, '\u{9b}') => State::Control(Parameter::default()),
            (_, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}') => State::String,
            (state, '\r') => {
                screen.column = 0;
                state
            }
            (state, '\u{8}') => {
                screen.column = screen.column.saturating_sub(1);
                state
            }
            (State::Text, '\t') => {
                screen.put('\t');
                State::Text
            }
            (state, c) if c.is_control() => state,
            (State::Text, c) => {
                // Here, since what belongs between two characters depends on what they are in the end.
                screen.put(without_mark(c));
                State::Text
            }
            (State::Escape, '[') => State::Control(Parameter::default()),
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::String,
            (State::Escape | State::Designate, ' '..='/') => State::Designate,
            (State::Escape | State::Designate, _) => State::Text,
            (State::Control(parameter), '@'..='~') => {
                screen.obey(&parameter, c);
                State::Text
            }
            (State::Control(parameter), _) => State::Control(parameter.push(c)),
        }
    }
}

/// At most so many characters and bytes of a text that is [`shown`] or [`plain`]. If it is longer, or `cut` bytes of it
/// are missing already, a mark says how much is left out.
pub fn clip(text: &str, most: usize, bytes: usize, cut: u64) -> String {
    let end = text.char_indices().nth(most).map_or(text.len(), |(end, _)| end);
    let end = text.floor_char_boundary(end.min(bytes));
    // A joiner at the end would join our mark.
    let kept = if end < text.len() { text[..end].trim_end_matches(['\u{200c}', '\u{200d}']) } else { text };
    match (text.len() - kept.len()) as u64 + cut {
        0 => kept.into(),
        more => format!("{kept}{}", mark(format_args!("{more} more bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::{Random, cases};

    #[test]
    fn a_model_sees_what_a_terminal_would_show() {
        for (line, shown) in [
            (&b"plain"[..], "plain"),
            (b"\tindented\ttext  ", "\tindented\ttext"),
            (b"\x1b[32mready\x1b[39m in \x1b[1m300\x1b[22m ms", "ready in 300 ms"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07 end", "link end"),
            (b"\x1b]0;title\x07text", "text"),
            (b"10%\r20%\r100%", "100%"),
            (b"Downloading 50%\r\x1b[KDone", "Done"),
            (b"Downloading\rDone", "Doneloading"),
            (b"abc\x1b[2K\rxy", "xy"),
            (b"abc\x1b[2Dx", "axc"),
            (b"abc\x1b[1Gx\x1b[10Gy", "xbc y"),
            (b"left\x1b[40Cright\x1b[40C", "left right"),
            (b"abcdef\x1b[3G\x1b[1Kx", " xdef"),
            (b"spin\x08\x08in", "spin"),
            (b"line\r", "line"),
            (b"notifier\x07 nul\0 del\x7f end", "notifier nul del end"),
            (b"\x1b(Bascii \x1b=keypad\x1b>", "ascii keypad"),
            ("C1: \u{9b}31mred\u{9d}title\u{9c} end".as_bytes(), "C1: red end"),
            (b"bad \xff\xfe utf8 \xc3", "bad \u{fffd}\u{fffd} utf8 \u{fffd}"),
            ("w\u{f6}rter \u{2603}\r\u{dc}".as_bytes(), "\u{dc}\u{f6}rter \u{2603}"),
            (b"open \x1b[3", "open"),
            (b"\x1b]never closed", ""),
            (b"\x1bPdcs\x1b\\after", "after"),
            (b"ab\x1b[31\x18mc", "abmc"),
            (b"", ""),
        ] {
            assert_eq!(clean(line), shown, "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow() {
        let mut random = Random::new(1);
        let alphabet = b"\x1b[]0123456789;KGCDJm\r\x08\x07\\PX^_( ab\xc2\x9b\x9d\xe2\x82\xac\xff\t\0";
        let characters = [
            "\u{27e6}",
            "\u{27e7}",
            "\u{200b}",
            "\u{200d}",
            "\u{fe0f}",
            "\u{e0041}",
            "\u{202e}",
            "\u{1f468}",
            "ä",
            "a",
            "\r",
            " ",
        ];
        let mut line = Vec::new();
        for round in 0..cases() {
            line.clear();
            for _ in 0..random.below(60) {
                match round % 4 {
                    0 => line.push(random.below(256) as u8),
                    1 => line.extend_from_slice(characters[random.below(characters.len())].as_bytes()),
                    _ => line.push(alphabet[random.below(alphabet.len())]),
                }
            }
            let shown = clean(&line);
            let count = shown.chars().count();
            assert!(count <= line.len(), "{line:?}");
            assert!(shown.chars().all(|c| !c.is_control() || c == '\t'), "{line:?}");
            assert!(os_text::hidden(&shown).count() == 0 && !shown.contains(MARK), "{line:?}");
            assert_eq!(clean(shown.as_bytes()), shown, "what is shown is shown as it is: {line:?}");
            let (most, bytes) = (random.below(40), random.below(90));
            let clipped = clip(&shown, most, bytes, 0);
            let kept = clipped.split(MARK[0]).next().unwrap_or("");
            assert!(shown.starts_with(kept) && kept.chars().count() <= most && kept.len() <= bytes, "{line:?}");
            assert_eq!(count <= most && shown.len() <= bytes, clipped == shown, "{line:?}");
            assert_eq!(os_text::hidden(&clipped).count(), 0, "{line:?}");
        }
        let far = clean(b"\x1b[99999999999999999999Cx\x1b[99999G y\x1b[9Gx");
        assert_eq!(far, " x");
        let long = [&b"\x1b[1m"[..], &[b'x'; 100_000]].concat();
        assert_eq!(clean(&long).len(), COLUMNS);
    }

    #[test]
    fn long_lines_are_clipped_between_characters_and_what_is_left_out_is_told() {
        const FAR: usize = usize::MAX;
        assert_eq!(clip("abc", 3, 3, 0), "abc");
        assert_eq!(clip("\u{e4}\u{f6}\u{fc}\u{df}", 2, FAR, 0), "\u{e4}\u{f6}\u{27e6}4 more bytes\u{27e7}");
        assert_eq!(clip("\u{e4}\u{f6}", FAR, 3, 5), "\u{e4}\u{27e6}7 more bytes\u{27e7}");
        assert_eq!(clip("abc", FAR, FAR, 5), "abc\u{27e6}5 more bytes\u{27e7}");
        assert_eq!(clip("\u{1f468}\u{200d}\u{1f469}", 2, FAR, 0), "\u{1f468}\u{27e6}7 more bytes\u{27e7}");
        assert_eq!(clip("", 0, 0, 0), "");
    }

    #[test]
    fn invisible_characters_are_dropped_and_counted_and_marks_are_ours() {
        for (line, text, hidden) in [
            ("er\u{200b}ror\u{202e}", "error", 2),
            ("\u{feff}a\u{e0041} \u{ad} ", "a", 3),
            ("\u{26a0}\u{fe0f} 1\u{fe0f}\u{20e3}", "\u{26a0}\u{fe0f} 1\u{fe0f}\u{20e3}", 0),
            ("a\u{fe0f}\u{e0100}", "a", 2),
            ("\x1b[1m\u{200b}x\x1b[0m", "x", 1),
            ("\u{27e6}×9\u{27e7}", "[×9]", 0),
        ] {
            let shown = shown(line.as_bytes());
            assert_eq!((shown.text.as_ref(), shown.hidden), (text, hidden), "{line:?}");
        }
        assert_eq!(mark("×9"), "\u{27e6}×9\u{27e7}");
        assert_eq!(plain("a\n\u{202e}\u{27e6}x\u{27e7}"), "a\\n\\u{202e}[x]");
    }
}
