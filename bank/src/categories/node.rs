//! JSON documents with the line of every value. Duplicate keys are kept, and so is the order of keys.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::draft::Fault;

/// A value of a JSON or YAML document.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Line number, from 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// null, true or false.
    Other,
    /// A number, as written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// A member of an object.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub line: usize,
    pub key: String,
    pub value: Node,
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text or a number, as text.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn map(&self) -> Option<&[Member]> {
        match &self.value {
            Value::Map(members) => Some(members),
            _ => None,
        }
    }

    /// The strings of a list of strings.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        self.list()?.iter().map(|node| node.text().map(str::to_owned)).collect()
    }
}

/// Parses a JSON document, or JSON Lines as a list.
pub(super) fn json(text: &str) -> Result<Node, Fault> {
    document(text, 0).or_else(|fault| json_lines(text).ok_or(fault))
}

/// The values of two lines or more that are documents of their own.
fn json_lines(text: &str) -> Option<Node> {
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    let list: Vec<Node> = lines.map(|(skipped, line)| document(line, skipped).ok()).collect::<Option<_>>()?;
    (list.len() > 1).then_some(Node { line: 1, value: Value::List(list) })
}

/// Parses a document that `skipped` lines precede.
fn document(text: &str, skipped: usize) -> Result<Node, Fault> {
    let lines = scalar_lines(text, 1 + skipped);
    let seed = Seed { lines: &lines, next: &Cell::new(0) };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let node = seed.deserialize(&mut deserializer);
    let node = node.and_then(|node| deserializer.end().map(|()| node));
    node.map_err(|error| Fault::Syntax(skipped + error.line(), error.into()))
}

/// The line number of every scalar, keys included, in document order, counted from `first`. The parser does not record positions.
fn scalar_lines(text: &str, first: usize) -> Vec<usize> {
    let (mut lines, mut line) = (Vec::new(), first);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\n' => line += 1,
            b'"' => {
                lines.push(line);
                // A string holds no raw line break, so only its end matters.
                while let Some(byte) = bytes.next().filter(|&byte| byte != b'"') {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                lines.push(line);
                while bytes
                    .next_if(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
                    .is_some()
                {}
            }
            _ => {}
        }
    }
    lines
}

/// Parses a [`Node`], counting scalars.
#[derive(Clone, Copy)]
struct Seed<'a> {
    lines: &'a [usize],
    next: &'a Cell<usize>,
}

impl Seed<'_> {
    /// Line of the next scalar.
    fn line(self) -> usize {
        self.lines.get(self.next.get()).copied().unwrap_or(1)
    }

    fn scalar<E>(self, value: Value) -> Result<Node, E> {
        let node = Node { line: self.line(), value };
        self.next.set(self.next.get() + 1);
        Ok(node)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON document")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.scalar(Value::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Node, E> {
        self.scalar(Value::Other)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        self.scalar(Value::Number(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        self.scalar(Value::Number(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        self.scalar(Value::Number(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        self.scalar(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let (line, mut list) = (self.line(), Vec::new());
        while let Some(node) = sequence.next_element_seed(self)? {
            list.push(node);
        }
        Ok(Node { line, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let (start, mut members) = (self.line(), Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            let line = self.line();
            self.next.set(self.next.get() + 1);
            members.push(Member { line, key, value: map.next_value_seed(self)? });
        }
        Ok(Node { line: start, value: Value::Map(members) })
    }
}
