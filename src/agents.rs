//! Variables that AI agents set in the environment of the shells they use, and by which tools distinguish an agent from a
//! person.
//!
//! A dev server does not belong to the agent: started from an agent's shell, it must behave as if the person had started it,
//! and the session identifiers, sockets and tokens in these variables are private to the agent's session. So they are not
//! passed on to it. Other settings that agents make (`NO_COLOR`, `PAGER`, `GIT_*`) may be the person's own and are kept.

use std::ffi::OsStr;

/// Variables that only an agent sets.
const NAMES: [&str; 27] = [
    "AGENT_SESSION_ID", // Goose
    "AI_AGENT",         // several: claude-code_…, github_copilot_…, crush
    "AMP_CURRENT_THREAD_ID",
    "ANTIGRAVITY_AGENT",
    "AUGMENT_AGENT",
    "CLAUDECODE",
    "CLAUDE_EFFORT",
    "CLAUDE_PID",
    "CLINE_ACTIVE",
    "CLINE_CONNECTOR_CLI_LAUNCH",
    "COPILOT_AGENT",
    "COPILOT_AGENT_SESSION_ID",
    "COPILOT_CLI",
    "COPILOT_CLI_BINARY_VERSION",
    "CRUSH",
    "CURSOR_AGENT",
    "CURSOR_CONVERSATION_ID",
    "CURSOR_EXTENSION_HOST_ROLE",
    "CURSOR_REQUEST_ID",
    "CURSOR_SANDBOX",
    "GEMINI_CLI",
    "GOOSE_TERMINAL",
    "OPENCODE",
    "OPENCODE_PID",
    "PI_CODING_AGENT",
    "QWEN_CODE",
    "ROO_ACTIVE",
];

/// Prefixes of variables that only an agent sets; each version of an agent adds new ones.
const PREFIXES: [&str; 4] = ["CLAUDE_CODE_", "CODEX_", "JUNIE_", "QWEN_CODE_"];

/// Variables with such a prefix that are a person's settings.
const SETTINGS: [&str; 4] =
    ["CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_VERTEX", "CODEX_HOME"];

/// Values of `AGENT` that identify an agent; other programs use a variable of that name, too.
const AGENT_VALUES: [&str; 5] = ["1", "true", "amp", "crush", "goose"];

/// Whether this variable indicates that an agent is active, or belongs to its session.
pub fn is_agent_variable(name: &OsStr, value: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let has_prefix = || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !SETTINGS.contains(&name);
    NAMES.contains(&name)
        || has_prefix()
        || name == "AGENT" && value.to_str().is_some_and(|v| AGENT_VALUES.contains(&v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_variables_are_distinguished_from_settings_and_keys() {
        let is = |name: &str, value: &str| is_agent_variable(OsStr::new(name), OsStr::new(value));
        for (name, value) in [
            ("CLAUDECODE", "1"),
            ("CLAUDE_CODE_SESSION_ID", "x"),
            ("CLAUDE_CODE_SOMETHING_NEW", "x"),
            ("CODEX_SANDBOX_NETWORK_DISABLED", "1"),
            ("CURSOR_AGENT", "1"),
            ("GEMINI_CLI", "1"),
            ("AGENT", "goose"),
            ("AI_AGENT", ""),
        ] {
            assert!(is(name, value), "{name}");
        }
        for (name, value) in [
            ("GEMINI_API_KEY", "k"),
            ("CODEX_HOME", "/h"),
            ("CLAUDE_CODE_USE_BEDROCK", "1"),
            ("CURSOR_TRACE_ID", "t"), // also in terminals of people
            ("AGENT", "smith"),
            ("USER_AGENT", "1"),
            ("NO_COLOR", "1"),
            ("PAGER", "cat"),
            ("TERM", "dumb"),
            ("GIT_PAGER", "cat"),
            ("ANTHROPIC_API_KEY", "k"),
        ] {
            assert!(!is(name, value), "{name}");
        }
    }
}
