//! The UNet decoder of masked students: from the maps of a sparse backbone to the teacher's tokens (H-GKD; docs/methods.md section 3).
//!
//! ```text
//! map at stride 32 ── fill, 1x1 ──► up ──┐
//! map at stride 16 ── fill, 3x3 ────────(+)──► up ──┐
//! map at stride 8  ── fill, 3x3 ───────────────────(+)── … ── 1x1, bias ──► tokens
//! ```
//!
//! `fill`: batch normalization over the visible positions, a learned token at the hidden ones. `up`: transposed
//! convolution 4x4 with stride 2, then twice a 3x3 convolution and its normalization, with ReLU6 in between. At each
//! stride the decoder is as wide as the backbone's map, and the transposed convolution changes the width. This is our
//! choice; the published text gives none. Names of parameters start with `decoder.`. The finished student does not have
//! them.

use lgd_kernels::{Activation, ShapeError, Window};

use super::StudentError;
use crate::engine::graph::{Builder, ConvInitial, ConvSpec, NormSpec, Shape, Value};
use crate::error::TrainError;

/// Prefix of the names of the decoder's parameters and buffers.
pub const DECODER: &str = "decoder.";

/// Stride of the coarsest map, whose positions are the cells of the mask.
pub(super) const COARSEST: usize = 32;

/// Smallest number of cells of a masked image: one visible and one hidden.
pub const LEAST_CELLS: usize = 2;

/// The tokens that a decoder predicts, and the size of the images that it predicts them from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderConfig {
    /// Rows of the teacher's token grid.
    pub rows: usize,
    /// Columns of the grid.
    pub columns: usize,
    /// Width of the tokens in the cache.
    pub dim: usize,
    /// Height of the training images. With the grid, it determines how often maps are upsampled.
    pub height: usize,
    /// Width of the training images.
    pub width: usize,
}

impl DecoderConfig {
    /// Fails on images of another size, sizes that are not whole cells of the mask, and images of a single cell.
    pub(super) fn expect_size(&self, shape: Shape) -> Result<(), TrainError> {
        let Shape { height, width, .. } = shape;
        if (height, width) != (self.height, self.width) {
            return Err(TrainError::Dimensions {
                what: "images of the masked student".to_owned(),
                expected: vec![self.height, self.width],
                got: vec![height, width],
            });
        }
        let whole = height.is_multiple_of(COARSEST) && width.is_multiple_of(COARSEST);
        if whole && (height / COARSEST) * (width / COARSEST) >= LEAST_CELLS {
            return Ok(());
        }
        Err(StudentError::MaskedSize { height, width }.into())
    }

    /// How often the coarsest of `maps` maps is upsampled.
    fn upsamplings(&self, maps: usize) -> Result<usize, StudentError> {
        let (rows, columns) = (self.height / COARSEST, self.width / COARSEST);
        let grids = || (0..maps).map(|step| (rows << step, columns << step));
        grids().position(|grid| grid == (self.rows, self.columns)).ok_or_else(|| {
            let fitting: Vec<String> = grids().map(|(rows, columns)| format!("{rows} x {columns}")).collect();
            StudentError::TokenGrid {
                rows: self.rows,
                columns: self.columns,
                height: self.height,
                width: self.width,
                fitting: fitting.join(", "),
            }
        })
    }
}

/// Computes tokens from a backbone's maps at ascending `strides`.
///
/// # Errors
/// If upsampling by two cannot reach the grid; the error lists the grids that it can reach.
pub(super) fn tokens(
    builder: &mut Builder,
    (maps, strides): (&[Value], &[usize]),
    config: &DecoderConfig,
) -> Result<Value, TrainError> {
    let upsamplings = config.upsamplings(maps.len())?;
    let used = maps.iter().zip(strides).rev().take(1 + upsamplings);
    let mut decoded = None;
    for (&map, &stride) in used {
        let side = if stride == COARSEST { 1 } else { 3 };
        let filled = fill(builder, map, stride, side)?;
        decoded = Some(match decoded {
            None => filled,
            Some(coarser) => {
                let risen = upsample(builder, coarser, stride, builder.shape(map).channels)?;
                builder.add(risen, filled, Activation::Identity)?
            }
        });
    }
    let decoded = decoded.ok_or(ShapeError::Zero { what: "maps of a backbone" })?;
    let name = format!("{DECODER}tokens");
    let width = builder.shape(decoded).channels;
    // No normalization follows. With torchvision's weights, few outputs would start far larger than the tokens, whose
    // variance is 1.
    let small =
        ConvSpec { initial: ConvInitial::Normal { deviation: 0.02 }, ..ConvSpec::dense(config.dim, 1, 1) };
    let tokens = builder.conv(decoded, &name, small)?;
    Ok(builder.bias(tokens, &name, width)?)
}

/// Makes a sparse map dense: normalizes it, fills hidden positions with a token, and convolves it.
fn fill(builder: &mut Builder, map: Value, stride: usize, side: usize) -> Result<Value, ShapeError> {
    let name = format!("{DECODER}fill{stride}");
    let spec = NormSpec { masked: true, ..NormSpec::new(Activation::Identity) };
    let norm = builder.batch_norm(map, &format!("{name}.norm"), spec)?;
    let filled = builder.fill_masked(norm, &format!("{name}.token"))?;
    let width = builder.shape(map).channels;
    builder.conv(filled, &format!("{name}.conv"), ConvSpec::dense(width, side, 1))
}

/// Doubles rows and columns, with the result at `stride` with `width` channels.
fn upsample(builder: &mut Builder, x: Value, stride: usize, width: usize) -> Result<Value, ShapeError> {
    let name = |part: &str| format!("{DECODER}up{stride}.{part}");
    let window = Window { stride: 2, padding: 1, dilation: 1 };
    let doubled = ConvSpec { side: 4, window, ..ConvSpec::dense(width, 3, 2) };
    let mut x = builder.conv_transpose(x, &name("transposed"), doubled)?;
    for (number, activation) in [(1, Activation::Relu6), (2, Activation::Identity)] {
        x = builder.conv(x, &name(&format!("conv{number}")), ConvSpec::dense(width, 3, 1))?;
        x = builder.batch_norm(x, &name(&format!("bn{number}")), NormSpec::new(activation))?;
    }
    Ok(x)
}
