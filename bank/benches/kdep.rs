//! A KDEP bank on synthetic features: seconds per stage and peak memory.
//!
//! ```text
//! cargo bench -p lgd-bank --bench kdep -- [--rows 50000]... [--width 1280] [--dim 512] [--data DIR] [--threads 2]
//! ```
//!
//! For each number of rows a cache `DIR/features-ROWSxWIDTH` is made unless it is there, and the same numbers as
//! `DIR/features-ROWSxWIDTH.npy` (f16) for another program; then one line of JSON goes to standard output. The bank goes to
//! `DIR/kdep`, as in earnest. The peak is the process's (`VmHWM`), so numbers of rows should be given in increasing order,
//! and in a run that finds its data made: making them takes memory too.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use half::f16;
use lgd_bank::{KdepRequest, PowerTemperature, build_kdep};
use lgd_data::cache::{
    Cache, CacheBuilder, CacheConfig, CachedSample, Existing, FeatureRecord, ImageStamp, Partition,
    SampleRows, TeacherRecord,
};
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, Verify};
use lgd_data::render::{Normalization, Resample};
use lgd_data::view::{Policy, View};
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error>;

/// Samples of one shard, as `lgd extract` makes them.
const SHARD: usize = 1024;

/// Common directions that the features vary along.
const FACTORS: usize = 48;

struct Options {
    rows: Vec<usize>,
    width: usize,
    dim: usize,
    data: PathBuf,
    threads: usize,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        rows: Vec::new(),
        width: 1280,
        dim: 512,
        data: std::env::temp_dir().join("lgd-kdep-bench"),
        threads: std::thread::available_parallelism()?.get(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        // `cargo bench` adds this flag of its own accord.
        if flag == "--bench" {
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--rows" => options.rows.push(value.parse()?),
            "--width" => options.width = value.parse()?,
            "--dim" => options.dim = value.parse()?,
            "--data" => options.data = value.into(),
            "--threads" => options.threads = value.parse()?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    if options.rows.is_empty() {
        options.rows.push(50_000);
    }
    Ok(options)
}

#[expect(clippy::print_stdout, reason = "the measurements are the program's data")]
fn main() -> Result<(), Failure> {
    let options = options()?;
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    fs::create_dir_all(&options.data)?;
    let (width, dim) = (options.width, options.dim);
    for &rows in &options.rows {
        let name = format!("features-{rows}x{width}");
        let (npy, cache) = (options.data.join(format!("{name}.npy")), options.data.join(&name));
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
            out: &options.data.join("kdep"),
            existing: Existing::Overwrite,
        };
        let started = Instant::now();
        let report = build_kdep(&request, &Job::new())?;
        let seconds = started.elapsed().as_secs_f64();
        let line = serde_json::json!({
            "case": format!("kdep {rows}x{width} to {dim}"),
            "rows": rows, "width": width, "dim": dim, "threads": options.threads,
            "seconds": seconds, "stages": report.seconds, "explained_variance": report.explained_variance,
            "rms": report.scale.rms, "peak_bytes": peak_bytes()?, "features": npy,
        });
        println!("{line}");
    }
    Ok(())
}

/// Writes the same features as an npy file and as a cache of one view per sample.
fn write(npy: &Path, dir: &Path, rows: usize, width: usize) -> Result<(), Failure> {
    let mut header = format!("{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    while header.len() < 117 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = BufWriter::new(File::create(npy)?);
    file.write_all(b"\x93NUMPY\x01\x00\x76\x00")?;
    file.write_all(header.as_bytes())?;
    let mixing: Vec<f32> = Noise(1).take(FACTORS * width).collect();
    let builder = CacheBuilder::open(dir, config(rows, width), Existing::Overwrite)?;
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

/// Factors of falling weight, noise of its own in every value, and a mean that is not zero.
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

fn config(rows: usize, width: usize) -> CacheConfig {
    CacheConfig {
        teacher: TeacherRecord {
            name: "synthetic".to_owned(),
            image_model: ContentHash::of(b""),
            size: 224,
            normalization: Normalization::CLIP,
            resample: Resample::Bicubic,
            output: "synthetic".to_owned(),
            pooling: "none".to_owned(),
            prefix_tokens: 0,
            text_encoder: None,
        },
        dim: 1,
        listing: ContentHash::of(b""),
        samples: rows,
        class_names: None,
        views: 1,
        center_fraction: None,
        policy: Policy::CropFlip,
        seed: 0,
        batch: 32,
        shard_samples: SHARD,
        device: "cpu".to_owned(),
        stored_views: None,
        features: Some(FeatureRecord { output: "synthetic".to_owned(), dim: width }),
        tokens: None,
        captions: None,
    }
}

/// SplitMix64, as numbers in [-1, 1).
struct Noise(u64);

impl Iterator for Noise {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Some(f32::from(u16::try_from((z ^ (z >> 31)) >> 48).unwrap_or_default()) / 32768.0 - 1.0)
    }
}

/// The most memory that this process ever had resident.
fn peak_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
