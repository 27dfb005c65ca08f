//! Crop and resize, with Pillow's filters and order of passes.
//!
//! Pillow filters the width, rounds to 8 bits, then filters the height. A single call of `fast_image_resize` filters in
//! the opposite order, so it is called once per direction. The result then differs from Pillow's by at most one level
//! in a few bytes.

use std::cell::RefCell;
use std::error::Error;

use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{RenderError, Resample};
use crate::image::RgbImage;
use crate::view::Crop;

/// The source pixels that may be read, and the part of them that is stretched over the output.
struct Region {
    /// x, y, width, height in the image. Filters do not read outside.
    bounds: [u32; 4],
    /// x, y, width, height relative to `bounds`; the window is inside it.
    window: [f64; 4],
}

thread_local! {
    /// The resizer and the pixels between the passes. The resizer keeps scratch memory but no state that affects
    /// results.
    static RESIZER: RefCell<(Resizer, Vec<u8>)> = RefCell::new((Resizer::new(), Vec::new()));
}

/// Writes the crop, resized to RGB8 [size, size, 3], to `out`, which has that length. Equals torchvision's
/// `resized_crop` for an integer box. For a center crop, equals its `Resize(round(size / fraction))` followed by
/// `CenterCrop(size)`.
pub(super) fn crop_resize(
    image: &RgbImage,
    crop: Crop,
    size: u32,
    resample: Resample,
    out: &mut [u8],
) -> Result<(), RenderError> {
    let region = match crop {
        Crop::Box { x, y, w, h } => box_region([x, y, w, h].map(f64::from)),
        Crop::Center { fraction } => center_region(image, fraction, size, resample),
    };
    RESIZER
        .with_borrow_mut(|(resizer, between)| {
            let mut output = Image::from_slice_u8(size, size, out, PixelType::U8x3)?;
            resize((resizer, between), image, &region, &mut output, resample)
        })
        .map_err(RenderError::Resize)
}

/// The region of a box. torchvision cuts the box out first, so the filter must not read the pixels around it.
fn box_region([x, y, w, h]: [f64; 4]) -> Region {
    let (left, top) = (x.floor(), y.floor());
    let [right, bottom] = [(x + w).ceil(), (y + h).ceil()];
    Region {
        bounds: [whole(left), whole(top), whole(right - left), whole(bottom - top)],
        window: [x - left, y - top, w, h],
    }
}

/// The region of a center crop. Only the pixels of the central square are computed: resizing that part of the source to
/// `size` uses the same coefficients as resizing the whole and cutting afterwards.
fn center_region(image: &RgbImage, fraction: f32, size: u32, resample: Resample) -> Region {
    let (width, height) = (image.width(), image.height());
    let short_to = u64::from(size).max(whole_u64((f64::from(size) / f64::from(fraction)).round_ties_even()));
    let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
    let long_to = short_to * long / short;
    let (width_to, height_to) = if width <= height { (short_to, long_to) } else { (long_to, short_to) };
    let (x, w) = center_span(width, width_to, size);
    let (y, h) = center_span(height, height_to, size);

    // Rows beyond the reach of the height filter can skip the width filter.
    let reach = (support(resample) * (h / f64::from(size)).max(1.0)).ceil() + 1.0;
    let top = (y - reach).floor().max(0.0);
    let bottom = (y + h + reach).ceil().min(f64::from(height));
    Region { bounds: [0, whole(top), width, whole(bottom - top)], window: [x, y - top, w, h] }
}

/// Start and extent, in source pixels, of the central `size` pixels of a side resized from `from` to `to`.
fn center_span(from: u32, to: u64, size: u32) -> (f64, f64) {
    let scale = f64::from(from) / to as f64;
    let offset = ((to - u64::from(size)) as f64 / 2.0).round_ties_even();
    let start = offset * scale;
    (start, (f64::from(size) * scale).min(f64::from(from) - start))
}

fn resize(
    (resizer, between): (&mut Resizer, &mut Vec<u8>),
    image: &RgbImage,
    region: &Region,
    output: &mut Image<'_>,
    resample: Resample,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let [left, top, width, height] = region.bounds;
    let [x, y, w, h] = region.window;
    let source = ImageRef::new(image.width(), image.height(), image.pixels(), PixelType::U8x3)?;
    let source = CroppedImage::new(&source, left, top, width, height)?;
    let options = ResizeOptions::new().resize_alg(algorithm(resample));
    if resample == Resample::Nearest {
        return Ok(resizer.resize(&source, output, &options.crop(x, y, w, h))?);
    }
    let size = output.width();
    let bytes = u64::from(size) * u64::from(height) * 3;
    between.resize(usize::try_from(bytes)?, 0);
    let mut narrowed = Image::from_slice_u8(size, height, between, PixelType::U8x3)?;
    resizer.resize(&source, &mut narrowed, &options.crop(x, 0.0, w, f64::from(height)))?;
    Ok(resizer.resize(&narrowed, output, &options.crop(0.0, y, f64::from(size), h))?)
}

fn algorithm(resample: Resample) -> ResizeAlg {
    match resample {
        Resample::Nearest => ResizeAlg::Nearest,
        Resample::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Resample::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Resample::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
    }
}

/// Radius of the filter in output pixels when shrinking, in source pixels when enlarging.
fn support(resample: Resample) -> f64 {
    match resample {
        Resample::Nearest | Resample::Bilinear => 1.0,
        Resample::Bicubic => 2.0,
        Resample::Lanczos => 3.0,
    }
}

/// Converts a coordinate that is whole, not negative and at most `MAX_SIDE`, as the view's validation ensures.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "validated coordinates")]
fn whole(value: f64) -> u32 {
    value as u32
}

/// Like [`whole`], for a resized side of at most `MAX_SIZE` / 0.01.
fn whole_u64(value: f64) -> u64 {
    u64::from(whole(value))
}
