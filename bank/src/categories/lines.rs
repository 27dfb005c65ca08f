//! Lists with one name per line, and what such files hold besides.

use super::draft::{Draft, Entry, Fault, SEPARATORS};
use super::form::{self, NameForm};
use super::header::{Role, is_header, is_title, role};
use super::problem::Problem;
use super::table::{self, DELIMITERS, Others, Row};
use super::{JsonEntries, shapes, yaml};

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
    if text.trim_start().starts_with(['{', '[']) {
        let mut draft = shapes::interpret(&yaml::literal(text)?, entries)?;
        draft.told.insert(0, "a JSON or Python literal".to_owned());
        return Ok(draft);
    }
    let mut told = Vec::new();
    drop_comments(&mut lines, &mut told);
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
    strip_all(&mut lines, &mut told, "bullets before the names left out", |line| {
        line.trim_start().strip_prefix("- ").or_else(|| line.trim_start().strip_prefix("* "))
    });
    strip_commas(&mut lines, &mut told);
    if let Some(delimiter) = common_delimiter(&lines) {
        let cells =
            |line: &str| line.split(char::from(delimiter)).map(|cell| cell.trim().to_owned()).collect();
        let rows =
            lines.iter().map(|(line, text)| Row { line: *line, cells: cells(text), synonyms: Vec::new() });
        let mut draft = table::untitled(rows.collect(), Others::Refused)?;
        draft.told.splice(0..0, told);
        return Ok(draft);
    }
    one_per_line(&lines, &mut told)?;
    let mut draft = Draft::new(lines.into_iter().map(|(line, name)| Entry::new(line, name)).collect(), None);
    draft.told = told;
    Ok(draft)
}

fn drop_comments(lines: &mut Vec<Line<'_>>, told: &mut Vec<String>) {
    let all = lines.len();
    lines.retain(|(_, line)| !(line.trim_start().starts_with("# ") || line.trim() == "#"));
    match all - lines.len() {
        0 => {}
        1 => told.push("1 line of comment left out".to_owned()),
        count => told.push(format!("{count} lines of comment left out")),
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

/// Commas behind all lines, save perhaps the last, as in a list without its brackets.
fn strip_commas(lines: &mut [Line<'_>], told: &mut Vec<String>) {
    let Some((last, others)) = lines.split_last_mut() else { return };
    if !others.is_empty() && others.iter().all(|(_, line)| line.trim_end().ends_with(',')) {
        for (_, line) in others.iter_mut().chain([last]) {
            *line = line.trim_end().trim_end_matches(',');
        }
        told.push("commas behind the names left out".to_owned());
    }
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
    let words = |line: &str| {
        line.trim_start_matches(|c: char| c.is_ascii_digit() || SEPARATORS.contains(&c)).contains(", ")
    };
    let commas = lines.iter().filter(|(_, line)| words(line)).count();
    if commas > 0 {
        told.push(format!("{commas} names with commas kept whole (a .csv file has synonyms)"));
    }
    Ok(())
}
