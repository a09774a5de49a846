//! Whether text is shown to a model as it is: nothing in it to obey, to drop or to replace. Nearly all text is, so this is
//! asked of whole blocks of a log, and nothing is decoded that need not be.

use crate::os_text::{MARK, is_invisible};
use memchr::memchr3_iter;

/// The first bytes, in UTF-8, of all characters beyond ASCII that are not shown as they are.
const LEADS: [[u8; 3]; 3] = [[0xc2, 0xe2, 0xef], [0xcd, 0xd8, 0xe1], [0xe3, 0xf0, 0xf3]];

/// `bytes` as text, if all of it is shown as it is; newlines are none of its business.
pub fn text(bytes: &[u8]) -> Option<&str> {
    let text = Some(bytes).filter(|bytes| !holds_control(bytes)).and_then(|bytes| str::from_utf8(bytes).ok())?;
    let is_special = |at: usize| text[at..].chars().next().is_some_and(is_special);
    let holds_special = |leads: [u8; 3]| memchr3_iter(leads[0], leads[1], leads[2], bytes).any(is_special);
    (bytes.is_ascii() || !LEADS.into_iter().any(holds_special)).then_some(text)
}

/// Whether a character beyond ASCII is obeyed, dropped or replaced.
fn is_special(c: char) -> bool {
    c.is_control() || MARK.contains(&c) || is_invisible(c)
}

/// Whether there is a control character of ASCII other than a tab or a newline.
fn holds_control(bytes: &[u8]) -> bool {
    let is_control = |&byte: &u8| (byte < 0x20 && byte != b'\n' && byte != b'\t') || byte == 0x7f;
    // Eight bytes at a time: those that hold nothing below a space, and no DEL, need not be looked at one by one.
    let (words, rest) = bytes.as_chunks::<8>();
    let has_control = |word: &[u8; 8]| has_low(u64::from_ne_bytes(*word)) && word.iter().any(is_control);
    words.iter().any(has_control) || rest.iter().any(is_control)
}

/// Whether one of eight bytes is below 0x20, or is 0x7f (after "Bit Twiddling Hacks" of S. E. Anderson, `hasless` and
/// `haszero`). Bytes above 0x7f never count.
fn has_low(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGH;
    below(word, 0x20) != 0 || below(word ^ (ONES * 0x7f), 1) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::{Random, cases};

    #[test]
    fn each_character_counts_wherever_it_stands() {
        let mut number = 0;
        for c in ('\0'..=char::MAX).filter(|c| !matches!(c, '\n' | '\t')) {
            number += 1;
            let line = format!("{}{c}", &"Vite ü ➜ 世"[..[0, 4, 7, 11, 15][number % 5]]);
            assert_eq!(text(line.as_bytes()).is_none(), is_special(c), "{line:?}");
        }
        assert_eq!(text(b"a\tb\nc"), Some("a\tb\nc"));
        assert!(text(b"\xff").is_none() && text(b"\xe2\x9e").is_none(), "broken UTF-8 is replaced");
    }

    #[test]
    fn eight_bytes_are_looked_at_as_each_of_them_would_be() {
        let mut random = Random::new(2);
        for _ in 0..cases() {
            let word: [u8; 8] =
                std::array::from_fn(|_| if random.below(3) == 0 { random.below(256) as u8 } else { b'x' });
            let expected = word.iter().any(|&byte| byte < 0x20 || byte == 0x7f);
            assert_eq!(has_low(u64::from_ne_bytes(word)), expected, "{word:?}");
        }
    }
}
