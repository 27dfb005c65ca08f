//! Texts that look like something other than a name.

use super::dress::{is_wrapped, prompted};
use super::form::{is_hash, is_identifier, is_number};
use super::numbers;
use crate::text_file::is_garbled;

/// What a text looks like if not like a name, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub what: &'static str,
    pub hint: &'static str,
    /// Whether it may be a name all the same, as a digit is.
    pub verbatim: bool,
}

/// Words of a sentence.
const SENTENCE: usize = 5;

/// Endings of files of images.
const IMAGES: [&str; 10] =
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic"];

/// Endings of other files beside images.
const FILES: [&str; 16] = [
    ".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".npy", ".npz", ".pt", ".pth", ".zip", ".tar",
    ".gz", ".parquet", ".mp4",
];

/// Whether `text` names an image file.
pub(super) fn is_image(text: &str) -> bool {
    ends(text, &IMAGES)
}

fn ends(text: &str, ends: &[&str]) -> bool {
    let lower = text.to_ascii_lowercase();
    ends.iter().any(|end| lower.ends_with(end))
}

/// What `name` looks like; `None` for a name.
pub(super) fn suspect(name: &str) -> Option<Suspect> {
    let never = |what, hint| Some(Suspect { what, hint, verbatim: false });
    let perhaps = |what, hint| Some(Suspect { what, hint, verbatim: true });
    let lower = name.to_ascii_lowercase();
    let starts = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    let holds = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if name.chars().any(|letter| letter.is_control() && !matches!(letter, '\t' | '\n'))
        || holds(&["\u{2028}", "\u{2029}"])
    {
        never("text with control characters", "write one name per line, as plain text")
    } else if is_garbled(name) {
        never("text in a wrong encoding", "save the file again as UTF-8")
    } else if name.split_whitespace().all(is_number) {
        perhaps("a number", "write the name that the number stands for")
    } else if is_identifier(name) || is_hash(name) {
        perhaps(
            "an identifier, not a name",
            "use a list with names, such as ImageNet's LOC_synset_mapping.txt",
        )
    } else if numbers::is_placeholder(name) {
        perhaps("a placeholder for a name", "write the names that the labels stand for")
    } else if numbers::leading(name).is_some_and(|split| split.sure)
        || numbers::leading_identifier(name).is_some()
    {
        perhaps(
            "an identifier or number and a name, unlike other entries",
            "write every entry in the same way",
        )
    } else if let Some(found) = of_files(name, &lower) {
        Some(found)
    } else if starts(&["#", "//", "%"]) || lower.contains(" # ") {
        perhaps("a comment", "begin lines of comment with \"# \"")
    } else if holds(&["&amp;", "&quot;", "&apos;", "&lt;", "&gt;", "&nbsp;", "&#"])
        || (starts(&["<"]) && holds(&[">"]))
        || (holds(&["</", "/>"]))
    {
        never("markup", "write names as plain text")
    } else if let Some(found) = of_lists(name, &lower) {
        Some(found)
    } else if matches!(name, "nan" | "NaN" | "NULL" | "null" | "#N/A" | "undefined") {
        perhaps("a missing value", "write the name that is missing here")
    } else if prompted(name).is_some() {
        never("a prompt, not a name", "write the name alone; templates make prompts of names")
    } else if name.ends_with('.') && name.split_whitespace().count() >= SENTENCE {
        perhaps("a sentence, not a name", "write the name alone; templates make prompts of names")
    } else {
        None
    }
}

/// Whether `text` begins as a line of `ls -l` does.
pub(super) fn is_listing(text: &str) -> bool {
    let mode: Vec<char> = text.chars().take(10).collect();
    let rights = |letter: &char| matches!(letter, 'r' | 'w' | 'x' | '-' | 's' | 't' | 'S' | 'T');
    mode.len() == 10 && matches!(mode[0], 'd' | '-' | 'l') && mode[1..].iter().all(rights)
}

/// Paths, addresses and what commands print about files.
fn of_files(name: &str, lower: &str) -> Option<Suspect> {
    let found = |what, hint| Some(Suspect { what, hint, verbatim: false });
    let alone = "write the names of folders alone, as `ls -1 FOLDER` prints them";
    let drive = name.as_bytes().get(1) == Some(&b':')
        && name.as_bytes()[0].is_ascii_alphabetic()
        && matches!(name.as_bytes().get(2), Some(b'\\' | b'/'));
    if is_listing(name) || lower.contains("<dir>") {
        found("a line of a directory listing", alone)
    } else if name.contains(['├', '└', '│']) {
        found("a line of a drawing of folders", alone)
    } else if is_image(name) {
        found("an image file", "write the names of the categories, not a list of images")
    } else if ends(name, &FILES) {
        found("a file", "write the names of the categories, not a list of files")
    } else if lower.starts_with("http://") || lower.starts_with("https://") || lower.starts_with("www.") {
        found("an address", "write the names of the categories")
    } else if drive || name.starts_with(['/', '\\', '~']) || name.starts_with("./") || name.starts_with("../")
    {
        found("a path", alone)
    } else {
        None
    }
}

/// Columns, code and pieces of lists.
fn of_lists(name: &str, lower: &str) -> Option<Suspect> {
    let never = |what, hint| Some(Suspect { what, hint, verbatim: false });
    let perhaps = |what, hint| Some(Suspect { what, hint, verbatim: true });
    let holds = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if holds(&["['", "[\"", "{'", "{\"", "', '", "','", "\", \"", "();"])
        || lower.ends_with('{')
        || matches!(name, "}" | "]" | "}," | "],")
    {
        never("a piece of code", "write the names to a .txt file, one per line")
    } else if holds(&["\t", ";", "|", "\",\"", "->", "=>", "→", "⇒", " = "]) {
        never(
            "several columns",
            "write one name per line, or a .csv file with a header row such as id,name,synonym",
        )
    } else if is_wrapped(name) || name.starts_with('"') {
        perhaps("a quoted name, unlike other entries", "leave out the quotes")
    } else if lower.ends_with([',', ':', '，', '：']) {
        perhaps("a part of a longer list", "write one name per line, without a comma or colon behind it")
    } else if ["- ", "* ", "• ", "+ ", "[ ] ", "[x] "].iter().any(|bullet| lower.starts_with(bullet)) {
        never("an item of a list, unlike other entries", "leave out the bullets")
    } else {
        None
    }
}
