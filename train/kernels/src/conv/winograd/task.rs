//! One task of a convolution, with its own memory.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::convolve::Problem;
use super::layout::{Layout, Place};
use super::plan::steps;
use super::product::{self, Panel, Start, Tiles, cells_len};
use super::scheme::Scheme;
use super::stage::Direction;
use super::{input, output, scratch, weights};
use crate::moments::Part;
use crate::simd;

/// Groups whose sums are held at a time, so that the input is not transformed again for each group.
pub(super) const SPAN: usize = 2;

/// Transforms one chunk of one group of filters to `block`.
pub(super) fn pack<X: Scheme<M, A>, const M: usize, const A: usize>(
    filters: Filters<'_>,
    (group, chunk): (usize, usize),
    block: &mut [f32],
) {
    simd::dispatch(Pack { filters, group, chunk, block, scheme: PhantomData::<X> });
}

struct Pack<'a, X, const M: usize, const A: usize> {
    filters: Filters<'a>,
    group: usize,
    chunk: usize,
    block: &'a mut [f32],
    scheme: PhantomData<X>,
}

impl<X: Scheme<M, A>, const M: usize, const A: usize> WithSimd for Pack<'_, X, M, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let layout = self.filters.layout;
        for panel in layout.panels(self.group) {
            let block = S::as_mut_simd_f32s(&mut self.block[panel.offset..]).0;
            self.filters.transform::<S, X, M, A>(simd, (self.group, self.chunk), &panel, block);
        }
    }
}

/// Filters, sorted by [`stage`](super::stage::stage).
#[derive(Clone, Copy)]
pub(super) struct Filters<'a> {
    pub(super) staged: &'a [f32],
    pub(super) layout: Layout,
    pub(super) direction: Direction,
}

impl Filters<'_> {
    #[inline(always)]
    fn transform<S: Simd, X: Scheme<M, A>, const M: usize, const A: usize>(
        self,
        simd: S,
        (group, chunk): (usize, usize),
        place: &Place,
        panel: &mut [S::f32s],
    ) {
        let Self { staged, layout, direction } = self;
        let staged = &staged[layout.stage_at(direction, (group, chunk))..];
        let shape = (layout.depths(chunk).len().div_ceil(S::F32_LANES), place.first, place.width);
        weights::transform::<S, X, M, A>(simd, (layout, direction), staged, shape, panel);
    }
}

/// Data that the tasks share.
#[derive(Clone, Copy)]
pub(super) struct Task<'a, X, const M: usize, const A: usize> {
    pub(super) problem: Problem<'a>,
    pub(super) filters: Filters<'a>,
    /// The transformed filters, `[group][chunk]`; if none, each task transforms its own.
    pub(super) packed: Option<&'a [f32]>,
    /// Whether to compute moments.
    pub(super) moments: bool,
    pub(super) scheme: PhantomData<X>,
}

impl<X: Scheme<M, A>, const M: usize, const A: usize> Task<'_, X, M, A> {
    /// Computes the columns of some groups for the rows of tiles in `block`.
    ///
    /// `out` holds those rows from the first of the columns on, with `stride` scalars per pixel. Returns the moments of
    /// each group.
    pub(super) fn run(
        &self,
        block: &Range<usize>,
        groups: &Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) -> Vec<Part> {
        let layout = self.filters.layout;
        let grid = &self.problem.grid;
        let cells = cells_len(grid.tiles_in(block), A * A);
        let strip = input::strip_vectors(grid, layout.depth_vectors()) * layout.lanes;
        let own = if self.packed.is_none() { layout.block_len() } else { 0 };
        let lens = [cells, cells * SPAN.min(groups.len()), strip, own];
        scratch::with(lens, |[v, m, strip, own]| {
            simd::dispatch(Run { task: self, block, groups, out, stride, v, m, strip, own })
        })
    }
}

/// State of one running task.
struct Run<'a, X, const M: usize, const A: usize> {
    task: &'a Task<'a, X, M, A>,
    block: &'a Range<usize>,
    groups: &'a Range<usize>,
    out: &'a mut [f32],
    stride: usize,
    /// Cells of the input.
    v: &'a mut [f32],
    /// Cells of the sums, group by group.
    m: &'a mut [f32],
    /// Rows of the input.
    strip: &'a mut [f32],
    /// Transformed filters.
    own: &'a mut [f32],
}

impl<X: Scheme<M, A>, const M: usize, const A: usize> WithSimd for Run<'_, X, M, A> {
    type Output = Vec<Part>;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Vec<Part> {
        let chunks = self.task.filters.layout.chunks();
        let mut parts = Vec::new();
        for (i, span) in steps(self.groups.len(), SPAN).enumerate() {
            let span = self.groups.start + span.start..self.groups.start + span.end;
            for chunk in 0..chunks {
                if i == 0 || chunks > 1 {
                    self.transform(simd, chunk);
                }
                for group in span.clone() {
                    self.multiply(simd, chunk, (group, group - span.start));
                }
            }
            for group in span.clone() {
                parts.extend(self.store(simd, (group, group - span.start)));
            }
        }
        parts
    }
}

impl<X: Scheme<M, A>, const M: usize, const A: usize> Run<'_, X, M, A> {
    fn tiles(&self) -> usize {
        self.task.problem.grid.tiles_in(self.block)
    }

    /// Transforms a chunk of the input to its cells.
    #[inline(always)]
    fn transform<S: Simd>(&mut self, simd: S, chunk: usize) {
        let Problem { grid, input, .. } = &self.task.problem;
        let depths = self.task.filters.layout.depths(chunk);
        let source = input::Source { operand: *input, grid, first: depths.start, channels: depths.len() };
        let (strip, v) = (S::as_mut_simd_f32s(self.strip).0, S::as_mut_simd_f32s(self.v).0);
        input::transform::<S, X, M, A>(simd, source, self.block.clone(), strip, (v, Tiles::<A>::of::<S>()));
    }

    /// Adds the products of a chunk to the sums of a group.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, simd: S, chunk: usize, (group, place): (usize, usize)) {
        let tiles = self.tiles();
        let Task { filters, packed, .. } = self.task;
        let layout = filters.layout;
        let vectors = layout.depths(chunk).len().div_ceil(S::F32_LANES);
        let start = if chunk == 0 { Start::Zero } else { Start::Stored };
        let v = S::as_simd_f32s(self.v).0;
        let m = S::as_mut_simd_f32s(&mut self.m[place * cells_len(tiles, A * A)..]).0;
        for panel in layout.panels(group) {
            let weights = if let Some(packed) = packed {
                &packed[(group * layout.chunks() + chunk) * layout.block_len() + panel.offset..]
            } else {
                let own = S::as_mut_simd_f32s(self.own).0;
                filters.transform::<S, X, M, A>(simd, (group, chunk), &panel, own);
                &*self.own
            };
            let weights = S::as_simd_f32s(weights).0;
            let stride = weights::point_stride(vectors, S::F32_LANES, panel.width);
            let first = panel.first;
            let panel = Panel { weights, stride, width: panel.width };
            product::multiply::<S, A>(simd, (tiles, vectors), v, panel, (m, first), start);
        }
    }

    /// Transforms the sums of a group to pixels, and computes their moments.
    #[inline(always)]
    fn store<S: Simd>(&mut self, simd: S, (group, place): (usize, usize)) -> Option<Part> {
        let Task { problem, filters, moments, .. } = self.task;
        let layout = filters.layout;
        let grid = &problem.grid;
        let columns = layout.columns(&(group..group + 1));
        let first = columns.start - layout.columns(self.groups).start;
        let m = S::as_simd_f32s(&self.m[place * cells_len(self.tiles(), A * A)..]).0;
        let stride = self.stride;
        let region = output::Region { grid, tile_rows: self.block, stride, first, channels: columns.len() };
        output::transform::<S, X, M, A>(simd, region, m, self.out, problem.accumulate);
        moments.then(|| {
            let mut part = Part::new(columns.start, columns.len());
            part.add(&self.out[first..], stride, grid.pixels_in(self.block));
            part
        })
    }
}
