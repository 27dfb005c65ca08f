//! Parsers for the three kinds of category file: TXT, CSV and JSON.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Categories, CategoryError, Collector, JsonEntries, Problem, ReadOptions};

/// First cells that mark the first record of a CSV file as its header.
const HEADERS: [&str; 2] = ["name", "category"];

/// Reads a category file in the format given by its extension.
pub(super) fn read(path: &Path, options: ReadOptions) -> Result<Categories, CategoryError> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let parse = match extension.as_str() {
        "txt" => txt,
        "csv" => csv,
        "json" => json,
        _ => return Err(CategoryError::Kind { path: path.to_owned() }),
    };
    let text =
        fs::read_to_string(path).map_err(|source| CategoryError::Io { path: path.to_owned(), source })?;
    // Spreadsheets and some editors begin UTF-8 files with a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut collector = Collector::new(options.names);
    parse(path, text, options.entries, &mut collector)?;
    collector.finish(path.display().to_string())
}

fn entry(path: &Path, line: usize) -> impl FnOnce(Problem) -> CategoryError {
    move |problem| CategoryError::Entry { path: path.to_owned(), line, problem }
}

fn txt(path: &Path, text: &str, _: JsonEntries, collector: &mut Collector) -> Result<(), CategoryError> {
    // Editors leave blank lines at the end. Anywhere else, a blank line is more likely a lost name. If names are
    // verbatim, white space after the last name belongs to it.
    let end = text.trim_end().len();
    let blanks = text[end..].find(['\n', '\r']).unwrap_or(text.len() - end);
    let names = if end == 0 { "" } else { &text[..end + blanks] };
    for (index, name) in names.lines().enumerate() {
        collector.push(name, &[], &[]).map_err(entry(path, index + 1))?;
    }
    Ok(())
}

fn csv(path: &Path, text: &str, _: JsonEntries, collector: &mut Collector) -> Result<(), CategoryError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    for (index, record) in reader.records().enumerate() {
        let line = |position: Option<&csv::Position>| {
            usize::try_from(position.map_or(0, csv::Position::line)).unwrap_or(usize::MAX)
        };
        let record = record.map_err(|error| CategoryError::Syntax {
            path: path.to_owned(),
            line: line(error.position()),
            source: error.into(),
        })?;
        let line = line(record.position());
        let name = record.get(0).unwrap_or_default();
        if index == 0 && HEADERS.iter().any(|header| name.trim().eq_ignore_ascii_case(header)) {
            continue;
        }
        let synonyms: Vec<String> =
            record.iter().skip(1).filter(|cell| !cell.trim().is_empty()).map(str::to_owned).collect();
        collector.push(name, &synonyms, &[]).map_err(entry(path, line))?;
    }
    Ok(())
}

fn json(
    path: &Path,
    text: &str,
    entries: JsonEntries,
    collector: &mut Collector,
) -> Result<(), CategoryError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let document = deserializer.deserialize_any(DocumentVisitor);
    let document = document.and_then(|document| deserializer.end().map(|()| document));
    let document = document.map_err(|error| CategoryError::Syntax {
        path: path.to_owned(),
        line: error.line(),
        source: error.into(),
    })?;
    for ((name, value), line) in document.into_iter().zip(name_lines(text)) {
        let (synonyms, prompts) = match (value, entries) {
            (Entry::List(list), JsonEntries::Synonyms) => (list, Vec::new()),
            (Entry::List(list), JsonEntries::Prompts) => (Vec::new(), list),
            (Entry::Both { synonyms, prompts }, _) => (synonyms, prompts),
        };
        collector.push(&name, &synonyms, &prompts).map_err(entry(path, line))?;
    }
    Ok(())
}

/// The line number of every name in a valid document, that is, of every string at depth 1, key or element.
///
/// The parser does not record positions.
fn name_lines(text: &str) -> Vec<usize> {
    let (mut lines, mut line, mut depth) = (Vec::new(), 1, 0usize);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\n' => line += 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                if depth == 1 {
                    lines.push(line);
                }
                // A string holds no raw line break, so only its end matters.
                while let Some(byte) = bytes.next().filter(|&byte| byte != b'"') {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
    }
    lines
}

/// Reads a list of names, or an object from names to entries, in file order and with duplicate names.
struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Vec<(String, Entry)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of names, or an object from names to lists of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut document = Vec::new();
        while let Some(name) = sequence.next_element()? {
            document.push((name, Entry::List(Vec::new())));
        }
        Ok(document)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut document = Vec::new();
        while let Some(name) = map.next_key()? {
            document.push((name, map.next_value_seed(EntrySeed)?));
        }
        Ok(document)
    }
}

/// The value of a name in a JSON object.
enum Entry {
    List(Vec<String>),
    Both { synonyms: Vec<String>, prompts: Vec<String> },
}

/// Parses an [`Entry`]. The error of an untagged enum would not say what was expected.
struct EntrySeed;

impl<'de> DeserializeSeed<'de> for EntrySeed {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings, or {\"synonyms\": [...], \"prompts\": [...]}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Entry, A::Error> {
        Vec::deserialize(de::value::SeqAccessDeserializer::new(sequence)).map(Entry::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let (mut synonyms, mut prompts) = (Vec::new(), Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "synonyms" => synonyms = map.next_value()?,
                "prompts" => prompts = map.next_value()?,
                other => return Err(de::Error::unknown_field(other, &["synonyms", "prompts"])),
            }
        }
        Ok(Entry::Both { synonyms, prompts })
    }
}

#[cfg(test)]
mod tests {
    use super::super::NameForm;
    use super::*;

    fn parse(name: &str, text: &str, options: ReadOptions) -> Result<Categories, CategoryError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        read(&path, options)
    }

    fn names(name: &str, text: &str) -> Vec<String> {
        parse(name, text, ReadOptions::default()).unwrap().names().map(str::to_owned).collect()
    }

    fn refusal(name: &str, text: &str) -> (usize, Problem) {
        match parse(name, text, ReadOptions::default()).unwrap_err() {
            CategoryError::Entry { line, problem, .. } => (line, problem),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn names_are_tidied_unless_verbatim() {
        assert_eq!(names("a.txt", "\u{feff}air_plane \r\n  baby   bed\n"), ["air plane", "baby bed"]);
        let verbatim = ReadOptions { names: NameForm::Verbatim, ..ReadOptions::default() };
        let kept = parse("a.txt", "air_plane \nair plane\n", verbatim).unwrap();
        assert_eq!(kept.names().collect::<Vec<_>>(), ["air_plane ", "air plane"]);
        for end in ["", "\n", "\r\n", "\n\n", "\n  \n\t\r\n "] {
            let kept = parse("a.txt", &format!("cat\ndog \t{end}"), verbatim).unwrap();
            assert_eq!(kept.names().collect::<Vec<_>>(), ["cat", "dog \t"], "{end:?}");
        }
    }

    #[test]
    fn empty_and_repeated_names_are_refused_with_their_line() {
        let duplicate = |name: &str, first| Problem::Duplicate { name: name.to_owned(), first };
        assert_eq!(refusal("a.txt", "cat\n\ndog\n"), (2, Problem::EmptyName));
        assert_eq!(refusal("a.txt", "cat\n_\n"), (2, Problem::EmptyName));
        assert_eq!(refusal("a.txt", "hot dog\ncat\nhot_dog \n"), (3, duplicate("hot dog", 0)));
        assert_eq!(refusal("a.csv", "name\ncat\n\"two\nlines\"\ncat\n"), (5, duplicate("cat", 0)));
        assert_eq!(refusal("a.csv", "cat,tom\n,kitten\n"), (2, Problem::EmptyName));
        assert_eq!(
            refusal("a.json", "{\n \"cat\": [\"a\\\"[\"],\n \"dog\": [],\n \"cat \": []\n}"),
            (4, duplicate("cat", 0))
        );
        assert_eq!(refusal("a.json", "[\"cat\",\n\"\"]"), (2, Problem::EmptyName));
        let empty = Problem::EmptyEntry { name: "cat".to_owned() };
        assert_eq!(refusal("a.json", "{\n\"cat\":\n[\" \"]}"), (2, empty));
    }

    #[test]
    fn a_file_without_names_or_of_another_kind_is_refused() {
        let options = ReadOptions::default();
        assert!(matches!(parse("a.txt", "", options), Err(CategoryError::NoNames { .. })));
        assert!(matches!(parse("a.txt", " \n", options), Err(CategoryError::NoNames { .. })));
        assert!(matches!(parse("a.json", "{}", options), Err(CategoryError::NoNames { .. })));
        assert!(matches!(parse("a.csv", "name\n", options), Err(CategoryError::NoNames { .. })));
        assert!(matches!(parse("a.yaml", "cat", options), Err(CategoryError::Kind { .. })));
        assert!(matches!(read(Path::new("absent.txt"), options), Err(CategoryError::Io { .. })));
        for (text, at) in [
            ("{\n\"cat\": 3}", 2),
            ("[\n1]", 2),
            ("{\"cat\": []", 1),
            ("{} x", 1),
            ("{\"a\": {\"b\": 1}}", 1),
        ] {
            match parse("a.json", text, options) {
                Err(CategoryError::Syntax { line, .. }) => assert_eq!(line, at, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn csv_synonyms_follow_the_name_and_padding_is_ignored() {
        let set = parse("a.csv", "Category,other\ncat,tom,,\ndog\n", ReadOptions::default()).unwrap();
        assert_eq!(set.as_slice()[0].phrases(), ["cat", "tom"]);
        assert_eq!(set.as_slice()[1].phrases(), ["dog"]);
    }

    #[test]
    fn json_keeps_its_order_and_tells_synonyms_from_prompts() {
        let text = r#"{"zebra": [], "cat": ["tom_cat", "cat"], "ant": {"synonyms": ["emmet"], "prompts": ["An ant_."]}}"#;
        let set = parse("a.json", text, ReadOptions::default()).unwrap();
        assert_eq!(set.names().collect::<Vec<_>>(), ["zebra", "cat", "ant"]);
        assert_eq!(set.as_slice()[0].phrases(), ["zebra"]);
        assert_eq!(set.as_slice()[1].phrases(), ["cat", "tom cat"]);
        assert_eq!(set.as_slice()[2].phrases(), ["emmet"]);
        assert_eq!(set.as_slice()[2].prompts(), ["An ant_."]);

        let prompts = ReadOptions { entries: JsonEntries::Prompts, ..ReadOptions::default() };
        let set = parse("a.json", r#"{"cat": ["A cat on a mat."], "dog": []}"#, prompts).unwrap();
        assert_eq!(set.as_slice()[0].phrases(), Vec::<String>::new());
        assert_eq!(set.as_slice()[0].prompts(), ["A cat on a mat."]);
        assert_eq!(set.as_slice()[1].phrases(), ["dog"]);
    }
}
