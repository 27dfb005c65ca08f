//! A checkpoint: everything that the next step depends on, in one safetensors file.
//!
//! ```text
//! student/NAME      parameters and running statistics
//! optimiser/NAME    optimizer state: one vector over all parameters or buffers, in the order of the graph;
//!                   absent before the first step
//! objective/NAME    the objective's own state (the moving average of the visual bank, the cache rows of a queue);
//!                   in a weighted sum, NAME starts with the objective's name and a dot
//! loop/step         i64 [1]: steps done
//! loop/epoch_loss   f64 [1 + n]: steps and summed losses of the unfinished epoch
//! ```
//!
//! The order of the samples, the views, the learning rate and every random number follow from the configuration and the
//! step. So a resumed run gives the same bits as an uninterrupted one. `run.json` ([`crate::run`]) lists the
//! checkpoints with their lengths and hashes.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use lgd_data::ArtifactError;

use crate::error::{TrainError, expect_dims};
use crate::objective::{Objective, ReadEmbeddings};
use crate::optim::{OptimizerSettings, OptimizerState};
use crate::run::RunError;
use crate::student::Student;

const STUDENT: &str = "student/";
const OPTIMIZER: &str = "optimiser/";
const OBJECTIVE: &str = "objective/";
const STEP: &str = "loop/step";
const EPOCH_LOSS: &str = "loop/epoch_loss";

/// Progress of a run: its state that is not tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps done, over all epochs.
    pub step: usize,
    /// Steps of the unfinished epoch, then its summed total loss and the sums of its parts.
    pub epoch_loss: Vec<f64>,
}

/// The parts of a run that have state.
pub struct Stateful<'a> {
    /// The student.
    pub student: &'a mut Student,
    /// The optimizer, which determines the names of its vectors.
    pub optimizer: &'a OptimizerSettings,
    /// The objective.
    pub objective: &'a mut dyn Objective,
}

/// Encodes a checkpoint as safetensors bytes.
///
/// # Errors
/// [`RunError::Diverged`] if a parameter is NaN or infinite: such a checkpoint would replace the last good one. [`RunError::Train`] if a
/// tensor cannot be read.
pub fn encode(state: &mut Stateful<'_>, progress: &Progress) -> Result<Vec<u8>, RunError> {
    let mut tensors = BTreeMap::new();
    for (name, tensor) in state.student.tensors()? {
        require_finite(&name, &tensor, progress.step)?;
        tensors.insert(format!("{STUDENT}{name}"), tensor);
    }
    for (name, values) in state.student.engine().optimizer_state()?.entries() {
        tensors.insert(format!("{OPTIMIZER}{name}"), Tensor::new(values.as_slice(), &Device::Cpu)?);
    }
    tensors.extend(
        state.objective.state()?.into_iter().map(|(name, tensor)| (format!("{OBJECTIVE}{name}"), tensor)),
    );
    let step = i64::try_from(progress.step).unwrap_or(i64::MAX);
    tensors.insert(STEP.to_owned(), Tensor::new(&[step], &Device::Cpu)?);
    tensors.insert(EPOCH_LOSS.to_owned(), Tensor::new(progress.epoch_loss.as_slice(), &Device::Cpu)?);
    let bytes = safetensors::serialize(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), None);
    Ok(bytes.map_err(TrainError::from)?)
}

/// Loads the optimizer's vectors: all of them, or none if the run had taken no step.
fn load_optimizer(state: &mut Stateful<'_>, saved: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
    if saved.is_empty() {
        return Ok(());
    }
    let vector = |name: &'static str, len: usize| {
        let tensor =
            saved.get(name).ok_or_else(|| TrainError::MissingState { name: format!("{OPTIMIZER}{name}") })?;
        expect_dims(name, tensor, &[len])?;
        Ok::<_, TrainError>(tensor.to_vec1::<f32>()?)
    };
    let OptimizerSettings { rule, ema, .. } = state.optimizer;
    let loaded = OptimizerState::from_entries(rule, ema.is_some(), state.student.table(), vector)?;
    state.student.engine().load_optimizer_state(&loaded)
}

fn require_finite(name: &str, tensor: &Tensor, step: usize) -> Result<(), RunError> {
    // Any NaN or infinity makes the sum of absolute values one too; finite f32 cannot overflow an f64 sum.
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    let finite = values.iter().map(|value| f64::from(value.abs())).sum::<f64>().is_finite();
    if finite { Ok(()) } else { Err(RunError::Diverged { step, name: name.to_owned() }) }
}

/// Restores the state in `bytes`. `path` names the file in messages; `read` returns the teacher's embeddings `[n, D]`
/// of cache rows.
///
/// # Errors
/// [`ArtifactError::Invalid`] if the bytes are not a checkpoint of a run with these parts.
pub fn restore(
    bytes: &[u8],
    path: &Path,
    state: &mut Stateful<'_>,
    read: &mut ReadEmbeddings<'_>,
) -> Result<Progress, RunError> {
    let invalid = |reason: String| RunError::from(ArtifactError::invalid(path, reason));
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
        .map_err(|error| invalid(format!("not a valid safetensors file: {error}")))?;
    let part = |prefix: &str| -> BTreeMap<String, Tensor> {
        let named = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
        named.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
    };
    let single =
        |name: &str| tensors.get(name).ok_or_else(|| invalid(format!("the entry {name} is missing")));
    let report = state.student.load(&part(STUDENT))?;
    if !report.is_complete() || !report.unused.is_empty() {
        return Err(invalid(format!("it belongs to another student: {report}")));
    }
    load_optimizer(state, &part(OPTIMIZER)).map_err(|error| invalid(error.to_string()))?;
    state.objective.restore(&part(OBJECTIVE), read).map_err(|error| invalid(error.to_string()))?;
    let step = single(STEP)?.to_vec1::<i64>().ok().and_then(|step| usize::try_from(*step.first()?).ok());
    let step = step.ok_or_else(|| invalid(format!("{STEP} is not a step")))?;
    let epoch_loss =
        single(EPOCH_LOSS)?.to_vec1::<f64>().map_err(|error| invalid(format!("{EPOCH_LOSS}: {error}")))?;
    Ok(Progress { step, epoch_loss })
}
