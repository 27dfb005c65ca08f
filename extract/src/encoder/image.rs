//! The image encoder: a fixed batch of normalised pixels to unit vectors.

use lgd_data::render::{Normalization, PixelLayout, Resample};
use ort::session::SessionInputValue;
use ort::value::{TensorElementType, TensorRef};

use super::output::{PoolingPlan, choose, pooling_for};
use super::{CPU_BATCH, Embeddings, EncoderOptions, GPU_BATCH, PixelBuffer, PixelType};
use crate::device::{Precision, Slot};
use crate::error::ExtractError;
use crate::runtime::Runtime;
use crate::session::{Model, Port, Selection, describe};
use crate::teacher::{ImageSettings, Pooling};

/// Outputs that hold a whole image's embedding, best first.
const KNOWN_OUTPUTS: &[&str] =
    &["image_embeds", "image_embeddings", "embeddings", "pooler_output", "last_hidden_state"];

/// An image model on one device, with everything needed to prepare its input.
#[derive(Debug)]
pub struct ImageEncoder {
    model: Model,
    selection: Selection,
    input: String,
    output: String,
    shape: [usize; 4],
    pixel_type: PixelType,
    layout: PixelLayout,
    size: u32,
    normalization: Normalization,
    resample: Resample,
    pooling: Pooling,
    prefix_tokens: usize,
    dim: usize,
    warnings: Vec<String>,
}

impl ImageEncoder {
    pub(crate) fn open(
        runtime: &Runtime,
        settings: &ImageSettings,
        slot: Slot,
        options: &EncoderOptions,
    ) -> Result<Self, ExtractError> {
        let model = Model::open(runtime, &settings.model, slot, Precision::Fast, options.threads)?;
        let input = choose_input(&model, settings.input.as_deref())?.clone();
        let pixel_type = pixel_type(&model, &input)?;
        let layout = layout(&model, &input, settings.layout)?;
        let size = side(&model, &input, layout, settings.size)?;
        let batch = batch(&model, &input, slot, options.batch)?;
        let output = choose(&model, settings.output.as_deref(), KNOWN_OUTPUTS)?.clone();
        let pooling = pooling_for(&model, &output, settings.pooling)?;
        let side = usize::try_from(size).unwrap_or(usize::MAX);
        let shape = match layout {
            PixelLayout::Nchw => [batch, 3, side, side],
            PixelLayout::Nhwc => [batch, side, side, 3],
        };
        let mut encoder = Self {
            selection: Selection::of(&model, &output.name)?,
            warnings: warnings(&model, &output, settings),
            model,
            input: input.name,
            output: output.name,
            shape,
            pixel_type,
            layout,
            size,
            normalization: settings.normalization,
            resample: settings.resample,
            pooling,
            prefix_tokens: settings.prefix_tokens,
            dim: 0,
        };
        encoder.dim = encoder.probe()?;
        Ok(encoder)
    }

    /// Runs one batch of zeros: the real width, and any error, show now and not after an hour; a GPU plans its kernels.
    fn probe(&mut self) -> Result<usize, ExtractError> {
        let pixels = self.new_batch();
        let (_, dim) = self.run(&pixels, self.batch())?;
        Ok(dim)
    }

    /// Width D of the embeddings.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Images per run; a smaller batch is padded to it.
    pub fn batch(&self) -> usize {
        self.shape[0]
    }

    /// Side of the square input, px.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Elements of one image, 3 x size x size.
    pub fn image_len(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Axis order of the input.
    pub fn layout(&self) -> PixelLayout {
        self.layout
    }

    /// Element type of the input.
    pub fn pixel_type(&self) -> PixelType {
        self.pixel_type
    }

    /// Normalisation of the input.
    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// Resampling of the input.
    pub fn resample(&self) -> Resample {
        self.resample
    }

    /// Name of the output that is taken.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Pooling of the output.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Tokens that the mean leaves out.
    pub fn prefix_tokens(&self) -> usize {
        self.prefix_tokens
    }

    /// What a person should know before trusting the embeddings, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A batch of zeros of the right type and length.
    pub fn new_batch(&self) -> PixelBuffer {
        PixelBuffer::zeros(self.pixel_type, self.shape.iter().product())
    }

    /// Embeds the first `rows` images of `pixels`, which always holds a whole batch (see [`ImageEncoder::new_batch`]).
    ///
    /// # Errors
    /// [`ExtractError::Inference`] where the buffer is not a whole batch or the runtime fails.
    pub fn encode(&mut self, pixels: &PixelBuffer, rows: usize) -> Result<Embeddings, ExtractError> {
        let (vectors, dim) = self.run(pixels, rows)?;
        if dim != self.dim {
            let reason = format!("the output's width changed from {} to {dim}", self.dim);
            return Err(ExtractError::inference(self.model.path(), reason));
        }
        Ok(Embeddings::normalise(dim, vectors))
    }

    fn run(&mut self, pixels: &PixelBuffer, rows: usize) -> Result<(Vec<f32>, usize), ExtractError> {
        let path = self.model.path().to_owned();
        if pixels.len() != self.shape.iter().product::<usize>()
            || pixels.pixel_type() != self.pixel_type
            || rows > self.batch()
        {
            let got = format!("{} {:?} elements for {rows} rows", pixels.len(), pixels.pixel_type());
            return Err(ExtractError::inference(
                &path,
                format!("expected a batch of shape {:?}, got {got}", self.shape),
            ));
        }
        let failed = |error: ort::Error| ExtractError::inference(&path, error);
        let input: SessionInputValue<'_> = match pixels {
            PixelBuffer::F32(values) => {
                TensorRef::from_array_view((self.shape, &**values)).map_err(failed)?.into()
            }
            PixelBuffer::F16(values) => {
                TensorRef::from_array_view((self.shape, &**values)).map_err(failed)?.into()
            }
        };
        let plan = PoolingPlan {
            pooling: self.pooling,
            prefix_tokens: self.prefix_tokens,
            layout: self.layout,
            mask: None,
        };
        let inputs = vec![(self.input.as_str(), input)];
        self.model.run(inputs, &self.selection, |output| {
            plan.apply(output, rows).map_err(|reason| ExtractError::inference(&path, reason))
        })
    }
}

fn choose_input<'m>(model: &'m Model, named: Option<&str>) -> Result<&'m Port, ExtractError> {
    let inputs = model.inputs();
    let port = match (named, inputs) {
        (Some(name), _) => inputs.iter().find(|port| port.name == name).ok_or_else(|| {
            model.mismatch(format!("an input '{name}'"), describe(inputs), "correct input in teacher.toml")
        })?,
        (None, [only]) => only,
        (None, _) => return Err(many_inputs(model)),
    };
    if inputs.len() == 1 { Ok(port) } else { Err(many_inputs(model)) }
}

fn many_inputs(model: &Model) -> ExtractError {
    model.mismatch(
        "a model with one input, the pixels",
        describe(model.inputs()),
        "export the image encoder by itself",
    )
}

fn pixel_type(model: &Model, input: &Port) -> Result<PixelType, ExtractError> {
    match input.element {
        Some(TensorElementType::Float32) => Ok(PixelType::F32),
        Some(TensorElementType::Float16) => Ok(PixelType::F16),
        _ => Err(model.mismatch("an input of f32 or f16", input.to_string(), "")),
    }
}

/// Where the model's shape puts the three channels, else what is set, else NCHW.
fn layout(model: &Model, input: &Port, set: Option<PixelLayout>) -> Result<PixelLayout, ExtractError> {
    let &[_, second, _, fourth] = input.shape.as_slice() else {
        return Err(model.mismatch(
            "an input of four axes, [N, 3, S, S] or [N, S, S, 3]",
            input.to_string(),
            "",
        ));
    };
    let found = match (second, fourth) {
        (Some(3), Some(3)) | (None, None) => set,
        (Some(3), _) => Some(PixelLayout::Nchw),
        (_, Some(3)) => Some(PixelLayout::Nhwc),
        (None, Some(_)) => Some(PixelLayout::Nchw),
        (Some(_), None) => Some(PixelLayout::Nhwc),
        (Some(_), Some(_)) => {
            return Err(model.mismatch("an input of three channels", input.to_string(), ""));
        }
    };
    match (found, set) {
        (Some(found), Some(set)) if found != set => Err(model.mismatch(
            format!("an input with layout {set:?}"),
            input.to_string(),
            "correct layout in teacher.toml",
        )),
        _ => Ok(found.unwrap_or(PixelLayout::Nchw)),
    }
}

fn side(model: &Model, input: &Port, layout: PixelLayout, set: Option<u32>) -> Result<u32, ExtractError> {
    let first = if layout == PixelLayout::Nchw { 2 } else { 1 };
    let (height, width) = (input.shape[first], input.shape[first + 1]);
    let fixed = height.or(width);
    if height.or(fixed) != width.or(fixed) {
        return Err(model.mismatch("a square input", input.to_string(), ""));
    }
    let fixed = fixed.and_then(|side| u32::try_from(side).ok());
    match (set, fixed) {
        (Some(set), Some(fixed)) if set != fixed => {
            let hint = format!("set size = {fixed} in teacher.toml");
            Err(model.mismatch(format!("an input of {set} x {set} px"), input.to_string(), hint))
        }
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => {
            let hint = "set size in teacher.toml";
            Err(model.mismatch("a fixed input size, or one in teacher.toml", input.to_string(), hint))
        }
    }
}

fn batch(model: &Model, input: &Port, slot: Slot, wanted: Option<usize>) -> Result<usize, ExtractError> {
    let default = if slot == Slot::Cpu { CPU_BATCH } else { GPU_BATCH };
    match (input.shape[0], wanted) {
        (_, Some(0)) | (Some(0), _) => Err(model.mismatch("a batch above 0", input.to_string(), "")),
        (Some(fixed), Some(wanted)) if fixed != wanted => {
            let hint = format!("use batch {fixed}, or export the model with a free batch axis");
            Err(model.mismatch(format!("a model that takes batches of {wanted}"), input.to_string(), hint))
        }
        (Some(batch), _) | (None, Some(batch)) => Ok(batch),
        (None, None) => Ok(default),
    }
}

fn warnings(model: &Model, output: &Port, settings: &ImageSettings) -> Vec<String> {
    let mut warnings = Vec::new();
    if output.name == "pooler_output" {
        warnings.push(format!(
            "{}: pooler_output of a CLIP vision model comes before the projection and cannot be compared with text; \
             export image_embeds for a language-guided teacher",
            model.path().display()
        ));
    }
    if settings.pooling == Some(Pooling::Mean) && settings.prefix_tokens == 0 {
        warnings.push(format!(
            "{}: the mean counts every token; set prefix_tokens where class or register tokens come first",
            model.path().display()
        ));
    }
    warnings
}
