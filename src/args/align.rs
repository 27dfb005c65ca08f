//! Flags of `lgd align`.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs};
use lgd_data::manifest::Existing;

use super::{ReportArgs, RuntimeArgs};

/// Flags of `lgd align`.
#[derive(ClapArgs)]
#[command(group = ArgGroup::new("images").required(true).args(["cache", "head"]))]
pub struct AlignArgs {
    /// Teacher folder with the text encoder, of any width.
    #[arg(long, value_name = "DIR")]
    pub teacher: PathBuf,
    /// Category names, as for `lgd bank`: those of the cache's classes, or of the head's rows in their order.
    #[arg(long, value_name = "FILE")]
    pub categories: PathBuf,
    /// Cache of labeled images, whose mean embedding stands for each category. A label is a name in the category file
    /// (ignoring case, spaces, `_` and `-`), or a position in it.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Safetensors file with the weight of the teacher's classifier, [classes, width], whose rows stand for the
    /// categories.
    #[arg(long, value_name = "FILE")]
    pub head: Option<PathBuf>,
    /// Name of the tensor in --head. Default: the only matrix with one row per name.
    #[arg(long, value_name = "NAME", requires = "head")]
    pub head_tensor: Option<String>,
    /// Prompt template with {} for the name; may be repeated. Default: "a photo of a {}."
    #[arg(long, value_name = "TEXT", conflicts_with = "templates")]
    pub template: Vec<String>,
    /// File of prompt templates, one per line.
    #[arg(long, value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Use names exactly as written: do not trim them or replace underscores with spaces.
    #[arg(long)]
    pub verbatim: bool,
    /// Read the lists of a JSON file as complete prompts, not synonyms.
    #[arg(long)]
    pub json_prompts: bool,
    /// Ridge penalty. Default: chosen from 0.001 to 1000 by cross-validation over the categories.
    #[arg(long, value_name = "LAMBDA")]
    pub ridge: Option<f64>,
    /// Folder of cached prompt embeddings. Default: prompts/ beside the output folder.
    #[arg(long, value_name = "DIR")]
    pub prompts: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub runtime: RuntimeArgs,
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the bridge in the output folder.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub report: ReportArgs,
}

impl AlignArgs {
    /// Policy for a bridge that is already in the output folder.
    pub fn existing(&self) -> Existing {
        if self.overwrite { Existing::Overwrite } else { Existing::Refuse }
    }
}
