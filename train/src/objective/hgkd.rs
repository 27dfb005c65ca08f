//! Heterogeneous generative distillation (arXiv 2309.09571): docs/methods.md section 3.
//!
//! ```text
//! L      = L_feat + lambda L_sim
//! L_feat = mean over hidden positions of (x - y)^2 + beta * mean over visible positions of (x - y)^2
//! L_sim  = mean over the batch of 1 - pearson(s . Q^T, t . Q^T)
//! ```
//!
//! - x: the decoder's tokens of a masked view; y: the teacher's standardized tokens of the whole view.
//! - s: the student's embedding of the masked view; t: the teacher's embedding of the whole view.
//! - Q: the filled part of a queue of the last K teacher embeddings. A batch is added after its step.
//!
//! Means over positions also divide by the width D of the teacher's tokens. Projected tokens are compared in their d
//! stored values, and the divisor is still D. The axes are orthonormal, so the error is that of whole tokens, as far as
//! the projection preserves them. Its balance with L_sim does not depend on how tokens are stored.

use std::collections::BTreeMap;

use candle_core::Tensor;
use clap::Args;
use lgd_kernels::geometry::{expect_eq, expect_positive};
use serde::{Deserialize, Serialize};

use super::registry::{Declared, Setup};
use super::settings::not_negative;
use super::{
    BatchMask, Input, InputError, Loss, Objective, ObjectiveSpec, ReadEmbeddings, SettingGroup, TargetBatch,
    TargetColumns, TeacherQueue, WantedOutputs,
};
use crate::error::{SettingError, TrainError, expect_dims};
use crate::ops;
use crate::parse;
use crate::student::StudentOutput;

/// If the product of the deviations is below this, similarities count as constant, and their correlation goes to 0.
const EPS: f64 = 1e-6;
/// Smallest number of queue entries over which similarities can vary.
const LEAST_ENTRIES: usize = 2;

/// Settings that only this objective reads; `--queue` is shared.
#[derive(Debug, Clone, Copy, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct HgkdSettings {
    /// hgkd: share of cells that are hidden from the student, on its coarsest grid.
    #[arg(long, default_value_t = DEFAULT.mask_ratio, value_parser = parse::fraction)]
    pub mask_ratio: f32,
    /// hgkd: weight of the visible tokens relative to the hidden ones; 0 is the purely generative form.
    #[arg(long, default_value_t = DEFAULT.beta)]
    pub beta: f32,
    /// hgkd: weight of the loss that compares similarities to the queue.
    #[arg(long, default_value_t = DEFAULT.lambda_sim)]
    pub lambda_sim: f32,
}

/// The mask ratio is the paper's. The weights are this project's, because the published text has none (docs/methods.md
/// section 3).
const DEFAULT: HgkdSettings = HgkdSettings { mask_ratio: 0.6, beta: 1.0, lambda_sim: 1.0 };

impl Default for HgkdSettings {
    fn default() -> Self {
        DEFAULT
    }
}

impl SettingGroup for HgkdSettings {
    fn check(&self) -> Result<(), SettingError> {
        let Self { mask_ratio, beta, lambda_sim } = *self;
        let share = mask_ratio > 0.0 && mask_ratio < 1.0;
        SettingError::first([
            ("mask_ratio", mask_ratio.to_string(), share, "above 0 and below 1"),
            not_negative("beta", beta),
            not_negative("lambda_sim", lambda_sim),
        ])
    }
}

impl Declared for Hgkd {
    const SPEC: ObjectiveSpec = ObjectiveSpec {
        name: "hgkd",
        about: "predicts the teacher's patch tokens of the whole view from a masked one; matches its similarities to a queue of embeddings",
        needs: &[Input::Tokens],
        flags: &["--mask-ratio", "--beta", "--lambda-sim", "--queue", "--queue-fill"],
        outputs: WantedOutputs { embedding: true, tokens: true, ..WantedOutputs::NONE },
        default_weight: 1.0,
        source: "H-GKD, arXiv 2309.09571",
    };

    fn build(setup: &Setup<'_>) -> Result<Self, InputError> {
        let teacher_dim = setup.inputs.tokens()?.teacher_dim;
        Ok(Self::new(setup.settings.hgkd, TeacherQueue::of_run(setup)?, teacher_dim)?)
    }
}

/// The H-GKD objective.
pub struct Hgkd {
    settings: HgkdSettings,
    queue: TeacherQueue,
    teacher_dim: usize,
}

impl Hgkd {
    /// Creates the objective over `queue`. `teacher_dim`: width of the teacher's own tokens, even if they are stored
    /// narrower.
    ///
    /// # Errors
    /// If a weight is negative or not finite, or the width is 0.
    pub fn new(settings: HgkdSettings, queue: TeacherQueue, teacher_dim: usize) -> Result<Self, TrainError> {
        expect_positive("the width of the teacher's tokens", teacher_dim)?;
        for (name, value) in [("beta", settings.beta), ("lambda_sim", settings.lambda_sim)] {
            if !value.is_finite() || value < 0.0 {
                let range = "finite and at least 0";
                return Err(TrainError::Setting { name, value: value.into(), range });
            }
        }
        Ok(Self { settings, queue, teacher_dim })
    }
}

impl Objective for Hgkd {
    fn columns(&self) -> TargetColumns {
        TargetColumns { embedding: true, tokens: true, rows: true, ..TargetColumns::default() }
    }

    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let (tokens, mask) = (targets.tokens()?, targets.mask()?);
        let [hidden, visible] = feature_losses(output.tokens()?, tokens, mask, self.teacher_dim)?;
        let queue = self.queue.tensor()?;
        let similarity = similarity_loss(output.embedding()?, targets.embedding()?, queue.as_ref())?;
        let parts = vec![
            ("hgkd_hidden", hidden.detach()),
            ("hgkd_visible", visible.detach()),
            ("hgkd_similarity", similarity.detach()),
        ];
        let HgkdSettings { beta, lambda_sim, .. } = self.settings;
        let features = (hidden + (visible * f64::from(beta))?)?;
        Ok(Loss { total: (features + (similarity * f64::from(lambda_sim))?)?, parts })
    }

    fn after_step(&mut self, targets: &TargetBatch) -> Result<(), TrainError> {
        self.queue.push(targets.rows()?, targets.embedding()?)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        self.queue.state()
    }

    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        read: &mut ReadEmbeddings<'_>,
    ) -> Result<(), TrainError> {
        self.queue.restore(state, read)
    }
}

/// Squared errors of `[B, rows, columns, d]`, summed and divided by the number of positions and by `teacher_dim`, over
/// hidden and over visible positions: two scalars. A scalar is 0 if there are no such positions.
fn feature_losses(
    x: &Tensor,
    y: &Tensor,
    mask: &BatchMask,
    teacher_dim: usize,
) -> Result<[Tensor; 2], TrainError> {
    let (batch, rows, columns, _) = x.dims4()?;
    expect_dims("teacher tokens", y, x.dims())?;
    let visible = visible_tokens(mask, (batch, rows, columns))?;
    let errors = (x - y)?.sqr()?.sum(3)?;
    let mean_over = |shown: bool| {
        let count = visible.iter().filter(|&&visible| visible == shown).count();
        let share = single(1.0 / real((count * teacher_dim).max(1)));
        let weights: Vec<f32> =
            visible.iter().map(|&visible| if visible == shown { share } else { 0.0 }).collect();
        errors.mul(&Tensor::from_vec(weights, errors.dims(), errors.device())?)?.sum_all()
    };
    Ok([mean_over(false)?, mean_over(true)?])
}

/// Whether each token of `[B, rows, columns]` is in a visible cell.
fn visible_tokens(
    mask: &BatchMask,
    (batch, rows, columns): (usize, usize, usize),
) -> Result<Vec<bool>, TrainError> {
    let (cell_rows, cell_columns) = mask.cells();
    expect_eq("images of the batch's mask", batch, mask.images())?;
    expect_eq("rows of tokens in whole cells", rows / cell_rows * cell_rows, rows)?;
    expect_eq("columns of tokens in whole cells", columns / cell_columns * cell_columns, columns)?;
    let (high, wide) = (rows / cell_rows, columns / cell_columns);
    let cell = |token: usize| {
        let (line, column) = (token / columns, token % columns);
        let row = line / rows * cell_rows + line % rows / high;
        mask.visible()[row * cell_columns + column / wide]
    };
    Ok((0..batch * rows * columns).map(cell).collect())
}

/// `1 - pearson(s . Q^T, t . Q^T)`, averaged over the batch: a scalar, 0 while the queue has too few entries to
/// correlate.
fn similarity_loss(s: &Tensor, t: &Tensor, queue: Option<&Tensor>) -> Result<Tensor, TrainError> {
    expect_dims("teacher embeddings", t, s.dims())?;
    let Some(queue) = queue.filter(|queue| queue.dims()[0] >= LEAST_ENTRIES) else {
        return Ok(Tensor::zeros((), s.dtype(), s.device())?);
    };
    let correlation = pearson(&ops::similarity(s, queue)?, &ops::similarity(t, queue)?)?;
    Ok(correlation.mean_all()?.affine(-1.0, 1.0)?)
}

/// Correlation of the rows of `a` and `b`, `[B, K]`: `[B]`.
fn pearson(a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    let centered = |x: &Tensor| x.broadcast_sub(&x.mean_keepdim(1)?);
    let (a, b) = (centered(a)?, centered(b)?);
    let squares = (a.sqr()?.sum(1)? * b.sqr()?.sum(1)?)?;
    // Inside the root, so that the slope stays finite if one side is constant.
    (&a * &b)?.sum(1)? / (squares + EPS * EPS)?.sqrt()?
}

#[expect(clippy::cast_precision_loss, reason = "tokens of a batch stay far below 2^53")]
fn real(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn single(value: f64) -> f32 {
    value as f32
}
