//! Reasons to reject a category set.

use std::error::Error;
use std::path::PathBuf;

use crate::text_file::TextFault;

/// Reasons to reject a category set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CategoryError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The category file.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The file's bytes are no text.
    #[error("{}: {fault}", path.display())]
    Text {
        /// The category file.
        path: PathBuf,
        /// The fault.
        fault: TextFault,
    },
    /// The extension is not that of a file of names.
    #[error(
        "{}: cannot tell the kind of this file of names\n\
         hint: write the names to a .txt file, one per line; .csv, .tsv, .json, .yaml and .names are read too",
        path.display()
    )]
    Kind {
        /// The category file.
        path: PathBuf,
    },
    /// The file has a syntax error, or a structure that is no list of names.
    #[error("{}:{line}: {source}", path.display())]
    Syntax {
        /// The category file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The parser's error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A name, synonym or prompt is invalid.
    #[error("{}:{line}: {problem}", path.display())]
    Entry {
        /// The category file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The problem.
        #[source]
        problem: Problem,
    },
    /// A name in a list that was not read from a file is invalid.
    #[error("category {position}: {problem}")]
    Listed {
        /// Position in the list, from 0.
        position: usize,
        /// The problem.
        problem: Problem,
    },
    /// There are no names.
    #[error("{origin}: no category names\nhint: give at least one name")]
    NoNames {
        /// The file, or "the list".
        origin: String,
    },
}

/// A problem with one entry of a category set.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The name is empty, perhaps only after normalization.
    #[error(
        "empty category name\n\
         hint: write the name that is missing here; positions may be labels, so delete the entry only if no label counts it"
    )]
    EmptyName,
    /// The name occurs twice, perhaps only after normalization.
    #[error(
        "{name:?} is already a category (number {first}, counted from 0)\n\
         hint: positions may be labels, so keep both and tell them apart, such as \"crane bird\" and \"crane machine\"; \
         names that differ only in blanks or underscores are kept apart by --verbatim"
    )]
    Duplicate {
        /// The duplicate name, normalized unless names are verbatim.
        name: String,
        /// Position of its first occurrence, from 0.
        first: usize,
    },
    /// The name differs from another only in case, width or composition of its letters.
    #[error(
        "{name:?} differs from {other:?} (number {first}, counted from 0) only in the case or width of its letters\n\
         hint: text encoders take them for the same word; positions may be labels, so keep both and tell them apart, \
         such as \"crane bird\" and \"crane machine\", or keep them as written with --verbatim"
    )]
    NearDuplicate {
        /// The name.
        name: String,
        /// The earlier name.
        other: String,
        /// Position of the earlier name, from 0.
        first: usize,
    },
    /// A synonym or prompt is empty or white space.
    #[error("category {name:?} has an empty synonym or prompt")]
    EmptyEntry {
        /// Name of its category.
        name: String,
    },
    /// A name or synonym that looks like something else.
    #[error("{text:?} looks like {what}\nhint: {hint}, or take names exactly as written with --verbatim")]
    NotAName {
        /// The name or synonym.
        text: String,
        /// What it looks like.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A synonym that is a sentence.
    #[error(
        "{text:?} is a sentence, not a synonym of {name:?}\nhint: read the lists as complete prompts with --json-prompts"
    )]
    Sentence {
        /// Name of its category.
        name: String,
        /// The synonym.
        text: String,
    },
    /// More synonyms than a category can have.
    #[error(
        "category {name:?} has {count} synonyms: this looks like a list of names under a title\n\
         hint: give a file with that list alone"
    )]
    ManySynonyms {
        /// Name of its category.
        name: String,
        /// Number of synonyms.
        count: usize,
    },
    /// A number that positions the name occurs twice.
    #[error(
        "number {number} is already that of line {first}\nhint: every name needs a number of its own; if the numbers are parts of the names, keep them with --verbatim"
    )]
    RepeatedNumber {
        /// The number.
        number: u64,
        /// Line of its first occurrence.
        first: usize,
    },
    /// The numbers of the names leave one out.
    #[error(
        "the numbers of the names go from {first} to {last}, but {missing} is missing\n\
         hint: positions in a bank are 0, 1, 2, ...; number the names without gaps, from 0 or 1, or write them to a .txt \
         file in the order of your labels; if the numbers are parts of the names, keep them with --verbatim"
    )]
    Gap {
        /// Lowest number expected, 0 or 1.
        first: u64,
        /// Highest number found.
        last: u64,
        /// First number missing.
        missing: u64,
    },
    /// An entry without a number among numbered ones.
    #[error(
        "{text:?} has no number, unlike other entries\nhint: number every name or none; if the numbers are parts of the names, keep them with --verbatim"
    )]
    Unnumbered {
        /// What was found instead.
        text: String,
    },
    /// Two numberings that differ.
    #[error(
        "{name:?} has the numbers {one} and {other}, and others differ by other amounts\nhint: keep one column of numbers"
    )]
    TwoNumbers {
        /// The name.
        name: String,
        /// One number.
        one: u64,
        /// The other.
        other: u64,
    },
    /// A column of a header whose meaning is unknown.
    #[error(
        "unknown column {column:?}\n\
         hint: call it name, id, wnid or synonym, or delete it; without a header, the first column is the name and \
         the others are synonyms"
    )]
    UnknownColumn {
        /// Its title.
        column: String,
    },
    /// Two columns that may hold the names.
    #[error(
        "the columns {one:?} and {other:?} may both hold the names\nhint: call one of them name, and the other synonym, or delete it"
    )]
    TwoNameColumns {
        /// One title.
        one: String,
        /// The other.
        other: String,
    },
    /// No column holds names.
    #[error("no column holds names, among {columns}\nhint: call the column with the names name")]
    NoNameColumn {
        /// The titles.
        columns: String,
    },
    /// A list of images with labels.
    #[error(
        "a list of images (column {column:?}), not of names\nhint: give a file with one line per category"
    )]
    ImageList {
        /// Title of the column.
        column: String,
    },
    /// A row with more or fewer cells than the header.
    #[error(
        "expected {expected} cells, as in the header, got {got}\nhint: quote a cell that contains the separator, as in \"tench, Tinca tinca\""
    )]
    Cells {
        /// Number of columns of the header.
        expected: usize,
        /// Number of cells.
        got: usize,
    },
    /// A list without header whose lines have several columns of text.
    #[error(
        "{cells} columns, and nothing says which is the name\n\
         hint: add a header row such as id,name,synonym, or give one name per line"
    )]
    UnknownColumns {
        /// Number of columns.
        cells: usize,
    },
    /// All names on one line.
    #[error(
        "one line with {count} entries\nhint: give one category per line, or take the line as one category with --verbatim"
    )]
    OneLine {
        /// Number of entries.
        count: usize,
    },
    /// A YAML file whose `nc` is not the number of its names.
    #[error("nc is {expected}, but there are {got} names\nhint: mend the list of names, or nc")]
    Count {
        /// The number stated.
        expected: u64,
        /// The number of names.
        got: usize,
    },
}
