//! The image side of a bank on synthetic embeddings: seconds per stage and peak memory.
//!
//! ```text
//! cargo bench -p lgd-bank --bench bank -- [--rows 50000]... [--dim 1280] [--categories 1000] [--data DIR] [--threads 2]
//! ```
//!
//! For each number of rows a cache `DIR/cache-ROWSxDIM` is made unless it is there, and the same numbers as
//! `DIR/embeddings-ROWSxDIM.npy` (f16, unit rows) and `DIR/tsb-CATEGORIESxDIM.npy` (f32) for another program; then one
//! line of JSON goes to standard output. Embeddings come from the mapped cache and targets go into a bank's shards under
//! `DIR/bank`, as in earnest. The peak is the process's (`VmHWM`), so numbers of rows should be given in increasing
//! order, and in a run that finds its data made: making them takes memory too.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use half::f16;
use lgd_bank::{TargetOptions, TargetSink, Tsb, build_targets};
use lgd_data::ArtefactError;
use lgd_data::bank::{BankWriter, Distribution, Storage, TargetShardWriter};
use lgd_data::cache::{
    Cache, CacheBuilder, CacheConfig, CachedSample, Existing, ImageStamp, Partition, TeacherRecord,
};
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, Verify};
use lgd_data::render::{Normalization, Resample};
use lgd_data::view::{Policy, View};
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error>;

/// Rows of one shard of the bank.
const SHARD: usize = 50_000;

struct Options {
    rows: Vec<usize>,
    dim: usize,
    categories: usize,
    data: PathBuf,
    threads: usize,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        rows: Vec::new(),
        dim: 1280,
        categories: 1000,
        data: std::env::temp_dir().join("lgd-bank-bench"),
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
            "--dim" => options.dim = value.parse()?,
            "--categories" => options.categories = value.parse()?,
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
    let (dim, categories) = (options.dim, options.categories);
    let tsb_path = options.data.join(format!("tsb-{categories}x{dim}.npy"));
    if !tsb_path.exists() {
        write_npy(&tsb_path, "<f4", categories, dim, 7, |row, out| {
            row.iter().for_each(|value| out.extend(value.to_le_bytes()));
        })?;
    }
    let tsb = read_tsb(&tsb_path, categories, dim)?;
    for &rows in &options.rows {
        let path = options.data.join(format!("embeddings-{rows}x{dim}.npy"));
        if !path.exists() {
            write_npy(&path, "<f2", rows, dim, 1, |row, out| {
                row.iter().for_each(|&value| out.extend(f16::from_f32(value).to_le_bytes()));
            })?;
        }
        let cache = options.data.join(format!("cache-{rows}x{dim}"));
        if !cache.join("cache.json").exists() {
            write_cache(&cache, rows, dim)?;
        }
        let cache = Cache::open(&cache, Verify::Length)?;
        let embeddings = cache.embeddings();
        let bank = options.data.join("bank");
        let storage =
            if categories <= 256 { Storage::Dense } else { Storage::TopK { k: 64.min(categories) } };
        let mut sink = Files {
            writer: BankWriter::create(&bank, categories, storage, Existing::Overwrite)?,
            shard: 0,
            left: 0,
            open: None,
        };
        let started = Instant::now();
        let targets = build_targets(
            embeddings,
            &tsb,
            &TargetOptions::default(),
            &options.data,
            &mut sink,
            &Job::new(),
        )?;
        sink.close()?;
        let seconds = started.elapsed().as_secs_f64();
        let line = serde_json::json!({
            "case": format!("bank {rows}x{dim}, {categories} names"),
            "rows": rows, "dim": dim, "categories": categories, "threads": options.threads,
            "seconds": seconds, "stages": targets.seconds,
            "unassigned": targets.counts.iter().filter(|&&count| count == 0).count(),
            "text_mass": targets.text_mass, "visual_mass": targets.visual_mass,
            "peak_bytes": peak_bytes()?, "embeddings": path, "tsb": tsb_path,
        });
        println!("{line}");
    }
    Ok(())
}

/// Bytes before the values in the files that this program writes.
const NPY_HEADER: u64 = 128;

/// Writes unit rows drawn around 64 directions (so that categories differ in size) as an npy file of `rows x dim`.
fn write_npy(
    path: &Path,
    dtype: &str,
    rows: usize,
    dim: usize,
    seed: u64,
    encode: impl Fn(&[f32], &mut Vec<u8>) + Sync,
) -> Result<(), Failure> {
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    while header.len() < 117 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(b"\x93NUMPY\x01\x00\x76\x00")?;
    file.write_all(header.as_bytes())?;
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

/// A direction of row `row % 64` common to both files, plus noise of its own, scaled to norm 1.
fn unit_row(row: u64, dim: usize, seed: u64) -> Vec<f32> {
    let mut direction = Noise(row % 64);
    let mut own = Noise((seed << 40) + row + 1000);
    let mut values: Vec<f32> = (0..dim).map(|_| direction.next() + 2.0 * own.next()).collect();
    let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.iter_mut().for_each(|value| *value /= norm);
    values
}

/// SplitMix64, as numbers in [-1, 1).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        f32::from(u16::try_from((z ^ (z >> 31)) >> 48).unwrap_or_default()) / 32768.0 - 1.0
    }
}

fn read_tsb(path: &Path, categories: usize, dim: usize) -> Result<Tsb, Failure> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let values =
        bytes[usize::try_from(NPY_HEADER)?..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    let values: Vec<f32> = values.collect();
    if values.len() != categories * dim {
        return Err(format!("{} holds {} values", path.display(), values.len()).into());
    }
    Ok(Tsb::from_values(values, dim)?)
}

/// A cache of the same rows as [`write_npy`]'s, one view per sample.
fn write_cache(dir: &Path, rows: usize, dim: usize) -> Result<(), Failure> {
    let config = CacheConfig {
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
        dim,
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
        features: None,
        tokens: None,
        captions: None,
    };
    let builder = CacheBuilder::open(dir, config, Existing::Resume)?;
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
    fn close(&mut self) -> Result<(), ArtefactError> {
        self.open.take().map_or(Ok(()), TargetShardWriter::finish)
    }
}

impl TargetSink for Files {
    fn push(
        &mut self,
        pseudo_category: &[i32],
        text: Distribution<'_>,
        visual: Distribution<'_>,
    ) -> Result<(), ArtefactError> {
        // Shards end with whole chunks here; their exact length does not matter to the time.
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

/// The most memory that this process ever had resident.
fn peak_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
