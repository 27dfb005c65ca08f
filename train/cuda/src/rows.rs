//! Rows of f32 matrices `[B, K]`: L2 normalization and soft cross-entropy.

use crate::error::{Result, expect_element, expect_eq, expect_floats, int, long, rows_of};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel};
use crate::memory::{Element, Slice, SliceMut};

/// Each row divided by its L2 norm (at least 1e-12).
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn l2_normalize(gpu: &mut Gpu, x: Slice<'_>, columns: usize, y: &mut SliceMut<'_>) -> Result<()> {
    let rows = check(x, columns)?;
    expect_floats("normalized rows", y.as_slice(), x.len())?;
    let args = [x.into(), Arg::Int(int(columns)?), Arg::from(&*y)];
    gpu.launch(Kernel::single("l2_normalize"), Grid::blocks(rows), &args)
}

/// `dy` becomes the gradient of [`l2_normalize`]'s input.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn l2_normalize_backward(
    gpu: &mut Gpu,
    x: Slice<'_>,
    columns: usize,
    dy: &mut SliceMut<'_>,
) -> Result<()> {
    let rows = check(x, columns)?;
    expect_floats("gradient of normalized rows", dy.as_slice(), x.len())?;
    let args = [x.into(), Arg::Int(int(columns)?), Arg::from(&*dy)];
    gpu.launch(Kernel::single("l2_normalize_backward"), Grid::blocks(rows), &args)
}

/// Target distributions of [`cross_entropy`].
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// f32 `[B, K]`.
    Dense(Slice<'a>),
    /// The largest few probabilities of each row; the others are zero. Indices of a row are distinct.
    TopK {
        /// u32 `[B, k]`.
        indices: Slice<'a>,
        /// f32 `[B, k]`.
        probabilities: Slice<'a>,
    },
}

/// `loss[0] = -(1/B) Σ_b Σ_k p[b,k] log_softmax(z)[b,k]` over the active columns, and `dlogits` = `dloss` times its gradient.
///
/// `active` holds a byte per column, `[K]`. If it is absent, all columns are active.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn cross_entropy(
    gpu: &mut Gpu,
    logits: Slice<'_>,
    targets: Targets<'_>,
    (columns, active): (usize, Option<Slice<'_>>),
    dloss: f32,
    (loss, dlogits): (&mut SliceMut<'_>, &mut SliceMut<'_>),
) -> Result<()> {
    let rows = check(logits, columns)?;
    expect_floats("gradient of logits", dlogits.as_slice(), logits.len())?;
    expect_floats("loss", loss.as_slice(), 1)?;
    if let Some(active) = active {
        expect_element("active columns", Element::U8, active.element())?;
        expect_eq("active columns", columns, active.len())?;
    }
    let (indices, probabilities, top) = match targets {
        Targets::Dense(probabilities) => {
            expect_floats("target distributions", probabilities, logits.len())?;
            (Arg::NULL, probabilities, 0)
        }
        Targets::TopK { indices, probabilities } => {
            let top = indices.len() / rows.max(1);
            expect_element("target indices", Element::U32, indices.element())?;
            expect_eq("target indices", rows * top, indices.len())?;
            expect_floats("target probabilities", probabilities, indices.len())?;
            (indices.into(), probabilities, top)
        }
    };
    let share = 1.0 / count(rows);
    let losses = Arg::Address(gpu.scratch(rows * size_of::<f32>())?);
    let args = [
        logits.into(),
        indices,
        probabilities.into(),
        Arg::Int(int(top)?),
        active.map_or(Arg::NULL, Arg::from),
        Arg::Int(int(columns)?),
        Arg::Float(dloss * share),
        losses,
        Arg::from(&*dlogits),
    ];
    gpu.launch(Kernel::single("cross_entropy"), Grid::blocks(rows), &args)?;
    let args = [losses, Arg::Long(long(rows)?), Arg::Float(share), Arg::from(&*loss)];
    gpu.launch(Kernel::single("sum_all"), Grid::blocks(1), &args)
}

fn check(x: Slice<'_>, columns: usize) -> Result<usize> {
    expect_floats("rows", x, x.len())?;
    rows_of(x, columns)
}

#[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^24 rows")]
fn count(rows: usize) -> f32 {
    rows as f32
}
