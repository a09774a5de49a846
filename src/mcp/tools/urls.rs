//! URLs in what programs print.

use crate::output::view;

/// URLs that are reported.
const URLS: usize = 5;

/// URLs in these lines, those of this machine first. They stand in sentences of ours, so they end where a part of one could
/// begin, and one that holds what looks like a cursor is left out.
pub fn find<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in lines {
        let text = view::clean(line);
        let mut rest = &*text;
        while let Some(at) = ["http://", "https://"].iter().filter_map(|scheme| rest.find(scheme)).min() {
            let end = rest[at..].find(|c: char| !c.is_ascii_graphic() || "\"'`<>\\^{}|,;".contains(c));
            let (url, behind) = rest[at..].split_at(end.unwrap_or(rest.len() - at));
            rest = behind;
            let url = url.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '*', '…']);
            let is_sound = ("https://".len() + 1..=200).contains(&url.len()) && !url.contains("cursor=");
            if is_sound && !found.iter().any(|known| known == url) {
                found.push(url.into());
            }
        }
    }
    found.sort_by_key(|url| is_foreign(url));
    found.truncate(URLS);
    found
}

/// Whether a URL leads to another machine, or at least does not say that it is this one.
pub fn is_foreign(url: &str) -> bool {
    let host = url.split("//").nth(1).unwrap_or("");
    !["localhost", "127.", "0.0.0.0", "[::"].iter().any(|own| host.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_found_whole_clean_and_with_those_of_this_machine_first() {
        let lines: [&[u8]; 7] = [
            b"docs: https://vite.dev/guide/.",
            b"  \x1b[32m\xe2\x9e\x9c\x1b[39m  Local:   \x1b[36mhttp://localhost:\x1b[1m5173\x1b[22m/\x1b[39m",
            b"  Network: http://192.168.0.7:5173/, (http://127.0.0.1:9/x?y=1)",
            b"again http://localhost:5173/ http:// https://",
            b"{\"url\":\"http://[::1]:80\"}",
            b"https://x.org/\xe2\x98\x83 http",
            b"http://localhost:7/;cursor=r1 http://localhost:8/?cursor=r1.combined.5",
        ];
        assert_eq!(
            find(lines.into_iter()),
            [
                "http://localhost:5173/",
                "http://127.0.0.1:9/x?y=1",
                "http://[::1]:80",
                "http://localhost:7/",
                "https://vite.dev/guide/"
            ]
        );
    }
}
