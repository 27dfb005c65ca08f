//! A custom objective: the cosine distance between the student's embedding and the teacher's. It trains a small
//! student on one random batch, so it needs no files; `own_loop` trains on a cache with any objective.
//!
//! ```text
//! cargo run --release --example own_objective
//! ```

use std::io::{self, Write};

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use lgd_train::error::TrainError;
use lgd_train::objective::{Loss, Objective, TargetBatch, TargetColumns};
use lgd_train::optim::OptimizerSettings;
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig, StudentOutput};

/// `1 - mean_b s_b . t_b` for unit vectors: the student's embeddings s and the teacher's t, both `[B, D]`.
pub(crate) struct CosineDistance;

impl Objective for CosineDistance {
    /// Columns that the loader reads for every batch.
    fn columns(&self) -> TargetColumns {
        TargetColumns { embedding: true, ..TargetColumns::default() }
    }

    /// Candle differentiates the loss. Some of Candle's gradients are wrong; `lgd_train::ops` lists the operations
    /// whose gradients are right.
    fn loss(&self, output: &StudentOutput, targets: &TargetBatch) -> Result<Loss, TrainError> {
        let (s, t) = (output.embedding()?, targets.embedding()?);
        let cosine = s.mul(t)?.sum_keepdim(D::Minus1)?.mean_all()?;
        let total = cosine.affine(-1.0, 1.0)?;
        // `parts` holds the terms of the loss, for the metrics.
        Ok(Loss { parts: vec![("cosine", total.detach())], total })
    }
}

/// Images in the batch, their side in pixels, and the width D of the embeddings.
const BATCH: usize = 8;
const SIDE: usize = 32;
const DIM: usize = 16;

fn main() -> Result<()> {
    for (step, loss) in overfit(10)?.iter().enumerate() {
        writeln!(io::stdout(), "step {step}: loss {loss:.4}")?;
    }
    Ok(())
}

/// Losses of `steps` steps on one batch of noise with random teacher embeddings.
pub(crate) fn overfit(steps: u64) -> Result<Vec<f32>> {
    let device = Device::Cpu;
    let objective = CosineDistance;
    let config = StudentConfig::new(Architecture::ResNet18, Head::Projection { dim: DIM }, 0);
    let mut student = Student::new(config, &device)?;
    let optimizer = OptimizerSettings::default();

    let pixels = noise(1, BATCH, SIDE * SIDE * 3)?.flatten_all()?.to_vec1()?;
    let embeddings = noise(2, BATCH, DIM)?;
    let norms = embeddings.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let targets =
        TargetBatch { embedding: Some(embeddings.broadcast_div(&norms)?), ..TargetBatch::default() };

    let mut losses = Vec::new();
    for step in 0..steps {
        let mode = Mode::Train { seed: 0, step };
        let output = student.forward(Images::Normalized(&pixels), (BATCH, SIDE, SIDE), mode)?;
        let loss = objective.loss(&output, &targets)?;
        student.backward(&loss.total, false)?;
        let update = optimizer.update(student.table(), 0.02, step + 1);
        student.update(&update)?;
        losses.push(loss.total.to_scalar()?);
    }
    Ok(losses)
}

/// Normally distributed random numbers, f32 `[rows, columns]`.
fn noise(seed: u64, rows: usize, columns: usize) -> Result<Tensor> {
    let mut stream = Stream::new(&[seed]);
    let values: Vec<f64> = (0..rows * columns).map(|_| stream.normal()).collect();
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?.to_dtype(DType::F32)?)
}
