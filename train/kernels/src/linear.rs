//! Dense layers over `[B, I]`, and similarities to the rows of a bank (a dense layer without bias).

mod product;

use rayon::prelude::*;

use self::product::{Layout, Product};
use crate::elementwise::{Values, with_scratch};
use crate::geometry::{Result, expect_eq, expect_positive};
use crate::operand::Operand;
use crate::simd;
use crate::workspace::Workspace;

/// Rows of the first factor per task: whole tiles of 6 and of 8 rows.
const ROWS: usize = 48;
/// Rows of the output per task that transposes it.
const TURNED: usize = 16;
/// Number of column strips for the input's gradient, and maximum columns of one.
const STRIPS: usize = 16;
const MAX_STRIP: usize = 128;

/// A product of `[batch, inputs]` with the transpose of `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Rows.
    pub batch: usize,
    /// Columns of the input.
    pub inputs: usize,
    /// Columns of the output.
    pub outputs: usize,
}

impl Linear {
    /// A layer over `batch` rows of `inputs` values, with `outputs` values each.
    ///
    /// # Errors
    /// A zero dimension.
    pub fn new(batch: usize, inputs: usize, outputs: usize) -> Result<Self> {
        expect_positive("batch", batch)?;
        expect_positive("inputs", inputs)?;
        expect_positive("outputs", outputs)?;
        Ok(Self { batch, inputs, outputs })
    }
}

/// `y = x . weights^T + bias`, `[B, O]`.
///
/// # Errors
/// Lengths that do not match.
pub fn forward(
    l: &Linear,
    x: Operand<'_>,
    weights: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workspace: &mut Workspace,
) -> Result<()> {
    let x = Values::new("dense input", x, l.inputs, l.batch * l.inputs)?;
    expect_eq("dense weights", l.outputs * l.inputs, weights.len())?;
    expect_eq("bias", l.outputs, bias.map_or(l.outputs, <[f32]>::len))?;
    expect_eq("dense output", l.batch * l.outputs, y.len())?;
    // The weights are many and read once, so they are not repacked: the product is y^T = weights . x^T.
    let layout = Layout::new(l.inputs, l.batch);
    let mut panels = workspace.take(layout.len());
    panels.par_chunks_mut(layout.width() * l.inputs).enumerate().for_each(|(j, panel)| {
        let first = j * layout.width() * l.inputs;
        let len = (layout.width() * l.inputs).min(l.batch * l.inputs - first);
        with_scratch(len, |scratch| layout.pack_transposed(panel, x.read(first, scratch)));
    });
    let mut turned = workspace.take(y.len());
    let blocks = weights.par_chunks(ROWS * l.inputs).zip(turned.par_chunks_mut(ROWS * l.batch));
    blocks.for_each(|(rows, out)| {
        simd::dispatch(Product { rows, panels: &panels, layout, out, accumulate: false });
    });
    workspace.give(panels);
    y.par_chunks_mut(TURNED * l.outputs).enumerate().for_each(|(i, y)| {
        product::transpose(&turned, l.batch, i * TURNED, y, l.outputs);
        if let Some(bias) = bias {
            let rows = y.chunks_exact_mut(l.outputs);
            rows.for_each(|y| y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
        }
    });
    workspace.give(turned);
    Ok(())
}

/// The gradient of the input, `[B, I]`, from the gradient `dy` of the output.
///
/// # Errors
/// Lengths that do not match.
pub fn backward_data(
    l: &Linear,
    dy: &[f32],
    weights: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    workspace: &mut Workspace,
) -> Result<()> {
    expect_eq("dense output gradient", l.batch * l.outputs, dy.len())?;
    expect_eq("dense weights", l.outputs * l.inputs, weights.len())?;
    expect_eq("dense input gradient", l.batch * l.inputs, dx.len())?;
    // A task computes a strip of columns; the strips, `[strip][B][column]`, are joined afterwards.
    let width = Layout::new(l.outputs, l.inputs).width();
    let columns = (l.inputs / STRIPS).next_multiple_of(width).clamp(width, MAX_STRIP);
    let mut strips = workspace.take(dx.len());
    strips.par_chunks_mut(l.batch * columns).enumerate().for_each(|(strip, out)| {
        let first = strip * columns;
        let layout = Layout::new(l.outputs, out.len() / l.batch);
        with_scratch(layout.len(), |panels| {
            for (j, panel) in panels.chunks_mut(layout.width() * l.outputs).enumerate() {
                layout.pack(panel, j, &weights[first..], l.inputs);
            }
            simd::dispatch(Product { rows: dy, panels, layout, out, accumulate: false });
        });
    });
    for (strip, from) in strips.chunks(l.batch * columns).enumerate() {
        let used = from.len() / l.batch;
        for (dx, from) in dx.chunks_exact_mut(l.inputs).zip(from.chunks_exact(used)) {
            let dx = &mut dx[strip * columns..][..used];
            if accumulate {
                dx.iter_mut().zip(from).for_each(|(dx, from)| *dx += from);
            } else {
                dx.copy_from_slice(from);
            }
        }
    }
    workspace.give(strips);
    Ok(())
}

/// The gradients of the weights, `[O, I]`, and of the bias, `[O]`, from the gradient `dy` of the output.
///
/// # Errors
/// Lengths that do not match.
pub fn backward_weight(
    l: &Linear,
    x: Operand<'_>,
    dy: &[f32],
    dw: &mut [f32],
    dbias: Option<&mut [f32]>,
    accumulate: bool,
    workspace: &mut Workspace,
) -> Result<()> {
    let x = Values::new("dense input", x, l.inputs, l.batch * l.inputs)?;
    expect_eq("dense output gradient", l.batch * l.outputs, dy.len())?;
    expect_eq("dense weight gradient", l.outputs * l.inputs, dw.len())?;
    expect_eq("bias gradient", l.outputs, dbias.as_ref().map_or(l.outputs, |dbias| dbias.len()))?;
    let mut values = workspace.take(l.batch * l.inputs);
    x.copy(0, &mut values);
    let layout = Layout::new(l.batch, l.inputs);
    let mut panels = workspace.take(layout.len());
    panels
        .par_chunks_mut(layout.width() * l.batch)
        .enumerate()
        .for_each(|(j, panel)| layout.pack(panel, j, &values, l.inputs));
    workspace.give(values);
    let mut turned = workspace.take(dy.len());
    product::transpose(dy, l.outputs, 0, &mut turned, l.batch);
    let blocks = turned.par_chunks(ROWS * l.batch).zip(dw.par_chunks_mut(ROWS * l.inputs));
    blocks.for_each(|(rows, out)| {
        simd::dispatch(Product { rows, panels: &panels, layout, out, accumulate });
    });
    workspace.give(panels);
    if let Some(dbias) = dbias {
        for (dbias, gradients) in dbias.iter_mut().zip(turned.chunks_exact(l.batch)) {
            let sum: f32 = gradients.iter().sum();
            *dbias = if accumulate { *dbias + sum } else { sum };
        }
    }
    workspace.give(turned);
    Ok(())
}
