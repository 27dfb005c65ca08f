//! Writes a bank.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float16Array, Int32Array};
use arrow_schema::{DataType, Field};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{BANK_VERSION, BankManifest, BankRecord, Center, MANIFEST, PROTOTYPES, Storage};
use crate::error::ArtifactError;
use crate::manifest::{ClaimedFolder, Existing, write_atomic, write_json};
use crate::table::{GroupLimit, TableWriter, list_field};
use crate::target_files::{self, FinishedTargets, target_file};

/// Minimum number of rows per row group.
const GROUP_ROWS: usize = 16_384;

/// The distributions of some rows, in the bank's storage format.
#[derive(Clone, Copy, Debug)]
pub enum Distribution<'a> {
    /// All probabilities, `[rows, slots]`.
    Dense(&'a [f16]),
    /// The largest probabilities and their slots, each `[rows, k]`.
    TopK {
        /// Slot indices, largest probability first.
        index: &'a [i32],
        /// Probabilities of these slots.
        probability: &'a [f16],
    },
}

/// A bank under construction.
#[derive(Debug)]
pub struct BankWriter {
    folder: ClaimedFolder,
    storage: Storage,
    categories: usize,
    finished: FinishedTargets,
}

impl BankWriter {
    /// Locks `dir` for a bank. Creates `dir` if it does not exist and changes nothing else.
    ///
    /// # Errors
    /// [`ArtifactError::Busy`] if another process writes to `dir`; [`ArtifactError::Occupied`] if `dir` holds another
    /// kind of artifact, or a bank and `existing` is not [`Existing::Overwrite`].
    pub fn claim(dir: &Path, existing: Existing) -> Result<ClaimedFolder, ArtifactError> {
        ClaimedFolder::claim(dir, "bank", MANIFEST, existing)
    }

    /// Claims `dir` and starts a bank of `categories` categories in it. Deletes an old bank.
    ///
    /// # Errors
    /// The errors of [`BankWriter::claim`] and [`BankWriter::create_in`].
    pub fn create(
        dir: &Path,
        categories: usize,
        storage: Storage,
        existing: Existing,
    ) -> Result<Self, ArtifactError> {
        Self::create_in(Self::claim(dir, existing)?, categories, storage)
    }

    /// Starts a bank of `categories` categories in a claimed folder. Deletes an old bank.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn create_in(
        folder: ClaimedFolder,
        categories: usize,
        storage: Storage,
    ) -> Result<Self, ArtifactError> {
        target_files::clear_folder(folder.dir(), MANIFEST)?;
        Ok(Self { folder, storage, categories, finished: FinishedTargets::default() })
    }

    /// Storage format of the distributions.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Starts the target file of one cache shard.
    ///
    /// # Errors
    /// [`ArtifactError`] if the file cannot be created.
    pub fn shard(&self, shard: usize) -> Result<TargetShardWriter, ArtifactError> {
        let path = self.folder.dir().join(target_file(shard));
        let (table, widths) = target_table(&path, self.categories, self.storage)?;
        Ok(TargetShardWriter { table, widths, shard, finished: self.finished.clone() })
    }

    /// Writes the prototypes (`tsb` and `vsb`, each `[C, D]`), the center and the manifest, which lists `shards` target files.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O, if a shape contradicts `record`, or if a target file is missing.
    pub fn finish(
        self,
        record: BankRecord,
        (tsb, vsb): (&[f32], &[f32]),
        center: Option<&Center>,
        shards: usize,
        rows: usize,
    ) -> Result<BankManifest, ArtifactError> {
        let dir = self.folder.dir();
        let path = dir.join(PROTOTYPES);
        let shape = vec![record.categories.len(), record.dim];
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (tsb, vsb) = (bytes(tsb), bytes(vsb));
        let counts: Vec<u8> =
            record.categories.iter().flat_map(|category| category.count.to_le_bytes()).collect();
        let center = center.map(|center| bytes(center.mean()));
        let mut tensors = vec![
            ("tsb", TensorView::new(Dtype::F32, shape.clone(), &tsb)),
            ("vsb", TensorView::new(Dtype::F32, shape.clone(), &vsb)),
            ("counts", TensorView::new(Dtype::I64, vec![shape[0]], &counts)),
        ];
        if let Some(center) = &center {
            tensors.push(("center", TensorView::new(Dtype::F32, vec![shape[1]], center)));
        }
        let views = tensors.into_iter().map(|(name, view)| Ok((name, view?)));
        let file = views
            .collect::<Result<Vec<_>, _>>()
            .and_then(|views| safetensors::serialize(views, None::<HashMap<String, String>>))
            .map_err(|error| ArtifactError::tensors(&path, error))?;
        let targets = self.finished.entries(dir, shards)?;
        let manifest = BankManifest {
            format_version: BANK_VERSION,
            record,
            rows,
            prototypes: write_atomic(&path, &file)?,
            targets,
        };
        write_json(&dir.join(MANIFEST), &manifest)?;
        Ok(manifest)
    }
}

/// The target file of one shard, under construction.
pub struct TargetShardWriter {
    table: TableWriter,
    /// Stored entries per row of the text and the visual distribution.
    widths: [usize; 2],
    shard: usize,
    finished: FinishedTargets,
}

/// Starts a target file at `path`. Returns it with the stored entries per row of the text and the visual distribution.
fn target_table(
    path: &Path,
    categories: usize,
    storage: Storage,
) -> Result<(TableWriter, [usize; 2]), ArtifactError> {
    let list = |name, item, width| list_field(path, name, item, width);
    let mut fields = vec![Field::new("pseudo_category", DataType::Int32, false)];
    let widths = match storage {
        Storage::Dense => {
            fields.push(list("text_distribution", DataType::Float16, categories)?);
            fields.push(list("visual_distribution", DataType::Float16, categories + 1)?);
            [categories, categories + 1]
        }
        Storage::TopK { k } => {
            fields.push(list("text_index", DataType::Int32, k)?);
            fields.push(list("text_probability", DataType::Float16, k)?);
            fields.push(list("visual_index", DataType::Int32, k)?);
            fields.push(list("visual_probability", DataType::Float16, k)?);
            [k, k]
        }
    };
    Ok((TableWriter::create(path, fields, GroupLimit::Rows(GROUP_ROWS))?, widths))
}

impl TargetShardWriter {
    /// Appends rows: their pseudo-categories and both distributions.
    ///
    /// # Errors
    /// [`ArtifactError::Parquet`] if the lengths do not match the columns, or on I/O.
    pub fn push(
        &mut self,
        pseudo_category: &[i32],
        text: Distribution<'_>,
        visual: Distribution<'_>,
    ) -> Result<(), ArtifactError> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(pseudo_category.to_vec()))];
        for (distribution, width) in [text, visual].into_iter().zip(self.widths) {
            match distribution {
                Distribution::Dense(values) => columns.push(self.table.lists(halves(values), width)?),
                Distribution::TopK { index, probability } => {
                    columns.push(self.table.lists(Int32Array::from(index.to_vec()), width)?);
                    columns.push(self.table.lists(halves(probability), width)?);
                }
            }
        }
        self.table.write(columns)
    }

    /// Completes the file and moves it to its final name.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O; the file then does not exist.
    pub fn finish(self) -> Result<(), ArtifactError> {
        self.finished.add(self.shard, self.table.finish()?);
        Ok(())
    }
}

fn halves(values: &[f16]) -> Float16Array {
    Float16Array::from(values.to_vec())
}
