//! Reasons to reject a category set.

use std::error::Error;
use std::path::PathBuf;

use crate::text_file::TextFileError;

/// Reasons to reject a category set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CategoryError {
    /// The file cannot be read, or is no text.
    #[error(transparent)]
    File(#[from] TextFileError),
    /// The extension is not that of a category file.
    #[error(
        "{}: unknown kind of category file\n\
         hint: write the names to a .txt file, one per line; .csv, .tsv, .json, .jsonl, .yaml and .names are read too",
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
    #[error("{origin}: no category names\nhint: write one name per line")]
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
         hint: write the missing name; delete the line only if your labels do not count it"
    )]
    EmptyName,
    /// The name occurs twice, perhaps only after normalization.
    #[error(
        "{name:?} is already a category (number {first}, counted from 0)\n\
         hint: if positions are your labels, keep both and tell them apart, such as \"crane bird\" and \"crane machine\""
    )]
    Duplicate {
        /// The duplicate name, normalized unless names are verbatim.
        name: String,
        /// Position of its first occurrence, from 0.
        first: usize,
        /// Whether the file spells them differently, so that verbatim names differ.
        verbatim: bool,
    },
    /// The name differs from another only in case, width or composition of its letters.
    #[error(
        "{name:?} differs from {other:?} (number {first}, counted from 0) only in the case or width of its letters\n\
         hint: text encoders read both as the same word; if positions are your labels, keep both and tell them apart, \
         such as \"crane bird\" and \"crane machine\""
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
    #[error("category {name:?} has an empty synonym or prompt\nhint: delete it, or write what is missing")]
    EmptyEntry {
        /// Name of its category.
        name: String,
    },
    /// A name that looks like something else.
    #[error("{text:?} looks like {what}\nhint: {hint}")]
    NotAName {
        /// The name.
        text: String,
        /// What it looks like.
        what: &'static str,
        /// What to do.
        hint: &'static str,
        /// Whether it may be a name all the same, so that verbatim names are a way out.
        verbatim: bool,
    },
    /// A synonym that looks like something else.
    #[error(
        "{text:?} looks like {what}, not like a synonym of {name:?}\n\
         hint: delete its column, or add a header row that says what the columns are, such as name,weight"
    )]
    NotASynonym {
        /// Name of its category.
        name: String,
        /// The synonym.
        text: String,
        /// What it looks like.
        what: &'static str,
    },
    /// A synonym that is a sentence.
    #[error(
        "{text:?} is a sentence, not a synonym of {name:?}\nhint: write complete prompts under \"prompts\" in a .json file"
    )]
    Sentence {
        /// Name of its category.
        name: String,
        /// The synonym.
        text: String,
    },
    /// Synonyms that are names: more than a category can have, or those of the only category.
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
    #[error("number {number} is already that of line {first}\nhint: give every name a number of its own")]
    RepeatedNumber {
        /// The number.
        number: u64,
        /// Line of its first occurrence.
        first: usize,
        /// Whether the numbers stand in the names, and may be parts of them.
        in_names: bool,
    },
    /// The numbers of the names leave one out.
    #[error(
        "the numbers of the names go from {first} to {last}, but {missing} is missing\n\
         hint: positions in a bank are 0, 1, 2, ...; number the names without gaps, from 0 or 1, or write them to a .txt \
         file in the order of your labels"
    )]
    Gap {
        /// Lowest number expected, 0 or 1.
        first: u64,
        /// Highest number found.
        last: u64,
        /// First number missing.
        missing: u64,
        /// Whether the numbers stand in the names, and may be parts of them.
        in_names: bool,
    },
    /// An entry without a number among numbered ones.
    #[error(
        "{text:?} has no number, unlike other entries\n\
         hint: number every name or none; if the line is a header row, delete it"
    )]
    Unnumbered {
        /// What was found instead.
        text: String,
        /// Whether the numbers stand in the names, and may be parts of them.
        in_names: bool,
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
        "unknown column {column:?} in the header row\n\
         hint: rename it to name, id, wnid, synonym or description (which is not read), or delete it; if the row holds a \
         category, add the row name,synonym above it"
    )]
    UnknownColumn {
        /// Its title.
        column: String,
    },
    /// Two columns that may hold the names.
    #[error(
        "the columns {one:?} and {other:?} may both hold the names\n\
         hint: rename one of them to name, and the other to synonym or description (which is not read)"
    )]
    TwoNameColumns {
        /// One title.
        one: String,
        /// The other.
        other: String,
    },
    /// No column holds names.
    #[error("no column holds names, among {columns}\nhint: rename the column with the names to name")]
    NoNameColumn {
        /// The titles.
        columns: String,
    },
    /// A list of images with labels.
    #[error(
        "this is a list of images (column {column:?}), not of names\nhint: give a file with one line per category"
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
        "{cells} columns, and no header row says which holds the names\n\
         hint: add a header row such as id,name,synonym, or give one name per line"
    )]
    UnknownColumns {
        /// Number of columns.
        cells: usize,
    },
    /// All names on one line.
    #[error("one line with {count} entries\nhint: write one category per line")]
    OneLine {
        /// Number of entries.
        count: usize,
    },
    /// A YAML file whose `nc` is not the number of its names.
    #[error("nc is {expected}, but there are {got} names\nhint: correct the list of names, or nc")]
    Count {
        /// The number stated.
        expected: u64,
        /// The number of names.
        got: usize,
    },
}

impl Problem {
    /// Whether [`NameForm::Verbatim`](super::NameForm) takes the entry as a name.
    pub fn is_name_verbatim(&self) -> bool {
        match self {
            Self::NotAName { verbatim: possible, .. }
            | Self::Duplicate { verbatim: possible, .. }
            | Self::RepeatedNumber { in_names: possible, .. }
            | Self::Gap { in_names: possible, .. }
            | Self::Unnumbered { in_names: possible, .. } => *possible,
            Self::NearDuplicate { .. } => true,
            _ => false,
        }
    }
}
