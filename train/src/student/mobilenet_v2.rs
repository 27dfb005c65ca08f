//! MobileNetV2 of width 1, as torchvision's (Sandler et al., arXiv 1801.04381).

use candle_core::Tensor;

use super::backbone::Backbone;
use super::layers::{ConvNorm, ConvSpec, Mode};
use crate::error::TrainError;
use crate::ops::{self, Activation};
use crate::params::Initializer;

/// Expansion, output channels, blocks and first stride of each group of blocks.
const GROUPS: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// Stem, inverted residuals, and the last 1x1 convolution.
pub(super) struct MobileNetV2 {
    stem: ConvNorm,
    blocks: Vec<InvertedResidual>,
    last: ConvNorm,
}

impl MobileNetV2 {
    /// torchvision's `mobilenet_v2().features`.
    pub(super) fn new(init: &mut Initializer<'_>) -> Result<Self, TrainError> {
        let spec = ConvSpec::dense(3, 32, 3, 2);
        let stem = ConvNorm::new(init, ("features.0.0", "features.0.1"), spec, Activation::Relu6)?;
        let mut inputs = 32;
        let mut blocks = Vec::new();
        for (expansion, outputs, count, first_stride) in GROUPS {
            for j in 0..count {
                let stride = if j == 0 { first_stride } else { 1 };
                let name = format!("features.{}.conv", blocks.len() + 1);
                blocks.push(InvertedResidual::new(init, &name, expansion, (inputs, outputs), stride)?);
                inputs = outputs;
            }
        }
        let number = blocks.len() + 1;
        let (conv, norm) = (format!("features.{number}.0"), format!("features.{number}.1"));
        let spec = ConvSpec::dense(inputs, 1280, 1, 1);
        let last = ConvNorm::new(init, (&conv, &norm), spec, Activation::Relu6)?;
        Ok(Self { stem, blocks, last })
    }
}

impl Backbone for MobileNetV2 {
    fn features(&self, images: &Tensor, mode: Mode) -> Result<Vec<Tensor>, TrainError> {
        let mut x = self.stem.forward(images, mode)?;
        let mut maps = Vec::new();
        for block in &self.blocks {
            if block.stride == 2 {
                maps.push(x.clone());
            }
            x = block.forward(&x, mode)?;
        }
        maps.push(self.last.forward(&x, mode)?);
        Ok(maps)
    }
}

/// Expansion (where there is one), depthwise convolution, projection; summed with the input where the shape stays.
struct InvertedResidual {
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    project: ConvNorm,
    stride: usize,
    residual: bool,
}

impl InvertedResidual {
    fn new(
        init: &mut Initializer<'_>,
        name: &str,
        expansion: usize,
        (inputs, outputs): (usize, usize),
        stride: usize,
    ) -> Result<Self, TrainError> {
        let hidden = inputs * expansion;
        let mut next = 0;
        // torchvision wraps conv + norm + activation in a group of its own, and leaves the projection's two bare.
        let mut grouped = |init: &mut Initializer<'_>, spec| {
            let (conv, norm) = (format!("{name}.{next}.0"), format!("{name}.{next}.1"));
            next += 1;
            ConvNorm::new(init, (&conv, &norm), spec, Activation::Relu6)
        };
        let expand = match expansion {
            1 => None,
            _ => Some(grouped(init, ConvSpec::dense(inputs, hidden, 1, 1))?),
        };
        let depthwise = grouped(init, ConvSpec::depthwise(hidden, stride))?;
        let (conv, norm) = (format!("{name}.{next}"), format!("{name}.{}", next + 1));
        let spec = ConvSpec::dense(hidden, outputs, 1, 1);
        let project = ConvNorm::new(init, (&conv, &norm), spec, Activation::Identity)?;
        let residual = stride == 1 && inputs == outputs;
        Ok(Self { expand, depthwise, project, stride, residual })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TrainError> {
        let expanded = match &self.expand {
            Some(expand) => expand.forward(x, mode)?,
            None => x.clone(),
        };
        let y = self.project.forward(&self.depthwise.forward(&expanded, mode)?, mode)?;
        Ok(if self.residual { ops::add(&y, x, Activation::Identity)? } else { y })
    }
}
