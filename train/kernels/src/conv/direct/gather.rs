//! Forward and backward-data: every output gathers its window and multiplies it by the weights.
//!
//! Every output is one sum, in an order that depends only on the shape, so results do not depend on the number of
//! threads.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::axis::Axis;
use super::panels::Panels;
use super::strip::{Channels, Layout, Segment, Source, Strip, Window, is_short};
use super::tile::{Run, Target, gather_tile};
use crate::moments::{Moments, Part};
use crate::simd;
use crate::workspace::Workspace;

/// The outputs `first + i * out_step` along both axes, and the inputs that each gathers.
pub(super) struct Phase {
    /// First output row and column.
    first: (usize, usize),
    rows: Axis,
    columns: Axis,
    /// Input channels of one group.
    channels: usize,
    panels: Panels,
}

/// One gather-and-multiply over a batch.
pub(super) struct Gather<'a> {
    pub(super) source: Source<'a>,
    /// Images.
    pub(super) batch: usize,
    /// Rows, columns and channels of the output.
    pub(super) out_dims: (usize, usize, usize),
    /// Output pixels between neighboring outputs of a phase.
    pub(super) out_step: usize,
    /// Whether to add to the content of the output.
    pub(super) accumulate: bool,
    pub(super) phases: Vec<Phase>,
}

/// Input and output values of a task: about half of a level-2 cache.
const TASK_VALUES: usize = 192 * 1024;
/// Minimum multiply-adds of a task.
const TASK_WORK: usize = 4 << 20;
/// Enough tasks to keep many threads evenly busy.
const MANY_TASKS: usize = 64;
/// With fewer tasks, the columns are split among tasks as well.
const FEW_TASKS: usize = 16;
/// Minimum pixels of a phase per task. A task reads all weights, and those of a large layer come from memory.
const MIN_PIXELS: usize = 168;
/// Minimum columns of a task.
const MIN_COLUMNS: usize = 128;
/// With at most this many weights, a task computes all columns of a few pixels before it moves on: the weights stay in
/// the level-2 cache, and the output is written in one go.
const FEW_WEIGHTS: usize = 96 * 1024;
/// Number of those few pixels, which share the loads of a panel.
const PIXELS: usize = 96;
/// Depth summed in registers before it is added to the output. A tile reads this much of a panel once, which leaves
/// room for the input in the level-2 cache.
const DEPTH: usize = 768;
/// Tiles of 6, 8 and 12 rows divide this many pixels evenly, or nearly.
const EVEN_PIXELS: usize = 12;

impl Phase {
    pub(super) fn new(
        first: (usize, usize),
        rows: Axis,
        columns: Axis,
        channels: usize,
        panels: Panels,
    ) -> Self {
        Self { first, rows, columns, channels, panels }
    }

    /// Whether no tap reaches these outputs.
    fn is_empty(&self) -> bool {
        self.rows.taps.is_empty() || self.columns.taps.is_empty()
    }
}

thread_local! {
    static SCRATCH: RefCell<(Strip, Vec<usize>)> = RefCell::default();
}

impl Gather<'_> {
    /// Computes the output, `[batch, height, width, channels]`, and its moments.
    pub(super) fn run(&self, out: &mut [f32], moments: Option<&mut Moments>) {
        let (_, width, columns) = self.out_dims;
        let out_pixels = out.len() / columns;
        let plan = Plan::new(self);
        let with_moments = moments.is_some();
        let whole = plan.splits.len() == 1;
        let parts: Vec<Vec<Option<Part>>> = out
            .par_chunks_mut(plan.rows * width * columns)
            .enumerate()
            .map(|(block, out)| {
                let rows = rows_of(out, columns, &plan.splits);
                let parts: Vec<Option<Part>> = rows
                    .into_par_iter()
                    .zip(&plan.splits)
                    .map(|(mut rows, split)| {
                        self.task(block * plan.rows, split, &mut rows);
                        // With all columns, rows are contiguous; their moments are computed faster below.
                        (with_moments && !whole).then(|| {
                            let mut part = Part::new(split.first, split.columns);
                            part.add_rows(rows.len(), |row| &*rows[row]);
                            part
                        })
                    })
                    .collect();
                if !(with_moments && whole) {
                    return parts;
                }
                let mut part = Part::new(0, columns);
                part.add(out, columns, out.len() / columns);
                vec![Some(part)]
            })
            .collect();
        if let Some(moments) = moments {
            moments.combine(columns, out_pixels, parts.into_iter().flatten().flatten());
        }
    }

    /// Returns the packed weights to the workspace.
    pub(super) fn give_back(self, workspace: &mut Workspace) {
        for phase in self.phases {
            workspace.give(phase.panels.into_buffer());
        }
    }

    /// Computes the pixels of some output rows, from `first_row` of the batch's rows on.
    fn task(&self, first_row: usize, split: &Split, rows: &mut [&mut [f32]]) {
        let (_, width, _) = self.out_dims;
        SCRATCH.with_borrow_mut(|(strip, targets)| {
            for phase in &self.phases {
                let (phase_row, phase_column) = phase.first;
                let segments = self.segments(phase_row, first_row, rows.len() / width);
                targets.clear();
                for &(row, segment) in &segments {
                    for row in (row..).step_by(self.out_step).take(segment.rows) {
                        let pixels = (phase_column..width).step_by(self.out_step);
                        targets.extend(pixels.map(|column| row * width + column));
                    }
                }
                if phase.is_empty() {
                    if !self.accumulate {
                        targets.iter().for_each(|&target| rows[target].fill(0.0));
                    }
                    continue;
                }
                let segments: Vec<Segment> = segments.iter().map(|&(_, segment)| segment).collect();
                let positions = (width - phase_column).div_ceil(self.out_step);
                for group in 0..self.source.groups {
                    let channels = Channels { first: group * phase.channels, count: phase.channels };
                    let window = Window {
                        rows: &phase.rows,
                        columns: &phase.columns,
                        positions,
                        channels,
                        layout: Layout::Dense,
                        folded: is_short(&phase.rows, &phase.columns, phase.channels),
                    };
                    let (x, bases) = self.source.strip(&window, &segments, strip);
                    let blocks = blocks(&window);
                    simd::dispatch(Multiply {
                        x,
                        bases,
                        targets,
                        blocks: &blocks,
                        phase,
                        group,
                        split,
                        accumulate: self.accumulate,
                        out: rows,
                    });
                }
            }
        });
    }

    /// The positions of a phase in some output rows, per image, and the row of the first one, counted from `first_row`.
    fn segments(&self, phase_row: usize, first_row: usize, rows: usize) -> Vec<(usize, Segment)> {
        let (height, ..) = self.out_dims;
        let end = first_row + rows;
        let segment = |image: usize| {
            let (from, to) = ((image * height).max(first_row), ((image + 1) * height).min(end));
            let position =
                |row: usize| (row - image * height).saturating_sub(phase_row).div_ceil(self.out_step);
            let (first, last) = (position(from), position(to));
            let row = image * height + phase_row + first * self.out_step;
            (last > first).then(|| (row - first_row, Segment { image, first, rows: last - first }))
        };
        (first_row / height..end.div_ceil(height)).filter_map(segment).collect()
    }
}

/// The columns one task computes.
struct Split {
    panels: Range<usize>,
    first: usize,
    columns: usize,
}

/// The partition into tasks, which depends only on the shape.
struct Plan {
    /// Output rows of a task.
    rows: usize,
    splits: Vec<Split>,
}

impl Plan {
    fn new(gather: &Gather<'_>) -> Self {
        let (height, width, columns) = gather.out_dims;
        let all_rows = gather.batch * height;
        let depth: usize = gather.phases.iter().map(|phase| phase.panels.depth()).sum();
        let step = gather.out_step;
        let work = all_rows * width * depth * (columns / gather.source.groups) / (step * step);
        let wanted = (work / TASK_WORK).clamp(1, MANY_TASKS);
        let pixels = TASK_VALUES / (gather.source.values_per(all_rows * width) + columns);
        let pixels = pixels.min((all_rows * width).div_ceil(wanted)).max(MIN_PIXELS * step * step);
        let even = EVEN_PIXELS / gcd(EVEN_PIXELS, width.div_ceil(step)) * step;
        let rows = ((pixels / width / even).max(1) * even).min(all_rows);
        let tasks = all_rows.div_ceil(rows);
        Self {
            rows,
            splits: splits(gather, if tasks < FEW_TASKS.min(wanted) { FEW_TASKS.div_ceil(tasks) } else { 1 }),
        }
    }
}

/// Splits the columns into about `wanted` parts of whole panels; groups stay together.
fn splits(gather: &Gather<'_>, wanted: usize) -> Vec<Split> {
    let columns = &gather.phases[0].panels.columns;
    let most = if gather.source.groups == 1 { (gather.out_dims.2 / MIN_COLUMNS).max(1) } else { 1 };
    let per = columns.panels().div_ceil(wanted.min(most));
    let starts = (0..columns.panels()).step_by(per);
    let split = |start: usize| {
        let end = (start + per).min(columns.panels());
        let first = columns.first(start);
        Split { panels: start..end, first, columns: columns.first(end) - first }
    };
    let mut splits: Vec<Split> = starts.map(split).collect();
    if gather.source.groups > 1 {
        splits[0].columns = gather.out_dims.2;
    }
    splits
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// For each split, its columns of every pixel of `out`.
fn rows_of<'o>(out: &'o mut [f32], columns: usize, splits: &[Split]) -> Vec<Vec<&'o mut [f32]>> {
    if splits.len() == 1 {
        return vec![out.chunks_exact_mut(columns).collect()];
    }
    let mut rows: Vec<Vec<&mut [f32]>> = Vec::new();
    rows.resize_with(splits.len(), || Vec::with_capacity(out.len() / columns));
    for mut pixel in out.chunks_exact_mut(columns) {
        for (split, rows) in splits.iter().zip(&mut rows) {
            let (part, rest) = pixel.split_at_mut(split.columns);
            pixel = rest;
            rows.push(part);
        }
    }
    rows
}

/// Runs that are summed together in registers, and the steps of the panel that they use.
struct Block {
    runs: Vec<Run>,
    steps: Range<usize>,
}

/// The runs of a window, cut to at most [`DEPTH`].
fn blocks(window: &Window<'_>) -> Vec<Block> {
    let (offsets, len) = window.runs();
    let mut blocks: Vec<Block> = Vec::new();
    let part = len.div_ceil(len.div_ceil(DEPTH));
    for (i, offset) in offsets.into_iter().enumerate() {
        for start in (0..len).step_by(part) {
            let run = Run { offset: offset + start, len: part.min(len - start) };
            let at = i * len + start;
            match blocks.last_mut() {
                Some(block) if block.steps.len() + run.len <= DEPTH => {
                    block.steps.end += run.len;
                    block.runs.push(run);
                }
                _ => blocks.push(Block { runs: vec![run], steps: at..at + run.len }),
            }
        }
    }
    blocks
}

/// All panels of a group for the pixels of a task.
struct Multiply<'a, 'o> {
    x: &'a [f32],
    bases: &'a [usize],
    /// Row of `out` for each pixel.
    targets: &'a [usize],
    blocks: &'a [Block],
    phase: &'a Phase,
    group: usize,
    split: &'a Split,
    accumulate: bool,
    out: &'a mut [&'o mut [f32]],
}

impl WithSimd for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let panels = &self.phase.panels;
        let weights = panels.depth() * panels.columns.padded();
        let pixels = if weights <= FEW_WEIGHTS { PIXELS } else { self.bases.len() };
        let (all_bases, all_targets) = (self.bases, self.targets);
        for (bases, targets) in all_bases.chunks(pixels).zip(all_targets.chunks(pixels)) {
            self.bases = bases;
            self.targets = targets;
            for j in self.split.panels.clone() {
                let panel = panels.panel(self.group, j);
                match (simd::is_wide::<S>(), panels.columns.vectors(j)) {
                    (true, 1) => self.tiles::<S, 12, 1>(simd, j, panel),
                    (true, 2) => self.tiles::<S, 12, 2>(simd, j, panel),
                    (true, 3) => self.tiles::<S, 8, 3>(simd, j, panel),
                    (true, _) => self.tiles::<S, 6, 4>(simd, j, panel),
                    (false, 1) => self.tiles::<S, 6, 1>(simd, j, panel),
                    (false, _) => self.tiles::<S, 6, 2>(simd, j, panel),
                }
            }
        }
    }
}

impl Multiply<'_, '_> {
    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, j: usize, panel: &[f32]) {
        let width = V * S::F32_LANES;
        let columns = &self.phase.panels.columns;
        let first = self.group * columns.count() + columns.first(j) - self.split.first;
        let mut target = Target { rows: &mut *self.out, first, used: columns.used(j), add: self.accumulate };
        for block in self.blocks {
            let panel = &panel[block.steps.start * width..block.steps.end * width];
            for (bases, targets) in self.bases.chunks(R).zip(self.targets.chunks(R)) {
                let all = bases.first_chunk().copied().unwrap_or_else(|| repeat_last(bases));
                let sums = gather_tile::<S, R, V>(simd, self.x, &all, &block.runs, panel);
                target.store(simd, &sums, bases.len(), |r| targets[r]);
            }
            target.add = true;
        }
    }
}

/// The bases of a last, partial tile: its last pixel is computed several times.
#[inline(never)]
fn repeat_last<const R: usize>(bases: &[usize]) -> [usize; R] {
    std::array::from_fn(|r| bases[r.min(bases.len() - 1)])
}
