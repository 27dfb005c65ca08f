//! Category sets: names, synonyms, and complete prompts.
//!
//! [`Categories::read`] reads several kinds of file, selected by extension:
//!
//! - `.txt`, `.names`, `.labels`: one name per line. A blank line before the last name is an error.
//! - `.csv`, `.tsv`: `name[,synonym...]`, or columns under known titles. Empty cells after the name are ignored, because
//!   spreadsheets pad short rows with them. A cell of synonyms may hold a list.
//! - `.json`: `["name", ...]`, or `{"name": [string, ...], ...}`, read in file order. [`JsonEntries`] says whether
//!   the strings are synonyms or prompts; it applies to the whole file. A category with both is
//!   `{"synonyms": [...], "prompts": [...]}`. JSON Lines, also as `.jsonl`, are read as a list.
//! - `.yaml`, `.yml`: a list, or `names:` as detectors have it.
//!
//! Files of these extensions that other tools write (ImageNet's class index and synset lists, `config.json`, COCO's
//! categories and others; docs/banks.md lists them) are recognized by their structure, and [`Categories::note`] says
//! what was read. Numbers beside the names decide their positions. Quotes, bullets, articles, prompts or folders around
//! every name are left out, which the note says. Names that look like numbers, identifiers, paths or other things than
//! names are refused, unless names are verbatim. Then every line of a text file is a name.
//!
//! A category's prompts are made as follows. The name and every synonym fill every template. A category with complete
//! prompts uses those and, if it has synonyms, the templates filled with them; its bare name then fills no template.
//! An empty list means the name alone. A synonym that repeats the name or another synonym of its category counts
//! once.
//!
//! A file is read in steps: bytes to text, text to a draft (`lines`, `table`, `node` and `yaml` with
//! `shapes`), numbers and identifiers (`draft`, `numbers`) and what surrounds all names (`dress`) out of the draft's names, and the
//! check of every name (`form`, `suspect`).

mod draft;
mod dress;
mod files;
mod form;
mod header;
mod lines;
mod node;
mod numbers;
mod problem;
mod shapes;
mod suspect;
mod table;
mod yaml;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use draft::Entry;

pub use form::NameForm;
pub use problem::{CategoryError, Problem};

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
    keys: Vec<String>,
    number: Option<u64>,
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

    /// Identifiers that the file gives beside the name, such as `n01440764`. They fill no template; classes of images
    /// may be named by them.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// The number that the file gives it, from 0 or 1.
    pub fn number(&self) -> Option<u64> {
        self.number
    }
}

/// A non-empty list of categories with distinct, non-empty names. A bank's prototypes follow its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Categories {
    list: Vec<Category>,
    note: Option<String>,
}

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
                .push(&Entry::new(position, name.as_ref()))
                .map_err(|problem| CategoryError::Listed { position, problem })?;
        }
        collector.finish("the list".to_owned(), None)
    }

    /// What was read from a file that is not a plain list of names, in one line.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Number of categories, C.
    #[expect(clippy::len_without_is_empty, reason = "a set of categories is never empty")]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The categories in order.
    pub fn as_slice(&self) -> &[Category] {
        &self.list
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(Category::name)
    }
}

/// Collects and checks the categories of any kind of file.
struct Collector {
    form: NameForm,
    categories: Vec<Category>,
    /// Position and spelling of the name with a key.
    seen: HashMap<String, (usize, String)>,
}

impl Collector {
    fn new(form: NameForm) -> Self {
        Self { form, categories: Vec::new(), seen: HashMap::new() }
    }

    fn push(&mut self, entry: &Entry) -> Result<(), Problem> {
        let Entry { name: written, synonyms, prompts, keys, number, .. } = entry;
        let name = self.form.apply(written);
        if name.trim().is_empty() {
            return Err(Problem::EmptyName);
        }
        self.form.check(written)?;
        let key = self.form.key(&name);
        if let Some((first, spelled)) = self.seen.get(&key) {
            let (first, other) = (*first, self.categories[*first].name.clone());
            return Err(if other == name {
                Problem::Duplicate { name, first, verbatim: spelled != written }
            } else {
                Problem::NearDuplicate { name, other, first }
            });
        }
        let mut phrases = if prompts.is_empty() { vec![name.clone()] } else { Vec::new() };
        let mut known: HashSet<String> = phrases.iter().cloned().collect();
        for synonym in synonyms {
            let synonym = self.form.apply(synonym);
            if synonym.trim().is_empty() {
                return Err(Problem::EmptyEntry { name });
            }
            if known.insert(synonym.clone()) {
                phrases.push(synonym);
            }
        }
        self.form.check_synonyms(&name, synonyms)?;
        if prompts.iter().any(|prompt| prompt.trim().is_empty()) {
            return Err(Problem::EmptyEntry { name });
        }
        self.seen.insert(key, (self.categories.len(), written.clone()));
        let (prompts, keys) = (prompts.clone(), keys.clone());
        self.categories.push(Category { name, phrases, prompts, keys, number: *number });
        Ok(())
    }

    fn finish(self, origin: String, note: Option<String>) -> Result<Categories, CategoryError> {
        if self.categories.is_empty() {
            return Err(CategoryError::NoNames { origin });
        }
        Ok(Categories { list: self.categories, note })
    }
}
