//! Layers with weights: convolutions, their transposes, and dense layers.

use lgd_cuda::batch_norm::Operand;
use lgd_cuda::{Buffer, CudaError, Element, Gpu, Slice, conv, elementwise, linear};
use lgd_kernels::ShapeError;
use lgd_kernels::conv::Conv;
use lgd_kernels::linear::Linear;

use super::CudaBackend;
use super::memory::{CudaBuffer, Pool};
use super::norm::norm;
use crate::engine::backend::{Reading, Site};
use crate::engine::graph::Op;
use crate::engine::parameters::Range;

impl CudaBackend {
    pub(super) fn convolve(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), CudaError> {
        let Some((conv, range)) = geometry(at)? else { return Ok(()) };
        let Self { gpu, pool, kept, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, range)?;
        let converted = pool.converted(gpu, x.buffer.values()?, *element)?;
        let data = converted.as_ref().map_or(x.buffer.values()?, Buffer::as_slice);
        let operand = Operand { data, norm: norm(kept, x.norm) };
        let y = y.room(gpu, pool, *element)?;
        match at.node().op {
            // The adjoint of a convolution is its gradient with respect to the input.
            Op::ConvTranspose { .. } => {
                conv::backward_data(gpu, &conv, data, weights, &mut y.as_mut(), false)?
            }
            _ => conv::forward(gpu, &conv, operand, weights, &mut y.as_mut())?,
        }
        pool.recycle(converted);
        Ok(())
    }

    pub(super) fn convolve_backward_data(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let Some((conv, range)) = geometry(at)? else { return Ok(()) };
        let Self { gpu, pool, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, range)?;
        let converted = pool.converted(gpu, dy.values()?, *element)?;
        let dy = converted.as_ref().map_or(dy.values()?, Buffer::as_slice);
        let transposed = matches!(at.node().op, Op::ConvTranspose { .. });
        let direct = !accumulate || (!transposed && dx.memory()?.element() == *element);
        if direct {
            let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, *element)? };
            if transposed {
                conv::forward(gpu, &conv, Operand::plain(dy), weights, &mut to.as_mut())?;
            } else {
                conv::backward_data(gpu, &conv, dy, weights, &mut to.as_mut(), accumulate)?;
            }
        } else {
            let mut own = pool.take(gpu, *element, dx.len)?;
            if transposed {
                conv::forward(gpu, &conv, Operand::plain(dy), weights, &mut own.as_mut())?;
            } else {
                conv::backward_data(gpu, &conv, dy, weights, &mut own.as_mut(), false)?;
            }
            add_any(gpu, pool, own.as_slice(), dx)?;
            pool.recycle(Some(own));
        }
        pool.recycle(converted);
        Ok(())
    }

    pub(super) fn convolve_backward_weight(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        dy: &CudaBuffer,
    ) -> Result<(), CudaError> {
        let Some((conv, range)) = geometry(at)? else { return Ok(()) };
        let Self { gpu, pool, kept, element, accumulate, .. } = self;
        let of_x = pool.converted(gpu, x.buffer.values()?, *element)?;
        let data = of_x.as_ref().map_or(x.buffer.values()?, Buffer::as_slice);
        let of_dy = pool.converted(gpu, dy.values()?, *element)?;
        let dy = of_dy.as_ref().map_or(dy.values()?, Buffer::as_slice);
        let mut dw = self.gradients.as_mut().slice(range.indices())?;
        match at.node().op {
            Op::ConvTranspose { .. } => {
                conv::backward_weight(gpu, &conv, Operand::plain(dy), data, &mut dw, *accumulate)?;
            }
            _ => {
                let operand = Operand { data, norm: norm(kept, x.norm) };
                conv::backward_weight(gpu, &conv, operand, dy, &mut dw, *accumulate)?;
            }
        }
        pool.recycle(of_x);
        pool.recycle(of_dy);
        Ok(())
    }

    pub(super) fn dense(
        &mut self,
        at: Site<'_>,
        x: &CudaBuffer,
        y: &mut CudaBuffer,
    ) -> Result<(), CudaError> {
        let Op::Linear { weight, bias } = at.node().op else { return Ok(()) };
        let l = Linear::new(at.shape().batch, at.input(0).channels, at.shape().channels)?;
        let Self { gpu, pool, element, .. } = self;
        let weights = weights(&self.copy, &self.parameters, weight)?;
        let bias = self.parameters.as_slice().slice(bias.indices())?;
        let converted = pool.converted(gpu, x.values()?, *element)?;
        let x = converted.as_ref().map_or(x.values()?, Buffer::as_slice);
        let y = y.room(gpu, pool, Element::F32)?;
        linear::forward(gpu, &l, x, weights, Some(bias), &mut y.as_mut())?;
        pool.recycle(converted);
        Ok(())
    }

    pub(super) fn dense_backward(
        &mut self,
        at: Site<'_>,
        x: &CudaBuffer,
        dy: &CudaBuffer,
        dx: Option<(&mut CudaBuffer, bool)>,
    ) -> Result<(), CudaError> {
        let Op::Linear { weight, bias } = at.node().op else { return Ok(()) };
        let l = Linear::new(at.shape().batch, at.input(0).channels, at.shape().channels)?;
        let Self { gpu, pool, element, accumulate, gradients, .. } = self;
        let weights = weights(&self.copy, &self.parameters, weight)?;
        let (mut dw, mut db) = gradients.as_mut().two(weight.indices(), bias.indices())?;
        elementwise::column_sums(gpu, dy.values()?, &mut db, *accumulate)?;
        let of_x = pool.converted(gpu, x.values()?, *element)?;
        let of_dy = pool.converted(gpu, dy.values()?, *element)?;
        let input = of_x.as_ref().map_or(x.values()?, Buffer::as_slice);
        let dy = of_dy.as_ref().map_or(dy.values()?, Buffer::as_slice);
        linear::backward_weight(gpu, &l, input, dy, &mut dw, *accumulate)?;
        if let Some((dx, accumulate)) = dx {
            // The gradient of a value has the value's own element.
            let of = x.memory()?.element();
            if of == Element::F32 {
                let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, of)? };
                linear::backward_data(gpu, &l, dy, weights, &mut to.as_mut(), accumulate)?;
            } else {
                let mut own = pool.take(gpu, Element::F32, dx.len)?;
                linear::backward_data(gpu, &l, dy, weights, &mut own.as_mut(), false)?;
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

/// A node's convolution and its weights.
fn geometry(at: Site<'_>) -> Result<Option<(Conv, Range)>, ShapeError> {
    match &at.node().op {
        Op::Conv { weight, sliding, groups } => {
            Ok(Some((Conv::new(*sliding, at.shape().channels, *groups)?, *weight)))
        }
        // The adjoint convolution leads back to the input.
        Op::ConvTranspose { weight, sliding } => {
            Ok(Some((Conv::new(*sliding, at.input(0).channels, 1)?, *weight)))
        }
        _ => Ok(None),
    }
}

/// Weights as layers read them.
fn weights<'a>(
    copy: &'a Option<Buffer>,
    parameters: &'a Buffer,
    range: Range,
) -> Result<Slice<'a>, CudaError> {
    copy.as_ref().unwrap_or(parameters).as_slice().slice(range.indices())
}

/// `to += from`, whatever their elements.
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
