//! Running statistics of a student that is evaluated or finished.

use super::session::Session;
use crate::loader::batches::{StreamPlan, TrainingImages};
use crate::run::{RunError, TrainConfig};

/// Batches that the statistics of a finished student are estimated from.
pub(super) const AT_THE_END: usize = 32;

/// Batches before an evaluation in an epoch of `steps` steps. They cost a third of a step each, so at most 2% of an epoch of
/// 32 steps, and less of a longer one.
pub(super) fn in_between(steps: usize) -> usize {
    (steps / 100).clamp(2, AT_THE_END)
}

/// The last batches of a run that has done `steps` steps.
#[derive(Clone, Copy)]
pub(super) struct Last {
    /// Steps done.
    pub(super) steps: usize,
    /// Number of batches.
    pub(super) batches: usize,
}

/// Replaces the running statistics by those of the present weights, on the last batches.
///
/// The statistics of training belong to the weights of earlier steps, or to all of them if the weights are averaged. In a
/// short run, or with a small momentum, the weights changed too much since: inference is then far from what training
/// computes (`tests/run/statistics.rs`).
pub(super) fn reestimate(
    session: &mut Session,
    images: &TrainingImages<'_>,
    config: &TrainConfig,
    threads: usize,
    last: Last,
) -> Result<(), RunError> {
    let TrainConfig { batch, epochs, seed, .. } = *config;
    let count = last.batches.min(last.steps);
    // The stream ends with the last batch, so that none is read ahead in vain.
    let per_epoch = images.steps_per_epoch(batch, epochs)?.max(1);
    let epochs = u32::try_from(last.steps.div_ceil(per_epoch)).unwrap_or(epochs);
    let plan = StreamPlan { batch, epochs, seed, done: last.steps - count };
    images.stream(plan, threads, |batches| {
        for at in 0..count {
            let Some(batch) = batches.next_batch()? else { break };
            session.add_statistics(&batch, at)?;
        }
        Ok::<_, RunError>(())
    })
}
