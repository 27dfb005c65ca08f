//! Backward-weight: for each point, a product summed over the tiles.
//!
//! A task takes some filters and a part of the tiles. For some channels at a time it sums the products of its tiles,
//! block by block, in cells that stay in its level-2 cache, and transforms the sums to gradients. The parts are added
//! in order.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::plan::{Grid, split, steps};
use super::product::{self, GROUP, Planes, Start};
use super::scheme::Scheme;
use super::{input, output, scratch, weights};
use crate::operand::Operand;
use crate::simd;
use crate::workspace::Workspace;

/// Approximate multiplications of a block.
const BLOCK_POINTS: usize = 64 * 36;
/// Target number of tasks, if the shape has enough tiles.
const TASKS: usize = 16;
/// Minimum blocks of a part: each part costs a transform of all its sums.
const MIN_BLOCKS: usize = 4;

/// A 3x3 convolution of unit stride: its geometry, its input, and the gradient of its output.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    /// Geometry.
    pub(super) grid: Grid,
    /// Input.
    pub(super) input: Operand<'a>,
    /// Gradient of the output.
    pub(super) dy: &'a [f32],
}

/// The gradient of the filters.
pub(super) fn run<X: Scheme<M, A>, const M: usize, const A: usize>(
    problem: Problem<'_>,
    dw: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) {
    let grid = &problem.grid;
    let blocks = grid.blocks(BLOCK_POINTS / (A * A));
    let groups = grid.columns.div_ceil(GROUP);
    let parts = TASKS.div_ceil(groups).min(blocks.len() / MIN_BLOCKS).max(1);
    let filter = dw.len() / grid.columns;
    if parts == 1 {
        let task = Task::<X, M, A> { problem, accumulate, scheme: PhantomData };
        dw.par_chunks_mut(GROUP * filter).enumerate().for_each(|(group, dw)| task.run(group, &blocks, dw));
        return;
    }
    let parts = split(blocks.len(), parts);
    let task = Task::<X, M, A> { problem, accumulate: false, scheme: PhantomData };
    let mut sums = workspace.take(parts.len() * dw.len());
    let jobs: Vec<_> = sums
        .chunks_exact_mut(dw.len())
        .zip(&parts)
        .flat_map(|(dw, part)| {
            dw.chunks_mut(GROUP * filter).enumerate().map(move |(group, dw)| (part, group, dw))
        })
        .collect();
    jobs.into_par_iter().for_each(|(part, group, dw)| task.run(group, &blocks[part.clone()], dw));
    add(&sums, dw, accumulate);
    workspace.give(sums);
}

/// Adds `parts`, each of `dw`'s length, in order.
fn add(parts: &[f32], dw: &mut [f32], accumulate: bool) {
    const RUN: usize = 4096;
    let len = dw.len();
    dw.par_chunks_mut(RUN).enumerate().for_each(|(i, dw)| {
        if !accumulate {
            dw.fill(0.0);
        }
        for part in parts.chunks_exact(len) {
            dw.iter_mut().zip(&part[i * RUN..]).for_each(|(sum, value)| *sum += value);
        }
    });
}

/// Data that the tasks share.
struct Task<'a, X, const M: usize, const A: usize> {
    problem: Problem<'a>,
    accumulate: bool,
    scheme: PhantomData<X>,
}

impl<X: Scheme<M, A>, const M: usize, const A: usize> Task<'_, X, M, A> {
    /// Computes the gradient `dw` of a group of filters over some blocks of rows of tiles.
    fn run(&self, group: usize, blocks: &[Range<usize>], dw: &mut [f32]) {
        let grid = &self.problem.grid;
        let lanes = simd::lanes();
        let filters = group * GROUP..grid.columns.min((group + 1) * GROUP);
        let tiles = blocks.iter().map(|block| grid.tiles_in(block)).max().unwrap_or(0);
        let planes = |tiles| Planes::len(tiles, A * A, lanes);
        let (cells, sums) = (planes(tiles), planes(GROUP));
        let strip = input::strip_vectors(grid, GROUP.min(grid.depth).div_ceil(lanes)) * lanes;
        let lens = [cells, cells, sums, strip];
        scratch::with(lens, |[v, d, sums, strip]| {
            simd::dispatch(Run { task: self, filters, blocks, dw, v, d, sums, strip });
        });
    }
}

/// State of one running task.
struct Run<'a, X, const M: usize, const A: usize> {
    task: &'a Task<'a, X, M, A>,
    filters: Range<usize>,
    blocks: &'a [Range<usize>],
    dw: &'a mut [f32],
    v: &'a mut [f32],
    d: &'a mut [f32],
    sums: &'a mut [f32],
    strip: &'a mut [f32],
}

impl<X: Scheme<M, A>, const M: usize, const A: usize> WithSimd for Run<'_, X, M, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { task, filters, blocks, dw, .. } = self;
        let Problem { grid, input, dy } = &task.problem;
        let (v, d) = (S::as_mut_simd_f32s(self.v).0, S::as_mut_simd_f32s(self.d).0);
        let (sums, strip) = (S::as_mut_simd_f32s(self.sums).0, S::as_mut_simd_f32s(self.strip).0);
        let vectors = |channels: usize| channels.div_ceil(S::F32_LANES);
        for (i, depths) in steps(grid.depth, GROUP).enumerate() {
            let source = input::Source { operand: *input, grid, first: depths.start, channels: depths.len() };
            for (n, block) in blocks.iter().enumerate() {
                let tiles = grid.tiles_in(block);
                let places = Planes::of::<S>(tiles);
                input::transform::<S, X, M, A>(simd, source, block.clone(), strip, (v, places));
                let channels = filters.len();
                if i == 0 || blocks.len() > 1 {
                    let (stride, first) = (grid.columns, filters.start);
                    let region = output::Region { grid, tile_rows: block, stride, first, channels };
                    output::transform_adjoint::<S, X, M, A>(simd, region, dy, (d, places));
                }
                let (d, v) = ((&*d, vectors(channels)), (&*v, vectors(depths.len())));
                let start = if n == 0 { Start::Zero } else { Start::Stored };
                product::correlate::<S, A>(simd, tiles, d, v, sums, start);
            }
            let place = (grid.depth, depths);
            weights::transform_adjoint::<S, X, M, A>(simd, sums, place, dw, task.accumulate);
        }
    }
}
