//! Samples of a TIFF, unpacked to one byte each.

use tiff::decoder::DecodingResult;

use super::super::DecodeError;
use super::super::color::{level_of_16, to_level};

/// How the samples of an image are stored.
pub(super) struct Layout {
    pub width: u32,
    pub height: u32,
    /// Samples of a pixel.
    pub channels: usize,
    /// Bits of a sample.
    pub bits: usize,
    /// Whether all samples of one channel come first.
    pub planar: bool,
    /// Whether the first sample is in the lowest bits of a byte.
    pub inverted_bits: bool,
}

/// Samples of an image, 0 to 255 each (indices, if it has a palette).
pub(super) struct Levels {
    levels: Vec<u8>,
    pixels: usize,
    channels: usize,
    planar: bool,
}

impl Levels {
    /// Number of pixels.
    pub(super) fn pixels(&self) -> usize {
        self.pixels
    }

    /// The sample of a channel.
    pub(super) fn get(&self, pixel: usize, channel: usize) -> u8 {
        let at = if self.planar { channel * self.pixels + pixel } else { pixel * self.channels + channel };
        self.levels[at]
    }
}

/// Converts unpacked samples to levels, or keeps them if they are indices.
///
/// # Errors
/// [`DecodeError::Unsupported`] for integers of more than 16 bits or with a sign, which state no white.
pub(super) fn levels(samples: DecodingResult, layout: &Layout, indices: bool) -> Result<Levels, DecodeError> {
    let levels = match samples {
        DecodingResult::U8(mut bytes) => {
            if layout.inverted_bits {
                bytes.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
            }
            match layout.bits {
                8 => bytes,
                1 | 2 | 4 => unpack(&bytes, layout, indices),
                bits => return Err(unsupported(&format!("{bits} bits"))),
            }
        }
        DecodingResult::U16(values) if layout.bits == 16 && !indices && !layout.inverted_bits => {
            values.into_iter().map(level_of_16).collect()
        }
        DecodingResult::F16(values) => {
            values.into_iter().map(|value| to_level(value.to_f32() * 255.0)).collect()
        }
        DecodingResult::F32(values) => values.into_iter().map(|value| to_level(value * 255.0)).collect(),
        #[expect(clippy::cast_possible_truncation, reason = "only the nearest of 256 levels is needed")]
        DecodingResult::F64(values) => {
            values.into_iter().map(|value| to_level(value as f32 * 255.0)).collect()
        }
        _ => return Err(unsupported(&format!("{} bits, signed or wider than 16", layout.bits))),
    };
    let (width, height) = (usize::try_from(layout.width), usize::try_from(layout.height));
    let pixels = width.unwrap_or(usize::MAX).saturating_mul(height.unwrap_or(usize::MAX));
    if levels.len() < pixels.saturating_mul(layout.channels) {
        return Err(DecodeError::Truncated);
    }
    Ok(Levels { levels, pixels, channels: layout.channels, planar: layout.planar })
}

fn unsupported(what: &str) -> DecodeError {
    DecodeError::unsupported(format!("TIFF with integer samples of {what}"))
}

/// Unpacks samples of 1, 2 or 4 bits. Each row, or each row of a plane, starts at a byte.
fn unpack(bytes: &[u8], layout: &Layout, indices: bool) -> Vec<u8> {
    let width = usize::try_from(layout.width).unwrap_or(usize::MAX);
    let row = if layout.planar { width } else { width * layout.channels };
    let (bits, per_byte) = (layout.bits, 8 / layout.bits);
    let largest = (1_u16 << bits) - 1;
    let level = |value: u16| if indices { value } else { value * 255 / largest };
    bytes
        .chunks_exact(row.div_ceil(per_byte))
        .flat_map(|packed| (0..row).map(move |at| (packed[at / per_byte], at % per_byte)))
        .map(|(byte, place)| level(u16::from(byte) >> (8 - bits * (place + 1)) & largest))
        .map(|level| u8::try_from(level).unwrap_or(255))
        .collect()
}
