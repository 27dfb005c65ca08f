//! Color changes in the arithmetic of Pillow's `Image.blend`, `convert("L")` and `convert("HSV")`, which torchvision's
//! `adjust_*` functions use on Pillow images. The results are bit-identical: `f32` and `f64` are used where Pillow's C
//! code has `float` and `double`.
//!
//! All functions work in place on RGB8 pixels, [n, 3].

/// Blends with black: multiplies each value by `factor`.
pub(super) fn brightness(pixels: &mut [u8], factor: f32) {
    map_levels(pixels, |value| blend(0, value, factor));
}

/// Blends with the mean gray of the image, rounded to a whole level.
pub(super) fn contrast(pixels: &mut [u8], factor: f32) {
    let mean = mean_gray(pixels);
    map_levels(pixels, |value| blend(mean, value, factor));
}

/// Blends each pixel with its own gray.
pub(super) fn saturation(pixels: &mut [u8], factor: f32) {
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    for pixel in pixels {
        let gray = luma(*pixel);
        *pixel = pixel.map(|value| blend(gray, value, factor));
    }
}

/// Replaces all three channels of each pixel by its gray.
pub(super) fn gray(pixels: &mut [u8]) {
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    for pixel in pixels {
        *pixel = [luma(*pixel); 3];
    }
}

/// Adds `turns` x 255, truncated to a whole number, to the 8-bit hue, modulo 256.
pub(super) fn hue(pixels: &mut [u8], turns: f32) {
    let shift = hue_shift(turns);
    let to_rgb = ToRgb::new();
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    for pixel in pixels {
        let [h, s, v] = to_hsv(*pixel);
        *pixel = to_rgb.convert([h.wrapping_add(shift), s, v]);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "|turns| <= 0.5; modulo 256 is meant"
)]
fn hue_shift(turns: f32) -> u8 {
    (f64::from(turns) * 255.0) as i32 as u8
}

/// Changes each level independently, through a table.
fn map_levels(pixels: &mut [u8], level: impl Fn(u8) -> u8) {
    let mut table = [0; 256];
    for (value, entry) in (0..=u8::MAX).zip(&mut table) {
        *entry = level(value);
    }
    for value in pixels {
        *value = table[usize::from(*value)];
    }
}

/// `base` + `factor` (`value` - `base`), truncated and clamped.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "Pillow truncates; `as` clamps")]
fn blend(base: u8, value: u8, factor: f32) -> u8 {
    let (base, value) = (f32::from(base), f32::from(value));
    (base + factor * (value - base)) as u8
}

/// ITU-R 601 luma in 16-bit fixed point.
#[expect(clippy::cast_possible_truncation, reason = "the weights sum to 2^16")]
fn luma([r, g, b]: [u8; 3]) -> u8 {
    let [r, g, b] = [r, g, b].map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of bytes is a byte")]
fn mean_gray(pixels: &[u8]) -> u8 {
    let (pixels, _) = pixels.as_chunks::<3>();
    let sum: u64 = pixels.iter().map(|pixel| u64::from(luma(*pixel))).sum();
    (sum as f64 / pixels.len() as f64 + 0.5) as u8
}

/// Pillow's `rgb2hsv`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "Pillow truncates to [0, 255]")]
fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let max = r.max(g).max(b);
    let min = r.min(g).min(b);
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let distance = |value: u8| f32::from(max - value) / range;
    let hue = if r == max {
        distance(b) - distance(g)
    } else if g == max {
        (2.0 + f64::from(distance(r)) - f64::from(distance(b))) as f32
    } else {
        (4.0 + f64::from(distance(g)) - f64::from(distance(r))) as f32
    };
    // Pillow's fmod(.., 1); the argument is below 2, where subtracting is exact and much faster.
    let turns = f64::from(hue) / 6.0 + 1.0;
    let turns = (if turns >= 1.0 { turns - 1.0 } else { turns }) as f32;
    [(f64::from(turns) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
}

/// Pillow's `hsv2rgb`, with tables for the terms that depend on a single byte.
struct ToRgb {
    /// For each hue: the sextant of the color circle, and the fraction of it.
    sectors: [(u8, f64); 256],
    /// For each saturation: its fraction of 255.
    shares: [f64; 256],
}

impl ToRgb {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float as in Pillow; a sixth"
    )]
    fn new() -> Self {
        let (mut sectors, mut shares) = ([(0, 0.0); 256], [0.0; 256]);
        for (byte, (sector, share)) in (0..=u8::MAX).zip(sectors.iter_mut().zip(&mut shares)) {
            let sixths = f64::from(byte) * 6.0 / 255.0;
            *sector = (sixths as u8 % 6, f64::from((sixths - sixths.floor()) as f32));
            *share = f64::from((f64::from(byte) / 255.0) as f32);
        }
        Self { sectors, shares }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares of a byte")]
    fn convert(&self, [h, s, v]: [u8; 3]) -> [u8; 3] {
        if s == 0 {
            return [v; 3];
        }
        let (sector, rest) = self.sectors[usize::from(h)];
        let share = self.shares[usize::from(s)];
        // The value is never negative, so adding a half and truncating rounds it, without a function call per pixel.
        let level = |part: f64| (f64::from(v) * part + 0.5) as u8;
        let p = level(1.0 - share);
        let q = level(1.0 - share * rest);
        let t = level(1.0 - share * (1.0 - rest));
        match sector {
            0 => [v, t, p],
            1 => [q, v, p],
            2 => [p, v, t],
            3 => [p, q, v],
            4 => [t, p, v],
            _ => [v, p, q],
        }
    }
}
