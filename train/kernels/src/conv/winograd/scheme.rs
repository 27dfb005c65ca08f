//! The one-dimensional transforms of Winograd's minimal filtering, and their adjoints.
//!
//! `m` outputs of a filter `g` of three taps over `m + 2` inputs `d` are `Aᵀ[(G g) ⊙ (Bᵀ d)]`: `a` multiplications instead of
//! `3m`. In two dimensions each transform is applied along both axes. The matrices of [`Quad`] are those of Toom and Cook for
//! the points below and infinity (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
//!
//! The points determine the rounding error. Those of [`Quad`] are 0, ±3/4, ±3/2. They are symmetric, so that odd and
//! even parts are shared. They have few bits, so that the entries of `A` and `B` are exact. Their error is less than
//! half that of the usual 0, ±1, ±2.

use pulp::Simd;

/// `M` outputs with `A` multiplications, from `A` inputs.
pub(super) trait Scheme<const M: usize, const A: usize>: Copy + Send + Sync {
    /// Leading inputs that are ignored.
    const LEAD: usize;
    /// `Bᵀ d`: inputs.
    fn input<S: Simd>(simd: S, d: [S::f32s; A]) -> [S::f32s; A];
    /// `Aᵀ p`: products to outputs.
    fn output<S: Simd>(simd: S, p: [S::f32s; A]) -> [S::f32s; M];
    /// `A y`: gradients of outputs to gradients of products.
    fn output_adjoint<S: Simd>(simd: S, y: [S::f32s; M]) -> [S::f32s; A];
    /// `G g`: taps.
    fn weight<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; A];
    /// `Gᵀ u`: gradients of transformed taps to gradients of taps.
    fn weight_adjoint<S: Simd>(simd: S, u: [S::f32s; A]) -> [S::f32s; 3];
}

/// Two outputs from two inputs between zeros: 9 multiplications for 36.
///
/// `y₀ = g₁x₀ + g₂x₁` and `y₁ = g₀x₀ + g₁x₁` share `g₁(x₀ + x₁)`.
#[derive(Clone, Copy)]
pub(super) struct Pair;

impl Scheme<2, 3> for Pair {
    const LEAD: usize = 1;

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: [S::f32s; 3]) -> [S::f32s; 3] {
        [simd.add_f32s(d[0], d[1]), d[1], d[0]]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, p: [S::f32s; 3]) -> [S::f32s; 2] {
        [simd.add_f32s(p[0], p[1]), simd.add_f32s(p[0], p[2])]
    }

    #[inline(always)]
    fn output_adjoint<S: Simd>(simd: S, y: [S::f32s; 2]) -> [S::f32s; 3] {
        [simd.add_f32s(y[0], y[1]), y[0], y[1]]
    }

    #[inline(always)]
    fn weight<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; 3] {
        [g[1], simd.sub_f32s(g[2], g[1]), simd.sub_f32s(g[0], g[1])]
    }

    #[inline(always)]
    fn weight_adjoint<S: Simd>(simd: S, u: [S::f32s; 3]) -> [S::f32s; 3] {
        [u[2], simd.sub_f32s(u[0], simd.add_f32s(u[1], u[2])), u[1]]
    }
}

/// `F(4, 3)` at 0, ±3/4, ±3/2: 36 multiplications for 144.
#[derive(Clone, Copy)]
pub(super) struct Quad;

/// The inner points.
const P: f32 = 0.75;
/// The outer points.
const Q: f32 = 1.5;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;
/// Weights of the points 0, ±P and ±Q.
const G0: f32 = 1.0 / (P2 * Q2);
const GP: f32 = 1.0 / (2.0 * P2 * (P2 - Q2));
const GQ: f32 = 1.0 / (2.0 * Q2 * (Q2 - P2));

/// `factor * a + b`.
#[inline(always)]
fn fma<S: Simd>(simd: S, factor: f32, a: S::f32s, b: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(factor), a, b)
}

/// `factor * a`.
#[inline(always)]
fn times<S: Simd>(simd: S, factor: f32, a: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), a)
}

/// `even ± point * odd`.
#[inline(always)]
fn mirrored<S: Simd>(simd: S, point: f32, even: S::f32s, odd: S::f32s) -> [S::f32s; 2] {
    [fma(simd, point, odd, even), fma(simd, -point, odd, even)]
}

impl Scheme<4, 6> for Quad {
    const LEAD: usize = 0;

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
        let [p, minus_p] = mirrored(simd, P, fma(simd, -Q2, d[2], d[4]), fma(simd, -Q2, d[1], d[3]));
        let [q, minus_q] = mirrored(simd, Q, fma(simd, -P2, d[2], d[4]), fma(simd, -P2, d[1], d[3]));
        [
            fma(simd, P2 * Q2, d[0], fma(simd, -(P2 + Q2), d[2], d[4])),
            p,
            minus_p,
            q,
            minus_q,
            fma(simd, P2 * Q2, d[1], fma(simd, -(P2 + Q2), d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, p: [S::f32s; 6]) -> [S::f32s; 4] {
        let (even_p, odd_p) = (simd.add_f32s(p[1], p[2]), simd.sub_f32s(p[1], p[2]));
        let (even_q, odd_q) = (simd.add_f32s(p[3], p[4]), simd.sub_f32s(p[3], p[4]));
        [
            simd.add_f32s(simd.add_f32s(p[0], even_p), even_q),
            fma(simd, P, odd_p, times(simd, Q, odd_q)),
            fma(simd, P2, even_p, times(simd, Q2, even_q)),
            fma(simd, P2 * P, odd_p, fma(simd, Q2 * Q, odd_q, p[5])),
        ]
    }

    #[inline(always)]
    fn output_adjoint<S: Simd>(simd: S, y: [S::f32s; 4]) -> [S::f32s; 6] {
        let [p, minus_p] = mirrored(simd, P, fma(simd, P2, y[2], y[0]), fma(simd, P2, y[3], y[1]));
        let [q, minus_q] = mirrored(simd, Q, fma(simd, Q2, y[2], y[0]), fma(simd, Q2, y[3], y[1]));
        [y[0], p, minus_p, q, minus_q, y[3]]
    }

    #[inline(always)]
    fn weight<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; 6] {
        let [p, minus_p] = mirrored(simd, GP * P, times(simd, GP, fma(simd, P2, g[2], g[0])), g[1]);
        let [q, minus_q] = mirrored(simd, GQ * Q, times(simd, GQ, fma(simd, Q2, g[2], g[0])), g[1]);
        [times(simd, G0, g[0]), p, minus_p, q, minus_q, g[2]]
    }

    #[inline(always)]
    fn weight_adjoint<S: Simd>(simd: S, u: [S::f32s; 6]) -> [S::f32s; 3] {
        let (even_p, odd_p) = (simd.add_f32s(u[1], u[2]), simd.sub_f32s(u[1], u[2]));
        let (even_q, odd_q) = (simd.add_f32s(u[3], u[4]), simd.sub_f32s(u[3], u[4]));
        [
            fma(simd, G0, u[0], fma(simd, GP, even_p, times(simd, GQ, even_q))),
            fma(simd, GP * P, odd_p, times(simd, GQ * Q, odd_q)),
            fma(simd, GP * P2, even_p, fma(simd, GQ * Q2, even_q, u[5])),
        ]
    }
}

/// Expands `body` for each `i` below `n`, at most 6. Otherwise the compiler keeps loops of this size, and then the
/// values stay in memory instead of registers.
macro_rules! unrolled {
    ($i:ident < $n:expr, $body:expr) => {
        unrolled!(@ $i, $n, $body, 0, 1, 2, 3, 4, 5)
    };
    (@ $i:ident, $n:expr, $body:expr, $($at:literal),+) => {
        $(if $at < $n {
            let $i = $at;
            $body;
        })+
    };
}
pub(super) use unrolled;

/// Applies a one-dimensional transform along both axes; `store` receives the results by row and column.
#[inline(always)]
pub(super) fn both_axes<S: Simd, const I: usize, const O: usize>(
    simd: S,
    values: [[S::f32s; I]; I],
    transform: impl Fn([S::f32s; I]) -> [S::f32s; O],
    mut store: impl FnMut(usize, usize, S::f32s),
) {
    let zero = simd.splat_f32s(0.0);
    let mut half = [[zero; I]; O];
    unrolled!(j < I, {
        let mut column = [zero; I];
        unrolled!(i < I, column[i] = values[i][j]);
        let column = transform(column);
        unrolled!(o < O, half[o][j] = column[o]);
    });
    unrolled!(o < O, {
        let row = transform(half[o]);
        unrolled!(p < O, store(o, p, row[p]));
    });
}
