//! Help and completions, made from the table.

use super::table::{COMMANDS, FLAGS, Flag, Spec};
use std::fmt::Write;

/// `persistproc --help`.
pub fn overview() -> String {
    let mut text = format!(
        "persistproc {} runs dev servers, watchers and databases so that you and every AI agent on this machine\n\
         see the same output and control the same processes.\n\n\
         Usage: persistproc [OPTIONS] PROGRAM [ARG…]\n       persistproc [OPTIONS] COMMAND …\n\nCommands:\n",
        env!("CARGO_PKG_VERSION")
    );
    for spec in &COMMANDS {
        let names = std::iter::once(spec.name).chain(spec.aliases.iter().copied()).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "  {names:<12} {}", spec.summary);
    }
    text.push_str("\nOptions, before or behind the command:\n");
    push_flags(&mut text, |flag| flag.is_global());
    text.push_str(
        "\nExit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no server; run ends as its program does.\n\
         `persistproc COMMAND --help` says more about one.\n",
    );
    text
}

/// `persistproc stop --help`.
pub fn of(spec: &Spec) -> String {
    let mut text = format!("persistproc {}: {}\n\n", spec.name, spec.summary);
    let _ = writeln!(text, "Usage: persistproc {} {}\n", spec.name, spec.usage);
    for paragraph in spec.details.split('\n') {
        text.push_str(&wrap(paragraph));
        text.push('\n');
    }
    if FLAGS.iter().any(|flag| !flag.is_global() && flag.is_of(spec.name)) {
        text.push_str("\nOptions:\n");
        push_flags(&mut text, |flag| !flag.is_global() && flag.is_of(spec.name));
    }
    text.push_str("\nGlobal options:\n");
    push_flags(&mut text, Flag::is_global);
    text
}

fn push_flags(text: &mut String, wanted: impl Fn(&Flag) -> bool) {
    for flag in FLAGS.iter().filter(|flag| wanted(flag)) {
        let short = flag.short.map_or("    ".into(), |c| format!("-{c}, "));
        let value = flag.value.map_or(String::new(), |value| format!(" {value}"));
        let names = format!("{short}--{}{value}", flag.long);
        let _ = writeln!(text, "  {names:<30} {}", flag.help);
    }
}

/// Breaks a paragraph at 96 columns; lines that are indented are examples and stay.
fn wrap(paragraph: &str) -> String {
    if paragraph.starts_with(' ') {
        return paragraph.into();
    }
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > 96 {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text
}

/// Completions for one shell; `None` if it is not known.
pub fn completions(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

fn command_names() -> Vec<&'static str> {
    COMMANDS.iter().flat_map(|spec| std::iter::once(spec.name).chain(spec.aliases.iter().copied())).collect()
}

/// Command → its options, by name.
fn options_of(spec: &Spec) -> Vec<String> {
    FLAGS.iter().filter(|flag| flag.is_of(spec.name)).map(|flag| format!("--{}", flag.long)).collect()
}

fn bash() -> String {
    let mut cases = String::new();
    for spec in &COMMANDS {
        let names = std::iter::once(spec.name).chain(spec.aliases.iter().copied()).collect::<Vec<_>>().join("|");
        let _ = writeln!(cases, "    {names}) words=\"{}\" ;;", options_of(spec).join(" "));
    }
    let mut values = String::new();
    for flag in FLAGS.iter().filter(|flag| !flag.choices.is_empty()) {
        let _ = writeln!(
            values,
            "    --{}) COMPREPLY=($(compgen -W \"{}\" -- \"$word\")); return ;;",
            flag.long,
            flag.choices.join(" ")
        );
    }
    format!(
        r#"# bash completion of persistproc; made by `persistproc completions bash`
_persistproc() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="" words="" i
  case "$before" in
{values}  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    [[ "${{COMP_WORDS[i]}}" == -* ]] || {{ command="${{COMP_WORDS[i]}}"; break; }}
  done
  if [[ -z "$command" ]]; then
    COMPREPLY=($(compgen -W "{commands} {globals}" -c -- "$word"))
    return
  fi
  case "$command" in
{cases}  esac
  if [[ "$word" == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$word"))
  else
    COMPREPLY=($(compgen -c -- "$word"))
  fi
}}
complete -o bashdefault -o default -F _persistproc persistproc
"#,
        commands = command_names().join(" "),
        globals = FLAGS
            .iter()
            .filter(|flag| flag.is_global())
            .map(|flag| format!("--{}", flag.long))
            .collect::<Vec<_>>()
            .join(" "),
    )
}

fn zsh() -> String {
    let mut commands = String::new();
    for spec in &COMMANDS {
        let _ = writeln!(commands, "    '{}:{}'", spec.name, spec.summary.replace('\'', "'\\''").replace(':', "\\:"));
    }
    let mut cases = String::new();
    for spec in &COMMANDS {
        let _ = write!(cases, "    {})\n      _arguments", spec.name);
        for flag in FLAGS.iter().filter(|flag| flag.is_of(spec.name)) {
            let help = flag.help.replace('\'', "'\\''").replace('[', "(").replace(']', ")").replace(':', "\\:");
            let value = match (flag.value, flag.choices) {
                (None, _) => String::new(),
                (Some(value), []) => format!(":{value}:"),
                (Some(value), choices) => format!(":{value}:({})", choices.join(" ")),
            };
            let _ = write!(cases, " \\\n        '--{}[{help}]{value}'", flag.long);
        }
        cases.push_str(" \\\n        '*::arguments:_normal' ;;\n");
    }
    format!(
        "#compdef persistproc\n# made by `persistproc completions zsh`\n_persistproc() {{\n  local -a commands=(\n{commands}  )\n  \
         if (( CURRENT == 2 )); then\n    _describe command commands\n    _command_names -e\n    return\n  fi\n  \
         case $words[2] in\n{cases}  esac\n}}\n_persistproc \"$@\"\n"
    )
}

fn fish() -> String {
    let mut text = String::from("# fish completion of persistproc; made by `persistproc completions fish`\n");
    let quote = |s: &str| s.replace('\\', "\\\\").replace('\'', "\\'");
    for spec in &COMMANDS {
        let _ = writeln!(
            text,
            "complete -c persistproc -n __fish_use_subcommand -a {} -d '{}'",
            spec.name,
            quote(spec.summary)
        );
    }
    for flag in &FLAGS {
        let of = if flag.is_global() {
            String::new()
        } else {
            format!(" -n '__fish_seen_subcommand_from {}'", flag.of.join(" "))
        };
        let short = flag.short.map_or(String::new(), |c| format!(" -s {c}"));
        let value = match (flag.value, flag.choices) {
            (None, _) => String::new(),
            (Some(_), []) => " -r".into(),
            (Some(_), choices) => format!(" -x -a '{}'", choices.join(" ")),
        };
        let _ = writeln!(text, "complete -c persistproc{of}{short} -l {}{value} -d '{}'", flag.long, quote(flag.help));
    }
    text
}
