//! Convolution as a matrix product without the matrix: any stride, padding, dilation and groups.
//!
//! Forward and backward-data are one [`Gather`]: every output gathers a few runs of the input and multiplies them by
//! packed weights. A strided backward-data splits into `stride²` *phases*, each a dense convolution onto every
//! `stride`-th pixel. Backward-weight ([`weight`]) sums outer products over the pixels.
//!
//! A task first copies its part of the input into a *strip*: a few rows with their padding, normalized, small enough for the level-2
//! cache. The tiles run over the strip.

mod axis;
mod gather;
mod panels;
mod strip;
mod tile;
mod weight;

use axis::Axis;
use gather::{Gather, Phase};
use panels::{Panels, Weights};
use strip::Source;

use super::Conv;
use crate::{Moments, Operand, Workspace};

pub(super) use weight::backward_weight;

pub(super) fn forward(
    conv: &Conv,
    x: Operand<'_>,
    weights: &[f32],
    y: &mut [f32],
    moments: Option<&mut Moments>,
    workspace: &mut Workspace,
) {
    let s = &conv.sliding;
    let (rows, columns) = Axis::forward(s);
    let panels = Panels::pack(&Weights::forward(conv, weights), workspace);
    let gather = Gather {
        source: Source::new(x, (s.height, s.width, s.channels), conv.groups),
        batch: s.batch,
        out_dims: (s.out_height, s.out_width, conv.out_channels),
        out_step: 1,
        accumulate: false,
        phases: vec![Phase::new((0, 0), rows, columns, s.channels / conv.groups, panels)],
    };
    gather.run(y, moments);
    gather.give_back(workspace);
}

pub(super) fn backward_data(
    conv: &Conv,
    dy: &[f32],
    weights: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) {
    let s = &conv.sliding;
    let channels = conv.out_channels / conv.groups;
    let mut phases = Vec::new();
    let (rows, columns) = Axis::backward(s);
    for (first_row, rows) in rows.iter().enumerate() {
        for (first_column, columns) in columns.iter().enumerate() {
            let panels = Panels::pack(&Weights::backward(conv, weights, rows, columns), workspace);
            phases.push(Phase::new(
                (first_row, first_column),
                rows.clone(),
                columns.clone(),
                channels,
                panels,
            ));
        }
    }
    let gather = Gather {
        source: Source::new(Operand::plain(dy), (s.out_height, s.out_width, conv.out_channels), conv.groups),
        batch: s.batch,
        out_dims: (s.height, s.width, s.channels),
        out_step: s.window.stride,
        accumulate,
        phases,
    };
    gather.run(dx, None);
    gather.give_back(workspace);
}
