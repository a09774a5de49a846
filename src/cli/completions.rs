//! Completions for bash, zsh and fish, made from the tables.

use super::commands::{COMMANDS, CommandSpec, Positional};
use super::options::{CliFlag, Takes, flags};
use std::fmt::Write;

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
    COMMANDS.iter().flat_map(CommandSpec::names).collect()
}

/// Options of these commands, by name.
fn options_of(commands: &[&str]) -> String {
    let flags = flags().iter().filter(|flag| commands.iter().any(|command| flag.is_of(command)));
    flags.map(|flag| format!("--{}", flag.long)).collect::<Vec<_>>().join(" ")
}

/// Options as they are written that take a value: the word after them is not a command.
fn valued() -> Vec<String> {
    let valued = || flags().iter().filter(|flag| flag.takes.placeholder().is_some());
    let short = valued().filter_map(|flag| flag.short).map(|letter| format!("-{letter}"));
    let mut all: Vec<String> = valued().map(|flag| format!("--{}", flag.long)).chain(short).collect();
    all.sort();
    all.dedup();
    all
}

/// Commands that are followed by a program and its arguments.
fn programs() -> impl Iterator<Item = &'static CommandSpec> {
    COMMANDS.iter().filter(|spec| spec.positional == Positional::Program)
}

/// Lines of a `case`: options and words of each command.
fn bash_commands() -> String {
    let mut cases = String::new();
    for spec in &COMMANDS {
        let options = options_of(&[spec.name]);
        let words = spec.choices().join(" ");
        let _ = writeln!(
            cases,
            "    {}) options=\"{options}\" words=\"{words}\" ;;",
            spec.names().collect::<Vec<_>>().join("|")
        );
    }
    cases
}

/// Lines of a `case`: the words that the value of an option can be.
fn bash_values() -> String {
    let mut values = String::new();
    for flag in flags().iter().filter(|flag| !flag.takes.choices().is_empty()) {
        let choices = flag.takes.choices().join(" ");
        let _ =
            writeln!(values, "    --{}) COMPREPLY=($(compgen -W \"{choices}\" -- \"$word\")); return ;;", flag.long);
    }
    values
}

fn bash() -> String {
    let (cases, values) = (bash_commands(), bash_values());
    format!(
        r#"# bash completion of persistproc; made by `persistproc completions bash`
_persistproc() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="" options="" words="" i
  # bash takes --format=json apart at the =.
  [[ "$before" == "=" ]] && before="${{COMP_WORDS[COMP_CWORD-2]}}"
  [[ "$word" == "=" ]] && word=""
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${{COMP_WORDS[i]}}" in
      {valued})
        [[ "${{COMP_WORDS[i+1]}}" == "=" ]] && i=$((i + 1))
        i=$((i + 1))
        continue ;;
      -*) continue ;;
    esac
    case "$command" in
      "") case "${{COMP_WORDS[i]}}" in {commands}) command="${{COMP_WORDS[i]}}" ;; *) break ;; esac ;;
      ctrl) command="${{COMP_WORDS[i]}}" ;;
      {programs}) break ;;
    esac
  done
  # The rest is a program's: its own completion, where bash-completion is there, or files.
  if ((i < COMP_CWORD)); then
    declare -F _command_offset > /dev/null && _command_offset "$i"
    return
  fi
  case "$before" in
{values}    {valued}) return ;;
  esac
  case "$command" in
    "") options="{first}" words="{every}" ;;
{cases}  esac
  if [[ "$word" == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  else
    case "$command" in
      "" | {programs}) COMPREPLY=($(compgen -W "$words" -c -- "$word")) ;;
      *) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    esac
  fi
}}
complete -o bashdefault -o default -F _persistproc persistproc
"#,
        valued = valued().join("|"),
        programs = programs().map(|spec| spec.name).collect::<Vec<_>>().join("|"),
        commands = command_names().join("|"),
        first = options_of(&["run", "serve"]),
        every = command_names().join(" "),
    )
}

/// `'--port[help]:PORT:'`, as _arguments takes them, of these commands.
fn zsh_options(commands: &[&str]) -> String {
    let mut text = String::new();
    for flag in flags().iter().filter(|flag| commands.iter().any(|command| flag.is_of(command))) {
        let help = flag.help.replace('\'', "'\\''").replace('[', "(").replace(']', ")").replace(':', "\\:");
        let value = match (flag.takes.placeholder(), flag.takes.choices()) {
            (None, _) => String::new(),
            _ if matches!(flag.takes, Takes::Path(_)) => ":DIR:_files -/".into(),
            (Some(value), []) => format!(":{value}:"),
            (Some(value), choices) => format!(":{value}:({})", choices.join(" ")),
        };
        let _ = write!(text, " \\\n        '--{}[{help}]{value}'", flag.long);
        let _ = flag.short.map(|letter| write!(text, " \\\n        '-{letter}[{help}]{value}'"));
    }
    text
}

fn zsh() -> String {
    let mut commands = String::new();
    for spec in &COMMANDS {
        let _ = writeln!(commands, "    '{}:{}'", spec.name, spec.summary.replace('\'', "'\\''").replace(':', "\\:"));
    }
    let mut cases = String::new();
    for spec in COMMANDS.iter().filter(|spec| spec.name != "ctrl") {
        let rest = match spec.choices() {
            _ if spec.positional == Positional::Program => "'*::program:_normal'".into(),
            // With no action at all zsh spends the Tab on a message.
            [] => "'*:target:()'".into(),
            choices => format!("'1:which:({})'", choices.join(" ")),
        };
        let options = zsh_options(&[spec.name]);
        let _ = writeln!(
            cases,
            "    {})\n      _arguments{options} \\\n        {rest} ;;",
            spec.names().collect::<Vec<_>>().join("|")
        );
    }
    format!(
        r#"#compdef persistproc
# made by `persistproc completions zsh`
_persistproc() {{
  # Not `commands`: that is the shell's own, and _command_names reads it.
  local -a subcommands=(
{commands}  )
  local context state state_descr line
  typeset -A opt_args
  _arguments -C{first} \
        '1: :->command' '*:: :->rest'
  if [[ $state == command ]]; then
    _describe command subcommands
    _command_names -e
    return
  fi
  [[ $state == rest ]] || return
  if [[ $words[1] == ctrl ]]; then
    if (( CURRENT == 2 )); then
      compadd start stop restart
      return
    fi
    shift words
    (( CURRENT-- ))
  fi
  case $words[1] in
{cases}    *) _normal ;;
  esac
}}
if [[ $funcstack[1] == _persistproc ]]; then
  _persistproc "$@"
else
  compdef _persistproc persistproc # sourced
fi
"#,
        first = zsh_options(&["run", "serve"]),
    )
}

fn fish() -> String {
    let quote = |s: &str| s.replace('\\', "\\\\").replace('\'', "\\'");
    let mut text = format!(
        r"# fish completion of persistproc; made by `persistproc completions fish`
# Whether the command in this line, or '' if there is none yet, is one of those that are given.
function __persistproc_at
  set -l words (commandline -opc)
  set -e words[1]
  set -l command ''
  set -l is_value no
  for word in $words
    if test $is_value = yes
      set is_value no
      continue
    end
    switch $word
      case {valued}
        set is_value yes
      case '-*'
      case '*'
        set command $word
        break
    end
  end
  contains -- $command $argv
end
",
        valued = valued().join(" "),
    );
    for spec in &COMMANDS {
        let (name, summary) = (spec.name, quote(spec.summary));
        let _ = writeln!(text, "complete -c persistproc -n \"__persistproc_at ''\" -a {name} -d '{summary}'");
        let words = spec.choices().join(" ");
        if !words.is_empty() {
            let _ = writeln!(text, "complete -c persistproc -n '__persistproc_at {name}' -x -a '{words}'");
        }
    }
    let all = command_names().join(" ");
    let _ = writeln!(
        text,
        "complete -c persistproc -n 'not __persistproc_at {all}' -x -a '(__fish_complete_subcommand)'\n\
         complete -c persistproc -n '__persistproc_at {}' -x -a '(__fish_complete_subcommand --fcs-skip=2)'",
        programs().map(|spec| spec.name).collect::<Vec<_>>().join(" ")
    );
    for flag in flags() {
        let of =
            if flag.is_global() { String::new() } else { format!(" -n \"__persistproc_at {}\"", fish_words(flag)) };
        let short = flag.short.map_or(String::new(), |c| format!(" -s {c}"));
        let value = match (flag.takes.placeholder(), flag.takes.choices()) {
            (None, _) => String::new(),
            (Some(_), []) => " -r".into(),
            (Some(_), choices) => format!(" -x -a '{}'", choices.join(" ")),
        };
        let _ = writeln!(text, "complete -c persistproc{of}{short} -l {}{value} -d '{}'", flag.long, quote(&flag.help));
    }
    text
}

/// The commands of an option, aliases too; '' where the name of the command may be left out.
fn fish_words(flag: &CliFlag) -> String {
    let mut words: Vec<&str> =
        COMMANDS.iter().filter(|spec| flag.is_of(spec.name)).flat_map(CommandSpec::names).collect();
    if ["run", "serve"].iter().any(|name| flag.is_of(name)) {
        words.push("''");
    }
    words.join(" ")
}
