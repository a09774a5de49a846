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
pub struct Word(pub OsString);

impl Word {
    /// For people: what is not UTF-8 becomes `�`.
    pub fn shown(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl<T: Into<OsString>> From<T> for Word {
    fn from(text: T) -> Word {
        Word(text.into())
    }
}

impl AsRef<OsStr> for Word {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_seq(self.0.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Word;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an array of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Word, E> {
                Ok(Word(text.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Word, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = items.next_element::<u8>()? {
                    bytes.push(byte);
                }
                Ok(Word(OsString::from_vec(bytes)))
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
    const LONGEST: usize = 200;
    let line = one_line(command);
    if line.chars().count() <= LONGEST {
        return line;
    }
    let hash = line.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let start: String = line.chars().take(LONGEST - 20).collect();
    format!("{start}… {hash:016x}")
}

/// The same text with everything in it that would end a line, or that only a terminal obeys, as `\n`, `\u{1b}`.
pub fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { escaped(c) } else { vec![c] }).collect()
}

fn escaped(c: char) -> Vec<char> {
    c.escape_default().collect()
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
            let word = Word(OsString::from_vec(bytes.to_vec()));
            let json = serde_json::to_string(&word).unwrap();
            assert_eq!(serde_json::from_str::<Word>(&json).unwrap(), word, "{json}");
        }
        assert!(serde_json::from_str::<Word>("[256]").is_err());
        assert!(serde_json::from_str::<Word>("7").is_err());
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
    fn what_needs_a_shell_is_refused_with_the_way_out() {
        assert_eq!(split("npm run 'my dev'").unwrap(), ["npm", "run", "my dev"]);
        assert!(split("cd web && npm run dev").unwrap_err().ends_with("sh -c 'cd web && npm run dev'"));
        assert!(split("PORT=3000 npm start").unwrap_err().ends_with("env PORT=3000 npm start"));
        assert!(split("echo 'open").is_err());
        assert!(split("  ").is_err());
        assert!(split("node --opt=1 a=b").is_ok());
    }
}
