//! Flags of `lgd embed`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{ImagesArgs, ModelArgs};

/// Flags of `lgd embed`.
#[derive(ClapArgs)]
pub struct EmbedArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub model: ModelArgs,
    /// Vectors to write: features (the pooled feature) or embedding (the unit vector in the teacher's space). All vectors
    /// are held in memory, 4 bytes per number.
    #[arg(long, value_enum, default_value_t = Vectors::Features)]
    pub what: Vectors,
    /// File to write. Its extension chooses the format: npy (with the paths of the images in a .keys.txt beside it),
    /// parquet or safetensors.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace an existing file.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub images: ImagesArgs,
}

/// Vectors of a student.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Vectors {
    /// Pooled features.
    Features,
    /// Unit vectors in the teacher's space.
    Embedding,
}
