//! Writes one shard of a cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    Float16Builder, Float32Builder, Int32Builder, StringBuilder, UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow_schema::{DataType, Field};
use serde::{Deserialize, Serialize};

use super::captions::CaptionWriter;
use super::condition::{Condition, Remade};
use super::optional::FEATURES;
use super::stored::{PixelWriter, RowChecks};
use super::tokens::TokenWriter;
use super::views::{self, ViewBuilder};
use super::{
    CacheConfig, CachedSample, Reject, SampleRows, ShardEntry, append_halves, caption_file, pixel_file,
    shard_file, shard_record, token_file,
};
use crate::error::ArtifactError;
use crate::manifest::{ContentHash, write_json};
use crate::table::{GroupLimit, TableWriter, list_field};
use crate::view::View;

/// Minimum number of rows per batch. A batch holds whole samples.
const BATCH_ROWS: usize = 1024;

/// Batches per row group.
const GROUP_BATCHES: usize = 16;

/// Rows of a row group of `views-*.parquet`, or a few more. The writer keeps one in memory.
pub const GROUP_ROWS: usize = GROUP_BATCHES * BATCH_ROWS;

/// The record that marks a shard as complete. It is written after the shard's files.
#[derive(Serialize, Deserialize)]
pub(super) struct ShardRecord {
    /// Hash of the configuration, combined with that of the projection if tokens are projected.
    pub(super) config: ContentHash,
    pub(super) entry: ShardEntry,
    pub(super) rejects: Vec<Reject>,
}

/// A shard under construction. It becomes part of the cache when [`ShardWriter::finish`] succeeds.
pub struct ShardWriter {
    dir: PathBuf,
    /// If the shard is one of a complete cache, and is made again.
    remade: Option<Remade>,
    condition: Arc<Condition>,
    shard: usize,
    table: TableWriter,
    pixels: Option<PixelWriter>,
    tokens: Option<TokenWriter>,
    captions: Option<CaptionWriter>,
    config: CacheConfig,
    pin: ContentHash,
    columns: Columns,
    rows: usize,
    rejects: Vec<Reject>,
}

#[derive(Default)]
struct Columns {
    key: StringBuilder,
    view: UInt16Builder,
    label: Int32Builder,
    width: UInt32Builder,
    height: UInt32Builder,
    content: UInt64Builder,
    views: ViewBuilder,
    norm: Float32Builder,
    embedding: Float16Builder,
    features: Float16Builder,
    pending: usize,
}

/// Columns of `views-*.parquet`.
fn fields(path: &Path, config: &CacheConfig) -> Result<Vec<Field>, ArtifactError> {
    let mut fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("view", DataType::UInt16, false),
        Field::new("label", DataType::Int32, true),
        Field::new("width", DataType::UInt32, false),
        Field::new("height", DataType::UInt32, false),
        Field::new("content", DataType::UInt64, false),
    ];
    fields.extend(views::fields(config.optional_views()));
    fields.push(Field::new("norm", DataType::Float32, false));
    fields.push(list_field(path, "embedding", DataType::Float16, config.dim)?);
    if let Some(features) = &config.features {
        fields.push(list_field(path, FEATURES, DataType::Float16, features.dim)?);
    }
    Ok(fields)
}

impl ShardWriter {
    /// Starts a shard of the cache in `home`, whose record will contain the hash `pin`. `expected`: its entry in the manifest
    /// of a complete cache.
    pub(super) fn create(
        home: &Path,
        config: &CacheConfig,
        pin: ContentHash,
        (shard, expected): (usize, Option<&ShardEntry>),
        condition: &Arc<Condition>,
    ) -> Result<Self, ArtifactError> {
        let remade = expected.map(|entry| Remade::create(home, shard, entry.clone())).transpose()?;
        let dir = remade.as_ref().map_or(home, Remade::dir);
        let path = dir.join(shard_file(shard));
        let pixels = config.stored_views.map(|format| {
            let checks = RowChecks::new(config.row_key, shard);
            PixelWriter::create(&dir.join(pixel_file(shard)), format, checks)
        });
        let tokens = config.tokens.as_ref();
        let tokens = tokens.map(|record| TokenWriter::create(&dir.join(token_file(shard)), record));
        let captions = config.captions.as_ref();
        let captions = captions.map(|record| CaptionWriter::create(&dir.join(caption_file(shard)), record));
        Ok(Self {
            dir: dir.to_owned(),
            condition: Arc::clone(condition),
            shard,
            table: TableWriter::create(&path, fields(&path, config)?, GroupLimit::Batches(GROUP_BATCHES))?,
            pixels: pixels.transpose()?,
            tokens: tokens.transpose()?,
            captions: captions.transpose()?,
            config: config.clone(),
            pin,
            columns: Columns::default(),
            rows: 0,
            rejects: Vec::new(),
            remade,
        })
    }

    /// Appends a sample to a cache that stores only views and embeddings: its K views, the K norms of the raw
    /// embeddings, and the normalized embeddings `[K, D]`.
    ///
    /// # Errors
    /// The errors of [`ShardWriter::push_rows`].
    pub fn push(
        &mut self,
        sample: &CachedSample<'_>,
        views: &[View],
        norms: &[f32],
        embeddings: &[f32],
    ) -> Result<(), ArtifactError> {
        self.push_rows(sample, &SampleRows { views, norms, embeddings, ..SampleRows::default() })
    }

    /// Appends a sample with all columns that the cache stores.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] if the length of a column does not match the configuration;
    /// [`ArtifactError::Parquet`] on I/O.
    pub fn push_rows(
        &mut self,
        sample: &CachedSample<'_>,
        rows: &SampleRows<'_>,
    ) -> Result<(), ArtifactError> {
        let invalid =
            |reason: String| ArtifactError::invalid(self.table.path(), format!("{}: {reason}", sample.key));
        if let Some(fault) = rows.fault(&self.config) {
            return Err(invalid(fault));
        }
        let label = sample.label.map(i32::try_from).transpose();
        let label = label.map_err(|error| invalid(format!("label: {error}")))?;
        let columns = &mut self.columns;
        for (index, view) in (0u16..).zip(rows.views) {
            columns.key.append_value(sample.key);
            columns.view.append_value(index);
            columns.label.append_option(label);
            columns.width.append_value(sample.image.width);
            columns.height.append_value(sample.image.height);
            columns.content.append_value(sample.image.content);
            columns.views.push(view);
        }
        columns.norm.append_slice(rows.norms);
        append_halves(&mut columns.embedding, rows.embeddings);
        append_halves(&mut columns.features, rows.features);
        columns.pending += rows.views.len();
        self.rows += rows.views.len();
        if let Some(pixels) = &mut self.pixels {
            rows.stored.iter().try_for_each(|view| pixels.push(view))?;
        }
        if let Some((tokens, record)) = self.tokens.as_mut().zip(self.config.tokens.as_ref()) {
            rows.tokens.chunks_exact(record.width()).try_for_each(|view| tokens.push(view))?;
        }
        if let Some(captions) = &mut self.captions {
            captions.push(rows.caption)?;
        }
        if self.columns.pending >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Records a rejected sample.
    pub fn reject(&mut self, reject: Reject) {
        self.rejects.push(reject);
    }

    fn flush(&mut self) -> Result<(), ArtifactError> {
        let columns = &mut self.columns;
        columns.pending = 0;
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(columns.key.finish()),
            Arc::new(columns.view.finish()),
            Arc::new(columns.label.finish()),
            Arc::new(columns.width.finish()),
            Arc::new(columns.height.finish()),
            Arc::new(columns.content.finish()),
        ];
        arrays.extend(columns.views.finish(self.config.optional_views()));
        arrays.push(Arc::new(columns.norm.finish()));
        arrays.push(self.table.lists(columns.embedding.finish(), self.config.dim)?);
        if let Some(features) = &self.config.features {
            arrays.push(self.table.lists(columns.features.finish(), features.dim)?);
        }
        self.table.write(arrays)
    }

    /// Completes the shard: flushes the files, moves them to their final names, then writes the record. A complete cache has
    /// no records; the files of a shard that is made again replace the damaged ones.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O; the shard then does not exist. [`ArtifactError::Mismatch`] if a shard of a complete cache was
    /// made again with other bytes; the cache is then unchanged.
    pub fn finish(mut self) -> Result<(), ArtifactError> {
        if self.columns.pending > 0 {
            self.flush()?;
        }
        let entry = ShardEntry {
            file: self.table.finish()?,
            samples: self.rows / usize::from(self.config.views),
            rows: self.rows,
            pixels: self.pixels.map(PixelWriter::finish).transpose()?,
            tokens: self.tokens.map(TokenWriter::finish).transpose()?,
            captions: self.captions.map(CaptionWriter::finish).transpose()?,
        };
        match self.remade {
            Some(remade) => remade.install(&entry)?,
            None => {
                let record = ShardRecord { config: self.pin, entry, rejects: self.rejects };
                write_json(&self.dir.join(shard_record(self.shard)), &record)?;
            }
        }
        self.condition.made(self.shard);
        Ok(())
    }
}
