//! Finds a model's output and pools it to one vector per row.

use lgd_data::render::PixelLayout;

use crate::error::ExtractError;
use crate::session::{Model, Port, Tensor, describe};
use crate::teacher::Pooling;

/// Finds the output with this name. `key` is the setting in teacher.toml that names it, for the error.
pub(crate) fn named<'m>(model: &'m Model, name: &str, key: &str) -> Result<&'m Port, ExtractError> {
    let outputs = model.outputs();
    outputs.iter().find(|port| port.name == name).ok_or_else(|| {
        let hint = format!("correct {key} in teacher.toml");
        model.mismatch(format!("an output '{name}'"), describe(outputs), hint)
    })
}

/// Fails if the output is not f32 or f16.
pub(crate) fn require_float(model: &Model, output: &Port) -> Result<(), ExtractError> {
    use ort::value::TensorElementType::{Float16, Float32};
    if matches!(output.element, Some(Float32 | Float16)) {
        return Ok(());
    }
    let hint = "set output in teacher.toml to another output";
    Err(model.mismatch("an output of f32 or f16", output.to_string(), hint))
}

/// Pooling of the features' output: none for vectors, the mean for a feature map, the embedding's pooling for tokens.
pub(crate) fn feature_pooling(
    model: &Model,
    output: &Port,
    embedding: Pooling,
) -> Result<Pooling, ExtractError> {
    require_float(model, output)?;
    match (output.shape.len(), embedding) {
        (2, _) => Ok(Pooling::None),
        (3, pooling @ (Pooling::Cls | Pooling::Mean)) => Ok(pooling),
        (3, _) => Err(model.mismatch(
            "features of one vector per row, [N, F], or a feature map",
            output.to_string(),
            "features are pooled as the embedding is, and this teacher's embedding is not pooled from tokens: set features in \
             teacher.toml to another output",
        )),
        (4, _) => Ok(Pooling::Gap),
        _ => Err(model.mismatch(
            "features of two to four axes",
            output.to_string(),
            "set features in teacher.toml to another output",
        )),
    }
}

/// Pooling of an output by its rank: the configured one if it fits, or `none` for vectors.
pub(crate) fn pooling_for(
    model: &Model,
    output: &Port,
    set: Option<Pooling>,
) -> Result<Pooling, ExtractError> {
    require_float(model, output)?;
    match (output.shape.len(), set) {
        (2, None | Some(Pooling::None)) => Ok(Pooling::None),
        (3, Some(pooling @ (Pooling::Cls | Pooling::Mean))) | (4, Some(pooling @ Pooling::Gap)) => Ok(pooling),
        // One token, or a map of one position, is the vector itself.
        (3, None) if output.shape[1] == Some(1) => Ok(Pooling::Cls),
        (4, None) if output.shape[2..] == [Some(1); 2] => Ok(Pooling::Gap),
        (3, None) => Err(model.mismatch(
            "one vector per row, [N, D]",
            output.to_string(),
            "set pooling = \"cls\", or \"mean\" with prefix_tokens, in teacher.toml, as the model was trained",
        )),
        (4, None) => Err(model.mismatch(
            "one vector per row, [N, D]",
            output.to_string(),
            "for the mean of a feature map, set pooling = \"gap\" in teacher.toml",
        )),
        (2..=4, Some(pooling)) => Err(model.mismatch(
            format!("an output for pooling = \"{}\"", pooling.name()),
            output.to_string(),
            "correct pooling in teacher.toml: none takes [N, D], cls and mean take [N, T, D], gap takes four axes",
        )),
        _ => Err(model.mismatch(
            "an output of two to four axes",
            output.to_string(),
            "set output in teacher.toml to another output",
        )),
    }
}

/// Fails if an output does not have one row per image of the batch.
pub(crate) fn require_rows(tensor: &Tensor<'_>, batch: usize) -> Result<(), String> {
    match tensor.shape.first() {
        Some(&rows) if rows != batch => Err(format!(
            "the output has shape {:?}, {rows} rows for a batch of {batch}\nhint: export a model whose outputs have one row per \
             image",
            tensor.shape
        )),
        _ => Ok(()),
    }
}

/// How a run's output is pooled.
pub(crate) struct PoolingPlan {
    pub pooling: Pooling,
    /// Number of leading tokens left out of the mean.
    pub prefix_tokens: usize,
    /// Axis order of a feature map.
    pub layout: PixelLayout,
}

impl PoolingPlan {
    /// Pools the first `rows` rows of a run of `batch` images and returns their vectors and width.
    ///
    /// # Errors
    /// The shape that was expected and the one that the output has. An output of more rows than the batch is refused too:
    /// which of them belong to which image is unknown.
    pub(crate) fn apply(
        &self,
        tensor: &Tensor<'_>,
        batch: usize,
        rows: usize,
    ) -> Result<(Vec<f32>, usize), String> {
        require_rows(tensor, batch)?;
        let data = tensor.to_f32();
        let wrong = |what: &str| format!("the output has shape {:?}, expected {what}", tensor.shape);
        match (self.pooling, tensor.shape.as_slice()) {
            (Pooling::None, &[n, dim]) if n >= rows && dim > 0 => Ok((data[..rows * dim].to_vec(), dim)),
            (Pooling::Gap, &[n, dim, 1, 1]) if n >= rows && dim > 0 => Ok((data[..rows * dim].to_vec(), dim)),
            (Pooling::Cls, &[n, tokens, dim]) if n >= rows && tokens > 0 && dim > 0 => {
                let vectors = (0..rows).flat_map(|row| &data[row * tokens * dim..][..dim]).copied().collect();
                Ok((vectors, dim))
            }
            (Pooling::Mean, &[n, tokens, dim]) if n >= rows && tokens > self.prefix_tokens && dim > 0 => {
                Ok((self.token_mean(&data, rows, tokens, dim), dim))
            }
            (Pooling::Gap, &[n, a, b, c]) if n >= rows && a * b * c > 0 => {
                let (dim, positions, channels_last) = match self.layout {
                    PixelLayout::Nchw => (a, b * c, false),
                    PixelLayout::Nhwc => (c, a * b, true),
                };
                Ok((map_mean(&data[..rows * dim * positions], dim, positions, channels_last), dim))
            }
            (Pooling::None, _) => Err(wrong("[N, D]")),
            (Pooling::Cls, _) => Err(wrong("[N, T, D]")),
            (Pooling::Mean, _) => {
                Err(wrong(&format!("[N, T, D] with T above prefix_tokens = {}", self.prefix_tokens)))
            }
            (Pooling::Gap, _) => Err(wrong("a feature map of four axes")),
        }
    }

    fn token_mean(&self, data: &[f32], rows: usize, tokens: usize, dim: usize) -> Vec<f32> {
        let mut means = vec![0.0; rows * dim];
        for (row, mean) in means.chunks_exact_mut(dim).enumerate() {
            let mut count = 0.0_f32;
            for token in self.prefix_tokens..tokens {
                count += 1.0;
                let vector = &data[(row * tokens + token) * dim..][..dim];
                for (sum, value) in mean.iter_mut().zip(vector) {
                    *sum += value;
                }
            }
            for sum in mean {
                *sum /= count.max(1.0);
            }
        }
        means
    }
}

/// Averages feature maps over their positions; returns one row of width `dim` per map.
#[expect(clippy::cast_precision_loss, reason = "a feature map has far fewer than 2^24 positions")]
fn map_mean(data: &[f32], dim: usize, positions: usize, channels_last: bool) -> Vec<f32> {
    let count = positions as f32;
    let maps = data.chunks_exact(dim * positions);
    if channels_last {
        maps.flat_map(|map| {
            let mut mean = vec![0.0; dim];
            for position in map.chunks_exact(dim) {
                for (sum, value) in mean.iter_mut().zip(position) {
                    *sum += value;
                }
            }
            mean.into_iter().map(move |sum| sum / count)
        })
        .collect()
    } else {
        maps.flat_map(|map| map.chunks_exact(positions).map(|plane| plane.iter().sum::<f32>() / count))
            .collect()
    }
}
