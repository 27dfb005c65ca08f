//! The teacher's columns of a batch: embeddings from the cache, distributions from the bank.

use candle_core::{Device, Tensor};
use lgd_data::bank::{Bank, DistributionColumn, Targets};
use lgd_data::cache::Cache;

use crate::error::TrainError;
use crate::objective::{TargetBatch, TargetColumns};
use crate::run::RunError;

/// What a batch's targets are gathered from.
#[derive(Debug)]
pub struct TargetSource<'a> {
    cache: &'a Cache,
    targets: Targets,
    device: &'a Device,
}

impl<'a> TargetSource<'a> {
    /// Opens the targets of a bank that belongs to `cache`.
    ///
    /// # Errors
    /// [`RunError::Artefact`] where the bank was made from another cache or a shard of it is unreadable.
    pub fn open(cache: &'a Cache, bank: &Bank, device: &'a Device) -> Result<Self, RunError> {
        bank.require_cache(cache)?;
        Ok(Self { cache, targets: bank.targets()?, device })
    }

    /// The columns `wanted` of the cache rows `rows`, in that order.
    ///
    /// # Errors
    /// [`RunError::Artefact`] where a stored slot is out of range; [`RunError::Train`] where a tensor cannot be made.
    pub fn gather(&self, rows: &[usize], wanted: TargetColumns) -> Result<TargetBatch, RunError> {
        let mut batch = TargetBatch::default();
        if wanted.embedding {
            let mut values = vec![0.0; rows.len() * self.cache.dim()];
            self.cache.embeddings().copy_rows(rows.iter().copied(), &mut values);
            batch.embedding = Some(self.tensor(values, rows.len(), self.cache.dim())?);
        }
        if wanted.text_distribution {
            batch.text_distribution = Some(self.distribution(&self.targets.text, rows)?);
        }
        if wanted.visual_distribution {
            batch.visual_distribution = Some(self.distribution(&self.targets.visual, rows)?);
        }
        if wanted.pseudo_category {
            batch.pseudo_category = Some(rows.iter().map(|&row| self.targets.pseudo_category[row]).collect());
        }
        Ok(batch)
    }

    fn distribution(&self, column: &DistributionColumn, rows: &[usize]) -> Result<Tensor, RunError> {
        let mut values = vec![0.0; rows.len() * column.slots()];
        column.copy_rows(rows, &mut values)?;
        self.tensor(values, rows.len(), column.slots())
    }

    fn tensor(&self, values: Vec<f32>, rows: usize, width: usize) -> Result<Tensor, RunError> {
        Ok(Tensor::from_vec(values, (rows, width), self.device).map_err(TrainError::from)?)
    }
}
