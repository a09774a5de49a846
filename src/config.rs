//! Port, paths and limits, resolved once from flags and environment.

use std::ffi::OsString;
use std::path::PathBuf;

pub const DEFAULT_PORT: u16 = 8947;
/// Size at which a log file is rotated, in bytes.
pub const DEFAULT_MAX_LOG_BYTES: u64 = 64 << 20;

/// The variable that holds the token.
pub const TOKEN: &str = "PERSISTPROC_TOKEN";
/// The variable by which servers that are started do not listen on TCP.
const NO_TCP: &str = "PERSISTPROC_NO_TCP";

/// A secret that clients have to show. It is printed nowhere, not even by `Debug`.
#[derive(Clone, PartialEq)]
pub struct Token(String);

impl Token {
    /// Characters of a token. A shorter one can be guessed.
    const LENGTH: std::ops::RangeInclusive<usize> = 16..=256;

    /// What a `Bearer` may be (RFC 6750, 2.1), so that it needs no quoting anywhere.
    fn parse(text: String) -> Result<Token, String> {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        if !Token::LENGTH.contains(&text.len()) || !text.bytes().all(is_fine) {
            let (least, most) = Token::LENGTH.into_inner();
            return Err(format!(
                "{TOKEN}: a token has {least} to {most} letters, digits and -._~+/=; `openssl rand -hex 32` makes one"
            ));
        }
        Ok(Token(text))
    }

    /// Value of the `Authorization` header.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether `Authorization` shows this token. How long that takes tells nothing of it but its length.
    pub fn is_shown_by(&self, authorization: &str) -> bool {
        let Some((scheme, shown)) = authorization.split_once(' ') else { return false };
        let shown = shown.trim_start_matches(' ').as_bytes();
        let pairs = self.0.bytes().zip(shown.iter().copied());
        // The optimizer must not see that the rest is in vain once there is a difference.
        let difference = pairs.fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
        scheme.eq_ignore_ascii_case("bearer") && shown.len() == self.0.len() && difference == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// What the flags said, as far as they did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    pub port: Option<u16>,
    pub data_dir: Option<PathBuf>,
    pub format: Option<Format>,
    pub is_verbose: bool,
    pub is_quiet: bool,
    pub no_autostart: bool,
    pub no_tcp: bool,
    pub trusts_all_users: bool,
}

/// What holds for this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where a server that is started listens for agents; 0 lets the system choose.
    pub port: u16,
    /// The port was asked for, and is not just the usual one.
    pub is_port_given: bool,
    /// Whether a server that is started listens on TCP at all, or at the socket in its data directory only.
    pub tcp: bool,
    /// Whether TCP is served also where the system does not tell users apart and there is no token.
    pub trusts_all_users: bool,
    /// Decides which server a command talks to.
    pub data_dir: PathBuf,
    /// The data directory was asked for, and is not just the usual one.
    pub is_data_dir_given: bool,
    pub format: Format,
    pub is_verbose: bool,
    pub is_quiet: bool,
    /// Whether a command may start a server when none answers.
    pub autostart: bool,
    pub max_log_bytes: u64,
    /// What the server asks of its clients, and we show to ours.
    pub token: Option<Token>,
}

/// A port as users write it; 0 lets the system choose one.
pub fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("'{text}' is not a valid port: a number from 0 to 65535"))
}

pub fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err(format!("'{text}' is not text or json")),
    }
}

/// How to print if nothing else may be known: what an option or the environment says, as far as it makes sense.
pub fn format(flag: Option<Format>, environment: impl Fn(&str) -> Option<OsString>) -> Format {
    let set = || environment("PERSISTPROC_FORMAT").and_then(|value| parse_format(value.to_str()?).ok());
    flag.or_else(set).unwrap_or_default()
}

/// Flags first, then the environment, then what is usual. An error is one line for the user.
pub fn resolve(flags: Flags, environment: impl Fn(&str) -> Option<OsString>) -> Result<Config, String> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let text = |name: &str| -> Result<Option<String>, String> {
        set(name).map(|value| value.into_string().map_err(|_| format!("{name} is not UTF-8"))).transpose()
    };
    let named = |name: &str, error: String| format!("{name}: {error}");
    let port = text("PERSISTPROC_PORT")?.map(|t| parse_port(&t).map_err(|e| named("PERSISTPROC_PORT", e)));
    let format = text("PERSISTPROC_FORMAT")?.map(|t| parse_format(&t).map_err(|e| named("PERSISTPROC_FORMAT", e)));
    let max_log_bytes = text("PERSISTPROC_MAX_LOG_BYTES")?.map(|t| {
        t.parse().map_err(|_| format!("PERSISTPROC_MAX_LOG_BYTES: '{t}' is no number of bytes; 0 means no limit"))
    });
    let given_dir = flags.data_dir.or_else(|| set("PERSISTPROC_DATA_DIR").map(PathBuf::from));
    let is_data_dir_given = given_dir.is_some();
    let data_dir = match given_dir {
        Some(dir) => std::path::absolute(&dir).map_err(|e| format!("the data directory {}: {e}", dir.display()))?,
        None => default_data_dir(&set).ok_or("HOME is not set; name a data directory with --data-dir")?,
    };
    let is_on = |name: &str| set(name).is_some_and(|value| value != "0");
    Ok(Config {
        is_port_given: flags.port.is_some() || port.is_some(),
        port: flags.port.map_or_else(|| port.unwrap_or(Ok(DEFAULT_PORT)), Ok)?,
        tcp: !flags.no_tcp && !is_on(NO_TCP),
        trusts_all_users: flags.trusts_all_users,
        data_dir,
        is_data_dir_given,
        format: flags.format.map_or_else(|| format.unwrap_or(Ok(Format::Text)), Ok)?,
        is_verbose: flags.is_verbose,
        is_quiet: flags.is_quiet,
        autostart: !flags.no_autostart && !is_on("PERSISTPROC_NO_AUTOSTART"),
        max_log_bytes: max_log_bytes.unwrap_or(Ok(DEFAULT_MAX_LOG_BYTES))?,
        token: text(TOKEN)?.map(Token::parse).transpose()?,
    })
}

/// Linux: the XDG base directory specification; a relative `XDG_DATA_HOME` is to be ignored. macOS: where it keeps such
/// things.
fn default_data_dir(set: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = || set("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    if cfg!(target_os = "macos") {
        return Some(home()?.join("Library/Application Support/persistproc"));
    }
    let xdg = set("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    Some(xdg.or_else(|| Some(home()?.join(".local/share")))?.join("persistproc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(environment: &[(&str, &str)], flags: Flags) -> Result<Config, String> {
        resolve(flags, |name| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_what_is_usual() {
        let usual = with(&[("HOME", "/home/u")], Flags::default()).unwrap();
        assert_eq!((usual.port, usual.format, usual.autostart), (8947, Format::Text, true));
        assert!(!usual.is_data_dir_given && usual.data_dir.ends_with("persistproc"));
        let environment = [
            ("HOME", "/home/u"),
            ("PERSISTPROC_PORT", "9000"),
            ("PERSISTPROC_DATA_DIR", "/data"),
            ("PERSISTPROC_FORMAT", "json"),
            ("PERSISTPROC_NO_AUTOSTART", "1"),
            ("PERSISTPROC_MAX_LOG_BYTES", "0"),
        ];
        let set = with(&environment, Flags::default()).unwrap();
        assert_eq!((set.port, set.format, set.autostart, set.max_log_bytes), (9000, Format::Json, false, 0));
        assert!(set.is_data_dir_given && set.data_dir == *"/data");
        let flags =
            Flags { port: Some(1), data_dir: Some("/mine".into()), format: Some(Format::Text), ..Flags::default() };
        let won = with(&environment, flags).unwrap();
        assert_eq!((won.port, won.format, won.data_dir), (1, Format::Text, "/mine".into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_data_directory_is_where_xdg_says() {
        let dir = |environment: &[(&str, &str)]| with(environment, Flags::default()).map(|config| config.data_dir);
        assert_eq!(dir(&[("HOME", "/home/u")]), Ok("/home/u/.local/share/persistproc".into()));
        assert_eq!(dir(&[("HOME", "/home/u"), ("XDG_DATA_HOME", "/xdg")]), Ok("/xdg/persistproc".into()));
        assert_eq!(
            dir(&[("HOME", "/home/u"), ("XDG_DATA_HOME", "xdg")]),
            Ok("/home/u/.local/share/persistproc".into())
        );
        assert!(dir(&[]).unwrap_err().contains("--data-dir"));
    }

    #[test]
    fn a_token_is_recognised_and_never_shown() {
        let token = |text: &str| with(&[("HOME", "/home/u"), (TOKEN, text)], Flags::default()).map(|c| c.token);
        assert_eq!(token("").unwrap(), None);
        let secret = token("sixteen-._~+/=16").unwrap().unwrap();
        assert_eq!(secret.authorization(), "Bearer sixteen-._~+/=16");
        for shown in ["Bearer sixteen-._~+/=16", "bearer sixteen-._~+/=16", "BEARER  sixteen-._~+/=16"] {
            assert!(secret.is_shown_by(shown), "{shown}");
        }
        for other in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer sixteen-._~+/=1",
            "Bearer sixteen-._~+/=166",
            "Bearer Sixteen-._~+/=16",
            "Bearer sixteen-._~+/=16 ",
            "Bearer sixteen-._~+/=16\u{a0}",
            "Bearer\u{a0}sixteen-._~+/=16",
            "Basic sixteen-._~+/=16",
            "sixteen-._~+/=16",
            "Bearer, sixteen-._~+/=16",
        ] {
            assert!(!secret.is_shown_by(other), "{other}");
        }
        assert_eq!(format!("{secret:?}"), "Token");
        let text = |letter: &str| letter.repeat(16);
        for text in
            ["?", "fifteen=letters", &text("two words"), &text("\""), &text("\n"), &text("\u{fc}"), &"x".repeat(257)]
        {
            let error = token(text).unwrap_err();
            assert!(error.starts_with("PERSISTPROC_TOKEN: ") && !error.contains(text), "{error}");
        }
    }

    #[test]
    fn nonsense_in_the_environment_is_named() {
        for (name, value) in
            [("PERSISTPROC_PORT", "70000"), ("PERSISTPROC_FORMAT", "xml"), ("PERSISTPROC_MAX_LOG_BYTES", "-1")]
        {
            let error = with(&[("HOME", "/home/u"), (name, value)], Flags::default()).unwrap_err();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
