//! Two training steps of a student, and all of their results that can be compared.

use candle_core::Tensor;
use lgd_data::render::Normalization;
use lgd_train::engine::parameters::Entry;
use lgd_train::error::TrainError;
use lgd_train::optim::OptimizerSettings;
use lgd_train::student::{Architecture, DecoderConfig, Extras, Head, Images, Mode, Student, StudentConfig};

use crate::{DIM, pixels, random};

const STEPS: u64 = 2;

/// A student, and the images that it trains on.
pub struct Case {
    pub config: StudentConfig,
    pub masked: bool,
    /// Images, height, width.
    shape: (usize, usize, usize),
    rgb: Vec<u8>,
}

impl Case {
    /// Creates a student for LGD or, if `masked`, one that KDEP and H-GKD train on masked images.
    pub fn new(architecture: Architecture, masked: bool) -> Self {
        let shape = if masked { (6, 96, 64) } else { (6, 96, 80) };
        let (images, height, width) = shape;
        let decoder = DecoderConfig { rows: height / 16, columns: width / 16, dim: 48, height, width };
        let extras = Extras { raw_pooled: masked, decoder: masked.then_some(decoder) };
        let head = Head::Projection { dim: DIM };
        let config = StudentConfig { extras, ..StudentConfig::new(architecture, head, 1) };
        Self { config, masked, shape, rgb: pixels(images * height * width * 3) }
    }

    /// Trains `student` for two steps, then runs inference.
    pub fn run(&self, student: &mut Student) -> Result<Results, TrainError> {
        let images = Images::Pixels { rgb: &self.rgb, normalization: &Normalization::IMAGENET };
        if self.masked {
            // Two or four of the 3 x 2 cells of each image are visible.
            let visible: Vec<bool> =
                (0..36).map(|cell| cell % 3 == 0 || cell % 12 == 4 || cell % 12 == 5).collect();
            student.set_mask(&visible, (3, 2))?;
        }
        let optimizer = OptimizerSettings { clip: Some(5.0), ema: Some(0.9), ..OptimizerSettings::default() };
        let begun = student.engine().state()?.parameters;
        let (mut gradient, mut losses) = (Vec::new(), Vec::new());
        for step in 0..STEPS {
            let loss = loss(student, images, self.shape, Mode::Train { seed: 3, step })?;
            student.backward(&loss, false)?;
            losses.push(loss.to_scalar::<f32>()?);
            if step == 0 {
                gradient = student.engine().gradients()?;
            }
            let update = optimizer.update(student.table(), 0.01, step + 1);
            student.update(&update)?;
        }
        let state = student.engine().state()?;
        let average = student.engine().optimizer_state()?.ema.ok_or(TrainError::NothingRan)?.parameters;
        let output = student.forward(images, self.shape, Mode::Inference)?;
        Ok(Results {
            losses,
            gradient,
            update: moved(&begun, &state.parameters),
            average: moved(&begun, &average),
            statistics: state.buffers,
            embedding: output.embedding()?.flatten_all()?.to_vec1()?,
        })
    }
}

/// The results of two steps. Vectors over the parameters are in the order of the student's table.
pub struct Results {
    pub losses: Vec<f32>,
    /// Gradient of the first step.
    gradient: Vec<f32>,
    /// Change of the parameters over both steps.
    update: Vec<f32>,
    /// Change of the averaged weights over both steps.
    average: Vec<f32>,
    /// Running statistics.
    statistics: Vec<f32>,
    /// Embedding of the trained student, in inference.
    embedding: Vec<f32>,
}

/// A part of the results: one tensor of a vector over the parameters or the statistics, or the embedding.
pub struct Part {
    pub what: &'static str,
    pub tensor: String,
    pub values: Vec<f32>,
}

impl Results {
    /// Splits the results tensor by tensor, because an error in one layer must not be hidden by the noise of another.
    pub fn parts(&self, student: &Student) -> Vec<Part> {
        let (parameters, buffers) = (student.table().parameters(), student.table().buffers());
        let mut parts = Vec::new();
        let mut split = |what: &'static str, entries: &[Entry], values: &[f32]| {
            parts.extend(entries.iter().map(|entry| {
                let values = values[entry.range.indices()].to_vec();
                Part { what, tensor: entry.spec.name.clone(), values }
            }));
        };
        split("gradient", parameters, &self.gradient);
        split("update", parameters, &self.update);
        split("average", parameters, &self.average);
        split("statistics", buffers, &self.statistics);
        parts.push(Part { what: "embedding", tensor: "all".to_owned(), values: self.embedding.clone() });
        parts
    }
}

/// A scalar that depends on everything that a student computes.
fn loss(
    student: &mut Student,
    images: Images<'_>,
    shape: (usize, usize, usize),
    mode: Mode,
) -> Result<Tensor, TrainError> {
    let output = student.forward(images, shape, mode)?;
    let weighted = |name: &str, value: &Tensor| {
        let weights = Tensor::from_vec(random(name, value.elem_count()), value.shape(), value.device())?;
        (value * weights)?.sum_all()
    };
    let mut sum = (weighted("pooled", &output.pooled)? + weighted("embedding", output.embedding()?)?)?;
    for (name, value) in [("raw", &output.raw_pooled), ("tokens", &output.tokens)] {
        if let Some(value) = value {
            sum = (sum + weighted(name, value)?)?;
        }
    }
    Ok(sum)
}

fn moved(begun: &[f32], ended: &[f32]) -> Vec<f32> {
    ended.iter().zip(begun).map(|(ended, begun)| ended - begun).collect()
}
