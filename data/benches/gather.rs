//! Compares gathering random batches of rows from the mapped Parquet column and from an array in memory.
//!
//! Each batch reads 256 x D x 2 bytes at random rows and writes 256 x D x 4 bytes. Both sides do exactly that, so the
//! ratio is the cost of looking up pages and copying unaligned rows. Prints one JSON line per width.
//!
//! `cargo bench -p lgd-data --bench gather`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench stops where a step fails, and prints its result"
)]
#![allow(clippy::cast_possible_truncation, reason = "indices of a bench's own data")]

use std::hint::black_box;
use std::time::Instant;

use half::f16;
use half::slice::HalfFloatSliceExt;
use lgd_data::cache::{Cache, CacheBuilder, CacheConfig, CachedSample, ImageStamp};
use lgd_data::manifest::{Existing, Verify};
use lgd_data::view::View;

const ROWS: usize = 50_000;
const BATCH: usize = 256;
const RUNS: usize = 15;

fn main() {
    for dim in [384, 1280] {
        bench(dim);
    }
}

fn bench(dim: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (cache, memory) = make(dir.path(), dim);
    let column = cache.embeddings();
    assert!(column.not_in_place().is_empty());
    let mut out = vec![0f32; BATCH * dim];
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let rows = random_rows(run as u64);
        let started = Instant::now();
        for batch in rows.chunks_exact(BATCH) {
            column.copy_rows(batch.iter().copied(), &mut out);
            black_box(&out);
        }
        ours.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        for batch in rows.chunks_exact(BATCH) {
            for (&row, out) in batch.iter().zip(out.chunks_exact_mut(dim)) {
                memory[row * dim..(row + 1) * dim].convert_to_f32_slice(out);
            }
            black_box(&out);
        }
        peer.push(started.elapsed().as_secs_f64());
    }
    let rate = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        (ROWS / BATCH * BATCH) as f64 / seconds[RUNS / 2]
    };
    let (ours, peer) = (rate(ours), rate(peer));
    println!(
        "{{\"case\": \"gather, batches of {BATCH} random rows, D = {dim}\", \"ours\": {ours:.0}, \"peer\": {peer:.0}, \
         \"ratio\": {:.3}, \"unit\": \"rows/s\", \"runs\": {RUNS}}}",
        ours / peer
    );
}

fn make(dir: &std::path::Path, dim: usize) -> (Cache, Vec<f16>) {
    let config = CacheConfig { views: 1, shard_samples: 8192, ..lgd_testing::cache_config(dim, ROWS) };
    let memory: Vec<f16> =
        (0..ROWS * dim).map(|at| f16::from_f32((mix(at as u64) % 4096) as f32 / 2048.0 - 1.0)).collect();
    let builder = CacheBuilder::open(dir, config, Existing::Refuse).unwrap();
    let mut row = vec![0f32; dim];
    for shard in 0..builder.config().shards() {
        let mut writer = builder.shard_writer(shard).unwrap();
        for sample in builder.sample_range(shard) {
            memory[sample * dim..(sample + 1) * dim].convert_to_f32_slice(&mut row);
            let key = sample.to_string();
            let sample = CachedSample { key: &key, label: None, image: ImageStamp::new(b"", 32, 32) };
            writer.push(&sample, &[View::center()], &[1.0], &row).unwrap();
        }
        writer.finish().unwrap();
    }
    builder.finalize(&[]).unwrap().unwrap();
    (Cache::open(dir, Verify::Length).unwrap(), memory)
}

/// As many random row numbers as there are rows, drawn with repetition.
fn random_rows(seed: u64) -> Vec<usize> {
    (0..ROWS as u64).map(|at| (mix(at ^ (seed << 32)) % ROWS as u64) as usize).collect()
}

/// SplitMix64's output function.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
