//! `lgd bank --target names`: semantics banks and target distributions from category names. No image encoder is
//! opened.

use std::path::Path;

use lgd_bank::{
    AlignedEncoder, BankReport, BankRequest, PromptCounts, PromptEncoder, TargetOptions, Temperature,
    TextEncoderRule, build_bank,
};
use lgd_data::align::{Align, ImageSide};
use lgd_data::bank::UnassignedSlots;
use lgd_data::cache::Cache;
use lgd_data::manifest::{ContentHash, Verify};
use lgd_extract::{Teacher, TextEncoder};

use super::prompts::{self, Encoder};
use crate::args::{BankArgs, CenterArg};
use crate::commands::print_report;
use crate::commands::teacher::{cut_prompts, open as open_teacher};
use crate::progress::{JOB, Progress};
use crate::say::{say, warn};

/// Builds the bank of the names in the file `categories`, with the text encoder of `teacher`.
pub fn run(cache: &Cache, args: &BankArgs, categories: &Path, teacher: &Path) -> anyhow::Result<()> {
    let categories = prompts::categories(categories, &args.prompts.names)?;
    let templates = prompts::templates(&args.prompts.names)?;
    let align = args.align.as_deref().map(|dir| Align::open(dir, Verify::Full)).transpose()?;
    let teacher = open_teacher(teacher)?;
    if let Some(align) = &align {
        if matches!(align.manifest().record.images, ImageSide::Head { .. }) {
            say(
                "note: the bridge was fitted to a classifier; only its width can be compared with the cache's",
            );
        }
    } else if cache.manifest().config.teacher.text_encoder.is_none() {
        warn(
            "warning: the cache does not record its teacher's text encoder; only the widths can be compared",
        );
    }
    let text = prompts::text_encoder(&teacher, &args.runtime)?;
    let context = text.context_length();
    let mut text = Encoder { recorded_as: recorded_as(cache, &teacher, &text)?, text };
    let mut bridged;
    let encoder: &mut dyn PromptEncoder = match &align {
        Some(align) => {
            bridged = AlignedEncoder::new(&mut text, align, cache)?;
            &mut bridged
        }
        None => &mut text,
    };
    let request = BankRequest {
        cache,
        categories: &categories,
        templates: &templates,
        prompt_cache: &prompts::folder(&args.prompts, &args.out),
        out: &args.out,
        existing: args.existing(),
        text_encoder: if args.other_text_encoder || align.is_some() {
            TextEncoderRule::Any
        } else {
            TextEncoderRule::SameTeacher
        },
        center: args.center.map(CenterArg::side),
        targets: TargetOptions {
            temperature: Temperature::new(args.tau_t)?,
            top_k: args.top_k,
            unassigned: if args.keep_unassigned { UnassignedSlots::Kept } else { UnassignedSlots::Masked },
        },
    };
    let report = {
        let _progress = Progress::show("bank", "rows");
        build_bank(&request, encoder, &JOB)?
    };
    summarize(&report, args, context);
    print_report(&args.report, &report)
}

/// Prints what was built. `context` is the number of tokens that the text encoder takes.
fn summarize(report: &BankReport, args: &BankArgs, context: usize) {
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
        let PromptCounts { cut, distinct, .. } = report.prompts;
        say(format_args!("note: {}", cut_prompts(cut, distinct, context)));
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
    let mut hashes = vec![text.recorded_hash()];
    if cache.manifest().config.teacher.text_encoder.is_some_and(|recorded| !hashes.contains(&recorded)) {
        hashes.extend(teacher.former_text_hash()?);
    }
    Ok(hashes)
}
