//! Passes over one row of logits: maximum, sum of exponentials, maxima of interleaved groups.
//!
//! They are written so that the compiler vectorizes them, and compiled once per instruction set. Sums use 16 fixed
//! lanes, so every instruction set returns the same bits.

use super::Isa;

/// Number of lanes in a sum.
const LANES: usize = 16;

/// Exponentials of arguments below this are 0. Half the smallest f16 is `exp(-17.3)`, so no stored value is affected.
const SMALLEST: f32 = -87.0;

/// `exp(x)` for `x <= 0`, within 2 units in the last place; 0 below -87.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts (Cody and Waite). The first has few bits, so n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // Minimax polynomial of Cephes' expf on [-ln 2 / 2, ln 2 / 2].
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, c);
    }
    let p = (p * r).mul_add(r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < SMALLEST { 0.0 } else { p * scale }
}

/// Position and value of the largest element; the first one on a tie.
pub(crate) fn first_maximum(values: &[f32], isa: Isa) -> (usize, f32) {
    let largest = isa.maximum(values);
    (values.iter().position(|&value| value == largest).unwrap_or(0), largest)
}

#[inline(always)]
fn maximum_body(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

#[inline(always)]
fn sum_exp_body(logits: &[f32], largest: f32, inverse_temperature: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane += exp_nonpositive((logit - largest) * inverse_temperature);
        }
    }
    for (lane, &logit) in lanes.iter_mut().zip(rest) {
        *lane += exp_nonpositive((logit - largest) * inverse_temperature);
    }
    lanes.iter().sum()
}

#[inline(always)]
fn exponentials_body(logits: &[f32], largest: f32, inverse_temperature: f32, out: &mut [f32]) {
    for (out, &logit) in out.iter_mut().zip(logits) {
        *out = exp_nonpositive((logit - largest) * inverse_temperature);
    }
}

#[inline(always)]
fn group_maxima_body(values: &[f32], groups: &mut [f32]) {
    groups.fill(f32::NEG_INFINITY);
    for chunk in values.chunks(groups.len()) {
        for (group, &value) in groups.iter_mut().zip(chunk) {
            *group = if value > *group { value } else { *group };
        }
    }
}

#[inline(always)]
fn squared_norm_body(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = value.mul_add(value, *lane);
        }
    }
    rest.iter().map(|value| value * value).chain(lanes).sum()
}

/// Compiles a function body for every instruction set and makes it a method of [`Isa`].
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        impl Isa {
            $(#[$doc])*
            pub(crate) fn $name(self, $($arg: $type),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    $body($($arg),*)
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    $body($($arg),*)
                }
                match self {
                    #[cfg(target_arch = "x86_64")]
                    #[expect(unsafe_code, reason = "calls a function compiled for the detected instruction set")]
                    // SAFETY: `Isa::detect` yields `Avx512` only if AVX-512F is present.
                    Isa::Avx512 => unsafe { avx512($($arg),*) },
                    #[cfg(target_arch = "x86_64")]
                    #[expect(unsafe_code, reason = "calls a function compiled for the detected instruction set")]
                    // SAFETY: `Isa::detect` yields `Avx2` only if AVX2 and FMA are present.
                    Isa::Avx2 => unsafe { avx2($($arg),*) },
                    Isa::Portable => $body($($arg),*),
                }
            }
        }
    };
}

pub(super) use for_each_isa;

for_each_isa! {
    /// The largest of `values`; negative infinity if there are none.
    maximum = maximum_body(values: &[f32]) -> f32
}
for_each_isa! {
    /// Sum of squares.
    squared_norm = squared_norm_body(values: &[f32]) -> f32
}
for_each_isa! {
    /// Sum of `exp((logit - largest) * inverse_temperature)`; `largest` is the largest logit.
    sum_exp = sum_exp_body(logits: &[f32], largest: f32, inverse_temperature: f32) -> f32
}
for_each_isa! {
    /// Writes `exp((logit - largest) * inverse_temperature)`, not yet divided by its sum.
    exponentials = exponentials_body(logits: &[f32], largest: f32, inverse_temperature: f32, out: &mut [f32])
}
for_each_isa! {
    /// The maxima of `groups.len()` interleaved groups: element i belongs to group `i % groups.len()`.
    group_maxima = group_maxima_body(values: &[f32], groups: &mut [f32])
}

#[cfg(test)]
mod tests {
    use super::super::runnable;
    use super::*;

    #[test]
    fn the_exponential_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for step in 0..870_000u32 {
            let x = -f64::from(step) * 1e-4;
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
            let x = x as f32;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - exact).abs() / (exact * f64::from(f32::EPSILON));
            worst = worst.max(error);
        }
        assert!(worst < 2.0, "{worst}");
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-88.0), 0.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let values: Vec<f32> = (0..1003u16).map(|i| (f32::from(i) * 0.37).sin()).collect();
        let largest = Isa::Portable.maximum(&values);
        assert_eq!(largest, values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum = Isa::Portable.sum_exp(&values, largest, 100.0);
        let mut groups = vec![0.0; 64];
        Isa::Portable.group_maxima(&values, &mut groups);
        for isa in runnable() {
            assert_eq!(isa.maximum(&values), largest);
            assert_eq!(isa.sum_exp(&values, largest, 100.0).to_bits(), sum.to_bits());
            let mut other = vec![0.0; 64];
            isa.group_maxima(&values, &mut other);
            assert_eq!(other, groups);
        }
    }

    #[test]
    fn the_first_of_equal_maxima_wins() {
        assert_eq!(first_maximum(&[0.5, 2.0, -1.0, 2.0], Isa::detect()), (1, 2.0));
    }
}
