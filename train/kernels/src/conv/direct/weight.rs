//! Backward-weight: outer products of output gradients and windows of the input, summed over pixels.
//!
//! The sums are split among tasks by filters and by input channels, and the pixels into parts that are added in order.
//! Both partitions depend only on the shape.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::axis::Axis;
use super::panels::Columns;
use super::strip::{Channels, Layout, Segment, Source, Strip, Window, is_short, spread};
use super::tile::{Target, outer_tile};
use crate::conv::Conv;
use crate::operand::Operand;
use crate::simd;
use crate::workspace::{Buffer, LINE, Workspace};

/// Sums of one task: they stay in the level-2 cache together with their terms.
const TASK_SUMS: usize = 96 * 1024;
/// Maximum filters of a task; a quarter of it if there are several taps.
const FILTERS: usize = 256;
/// Rows of the tiles for the filters that remain after the larger tiles.
const REST: usize = 4;
/// Input channels of a task are a multiple of the widest panel, if that divides them all.
const CHANNELS: usize = 64;
/// Minimum pixels of a part: each part costs a write and a read of the sums.
const PART_PIXELS: usize = 512;
/// Enough tasks to keep many threads evenly busy.
const MANY_TASKS: usize = 32;
/// Values of input and gradient that are packed at once.
const BLOCK_VALUES: usize = 128 * 1024;
/// Pixels summed in registers: their input stays in the level-1 cache for all filters and taps.
const CHUNK: usize = 128;

/// The gradient of the weights, OHWI.
pub(in crate::conv) fn backward_weight(
    conv: &Conv,
    x: Operand<'_>,
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) {
    let s = &conv.sliding;
    let (rows, columns) = Axis::forward(s);
    let source = Source::new(x, (s.height, s.width, s.channels), conv.groups);
    let plan = Plan::new(conv, is_short(&rows, &columns, s.channels / conv.groups));
    let task = WeightGradient { conv, source, dy, rows, columns, plan };
    let parts = task.plan.parts.len();
    if parts == 1 {
        return task.part(&task.plan.parts[0], dw, accumulate);
    }
    let len = dw.len();
    let mut sums = workspace.take(parts * len);
    sums.par_chunks_mut(len).zip(&task.plan.parts).for_each(|(sums, part)| task.part(part, sums, false));
    dw.par_chunks_mut(REDUCE).enumerate().for_each(|(i, dw)| {
        if !accumulate {
            dw.fill(0.0);
        }
        for part in sums.chunks_exact(len) {
            simd::vectorized(
                #[inline(always)]
                || dw.iter_mut().zip(&part[i * REDUCE..]).for_each(|(dw, part)| *dw += part),
            );
        }
    });
    workspace.give(sums);
}

/// Sums that one step adds up.
const REDUCE: usize = 4096;

/// The partition of the sums into tasks.
struct Plan {
    /// Whether windows are summed whole.
    folded: bool,
    /// Taps that are summed separately: all of the kernel's, or 1.
    taps: usize,
    /// Terms per tap: a group's input channels, or the values of a window.
    inputs: usize,
    /// Filters of a task, within a group.
    filters: usize,
    /// Input channels of a task, within a group.
    channels: usize,
    /// Output rows of each part, counted over the batch.
    parts: Vec<Range<usize>>,
    /// Output rows that are packed at once.
    rows: usize,
}

impl Plan {
    fn new(conv: &Conv, folded: bool) -> Self {
        let s = &conv.sliding;
        let (inputs, outputs) = (s.channels / conv.groups, conv.out_channels / conv.groups);
        let (taps, inputs) = if folded { (1, inputs * s.taps()) } else { (s.taps(), inputs) };
        let filters = even_part(outputs, if taps > 1 { FILTERS / 4 } else { FILTERS }, REST);
        let most = (TASK_SUMS / (filters * taps)).max(CHANNELS);
        let unit = if inputs.is_multiple_of(CHANNELS) { CHANNELS } else { LINE };
        let channels = if folded { inputs } else { even_part(inputs, most, unit) };
        let tasks = conv.groups * outputs.div_ceil(filters) * inputs.div_ceil(channels);
        let pixels = s.out_pixels();
        let parts = MANY_TASKS.div_ceil(tasks).min(pixels / PART_PIXELS).max(1);
        let rows = s.batch * s.out_height;
        let per = rows.div_ceil(parts);
        let parts = (0..rows).step_by(per).map(|first| first..(first + per).min(rows)).collect();
        let area = if s.taps() > 1 { s.window.stride * s.window.stride } else { 1 };
        let block = (BLOCK_VALUES / (area * channels + filters)).max(CHUNK);
        Self { folded, taps, inputs, filters, channels, parts, rows: (block / s.out_width).max(1) }
    }
}

/// Splits `all` into equal parts of at most about `most`, each a multiple of `unit`.
fn even_part(all: usize, most: usize, unit: usize) -> usize {
    all.div_ceil(all.div_ceil(most)).next_multiple_of(unit).min(all)
}

struct WeightGradient<'a> {
    conv: &'a Conv,
    source: Source<'a>,
    dy: &'a [f32],
    rows: Axis,
    columns: Axis,
    plan: Plan,
}

#[derive(Default)]
struct Scratch {
    strip: Strip,
    dy: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl WeightGradient<'_> {
    /// Computes the sums of some output rows into `dw`.
    fn part(&self, part: &Range<usize>, dw: &mut [f32], accumulate: bool) {
        let (groups, taps, inputs) = (self.conv.groups, self.plan.taps, self.plan.inputs);
        let per_group = dw.len() / groups;
        let per_task = self.plan.filters * taps * inputs;
        dw.par_chunks_mut(per_group).enumerate().for_each(|(group, dw)| {
            dw.par_chunks_mut(per_task).enumerate().for_each(|(block, dw)| {
                let splits = inputs.div_ceil(self.plan.channels);
                let mut rows: Vec<Vec<&mut [f32]>> = Vec::new();
                rows.resize_with(splits, || Vec::with_capacity(dw.len() / inputs));
                for row in dw.chunks_exact_mut(inputs) {
                    for (row, rows) in row.chunks_mut(self.plan.channels).zip(&mut rows) {
                        rows.push(row);
                    }
                }
                let outputs = self.conv.out_channels / groups;
                rows.into_par_iter().enumerate().for_each(|(split, mut rows)| {
                    let filter = group * outputs + block * self.plan.filters;
                    let channel = group * self.conv.sliding.channels / groups + split * self.plan.channels;
                    self.task(part, filter, channel, &mut rows, accumulate);
                });
            });
        });
    }

    /// Computes the sums of `out.len() / taps` filters from `filter` on, and of the input channels from `channel` on.
    fn task(
        &self,
        part: &Range<usize>,
        filter: usize,
        channel: usize,
        out: &mut [&mut [f32]],
        accumulate: bool,
    ) {
        let s = &self.conv.sliding;
        let filters = out.len() / self.plan.taps;
        let channels = Channels { first: channel, count: out[0].len() * self.plan.taps / s.taps() };
        let window = self.window(channels);
        let columns = Columns::new(out[0].len());
        let offsets = if window.folded { vec![0] } else { window.taps() };
        SCRATCH.with_borrow_mut(|scratch| {
            let mut add = accumulate;
            for first in part.clone().step_by(self.plan.rows) {
                let rows = first..(first + self.plan.rows).min(part.end);
                let (dy, stride) = self.gradient(&rows, filter, filters, &mut scratch.dy);
                let segments = self.segments(&rows);
                let (x, bases) = self.source.strip(&window, &segments, &mut scratch.strip);
                simd::dispatch(Sum {
                    x,
                    bases,
                    dy,
                    stride,
                    offsets: &offsets,
                    columns: &columns,
                    filters,
                    add,
                    out,
                });
                add = true;
            }
        });
    }

    /// The output gradient of some filters. Rows are padded with zeros, because a tile may read past the last filter.
    fn gradient<'s>(
        &self,
        rows: &Range<usize>,
        filter: usize,
        filters: usize,
        scratch: &'s mut Buffer,
    ) -> (&'s [f32], usize) {
        let all = self.conv.out_channels;
        let stride = spread(filters + REST - 1);
        let width = self.conv.sliding.out_width;
        let dy = &self.dy[rows.start * width * all..rows.end * width * all];
        scratch.reserve(rows.len() * width * stride);
        let packed = scratch;
        for (packed, dy) in packed.chunks_exact_mut(stride).zip(dy.chunks_exact(all)) {
            packed[..filters].copy_from_slice(&dy[filter..][..filters]);
            packed[filters..].fill(0.0);
        }
        (packed, stride)
    }

    fn window(&self, channels: Channels) -> Window<'_> {
        let positions = self.conv.sliding.out_width;
        Window {
            rows: &self.rows,
            columns: &self.columns,
            positions,
            channels,
            layout: Layout::Spread,
            folded: self.plan.folded,
        }
    }

    fn segments(&self, rows: &Range<usize>) -> Vec<Segment> {
        let height = self.conv.sliding.out_height;
        let segment = |image: usize| {
            let (from, to) = ((image * height).max(rows.start), ((image + 1) * height).min(rows.end));
            Segment { image, first: from - image * height, rows: to - from }
        };
        (rows.start / height..rows.end.div_ceil(height)).map(segment).collect()
    }
}

/// Adds some pixels to the sums of a task.
struct Sum<'a, 'o> {
    x: &'a [f32],
    bases: &'a [usize],
    dy: &'a [f32],
    stride: usize,
    offsets: &'a [usize],
    columns: &'a Columns,
    filters: usize,
    add: bool,
    out: &'a mut [&'o mut [f32]],
}

impl WithSimd for Sum<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for j in 0..self.columns.panels() {
            match (simd::is_wide::<S>(), self.columns.vectors(j)) {
                (true, 1) => self.panel::<S, 12, 1>(simd, j),
                (true, 2) => self.panel::<S, 12, 2>(simd, j),
                (true, 3) => self.panel::<S, 8, 3>(simd, j),
                (true, _) => self.panel::<S, 6, 4>(simd, j),
                (false, 1) => self.panel::<S, 6, 1>(simd, j),
                (false, _) => self.panel::<S, 6, 2>(simd, j),
            }
        }
    }
}

impl Sum<'_, '_> {
    #[inline(always)]
    fn panel<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, j: usize) {
        let (first, used) = (self.columns.first(j), self.columns.used(j));
        let mut target = Target { rows: &mut *self.out, first, used, add: self.add };
        let x = S::as_simd_f32s(self.x).0;
        for (bases, dy) in self.bases.chunks(CHUNK).zip(self.dy.chunks(CHUNK * self.stride)) {
            for (tap, &offset) in self.offsets.iter().enumerate() {
                let mut vectors = [0; CHUNK];
                for (vector, base) in vectors.iter_mut().zip(bases) {
                    *vector = u32::try_from((base + offset + first) / S::F32_LANES).unwrap_or(u32::MAX);
                }
                let x = (x, &vectors[..bases.len()]);
                let mut filter = 0;
                while filter + R <= self.filters {
                    let sums = outer_tile::<S, R, V>(simd, x, (dy, self.stride, filter));
                    target.store(simd, &sums, R, |r| (filter + r) * self.offsets.len() + tap);
                    filter += R;
                }
                while filter < self.filters {
                    let sums = outer_tile::<S, REST, V>(simd, x, (dy, self.stride, filter));
                    let count = (self.filters - filter).min(REST);
                    target.store(simd, &sums, count, |r| (filter + r) * self.offsets.len() + tap);
                    filter += REST;
                }
            }
            target.add = true;
        }
    }
}
