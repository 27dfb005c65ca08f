//! A small graph on the CPU with everything that a test asks of it.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use lgd_kernels::ShapeError;
use lgd_train::engine::graph::{Builder, Shape, Value};
use lgd_train::engine::parameters::Table;
use lgd_train::engine::{Backend, CpuBackend, Engine, Images, Mode, Program, Tape};
use lgd_train::error::TrainError;

use crate::golden::values;

/// Training at some step.
pub const TRAIN: Mode = Mode::Train { seed: 1, step: 1 };

/// A graph, its parameters and the tape that runs it; its images want a gradient.
pub struct Layer {
    pub tape: Tape<CpuBackend>,
    pub table: Table,
    program: Arc<Program>,
    shape: Shape,
}

/// The shape of a tensor with these dimensions: `[B, H, W, C]` or `[B, C]`.
pub fn shape(dims: &[usize]) -> Shape {
    match *dims {
        [batch, height, width, channels] => Shape { batch, height, width, channels },
        [batch, channels] => Shape { batch, height: 1, width: 1, channels },
        _ => panic!("no value has the shape {dims:?}"),
    }
}

impl Layer {
    /// The graph of `build` over images of `dims`.
    pub fn new(
        dims: &[usize],
        build: impl FnOnce(&mut Builder, Value) -> Result<Vec<Value>, ShapeError>,
    ) -> Self {
        let shape = shape(dims);
        let (mut builder, images) = Builder::new(shape).unwrap();
        builder.differentiate_images();
        let outputs = build(&mut builder, images).unwrap();
        let (graph, table) = builder.finish(outputs);
        let backend = CpuBackend::new(table.initial(1));
        let program = Arc::new(Program::new(graph, &backend));
        Self { tape: Tape::new(backend), table, program, shape }
    }

    /// Every parameter by name.
    pub fn names(&self) -> Vec<String> {
        self.table.parameters().iter().map(|entry| entry.spec.name.clone()).collect()
    }

    /// Values of the images.
    pub fn images_len(&self) -> usize {
        self.shape.len()
    }

    /// Writes a parameter or buffer, given in the file's order.
    pub fn set(&mut self, name: &str, given: &[f32]) {
        let (entry, is_buffer) = self.table.find(name).unwrap();
        let mut state = self.tape.backend_mut().state().unwrap();
        let flat = if is_buffer { &mut state.buffers } else { &mut state.parameters };
        assert_eq!(given.len(), entry.range.len, "{name}");
        entry.spec.write(given, &mut flat[entry.range.indices()]);
        self.tape.backend_mut().load_state(&state).unwrap();
    }

    /// Parameter or buffer.
    pub fn get(&mut self, name: &str) -> Vec<f32> {
        let (entry, is_buffer) = self.table.find(name).unwrap();
        let state = self.tape.backend_mut().state().unwrap();
        let flat = if is_buffer { &state.buffers } else { &state.parameters };
        entry.spec.read(&flat[entry.range.indices()])
    }

    /// Gradient of a parameter.
    pub fn gradient(&mut self, name: &str) -> Vec<f32> {
        let (entry, _) = self.table.find(name).unwrap();
        entry.spec.read(&self.tape.backend_mut().gradients().unwrap()[entry.range.indices()])
    }

    /// Gradients of all parameters, flat.
    pub fn gradients(&mut self) -> Vec<f32> {
        self.tape.backend_mut().gradients().unwrap()
    }

    /// Runs the graph.
    pub fn run(&mut self, x: &[f32], mode: Mode) -> Result<(), TrainError> {
        Tape::forward(&mut self.tape, &self.program, Images::Normalized(x), mode)
    }

    /// Runs the graph on bytes or numbers.
    pub fn run_images(&mut self, images: Images<'_>, mode: Mode) -> Result<(), TrainError> {
        Tape::forward(&mut self.tape, &self.program, images, mode)
    }

    /// An output of the last run.
    pub fn output(&mut self, at: usize) -> Vec<f32> {
        values(&Tape::output(&mut self.tape, at).unwrap())
    }

    /// First output.
    pub fn forward(&mut self, x: &[f32], mode: Mode) -> Vec<f32> {
        self.run(x, mode).unwrap();
        self.output(0)
    }

    /// Backward pass from gradients of the first outputs.
    pub fn try_backward(&mut self, upstream: &[Option<&[f32]>], accumulate: bool) -> Result<(), TrainError> {
        let tensor = |g: &[f32]| Tensor::from_slice(g, g.len(), &Device::Cpu).unwrap();
        let upstream: Vec<Option<Tensor>> = upstream.iter().map(|g| g.map(tensor)).collect();
        Tape::backward(&mut self.tape, &upstream, accumulate)
    }

    /// Backward pass from the gradient of the first output.
    pub fn backward(&mut self, g: &[f32]) {
        self.try_backward(&[Some(g)], false).unwrap();
    }

    /// Gradient of the images.
    pub fn dx(&mut self) -> Vec<f32> {
        let Shape { batch, height, width, channels } = self.shape;
        values(&self.tape.images_gradient(&[batch, height, width, channels]).unwrap())
    }

    /// Bytes of buffers held.
    pub fn bytes(&self) -> usize {
        Engine::bytes(&self.tape)
    }

    /// `Σ outputs . upstream` at `x`.
    fn functional(&mut self, x: &[f32], upstream: &[Vec<f32>]) -> f64 {
        self.run(x, TRAIN).unwrap();
        let mut sum = 0.0;
        for (at, g) in upstream.iter().enumerate() {
            sum += self.output(at).iter().zip(g).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum::<f64>();
        }
        sum
    }

    /// Central differences of `Σ outputs . upstream` in some values of the images and of every parameter against the backward
    /// pass: the largest difference, relative to the largest slope of the same tensor.
    pub fn slope_error(&mut self, x: &[f32], upstream: &[Vec<f32>], step: f32) -> f64 {
        self.run(x, TRAIN).unwrap();
        let given: Vec<Option<&[f32]>> = upstream.iter().map(|g| Some(&g[..])).collect();
        self.try_backward(&given, false).unwrap();
        let dx = self.dx();
        let mut worst = 0.0_f64;
        let slopes = |start: &[f32], at: usize, functional: &mut dyn FnMut(&[f32]) -> f64| {
            let mut moved = start.to_vec();
            moved[at] = start[at] + step;
            let (above, high) = (functional(&moved), moved[at]);
            moved[at] = start[at] - step;
            let (below, low) = (functional(&moved), moved[at]);
            (above - below) / (f64::from(high) - f64::from(low))
        };
        let mut compare = |pairs: Vec<(f64, f64)>| {
            let scale = pairs.iter().map(|pair| pair.0.abs()).fold(1e-6, f64::max);
            for (numeric, analytic) in pairs {
                let error = (numeric - analytic).abs() / scale;
                worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
            }
        };
        let picked = |len: usize| (0..len).step_by(len.div_ceil(9));
        let gradients: Vec<(String, Vec<f32>)> =
            self.names().into_iter().map(|name| (name.clone(), self.gradient(&name))).collect();
        let mut on_images = |moved: &[f32]| self.functional(moved, upstream);
        compare(picked(dx.len()).map(|at| (slopes(x, at, &mut on_images), f64::from(dx[at]))).collect());
        for (name, gradient) in gradients {
            let start = self.get(&name);
            let mut on_parameter = |moved: &[f32]| {
                self.set(&name, moved);
                self.functional(x, upstream)
            };
            let slope = |at| (slopes(&start, at, &mut on_parameter), f64::from(gradient[at]));
            compare(picked(start.len()).map(slope).collect());
            self.set(&name, &start);
        }
        worst
    }
}
