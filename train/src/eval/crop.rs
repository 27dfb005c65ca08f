//! The center crop and the filter of evaluation images. One rule holds with and without caches: the student is shown every image with
//! the crop of its run.

use lgd_data::render::Resample;
use lgd_data::view::CenterCrop;

use super::{EvalError, EvalInputs, LabeledImages};
use crate::inference::ImageModel;

/// The crop that all images are shown with: the model's; if it was not recorded, that of the test images' cache, else of
/// the training images' cache, else [`CenterCrop::default`]. `asked` replaces the fraction.
///
/// # Errors
/// [`EvalError::NoCenterView`] if a cache has no center view.
pub(super) fn center_crop(
    model: &dyn ImageModel,
    inputs: &EvalInputs<'_>,
    train: Option<&LabeledImages<'_>>,
    asked: Option<f32>,
) -> Result<CenterCrop, EvalError> {
    let (of_test, of_train) = (cached(&inputs.test)?, train.map(cached).transpose()?.flatten());
    let known = model.card().center.or(of_test).or(of_train).unwrap_or_default();
    Ok(CenterCrop { fraction: asked.unwrap_or(known.fraction), ..known })
}

/// A note if the teacher saw the images of a cache with another crop than the one that the student is shown.
pub(super) fn other_crop(images: &LabeledImages<'_>, shown: CenterCrop) -> Option<String> {
    let cache = images.cache?;
    let crop = cache.manifest().config.center.filter(|crop| *crop != shown)?;
    Some(format!(
        "{}: the teacher's figures are those of center crop {crop}; the student is shown center crop {shown}",
        cache.dir().display()
    ))
}

/// A note if the teacher saw the images of a cache through another filter than the student is shown them with.
pub(super) fn other_filter(images: &LabeledImages<'_>, shown: Resample) -> Option<String> {
    let cache = images.cache?;
    let filter = cache.manifest().config.teacher.resample;
    (filter != shown).then(|| {
        format!(
            "{}: the teacher's figures are those of the filter {filter}; the student is shown {shown}",
            cache.dir().display()
        )
    })
}

/// The crop of a set's cache, if the set has a cache.
fn cached(images: &LabeledImages<'_>) -> Result<Option<CenterCrop>, EvalError> {
    let Some(cache) = images.cache else { return Ok(None) };
    let crop = cache.manifest().config.center;
    crop.map(Some).ok_or_else(|| EvalError::NoCenterView { cache: cache.dir().to_owned() })
}
