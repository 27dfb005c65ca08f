//! The labels of a cache's samples, and the classes that they stand for.

use std::collections::BTreeSet;

use lgd_data::cache::{Cache, CachedViews};
use lgd_data::source::position_limit;
use serde::{Deserialize, Serialize};

use super::LoaderError;
use super::holdout::Holdout;

/// The classes of a classifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassRecord {
    /// Number of classes.
    pub count: usize,
    /// Their names, in the order of the labels, if the cache has names.
    pub names: Option<Vec<String>>,
    /// Labels without a training sample, in ascending order. Older runs do not record them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untrained: Vec<u32>,
}

impl ClassRecord {
    /// Whether the label is one of the classes and has training samples.
    pub fn is_trained(&self, label: u32) -> bool {
        usize::try_from(label).is_ok_and(|label| label < self.count)
            && self.untrained.binary_search(&label).is_err()
    }

    /// The classes without a training sample, by name or number.
    pub fn untrained_words(&self) -> Vec<String> {
        let word = |&label: &u32| {
            let name = usize::try_from(label).ok().and_then(|label| self.names.as_ref()?.get(label));
            name.cloned().unwrap_or_else(|| label.to_string())
        };
        self.untrained.iter().map(word).collect()
    }
}

/// A label for every sample, and the classes.
#[derive(Debug)]
pub struct Labels {
    of_sample: Vec<u32>,
    classes: ClassRecord,
}

impl Labels {
    /// Reads the labels of `cache`. The classes are its class names, or the numbers up to the largest label. Classes of which
    /// `holdout` leaves no sample are untrained.
    ///
    /// # Errors
    /// [`LoaderError::MissingLabels`] if a sample has none; [`LoaderError::SparseLabels`] if most numbers up to the largest label are not
    /// labels; [`LoaderError::OneClass`] if there is nothing to tell apart; [`LoaderError::Artifact`] if a shard is unreadable.
    pub fn read(cache: &Cache, holdout: Option<Holdout>) -> Result<Self, LoaderError> {
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
        let limit = position_limit(distinct);
        if count > named.max(limit) {
            return Err(LoaderError::SparseLabels {
                cache: cache.dir().to_owned(),
                largest,
                distinct,
                limit,
            });
        }
        if count < 2 {
            return Err(LoaderError::OneClass { cache: cache.dir().to_owned() });
        }
        let held_out = holdout.map_or_else(Vec::new, |holdout| holdout.choose(&views.keys));
        let is_trained = |sample: &usize| held_out.binary_search(sample).is_err();
        let trained: BTreeSet<u32> =
            (0..of_sample.len()).filter(is_trained).map(|sample| of_sample[sample]).collect();
        let untrained = (0..).take(count).filter(|label| !trained.contains(label)).collect();
        Ok(Self { of_sample, classes: ClassRecord { count, names, untrained } })
    }

    /// The label of a sample.
    ///
    /// # Panics
    /// If there is no such sample, like slice indexing.
    pub fn of(&self, sample: usize) -> u32 {
        self.of_sample[sample]
    }

    /// The classes.
    pub fn classes(&self) -> &ClassRecord {
        &self.classes
    }
}

fn missing(cache: &Cache, views: &CachedViews) -> LoaderError {
    let mut without = views.keys.iter().zip(&views.labels).filter(|(_, label)| label.is_none());
    let key = without.next().map_or_else(String::new, |(key, _)| key.clone());
    let missing = 1 + without.count();
    LoaderError::MissingLabels { cache: cache.dir().to_owned(), key, missing, samples: views.samples() }
}
