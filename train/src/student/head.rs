//! The projection head: Linear(d, d), ReLU, Linear(d, D), L2 normalisation (METHODS.md section 1).

use candle_core::{Tensor, Var};

use super::layers::Mode;
use crate::error::TrainError;
use crate::ops::{self, Activation};
use crate::params::Initializer;
use crate::rng::Stream;

/// Names the dropout masks among the streams of a seed.
const DROPOUT_STREAM: u64 = 0x6472_6F70_6F75_7400;

/// Maps the pooled feature `[B, d]` to a unit vector in the teacher's space, `[B, D]`.
pub(super) struct ProjectionHead {
    layers: [Dense; 2],
    dropout: f64,
}

struct Dense {
    weight: Var,
    bias: Var,
}

impl Dense {
    fn new(
        init: &mut Initializer<'_>,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, TrainError> {
        let weight = init.linear_value(format!("{name}.weight"), &[outputs, inputs], inputs)?;
        Ok(Self { weight, bias: init.linear_value(format!("{name}.bias"), &[outputs], inputs)? })
    }

    fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor, TrainError> {
        Ok(ops::linear(x, &mode.weight(&self.weight), &mode.weight(&self.bias), activation)?)
    }
}

impl ProjectionHead {
    /// Parameters `head.0` and `head.2`, as in a PyTorch `Sequential` of Linear, ReLU, Linear.
    pub(super) fn new(
        init: &mut Initializer<'_>,
        feature_dim: usize,
        embedding_dim: usize,
        dropout: f64,
    ) -> Result<Self, TrainError> {
        let first = Dense::new(init, "head.0", feature_dim, feature_dim)?;
        let second = Dense::new(init, "head.2", feature_dim, embedding_dim)?;
        Ok(Self { layers: [first, second], dropout })
    }

    pub(super) fn embedding_dim(&self) -> usize {
        self.layers[1].weight.dims()[0]
    }

    pub(super) fn forward(&self, pooled: &Tensor, mode: Mode) -> Result<Tensor, TrainError> {
        let x = match mode {
            Mode::Train { seed, step } if self.dropout > 0.0 => {
                pooled.mul(&dropout_mask(pooled, self.dropout, seed, step)?)?
            }
            _ => pooled.clone(),
        };
        let [first, second] = &self.layers;
        let hidden = first.forward(&x, Activation::Relu, mode)?;
        Ok(ops::l2_normalize(&second.forward(&hidden, Activation::Identity, mode)?)?)
    }
}

/// Zero with probability `rate`, else `1 / (1 - rate)`; a function of (seed, step) and the position in the batch.
fn dropout_mask(x: &Tensor, rate: f64, seed: u64, step: u64) -> Result<Tensor, TrainError> {
    let mut stream = Stream::new(&[seed, DROPOUT_STREAM, step]);
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    let keep = (1.0 / (1.0 - rate)) as f32;
    let mask = (0..x.elem_count()).map(|_| if stream.uniform() < rate { 0.0 } else { keep });
    Ok(Tensor::from_vec(mask.collect::<Vec<f32>>(), x.shape(), x.device())?)
}
