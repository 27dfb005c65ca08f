//! Running statistics of a finished student.

use super::session::Session;
use crate::loader::batches::{StreamPlan, TrainingImages};
use crate::run::{RunError, TrainConfig};

/// Batches that the statistics are estimated from.
const BATCHES: usize = 32;

/// Replaces the running statistics by those of the final weights, on the last batches of the run.
///
/// The statistics of training belong to the weights of earlier steps, or to all of them if the weights are averaged. In a
/// short run, or with a small momentum, the weights changed too much since: inference is then far from what training
/// computes (`tests/run/statistics.rs`).
pub(super) fn reestimate(
    session: &mut Session,
    images: &TrainingImages<'_>,
    config: &TrainConfig,
    threads: usize,
) -> Result<(), RunError> {
    let TrainConfig { batch, epochs, seed, .. } = *config;
    let steps = images.steps_per_epoch(batch, epochs)? * usize::try_from(epochs).unwrap_or(usize::MAX);
    let plan = StreamPlan { batch, epochs, seed, done: steps.saturating_sub(BATCHES) };
    images.stream(plan, threads, |batches| {
        let mut at = 0;
        while let Some(batch) = batches.next_batch()? {
            session.add_statistics(&batch, at)?;
            at += 1;
        }
        Ok::<_, RunError>(())
    })
}
