//! The image encoder: maps a fixed-size batch of normalized pixels to unit vectors, and optionally to features and
//! tokens.

use lgd_data::image::RgbImage;
use lgd_data::render::{Normalization, PixelLayout, Resample};
use ort::session::SessionInputValue;
use ort::value::TensorRef;

use super::companions::Companion;
use super::image_output::{choose, classifier_width};
use super::output::{PoolingPlan, feature_pooling, named};
use super::tokens::TokenPlan;
use super::views::{EncodedViews, Features, Outputs};
use super::{
    Embeddings, EncoderOptions, PixelBuffer, PixelType, TokenShape, Tokens, image_probe, image_resolved,
    ports,
};
use crate::device::{Precision, Slot};
use crate::error::ExtractError;
use crate::runtime::Runtime;
use crate::session::{Model, Port, Selection, Tensor, describe};
use crate::teacher::{ImageSettings, Pooling, Resolved};

/// Batches that are tried if the default one fails inside a model whose batch axis is free.
const OTHER_BATCHES: &[usize] = &[1, 2, 4, 8, 16, 64];

/// An image model on one device, with the settings needed to prepare its input.
#[derive(Debug)]
pub struct ImageEncoder {
    model: Model,
    selection: Selection,
    input: String,
    companions: Vec<Companion>,
    output: String,
    shape: [usize; 4],
    pixel_type: PixelType,
    layout: PixelLayout,
    size: u32,
    normalization: Normalization,
    resample: Resample,
    pooling: Pooling,
    prefix_tokens: usize,
    features: Option<FeatureOutput>,
    tokens: Option<TokenOutput>,
    dim: usize,
    warnings: Vec<String>,
    resolved: Vec<Resolved>,
}

/// The output that holds the features. `dim` is 0 until the model has run.
#[derive(Debug)]
struct FeatureOutput {
    name: String,
    pooling: Pooling,
    dim: usize,
}

/// The output that holds the tokens. `shape` is `None` until the model has run.
#[derive(Debug)]
struct TokenOutput {
    name: String,
    plan: TokenPlan,
    shape: Option<TokenShape>,
}

/// Outputs of a run, pooled but not normalized.
struct RawViews {
    vectors: Vec<f32>,
    dim: usize,
    features: Option<(Vec<f32>, usize)>,
    tokens: Option<(Vec<f32>, TokenShape)>,
}

impl ImageEncoder {
    pub(crate) fn open(
        runtime: &Runtime,
        settings: &ImageSettings,
        slot: Slot,
        options: &EncoderOptions,
        outputs: Outputs,
    ) -> Result<Self, ExtractError> {
        let model = Model::open(runtime, &settings.model, slot, Precision::Fast, options.threads)?;
        let input = ports::choose_input(&model, settings.input.as_deref())?.clone();
        let pixel_type = ports::pixel_type(&model, &input)?;
        let layout = ports::layout(&model, &input, settings.layout)?;
        let size = ports::side(&model, &input, layout, settings.size)?;
        let batch = ports::batch(&model, &input, slot, options.batch)?;
        let chosen = choose(&model, settings)?;
        let features =
            outputs.features.then(|| FeatureOutput::find(&model, settings, chosen.pooling)).transpose()?;
        let tokens = outputs
            .tokens
            .then(|| TokenOutput::find(&model, settings, chosen.prefix_tokens, layout))
            .transpose()?;
        let mut encoder = Self {
            selection: selection(&model, &chosen.name, features.as_ref(), tokens.as_ref())?,
            companions: Companion::all(&model, &input)?,
            warnings: settings.notes.iter().chain(&chosen.warnings).cloned().collect(),
            model,
            input: input.name.clone(),
            output: chosen.name.clone(),
            shape: [0; 4],
            pixel_type,
            layout,
            size,
            normalization: settings.normalization,
            resample: settings.resample,
            pooling: chosen.pooling,
            prefix_tokens: chosen.prefix_tokens,
            features,
            tokens,
            dim: 0,
            resolved: Vec::new(),
        };
        let images = image_probe::images(&encoder.model, size)?;
        let vectors = encoder.find_shape(&input, settings, options, batch, &images)?;
        encoder.require_difference(&images, vectors)?;
        encoder.warnings.extend(classifier_width(&encoder.model, &chosen.name, encoder.dim, &settings.known));
        encoder.resolved = image_resolved::list(settings, &encoder.input, encoder.layout, size, &chosen);
        Ok(encoder)
    }

    /// Determines layout and batch by running one batch with these images, and returns their vectors. This also gives
    /// the output widths, reveals errors now and not after an hour, and lets a GPU plan its kernels. What the model leaves
    /// open is tried: the layout if nothing says which axis has the channels, and other batches if the model's batch axis
    /// is free in name only.
    fn find_shape(
        &mut self,
        input: &Port,
        settings: &ImageSettings,
        options: &EncoderOptions,
        batch: usize,
        images: &[RgbImage],
    ) -> Result<Vec<f32>, ExtractError> {
        let first = self.layout;
        let error = match self.probe(first, batch, images) {
            Ok(vectors) => return Ok(vectors),
            Err(error) => error,
        };
        let layouts = match first {
            _ if !ports::layout_is_open(input, settings.layout) => [first; 2],
            PixelLayout::Nchw => [first, PixelLayout::Nhwc],
            PixelLayout::Nhwc => [first, PixelLayout::Nchw],
        };
        let batches = if input.shape[0].is_none() { OTHER_BATCHES } else { &[] };
        let shapes =
            std::iter::once(&batch).chain(batches).flat_map(|&batch| layouts.map(|layout| (layout, batch)));
        for (layout, works) in shapes {
            let Ok(vectors) = self.probe(layout, works, images) else { continue };
            if layout != first {
                let place = settings.model.display();
                self.warnings.push(format!(
                    "{place}: no axis has a fixed size of three channels; the model runs with {layout:?}, so that is assumed"
                ));
            }
            if works != batch {
                self.settle(options.batch, batch, works)?;
            }
            return Ok(vectors);
        }
        Err(error)
    }

    /// Adds the warning that only a batch other than the first one works.
    ///
    /// # Errors
    /// [`ExtractError::ModelInterface`] if the user asked for the one that fails.
    fn settle(&mut self, asked: Option<usize>, failed: usize, works: usize) -> Result<(), ExtractError> {
        let reason = format!(
            "the batch axis is free in name only: {failed} images fail inside the model, {works} do not"
        );
        if asked.is_some() {
            let hint = format!("use batch {works}, or export the model with a free batch axis");
            return Err(self.model.mismatch(format!("a model that takes batches of {failed}"), reason, hint));
        }
        let place = self.model.path().display();
        self.warnings.push(format!(
            "{place}: {reason}, so batches of {works} are used\nhint: for speed, export the model with a free batch axis"
        ));
        Ok(())
    }

    /// Fails if the model gives two different images the same vector, or nothing that can be used. `vectors` are those
    /// of the images that fit in one batch.
    fn require_difference(&mut self, images: &[RgbImage], mut vectors: Vec<f32>) -> Result<(), ExtractError> {
        if let Some(rest) = images.get(self.batch()..).filter(|rest| !rest.is_empty()) {
            vectors.extend(self.look(rest)?.vectors);
        }
        image_probe::require_difference(&self.model, &self.output, self.dim, &vectors)
    }

    /// Runs one batch that begins with these images, the others being zeros, and keeps the vectors of these.
    fn look(&mut self, images: &[RgbImage]) -> Result<RawViews, ExtractError> {
        let mut pixels = self.new_batch();
        for (row, image) in images.iter().enumerate() {
            pixels
                .normalize(row * self.image_len(), image, &self.normalization, self.layout, &mut Vec::new())
                .map_err(|error| ExtractError::inference(self.model.path(), error))?;
        }
        let mut raw = self.run(&pixels, self.batch())?;
        raw.vectors.truncate(images.len() * raw.dim);
        Ok(raw)
    }

    /// Runs one batch in this shape and returns the vectors of the images that fit in it.
    fn probe(
        &mut self,
        layout: PixelLayout,
        batch: usize,
        images: &[RgbImage],
    ) -> Result<Vec<f32>, ExtractError> {
        let side = usize::try_from(self.size).unwrap_or(usize::MAX);
        self.layout = layout;
        self.shape = match layout {
            PixelLayout::Nchw => [batch, 3, side, side],
            PixelLayout::Nhwc => [batch, side, side, 3],
        };
        if let Some(tokens) = &mut self.tokens {
            tokens.plan.layout = layout;
        }
        let raw = self.look(&images[..batch.min(images.len())])?;
        self.dim = raw.dim;
        if let Some((features, (_, dim))) = self.features.as_mut().zip(raw.features) {
            features.dim = dim;
        }
        if let Some((tokens, (_, shape))) = self.tokens.as_mut().zip(raw.tokens) {
            tokens.shape = Some(shape);
        }
        Ok(raw.vectors)
    }

    /// Width D of the embeddings.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Images per run. A smaller batch is padded to this size.
    pub fn batch(&self) -> usize {
        self.shape[0]
    }

    /// Side of the square input, px.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Number of elements of one image, 3 x size x size.
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

    /// Normalization of the input.
    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// Resampling of the input.
    pub fn resample(&self) -> Resample {
        self.resample
    }

    /// Name of the output that holds the embeddings.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Pooling of that output.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Number of leading tokens left out of the mean and of the cached tokens.
    pub fn prefix_tokens(&self) -> usize {
        self.prefix_tokens
    }

    /// Name of the features' output and their width F, if features are read.
    pub fn features(&self) -> Option<(&str, usize)> {
        self.features.as_ref().map(|features| (features.name.as_str(), features.dim))
    }

    /// Name of the tokens' output and their shape, if tokens are read.
    pub fn tokens(&self) -> Option<(&str, TokenShape)> {
        self.tokens.as_ref().and_then(|tokens| Some((tokens.name.as_str(), tokens.shape?)))
    }

    /// Fails if tokens have fewer than `dim` values, since a projection cannot widen them.
    pub(crate) fn require_token_width(&self, dim: usize) -> Result<(), ExtractError> {
        match self.tokens() {
            Some((_, shape)) if dim > shape.dim => Err(self.model.mismatch(
                format!("tokens of at least {dim} values"),
                format!("{} x {} tokens of {}", shape.rows, shape.columns, shape.dim),
                format!("choose at most {} values for the projection", shape.dim),
            )),
            _ => Ok(()),
        }
    }

    /// Every setting that the encoder uses, with its source, in the order of `[image]` in `teacher.toml`.
    pub fn resolved(&self) -> &[Resolved] {
        &self.resolved
    }

    /// Warnings for the user, each with its hint in a line of its own.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A batch of zeros with the right element type and length.
    pub fn new_batch(&self) -> PixelBuffer {
        PixelBuffer::zeros(self.pixel_type, self.shape.iter().product())
    }

    /// Embeds the first `rows` images of `pixels`, which must be a whole batch (see [`ImageEncoder::new_batch`]).
    ///
    /// # Errors
    /// [`ExtractError::Inference`] if the buffer is not a whole batch or inference fails.
    pub fn encode(&mut self, pixels: &PixelBuffer, rows: usize) -> Result<Embeddings, ExtractError> {
        self.encode_views(pixels, rows).map(|views| views.embeddings)
    }

    /// Like [`ImageEncoder::encode`], but also returns features and tokens if the encoder was opened for them, from
    /// the same pass.
    ///
    /// # Errors
    /// Same as [`ImageEncoder::encode`].
    pub fn encode_views(&mut self, pixels: &PixelBuffer, rows: usize) -> Result<EncodedViews, ExtractError> {
        let raw = self.run(pixels, rows)?;
        let features = raw.features.as_ref().map(|(_, dim)| *dim);
        let tokens = raw.tokens.as_ref().map(|(_, shape)| *shape);
        let found = (Some(raw.dim), features, tokens);
        let expected =
            (Some(self.dim), self.features().map(|(_, dim)| dim), self.tokens().map(|(_, shape)| shape));
        if found != expected {
            let reason = format!("the outputs' widths changed from {expected:?} to {found:?}");
            return Err(ExtractError::inference(self.model.path(), reason));
        }
        Ok(EncodedViews {
            embeddings: Embeddings::normalize(raw.dim, raw.vectors),
            features: raw.features.map(|(values, dim)| Features::new(dim, values)),
            tokens: raw.tokens.map(|(values, shape)| Tokens::standardize(shape, values)),
        })
    }

    fn run(&mut self, pixels: &PixelBuffer, rows: usize) -> Result<RawViews, ExtractError> {
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
            PixelBuffer::U8(values) => {
                TensorRef::from_array_view((self.shape, &**values)).map_err(failed)?.into()
            }
        };
        let (prefix_tokens, layout) = (self.prefix_tokens, self.layout);
        let plan = |pooling| PoolingPlan { pooling, prefix_tokens, layout };
        let embedding = plan(self.pooling);
        let features = self.features.as_ref().map(|features| plan(features.pooling));
        let tokens = self.tokens.as_ref().map(|tokens| tokens.plan);
        let batch = self.batch();
        let mut inputs = vec![(self.input.as_str(), input)];
        for companion in &self.companions {
            inputs.push(companion.feed(batch).map_err(failed)?);
        }
        self.model.run(inputs, &self.selection, |outputs| {
            take(outputs, [batch, rows], &embedding, features.as_ref(), tokens)
                .map_err(|reason| ExtractError::inference(&path, reason))
        })
    }
}

impl FeatureOutput {
    fn find(model: &Model, settings: &ImageSettings, embedding: Pooling) -> Result<Self, ExtractError> {
        let name = settings.features.as_deref().ok_or_else(|| unnamed(model, "features"))?;
        let port = named(model, name, "features")?;
        Ok(Self { name: name.to_owned(), pooling: feature_pooling(model, port, embedding)?, dim: 0 })
    }
}

impl TokenOutput {
    fn find(
        model: &Model,
        settings: &ImageSettings,
        prefix_tokens: usize,
        layout: PixelLayout,
    ) -> Result<Self, ExtractError> {
        let name = settings.tokens.as_deref().ok_or_else(|| unnamed(model, "tokens"))?;
        TokenPlan::check(model, named(model, name, "tokens")?)?;
        let plan = TokenPlan { prefix_tokens, grid: settings.token_grid, layout };
        Ok(Self { name: name.to_owned(), plan, shape: None })
    }
}

/// The error for a requested output that `teacher.toml` does not name.
fn unnamed(model: &Model, key: &str) -> ExtractError {
    let hint = format!("set [image] {key} in teacher.toml to the name of the output that holds them");
    model.mismatch(format!("{key} in teacher.toml"), describe(model.outputs()), hint)
}

/// Selects the embedding's output, then the features', then the tokens'.
fn selection(
    model: &Model,
    embedding: &str,
    features: Option<&FeatureOutput>,
    tokens: Option<&TokenOutput>,
) -> Result<Selection, ExtractError> {
    let features = features.map(|features| features.name.as_str());
    let tokens = tokens.map(|tokens| tokens.name.as_str());
    let names: Vec<&str> = [embedding].into_iter().chain(features).chain(tokens).collect();
    Selection::of(model, &names)
}

/// Pools the outputs selected by [`selection`] for the first `rows` of `batch` images.
fn take(
    outputs: &[Tensor<'_>],
    [batch, rows]: [usize; 2],
    embedding: &PoolingPlan,
    features: Option<&PoolingPlan>,
    tokens: Option<TokenPlan>,
) -> Result<RawViews, String> {
    let mut outputs = outputs.iter();
    let mut next = || outputs.next().ok_or_else(|| "the model returned too few outputs".to_owned());
    let (vectors, dim) = embedding.apply(next()?, batch, rows)?;
    let features = features.map(|plan| plan.apply(next()?, batch, rows)).transpose()?;
    let tokens = tokens.map(|plan| plan.apply(next()?, batch, rows)).transpose()?;
    Ok(RawViews { vectors, dim, features, tokens })
}
