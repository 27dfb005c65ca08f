//! `lgd embed`: the student's features or embeddings of images as a file.

use std::fs;

use anyhow::bail;
use lgd_data::error::IoContext;
use lgd_data::source::ImageSource;
use lgd_train::inference::OutputKind;
use lgd_train::predict::{VectorFormat, embed, write_vectors};

use super::export::require_free;
use super::{images, model, set_threads};
use crate::args::{EmbedArgs, Vectors};
use crate::exit::Exit;
use crate::progress::{JOB, Progress};
use crate::say::say;

/// Runs `lgd embed`.
pub fn run(args: &EmbedArgs) -> anyhow::Result<Exit> {
    let Some(format) = VectorFormat::of_path(&args.out) else {
        bail!(
            "{}: the extension names no format\nhint: end the name in .npy, .parquet or .safetensors",
            args.out.display()
        );
    };
    require_free(&args.out, false, args.overwrite)?;
    set_threads(args.model.threads)?;
    let source = images::open(&args.images)?;
    let mut student = model::open(&args.model)?;
    let (center, options) = images::options(&args.images, student.as_ref(), args.model.threads, &[]);
    let kind = match args.what {
        Vectors::Features => OutputKind::Feature,
        Vectors::Embedding => OutputKind::Embedding,
    };
    let (numbers, rows, rejects) = {
        let _progress = Progress::show("embed", "images");
        let feed = (&source as &dyn ImageSource, center);
        embed(student.as_mut(), kind, feed, &options, &JOB)?
    };
    if !numbers.is_empty() {
        if let Some(parent) = args.out.parent() {
            fs::create_dir_all(parent).during("create the folder", parent)?;
        }
        let keys: Vec<&str> = numbers.iter().map(|&number| source.samples()[number].key.as_str()).collect();
        let list = write_vectors(&args.out, format, kind, (&keys, &rows))?;
        let list = list.map(|list| format!("; paths in {}", list.display())).unwrap_or_default();
        say(format_args!("embed: {} x {} {kind}; {}{list}", rows.rows(), rows.width(), args.out.display()));
    }
    images::finish(&args.images, &source, &rejects)
}
