//! Strict JPEG decoding: data that end early or break the Huffman code are rejected, not decoded to a half-gray image.

use image::codecs::jpeg::JpegEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageError, RgbImage as RgbBuffer};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{DecodeError, DecodeLimits, RgbImage, check_dimensions, finish};

const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
/// Second byte of the marker; the first is 0xff.
const START_OF_SCAN: u8 = 0xda;

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

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    if is_truncated(bytes) {
        return Err(DecodeError::Truncated);
    }
    match decode_as(bytes, limits, true) {
        // Stray bytes between segments are harmless; libjpeg skips them too. Entropy-coded data are still decoded
        // strictly: the lenient mode is used only for damage that the decoder found in the headers.
        Err(Failure::StrayBytes) => decode_as(bytes, limits, false).map_err(Failure::into_error),
        outcome => outcome.map_err(Failure::into_error),
    }
}

enum Failure {
    StrayBytes,
    Final(DecodeError),
}

impl Failure {
    fn into_error(self) -> DecodeError {
        match self {
            Self::StrayBytes => DecodeError::Corrupt("stray bytes between JPEG segments".to_owned()),
            Self::Final(error) => error,
        }
    }
}

impl From<DecodeErrors> for Failure {
    fn from(error: DecodeErrors) -> Self {
        match error {
            DecodeErrors::FormatStatic(text) if text.starts_with("[strict-mode]") => Self::StrayBytes,
            DecodeErrors::ExhaustedData => Self::Final(DecodeError::Truncated),
            DecodeErrors::ZeroError => Self::Final(DecodeError::NoPixels),
            DecodeErrors::Unsupported(scheme) => Self::Final(DecodeError::Unsupported(format!("{scheme:?}"))),
            other => Self::Final(DecodeError::Corrupt(format!("{other:?}"))),
        }
    }
}

fn decode_as(bytes: &[u8], limits: &DecodeLimits, strict: bool) -> Result<RgbImage, Failure> {
    let options = DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    let info = decoder.info().ok_or_else(|| corrupt("no header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_dimensions(width, height, limits).map_err(Failure::Final)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let pixels = decoder.decode()?;
    let buffer = RgbBuffer::from_raw(width, height, pixels).ok_or_else(|| corrupt("unexpected channels"))?;
    finish(DynamicImage::ImageRgb8(buffer), orientation.unwrap_or(Orientation::NoTransforms))
        .map_err(Failure::Final)
}

fn corrupt(what: &str) -> Failure {
    Failure::Final(DecodeError::Corrupt(what.to_owned()))
}

/// Whether no end-of-image marker follows the start of the image's own first scan. Entropy-coded data cannot contain
/// that marker. Data that a camera appended to the image, such as a video, may contain any bytes and are not evidence.
/// Pillow accepts a file in which only the marker is missing; this decoder rejects it.
fn is_truncated(bytes: &[u8]) -> bool {
    let end = bytes.windows(2).rposition(|pair| pair == END_OF_IMAGE);
    end.is_none_or(|end| first_scan(bytes).is_some_and(|scan| end < scan))
}

/// Start of the image's own first scan. The segments before it are skipped by their lengths, because a thumbnail
/// contains markers of its own.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        // Stray bytes, which libjpeg skips, and fill bytes may precede a marker.
        let marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff);
        at += bytes.get(at..)?.windows(2).position(marker)?;
        match bytes[at + 1] {
            START_OF_SCAN => return Some(at),
            // These markers have no segment.
            0x01 | 0xd0..=0xd9 => at += 2,
            _ => {
                let length = bytes.get(at + 2..)?.first_chunk::<2>()?;
                at += 2 + usize::from(u16::from_be_bytes(*length));
            }
        }
    }
}
