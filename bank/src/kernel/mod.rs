//! The kernels that dominate a bank's build time: matrix product of rows and a packed bank, maxima and exponentials.
//!
//! [`PackedBank`] stores a bank `[C, D]` in panels, `[ceil(C / W)][D][W]`, packed once and then streamed for every
//! block of rows. Each logit is one chain of fused multiply-adds over `d = 0, 1, …, D - 1`, whatever the instruction
//! set, block, tile or thread. A row's logits therefore depend only on that row and the bank: no partition of the
//! rows changes a bit of them. A general matrix product does not guarantee that.
//!
//! `unsafe` is confined to this folder. It calls functions compiled for a detected instruction set, and it loads and
//! stores vectors in the tiles, within slices whose lengths [`PackedBank::logits`] checks.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod root;
mod scan;

pub(crate) use scan::{exp_nonpositive, first_maximum};

/// Depth of the panel slice that is multiplied at a time, chosen so that the slice stays in the first-level cache.
const DEPTH: usize = 192;

/// An instruction set for which the inner loops are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// x86-64 with AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust, as the compiler vectorizes it.
    Portable,
}

impl Isa {
    /// The best instruction set that this processor supports.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Columns of one panel.
    const fn panel_width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::WIDTH,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::WIDTH,
            Self::Portable => portable::WIDTH,
        }
    }

    /// Rows of one tile.
    const fn tile_rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::ROWS,
            Self::Portable => portable::ROWS,
        }
    }
}

/// Operands of one tile: `rows x depth` of the embeddings times `depth x WIDTH` of a panel.
struct Tile<'a> {
    /// First element of the first row at the current depth.
    rows: &'a [f32],
    /// Distance from one row to the next in `rows`.
    row_stride: usize,
    /// The panel's slice, `[depth][WIDTH]`.
    panel: &'a [f32],
    /// First logit of the tile.
    out: &'a mut [f32],
    /// Distance from one row to the next in `out`.
    out_stride: usize,
    /// Whether `out` holds the sums over smaller depths; otherwise it is overwritten.
    accumulate: bool,
}

impl Tile<'_> {
    /// Checks that every access of a `rows` x `width` tile stays inside its slices. All `unsafe` accesses rely on it.
    fn check(&self, rows: usize, width: usize) {
        let depth = self.panel.len() / width;
        assert!(self.panel.len().is_multiple_of(width) && rows > 0);
        assert!(self.rows.len() >= (rows - 1) * self.row_stride + depth);
        assert!(self.out.len() >= (rows - 1) * self.out_stride + width);
    }
}

/// A bank `[C, D]` in f32, packed for [`PackedBank::logits`].
#[derive(Debug)]
pub(crate) struct PackedBank {
    panels: Vec<f32>,
    dim: usize,
    stride: usize,
    isa: Isa,
}

impl PackedBank {
    /// Packs row-major `values` of shape `[values.len() / dim, dim]`.
    pub(crate) fn new(values: &[f32], dim: usize, isa: Isa) -> Self {
        let width = isa.panel_width();
        let stride = (values.len() / dim).next_multiple_of(width);
        let mut panels = vec![0.0; stride * dim];
        for (column, row) in values.chunks_exact(dim).enumerate() {
            let panel = &mut panels[column / width * width * dim..];
            for (depth, &value) in row.iter().enumerate() {
                panel[depth * width + column % width] = value;
            }
        }
        Self { panels, dim, stride, isa }
    }

    /// Distance between the logits of consecutive rows: C rounded up to whole panels. The surplus logits are 0.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Writes `rows . bank^T`: `rows` is `[n, D]`, `out` is `[n, stride]`.
    pub(crate) fn logits(&self, rows: &[f32], out: &mut [f32]) {
        let (dim, width) = (self.dim, self.isa.panel_width());
        let count = rows.len() / dim;
        for start in (0..dim).step_by(DEPTH) {
            let depth = DEPTH.min(dim - start);
            for (index, panel) in self.panels.chunks_exact(dim * width).enumerate() {
                for row in (0..count).step_by(self.isa.tile_rows()) {
                    let tile = Tile {
                        rows: &rows[row * dim + start..],
                        row_stride: dim,
                        panel: &panel[start * width..(start + depth) * width],
                        out: &mut out[row * self.stride + index * width..],
                        out_stride: self.stride,
                        accumulate: start > 0,
                    };
                    self.tile(tile, count - row);
                }
            }
        }
    }

    /// Multiplies one tile. `available` rows are left; a tile takes at most [`Isa::tile_rows`] of them.
    fn tile(&self, tile: Tile<'_>, available: usize) {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "calls a function compiled for the detected instruction set")]
            // SAFETY: `Isa::detect` yields `Avx512` only if AVX-512F is present.
            Isa::Avx512 => unsafe { avx512::tile(tile, available) },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "calls a function compiled for the detected instruction set")]
            // SAFETY: `Isa::detect` yields `Avx2` only if AVX2 and FMA are present.
            Isa::Avx2 => unsafe { avx2::tile(tile, available) },
            Isa::Portable => portable::tile(tile, available),
        }
    }
}

/// The instruction sets that this machine can run, best first.
#[cfg(test)]
pub(crate) fn runnable() -> Vec<Isa> {
    let mut sets = vec![Isa::detect()];
    #[cfg(target_arch = "x86_64")]
    if sets[0] == Isa::Avx512 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        sets.push(Isa::Avx2);
    }
    if sets[0] != Isa::Portable {
        sets.push(Isa::Portable);
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values in [-0.5, 0.5) from a linear congruential generator.
    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                f32::from(u16::try_from(state >> 48).unwrap()) / 65536.0 - 0.5
            })
            .collect()
    }

    /// Every logit equals the chain of fused multiply-adds described in the module documentation, bit for bit.
    #[test]
    fn every_instruction_set_gives_the_bits_of_one_chain_of_fused_multiply_adds() {
        for (rows, categories, dim) in [(1, 1, 1), (7, 47, 191), (8, 48, 192), (13, 100, 385), (70, 10, 30)] {
            let (t, bank) = (noise(rows * dim, 1), noise(categories * dim, 2));
            for isa in runnable() {
                let packed = PackedBank::new(&bank, dim, isa);
                let mut out = vec![f32::NAN; rows * packed.stride()];
                packed.logits(&t, &mut out);
                for (row, logits) in t.chunks_exact(dim).zip(out.chunks_exact(packed.stride())) {
                    for (column, &logit) in logits.iter().enumerate() {
                        let expected = bank.chunks_exact(dim).nth(column).map_or(0.0, |c| {
                            row.iter().zip(c).fold(0.0f32, |sum, (a, b)| a.mul_add(*b, sum))
                        });
                        assert_eq!(logit.to_bits(), expected.to_bits(), "{isa:?} column {column}");
                    }
                }
            }
        }
    }
}
