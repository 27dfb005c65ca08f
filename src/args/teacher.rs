//! Flags of `lgd teacher`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_train::parse::at_least_one;

use super::{NameArgs, RuntimeArgs};

/// Flags of `lgd teacher`.
#[derive(ClapArgs)]
pub struct TeacherArgs {
    /// Teacher folder, as an exporter wrote it or with teacher.toml. A repository in the Hugging Face Hub's cache
    /// (models--ORG--NAME) stands for its only snapshot.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Save the resolved settings as teacher.toml in the folder.
    #[arg(long)]
    pub write: bool,
    /// Replace the teacher.toml in the folder.
    #[arg(long, requires = "write")]
    pub overwrite: bool,
    /// Labeled images: measure the teacher's own zero-shot accuracy on their plain view. A label is a name in the
    /// category file (case, spaces, `_` and `-` are ignored).
    #[arg(long, value_name = "PATH", requires = "categories")]
    pub images: Option<PathBuf>,
    /// Category names of the images, as for `lgd bank`.
    #[arg(long, value_name = "FILE", requires = "images")]
    pub categories: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub names: NameArgs,
    /// Images per encoder batch. Default: the model's fixed batch, else 32 on the CPU and 256 on a GPU.
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub runtime: RuntimeArgs,
}
