//! Reading a cache: the manifest, the views, and the embeddings in place.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::stored::StoredViews;
use super::views::{ViewArrays, column, primitive, wrong_type};
use super::{CACHE_VERSION, CacheManifest, ImageStamp, MANIFEST};
use crate::column::MappedColumn;
use crate::error::{ArtefactError, IoContext};
use crate::manifest::{ContentHash, Verify, read_manifest};
use crate::view::View;

/// A complete cache, opened for reading.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    manifest: CacheManifest,
    hash: ContentHash,
    embeddings: MappedColumn<f32>,
}

impl Cache {
    /// Opens the cache in `dir` and checks its files. Of the stored views only presence and length are checked, whatever the
    /// `depth`: see [`Cache::verify_stored_views`].
    ///
    /// # Errors
    /// [`ArtefactError`] where the manifest or a file is missing, altered or inconsistent.
    pub fn open(dir: &Path, depth: Verify) -> Result<Self, ArtefactError> {
        let path = dir.join(MANIFEST);
        let (manifest, hash) = read_manifest::<CacheManifest>(&path, CACHE_VERSION, "the cache's manifest")?;
        manifest.validate(&path)?;
        manifest.rejects.verify(dir, depth)?;
        for shard in &manifest.shards {
            shard.file.verify(dir, depth)?;
            shard.pixels.iter().try_for_each(|file| file.verify(dir, Verify::Length))?;
        }
        let shards = manifest.shards.iter();
        let paths: Vec<PathBuf> = shards.map(|shard| dir.join(&shard.file.name)).collect();
        let embeddings = MappedColumn::open(&paths, "embedding", manifest.config.dim)?;
        for ((shard, path), &rows) in manifest.shards.iter().zip(&paths).zip(embeddings.shard_rows()) {
            if shard.rows != rows {
                let reason = format!("expected {} rows, got {rows}", shard.rows);
                return Err(ArtefactError::invalid(path, reason));
            }
        }
        Ok(Self { dir: dir.to_owned(), manifest, hash, embeddings })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest.
    pub fn manifest(&self) -> &CacheManifest {
        &self.manifest
    }

    /// The hash of the manifest, which pins every file: what banks and runs refer to.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Rows: accepted samples x K.
    pub fn rows(&self) -> usize {
        self.embeddings.rows()
    }

    /// Width D of an embedding.
    pub fn dim(&self) -> usize {
        self.manifest.config.dim
    }

    /// Views per sample, K.
    pub fn views_per_sample(&self) -> usize {
        usize::from(self.manifest.config.views)
    }

    /// The embeddings, `[rows, D]`, f16 on disk and f32 when copied out.
    pub fn embeddings(&self) -> &MappedColumn<f32> {
        &self.embeddings
    }

    /// The stored views, where the cache has them.
    ///
    /// # Errors
    /// [`ArtefactError`] where a file is unreadable or cannot be read in place.
    pub fn stored_views(&self) -> Result<Option<StoredViews>, ArtefactError> {
        let shards = self.manifest.shards.iter();
        let files =
            shards.filter_map(|shard| Some((self.dir.join(&shard.pixels.as_ref()?.name), shard.rows)));
        self.manifest.config.stored_views.map(|format| StoredViews::open(format, files)).transpose()
    }

    /// Stub.
    ///
    /// # Errors
    /// Stub.
    pub fn captions(&self) -> Result<Option<MappedColumn<f32>>, ArtefactError> {
        Ok(None)
    }

    /// Stub.
    ///
    /// # Errors
    /// Stub.
    pub fn tokens(&self) -> Result<Option<TokenColumn>, ArtefactError> {
        Ok(None)
    }

    /// Hashes the files of the stored views: one pass over all their bytes, which may take long. A reader of single views
    /// does without, since every row carries a check of its own.
    ///
    /// # Errors
    /// [`ArtefactError`] where a file is missing, altered or inconsistent.
    pub fn verify_stored_views(&self) -> Result<(), ArtefactError> {
        let files = self.manifest.shards.iter().filter_map(|shard| shard.pixels.as_ref());
        files.into_iter().try_for_each(|file| file.verify(&self.dir, Verify::Full))?;
        self.stored_views().map(|_| ())
    }

    /// Reads keys, labels and views, everything but the embeddings, into memory.
    ///
    /// # Errors
    /// [`ArtefactError`] where a shard is unreadable, or a row breaks the row law or holds an impossible view.
    pub fn views(&self) -> Result<CachedViews, ArtefactError> {
        let mut table = CachedViews { views_per_sample: self.views_per_sample(), ..CachedViews::default() };
        for shard in &self.manifest.shards {
            let path = self.dir.join(&shard.file.name);
            let parquet = |error: &dyn std::fmt::Display| ArtefactError::parquet(&path, error);
            let file = File::open(&path).during("open", &path)?;
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| parquet(&error))?;
            let names = builder.schema().fields().iter().map(|field| field.name().clone());
            let wanted: Vec<String> = names.filter(|name| name != "embedding").collect();
            let mask = ProjectionMask::columns(builder.parquet_schema(), wanted.iter().map(String::as_str));
            let reader = builder.with_projection(mask).build().map_err(|error| parquet(&error))?;
            for batch in reader {
                table.append(&path, &batch.map_err(|error| parquet(&error))?)?;
            }
        }
        Ok(table)
    }
}

/// Keys, labels and views of a cache. Sample `i` owns rows `i x K .. (i + 1) x K`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CachedViews {
    /// Key of each sample.
    pub keys: Vec<String>,
    /// Label of each sample.
    pub labels: Vec<Option<u32>>,
    /// Image of each sample.
    pub images: Vec<ImageStamp>,
    /// View of each row.
    pub views: Vec<View>,
    views_per_sample: usize,
}

impl CachedViews {
    /// Accepted samples.
    pub fn samples(&self) -> usize {
        self.keys.len()
    }

    /// View `view` of sample `sample`.
    pub fn view(&self, sample: usize, view: usize) -> &View {
        &self.views[self.row(sample, view)]
    }

    /// The row of view `view` of sample `sample`.
    pub fn row(&self, sample: usize, view: usize) -> usize {
        sample * self.views_per_sample + view
    }

    fn append(&mut self, path: &Path, batch: &RecordBatch) -> Result<(), ArtefactError> {
        let key = column(path, batch, "key")?;
        let key = key.as_string_opt::<i32>().ok_or_else(|| wrong_type(path, "key", key.data_type()))?;
        let view = primitive::<UInt16Type>(path, batch, "view")?;
        let label = primitive::<Int32Type>(path, batch, "label")?;
        let width = primitive::<UInt32Type>(path, batch, "width")?;
        let height = primitive::<UInt32Type>(path, batch, "height")?;
        let content = primitive::<UInt64Type>(path, batch, "content")?;
        let views = ViewArrays::new(path, batch)?;
        for row in 0..batch.num_rows() {
            let at = self.views.len();
            let invalid = |reason: &str| ArtefactError::invalid(path, format!("cache row {at}: {reason}"));
            let expected = at % self.views_per_sample;
            if usize::from(view.value(row)) != expected {
                return Err(invalid(&format!("expected view {expected}, got {}", view.value(row))));
            }
            let (width, height) = (width.value(row), height.value(row));
            if expected == 0 {
                let value = label.is_valid(row).then(|| u32::try_from(label.value(row))).transpose();
                self.keys.push(key.value(row).to_owned());
                self.labels.push(value.map_err(|_| invalid("the label is negative"))?);
                self.images.push(ImageStamp { width, height, content: content.value(row) });
            } else if self.keys.last().is_none_or(|last| last != key.value(row)) {
                return Err(invalid("the views of a sample do not stand together"));
            }
            let view = views.get(row).map_err(invalid)?;
            view.validate(width, height).map_err(|error| invalid(&error.to_string()))?;
            self.views.push(view);
        }
        Ok(())
    }
}

/// Stub.
#[derive(Debug)]
pub struct TokenRecord {
    /// Stub.
    pub rows: usize,
    /// Stub.
    pub columns: usize,
    /// Stub.
    pub dim: usize,
}

/// Stub.
#[derive(Debug)]
pub struct TokenColumn {
    record: TokenRecord,
}

impl TokenColumn {
    /// Stub.
    pub fn record(&self) -> &TokenRecord {
        &self.record
    }

    /// Stub.
    pub fn width(&self) -> usize {
        self.record.rows
    }

    /// Stub.
    pub fn copy_rows(&self, _rows: impl Iterator<Item = usize>, _out: &mut [f32]) {}
}
