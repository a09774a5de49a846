//! How each agent is told to show the token. The token itself is not printed: terminals have histories and spectators.

/// What goes to the end of a command. The shell puts the token in.
const OPTIONS: [(&str, &str); 8] = [
    ("Claude Code", r#" --header "Authorization: Bearer $PERSISTPROC_TOKEN""#),
    ("Codex CLI", " --bearer-token-env-var PERSISTPROC_TOKEN"),
    ("Gemini CLI", r#" -H "Authorization: Bearer $PERSISTPROC_TOKEN""#),
    ("Copilot CLI", r#" --header "Authorization: Bearer $PERSISTPROC_TOKEN""#),
    ("OpenCode", r#" --header "Authorization=Bearer $PERSISTPROC_TOKEN""#),
    ("Qwen Code", r#" -H "Authorization: Bearer $PERSISTPROC_TOKEN""#),
    ("Cline CLI", r#" --header "Authorization: Bearer $PERSISTPROC_TOKEN""#),
    ("Amp", r#" --header "Authorization=Bearer $PERSISTPROC_TOKEN""#),
];

/// How an entry in JSON names the token; agents that are in no table take it only as it is.
const VALUES: [(&str, &str); 3] = [
    ("VS Code", r#"'"$PERSISTPROC_TOKEN"'"#), // out of the quotes of the shell, and in again
    ("Cursor", "${env:PERSISTPROC_TOKEN}"),
    ("Windsurf", "${env:PERSISTPROC_TOKEN}"),
];

/// Entries in YAML: what is replaced, and by what.
const YAML: [(&str, &str, &str); 2] = [
    ("Goose", "headers: {}", r#"headers: {Authorization: "Bearer YOUR_TOKEN"}"#),
    ("Continue", r#""URL""#, r#""URL", requestOptions: {headers: {Authorization: "Bearer YOUR_TOKEN"}}"#),
];

/// A command or an entry of the page that `serve` prints, with the token added.
pub fn with_token(agent: &str, line: &str) -> String {
    let of = |table: &[(&str, &'static str)]| table.iter().find(|(name, _)| *name == agent).map(|(_, value)| *value);
    if let Some(option) = of(&OPTIONS) {
        return format!("{line}{option}");
    }
    if let Some((_, old, new)) = YAML.iter().find(|(name, ..)| *name == agent) {
        return line.replace(old, new);
    }
    let value = of(&VALUES).unwrap_or("YOUR_TOKEN");
    line.replace(r#""URL""#, &format!(r#""URL","headers":{{"Authorization":"Bearer {value}"}}"#))
}

#[cfg(test)]
mod tests {
    use super::super::connect_help::{COMMANDS, FILES};
    use super::*;

    #[test]
    fn every_agent_is_told_how_to_show_the_token() {
        for (agent, line) in COMMANDS.into_iter().chain(FILES.map(|(agent, _, entry)| (agent, entry))) {
            let line = with_token(agent, line);
            let shows = line.contains("Bearer ") || line.contains("--bearer-token-env-var");
            assert!(shows && line.contains("URL"), "{agent}: {line}");
            // What is left when the shell has taken the line apart is JSON.
            if !line.contains("-H ") && !line.contains("--header") && !line.contains(": {") {
                let Some(json) = line.find('{').map(|start| &line[start..]) else { continue };
                let json = json.replace(r#"'"$PERSISTPROC_TOKEN"'"#, "T");
                serde_json::from_str::<serde_json::Value>(json.trim_end_matches('\'')).unwrap();
            }
        }
    }
}
