//! `lgd bank`: targets for every view of a cache, from the cache alone. No image is opened.

mod kdep;
mod names;
pub mod prompts;

use lgd_data::cache::Cache;
use lgd_data::manifest::Verify;

use super::set_threads;
use crate::args::{BankArgs, BankTarget};
use crate::exit::Exit;

/// Runs `lgd bank`.
pub fn run(args: &BankArgs) -> anyhow::Result<Exit> {
    let target = args.target().unwrap_or_else(|error| error.exit());
    set_threads(args.runtime.threads)?;
    let cache = Cache::open(&args.cache, Verify::Full)?;
    match target {
        BankTarget::Names { categories, teacher } => names::run(&cache, args, categories, teacher)?,
        BankTarget::Kdep { dim } => kdep::run(&cache, args, dim)?,
    }
    Ok(Exit::Done)
}
