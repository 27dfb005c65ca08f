//! Category sets: names, their synonyms, and prompts written out in full.
//!
//! [`Categories::read`] reads three kinds of file, by their extension:
//!
//! - `.txt`: one name per line. A blank line before the last name is an empty name, hence an error.
//! - `.csv`: `name[,synonym...]`. A first record whose first cell is `name` or `category` is a header. Empty cells
//!   after the name are ignored, since spreadsheets pad short rows with them.
//! - `.json`: `["name", ...]`, or `{"name": [string, ...], ...}` with the order of the file kept. [`JsonEntries`] defines the meaning of the strings
//!   for the whole file. A category that has both is `{"synonyms": [...], "prompts": [...]}`.
//!
//! How prompts come about: the name and every synonym fill every template. A category with whole prompts uses those,
//! and its synonyms if it has any, but its bare name fills no template. An empty list leaves the name alone. A
//! synonym that repeats the name or another synonym of its category counts once.

mod files;

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

/// Why a set of categories cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CategoryError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file of names.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The extension is none of the three.
    #[error("{}: cannot tell the kind of this file of names\nhint: name it .txt, .json or .csv", path.display())]
    Kind {
        /// The file of names.
        path: PathBuf,
    },
    /// The file breaks its own syntax.
    #[error("{}:{line}: {source}", path.display())]
    Syntax {
        /// The file of names.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The parser's error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A name, synonym or prompt that cannot be accepted.
    #[error("{}:{line}: {problem}", path.display())]
    Entry {
        /// The file of names.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        problem: Problem,
    },
    /// A name in a list that came from no file.
    #[error("category {position}: {problem}")]
    Listed {
        /// Position in the list, from 0.
        position: usize,
        /// What is wrong with it.
        problem: Problem,
    },
    /// There is no name at all.
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
    /// Nothing is left of the name.
    #[error("empty category name\nhint: remove the blank line or entry")]
    EmptyName,
    /// The name occurs twice, perhaps only after normalization.
    #[error(
        "{name:?} is already a category (number {first}, counted from 0)\n\
         hint: remove one; names that differ only in blanks or underscores are kept apart by the verbatim switch"
    )]
    Duplicate {
        /// The name as it would be used.
        name: String,
        /// Position of its first appearance, from 0.
        first: usize,
    },
    /// A synonym or prompt is blank.
    #[error("category {name:?} has an empty synonym or prompt")]
    EmptyEntry {
        /// Its category.
        name: String,
    },
}

/// Whether names and synonyms are tidied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameForm {
    /// Underscores become blanks, runs of white space one blank, and the ends are trimmed.
    #[default]
    Normalized,
    /// Exactly as written.
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
    /// Further names of the category: they fill the templates as the name does.
    #[default]
    Synonyms,
    /// Whole prompts, taken as they are; the templates are not used.
    Prompts,
}

/// How a file of names is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether names and synonyms are tidied.
    pub names: NameForm,
    /// Meaning of the strings in a JSON list.
    pub entries: JsonEntries,
}

/// One category: a name and its prompts for the text encoder.
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

    /// Phrases for the templates: the name (unless the category has whole prompts), then the synonyms.
    pub fn phrases(&self) -> &[String] {
        &self.phrases
    }

    /// Prompts to be encoded as they are.
    pub fn prompts(&self) -> &[String] {
        &self.prompts
    }
}

/// A non-empty list of categories with distinct, non-empty names. Its order is the order of every bank's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Categories(Vec<Category>);

impl Categories {
    /// Reads a file of names in one of the forms that the module describes.
    ///
    /// # Errors
    /// [`CategoryError`], with file and line wherever there is one.
    pub fn read(path: &Path, options: ReadOptions) -> Result<Self, CategoryError> {
        files::read(path, options)
    }

    /// A set of bare names.
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

/// Collects categories from any kind of file, and fails for those that break the rules.
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
