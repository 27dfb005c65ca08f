//! Converts RGB8 to the floats that a network takes: (value / 255 - mean) / std per channel.

use serde::{Deserialize, Serialize};

use super::RenderError;
use crate::image::RgbImage;

/// Means and standard deviations of the R, G and B channels, for values in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// Means, which are subtracted.
    pub mean: [f32; 3],
    /// Standard deviations, which divide the difference.
    pub std: [f32; 3],
}

impl Normalization {
    /// The normalization of CLIP (docs/methods.md section 1).
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_55, 0.261_302_6, 0.275_777_1],
    };
    /// torchvision's normalization for ImageNet.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// Computes the 256 possible values of each channel, in torchvision's order of operations (`ToTensor`,
    /// `Normalize`).
    pub fn table(&self) -> NormalizationTable {
        let mut tables = [[0.0; 256]; 3];
        for (channel, table) in tables.iter_mut().enumerate() {
            for (level, entry) in (0..=u8::MAX).zip(table.iter_mut()) {
                *entry = (f32::from(level) / 255.0 - self.mean[channel]) / self.std[channel];
            }
        }
        NormalizationTable(tables)
    }
}

/// A [`Normalization`] as a table of all 256 levels. A lookup is faster than two divisions and exact, unlike
/// multiplication by the reciprocal.
#[derive(Debug, Clone, PartialEq)]
pub struct NormalizationTable([[f32; 256]; 3]);

/// Memory order of the values of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelLayout {
    /// [3, height, width], as ONNX encoders take it.
    Nchw,
    /// [height, width, 3], as the students take it.
    Nhwc,
}

impl NormalizationTable {
    /// Writes the normalized `pixels` (RGB8, a whole number of pixels) to `out`, which must have the same length. The
    /// result is bit-identical to that of torchvision's `ToTensor` and `Normalize`.
    ///
    /// # Errors
    /// [`RenderError::Length`] if the lengths differ.
    pub fn apply(&self, pixels: &[u8], layout: PixelLayout, out: &mut [f32]) -> Result<(), RenderError> {
        if out.len() != pixels.len() {
            return Err(RenderError::Length { expected: pixels.len(), got: out.len() });
        }
        let [red, green, blue] = &self.0;
        let (pixels, _) = pixels.as_chunks::<3>();
        match layout {
            PixelLayout::Nhwc => {
                let (out, _) = out.as_chunks_mut::<3>();
                for (&[r, g, b], out) in pixels.iter().zip(out) {
                    *out = [red[usize::from(r)], green[usize::from(g)], blue[usize::from(b)]];
                }
            }
            PixelLayout::Nchw => {
                let (reds, rest) = out.split_at_mut(pixels.len());
                let (greens, blues) = rest.split_at_mut(pixels.len());
                let planes = reds.iter_mut().zip(greens).zip(blues);
                for (&[r, g, b], ((out_r, out_g), out_b)) in pixels.iter().zip(planes) {
                    *out_r = red[usize::from(r)];
                    *out_g = green[usize::from(g)];
                    *out_b = blue[usize::from(b)];
                }
            }
        }
        Ok(())
    }
}

/// Writes one normalized image to `out`, which must hold exactly 3 x width x height numbers. To normalize many images
/// with one table, use [`NormalizationTable::apply`].
///
/// # Errors
/// [`RenderError::Length`] if the length of `out` is wrong.
pub fn normalize_into(
    image: &RgbImage,
    normalization: &Normalization,
    layout: PixelLayout,
    out: &mut [f32],
) -> Result<(), RenderError> {
    normalization.table().apply(image.pixels(), layout, out)
}
