//! What `serve` prints: how to connect each agent, with the real URL, ready to be copied.
//!
//! Commands where the vendor has one (they know their file and keep its comments), else the entry for the file. Written
//! as user scope: project files need an approval in most agents. `make clients` runs the commands of this page.

use super::token_help::with_token;
use crate::config::DEFAULT_PORT;
use crate::discovery::ServerInfo;
use crate::os_text;
use serde_json::json;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

/// An agent that is connected by a command; `URL` stands for the address.
pub const COMMANDS: [(&str, &str); 9] = [
    ("Claude Code", "claude mcp add --transport http --scope user persistproc URL"),
    ("Codex CLI", "codex mcp add persistproc --url URL"),
    ("Gemini CLI", "gemini mcp add -s user -t http persistproc URL"),
    ("VS Code", r#"code --add-mcp '{"name":"persistproc","type":"http","url":"URL"}'"#),
    ("Copilot CLI", "copilot mcp add --transport http persistproc URL"),
    ("OpenCode", "opencode mcp add persistproc --url URL"),
    ("Qwen Code", "qwen mcp add -s user -t http persistproc URL"),
    ("Cline CLI", "cline mcp add persistproc --yes --transport http URL"),
    ("Amp", "amp mcp add persistproc URL"),
];

/// An agent that is connected by an entry in a file.
pub const FILES: [(&str, &str, &str); 7] = [
    ("Cursor", "~/.cursor/mcp.json", r#"{"mcpServers":{"persistproc":{"url":"URL"}}}"#),
    ("Windsurf", "~/.codeium/windsurf/mcp_config.json", r#"{"mcpServers":{"persistproc":{"serverUrl":"URL"}}}"#),
    ("Zed", "~/.config/zed/settings.json", r#"{"context_servers":{"persistproc":{"url":"URL"}}}"#),
    ("Warp", "~/.warp/.mcp.json", r#"{"mcpServers":{"persistproc":{"url":"URL"}}}"#),
    (
        "Goose",
        "~/.config/goose/config.yaml",
        r#"extensions: {persistproc: {type: streamable_http, name: persistproc, description: "", uri: "URL", headers: {}, enabled: true, timeout: 300}}"#,
    ),
    ("Continue", "~/.continue/config.yaml", r#"mcpServers: [{name: persistproc, type: streamable-http, url: "URL"}]"#),
    (
        "Others",
        "Streamable HTTP; .mcp.json in a repository has this form",
        r#"{"mcpServers":{"persistproc":{"type":"http","url":"URL"}}}"#,
    ),
];

const CLAUDE_DESKTOP: &str = if cfg!(target_os = "macos") {
    "~/Library/Application Support/Claude/claude_desktop_config.json"
} else {
    "~/.config/Claude/claude_desktop_config.json"
};

/// Agents that start a program instead, and where they look for its entry.
const STDIO: [(&str, &str); 2] =
    [("Claude Desktop", CLAUDE_DESKTOP), ("JetBrains", "~/.junie/mcp/mcp.json, or AI Assistant's settings")];

/// The page. `binary` is what bridges are started from, by its whole path, since applications have no shell's `PATH`;
/// `data_dir` is there if a bridge would not find it by itself; `asks_token`: clients have to show one.
pub fn text(server_info: &ServerInfo, binary: &Path, data_dir: Option<&Path>, asks_token: bool) -> String {
    if !server_info.has_port() {
        return without_port(server_info, binary, data_dir);
    }
    let url = format!("http://127.0.0.1:{}/mcp", server_info.port);
    let line = |agent: &str, line: &str| {
        let line = if asks_token { with_token(agent, line) } else { line.into() };
        line.replace("URL", &url)
    };
    let mut text = format!("persistproc {} serves {url}\n\nConnect your agents, once:\n\n", server_info.version);
    for (agent, command) in COMMANDS {
        let _ = writeln!(text, "  {agent:<14} {}", line(agent, command));
    }
    text.push('\n');
    for (agent, file, entry) in FILES {
        let _ = writeln!(text, "  {agent:<14} {file}\n  {:<14} {}", "", line(agent, entry));
    }
    text.push_str("\nThose that start a program instead of connecting to a URL, which need no token:\n\n");
    push_bridges(&mut text, server_info, binary, data_dir);
    if asks_token {
        text.push_str("\nPERSISTPROC_TOKEN is set here, and must be where agents that connect to the URL work.\n");
    }
    text.push_str(END);
    text
}

const END: &str = "\nThen run a process that they and you share:  persistproc npm run dev\nCtrl+C ends the server and its processes.\n";

/// The page of a server that agents reach by the bridge alone.
fn without_port(server_info: &ServerInfo, binary: &Path, data_dir: Option<&Path>) -> String {
    let mut text = format!(
        "persistproc {} serves {}\n\nConnect your agents, once, by a program that they start:\n\n",
        server_info.version,
        server_info.data_dir.display()
    );
    push_bridges(&mut text, server_info, binary, data_dir);
    text.push_str(END);
    text
}

/// How agents that start a program are given the bridge.
fn push_bridges(text: &mut String, server_info: &ServerInfo, binary: &Path, data_dir: Option<&Path>) {
    let words = bridge(server_info, binary, data_dir);
    let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let (command, arguments) = (json!(shown[0]), json!(shown[1..]));
    let entry = format!(r#"{{"mcpServers":{{"persistproc":{{"command":{command},"args":{arguments}}}}}}}"#);
    for (agent, file) in STDIO {
        let _ = writeln!(text, "  {agent:<14} {file}\n  {:<14} {entry}", "");
    }
    let _ = writeln!(text, "  {:<14} {}", "Others", os_text::quote(&words));
}

/// The command of the bridge to this server, or to one like it that the bridge starts. Values stand in the words of their
/// options: OpenCode takes a word that is a number for one, and then refuses its own file.
fn bridge(server_info: &ServerInfo, binary: &Path, data_dir: Option<&Path>) -> Vec<OsString> {
    let port = match server_info.port {
        DEFAULT_PORT => None,
        0 => Some("--no-tcp".into()),
        port => Some(format!("--port={port}").into()),
    };
    let data_dir = data_dir.map(|dir| {
        let mut word = OsString::from("--data-dir=");
        word.push(dir);
        word
    });
    [Some(binary.into()), Some("mcp".into()), port, data_dir].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn page(port: u16, data_dir: Option<&Path>) -> String {
        let server_info = ServerInfo { pid: 1, port, version: "1".into(), data_dir: "/d".into() };
        text(&server_info, Path::new("/opt/my tools/persistproc"), data_dir, false)
    }

    #[test]
    fn every_command_is_one_that_a_shell_reads_and_every_entry_is_json_or_yaml() {
        let page = page(9000, None);
        let url = "http://127.0.0.1:9000/mcp";
        for (agent, command) in COMMANDS {
            let words = shlex::split(&command.replace("URL", url)).unwrap();
            assert!(words.iter().any(|word| word.contains(url)), "{agent}");
            assert!(page.contains(&command.replace("URL", url)), "{agent}");
        }
        let entries: Vec<Value> = page.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect();
        let yaml = FILES.iter().filter(|(_, file, _)| file.ends_with(".yaml")).count();
        assert_eq!(entries.len(), FILES.len() - yaml + STDIO.len());
        assert!(!page.contains("URL\"") && !page.contains(" URL\n"));
    }

    #[test]
    fn without_a_port_only_bridges_are_named() {
        let page = page(0, None);
        assert!(
            page.contains(r#""args":["mcp","--no-tcp"]"#) && !page.contains("http:") && !page.contains("claude mcp")
        );
    }

    #[test]
    fn a_bridge_is_told_what_it_cannot_know() {
        let usual = r#"{"mcpServers":{"persistproc":{"command":"/opt/my tools/persistproc","args":["mcp"]}}}"#;
        assert!(page(8947, None).contains(usual));
        let told = page(9000, Some(Path::new("/my data")));
        assert!(told.contains(r#""args":["mcp","--port=9000","--data-dir=/my data"]"#), "{told}");
        let command =
            told.lines().rfind(|line| line.starts_with("  Others")).unwrap().trim().strip_prefix("Others").unwrap();
        let words = ["/opt/my tools/persistproc", "mcp", "--port=9000", "--data-dir=/my data"];
        assert_eq!(shlex::split(command).unwrap(), words);
    }
}
