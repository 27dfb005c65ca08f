//! Pillow's `GaussianBlur`, which MoCo-v2 uses: three passes of a box of fractional width, each rounded to 8 bits.
//!
//! The box's radius follows Gwosdek et al., "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering"
//! (SSVM 2011), in 24-bit fixed point. All arithmetic uses integers, so the result is bit-identical to Pillow's and the
//! same on every machine.

use pulp::NullaryFnOnce;

use super::lanes::vectorized;

const CHANNELS: usize = 3;
/// Passes per direction.
const PASSES: u8 = 3;
/// Side of a tile of the transposition, in pixels.
const TILE: usize = 16;
const ONE: u32 = 1 << 24;
const HALF: u32 = 1 << 23;

/// A box of `2 radius + 1` pixels with weight `full`, and one pixel with weight `far` at each end. The weights sum to
/// 2^24.
#[derive(Clone, Copy)]
struct Kernel {
    radius: usize,
    full: u32,
    far: u32,
}

/// Blurs RGB8 [side, side, 3] in place with a Gaussian of `sigma` pixels; edges are replicated.
pub(super) fn gaussian(pixels: &mut [u8], side: usize, sigma: f32) {
    let Some(kernel) = Kernel::of(sigma) else { return };
    let mut scratch = vec![0; pixels.len()];
    let mut sums = vec![0; side * CHANNELS];
    vectorized(Passes { kernel, side, pixels, scratch: &mut scratch, sums: &mut sums });
}

/// The passes of one blur. Rows are filtered as the columns of the transposed image: all columns advance together, so their
/// running sums are vectors.
struct Passes<'a> {
    kernel: Kernel,
    side: usize,
    pixels: &'a mut [u8],
    scratch: &'a mut [u8],
    sums: &'a mut [u32],
}

impl NullaryFnOnce for Passes<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Passes { kernel, side, pixels, scratch, sums } = self;
        // Rows, then columns. Three passes and the transposition leave the result in `pixels`.
        for _ in 0..2 {
            transpose(pixels, scratch, side);
            kernel.blur_columns(scratch, pixels, sums);
            kernel.blur_columns(pixels, scratch, sums);
            kernel.blur_columns(scratch, pixels, sums);
        }
    }
}

/// Transposes [side, side, 3] in square tiles, which stay in the first-level cache.
#[inline(always)]
fn transpose(source: &[u8], target: &mut [u8], side: usize) {
    let (source, _) = source.as_chunks::<CHANNELS>();
    let (target, _) = target.as_chunks_mut::<CHANNELS>();
    for top in (0..side).step_by(TILE) {
        for left in (0..side).step_by(TILE) {
            for x in left..side.min(left + TILE) {
                for y in top..side.min(top + TILE) {
                    target[x * side + y] = source[y * side + x];
                }
            }
        }
    }
}

impl Kernel {
    /// Returns `None` if the blur would change nothing.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and far below 2^24"
    )]
    fn of(sigma: f32) -> Option<Self> {
        let radius = box_radius(sigma);
        if radius <= 0.0 {
            return None;
        }
        let full = (ONE as f32 / (radius * 2.0 + 1.0)) as u32;
        let whole = radius as u32;
        let far = (ONE - (whole * 2 + 1) * full) / 2;
        Some(Self { radius: usize::try_from(whole).ok()?, full, far })
    }

    #[inline(always)]
    fn weigh(self, sum: u32, left: u8, right: u8) -> u8 {
        ((sum * self.full + (u32::from(left) + u32::from(right)) * self.far + HALF) >> 24) as u8
    }

    /// Filters all columns at once, with running sums of whole rows.
    #[inline(always)]
    fn blur_columns(self, source: &[u8], target: &mut [u8], sums: &mut [u32]) {
        let stride = sums.len();
        let row = |index: usize| &source[index * stride..][..stride];
        let last = source.len() / stride - 1;
        sums.fill(0);
        for position in 0..self.radius {
            add(sums, row(position.min(last)));
        }
        for _ in 0..=self.radius {
            add(sums, row(0));
        }
        for (position, output) in target.chunks_exact_mut(stride).enumerate() {
            let left = row(position.saturating_sub(self.radius + 1));
            let entering = row((position + self.radius).min(last));
            let right = row((position + self.radius + 1).min(last));
            let inputs = left.iter().zip(entering).zip(right);
            for ((output, sum), ((&left, &entering), &right)) in output.iter_mut().zip(&mut *sums).zip(inputs)
            {
                *sum = *sum + u32::from(entering) - u32::from(left);
                *output = self.weigh(*sum, left, right);
            }
        }
    }
}

#[inline(always)]
fn add(sums: &mut [u32], values: &[u8]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += u32::from(value);
    }
}

/// Fractional radius of a box that, applied three times, has the variance of a Gaussian of `sigma`.
#[expect(clippy::cast_possible_truncation, reason = "Pillow computes in double and keeps a float")]
fn box_radius(sigma: f32) -> f32 {
    let variance = sigma * sigma / f32::from(PASSES);
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
    whole + fraction
}
