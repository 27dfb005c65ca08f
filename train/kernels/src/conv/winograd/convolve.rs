//! Forward and backward-data: tiles in, tiles out.
//!
//! A task takes a block of tiles and a group of panels of columns. It transforms some channels of its tiles into cells
//! that stay in its level-2 cache, multiplies them by one panel of transformed filters after another, and transforms
//! the sums back. The filters are transformed once for all blocks. If there are only a few blocks, each task transforms
//! the filters that it reads.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::layout::Layout;
use super::plan::{Grid, split};
use super::scheme::Scheme;
use super::scratch;
use super::stage::{Direction, stage};
use super::task::{self, Filters, Task};
use crate::moments::{Moments, Part};
use crate::operand::Operand;
use crate::workspace::Workspace;

/// Approximate multiplications of a block for each pair of channels: the cells of this many tiles, of their sums, and
/// the filters fit a level-2 cache.
const NARROW_POINTS: usize = 48 * 36;
/// The same if only the cells need to fit, because the filters are too many.
const WIDE_POINTS: usize = 64 * 36;
/// With at most this many blocks, tasks transform the filters themselves.
const FEW_BLOCKS: usize = 2;
/// With fewer blocks, the columns are split over tasks, too.
const FEW_TASKS: usize = 4;

/// A 3x3 convolution of unit stride.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    /// Geometry.
    pub(super) grid: Grid,
    /// Input.
    pub(super) input: Operand<'a>,
    /// Filters, OHWI.
    pub(super) weights: &'a [f32],
    /// How they are read.
    pub(super) direction: Direction,
    /// Whether to add to the output.
    pub(super) accumulate: bool,
}

/// Computes the output and its moments.
pub(super) fn run<X: Scheme<M, A>, const M: usize, const A: usize>(
    problem: Problem<'_>,
    y: &mut [f32],
    moments: Option<&mut Moments>,
    workspace: &mut Workspace,
) {
    let grid = &problem.grid;
    let layout = Layout::new(grid, A * A);
    let points = if layout.groups() == 1 { NARROW_POINTS } else { WIDE_POINTS };
    let blocks = grid.blocks(points / (A * A));

    let direction = problem.direction;
    let channels = if direction == Direction::Forward { grid.depth } else { grid.columns };
    let pieces = layout.groups() * layout.chunks();
    let mut stage_buffer = workspace.take(pieces * layout.stage_len() + scratch::LINE);
    let staged = scratch::aligned(&mut stage_buffer, pieces * layout.stage_len());
    stage(problem.weights, channels, layout, direction, staged);
    let filters = Filters { staged, layout, direction };

    let block_len = layout.block_len();
    let packed_len = if blocks.len() > FEW_BLOCKS { pieces * block_len } else { 0 };
    let mut buffer = workspace.take(packed_len + scratch::LINE);
    let packed = scratch::aligned(&mut buffer, packed_len);
    packed.par_chunks_mut(block_len).enumerate().for_each(|(i, block)| {
        task::pack::<X, M, A>(filters, (i / layout.chunks(), i % layout.chunks()), block);
    });
    let packed = (packed_len > 0).then_some(&*packed);
    let task = Task::<X, M, A> { problem, filters, packed, moments: moments.is_some(), scheme: PhantomData };

    let parts = if blocks.len() >= FEW_TASKS || layout.groups() == 1 {
        let groups = 0..layout.groups();
        let tasks = cut(y, blocks.iter().map(|block| grid.pixels_in(block) * grid.columns));
        let each = |(block, out): (_, &mut [f32])| task.run(block, &groups, out, grid.columns);
        blocks.par_iter().zip(tasks).map(each).collect()
    } else {
        run_by_columns(task, &blocks, y, workspace)
    };
    workspace.give(stage_buffer);
    workspace.give(buffer);
    if let Some(moments) = moments {
        let parts: Vec<Vec<Part>> = parts;
        moments.combine(grid.columns, y.len() / grid.columns, parts.into_iter().flatten());
    }
}

/// Splits the columns of a few blocks over tasks, too, and joins them at the end.
fn run_by_columns<X: Scheme<M, A>, const M: usize, const A: usize>(
    task: Task<'_, X, M, A>,
    blocks: &[Range<usize>],
    y: &mut [f32],
    workspace: &mut Workspace,
) -> Vec<Vec<Part>> {
    let Task { problem, filters, .. } = task;
    let layout = filters.layout;
    let grid = &problem.grid;
    let groups = split(layout.groups(), FEW_TASKS.div_ceil(blocks.len()).min(layout.groups()));
    let jobs: Vec<_> =
        groups.iter().flat_map(|group| blocks.iter().map(move |block| (group, block))).collect();
    let width = |group: &Range<usize>| layout.columns(group).len();
    let mut columns = workspace.take(y.len());
    let tasks = cut(&mut columns, jobs.iter().map(|(group, block)| grid.pixels_in(block) * width(group)));
    let task = Task { problem: Problem { accumulate: false, ..problem }, ..task };
    let each =
        |(&(group, block), out): (&(&Range<usize>, _), &mut [f32])| task.run(block, group, out, width(group));
    let parts = jobs.par_iter().zip(tasks).map(each).collect();
    let groups: Vec<_> = groups.iter().map(|group| layout.columns(group)).collect();
    join(&columns, &groups, y, (grid.columns, problem.accumulate));
    workspace.give(columns);
    parts
}

/// Consecutive pieces of `y` of the given lengths.
fn cut(mut y: &mut [f32], lens: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    lens.map(|len| y.split_off_mut(..len).unwrap_or_default()).collect()
}

/// Copies pixels of columns that were computed in groups, `[group][pixel][column]`, to `[pixel][column]`.
fn join(parts: &[f32], groups: &[Range<usize>], y: &mut [f32], (columns, accumulate): (usize, bool)) {
    const PIXELS: usize = 64;
    let pixels = y.len() / columns;
    y.par_chunks_mut(PIXELS * columns).enumerate().for_each(|(i, y)| {
        for group in groups {
            let part = &parts[group.start * pixels + i * PIXELS * group.len()..];
            for (y, part) in y.chunks_exact_mut(columns).zip(part.chunks_exact(group.len())) {
                let y = &mut y[group.clone()];
                if accumulate {
                    y.iter_mut().zip(part).for_each(|(y, part)| *y += part);
                } else {
                    y.copy_from_slice(part);
                }
            }
        }
    });
}
