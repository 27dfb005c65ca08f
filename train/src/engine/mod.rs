//! The engine: students as static graphs, which one tape runs forward and backward on the CPU or on CUDA.
//!
//! ```text
//! graph        operations, shapes, parameters          parameters   names, layout, initial values
//! program      plan of a graph for a backend           optimizer    rules, updates, optimizer state
//! tape         forward and backward pass               backend      interface of a device
//! cpu, cuda    the devices
//! ```
//!
//! The engine does not use Candle's autograd, which would allocate, zero and add one gradient per operation and keep
//! both the input and the output of every normalization. Objectives are small and do use it: they compute the gradients
//! of the student's outputs, and the tape continues from there.

mod backend;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod graph;
pub mod optimizer;
pub mod parameters;
mod program;
mod tape;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};

use self::graph::Graph;
use self::optimizer::{OptimizerState, Update};
use self::parameters::{State, Table};
use crate::error::Result;
pub use backend::{Backend, FusedOperand, Images, Mode, Site};
pub use cpu::CpuBackend;
#[cfg(feature = "cuda")]
pub use cuda::CudaBackend;
#[cfg(feature = "cuda")]
pub(crate) use cuda::is_out_of_memory;
pub use program::Program;
pub use tape::Tape;

/// A tape on some device, as students use it.
pub trait Engine: Send {
    /// The device on which objectives compute.
    fn device(&self) -> &Device;
    /// Plans a graph for the device.
    fn plan(&self, graph: Graph) -> Program;
    /// See [`Tape::forward`].
    ///
    /// # Errors
    /// Those of [`Tape::forward`].
    fn forward(&mut self, program: &Arc<Program>, images: Images<'_>, mode: Mode) -> Result<()>;
    /// See [`Tape::output`].
    ///
    /// # Errors
    /// Those of [`Tape::output`].
    fn output(&mut self, at: usize) -> Result<Tensor>;
    /// See [`Tape::backward`].
    ///
    /// # Errors
    /// Those of [`Tape::backward`].
    fn backward(&mut self, outputs: &[Option<Tensor>], accumulate: bool) -> Result<()>;
    /// Runs one optimizer step on all parameters.
    ///
    /// # Errors
    /// An update made for another table, an optimizer state of another rule, gradients that cannot be clipped, or an error of the device.
    fn update(&mut self, table: &Table, update: &Update) -> Result<()>;
    /// See [`Backend::unchecked_norm`].
    ///
    /// # Errors
    /// An error of the device.
    fn unchecked_norm(&mut self) -> Result<Option<Tensor>>;
    /// Watches a flag during the training passes that follow, or none: once it is set, they fail with
    /// [`TrainError::Stopped`](crate::error::TrainError::Stopped), and the running statistics are those at this call. A device
    /// that cannot undo a pass does not watch.
    fn watch(&mut self, stop: Option<Arc<AtomicBool>>);
    /// Parameters and buffers, on the host.
    ///
    /// # Errors
    /// An error of the device.
    fn state(&mut self) -> Result<State>;
    /// Loads parameters and buffers.
    ///
    /// # Errors
    /// Another length, or an error of the device.
    fn load_state(&mut self, state: &State) -> Result<()>;
    /// Gradients of the parameters, flat, on the host.
    ///
    /// # Errors
    /// An error of the device.
    fn gradients(&mut self) -> Result<Vec<f32>>;
    /// The optimizer's state, on the host.
    ///
    /// # Errors
    /// An error of the device.
    fn optimizer_state(&mut self) -> Result<OptimizerState>;
    /// Loads the optimizer's state; the next update checks it.
    ///
    /// # Errors
    /// An error of the device.
    fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<()>;
    /// Sets the mask of masked graphs: per image and cell, whether it is visible; `rows` x `columns` cells per image.
    ///
    /// # Errors
    /// Cells that do not fill the images.
    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<()>;
    /// Bytes of all buffers that the engine holds.
    fn bytes(&self) -> usize;
}

impl<B: Backend + Send> Engine for Tape<B>
where
    B::Buffer: Send,
{
    fn device(&self) -> &Device {
        self.backend().device()
    }

    fn plan(&self, graph: Graph) -> Program {
        Program::new(graph, self.backend())
    }

    fn forward(&mut self, program: &Arc<Program>, images: Images<'_>, mode: Mode) -> Result<()> {
        Self::forward(self, program, images, mode)
    }

    fn output(&mut self, at: usize) -> Result<Tensor> {
        Self::output(self, at)
    }

    fn backward(&mut self, outputs: &[Option<Tensor>], accumulate: bool) -> Result<()> {
        Self::backward(self, outputs, accumulate)
    }

    fn update(&mut self, table: &Table, update: &Update) -> Result<()> {
        self.backend_mut().update(table, update)
    }

    fn unchecked_norm(&mut self) -> Result<Option<Tensor>> {
        self.backend_mut().unchecked_norm()
    }

    fn watch(&mut self, stop: Option<Arc<AtomicBool>>) {
        Self::watch(self, stop);
    }

    fn state(&mut self) -> Result<State> {
        self.backend_mut().state()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.backend_mut().load_state(state)
    }

    fn gradients(&mut self) -> Result<Vec<f32>> {
        self.backend_mut().gradients()
    }

    fn optimizer_state(&mut self) -> Result<OptimizerState> {
        self.backend_mut().optimizer_state()
    }

    fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<()> {
        self.backend_mut().load_optimizer_state(state)
    }

    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<()> {
        self.backend_mut().set_mask(visible, rows, columns)
    }

    fn bytes(&self) -> usize {
        self.backend().bytes()
    }
}
