//! The target columns of a batch: from the cache, from a bank of names, from a KDEP bank.

use candle_core::{Device, Shape, Tensor};
use lgd_data::bank::{Center, DistributionColumn, Targets};
use lgd_data::cache::{Cache, TokenColumn};
use lgd_data::column::MappedColumn;

use super::LoaderError;
use super::holdout::Holdout;
use super::labels::{ClassRecord, Labels};
use crate::error::TrainError;
use crate::objective::{Input, Inputs, TargetBatch, TargetColumns};

/// The open target columns of a run, and the teacher's embeddings. Gathers on the host, so that the loader's threads
/// can do it while a device computes.
#[derive(Debug)]
pub struct TargetSource<'a> {
    cache: &'a Cache,
    center: Option<&'a Center>,
    wanted: TargetColumns,
    bank: Option<Targets>,
    kdep: Option<MappedColumn<f32>>,
    tokens: Option<TokenColumn>,
    captions: Option<MappedColumn<f32>>,
    labels: Option<Labels>,
}

impl<'a> TargetSource<'a> {
    /// Opens the columns `wanted`. `holdout`: the samples that are not trained on.
    ///
    /// # Errors
    /// [`LoaderError::Artifact`] if a shard is unreadable; [`LoaderError::Input`] if `inputs` lack a column; the errors
    /// of [`Labels::read`].
    pub fn open(
        inputs: Inputs<'a>,
        wanted: TargetColumns,
        holdout: Option<Holdout>,
    ) -> Result<Self, LoaderError> {
        let cache = inputs.cache();
        let of_bank = wanted.text_distribution || wanted.visual_distribution || wanted.pseudo_category;
        let tokens =
            || Ok::<_, LoaderError>(cache.tokens()?.ok_or_else(|| inputs.undeclared(Input::Tokens))?);
        let captions =
            || Ok::<_, LoaderError>(cache.captions()?.ok_or_else(|| inputs.undeclared(Input::Captions))?);
        Ok(Self {
            cache,
            center: inputs.center(),
            wanted,
            bank: of_bank.then(|| Ok::<_, LoaderError>(inputs.names()?.targets()?)).transpose()?,
            kdep: wanted.kdep.then(|| Ok::<_, LoaderError>(inputs.features()?.targets()?)).transpose()?,
            tokens: wanted.tokens.then(tokens).transpose()?,
            captions: wanted.caption.then(captions).transpose()?,
            labels: wanted.label.then(|| Labels::read(cache, holdout)).transpose()?,
        })
    }

    /// The columns of the cache rows `rows`, in that order, on the CPU.
    ///
    /// # Errors
    /// [`LoaderError::Artifact`] if a stored category is out of range; [`LoaderError::Train`] if a tensor cannot be made.
    pub fn gather(&self, rows: &[usize]) -> Result<TargetBatch, LoaderError> {
        let mut batch = TargetBatch::default();
        if self.wanted.embedding {
            batch.embedding = Some(self.embeddings(rows)?);
        }
        if let Some(targets) = &self.bank {
            self.gather_bank(targets, rows, &mut batch)?;
        }
        if let Some(column) = &self.kdep {
            batch.kdep = Some(copied(column, rows.iter().copied(), rows.len(), |_| Ok(()))?);
        }
        if let Some(column) = &self.tokens {
            let mut values = vec![0.0; rows.len() * column.width()];
            column.copy_rows(rows.iter().copied(), &mut values);
            let grid = column.record();
            batch.tokens = Some(tensor(values, (rows.len(), grid.rows, grid.columns, grid.dim))?);
        }
        if let Some(column) = &self.captions {
            let samples = rows.iter().map(|row| row / self.cache.views_per_sample());
            batch.caption = Some(copied(column, samples, rows.len(), |values| match self.center {
                Some(center) => center.texts(values),
                None => Ok(()),
            })?);
        }
        if let Some(labels) = &self.labels {
            let samples = rows.iter().map(|row| row / self.cache.views_per_sample());
            batch.label = Some(samples.map(|sample| labels.of(sample)).collect());
        }
        if self.wanted.rows {
            batch.rows = Some(rows.iter().map(|&row| number(row)).collect::<Result<_, _>>()?);
        }
        Ok(batch)
    }

    /// The classes of the labels, if those are among the columns.
    pub fn classes(&self) -> Option<&ClassRecord> {
        self.labels.as_ref().map(Labels::classes)
    }

    /// The teacher's embeddings of cache rows, `[rows.len(), D]`, on the CPU, centered if the bank of names is.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if a row does not exist.
    pub fn embeddings(&self, rows: &[usize]) -> Result<Tensor, TrainError> {
        if let Some(&row) = rows.iter().find(|row| **row >= self.cache.rows()) {
            let range = "below the number of rows of the cache";
            return Err(TrainError::Setting { name: "a cache row", value: f64::from(number(row)?), range });
        }
        copied(self.cache.embeddings(), rows.iter().copied(), rows.len(), |values| match self.center {
            Some(center) => center.images(values),
            None => Ok(()),
        })
    }

    fn gather_bank(
        &self,
        targets: &Targets,
        rows: &[usize],
        batch: &mut TargetBatch,
    ) -> Result<(), LoaderError> {
        if self.wanted.text_distribution {
            batch.text_distribution = Some(distribution(&targets.text, rows)?);
        }
        if self.wanted.visual_distribution {
            batch.visual_distribution = Some(distribution(&targets.visual, rows)?);
        }
        if self.wanted.pseudo_category {
            batch.pseudo_category = Some(rows.iter().map(|&row| targets.pseudo_category[row]).collect());
        }
        Ok(())
    }
}

fn distribution(column: &DistributionColumn, rows: &[usize]) -> Result<Tensor, LoaderError> {
    let mut values = vec![0.0; rows.len() * column.slots()];
    column.copy_rows(rows, &mut values)?;
    Ok(tensor(values, (rows.len(), column.slots()))?)
}

/// `count` rows of a column, `[count, width]`, centered by `center`.
fn copied(
    column: &MappedColumn<f32>,
    rows: impl Iterator<Item = usize>,
    count: usize,
    center: impl FnOnce(&mut [f32]) -> Result<(), usize>,
) -> Result<Tensor, TrainError> {
    let mut values = vec![0.0; count * column.width()];
    column.copy_rows(rows, &mut values);
    center(&mut values).map_err(|_| TrainError::EqualsMean)?;
    tensor(values, (count, column.width()))
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor, TrainError> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}

/// A cache row as batches and checkpoints store it.
fn number(row: usize) -> Result<u32, TrainError> {
    u32::try_from(row).map_err(|_| {
        #[expect(clippy::cast_precision_loss, reason = "for a message")]
        let value = row as f64;
        TrainError::Setting { name: "a cache row", value, range: "below 2^32" }
    })
}
