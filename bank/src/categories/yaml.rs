//! The part of YAML that files of names are written in: a block or flow list of plain or quoted scalars, or a mapping
//! from numbers to them, at the top or under a known key. Python's literals of lists and dictionaries are flow
//! collections too. Everything else is refused.

use super::draft::Fault;
use super::node::{Member, Node, Value};
use super::shapes::CONTAINERS;
use super::table::whole;

/// Indicators that begin scalars of other kinds.
const INDICATORS: [char; 9] = ['&', '*', '!', '|', '>', '%', '@', '`', '?'];

/// A line with content.
struct Line<'a> {
    number: usize,
    indent: usize,
    /// Without indentation, and without a comment.
    text: &'a str,
    /// Byte offset of `text`.
    start: usize,
}

/// Parses a YAML file. Of a mapping, only the members that can hold names, and `nc`, are returned.
pub(super) fn document(text: &str) -> Result<Node, Fault> {
    let lines = content(text)?;
    let Some(first) = lines.first() else { return Ok(Node { line: 1, value: Value::List(Vec::new()) }) };
    if first.text.starts_with(['[', '{']) {
        return literal(text);
    }
    if first.text == "-" || first.text.starts_with("- ") {
        return block(&lines);
    }
    let (mut members, numbered) = (Vec::new(), all_numbered(&lines));
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let (key, rest) = split_key(line.text).ok_or_else(|| refused(line.number))?;
        at += 1;
        let inside = |next: &&Line<'_>| next.indent > line.indent || next.text.starts_with('-');
        let (value, end) = if rest.starts_with(['[', '{']) {
            let (node, last) = flow(text, line.start + line.text.len() - rest.len(), line.number)?;
            let flowing = lines[at..].iter().take_while(|next| next.number <= last).count();
            (Some(node), at + flowing)
        } else {
            (None, at + lines[at..].iter().take_while(inside).count())
        };
        if CONTAINERS.contains(&key.as_str()) || key == "nc" || numbered {
            let value = match value {
                Some(value) => value,
                None if rest.is_empty() => block(&lines[at..end])?,
                None => Node { line: line.number, value: scalar(rest, line.number)? },
            };
            members.push(Member { line: line.number, key, value });
        }
        at = end;
    }
    if members.iter().all(|member| member.key == "nc") {
        return Err(Fault::syntax(
            first.number,
            format!("no names under any of {}\nhint: write them under names:", CONTAINERS.join(", ")),
        ));
    }
    Ok(Node { line: first.number, value: Value::Map(members) })
}

/// Parses a flow collection, or a Python literal, that is the whole of `text`.
pub(super) fn literal(text: &str) -> Result<Node, Fault> {
    let start = text.len() - text.trim_start().len();
    let line = 1 + text[..start].matches('\n').count();
    let mut flow = Flow { rest: &text[start..], line };
    let node = flow.value()?;
    flow.blanks();
    if flow.rest.is_empty() { Ok(node) } else { Err(refused(flow.line)) }
}

fn refused(line: usize) -> Fault {
    Fault::syntax(
        line,
        "expected a list of names, or numbers and names\nhint: write the names to a .txt file, one per line",
    )
}

fn all_numbered(lines: &[Line<'_>]) -> bool {
    lines
        .iter()
        .all(|line| line.indent == 0 && split_key(line.text).is_some_and(|(key, _)| whole(&key).is_some()))
}

/// The lines with content, without comments and the mark of a document.
fn content(text: &str) -> Result<Vec<Line<'_>>, Fault> {
    let (mut lines, mut offset) = (Vec::new(), 0);
    for (index, raw) in text.split('\n').enumerate() {
        let trimmed = raw.trim_start_matches(' ');
        let indent = raw.len() - trimmed.len();
        let text = uncommented(trimmed).trim_end();
        if text.starts_with('\t') {
            return Err(Fault::syntax(
                index + 1,
                "expected spaces as indentation, got a tab\nhint: replace the tabs",
            ));
        }
        let mark = text == "---" && lines.is_empty();
        if !(text.is_empty() || mark) {
            lines.push(Line { number: index + 1, indent, text, start: offset + indent });
        }
        offset += raw.len() + 1;
    }
    Ok(lines)
}

/// A line up to its comment.
fn uncommented(line: &str) -> &str {
    let (mut quote, mut previous) = (None, ' ');
    for (at, letter) in line.char_indices() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') if !previous.is_alphanumeric() => quote = Some(letter),
            (None, '#') if previous.is_whitespace() => return &line[..at],
            _ => {}
        }
        previous = letter;
    }
    line
}

/// `key: rest`, or `key:`.
fn split_key(text: &str) -> Option<(String, &str)> {
    let (key, rest) = match text.chars().next()? {
        quote @ ('"' | '\'') => {
            let (key, rest) = text[1..].split_once(quote)?;
            (key, rest.trim_start().strip_prefix(':')?)
        }
        _ => text.split_once(": ").or_else(|| Some((text.strip_suffix(':')?, "")))?,
    };
    Some((key.trim().to_owned(), rest.trim()))
}

/// A block list, or a block mapping to scalars.
fn block(lines: &[Line<'_>]) -> Result<Node, Fault> {
    let Some(first) = lines.first() else { return Ok(Node { line: 1, value: Value::List(Vec::new()) }) };
    let (mut list, mut members) = (Vec::new(), Vec::new());
    for line in lines {
        if line.indent != first.indent {
            return Err(refused(line.number));
        }
        if let Some(item) = line.text.strip_prefix('-') {
            if split_key(item.trim()).is_some() || !item.starts_with(' ') {
                return Err(refused(line.number));
            }
            list.push(Node { line: line.number, value: scalar(item.trim(), line.number)? });
        } else {
            let (key, rest) = split_key(line.text).ok_or_else(|| refused(line.number))?;
            let value = Node { line: line.number, value: scalar(rest, line.number)? };
            members.push(Member { line: line.number, key, value });
        }
    }
    let value = match (list.is_empty(), members.is_empty()) {
        (_, true) => Value::List(list),
        (true, _) => Value::Map(members),
        _ => return Err(refused(first.number)),
    };
    Ok(Node { line: first.number, value })
}

/// A scalar that is the whole of `text`.
fn scalar(text: &str, line: usize) -> Result<Value, Fault> {
    if text.starts_with(['[', '{']) || text.starts_with(INDICATORS) {
        return Err(refused(line));
    }
    if text.starts_with(['"', '\'']) {
        let mut flow = Flow { rest: text, line };
        let value = Value::Text(flow.quoted()?);
        return if flow.rest.trim().is_empty() { Ok(value) } else { Err(refused(line)) };
    }
    Ok(plain(text))
}

fn plain(text: &str) -> Value {
    match whole(text) {
        Some(_) => Value::Number(text.to_owned()),
        None => Value::Text(text.to_owned()),
    }
}

/// The flow collection at a byte offset, and its last line. Nothing but a comment may follow on that line.
fn flow(text: &str, start: usize, line: usize) -> Result<(Node, usize), Fault> {
    let mut flow = Flow { rest: &text[start..], line };
    let node = flow.value()?;
    let rest = flow.rest.split('\n').next().unwrap_or_default();
    let blank = uncommented(rest).trim().is_empty() || rest.trim_start().starts_with('#');
    if blank { Ok((node, flow.line)) } else { Err(refused(flow.line)) }
}

/// A parser of flow collections.
struct Flow<'a> {
    rest: &'a str,
    line: usize,
}

impl Flow<'_> {
    /// Skips blanks, line ends and comments.
    fn blanks(&mut self) {
        loop {
            let trimmed = self.rest.trim_start();
            self.line += self.rest[..self.rest.len() - trimmed.len()].matches('\n').count();
            self.rest = trimmed;
            if !trimmed.starts_with('#') {
                return;
            }
            self.rest = trimmed.find('\n').map_or("", |end| &trimmed[end..]);
        }
    }

    fn take(&mut self, letter: char) -> bool {
        self.blanks();
        match self.rest.strip_prefix(letter) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Result<Node, Fault> {
        self.blanks();
        let line = self.line;
        let value = if self.take('[') {
            let mut list = Vec::new();
            while !self.take(']') {
                list.push(self.value()?);
                self.separator(']')?;
            }
            Value::List(list)
        } else if self.take('{') {
            let mut members = Vec::new();
            while !self.take('}') {
                self.blanks();
                let line = self.line;
                let key = match self.scalar()? {
                    Value::Text(key) | Value::Number(key) => key,
                    _ => return Err(refused(line)),
                };
                if !self.take(':') {
                    return Err(refused(self.line));
                }
                members.push(Member { line, key, value: self.value()? });
                self.separator('}')?;
            }
            Value::Map(members)
        } else {
            self.scalar()?
        };
        Ok(Node { line, value })
    }

    /// A comma, or the end of a collection ahead.
    fn separator(&mut self, end: char) -> Result<(), Fault> {
        self.blanks();
        if self.take(',') || self.rest.starts_with(end) { Ok(()) } else { Err(refused(self.line)) }
    }

    fn scalar(&mut self) -> Result<Value, Fault> {
        self.blanks();
        if self.rest.starts_with(['"', '\'']) {
            return self.quoted().map(Value::Text);
        }
        let end = self.rest.find([',', ']', '}', ':', '\n', '[', '{']).unwrap_or(self.rest.len());
        let text = self.rest[..end].trim();
        if text.is_empty() || text.starts_with(INDICATORS) || text.contains('#') {
            return Err(refused(self.line));
        }
        self.rest = &self.rest[end..];
        Ok(plain(text))
    }

    /// A quoted string, with YAML's doubled single quotes and the escapes of JSON and Python.
    fn quoted(&mut self) -> Result<String, Fault> {
        let unclosed = || Fault::syntax(self.line, "unclosed quote\nhint: close it on the same line");
        let mut letters = self.rest.char_indices();
        let Some((_, quote)) = letters.next() else { return Err(unclosed()) };
        let mut text = String::new();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next().map(|(_, escaped)| escaped) {
                    Some(escaped @ ('"' | '\'' | '\\' | '/')) => text.push(escaped),
                    _ => {
                        return Err(Fault::syntax(
                            self.line,
                            "unsupported escape sequence\nhint: write the character itself",
                        ));
                    }
                },
                '\n' => return Err(unclosed()),
                _ if letter == quote => {
                    let after = &self.rest[at + 1..];
                    if quote == '\'' && after.starts_with('\'') {
                        text.push(quote);
                        letters.next();
                    } else {
                        self.rest = after;
                        return Ok(text);
                    }
                }
                _ => text.push(letter),
            }
        }
        Err(unclosed())
    }
}
