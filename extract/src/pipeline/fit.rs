//! Fitting the projection of the tokens, before the first shard is made.

use lgd_data::cache::TokenRecord;
use lgd_data::job::Job;
use lgd_data::projection::{MomentSums, Projection};
use rayon::prelude::*;

use super::prepare::Preparer;
use crate::encoder::ImageEncoder;
use crate::error::ExtractError;

/// Fits the projection that `record` asks for to the tokens of views spread evenly over the listing, which has `views` of each
/// sample. Views that cannot be used are left out. `job` counts views.
///
/// # Errors
/// [`ExtractError::Projection`] where nothing can be fitted; [`ExtractError::Interrupted`]; [`ExtractError::Inference`].
pub(super) fn fit(
    encoder: &mut ImageEncoder,
    preparer: &Preparer<'_>,
    record: &TokenRecord,
    views: u16,
    job: &Job,
) -> Result<Projection, ExtractError> {
    let views = usize::from(views);
    let total = preparer.source().samples().len() * views;
    let count = record.fit_views.unwrap_or(0).min(total);
    job.begin(u64::try_from(count).unwrap_or(u64::MAX));
    let picks: Vec<usize> = (0..count).map(|pick| evenly(pick, count, total)).collect();
    let mut sums = MomentSums::new(record.teacher_dim);
    let mut pixels = encoder.new_batch();
    for picks in picks.chunks(encoder.batch()) {
        if job.interrupted() {
            return Err(ExtractError::Interrupted);
        }
        let shown: Vec<_> =
            picks.par_iter().filter_map(|pick| preparer.single(pick / views, pick % views)).collect();
        for (row, image) in shown.iter().enumerate() {
            pixels.copy_from(row * preparer.image_len(), image, 0, preparer.image_len());
        }
        pixels.clear_from(shown.len() * preparer.image_len());
        let encoded = encoder.encode_views(&pixels, shown.len())?;
        if let Some(tokens) = &encoded.tokens {
            let usable = (0..shown.len()).filter(|&row| tokens.usable(row));
            sums.add(&usable.flat_map(|row| tokens.row(row)).copied().collect::<Vec<_>>());
        }
        job.advance(u64::try_from(picks.len()).unwrap_or(u64::MAX));
    }
    Projection::fit(&sums, record.dim).map_err(|source| ExtractError::Projection { views: count, source })
}

/// The `pick`-th of `count` numbers that are spread evenly over `0..total`.
fn evenly(pick: usize, count: usize, total: usize) -> usize {
    // A product of two numbers of views fits into 128 bits.
    let place = |value: usize| u128::try_from(value).unwrap_or(u128::MAX);
    usize::try_from(place(pick) * place(total) / place(count)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::evenly;

    #[test]
    fn picks_are_spread_over_everything_and_none_comes_twice() {
        assert_eq!((0..4).map(|pick| evenly(pick, 4, 10)).collect::<Vec<_>>(), [0, 2, 5, 7]);
        assert_eq!((0..5).map(|pick| evenly(pick, 5, 5)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(evenly(usize::MAX - 2, usize::MAX - 1, usize::MAX), usize::MAX - 2);
    }
}
