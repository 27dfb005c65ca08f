//! The image side of a bank on synthetic embeddings: seconds per stage and peak memory.
//!
//! ```text
//! cargo bench -p lgd-bank --bench bank -- [--rows 50000]... [--dim 1280] [--categories 1000] [--data DIR] [--threads 2]
//! ```
//!
//! For each number of rows, the bench creates (unless they exist) a cache `DIR/cache-ROWSxDIM`, and the same numbers
//! as `DIR/embeddings-ROWSxDIM.npy` (f16, unit rows) and `DIR/tsb-CATEGORIESxDIM.npy` (f32) for another program. It
//! then prints one line of JSON to standard output. As in a real run, embeddings are read from the mapped cache, and
//! targets are written to a bank's shards under `DIR/bank`. The peak is that of the process (`VmHWM`). Therefore give
//! numbers of rows in increasing order, and measure in a run that finds its data on disk: creating it takes memory
//! too.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use clap::Parser;
use common::{Failure, NPY_HEADER, Noise, cache_config, npy_file, peak_bytes};
use half::f16;
use lgd_bank::{TargetOptions, TargetSink, Tsb, build_targets};
use lgd_data::ArtifactError;
use lgd_data::bank::{BankWriter, Distribution, Storage, TargetShardWriter};
use lgd_data::cache::{Cache, CacheBuilder, CachedSample, ImageStamp, Partition};
use lgd_data::job::Job;
use lgd_data::manifest::{Existing, Verify};
use lgd_data::view::View;
use rayon::prelude::*;

/// Rows per shard of the bank.
const SHARD: usize = 50_000;

#[derive(Parser)]
struct Options {
    /// Width of the embeddings.
    #[arg(long, default_value_t = 1280)]
    dim: usize,
    /// Number of category names.
    #[arg(long, default_value_t = 1000)]
    categories: usize,
    #[command(flatten)]
    common: common::Options,
}

#[expect(clippy::print_stdout, reason = "the measurements are the program's data")]
fn main() -> Result<(), Failure> {
    let Options { dim, categories, common } = Options::parse();
    common.prepare()?;
    let data = &common.data;
    let tsb_path = data.join(format!("tsb-{categories}x{dim}.npy"));
    if !tsb_path.exists() {
        write_npy(&tsb_path, "<f4", categories, dim, 7, |row, out| {
            row.iter().for_each(|value| out.extend(value.to_le_bytes()));
        })?;
    }
    let tsb = read_tsb(&tsb_path, categories, dim)?;
    for &rows in &common.rows {
        let path = data.join(format!("embeddings-{rows}x{dim}.npy"));
        if !path.exists() {
            write_npy(&path, "<f2", rows, dim, 1, |row, out| {
                row.iter().for_each(|&value| out.extend(f16::from_f32(value).to_le_bytes()));
            })?;
        }
        let cache = data.join(format!("cache-{rows}x{dim}"));
        if !cache.join("cache.json").exists() {
            write_cache(&cache, rows, dim)?;
        }
        let cache = Cache::open(&cache, Verify::Length)?;
        let embeddings = cache.embeddings();
        let bank = data.join("bank");
        let storage =
            if categories <= 256 { Storage::Dense } else { Storage::TopK { k: 64.min(categories) } };
        let mut sink = Files {
            writer: BankWriter::create(&bank, categories, storage, Existing::Overwrite)?,
            shard: 0,
            left: 0,
            open: None,
        };
        let started = Instant::now();
        let targets =
            build_targets(embeddings, &tsb, None, &TargetOptions::default(), data, &mut sink, &Job::new())?;
        sink.close()?;
        let seconds = started.elapsed().as_secs_f64();
        let line = serde_json::json!({
            "case": format!("bank {rows}x{dim}, {categories} names"),
            "rows": rows, "dim": dim, "categories": categories, "threads": rayon::current_num_threads(),
            "seconds": seconds, "stages": targets.seconds,
            "unassigned": targets.counts.iter().filter(|&&count| count == 0).count(),
            "text_mass": targets.text_mass, "visual_mass": targets.visual_mass,
            "peak_bytes": peak_bytes()?, "embeddings": path, "tsb": tsb_path,
        });
        println!("{line}");
    }
    Ok(())
}

/// Writes unit rows drawn around 64 directions (so that categories differ in size) as an npy file of shape
/// `rows x dim`.
fn write_npy(
    path: &Path,
    dtype: &str,
    rows: usize,
    dim: usize,
    seed: u64,
    encode: impl Fn(&[f32], &mut Vec<u8>) + Sync,
) -> Result<(), Failure> {
    let mut file = npy_file(path, dtype, rows, dim)?;
    let starts: Vec<usize> = (0..rows).collect();
    for chunk in starts.chunks(4096) {
        let encoded: Vec<Vec<u8>> = chunk
            .par_iter()
            .map(|&row| {
                let mut bytes = Vec::new();
                encode(&unit_row(u64::try_from(row).unwrap_or_default(), dim, seed), &mut bytes);
                bytes
            })
            .collect();
        for bytes in encoded {
            file.write_all(&bytes)?;
        }
    }
    file.flush()?;
    Ok(())
}

/// Direction `row % 64`, common to both files, plus the row's own noise, scaled to norm 1.
fn unit_row(row: u64, dim: usize, seed: u64) -> Vec<f32> {
    let direction = Noise(row % 64);
    let own = Noise((seed << 40) + row + 1000);
    let mut values: Vec<f32> =
        direction.zip(own).take(dim).map(|(direction, own)| direction + 2.0 * own).collect();
    let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.iter_mut().for_each(|value| *value /= norm);
    values
}

fn read_tsb(path: &Path, categories: usize, dim: usize) -> Result<Tsb, Failure> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let values = bytes[NPY_HEADER..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    let values: Vec<f32> = values.collect();
    if values.len() != categories * dim {
        return Err(format!("{} holds {} values", path.display(), values.len()).into());
    }
    Ok(Tsb::from_values(values, dim)?)
}

/// Writes a cache with the same rows as [`write_npy`], one view per sample.
fn write_cache(dir: &Path, rows: usize, dim: usize) -> Result<(), Failure> {
    let builder = CacheBuilder::open(dir, cache_config(rows, SHARD, dim, None), Existing::Resume)?;
    for shard in builder.missing_shards(Partition::WHOLE)? {
        let mut writer = builder.shard_writer(shard)?;
        for row in builder.sample_range(shard) {
            let key = row.to_string();
            let sample = CachedSample { key: &key, label: None, image: ImageStamp::new(b"", 32, 32) };
            let values = unit_row(u64::try_from(row)?, dim, 1);
            writer.push(&sample, &[View::center()], &[1.0], &values)?;
        }
        writer.finish()?;
    }
    builder.finalize(&[])?;
    Ok(())
}

/// Writes shards of [`SHARD`] rows.
struct Files {
    writer: BankWriter,
    shard: usize,
    left: usize,
    open: Option<TargetShardWriter>,
}

impl Files {
    fn close(&mut self) -> Result<(), ArtifactError> {
        self.open.take().map_or(Ok(()), TargetShardWriter::finish)
    }
}

impl TargetSink for Files {
    fn push(
        &mut self,
        pseudo_category: &[i32],
        text: Distribution<'_>,
        visual: Distribution<'_>,
    ) -> Result<(), ArtifactError> {
        // Shards end with whole chunks here. Their exact length does not affect the time.
        if self.left == 0 {
            self.close()?;
            self.open = Some(self.writer.shard(self.shard)?);
            self.shard += 1;
            self.left = SHARD;
        }
        if let Some(open) = &mut self.open {
            open.push(pseudo_category, text, visual)?;
        }
        self.left = self.left.saturating_sub(pseudo_category.len());
        Ok(())
    }
}
