//! A small graph on a device, with everything that tests need of it.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use lgd_kernels::ShapeError;
use lgd_train::engine::graph::{Builder, Graph, Shape, Value};
use lgd_train::engine::parameters::Table;
use lgd_train::engine::{Backend, Engine, Images, Mode, Program, Tape};
use lgd_train::error::TrainError;

use crate::device::{Cpu, Element, TestDevice};
use crate::golden::{error, values};

/// A training pass late enough that every running statistic moves by its momentum, as in PyTorch.
pub const TRAIN: Mode = Mode::Train { seed: 1, step: 1000 };

/// A graph, its parameters and the tape that runs it on the device `D`. Its images require a gradient.
pub struct Layer<D: TestDevice> {
    pub tape: Tape<D::Backend>,
    pub table: Table,
    program: Arc<Program>,
    shape: Shape,
    mask: Option<(Vec<bool>, usize, usize)>,
}

/// The shape of a tensor with these dimensions: `[B, H, W, C]` or `[B, C]`.
pub fn shape(dims: &[usize]) -> Shape {
    match *dims {
        [batch, height, width, channels] => Shape { batch, height, width, channels },
        [batch, channels] => Shape { batch, height: 1, width: 1, channels },
        _ => panic!("no value has the shape {dims:?}"),
    }
}

impl<D: TestDevice> Layer<D> {
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
        Self::of(graph, table, shape)
    }

    fn of(graph: Graph, table: Table, shape: Shape) -> Self {
        let backend = D::backend(&table.initial(1));
        let program = Arc::new(Program::new(graph, &backend));
        Self { tape: Tape::new(backend), table, program, shape, mask: None }
    }

    /// The same layer on the CPU. Parameters are rounded on both. Otherwise, convolutions here would read rounded ones
    /// and normalizations exact ones.
    fn on_cpu(&mut self) -> Layer<Cpu> {
        let mut cpu = Layer::<Cpu>::of(self.program.graph().clone(), self.table.clone(), self.shape);
        let mut state = self.tape.backend_mut().state().unwrap();
        state.parameters = D::rounded(&state.parameters);
        self.tape.backend_mut().load_state(&state).unwrap();
        cpu.tape.backend_mut().load_state(&state).unwrap();
        if let Some((visible, rows, columns)) = &self.mask {
            cpu.set_mask(visible, *rows, *columns).unwrap();
        }
        cpu
    }

    /// Every parameter by name.
    pub fn names(&self) -> Vec<String> {
        self.table.parameters().iter().map(|entry| entry.spec.name.clone()).collect()
    }

    /// Number of values in the images.
    pub fn images_len(&self) -> usize {
        self.shape.len()
    }

    /// Writes a parameter or buffer. `given` is in the file's order.
    pub fn set(&mut self, name: &str, given: &[f32]) {
        let (entry, is_buffer) = self.table.find(name).unwrap();
        let mut state = self.tape.backend_mut().state().unwrap();
        let flat = if is_buffer { &mut state.buffers } else { &mut state.parameters };
        assert_eq!(given.len(), entry.range.len, "{name}");
        entry.spec.write(given, &mut flat[entry.range.indices()]);
        self.tape.backend_mut().load_state(&state).unwrap();
    }

    /// Reads a parameter or buffer.
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

    /// Sets the mask of the next batches.
    pub fn set_mask(&mut self, visible: &[bool], rows: usize, columns: usize) -> Result<(), TrainError> {
        self.mask = Some((visible.to_vec(), rows, columns));
        self.tape.backend_mut().set_mask(visible, rows, columns)
    }

    /// Runs the graph.
    pub fn run(&mut self, x: &[f32], mode: Mode) -> Result<(), TrainError> {
        Tape::forward(&mut self.tape, &self.program, Images::Normalized(x), mode)
    }

    /// Runs the graph on bytes or normalized values.
    pub fn run_images(&mut self, images: Images<'_>, mode: Mode) -> Result<(), TrainError> {
        Tape::forward(&mut self.tape, &self.program, images, mode)
    }

    /// An output of the last run.
    pub fn output(&mut self, at: usize) -> Vec<f32> {
        values(&Tape::output(&mut self.tape, at).unwrap())
    }

    /// Runs the graph and returns its first output.
    pub fn forward(&mut self, x: &[f32], mode: Mode) -> Vec<f32> {
        self.run(x, mode).unwrap();
        self.output(0)
    }

    /// Runs the backward pass from gradients of the first outputs.
    pub fn try_backward(&mut self, upstream: &[Option<&[f32]>], accumulate: bool) -> Result<(), TrainError> {
        let tensor = |g: &[f32]| Tensor::from_slice(g, g.len(), &Device::Cpu).unwrap();
        let upstream: Vec<Option<Tensor>> = upstream.iter().map(|g| g.map(tensor)).collect();
        Tape::backward(&mut self.tape, &upstream, accumulate)
    }

    /// Runs the backward pass from the gradient of the first output.
    pub fn backward(&mut self, g: &[f32]) {
        self.try_backward(&[Some(g)], false).unwrap();
    }

    /// Gradient of the images.
    pub fn dx(&mut self) -> Vec<f32> {
        let Shape { batch, height, width, channels } = self.shape;
        values(&self.tape.images_gradient(&[batch, height, width, channels]).unwrap())
    }

    /// Bytes of all buffers.
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

    /// Relative error of the gradients of the images and of every parameter, for the outputs' gradients `upstream`.
    ///
    /// In f32 they are compared with central differences of step `step`. In bf16 the rounding of the outputs is larger
    /// than such a difference, so they are compared, L2, with those of the same graph on the CPU.
    pub fn gradient_error(&mut self, x: &[f32], upstream: &[Vec<f32>], step: f32) -> f64 {
        match D::ELEMENT {
            Element::F32 => self.slope_error(x, upstream, step),
            Element::Bf16 => self.error_beside_cpu(x, upstream, TRAIN),
        }
    }

    /// Largest relative error, L2, of everything that a pass computes, compared with the same graph on the CPU with the
    /// same rounded values.
    pub fn error_beside_cpu(&mut self, x: &[f32], upstream: &[Vec<f32>], mode: Mode) -> f64 {
        let x = D::rounded(x);
        let mut cpu = self.on_cpu();
        let [here, there] = [self.results(&x, upstream, mode), cpu.results(&x, upstream, mode)];
        here.iter().zip(&there).map(|(got, expected)| error(got, expected)).fold(0.0, f64::max)
    }

    /// Outputs and, in training, running statistics, the gradient of the images and the gradient of every parameter.
    fn results(&mut self, x: &[f32], upstream: &[Vec<f32>], mode: Mode) -> Vec<Vec<f32>> {
        self.run(x, mode).unwrap();
        let mut results: Vec<Vec<f32>> = (0..upstream.len()).map(|at| self.output(at)).collect();
        if mode == Mode::Inference {
            return results;
        }
        results.push(self.tape.backend_mut().state().unwrap().buffers);
        self.try_backward(&upstream.iter().map(|g| Some(&g[..])).collect::<Vec<_>>(), false).unwrap();
        results.push(self.dx());
        results.extend(self.names().iter().map(|name| self.gradient(name)));
        results
    }

    /// Compares central differences of `Σ outputs . upstream`, for some values of the images and of every parameter,
    /// with the backward pass. Returns the largest difference, relative to the largest slope of the same tensor.
    fn slope_error(&mut self, x: &[f32], upstream: &[Vec<f32>], step: f32) -> f64 {
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
