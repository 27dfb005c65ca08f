//! Decodes bytes of any supported format to 8-bit RGB, or returns the reason for a rejection.
//!
//! The format is detected from the first bytes, never from the file name. Rules:
//!
//! | input | result |
//! |---|---|
//! | JPEG, PNG, GIF, WebP, BMP, TIFF and BigTIFF, PNM | decoded |
//! | another image format: HEIC, AVIF, JPEG 2000, JPEG XL, PSD, SVG, ... | `unsupported`, with its name |
//! | a Git LFS pointer | `git-lfs-pointer` |
//! | anything else | `unknown-format`, with its name if it is known, such as a web page |
//! | several images: GIF, animated WebP or PNG, MPO, pages of a TIFF | the first |
//! | GIF frame smaller than the screen | on the transparent color, else on color 0, as Pillow shows it |
//! | gray, 1 to 16 bits | replicated to three channels |
//! | 16 bits per channel | rounded to 8: (v + 128) / 257, the nearest of the 256 levels (Pillow drops the low byte: at most 1 less; it clips gray at 255) |
//! | palette | expanded |
//! | alpha, transparent color | dropped; the color stored under it is kept, as Pillow's `convert("RGB")` does |
//! | TIFF whose color is multiplied with alpha | divided by it, as Pillow does |
//! | CMYK and YCCK JPEG | taken as inverted, as Adobe writes and Pillow reads them; each channel = ink * black / 255 |
//! | CMYK TIFF | each channel = (255 - ink) * (255 - black) / 255 |
//! | color space of a JPEG | by libjpeg's rules, from JFIF and Adobe segments and component names in any order |
//! | JPEG with arithmetic, lossless or hierarchical coding, or 12 bits | `unsupported` |
//! | float TIFF | clamped to [0, 1] and scaled to 255 (Pillow clips gray at 255 and does not scale); values below -1 or above 2 are `unsupported` |
//! | integer TIFF of 32 bits or with a sign, CIE L*a*b*, old JPEG, Group 3 fax, Zstandard | `unsupported` |
//! | orientation (EXIF, else XMP, in JPEG, PNG and WebP; the tag of a TIFF) | applied; sizes and crop boxes refer to the oriented image |
//! | ICC profiles, gamma | ignored, as Pillow and torchvision do |
//! | stray bytes between JPEG segments, missing or unknown chunks of a WebP, bytes after the image | skipped |
//! | data that end early, or that the decoder cannot read | `truncated` or `corrupt`, even if Pillow would fill with gray |
//!
//! Damage that still decodes cannot be detected, for example a changed pixel.
//!
//! The header is read first, and nothing is allocated until its dimensions have passed [`DecodeLimits`]. A
//! decompression bomb is therefore rejected instead of aborting the process.

mod bmp;
mod color;
mod error;
mod format;
mod gif;
mod jpeg;
mod orientation;
mod png_text;
mod tiff;
mod webp;

pub use error::DecodeError;
pub use jpeg::{EncodeError, encode as encode_jpeg};

use std::fmt;
use std::io::Cursor;

use image::error::{LimitErrorKind, UnsupportedErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use format::Format;

use crate::budget::{Budget, Permit};
use crate::contained::contained;

/// Longest accepted side, in pixels: JPEG's own limit. Sides up to this length are exact in the `f32` of a stored crop
/// box.
pub const MAX_SIDE: u32 = 65_535;

/// Bytes that a decoder may allocate per allowed pixel: RGBA, or RGB and the decoder's own buffer.
const BYTES_PER_PIXEL: u64 = 4;
/// Bytes per pixel while an image is decoded: up to 8 of the decoder's output, as many for its orientation.
const PEAK_PER_PIXEL: u64 = 16;
/// Memory of all threads that decode images, in bytes. A larger image is decoded while no other is.
pub const DECODING_BYTES: u64 = 2 << 30;
static MEMORY: Budget = Budget::new(DECODING_BYTES);

/// Bytes that a decoder may allocate in addition to the pixels.
const DECODER_OVERHEAD: u64 = 1 << 20;

/// An 8-bit RGB image with at least one pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

/// The error of [`RgbImage::new`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 3 x {width} x {height} bytes of pixels with sides from 1 to {MAX_SIDE}, got {bytes}")]
pub struct ShapeError {
    width: u32,
    height: u32,
    bytes: usize,
}

impl RgbImage {
    /// Makes an image from `pixels`, RGB8 [height, width, 3].
    ///
    /// # Errors
    /// [`ShapeError`] if the length does not match, or a side is 0 or above [`MAX_SIDE`].
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, ShapeError> {
        let sides = 1..=MAX_SIDE;
        let expected = u64::from(width) * u64::from(height) * 3;
        let fits = u64::try_from(pixels.len()).is_ok_and(|bytes| bytes == expected);
        if !sides.contains(&width) || !sides.contains(&height) || !fits {
            return Err(ShapeError { width, height, bytes: pixels.len() });
        }
        Ok(Self { width, height, pixels })
    }

    /// Width in pixels, above 0.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, above 0.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Returns the pixels as a vector: RGB8, [height, width, 3].
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// The pixels: RGB8, [height, width, 3].
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

impl fmt::Debug for RgbImage {
    /// Prints only the sides, not millions of pixel values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RgbImage({} x {})", self.width, self.height)
    }
}

/// Limits on the images that are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Maximum encoded size, in bytes.
    pub max_bytes: u64,
    /// Maximum decoded size, width x height, in pixels.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    /// 256 MiB and 178,956,970 pixels. Pillow raises `DecompressionBombError` above that number of pixels.
    fn default() -> Self {
        Self { max_bytes: 256 << 20, max_pixels: 178_956_970 }
    }
}

/// A decoded image, and what was dropped from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The image without alpha.
    pub image: RgbImage,
    /// Whether a pixel was not fully opaque. Its color, which may be arbitrary, is in the image.
    pub transparent: bool,
}

/// Decodes an image of any supported format to RGB8 and applies its orientation. The module documentation lists the
/// rules. No input makes it panic.
///
/// # Errors
/// [`DecodeError`] if the bytes are not a usable image or exceed `limits`.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    decode_with_transparency(bytes, limits).map(|decoded| decoded.image)
}

/// [`decode`], which also reports transparency.
///
/// # Errors
/// [`DecodeError`] if the bytes are not a usable image or exceed `limits`.
pub fn decode_with_transparency(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { bytes: length, limit: limits.max_bytes });
    }
    // A panic of a decoder on a damaged file must not end the run.
    contained(|| match format::detect(bytes) {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Gif => gif::decode(bytes, limits),
        Format::WebP => webp::decode(bytes, limits),
        Format::Tiff => tiff::decode(bytes, limits),
        Format::Png => decode_other(bytes, ImageFormat::Png, limits),
        Format::Bmp => decode_other(&bmp::with_true_offset(bytes), ImageFormat::Bmp, limits),
        Format::Pnm => decode_other(bytes, ImageFormat::Pnm, limits),
        Format::Foreign(name) => Err(DecodeError::UnsupportedFormat(name)),
        Format::LfsPointer => Err(DecodeError::LfsPointer),
        Format::NotAnImage(name) => Err(DecodeError::NotAnImage(name)),
        Format::Unknown => Err(DecodeError::UnknownFormat),
    })
    .unwrap_or_else(|_| Err(DecodeError::corrupt("the decoder panicked")))
}

/// Decodes PNG, BMP or PNM.
fn decode_other(bytes: &[u8], format: ImageFormat, limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowed = Limits::no_limits();
    allowed.max_alloc = Some(alloc_limit(limits));
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(|error| decode_error(error, (0, 0), limits))?;
    let (width, height) = decoder.dimensions();
    let _memory = admit(width, height, limits)?;
    if decoder.total_bytes() > alloc_limit(limits) {
        return Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    // Damaged metadata do not affect the pixels.
    let exif = decoder.exif_metadata().ok().flatten();
    let exif = exif.or_else(|| (format == ImageFormat::Png).then(|| png_text::exif(bytes)).flatten());
    let xmp = decoder.xmp_metadata().ok().flatten();
    let image =
        DynamicImage::from_decoder(decoder).map_err(|error| decode_error(error, (width, height), limits))?;
    finish(image, orientation::find(exif.as_deref(), xmp.as_deref()))
}

/// Drops alpha and applies the orientation.
fn finish(mut image: DynamicImage, orientation: Orientation) -> Result<Decoded, DecodeError> {
    let transparent = is_transparent(&image);
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    let (width, height) = image.dimensions();
    let image = RgbImage::new(width, height, image.into_raw()).map_err(DecodeError::corrupt)?;
    Ok(Decoded { image, transparent })
}

/// Whether a pixel is not fully opaque.
fn is_transparent(image: &DynamicImage) -> bool {
    match image {
        DynamicImage::ImageLumaA8(image) => image.pixels().any(|pixel| pixel.0[1] < u8::MAX),
        DynamicImage::ImageRgba8(image) => image.pixels().any(|pixel| pixel.0[3] < u8::MAX),
        DynamicImage::ImageLumaA16(image) => image.pixels().any(|pixel| pixel.0[1] < u16::MAX),
        DynamicImage::ImageRgba16(image) => image.pixels().any(|pixel| pixel.0[3] < u16::MAX),
        _ => false,
    }
}

/// Checks the sides in an image's header, and waits for the memory that decoding takes.
fn admit(width: u32, height: u32, limits: &DecodeLimits) -> Result<Permit<'static>, DecodeError> {
    if width == 0 || height == 0 {
        Err(DecodeError::NoPixels)
    } else if u64::from(width) * u64::from(height) > limits.max_pixels {
        Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels })
    } else if width > MAX_SIDE || height > MAX_SIDE {
        Err(DecodeError::SideTooLong { width, height })
    } else {
        Ok(MEMORY.take(u64::from(width) * u64::from(height) * PEAK_PER_PIXEL))
    }
}

/// Bytes that a decoder may allocate.
fn alloc_limit(limits: &DecodeLimits) -> u64 {
    limits.max_pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(DECODER_OVERHEAD)
}

fn decode_error(error: ImageError, (width, height): (u32, u32), limits: &DecodeLimits) -> DecodeError {
    match error {
        ImageError::Limits(error) => match error.kind() {
            // The sides are not known before the header is read.
            LimitErrorKind::DimensionError | LimitErrorKind::InsufficientMemory
                if width > 0 && height > 0 =>
            {
                DecodeError::TooManyPixels { width, height, limit: limits.max_pixels }
            }
            LimitErrorKind::DimensionError | LimitErrorKind::InsufficientMemory => {
                DecodeError::corrupt("its header asks for more memory than any image within the limits")
            }
            _ => DecodeError::Unsupported(error.to_string()),
        },
        ImageError::Unsupported(error) if matches!(error.kind(), UnsupportedErrorKind::Format(_)) => {
            DecodeError::UnknownFormat
        }
        ImageError::Unsupported(error) => DecodeError::Unsupported(error.to_string()),
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated
        }
        error => DecodeError::corrupt(error),
    }
}
