//! Labels, commands, directories and errors in a sentence of ours: short, on one line, and such that their end can be
//! seen, whatever they hold.

use crate::os_text::{self, MARK};
use crate::output::view;

/// In quotes: `'web'`, or as a JSON string where that would not be clear. At most about so many bytes; a mark says how much
/// more there is.
pub fn quoted(text: &str, most: usize) -> String {
    if !text.contains(['\'', '"', '\\']) && is_visible(text) {
        return format!("'{}'", clip(text, most));
    }
    let mut end = text.floor_char_boundary(most);
    while end > 0 && os_text::quote_json(&text[..end]).len() > most + "\"\"".len() {
        end = text.floor_char_boundary(end - 1);
    }
    // The mark stands after the quotes, so that they hold nothing but the text.
    os_text::quote_json(&text[..end]) + &view::clip("", 0, 0, (text.len() - end) as u64)
}

/// Without quotes if nothing in it ends a part of a sentence, or begins another.
pub fn bare(text: &str, most: usize) -> String {
    let ends = text.contains(['\'', '"', '\\', ',', ';']) || text.trim() != text || text.is_empty();
    if ends { quoted(text, most) } else { in_front(text, most) }
}

/// Whose line it is, in front of it and a colon: without quotes if there is no such colon in it.
pub fn in_front(text: &str, most: usize) -> String {
    let ends = text.contains(": ") || text.ends_with(':') || text.starts_with(['\'', '"']);
    if ends || !is_visible(text) { quoted(text, most) } else { clip(text, most) }
}

/// A sentence that may hold words of others: on one line, with everything visible.
pub fn plain(text: &str, most: usize) -> String {
    clip(&view::plain(text), most)
}

fn clip(text: &str, most: usize) -> String {
    view::clip(text, usize::MAX, most, 0)
}

fn is_visible(text: &str) -> bool {
    !text.contains(MARK) && !text.contains(char::is_control) && os_text::hidden(text).next().is_none()
}

#[cfg(test)]
mod tests {
    use super::{bare, in_front, quoted};

    #[test]
    fn the_end_of_a_name_can_be_seen() {
        for (text, in_quotes, as_it_is) in [
            ("web", "'web'", "web"),
            ("npm run dev:web in /home/a", "'npm run dev:web in /home/a'", "npm run dev:web in /home/a"),
            ("a; b", "'a; b'", "'a; b'"),
            ("a: b", "'a: b'", "'a: b'"),
            ("a, b", "'a, b'", "'a, b'"),
            ("a:", "'a:'", "'a:'"),
            ("", "''", "''"),
            ("sh -c 'x'", "\"sh -c 'x'\"", "\"sh -c 'x'\""),
            ("a\" b", "\"a\\\" b\"", "\"a\\\" b\""),
            ("a\n\u{202e}", "\"a\\n\\u202e\"", "\"a\\n\\u202e\""),
            ("\u{27e6}x", "\"\\u27e6x\"", "\"\\u27e6x\""),
        ] {
            assert_eq!((quoted(text, 40).as_str(), bare(text, 40).as_str()), (in_quotes, as_it_is));
        }
        assert_eq!(
            ["a, b", "a: b", "'a'", "sh -c 'x'"].map(|text| in_front(text, 40)),
            ["a, b", "'a: b'", "\"'a'\"", "sh -c 'x'"]
        );
        assert_eq!(quoted("abcdef", 4), "'abcd\u{27e6}2 more bytes\u{27e7}'");
        assert_eq!(quoted("'bcdef", 4), "\"'bcd\"\u{27e6}2 more bytes\u{27e7}");
        assert_eq!(quoted(&"\u{1b}".repeat(99), 15), "\"\\u001b\\u001b\"\u{27e6}97 more bytes\u{27e7}");
    }
}
