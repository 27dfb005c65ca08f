//! Strided samples: a few evenly spaced views, to fit a projection or to estimate a size.

/// Evenly spaced views of samples with `K` views each. They are in the order of the samples, without duplicates, and
/// use every view index equally often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StridedViews {
    count: usize,
    samples: usize,
    views: usize,
}

impl StridedViews {
    /// Selects `count` of the `samples x views` views, or all views if there are fewer.
    pub fn new(count: usize, samples: usize, views: usize) -> Self {
        Self { count: count.min(samples.saturating_mul(views)), samples, views }
    }

    /// Number of selected views.
    pub fn count(self) -> usize {
        self.count
    }

    /// Sample and view index of selected view `index`, which must be below [`Self::count`].
    ///
    /// At most K consecutive indices select the same sample, each with a different view.
    pub fn get(self, index: usize) -> (usize, usize) {
        // The number of views fits in 64 bits, and the product of two such numbers in 128.
        let wide = |value: usize| u128::try_from(value).unwrap_or(u128::MAX);
        let sample = wide(index) * wide(self.samples) / wide(self.count);
        (usize::try_from(sample).unwrap_or(usize::MAX), index % self.views)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(count: usize, samples: usize, views: usize) -> Vec<(usize, usize)> {
        let strided = StridedViews::new(count, samples, views);
        (0..strided.count()).map(|index| strided.get(index)).collect()
    }

    #[test]
    fn views_are_evenly_spaced_and_view_indices_take_turns() {
        assert_eq!(selected(4, 10, 2), [(0, 0), (2, 1), (5, 0), (7, 1)]);
        assert_eq!(selected(5, 5, 1), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
        assert_eq!(selected(3, 2, 2), [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(selected(9, 2, 2), [(0, 0), (0, 1), (1, 0), (1, 1)], "there are no more");
        assert!(selected(3, 0, 2).is_empty());
    }

    #[test]
    fn views_ascend_differ_and_have_every_index_equally_often() {
        for (samples, views) in [(20, 2), (7, 3), (13, 5), (1, 4)] {
            for count in 1..=samples * views {
                let selected = selected(count, samples, views);
                let mut distinct = selected.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), count, "{count} of {samples} x {views}: {selected:?}");
                assert!(selected.is_sorted_by_key(|(sample, _)| *sample));
                let of_view = |view: usize| selected.iter().filter(|it| it.1 == view).count();
                let counts: Vec<usize> = (0..views).map(of_view).collect();
                assert!(counts.iter().all(|of| of.abs_diff(counts[0]) <= 1), "{counts:?}");
                let per_sample = |sample: usize| selected.iter().filter(|it| it.0 == sample).count();
                let counts: Vec<usize> = (0..samples).map(per_sample).collect();
                assert!(counts.iter().all(|of| of.abs_diff(counts[0]) <= 1), "{counts:?}");
            }
        }
    }

    #[test]
    fn no_product_overflows() {
        let strided = StridedViews::new(usize::MAX - 1, usize::MAX, 1);
        assert_eq!(strided.get(usize::MAX - 2), (usize::MAX - 2, 0));
    }
}
