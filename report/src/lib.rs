//! Reports of `lgd`'s artifacts: one HTML file for a run, a cache or a bank, which needs no network and no script.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use lgd_report::{Inputs, of_run};
//!
//! let html = of_run(Path::new("runs/a"), &Inputs::default())?;
//! std::fs::write("report.html", html)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - `read`: what commands wrote, read leniently;
//! - `sections`: the parts of the page;
//! - `plot`, `palette`: drawings as SVG, in the colors of both themes;
//! - `thumbnails`, `cached`, `neighbors`: pictures, and what embeddings say about images;
//! - `page`, `style.css`, `sort.js`: the page itself.
//!
//! Names, keys and paths are outside input: templates escape all text. The same input makes the same bytes.

mod cached;
mod error;
mod neighbors;
mod page;
mod palette;
mod plot;
mod read;
mod sections;
mod text;
mod thumbnails;

use std::path::Path;

use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::cache::Cache;
use lgd_data::source::ImageSource;
use serde_json::Value;

pub use error::ReportError;

use cached::CachedImages;
use page::{Page, Section, Tile};
use read::{Eval, RunFolder};
use sections::{Categories, Images, Provenance};
use text::{count, figure, percent, seconds};
use thumbnails::Thumbnails;

/// What a report shows besides its subject. Everything is optional.
#[derive(Clone, Copy, Default)]
pub struct Inputs<'a> {
    /// The cache that the run or the bank was made from.
    pub cache: Option<&'a Cache>,
    /// A bank of names made from the same cache.
    pub bank: Option<&'a Bank>,
    /// The images that the cache was extracted from, for pictures. Not needed if the cache stores its views.
    pub images: Option<&'a dyn ImageSource>,
    /// The JSON of `lgd eval`.
    pub eval: Option<&'a Value>,
    /// The JSON that `lgd extract` or `lgd bank` printed, for its times.
    pub printed: Option<&'a Value>,
    /// Lines for the top of the page: what could not be shown, and why.
    pub notes: &'a [String],
}

/// The report of the run in `dir`, finished or not, as HTML.
///
/// # Errors
/// [`ReportError`] if the run or an input is damaged, or belongs to something else.
pub fn of_run(dir: &Path, inputs: &Inputs<'_>) -> Result<String, ReportError> {
    let run = RunFolder::read(dir)?;
    if let Some(cache) = inputs.cache.filter(|cache| cache.hash() != run.record.cache) {
        return Err(other_cache(&run, cache).into());
    }
    let mut notes = inputs.notes.to_vec();
    if !run.record.complete {
        notes.push("The run is not finished: the figures are those up to now.".to_owned());
    }
    if run.metrics.unreadable > 0 {
        let lines = text::counted(run.metrics.unreadable, "line");
        notes.push(format!("{lines} of metrics.jsonl could not be read."));
    }
    let eval = inputs.eval.map(Eval::parse);
    if eval.as_ref().and_then(|eval| eval.run.as_ref()).is_some_and(|hash| *hash != run.hash.to_string()) {
        notes.push("The evaluation was made of another state of this run, or of another run.".to_owned());
    }
    let mut sections = vec![sections::training(&run.metrics)?];
    if let Some(eval) = &eval {
        sections.push(sections::comparison(eval));
        sections.extend(sections::confusion(eval)?);
    }
    let around = Around::read(inputs)?;
    let (more, _) = around.sections(&mut notes)?;
    sections.extend(more);
    let printed = inputs.printed.unwrap_or(&Value::Null);
    sections.extend(sections::times(Some(&run.metrics), eval.as_ref(), printed));
    sections.push(sections::configuration("Settings of the run", &run.record.config));
    sections.push(run_provenance(&run));
    let page = Page {
        kind: "Run",
        name: name_of(dir),
        traits: run_traits(&run),
        tiles: run_tiles(&run, eval.as_ref()),
        notes,
        sections,
    };
    Ok(page.html())
}

/// The report of a cache as HTML. Of `inputs`, the cache is not read.
///
/// # Errors
/// [`ReportError`] if the cache or an input is damaged, or the bank belongs to another cache.
pub fn of_cache(cache: &Cache, inputs: &Inputs<'_>) -> Result<String, ReportError> {
    let inputs = Inputs { cache: Some(cache), ..*inputs };
    let mut notes = inputs.notes.to_vec();
    let around = Around::read(&inputs)?;
    let (mut sections, tiles) = around.sections(&mut notes)?;
    sections.extend(sections::times(None, None, inputs.printed.unwrap_or(&Value::Null)));
    let manifest = cache.manifest();
    let config = serde_json::to_value(&manifest.config).unwrap_or_default();
    // Class names have a table of their own.
    let config = without(config, &["class_names"]);
    sections.push(sections::configuration("Teacher, views and storage", &config));
    let teacher = &manifest.config.teacher;
    let files = manifest.shards.iter().flat_map(|shard| {
        [Some(&shard.file), shard.pixels.as_ref(), shard.tokens.as_ref(), shard.captions.as_ref()]
            .into_iter()
            .flatten()
    });
    let provenance = Provenance::default()
        .hash("cache", Some(cache.hash()))
        .text("format version", manifest.format_version.to_string())
        .hash("listing of the images", Some(manifest.config.listing))
        .hash("image model", Some(teacher.image_model))
        .hash("text encoder", teacher.text_encoder)
        .text("device", manifest.config.device.clone())
        .files(files.chain([&manifest.rejects]));
    sections.push(provenance.section());
    let traits = vec![
        teacher.name.clone(),
        format!("{} px", teacher.size),
        text::counted(manifest.config.views.into(), "view") + " per image",
        manifest.config.policy.to_string(),
    ];
    let page = Page { kind: "Cache", name: name_of(cache.dir()), traits, tiles, notes, sections };
    Ok(page.html())
}

/// The report of a bank of names as HTML. Of `inputs`, the bank is not read.
///
/// # Errors
/// [`ReportError`] if the bank or an input is damaged, or the cache is another than the bank's.
pub fn of_bank(bank: &Bank, inputs: &Inputs<'_>) -> Result<String, ReportError> {
    let mut notes = inputs.notes.to_vec();
    let images = inputs.cache.map(CachedImages::read).transpose()?;
    let thumbnails =
        images.as_ref().map(|images| Thumbnails::new(images.cache, &images.views, inputs.images));
    let categories = Categories::read(bank, images.as_ref())?;
    let mut sections = categories.sections(images.as_ref().zip(thumbnails.as_ref()))?;
    notes.extend(thumbnails.as_ref().and_then(failed_pictures));
    sections.extend(sections::times(None, None, inputs.printed.unwrap_or(&Value::Null)));
    let manifest = bank.manifest();
    let config = serde_json::to_value(&manifest.record).unwrap_or_default();
    // Names have a table of their own, and hashes a section.
    let config = without(
        config,
        &["categories", "unassigned", "cache", "text_encoder", "cache_text_encoder", "bridge"],
    );
    sections.push(sections::configuration("Settings of the bank", &config));
    let provenance = Provenance::default()
        .hash("bank", Some(bank.hash()))
        .text("format version", manifest.format_version.to_string())
        .hash("cache", Some(manifest.record.cache))
        .hash("text encoder", Some(manifest.record.text_encoder))
        .hash("bridge", manifest.record.bridge)
        .files([&manifest.prototypes].into_iter().chain(&manifest.targets));
    sections.push(provenance.section());
    let traits = vec![text::counted(manifest.record.templates.len(), "template")];
    let tiles = categories.tiles();
    let page = Page { kind: "Bank", name: name_of(bank.dir()), traits, tiles, notes, sections };
    Ok(page.html())
}

/// The cache and the bank around a run, or a cache with its bank.
struct Around<'a> {
    images: Option<CachedImages<'a>>,
    inputs: Inputs<'a>,
}

impl<'a> Around<'a> {
    fn read(inputs: &Inputs<'a>) -> Result<Self, ArtifactError> {
        Ok(Self { images: inputs.cache.map(CachedImages::read).transpose()?, inputs: *inputs })
    }

    /// Sections of the bank, then those of the cache, with the cache's figures.
    fn sections(&self, notes: &mut Vec<String>) -> Result<(Vec<Section>, Vec<Tile>), ReportError> {
        let images = self.images.as_ref();
        let thumbnails =
            images.map(|images| Thumbnails::new(images.cache, &images.views, self.inputs.images));
        let (mut sections, mut tiles) = (Vec::new(), Vec::new());
        if let Some(bank) = self.inputs.bank {
            let categories = Categories::read(bank, images)?;
            sections.extend(categories.sections(images.zip(thumbnails.as_ref()))?);
        }
        if let Some((images, thumbnails)) = images.zip(thumbnails.as_ref()) {
            let part = Images::read(images, thumbnails)?;
            sections.extend(part.sections()?);
            tiles = part.tiles();
        }
        notes.extend(thumbnails.as_ref().and_then(failed_pictures));
        Ok((sections, tiles))
    }
}

fn other_cache(run: &RunFolder, cache: &Cache) -> ArtifactError {
    ArtifactError::Mismatch {
        path: run.dir.join("run.json"),
        what: "the hash of the cache".to_owned(),
        expected: run.record.cache.to_string(),
        got: cache.hash().to_string(),
        hint: "give the cache that the run was trained with, or none",
    }
}

fn failed_pictures(thumbnails: &Thumbnails<'_>) -> Option<String> {
    let failed = thumbnails.failed();
    (failed > 0).then(|| {
        let pictures = text::counted(failed, "picture");
        format!("{pictures} cannot be shown: the images are missing, or others than those of the cache.")
    })
}

fn run_traits(run: &RunFolder) -> Vec<String> {
    let setting = |name: &str| run.record.setting(name);
    let size = setting("size");
    let traits = [
        setting("student"),
        if size.is_empty() { size } else { format!("{size} px") },
        setting("objective"),
        run.record.teacher["name"].as_str().map_or(String::new(), |name| format!("teacher {name}")),
        run.record.device.clone().map_or(String::new(), |device| format!("on {device}")),
    ];
    traits.into_iter().filter(|text| !text.is_empty()).collect()
}

fn run_tiles(run: &RunFolder, eval: Option<&Eval>) -> Vec<Tile> {
    let (record, metrics) = (&run.record, &run.metrics);
    let mut tiles = Vec::new();
    for (name, judged) in eval.iter().flat_map(|eval| eval.protocols()) {
        let Some((judged, student)) = judged.and_then(|judged| Some((judged, judged.student?))) else {
            continue;
        };
        let teacher =
            judged.teacher.map_or(String::new(), |teacher| format!("teacher {}%", percent(teacher)));
        tiles.push(Tile::new(&format!("Student, {name}"), format!("{}%", percent(student)), teacher));
    }
    tiles.extend(sections::holdout_tiles(metrics));
    let losses: Vec<f64> = metrics.epochs().filter_map(|line| line.loss).collect();
    if let (Some(first), Some(last)) = (losses.first(), losses.last()) {
        tiles.push(Tile::new("Loss", figure(*last), format!("{} in epoch 1", figure(*first))));
    }
    let epochs = record.epochs().map_or("?".to_owned(), count);
    let state = if record.complete { "finished" } else { "not finished" };
    let done = metrics.epochs().count();
    tiles.push(Tile::new(
        "Epochs",
        format!("{} of {epochs}", count(done)),
        format!("{state}, step {}", count(record.step)),
    ));
    tiles.push(Tile::new(
        "Images",
        count(record.samples),
        format!("{} steps per epoch", count(record.steps_per_epoch)),
    ));
    if let Some(rate) = metrics.last().and_then(|line| line.images_per_second) {
        let time = metrics.seconds().map_or(String::new(), |time| format!("{} in all", seconds(time)));
        tiles.push(Tile::new("Images per second", figure(rate), time));
    }
    tiles
}

fn run_provenance(run: &RunFolder) -> Section {
    let record = &run.record;
    let init = record.init["path"].as_str().unwrap_or_default();
    Provenance::default()
        .hash("run", Some(run.hash))
        .hash("cache", Some(record.cache))
        .hash("bank of names", record.bank)
        .hash("KDEP bank", record.kdep_bank)
        .hash("text encoder", record.text_encoder)
        .text("teacher", record.teacher["name"].as_str().unwrap_or_default())
        .hash("teacher's image model", record.teacher["image_model"].as_str())
        .text("initial weights", init)
        .hash("initial weights, BLAKE3", record.init["blake3"].as_str())
        .text("device", record.device.clone().unwrap_or_default())
        .files(&record.files)
        .section()
}

/// The object without some members.
fn without(mut value: Value, names: &[&str]) -> Value {
    if let Some(members) = value.as_object_mut() {
        names.iter().for_each(|name| drop(members.remove(*name)));
    }
    value
}

/// The name of a folder, even if it is given as `.` or ends in `..`.
fn name_of(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    absolute.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned())
}
