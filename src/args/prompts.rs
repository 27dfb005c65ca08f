//! Flags of the category file's prompts, which `lgd bank` and `lgd align` share.

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// How category names become prompts.
#[derive(ClapArgs)]
pub struct PromptArgs {
    /// Prompt template with {} for the name; may be repeated. Default: "a photo of a {}."
    #[arg(long, value_name = "TEXT", conflicts_with = "templates")]
    pub template: Vec<String>,
    /// File of prompt templates, one per line.
    #[arg(long, value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Use names exactly as written: do not trim them, replace underscores with spaces, or refuse numbers and
    /// identifiers. Every line of a .txt file is a name.
    #[arg(long)]
    pub verbatim: bool,
    /// Read the lists of a JSON file as complete prompts, not synonyms.
    #[arg(long)]
    pub json_prompts: bool,
    /// Folder of cached prompt embeddings. Default: prompts/ beside the output folder.
    #[arg(long, value_name = "DIR")]
    pub prompts: Option<PathBuf>,
}

impl PromptArgs {
    /// Names of the arguments, for flags that exclude them.
    pub const IDS: [&str; 5] = ["template", "templates", "verbatim", "json_prompts", "prompts"];
}
