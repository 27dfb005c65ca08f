//! Runs a graph forward and backward on a backend.
//!
//! What it decides, once for every device: which values stay for the backward pass, which normalizations are never written out,
//! where gradients are added, and which gradient may overwrite which. Gradients of values that depend on no parameter are not
//! computed.

use std::sync::Arc;

use candle_core::Tensor;
use lgd_kernels::Activation;

use super::backend::{Backend, Images, Mode, Reading, Site, Through};
use super::graph::{Graph, Op, Value};
use crate::error::TrainError;

/// A graph, and what follows from it and a backend alone.
pub struct Program {
    graph: Graph,
    /// Whether any parameter lies before the value.
    differentiable: Vec<bool>,
    /// The node whose buffer holds the value: that of the input for a normalization that is not written out.
    storage: Vec<usize>,
    /// Last node that reads the buffer of this node; none where the caller does.
    last_reader: Vec<Option<usize>>,
    /// The batch normalization to which alone the value goes.
    norm: Vec<Option<usize>>,
}

impl Program {
    /// Plans `graph` for `backend`.
    pub fn new<B: Backend>(graph: Graph, backend: &B) -> Self {
        let nodes = &graph.nodes;
        let is_norm = |value: Value| matches!(nodes[value.0].op, Op::BatchNorm(_));
        let mut written = vec![false; nodes.len()];
        for node in nodes {
            // A normalization reads numbers; a node that cannot normalize while it reads needs them written.
            let lazily = backend.reads_lazily(node) && !matches!(node.op, Op::BatchNorm(_));
            for input in node.inputs.iter().filter(|input| is_norm(**input) && !lazily) {
                written[input.0] = true;
            }
        }
        graph.outputs.iter().for_each(|output| written[output.0] = true);
        let mut differentiable = vec![false; nodes.len()];
        let mut storage: Vec<usize> = (0..nodes.len()).collect();
        let mut last_reader = vec![None; nodes.len()];
        let mut readers = vec![0_usize; nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            differentiable[id] = node.op.has_parameters()
                || (id == 0 && graph.images_differentiable)
                || node.inputs.iter().any(|input| differentiable[input.0]);
            if is_norm(Value(id)) && !written[id] {
                storage[id] = storage[node.inputs[0].0];
            }
            for input in &node.inputs {
                last_reader[storage[input.0]] = Some(id);
                readers[input.0] += 1;
            }
        }
        graph.outputs.iter().for_each(|output| last_reader[storage[output.0]] = None);
        let mut norm = vec![None; nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            if let Op::BatchNorm(spec) = &node.op {
                let x = node.inputs[0].0;
                norm[x] = (readers[x] == 1 && !spec.masked).then_some(id);
            }
        }
        Self { graph, differentiable, storage, last_reader, norm }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
}

/// A gradient that several values may share.
struct Shared<T> {
    buffer: T,
    owners: usize,
}

/// Gradients of values during a backward pass.
struct Gradients<T> {
    of: Vec<Option<usize>>,
    buffers: Vec<Option<Shared<T>>>,
}

/// Runs graphs on a backend and keeps, between forward and backward, what the latter needs.
pub struct Tape<B: Backend> {
    backend: B,
    program: Option<Arc<Program>>,
    values: Vec<Option<B::Buffer>>,
    images_gradient: Option<B::Buffer>,
}

impl<B: Backend> Tape<B> {
    /// Nothing has run yet.
    pub fn new(backend: B) -> Self {
        Self { backend, program: None, values: Vec::new(), images_gradient: None }
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The device, for state and updates.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Computes the outputs of `program` for `images`; in training keeps what the backward pass needs.
    ///
    /// # Errors
    /// Images that do not fill the graph's batch, or an error of the device.
    pub fn forward(
        &mut self,
        program: &Arc<Program>,
        images: Images<'_>,
        mode: Mode,
    ) -> Result<(), TrainError> {
        self.release();
        let graph = &program.graph;
        let expected = graph.nodes[0].shape.len();
        lgd_kernels::geometry::expect_eq("values of the images", expected, images.len())?;
        self.program = Some(Arc::clone(program));
        self.values.resize_with(graph.nodes.len(), || None);
        self.backend.begin_forward(graph, mode);
        let mut buffer = self.backend.take(expected)?;
        self.backend.images(images, &mut buffer)?;
        self.values[0] = Some(buffer);
        for id in 1..graph.nodes.len() {
            let value = self.compute(program, id, mode)?;
            self.values[id] = value;
            if mode == Mode::Inference {
                for input in &graph.nodes[id].inputs {
                    let at = program.storage[input.0];
                    // A normalization that is read lazily hands its input on to later readers.
                    if program.last_reader[at] == Some(id) && program.storage[id] != at {
                        self.drop_value(at);
                    }
                }
            }
        }
        Ok(())
    }

    /// Output `at` of the graph as an f32 tensor: `[B, C]` where it has one position per image, else `[B, H, W, C]`.
    ///
    /// # Errors
    /// Nothing has run, or an error of the device.
    pub fn output(&mut self, at: usize) -> Result<Tensor, TrainError> {
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

    /// Gradients of all parameters from those of outputs; an output without one contributes nothing. With `accumulate` they are
    /// added to those of the last call.
    ///
    /// # Errors
    /// Nothing has run in training since the last call, or an error of the device.
    pub fn backward(&mut self, outputs: &[Option<Tensor>], accumulate: bool) -> Result<(), TrainError> {
        let program = self.program.take().ok_or(TrainError::NothingRan)?;
        let graph = &program.graph;
        self.backend.begin_backward(accumulate)?;
        let mut gradients =
            Gradients { of: vec![None; graph.nodes.len()], buffers: Vec::with_capacity(graph.nodes.len()) };
        for (output, gradient) in graph.outputs.iter().zip(outputs) {
            let Some(gradient) = gradient else { continue };
            let mut buffer = self.backend.take(graph.node(*output).shape.len())?;
            self.backend.load_tensor(gradient, &mut buffer)?;
            self.hand(&program, &mut gradients, *output, buffer)?;
        }
        for id in (1..graph.nodes.len()).rev() {
            if let Some(dy) = gradients.of[id].take() {
                self.differentiate(&program, &mut gradients, id, dy)?;
            }
            self.drop_value(id);
        }
        if let Some(buffer) = gradients.of[0].take().and_then(|dy| gradients.disown(dy)) {
            self.images_gradient = Some(buffer);
        }
        self.drop_value(0);
        Ok(())
    }

    /// The gradient of the images, `[B, H, W, 3]`, where the graph asks for it.
    ///
    /// # Errors
    /// No backward pass of such a graph has run, or an error of the device.
    pub fn images_gradient(&mut self, shape: &[usize]) -> Result<Tensor, TrainError> {
        let buffer = self.images_gradient.as_ref().ok_or(TrainError::NothingRan)?;
        self.backend.to_tensor(buffer, shape)
    }

    /// Gives every kept value back.
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

    fn compute(&mut self, program: &Program, id: usize, mode: Mode) -> Result<Option<B::Buffer>, TrainError> {
        let graph = &program.graph;
        let node = &graph.nodes[id];
        let at = Site { id, graph };
        let Self { backend, values, .. } = self;
        if let Op::BatchNorm(_) = node.op {
            backend.batch_norm(at, plain(program, values, node.inputs[0])?)?;
            if program.storage[id] != id {
                return Ok(None);
            }
        }
        let mut y = backend.take(node.shape.len())?;
        let read = |input: usize| reading(program, values, node.inputs[input]);
        match &node.op {
            Op::Images => {}
            Op::Conv { .. } => {
                let norm = program.norm[id].filter(|_| mode != Mode::Inference);
                backend.conv(at, read(0)?, &mut y, norm)?;
            }
            Op::ConvTranspose { .. } => backend.conv(at, read(0)?, &mut y, None)?,
            Op::Bias { .. } => backend.bias(at, read(0)?, &mut y)?,
            Op::BatchNorm(_) => {
                let buffer = plain(program, values, node.inputs[0])?;
                backend.materialize(at, Reading { buffer, norm: Some(id) }, &mut y)?;
            }
            Op::Add { .. } => backend.add(at, read(0)?, read(1)?, &mut y)?,
            Op::Activate { .. } => backend.activate(at, plain(program, values, node.inputs[0])?, &mut y)?,
            Op::MaxPool { .. } => backend.max_pool(at, read(0)?, &mut y)?,
            Op::GlobalAveragePool { .. } => backend.average(at, read(0)?, &mut y)?,
            Op::Linear { .. } => backend.linear(at, plain(program, values, node.inputs[0])?, &mut y)?,
            Op::Scale => {
                backend.scale(at, read(0)?, plain(program, values, node.inputs[1])?, &mut y)?;
            }
            Op::Dropout { .. } if mode == Mode::Inference => backend.materialize(at, read(0)?, &mut y)?,
            Op::Dropout { .. } => backend.dropout(at, read(0)?, &mut y)?,
            Op::L2Normalize => {
                backend.l2_normalize(at, plain(program, values, node.inputs[0])?, &mut y)?;
            }
            Op::Mask => {
                backend.materialize(at, read(0)?, &mut y)?;
                backend.mask(at, &mut y)?;
            }
            Op::FillMasked { .. } => {
                backend.materialize(at, read(0)?, &mut y)?;
                backend.fill_masked(at, &mut y)?;
            }
        }
        Ok(Some(y))
    }

    /// Hands the gradient `dy` of node `id` to its parameters and inputs.
    fn differentiate(
        &mut self,
        program: &Program,
        gradients: &mut Gradients<B::Buffer>,
        id: usize,
        dy: usize,
    ) -> Result<(), TrainError> {
        let graph = &program.graph;
        let node = &graph.nodes[id];
        let at = Site { id, graph };
        let x = node.inputs.first().copied().unwrap_or(Value(0));
        match &node.op {
            Op::Images => {}
            Op::Conv { .. } | Op::ConvTranspose { .. } => {
                let read = reading(program, &self.values, x)?;
                self.backend.conv_backward_weight(at, read, gradients.buffer(dy)?)?;
                self.pass_to_input(program, gradients, (x, dy), |backend, dy, dx, accumulate| {
                    backend.conv_backward_data(at, dy, dx, accumulate)
                })?;
            }
            Op::MaxPool { .. } => {
                self.pass_to_input(program, gradients, (x, dy), |backend, dy, dx, accumulate| {
                    backend.max_pool_backward(at, dy, dx, accumulate)
                })?;
            }
            Op::GlobalAveragePool { .. } => {
                self.pass_to_input(program, gradients, (x, dy), |backend, dy, dx, accumulate| {
                    backend.average_backward(at, dy, dx, accumulate)
                })?;
            }
            Op::BatchNorm(norm) => self.through_norm(program, gradients, (at, x, dy), norm.masked)?,
            Op::Linear { .. } => {
                if program.differentiable[x.0] {
                    let (target, accumulate) = self.target(program, gradients, x)?;
                    let mut dx = gradients.lend(target)?;
                    let input = plain(program, &self.values, x)?;
                    self.backend.linear_backward(
                        at,
                        input,
                        gradients.buffer(dy)?,
                        Some((&mut dx, accumulate)),
                    )?;
                    gradients.restore(target, dx);
                } else {
                    let input = plain(program, &self.values, x)?;
                    self.backend.linear_backward(at, input, gradients.buffer(dy)?, None)?;
                }
                self.disown(gradients, dy);
            }
            Op::Bias { .. } => {
                self.backend.bias_backward(at, gradients.buffer(dy)?)?;
                self.share(program, gradients, x, dy)?;
            }
            Op::Add { activation } => {
                let dy = if *activation == Activation::Identity {
                    dy
                } else {
                    let y = self.values[id].as_ref().ok_or(TrainError::NothingRan)?;
                    in_place(&mut self.backend, gradients, node.shape.len(), dy, |backend, dy| {
                        backend.add_backward(at, y, dy)
                    })?
                };
                gradients.own(dy);
                self.share(program, gradients, node.inputs[1], dy)?;
                self.share(program, gradients, x, dy)?;
            }
            Op::Activate { .. } | Op::L2Normalize => {
                let input = plain(program, &self.values, x)?;
                let len = node.shape.len();
                let dy = in_place(&mut self.backend, gradients, len, dy, |backend, dy| match node.op {
                    Op::L2Normalize => backend.l2_normalize_backward(at, input, dy),
                    _ => backend.activate_backward(at, input, dy),
                })?;
                self.share(program, gradients, x, dy)?;
            }
            Op::Dropout { .. } => {
                let dy = in_place(&mut self.backend, gradients, node.shape.len(), dy, |backend, dy| {
                    backend.dropout_backward(at, dy)
                })?;
                self.share(program, gradients, x, dy)?;
            }
            Op::Mask | Op::FillMasked { .. } => {
                let len = node.shape.len();
                let dy = in_place(&mut self.backend, gradients, len, dy, |backend, dy| match node.op {
                    Op::Mask => backend.mask(at, dy),
                    _ => backend.fill_masked_backward(at, dy),
                })?;
                self.share(program, gradients, x, dy)?;
            }
            Op::Scale => {
                let gate = node.inputs[1];
                let mut dgate = self.backend.take(graph.node(gate).shape.len())?;
                let (read, gates) = (reading(program, &self.values, x)?, plain(program, &self.values, gate)?);
                let dy = in_place(&mut self.backend, gradients, node.shape.len(), dy, |backend, dy| {
                    backend.scale_backward(at, read, gates, dy, &mut dgate)
                })?;
                self.hand(program, gradients, gate, dgate)?;
                self.share(program, gradients, x, dy)?;
            }
        }
        Ok(())
    }

    /// Computes an input's gradient into a buffer of its own, or adds it to the one there is; gives `dy` up.
    fn pass_to_input(
        &mut self,
        program: &Program,
        gradients: &mut Gradients<B::Buffer>,
        (x, dy): (Value, usize),
        compute: impl FnOnce(&mut B, &B::Buffer, &mut B::Buffer, bool) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        if program.differentiable[x.0] {
            let (target, accumulate) = self.target(program, gradients, x)?;
            let mut dx = gradients.lend(target)?;
            compute(&mut self.backend, gradients.buffer(dy)?, &mut dx, accumulate)?;
            gradients.restore(target, dx);
        }
        self.disown(gradients, dy);
        Ok(())
    }

    /// The gradient of a normalization: over its output's gradient where nobody else needs that, else into another buffer.
    fn through_norm(
        &mut self,
        program: &Program,
        gradients: &mut Gradients<B::Buffer>,
        (at, x, dy): (Site<'_>, Value, usize),
        masked: bool,
    ) -> Result<(), TrainError> {
        let target = if gradients.of[x.0].is_none() && gradients.owners(dy) == 1 {
            let mut buffer = gradients.lend(dy)?;
            let input = plain(program, &self.values, x)?;
            self.backend.batch_norm_backward(at, input, Through::InPlace(&mut buffer))?;
            gradients.restore(dy, buffer);
            gradients.of[x.0] = Some(dy);
            dy
        } else if masked && gradients.of[x.0].is_some() {
            // What other readers of `x` gave it is not this normalization's to mask.
            let mut dx = self.backend.take(program.graph.node(x).shape.len())?;
            let input = plain(program, &self.values, x)?;
            let through = Through::Into { dy: gradients.buffer(dy)?, dx: &mut dx, accumulate: false };
            self.backend.batch_norm_backward(at, input, through)?;
            self.backend.mask(at, &mut dx)?;
            self.disown(gradients, dy);
            return self.hand(program, gradients, x, dx);
        } else {
            let (target, accumulate) = self.target(program, gradients, x)?;
            let mut dx = gradients.lend(target)?;
            let input = plain(program, &self.values, x)?;
            let through = Through::Into { dy: gradients.buffer(dy)?, dx: &mut dx, accumulate };
            self.backend.batch_norm_backward(at, input, through)?;
            gradients.restore(target, dx);
            self.disown(gradients, dy);
            target
        };
        if masked {
            let mut buffer = gradients.lend(target)?;
            self.backend.mask(at, &mut buffer)?;
            gradients.restore(target, buffer);
        }
        if !program.differentiable[x.0]
            && let Some(unused) = gradients.of[x.0].take()
        {
            self.disown(gradients, unused);
        }
        Ok(())
    }

    /// The buffer that the gradient of `x` goes to, owned by `x` alone, and whether there is something in it already.
    fn target(
        &mut self,
        program: &Program,
        gradients: &mut Gradients<B::Buffer>,
        x: Value,
    ) -> Result<(usize, bool), TrainError> {
        let len = program.graph.node(x).shape.len();
        let Some(present) = gradients.of[x.0] else {
            let at = gradients.insert(self.backend.take(len)?);
            gradients.of[x.0] = Some(at);
            return Ok((at, false));
        };
        let at = unshare(&mut self.backend, gradients, len, present)?;
        gradients.of[x.0] = Some(at);
        Ok((at, true))
    }

    /// Gives the owner's share in `dy` to `x`, or adds it to the gradient that `x` has.
    fn share(
        &mut self,
        program: &Program,
        gradients: &mut Gradients<B::Buffer>,
        x: Value,
        dy: usize,
    ) -> Result<(), TrainError> {
        if !program.differentiable[x.0] {
            self.disown(gradients, dy);
        } else if gradients.of[x.0].is_none() {
            gradients.of[x.0] = Some(dy);
        } else {
            let (target, _) = self.target(program, gradients, x)?;
            let mut sum = gradients.lend(target)?;
            self.backend.add_into(gradients.buffer(dy)?, &mut sum)?;
            gradients.restore(target, sum);
            self.disown(gradients, dy);
        }
        Ok(())
    }

    /// Hands a fresh gradient to `x`.
    fn hand(
        &mut self,
        program: &Program,
        gradients: &mut Gradients<B::Buffer>,
        x: Value,
        buffer: B::Buffer,
    ) -> Result<(), TrainError> {
        let at = gradients.insert(buffer);
        self.share(program, gradients, x, at)
    }

    fn disown(&mut self, gradients: &mut Gradients<B::Buffer>, at: usize) {
        if let Some(buffer) = gradients.disown(at) {
            self.backend.give(buffer);
        }
    }
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

    /// One owner less; the buffer where it was the last.
    fn disown(&mut self, at: usize) -> Option<T> {
        let shared = self.buffers[at].as_mut()?;
        shared.owners -= 1;
        if shared.owners > 0 { None } else { self.buffers[at].take().map(|shared| shared.buffer) }
    }

    fn buffer(&self, at: usize) -> Result<&T, TrainError> {
        self.buffers[at].as_ref().map(|shared| &shared.buffer).ok_or(TrainError::NothingRan)
    }

    /// Takes a buffer with one owner out, to be written while others are read.
    fn lend(&mut self, at: usize) -> Result<T, TrainError> {
        self.buffers[at].take().map(|shared| shared.buffer).ok_or(TrainError::NothingRan)
    }

    fn restore(&mut self, at: usize, buffer: T) {
        self.buffers[at] = Some(Shared { buffer, owners: 1 });
    }
}

/// A buffer with the content of `at` that one owner has to itself: `at`, or a copy where there are others.
fn unshare<B: Backend>(
    backend: &mut B,
    gradients: &mut Gradients<B::Buffer>,
    len: usize,
    at: usize,
) -> Result<usize, TrainError> {
    if gradients.owners(at) == 1 {
        return Ok(at);
    }
    let mut copy = backend.take(len)?;
    backend.copy(gradients.buffer(at)?, &mut copy)?;
    gradients.disown(at);
    Ok(gradients.insert(copy))
}

/// Lets `change` overwrite a gradient that one owner has to itself.
fn in_place<B: Backend>(
    backend: &mut B,
    gradients: &mut Gradients<B::Buffer>,
    len: usize,
    at: usize,
    change: impl FnOnce(&mut B, &mut B::Buffer) -> Result<(), TrainError>,
) -> Result<usize, TrainError> {
    let at = unshare(backend, gradients, len, at)?;
    let mut buffer = gradients.lend(at)?;
    change(backend, &mut buffer)?;
    gradients.restore(at, buffer);
    Ok(at)
}

/// A value as its readers see it.
fn reading<'a, T>(
    program: &Program,
    values: &'a [Option<T>],
    value: Value,
) -> Result<Reading<'a, T>, TrainError> {
    let storage = program.storage[value.0];
    let buffer = values[storage].as_ref().ok_or(TrainError::NothingRan)?;
    Ok(Reading { buffer, norm: (storage != value.0).then_some(value.0) })
}

/// A value that lies in memory as it is.
fn plain<'a, T>(program: &Program, values: &'a [Option<T>], value: Value) -> Result<&'a T, TrainError> {
    values[program.storage[value.0]].as_ref().ok_or(TrainError::NothingRan)
}
