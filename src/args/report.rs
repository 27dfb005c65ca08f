//! The flags of `lgd report`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_data::source::KINDS;

/// Flags of `lgd report`.
#[derive(ClapArgs)]
pub struct ReportArgs {
    /// Run, cache or bank folder.
    pub path: PathBuf,
    /// HTML file to write. Default: report.html in the folder.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Cache that the run or bank was made from, for names and images. Default for a run: that of its training.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Bank of names to show for a run or cache. Default for a run: that of its training.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    #[arg(long, value_name = "SOURCE", help = images_help())]
    pub images: Option<PathBuf>,
    /// JSON that `lgd eval` printed, for a run. Default: that of its latest evaluation.
    #[arg(long, value_name = "FILE")]
    pub eval: Option<PathBuf>,
    /// JSON that `lgd extract` or `lgd bank` printed, for the times in it.
    #[arg(long, value_name = "FILE")]
    pub timings: Option<PathBuf>,
    /// CPU threads; 0 means all cores.
    #[arg(long, value_parser = crate::args::threads, default_value_t = 0)]
    pub threads: usize,
}

/// Help of `--images`.
fn images_help() -> String {
    format!(
        "Images that the cache was extracted from, for pictures: {KINDS}. Not needed if the cache stores its views. \
         Default for a run: those of its training"
    )
}
