//! `lgd teacher`: resolves a teacher's folder, runs both encoders once, and measures the teacher.
//!
//! Standard output is a `teacher.toml` with the resolved values; a comment behind each names its source.

mod accuracy;

pub(super) use accuracy::cut_prompts;

use std::fmt::Write;
use std::path::Path;

use anyhow::bail;
use lgd_data::manifest::{FolderLock, write_atomic};
use lgd_extract::teacher::{Resolved, TEACHER_TOML};
use lgd_extract::{EncoderOptions, ImageEncoder, Runtime, Teacher, TextEncoder};

use super::{print, set_threads};
use crate::args::TeacherArgs;
use crate::exit::Exit;
use crate::say::{say, warn};

/// Runs `lgd teacher`.
pub fn run(args: &TeacherArgs) -> anyhow::Result<Exit> {
    set_threads(args.runtime.threads)?;
    let teacher = open(&args.dir)?;
    // In a repository of the Hub's cache, the folder is a snapshot.
    let path = teacher.dir().join(TEACHER_TOML);
    let _lock = args.write.then(|| FolderLock::exclusive(teacher.dir())).transpose()?;
    refuse_existing(args, &path)?;
    if !teacher.unused_models().is_empty() {
        let names: Vec<String> =
            teacher.unused_models().iter().map(|path| path.display().to_string()).collect();
        say(format_args!(
            "note: models that are not used: {}; to use one, set model in teacher.toml",
            names.join(", ")
        ));
    }
    let runtime = super::runtime(args.runtime.onnxruntime.as_deref())?;
    let options = EncoderOptions {
        device: args.runtime.device.clone(),
        batch: args.batch,
        threads: args.runtime.threads,
    };
    let mut toml = format!("name = {}\n", serde_json::Value::from(teacher.name()));
    print(&toml)?;
    let mut image = if teacher.has_image() { Some(open_image(&teacher, &runtime, &options)?) } else { None };
    if let Some(encoder) = &image {
        section(&mut toml, "image", encoder.resolved())?;
    }
    let text_options = EncoderOptions { batch: None, ..options };
    let mut text =
        if teacher.has_text() { Some(open_text(&teacher, &runtime, &text_options)?) } else { None };
    if let Some(encoder) = &text {
        section(&mut toml, "text", &text_settings(&teacher, encoder)?)?;
    }
    compare_widths(args, image.as_ref(), text.as_ref())?;
    if args.write {
        write_atomic(&path, toml.as_bytes())?;
        say(format_args!("wrote {}", path.display()));
    }
    match (&args.images, &args.categories, &mut image, &mut text) {
        (Some(images), Some(categories), Some(image), Some(text)) => {
            accuracy::measure(args, images, categories, &teacher, image, text)?;
        }
        (Some(_), ..) => bail!(
            "{}: the accuracy needs an image model and a text model, the teacher has one of them\nhint: leave out --images; for \
             a teacher without language fit a bridge with `lgd align`",
            args.dir.display()
        ),
        _ => {}
    }
    Ok(Exit::Done)
}

/// Opens the teacher at `path` and prints its notes.
pub(super) fn open(path: &Path) -> anyhow::Result<Teacher> {
    let teacher = Teacher::open(path)?;
    for note in teacher.notes() {
        say(format_args!("note: {note}"));
    }
    Ok(teacher)
}

/// Fails if `--write` would replace a file without `--overwrite`.
fn refuse_existing(args: &TeacherArgs, path: &Path) -> anyhow::Result<()> {
    if args.write && !args.overwrite && path.exists() {
        bail!("{} exists\nhint: give --overwrite to replace it", path.display());
    }
    Ok(())
}

fn open_image(
    teacher: &Teacher,
    runtime: &Runtime,
    options: &EncoderOptions,
) -> anyhow::Result<ImageEncoder> {
    let encoder = teacher.image_encoder(runtime, options)?;
    for warning in encoder.warnings() {
        warn(format_args!("warning: {warning}"));
    }
    Ok(encoder)
}

fn open_text(teacher: &Teacher, runtime: &Runtime, options: &EncoderOptions) -> anyhow::Result<TextEncoder> {
    let encoder = teacher.text_encoder(runtime, options)?;
    for note in encoder.notes() {
        say(format_args!("note: {note}"));
    }
    Ok(encoder)
}

/// The text side's settings with the model in front.
fn text_settings(teacher: &Teacher, encoder: &TextEncoder) -> anyhow::Result<Vec<Resolved>> {
    let mut settings = vec![teacher.text_model()?];
    settings.extend(encoder.resolved().iter().filter(|setting| setting.key != "model").cloned());
    Ok(settings)
}

/// Prints a section and adds it to `toml`.
fn section(toml: &mut String, name: &str, settings: &[Resolved]) -> anyhow::Result<()> {
    let mut lines = format!("[{name}]\n");
    for Resolved { key, value, from } in settings {
        writeln!(lines, "{key} = {value}  # {from}")?;
    }
    print(&lines)?;
    write!(toml, "\n{lines}")?;
    Ok(())
}

/// Fails if both encoders exist and their widths differ: their embeddings could not be compared.
fn compare_widths(
    args: &TeacherArgs,
    image: Option<&ImageEncoder>,
    text: Option<&TextEncoder>,
) -> anyhow::Result<()> {
    let width = |dim: Option<usize>, name: &str| dim.map(|dim| format!("{name} {dim}"));
    let (image, text) = (image.map(ImageEncoder::dim), text.map(TextEncoder::dim));
    if let (Some(image), Some(text)) = (image, text)
        && image != text
    {
        bail!(
            "{}: the image encoder gives {image} values, the text encoder {text}: they cannot be compared\nhint: export both encoders \
             with their projections, or set output in teacher.toml; for a text encoder of another space, move it out of the \
             folder and fit a bridge with `lgd align`",
            args.dir.display()
        );
    }
    let widths: Vec<String> = [width(image, "image"), width(text, "text")].into_iter().flatten().collect();
    print(&format!("# width of the embeddings: {}", widths.join(", ")))
}
