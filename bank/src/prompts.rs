//! Prompt templates, and the prompts of a category.

use std::path::Path;

use thiserror::Error;

use crate::categories::Category;
use crate::text_file::{self, TextFileError};

/// The placeholder that the name replaces.
const SLOT: &str = "{}";

/// Reasons to reject templates.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The file cannot be read, or is no text.
    #[error(transparent)]
    File(#[from] TextFileError),
    /// A template does not contain `{}` exactly once.
    #[error(
        "{origin}:{line}: template {template:?} has {found} times {{}}, the place of the name\nhint: write {{}} exactly once"
    )]
    Slots {
        /// The file, or "template" if not from a file.
        origin: String,
        /// Line number or position, from 1.
        line: usize,
        /// The template.
        template: String,
        /// Number of `{}` in it.
        found: usize,
    },
    /// There are no templates.
    #[error("{origin}: no templates\nhint: give at least one, such as \"a photo of a {{}}.\"")]
    None {
        /// The file, or "template" if not from a file.
        origin: String,
    },
}

/// A non-empty list of templates, each with exactly one `{}`.
///
/// A template that occurs twice counts twice in the mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

impl Default for Templates {
    /// `a photo of a {}.`
    fn default() -> Self {
        Self(vec!["a photo of a {}.".to_owned()])
    }
}

impl Templates {
    /// Checks and stores `templates`.
    ///
    /// # Errors
    /// [`TemplateError::Slots`] or [`TemplateError::None`].
    pub fn new(templates: Vec<String>) -> Result<Self, TemplateError> {
        Self::checked(templates, "template")
    }

    /// Reads one template per line. Blank lines at the end are skipped.
    ///
    /// # Errors
    /// [`TemplateError`]. Any other blank line is an error, since it has no `{}`.
    pub fn read(path: &Path) -> Result<Self, TemplateError> {
        let text = text_file::read(path)?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        while lines.last().is_some_and(|line| line.trim().is_empty()) {
            lines.pop();
        }
        Self::checked(lines, &path.display().to_string())
    }

    fn checked(templates: Vec<String>, origin: &str) -> Result<Self, TemplateError> {
        if templates.is_empty() {
            return Err(TemplateError::None { origin: origin.to_owned() });
        }
        for (index, template) in templates.iter().enumerate() {
            let found = template.matches(SLOT).count();
            if found != 1 {
                return Err(TemplateError::Slots {
                    origin: origin.to_owned(),
                    line: index + 1,
                    template: template.clone(),
                    found,
                });
            }
        }
        Ok(Self(templates))
    }

    /// The templates in order.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// The prompts of one category: every template filled with every phrase, then its complete prompts. Never empty.
    pub fn prompts(&self, category: &Category) -> Vec<String> {
        let filled = category.phrases().iter().flat_map(|phrase| {
            // Only one replacement: a name may itself contain braces.
            self.0.iter().map(move |template| template.replacen(SLOT, phrase, 1))
        });
        filled.chain(category.prompts().iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::categories::{Categories, NameForm};

    #[test]
    fn every_phrase_fills_every_template() {
        let templates = Templates::new(vec!["a {}.".into(), "many {}".into()]).unwrap();
        let categories = Categories::from_names(["{} cat"], NameForm::Normalized).unwrap();
        assert_eq!(templates.prompts(&categories.as_slice()[0]), ["a {} cat.", "many {} cat"]);
    }

    #[test]
    fn a_template_needs_exactly_one_place_and_the_error_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("templates.txt");
        for (text, at, count) in [("a {}.\nno place\n", 2, 0), ("{} and {}", 1, 2), ("{}\n\n{}", 2, 0)] {
            fs::write(&path, text).unwrap();
            match Templates::read(&path) {
                Err(TemplateError::Slots { line, found, .. }) => assert_eq!((line, found), (at, count)),
                other => panic!("{other:?}"),
            }
        }
        fs::write(&path, "").unwrap();
        assert!(matches!(Templates::read(&path), Err(TemplateError::None { .. })));
        for text in ["a {}.\r\nthe {}.\r\n", "\u{feff}a {}.\rthe {}.\r", "a {}.\nthe {}.\n\n  \n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(Templates::read(&path).unwrap().as_slice(), ["a {}.", "the {}."]);
        }
        fs::write(&path, b"un caf\xe9 {}.\n").unwrap();
        assert!(matches!(Templates::read(&path), Err(TemplateError::File(TextFileError::Text { .. }))));
    }
}
