//! TIFF and BigTIFF: the first page, in the colors that Pillow shows.
//!
//! The `tiff` crate unpacks the samples; their meaning is applied here. To make it deliver all samples of all kinds of
//! images, palettes among them, it gets a copy of the file that declares them gray. JPEG data within a TIFF are decoded
//! as strictly as JPEG files.

mod samples;

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage as RgbBuffer};
use tiff::decoder::{Decoder, Limits};
use tiff::tags::{ByteOrder, CompressionMethod, Tag};
use tiff::{TiffError, TiffFormatError};

use super::color::{cmyk_to_rgb, unmultiply, ycbcr_to_rgb};
use super::{DecodeError, DecodeLimits, Decoded, admit, alloc_limit, finish};
use samples::{Layout, Levels};

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

/// Meaning of the samples, by the tag PhotometricInterpretation.
enum Photometric {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    /// Colors of the indices.
    Palette(Vec<[u8; 3]>),
    Cmyk,
    YCbCr,
}

/// Meaning of the first sample after the color, by the tag ExtraSamples.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    Unused,
    /// The color is multiplied with it.
    AssociatedAlpha,
    Alpha,
}

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    let mut decoder = open(bytes, limits)?;
    let (width, height) = decoder.dimensions().map_err(explain)?;
    let _memory = admit(width, height, limits)?;
    compression(&mut decoder)?; // before other peculiarities of old files
    let photometric = photometric(&mut decoder)?;
    if matches!(photometric, Photometric::BlackIsZero) {
        return read(decoder, &photometric, limits);
    }
    let mut gray = bytes.to_vec();
    let value = photometric_offset(bytes, &mut decoder).ok_or(DecodeError::Truncated)?;
    let black_is_zero = if decoder.byte_order() == ByteOrder::LittleEndian { [1, 0] } else { [0, 1] };
    gray[value..value + 2].copy_from_slice(&black_is_zero);
    read(open(&gray, limits)?, &photometric, limits)
}

/// Opens the first page.
fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Reader<'a>, DecodeError> {
    let bytes_allowed = usize::try_from(alloc_limit(limits)).unwrap_or(usize::MAX);
    let mut allowed = Limits::default();
    allowed.decoding_buffer_size = bytes_allowed;
    allowed.intermediate_buffer_size = bytes_allowed;
    allowed.ifd_value_size = bytes_allowed;
    Ok(Decoder::new(Cursor::new(bytes)).map_err(explain)?.with_limits(allowed))
}

fn read(
    mut decoder: Reader<'_>,
    photometric: &Photometric,
    limits: &DecodeLimits,
) -> Result<Decoded, DecodeError> {
    let (width, height) = decoder.dimensions().map_err(explain)?;
    let channels: usize = unsigned(&mut decoder, Tag::SamplesPerPixel)?.unwrap_or(1);
    let colors = photometric.channels();
    if channels < colors {
        return Err(DecodeError::corrupt(format!("{channels} samples per pixel for {colors} channels")));
    }
    let too_large = DecodeError::TooManyPixels { width, height, limit: limits.max_pixels };
    let samples = u64::from(width) * u64::from(height) * u64::try_from(channels).unwrap_or(u64::MAX);
    if samples > alloc_limit(limits) {
        return Err(too_large);
    }
    let layout = Layout {
        width: usize::try_from(width).unwrap_or(usize::MAX),
        height: usize::try_from(height).unwrap_or(usize::MAX),
        channels,
        bits: bits(&mut decoder)?,
        planar: unsigned::<u16>(&mut decoder, Tag::PlanarConfiguration)? == Some(2),
        inverted_bits: fill_order(&mut decoder)?,
        jpeg: compression(&mut decoder)? == CompressionMethod::ModernJPEG,
        indices: matches!(photometric, Photometric::Palette(_)),
        max_pixels: usize::try_from(limits.max_pixels).unwrap_or(usize::MAX),
    };
    let extra = extra(&mut decoder, channels, colors)?;
    let levels = samples::read(&mut decoder, &layout)?;
    let orientation = unsigned::<u8>(&mut decoder, Tag::Orientation).ok().flatten();
    let orientation = orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    let (rgb, transparent) = to_rgb(&levels, photometric, extra);
    let buffer = RgbBuffer::from_raw(width, height, rgb).ok_or(too_large)?;
    let decoded = finish(DynamicImage::ImageRgb8(buffer), orientation)?;
    Ok(Decoded { transparent, ..decoded })
}

/// RGB8 of all pixels, and whether any is transparent.
fn to_rgb(levels: &Levels, photometric: &Photometric, extra: Extra) -> (Vec<u8>, bool) {
    let colors = photometric.channels();
    let mut transparent = false;
    let mut rgb = Vec::new();
    for pixel in levels.pixels() {
        let mut color = match photometric {
            Photometric::BlackIsZero => [pixel[0]; 3],
            Photometric::WhiteIsZero => [255 - pixel[0]; 3],
            Photometric::Rgb => [pixel[0], pixel[1], pixel[2]],
            Photometric::Palette(palette) => palette.get(usize::from(pixel[0])).copied().unwrap_or_default(),
            Photometric::Cmyk => cmyk_to_rgb([pixel[0], pixel[1], pixel[2], pixel[3]]),
            Photometric::YCbCr => ycbcr_to_rgb([pixel[0], pixel[1], pixel[2]]),
        };
        if extra != Extra::Unused {
            let alpha = pixel[colors];
            transparent |= alpha < 255;
            if extra == Extra::AssociatedAlpha {
                color = color.map(|channel| unmultiply(channel, alpha));
            }
        }
        rgb.extend_from_slice(&color);
    }
    (rgb, transparent)
}

impl Photometric {
    /// Samples of a pixel that are its color.
    fn channels(&self) -> usize {
        match self {
            Self::WhiteIsZero | Self::BlackIsZero | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

fn photometric(decoder: &mut Reader<'_>) -> Result<Photometric, DecodeError> {
    match unsigned::<u16>(decoder, Tag::PhotometricInterpretation)? {
        Some(0) => Ok(Photometric::WhiteIsZero),
        Some(1) => Ok(Photometric::BlackIsZero),
        Some(2) => Ok(Photometric::Rgb),
        Some(3) => palette(decoder).map(Photometric::Palette),
        Some(5) => Ok(Photometric::Cmyk),
        Some(6) => {
            let jpeg = compression(decoder)? == CompressionMethod::ModernJPEG;
            let subsampling =
                decoder.find_tag_unsigned_vec::<u16>(Tag::ChromaSubsampling).map_err(explain)?;
            if jpeg || subsampling.is_some_and(|factors| factors == [1, 1]) {
                Ok(Photometric::YCbCr)
            } else {
                Err(DecodeError::unsupported("TIFF with subsampled colors that are not JPEG"))
            }
        }
        Some(8..=10) => Err(DecodeError::unsupported("TIFF in the color space CIE L*a*b*")),
        Some(other) => Err(DecodeError::unsupported(format!("TIFF with photometric interpretation {other}"))),
        None => Err(DecodeError::corrupt("no photometric interpretation")),
    }
}

/// Colors of a palette: all red values, then green, then blue, of which Pillow keeps the high bytes.
fn palette(decoder: &mut Reader<'_>) -> Result<Vec<[u8; 3]>, DecodeError> {
    let values = decoder.find_tag_unsigned_vec::<u16>(Tag::ColorMap).map_err(explain)?;
    let values = values.ok_or_else(|| DecodeError::corrupt("a palette image without a palette"))?;
    let colors = values.len() / 3;
    let high = |at: usize| values[at].to_be_bytes()[0];
    Ok((0..colors).map(|index| [high(index), high(colors + index), high(2 * colors + index)]).collect())
}

fn compression(decoder: &mut Reader<'_>) -> Result<CompressionMethod, DecodeError> {
    use CompressionMethod as Method;
    let value = unsigned::<u16>(decoder, Tag::Compression)?;
    match value.map_or(Method::None, Method::from_u16_exhaustive) {
        method @ (Method::None
        | Method::LZW
        | Method::Deflate
        | Method::OldDeflate
        | Method::PackBits
        | Method::Fax4
        | Method::ModernJPEG) => Ok(method),
        Method::JPEG => Err(DecodeError::unsupported("TIFF compressed with the old JPEG scheme")),
        Method::Unknown(34_925) => Err(DecodeError::unsupported("TIFF compressed with LZMA")),
        Method::Unknown(number) => {
            Err(DecodeError::unsupported(format!("TIFF with compression method {number}")))
        }
        method => Err(DecodeError::unsupported(format!("TIFF compressed with {method:?}"))),
    }
}

/// Bits of a sample. The decoder rejects files whose samples differ in it.
fn bits(decoder: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let bits = decoder.find_tag_unsigned_vec::<u16>(Tag::BitsPerSample).map_err(explain)?;
    Ok(bits.and_then(|bits| bits.first().copied()).unwrap_or(1).into())
}

/// Whether the first pixel is in the lowest bit of a byte instead of the highest.
fn fill_order(decoder: &mut Reader<'_>) -> Result<bool, DecodeError> {
    let inverted = unsigned::<u16>(decoder, Tag::FillOrder)? == Some(2);
    match compression(decoder)? {
        CompressionMethod::None => Ok(inverted),
        _ if inverted => Err(DecodeError::unsupported("TIFF with compressed data in inverted bit order")),
        _ => Ok(false),
    }
}

/// Meaning of the sample after the color. Without a tag a fourth sample beside RGB is alpha, as for Pillow.
fn extra(decoder: &mut Reader<'_>, channels: usize, colors: usize) -> Result<Extra, DecodeError> {
    if channels <= colors {
        return Ok(Extra::Unused);
    }
    let tag = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(explain)?;
    Ok(match tag.and_then(|kinds| kinds.first().copied()) {
        Some(1) => Extra::AssociatedAlpha,
        Some(2) => Extra::Alpha,
        None if colors == 3 => Extra::Alpha,
        _ => Extra::Unused,
    })
}

fn unsigned<T: TryFrom<u64>>(decoder: &mut Reader<'_>, tag: Tag) -> Result<Option<T>, DecodeError> {
    decoder.find_tag_unsigned(tag).map_err(explain)
}

/// Offset of the value of PhotometricInterpretation, two bytes, in the first directory.
fn photometric_offset(bytes: &[u8], decoder: &mut Reader<'_>) -> Option<usize> {
    const PHOTOMETRIC: u64 = 262;
    let little = decoder.byte_order() == ByteOrder::LittleEndian;
    let number = |at: usize, length: usize| -> Option<u64> {
        let digits = bytes.get(at..at.checked_add(length)?)?.iter();
        let append = |number: u64, digit: &u8| number << 8 | u64::from(*digit);
        Some(if little { digits.rev().fold(0, append) } else { digits.fold(0, append) })
    };
    let big = number(2, 2)? == 43;
    // Bytes of the number of entries, of an entry, and of an entry before its value.
    let (count, entry, before_value) = if big { (8, 20, 12) } else { (2, 12, 8) };
    let directory = usize::try_from(decoder.ifd_pointer()?.0).ok()?;
    let entries = usize::try_from(number(directory, count)?).ok()?;
    (0..entries)
        .map(|index| directory + count + index * entry)
        .take_while(|&at| at + entry <= bytes.len())
        .find(|&at| number(at, 2) == Some(PHOTOMETRIC))
        .map(|at| at + before_value)
}

fn explain(error: TiffError) -> DecodeError {
    match error {
        TiffError::UnsupportedError(what) => DecodeError::unsupported(format!("TIFF: {what}")),
        TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated
        }
        TiffError::FormatError(TiffFormatError::InvalidDimensions(..)) => DecodeError::NoPixels,
        error => DecodeError::corrupt(error),
    }
}
