//! 3x3 convolutions of unit stride with fewer multiplications: tiles of the output from transformed tiles of the input.

mod convolve;
mod gradient;
mod input;
mod layout;
mod output;
mod plan;
mod product;
mod scheme;
mod scratch;
mod stage;
mod task;
#[cfg(test)]
mod tests;
mod weights;

use self::plan::Grid;
use self::scheme::{Pair, Quad, Scheme};
use self::stage::Direction;
use super::Conv;
use crate::moments::Moments;
use crate::operand::Operand;
use crate::workspace::Workspace;

/// Kind of output tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tile {
    /// Whole images of 2x2 pixels with a border of zeros.
    Pair,
    /// Tiles of 4x4 pixels.
    Quad,
}

/// The kind of tile for `conv`.
fn tile(conv: &Conv) -> Tile {
    let s = &conv.sliding;
    if (s.height, s.width, s.window.padding) == (2, 2, 1) { Tile::Pair } else { Tile::Quad }
}

/// Whether these algorithms are faster than the direct one, for `conv` or for its gradients.
///
/// The estimate counts multiplications. Those of a tile run at nearly full speed, but its transforms add some for each
/// channel, and the transform of the filters adds some for each pair of channels.
pub(super) fn wins(conv: &Conv) -> bool {
    let s = &conv.sliding;
    if s.kernel != (3, 3) || s.window.stride != 1 || s.window.dilation != 1 || conv.groups != 1 {
        return false;
    }
    let (side, points) = match tile(conv) {
        Tile::Pair => (2, 9),
        Tile::Quad => (4, 36),
    };
    let padded = |channels: usize| channels.next_multiple_of(16);
    let (from, to) = (padded(s.channels), padded(conv.out_channels));
    let tiles = s.batch * s.out_height.div_ceil(side) * s.out_width.div_ceil(side);
    let tiles_cost = tiles * points * (from * to * 8 / 7 + 15 * (from + to));
    let direct_cost = s.out_pixels() * s.channels * to * 12;
    tiles_cost + 600 * from * to < direct_cost
}

/// See [`super::forward`].
pub(super) fn forward(
    conv: &Conv,
    x: Operand<'_>,
    weights: &[f32],
    y: &mut [f32],
    moments: Option<&mut Moments>,
    workspace: &mut Workspace,
) {
    match tile(conv) {
        Tile::Pair => forward_by::<Pair, _, _>(conv, x, weights, y, moments, workspace),
        Tile::Quad => forward_by::<Quad, _, _>(conv, x, weights, y, moments, workspace),
    }
}

fn forward_by<X: Scheme<M, A>, const M: usize, const A: usize>(
    conv: &Conv,
    x: Operand<'_>,
    weights: &[f32],
    y: &mut [f32],
    moments: Option<&mut Moments>,
    workspace: &mut Workspace,
) {
    let grid = Grid::forward::<X, M, A>(conv);
    let direction = Direction::Forward;
    let problem = convolve::Problem { grid, input: x, weights, direction, accumulate: false };
    convolve::run::<X, M, A>(problem, y, moments, workspace);
}

/// See [`super::backward_data`].
pub(super) fn backward_data(
    conv: &Conv,
    dy: &[f32],
    weights: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) {
    match tile(conv) {
        Tile::Pair => backward_data_by::<Pair, _, _>(conv, dy, weights, dx, accumulate, workspace),
        Tile::Quad => backward_data_by::<Quad, _, _>(conv, dy, weights, dx, accumulate, workspace),
    }
}

fn backward_data_by<X: Scheme<M, A>, const M: usize, const A: usize>(
    conv: &Conv,
    dy: &[f32],
    weights: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) {
    let grid = Grid::backward::<X, M, A>(conv);
    let direction = Direction::Backward;
    let problem = convolve::Problem { grid, input: Operand::plain(dy), weights, direction, accumulate };
    convolve::run::<X, M, A>(problem, dx, None, workspace);
}

/// See [`super::backward_weight`].
pub(super) fn backward_weight(
    conv: &Conv,
    x: Operand<'_>,
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) {
    match tile(conv) {
        Tile::Pair => backward_weight_by::<Pair, _, _>(conv, x, dy, dw, accumulate, workspace),
        Tile::Quad => backward_weight_by::<Quad, _, _>(conv, x, dy, dw, accumulate, workspace),
    }
}

fn backward_weight_by<X: Scheme<M, A>, const M: usize, const A: usize>(
    conv: &Conv,
    x: Operand<'_>,
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) {
    let problem = gradient::Problem { grid: Grid::forward::<X, M, A>(conv), input: x, dy };
    gradient::run::<X, M, A>(problem, dw, accumulate, workspace);
}
