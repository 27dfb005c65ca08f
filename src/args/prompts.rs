//! Flags of the category file and its prompts, which `lgd bank`, `lgd align` and `lgd teacher` share.

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// How category names are read and become prompts.
#[derive(ClapArgs)]
pub struct NameArgs {
    /// Prompt template with {} for the name; may be repeated. Default: "a photo of a {}."
    #[arg(long, value_name = "TEXT", conflicts_with = "templates", requires = "categories")]
    pub template: Vec<String>,
    /// File of prompt templates, one per line.
    #[arg(long, value_name = "FILE", requires = "categories")]
    pub templates: Option<PathBuf>,
    /// Use names exactly as written: do not trim them, replace underscores with spaces, or refuse numbers and
    /// identifiers. Every line of a .txt file is a name.
    #[arg(long, requires = "categories")]
    pub verbatim: bool,
    /// Read the lists of a JSON file as complete prompts, not synonyms.
    #[arg(long, requires = "categories")]
    pub json_prompts: bool,
}

/// How category names become prompts, and where the prompts' embeddings are cached.
#[derive(ClapArgs)]
pub struct PromptArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub names: NameArgs,
    /// Folder of cached prompt embeddings. Default: prompts/ beside the output folder.
    #[arg(long, value_name = "DIR")]
    pub prompts: Option<PathBuf>,
}

impl PromptArgs {
    /// Names of the arguments, for flags that exclude them.
    pub const IDS: [&str; 5] = ["template", "templates", "verbatim", "json_prompts", "prompts"];
}
