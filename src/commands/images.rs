//! The images of `lgd predict` and `lgd embed`: listing, crop, rejects and exit code.

use anyhow::{Context, bail};
use lgd_data::cache::Reject;
use lgd_data::image::DecodeLimits;
use lgd_data::source::ImageSource;
use lgd_data::view::CenterCrop;
use lgd_train::inference::{ImageModel, InferenceOptions};
use lgd_train::predict::{ImageArguments, center_crop};

use super::{source_notes, threads_or_all};
use crate::args::ImagesArgs;
use crate::exit::Exit;
use crate::say::say;
use crate::stores;

/// Rejects that are named one by one.
const NAMED: usize = 20;

/// Lists the images, and prints notes about their sources.
pub fn open(args: &ImagesArgs) -> anyhow::Result<ImageArguments> {
    let images = ImageArguments::open(&args.images, &args.fields.names(None), stores::named)
        .context("cannot list the images")?;
    for (number, source) in images.sources() {
        if let Some(path) = args.images.get(number) {
            source_notes(path, source.listing());
        }
    }
    Ok(images)
}

/// The crop that images are shown with, and how they are fed. Prints what is assumed.
pub fn options(
    args: &ImagesArgs,
    model: &dyn ImageModel,
    threads: usize,
    notes: &[String],
) -> (CenterCrop, InferenceOptions) {
    let (center, assumed) = center_crop(model, args.center_fraction);
    for note in model.card().notes.iter().chain(notes).chain(&assumed) {
        say(format_args!("note: {note}"));
    }
    let threads = threads_or_all(threads);
    (center, InferenceOptions { batch: args.batch, threads, limits: DecodeLimits::default(), resample: None })
}

/// Names and counts the rejects, and returns the exit code.
///
/// # Errors
/// If no image could be used.
pub fn finish(args: &ImagesArgs, images: &dyn ImageSource, rejects: &[Reject]) -> anyhow::Result<Exit> {
    for Reject { key, reason, detail } in rejects.iter().take(NAMED) {
        // A detail may begin with the path of the file.
        let detail = if detail.contains(key.as_str()) { detail.clone() } else { format!("{key}: {detail}") };
        say(format_args!("rejected ({reason}): {detail}"));
    }
    let (rejected, total) = (rejects.len(), images.samples().len() + images.listing().rejected.len());
    if rejected > 0 {
        let more = if rejected > NAMED { format!("; the first {NAMED} are named") } else { String::new() };
        say(format_args!("note: {rejected} of {total} images were rejected{more}"));
    }
    if rejected == total {
        bail!("not one of the {total} images can be used");
    }
    Ok(if rejected as f64 > args.max_rejects * total as f64 { Exit::Rejects } else { Exit::Done })
}
