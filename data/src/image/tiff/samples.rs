//! Samples of a TIFF, unpacked to one byte each.

use std::io::Cursor;

use tiff::decoder::{ChunkType, Decoder, DecodingResult};
use tiff::tags::Tag;

use super::super::color::{level_of_16, to_level};
use super::super::{DecodeError, jpeg};
use super::explain;

/// How the samples of an image are stored.
pub(super) struct Layout {
    pub width: usize,
    pub height: usize,
    /// Samples of a pixel.
    pub channels: usize,
    /// Bits of a sample.
    pub bits: usize,
    /// Whether each channel has strips or tiles of its own.
    pub planar: bool,
    /// Whether the first sample is in the lowest bits of a byte.
    pub inverted_bits: bool,
    /// Whether strips or tiles are JPEG files.
    pub jpeg: bool,
    /// Whether the samples are indices of colors.
    pub indices: bool,
    /// Largest size of a strip or tile, in pixels.
    pub max_pixels: usize,
}

/// Samples of an image, 0 to 255 each (indices, if it has a palette): [height, width, channels].
pub(super) struct Levels {
    levels: Vec<u8>,
    channels: usize,
}

/// A strip or tile.
struct Chunk {
    /// [rows, columns, channels].
    levels: Vec<u8>,
    columns: usize,
    channels: usize,
}

impl Levels {
    /// Samples of each pixel.
    pub(super) fn pixels(&self) -> impl Iterator<Item = &[u8]> {
        self.levels.chunks_exact(self.channels)
    }
}

/// Reads all strips or tiles.
///
/// # Errors
/// [`DecodeError::Unsupported`] for integers of more than 16 bits or with a sign, which state no white; others if the
/// data are damaged.
pub(super) fn read(decoder: &mut Decoder<Cursor<&[u8]>>, layout: &Layout) -> Result<Levels, DecodeError> {
    let (chunk_width, chunk_height) = decoder.chunk_dimensions();
    let (chunk_width, chunk_height) = (to_usize(chunk_width), to_usize(chunk_height));
    let (across, down) = (layout.width.div_ceil(chunk_width), layout.height.div_ceil(chunk_height));
    let planes = if layout.planar { layout.channels } else { 1 };
    let mut levels = vec![0; layout.width * layout.height * layout.channels];
    let jpegs = layout.jpeg.then(|| JpegChunks::find(decoder)).transpose()?;
    // The last strip may be shorter, tiles are whole.
    let tiled = decoder.get_chunk_type() == ChunkType::Tile;
    let largest = (chunk_width, if tiled { chunk_height } else { chunk_height.min(layout.height) });
    if largest.0.saturating_mul(largest.1) > layout.max_pixels {
        return Err(DecodeError::corrupt(format!("tiles of {chunk_width} x {chunk_height} pixels")));
    }
    for index in 0..across * down * planes {
        let chunk = match &jpegs {
            Some(jpegs) => {
                jpegs.decode(decoder.inner().get_ref(), index, largest, layout.channels / planes)?
            }
            None => chunk(decoder, index, layout)?,
        };
        let (plane, place) = (index / (across * down), index % (across * down));
        let (left, top) = (place % across * chunk_width, place / across * chunk_height);
        let columns = (layout.width - left).min(chunk_width);
        let rows = (layout.height - top).min(chunk_height);
        let row_samples = chunk.columns * chunk.channels;
        if chunk.columns < columns || chunk.levels.len() < rows * row_samples {
            return Err(DecodeError::Truncated);
        }
        for (y, row) in chunk.levels.chunks_exact(row_samples).take(rows).enumerate() {
            let start = ((top + y) * layout.width + left) * layout.channels;
            let targets = levels[start..start + columns * layout.channels].chunks_exact_mut(layout.channels);
            for (target, pixel) in targets.zip(row.chunks_exact(chunk.channels)) {
                target[plane..plane + chunk.channels].copy_from_slice(pixel);
            }
        }
    }
    Ok(Levels { levels, channels: layout.channels })
}

fn chunk(decoder: &mut Decoder<Cursor<&[u8]>>, index: usize, layout: &Layout) -> Result<Chunk, DecodeError> {
    let index = u32::try_from(index).map_err(DecodeError::corrupt)?;
    let columns = to_usize(decoder.chunk_data_dimensions(index).0);
    let channels = if layout.planar { 1 } else { layout.channels };
    let samples = decoder.read_chunk(index).map_err(explain)?;
    Ok(Chunk { levels: to_levels(samples, layout, columns * channels)?, columns, channels })
}

/// JPEG files in a TIFF.
struct JpegChunks {
    starts: Vec<u64>,
    lengths: Vec<u64>,
    /// Tables that all of them share, as a JPEG file without an image.
    tables: Option<Vec<u8>>,
}

impl JpegChunks {
    fn find(decoder: &mut Decoder<Cursor<&[u8]>>) -> Result<Self, DecodeError> {
        let mut numbers = |strips, tiles| -> Result<Vec<u64>, DecodeError> {
            let of_strips = decoder.find_tag_unsigned_vec(strips).map_err(explain)?;
            let of_tiles = decoder.find_tag_unsigned_vec(tiles).map_err(explain)?;
            of_strips.or(of_tiles).ok_or(DecodeError::Truncated)
        };
        let starts = numbers(Tag::StripOffsets, Tag::TileOffsets)?;
        let lengths = numbers(Tag::StripByteCounts, Tag::TileByteCounts)?;
        let tables = decoder.find_tag(Tag::JPEGTables).map_err(explain)?;
        let tables = tables.map(|value| value.into_u8_vec()).transpose().map_err(explain)?;
        Ok(Self { starts, lengths, tables })
    }

    /// Decodes the strip or tile `index` of at most the given size.
    fn decode(
        &self,
        file: &[u8],
        index: usize,
        size: (usize, usize),
        channels: usize,
    ) -> Result<Chunk, DecodeError> {
        let at = |numbers: &[u64]| numbers.get(index).and_then(|&number| usize::try_from(number).ok());
        let (start, length) = at(&self.starts).zip(at(&self.lengths)).ok_or(DecodeError::Truncated)?;
        let data = file.get(start..start.saturating_add(length)).ok_or(DecodeError::Truncated)?;
        let (columns, levels) = jpeg::decode_components(self.tables.as_deref(), data, channels, size)?;
        Ok(Chunk { levels, columns, channels })
    }
}

/// Converts unpacked samples to levels, or keeps them if they are indices. `row` is the number of samples in a row.
fn to_levels(samples: DecodingResult, layout: &Layout, row: usize) -> Result<Vec<u8>, DecodeError> {
    Ok(match samples {
        DecodingResult::U8(mut bytes) => {
            if layout.inverted_bits {
                bytes.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
            }
            match layout.bits {
                8 => bytes,
                1 | 2 | 4 => unpack(&bytes, layout, row),
                bits => return Err(DecodeError::unsupported(format!("TIFF with samples of {bits} bits"))),
            }
        }
        DecodingResult::U16(_) if layout.indices || layout.inverted_bits => {
            return Err(DecodeError::unsupported("TIFF with palette or inverted bit order and 16 bits"));
        }
        DecodingResult::U16(values) => values.into_iter().map(level_of_16).collect(),
        DecodingResult::F16(values) => of_floats(values.into_iter().map(|value| value.to_f32()))?,
        DecodingResult::F32(values) => of_floats(values.into_iter())?,
        #[expect(clippy::cast_possible_truncation, reason = "only the nearest of 256 levels is needed")]
        DecodingResult::F64(values) => of_floats(values.into_iter().map(|value| value as f32))?,
        _ => {
            let what = format!("TIFF with integers of {} bits that are signed or wider than 16", layout.bits);
            return Err(DecodeError::Unsupported(what));
        }
    })
}

/// Levels of floats of 0 to 1. Values slightly beyond, as resampling leaves them, are clamped, and NaN is 0. Values far
/// beyond are of another scale, which a TIFF does not state.
fn of_floats(values: impl Iterator<Item = f32>) -> Result<Vec<u8>, DecodeError> {
    values
        .map(|value| {
            if !value.is_nan() && !(-1.0..=2.0).contains(&value) {
                let what =
                    format!("TIFF with floats outside 0 to 1, such as {value}, whose white is unknown");
                return Err(DecodeError::Unsupported(what));
            }
            Ok(to_level(value * 255.0))
        })
        .collect()
}

/// Unpacks samples of 1, 2 or 4 bits. Each row starts at a byte.
fn unpack(bytes: &[u8], layout: &Layout, row: usize) -> Vec<u8> {
    let (bits, per_byte) = (layout.bits, 8 / layout.bits);
    let largest = u8::MAX >> (8 - bits);
    let scale = if layout.indices { 1 } else { u8::MAX / largest };
    bytes
        .chunks_exact(row.div_ceil(per_byte))
        .flat_map(|packed| (0..row).map(move |at| (packed[at / per_byte], at % per_byte)))
        .map(|(byte, place)| (byte >> (8 - bits * (place + 1)) & largest) * scale)
        .collect()
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
