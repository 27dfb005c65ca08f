//! Some views of many that stand for all: what a projection is fitted to, what a size is guessed from.

/// Views picked evenly from samples of `K` views each: in the order of the samples, none twice, every view index as often as the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewSpread {
    count: usize,
    samples: usize,
    views: usize,
}

impl ViewSpread {
    /// `count` views of `samples` samples with `views` each, or all where there are no more.
    pub fn new(count: usize, samples: usize, views: usize) -> Self {
        Self { count: count.min(samples.saturating_mul(views)), samples, views }
    }

    /// How many views are picked.
    pub fn count(self) -> usize {
        self.count
    }

    /// Sample and view of pick `index`, which is below [`Self::count`].
    ///
    /// A sample gets at most K picks, one after the other, so that their views differ.
    pub fn pick(self, index: usize) -> (usize, usize) {
        // Every number of views fits into 64 bits, and a product of two into 128.
        let wide = |value: usize| u128::try_from(value).unwrap_or(u128::MAX);
        let sample = wide(index) * wide(self.samples) / wide(self.count);
        (usize::try_from(sample).unwrap_or(usize::MAX), index % self.views)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(count: usize, samples: usize, views: usize) -> Vec<(usize, usize)> {
        let spread = ViewSpread::new(count, samples, views);
        (0..spread.count()).map(|index| spread.pick(index)).collect()
    }

    #[test]
    fn picks_are_spread_over_the_samples_and_views_take_turns() {
        assert_eq!(picks(4, 10, 2), [(0, 0), (2, 1), (5, 0), (7, 1)]);
        assert_eq!(picks(5, 5, 1), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
        assert_eq!(picks(3, 2, 2), [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(picks(9, 2, 2), [(0, 0), (0, 1), (1, 0), (1, 1)], "there are no more");
        assert!(picks(3, 0, 2).is_empty());
    }

    #[test]
    fn picks_ascend_differ_and_take_every_view_as_often() {
        for (samples, views) in [(20, 2), (7, 3), (13, 5), (1, 4)] {
            for count in 1..=samples * views {
                let picks = picks(count, samples, views);
                let mut distinct = picks.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), count, "{count} of {samples} x {views}: {picks:?}");
                assert!(picks.is_sorted_by_key(|(sample, _)| *sample));
                let of_view = |view: usize| picks.iter().filter(|pick| pick.1 == view).count();
                let counts: Vec<usize> = (0..views).map(of_view).collect();
                assert!(counts.iter().all(|of| of.abs_diff(counts[0]) <= 1), "{counts:?}");
                let per_sample = |sample: usize| picks.iter().filter(|pick| pick.0 == sample).count();
                let counts: Vec<usize> = (0..samples).map(per_sample).collect();
                assert!(counts.iter().all(|of| of.abs_diff(counts[0]) <= 1), "{counts:?}");
            }
        }
    }

    #[test]
    fn no_product_overflows() {
        let spread = ViewSpread::new(usize::MAX - 1, usize::MAX, 1);
        assert_eq!(spread.pick(usize::MAX - 2), (usize::MAX - 2, 0));
    }
}
