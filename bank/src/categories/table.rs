//! Tables of names: CSV, TSV, lists with semicolons, and JSON lists of lists or objects.

use lgd_data::quotes::Quotes;

use super::draft::{Draft, Entry, Fault};
use super::form::{self, NameForm};
use super::header::{DOUBTFUL, Role, differs, is_header, role};
use super::lines;
use super::problem::Problem;

/// A row of a table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Line number, from 1.
    pub line: usize,
    pub cells: Vec<String>,
    /// Synonyms beside those in cells, from lists within JSON objects.
    pub synonyms: Vec<String>,
}

/// What to do with columns that no word explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// They are synonyms: what `.csv` files without a header mean.
    Synonyms,
    /// They are left aside, and told: objects say what their values are.
    Aside,
    Refused,
}

/// Reads a table whose columns have titles.
pub(super) fn titled(header: &Row, rows: Vec<Row>, others: Others) -> Result<Draft, Fault> {
    let titles = &header.cells;
    let columns =
        Columns::choose(titles, &rows, others).map_err(|problem| Fault::Entry(header.line, problem))?;
    let told = columns.told(titles);
    let mut draft = Draft::new(Vec::new(), told);
    let mut numbers: Vec<Vec<u64>> = vec![Vec::new(); columns.numbers.len()];
    for row in rows {
        let extra = row.cells.len().saturating_sub(titles.len());
        let spare = row.cells.iter().skip(titles.len());
        if extra > 0 && !columns.open && spare.clone().any(|cell| !cell.trim().is_empty()) {
            let problem = Problem::Cells { expected: titles.len(), got: row.cells.len() };
            return Err(Fault::Entry(row.line, problem));
        }
        let cell = |at: usize| row.cells.get(at).map_or("", String::as_str);
        let mut entry = Entry::new(row.line, cell(columns.name));
        let cells = columns.synonyms.iter().map(|at| cell(*at)).chain(spare.map(String::as_str));
        entry.cells = cells.map(str::to_owned).collect();
        entry.synonyms.clone_from(&row.synonyms);
        let keys = columns.keys.iter().map(|at| cell(*at).trim()).filter(|cell| !cell.is_empty());
        entry.keys = keys.map(str::to_owned).collect();
        for (numbers, at) in numbers.iter_mut().zip(&columns.numbers) {
            let text = cell(*at).to_owned();
            let number =
                whole(&text).ok_or(Fault::Entry(row.line, Problem::Unnumbered { text, in_names: false }))?;
            numbers.push(number);
        }
        draft.entries.push(entry);
    }
    for numbers in &numbers {
        draft.set_numbers(numbers)?;
    }
    Ok(draft)
}

/// Reads a table whose first row may be a header.
pub(super) fn rows(mut rows: Vec<Row>, others: Others) -> Result<Draft, Fault> {
    let titled_by = |first: &Row| {
        let titles: Vec<&str> = first.cells.iter().map(String::as_str).collect();
        is_header(&titles) || differs(&first.cells, &rows[1..])
    };
    if rows.first().is_some_and(titled_by) {
        let header = rows.remove(0);
        titled(&header, rows, others)
    } else {
        untitled(rows, others)
    }
}

/// Reads a table without titles: numbers and identifiers, then names, then synonyms.
pub(super) fn untitled(rows: Vec<Row>, others: Others) -> Result<Draft, Fault> {
    let width = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
    let all = |at: usize, test: &dyn Fn(&str) -> bool| {
        rows.iter().all(|row| row.cells.get(at).is_some_and(|cell| test(cell.trim())))
    };
    let number = |at: usize| all(at, &|cell| whole(cell).is_some());
    let key = |at: usize| all(at, &form::is_identifier);
    let (mut first, mut end, mut told) = (0, width, Vec::new());
    let (mut numbers, mut keys) = (Vec::new(), Vec::new());
    while first + 1 < end && (number(first) || key(first)) {
        told.push(if number(first) { "numbers" } else { "identifiers" });
        if number(first) {
            numbers.push(first)
        } else {
            keys.push(first)
        }
        first += 1;
    }
    told.push("names");
    while end > first + 1 && (key(end - 1) || (number(end - 1) && numbers.is_empty())) {
        told.push(if key(end - 1) { "identifiers" } else { "numbers" });
        if key(end - 1) {
            keys.push(end - 1)
        } else {
            numbers.push(end - 1)
        }
        end -= 1;
    }
    let plain = told.len() == 1;
    let synonyms = end > first + 1;
    if synonyms {
        match rows.first() {
            Some(row) if others == Others::Refused => {
                return Err(Fault::Entry(row.line, Problem::UnknownColumns { cells: width }));
            }
            Some(row) if rows.len() == 1 && plain => {
                return Err(Fault::Entry(row.line, Problem::OneLine { count: width }));
            }
            _ => told.insert(told.iter().position(|what| *what == "names").unwrap_or(0) + 1, "synonyms"),
        }
    }
    let told = (!plain || synonyms).then(|| format!("no header row, columns of {}", told.join(", ")));
    let entry = |row: &Row| {
        let mut entry = Entry::new(row.line, row.cells.get(first).map_or("", String::as_str));
        entry.cells = row.cells.iter().take(end).skip(first + 1).cloned().collect();
        entry.keys = keys.iter().filter_map(|at| Some(row.cells.get(*at)?.trim().to_owned())).collect();
        entry
    };
    let mut draft = Draft::new(rows.iter().map(entry).collect(), told);
    for at in numbers {
        let column: Vec<u64> = rows.iter().filter_map(|row| whole(row.cells.get(at)?)).collect();
        draft.set_numbers(&column)?;
    }
    Ok(draft)
}

/// Reads a file with separators, in which blank lines before the last row are lost names.
pub(super) fn file(text: &str, usual: u8, form: NameForm) -> Result<Draft, Fault> {
    // Spreadsheets leave rows of separators at the end.
    let end = text.trim_end_matches(|c: char| c.is_whitespace() || [',', ';', '|'].contains(&c)).len();
    let end = end + text[end..].find('\n').unwrap_or(text.len() - end);
    let (mut lines, mut comments, mut quotes) = (Vec::new(), 0, Quotes::new(usual));
    for (number, line) in (1..).zip(text[..end].split('\n')) {
        let quoted = quotes.within().is_some();
        if !quoted && line.trim().is_empty() && end > 0 {
            return Err(Fault::Entry(number, Problem::EmptyName));
        }
        // A blank line keeps the numbers of the others.
        let comment = !quoted && form == NameForm::Normalized && lines::is_comment(line);
        comments += usize::from(comment);
        lines.push(if comment { "" } else { line });
        for byte in line.bytes().chain([b'\n']) {
            // A fault is told below too.
            let _ = quotes.push(byte);
        }
    }
    let mut draft = delimited(&lines.join("\n"), usual, Others::Synonyms)?;
    draft.told.splice(0..0, lines::told_comments(comments));
    Ok(draft)
}

/// Reads text with separators. `usual` separates the cells unless the header or all of the text says otherwise.
pub(super) fn delimited(text: &str, usual: u8, others: Others) -> Result<Draft, Fault> {
    let (declared, body, skipped) = match text.split_once('\n') {
        // What spreadsheets write for themselves.
        Some((first, rest)) if first.len() == 5 && first.starts_with("sep=") => {
            (first.as_bytes().get(4).copied(), rest, 1)
        }
        _ => (None, text, 0),
    };
    let delimiter = declared.unwrap_or_else(|| delimiter(body, usual));
    if let Some((line, what)) = stray_quote(body, delimiter) {
        let hint = "close the quote in its line; within a quoted cell, write a quote twice; no cell has several lines";
        return Err(Fault::syntax(line.saturating_add(skipped), format!("{what}\nhint: {hint}")));
    }
    // The reader counts blank lines, which stand for comments, to the record behind them.
    let blank: Vec<bool> = body.split('\n').map(|line| line.trim().is_empty()).collect();
    let mut rows = Vec::new();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(body.as_bytes());
    for record in reader.records() {
        let line = |position: Option<&csv::Position>| {
            let line = usize::try_from(position.map_or(0, csv::Position::line)).unwrap_or(usize::MAX);
            let blanks = blank.iter().skip(line.saturating_sub(1)).take_while(|blank| **blank).count();
            line.saturating_add(blanks).saturating_add(skipped)
        };
        let record = record.map_err(|error| Fault::Syntax(line(error.position()), error.into()))?;
        let cells = record.iter().map(str::to_owned).collect();
        rows.push(Row { line: line(record.position()), cells, synonyms: Vec::new() });
    }
    let mut draft = self::rows(rows, others)?;
    if delimiter != usual && !draft.told.is_empty() {
        draft.told.push(format!("cells separated by {:?}", char::from(delimiter)));
    }
    Ok(draft)
}

/// Separators of cells, the likeliest first.
pub(super) const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// The separator that splits the first line into titles, else `usual` if it occurs, else the first other that does.
fn delimiter(text: &str, usual: u8) -> u8 {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let titles = |delimiter: u8| {
        first.split(char::from(delimiter)).map(|cell| cell.trim_matches('"')).collect::<Vec<_>>()
    };
    let titled = |delimiter: &u8| titles(*delimiter).len() > 1 && is_header(&titles(*delimiter));
    let mut candidates: Vec<u8> = vec![usual];
    candidates.extend(DELIMITERS.iter().filter(|delimiter| **delimiter != usual));
    let mut quoted = false;
    let mut unquoted = [false; 256];
    for byte in text.bytes() {
        quoted ^= byte == b'"';
        unquoted[usize::from(byte)] |= !quoted;
    }
    // Commas are parts of names where another separator is usual.
    let present = |delimiter: &u8| unquoted[usize::from(*delimiter)] && (usual == b',' || *delimiter != b',');
    let found = candidates.iter().copied().find(titled);
    found.or_else(|| candidates.into_iter().find(present)).unwrap_or(usual)
}

/// The first double quote that does not enclose one cell of one line: its line, and what is wrong.
fn stray_quote(text: &str, delimiter: u8) -> Option<(usize, String)> {
    let mut quotes = Quotes::new(delimiter);
    let place = |line: u64| usize::try_from(line).unwrap_or(usize::MAX);
    for byte in text.bytes() {
        if let (b'\n', Some(line)) = (byte, quotes.within()) {
            return Some((place(line), "a double quote is not closed in its line".to_owned()));
        }
        if let Err(fault) = quotes.push(byte) {
            return Some((place(fault.line()), fault.to_string()));
        }
    }
    quotes.finish().err().map(|fault| (place(fault.line()), fault.to_string()))
}

/// The columns that are read.
struct Columns {
    name: usize,
    numbers: Vec<usize>,
    synonyms: Vec<usize>,
    keys: Vec<usize>,
    aside: Vec<usize>,
    /// Whether rows may have more cells than the header, which are synonyms.
    open: bool,
}

impl Columns {
    fn choose(titles: &[String], rows: &[Row], others: Others) -> Result<Self, Problem> {
        let filled = |at: usize| {
            rows.iter()
                .filter_map(move |row| row.cells.get(at))
                .map(|cell| cell.trim())
                .filter(|cell| !cell.is_empty())
        };
        let any_number = |at: usize| filled(at).any(|cell| whole(cell).is_some());
        let all = |at: usize, test: fn(&str) -> bool| filled(at).next().is_some() && filled(at).all(test);
        let (mut names, mut found) = (Vec::new(), Self::none());
        for (at, title) in titles.iter().enumerate() {
            match role(title) {
                Role::Image => return Err(Problem::ImageList { column: title.clone() }),
                _ if all(at, form::is_identifier) => found.keys.push(at),
                Role::Name(rank) => names.push((all(at, |cell| whole(cell).is_some()), rank, at)),
                Role::Number if any_number(at) => found.numbers.push(at),
                Role::Synonym => found.synonyms.push(at),
                Role::Key => found.keys.push(at),
                Role::Number | Role::Aside => found.aside.push(at),
                // Spreadsheets give columns without a title, and pandas its index.
                Role::Unknown if title.trim().is_empty() && all(at, |cell| whole(cell).is_some()) => {
                    found.numbers.push(at)
                }
                Role::Unknown if title.trim().is_empty() => found.synonyms.push(at),
                Role::Unknown if others == Others::Aside => found.aside.push(at),
                // Weights and shares are no positions.
                Role::Unknown if all(at, form::is_number) && !all(at, |cell| whole(cell).is_some()) => {
                    found.aside.push(at);
                }
                Role::Unknown => return Err(Problem::UnknownColumn { column: title.clone() }),
            }
        }
        names.sort_unstable();
        let mut texts = names.iter().filter(|(numeric, ..)| !numeric);
        match (texts.next(), texts.next()) {
            (Some((_, rank, at)), Some((_, other, second))) if rank == other || *rank >= DOUBTFUL => {
                let (one, other) = (titles[*at].clone(), titles[*second].clone());
                return Err(Problem::TwoNameColumns { one, other });
            }
            (Some((_, _, at)), _) => found.name = *at,
            // A column of numbers alone is refused with its first name.
            (None, _) => match names.first() {
                Some((_, _, at)) => found.name = *at,
                None => return Err(Problem::NoNameColumn { columns: titles.join(", ") }),
            },
        }
        for (numeric, _, at) in names.into_iter().filter(|(_, _, at)| *at != found.name) {
            if numeric { found.numbers.push(at) } else { found.aside.push(at) }
        }
        found.open = titles.len() == 1 + found.synonyms.len() && found.name == 0;
        Ok(found)
    }

    fn none() -> Self {
        Self {
            name: 0,
            numbers: Vec::new(),
            synonyms: Vec::new(),
            keys: Vec::new(),
            aside: Vec::new(),
            open: false,
        }
    }

    /// What is read from which column; `None` for names and synonyms alone.
    fn told(&self, titles: &[String]) -> Option<String> {
        let quoted = |columns: &[usize]| {
            columns.iter().map(|at| format!("{:?}", titles[*at])).collect::<Vec<_>>().join(", ")
        };
        if self.open {
            return None;
        }
        let mut told = format!("names from {}", quoted(&[self.name]));
        for (what, columns) in [
            ("positions from", &self.numbers),
            ("synonyms from", &self.synonyms),
            ("identifiers from", &self.keys),
            ("not read:", &self.aside),
        ] {
            if !columns.is_empty() {
                told.push_str(&format!(", {what} {}", quoted(columns)));
            }
        }
        Some(told)
    }
}

/// A number from 0, also as spreadsheets write it: `3.0`.
pub(super) fn whole(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .split_once('.')
        .filter(|(_, zeros)| zeros.bytes().all(|byte| byte == b'0'))
        .map_or(text, |(digits, _)| digits);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

/// Whether a title is that of a column of synonyms.
pub(super) fn is_synonyms(title: &str) -> bool {
    role(title) == Role::Synonym
}
