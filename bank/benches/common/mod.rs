//! Shared code of the benches: options, reproducible numbers, npy files, caches and peak memory.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use lgd_data::cache::{CacheConfig, FeatureRecord};

/// An error that ends a bench.
pub type Failure = Box<dyn std::error::Error>;

/// Bytes before the values in an npy file.
pub const NPY_HEADER: usize = 128;

/// The first bytes of an npy file, version 1.0, with a header of [`NPY_HEADER`] bytes in total.
const NPY_START: &[u8] = b"\x93NUMPY\x01\x00\x76\x00";

/// Options of all benches.
#[derive(Args)]
pub struct Options {
    /// Rows of each case, in increasing order.
    #[arg(long, default_values_t = [50_000])]
    pub rows: Vec<usize>,
    /// Folder for data and results.
    #[arg(long, default_value_os_t = std::env::temp_dir().join("lgd-bank-bench"))]
    pub data: PathBuf,
    /// Threads; 0 means all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Ignored: `cargo bench` adds this flag.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Creates the data folder and the thread pool.
    pub fn prepare(&self) -> Result<(), Failure> {
        rayon::ThreadPoolBuilder::new().num_threads(self.threads).build_global()?;
        Ok(fs::create_dir_all(&self.data)?)
    }
}

/// Creates an npy file of `rows x columns` values of type `descr`, and writes its header only.
pub fn npy_file(path: &Path, descr: &str, rows: usize, columns: usize) -> Result<BufWriter<File>, Failure> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(NPY_START)?;
    writeln!(file, "{header:<width$}", width = NPY_HEADER - NPY_START.len() - 1)?;
    Ok(file)
}

/// Configuration of a cache with one view per sample, embeddings of width `dim`, and features of width `features`, if
/// given.
pub fn cache_config(rows: usize, shard_samples: usize, dim: usize, features: Option<usize>) -> CacheConfig {
    CacheConfig {
        views: 1,
        shard_samples,
        features: features.map(|dim| FeatureRecord { output: "synthetic".to_owned(), dim }),
        ..lgd_testing::cache_config(dim, rows)
    }
}

/// SplitMix64, mapped to numbers in [-1, 1).
pub struct Noise(pub u64);

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

/// Peak resident memory of this process, bytes.
pub fn peak_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
