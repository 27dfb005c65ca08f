//! The partition of filters: columns into groups, groups into panels, channels into chunks; and the offsets of the
//! pieces.

use std::ops::Range;

use super::plan::Grid;
use super::product::{GROUP, width};
use super::stage::{Direction, TAPS};
use super::{scratch, weights};
use crate::simd;

/// The partition of transformed filters.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Lanes of a vector.
    pub(super) lanes: usize,
    /// Columns of a panel; a group holds a whole number of panels.
    panel: usize,
    /// Points of a tile.
    points: usize,
    /// Channels of input.
    depth: usize,
    /// Channels of output.
    columns: usize,
}

/// One panel of a group.
pub(super) struct Place {
    /// Vectors of columns that are stored.
    pub(super) width: usize,
    /// First vector in the cells of its group.
    pub(super) first: usize,
    /// First float in the block of its group.
    pub(super) offset: usize,
}

impl Layout {
    pub(super) fn new(grid: &Grid, points: usize) -> Self {
        let lanes = simd::lanes();
        Self { lanes, panel: simd::max_vectors() * lanes, points, depth: grid.depth, columns: grid.columns }
    }

    /// Groups of columns.
    pub(super) fn groups(self) -> usize {
        self.columns.div_ceil(GROUP)
    }

    /// Channels of output in some groups.
    pub(super) fn columns(self, groups: &Range<usize>) -> Range<usize> {
        groups.start * GROUP..self.columns.min(groups.end * GROUP)
    }

    /// The panels of a group.
    pub(super) fn panels(self, group: usize) -> impl Iterator<Item = Place> {
        let columns = self.columns(&(group..group + 1));
        columns.clone().step_by(self.panel).enumerate().map(move |(i, start)| {
            let width = width(self.panel.min(columns.end - start), self.lanes);
            Place { width, first: i * self.panel / self.lanes, offset: i * self.panel_len() }
        })
    }

    /// Chunks of channels.
    pub(super) fn chunks(self) -> usize {
        self.depth.div_ceil(GROUP)
    }

    /// Channels of input in a chunk.
    pub(super) fn depths(self, chunk: usize) -> Range<usize> {
        chunk * GROUP..self.depth.min((chunk + 1) * GROUP)
    }

    /// Maximum vectors of channels of a chunk.
    pub(super) fn depth_vectors(self) -> usize {
        GROUP.min(self.depth).div_ceil(self.lanes)
    }

    /// Floats of one chunk of a panel.
    fn panel_len(self) -> usize {
        let stride = weights::point_stride(self.depth_vectors(), self.lanes, self.panel / self.lanes);
        (self.points * stride * self.lanes).next_multiple_of(scratch::LINE)
    }

    /// Floats of one chunk of a group: a block.
    pub(super) fn block_len(self) -> usize {
        GROUP.min(self.columns).div_ceil(self.panel) * self.panel_len()
    }

    /// Maximum vectors of columns of a group.
    pub(super) fn group_vectors(self) -> usize {
        self.panels(0).map(|panel| panel.width).sum()
    }

    /// Floats of one chunk of a group before the transform.
    pub(super) fn stage_len(self) -> usize {
        self.depth_vectors() * self.lanes * TAPS * self.group_vectors() * self.lanes
    }

    /// Offset of a chunk of a group before the transform.
    pub(super) fn stage_at(self, direction: Direction, (group, chunk): (usize, usize)) -> usize {
        let block = match direction {
            Direction::Forward => group * self.chunks() + chunk,
            Direction::Backward => chunk * self.groups() + group,
        };
        block * self.stage_len()
    }
}
