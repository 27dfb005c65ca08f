//! Masks: the cells that a student does not see (docs/methods.md section 3).

use lgd_kernels::geometry::{expect_eq, expect_positive};

use super::targets::expect_rows;
use crate::error::TrainError;
use crate::rng::Stream;
use crate::student::LEAST_CELLS;

/// Separates this random stream from the others with the same seed.
const PURPOSE: u64 = u64::from_le_bytes(*b"hgkdmask");

/// The visible cells of the student's coarsest grid, image after image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMask {
    /// `[B, rows, columns]`.
    visible: Vec<bool>,
    rows: usize,
    columns: usize,
}

impl BatchMask {
    /// Creates the mask `visible` `[B, rows, columns]`.
    ///
    /// # Errors
    /// If images have no cells, or the last image is incomplete.
    pub fn new(visible: Vec<bool>, (rows, columns): (usize, usize)) -> Result<Self, TrainError> {
        let cells = rows * columns;
        expect_positive("cells of a mask", cells)?;
        expect_eq("cells of whole images", visible.len() / cells * cells, visible.len())?;
        Ok(Self { visible, rows, columns })
    }

    /// Whether each cell is visible, `[B, rows, columns]`.
    pub fn visible(&self) -> &[bool] {
        &self.visible
    }

    /// Rows and columns of an image's cells.
    pub fn cells(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Number of images, B.
    pub fn images(&self) -> usize {
        self.visible.len() / (self.rows * self.columns)
    }

    /// The cells of images `start..start + len`.
    ///
    /// # Errors
    /// [`ObjectiveError::MissingRows`](super::ObjectiveError::MissingRows) if there are fewer.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self, TrainError> {
        expect_rows(self.images(), start, len)?;
        let cells = self.rows * self.columns;
        Ok(Self { visible: self.visible[start * cells..(start + len) * cells].to_vec(), ..*self })
    }

    /// Hides the share `ratio` of each image's `rows` x `columns` cells: rounded, at least one, never all. The choice
    /// depends only on (`seed`, sample, `epoch`). `samples`: the number of each image's sample in the cache. It stands
    /// for the sample's key, because a run's cache never changes.
    ///
    /// # Errors
    /// If the ratio is not a share, or images have fewer than two cells.
    pub fn draw(
        (seed, epoch): (u64, u32),
        samples: &[u64],
        (rows, columns): (usize, usize),
        ratio: f32,
    ) -> Result<Self, TrainError> {
        let cells = rows * columns;
        if cells < LEAST_CELLS {
            let value = if cells == 0 { 0.0 } else { 1.0 };
            let range = "at least 2, one visible and one hidden";
            return Err(TrainError::Setting { name: "the number of cells of a masked image", value, range });
        }
        if !(0.0..=1.0).contains(&ratio) {
            let value = ratio.into();
            return Err(TrainError::Setting { name: "the share of hidden cells", value, range: "0 to 1" });
        }
        let hidden = share(cells, ratio).clamp(1, cells - 1);
        let mut visible = vec![true; samples.len() * cells];
        for (visible, &sample) in visible.chunks_exact_mut(cells).zip(samples) {
            let order = Stream::new(&[PURPOSE, seed, sample, epoch.into()]).permutation(cells);
            order[..hidden].iter().for_each(|&cell| visible[cell] = false);
        }
        Self::new(visible, (rows, columns))
    }
}

/// The share `ratio` of `cells`, rounded.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a few cells is a small positive number"
)]
fn share(cells: usize, ratio: f32) -> usize {
    (cells as f64 * f64::from(ratio)).round() as usize
}

#[cfg(test)]
mod tests {
    use super::super::ObjectiveError;
    use super::*;

    fn draw(key: (u64, u32), samples: &[u64], cells: (usize, usize), ratio: f32) -> Vec<bool> {
        BatchMask::draw(key, samples, cells, ratio).unwrap().visible
    }

    fn hidden(visible: &[bool]) -> usize {
        visible.iter().filter(|visible| !**visible).count()
    }

    #[test]
    fn every_image_hides_exactly_its_share() {
        let samples: Vec<u64> = (0..100).collect();
        let cases = [
            ((7, 7), 0.6, 29),
            ((7, 7), 0.5, 25),
            ((2, 2), 0.6, 2),
            ((1, 2), 0.9, 1),
            ((5, 1), 0.6, 3),
            ((4, 4), 0.0, 1),
            ((4, 4), 1.0, 15),
            ((2, 3), 0.01, 1),
            ((2, 3), 0.99, 5),
        ];
        for ((rows, columns), ratio, expected) in cases {
            let visible = draw((3, 1), &samples, (rows, columns), ratio);
            assert_eq!(visible.len(), 100 * rows * columns);
            for image in visible.chunks_exact(rows * columns) {
                assert_eq!(hidden(image), expected, "{rows} x {columns} at {ratio}");
            }
        }
    }

    #[test]
    fn an_images_mask_depends_on_seed_sample_and_epoch_only() {
        let draw = |key, samples: &[u64]| draw(key, samples, (7, 7), 0.6);
        let whole = draw((3, 1), &[5, 9, 2]);
        assert_eq!(whole, draw((3, 1), &[5, 9, 2]));
        assert_eq!(whole[49..98], draw((3, 1), &[9]), "not on the other images of its batch");
        let others = [draw((4, 1), &[9]), draw((3, 2), &[9]), draw((3, 1), &[1]), draw((1, 3), &[9])];
        assert!(others.iter().all(|other| other[..] != whole[49..98]));
    }

    #[test]
    fn every_cell_is_hidden_about_as_often_and_in_no_fixed_company() {
        let samples: Vec<u64> = (0..5000).collect();
        let visible = draw((0, 0), &samples, (2, 3), 0.5);
        let (mut alone, mut together) = ([0_u32; 6], 0_u32);
        for image in visible.chunks_exact(6) {
            image.iter().zip(&mut alone).for_each(|(visible, count)| *count += u32::from(!visible));
            together += u32::from(!image[0] && !image[1]);
        }
        // Binomial(5000, 1/2) has a standard deviation of 35; two cells of six are hidden together with 3/6 2/5 = 1/5, deviation 28.
        assert!(alone.iter().all(|count| count.abs_diff(2500) < 175), "{alone:?}");
        assert!(together.abs_diff(1000) < 140, "{together}");
    }

    #[test]
    fn a_mask_is_of_whole_images() {
        let mask = BatchMask::new(vec![true, false, false, true, true, true], (1, 2)).unwrap();
        assert_eq!((mask.images(), mask.cells()), (3, (1, 2)));
        assert_eq!(mask.narrow(1, 2).unwrap().visible(), [false, true, true, true]);
        for (start, len) in [(2, 2), (4, 0), (0, 4), (usize::MAX, 2)] {
            let error = mask.narrow(start, len).unwrap_err();
            let missing = matches!(error, TrainError::Objective(ObjectiveError::MissingRows { rows: 3, .. }));
            assert!(missing, "{start} {len}: {error}");
        }
        assert!(BatchMask::new(vec![true; 5], (1, 2)).is_err(), "half an image");
        assert!(BatchMask::new(Vec::new(), (0, 2)).is_err(), "no cells");
    }

    #[test]
    fn what_cannot_be_masked_is_refused() {
        let refused = |cells, ratio| BatchMask::draw((0, 0), &[1], cells, ratio).is_err();
        assert!(refused((1, 1), 0.6) && refused((0, 7), 0.6), "too few cells");
        assert!(refused((7, 7), -0.1) && refused((7, 7), 1.1) && refused((7, 7), f32::NAN), "no share");
        assert!(!refused((7, 7), 0.6));
    }
}
