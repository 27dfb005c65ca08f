//! Finding a cache's samples again in an image source.

use std::collections::HashMap;
use std::path::Path;

use lgd_data::cache::{Cache, CachedViews};
use lgd_data::source::ImageSource;

use crate::run::RunError;

/// The position in `source` of every sample of the cache, found by key: the listing may have grown or moved since the
/// extraction, as long as no cached sample has gone. `images` names the source in messages.
///
/// # Errors
/// [`RunError::MissingSample`] with the first key that the source lacks.
pub fn match_samples(
    cache: &Cache,
    views: &CachedViews,
    source: &dyn ImageSource,
    images: &Path,
) -> Result<Vec<usize>, RunError> {
    let positions: HashMap<&str, usize> = source
        .samples()
        .iter()
        .enumerate()
        .map(|(position, sample)| (sample.key.as_str(), position))
        .collect();
    let missing: Vec<&String> =
        views.keys.iter().filter(|key| !positions.contains_key(key.as_str())).collect();
    match missing.first() {
        None => Ok(views.keys.iter().filter_map(|key| positions.get(key.as_str()).copied()).collect()),
        Some(&key) => Err(RunError::MissingSample {
            key: key.clone(),
            cache: cache.dir().to_owned(),
            images: images.to_owned(),
            missing: missing.len(),
        }),
    }
}
