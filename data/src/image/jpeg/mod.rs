//! Strict JPEG decoding: data that end early or break the Huffman code are rejected, not decoded to a half-gray image.

mod header;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ExtendedColorType, ImageError, RgbImage as RgbBuffer};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::color::ycbcr_to_rgb;
use super::{DecodeError, DecodeLimits, Decoded, RgbImage, admit, finish};
use header::Space;

/// The error of [`encode`].
#[derive(Debug, thiserror::Error)]
#[error("encoding failed: {0}")]
pub struct EncodeError(#[from] ImageError);

/// Encodes `image` as baseline JPEG with full chroma resolution. `quality` is libjpeg's, 1 to 100. The output is
/// bit-identical on every machine.
///
/// # Errors
/// [`EncodeError`]. It does not occur if both sides are at most [`super::MAX_SIDE`] pixels.
pub fn encode(image: &RgbImage, quality: u8) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode(
        image.pixels(),
        image.width(),
        image.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

pub(super) fn decode(file: &[u8], limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    let jpeg = header::rewrite(file)?;
    let _memory = admit(jpeg.width, jpeg.height, limits)?;
    let pixels = decode_strictly(&jpeg.bytes, jpeg.space).map_err(decode_error)?;
    let buffer = RgbBuffer::from_raw(jpeg.width, jpeg.height, pixels)
        .ok_or_else(|| DecodeError::corrupt("unexpected channels"))?;
    finish(DynamicImage::ImageRgb8(buffer), jpeg.orientation)
}

/// Width in pixels and the components of a JPEG, [height, width, components], without a conversion of colors. `tables`
/// is a JPEG that has only tables; a TIFF may store them apart. `largest` is the size that the JPEG fills up to a block.
pub(super) fn decode_components(
    tables: Option<&[u8]>,
    data: &[u8],
    components: usize,
    largest: (usize, usize),
) -> Result<(usize, Vec<u8>), DecodeError> {
    let tables = tables.and_then(|tables| tables.strip_prefix(b"\xff\xd8"));
    let tables = tables.map_or(&[][..], |tables| tables.strip_suffix(b"\xff\xd9").unwrap_or(tables));
    let scans = data.strip_prefix(b"\xff\xd8").ok_or_else(|| DecodeError::corrupt("no start of a JPEG"))?;
    let jpeg = header::rewrite(&[b"\xff\xd8", tables, scans].concat())?;
    let fits =
        |side: u32, most: usize| usize::try_from(side).is_ok_and(|side| side <= most.next_multiple_of(16));
    if !fits(jpeg.width, largest.0) || !fits(jpeg.height, largest.1) {
        return Err(DecodeError::corrupt(format!(
            "expected a part of at most {largest:?} pixels, got {} x {}",
            jpeg.width, jpeg.height
        )));
    }
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&jpeg.bytes[..]), options());
    decoder.decode_headers().map_err(decode_error)?;
    let space = decoder.input_colorspace().unwrap_or(ColorSpace::RGB);
    if space.num_components() != components || space == ColorSpace::YCCK {
        return Err(DecodeError::unsupported(format!("TIFF with JPEG data in the color space {space:?}")));
    }
    decoder.set_options(options().jpeg_set_out_colorspace(space));
    let width = usize::try_from(jpeg.width).unwrap_or(usize::MAX);
    Ok((width, decoder.decode().map_err(decode_error)?))
}

/// Options of the decoder for output in RGB.
fn options() -> DecoderOptions {
    DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
}

/// Decodes a rewritten file to RGB8.
fn decode_strictly(bytes: &[u8], space: Space) -> Result<Vec<u8>, DecodeErrors> {
    let options = options();
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    // Without segments of applications the decoder takes three components for YCbCr, or for RGB if they are named so.
    let taken_for = decoder.input_colorspace().unwrap_or(ColorSpace::RGB);
    match (space, taken_for) {
        (Space::Rgb, ColorSpace::YCbCr) => {
            decoder.set_options(options.jpeg_set_out_colorspace(ColorSpace::YCbCr));
            decoder.decode()
        }
        (Space::YCbCr, ColorSpace::RGB) => {
            let mut pixels = decoder.decode()?;
            pixels.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = ycbcr_to_rgb(*pixel));
            Ok(pixels)
        }
        _ => decoder.decode(),
    }
}

fn decode_error(error: DecodeErrors) -> DecodeError {
    match error {
        DecodeErrors::ExhaustedData => DecodeError::Truncated,
        DecodeErrors::ZeroError => DecodeError::NoPixels,
        DecodeErrors::Unsupported(scheme) => DecodeError::unsupported(format!("{scheme:?}")),
        other => DecodeError::corrupt(format!("{other:?}")),
    }
}
