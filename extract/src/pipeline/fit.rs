//! Fits the projection of the tokens before the first shard is written.

use lgd_data::cache::TokenRecord;
use lgd_data::job::Job;
use lgd_data::projection::{MomentSums, Projection};
use lgd_data::strided::StridedViews;
use rayon::prelude::*;

use super::prepare::Preparer;
use crate::encoder::ImageEncoder;
use crate::error::ExtractError;

/// Fits the projection described by `record` to the tokens of a strided sample of views, out of `views` per image of
/// the listing. Unusable views are skipped. `job` counts views.
///
/// # Errors
/// [`ExtractError::Projection`] if the projection cannot be fitted; [`ExtractError::Interrupted`];
/// [`ExtractError::Inference`]; [`ExtractError::Storage`].
pub(super) fn fit(
    encoder: &mut ImageEncoder,
    preparer: &Preparer<'_>,
    record: &TokenRecord,
    views: u16,
    job: &Job,
) -> Result<Projection, ExtractError> {
    let samples = preparer.source().samples().len();
    let strided = StridedViews::new(record.fit_views.unwrap_or(0), samples, views.into());
    job.begin(u64::try_from(strided.count()).unwrap_or(u64::MAX));
    let selected: Vec<(usize, usize)> = (0..strided.count()).map(|index| strided.get(index)).collect();
    let mut sums = MomentSums::new(record.teacher_dim);
    let mut pixels = encoder.new_batch();
    for selected in selected.chunks(encoder.batch()) {
        if job.interrupted() {
            return Err(ExtractError::Interrupted);
        }
        let shown =
            selected.par_iter().filter_map(|&(sample, view)| preparer.single(sample, view).transpose());
        let shown: Vec<_> = shown.collect::<Result<_, _>>()?;
        for (row, image) in shown.iter().enumerate() {
            pixels.copy_from(row * preparer.image_len(), image, 0, preparer.image_len());
        }
        pixels.clear_from(shown.len() * preparer.image_len());
        let encoded = encoder.encode_views(&pixels, shown.len())?;
        if let Some(tokens) = &encoded.tokens {
            let usable = (0..shown.len()).filter(|&row| tokens.usable(row));
            sums.add(&usable.flat_map(|row| tokens.row(row)).copied().collect::<Vec<_>>());
        }
        job.advance(u64::try_from(selected.len()).unwrap_or(u64::MAX));
    }
    Projection::fit(&sums, record.dim)
        .map_err(|source| ExtractError::Projection { views: strided.count(), source })
}
