//! ResNet with basic blocks, as torchvision's (He et al., arXiv 1512.03385).

use candle_core::Tensor;

use super::backbone::Backbone;
use super::layers::{ConvNorm, ConvSpec, Mode};
use crate::error::TrainError;
use crate::ops::{self, Activation, Window};
use crate::params::Initializer;

/// Stem, max-pool and four stages.
pub(super) struct ResNet {
    stem: ConvNorm,
    stages: Vec<Vec<BasicBlock>>,
}

impl ResNet {
    /// Two basic blocks per stage.
    pub(super) fn new_18(init: &mut Initializer<'_>) -> Result<Self, TrainError> {
        let stem = ConvNorm::new(init, ("conv1", "bn1"), ConvSpec::dense(3, 64, 7, 2), Activation::Relu)?;
        let mut inputs = 64;
        let mut stages = Vec::new();
        for (i, outputs) in [64, 128, 256, 512].into_iter().enumerate() {
            let mut stage = Vec::new();
            for j in 0..2 {
                let stride = if i > 0 && j == 0 { 2 } else { 1 };
                stage.push(BasicBlock::new(init, &format!("layer{}.{j}", i + 1), inputs, outputs, stride)?);
                inputs = outputs;
            }
            stages.push(stage);
        }
        Ok(Self { stem, stages })
    }
}

impl Backbone for ResNet {
    fn features(&self, images: &Tensor, mode: Mode) -> Result<Vec<Tensor>, TrainError> {
        let x = self.stem.forward(images, mode)?;
        let mut x = ops::max_pool2d(&x, 3, Window { stride: 2, padding: 1, dilation: 1 })?;
        let mut maps = Vec::new();
        for stage in &self.stages {
            for block in stage {
                x = block.forward(&x, mode)?;
            }
            maps.push(x.clone());
        }
        Ok(maps)
    }
}

/// Two 3x3 convolutions and a shortcut, projected where the shape changes.
struct BasicBlock {
    first: ConvNorm,
    second: ConvNorm,
    shortcut: Option<ConvNorm>,
}

impl BasicBlock {
    fn new(
        init: &mut Initializer<'_>,
        name: &str,
        inputs: usize,
        outputs: usize,
        stride: usize,
    ) -> Result<Self, TrainError> {
        let mut layer = |conv: &str, norm: &str, spec, activation| {
            ConvNorm::new(init, (&format!("{name}.{conv}"), &format!("{name}.{norm}")), spec, activation)
        };
        let spec = ConvSpec::dense(inputs, outputs, 3, stride);
        let first = layer("conv1", "bn1", spec, Activation::Relu)?;
        let spec = ConvSpec::dense(outputs, outputs, 3, 1);
        let second = layer("conv2", "bn2", spec, Activation::Identity)?;
        let shortcut = if stride != 1 || inputs != outputs {
            let spec = ConvSpec::dense(inputs, outputs, 1, stride);
            Some(layer("downsample.0", "downsample.1", spec, Activation::Identity)?)
        } else {
            None
        };
        Ok(Self { first, second, shortcut })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TrainError> {
        let y = self.second.forward(&self.first.forward(x, mode)?, mode)?;
        let shortcut = match &self.shortcut {
            Some(projection) => projection.forward(x, mode)?,
            None => x.clone(),
        };
        Ok(ops::add(&y, &shortcut, Activation::Relu)?)
    }
}
