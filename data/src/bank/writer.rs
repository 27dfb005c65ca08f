//! Writes a bank.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float16Array, Int32Array};
use arrow_schema::{DataType, Field};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{BANK_VERSION, BankManifest, BankRecord, Center, MANIFEST, PROTOTYPES, Storage};
use crate::error::ArtifactError;
use crate::manifest::{Existing, FileEntry, write_atomic, write_json};
use crate::table::{GroupLimit, TableWriter, list_field};
use crate::target_files::{self, target_file};

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
    dir: PathBuf,
    storage: Storage,
    categories: usize,
}

impl BankWriter {
    /// Checks that a bank may be written to `dir`. Creates `dir` if it does not exist and changes nothing else.
    ///
    /// # Errors
    /// [`ArtifactError::Occupied`] if `dir` holds another kind of artifact, or a bank and `existing` is not
    /// [`Existing::Overwrite`].
    pub fn check(dir: &Path, existing: Existing) -> Result<(), ArtifactError> {
        target_files::check_folder(dir, "bank", MANIFEST, existing)
    }

    /// Starts a bank of `categories` categories in `dir`. Deletes an old bank.
    ///
    /// # Errors
    /// The errors of [`BankWriter::check`]; [`ArtifactError::Io`].
    pub fn create(
        dir: &Path,
        categories: usize,
        storage: Storage,
        existing: Existing,
    ) -> Result<Self, ArtifactError> {
        Self::check(dir, existing)?;
        target_files::clear_folder(dir, MANIFEST)?;
        Ok(Self { dir: dir.to_owned(), storage, categories })
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
        TargetShardWriter::create(&self.dir.join(target_file(shard)), self.categories, self.storage)
    }

    /// Writes the prototypes (`tsb` and `vsb`, each `[C, D]`), the center and the manifest, which lists `shards` target files.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O, or if a shape contradicts `record`.
    pub fn finish(
        self,
        record: BankRecord,
        (tsb, vsb): (&[f32], &[f32]),
        center: Option<&Center>,
        shards: usize,
        rows: usize,
    ) -> Result<BankManifest, ArtifactError> {
        let path = self.dir.join(PROTOTYPES);
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
        write_atomic(&path, &file)?;
        let manifest = BankManifest {
            format_version: BANK_VERSION,
            record,
            rows,
            prototypes: FileEntry::describe(&self.dir, PROTOTYPES)?,
            targets: target_files::describe(&self.dir, shards)?,
        };
        write_json(&self.dir.join(MANIFEST), &manifest)?;
        Ok(manifest)
    }
}

/// The target file of one shard, under construction.
pub struct TargetShardWriter {
    table: TableWriter,
    /// Stored entries per row of the text and the visual distribution.
    widths: [usize; 2],
}

impl TargetShardWriter {
    fn create(path: &Path, categories: usize, storage: Storage) -> Result<Self, ArtifactError> {
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
        Ok(Self { table: TableWriter::create(path, fields, GroupLimit::Rows(GROUP_ROWS))?, widths })
    }

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
        self.table.finish()
    }
}

fn halves(values: &[f16]) -> Float16Array {
    Float16Array::from(values.to_vec())
}
