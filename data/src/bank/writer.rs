//! Writing a bank.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float16Array, Int32Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{BANK_VERSION, BankManifest, BankRecord, MANIFEST, PROTOTYPES, Storage};
use crate::cache::Existing;
use crate::error::ArtifactError;
use crate::manifest::{FileEntry, write_atomic, write_json};
use crate::table::{TableWriter, fixed_list, item_field};
use crate::target_files::{self, target_file};

/// Row groups of at most this many rows bound the writer's memory.
const GROUP_ROWS: usize = 16_384;

/// The distributions of a block of rows, in the bank's form of storage.
#[derive(Clone, Copy, Debug)]
pub enum Distribution<'a> {
    /// `[rows, slots]`.
    Dense(&'a [f16]),
    /// `[rows, k]` each.
    TopK {
        /// Slots, largest probability first.
        index: &'a [i32],
        /// Their probabilities.
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
    /// Whether a bank may be written to `dir`, which is created where it is absent; changes nothing in it.
    ///
    /// # Errors
    /// [`ArtifactError::Occupied`] where a bank is there and `existing` is not [`Existing::Overwrite`], or another artifact.
    pub fn check(dir: &Path, existing: Existing) -> Result<(), ArtifactError> {
        target_files::check_folder(dir, "bank", MANIFEST, existing)
    }

    /// Starts a bank of `categories` slots in `dir`; a bank that was there is gone from here on.
    ///
    /// # Errors
    /// As [`BankWriter::check`]; [`ArtifactError::Io`].
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

    /// The form of storage.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Starts the targets of one shard of the cache.
    ///
    /// # Errors
    /// [`ArtifactError`] where the file cannot be created.
    pub fn shard(&self, shard: usize) -> Result<TargetShardWriter, ArtifactError> {
        TargetShardWriter::create(&self.dir.join(target_file(shard)), self.categories, self.storage)
    }

    /// Writes the prototypes (`tsb` and `vsb`: `[C, D]`) and the manifest over `shards` target files.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O, or where a shape is not what `record` says.
    pub fn finish(
        self,
        record: BankRecord,
        tsb: &[f32],
        vsb: &[f32],
        shards: usize,
        rows: usize,
    ) -> Result<BankManifest, ArtifactError> {
        let path = self.dir.join(PROTOTYPES);
        let shape = vec![record.categories.len(), record.dim];
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (tsb, vsb) = (bytes(tsb), bytes(vsb));
        let counts: Vec<u8> =
            record.categories.iter().flat_map(|category| category.count.to_le_bytes()).collect();
        let tensors = [
            ("tsb", TensorView::new(Dtype::F32, shape.clone(), &tsb)),
            ("vsb", TensorView::new(Dtype::F32, shape.clone(), &vsb)),
            ("counts", TensorView::new(Dtype::I64, vec![shape[0]], &counts)),
        ];
        let mut views = Vec::with_capacity(tensors.len());
        for (name, view) in tensors {
            views.push((
                name,
                view.map_err(|error| ArtifactError::invalid(&path, format!("{name}: {error}")))?,
            ));
        }
        let file = safetensors::serialize(views, None::<HashMap<String, String>>)
            .map_err(|error| ArtifactError::invalid(&path, error.to_string()))?;
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

/// The targets of one shard under construction.
pub struct TargetShardWriter {
    table: TableWriter,
    group_rows: usize,
}

impl TargetShardWriter {
    fn create(path: &Path, categories: usize, storage: Storage) -> Result<Self, ArtifactError> {
        let width = |slots: usize| i32::try_from(slots).map_err(|error| ArtifactError::parquet(path, error));
        let list = |name: &str, item, slots| {
            Ok::<_, ArtifactError>(Field::new(name, fixed_list(item, width(slots)?), false))
        };
        let mut fields = vec![Field::new("pseudo_category", DataType::Int32, false)];
        match storage {
            Storage::Dense => {
                fields.push(list("text_distribution", DataType::Float16, categories)?);
                fields.push(list("visual_distribution", DataType::Float16, categories + 1)?);
            }
            Storage::TopK { k } => {
                fields.push(list("text_index", DataType::Int32, k)?);
                fields.push(list("text_probability", DataType::Float16, k)?);
                fields.push(list("visual_index", DataType::Int32, k)?);
                fields.push(list("visual_probability", DataType::Float16, k)?);
            }
        }
        Ok(Self { table: TableWriter::create(path, Schema::new(fields))?, group_rows: 0 })
    }

    /// Appends a block of rows.
    ///
    /// # Errors
    /// [`ArtifactError::Parquet`] where lengths do not fit the columns, or on I/O.
    pub fn push(
        &mut self,
        pseudo_category: &[i32],
        text: Distribution<'_>,
        visual: Distribution<'_>,
    ) -> Result<(), ArtifactError> {
        let path = self.table.path().to_owned();
        let schema = Arc::clone(self.table.schema());
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(pseudo_category.to_vec()))];
        let values = [text, visual].into_iter().flat_map(|distribution| match distribution {
            Distribution::Dense(values) => vec![half_array(values)],
            Distribution::TopK { index, probability } => {
                vec![Arc::new(Int32Array::from(index.to_vec())) as ArrayRef, half_array(probability)]
            }
        });
        for (field, values) in schema.fields().iter().skip(1).zip(values) {
            let DataType::FixedSizeList(_, width) = field.data_type() else { continue };
            let item = item_field(values.data_type().clone());
            let list = FixedSizeListArray::try_new(item, *width, values, None)
                .map_err(|error| ArtifactError::parquet(&path, error))?;
            arrays.push(Arc::new(list));
        }
        let batch =
            RecordBatch::try_new(schema, arrays).map_err(|error| ArtifactError::parquet(&path, error))?;
        self.table.write(&batch)?;
        self.group_rows += pseudo_category.len();
        if self.group_rows >= GROUP_ROWS {
            self.group_rows = 0;
            self.table.end_group()?;
        }
        Ok(())
    }

    /// Completes the file.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O; the file is then absent.
    pub fn finish(self) -> Result<(), ArtifactError> {
        self.table.finish()
    }
}

fn half_array(values: &[f16]) -> ArrayRef {
    Arc::new(Float16Array::from(values.to_vec()))
}
