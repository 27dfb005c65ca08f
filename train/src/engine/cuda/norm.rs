//! Normalizations, and the operations fused with their backward pass: residual sums, max-pools and global averages.

use std::sync::Arc;

use lgd_cuda::batch_norm::{self, Parameters, Running, Upstream};
use lgd_cuda::{Buffer, CudaError, Element, Operand, SAVED, Slice, SliceMut, elementwise, pool};
use lgd_kernels::geometry::expect_eq;
use lgd_kernels::{Activation, GradientTarget, Sliding};

use super::CudaBackend;
use super::memory::{Content, CudaBuffer};
use super::saved::{Saved, SavedNorm, SavedPool, Summand, operand};
use crate::engine::backend::{FusedOperand, Mode, Site};
use crate::engine::graph::BatchNorm;
use crate::engine::parameters::Range;
use crate::error::{Result, TrainError};

impl CudaBackend {
    pub(super) fn normalize(&mut self, at: Site<'_>, spec: &BatchNorm, x: &CudaBuffer) -> Result<()> {
        let len = SAVED * at.shape.channels;
        let Self { gpu, saved, parameters, buffers, mode, mask, .. } = self;
        let previous = saved[at.id].norm.take().map(|norm| norm.values);
        let mut values = match previous.filter(|values| values.len() == len) {
            Some(values) => values,
            None => gpu.alloc(Element::F32, len)?,
        };
        let parameters = norm_parameters(parameters, spec)?;
        match *mode {
            Mode::Inference => {
                let of = |range: Range| buffers.as_slice().slice(range.indices());
                let running = (of(spec.mean)?, of(spec.variance)?);
                batch_norm::inference(gpu, running, &parameters, &mut values.as_mut())?;
            }
            Mode::Train { step, .. } => {
                let mask = match (spec.masked, mask) {
                    (false, _) => None,
                    (true, Some(mask)) => Some(mask.view(at.shape)),
                    (true, None) => return Err(TrainError::NoMask),
                };
                let (mean, variance) = buffers.as_mut().two(spec.mean.indices(), spec.variance.indices())?;
                let running = Some(Running { mean, variance, momentum: spec.momentum_at(step) });
                let values = &mut values.as_mut();
                batch_norm::training(gpu, x.values()?, &parameters, running, mask.as_ref(), values)?;
            }
        }
        saved[at.id].norm = Some(SavedNorm { spec: *spec, values, summed: false });
        Ok(())
    }

    pub(super) fn normalize_backward(
        &mut self,
        at: Site<'_>,
        spec: &BatchNorm,
        x: &CudaBuffer,
        target: GradientTarget<&CudaBuffer, &mut CudaBuffer>,
    ) -> Result<()> {
        let counted = match (spec.masked, &self.mask) {
            (false, _) => None,
            (true, Some(mask)) => Some(mask.view(at.shape).positions()),
            (true, None) => return Err(TrainError::NoMask),
        };
        let Self { gpu, pool, saved, gradients, accumulate, .. } = self;
        let mut norm = saved[at.id].norm.take().ok_or(TrainError::NothingRan)?;
        let x = x.values()?;
        let (dgamma, dbeta) = gradients.as_mut().two(spec.scale.indices(), spec.shift.indices())?;
        let mut site = batch_norm::Site {
            x,
            saved: norm.values.as_mut(),
            activation: spec.activation,
            dgamma,
            dbeta,
            accumulate: *accumulate,
            counted,
        };
        match target {
            GradientTarget::InPlace(dy) if matches!(dy.content, Content::Memory(_)) => {
                dy.convert(gpu, pool, x.element())?;
                let mut dy = dy.unique(gpu, pool)?.as_mut();
                if !norm.summed {
                    batch_norm::backward_sums(gpu, &mut site, &Upstream::Dense(dy.as_slice()))?;
                }
                batch_norm::backward_input(gpu, &site, GradientTarget::InPlace(&mut dy))?;
            }
            GradientTarget::InPlace(dy) => {
                let content = std::mem::replace(&mut dy.content, Content::Nothing);
                let dx = &mut dy.room(gpu, pool, x.element())?.as_mut();
                let dy = upstream(saved, &content)?;
                let target = GradientTarget::Into { dy, dx, accumulate: false };
                batch_norm::backward(gpu, &mut site, target)?;
                pool.give(content);
            }
            GradientTarget::Into { dy, dx, accumulate } => {
                let converted = match &dy.content {
                    Content::Memory(memory) => pool.converted(gpu, memory.as_slice(), x.element())?,
                    _ => None,
                };
                let dy = match &converted {
                    Some(converted) => Upstream::Dense(converted.as_slice()),
                    None => upstream(saved, &dy.content)?,
                };
                if accumulate {
                    dx.convert(gpu, pool, x.element())?;
                }
                let dx = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, x.element())? };
                if !norm.summed {
                    batch_norm::backward_sums(gpu, &mut site, &dy)?;
                }
                let target = GradientTarget::Into { dy, dx: &mut dx.as_mut(), accumulate };
                batch_norm::backward_input(gpu, &site, target)?;
                pool.recycle(converted);
            }
        }
        saved[at.id].norm = Some(norm);
        Ok(())
    }

    pub(super) fn write_out(
        &mut self,
        channels: usize,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, .. } = self;
        let x = operand(saved, x)?;
        let y = &mut y.room(gpu, pool, x.data.element())?.as_mut();
        match x.norm {
            None => y.copy_from(gpu.stream(), x.data)?,
            Some(_) => elementwise::materialize(gpu, x, channels, y)?,
        }
        Ok(())
    }

    pub(super) fn sum(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        [a, b]: [FusedOperand<'_, CudaBuffer>; 2],
        y: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, mode, lone_norms, .. } = self;
        let element = a.buffer.values()?.element();
        let converted = pool.converted(gpu, b.buffer.values()?, element)?;
        let to = &mut y.room(gpu, pool, element)?.as_mut();
        let (first, mut second) = (operand(saved, a)?, operand(saved, b)?);
        second.data = converted.as_ref().map_or(second.data, Buffer::as_slice);
        elementwise::add(gpu, first, second, at.shape.channels, activation, to)?;
        // The backward pass of a sum with an activation also computes the gradient sums of its normalized summands. A
        // plain sum passes its gradient on unchanged.
        if *mode != Mode::Inference && activation != Activation::Identity && converted.is_none() {
            for (summand, value) in [a, b].into_iter().zip(at.inputs) {
                let Some(id) = summand.norm.filter(|_| lone_norms[value.0]) else { continue };
                let norm = saved[id].norm.as_ref().ok_or(TrainError::NothingRan)?;
                if norm.spec.activation == Activation::Identity {
                    let x = Arc::clone(summand.buffer.memory()?);
                    saved[at.id].summands.push(Summand { x, norm: id });
                }
            }
        }
        pool.recycle(converted);
        Ok(())
    }

    pub(super) fn sum_backward(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        y: &CudaBuffer,
        dy: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, gradients, accumulate, .. } = self;
        let y = y.values()?;
        dy.convert(gpu, pool, y.element())?;
        let mut dy = dy.unique(gpu, pool)?.as_mut();
        let mut summands = Vec::new();
        for summand in std::mem::take(&mut saved[at.id].summands) {
            let norm = saved[summand.norm].norm.take().ok_or(TrainError::NothingRan)?;
            summands.push((summand, norm));
        }
        match summands.as_mut_slice() {
            [] => elementwise::add_backward(gpu, activation, y, &mut dy)?,
            [(summand, norm)] => {
                let BatchNorm { scale, shift, .. } = norm.spec;
                let places = gradients.as_mut().two(scale.indices(), shift.indices())?;
                let mut site = summand_site(summand, norm, places, *accumulate);
                batch_norm::residual_backward(gpu, y, &mut dy, activation, &mut site, None)?;
            }
            [(first, norm1), (second, norm2), ..] => {
                let (spec1, spec2) = (norm1.spec, norm2.spec);
                let ranges = [spec1.scale, spec1.shift, spec2.scale, spec2.shift];
                let [dgamma1, dbeta1, dgamma2, dbeta2] = four(gradients, ranges)?;
                let mut first = summand_site(first, norm1, (dgamma1, dbeta1), *accumulate);
                let mut second = summand_site(second, norm2, (dgamma2, dbeta2), *accumulate);
                batch_norm::residual_backward(gpu, y, &mut dy, activation, &mut first, Some(&mut second))?;
            }
        }
        for (summand, norm) in summands {
            saved[summand.norm].norm = Some(SavedNorm { summed: true, ..norm });
            pool.release(summand.x);
        }
        Ok(())
    }

    pub(super) fn pool(
        &mut self,
        at: Site<'_>,
        sliding: &Sliding,
        x: FusedOperand<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<()> {
        let Self { gpu, pool, saved, .. } = self;
        let previous = saved[at.id].pool.take().map(|pool| pool.argmax);
        let mut argmax = match previous.filter(|argmax| argmax.len() == y.len) {
            Some(argmax) => argmax,
            None => gpu.alloc(Element::U8, y.len)?,
        };
        let x = operand(saved, x)?;
        let y = y.room(gpu, pool, x.data.element())?;
        pool::max_pool(gpu, sliding, x, &mut y.as_mut(), &mut argmax.as_mut())?;
        saved[at.id].pool = Some(SavedPool { sliding: *sliding, argmax });
        Ok(())
    }

    pub(super) fn pool_backward(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<()> {
        let Self { gpu, pool, saved, element, lone_norms, .. } = self;
        let values = dy.values()?;
        if !accumulate && lone_norms[at.inputs[0].0] && values.element() == *element {
            let content = Content::Pooled { node: at.id, dy: Arc::clone(dy.memory()?) };
            pool.give(std::mem::replace(&mut dx.content, content));
            return Ok(());
        }
        let SavedPool { sliding, argmax } = saved[at.id].pool.as_ref().ok_or(TrainError::NothingRan)?;
        let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, values.element())? };
        let to = &mut to.as_mut();
        Ok(pool::max_pool_backward(gpu, sliding, values, argmax.as_slice(), to, accumulate)?)
    }

    /// Rescales f32 means over all positions of each image to means over the visible ones, or gradients of the latter
    /// to gradients of the former.
    pub(super) fn count_visible(&mut self, images: usize, means: Slice<'_>) -> Result<Buffer> {
        let Self { gpu, pool, mask, .. } = self;
        let shares = &mask.as_ref().ok_or(TrainError::NoMask)?.shares;
        expect_eq("images of the mask", images, shares.len())?;
        let mut scaled = pool.take(gpu, Element::F32, means.len())?;
        // Treats an image's means as pixels of one channel.
        elementwise::scale(gpu, Operand::plain(means), shares.as_slice(), 1, &mut scaled.as_mut())?;
        Ok(scaled)
    }

    /// The gradient of a global average over all positions.
    pub(super) fn average_backward(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<()> {
        let Self { gpu, pool, element, lone_norms, .. } = self;
        let values = dy.values()?;
        if !accumulate && lone_norms[at.inputs[0].0] && values.element() == Element::F32 {
            let content = Content::Averaged(Arc::clone(dy.memory()?));
            pool.give(std::mem::replace(&mut dx.content, content));
            return Ok(());
        }
        let converted = pool.converted(gpu, values, Element::F32)?;
        let dy = converted.as_ref().map_or(values, Buffer::as_slice);
        let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, *element)? };
        let (pixels, channels) = (at.input.pixels(), at.input.channels);
        pool::global_average_backward(gpu, dy, pixels, channels, &mut to.as_mut(), accumulate)?;
        pool.recycle(converted);
        Ok(())
    }
}

fn norm_parameters<'a>(parameters: &'a Buffer, spec: &BatchNorm) -> Result<Parameters<'a>, CudaError> {
    let of = |range: Range| parameters.as_slice().slice(range.indices());
    Ok(Parameters { gamma: of(spec.scale)?, beta: of(spec.shift)?, eps: spec.eps })
}

/// A normalized summand in the backward pass.
fn summand_site<'a>(
    summand: &'a Summand,
    norm: &'a mut SavedNorm,
    (dgamma, dbeta): (SliceMut<'a>, SliceMut<'a>),
    accumulate: bool,
) -> batch_norm::Site<'a> {
    let (x, saved, activation) = (summand.x.as_slice(), norm.values.as_mut(), Activation::Identity);
    batch_norm::Site { x, saved, activation, dgamma, dbeta, accumulate, counted: None }
}

/// Four tensors of one vector that do not overlap, in the order of `ranges`.
fn four(flat: &mut Buffer, ranges: [Range; 4]) -> Result<[SliceMut<'_>; 4]> {
    let mut order = [0, 1, 2, 3];
    order.sort_by_key(|&at| ranges[at].start);
    let len = flat.len();
    let mut found = [None, None, None, None];
    let (mut rest, mut start) = (flat.as_mut(), 0);
    for at in order {
        let Range { start: first, len: own } = ranges[at];
        let tail = first + own;
        let (part, after) = rest.two(first - start..tail - start, tail - start..len - start)?;
        found[at] = Some(part);
        (rest, start) = (after, tail);
    }
    let [Some(a), Some(b), Some(c), Some(d)] = found else { return Err(TrainError::NothingRan) };
    Ok([a, b, c, d])
}

/// The gradient of a normalized value, in the form that kernels take.
fn upstream<'a>(saved: &'a [Saved], content: &'a Content) -> Result<Upstream<'a>> {
    match content {
        Content::Nothing => Err(TrainError::NothingRan),
        Content::Memory(memory) => Ok(Upstream::Dense(memory.as_slice())),
        Content::Averaged(dy) => Ok(Upstream::Averaged(dy.as_slice())),
        Content::Pooled { node, dy } => {
            let SavedPool { sliding, argmax } = saved[*node].pool.as_ref().ok_or(TrainError::NothingRan)?;
            Ok(Upstream::Pooled { dy: dy.as_slice(), argmax: argmax.as_slice(), sliding: *sliding })
        }
    }
}
