//! Layers with weights: convolutions, transposed convolutions, and dense layers.

use lgd_cuda::{Buffer, CudaError, Element, Gpu, Operand, Slice, conv, elementwise, linear};

use super::CudaBackend;
use super::memory::{CudaBuffer, Pool};
use super::saved::norm;
use crate::engine::backend::FusedOperand;
use crate::engine::graph::{Convolution, Dense};
use crate::engine::parameters::Range;
use crate::error::Result;

/// The pass of a convolution that computes a node's output from its input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The convolution itself.
    Forward,
    /// Its adjoint, the gradient of its input: a transposed convolution.
    Transposed,
}

impl CudaBackend {
    pub(super) fn convolve(
        &mut self,
        direction: Direction,
        conv: &Convolution,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, conv.weight)?;
        let converted = pool.converted(gpu, x.buffer.values()?, *element)?;
        let data = converted.as_ref().map_or(x.buffer.values()?, Buffer::as_slice);
        let norm = x.norm.map(|id| norm(saved, id)).transpose()?;
        let y = &mut y.room(gpu, pool, *element)?.as_mut();
        match direction {
            Direction::Forward => conv::forward(gpu, &conv.geometry, Operand { data, norm }, weights, y)?,
            Direction::Transposed => conv::backward_data(gpu, &conv.geometry, data, weights, y, false)?,
        }
        pool.recycle(converted);
        Ok(())
    }

    pub(super) fn convolve_backward_data(
        &mut self,
        direction: Direction,
        conv: &Convolution,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<()> {
        let Self { gpu, pool, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, conv.weight)?;
        let converted = pool.converted(gpu, dy.values()?, *element)?;
        let dy = converted.as_ref().map_or(dy.values()?, Buffer::as_slice);
        // A convolution cannot add to its output; its data gradient can.
        let adds = direction == Direction::Forward && accumulate && dx.memory()?.element() == *element;
        if !accumulate || adds {
            let dx = if adds { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, *element)? };
            input_gradient(gpu, direction, conv, (dy, weights), dx, adds)?;
        } else {
            let mut own = pool.take(gpu, *element, dx.len)?;
            input_gradient(gpu, direction, conv, (dy, weights), &mut own, false)?;
            add_any(gpu, pool, own.as_slice(), dx)?;
            pool.recycle(Some(own));
        }
        pool.recycle(converted);
        Ok(())
    }

    pub(super) fn convolve_backward_weight(
        &mut self,
        direction: Direction,
        conv: &Convolution,
        x: FusedOperand<'_, CudaBuffer>,
        dy: &CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, element, accumulate, .. } = self;
        let of_x = pool.converted(gpu, x.buffer.values()?, *element)?;
        let data = of_x.as_ref().map_or(x.buffer.values()?, Buffer::as_slice);
        let of_dy = pool.converted(gpu, dy.values()?, *element)?;
        let dy = of_dy.as_ref().map_or(dy.values()?, Buffer::as_slice);
        let norm = x.norm.map(|id| norm(saved, id)).transpose()?;
        let dw = &mut self.gradients.as_mut().slice(conv.weight.indices())?;
        let (input, gradient) = match direction {
            Direction::Forward => (Operand { data, norm }, dy),
            Direction::Transposed => (Operand::plain(dy), data),
        };
        conv::backward_weight(gpu, &conv.geometry, input, gradient, dw, *accumulate)?;
        pool.recycle(of_x);
        pool.recycle(of_dy);
        Ok(())
    }

    pub(super) fn dense(&mut self, layer: &Dense, x: &CudaBuffer, y: &mut CudaBuffer) -> Result<()> {
        let Self { gpu, pool, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, layer.weight)?;
        let bias = self.parameters.as_slice().slice(layer.bias.indices())?;
        let converted = pool.converted(gpu, x.values()?, *element)?;
        let x = converted.as_ref().map_or(x.values()?, Buffer::as_slice);
        let y = y.room(gpu, pool, Element::F32)?;
        linear::forward(gpu, &layer.geometry, x, weights, Some(bias), &mut y.as_mut())?;
        pool.recycle(converted);
        Ok(())
    }

    pub(super) fn dense_backward(
        &mut self,
        layer: &Dense,
        x: &CudaBuffer,
        dy: &CudaBuffer,
        dx: Option<(&mut CudaBuffer, bool)>,
    ) -> Result<()> {
        let Self { gpu, pool, element, accumulate, gradients, .. } = self;
        let weights = weights(&self.copy, &self.parameters, layer.weight)?;
        let (mut dw, mut db) = gradients.as_mut().two(layer.weight.indices(), layer.bias.indices())?;
        elementwise::column_sums(gpu, dy.values()?, &mut db, *accumulate)?;
        let of_x = pool.converted(gpu, x.values()?, *element)?;
        let of_dy = pool.converted(gpu, dy.values()?, *element)?;
        let input = of_x.as_ref().map_or(x.values()?, Buffer::as_slice);
        let dy = of_dy.as_ref().map_or(dy.values()?, Buffer::as_slice);
        linear::backward_weight(gpu, &layer.geometry, input, dy, &mut dw, *accumulate)?;
        if let Some((dx, accumulate)) = dx {
            // A gradient has the element type of its value.
            let of = x.memory()?.element();
            if of == Element::F32 {
                let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, of)? };
                linear::backward_data(gpu, &layer.geometry, dy, weights, &mut to.as_mut(), accumulate)?;
            } else {
                let mut own = pool.take(gpu, Element::F32, dx.len)?;
                linear::backward_data(gpu, &layer.geometry, dy, weights, &mut own.as_mut(), false)?;
                if accumulate {
                    add_any(gpu, pool, own.as_slice(), dx)?;
                } else {
                    elementwise::narrow(gpu, own.as_slice(), &mut dx.room(gpu, pool, of)?.as_mut())?;
                }
                pool.recycle(Some(own));
            }
        }
        pool.recycle(of_x);
        pool.recycle(of_dy);
        Ok(())
    }
}

/// The gradient of the input of a convolution or of a transposed one.
fn input_gradient(
    gpu: &mut Gpu,
    direction: Direction,
    conv: &Convolution,
    (dy, weights): (Slice<'_>, Slice<'_>),
    dx: &mut Buffer,
    accumulate: bool,
) -> Result<(), CudaError> {
    let dx = &mut dx.as_mut();
    match direction {
        Direction::Forward => conv::backward_data(gpu, &conv.geometry, dy, weights, dx, accumulate),
        Direction::Transposed => conv::forward(gpu, &conv.geometry, Operand::plain(dy), weights, dx),
    }
}

/// Weights in the element that layers read.
fn weights<'a>(
    copy: &'a Option<Buffer>,
    parameters: &'a Buffer,
    range: Range,
) -> Result<Slice<'a>, CudaError> {
    copy.as_ref().unwrap_or(parameters).as_slice().slice(range.indices())
}

/// `to += from`, of any element types.
pub(super) fn add_any(
    gpu: &mut Gpu,
    pool: &mut Pool,
    from: Slice<'_>,
    to: &mut CudaBuffer,
) -> Result<(), CudaError> {
    let converted = pool.converted(gpu, from, to.memory()?.element())?;
    let from = converted.as_ref().map_or(from, Buffer::as_slice);
    elementwise::add_into(gpu, from, &mut to.unique(gpu, pool)?.as_mut())?;
    pool.recycle(converted);
    Ok(())
}
