//! Milliseconds per image of decoding and rendering, on one thread. Run with `cargo bench -p lgd-data --bench render`.

use std::hint::black_box;
use std::time::Instant;

use lgd_data::image::{DecodeLimits, RgbImage, decode};
use lgd_data::render::{Normalization, PixelLayout, Resample, normalize_into, render};
use lgd_data::view::{Policy, View};

const SIZE: u32 = 224;
const REPEATS: usize = 5;
const CALLS: u16 = 40;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let jpeg = include_bytes!("../tests/goldens/photo-500x375.jpg");
    let image = decode(jpeg, &DecodeLimits::default())?;
    let (width, height) = (image.width(), image.height());
    report("decode 500x375 JPEG", |_| decode(jpeg, &DecodeLimits::default()).is_ok());
    for policy in Policy::ALL {
        let views: Vec<View> =
            (0..CALLS).map(|index| policy.draw(0, "bench", index, width, height)).collect();
        report(&format!("render {SIZE} {policy}"), |index| {
            render(&image, &views[usize::from(index)], SIZE, Resample::Bilinear).is_ok()
        });
    }
    report("render 224 center, bicubic", |_| {
        render(&image, &View::center(), SIZE, Resample::Bicubic).is_ok()
    });
    report_steps(&image);
    let small = render(&image, &View::center(), SIZE, Resample::Bilinear)?;
    let mut floats = vec![0.0; small.pixels().len()];
    for layout in [PixelLayout::Nchw, PixelLayout::Nhwc] {
        report(&format!("normalize 224 {layout:?}"), |_| {
            normalize_into(&small, &Normalization::CLIP, layout, black_box(&mut floats)).is_ok()
        });
    }
    Ok(())
}

/// Reports each alteration alone, on top of the same crop.
fn report_steps(image: &RgbImage) {
    let base = Policy::CropFlip.draw(0, "bench", 0, image.width(), image.height());
    let drawn = (0..100).map(|index| Policy::MocoV2.draw(0, "bench", index, image.width(), image.height()));
    let jitter = drawn.filter_map(|view| view.jitter).next();
    for (name, view) in [
        ("crop only", base),
        ("crop, jitter", View { jitter, ..base }),
        ("crop, gray", View { gray: true, ..base }),
        ("crop, blur", View { blur_sigma: Some(1.5), ..base }),
    ] {
        report(name, |_| render(image, &view, SIZE, Resample::Bilinear).is_ok());
    }
}

/// Prints the best mean of a few rounds, because other work on the machine can only slow a round down.
fn report(name: &str, mut call: impl FnMut(u16) -> bool) {
    let round = |call: &mut dyn FnMut(u16) -> bool| {
        let start = Instant::now();
        for index in 0..CALLS {
            assert!(black_box(call(index)), "{name} failed");
        }
        start.elapsed().as_secs_f64() * 1e3 / f64::from(CALLS)
    };
    let best = (0..REPEATS).map(|_| round(&mut call)).fold(f64::INFINITY, f64::min);
    eprintln!("{name:30} {best:7.3} ms");
}
