//! Plans a graph for a backend: which values are written, how long they live, and which gradients are needed.

use super::backend::{Backend, FusedOperand};
use super::graph::{Graph, Op, Value};
use crate::error::{Result, TrainError};

/// A graph and its plan for one kind of backend.
pub struct Program {
    pub(super) graph: Graph,
    /// By value: whether it depends on a parameter, so that its gradient is needed.
    pub(super) differentiable: Vec<bool>,
    /// By value: the node whose buffer holds it. A normalization that is never written uses the buffer of its input.
    storage: Vec<usize>,
    /// By node: the last node that reads its buffer; none if the caller reads it.
    last_reader: Vec<Option<usize>>,
    /// By value: the batch normalization that is its only reader, if it is unmasked.
    only_norm: Vec<Option<usize>>,
}

impl Program {
    /// Plans `graph` for `backend`.
    pub fn new<B: Backend>(graph: Graph, backend: &B) -> Self {
        let nodes = &graph.nodes;
        let written = written(&graph, backend);
        let mut differentiable = vec![false; nodes.len()];
        let mut storage: Vec<usize> = (0..nodes.len()).collect();
        let mut last_reader = vec![None; nodes.len()];
        let mut readers = vec![0_usize; nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            differentiable[id] = node.op.has_parameters()
                || (id == 0 && graph.images_differentiable)
                || node.inputs.iter().any(|input| differentiable[input.0]);
            if !written[id] {
                storage[id] = storage[node.inputs[0].0];
            }
            for input in &node.inputs {
                last_reader[storage[input.0]] = Some(id);
                readers[input.0] += 1;
            }
        }
        graph.outputs.iter().for_each(|output| last_reader[storage[output.0]] = None);
        let mut only_norm = vec![None; nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            if let Op::BatchNorm(norm) = &node.op {
                let x = node.inputs[0].0;
                only_norm[x] = (readers[x] == 1 && !norm.masked).then_some(id);
            }
        }
        Self { graph, differentiable, storage, last_reader, only_norm }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Whether the value of node `id` has a buffer of its own.
    pub(super) fn is_written(&self, id: usize) -> bool {
        self.storage[id] == id
    }

    /// The batch normalization that is the only reader of node `id`.
    pub(super) fn only_norm(&self, id: usize) -> Option<usize> {
        self.only_norm[id]
    }

    /// Nodes whose buffers node `id` is the last to read.
    pub(super) fn last_read_by(&self, id: usize) -> impl Iterator<Item = usize> {
        let read = self.graph.nodes[id].inputs.iter().map(|input| self.storage[input.0]);
        // Later readers still need the input of a normalization that is never written.
        read.filter(move |&at| self.last_reader[at] == Some(id) && self.storage[id] != at)
    }
}

/// By value: whether it is written to memory. Every value is, except normalizations that all readers apply while they read.
fn written<B: Backend>(graph: &Graph, backend: &B) -> Vec<bool> {
    let is_norm = |value: Value| matches!(graph.node(value).op, Op::BatchNorm(_));
    let mut written: Vec<bool> = (0..graph.nodes.len()).map(|id| !is_norm(Value(id))).collect();
    for node in &graph.nodes {
        // The statistics of a normalization, and the gate of a product, are computed from written values.
        let fused = match node.op {
            Op::BatchNorm(_) => 0,
            Op::Scale => usize::from(backend.fuses_norm(&node.op)),
            _ if backend.fuses_norm(&node.op) => node.inputs.len(),
            _ => 0,
        };
        node.inputs[fused..].iter().for_each(|input| written[input.0] = true);
    }
    graph.outputs.iter().for_each(|output| written[output.0] = true);
    written
}

/// The buffers of a program's values.
pub(super) struct Values<'a, T> {
    pub(super) program: &'a Program,
    pub(super) buffers: &'a [Option<T>],
}

impl<'a, T> Values<'a, T> {
    /// A value with its pending normalization, if there is one.
    pub(super) fn fused(&self, value: Value) -> Result<FusedOperand<'a, T>> {
        let storage = self.program.storage[value.0];
        let buffer = self.buffers[storage].as_ref().ok_or(TrainError::NothingRan)?;
        Ok(FusedOperand { buffer, norm: (storage != value.0).then_some(value.0) })
    }

    /// A value that is written to memory.
    pub(super) fn written(&self, value: Value) -> Result<&'a T> {
        self.buffers[value.0].as_ref().ok_or(TrainError::NothingRan)
    }
}

#[cfg(test)]
mod tests {
    use lgd_kernels::Activation;

    use super::*;
    use crate::engine::CpuBackend;
    use crate::engine::graph::{Builder, LinearKind, NormSpec, Shape};

    /// The first operand of a product is normalized while it is read. Its gate is not, so the gate must be in memory.
    #[test]
    fn a_normalized_gate_is_written() {
        let shape = Shape { batch: 2, height: 4, width: 4, channels: 6 };
        let (mut builder, images) = Builder::new(shape).unwrap();
        let norm = NormSpec::new(Activation::Sigmoid);
        let x = builder.batch_norm(images, "x", norm).unwrap();
        let pooled = builder.global_average_pool(images);
        let pooled = builder.linear(pooled, "linear", 6, LinearKind::Dense).unwrap();
        let gate = builder.batch_norm(pooled, "gate", norm).unwrap();
        let y = builder.scale(x, gate).unwrap();
        let (graph, table) = builder.finish(vec![y]);
        let program = Program::new(graph, &CpuBackend::new(table.initial(1)));
        assert!(!program.is_written(x.0) && program.is_written(gate.0));
        let buffers: Vec<Option<()>> = vec![Some(()); y.0 + 1];
        let values = Values { program: &program, buffers: &buffers };
        assert_eq!(values.fused(x).unwrap().norm, Some(x.0));
        assert_eq!(values.fused(gate).unwrap().norm, None);
    }
}
