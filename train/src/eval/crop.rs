//! The center crop of evaluation images. Two sets that are compared use the same crop.

use lgd_data::view::CENTER_FRACTION;

use super::EvalError;
use super::LabeledImages;

/// Center crops of the test and of the training images, as shares of the short side. A set with a cache uses its
/// cache's share. A set without one uses `asked`, else the share of the other set's cache, else [`CENTER_FRACTION`].
///
/// # Errors
/// [`EvalError::NoCenterView`] if a cache has no center view; [`EvalError::CropsDiffer`] if the two shares differ.
pub(super) fn center_fractions(
    test: &LabeledImages<'_>,
    train: Option<&LabeledImages<'_>>,
    asked: Option<f32>,
) -> Result<(f32, f32), EvalError> {
    let (own, other) = (cached(test)?, train.map(cached).transpose()?.flatten());
    let uncached = asked.or(own).or(other).unwrap_or(CENTER_FRACTION);
    let (of_test, of_train) = (own.unwrap_or(uncached), other.unwrap_or(uncached));
    match train {
        Some(images) if of_test != of_train => Err(EvalError::CropsDiffer {
            train_images: images.images.to_owned(),
            train: of_train,
            test_images: test.images.to_owned(),
            test: of_test,
        }),
        _ => Ok((of_test, of_train)),
    }
}

/// The share that a set's cache uses, if the set has a cache.
fn cached(images: &LabeledImages<'_>) -> Result<Option<f32>, EvalError> {
    let Some(cache) = images.cache else { return Ok(None) };
    let fraction = cache.manifest().config.center_fraction;
    fraction.map(Some).ok_or_else(|| EvalError::NoCenterView { cache: cache.dir().to_owned() })
}
