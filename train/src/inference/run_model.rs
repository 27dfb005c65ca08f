//! The student of a finished run as an [`ImageModel`].

use candle_core::Device;
use lgd_data::image::RgbImage;

use super::{ImageModel, ModelCard, ModelFailure, OutputKind};
use crate::loader::pixels::InputFormat;
use crate::objective::ObjectiveKind;
use crate::ops::to_host;
use crate::run::{Run, RunError};
use crate::student::{Head, Images, Mode, Student};

/// The student of a finished run, on the CPU.
pub struct RunModel {
    run: Run,
    student: Student,
    format: InputFormat,
    card: ModelCard,
}

impl RunModel {
    /// Loads the student of `run`.
    ///
    /// # Errors
    /// Those of [`Run::student`].
    pub fn open(run: Run) -> Result<Self, RunError> {
        let student = run.student(&Device::Cpu)?;
        let manifest = run.manifest();
        let format = manifest.input_format();
        let mut outputs = vec![(OutputKind::Feature, student.architecture().feature_dim())];
        outputs.extend(match student.head() {
            Head::None => None,
            Head::Projection { dim } => Some((OutputKind::Embedding, dim)),
            Head::Classifier { classes } => Some((OutputKind::Logits, classes)),
        });
        let config = &manifest.config;
        let mut notes = Vec::new();
        let tempered = [ObjectiveKind::Lgd, ObjectiveKind::Seed];
        let temperature = config.objective_settings.shared.student_temperature;
        if matches!(student.head(), Head::Projection { .. })
            && !tempered.iter().any(|kind| config.objective.contain(*kind))
        {
            notes.push(format!(
                "no objective of the run has a student temperature; probabilities assume {temperature}"
            ));
        }
        let card = ModelCard {
            path: run.dir().to_owned(),
            hash: run.hash(),
            student: Some(config.student.to_string()),
            epochs: Some(run.epochs()),
            size: format.size,
            resample: format.resample,
            center: manifest.center,
            outputs,
            temperature: Some(temperature),
            names: None,
            classes: manifest.classes.clone(),
            notes,
        };
        Ok(Self { student, format, card, run })
    }
}

impl ImageModel for RunModel {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn run(&self) -> Option<&Run> {
        Some(&self.run)
    }

    fn infer(&mut self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, ModelFailure> {
        let pixels = self.format.normalize(images)?;
        let side = usize::try_from(self.format.size)?;
        let shape = (images.len(), side, side);
        let output = self.student.forward(Images::Normalized(&pixels), shape, Mode::Inference)?;
        let mut rows = vec![to_host(&output.pooled)?];
        if let Some(head) = &output.embedding {
            rows.push(to_host(head)?);
        }
        Ok(rows)
    }
}
