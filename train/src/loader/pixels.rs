//! One view of one image: read, decode, check, render.

use lgd_data::cache::ImageStamp;
use lgd_data::image::{DecodeError, DecodeLimits, RgbImage, decode};
use lgd_data::render::{Normalization, PixelLayout, RenderError, Resample, render, render_into};
use lgd_data::source::{ImageSource, SourceError};
use lgd_data::view::View;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Size, filter and normalization of a student's input. Filter and normalization are the teacher's, so both models see
/// the same pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputFormat {
    /// Side of the square input, pixels.
    pub size: u32,
    /// Interpolation filter.
    pub resample: Resample,
    /// Per-channel mean and standard deviation.
    pub normalization: Normalization,
}

impl InputFormat {
    /// Numbers per image, S x S x 3.
    pub fn numbers(&self) -> usize {
        let side = usize::try_from(self.size).unwrap_or(usize::MAX);
        side.saturating_mul(side).saturating_mul(3)
    }

    /// Normalizes rendered images into one NHWC block, `[B, S, S, 3]`, on all threads.
    ///
    /// # Errors
    /// [`RenderError::Length`] if an image is not S x S.
    pub fn normalize(&self, images: &[RgbImage]) -> Result<Vec<f32>, RenderError> {
        let mut out = vec![0.0; images.len() * self.numbers()];
        let table = self.normalization.table();
        let each = out.par_chunks_exact_mut(self.numbers().max(1)).zip(images);
        each.try_for_each(|(out, image)| table.apply(image.pixels(), PixelLayout::Nhwc, out))?;
        Ok(out)
    }
}

/// Why a view of an image cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PixelError {
    /// The source cannot deliver the bytes.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The bytes are not a usable image.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The view does not fit the image.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The image differs from the one that the teacher saw.
    #[error("the image changed since extraction")]
    Changed {
        /// The image in the cache.
        expected: ImageStamp,
        /// The image now.
        got: ImageStamp,
    },
}

impl PixelError {
    /// A short stable code, as in a cache's `rejects.jsonl`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Source(error) => error.reason(),
            Self::Decode(error) => error.reason(),
            Self::Render(_) => "render",
            Self::Changed { .. } => "changed",
        }
    }
}

/// Renders `view` of image `index` of `source`. `expected`: the image that the teacher saw; `None` skips the
/// comparison.
///
/// # Errors
/// [`PixelError`], without the image's key, which the caller knows.
pub fn load_view(
    source: &dyn ImageSource,
    index: usize,
    view: &View,
    expected: Option<ImageStamp>,
    format: &InputFormat,
    limits: &DecodeLimits,
) -> Result<RgbImage, PixelError> {
    let image = load(source, index, expected, limits)?;
    Ok(render(&image, view, format.size, format.resample)?)
}

/// Like [`load_view`], but writes to `out`, RGB8 `[S, S, 3]`.
///
/// # Errors
/// Those of [`load_view`]. Also fails if `out` has another length.
pub fn load_view_into(
    source: &dyn ImageSource,
    index: usize,
    view: &View,
    expected: Option<ImageStamp>,
    format: &InputFormat,
    limits: &DecodeLimits,
    out: &mut [u8],
) -> Result<(), PixelError> {
    let image = load(source, index, expected, limits)?;
    Ok(render_into(&image, view, format.size, format.resample, out)?)
}

fn load(
    source: &dyn ImageSource,
    index: usize,
    expected: Option<ImageStamp>,
    limits: &DecodeLimits,
) -> Result<RgbImage, PixelError> {
    let bytes = source.read(index, limits.max_bytes)?;
    let image = decode(&bytes, limits)?;
    if let Some(expected) = expected {
        let got = ImageStamp::new(&bytes, image.width(), image.height());
        if expected != got {
            return Err(PixelError::Changed { expected, got });
        }
    }
    Ok(image)
}
