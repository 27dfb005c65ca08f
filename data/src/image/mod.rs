//! Decodes bytes of any supported format to 8-bit RGB, or returns the reason for a rejection.
//!
//! The format is detected from the first bytes, never from the file name. Rules:
//!
//! | input | result |
//! |---|---|
//! | JPEG, PNG, GIF and animated WebP or PNG (first frame), WebP, BMP, TIFF, PNM | decoded; anything else is `unknown-format` |
//! | gray, 1 to 16 bits | replicated to three channels |
//! | 16 bits a channel | rounded to 8: (v + 128) / 257, the nearest of the 256 levels (Pillow drops the low byte: at most 1 less) |
//! | palette | expanded |
//! | alpha, transparent color | dropped; the color stored under it is kept, as Pillow's `convert("RGB")` does |
//! | CMYK and YCCK JPEG | taken as inverted, as Adobe writes and Pillow reads them; each channel = ink * black / 255 |
//! | float TIFF | clamped to [0, 1] and scaled to 255 |
//! | EXIF orientation (JPEG, PNG, WebP, TIFF) | applied; sizes and crop boxes refer to the oriented image |
//! | ICC profiles, gamma | ignored, as Pillow and torchvision do |
//! | data that end early, or that the decoder cannot read | `truncated` or `corrupt`, even if Pillow would fill with gray |
//!
//! Damage that still decodes cannot be detected: for example a changed pixel, or a JPEG scan that an end marker cuts
//! short.
//!
//! The header is read first, and nothing is allocated until its dimensions have passed [`DecodeLimits`]. A
//! decompression bomb is therefore rejected instead of aborting the process.

mod jpeg;

pub use jpeg::{EncodeError, encode as encode_jpeg};

use std::fmt;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::error::LimitErrorKind;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

/// Longest accepted side, in pixels: JPEG's own limit. Sides up to this length are exact in the `f32` of a stored crop
/// box.
pub const MAX_SIDE: u32 = 65_535;

/// Bytes that a decoder may allocate per allowed pixel: RGBA, or RGB and the decoder's own buffer.
const BYTES_PER_PIXEL: u64 = 4;
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
#[error("an RGB image of {width} x {height} pixels cannot have {bytes} bytes of pixels")]
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

/// Why bytes are not a usable image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("the file is empty")]
    Empty,
    /// More bytes than the limit.
    #[error("the file has {bytes} bytes, more than the limit of {limit}")]
    TooManyBytes {
        /// Encoded size, in bytes.
        bytes: u64,
        /// Limit, in bytes.
        limit: u64,
    },
    /// More pixels than the limit, or more than a decoder can hold in the memory that the limit allows.
    #[error("the image has {width} x {height} pixels, more than the limit of {limit} allows")]
    TooManyPixels {
        /// Width in the header, in pixels.
        width: u32,
        /// Height in the header, in pixels.
        height: u32,
        /// Limit, in pixels.
        limit: u64,
    },
    /// A side is longer than [`MAX_SIDE`].
    #[error("the image has {width} x {height} pixels, a side is longer than {MAX_SIDE}")]
    SideTooLong {
        /// Width in the header, in pixels.
        width: u32,
        /// Height in the header, in pixels.
        height: u32,
    },
    /// The format is not one of the supported formats.
    #[error("the content is not JPEG, PNG, GIF, WebP, BMP, TIFF or PNM")]
    UnknownFormat,
    /// The decoder does not support this variant of the format.
    #[error("unsupported variant of the format: {0}")]
    Unsupported(String),
    /// The data end before the image does.
    #[error("the data end before the image does")]
    Truncated,
    /// The data are damaged.
    #[error("corrupt image: {0}")]
    Corrupt(String),
    /// A side is 0 according to the header.
    #[error("the image has no pixels")]
    NoPixels,
}

impl DecodeError {
    /// Short, stable code for `rejects.jsonl`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooManyBytes { .. } => "too-many-bytes",
            Self::TooManyPixels { .. } => "too-many-pixels",
            Self::SideTooLong { .. } => "side-too-long",
            Self::UnknownFormat => "unknown-format",
            Self::Unsupported(_) => "unsupported",
            Self::Truncated => "truncated",
            Self::Corrupt(_) => "corrupt",
            Self::NoPixels => "no-pixels",
        }
    }
}

/// Decodes an image of any supported format to RGB8 and applies its EXIF orientation. The module documentation lists
/// the rules. No input makes it panic.
///
/// # Errors
/// [`DecodeError`] if the bytes are not a usable image or exceed `limits`.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { bytes: length, limit: limits.max_bytes });
    }
    let format = image::guess_format(bytes).map_err(|_| DecodeError::UnknownFormat)?;
    // A panic of a decoder on a damaged file must not end the run.
    catch_unwind(AssertUnwindSafe(|| match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, limits),
        _ => decode_other(bytes, format, limits),
    }))
    .unwrap_or_else(|_| Err(DecodeError::Corrupt("the decoder gave up".to_owned())))
}

fn decode_other(bytes: &[u8], format: ImageFormat, limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    let allowed = decoder_limits(limits);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(allowed.clone());
    let mut decoder = reader.into_decoder().map_err(|error| decode_error(error, (0, 0), limits))?;
    let (width, height) = decoder.dimensions();
    check_dimensions(width, height, limits)?;
    let explain = |error| decode_error(error, (width, height), limits);
    if decoder.total_bytes() > allowed.max_alloc.unwrap_or(u64::MAX) {
        return Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    // A damaged EXIF block does not affect the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    finish(DynamicImage::from_decoder(decoder).map_err(explain)?, orientation)
}

fn finish(mut image: DynamicImage, orientation: Orientation) -> Result<RgbImage, DecodeError> {
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    let (width, height) = image.dimensions();
    RgbImage::new(width, height, image.into_raw()).map_err(|error| DecodeError::Corrupt(error.to_string()))
}

fn check_dimensions(width: u32, height: u32, limits: &DecodeLimits) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        Err(DecodeError::NoPixels)
    } else if u64::from(width) * u64::from(height) > limits.max_pixels {
        Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels })
    } else if width > MAX_SIDE || height > MAX_SIDE {
        Err(DecodeError::SideTooLong { width, height })
    } else {
        Ok(())
    }
}

fn decoder_limits(limits: &DecodeLimits) -> Limits {
    let mut allowed = Limits::no_limits();
    let pixels = limits.max_pixels.saturating_mul(BYTES_PER_PIXEL);
    allowed.max_alloc = Some(pixels.saturating_add(DECODER_OVERHEAD));
    allowed
}

fn decode_error(error: ImageError, (width, height): (u32, u32), limits: &DecodeLimits) -> DecodeError {
    match error {
        ImageError::Limits(error) => match error.kind() {
            LimitErrorKind::DimensionError | LimitErrorKind::InsufficientMemory => {
                DecodeError::TooManyPixels { width, height, limit: limits.max_pixels }
            }
            _ => DecodeError::Unsupported(error.to_string()),
        },
        ImageError::Unsupported(error) if is_unknown(&error.kind()) => DecodeError::UnknownFormat,
        ImageError::Unsupported(error) => DecodeError::Unsupported(error.to_string()),
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated
        }
        error => DecodeError::Corrupt(error.to_string()),
    }
}

fn is_unknown(kind: &image::error::UnsupportedErrorKind) -> bool {
    matches!(kind, image::error::UnsupportedErrorKind::Format(_))
}
