//! The two inner loops of every matrix product: a tile of `R` rows by `V` vectors of columns, held in registers.

use pulp::Simd;

/// A tile of sums, `R` rows by `V` vectors.
pub(super) type Tile<S, const R: usize, const V: usize> = [[<S as Simd>::f32s; V]; R];

/// Rows gathered from `x`, multiplied by one packed panel of weights.
///
/// `sum[r][col] = Σ_j Σ_i x[rows[r] + runs[j] + i] * panel[(j * len + i) * width + col]`, `width = V * lanes`.
#[inline(always)]
pub(super) fn gather_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    x: &[f32],
    rows: &[usize; R],
    (runs, len): (&[usize], usize),
    panel: &[f32],
) -> Tile<S, R, V> {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    let (steps, _) = S::as_simd_f32s(panel).0.as_chunks::<V>();
    for (j, &run) in runs.iter().enumerate() {
        let steps = &steps[j * len..][..len];
        let mut pixels = [&x[..0]; R];
        for r in 0..R {
            pixels[r] = &x[rows[r] + run..][..len];
        }
        for i in 0..len {
            let weights = steps[i];
            for r in 0..R {
                let pixel = simd.splat_f32s(pixels[r][i]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_e_f32s(pixel, weights[v], sums[r][v]);
                }
            }
        }
    }
    sums
}

/// Outer products summed over pixels: `sums[r][col] += Σ_k x[bases[k] + first + r] * panel[k * width + col]`.
///
/// `sums` is row-major, `R` rows of `width = V * lanes`.
#[inline(always)]
pub(super) fn outer_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    x: &[f32],
    (bases, first): (&[usize], usize),
    panel: &[f32],
    sums: &mut [f32],
) {
    let (stored, _) = S::as_mut_simd_f32s(sums).0.as_chunks_mut::<V>();
    let stored = &mut stored[..R];
    let mut tile = [[simd.splat_f32s(0.0); V]; R];
    let (steps, _) = S::as_simd_f32s(panel).0.as_chunks::<V>();
    for (&base, gradient) in bases.iter().zip(steps) {
        let pixel = &x[base + first..][..R];
        for r in 0..R {
            let value = simd.splat_f32s(pixel[r]);
            for v in 0..V {
                tile[r][v] = simd.mul_add_e_f32s(value, gradient[v], tile[r][v]);
            }
        }
    }
    for r in 0..R {
        for v in 0..V {
            stored[r][v] = simd.add_f32s(stored[r][v], tile[r][v]);
        }
    }
}
