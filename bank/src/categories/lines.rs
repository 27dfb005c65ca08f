//! Lists with one name per line, and what such files hold besides.

use super::draft::{Draft, Entry, Fault};
use super::files::counted;
use super::form::{self, NameForm};
use super::header::{DOUBTFUL, Role, is_header, is_title, role};
use super::problem::Problem;
use super::table::{self, DELIMITERS, Others, Row};
use super::{JsonEntries, node, numbers, shapes, suspect, yaml};

/// A line and its number, from 1.
type Line<'a> = (usize, &'a str);

/// Reads one name per line. Verbatim names are whole lines.
pub(super) fn read(text: &str, form: NameForm, entries: JsonEntries) -> Result<Draft, Fault> {
    // Editors leave blank lines at the end. Anywhere else, a blank line is more likely a lost name. If names are
    // verbatim, white space after the last name belongs to it.
    let end = text.trim_end().len();
    let blanks = text[end..].find('\n').unwrap_or(text.len() - end);
    let text = if end == 0 { "" } else { &text[..end + blanks] };
    let mut lines: Vec<Line<'_>> = text.lines().enumerate().map(|(index, line)| (index + 1, line)).collect();
    if form == NameForm::Verbatim {
        return Ok(Draft::new(lines.iter().map(|(line, name)| Entry::new(*line, *name)).collect(), None));
    }
    let bracketed = lines.first().is_some_and(|(_, line)| is_bracketed(line));
    if text.trim_start().starts_with(['{', '[']) && !bracketed {
        let document = node::json(text).or_else(|_| yaml::literal(text))?;
        let mut draft = shapes::interpret(&document, entries)?;
        draft.told.insert(0, "a JSON or Python literal".to_owned());
        return Ok(draft);
    }
    let mut told = Vec::new();
    drop_comments(&mut lines, &mut told)?;
    strip_markup(&mut lines, &mut told);
    strip_table_lines(&mut lines, &mut told);
    if let Some(delimiter) = table_delimiter(&lines) {
        // Comments leave blank lines, so that the numbers of the other lines stay.
        let last = lines.last().map_or(0, |(line, _)| *line);
        let mut body = vec![""; last];
        for (line, text) in &lines {
            body[line - 1] = text;
        }
        let mut draft = table::delimited(&body.join("\n"), delimiter, Others::Refused)?;
        draft.told.splice(0..0, told);
        return Ok(draft);
    }
    drop_title(&mut lines, &mut told);
    tell_indents(&lines, &mut told);
    strip_all(&mut lines, &mut told, "bullets before the names left out", bullet);
    strip_commas(&mut lines, &mut told);
    if let Some(delimiter) = common_delimiter(&lines) {
        let cells =
            |line: &str| line.split(char::from(delimiter)).map(|cell| cell.trim().to_owned()).collect();
        let rows =
            lines.iter().map(|(line, text)| Row { line: *line, cells: cells(text), synonyms: Vec::new() });
        let mut draft = table::rows(rows.collect(), Others::Refused)?;
        draft.told.splice(0..0, told);
        return Ok(draft);
    }
    one_per_line(&lines, &mut told)?;
    let mut draft = Draft::new(lines.into_iter().map(|(line, name)| Entry::new(line, name)).collect(), None);
    draft.told = told;
    Ok(draft)
}

/// Whether a line is that of a numbered list, `[0] cat`, rather than the beginning of a literal.
fn is_bracketed(line: &str) -> bool {
    let behind = line.split_once([']', '}']).map_or("", |(_, rest)| rest.trim());
    let more = !behind.starts_with([',', ']', '}']) && behind.contains(char::is_alphabetic);
    more && numbers::leading(line).is_some()
}

/// Whether a line is a comment. A hash without a blank may begin a name.
pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("# ") || line.trim() == "#"
}

/// What a note says about comments.
pub(super) fn told_comments(count: usize) -> Option<String> {
    (count > 0).then(|| format!("{} of comment left out", counted(count, "line")))
}

fn drop_comments(lines: &mut Vec<Line<'_>>, told: &mut Vec<String>) -> Result<(), Fault> {
    let (all, first) = (lines.len(), lines.first().copied());
    lines.retain(|(_, line)| !is_comment(line));
    told.extend(told_comments(all - lines.len()));
    match first {
        Some((number, line)) if lines.is_empty() => {
            let (what, hint) = ("a comment, as every line does", "leave out the \"# \" before the names");
            let text = line.to_owned();
            Err(Fault::Entry(number, Problem::NotAName { text, what, hint, verbatim: true }))
        }
        _ => Ok(()),
    }
}

/// Items of an HTML list, and the lines around them.
fn strip_markup(lines: &mut Vec<Line<'_>>, told: &mut Vec<String>) {
    fn item(line: &str) -> Option<&str> {
        line.trim().strip_prefix("<li>")?.strip_suffix("</li>")
    }
    let around = |line: &str| matches!(line.trim(), "<ul>" | "</ul>" | "<ol>" | "</ol>");
    if lines.iter().any(|(_, line)| item(line).is_some())
        && lines.iter().all(|(_, line)| item(line).is_some() || around(line))
    {
        lines.retain(|(_, line)| !around(line));
        strip_all(lines, told, "the items of an HTML list", item);
    }
}

/// Rows of a Markdown table: `| 0 | cat |`, and the rule below the header.
fn strip_table_lines(lines: &mut Vec<Line<'_>>, told: &mut Vec<String>) {
    fn row(line: &str) -> Option<&str> {
        line.trim().strip_prefix('|')?.strip_suffix('|').map(str::trim)
    }
    if lines.len() > 1 && lines.iter().all(|(_, line)| row(line).is_some()) {
        lines.retain(|(_, line)| line.contains(|c: char| !matches!(c, '|' | '-' | ':' | '+' | ' ')));
        strip_all(lines, told, "the rows of a Markdown table", row);
    }
}

/// A name behind a bullet, or behind a box to tick.
fn bullet(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let ascii = ["- ", "* ", "+ ", "> "].iter().find_map(|bullet| line.strip_prefix(bullet));
    let close = || line.strip_prefix('-').filter(|name| name.starts_with(char::is_alphabetic));
    let ascii = ascii.or_else(|| close().filter(|_| !suspect::is_listing(line)));
    let name =
        ascii.or_else(|| line.strip_prefix(['•', '◦', '▪', '·', '–', '—', '→', '●', '○']))?.trim_start();
    Some(["[ ] ", "[x] ", "[X] "].iter().find_map(|tick| name.strip_prefix(tick)).unwrap_or(name))
}

/// Indentation in a list of names may mean groups, and every line is a name.
fn tell_indents(lines: &[Line<'_>], told: &mut Vec<String>) {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let first = lines.first().map_or(0, |(_, line)| indent(line));
    if let Some((number, _)) = lines.iter().find(|(_, line)| indent(line) != first) {
        told.push(format!("line {number} is indented unlike others, and all lines are names"));
    }
}

/// The separator of a first line that is a header.
fn table_delimiter(lines: &[Line<'_>]) -> Option<u8> {
    let (_, first) = lines.first()?;
    let is_header = |delimiter: &u8| {
        let titles: Vec<&str> =
            first.split(char::from(*delimiter)).map(|title| title.trim().trim_matches('"')).collect();
        titles.len() > 1 && is_header(&titles)
    };
    DELIMITERS.into_iter().find(is_header)
}

/// A first line that is the title of the names, or of `id name` lines.
fn drop_title(lines: &mut Vec<Line<'_>>, told: &mut Vec<String>) {
    let Some((_, first)) = lines.first() else { return };
    let first = first.trim();
    let words: Vec<&str> = first.split_whitespace().collect();
    let pair = words.len() > 1 && words.iter().all(|word| role(word) != Role::Unknown);
    let numbered = |line: &str| {
        line.starts_with(|c: char| c.is_ascii_digit()) || form::is_wnid(line.get(..9).unwrap_or_default())
    };
    let doubtful = matches!(role(first), Role::Name(rank) if rank > DOUBTFUL);
    if lines.len() > 1 && doubtful {
        told.push(format!("the first line, {first:?}, is a name, not a title"));
    }
    let pair = pair && lines.len() > 1 && lines[1..].iter().all(|(_, line)| numbered(line.trim()));
    if lines.len() > 1 && (is_title(first) || pair) {
        told.push(format!("the first line, {first:?}, is a title"));
        lines.remove(0);
    }
}

/// Applies `strip` if it applies to every line.
fn strip_all<'a>(
    lines: &mut [Line<'a>],
    told: &mut Vec<String>,
    what: &str,
    strip: impl Fn(&'a str) -> Option<&'a str>,
) {
    let stripped: Option<Vec<&str>> = lines.iter().map(|(_, line)| strip(line)).collect();
    if let Some(stripped) = stripped.filter(|lines| lines.len() > 1) {
        for (line, text) in lines.iter_mut().zip(stripped) {
            line.1 = text;
        }
        told.push(what.to_owned());
    }
}

/// Commas or semicolons behind all lines, save perhaps the last, as in a list without its brackets.
fn strip_commas(lines: &mut [Line<'_>], told: &mut Vec<String>) {
    let Some((last, others)) = lines.split_last_mut() else { return };
    let behind = |mark: &char| others.iter().all(|(_, line)| line.trim_end().ends_with(*mark));
    let Some(mark) = [',', ';'].into_iter().find(behind).filter(|_| !others.is_empty()) else { return };
    for (_, line) in others.iter_mut().chain([last]) {
        *line = line.trim_end().trim_end_matches(mark);
    }
    told.push(format!("{} behind the names left out", if mark == ',' { "commas" } else { "semicolons" }));
}

/// A separator, other than a comma, within every line.
fn common_delimiter(lines: &[Line<'_>]) -> Option<u8> {
    let within = |delimiter: u8| lines.iter().all(|(_, line)| line.trim().contains(char::from(delimiter)));
    [b'\t', b';', b'|'].into_iter().find(|delimiter| lines.len() > 1 && within(*delimiter))
}

/// Refuses all names on one line, and rows of figures. Commas are parts of names, which is told.
fn one_per_line(lines: &[Line<'_>], told: &mut Vec<String>) -> Result<(), Fault> {
    if let [(number, line)] = lines {
        let count =
            [',', ';', '|', '\t'].map(|separator| line.trim().split(separator).count()).into_iter().max();
        if let Some(count) = count.filter(|count| *count > 1) {
            return Err(Fault::Entry(*number, Problem::OneLine { count }));
        }
    }
    let figures = |line: &str| {
        let mut words = line.split_whitespace().rev();
        line.split_whitespace().count() > 2
            && words.next().is_some_and(form::is_number)
            && words.next().is_some_and(form::is_number)
    };
    if lines.len() > 1 && lines.iter().all(|(_, line)| figures(line)) {
        let cells = lines[0].1.split_whitespace().count();
        return Err(Fault::Entry(lines[0].0, Problem::UnknownColumns { cells }));
    }
    // `0, cat` has a comma behind the number.
    let commas = lines
        .iter()
        .filter(|(_, line)| numbers::leading(line).map_or(*line, |split| split.name).contains(", "));
    match commas.count() {
        0 => {}
        count => told.push(format!("commas kept in {} (a .csv file has synonyms)", counted(count, "name"))),
    }
    Ok(())
}
