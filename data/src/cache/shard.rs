//! Writing one shard of a cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{
    Float16Builder, Float32Builder, Int32Builder, StringBuilder, UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow_array::{ArrayRef, FixedSizeListArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use super::stored::PixelWriter;
use super::views::{self, ViewBuilder};
use super::{CacheConfig, ImageStamp, Reject, ShardEntry, pixel_file, shard_file, shard_record};
use crate::error::ArtefactError;
use crate::manifest::{ContentHash, FileEntry, write_json};
use crate::table::{TableWriter, fixed_list, item_field};
use crate::view::View;

/// Rows held back before they are handed to the Parquet writer.
const BATCH_ROWS: usize = 1024;

/// Batches per Parquet row group: bounds the writer's memory to some 16,384 rows.
const GROUP_BATCHES: usize = 16;

/// What is stored about a sample besides its views.
#[derive(Clone, Copy, Debug)]
pub struct CachedSample<'a> {
    /// The sample's key.
    pub key: &'a str,
    /// Its label, where the source has one.
    pub label: Option<u32>,
    /// The image.
    pub image: ImageStamp,
}

/// The record that makes a shard complete: written after the shard itself.
#[derive(Serialize, Deserialize)]
pub(super) struct ShardRecord {
    /// Hash of the configuration that the shard was made with.
    pub(super) config: ContentHash,
    pub(super) entry: ShardEntry,
    pub(super) rejects: Vec<Reject>,
}

/// One shard under construction; it appears in the cache when [`ShardWriter::finish`] succeeds.
pub struct ShardWriter {
    dir: PathBuf,
    shard: usize,
    table: TableWriter,
    pixels: Option<PixelWriter>,
    views_per_sample: usize,
    dim: usize,
    columns: Columns,
    batches: usize,
    rows: usize,
    rejects: Vec<Reject>,
    config: ContentHash,
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
    pending: usize,
}

/// The columns of `views-*.parquet` for embeddings of width `dim`.
fn schema(path: &Path, dim: usize) -> Result<(Schema, i32), ArtefactError> {
    let dim = i32::try_from(dim).map_err(|error| ArtefactError::parquet(path, error))?;
    let mut fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("view", DataType::UInt16, false),
        Field::new("label", DataType::Int32, true),
        Field::new("width", DataType::UInt32, false),
        Field::new("height", DataType::UInt32, false),
        Field::new("content", DataType::UInt64, false),
    ];
    fields.extend(views::fields());
    fields.push(Field::new("norm", DataType::Float32, false));
    fields.push(Field::new("embedding", fixed_list(DataType::Float16, dim), false));
    Ok((Schema::new(fields), dim))
}

impl ShardWriter {
    pub(super) fn create(dir: &Path, config: &CacheConfig, shard: usize) -> Result<Self, ArtefactError> {
        let path = dir.join(shard_file(shard));
        let (schema, _) = schema(&path, config.dim)?;
        let pixels = config.stored_views;
        let pixels = pixels.map(|format| PixelWriter::create(&dir.join(pixel_file(shard)), format));
        Ok(Self {
            dir: dir.to_owned(),
            shard,
            table: TableWriter::create(&path, schema)?,
            pixels: pixels.transpose()?,
            views_per_sample: usize::from(config.views),
            dim: config.dim,
            columns: Columns::default(),
            batches: 0,
            rows: 0,
            rejects: Vec::new(),
            config: config.hash(),
        })
    }

    /// Appends a sample to a cache that does not store views: its K views, the K norms of the raw embeddings, and the
    /// normalised embeddings `[K, D]`.
    ///
    /// # Errors
    /// [`ArtefactError::Invalid`] where the counts are not K, K and K x D; [`ArtefactError::Parquet`] on I/O.
    pub fn push(
        &mut self,
        sample: &CachedSample<'_>,
        views: &[View],
        norms: &[f32],
        embeddings: &[f32],
    ) -> Result<(), ArtefactError> {
        self.push_stored(sample, views, norms, embeddings, &[])
    }

    /// As [`ShardWriter::push`], with the K views as [`super::StoredFormat::encode`] gave them; none for a cache that does
    /// not store views.
    ///
    /// # Errors
    /// As [`ShardWriter::push`], also where there are not K stored views.
    pub fn push_stored(
        &mut self,
        sample: &CachedSample<'_>,
        views: &[View],
        norms: &[f32],
        embeddings: &[f32],
        stored: &[Vec<u8>],
    ) -> Result<(), ArtefactError> {
        let k = self.views_per_sample;
        let wanted = if self.pixels.is_some() { k } else { 0 };
        if stored.len() != wanted {
            let reason = format!("{}: expected {wanted} stored views, got {}", sample.key, stored.len());
            return Err(ArtefactError::invalid(self.table.path(), reason));
        }
        if views.len() != k || norms.len() != k || embeddings.len() != k * self.dim {
            let (v, n, e) = (views.len(), norms.len(), embeddings.len());
            let reason =
                format!("{}: expected {k} views of width {}, got {v}, {n} and {e}", sample.key, self.dim);
            return Err(ArtefactError::invalid(self.table.path(), reason));
        }
        let label = sample.label.map(i32::try_from).transpose();
        let label = label.map_err(|error| {
            ArtefactError::invalid(self.table.path(), format!("{}: label: {error}", sample.key))
        })?;
        let columns = &mut self.columns;
        for (index, view) in (0u16..).zip(views) {
            columns.key.append_value(sample.key);
            columns.view.append_value(index);
            columns.label.append_option(label);
            columns.width.append_value(sample.image.width);
            columns.height.append_value(sample.image.height);
            columns.content.append_value(sample.image.content);
            columns.views.push(view);
        }
        columns.norm.append_slice(norms);
        let mut half = vec![f16::ZERO; embeddings.len()];
        half.convert_from_f32_slice(embeddings);
        columns.embedding.append_slice(&half);
        columns.pending += k;
        self.rows += k;
        if let Some(pixels) = &mut self.pixels {
            stored.iter().try_for_each(|view| pixels.push(view))?;
        }
        if columns.pending >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Records a sample that could not be used.
    pub fn reject(&mut self, reject: Reject) {
        self.rejects.push(reject);
    }

    fn flush(&mut self) -> Result<(), ArtefactError> {
        let columns = &mut self.columns;
        let path = self.table.path().to_owned();
        let (_, width) = schema(&path, self.dim)?;
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(columns.key.finish()),
            Arc::new(columns.view.finish()),
            Arc::new(columns.label.finish()),
            Arc::new(columns.width.finish()),
            Arc::new(columns.height.finish()),
            Arc::new(columns.content.finish()),
        ];
        arrays.extend(columns.views.finish());
        arrays.push(Arc::new(columns.norm.finish()));
        let values = Arc::new(columns.embedding.finish());
        let list = FixedSizeListArray::try_new(item_field(DataType::Float16), width, values, None);
        arrays.push(Arc::new(list.map_err(|error| ArtefactError::parquet(&path, error))?));
        let batch = RecordBatch::try_new(Arc::clone(self.table.schema()), arrays)
            .map_err(|error| ArtefactError::parquet(&path, error))?;
        columns.pending = 0;
        self.table.write(&batch)?;
        self.batches += 1;
        if self.batches.is_multiple_of(GROUP_BATCHES) { self.table.end_group() } else { Ok(()) }
    }

    /// Completes the shard: the file is flushed and named, then its record.
    ///
    /// # Errors
    /// [`ArtefactError`] on I/O; the shard is then absent.
    pub fn finish(mut self) -> Result<(), ArtefactError> {
        if self.columns.pending > 0 {
            self.flush()?;
        }
        self.table.finish()?;
        let file = FileEntry::describe(&self.dir, &shard_file(self.shard))?;
        let pixels = match self.pixels {
            Some(pixels) => {
                pixels.finish()?;
                Some(FileEntry::describe(&self.dir, &pixel_file(self.shard))?)
            }
            None => None,
        };
        let entry = ShardEntry { file, samples: self.rows / self.views_per_sample, rows: self.rows, pixels };
        let record = ShardRecord { config: self.config, entry, rejects: self.rejects };
        write_json(&self.dir.join(shard_record(self.shard)), &record)?;
        Ok(())
    }
}
