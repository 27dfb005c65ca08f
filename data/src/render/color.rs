//! Color changes in the arithmetic of Pillow's `Image.blend`, `convert("L")` and `convert("HSV")`, which torchvision's
//! `adjust_*` functions use on Pillow images. The results are bit-identical: `f32` and `f64` are used where Pillow's C
//! code has `float` and `double`. The tests compare all 2^24 colors with Pillow's.
//!
//! All functions work in place on RGB8 pixels, [n, 3]. Operations are loops over blocks without branches ([`super::lanes`]): both
//! sides of a condition are computed, and one is selected.

use pulp::NullaryFnOnce;

use super::lanes::{Block, BlockOp, Channels, LANES, for_each_block, truncated, truncated_f64, vectorized};

/// Blends with black: multiplies each value by `factor`.
pub(super) fn brightness(pixels: &mut [u8], factor: f32) {
    for_each_block(pixels, Blend { base: 0.0, factor });
}

/// Blends with the mean gray of the image, rounded to a whole level.
pub(super) fn contrast(pixels: &mut [u8], factor: f32) {
    let base = f32::from(mean_gray(pixels));
    for_each_block(pixels, Blend { base, factor });
}

/// Blends each pixel with its own gray.
pub(super) fn saturation(pixels: &mut [u8], factor: f32) {
    for_each_block(pixels, Saturation { factor });
}

/// Replaces all three channels of each pixel by its gray.
pub(super) fn gray(pixels: &mut [u8]) {
    for_each_block(pixels, Gray);
}

/// Adds `shift` x 255 to the channels, rounded to whole levels (halves to even) and clamped. PyTorch's `Lighting` adds to
/// floats, without rounding.
pub(super) fn lighting(pixels: &mut [u8], shift: [f32; 3]) {
    for_each_block(pixels, Lighting { levels: shift.map(|shift| 255.0 * shift) });
}

/// Adds `turns` x 255, truncated to a whole number, to the 8-bit hue, modulo 256.
pub(super) fn hue(pixels: &mut [u8], turns: f32) {
    for_each_block(pixels, Hue { shift: hue_shift(turns) });
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "|turns| <= 0.5; modulo 256 is meant"
)]
fn hue_shift(turns: f32) -> u8 {
    (f64::from(turns) * 255.0) as i32 as u8
}

/// `base` + `factor` (`value` - `base`), truncated and clamped.
#[inline(always)]
fn blend(base: f32, value: u8, factor: f32) -> u8 {
    truncated((base + factor * (f32::from(value) - base)).clamp(0.0, 255.0))
}

/// ITU-R 601 luma in 16-bit fixed point, 0 to 255.
#[inline(always)]
fn luma(r: u8, g: u8, b: u8) -> u32 {
    let [r, g, b] = [r, g, b].map(u32::from);
    (r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of bytes is a byte")]
fn mean_gray(pixels: &[u8]) -> u8 {
    let (pixels, _) = pixels.as_chunks::<3>();
    let sum = vectorized(SumOfGray(pixels));
    (sum as f64 / pixels.len() as f64 + 0.5) as u8
}

/// The sum of the pixels' luma.
struct SumOfGray<'a>(&'a [[u8; 3]]);

impl NullaryFnOnce for SumOfGray<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        // A block of 2^16 lumas fits in 32 bits, in which twice as many lanes are added at a time.
        let blocks = self.0.chunks(1 << 16);
        blocks.map(|block| u64::from(block.iter().map(|&[r, g, b]| luma(r, g, b)).sum::<u32>())).sum()
    }
}

/// Blends every value with one level.
struct Blend {
    base: f32,
    factor: f32,
}

impl BlockOp for Blend {
    #[inline(always)]
    fn apply(&self, block: &mut Block) {
        for value in block.as_flattened_mut() {
            *value = blend(self.base, *value, self.factor);
        }
    }
}

/// Blends every pixel with its gray.
struct Saturation {
    factor: f32,
}

impl BlockOp for Saturation {
    #[inline(always)]
    fn apply(&self, block: &mut Block) {
        let mut channels = Channels::split(block);
        let Channels { r, g, b } = &mut channels;
        for lane in 0..LANES {
            // At most 255, so the conversion is exact.
            let gray = luma(r[lane], g[lane], b[lane]) as f32;
            r[lane] = blend(gray, r[lane], self.factor);
            g[lane] = blend(gray, g[lane], self.factor);
            b[lane] = blend(gray, b[lane], self.factor);
        }
        channels.store(block);
    }
}

/// Replaces every pixel by its gray.
struct Gray;

impl BlockOp for Gray {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a luma is a byte")]
    fn apply(&self, block: &mut Block) {
        let Channels { r, g, b } = Channels::split(block);
        let mut gray = [0; LANES];
        for lane in 0..LANES {
            gray[lane] = luma(r[lane], g[lane], b[lane]) as u8;
        }
        Channels { r: gray, g: gray, b: gray }.store(block);
    }
}

/// Adds a number of levels to each channel.
struct Lighting {
    levels: [f32; 3],
}

impl BlockOp for Lighting {
    #[inline(always)]
    fn apply(&self, block: &mut Block) {
        let mut channels = Channels::split(block);
        let Channels { r, g, b } = &mut channels;
        for (values, levels) in [r, g, b].into_iter().zip(self.levels) {
            for value in values.iter_mut() {
                *value = truncated((f32::from(*value) + levels).round_ties_even().clamp(0.0, 255.0));
            }
        }
        channels.store(block);
    }
}

/// Rotates the hue of every pixel by `shift` 255ths of a turn, through HSV.
struct Hue {
    shift: u8,
}

impl BlockOp for Hue {
    #[inline(always)]
    fn apply(&self, block: &mut Block) {
        let mut hsv = to_hsv(&Channels::split(block));
        for hue in &mut hsv.hue {
            *hue = hue.wrapping_add(self.shift);
        }
        to_rgb(&hsv).store(block);
    }
}

/// Pixels as hue, saturation and value, one byte each.
struct Hsv {
    hue: [u8; LANES],
    saturation: [u8; LANES],
    value: [u8; LANES],
}

/// Pillow's `rgb2hsv`.
#[inline(always)]
fn to_hsv(channels: &Channels) -> Hsv {
    let mut hsv = Hsv { hue: [0; LANES], saturation: [0; LANES], value: [0; LANES] };
    for lane in 0..LANES {
        let [r, g, b] = [channels.r[lane], channels.g[lane], channels.b[lane]].map(f32::from);
        let max = r.max(g).max(b);
        let range = max - r.min(g).min(b);
        // Gray has no hue and no saturation; a divisor of 1 keeps its lanes finite until they are overwritten.
        let is_gray = range == 0.0;
        let divisor = range.max(1.0);
        let [to_r, to_g, to_b] = [(max - r) / divisor, (max - g) / divisor, (max - b) / divisor];
        let (is_r, is_g) = (r == max, g == max);
        let (sector, plus, minus) = if is_r {
            (0.0, to_b, to_g)
        } else if is_g {
            (2.0, to_r, to_b)
        } else {
            (4.0, to_g, to_r)
        };
        // Pillow computes the first sector in float and the others in double. f64 holds both sums exactly, so one rounding at the
        // end is the same.
        let sixths = single(sector + f64::from(plus) - f64::from(minus));
        // Pillow's fmod(.., 1); the argument is below 2, where subtracting is exact and much faster.
        let turns = f64::from(sixths) / 6.0 + 1.0;
        let turns = single(if turns >= 1.0 { turns - 1.0 } else { turns });
        let hue = truncated_f64(f64::from(turns) * 255.0);
        let saturation = truncated_f64(f64::from(range / max.max(1.0)) * 255.0);
        hsv.hue[lane] = if is_gray { 0 } else { hue };
        hsv.saturation[lane] = if is_gray { 0 } else { saturation };
        hsv.value[lane] = truncated(max);
    }
    hsv
}

/// Pillow's `hsv2rgb`. Without saturation, all three levels equal the value, so gray needs no case of its own.
#[inline(always)]
fn to_rgb(hsv: &Hsv) -> Channels {
    let mut channels = Channels { r: [0; LANES], g: [0; LANES], b: [0; LANES] };
    for lane in 0..LANES {
        let v = hsv.value[lane];
        let sixths = f64::from(hsv.hue[lane]) * 6.0 / 255.0;
        let sector = sixths.floor();
        let rest = f64::from(single(sixths - sector));
        let share = f64::from(single(f64::from(hsv.saturation[lane]) / 255.0));
        // The value is never negative, so adding a half and truncating rounds it.
        let p = truncated_f64(f64::from(v) * (1.0 - share) + 0.5);
        let q = truncated_f64(f64::from(v) * (1.0 - share * rest) + 0.5);
        let t = truncated_f64(f64::from(v) * (1.0 - share * (1.0 - rest)) + 0.5);
        // A hue of 255 is 6 sixths: the first sector again.
        let is_0 = (sector == 0.0) | (sector == 6.0);
        let [is_1, is_2, is_3, is_4, is_5] = [1.0, 2.0, 3.0, 4.0, 5.0].map(|number| sector == number);
        channels.r[lane] = if is_0 | is_5 {
            v
        } else if is_1 {
            q
        } else if is_4 {
            t
        } else {
            p
        };
        channels.g[lane] = if is_1 | is_2 {
            v
        } else if is_3 {
            q
        } else if is_0 {
            t
        } else {
            p
        };
        channels.b[lane] = if is_3 | is_4 {
            v
        } else if is_5 {
            q
        } else if is_2 {
            t
        } else {
            p
        };
    }
    channels
}

/// Rounds to f32, as Pillow does where it stores a double in a float.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// `colors.json`: checksums of Pillow's changes of an image that has every color once, by `tests/goldens/make_colors.py`.
    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        change: String,
        amount: f32,
        checksum: u64,
    }

    fn checksum(pixels: &[u8]) -> u64 {
        let weight = |index: u64| (index * 2_654_435_761 + 12_345) & 0xffff_ffff;
        let weighted = (0..).zip(pixels).map(|(index, &byte)| u64::from(byte) * weight(index));
        weighted.fold(0, u64::wrapping_add)
    }

    #[test]
    fn every_color_becomes_pillows() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/goldens/colors.json")).unwrap();
        let every: Vec<u8> =
            (0..1_u32 << 24).flat_map(|color| color.to_le_bytes().into_iter().take(3)).collect();
        assert_eq!(golden.cases.len(), 19);
        for Case { change, amount, checksum: expected } in golden.cases {
            let mut pixels = every.clone();
            match change.as_str() {
                "brightness" => brightness(&mut pixels, amount),
                "contrast" => contrast(&mut pixels, amount),
                "saturation" => saturation(&mut pixels, amount),
                "hue" => hue(&mut pixels, amount),
                _ => gray(&mut pixels),
            }
            assert_eq!(checksum(&pixels), expected, "{change} {amount}");
        }
    }

    /// The last block of an image is shorter than the others.
    #[test]
    fn the_last_pixels_are_changed_like_the_others() {
        let pixels: Vec<u8> = (0..=u8::MAX).cycle().take(3 * (3 * LANES + 5)).collect();
        let mut together = pixels.clone();
        hue(&mut together, 0.07);
        saturation(&mut together, 1.3);
        for (one, expected) in pixels.chunks(3).zip(together.chunks(3)) {
            let mut one = one.to_vec();
            hue(&mut one, 0.07);
            saturation(&mut one, 1.3);
            assert_eq!(one, expected);
        }
    }
}
