//! Dispatch by extension, and the line that says what was read.

use std::path::Path;

use super::draft::{Draft, Fault};
use super::{Categories, CategoryError, Collector, ReadOptions, lines, node, shapes, table, yaml};
use crate::text_file;

/// Reads a category file in the format given by its extension.
pub(super) fn read(path: &Path, options: ReadOptions) -> Result<Categories, CategoryError> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let ReadOptions { names: form, entries } = options;
    let parse: &dyn Fn(&str) -> Result<Draft, Fault> = match extension.as_str() {
        "txt" | "names" | "labels" => &|text| lines::read(text, form, entries),
        "csv" => &|text| table::file(text, b',', form),
        "tsv" => &|text| table::file(text, b'\t', form),
        "json" | "jsonl" | "ndjson" => &|text| shapes::interpret(&node::json(text)?, entries),
        "yaml" | "yml" => &|text| shapes::interpret(&yaml::document(text)?, entries),
        _ => return Err(CategoryError::Kind { path: path.to_owned() }),
    };
    let text = text_file::read(path)?;
    let located = |fault| match fault {
        Fault::Entry(line, problem) => CategoryError::Entry { path: path.to_owned(), line, problem },
        Fault::Syntax(line, source) => CategoryError::Syntax { path: path.to_owned(), line, source },
    };
    let draft = parse(&text).and_then(|draft| draft.tidied(form)).map_err(located)?;
    let mut collector = Collector::new(form);
    for entry in &draft.entries {
        collector.push(entry).map_err(|problem| located(Fault::Entry(entry.line, problem)))?;
    }
    let told = (!draft.told.is_empty()).then(|| {
        format!("{}: {}; {}", path.display(), draft.told.join("; "), counted(draft.entries.len(), "name"))
    });
    collector.finish(path.display().to_string(), told)
}

/// `1 name`, `2 names`.
pub(super) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{JsonEntries, NameForm, Problem};
    use super::*;
    use crate::text_file::TextFileError;

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
        let duplicate =
            |name: &str, first, verbatim| Problem::Duplicate { name: name.to_owned(), first, verbatim };
        assert_eq!(refusal("a.txt", "cat\n\ndog\n"), (2, Problem::EmptyName));
        assert_eq!(refusal("a.txt", "cat\n_\n"), (2, Problem::EmptyName));
        assert_eq!(refusal("a.txt", "hot dog\ncat\nhot_dog \n"), (3, duplicate("hot dog", 0, true)));
        assert_eq!(refusal("a.csv", "name\ncat\n\"two, lines\"\ncat\n"), (4, duplicate("cat", 0, false)));
        assert_eq!(refusal("a.csv", "cat,tom\n,kitten\n"), (2, Problem::EmptyName));
        assert_eq!(
            refusal("a.json", "{\n \"cat\": [\"a\\\"[\"],\n \"dog\": [],\n \"cat \": []\n}"),
            (4, duplicate("cat", 0, true))
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
        assert!(matches!(parse("a.docx", "cat", options), Err(CategoryError::Kind { .. })));
        assert!(matches!(
            read(Path::new("absent.txt"), options),
            Err(CategoryError::File(TextFileError::Io { .. }))
        ));
        for (text, at) in [
            ("{\n\"cat\": true}", 2),
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
    fn a_stray_quote_is_an_error_with_its_line() {
        for (name, text, at, what) in [
            ("a.csv", "name\n\"cat\ndog\nbird\n", 2, "is not closed in its line"),
            ("a.csv", "name\ncat\n\"dog\nbird\n\"fish\nant\n", 3, "is not closed in its line"),
            ("a.csv", "cat\n\"dog\",hound\n\"two\nlines\"\n", 3, "is not closed in its line"),
            ("a.csv", "name\ncat\n\"dog", 3, "goes on to the end of the file"),
            ("a.csv", "name\n\"cat\" tom\ndog\n", 2, "text follows the double quote"),
            ("a.tsv", "name\tid\n\"cat\t0\n\ndog\t1\n", 2, "is not closed in its line"),
            ("a.txt", "name;id\n\"cat;0\ndog;1\n", 2, "is not closed in its line"),
        ] {
            match parse(name, text, ReadOptions::default()) {
                Err(CategoryError::Syntax { line, source, .. }) => {
                    assert_eq!(line, at, "{text:?}");
                    assert!(source.to_string().contains(what), "{text:?}: {source}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
        let text = "name\nnail of 5\" length\n\"a \"\"big\"\" nail\"\n";
        assert_eq!(names("a.csv", text), ["nail of 5\" length", "a \"big\" nail"]);
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
