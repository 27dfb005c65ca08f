//! The center crop of evaluation images. Two sets that are compared use the same crop.

use lgd_data::view::CenterCrop;

use super::{EvalError, EvalInputs, LabeledImages};

/// Center crops of the test and of the training images. A set with a cache uses its cache's crop. A set without one uses
/// that of the other set's cache, else that of the run's cache, else [`CenterCrop::default`], with the fraction `asked`
/// if there is one.
///
/// # Errors
/// [`EvalError::NoCenterView`] if a cache has no center view; [`EvalError::CropsDiffer`] if the two crops differ.
pub(super) fn center_crops(
    inputs: &EvalInputs<'_>,
    train: Option<&LabeledImages<'_>>,
    asked: Option<f32>,
) -> Result<(CenterCrop, CenterCrop), EvalError> {
    let test = &inputs.test;
    let (own, other) = (cached(test)?, train.map(cached).transpose()?.flatten());
    let known = own.or(other).or(inputs.run.manifest().center).unwrap_or_default();
    let uncached = CenterCrop { fraction: asked.unwrap_or(known.fraction), ..known };
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

/// The crop of a set's cache, if the set has a cache.
fn cached(images: &LabeledImages<'_>) -> Result<Option<CenterCrop>, EvalError> {
    let Some(cache) = images.cache else { return Ok(None) };
    let crop = cache.manifest().config.center;
    crop.map(Some).ok_or_else(|| EvalError::NoCenterView { cache: cache.dir().to_owned() })
}
