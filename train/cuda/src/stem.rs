//! The first convolution of a network: three channels and stride 2, for which cuDNN's kernels run at a tenth of their speed.
//!
//! The image is split into 2x2 blocks, whose four pixels become channels (3 x 4 of them, and zeros up to a multiple of
//! 8). The convolution becomes one with stride 1 over blocks, at half the side and with about half the taps per axis.
//! It has more products than before, most of them with zeros, but on tensor cores it takes a fraction of the time.
//!
//! With side K and padding p: `m = ceil(p / 2)`, `shift = 2 m - p`. Block row q holds input rows `2 (q - m)` and `2 (q
//! - m) + 1`. Tap r of window i is in row `(r + shift) % 2` of block `i + (r + shift) / 2`.

use lgd_kernels::conv::Conv;
use lgd_kernels::{ShapeError, Sliding, Window};

use crate::error::{Result, int};
use crate::gpu::Gpu;
use crate::launch::{Arg, Grid, Kernel};
use crate::memory::{Buffer, Slice, SliceMut};

/// Blocks per multiprocessor.
const WAVES: usize = 16;
/// Maximum channels of an image.
const CHANNELS: usize = 4;
/// Channels of a block are padded to a multiple of this: 16 bytes of 16-bit values, as tensor cores require.
const MULTIPLE: usize = 8;

/// A convolution over images, and the convolution over blocks with the same result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stem {
    /// The convolution over blocks.
    pub(crate) blocks: Conv,
    fields: [i32; 12],
    weights: usize,
}

impl Stem {
    /// The convolution over blocks, if `conv` is one over images with stride 2.
    pub(crate) fn of(conv: &Conv) -> Result<Option<Self>> {
        let s = &conv.sliding;
        let square = s.kernel.0 == s.kernel.1;
        if s.channels > CHANNELS
            || conv.groups != 1
            || s.window.stride != 2
            || s.window.dilation != 1
            || !square
        {
            return Ok(None);
        }
        let m = s.window.padding.div_ceil(2);
        let shift = 2 * m - s.window.padding;
        let half = (s.kernel.0 - 1 + shift) / 2 + 1;
        let depth = (4 * s.channels).next_multiple_of(MULTIPLE);
        let (high, wide) = (s.out_height + half - 1, s.out_width + half - 1);
        let fields = [
            s.batch,
            s.height,
            s.width,
            s.channels,
            conv.out_channels,
            s.kernel.0,
            half,
            shift,
            m,
            high,
            wide,
            depth,
        ];
        let mut ints = [0; 12];
        for (int_field, field) in ints.iter_mut().zip(fields) {
            *int_field = int(field)?;
        }
        let window = Window { stride: 1, padding: 0, dilation: 1 };
        let over_blocks = |sliding: Sliding| Conv::new(sliding, conv.out_channels, 1);
        let made: Result<Conv, ShapeError> =
            Sliding::new((s.batch, high, wide, depth), (half, half), window).and_then(over_blocks);
        Ok(Some(Self { blocks: made?, fields: ints, weights: conv.weight_len() }))
    }

    /// Rearranges the images as blocks.
    pub(crate) fn images(&self, gpu: &mut Gpu, x: Slice<'_>) -> Result<Buffer> {
        let s = &self.blocks.sliding;
        let mut blocks = gpu.alloc(x.element(), s.in_len())?;
        let args = [x.into(), Arg::Stem(self.fields), Arg::from(&blocks.as_mut())];
        let grid = Grid::flat(s.batch * s.height * s.width, gpu.blocks(WAVES));
        gpu.launch(Kernel::typed("stem_images", x.element(), 1), grid, &args)?;
        Ok(blocks)
    }

    /// Rearranges the filters for blocks.
    pub(crate) fn filters(&self, gpu: &mut Gpu, weights: Slice<'_>) -> Result<Buffer> {
        let mut blocks = Buffer::zeros(gpu.stream(), weights.element(), self.blocks.weight_len())?;
        let args = [weights.into(), Arg::Stem(self.fields), Arg::from(&blocks.as_mut())];
        let grid = Grid::flat(self.weights, gpu.blocks(WAVES));
        gpu.launch(Kernel::typed("stem_filters", weights.element(), 1), grid, &args)?;
        Ok(blocks)
    }

    /// The gradient of the filters, f32, from the gradient of the filters over blocks.
    pub(crate) fn gradient(
        &self,
        gpu: &mut Gpu,
        blocks: Slice<'_>,
        dw: &SliceMut<'_>,
        accumulate: bool,
    ) -> Result<()> {
        let args = [blocks.into(), Arg::Stem(self.fields), Arg::from(dw), Arg::from(accumulate)];
        let grid = Grid::flat(self.weights, gpu.blocks(WAVES));
        gpu.launch(Kernel::typed("stem_gradient", blocks.element(), 1), grid, &args)
    }
}
