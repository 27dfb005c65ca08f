//! Flags of `lgd align`.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs};
use lgd_data::manifest::Existing;

use super::{JsonArgs, PromptArgs, RuntimeArgs};

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
    /// Cache of labeled images: their mean embedding represents each category. A label is a name in the category file
    /// (ignoring case, spaces, `_` and `-`), or a position in it.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Safetensors file with the weight of the teacher's classifier, [classes, width]: its rows represent the
    /// categories.
    #[arg(long, value_name = "FILE")]
    pub head: Option<PathBuf>,
    /// Name of the tensor in --head. Default: the only matrix with one row per name.
    #[arg(long, value_name = "NAME", requires = "head")]
    pub head_tensor: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub prompts: PromptArgs,
    /// Ridge penalty. Default: chosen from 0.001 to 1000 by cross-validation over the categories.
    #[arg(long, value_name = "LAMBDA")]
    pub ridge: Option<f64>,
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
    pub report: JsonArgs,
}

impl AlignArgs {
    /// Policy for a bridge that is already in the output folder.
    pub fn existing(&self) -> Existing {
        if self.overwrite { Existing::Overwrite } else { Existing::Refuse }
    }
}
