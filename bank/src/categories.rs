//! Category sets: names, synonyms, and complete prompts.
//!
//! [`Categories::read`] reads three kinds of file, selected by extension:
//!
//! - `.txt`: one name per line. A blank line before the last name is an empty name and thus an error.
//! - `.csv`: `name[,synonym...]`. A first record whose first cell is `name` or `category` is a header. Empty cells
//!   after the name are ignored, since spreadsheets pad short rows with them.
//! - `.json`: `["name", ...]`, or `{"name": [string, ...], ...}`, read in file order. [`JsonEntries`] says whether
//!   the strings are synonyms or prompts; it applies to the whole file. A category with both is
//!   `{"synonyms": [...], "prompts": [...]}`.
//!
//! A category's prompts are made as follows. The name and every synonym fill every template. A category with complete
//! prompts uses those and, if it has synonyms, the templates filled with them; its bare name then fills no template.
//! An empty list means the name alone. A synonym that repeats the name or another synonym of its category counts
//! once.

mod files;

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

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
    /// The extension is not `.txt`, `.csv` or `.json`.
    #[error("{}: cannot tell the kind of this file of names\nhint: name it .txt, .json or .csv", path.display())]
    Kind {
        /// The category file.
        path: PathBuf,
    },
    /// The file has a CSV or JSON syntax error.
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
    #[error("empty category name\nhint: remove the blank line or entry")]
    EmptyName,
    /// The name occurs twice, perhaps only after normalization.
    #[error(
        "{name:?} is already a category (number {first}, counted from 0)\n\
         hint: remove one; names that differ only in blanks or underscores are kept apart by the verbatim switch"
    )]
    Duplicate {
        /// The duplicate name, normalized unless names are verbatim.
        name: String,
        /// Position of its first occurrence, from 0.
        first: usize,
    },
    /// A synonym or prompt is empty or white space.
    #[error("category {name:?} has an empty synonym or prompt")]
    EmptyEntry {
        /// Name of its category.
        name: String,
    },
}

/// Whether names and synonyms are normalized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameForm {
    /// Underscores become spaces, each run of white space becomes one space, and both ends are trimmed.
    #[default]
    Normalized,
    /// Unchanged.
    Verbatim,
}

impl NameForm {
    fn apply(self, text: &str) -> String {
        match self {
            Self::Verbatim => text.to_owned(),
            Self::Normalized => text.replace('_', " ").split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

/// Meaning of the strings in a JSON list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JsonEntries {
    /// Synonyms: they fill the templates as the name does.
    #[default]
    Synonyms,
    /// Complete prompts, encoded unchanged. The templates are not used.
    Prompts,
}

/// Options for reading a category file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether names and synonyms are normalized.
    pub names: NameForm,
    /// Meaning of the strings in a JSON list.
    pub entries: JsonEntries,
}

/// A category: its name and what its prompts are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category {
    name: String,
    phrases: Vec<String>,
    prompts: Vec<String>,
}

impl Category {
    /// The name, unique within its set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Phrases that fill the templates: the name (unless the category has complete prompts), then the synonyms.
    pub fn phrases(&self) -> &[String] {
        &self.phrases
    }

    /// Complete prompts, encoded unchanged.
    pub fn prompts(&self) -> &[String] {
        &self.prompts
    }
}

/// A non-empty list of categories with distinct, non-empty names. A bank's prototypes follow its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Categories(Vec<Category>);

impl Categories {
    /// Reads a category file in one of the forms described in the [module documentation](crate::categories).
    ///
    /// # Errors
    /// [`CategoryError`], with the file and, if known, the line.
    pub fn read(path: &Path, options: ReadOptions) -> Result<Self, CategoryError> {
        files::read(path, options)
    }

    /// Builds a category set from bare names.
    ///
    /// # Errors
    /// [`CategoryError::Listed`] or [`CategoryError::NoNames`].
    pub fn from_names<I>(names: I, form: NameForm) -> Result<Self, CategoryError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut collector = Collector::new(form);
        for (position, name) in names.into_iter().enumerate() {
            collector
                .push(name.as_ref(), &[], &[])
                .map_err(|problem| CategoryError::Listed { position, problem })?;
        }
        collector.finish("the list".to_owned())
    }

    /// Number of categories, C.
    #[expect(clippy::len_without_is_empty, reason = "a set of categories is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The categories in order.
    pub fn as_slice(&self) -> &[Category] {
        &self.0
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Category::name)
    }
}

/// Collects and checks the categories of any kind of file.
struct Collector {
    form: NameForm,
    categories: Vec<Category>,
    seen: HashMap<String, usize>,
}

impl Collector {
    fn new(form: NameForm) -> Self {
        Self { form, categories: Vec::new(), seen: HashMap::new() }
    }

    fn push(&mut self, name: &str, synonyms: &[String], prompts: &[String]) -> Result<(), Problem> {
        if name.trim().is_empty() {
            return Err(Problem::EmptyName);
        }
        let name = self.form.apply(name);
        if name.is_empty() {
            return Err(Problem::EmptyName);
        }
        if let Some(&first) = self.seen.get(&name) {
            return Err(Problem::Duplicate { name, first });
        }
        let mut phrases = if prompts.is_empty() { vec![name.clone()] } else { Vec::new() };
        for synonym in synonyms {
            let synonym = self.form.apply(synonym);
            if synonym.trim().is_empty() {
                return Err(Problem::EmptyEntry { name });
            }
            if !phrases.contains(&synonym) {
                phrases.push(synonym);
            }
        }
        if prompts.iter().any(|prompt| prompt.trim().is_empty()) {
            return Err(Problem::EmptyEntry { name });
        }
        self.seen.insert(name.clone(), self.categories.len());
        self.categories.push(Category { name, phrases, prompts: prompts.to_vec() });
        Ok(())
    }

    fn finish(self, origin: String) -> Result<Categories, CategoryError> {
        if self.categories.is_empty() {
            return Err(CategoryError::NoNames { origin });
        }
        Ok(Categories(self.categories))
    }
}
