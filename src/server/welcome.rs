//! What `serve` prints: how to connect each agent, with the real URL, ready to be copied.
//!
//! Commands where the vendor has one (they know their file and keep its comments), else the entry for the file. Written
//! as user scope: project files need an approval in most agents.

use super::Holder;
use std::fmt::Write;

/// An agent that is connected by a command; `URL` stands for the address.
const COMMANDS: [(&str, &str); 8] = [
    ("Claude Code", "claude mcp add --transport http --scope user persistproc URL"),
    ("Codex CLI", "codex mcp add persistproc --url URL"),
    ("Gemini CLI", "gemini mcp add -s user -t http persistproc URL"),
    ("VS Code", r#"code --add-mcp '{"name":"persistproc","type":"http","url":"URL"}'"#),
    ("Copilot CLI", "copilot mcp add --transport http persistproc URL"),
    ("OpenCode", "opencode mcp add persistproc --url URL"),
    ("Cline CLI", "cline mcp add persistproc --yes --transport http URL"),
    ("Amp", "amp mcp add persistproc URL"),
];

/// An agent that is connected by an entry in a file.
const FILES: [(&str, &str, &str); 4] = [
    ("Cursor", "~/.cursor/mcp.json", r#"{"mcpServers":{"persistproc":{"url":"URL"}}}"#),
    ("Windsurf", "~/.codeium/windsurf/mcp_config.json", r#"{"mcpServers":{"persistproc":{"serverUrl":"URL"}}}"#),
    ("Zed", "~/.config/zed/settings.json", r#"{"context_servers":{"persistproc":{"url":"URL"}}}"#),
    ("Others", "Streamable HTTP", r#"{"mcpServers":{"persistproc":{"type":"http","url":"URL"}}}"#),
];

pub fn text(holder: &Holder) -> String {
    let url = format!("http://127.0.0.1:{}/mcp", holder.port);
    let mut text = format!("persistproc {} serves {url}\n\nConnect your agents, once:\n\n", holder.version);
    for (agent, command) in COMMANDS {
        let _ = writeln!(text, "  {agent:<12} {}", command.replace("URL", &url));
    }
    text.push('\n');
    for (agent, file, entry) in FILES {
        let _ = writeln!(text, "  {agent:<12} {file}\n  {:<12} {}", "", entry.replace("URL", &url));
    }
    let _ = writeln!(
        text,
        "\nThen run a process that they and you share:  persistproc npm run dev\nCtrl+C ends the server and its processes."
    );
    text
}
