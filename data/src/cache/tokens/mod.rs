//! Stored tokens: the teacher's patch tokens of every view, for objectives that match them.
//!
//! ```text
//! cache/tokens-00000.parquet   row for row with views-00000.parquet; only in a cache that stores tokens
//!     tokens                   fixed-size binary, [rows, columns, dim]: f16, little-endian, or i8
//!     scale                    with i8 only: f16 [rows x columns]; a value is its i8 x the scale of its token
//! cache/tokens.safetensors     the projection, if tokens are projected
//! ```
//!
//! Every token is standardized over its values before it is stored ([`standardize`]), so that stored tokens have the
//! same scale for every teacher. Rows are about 100 KB wide. They are stored as bytes rather than lists, so writing is
//! as fast as the disk.

mod reader;
mod writer;

use half::f16;
use half::slice::HalfFloatSliceExt;

pub use reader::TokenColumn;
pub(super) use writer::TokenWriter;

/// Column names.
const TOKENS: &str = "tokens";
const SCALE: &str = "scale";

/// Added to a variance before its square root is taken, as in layer normalization.
const EPSILON: f32 = 1e-6;

/// Largest magnitude of an int8 value.
const LARGEST: f32 = 127.0;

/// Standardizes tokens of width `dim` in place, each over its own values, to mean 0 and variance 1 in f32.
///
/// Returns `false` if a value or its square is not finite. The tokens are then unusable.
#[must_use]
pub fn standardize(tokens: &mut [f32], dim: usize) -> bool {
    tokens.chunks_exact_mut(dim).all(|token| {
        #[expect(clippy::cast_precision_loss, reason = "tokens have far fewer than 2^24 values")]
        let count = token.len() as f32;
        let mean = sum(token, |value| value) / count;
        let variance = sum(token, |value| (value - mean) * (value - mean)) / count;
        let factor = 1.0 / (variance + EPSILON).sqrt();
        for value in token {
            *value = (*value - mean) * factor;
        }
        variance.is_finite()
    })
}

/// The sum of `of` over a slice, accumulated in lanes: this is faster and more accurate than one running sum.
fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; 16];
    let chunks = values.chunks_exact(lanes.len());
    let rest: f32 = chunks.remainder().iter().map(|&value| of(value)).sum();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += of(value);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Appends values as little-endian f16.
fn push_halves(values: &[f32], out: &mut Vec<u8>) {
    let mut halves = [f16::ZERO; 512];
    for values in values.chunks(halves.len()) {
        let halves = &mut halves[..values.len()];
        halves.convert_from_f32_slice(values);
        for half in halves {
            out.extend_from_slice(&half.to_le_bytes());
        }
    }
}

/// Appends one token as i8 and returns its scale: largest magnitude / 127, rounded up to f16. Because the scale is
/// rounded up, no value is off by more than half a scale.
fn push_int8(token: &[f32], out: &mut Vec<u8>) -> f16 {
    let largest = token.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let wanted = largest / LARGEST;
    let mut scale = f16::from_f32(wanted);
    if scale.to_f32() < wanted {
        scale = f16::from_bits(scale.to_bits() + 1);
    }
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    out.extend(token.iter().map(|value| {
        #[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i8")]
        let rounded = (value * inverse).round_ties_even().clamp(-LARGEST, LARGEST) as i8;
        rounded.to_le_bytes()[0]
    }));
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_standardized_each_by_itself() {
        let mut tokens: Vec<f32> =
            (0..37).map(|i| i as f32).chain((0..37).map(|i| 5.0 - (i % 2) as f32)).collect();
        assert!(standardize(&mut tokens, 37));
        for token in tokens.chunks(37) {
            let mean = token.iter().map(|&x| f64::from(x)).sum::<f64>() / 37.0;
            let variance = token.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 37.0;
            assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{mean} {variance}");
        }
    }

    #[test]
    fn a_constant_token_becomes_zeros_and_one_out_of_range_is_refused() {
        let mut tokens = vec![3.0; 8];
        assert!(standardize(&mut tokens, 8) && tokens == [0.0; 8]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            let mut tokens: Vec<f32> = (0..16).map(|i| i as f32).collect();
            tokens[11] = bad;
            assert!(!standardize(&mut tokens, 8), "{bad}");
        }
    }

    #[test]
    fn int8_is_never_off_by_more_than_half_a_scale() {
        for magnitude in [1e-6, 1e-3, 0.7, 1.0, 30.0, 60_000.0_f32] {
            for shift in 0..50 {
                let wave = |i: i32| ((i * 7919 + shift * 31) % 1009) as f32 / 504.5 - 1.0;
                let token: Vec<f32> = (0..64).map(|i| magnitude * wave(i)).collect();
                let mut bytes = Vec::new();
                let scale = push_int8(&token, &mut bytes).to_f32();
                let largest = token.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                // The scale is at most one f16 step above the exact quotient.
                assert!(scale <= largest / 127.0 * 1.001 + 6e-8, "{scale} {largest}");
                for (value, byte) in token.iter().zip(&bytes) {
                    let back = f32::from(i8::from_le_bytes([*byte])) * scale;
                    assert!((back - value).abs() <= scale * 0.50001, "{value} {back} {scale}");
                }
            }
        }
        assert_eq!(push_int8(&[0.0; 4], &mut Vec::new()), f16::ZERO);
    }
}
