//! The backward pass: gradients of values, which several values may share, from the outputs to the images.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use lgd_kernels::{Activation, GradientTarget};

use crate::engine::backend::{Backend, Site};
use crate::engine::graph::{BatchNorm, Dense, Op, Value};
use crate::engine::program::{Program, Values};
use crate::error::{Result, TrainError};

/// One backward pass of a program.
pub(super) struct Backward<'t, B: Backend> {
    backend: &'t mut B,
    program: &'t Program,
    values: &'t mut [Option<B::Buffer>],
    gradients: Gradients<B::Buffer>,
}

/// Gradients of values, identified by their index in the list of buffers.
struct Gradients<T> {
    /// By value: its gradient so far.
    of: Vec<Option<usize>>,
    buffers: Vec<Option<Shared<T>>>,
}

/// A gradient that several values may share.
struct Shared<T> {
    buffer: T,
    owners: usize,
}

impl<'t, B: Backend> Backward<'t, B> {
    /// A pass over the `values` of a forward pass of `program`.
    pub(super) fn new(backend: &'t mut B, program: &'t Program, values: &'t mut [Option<B::Buffer>]) -> Self {
        let count = program.graph.nodes.len();
        let gradients = Gradients { of: vec![None; count], buffers: Vec::with_capacity(count) };
        Self { backend, program, values, gradients }
    }

    /// Loads the gradient of an output.
    pub(super) fn load(&mut self, output: Value, gradient: &Tensor) -> Result<()> {
        let mut buffer = self.take_like(output)?;
        self.backend.load_tensor(gradient, &mut buffer)?;
        self.hand(output, buffer)
    }

    /// Computes all gradients and returns every value to the backend. Returns the gradient of the images, if there is
    /// one. Ends between two values with [`TrainError::Stopped`] if `stop` is set.
    pub(super) fn run(mut self, stop: Option<&AtomicBool>) -> Result<Option<B::Buffer>> {
        let mut images = None;
        for id in (0..self.program.graph.nodes.len()).rev() {
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(TrainError::Stopped);
            }
            if let Some(dy) = self.gradients.of[id].take() {
                images = self.differentiate(id, dy)?;
            }
            if let Some(value) = self.values[id].take() {
                self.backend.give(value);
            }
        }
        Ok(images)
    }

    /// Propagates the gradient `dy` of node `id` to its parameters and inputs. Returns the gradient if the node is the
    /// images.
    fn differentiate(&mut self, id: usize, dy: usize) -> Result<Option<B::Buffer>> {
        let program = self.program;
        let node = &program.graph.nodes[id];
        let (at, shape) = (Site::new(&program.graph, id), node.shape);
        let input = |number: usize| node.inputs[number];
        match &node.op {
            Op::Images => return Ok(self.gradients.disown(dy)),
            Op::Conv(conv) => {
                let x = values(program, self.values).fused(input(0))?;
                self.backend.conv_backward_weight(conv, x, self.gradients.buffer(dy)?)?;
                self.pass_to_input(input(0), dy, |backend, dy, dx, accumulate| {
                    backend.conv_backward_data(conv, dy, dx, accumulate)
                })?;
            }
            Op::ConvTranspose(conv) => {
                let x = values(program, self.values).fused(input(0))?;
                self.backend.conv_transpose_backward_weight(conv, x, self.gradients.buffer(dy)?)?;
                self.pass_to_input(input(0), dy, |backend, dy, dx, accumulate| {
                    backend.conv_transpose_backward_data(conv, dy, dx, accumulate)
                })?;
            }
            Op::MaxPool { sliding } => self.pass_to_input(input(0), dy, |backend, dy, dx, accumulate| {
                backend.max_pool_backward(at, sliding, dy, dx, accumulate)
            })?,
            Op::GlobalAveragePool { masked } => {
                self.pass_to_input(input(0), dy, |backend, dy, dx, accumulate| {
                    backend.global_average_backward(at, *masked, dy, dx, accumulate)
                })?;
            }
            Op::BatchNorm(norm) => self.batch_norm(at, norm, dy)?,
            Op::Linear(layer) => self.linear(layer, input(0), dy)?,
            Op::Bias { bias } => {
                self.backend.bias_backward(*bias, self.gradients.buffer(dy)?)?;
                self.share(input(0), dy)?;
            }
            Op::Add { activation } => self.add(at, *activation, dy)?,
            Op::Activate { activation } => {
                self.in_place(input(0), shape.len(), dy, |backend, values, dy| {
                    backend.activate_backward(*activation, values.written(input(0))?, dy)
                })?
            }
            Op::L2Normalize => self.in_place(input(0), shape.len(), dy, |backend, values, dy| {
                backend.l2_normalize_backward(shape.channels, values.written(input(0))?, dy)
            })?,
            Op::Dropout(_) => {
                self.in_place(input(0), shape.len(), dy, |backend, _, dy| backend.dropout_backward(at, dy))?
            }
            Op::Mask => {
                self.in_place(input(0), shape.len(), dy, |backend, _, dy| backend.mask(shape, dy))?;
            }
            Op::FillMasked { token } => self.in_place(input(0), shape.len(), dy, |backend, _, dy| {
                backend.fill_masked_backward(shape, *token, dy)
            })?,
            Op::Scale => {
                let (x, gate) = (input(0), input(1));
                let mut dgate = self.take_like(gate)?;
                let dy = self.unshare(shape.len(), dy)?;
                self.change(dy, |backend, values, dy| {
                    backend.scale_backward(shape, values.fused(x)?, values.written(gate)?, dy, &mut dgate)
                })?;
                self.hand(gate, dgate)?;
                self.share(x, dy)?;
            }
        }
        Ok(None)
    }

    fn linear(&mut self, layer: &Dense, x: Value, dy: usize) -> Result<()> {
        if self.program.differentiable[x.0] {
            let (target, accumulate) = self.target(x)?;
            let mut dx = self.gradients.lend(target)?;
            let input = values(self.program, self.values).written(x)?;
            let dy = self.gradients.buffer(dy)?;
            self.backend.linear_backward(layer, input, dy, Some((&mut dx, accumulate)))?;
            self.gradients.restore(target, dx);
        } else {
            let input = values(self.program, self.values).written(x)?;
            self.backend.linear_backward(layer, input, self.gradients.buffer(dy)?, None)?;
        }
        self.disown(dy);
        Ok(())
    }

    fn add(&mut self, at: Site<'_>, activation: Activation, dy: usize) -> Result<()> {
        let dy = if activation == Activation::Identity {
            dy
        } else {
            let dy = self.unshare(at.shape.len(), dy)?;
            self.change(dy, |backend, values, dy| {
                backend.add_backward(at, activation, values.written(Value(at.id))?, dy)
            })?;
            dy
        };
        self.gradients.own(dy);
        self.share(at.inputs[1], dy)?;
        self.share(at.inputs[0], dy)
    }

    /// Computes the gradient of a normalization's input. It replaces the output's gradient if that has one owner;
    /// otherwise it gets its own buffer.
    fn batch_norm(&mut self, at: Site<'_>, norm: &BatchNorm, dy: usize) -> Result<()> {
        let x = at.inputs[0];
        let target = if self.gradients.of[x.0].is_none() && self.gradients.owners(dy) == 1 {
            self.change(dy, |backend, values, dy| {
                backend.batch_norm_backward(at, norm, values.written(x)?, GradientTarget::InPlace(dy))
            })?;
            self.gradients.of[x.0] = Some(dy);
            dy
        } else if norm.masked && self.gradients.of[x.0].is_some() {
            // The gradients from other readers of `x` must not be masked.
            let mut dx = self.take_like(x)?;
            self.batch_norm_into(at, norm, dy, (&mut dx, false))?;
            self.backend.mask(at.shape, &mut dx)?;
            self.disown(dy);
            return self.hand(x, dx);
        } else {
            let (target, accumulate) = self.target(x)?;
            let mut dx = self.gradients.lend(target)?;
            self.batch_norm_into(at, norm, dy, (&mut dx, accumulate))?;
            self.gradients.restore(target, dx);
            self.disown(dy);
            target
        };
        if norm.masked {
            self.change(target, |backend, _, dx| backend.mask(at.shape, dx))?;
        }
        if !self.program.differentiable[x.0]
            && let Some(unused) = self.gradients.of[x.0].take()
        {
            self.disown(unused);
        }
        Ok(())
    }

    fn batch_norm_into(
        &mut self,
        at: Site<'_>,
        norm: &BatchNorm,
        dy: usize,
        (dx, accumulate): (&mut B::Buffer, bool),
    ) -> Result<()> {
        let input = values(self.program, self.values).written(at.inputs[0])?;
        let target = GradientTarget::Into { dy: self.gradients.buffer(dy)?, dx, accumulate };
        self.backend.batch_norm_backward(at, norm, input, target)
    }

    /// Computes the gradient of `x` into a new buffer, or adds it to the existing gradient of `x`; releases `dy`.
    fn pass_to_input(
        &mut self,
        x: Value,
        dy: usize,
        compute: impl FnOnce(&mut B, &B::Buffer, &mut B::Buffer, bool) -> Result<()>,
    ) -> Result<()> {
        if self.program.differentiable[x.0] {
            let (target, accumulate) = self.target(x)?;
            let mut dx = self.gradients.lend(target)?;
            compute(self.backend, self.gradients.buffer(dy)?, &mut dx, accumulate)?;
            self.gradients.restore(target, dx);
        }
        self.disown(dy);
        Ok(())
    }

    /// Replaces the gradient `dy` of `len` values with that of the input `x`, which `change` computes in place.
    fn in_place(
        &mut self,
        x: Value,
        len: usize,
        dy: usize,
        change: impl FnOnce(&mut B, Values<'_, B::Buffer>, &mut B::Buffer) -> Result<()>,
    ) -> Result<()> {
        let dy = self.unshare(len, dy)?;
        self.change(dy, change)?;
        self.share(x, dy)
    }

    /// Lets `change` overwrite a gradient with one owner.
    fn change(
        &mut self,
        at: usize,
        change: impl FnOnce(&mut B, Values<'_, B::Buffer>, &mut B::Buffer) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = self.gradients.lend(at)?;
        change(self.backend, values(self.program, self.values), &mut buffer)?;
        self.gradients.restore(at, buffer);
        Ok(())
    }

    /// The gradient of `x` with `x` as its only owner, and whether it holds values to add to.
    fn target(&mut self, x: Value) -> Result<(usize, bool)> {
        let (at, present) = match self.gradients.of[x.0] {
            None => {
                let buffer = self.take_like(x)?;
                (self.gradients.insert(buffer), false)
            }
            Some(present) => (self.unshare(self.program.graph.node(x).shape.len(), present)?, true),
        };
        self.gradients.of[x.0] = Some(at);
        Ok((at, present))
    }

    /// Passes one ownership of `dy` to `x`, or adds `dy` to the existing gradient of `x`.
    fn share(&mut self, x: Value, dy: usize) -> Result<()> {
        if !self.program.differentiable[x.0] {
            self.disown(dy);
        } else if self.gradients.of[x.0].is_none() {
            self.gradients.of[x.0] = Some(dy);
        } else {
            let (target, _) = self.target(x)?;
            let mut sum = self.gradients.lend(target)?;
            self.backend.add_into(self.gradients.buffer(dy)?, &mut sum)?;
            self.gradients.restore(target, sum);
            self.disown(dy);
        }
        Ok(())
    }

    /// Passes a new gradient to `x`, or adds it to the existing one.
    fn hand(&mut self, x: Value, buffer: B::Buffer) -> Result<()> {
        let at = self.gradients.insert(buffer);
        self.share(x, at)
    }

    /// Copy-on-write: `at` if it has one owner, else a copy of its `len` values.
    fn unshare(&mut self, len: usize, at: usize) -> Result<usize> {
        if self.gradients.owners(at) == 1 {
            return Ok(at);
        }
        let mut copy = self.backend.take(len)?;
        self.backend.copy(self.gradients.buffer(at)?, &mut copy)?;
        self.disown(at);
        Ok(self.gradients.insert(copy))
    }

    fn disown(&mut self, at: usize) {
        if let Some(buffer) = self.gradients.disown(at) {
            self.backend.give(buffer);
        }
    }

    fn take_like(&mut self, value: Value) -> Result<B::Buffer> {
        self.backend.take(self.program.graph.node(value).shape.len())
    }
}

/// Borrows the values of a pass without borrowing its gradients.
fn values<'a, T>(program: &'a Program, buffers: &'a [Option<T>]) -> Values<'a, T> {
    Values { program, buffers }
}

impl<T> Gradients<T> {
    fn insert(&mut self, buffer: T) -> usize {
        self.buffers.push(Some(Shared { buffer, owners: 1 }));
        self.buffers.len() - 1
    }

    fn own(&mut self, at: usize) {
        if let Some(shared) = &mut self.buffers[at] {
            shared.owners += 1;
        }
    }

    fn owners(&self, at: usize) -> usize {
        self.buffers[at].as_ref().map_or(0, |shared| shared.owners)
    }

    /// Removes one owner; returns the buffer if it was the last.
    fn disown(&mut self, at: usize) -> Option<T> {
        let shared = self.buffers[at].as_mut()?;
        shared.owners -= 1;
        if shared.owners > 0 { None } else { self.buffers[at].take().map(|shared| shared.buffer) }
    }

    fn buffer(&self, at: usize) -> Result<&T> {
        self.buffers[at].as_ref().map(|shared| &shared.buffer).ok_or(TrainError::NothingRan)
    }

    /// Takes out a buffer with one owner, so that it can be written while others are read.
    fn lend(&mut self, at: usize) -> Result<T> {
        self.buffers[at].take().map(|shared| shared.buffer).ok_or(TrainError::NothingRan)
    }

    fn restore(&mut self, at: usize, buffer: T) {
        self.buffers[at] = Some(Shared { buffer, owners: 1 });
    }
}
