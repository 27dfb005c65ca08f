//! A KDEP bank on synthetic features: seconds per stage and peak memory.
//!
//! ```text
//! cargo bench -p lgd-bank --bench kdep -- [--rows 50000]... [--width 1280] [--dim 512] [--data DIR] [--threads 2]
//! ```
//!
//! For each number of rows, the bench creates (unless they exist) a cache `DIR/features-ROWSxWIDTH`, and the same
//! numbers as `DIR/features-ROWSxWIDTH.npy` (f16) for another program. It then prints one line of JSON to standard
//! output. As in a real run, the bank is written to disk, at `DIR/kdep`. The peak is that of the process (`VmHWM`).
//! Therefore give numbers of rows in increasing order, and measure in a run that finds its data on disk: creating it
//! takes memory too.

mod common;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use clap::Parser;
use common::{Failure, Noise, cache_config, npy_file, peak_bytes};
use half::f16;
use lgd_bank::{KdepRequest, PowerTemperature, build_kdep};
use lgd_data::cache::{Cache, CacheBuilder, CachedSample, ImageStamp, Partition, SampleRows};
use lgd_data::job::Job;
use lgd_data::manifest::{Existing, Verify};
use lgd_data::view::View;
use rayon::prelude::*;

/// Samples per shard, the default of `lgd extract`.
const SHARD: usize = 1024;

/// Number of common directions along which the features vary.
const FACTORS: usize = 48;

#[derive(Parser)]
struct Options {
    /// Width of the features.
    #[arg(long, default_value_t = 1280)]
    width: usize,
    /// Width of the targets.
    #[arg(long, default_value_t = 512)]
    dim: usize,
    #[command(flatten)]
    common: common::Options,
}

#[expect(clippy::print_stdout, reason = "the measurements are the program's data")]
fn main() -> Result<(), Failure> {
    let Options { width, dim, common } = Options::parse();
    common.prepare()?;
    let data = &common.data;
    for &rows in &common.rows {
        let name = format!("features-{rows}x{width}");
        let (npy, cache) = (data.join(format!("{name}.npy")), data.join(&name));
        if !npy.exists() || !cache.join("cache.json").exists() {
            write(&npy, &cache, rows, width)?;
        }
        let cache = Cache::open(&cache, Verify::Length)?;
        let features = cache.features()?.ok_or("the cache holds no features")?;
        let request = KdepRequest {
            cache: &cache,
            features: &features,
            output: "synthetic",
            dim,
            pts: PowerTemperature::default(),
            fit_rows: None,
            out: &data.join("kdep"),
            existing: Existing::Overwrite,
        };
        let started = Instant::now();
        let report = build_kdep(&request, &Job::new())?;
        let seconds = started.elapsed().as_secs_f64();
        let line = serde_json::json!({
            "case": format!("kdep {rows}x{width} to {dim}"),
            "rows": rows, "width": width, "dim": dim, "threads": rayon::current_num_threads(),
            "seconds": seconds, "stages": report.seconds, "explained_variance": report.explained_variance,
            "rms": report.scale.rms, "peak_bytes": peak_bytes()?, "features": npy,
        });
        println!("{line}");
    }
    Ok(())
}

/// Writes the same features as an npy file and as a cache of one view per sample.
fn write(npy: &Path, dir: &Path, rows: usize, width: usize) -> Result<(), Failure> {
    let mut file = npy_file(npy, "<f2", rows, width)?;
    let mixing: Vec<f32> = Noise(1).take(FACTORS * width).collect();
    let builder = CacheBuilder::open(dir, cache_config(rows, SHARD, 1, Some(width)), Existing::Overwrite)?;
    for shard in builder.missing_shards(Partition::WHOLE)? {
        let mut writer = builder.shard_writer(shard)?;
        let samples = builder.sample_range(shard);
        let features: Vec<Vec<f32>> =
            samples.clone().into_par_iter().map(|row| feature(row, &mixing, width)).collect();
        for (row, features) in samples.zip(&features) {
            let key = row.to_string();
            let sample = CachedSample { key: &key, label: None, image: ImageStamp::new(b"", 32, 32) };
            let (views, one) = (&[View::center()], &[1.0]);
            let rows = SampleRows { views, norms: one, embeddings: one, features, ..SampleRows::default() };
            writer.push_rows(&sample, &rows)?;
            let bytes: Vec<u8> =
                features.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
            file.write_all(&bytes)?;
        }
        writer.finish()?;
    }
    builder.finalize(&[])?;
    file.flush()?;
    Ok(())
}

/// A feature: factors with decreasing weights, noise in every value, and a nonzero mean.
fn feature(row: usize, mixing: &[f32], width: usize) -> Vec<f32> {
    let mut noise = Noise(u64::try_from(row).unwrap_or_default() + 1000);
    let mut values: Vec<f32> = noise.by_ref().take(width).map(|value| 0.5 + 0.2 * value).collect();
    let mut weight = 1.0;
    for (mixing, factor) in mixing.chunks_exact(width).zip(noise) {
        values.iter_mut().zip(mixing).for_each(|(value, mixing)| *value += weight * factor * mixing);
        weight *= 0.93;
    }
    values
}
