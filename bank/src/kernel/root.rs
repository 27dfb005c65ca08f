//! Signed powers of a slice, which scale KDEP's targets.
//!
//! The standard library's `powf` takes a few dozen times as long as projecting the value and would dominate a bank's
//! build time. This version handles non-negative bases only and is vectorized.

use super::Isa;
use super::scan::for_each_isa;

/// `x^exponent` for a finite, non-negative `x` and an `exponent` from 0 to 1, with a relative error below 4e-6.
/// Returns 0 for `x` below the normal range.
#[inline(always)]
fn power(x: f32, exponent: f32) -> f32 {
    const LN_2: f32 = std::f32::consts::LN_2;
    // x = 2^n m with m in [sqrt(1/2), sqrt(2)), where the series converges fast.
    const SQRT_HALF: u32 = std::f32::consts::FRAC_1_SQRT_2.to_bits();
    let n = x.to_bits().wrapping_sub(SQRT_HALF).cast_signed() >> 23;
    let m = f32::from_bits(x.to_bits().wrapping_sub((n << 23).cast_unsigned()));
    // ln m = 2 artanh(s), by its series up to s^9; the next term is at most 4e-9 of the sum.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut series = 1.0f32 / 9.0;
    for coefficient in [1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        series = series.mul_add(square, coefficient);
    }
    let log2 = (series * s).mul_add(2.0 / LN_2, n as f32);

    // 2^t = 2^k e^r. Adding and subtracting 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let t = log2 * exponent;
    let shifted = t + ROUND;
    let r = (t - (shifted - ROUND)) * LN_2;
    // Taylor polynomial on [-ln 2 / 2, ln 2 / 2]; the next term is 1.2e-7.
    let mut e = 1.0f32 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        e = e.mul_add(r, coefficient);
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < f32::MIN_POSITIVE { 0.0 } else { e * scale }
}

#[inline(always)]
fn signed_powers_body(values: &mut [f32], scale: f32, exponent: f32) {
    for value in values {
        *value = power((*value * scale).abs(), exponent).copysign(*value);
    }
}

for_each_isa! {
    /// Replaces each value by `sign(value) |value * scale|^exponent`, for an exponent of 0 to 1 and finite products.
    signed_powers = signed_powers_body(values: &mut [f32], scale: f32, exponent: f32)
}

#[cfg(test)]
mod tests {
    use super::super::runnable;
    use super::*;

    /// Values of all magnitudes and both signs.
    fn values() -> Vec<f32> {
        let magnitudes = (0x0080_0000..0x7f00_0000u32).step_by(9973).map(f32::from_bits);
        magnitudes.flat_map(|value| [value, -value]).collect()
    }

    #[test]
    fn powers_are_those_of_the_library() {
        for exponent in [1.0f32, 0.5, 1.0 / 3.0, 0.1] {
            let mut got = values();
            Isa::detect().signed_powers(&mut got, 1.0, exponent);
            for (value, got) in values().into_iter().zip(got) {
                let exact = f64::from(value).abs().powf(f64::from(exponent)).copysign(f64::from(value));
                assert!(
                    (f64::from(got) - exact).abs() <= 4e-6 * exact.abs(),
                    "{value}^{exponent}: {got} {exact}"
                );
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits_and_nothing_stays_nothing() {
        let apply = |isa: Isa| {
            let mut values = values();
            values.extend([0.0, -0.0, 1e-40]);
            isa.signed_powers(&mut values, 0.3, 0.4);
            values.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let portable = apply(Isa::Portable);
        assert_eq!(portable[portable.len() - 3..], [0, 1 << 31, 0]);
        for isa in runnable() {
            assert!(apply(isa) == portable, "{isa:?}");
        }
    }
}
