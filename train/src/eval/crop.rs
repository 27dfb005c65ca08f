//! How much of each image is shown: of two sets that are compared, the same.

use lgd_data::view::CENTER_FRACTION;

use super::LabeledImages;
use crate::run::RunError;

/// The shares of the short side that are shown of the test and of the training images: that of a set's cache; of a set without one the share
/// `asked` for, else that of the other set's cache, else [`CENTER_FRACTION`].
///
/// # Errors
/// [`RunError::NoCenterView`] where a cache has none; [`RunError::CropsDiffer`] where test and training images would be shown otherwise.
pub(super) fn center_fractions(
    test: &LabeledImages<'_>,
    train: Option<&LabeledImages<'_>>,
    asked: Option<f32>,
) -> Result<(f32, f32), RunError> {
    let (own, other) = (cached(test)?, train.map(cached).transpose()?.flatten());
    let uncached = asked.or(own).or(other).unwrap_or(CENTER_FRACTION);
    let (of_test, of_train) = (own.unwrap_or(uncached), other.unwrap_or(uncached));
    match train {
        Some(images) if of_test != of_train => Err(RunError::CropsDiffer {
            train_images: images.images.to_owned(),
            train: of_train,
            test_images: test.images.to_owned(),
            test: of_test,
        }),
        _ => Ok((of_test, of_train)),
    }
}

/// The share that the cache of a set shows, where there is a cache.
fn cached(images: &LabeledImages<'_>) -> Result<Option<f32>, RunError> {
    let Some(cache) = images.cache else { return Ok(None) };
    let fraction = cache.manifest().config.center_fraction;
    fraction.map(Some).ok_or_else(|| RunError::NoCenterView { cache: cache.dir().to_owned() })
}
