//! Words as the operating system has them: arguments, variables and paths are bytes, mostly UTF-8, and must come out of
//! JSON and out of a file as they went in.

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// A string of the operating system in JSON: text where it is UTF-8, else an array of its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OsText(pub OsString);

impl OsText {
    /// For people: what is not UTF-8 becomes `�`.
    pub fn shown(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl<T: Into<OsString>> From<T> for OsText {
    fn from(text: T) -> OsText {
        OsText(text.into())
    }
}

impl AsRef<OsStr> for OsText {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_seq(self.0.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OsText, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = OsText;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an array of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OsText, E> {
                Ok(OsText(text.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OsText, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = items.next_element::<u8>()? {
                    bytes.push(byte);
                }
                Ok(OsText(OsString::from_vec(bytes)))
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}

/// The words of a command as one line that a shell would split into the same words.
pub fn quote<W: AsRef<OsStr>>(words: &[W]) -> String {
    let quoted = words.iter().map(|word| {
        let text = word.as_ref().to_string_lossy();
        shlex::Quoter::new()
            .allow_nul(true)
            .quote(&text)
            .map_or_else(|_| text.to_string(), |quoted| quoted.into_owned())
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// A command as part of a name: one line of at most 200 characters that no other command shares.
pub fn brief(command: &str) -> String {
    const BRIEF_MAX: usize = 200;
    let line = one_line(command);
    if line.chars().count() <= BRIEF_MAX {
        return line;
    }
    let hash = line.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let start: String = line.chars().take(BRIEF_MAX - 20).collect();
    format!("{start}… {hash:016x}")
}

/// The same text on one line, with everything visible: control characters and [hidden](hidden) ones as `\n`, `\u{1b}`,
/// `\u{200b}`.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for (c, is_hidden) in with_hidden(text) {
        if is_hidden || c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Brackets that in what models read stand only around our own marks.
pub const MARK: [char; 2] = ['\u{27e6}', '\u{27e7}'];

/// The same text as a JSON string in which nothing is hidden: those characters, and the brackets of our marks, as `\u200b`.
pub fn quote_json(text: &str) -> String {
    let mut quoted = String::from("\"");
    for (c, is_hidden) in with_hidden(text) {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            _ if is_hidden || c.is_control() || MARK.contains(&c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| quoted.push_str(&format!("\\u{unit:04x}")));
            }
            _ => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Characters of which a reader sees nothing, or that change the order of others: the `Default_Ignorable_Code_Point`s of
/// Unicode 16 (zero-width, bidirectional, tags, variation selectors, fillers), and beside them line and paragraph
/// separators, interlinear annotations, and the format controls of hieroglyphs.
const INVISIBLE: [(char, char); 18] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a reader sees nothing of `c` by itself. Some such characters belong into visible text, see [`hidden`].
pub fn is_invisible(c: char) -> bool {
    if c < INVISIBLE[0].0 {
        return false;
    }
    let after = INVISIBLE.partition_point(|(first, _)| *first <= c);
    after > 0 && c <= INVISIBLE[after - 1].1
}

/// The invisible characters of `text` that could carry something past its reader. What writing needs is not among them:
/// one variation selector for text or emoji (U+FE0E, U+FE0F) after a character that has both forms, and one joiner or
/// non-joiner (U+200D, U+200C) between two visible characters that are not ASCII, as in family emoji, Persian and Hindi.
pub fn hidden(text: &str) -> impl Iterator<Item = char> {
    with_hidden(text).filter(|(_, is_hidden)| *is_hidden).map(|(c, _)| c)
}

/// All characters of `text`, each with whether it is one of the [`hidden`] ones.
pub fn with_hidden(text: &str) -> impl Iterator<Item = (char, bool)> {
    let mut characters = text.chars().peekable();
    // What stands directly before, unless that is hidden.
    let mut before: Option<char> = None;
    std::iter::from_fn(move || {
        let c = characters.next()?;
        let is_hidden = is_invisible(c) && !belongs(before, c, characters.peek().copied());
        before = Some(c).filter(|_| !is_hidden);
        Some((c, is_hidden))
    })
}

/// Whether an invisible character is needed between these two.
fn belongs(before: Option<char>, c: char, after: Option<char>) -> bool {
    // The brackets of our marks do not stay what they are.
    let is_visible = |c: char| !is_invisible(c) && !c.is_control() && !c.is_whitespace() && !MARK.contains(&c);
    match c {
        '\u{fe0e}' | '\u{fe0f}' => before.is_some_and(|c| {
            is_visible(c) && (!c.is_ascii() || c.is_ascii_digit() || c == '#' || c == '*') // the keys of a telephone
        }),
        '\u{200c}' | '\u{200d}' => {
            let is_base = |c: char| !c.is_ascii() && is_visible(c);
            // An emoji before a joiner may have its selector.
            before.is_some_and(|c| is_base(c) || matches!(c, '\u{fe0e}' | '\u{fe0f}')) && after.is_some_and(is_base)
        }
        _ => false,
    }
}

/// The words that a shell would make of `text`; `None` if its quotes do not pair.
pub fn split_plain(text: &str) -> Option<Vec<String>> {
    shlex::split(text)
}

/// Splits a command given as one string, as a shell would split it into words. Nothing else of a shell is done: text
/// that only a shell could make sense of is refused with the way to say it.
pub fn split(command: &str) -> Result<Vec<String>, String> {
    let words = shlex::split(command).ok_or_else(|| format!("unbalanced quotes in: {command}"))?;
    let Some(first) = words.first() else { return Err("the command is empty".into()) };
    let operator =
        words.iter().find(|word| matches!(word.as_str(), "&&" | "||" | "|" | ";" | "&" | ">" | ">>" | "<" | "2>&1"));
    if let Some(operator) = operator {
        return Err(format!(
            "no shell runs this, so '{operator}' has no meaning; name the directory by the working directory, or run: sh -c {}",
            quote(&[command])
        ));
    }
    let is_assignment = first.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    if is_assignment {
        return Err(format!(
            "no shell runs this, so '{first}' sets no variable; pass it by environment, or run: env {command}"
        ));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_json_byte_for_byte() {
        for bytes in [&b"plain"[..], b"", b"with \"quotes\" and \\", "wörter ☃".as_bytes(), b"\xff\x00\xfe", b"a\nb\tc"]
        {
            let word = OsText(OsString::from_vec(bytes.to_vec()));
            let json = serde_json::to_string(&word).unwrap();
            assert_eq!(serde_json::from_str::<OsText>(&json).unwrap(), word, "{json}");
        }
        assert!(serde_json::from_str::<OsText>("[256]").is_err());
        assert!(serde_json::from_str::<OsText>("7").is_err());
    }

    #[test]
    fn a_quoted_command_splits_into_the_same_words() {
        for words in
            [&["npm", "run", "dev"][..], &["sh", "-c", "echo 'a b'; echo \"c\""], &["x", "", " ", "$HOME", "*"]]
        {
            let line = quote(words);
            assert_eq!(shlex::split(&line).unwrap(), words, "{line}");
        }
        assert_eq!(quote(&["npm", "run", "dev"]), "npm run dev");
    }

    #[test]
    fn a_command_in_a_name_is_short_one_line_and_its_own() {
        assert_eq!(brief("npm run dev"), "npm run dev");
        assert_eq!(brief("sh -c 'a\n\tb'"), "sh -c 'a\\n\\tb'");
        let [one, other] = ["x", "y"].map(|end| brief(&format!("{}{end}", "ä".repeat(500))));
        assert!(one != other && one.chars().count() <= 200, "{one}");
    }

    #[test]
    fn invisible_characters_are_hidden_unless_writing_needs_them() {
        for (first, last) in INVISIBLE {
            assert!(is_invisible(first) && is_invisible(last));
        }
        assert!(INVISIBLE.is_sorted() && "aä€\u{2800}\u{1f600}\u{301} \t".chars().all(|c| !is_invisible(c)));
        for text in [
            "plain ä €",
            "\u{26a0}\u{fe0f} warning",
            "1\u{fe0f}\u{20e3}",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            "\u{2764}\u{fe0f}\u{200d}\u{1f525}",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}",
        ] {
            assert_eq!((hidden(text).count(), one_line(text).as_str()), (0, text), "{text:?}");
        }
        for (text, shown) in [
            ("a\u{200b}b", "a\\u{200b}b"),
            ("a\u{fe0f}b", "a\\u{fe0f}b"),
            ("\u{fe0f}b", "\\u{fe0f}b"),
            ("\u{26a0}\u{fe0f}\u{fe0f}", "\u{26a0}\u{fe0f}\\u{fe0f}"),
            ("\u{26a0}\u{fe0e}\u{fe0f}", "\u{26a0}\u{fe0e}\\u{fe0f}"),
            ("\u{26a0}\u{fe01}", "\u{26a0}\\u{fe01}"),
            ("\u{26a0}\u{e0100}", "\u{26a0}\\u{e0100}"),
            ("\u{1f468}\u{200d}\u{200d}\u{1f469}", "\u{1f468}\\u{200d}\\u{200d}\u{1f469}"),
            ("\u{1f468}\u{200d}", "\u{1f468}\\u{200d}"),
            ("a\u{200d}\u{1f469}", "a\\u{200d}\u{1f469}"),
            ("\u{202e}cod.exe\u{202c}", "\\u{202e}cod.exe\\u{202c}"),
            ("\u{2028}", "\\u{2028}"),
            ("x\u{e0041}\u{e007f}", "x\\u{e0041}\\u{e007f}"),
            ("a\nb\u{1b}", "a\\nb\\u{1b}"),
        ] {
            assert_eq!(one_line(text), shown, "{text:?}");
            let kept: String = with_hidden(text).filter(|(_, is_hidden)| !is_hidden).map(|(c, _)| c).collect();
            assert_eq!(hidden(&kept).count(), 0, "what is left hides nothing: {text:?}");
        }
    }

    #[test]
    fn quoted_text_is_json_in_which_everything_is_visible() {
        for text in [
            "",
            "a 'b' \"c\" \\",
            "\n\t\r\u{7f}\0",
            "\u{200b}\u{202e}\u{e0041}",
            "ü\u{200c}\u{27e6}\u{fe0f}",
            "\u{27e6}×9\u{27e7}",
            "ü\u{1f600}",
        ] {
            let quoted = quote_json(text);
            assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text, "{quoted}");
            assert!(hidden(&quoted).count() == 0 && !quoted.contains(MARK) && !quoted.contains(char::is_control));
        }
        assert_eq!(quote_json("\u{e0041}"), r#""\udb40\udc41""#);
    }

    #[test]
    fn what_needs_a_shell_is_refused_with_the_way_out() {
        assert_eq!(split("npm run 'my dev'").unwrap(), ["npm", "run", "my dev"]);
        assert!(split("cd web && npm run dev").unwrap_err().ends_with("sh -c 'cd web && npm run dev'"));
        assert!(split("PORT=3000 npm start").unwrap_err().ends_with("env PORT=3000 npm start"));
        assert!(split("echo 'open").is_err());
        assert!(split("  ").is_err());
        assert!(split("node --opt=1 a=b").is_ok());
    }
}
