//! Lines as a model gets them: as a terminal would show them, clipped, equal neighbours as one, the newest that fit.
//! What is said of a line stands in brackets that no program's text has here.

use super::names;
use crate::os_text::MARK;
use crate::output::lines::Line;
use crate::output::query::Selected;
use crate::output::view::{self, mark};

/// Characters of one line, unless few were asked for.
const LINE_MAX: usize = 500;
/// Bytes that ` ⟦×10000⟧` takes.
const TIMES: usize = 15;
/// Bytes of the marks at a line that is cut: its run, a missing beginning, how much is left out, that it is unfinished.
const MARKS: usize = 96;
/// Bytes of a name in front of a line.
const NAME: usize = 40;

/// What stands below the first line of an answer: nothing but lines of programs.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub text: String,
    /// Lines that it shows, in so many rows.
    pub count: usize,
    pub rows: usize,
    /// Where another run of the same process begins: its number, and the row, counted from 1.
    pub runs: Vec<(u64, usize)>,
    /// Invisible characters that were dropped.
    pub hidden: usize,
}

impl Body {
    /// Puts another one below it.
    pub fn append(&mut self, other: Body) {
        self.text.push_str(&other.text);
        self.runs.extend(other.runs.into_iter().map(|(run, row)| (run, row + self.rows)));
        self.count += other.count;
        self.rows += other.rows;
        self.hidden += other.hidden;
    }
}

/// A row of a body that is being made from its end.
struct Row<'a> {
    text: String,
    /// The whole line and how much of it is missing, if that is more than is shown.
    whole: Option<(&'a [u8], u64)>,
    times: usize,
    begins: Option<u64>,
}

/// Characters of a line if `count` lines were asked for and there are `room` bytes for all: one line of JSON that is asked
/// for is to be read.
pub fn longest(count: usize, room: usize) -> usize {
    const MARKS_AND_NAME: usize = 80;
    (room / count.max(1)).saturating_sub(MARKS_AND_NAME).max(LINE_MAX)
}

/// The newest of `lines` that fit into `room` bytes, of each at most `longest` characters, with the name of their process
/// if there are `names`. The newest one is there in any case, as far as it fits.
pub fn body(lines: &[Selected], names: &[String], longest: usize, room: usize) -> Body {
    let mut body = Body::default();
    let mut rows: Vec<Row> = Vec::new();
    let mut bytes = 0;
    for (i, selected) in lines.iter().enumerate().rev() {
        let name = names.get(selected.source).map(|name| format!("{}: ", names::in_front(name, NAME)));
        let begins = begins_run(lines, i).then_some(selected.line.run);
        let start =
            name.clone().unwrap_or_default() + &begins.map_or(String::new(), |run| mark(format_args!("r{run}")) + " ");
        let (mut text, hidden) = show(&selected.line, longest, usize::MAX);
        if rows.is_empty() && start.len() + text.len() + "\n".len() > room {
            let left = room.saturating_sub(start.len() + MARKS);
            (text, _) = show(&selected.line, longest, left);
        }
        // Among the lines of others an empty one shows nothing.
        let is_empty = name.is_some() && text.is_empty() && begins.is_none() && !rows.is_empty();
        let text = (start + &text).trim_end().to_string();
        let whole = text.contains(MARK[0]).then_some((selected.line.text.as_slice(), selected.line.cut));
        let is_equal = |row: &Row| row.text == text && row.whole == whole && row.begins.is_none();
        let is_same = is_empty || rows.last().is_some_and(is_equal);
        let more = match rows.last().filter(|_| is_same) {
            None => text.len() + "\n".len(),
            Some(row) if row.times == 1 && !is_empty => TIMES,
            Some(_) => 0,
        };
        if bytes + more > room && body.count > 0 {
            break;
        }
        bytes += more;
        body.count += 1;
        body.hidden += hidden;
        match rows.last_mut().filter(|_| is_same) {
            Some(row) => row.times += usize::from(!is_empty),
            None => rows.push(Row { text, whole, times: 1, begins }),
        }
    }
    for row in rows.into_iter().rev() {
        body.rows += 1;
        body.runs.extend(row.begins.map(|run| (run, body.rows)));
        let times = if row.times > 1 && !row.text.is_empty() {
            format!(" {}", mark(format_args!("×{}", row.times)))
        } else {
            String::new()
        };
        body.text.push_str(&format!("{}{times}\n", row.text));
    }
    body
}

/// The same for lines of one run.
pub fn body_of(lines: &[Selected], room: usize) -> Body {
    body(lines, &[], LINE_MAX, room)
}

/// Lines of one run as those of a source.
pub fn selected<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Vec<Selected> {
    lines.into_iter().map(|line| Selected { source: 0, line: line.clone() }).collect()
}

/// One line of at most so many characters.
pub fn one(line: &Line, most: usize) -> Body {
    let (text, hidden) = show(line, most, usize::MAX);
    Body { text: text + "\n", rows: 1, hidden, ..Body::default() }
}

/// Whether the line before this one of the same process is of an earlier run.
fn begins_run(lines: &[Selected], i: usize) -> bool {
    let before = lines[..i].iter().rev().find(|other| other.source == lines[i].source);
    before.is_some_and(|before| before.line.run != lines[i].line.run)
}

/// A line of at most so many characters and bytes beside its marks, and how many invisible characters it has lost.
fn show(line: &Line, most: usize, bytes: usize) -> (String, usize) {
    let shown = view::shown(&line.text);
    let start = if line.lacks_start { mark("beginning missing") } else { String::new() };
    let end = if line.is_finished { String::new() } else { format!(" {}", mark("unfinished")) };
    (start + &view::clip(&shown.text, most, bytes, line.cut) + &end, shown.hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Stream;
    use crate::os_text;
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
        let shown = body(&lines, &[], LINE_MAX, 1000);
        assert_eq!((shown.count, shown.rows), (42, 5));
        assert_eq!(shown.text, "first\nagain \u{27e6}×37\u{27e7}\nlast\n\nend\n", "empty lines need no number");
        let long = ["x", "y", "y"].map(|end| line(1, &("a".repeat(LINE_MAX) + end)));
        assert_eq!(body(&long, &[], LINE_MAX, 9000).rows, 2, "what is equal only as far as it is shown is not equal");
        let shown = body(&lines[..39], &[], LINE_MAX, 30);
        assert_eq!((shown.count, shown.text.as_str()), (38, "again \u{27e6}×37\u{27e7}\nlast\n"));
    }

    #[test]
    fn lines_of_several_processes_have_their_names_and_a_new_run_is_marked() {
        let mut lines = vec![line(1, "old"), line(3, "other"), line(2, "new"), line(2, "new")];
        lines[1].source = 1;
        let shown = body(&lines, &["web".into(), "a: b".into()], LINE_MAX, 1000);
        assert_eq!(shown.text, "web: old\n'a: b': other\nweb: \u{27e6}r2\u{27e7} new\nweb: new\n");
        assert_eq!((shown.runs.as_slice(), shown.rows), (&[(2, 3)][..], 4));
        let mut both = one(&line(1, "earlier").line, 100);
        both.append(shown);
        assert_eq!((both.runs.as_slice(), both.rows, both.count), (&[(2, 4)][..], 5, 4));
    }

    #[test]
    fn whatever_the_lines_are_they_fit_and_only_marks_have_their_brackets() {
        let mut random = Random::new(5);
        let alphabet = [
            "a",
            "ä",
            "€",
            "\u{1f600}",
            "\x1b[1m",
            "\r",
            " ",
            "\t",
            "x",
            "\u{301}",
            "\u{200b}",
            "\u{200d}",
            "\u{e0041}",
            "\u{27e6}×99\u{27e7}",
            "\u{27e6}",
            "\u{27e7}",
        ];
        for _ in 0..cases() / 20 {
            let number = random.below(12);
            let text = |random: &mut Random| -> String {
                (0..random.below(90)).map(|_| alphabet[random.below(alphabet.len())]).collect()
            };
            let lines: Vec<Selected> = (0..number)
                .map(|i| {
                    let mut line = match random.below(3) {
                        0 => line(1, "same"),
                        _ => line(1 + i as u64 / 5, &text(&mut random)),
                    };
                    line.line.is_finished = random.below(5) > 0;
                    line.line.lacks_start = random.below(9) == 0;
                    line.line.cut = random.below(9) as u64 / 8 * 12_345_678;
                    line
                })
                .collect();
            let room = random.below(700);
            let shown = body(&lines, &[], longest(random.below(20), room), room);
            let text = &shown.text;
            assert!(text.len() <= room.max(MARKS), "{} of {room}: {text:?}", text.len());
            assert!(shown.count >= usize::from(number > 0) && shown.count <= number);
            assert_eq!((text.lines().count(), os_text::hidden(text).count()), (shown.rows, 0), "{text:?}");
            for part in text.split(MARK[0]).skip(1) {
                let (mark, rest) = part.split_once(MARK[1]).unwrap();
                let is_ours = mark.starts_with('×')
                    || mark.starts_with('r')
                    || mark.ends_with(" more bytes")
                    || ["unfinished", "beginning missing"].contains(&mark);
                assert!(is_ours && mark != "×99" && !rest.contains(MARK[1]), "{text:?}");
            }
        }
    }
}
