//! Normalizations, and what is fused with them on the way back: residual sums, max-pools and global averages.

use std::sync::Arc;

use lgd_cuda::batch_norm::{self, KEPT, Norm, Operand, Parameters, Running, Through as Into, Upstream};
use lgd_cuda::{Buffer, CudaError, Element, Slice, SliceMut, elementwise, pool};
use lgd_kernels::Activation;
use lgd_kernels::geometry::expect_eq;

use super::memory::{Content, CudaBuffer};
use super::{CudaBackend, Kept, failed, nothing_ran};
use crate::engine::backend::{Mode, Reading, Site, Through};
use crate::engine::graph::{BatchNorm, Graph, Op};
use crate::engine::parameters::Range;
use crate::error::TrainError;

impl CudaBackend {
    pub(super) fn normalize(
        &mut self,
        at: Site<'_>,
        spec: &BatchNorm,
        x: &CudaBuffer,
    ) -> Result<(), CudaError> {
        let channels = at.shape().channels;
        let Self { gpu, kept, parameters, buffers, mode, .. } = self;
        let site = &mut kept[at.id];
        let mut norm = match site.norm.take().filter(|norm| norm.len() == KEPT * channels) {
            Some(norm) => norm,
            None => gpu.alloc(Element::F32, KEPT * channels)?,
        };
        let parameters = norm_parameters(parameters, spec)?;
        if *mode == Mode::Inference {
            let of = |range: Range| buffers.as_slice().slice(range.indices());
            batch_norm::inference(
                gpu,
                (of(spec.mean)?, of(spec.variance)?),
                &parameters,
                &mut norm.as_mut(),
            )?;
        } else {
            let (mean, variance) = buffers.as_mut().two(spec.mean.indices(), spec.variance.indices())?;
            let running = Some(Running { mean, variance, momentum: spec.momentum });
            let mask = self.mask.as_ref().filter(|_| spec.masked).map(|mask| mask.view(at));
            batch_norm::training(gpu, x.values()?, &parameters, running, mask.as_ref(), &mut norm.as_mut())?;
        }
        site.norm = Some(norm);
        site.activation = Some(spec.activation);
        site.summed = false;
        Ok(())
    }

    pub(super) fn normalize_backward(
        &mut self,
        at: Site<'_>,
        spec: &BatchNorm,
        x: &CudaBuffer,
        through: Through<'_, CudaBuffer>,
    ) -> Result<(), CudaError> {
        let counted = self.mask.as_ref().filter(|_| spec.masked).map(|mask| mask.view(at).positions());
        let accumulate = self.accumulate;
        let Self { gpu, pool, kept, gradients, .. } = self;
        let mut own = kept[at.id].norm.take().ok_or_else(nothing_ran)?;
        let summed = kept[at.id].summed;
        let x = x.values()?;
        let (dgamma, dbeta) = gradients.as_mut().two(spec.scale.indices(), spec.shift.indices())?;
        let activation = spec.activation;
        let mut site =
            batch_norm::Site { x, kept: own.as_mut(), activation, dgamma, dbeta, accumulate, counted };
        match through {
            Through::InPlace(dy) if matches!(dy.content, Content::Memory(_)) => {
                dy.convert(gpu, pool, x.element())?;
                let mut dy = dy.unique(gpu, pool)?.as_mut();
                if !summed {
                    batch_norm::backward_sums(gpu, &mut site, &Upstream::Dense(dy.as_slice()))?;
                }
                batch_norm::backward_input(gpu, &site, Into::InPlace(&mut dy))?;
            }
            Through::InPlace(dy) => {
                let content = std::mem::replace(&mut dy.content, Content::Nothing);
                let dx = dy.room(gpu, pool, x.element())?;
                let upstream = upstream(at.graph, kept, &content)?;
                let through = Into::Into { upstream, dx: &mut dx.as_mut(), accumulate: false };
                batch_norm::backward(gpu, &mut site, through)?;
                pool.give(content);
            }
            Through::Into { dy, dx, accumulate } => {
                let converted = match &dy.content {
                    Content::Memory(memory) => pool.converted(gpu, memory.as_slice(), x.element())?,
                    _ => None,
                };
                let upstream = match &converted {
                    Some(converted) => Upstream::Dense(converted.as_slice()),
                    None => upstream(at.graph, kept, &dy.content)?,
                };
                if accumulate {
                    dx.convert(gpu, pool, x.element())?;
                }
                let mut dx =
                    if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, x.element())? }
                        .as_mut();
                if !summed {
                    batch_norm::backward_sums(gpu, &mut site, &upstream)?;
                }
                batch_norm::backward_input(gpu, &site, Into::Into { upstream, dx: &mut dx, accumulate })?;
                pool.recycle(converted);
            }
        }
        kept[at.id].norm = Some(own);
        Ok(())
    }

    pub(super) fn write_out(
        &mut self,
        at: Site<'_>,
        x: Reading<'_, CudaBuffer>,
        y: &mut CudaBuffer,
    ) -> Result<(), CudaError> {
        let Self { gpu, pool, kept, .. } = self;
        let data = x.buffer.values()?;
        let y = y.room(gpu, pool, data.element())?;
        if x.norm.is_none() {
            return y.as_mut().copy_from(gpu.stream(), data);
        }
        let operand = Operand { data, norm: norm(kept, x.norm) };
        batch_norm::materialize(gpu, operand, at.shape().channels, &mut y.as_mut())
    }

    pub(super) fn sum(
        &mut self,
        at: Site<'_>,
        activation: Activation,
        [a, b]: [Reading<'_, CudaBuffer>; 2],
        y: &mut CudaBuffer,
    ) -> Result<(), CudaError> {
        let channels = at.shape().channels;
        let alone = [0, 1].map(|input| self.feeds_alone(at.graph, at.node().inputs[input]));
        let Self { gpu, pool, kept, mode, .. } = self;
        let element = a.buffer.values()?.element();
        let converted = pool.converted(gpu, b.buffer.values()?, element)?;
        let to = y.room(gpu, pool, element)?;
        let first = Operand { data: a.buffer.values()?, norm: norm(kept, a.norm) };
        let data = converted.as_ref().map_or(b.buffer.values()?, Buffer::as_slice);
        let second = Operand { data, norm: norm(kept, b.norm) };
        batch_norm::add(gpu, first, second, activation, channels, &mut to.as_mut())?;
        // The backward pass of an activated sum takes the sums of its normalized summands along; a plain one hands its gradient on.
        if *mode != Mode::Inference && activation != Activation::Identity && converted.is_none() {
            for (reading, alone) in [a, b].into_iter().zip(alone) {
                let Some(id) = reading.norm.filter(|_| alone) else { continue };
                if kept[id].activation == Some(Activation::Identity) {
                    let memory = Arc::clone(reading.buffer.memory()?);
                    kept[at.id].summands.push((memory, id));
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
    ) -> Result<(), CudaError> {
        let accumulate = self.accumulate;
        let Self { gpu, pool, kept, gradients, .. } = self;
        let y = y.values()?;
        dy.convert(gpu, pool, y.element())?;
        let mut dy = dy.unique(gpu, pool)?.as_mut();
        let summands = std::mem::take(&mut kept[at.id].summands);
        let mut owned = Vec::new();
        for (memory, id) in summands {
            let Op::BatchNorm(spec) = &at.graph.nodes()[id].op else { continue };
            owned.push((memory, id, spec, kept[id].norm.take().ok_or_else(nothing_ran)?));
        }
        match owned.as_mut_slice() {
            [] => elementwise::activate_backward(gpu, activation, y, &mut dy)?,
            [(x, _, spec, norm)] => {
                let (dgamma, dbeta) = gradients.as_mut().two(spec.scale.indices(), spec.shift.indices())?;
                let mut site = norm_site((x, norm), (dgamma, dbeta), accumulate);
                batch_norm::residual_backward(gpu, y, &mut dy, activation, &mut site, None)?;
            }
            [(x1, _, spec1, norm1), (x2, _, spec2, norm2), ..] => {
                // Both summands' parameters lie in one vector: the earlier ones are split off.
                let ranges = [spec1.scale, spec1.shift, spec2.scale, spec2.shift];
                let [dgamma1, dbeta1, dgamma2, dbeta2] = four(gradients, ranges)?;
                let mut first = norm_site((x1, norm1), (dgamma1, dbeta1), accumulate);
                let mut second = norm_site((x2, norm2), (dgamma2, dbeta2), accumulate);
                batch_norm::residual_backward(gpu, y, &mut dy, activation, &mut first, Some(&mut second))?;
            }
        }
        for (memory, id, _, norm) in owned {
            kept[id].norm = Some(norm);
            kept[id].summed = true;
            pool.release(memory);
        }
        Ok(())
    }

    pub(super) fn pool_backward(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let Op::MaxPool { sliding } = &at.node().op else { return Ok(()) };
        if !accumulate
            && self.feeds_alone(at.graph, at.node().inputs[0])
            && dy.values()?.element() == self.element
        {
            self.pool.give(std::mem::replace(&mut dx.content, Content::Nothing));
            dx.content = Content::Pooled { node: at.id, dy: Arc::clone(dy.memory()?) };
            return Ok(());
        }
        let Self { gpu, pool, kept, .. } = self;
        let taken = kept[at.id].taken.as_ref().ok_or_else(nothing_ran)?.as_slice();
        let dy = dy.values()?;
        let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, dy.element())? };
        pool::max_pool_backward(gpu, sliding, dy, taken, &mut to.as_mut(), accumulate)
    }

    /// Means over all positions of each image, f32, as those over the visible ones, or the gradients of the latter as those of the
    /// former; nothing where the pool is not masked.
    pub(super) fn count_visible(
        &mut self,
        at: Site<'_>,
        means: Slice<'_>,
    ) -> Result<Option<Buffer>, TrainError> {
        let Op::GlobalAveragePool { masked: true } = at.node().op else { return Ok(None) };
        let Self { gpu, pool, mask, .. } = self;
        let shares = &mask.as_ref().ok_or(TrainError::NoMask)?.shares;
        expect_eq("images of the mask", at.shape().batch, shares.len())?;
        let mut scale = || {
            let mut scaled = pool.take(gpu, Element::F32, means.len())?;
            // An image's means as the pixels of one channel.
            elementwise::scale(gpu, Operand::plain(means), shares.as_slice(), 1, &mut scaled.as_mut())?;
            Ok(scaled)
        };
        scale().map(Some).map_err(failed)
    }

    pub(super) fn spread(
        &mut self,
        at: Site<'_>,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let shape = at.input(0);
        if !accumulate
            && self.feeds_alone(at.graph, at.node().inputs[0])
            && dy.values()?.element() == Element::F32
        {
            self.pool.give(std::mem::replace(&mut dx.content, Content::Nothing));
            dx.content = Content::Averaged(Arc::clone(dy.memory()?));
            return Ok(());
        }
        let Self { gpu, pool, element, .. } = self;
        let converted = pool.converted(gpu, dy.values()?, Element::F32)?;
        let dy = converted.as_ref().map_or(dy.values()?, Buffer::as_slice);
        let to = if accumulate { dx.unique(gpu, pool)? } else { dx.room(gpu, pool, *element)? };
        pool::global_average_backward(gpu, dy, shape.pixels(), shape.channels, &mut to.as_mut(), accumulate)?;
        pool.recycle(converted);
        Ok(())
    }
}

/// The normalization of node `id`, as consumers of its value apply it.
pub(super) fn norm(kept: &[Kept], id: Option<usize>) -> Option<Norm<'_>> {
    let kept = kept.get(id?)?;
    Some(Norm { kept: kept.norm.as_ref()?.as_slice(), activation: kept.activation? })
}

fn norm_parameters<'a>(parameters: &'a Buffer, spec: &BatchNorm) -> Result<Parameters<'a>, CudaError> {
    let of = |range: Range| parameters.as_slice().slice(range.indices());
    Ok(Parameters { gamma: of(spec.scale)?, beta: of(spec.shift)?, eps: spec.eps })
}

/// A normalized summand on its way back.
fn norm_site<'a>(
    (x, norm): (&'a Buffer, &'a mut Buffer),
    (dgamma, dbeta): (SliceMut<'a>, SliceMut<'a>),
    accumulate: bool,
) -> batch_norm::Site<'a> {
    let (x, kept, activation) = (x.as_slice(), norm.as_mut(), Activation::Identity);
    batch_norm::Site { x, kept, activation, dgamma, dbeta, accumulate, counted: None }
}

/// Four tensors of one vector that do not overlap, in the order asked for.
fn four(flat: &mut Buffer, ranges: [Range; 4]) -> Result<[SliceMut<'_>; 4], CudaError> {
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
    let [Some(a), Some(b), Some(c), Some(d)] = found else { return Err(nothing_ran()) };
    Ok([a, b, c, d])
}

/// The gradient of a normalized value as the kernels take it.
fn upstream<'a>(graph: &Graph, kept: &'a [Kept], content: &'a Content) -> Result<Upstream<'a>, CudaError> {
    match content {
        Content::Nothing => Err(nothing_ran()),
        Content::Memory(memory) => Ok(Upstream::Dense(memory.as_slice())),
        Content::Averaged(dy) => Ok(Upstream::Averaged(dy.as_slice())),
        Content::Pooled { node, dy } => {
            let taken = kept[*node].taken.as_ref().ok_or_else(nothing_ran)?.as_slice();
            let Op::MaxPool { sliding } = graph.nodes()[*node].op else { return Err(nothing_ran()) };
            Ok(Upstream::Pooled { dy: dy.as_slice(), taken, sliding })
        }
    }
}
