//! Activation functions and their gradients, as inlined scalar code that the callers' loops vectorize.

use std::any::TypeId;

use pulp::{Scalar256b, Simd, WithSimd};

use crate::simd;

/// A function of single values, used after a normalization or a sum, or on its own. A NaN stays a NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The argument itself.
    Identity,
    /// `max(x, 0)`; the gradient at 0 is 0, as in PyTorch.
    Relu,
    /// `min(max(x, 0), 6)`; the gradient at 0 and at 6 is 0, as in PyTorch.
    Relu6,
    /// `x * relu6(x + 3) / 6`; the gradient at -3 is 0 and at 3 is 1, as in PyTorch.
    HardSwish,
    /// `relu6(x + 3) / 6`; the gradient at -3 and at 3 is 0, as in PyTorch.
    HardSigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 7] = [
        Self::Identity,
        Self::Relu,
        Self::Relu6,
        Self::HardSwish,
        Self::HardSigmoid,
        Self::Silu,
        Self::Sigmoid,
    ];

    /// Whether the value determines the derivative, so that a backward pass only needs the value.
    pub fn has_derivative_of_value(self) -> bool {
        match self {
            Self::Identity | Self::Relu | Self::Relu6 => true,
            Self::HardSwish | Self::HardSigmoid | Self::Silu | Self::Sigmoid => false,
        }
    }

    /// The function's value.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        self.value(x, false)
    }

    /// The gradient of the argument `x`, from the gradient `dy` of the value; a NaN in `x` lets `dy` through.
    #[inline(always)]
    pub fn gradient(self, x: f32, dy: f32) -> f32 {
        self.backward(x, dy, false)
    }

    #[inline(always)]
    fn value(self, x: f32, fused: bool) -> f32 {
        match self {
            Self::Identity => x,
            Self::Relu => clamp(x, (0.0, f32::INFINITY)),
            Self::Relu6 => clamp(x, (0.0, 6.0)),
            Self::HardSwish => x * clamp(x + 3.0, (0.0, 6.0)) * (1.0 / 6.0),
            Self::HardSigmoid => clamp(x + 3.0, (0.0, 6.0)) * (1.0 / 6.0),
            Self::Silu => x * sigmoid(x, fused),
            Self::Sigmoid => sigmoid(x, fused),
        }
    }

    #[inline(always)]
    fn backward(self, x: f32, dy: f32, fused: bool) -> f32 {
        match self {
            Self::Identity => dy,
            Self::Relu => outside(x, (0.0, f32::INFINITY), (0.0, dy), dy),
            Self::Relu6 => outside(x, (0.0, 6.0), (0.0, 0.0), dy),
            Self::HardSwish => outside(x, (-3.0, 3.0), (0.0, dy), dy * (x * (1.0 / 3.0) + 0.5)),
            Self::HardSigmoid => outside(x, (-3.0, 3.0), (0.0, 0.0), dy * (1.0 / 6.0)),
            Self::Silu => {
                let s = sigmoid(x, fused);
                dy * (s * (1.0 + x * (1.0 - s)))
            }
            Self::Sigmoid => {
                let s = sigmoid(x, fused);
                dy * (s * (1.0 - s))
            }
        }
    }
}

/// An activation that loops are compiled for.
#[derive(Clone, Copy)]
pub(crate) struct Fixed {
    pub(crate) activation: Activation,
    /// Whether multiply-add is one instruction. If it is not, a fused multiply-add costs a function call.
    pub(crate) fused: bool,
}

impl Fixed {
    /// [`Activation::apply`].
    #[inline(always)]
    pub(crate) fn apply(self, x: f32) -> f32 {
        self.activation.value(x, self.fused)
    }

    /// [`Activation::gradient`].
    #[inline(always)]
    pub(crate) fn gradient(self, x: f32, dy: f32) -> f32 {
        self.activation.backward(x, dy, self.fused)
    }
}

/// Evaluates the expression with the constant `$name` set to the activation, a [`Fixed`]. The loops inside are compiled
/// once per activation and do not branch per value.
macro_rules! for_activation {
    ($activation:expr, $name:ident => $body:expr) => {
        $crate::activation::for_activation!(@each $activation, $name => $body;
            Identity _ false, Relu _ false, Relu6 _ false, HardSwish _ false, HardSigmoid _ false,
            Silu false false, Silu true true, Sigmoid false false, Sigmoid true true)
    };
    (@each $activation:expr, $name:ident => $body:expr; $($variant:ident $when:tt $fused:literal),*) => {
        match ($activation, $crate::activation::is_fused()) {
            $(($crate::activation::Activation::$variant, $when) => {
                const $name: $crate::activation::Fixed = $crate::activation::Fixed {
                    activation: $crate::activation::Activation::$variant,
                    fused: $fused,
                };
                $body
            })*
        }
    };
}
pub(crate) use for_activation;

/// Whether the instruction set of this process multiplies and adds in one instruction.
pub(crate) fn is_fused() -> bool {
    struct IsFused;
    impl WithSimd for IsFused {
        type Output = bool;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> bool {
            TypeId::of::<S>() != TypeId::of::<Scalar256b>()
        }
    }
    simd::dispatch(IsFused)
}

/// `value` clamped to `bounds`; unlike `f32::clamp` it vectorizes, and unlike `max` and `min` it keeps a NaN.
#[inline(always)]
fn clamp(value: f32, (low, high): (f32, f32)) -> f32 {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}

/// `below` up to the lower bound, `above` from the upper bound on, `between` in the middle.
#[inline(always)]
fn outside(x: f32, (low, high): (f32, f32), (below, above): (f32, f32), between: f32) -> f32 {
    let value = if x <= low { below } else { between };
    if x >= high { above } else { value }
}

#[inline(always)]
fn sigmoid(x: f32, fused: bool) -> f32 {
    // Beyond these bounds the value is 0 or 1 for every purpose; within them, 2^n is a normal number.
    let (p, n) = exp_parts(clamp(-x, (-87.0, 87.0)), fused);
    1.0 / (1.0 + p * power_of_two(n))
}

/// `e^x` in arithmetic that vectorizes; within 3e-7 of the true value if that is a normal number. A NaN stays a NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let (p, n) = exp_parts(clamp(x, (-104.0, 89.0)), false);
    // 2^n as two factors: it may be outside the range of normal numbers although the result is not.
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `p` and `n` with `e^x = p 2^n`, for moderate `x`.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; the polynomial for `e^r` is that of Cephes' `expf`.
#[inline(always)]
fn exp_parts(x: f32, fused: bool) -> (f32, i32) {
    /// Adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; products of the first with an `n` of eight bits are exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let mul_add = |a: f32, b: f32, c: f32| if fused { a.mul_add(b, c) } else { a * b + c };
    let rounded = mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = mul_add(-n, LN_2.1, mul_add(-n, LN_2.0, x));
    let mut p = POLYNOMIAL[0];
    for &coefficient in &POLYNOMIAL[1..] {
        p = mul_add(p, r, coefficient);
    }
    let p = mul_add(p, r * r, r) + 1.0;
    (p, rounded.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed())
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned())
}
