//! Reads a cache: the manifest, views into memory, and wide columns in place.

use std::path::{Path, PathBuf};

use parquet::arrow::ProjectionMask;

use super::cached_views::CachedViews;
use super::captions::CAPTION;
use super::optional::{CAPTIONS, COLUMNS, ColumnFiles, FEATURES, STORED_VIEWS, TOKENS};
use super::stored::StoredViews;
use super::tokens::TokenColumn;
use super::{CACHE_VERSION, CacheManifest, MANIFEST};
use crate::column::MappedColumn;
use crate::error::{ArtifactError, ParquetContext};
use crate::manifest::{ContentHash, FilesInUse, VerifiedFile, Verify, read_manifest};
use crate::parquet_file::{self, SharedFile};

/// Name of the embedding column.
const EMBEDDING: &str = "embedding";

/// A complete cache, opened for reading.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    manifest: CacheManifest,
    hash: ContentHash,
    depth: Verify,
    in_use: FilesInUse,
    /// Files of views, embeddings and features, one per shard.
    shards: Vec<VerifiedFile>,
    embeddings: MappedColumn<f32>,
}

impl Cache {
    /// Opens the cache in `dir` and verifies its files to `depth`. The files of stored views, tokens and captions may
    /// be large, and a copied cache may omit them, so they are verified when the column is opened. [`Cache::tokens`]
    /// and [`Cache::captions`] verify to `depth`, [`Cache::stored_views`] verifies lengths, and
    /// [`Cache::verify_stored_views`] verifies every byte.
    ///
    /// # Errors
    /// [`ArtifactError`] if the manifest or a file is missing, altered or inconsistent.
    pub fn open(dir: &Path, depth: Verify) -> Result<Self, ArtifactError> {
        let path = dir.join(MANIFEST);
        let (manifest, hash) = read_manifest::<CacheManifest>(&path, CACHE_VERSION, "the cache's manifest")?;
        manifest.validate(&path)?;
        manifest.rejects.verify(dir, depth)?;
        let in_use = FilesInUse::default();
        let shards = manifest.shards.iter().map(|shard| in_use.verify(&shard.file, dir, depth));
        let shards = shards.collect::<Result<Vec<_>, _>>()?;
        let embeddings = MappedColumn::open_verified(&shards, EMBEDDING, manifest.config.dim)?;
        let rows: Vec<usize> = manifest.shards.iter().map(|shard| shard.rows).collect();
        embeddings.require_rows(&rows)?;
        Ok(Self { dir: dir.to_owned(), manifest, hash, depth, in_use, shards, embeddings })
    }

    /// Fails if a file that was verified since the cache was opened has changed: replaced, deleted, written to, or of another
    /// length. [`Verify::Full`] also hashes those files again that were hashed.
    ///
    /// # Errors
    /// [`ArtifactError::Changed`], which names the file; [`ArtifactError::Io`].
    pub fn require_unchanged(&self, depth: Verify) -> Result<(), ArtifactError> {
        self.in_use.require_unchanged(depth)
    }

    /// Folder of the cache.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Manifest of the cache.
    pub fn manifest(&self) -> &CacheManifest {
        &self.manifest
    }

    /// Hash of the manifest, which covers every file. Banks and runs identify a cache by this hash.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Number of rows: accepted samples x K.
    pub fn rows(&self) -> usize {
        self.embeddings.rows()
    }

    /// Embedding width D.
    pub fn dim(&self) -> usize {
        self.manifest.config.dim
    }

    /// Views per sample, K.
    pub fn views_per_sample(&self) -> usize {
        usize::from(self.manifest.config.views)
    }

    /// The embeddings, `[rows, D]`: f16 on disk, converted to f32 when copied.
    pub fn embeddings(&self) -> &MappedColumn<f32> {
        &self.embeddings
    }

    /// The teacher's pooled features, `[rows, F]`, if the cache has them: f16 on disk, not normalized.
    ///
    /// # Errors
    /// [`ArtifactError`] if a file is unreadable or has no such column.
    pub fn features(&self) -> Result<Option<MappedColumn<f32>>, ArtifactError> {
        let Some(record) = &self.manifest.config.features else { return Ok(None) };
        MappedColumn::open_verified(&self.shards, FEATURES, record.dim).map(Some)
    }

    /// The teacher's patch tokens, if the cache has them. Opening verifies their files and that of their projection to
    /// the depth that the cache was opened with; [`Verify::Full`] reads every byte.
    ///
    /// # Errors
    /// [`ArtifactError`] if a file is missing, altered, unreadable or inconsistent.
    pub fn tokens(&self) -> Result<Option<TokenColumn>, ArtifactError> {
        let Some(record) = &self.manifest.config.tokens else { return Ok(None) };
        let files = self.checked(&TOKENS, self.depth)?;
        let rows: Vec<usize> = self.manifest.shards.iter().map(|shard| shard.rows).collect();
        TokenColumn::open(record, &files, &rows).map(Some)
    }

    /// The text embeddings of the captions, `[samples, D]`, if the cache has them: f16 on disk, L2-normalized. Row
    /// number = sample number = cache row / K. Opening verifies their files to the depth that the cache was opened
    /// with.
    ///
    /// # Errors
    /// [`ArtifactError`] if a file is missing, altered, unreadable or inconsistent.
    pub fn captions(&self) -> Result<Option<MappedColumn<f32>>, ArtifactError> {
        let Some(record) = &self.manifest.config.captions else { return Ok(None) };
        let files = self.checked(&CAPTIONS, self.depth)?;
        let samples: Vec<usize> = self.manifest.shards.iter().map(|shard| shard.samples).collect();
        let column = MappedColumn::open_verified(&files, CAPTION, record.dim)?;
        column.require_rows(&samples)?;
        Ok(Some(column))
    }

    /// Verifies the files of a column and returns those of its shards.
    fn checked(&self, column: &ColumnFiles, depth: Verify) -> Result<Vec<VerifiedFile>, ArtifactError> {
        column.verify(&self.manifest, |file| self.in_use.verify(file, &self.dir, depth))
    }

    /// The first error of each column whose files the manifest lists but which are missing or have the wrong length.
    pub fn absent_columns(&self) -> Vec<ArtifactError> {
        let absent = |column: &ColumnFiles| {
            column.verify(&self.manifest, |file| file.verify(&self.dir, Verify::Length)).err()
        };
        COLUMNS.iter().filter_map(absent).collect()
    }

    /// The stored views, if the cache has them. Opening verifies that their files exist and have the right lengths. In a cache
    /// of format version 1 or 2, whose rows do not name their cache, it verifies every byte.
    ///
    /// # Errors
    /// [`ArtifactError`] if a file is missing, unreadable or not laid out for reading in place.
    pub fn stored_views(&self) -> Result<Option<StoredViews>, ArtifactError> {
        let Some(format) = self.manifest.config.stored_views else { return Ok(None) };
        let key = self.manifest.config.row_key;
        let depth = if key.is_some() { Verify::Length } else { Verify::Full };
        let files = self.checked(&STORED_VIEWS, depth)?;
        let rows = self.manifest.shards.iter().map(|shard| shard.rows);
        StoredViews::open(format, key, files.iter().zip(rows)).map(Some)
    }

    /// Hashes the files of the stored views in one pass over all their bytes. Reading single views does not require
    /// this, because every row has its own check.
    ///
    /// # Errors
    /// [`ArtifactError`] if a file is missing, altered or inconsistent.
    pub fn verify_stored_views(&self) -> Result<(), ArtifactError> {
        self.checked(&STORED_VIEWS, Verify::Full)?;
        self.stored_views().map(|_| ())
    }

    /// Reads keys, labels and views into memory: everything except the wide columns.
    ///
    /// # Errors
    /// [`ArtifactError`] if a shard is unreadable, or a row breaks the row law or holds an invalid view.
    pub fn views(&self) -> Result<CachedViews, ArtifactError> {
        let mut table = CachedViews { views_per_sample: self.views_per_sample(), ..CachedViews::default() };
        for shard in &self.shards {
            let path = shard.path();
            let builder = parquet_file::reader(&SharedFile::of(shard)?, path)?;
            let names = builder.schema().fields().iter().map(|field| field.name().clone());
            let wanted: Vec<String> = names.filter(|name| name != EMBEDDING && name != FEATURES).collect();
            let mask = ProjectionMask::columns(builder.parquet_schema(), wanted.iter().map(String::as_str));
            let reader = builder.with_projection(mask).build().in_parquet(path)?;
            for batch in reader {
                table.append(path, &batch.in_parquet(path)?)?;
            }
        }
        Ok(table)
    }
}
