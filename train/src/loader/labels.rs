//! The labels of a cache's samples, and what classes they name.

use lgd_data::cache::{Cache, CachedViews};

use crate::run::{ClassRecord, RunError};

/// A label for every sample, and the classes.
#[derive(Debug)]
pub struct Labels {
    of_sample: Vec<u32>,
    classes: ClassRecord,
}

impl Labels {
    /// Reads the labels of `cache`. The classes are its class names, or as many as the largest label asks for.
    ///
    /// # Errors
    /// [`RunError::MissingLabels`] where a sample has none; [`RunError::Artefact`] where a shard is unreadable.
    pub fn read(cache: &Cache) -> Result<Self, RunError> {
        let views = cache.views()?;
        let of_sample: Vec<u32> = views.labels.iter().flatten().copied().collect();
        if of_sample.len() < views.samples() {
            return Err(missing(cache, &views));
        }
        let largest = of_sample.iter().max().map_or(0, |&label| usize::try_from(label).unwrap_or(usize::MAX));
        let names = cache.manifest().config.class_names.clone();
        let count = names.as_ref().map_or(0, Vec::len).max(largest.saturating_add(1));
        Ok(Self { of_sample, classes: ClassRecord { count, names } })
    }

    /// The label of a sample.
    ///
    /// # Panics
    /// Where there is no such sample, like slice indexing.
    pub fn of(&self, sample: usize) -> u32 {
        self.of_sample[sample]
    }

    /// The classes.
    pub fn classes(&self) -> &ClassRecord {
        &self.classes
    }
}

fn missing(cache: &Cache, views: &CachedViews) -> RunError {
    let mut without = views.keys.iter().zip(&views.labels).filter(|(_, label)| label.is_none());
    let key = without.next().map_or_else(String::new, |(key, _)| key.clone());
    let missing = 1 + without.count();
    RunError::MissingLabels { cache: cache.dir().to_owned(), key, missing, samples: views.samples() }
}
