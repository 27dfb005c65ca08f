//! Finding a cache's samples in an image source.

use std::collections::HashMap;
use std::path::Path;

use lgd_data::cache::{Cache, CachedViews};
use lgd_data::source::ImageSource;

use super::LoaderError;

/// Finds the position in `source` of every sample of the cache, by key. The source may have grown or changed its order
/// since extraction, but must still list every cached sample. `images` names the source in messages.
///
/// # Errors
/// [`LoaderError::MissingSample`] with the first key that the source lacks.
pub fn match_samples(
    cache: &Cache,
    views: &CachedViews,
    source: &dyn ImageSource,
    images: &Path,
) -> Result<Vec<usize>, LoaderError> {
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
        Some(&key) => Err(LoaderError::MissingSample {
            key: key.clone(),
            cache: cache.dir().to_owned(),
            images: images.to_owned(),
            missing: missing.len(),
        }),
    }
}
