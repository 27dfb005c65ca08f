//! Flags of object stores, for every command.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_store::Limit;

/// Where what URLs name is kept on this machine.
#[derive(ClapArgs)]
pub struct StoreArgs {
    /// Folder for what is fetched from URLs. Default: lgd/store in XDG_CACHE_HOME, else in ~/.cache.
    #[arg(long, value_name = "DIR", global = true)]
    pub store_cache: Option<PathBuf>,
    /// Size up to which fetched files stay in --store-cache. The longest unused are deleted first.
    #[arg(long, value_name = "SIZE", default_value = "64GB", global = true)]
    pub store_limit: Limit,
}
