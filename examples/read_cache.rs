//! Reads a cache: prints a summary, and the views and embeddings of its first samples.
//!
//! ```text
//! cargo run --release --example read_cache -- CACHE
//! ```

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use lgd_data::cache::Cache;
use lgd_data::manifest::Verify;

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).context("usage: read_cache CACHE")?;
    print_cache(Path::new(&dir), 3, &mut io::stdout().lock())
}

/// Writes a summary of the cache in `dir` to `out`, then the views of its first `samples` samples.
pub(crate) fn print_cache(dir: &Path, samples: usize, out: &mut impl Write) -> Result<()> {
    // `Verify::Full` hashes every file, `Verify::Length` compares lengths.
    let cache = Cache::open(dir, Verify::Length)?;
    let config = &cache.manifest().config;
    writeln!(out, "teacher    {} at {} px", config.teacher.name, config.teacher.size)?;
    writeln!(out, "samples    {}, {} views each", cache.manifest().samples(), cache.views_per_sample())?;
    writeln!(out, "embeddings [{}, {}]", cache.rows(), cache.dim())?;
    writeln!(out, "features   {}", if config.features.is_some() { "yes" } else { "no" })?;
    writeln!(out, "tokens     {}", if config.tokens.is_some() { "yes" } else { "no" })?;
    writeln!(out, "captions   {}", if config.captions.is_some() { "yes" } else { "no" })?;

    // Keys, labels and views are read into memory. Embeddings stay in memory-mapped files; rows are copied out.
    let views = cache.views()?;
    let mut embedding = vec![0.0; cache.dim()];
    for sample in 0..samples.min(views.samples()) {
        writeln!(out, "{}, label {:?}", views.keys[sample], views.labels[sample])?;
        for view in 0..cache.views_per_sample() {
            let row = views.row(sample, view);
            cache.embeddings().copy_row(row, &mut embedding);
            let start = &embedding[..cache.dim().min(4)];
            writeln!(out, "  row {row}: {:?} -> {start:.3?}...", views.view(sample, view).crop)?;
        }
    }
    Ok(())
}
