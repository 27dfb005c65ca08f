//! The crop at which images are shown: the same for two sets that are compared.

use lgd_data::view::CENTER_FRACTION;

use super::EvalError;
use super::LabeledImages;

/// The shares of the short side that are shown of the test and of the training images: that of the set's cache; without a cache `asked`, else
/// that of the other set's cache, else [`CENTER_FRACTION`].
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

/// The share of a set's cache, if it has one.
fn cached(images: &LabeledImages<'_>) -> Result<Option<f32>, EvalError> {
    let Some(cache) = images.cache else { return Ok(None) };
    let fraction = cache.manifest().config.center_fraction;
    fraction.map(Some).ok_or_else(|| EvalError::NoCenterView { cache: cache.dir().to_owned() })
}
