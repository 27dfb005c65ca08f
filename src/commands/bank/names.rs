//! `lgd bank --target names`: semantics banks and target distributions from category names. No image encoder is
//! opened.

use std::path::{Path, PathBuf};

use lgd_bank::{
    BankReport, BankRequest, Categories, EncodeFailure, JsonEntries, NameForm, PromptEncoder, ReadOptions,
    TargetOptions, Temperature, Templates, TextEncoderRule, TopK, build_bank,
};
use lgd_data::bank::UnassignedSlots;
use lgd_data::cache::Cache;
use lgd_data::manifest::ContentHash;
use lgd_extract::{EncoderOptions, Runtime, Teacher, TextEncoder};

use crate::args::BankArgs;
use crate::commands::print_json;
use crate::progress::{JOB, Progress};
use crate::say::say;

/// Builds the bank of the names in the file `categories`, with the text encoder of `teacher`.
pub fn run(cache: &Cache, args: &BankArgs, categories: &Path, teacher: &Path) -> anyhow::Result<()> {
    let categories = Categories::read(categories, read_options(args))?;
    let templates = templates(args)?;
    let teacher = Teacher::open(teacher)?;
    if cache.manifest().config.teacher.text_encoder.is_none() {
        say(
            "warning: the cache does not know the text encoder of its teacher; only the widths can be compared",
        );
    }
    let runtime = Runtime::load(args.runtime.onnxruntime.as_deref())?;
    let options =
        EncoderOptions { device: args.runtime.device.clone(), batch: None, threads: args.runtime.threads };
    let text = teacher.text_encoder(&runtime, &options)?;
    for note in text.notes() {
        say(format_args!("note: {note}"));
    }
    let mut encoder = Encoder { recorded_as: recorded_as(cache, &teacher, &text)?, text };
    let request = BankRequest {
        cache,
        categories: &categories,
        templates: &templates,
        prompt_cache: &prompt_folder(args),
        out: &args.out,
        existing: args.existing(),
        text_encoder: if args.other_text_encoder {
            TextEncoderRule::Any
        } else {
            TextEncoderRule::SameTeacher
        },
        targets: TargetOptions {
            temperature: Temperature::new(args.tau_t)?,
            top_k: TopK::new(args.top_k)?,
            unassigned: if args.keep_unassigned { UnassignedSlots::Kept } else { UnassignedSlots::Masked },
        },
    };
    let report = {
        let _progress = Progress::show("bank", "rows");
        build_bank(&request, &mut encoder, &JOB)?
    };
    summarize(&report, args);
    print_json(&report)
}

fn read_options(args: &BankArgs) -> ReadOptions {
    ReadOptions {
        names: if args.verbatim { NameForm::Verbatim } else { NameForm::Normalized },
        entries: if args.json_prompts { JsonEntries::Prompts } else { JsonEntries::Synonyms },
    }
}

fn templates(args: &BankArgs) -> anyhow::Result<Templates> {
    Ok(match &args.templates {
        Some(path) => Templates::read(path)?,
        None if args.template.is_empty() => Templates::default(),
        None => Templates::new(args.template.clone())?,
    })
}

fn prompt_folder(args: &BankArgs) -> PathBuf {
    let beside = || args.out.parent().unwrap_or(Path::new("")).join("prompts");
    args.prompts.clone().unwrap_or_else(beside)
}

fn summarize(report: &BankReport, args: &BankArgs) {
    let seconds = report.seconds;
    say(format_args!(
        "bank: {} categories x {} views in {:.2} s; prompts {:.2} s ({} encoded, {} reused); {}",
        report.counts.len(),
        report.rows,
        seconds.passes.text + seconds.passes.visual + seconds.finish,
        seconds.prompts,
        report.prompts.encoded,
        report.prompts.reused,
        args.out.display(),
    ));
    if report.prompts.cut > 0 {
        say(format_args!(
            "note: {} of {} prompts are longer than the text encoder's context, and were cut",
            report.prompts.cut, report.prompts.distinct
        ));
    }
    if !report.unassigned.is_empty() {
        let shown: Vec<&str> = report.unassigned.iter().take(10).map(String::as_str).collect();
        let more = if report.unassigned.len() > shown.len() { ", ..." } else { "" };
        say(format_args!(
            "note: {} categories have no view: {}{more}",
            report.unassigned.len(),
            shown.join(", ")
        ));
    }
}

/// Hashes under which a cache may have recorded the text encoder. The one that earlier versions recorded is computed
/// only for a cache that does not have today's.
fn recorded_as(cache: &Cache, teacher: &Teacher, text: &TextEncoder) -> anyhow::Result<Vec<ContentHash>> {
    let mut hashes = vec![text.model_hash()];
    if cache.manifest().config.teacher.text_encoder.is_some_and(|recorded| !hashes.contains(&recorded)) {
        hashes.extend(teacher.former_text_hash()?);
    }
    Ok(hashes)
}

/// Adapts the teacher's text encoder to the bank's interface.
struct Encoder {
    text: TextEncoder,
    recorded_as: Vec<ContentHash>,
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
