//! The size of a cache, from the files of a small one with the same columns.
//!
//! A shard file is a footer, which does not grow with the rows, and bytes per row.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use lgd_data::cache::{CacheConfig, CacheManifest, GROUP_BYTES, GROUP_ROWS, ShardEntry};
use lgd_data::manifest::FileEntry;
use serde::Serialize;

/// Bytes of the end of a Parquet file: the length of its footer and a magic number.
const TAIL: u64 = 8;

/// A part of a cache.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Storage format; empty for a part of several columns.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub form: String,
    /// Bytes if no sample is rejected.
    pub bytes: u64,
}

/// The shards that a job writes.
#[derive(Clone, Copy, Debug)]
pub struct Shards {
    pub count: u64,
    pub samples: u64,
    /// Samples in the largest shard.
    pub largest: u64,
}

/// The size of the shard files of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
struct FileSize {
    footer: f64,
    per_row: f64,
    /// Rows of the largest measured file.
    measured_rows: u64,
}

impl FileSize {
    /// The size of `files`, each with its number of rows, in the folder `dir`.
    fn measure<'a>(dir: &Path, files: impl Iterator<Item = (&'a FileEntry, usize)>) -> Self {
        let (mut bytes, mut rows, mut footers, mut count, mut largest) = (0, 0, 0, 0_u64, 0);
        for (file, of_file) in files {
            bytes += file.bytes;
            rows += of_file;
            footers += footer_bytes(&dir.join(&file.name)).unwrap_or(0);
            count += 1;
            largest = largest.max(of_file);
        }
        Self {
            footer: footers as f64 / count.max(1) as f64,
            per_row: bytes.saturating_sub(footers) as f64 / rows.max(1) as f64,
            measured_rows: largest as u64,
        }
    }

    /// Bytes of `files` files with `rows` rows together.
    fn bytes(self, files: u64, rows: u64) -> u64 {
        whole(files as f64 * self.footer + rows as f64 * self.per_row)
    }

    /// Bytes of memory that the writer of a file with `rows` rows holds beyond those held when this was measured, if a row
    /// group ends at `limit` bytes.
    fn growth(self, rows: u64, limit: f64) -> u64 {
        let held = |rows: u64| (rows as f64 * self.per_row).min(limit);
        whole(held(rows) - held(self.measured_rows))
    }
}

/// Bytes of a Parquet file's footer.
fn footer_bytes(path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-8))?;
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    Ok(u64::from(u32::from_le_bytes(length)) + TAIL)
}

/// The sizes of a cache's files.
pub struct CacheSize {
    views: FileSize,
    pixels: Option<FileSize>,
    tokens: Option<FileSize>,
    captions: Option<FileSize>,
    /// Bytes of the manifest without its shards, of one shard in it, and of files that a cache has once.
    manifest: (u64, u64, u64),
}

impl CacheSize {
    /// The sizes in the cache `measured` in `dir`.
    pub fn measure(dir: &Path, measured: &CacheManifest) -> Self {
        let file = |of: fn(&ShardEntry) -> Option<&FileEntry>, per_sample: bool| {
            let rows = move |shard: &ShardEntry| if per_sample { shard.samples } else { shard.rows };
            let files = || measured.shards.iter().filter_map(move |shard| Some((of(shard)?, rows(shard))));
            files().next().map(|_| FileSize::measure(dir, files()))
        };
        let length = |name: &str| dir.join(name).metadata().map_or(0, |file| file.len());
        let entry = measured.shards.first().and_then(|shard| serde_json::to_string_pretty(shard).ok());
        // Every line of the entry is indented by two steps more.
        let entry = entry.map_or(0, |text| text.len() + 4 * text.lines().count() + 2) as u64;
        let projection = measured.token_projection.as_ref().map_or(0, |projection| projection.file.bytes);
        let manifest = length("cache.json").saturating_sub(entry * measured.shards.len() as u64);
        Self {
            views: FileSize::measure(dir, measured.shards.iter().map(|shard| (&shard.file, shard.rows))),
            pixels: file(|shard| shard.pixels.as_ref(), false),
            tokens: file(|shard| shard.tokens.as_ref(), false),
            captions: file(|shard| shard.captions.as_ref(), true),
            manifest: (manifest, entry, projection),
        }
    }

    /// The parts of a cache that is made of `shards` by `config`.
    pub fn parts(&self, config: &CacheConfig, shards: Shards) -> Vec<Part> {
        let (files, samples) = (shards.count, shards.samples);
        let rows = samples * u64::from(config.views);
        let views = self.views.bytes(files, rows);
        let halves = |width: usize| 2 * width as u64 * rows;
        let part = |name, form: String, bytes| Part { name, form, bytes };
        let embeddings = part("embeddings", format!("f16, {}", config.dim), halves(config.dim));
        let features = config.features.as_ref();
        let features =
            features.map(|record| part("features", format!("f16, {}", record.dim), halves(record.dim)));
        let wide = embeddings.bytes + features.as_ref().map_or(0, |features| features.bytes);
        let file = |size: Option<FileSize>, rows| size.map_or(0, |size: FileSize| size.bytes(files, rows));
        let tokens = config
            .tokens
            .as_ref()
            .map(|record| part("tokens", record.to_string(), file(self.tokens, rows) + self.manifest.2));
        let stored = config.stored_views;
        let stored = stored.map(|form| part("stored views", form.to_string(), file(self.pixels, rows)));
        let captions = config.captions.as_ref();
        let captions = captions
            .map(|record| part("captions", format!("f16, {}", record.dim), file(self.captions, samples)));
        let rest = views.saturating_sub(wide) + self.manifest.0 + files * self.manifest.1;
        let rest = part("views, keys", String::new(), rest);
        [Some(embeddings), features, captions, tokens, stored, Some(rest)].into_iter().flatten().collect()
    }

    /// Bytes of memory that the writer of such a cache needs beyond those that it needed when this was measured: the row
    /// groups of larger shards.
    pub fn memory_growth(&self, config: &CacheConfig, shards: Shards) -> u64 {
        let rows = shards.largest * u64::from(config.views);
        let growth =
            |size: Option<FileSize>, rows| size.map_or(0, |size| size.growth(rows, GROUP_BYTES as f64));
        let views = self.views.growth(rows, GROUP_ROWS as f64 * self.views.per_row);
        views + growth(self.tokens, rows) + growth(self.pixels, rows) + growth(self.captions, shards.largest)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of bytes, not negative"
)]
fn whole(bytes: f64) -> u64 {
    bytes.max(0.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_footer_and_rows_and_its_writer_holds_one_row_group() {
        let size = FileSize { footer: 100.0, per_row: 10.0, measured_rows: 50 };
        assert_eq!((size.bytes(0, 0), size.bytes(3, 1_000)), (0, 10_300));
        assert_eq!([20, 50, 80, 5_000].map(|rows| size.growth(rows, 1_000.0)), [0, 0, 300, 500]);
    }
}
