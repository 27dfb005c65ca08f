//! Centering: a bank can subtract the mean of its cache's embeddings before it computes similarities.
//!
//! Embeddings of one encoder share a direction, which says nothing about their content and makes all similarities alike. Centering
//! removes it: `e' = (e - mean) / |e - mean|`.

use serde::{Deserialize, Serialize};

use crate::manifest::ContentHash;

/// Norm below which nothing is left of a unit vector: f16 rounding alone leaves more.
const NOTHING: f64 = 1e-6;

/// The embeddings that are centered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CenteredSide {
    /// Image embeddings.
    Image,
    /// Embeddings of prompts and captions.
    Text,
    /// Both.
    Both,
}

/// How a bank was centered, in its manifest and in those of the runs that learn from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CenterRecord {
    /// The embeddings that were centered.
    pub side: CenteredSide,
    /// BLAKE3 of the mean, f32 little-endian.
    pub mean: ContentHash,
}

/// The mean that a bank subtracts, and from which embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Center {
    side: CenteredSide,
    mean: Vec<f32>,
}

impl Center {
    /// Subtracts `mean`, `[D]`, from the embeddings of `side`.
    pub fn new(side: CenteredSide, mean: Vec<f32>) -> Self {
        Self { side, mean }
    }

    /// The mean, `[D]`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The record for a manifest.
    pub fn record(&self) -> CenterRecord {
        let bytes: Vec<u8> = self.mean.iter().flat_map(|value| value.to_le_bytes()).collect();
        CenterRecord { side: self.side, mean: ContentHash::of(&bytes) }
    }

    /// Centers image embeddings in place, `[n, D]`, if this center is for images.
    ///
    /// # Errors
    /// The first row of which nothing is left, because it equals the mean.
    pub fn images(&self, rows: &mut [f32]) -> Result<(), usize> {
        if self.side == CenteredSide::Text { Ok(()) } else { self.subtract(rows) }
    }

    /// Centers embeddings of prompts or captions in place, `[n, D]`, if this center is for texts.
    ///
    /// # Errors
    /// The first row of which nothing is left, because it equals the mean.
    pub fn texts(&self, rows: &mut [f32]) -> Result<(), usize> {
        if self.side == CenteredSide::Image { Ok(()) } else { self.subtract(rows) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
    fn subtract(&self, rows: &mut [f32]) -> Result<(), usize> {
        for (number, row) in rows.chunks_exact_mut(self.mean.len()).enumerate() {
            row.iter_mut().zip(&self.mean).for_each(|(value, mean)| *value -= mean);
            let norm = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
            if norm < NOTHING {
                return Err(number);
            }
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [f32; 4] = [1.0, 0.0, 0.6, 0.8];

    #[test]
    fn a_centered_row_is_the_unit_vector_from_the_mean_to_it() {
        let center = Center::new(CenteredSide::Both, vec![0.6, 0.0]);
        let (mut images, mut texts) = (ROWS, ROWS);
        center.images(&mut images).unwrap();
        center.texts(&mut texts).unwrap();
        assert_eq!((images, texts), ([1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]));
    }

    #[test]
    fn only_the_chosen_side_is_centered() {
        for (side, image, text) in [(CenteredSide::Image, true, false), (CenteredSide::Text, false, true)] {
            let center = Center::new(side, vec![0.6, 0.0]);
            let (mut images, mut texts) = (ROWS, ROWS);
            center.images(&mut images).unwrap();
            center.texts(&mut texts).unwrap();
            assert_eq!((images != ROWS, texts != ROWS), (image, text), "{side:?}");
        }
    }

    #[test]
    fn a_row_that_equals_the_mean_is_named() {
        let center = Center::new(CenteredSide::Both, vec![0.6, 0.8]);
        assert_eq!(center.images(&mut ROWS.clone()), Err(1));
    }
}
