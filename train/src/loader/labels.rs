//! The labels of a cache's samples, and what classes they name.

use std::collections::BTreeSet;

use lgd_data::cache::{Cache, CachedViews};

use crate::run::{ClassRecord, RunError};

/// A classifier has at most `SPREAD` outputs for each label that there is, and `SPARE` more: past that, labels are no class numbers.
const SPREAD: usize = 10;
const SPARE: usize = 1000;

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
    /// [`RunError::MissingLabels`] where a sample has none; [`RunError::SparseLabels`] where there are far more numbers up to the largest
    /// than labels; [`RunError::Artifact`] where a shard is unreadable.
    pub fn read(cache: &Cache) -> Result<Self, RunError> {
        let views = cache.views()?;
        let of_sample: Vec<u32> = views.labels.iter().flatten().copied().collect();
        if of_sample.len() < views.samples() {
            return Err(missing(cache, &views));
        }
        let largest = of_sample.iter().max().copied().unwrap_or(0);
        let names = cache.manifest().config.class_names.clone();
        let named = names.as_ref().map_or(0, Vec::len);
        let count = named.max(usize::try_from(largest).unwrap_or(usize::MAX).saturating_add(1));
        let distinct = of_sample.iter().collect::<BTreeSet<_>>().len();
        let limit = SPREAD * distinct + SPARE;
        if count > named.max(limit) {
            return Err(RunError::SparseLabels { cache: cache.dir().to_owned(), largest, distinct, limit });
        }
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
