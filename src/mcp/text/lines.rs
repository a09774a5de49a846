//! Lines as a model gets them: as a terminal would show them, clipped, equal neighbours as one, the newest that fit.

use crate::output::lines::Line;
use crate::output::query::Selected;
use crate::output::view;
use std::fmt::Write;

/// Characters of one line, unless few were asked for.
const LINE: usize = 500;
/// Bytes that a line takes beside its text: ` … ×10000` and its newline.
const EXTRA: usize = 14;

/// Characters of a line if `count` lines were asked for and there are `room` bytes for all: whoever asks for one line of
/// JSON wants to read it.
pub fn longest(count: usize, room: usize) -> usize {
    const LENGTH_AND_NAME: usize = 80;
    (room / count.max(1)).saturating_sub(LENGTH_AND_NAME).max(LINE)
}

/// Appends the newest of `lines` that fit into `room` bytes, of each at most `longest` characters, with the name of their
/// process if there are `names`. Where a process was restarted in between, a line says so. Tells how many of `lines` that
/// were.
pub fn push(text: &mut String, lines: &[Selected], names: &[String], longest: usize, room: usize) -> usize {
    let mut shown: Vec<(String, usize)> = Vec::new();
    let (mut bytes, mut count) = (0, 0);
    // Stands before the line that was shown last, if one before that is shown.
    let mut restart: Option<String> = None;
    for (i, selected) in lines.iter().enumerate().rev() {
        let name = names.get(selected.source);
        let text = show(&selected.line, longest);
        let line = name.map_or(String::new(), |name| format!("{name}: ")) + &text;
        let line = line.trim_end();
        // Among the lines of others an empty one shows nothing.
        let is_empty = name.is_some() && text.is_empty() && !shown.is_empty();
        let is_same = restart.is_none() && (is_empty || shown.last().is_some_and(|(same, _)| same == line));
        let more = if is_same { 0 } else { line.len() + EXTRA } + restart.as_ref().map_or(0, |text| text.len() + 1);
        if bytes + more > room && count > 0 {
            break;
        }
        bytes += more;
        shown.extend(restart.take().map(|text| (text, 1)));
        match shown.last_mut().filter(|_| is_same) {
            Some((_, times)) => *times += usize::from(!is_empty),
            // The newest one in any case, as far as there is room.
            None => shown.push((shorten(line, room), 1)),
        }
        restart = begins_run(lines, i).then(|| {
            let name = name.map_or(String::new(), |name| format!(" of {name}"));
            format!("--- new run{name}: r{} ---", selected.line.run)
        });
        count += 1;
    }
    for (line, times) in shown.iter().rev() {
        text.push_str(line);
        if *times > 1 && !line.is_empty() {
            let _ = write!(text, " … ×{times}");
        }
        text.push('\n');
    }
    count
}

/// The same for lines of one run.
pub fn push_all<'a>(text: &mut String, lines: impl IntoIterator<Item = &'a Line>, room: usize) -> usize {
    let lines: Vec<Selected> = lines.into_iter().map(|line| Selected { source: 0, line: line.clone() }).collect();
    push(text, &lines, &[], LINE, room)
}

/// Whether the line before this one of the same process is of an earlier run.
fn begins_run(lines: &[Selected], i: usize) -> bool {
    let before = lines[..i].iter().rev().find(|other| other.source == lines[i].source);
    before.is_some_and(|before| before.line.run != lines[i].line.run)
}

fn shorten(line: &str, room: usize) -> String {
    if line.len() + EXTRA <= room {
        return line.into();
    }
    format!("{}…", &line[..line.floor_char_boundary(room.saturating_sub(EXTRA + 3))])
}

pub fn show(line: &Line, longest: usize) -> String {
    let text = view::clean(&line.text);
    let text = if line.cut == 0 { view::clip(&text, longest) } else { text.chars().take(longest).collect() };
    let start = if line.lacks_start { "…" } else { "" };
    let end = match (line.is_finished, line.cut) {
        (_, 1..) => format!("… [{} bytes]", line.cut + line.text.len() as u64),
        (false, 0) => " (unfinished line)".into(),
        (true, 0) => String::new(),
    };
    format!("{start}{text}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Stream;
    use crate::output::tests::{Random, cases};

    fn line(run: u64, text: &str) -> Selected {
        let line = Line {
            ms: 0,
            stream: Stream::Stdout,
            text: text.into(),
            cut: 0,
            is_finished: true,
            lacks_start: false,
            run,
            at: 0,
            last: 0,
            is_context: false,
        };
        Selected { source: 0, line }
    }

    #[test]
    fn equal_neighbours_are_one_line_and_the_newest_fit() {
        let mut lines = vec![line(1, "first")];
        lines.extend((0..37).map(|_| line(1, "again")));
        lines.extend([line(1, "last"), line(1, ""), line(1, " "), line(1, "end")]);
        let mut text = String::new();
        assert_eq!(push(&mut text, &lines, &[], LINE, 1000), 42);
        assert_eq!(text, "first\nagain … ×37\nlast\n\nend\n", "empty lines need no number");
        let mut text = String::new();
        assert_eq!(push(&mut text, &lines[..39], &[], LINE, 38), 38);
        assert_eq!(text, "again … ×37\nlast\n");
    }

    #[test]
    fn lines_of_several_processes_have_their_names_and_a_new_run_is_told() {
        let mut lines = vec![line(1, "old"), line(3, "other"), line(2, "new"), line(2, "more")];
        lines[1].source = 1;
        let mut text = String::new();
        push(&mut text, &lines, &["web".into(), "api".into()], LINE, 1000);
        assert_eq!(text, "web: old\napi: other\n--- new run of web: r2 ---\nweb: new\nweb: more\n");
    }

    #[test]
    fn whatever_the_lines_are_they_fit_and_no_character_is_split() {
        let mut random = Random::new(5);
        let alphabet = ["a", "ä", "€", "\u{1f600}", "\x1b[1m", "\r", " ", "\t", "x", "\u{301}"];
        for _ in 0..cases() / 20 {
            let number = random.below(12);
            let text = |random: &mut Random| -> String {
                (0..random.below(90)).map(|_| alphabet[random.below(alphabet.len())]).collect()
            };
            let lines: Vec<Selected> = (0..number)
                .map(|i| match random.below(3) {
                    0 => line(1, "same"),
                    _ => line(1 + i as u64 / 5, &text(&mut random)),
                })
                .collect();
            let room = random.below(700);
            let mut shown = String::new();
            let count = push(&mut shown, &lines, &[], longest(random.below(20), room), room);
            assert!(shown.len() <= room.max(EXTRA + 30), "{} of {room}: {shown:?}", shown.len());
            assert!(count >= usize::from(number > 0) && count <= number);
        }
    }
}
