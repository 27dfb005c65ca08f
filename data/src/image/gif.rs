//! GIF: the first frame on its background, as Pillow shows it.

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::{DecodeError, DecodeLimits, Decoded, RgbImage, admit};

/// Offset of the flags in the header, and of what follows the header.
const FLAGS: usize = 10;
const HEADER: usize = 13;
/// The flags of a global palette of 256 colors.
const GLOBAL_PALETTE: u8 = 0x87;

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    match with_palette(bytes) {
        Some(completed) => decode_frame(&completed, limits),
        None => decode_frame(bytes, limits),
    }
}

/// The file with a palette of grays if it has no global one: so Pillow shows frames that have none of their own.
fn with_palette(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    if header[FLAGS] & 0x80 != 0 {
        return None;
    }
    let grays: Vec<u8> = (0..=u8::MAX).flat_map(|level| [level; 3]).collect();
    let mut completed = [header, &grays, rest].concat();
    completed[FLAGS] |= GLOBAL_PALETTE;
    Some(completed)
}

fn decode_frame(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited); // the frame's size is checked below, before it is decoded
    options.check_frame_consistency(false);
    options.allow_unknown_blocks(true);
    let mut decoder = options.read_info(bytes).map_err(decode_error)?;
    let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(decode_error)?.ok_or(DecodeError::Truncated)?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (inner_width, inner_height) = (usize::from(frame.width), usize::from(frame.height));
    let (transparent, local) = (frame.transparent, frame.palette.clone());
    // A frame that is larger than the screen enlarges it.
    let width = width.max(u32::from(frame.left) + u32::from(frame.width));
    let height = height.max(u32::from(frame.top) + u32::from(frame.height));
    let _memory = admit(width, height, limits)?;
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(decode_error)?;

    let palette = local.as_deref().or(decoder.global_palette()).unwrap_or_default();
    // An index without a color is gray.
    let color = |index: u8| -> [u8; 3] {
        palette.as_chunks().0.get(usize::from(index)).copied().unwrap_or([index; 3])
    };
    let (columns, rows) = (to_usize(width), to_usize(height));
    let mut pixels = color(transparent.unwrap_or(0)).repeat(columns * rows);
    for (y, row) in indices.chunks_exact(inner_width.max(1)).enumerate() {
        let start = (top + y) * columns + left;
        let (targets, _) = pixels[3 * start..3 * (start + inner_width)].as_chunks_mut();
        targets.iter_mut().zip(row).for_each(|(pixel, &index)| *pixel = color(index));
    }
    let uncovered = inner_width * inner_height < columns * rows;
    let transparent = transparent.is_some_and(|clear| uncovered || indices.contains(&clear));
    let image = RgbImage::new(width, height, pixels).map_err(DecodeError::corrupt)?;
    Ok(Decoded { image, transparent })
}

fn to_usize(side: u32) -> usize {
    usize::try_from(side).unwrap_or(usize::MAX)
}

fn decode_error(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated
        }
        error => DecodeError::corrupt(error),
    }
}
