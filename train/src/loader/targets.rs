//! The columns of a batch that objectives ask for: from the cache, from a bank of names, from a KDEP bank.

use candle_core::{Device, Shape, Tensor};
use lgd_data::bank::{Bank, DistributionColumn, Targets};
use lgd_data::cache::{Cache, TokenColumn, TokenRecord};
use lgd_data::column::MappedColumn;
use lgd_data::kdep::KdepBank;

use super::labels::Labels;
use crate::error::TrainError;
use crate::objective::{TargetBatch, TargetColumns};
use crate::run::{ClassRecord, RunError};

/// What targets are made from.
#[derive(Clone, Copy, Debug)]
pub struct TargetInputs<'a> {
    /// The cache.
    pub cache: &'a Cache,
    /// A bank of names, made from this cache.
    pub bank: Option<&'a Bank>,
    /// A KDEP bank, made from this cache.
    pub kdep: Option<&'a KdepBank>,
}

impl<'a> TargetInputs<'a> {
    /// The bank of names, which belongs to the cache.
    ///
    /// # Errors
    /// [`RunError::MissingInput`] where there is none; [`RunError::Artifact`] where it was made from another cache.
    pub fn names(&self) -> Result<&'a Bank, RunError> {
        let input = "a bank of names\nhint: give the folder that `lgd bank` made with --bank";
        let bank = self.bank.ok_or(RunError::MissingInput { of: "lgd", input })?;
        bank.require_cache(self.cache)?;
        Ok(bank)
    }

    /// The KDEP bank, which belongs to the cache.
    ///
    /// # Errors
    /// As [`TargetInputs::names`].
    pub fn features(&self) -> Result<&'a KdepBank, RunError> {
        let input = "a KDEP bank\nhint: give the folder that `lgd bank --target kdep` made with --bank";
        let kdep = self.kdep.ok_or(RunError::MissingInput { of: "kdep", input })?;
        kdep.require_cache(self.cache)?;
        Ok(kdep)
    }

    /// What the cache's tokens are.
    ///
    /// # Errors
    /// [`RunError::NotCached`] where it holds none.
    pub fn tokens(&self) -> Result<&'a TokenRecord, RunError> {
        self.cache.manifest().config.tokens.as_ref().ok_or_else(|| no_tokens(self.cache))
    }
}

/// What a batch's targets are gathered from: the columns that were asked for, and the embeddings. Gathers on the host, so that a
/// loader's threads can do it while a device computes.
#[derive(Debug)]
pub struct TargetSource<'a> {
    cache: &'a Cache,
    wanted: TargetColumns,
    bank: Option<Targets>,
    kdep: Option<MappedColumn<f32>>,
    tokens: Option<TokenColumn>,
    captions: Option<MappedColumn<f32>>,
    labels: Option<Labels>,
}

impl<'a> TargetSource<'a> {
    /// Opens the columns `wanted`.
    ///
    /// # Errors
    /// [`RunError::Artifact`] where a bank was made from another cache or a shard is unreadable; [`RunError::MissingInput`] and
    /// [`RunError::NotCached`] where a column is nowhere to be had.
    pub fn open(inputs: TargetInputs<'a>, wanted: TargetColumns) -> Result<Self, RunError> {
        let cache = inputs.cache;
        let of_bank = wanted.text_distribution || wanted.visual_distribution || wanted.pseudo_category;
        Ok(Self {
            cache,
            wanted,
            bank: of_bank.then(|| Ok::<_, RunError>(inputs.names()?.targets()?)).transpose()?,
            kdep: wanted.kdep.then(|| Ok::<_, RunError>(inputs.features()?.targets()?)).transpose()?,
            tokens: wanted.tokens.then(|| tokens(cache)).transpose()?,
            captions: wanted.caption.then(|| captions(cache)).transpose()?,
            labels: wanted.label.then(|| Labels::read(cache)).transpose()?,
        })
    }

    /// The columns of the cache rows `rows`, in that order, on the CPU.
    ///
    /// # Errors
    /// [`RunError::Artifact`] where a stored slot is out of range; [`RunError::Train`] where a tensor cannot be made.
    pub fn gather(&self, rows: &[usize]) -> Result<TargetBatch, RunError> {
        let mut batch = TargetBatch::default();
        if self.wanted.embedding {
            batch.embedding = Some(self.embeddings(rows)?);
        }
        if let Some(targets) = &self.bank {
            self.gather_bank(targets, rows, &mut batch)?;
        }
        if let Some(column) = &self.kdep {
            batch.kdep = Some(copied(column, rows.iter().copied(), rows.len())?);
        }
        if let Some(column) = &self.tokens {
            let mut values = vec![0.0; rows.len() * column.width()];
            column.copy_rows(rows.iter().copied(), &mut values);
            let grid = column.record();
            batch.tokens = Some(tensor(values, (rows.len(), grid.rows, grid.columns, grid.dim))?);
        }
        if let Some(column) = &self.captions {
            let samples = rows.iter().map(|row| row / self.cache.views_per_sample());
            batch.caption = Some(copied(column, samples, rows.len())?);
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

    /// The classes of the labels, where those were asked for.
    pub fn classes(&self) -> Option<&ClassRecord> {
        self.labels.as_ref().map(Labels::classes)
    }

    /// The teacher's embeddings of cache rows, `[rows.len(), D]`, on the CPU.
    ///
    /// # Errors
    /// [`TrainError::Setting`] where there is no such row.
    pub fn embeddings(&self, rows: &[usize]) -> Result<Tensor, TrainError> {
        if let Some(&row) = rows.iter().find(|row| **row >= self.cache.rows()) {
            let range = "below the number of rows of the cache";
            return Err(TrainError::Setting { name: "a cache row", value: f64::from(number(row)?), range });
        }
        copied(self.cache.embeddings(), rows.iter().copied(), rows.len())
    }

    fn gather_bank(
        &self,
        targets: &Targets,
        rows: &[usize],
        batch: &mut TargetBatch,
    ) -> Result<(), RunError> {
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

fn distribution(column: &DistributionColumn, rows: &[usize]) -> Result<Tensor, RunError> {
    let mut values = vec![0.0; rows.len() * column.slots()];
    column.copy_rows(rows, &mut values)?;
    Ok(tensor(values, (rows.len(), column.slots()))?)
}

/// `count` rows of a column, `[count, width]`.
fn copied(
    column: &MappedColumn<f32>,
    rows: impl Iterator<Item = usize>,
    count: usize,
) -> Result<Tensor, TrainError> {
    let mut values = vec![0.0; count * column.width()];
    column.copy_rows(rows, &mut values);
    tensor(values, (count, column.width()))
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor, TrainError> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}

/// A cache row as batches and checkpoints keep it.
fn number(row: usize) -> Result<u32, TrainError> {
    u32::try_from(row).map_err(|_| {
        #[expect(clippy::cast_precision_loss, reason = "for a message")]
        let value = row as f64;
        TrainError::Setting { name: "a cache row", value, range: "below 2^32" }
    })
}

fn tokens(cache: &Cache) -> Result<TokenColumn, RunError> {
    cache.tokens()?.ok_or_else(|| no_tokens(cache))
}

fn no_tokens(cache: &Cache) -> RunError {
    RunError::NotCached {
        of: "hgkd",
        column: "the teacher's patch tokens",
        cache: cache.dir().to_owned(),
        hint: "extract again with --tokens",
    }
}

/// The captions, which must be as wide as the embeddings that they are compared with.
fn captions(cache: &Cache) -> Result<MappedColumn<f32>, RunError> {
    let path = || cache.dir().to_owned();
    let column = cache.captions()?.ok_or_else(|| RunError::NotCached {
        of: "caption",
        column: "captions",
        cache: path(),
        hint: "extract again with --captions, from a list that has them",
    })?;
    if column.width() == cache.dim() {
        return Ok(column);
    }
    Err(RunError::Width {
        path: path(),
        what: "a caption embedding".to_owned(),
        got: column.width(),
        expected: cache.dim(),
        hint: "captions must be encoded by the text encoder that shares the image encoder's space",
    })
}
