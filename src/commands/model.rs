//! Opens the student of a command: a run, or an exported file in ONNX Runtime.
//!
//! `lgd-train` and `lgd-extract` do not know each other. This module joins them: [`ExportedModel`] is a session of
//! `lgd-extract` as an [`ImageModel`] of `lgd-train`.

use std::path::Path;

use anyhow::{Context, bail};
use lgd_data::bank::Bank;
use lgd_data::image::RgbImage;
use lgd_data::manifest::Verify;
use lgd_data::render::Resample;
use lgd_data::view::CenterCrop;
use lgd_extract::{EncoderOptions, OnnxStudent, Runtime};
use lgd_train::inference::{ImageModel, ModelCard, ModelFailure, OutputKind, RunModel};
use lgd_train::loader::labels::ClassRecord;
use serde::de::DeserializeOwned;

use crate::args::ModelArgs;

/// Opens the student that the flags name.
pub fn open(args: &ModelArgs) -> anyhow::Result<Box<dyn ImageModel>> {
    match (&args.student.run, &args.student.onnx) {
        (Some(run), _) => Ok(Box::new(RunModel::open(super::open_run(run, &args.checkpoint)?)?)),
        (None, Some(file)) => {
            let runtime = super::runtime(args.onnxruntime.as_deref())?;
            let options = EncoderOptions { threads: args.threads, ..EncoderOptions::default() };
            Ok(Box::new(ExportedModel::open(&runtime, file, &options)?))
        }
        (None, None) => bail!("no student\nhint: give --run or --onnx"),
    }
}

/// The bank that names come from: the one at `dir`, else the run's own; `None` if the run or the file has none.
pub fn bank(dir: Option<&Path>, model: &dyn ImageModel) -> anyhow::Result<Option<Bank>> {
    if let Some(dir) = dir {
        return Ok(Some(Bank::open(dir, Verify::Full)?));
    }
    let embeds = model.card().width(OutputKind::Embedding).is_some();
    match model.run().filter(|_| embeds) {
        Some(run) => Ok(run.own_bank(Verify::Full)?),
        None => Ok(None),
    }
}

/// A student in an ONNX file.
struct ExportedModel {
    student: OnnxStudent,
    card: ModelCard,
}

impl ExportedModel {
    fn open(runtime: &Runtime, file: &Path, options: &EncoderOptions) -> anyhow::Result<Self> {
        let known = OutputKind::ALL.map(OutputKind::name);
        let student = OnnxStudent::open(runtime, file, options, &known, "lgd.size")?;
        let card = card(&student).with_context(|| format!("{}: its metadata", file.display()))?;
        Ok(Self { student, card })
    }
}

impl ImageModel for ExportedModel {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn infer(&mut self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, ModelFailure> {
        Ok(self.student.run(images)?)
    }
}

/// What the file's metadata says, and what is assumed in its place.
fn card(student: &OnnxStudent) -> anyhow::Result<ModelCard> {
    let kind = |name: &str| OutputKind::ALL.into_iter().find(|kind| kind.name() == name);
    let outputs: Vec<(OutputKind, usize)> =
        student.outputs().iter().filter_map(|(name, width)| Some((kind(name)?, *width))).collect();
    let mut notes = Vec::new();
    // Files from before `lgd.*` hold the filter as `resize` and the names as `names`.
    let resample = match entry(student, &["lgd.resample", "resize"]) {
        Some((key, name)) => {
            let quoted = serde_json::Value::from(name).to_string();
            parsed::<Resample>(key, &quoted)?
        }
        None => {
            notes.push(format!(
                "the file does not record how images are resized; assumed {}",
                Resample::Bicubic
            ));
            Resample::Bicubic
        }
    };
    let center: Option<CenterCrop> =
        entry(student, &["lgd.crop"]).map(|(key, text)| parsed(key, text)).transpose()?;
    let temperature: Option<f32> =
        entry(student, &["lgd.tau_student"]).map(|(key, text)| parsed(key, text)).transpose()?;
    if let Some(tau) = temperature.filter(|tau| !(tau.is_finite() && *tau > 0.0)) {
        bail!("lgd.tau_student: expected a positive number, got {tau}");
    }
    let names: Option<Vec<String>> =
        entry(student, &["lgd.categories", "names"]).map(|(key, text)| parsed(key, text)).transpose()?;
    let logits = outputs.iter().find(|(kind, _)| *kind == OutputKind::Logits).map(|(_, width)| *width);
    let classes = logits.map(|count| ClassRecord { count, names: names.clone(), untrained: Vec::new() });
    Ok(ModelCard {
        path: student.path().to_owned(),
        hash: student.hash(),
        student: entry(student, &["lgd.architecture", "student"]).map(|(_, name)| name.to_owned()),
        epochs: None,
        size: student.size(),
        resample,
        center,
        outputs,
        temperature,
        names: names.filter(|_| logits.is_none()),
        classes,
        notes,
    })
}

/// The first of these entries of the metadata that is there, with its key.
fn entry<'a>(student: &'a OnnxStudent, keys: &[&'static str]) -> Option<(&'static str, &'a str)> {
    keys.iter().find_map(|&key| Some((key, student.metadata().get(key)?.as_str())))
}

fn parsed<T: DeserializeOwned>(key: &str, text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text).with_context(|| format!("{key} cannot be read from {text:?}"))
}
