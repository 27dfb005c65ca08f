//! Crop and resize, with Pillow's filters and order of passes.
//!
//! Pillow filters the width, rounds to 8 bits, then filters the height. A single call of `fast_image_resize` filters in
//! the opposite order, so it is called once per direction. The result then differs from Pillow's by at most one level
//! in a few bytes.

use std::cell::RefCell;
use std::error::Error;

use fast_image_resize::images::{CroppedImage, CroppedImageMut, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{RenderError, Resample};
use crate::image::RgbImage;
use crate::view::{CenterCrop, Crop};

/// The source pixels that may be read, the part of them that is shown, and the output pixels that show it.
struct Region {
    /// x, y, width, height in the image. Filters do not read outside.
    bounds: [u32; 4],
    /// x, y, width, height relative to `bounds`; the window is inside it.
    window: [f64; 4],
    /// x, y, width, height in the output; the window is stretched over it.
    target: [u32; 4],
}

thread_local! {
    /// The resizer and the pixels between the passes. The resizer keeps scratch memory but no state that affects
    /// results.
    static RESIZER: RefCell<(Resizer, Vec<u8>)> = RefCell::new((Resizer::new(), Vec::new()));
}

/// Writes the crop, resized to RGB8 [size, size, 3], to `out`, which has that length. Equals torchvision's
/// `resized_crop` for an integer box. For a center crop, equals the resize and the crop that [`CenterCrop`] names.
pub(super) fn crop_resize(
    image: &RgbImage,
    crop: Crop,
    size: u32,
    resample: Resample,
    out: &mut [u8],
) -> Result<(), RenderError> {
    let region = match crop {
        Crop::Box { x, y, w, h } => box_region([x, y, w, h].map(f64::from), size),
        Crop::Center(crop) => center_region(image, crop, size, resample),
    };
    let [left, top, width, height] = region.target;
    if (width, height) != (size, size) {
        out.fill(0);
    }
    RESIZER
        .with_borrow_mut(|(resizer, between)| {
            let mut square = Image::from_slice_u8(size, size, out, PixelType::U8x3)?;
            let mut output = CroppedImageMut::new(&mut square, left, top, width, height)?;
            resize((resizer, between), image, &region, &mut output, resample)
        })
        .map_err(RenderError::Resize)
}

/// The region of a box. torchvision cuts the box out first, so the filter must not read the pixels around it.
fn box_region([x, y, w, h]: [f64; 4], size: u32) -> Region {
    let (left, top) = (x.floor(), y.floor());
    let [right, bottom] = [(x + w).ceil(), (y + h).ceil()];
    Region {
        bounds: [whole(left), whole(top), whole(right - left), whole(bottom - top)],
        window: [x - left, y - top, w, h],
        target: [0, 0, size, size],
    }
}

/// The region of a center crop. Only the pixels that are kept are computed: resizing that part of the source uses the
/// same coefficients as resizing the whole and cutting afterwards.
fn center_region(image: &RgbImage, crop: CenterCrop, size: u32, resample: Resample) -> Region {
    let (width, height) = (image.width(), image.height());
    let [columns, rows] = crop.spans(width, height, size);
    // Rows beyond the reach of the height filter can skip the width filter.
    let reach = (support(resample) * (rows.extent / f64::from(rows.pixels)).max(1.0)).ceil() + 1.0;
    let top = (rows.start - reach).floor().max(0.0);
    let bottom = (rows.start + rows.extent + reach).ceil().min(f64::from(height));
    Region {
        bounds: [0, whole(top), width, whole(bottom - top)],
        window: [columns.start, rows.start - top, columns.extent, rows.extent],
        target: [columns.at, rows.at, columns.pixels, rows.pixels],
    }
}

fn resize(
    (resizer, between): (&mut Resizer, &mut Vec<u8>),
    image: &RgbImage,
    region: &Region,
    output: &mut CroppedImageMut<'_, Image<'_>>,
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
    let columns = region.target[2];
    let bytes = u64::from(columns) * u64::from(height) * 3;
    between.resize(usize::try_from(bytes)?, 0);
    let mut narrowed = Image::from_slice_u8(columns, height, between, PixelType::U8x3)?;
    resizer.resize(&source, &mut narrowed, &options.crop(x, 0.0, w, f64::from(height)))?;
    Ok(resizer.resize(&narrowed, output, &options.crop(0.0, y, f64::from(columns), h))?)
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
