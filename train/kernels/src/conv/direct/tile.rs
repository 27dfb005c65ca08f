//! The inner loops: tiles of `R` rows by `V` vectors of columns, summed in registers.

use pulp::Simd;

/// A tile of sums, `R` rows by `V` vectors.
pub(super) type Tile<S, const R: usize, const V: usize> = [[<S as Simd>::f32s; V]; R];

/// A contiguous part of a gathered row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// Offset from the row's base.
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// Steps of a run per loop iteration: the loop's scalar instructions compete with the multiply-adds for ports.
const UNROLL: usize = 2;

/// Rows gathered from `x`, multiplied by a packed panel of weights.
///
/// `sum[r][col] = Σ_k x[bases[r] + (k-th value of the runs)] * panel[k * width + col]`, `width = V * lanes`.
#[inline(always)]
pub(super) fn gather_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    x: &[f32],
    bases: &[usize; R],
    runs: &[Run],
    panel: &[f32],
) -> Tile<S, R, V> {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    let steps = S::as_simd_f32s(panel).0.as_chunks::<V>().0;
    let Some((first, rest)) = runs.split_first() else {
        return sums;
    };
    let (weights, mut steps) = steps.split_at(first.len);
    add_run(simd, &mut sums, (x, bases, first.offset), weights);
    for run in rest {
        // Goes through memory between runs: the compiler would otherwise keep copies of all sums inside the loop of a
        // run.
        std::hint::black_box(&mut sums);
        let (weights, after) = steps.split_at(run.len);
        steps = after;
        add_run(simd, &mut sums, (x, bases, run.offset), weights);
    }
    sums
}

#[inline(always)]
fn add_run<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: &mut Tile<S, R, V>,
    (x, bases, offset): (&[f32], &[usize; R], usize),
    weights: &[[S::f32s; V]],
) {
    let (pairs, last) = weights.as_chunks::<UNROLL>();
    let mut rows = [&x[..0]; R];
    let mut row_pairs = [[].as_slice(); R];
    for r in 0..R {
        rows[r] = &x[bases[r] + offset..][..weights.len()];
        row_pairs[r] = &rows[r].as_chunks::<UNROLL>().0[..pairs.len()];
    }
    let mut tile = *sums;
    for i in 0..pairs.len() {
        for u in 0..UNROLL {
            let weights = pairs[i][u];
            for r in 0..R {
                let value = simd.splat_f32s(row_pairs[r][i][u]);
                for v in 0..V {
                    tile[r][v] = simd.mul_add_e_f32s(value, weights[v], tile[r][v]);
                }
            }
        }
    }
    if let [weights] = last {
        for r in 0..R {
            let value = simd.splat_f32s(rows[r][rows[r].len() - 1]);
            for v in 0..V {
                tile[r][v] = simd.mul_add_e_f32s(value, weights[v], tile[r][v]);
            }
        }
    }
    *sums = tile;
}

/// Outer products summed over pixels: `sum[r][v] = Σ_p dy[p * stride + first + r] * x[bases[p] + v]`; `x` and `bases` count
/// vectors.
#[inline(always)]
pub(super) fn outer_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    (x, bases): (&[S::f32s], &[u32]),
    (dy, stride, first): (&[f32], usize, usize),
) -> Tile<S, R, V> {
    let mut tile = [[simd.splat_f32s(0.0); V]; R];
    for (&base, dy) in bases.iter().zip(dy.chunks_exact(stride)) {
        let dy = &dy[first..][..R];
        let base = base as usize;
        let columns = &x[base..base + V];
        let mut values = [simd.splat_f32s(0.0); V];
        values.copy_from_slice(columns);
        for r in 0..R {
            let value = simd.splat_f32s(dy[r]);
            for v in 0..V {
                tile[r][v] = simd.mul_add_e_f32s(value, values[v], tile[r][v]);
            }
        }
    }
    tile
}

/// The output of a tile: columns `first..first + used` of some rows.
pub(super) struct Target<'a, 'o> {
    /// All rows of the task.
    pub(super) rows: &'a mut [&'o mut [f32]],
    pub(super) first: usize,
    pub(super) used: usize,
    /// Whether the sums are added to the output instead of overwriting it.
    pub(super) add: bool,
}

impl Target<'_, '_> {
    /// Stores row `r` of the tile in row `row(r)`; ignores the tile's rows from `count` on.
    #[inline(always)]
    pub(super) fn store<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        sums: &Tile<S, R, V>,
        count: usize,
        row: impl Fn(usize) -> usize,
    ) {
        if count < R || self.used < V * S::F32_LANES {
            // A copy: indexing by a variable would keep all sums out of registers.
            let mut copy = [[simd.splat_f32s(0.0); V]; R];
            for r in 0..R {
                for v in 0..V {
                    copy[r][v] = sums[r][v];
                }
            }
            for (r, sums) in copy.iter().enumerate().take(count) {
                self.store_values(pulp::bytemuck::cast_slice(sums), row(r));
            }
        } else if self.add {
            for (r, sums) in sums.iter().enumerate() {
                let out = &mut self.rows[row(r)][self.first..][..V * S::F32_LANES];
                for (out, &sum) in S::as_mut_simd_f32s(out).0.iter_mut().zip(sums) {
                    *out = simd.add_f32s(*out, sum);
                }
            }
        } else {
            for (r, sums) in sums.iter().enumerate() {
                let out = &mut self.rows[row(r)][self.first..][..V * S::F32_LANES];
                S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
            }
        }
    }

    /// Stores the columns in use of one row of a tile.
    #[inline(never)]
    fn store_values(&mut self, sums: &[f32], row: usize) {
        let out = &mut self.rows[row][self.first..][..self.used];
        if self.add {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        } else {
            out.copy_from_slice(&sums[..self.used]);
        }
    }
}
