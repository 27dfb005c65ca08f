//! Patch tokens: a grid of vectors per image, from a transformer's tokens or a feature map.

use lgd_data::cache::standardize;
use lgd_data::projection::Projection;
use lgd_data::render::PixelLayout;
use rayon::prelude::*;

use super::output::{require_float, require_rows};
use crate::error::ExtractError;
use crate::session::{Model, Port, Tensor};

/// The shape of an image's tokens: their grid and their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenShape {
    /// Rows of the grid.
    pub rows: usize,
    /// Columns of the grid.
    pub columns: usize,
    /// Width D of a token.
    pub dim: usize,
}

impl TokenShape {
    /// Tokens per image.
    pub fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// Values per image, rows x columns x D.
    pub fn width(&self) -> usize {
        self.count() * self.dim
    }
}

/// How an output is converted to tokens on a grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenPlan {
    /// Number of leading tokens that are not patches.
    pub prefix_tokens: usize,
    /// Rows and columns, if set in `teacher.toml`.
    pub grid: Option<[usize; 2]>,
    /// Axis order of a feature map.
    pub layout: PixelLayout,
}

impl TokenPlan {
    /// Fails if the output's rank or element type does not fit tokens.
    pub(crate) fn check(model: &Model, output: &Port) -> Result<(), ExtractError> {
        require_float(model, output)?;
        if matches!(output.shape.len(), 3 | 4) {
            return Ok(());
        }
        Err(model.mismatch(
            "tokens, [N, T, D], or a feature map of four axes",
            output.to_string(),
            "set tokens in teacher.toml to another output",
        ))
    }

    /// Tokens of the first `rows` of `batch` images, `[rows, T, D]`, not yet standardized, and their shape.
    pub(crate) fn apply(
        &self,
        tensor: &Tensor<'_>,
        batch: usize,
        rows: usize,
    ) -> Result<(Vec<f32>, TokenShape), String> {
        require_rows(tensor, batch)?;
        let data = tensor.to_f32();
        let wrong =
            |what: String| format!("the tokens' output has shape {:?}, expected {what}", tensor.shape);
        match *tensor.shape.as_slice() {
            [_, tokens, dim] if tokens > self.prefix_tokens && dim > 0 => {
                let count = tokens - self.prefix_tokens;
                let shape = self.grid(count, dim).map_err(wrong)?;
                let mut patches = Vec::with_capacity(rows * shape.width());
                for image in data.chunks_exact(tokens * dim).take(rows) {
                    patches.extend_from_slice(&image[self.prefix_tokens * dim..]);
                }
                Ok((patches, shape))
            }
            [_, a, b, c] if a * b * c > 0 => {
                let (grid, dim) = match self.layout {
                    PixelLayout::Nchw => ([b, c], a),
                    PixelLayout::Nhwc => ([a, b], c),
                };
                if self.grid.is_some_and(|set| set != grid) {
                    return Err(wrong(format!("a map of {:?}, token_grid in teacher.toml", self.grid)));
                }
                let shape = TokenShape { rows: grid[0], columns: grid[1], dim };
                let maps = &data[..rows * shape.width()];
                Ok((
                    if self.layout == PixelLayout::Nchw { channels_last(maps, shape) } else { maps.to_vec() },
                    shape,
                ))
            }
            [_, _, _] => Err(wrong(format!("[N, T, D] with T above prefix_tokens = {}", self.prefix_tokens))),
            _ => Err(wrong("[N, T, D] or a feature map of four axes".to_owned())),
        }
    }

    /// The grid of `count` tokens: the configured one, or a square.
    fn grid(&self, count: usize, dim: usize) -> Result<TokenShape, String> {
        let side = count.isqrt();
        let [rows, columns] = self.grid.unwrap_or([side, side]);
        if rows.checked_mul(columns) == Some(count) {
            return Ok(TokenShape { rows, columns, dim });
        }
        let prefix = self.prefix_tokens;
        Err(match self.grid {
            Some(_) => format!("{rows} x {columns} tokens after {prefix} prefix_tokens, not {count}"),
            None => format!(
                "a square number of tokens after {prefix} prefix_tokens, not {count}\nhint: correct prefix_tokens, or set token_grid = [rows, columns] in teacher.toml"
            ),
        })
    }
}

/// Transposes feature maps from `[n, D, rows, columns]` to `[n, rows, columns, D]`.
fn channels_last(maps: &[f32], shape: TokenShape) -> Vec<f32> {
    let (count, dim) = (shape.count(), shape.dim);
    let mut tokens = vec![0.0; maps.len()];
    let images = maps.par_chunks_exact(shape.width()).zip(tokens.par_chunks_exact_mut(shape.width()));
    images.for_each(|(map, tokens)| {
        for (channel, plane) in map.chunks_exact(count).enumerate() {
            for (position, value) in plane.iter().enumerate() {
                tokens[position * dim + channel] = *value;
            }
        }
    });
    tokens
}

/// Standardized tokens of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    shape: TokenShape,
    values: Vec<f32>,
    usable: Vec<bool>,
}

impl Tokens {
    /// Standardizes `[rows, T, D]`: every token over its own values.
    pub(crate) fn standardize(shape: TokenShape, mut values: Vec<f32>) -> Self {
        let images = values.par_chunks_exact_mut(shape.width());
        let usable = images.map(|image| standardize(image, shape.dim)).collect();
        Self { shape, values, usable }
    }

    /// Projects the tokens. Each image is projected separately, so other images in the batch do not change its bits.
    #[must_use]
    pub fn project(&self, projection: &Projection) -> Self {
        let shape = TokenShape { dim: projection.dim(), ..self.shape };
        let mut values = vec![0.0; self.usable.len() * shape.width()];
        let images = self.values.par_chunks_exact(self.shape.width());
        images
            .zip(values.par_chunks_exact_mut(shape.width()))
            .for_each(|(image, out)| projection.apply(image, out));
        Self { shape, values, usable: self.usable.clone() }
    }

    /// Grid and token width.
    pub fn shape(&self) -> TokenShape {
        self.shape
    }

    /// All values, `[rows, T, D]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Consumes the tokens and returns all values, `[rows, T, D]`.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// The tokens of one image, `[T, D]`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.shape.width()..(row + 1) * self.shape.width()]
    }

    /// Whether all values of an image were finite and small enough to be standardized.
    pub fn usable(&self, row: usize) -> bool {
        self.usable[row]
    }
}
