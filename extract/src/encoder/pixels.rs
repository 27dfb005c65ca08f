//! Normalized pixels in the element type of the image model's input.

use half::f16;
use half::slice::HalfFloatSliceExt;
use lgd_data::image::RgbImage;
use lgd_data::render::{Normalization, PixelLayout, RenderError, normalize_into};

/// Element type of an image model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Bytes, 0 to 255, for a model that normalizes by itself.
    U8,
}

/// Normalized pixels of consecutive images.
#[derive(Clone, Debug)]
pub enum PixelBuffer {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<f16>),
    /// Bytes, which are not normalized.
    U8(Vec<u8>),
}

impl PixelBuffer {
    /// `len` zeros.
    pub fn zeros(pixel_type: PixelType, len: usize) -> Self {
        match pixel_type {
            PixelType::F32 => Self::F32(vec![0.0; len]),
            PixelType::F16 => Self::F16(vec![f16::ZERO; len]),
            PixelType::U8 => Self::U8(vec![0; len]),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::U8(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn pixel_type(&self) -> PixelType {
        match self {
            Self::F32(_) => PixelType::F32,
            Self::F16(_) => PixelType::F16,
            Self::U8(_) => PixelType::U8,
        }
    }

    /// Normalizes an image into the elements that begin at `start`; bytes are copied as they are. `scratch` avoids an allocation for f16 elements.
    ///
    /// # Errors
    /// [`RenderError::Length`] if the buffer is too short for the image.
    pub fn normalize(
        &mut self,
        start: usize,
        image: &RgbImage,
        normalization: &Normalization,
        layout: PixelLayout,
        scratch: &mut Vec<f32>,
    ) -> Result<(), RenderError> {
        let expected = image.pixels().len();
        let got = self.len().saturating_sub(start);
        if got < expected {
            return Err(RenderError::Length { expected, got });
        }
        let place = start..start + expected;
        match self {
            Self::F32(values) => normalize_into(image, normalization, layout, &mut values[place]),
            Self::F16(values) => {
                scratch.resize(expected, 0.0);
                normalize_into(image, normalization, layout, scratch)?;
                values[place].convert_from_f32_slice(scratch);
                Ok(())
            }
            Self::U8(values) => {
                copy_bytes(image.pixels(), layout, &mut values[place]);
                Ok(())
            }
        }
    }

    /// Copies `len` elements from offset `from` of `source` to offset `start`, and converts them if the types differ.
    ///
    /// # Panics
    /// If either range is out of bounds.
    pub fn copy_from(&mut self, start: usize, source: &Self, from: usize, len: usize) {
        let (to, from) = (start..start + len, from..from + len);
        match (self, source) {
            (Self::F32(to_values), Self::F32(values)) => to_values[to].copy_from_slice(&values[from]),
            (Self::F16(to_values), Self::F16(values)) => to_values[to].copy_from_slice(&values[from]),
            (Self::U8(to_values), Self::U8(values)) => to_values[to].copy_from_slice(&values[from]),
            (Self::F16(to_values), Self::F32(values)) => to_values[to].convert_from_f32_slice(&values[from]),
            (Self::F32(to_values), Self::F16(values)) => {
                values[from].convert_to_f32_slice(&mut to_values[to])
            }
            (Self::U8(to_values), Self::F32(values)) => {
                convert(&mut to_values[to], &values[from], |value| value);
            }
            (Self::U8(to_values), Self::F16(values)) => {
                convert(&mut to_values[to], &values[from], f16::to_f32);
            }
            (Self::F32(to_values), Self::U8(values)) => {
                to_values[to].iter_mut().zip(&values[from]).for_each(|(to, value)| *to = f32::from(*value));
            }
            (Self::F16(to_values), Self::U8(values)) => {
                to_values[to].iter_mut().zip(&values[from]).for_each(|(to, value)| *to = f16::from(*value));
            }
        }
    }

    /// Sets all elements from `start` on to zero.
    ///
    /// # Panics
    /// If `start` is out of bounds.
    pub fn clear_from(&mut self, start: usize) {
        match self {
            Self::F32(values) => values[start..].fill(0.0),
            Self::F16(values) => values[start..].fill(f16::ZERO),
            Self::U8(values) => values[start..].fill(0),
        }
    }
}

/// Rounds floats to bytes.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and clamped to 0..255")]
fn convert<T: Copy>(bytes: &mut [u8], values: &[T], wide: impl Fn(T) -> f32) {
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = wide(*value).round().clamp(0.0, 255.0) as u8;
    }
}

/// Copies RGB8 pixels in the given order of axes.
fn copy_bytes(pixels: &[u8], layout: PixelLayout, out: &mut [u8]) {
    match layout {
        PixelLayout::Nhwc => out.copy_from_slice(pixels),
        PixelLayout::Nchw => {
            let plane = pixels.len() / 3;
            for (position, pixel) in pixels.chunks_exact(3).enumerate() {
                for (channel, value) in pixel.iter().enumerate() {
                    out[channel * plane + position] = *value;
                }
            }
        }
    }
}
