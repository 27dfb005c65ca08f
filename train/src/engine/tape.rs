//! Runs a graph forward and backward on a backend.
//!
//! The tape decides, in the same way for every device, which values stay for the backward pass, which normalizations
//! are never written, where gradients are added, and which gradient may overwrite which. Gradients of values that
//! depend on no parameter are not computed.

mod backward;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use lgd_kernels::geometry::expect_eq;

use self::backward::Backward;
use super::backend::{Backend, FusedOperand, Images, Mode, Site};
use super::graph::Op;
use super::program::{Program, Values};
use crate::error::{Result, TrainError};
use crate::rng::Stream;

/// Runs graphs on a backend and keeps the values of the last forward pass for the backward pass.
pub struct Tape<B: Backend> {
    backend: B,
    program: Option<Arc<Program>>,
    values: Vec<Option<B::Buffer>>,
    images_gradient: Option<B::Buffer>,
    watched: Option<Watched>,
}

/// A flag that stops training passes.
struct Watched {
    stop: Arc<AtomicBool>,
    /// The running statistics before the passes.
    running: Vec<f32>,
}

impl<B: Backend> Tape<B> {
    /// A tape that has run nothing yet.
    pub fn new(backend: B) -> Self {
        Self { backend, program: None, values: Vec::new(), images_gradient: None, watched: None }
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The backend, for state and updates.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// See [`Engine::watch`](super::Engine::watch).
    pub fn watch(&mut self, stop: Option<Arc<AtomicBool>>) {
        let running = stop.as_ref().and_then(|_| self.backend.running());
        self.watched = stop.zip(running).map(|(stop, running)| Watched { stop, running });
    }

    /// Fails if the watched flag is set, and undoes what the passes changed.
    fn require_going_on(&mut self) -> Result<()> {
        if !self.watched.as_ref().is_some_and(|watched| watched.stop.load(Ordering::Relaxed)) {
            return Ok(());
        }
        if let Some(watched) = self.watched.take() {
            self.backend.restore_running(watched.running);
        }
        self.release();
        Err(TrainError::Stopped)
    }

    /// Computes the outputs of `program` for `images`. In training, keeps the values that the backward pass reads.
    ///
    /// # Errors
    /// Images of another length than the graph's batch, or an error of the device.
    pub fn forward(&mut self, program: &Arc<Program>, images: Images<'_>, mode: Mode) -> Result<()> {
        self.release();
        let graph = &program.graph;
        expect_eq("values of the images", graph.nodes[0].shape.len(), images.len())?;
        self.program = Some(Arc::clone(program));
        self.values.resize_with(graph.nodes.len(), || None);
        self.backend.begin_forward(graph, mode);
        for id in 0..graph.nodes.len() {
            if mode != Mode::Inference {
                self.require_going_on()?;
            }
            self.values[id] = self.compute(program, id, images, mode)?;
            if mode == Mode::Inference {
                program.last_read_by(id).for_each(|read| self.drop_value(read));
            }
        }
        Ok(())
    }

    /// Output `at` of the graph as an f32 tensor: `[B, C]` if it has one position per image, else `[B, H, W, C]`.
    ///
    /// # Errors
    /// Nothing has run, or an error of the device.
    pub fn output(&mut self, at: usize) -> Result<Tensor> {
        let program = self.program.clone().ok_or(TrainError::NothingRan)?;
        let value = program.graph.outputs[at];
        let shape = program.graph.node(value).shape;
        let dims: &[usize] = if shape.pixels() == 1 {
            &[shape.batch, shape.channels]
        } else {
            &[shape.batch, shape.height, shape.width, shape.channels]
        };
        let buffer = self.values[value.0].as_ref().ok_or(TrainError::NothingRan)?;
        self.backend.to_tensor(buffer, dims)
    }

    /// Computes the gradients of all parameters from those of the outputs; an output without a gradient contributes
    /// nothing. With `accumulate`, the gradients are added to those of the last call.
    ///
    /// # Errors
    /// Nothing has run in training since the last call, or an error of the device.
    pub fn backward(&mut self, outputs: &[Option<Tensor>], accumulate: bool) -> Result<()> {
        let program = self.program.take().ok_or(TrainError::NothingRan)?;
        self.backend.begin_backward(accumulate)?;
        let stop = self.watched.as_ref().map(|watched| Arc::clone(&watched.stop));
        let mut pass = Backward::new(&mut self.backend, &program, &mut self.values);
        for (output, gradient) in program.graph.outputs.iter().zip(outputs) {
            if let Some(gradient) = gradient {
                pass.load(*output, gradient)?;
            }
        }
        match pass.run(stop.as_deref()) {
            Ok(gradient) => self.images_gradient = gradient,
            // Fails, because the flag is set.
            Err(TrainError::Stopped) => self.require_going_on()?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The gradient of the images, `[B, H, W, 3]`, for a graph that differentiates them.
    ///
    /// # Errors
    /// No backward pass of such a graph has run, or an error of the device.
    pub fn images_gradient(&mut self, shape: &[usize]) -> Result<Tensor> {
        let buffer = self.images_gradient.as_ref().ok_or(TrainError::NothingRan)?;
        self.backend.to_tensor(buffer, shape)
    }

    /// Returns every buffer to the backend.
    fn release(&mut self) {
        if let Some(buffer) = self.images_gradient.take() {
            self.backend.give(buffer);
        }
        self.program = None;
        for id in 0..self.values.len() {
            self.drop_value(id);
        }
    }

    fn drop_value(&mut self, id: usize) {
        if let Some(buffer) = self.values[id].take() {
            self.backend.give(buffer);
        }
    }

    /// Computes the value of node `id`; returns none for a normalization that is never written.
    fn compute(
        &mut self,
        program: &Program,
        id: usize,
        images: Images<'_>,
        mode: Mode,
    ) -> Result<Option<B::Buffer>> {
        let node = &program.graph.nodes[id];
        let (at, shape) = (Site::new(&program.graph, id), node.shape);
        let Self { backend, values, .. } = self;
        let values = Values { program, buffers: values };
        let fused = |input: usize| values.fused(node.inputs[input]);
        let written = |input: usize| values.written(node.inputs[input]);
        if let Op::BatchNorm(norm) = &node.op {
            backend.batch_norm(at, norm, written(0)?)?;
            if !program.is_written(id) {
                return Ok(None);
            }
        }
        let mut buffer = backend.take(shape.len())?;
        let y = &mut buffer;
        match &node.op {
            Op::Images => backend.images(images, y)?,
            Op::Conv(conv) => {
                let norm = program.only_norm(id).filter(|_| mode != Mode::Inference);
                backend.conv(conv, fused(0)?, y, norm)?;
            }
            Op::ConvTranspose(conv) => backend.conv_transpose(conv, fused(0)?, y)?,
            Op::Bias { bias } => backend.bias(*bias, fused(0)?, y)?,
            Op::BatchNorm(_) => {
                let normalized = FusedOperand { buffer: written(0)?, norm: Some(id) };
                backend.materialize(shape.channels, normalized, y)?;
            }
            Op::Add { activation } => backend.add(at, *activation, fused(0)?, fused(1)?, y)?,
            Op::Activate { activation } => backend.activate(*activation, written(0)?, y)?,
            Op::MaxPool { sliding } => backend.max_pool(at, sliding, fused(0)?, y)?,
            Op::GlobalAveragePool { masked } => backend.global_average(at, *masked, fused(0)?, y)?,
            Op::Linear(layer) => backend.linear(layer, written(0)?, y)?,
            Op::Scale => backend.scale(shape, fused(0)?, written(1)?, y)?,
            Op::Dropout(dropout) => match mode {
                Mode::Inference => backend.materialize(shape.channels, fused(0)?, y)?,
                Mode::Train { seed, step } => {
                    let numbers = Stream::new(&[seed, dropout.stream, step]);
                    backend.dropout(at, dropout, numbers, fused(0)?, y)?;
                }
            },
            Op::L2Normalize => backend.l2_normalize(shape.channels, written(0)?, y)?,
            Op::Mask => {
                backend.materialize(shape.channels, fused(0)?, y)?;
                backend.mask(shape, y)?;
            }
            Op::FillMasked { token } => {
                backend.materialize(shape.channels, fused(0)?, y)?;
                backend.fill_masked(shape, *token, y)?;
            }
        }
        Ok(Some(buffer))
    }
}
