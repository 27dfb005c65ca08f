//! The engine: students as static graphs, run forward and backward by one tape on the CPU or on CUDA.
//!
//! ```text
//! graph        what is computed: nodes, shapes, parameters         parameters   names, layout, initial values
//! tape         in which order, into which buffers                  backend      what a device must be able to do
//! cpu, cuda    the devices
//! ```
//!
//! Candle's autograd is not involved: it would allocate, zero and add one gradient per operation, and keep both sides of every
//! normalization. Objectives, which are small, are written with Candle tensors and its autograd; the tape takes over where the
//! student's outputs begin.

mod backend;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod graph;
pub mod parameters;
mod tape;

use std::sync::Arc;

use candle_core::{Device, Tensor};

use self::graph::Graph;
use self::parameters::{State, Table};
use crate::error::TrainError;
use crate::optim::Update;
pub use backend::{Backend, Images, Mode, Reading, Site, Through};
pub use cpu::CpuBackend;
#[cfg(feature = "cuda")]
pub use cuda::CudaBackend;
pub use tape::{Program, Tape};

/// A tape on some device.
pub trait Engine: Send {
    /// Where objectives compute.
    fn device(&self) -> &Device;
    /// Plans a graph.
    fn plan(&self, graph: Graph) -> Program;
    /// See [`Tape::forward`].
    ///
    /// # Errors
    /// As there.
    fn forward(&mut self, program: &Arc<Program>, images: Images<'_>, mode: Mode) -> Result<(), TrainError>;
    /// See [`Tape::output`].
    ///
    /// # Errors
    /// As there.
    fn output(&mut self, at: usize) -> Result<Tensor, TrainError>;
    /// See [`Tape::backward`].
    ///
    /// # Errors
    /// As there.
    fn backward(&mut self, outputs: &[Option<Tensor>], accumulate: bool) -> Result<(), TrainError>;
    /// One step of the optimizer.
    ///
    /// # Errors
    /// An error of the device.
    fn update(&mut self, table: &Table, update: &Update) -> Result<(), TrainError>;
    /// See [`Backend::unchecked_norm`].
    ///
    /// # Errors
    /// An error of the device.
    fn unchecked_norm(&mut self) -> Result<Option<Tensor>, TrainError>;
    /// Parameters and buffers.
    ///
    /// # Errors
    /// An error of the device.
    fn state(&mut self) -> Result<State, TrainError>;
    /// Puts parameters and buffers back.
    ///
    /// # Errors
    /// Another length, or an error of the device.
    fn load_state(&mut self, state: &State) -> Result<(), TrainError>;
    /// Gradients of the parameters, flat.
    ///
    /// # Errors
    /// An error of the device.
    fn gradients(&mut self) -> Result<Vec<f32>, TrainError>;
    /// The optimizer's vectors, flat.
    ///
    /// # Errors
    /// An error of the device.
    fn optimizer_state(&mut self) -> Result<Vec<Vec<f32>>, TrainError>;
    /// Puts the optimizer's vectors back.
    ///
    /// # Errors
    /// An error of the device.
    fn load_optimizer_state(&mut self, slots: &[Vec<f32>]) -> Result<(), TrainError>;
    /// The mask of masked graphs: per image and cell, whether it is visible.
    ///
    /// # Errors
    /// Cells that do not fill the images.
    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<(), TrainError>;
    /// Bytes of buffers held.
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

    fn forward(&mut self, program: &Arc<Program>, images: Images<'_>, mode: Mode) -> Result<(), TrainError> {
        Self::forward(self, program, images, mode)
    }

    fn output(&mut self, at: usize) -> Result<Tensor, TrainError> {
        Self::output(self, at)
    }

    fn backward(&mut self, outputs: &[Option<Tensor>], accumulate: bool) -> Result<(), TrainError> {
        Self::backward(self, outputs, accumulate)
    }

    fn update(&mut self, table: &Table, update: &Update) -> Result<(), TrainError> {
        self.backend_mut().update(table, update)
    }

    fn unchecked_norm(&mut self) -> Result<Option<Tensor>, TrainError> {
        self.backend_mut().unchecked_norm()
    }

    fn state(&mut self) -> Result<State, TrainError> {
        self.backend_mut().state()
    }

    fn load_state(&mut self, state: &State) -> Result<(), TrainError> {
        self.backend_mut().load_state(state)
    }

    fn gradients(&mut self) -> Result<Vec<f32>, TrainError> {
        self.backend_mut().gradients()
    }

    fn optimizer_state(&mut self) -> Result<Vec<Vec<f32>>, TrainError> {
        self.backend_mut().optimizer_state()
    }

    fn load_optimizer_state(&mut self, slots: &[Vec<f32>]) -> Result<(), TrainError> {
        self.backend_mut().load_optimizer_state(slots)
    }

    fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<(), TrainError> {
        self.backend_mut().set_mask(visible, rows, columns)
    }

    fn bytes(&self) -> usize {
        self.backend().bytes()
    }
}
