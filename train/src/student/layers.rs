//! Convolution and normalisation with their parameters.

use candle_core::{Tensor, Var};

use crate::error::TrainError;
use crate::ops::{self, Activation, Window};
use crate::params::Initializer;

/// Share of a batch's statistics that enters the running ones, as in torchvision.
const MOMENTUM: f32 = 0.1;

/// How a student runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, running statistics updated, gradients tracked. (seed, step) name the dropout mask.
    Train {
        /// The run's seed.
        seed: u64,
        /// The optimiser step, counted over the whole run.
        step: u64,
    },
    /// Running statistics, no dropout, nothing tracked.
    Inference,
}

impl Mode {
    /// The parameter as this mode uses it: in inference outside any graph, so that no activation is kept for a backward pass.
    pub(super) fn weight(self, var: &Var) -> Tensor {
        match self {
            Self::Train { .. } => var.as_tensor().clone(),
            Self::Inference => var.as_detached_tensor(),
        }
    }
}

/// Input and output channels, side, stride and kind of a convolution; padded to keep `size / stride`.
#[derive(Clone, Copy)]
pub(super) struct ConvSpec {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) side: usize,
    pub(super) stride: usize,
    pub(super) depthwise: bool,
}

impl ConvSpec {
    /// A dense convolution.
    pub(super) fn dense(inputs: usize, outputs: usize, side: usize, stride: usize) -> Self {
        Self { inputs, outputs, side, stride, depthwise: false }
    }

    /// One 3x3 filter per channel.
    pub(super) fn depthwise(channels: usize, stride: usize) -> Self {
        Self { inputs: channels, outputs: channels, side: 3, stride, depthwise: true }
    }
}

/// Convolution, batch normalisation, activation.
pub(super) struct ConvNorm {
    weight: Var,
    window: Window,
    depthwise: bool,
    norm: Norm,
}

impl ConvNorm {
    /// Parameters `{conv}.weight` and `{norm}.weight`, `.bias`, `.running_mean`, `.running_var`.
    pub(super) fn new(
        init: &mut Initializer<'_>,
        (conv, norm): (&str, &str),
        spec: ConvSpec,
        activation: Activation,
    ) -> Result<Self, TrainError> {
        let inner = if spec.depthwise { 1 } else { spec.inputs };
        let weight =
            init.conv_weight(format!("{conv}.weight"), [spec.outputs, inner, spec.side, spec.side])?;
        let window = Window { stride: spec.stride, padding: spec.side / 2, dilation: 1 };
        let norm = Norm::new(init, norm, spec.outputs, activation)?;
        Ok(Self { weight, window, depthwise: spec.depthwise, norm })
    }

    /// NHWC to NHWC.
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TrainError> {
        let weight = mode.weight(&self.weight);
        let y = if self.depthwise {
            ops::depthwise_conv2d(x, &weight, self.window)?
        } else {
            ops::conv2d(x, &weight, self.window)?
        };
        self.norm.forward(&y, mode)
    }
}

/// Batch normalisation with an activation.
struct Norm {
    scale: Var,
    shift: Var,
    mean: Var,
    variance: Var,
    activation: Activation,
}

impl Norm {
    fn new(
        init: &mut Initializer<'_>,
        name: &str,
        channels: usize,
        activation: Activation,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            scale: init.constant(format!("{name}.weight"), channels, 1.0)?,
            shift: init.constant(format!("{name}.bias"), channels, 0.0)?,
            mean: init.buffer(format!("{name}.running_mean"), channels, 0.0)?,
            variance: init.buffer(format!("{name}.running_var"), channels, 1.0)?,
            activation,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TrainError> {
        let (scale, shift) = (mode.weight(&self.scale), mode.weight(&self.shift));
        if mode == Mode::Inference {
            let running = (self.mean.as_tensor(), self.variance.as_tensor());
            return Ok(ops::batch_norm_inference(x, (&scale, &shift), running, self.activation)?);
        }
        let (y, statistics) = ops::batch_norm_train(x, &scale, &shift, self.activation)?;
        ops::update_running(&statistics, MOMENTUM, &self.mean, &self.variance)?;
        Ok(y)
    }
}
