//! A value in the form that its consumers read: plain, or through a pending normalization.

use crate::error::Result;
use crate::launch::{Arg, NormArg};
use crate::memory::Slice;
use crate::norm::Norm;

/// An NHWC value: `activation(data * scale + shift)` per channel, or `data` itself.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// Values in memory.
    pub data: Slice<'a>,
    /// Normalization that the consumer applies while it reads.
    pub norm: Option<Norm<'a>>,
}

impl<'a> Operand<'a> {
    /// A value without a pending normalization.
    pub fn plain(data: Slice<'a>) -> Self {
        Self { data, norm: None }
    }

    /// The normalization, in the form that kernels take.
    pub(crate) fn norm(&self, channels: usize) -> Result<NormArg> {
        let Some(norm) = self.norm else { return Ok(NormArg::default()) };
        let saved = norm.check(channels)?;
        let (scale, shift) =
            (saved.slice(2 * channels..3 * channels)?, saved.slice(3 * channels..4 * channels)?);
        let activation = Arg::activation(norm.activation);
        Ok(NormArg { scale: scale.address(), shift: shift.address(), activation })
    }
}
