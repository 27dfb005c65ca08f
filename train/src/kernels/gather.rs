//! The engine of convolution forward and backward-data: implicit GEMM.
//!
//! No im2col matrix is written. A pixel's receptive field is a few contiguous *runs* of the padded NHWC input (one per kernel
//! row, or one per tap when dilated), at offsets that are the same for every pixel; the tile reads them in place.
//! A strided backward-data falls into `stride²` *phases*, each a small dense convolution onto every `stride`-th pixel.
//!
//! Every output is one sum in a fixed order, whatever task computes it: results do not depend on the number of threads.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::pack::Panels;
use super::simd::{self, NARROW_ROWS, WIDE_ROWS};
use super::tile::gather_tile;

/// The pixels `first + i * step` of the output, along both axes, and what each gathers.
pub(super) struct Phase {
    /// First output row and column.
    pub(super) first: (usize, usize),
    /// Offsets of the runs from a pixel's base in the input.
    pub(super) runs: Vec<usize>,
    /// Length of each run.
    pub(super) run_len: usize,
    /// Weights, in the order of the runs.
    pub(super) panels: Panels,
}

/// One gather-and-multiply over a batch.
pub(super) struct Gather<'a> {
    /// The padded input, NHWC.
    pub(super) input: &'a [f32],
    /// Rows, columns and channels of the padded input.
    pub(super) input_dims: (usize, usize, usize),
    /// Input pixels between neighbouring outputs of a phase.
    pub(super) input_step: usize,
    /// Output pixels between neighbouring outputs of a phase.
    pub(super) output_step: usize,
    /// Images.
    pub(super) batch: usize,
    /// Rows, columns and channels of the output.
    pub(super) output_dims: (usize, usize, usize),
    /// The phases; outputs that belong to none stay zero.
    pub(super) phases: Vec<Phase>,
}

/// Floats of gathered input that a task may touch: about half of a level-2 cache.
const TASK_FLOATS: usize = 128 * 1024;
/// Below this many tasks of pixels, work is split by columns instead.
const FEW_TASKS: usize = 8;

impl Gather<'_> {
    /// The output, `[batch, height, width, channels]`.
    pub(super) fn run(&self) -> Vec<f32> {
        let (height, width, columns) = self.output_dims;
        let rows = self.batch * height;
        let mut out = vec![0.0; rows * width * columns];
        let depth = self.phases.iter().map(|phase| phase.panels.depth()).max().unwrap_or(1);
        let pixels = (TASK_FLOATS / depth).clamp(4 * WIDE_ROWS, 64 * WIDE_ROWS);
        let task_rows = pixels.div_ceil(width).next_multiple_of(whole_tiles(width));
        if rows.div_ceil(task_rows) >= FEW_TASKS {
            out.par_chunks_mut(task_rows * width * columns).enumerate().for_each(|(task, out)| {
                for phase in &self.phases {
                    let pixels = self.pixels(phase, task * task_rows, out.len() / (width * columns));
                    simd::dispatch(RowsTask { gather: self, phase, pixels: &pixels, out });
                }
            });
        } else {
            for phase in &self.phases {
                self.run_by_columns(phase, rows, &mut out);
            }
        }
        out
    }

    /// Few pixels, deep sums: each task takes one panel for all pixels, so that the weights are read once.
    fn run_by_columns(&self, phase: &Phase, rows: usize, out: &mut [f32]) {
        let pixels = self.pixels(phase, 0, rows);
        let panels = &phase.panels;
        let parts: Vec<Vec<f32>> = (0..panels.count())
            .into_par_iter()
            .map(|j| {
                let mut part = vec![0.0; pixels.inputs.len() * panels.used(j)];
                simd::dispatch(PanelTask { gather: self, phase, inputs: &pixels.inputs, j, out: &mut part });
                part
            })
            .collect();
        for (j, part) in parts.iter().enumerate() {
            let (first, used) = (panels.first_column(j), panels.used(j));
            for (values, &at) in part.chunks_exact(used).zip(&pixels.outputs) {
                out[at + first..][..used].copy_from_slice(values);
            }
        }
    }

    /// The pixels of `phase` among `rows` output rows from `first_row` on; output offsets count from that row.
    fn pixels(&self, phase: &Phase, first_row: usize, rows: usize) -> Pixels {
        let (height, width, columns) = self.output_dims;
        let (input_height, input_width, channels) = self.input_dims;
        let mut pixels = Pixels::default();
        for row in 0..rows {
            let (image, y) = ((first_row + row) / height, (first_row + row) % height);
            let Some(y) = y.checked_sub(phase.first.0).filter(|y| y.is_multiple_of(self.output_step)) else {
                continue;
            };
            let input_row = (image * input_height + y / self.output_step * self.input_step) * input_width;
            for (i, x) in (phase.first.1..width).step_by(self.output_step).enumerate() {
                pixels.inputs.push((input_row + i * self.input_step) * channels);
                pixels.outputs.push((row * width + x) * columns);
            }
        }
        pixels
    }
}

/// Pixels that tiles of 6 and of 8 rows both divide.
const EVEN_PIXELS: usize = 24;

/// Rows of `width` pixels after which tiles of 6 and of 8 rows come out even, where that takes few rows.
fn whole_tiles(width: usize) -> usize {
    [1, 2, 3, 4].into_iter().find(|rows| (rows * width).is_multiple_of(EVEN_PIXELS)).unwrap_or(1)
}

/// Offsets of a task's pixels in the input and in the task's part of the output.
#[derive(Default)]
struct Pixels {
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

/// All panels for some rows of the output.
struct RowsTask<'a> {
    gather: &'a Gather<'a>,
    phase: &'a Phase,
    pixels: &'a Pixels,
    out: &'a mut [f32],
}

impl WithSimd for RowsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let panels = &self.phase.panels;
        for j in 0..panels.count() {
            let (first, used) = (panels.first_column(j), panels.used(j));
            let outputs = &self.pixels.outputs;
            let out = &mut *self.out;
            multiply_panel(simd, self.gather.input, self.phase, j, &self.pixels.inputs, |pixel, values| {
                out[outputs[pixel] + first..][..used].copy_from_slice(&values[..used]);
            });
        }
    }
}

/// One panel for all pixels, written densely.
struct PanelTask<'a> {
    gather: &'a Gather<'a>,
    phase: &'a Phase,
    inputs: &'a [usize],
    j: usize,
    out: &'a mut [f32],
}

impl WithSimd for PanelTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let used = self.phase.panels.used(self.j);
        let out = self.out;
        multiply_panel(simd, self.gather.input, self.phase, self.j, self.inputs, |pixel, values| {
            out[pixel * used..][..used].copy_from_slice(&values[..used]);
        });
    }
}

/// Panel `j` for every pixel; `store(pixel, columns)` takes the results.
#[inline(always)]
fn multiply_panel<S: Simd>(
    simd: S,
    input: &[f32],
    phase: &Phase,
    j: usize,
    pixels: &[usize],
    store: impl FnMut(usize, &[f32]),
) {
    let wide = phase.panels.width(j) > S::F32_LANES;
    match (simd::tile_rows::<S>() == WIDE_ROWS, wide) {
        (true, true) => tiles::<S, WIDE_ROWS, 2>(simd, input, phase, j, pixels, store),
        (true, false) => tiles::<S, WIDE_ROWS, 1>(simd, input, phase, j, pixels, store),
        (false, true) => tiles::<S, NARROW_ROWS, 2>(simd, input, phase, j, pixels, store),
        (false, false) => tiles::<S, NARROW_ROWS, 1>(simd, input, phase, j, pixels, store),
    }
}

#[inline(always)]
fn tiles<S: Simd, const R: usize, const V: usize>(
    simd: S,
    input: &[f32],
    phase: &Phase,
    j: usize,
    pixels: &[usize],
    mut store: impl FnMut(usize, &[f32]),
) {
    let panel = phase.panels.panel(j);
    for (tile, rows) in pixels.chunks(R).enumerate() {
        // A last, partial tile computes its last pixel several times.
        let mut bases = [rows[rows.len() - 1]; R];
        bases[..rows.len()].copy_from_slice(rows);
        let sums = gather_tile::<S, R, V>(simd, input, &bases, (&phase.runs, phase.run_len), panel);
        for (r, sums) in sums.iter().enumerate().take(rows.len()) {
            store(tile * R + r, pulp::bytemuck::cast_slice(sums));
        }
    }
}
