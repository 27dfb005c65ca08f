//! Flags of `lgd predict`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args as ClapArgs, ValueEnum};
use lgd_train::parse::at_least_one;
use lgd_train::predict::TableFormat;

use super::{ImagesArgs, ModelArgs};

/// Flags of `lgd predict`.
#[derive(ClapArgs)]
pub struct PredictArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub model: ModelArgs,
    /// Bank with the names to choose from. Default: the run's own bank, or the names in the exported file; a student that
    /// learned labels chooses among its classes.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// Names per image, the most probable first.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = at_least_one)]
    pub top_k: usize,
    /// File to write. Its extension chooses the format: csv, json, jsonl or parquet. Default: standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Format of the output. Default: the extension of --out; on a terminal text, else csv.
    #[arg(long, value_enum)]
    pub format: Option<OutputFormat>,
    /// Replace an existing file.
    #[arg(long, requires = "out")]
    pub overwrite: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub images: ImagesArgs,
}

/// Format of predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// One line per image.
    Text,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object per line.
    Json,
    /// Parquet.
    Parquet,
}

impl PredictArgs {
    /// The format of the output. `terminal`: whether standard output is one.
    ///
    /// # Errors
    /// If the extension of `--out` names no format, or Parquet has no file to go to.
    pub fn output_format(&self, terminal: bool) -> anyhow::Result<OutputFormat> {
        let found = match (&self.out, self.format) {
            (_, Some(format)) => format,
            (Some(out), None) => match table_format(out)? {
                TableFormat::Csv => OutputFormat::Csv,
                TableFormat::Json => OutputFormat::Json,
                TableFormat::Parquet => OutputFormat::Parquet,
            },
            (None, None) if terminal => OutputFormat::Text,
            (None, None) => OutputFormat::Csv,
        };
        if found == OutputFormat::Parquet && self.out.is_none() {
            bail!("Parquet cannot be written to standard output\nhint: name a file with --out");
        }
        Ok(found)
    }
}

/// The format that a file's extension names.
///
/// # Errors
/// If it names none.
pub fn table_format(path: &std::path::Path) -> anyhow::Result<TableFormat> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match TableFormat::of_extension(extension) {
        Some(format) => Ok(format),
        None => bail!(
            "{}: the extension names no format\nhint: end the name in .csv, .json, .jsonl or .parquet",
            path.display()
        ),
    }
}
