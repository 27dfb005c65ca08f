//! Renders (image, view, size) to the pixels that a network sees, and normalizes pixels to floats.
//!
//! One function serves the teacher during extraction and the student during training. The steps, in MoCo-v2's order:
//! crop, resize, color jitter in the stored order, lighting, gray, blur, flip. Each step follows the arithmetic of Pillow and
//! torchvision. Its module states how closely it matches, and `tests/render_goldens.rs` tests that against recorded
//! renderings.
//!
//! Everything is a pure function of its arguments in integer or IEEE arithmetic without fused operations, so every
//! thread and every machine gives the same bytes.

mod blur;
mod color;
mod lanes;
mod normalize;
mod resize;

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use normalize::{Normalization, NormalizationTable, PixelLayout, normalize_into};

use crate::image::{EncodeError, RgbImage};
use crate::view::{Jitter, JitterStep, REFERENCE_SIZE, View, ViewError};

/// Maximum output side, in pixels.
pub const MAX_SIZE: u32 = 4_096;

/// Interpolation filter. When shrinking, all filters but `Nearest` are antialiased, as in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resample {
    /// The pixel under the center.
    Nearest,
    /// Triangle filter of radius 1.
    Bilinear,
    /// Catmull-Rom filter of radius 2 (a = -0.5, as in Pillow).
    Bicubic,
    /// Windowed sinc filter of radius 3.
    Lanczos,
}

impl Resample {
    /// All filters.
    pub const ALL: [Self; 4] = [Self::Nearest, Self::Bilinear, Self::Bicubic, Self::Lanczos];

    /// Name in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        }
    }
}

impl fmt::Display for Resample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error of parsing a [`Resample`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown filter \"{0}\"\nhint: use nearest, bilinear, bicubic or lanczos")]
pub struct UnknownResample(String);

impl FromStr for Resample {
    type Err = UnknownResample;

    fn from_str(name: &str) -> Result<Self, UnknownResample> {
        let found = Self::ALL.into_iter().find(|filter| filter.name() == name);
        found.ok_or_else(|| UnknownResample(name.to_owned()))
    }
}

/// Why a view cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The view does not fit the image.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The output side is 0 or above [`MAX_SIZE`].
    #[error("expected an output size from 1 to {MAX_SIZE} pixels, got {0}")]
    Size(u32),
    /// The output slice has the wrong length.
    #[error("expected an output slice of {expected} numbers, got {got}")]
    Length {
        /// Expected length, 3 x width x height.
        expected: usize,
        /// Length of the output slice.
        got: usize,
    },
    /// The encoder failed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The resizer failed.
    #[error("resizing failed: {0}")]
    Resize(#[source] Box<dyn Error + Send + Sync>),
}

/// Renders `view` of `image` as `size` x `size` pixels.
///
/// # Errors
/// [`RenderError::View`] if the view does not fit the image (see [`View::validate`]); [`RenderError::Size`] if `size`
/// is 0 or above [`MAX_SIZE`].
pub fn render(image: &RgbImage, view: &View, size: u32, resample: Resample) -> Result<RgbImage, RenderError> {
    let mut pixels = vec![0; rendered_bytes(size)?];
    render_into(image, view, size, resample, &mut pixels)?;
    RgbImage::new(size, size, pixels).map_err(|error| RenderError::Resize(error.into()))
}

/// Like [`render`], but overwrites all of `out`, RGB8 `[size, size, 3]`.
///
/// # Errors
/// The errors of [`render`]; [`RenderError::Length`] if the length of `out` is wrong.
pub fn render_into(
    image: &RgbImage,
    view: &View,
    size: u32,
    resample: Resample,
    out: &mut [u8],
) -> Result<(), RenderError> {
    let expected = rendered_bytes(size)?;
    if out.len() != expected {
        return Err(RenderError::Length { expected, got: out.len() });
    }
    view.validate(image.width(), image.height())?;
    resize::crop_resize(image, view.crop, size, resample, out)?;
    if let Some(jitter) = &view.jitter {
        apply_jitter(out, jitter);
    }
    if let Some(shift) = view.lighting {
        color::lighting(out, shift);
    }
    if view.gray {
        color::gray(out);
    }
    let side = usize::try_from(size).unwrap_or(usize::MAX);
    if let Some(sigma) = view.blur_sigma {
        blur::gaussian(out, side, sigma * scale(size));
    }
    if view.flip {
        flip(out, side);
    }
    Ok(())
}

/// Bytes of a rendered view, size x size x 3.
///
/// # Errors
/// [`RenderError::Size`] if `size` is 0 or above [`MAX_SIZE`].
pub fn rendered_bytes(size: u32) -> Result<usize, RenderError> {
    match usize::try_from(size) {
        Ok(side) if (1..=MAX_SIZE).contains(&size) => Ok(side * side * 3),
        _ => Err(RenderError::Size(size)),
    }
}

/// size / 224. Both numbers are far below 2^24, so they are exact in f32.
fn scale(size: u32) -> f32 {
    size as f32 / REFERENCE_SIZE as f32
}

fn apply_jitter(pixels: &mut [u8], jitter: &Jitter) {
    for step in jitter.order.steps() {
        match step {
            JitterStep::Brightness => color::brightness(pixels, jitter.brightness),
            JitterStep::Contrast => color::contrast(pixels, jitter.contrast),
            JitterStep::Saturation => color::saturation(pixels, jitter.saturation),
            JitterStep::Hue => jitter.hue.into_iter().for_each(|turns| color::hue(pixels, turns)),
        }
    }
}

fn flip(pixels: &mut [u8], side: usize) {
    for row in pixels.chunks_exact_mut(side * 3) {
        let (mirrored, _) = row.as_chunks_mut::<3>();
        mirrored.reverse();
    }
}
