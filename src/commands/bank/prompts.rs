//! Shared by `lgd bank`, `lgd align` and `lgd teacher`: category files, templates, and the text encoder.

use std::path::{Path, PathBuf};

use lgd_bank::{Categories, EncodeFailure, JsonEntries, NameForm, PromptEncoder, ReadOptions, Templates};
use lgd_data::manifest::ContentHash;
use lgd_extract::{EncoderOptions, Teacher, TextEncoder};

use crate::args::{NameArgs, PromptArgs, RuntimeArgs};
use crate::say::say;

/// Reads a category file and prints what was assumed about it.
pub fn categories(path: &Path, args: &NameArgs) -> anyhow::Result<Categories> {
    let options = ReadOptions {
        names: if args.verbatim { NameForm::Verbatim } else { NameForm::Normalized },
        entries: if args.json_prompts { JsonEntries::Prompts } else { JsonEntries::Synonyms },
    };
    let categories = Categories::read(path, options)?;
    if let Some(note) = categories.note() {
        say(format_args!("note: {note}"));
    }
    Ok(categories)
}

/// The templates of `--templates` or `--template`, else the default.
pub fn templates(args: &NameArgs) -> anyhow::Result<Templates> {
    Ok(match &args.templates {
        Some(path) => Templates::read(path)?,
        None if args.template.is_empty() => Templates::default(),
        None => Templates::new(args.template.clone())?,
    })
}

/// The folder of `--prompts`, else `prompts/` beside the output folder.
pub fn folder(args: &PromptArgs, out: &Path) -> PathBuf {
    args.prompts.clone().unwrap_or_else(|| out.parent().unwrap_or(Path::new("")).join("prompts"))
}

/// Opens the text encoder of `teacher` and prints what was assumed about it.
pub fn text_encoder(teacher: &Teacher, runtime: &RuntimeArgs) -> anyhow::Result<TextEncoder> {
    let library = crate::commands::runtime(runtime.onnxruntime.as_deref())?;
    let options = EncoderOptions { device: runtime.device.clone(), batch: None, threads: runtime.threads };
    let text = teacher.text_encoder(&library, &options)?;
    for note in text.notes() {
        say(format_args!("note: {note}"));
    }
    Ok(text)
}

/// Adapts the teacher's text encoder to the bank's interface.
pub struct Encoder {
    /// The text encoder.
    pub text: TextEncoder,
    /// Hashes under which a cache may have recorded it.
    pub recorded_as: Vec<ContentHash>,
}

impl PromptEncoder for Encoder {
    fn hash(&self) -> ContentHash {
        self.text.hash()
    }

    fn recorded_as(&self) -> Vec<ContentHash> {
        self.recorded_as.clone()
    }

    fn dim(&self) -> usize {
        self.text.dim()
    }

    fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure> {
        Ok(self.text.encode(prompts)?)
    }

    fn tokens(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>, EncodeFailure> {
        Ok(self.text.token_ids(prompts)?)
    }

    fn count_cut(&self, prompts: &[String]) -> Result<usize, EncodeFailure> {
        Ok(self.text.count_cut(prompts)?)
    }
}
