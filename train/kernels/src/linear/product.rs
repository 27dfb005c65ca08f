//! Products of a few rows with packed panels of columns.

use pulp::{Simd, WithSimd};

use crate::simd;

/// Rows of a tile on machines with 32 vector registers, and with 16.
const WIDE_ROWS: usize = 8;
const NARROW_ROWS: usize = 6;

/// The second factor, `[depth][columns]`, as panels of columns: `[panel][depth][column]`. The last panel may be
/// narrower.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Terms of each sum.
    pub(super) depth: usize,
    /// Columns.
    pub(super) columns: usize,
    /// Columns of one vector.
    lanes: usize,
}

impl Layout {
    pub(super) fn new(depth: usize, columns: usize) -> Self {
        Self { depth, columns, lanes: simd::lanes() }
    }

    /// Columns of a full panel: two vectors.
    pub(super) fn width(&self) -> usize {
        2 * self.lanes
    }

    /// Scalars of all panels.
    pub(super) fn len(&self) -> usize {
        self.columns.next_multiple_of(self.lanes) * self.depth
    }

    /// Packs panel `j` from columns in memory as `[depth][stride]`.
    pub(super) fn pack(&self, panel: &mut [f32], j: usize, from: &[f32], stride: usize) {
        let (first, stored) = (j * self.width(), panel.len() / self.depth);
        let used = (self.columns - first).min(stored);
        for (row, from) in panel.chunks_exact_mut(stored).zip(from.chunks(stride)) {
            row[..used].copy_from_slice(&from[first..][..used]);
            row[used..].fill(0.0);
        }
    }

    /// Packs a panel from columns in memory as `[column][depth]`.
    pub(super) fn pack_transposed(&self, panel: &mut [f32], from: &[f32]) {
        let (used, stored) = (from.len() / self.depth, panel.len() / self.depth);
        transpose(from, self.depth, 0, panel, stored);
        if used < stored {
            panel.chunks_exact_mut(stored).for_each(|row| row[used..].fill(0.0));
        }
    }
}

/// `to[i][row] = from[row][first + i]`: as many columns as `to` has rows of `stride` scalars.
pub(super) fn transpose(from: &[f32], columns: usize, first: usize, to: &mut [f32], stride: usize) {
    /// Side of the squares that are transposed one at a time, so that both sides stay in cache.
    const SIDE: usize = 16;
    let rows = from.len() / columns;
    for (band, to) in to.chunks_mut(SIDE * stride).enumerate() {
        for start in (0..rows).step_by(SIDE) {
            let count = SIDE.min(rows - start);
            for (i, to) in to.chunks_exact_mut(stride).enumerate() {
                let column = &from[start * columns + first + band * SIDE + i..];
                let to = &mut to[start..][..count];
                to.iter_mut().zip(column.iter().step_by(columns)).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// `out[i][j] = Σ_l rows[i][l] * panels[l][j]`.
pub(super) struct Product<'a> {
    /// The first factor, `[rows][depth]`.
    pub(super) rows: &'a [f32],
    /// The second factor.
    pub(super) panels: &'a [f32],
    pub(super) layout: Layout,
    /// `[rows][columns]`.
    pub(super) out: &'a mut [f32],
    /// Whether to add the product to the content of `out`.
    pub(super) accumulate: bool,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.all_panels::<S, WIDE_ROWS>(simd);
        } else {
            self.all_panels::<S, NARROW_ROWS>(simd);
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn all_panels<S: Simd, const R: usize>(&mut self, simd: S) {
        let Layout { depth, columns, .. } = self.layout;
        let panels = self.panels.chunks(depth * self.layout.width());
        for (first, panel) in (0..columns).step_by(self.layout.width()).zip(panels) {
            if panel.len() == depth * self.layout.width() {
                self.panel::<S, R, 2>(simd, first, panel);
            } else {
                self.panel::<S, R, 1>(simd, first, panel);
            }
        }
    }

    #[inline(always)]
    fn panel<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, first: usize, panel: &[f32]) {
        let Layout { depth, columns, .. } = self.layout;
        let used = (columns - first).min(V * S::F32_LANES);
        let rows = self.rows.len() / depth;
        for start in (0..rows).step_by(R) {
            // A last, partial tile computes its last row several times.
            let mut tile = [&self.rows[..0]; R];
            for (i, row) in tile.iter_mut().enumerate() {
                *row = &self.rows[(start + i).min(rows - 1) * depth..][..depth];
            }
            let sums = sums::<S, R, V>(simd, &tile, panel, depth);
            for (i, sums) in (start..rows).zip(&sums) {
                let sums: &[f32] = &pulp::bytemuck::cast_slice(sums)[..used];
                let out = &mut self.out[i * columns + first..][..used];
                if self.accumulate {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out += sum;
                    }
                } else {
                    out.copy_from_slice(sums);
                }
            }
        }
    }
}

/// A tile of sums, `R` rows by `V` vectors.
#[inline(always)]
fn sums<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[&[f32]; R],
    panel: &[f32],
    depth: usize,
) -> [[S::f32s; V]; R] {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    let steps = &S::as_simd_f32s(panel).0.as_chunks::<V>().0[..depth];
    let mut equal = [&rows[0][..0]; R];
    for r in 0..R {
        equal[r] = &rows[r][..depth];
    }
    for l in 0..depth {
        let step = steps[l];
        for r in 0..R {
            let value = simd.splat_f32s(equal[r][l]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(value, step[v], sums[r][v]);
            }
        }
    }
    sums
}
