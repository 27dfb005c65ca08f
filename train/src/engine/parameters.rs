//! The parameters of a graph: names, shapes, initial values, and their places in one flat vector.
//!
//! With one vector, an optimizer step is one pass over memory. Filters are OHWI in memory, the order that kernels read,
//! and OIHW in files and tensors, as in torchvision.

use lgd_kernels::ShapeError;

use crate::rng::Stream;

/// Parameters start at multiples of this many values, so that vector loads of any type are aligned.
const ALIGNMENT: usize = 64;

/// Place of a tensor in the flat vector of parameters or of buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// Index of the first value.
    pub start: usize,
    /// Number of values.
    pub len: usize,
}

impl Range {
    /// As a slice index.
    pub fn indices(self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }
}

/// The order of a tensor's values in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The same as in the file.
    AsStored,
    /// OIHW in the file, OHWI in memory.
    Filters,
}

/// Role of a parameter, which selects its settings in the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weights of a convolution or dense layer.
    Weight,
    /// A bias.
    Bias,
    /// Scale of a normalization.
    NormScale,
    /// Shift of a normalization.
    NormShift,
}

/// Initial values of a parameter. Random values depend on seed and name only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// One value.
    Constant(f32),
    /// Normal about 0.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
    /// Uniform about 0.
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
}

/// A parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    /// torchvision's name.
    pub name: String,
    /// torchvision's shape.
    pub shape: Vec<usize>,
    /// Order in memory.
    pub layout: Layout,
    /// Role in the network.
    pub role: Role,
    /// Initial values.
    pub initial: Initial,
}

/// A tensor of a table with its range.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name, shape and role.
    pub spec: ParameterSpec,
    /// Range in the flat vector.
    pub range: Range,
}

/// All parameters and buffers of a graph, in the order of the graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    parameters: Vec<Entry>,
    buffers: Vec<Entry>,
    parameter_len: usize,
    buffer_len: usize,
}

impl Table {
    /// The trainable tensors.
    pub fn parameters(&self) -> &[Entry] {
        &self.parameters
    }

    /// The tracked tensors: running statistics.
    pub fn buffers(&self) -> &[Entry] {
        &self.buffers
    }

    /// Length of the flat vector of parameters, gaps included.
    pub fn parameter_len(&self) -> usize {
        self.parameter_len
    }

    /// Length of the flat vector of buffers, gaps included.
    pub fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// Number of trainable scalars.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|entry| entry.range.len).sum()
    }

    /// The tensor called `name`, and whether it is a buffer.
    pub fn find(&self, name: &str) -> Option<(&Entry, bool)> {
        let among = |entries: &'_ [Entry]| entries.iter().position(|entry| entry.spec.name == name);
        match among(&self.parameters) {
            Some(at) => Some((&self.parameters[at], false)),
            None => among(&self.buffers).map(|at| (&self.buffers[at], true)),
        }
    }

    pub(super) fn parameter(&mut self, spec: ParameterSpec) -> Result<Range, ShapeError> {
        self.require_new(&spec.name)?;
        let range = place(&mut self.parameter_len, &spec.shape);
        self.parameters.push(Entry { spec, range });
        Ok(range)
    }

    pub(super) fn buffer(&mut self, name: String, len: usize, value: f32) -> Result<Range, ShapeError> {
        self.require_new(&name)?;
        let shape = vec![len];
        let range = place(&mut self.buffer_len, &shape);
        let initial = Initial::Constant(value);
        let spec = ParameterSpec { name, shape, layout: Layout::AsStored, role: Role::NormScale, initial };
        self.buffers.push(Entry { spec, range });
        Ok(range)
    }

    /// Fails if a tensor of that name exists. Every parameter is used once, so its gradient can be written instead of
    /// added.
    fn require_new(&self, name: &str) -> Result<(), ShapeError> {
        let known = usize::from(self.find(name).is_some());
        if known == 0 {
            Ok(())
        } else {
            Err(ShapeError::Mismatch { what: "uses of one parameter", expected: 0, got: known })
        }
    }

    /// Initial parameters and buffers, flat, drawn from `seed`.
    pub fn initial(&self, seed: u64) -> State {
        let fill = |entries: &[Entry], len: usize| {
            let mut flat = vec![0.0; len];
            for Entry { spec, range } in entries {
                // Drawn in the file's order, so the values do not depend on the layout in memory.
                spec.write(&draw(spec, range.len, seed), &mut flat[range.indices()]);
            }
            flat
        };
        State {
            parameters: fill(&self.parameters, self.parameter_len),
            buffers: fill(&self.buffers, self.buffer_len),
        }
    }
}

/// The values of a student: parameters and buffers, one flat vector each. `V` is a vector on the host by default.
#[derive(Debug, Clone, PartialEq)]
pub struct State<V = Vec<f32>> {
    /// Laid out as in [`Table::parameters`].
    pub parameters: V,
    /// Laid out as in [`Table::buffers`].
    pub buffers: V,
}

impl ParameterSpec {
    /// Copies `values` from the file's order to the order in memory.
    pub fn write(&self, values: &[f32], memory: &mut [f32]) {
        self.permute(|file, place| memory[place] = values[file]);
    }

    /// Returns the values of `memory` in the file's order.
    pub fn read(&self, memory: &[f32]) -> Vec<f32> {
        let mut values = vec![0.0; memory.len()];
        self.permute(|file, place| values[file] = memory[place]);
        values
    }

    /// Calls `f(index in the file, index in memory)` for every value.
    fn permute(&self, mut f: impl FnMut(usize, usize)) {
        let len = self.shape.iter().product();
        match (self.layout, &self.shape[..]) {
            (Layout::Filters, &[_, inputs, rows, columns]) => {
                let taps = rows * columns;
                for file in 0..len {
                    let (filter, channel, tap) = (file / (inputs * taps), file / taps % inputs, file % taps);
                    f(file, (filter * taps + tap) * inputs + channel);
                }
            }
            _ => (0..len).for_each(|at| f(at, at)),
        }
    }
}

fn place(end: &mut usize, shape: &[usize]) -> Range {
    let len = shape.iter().product();
    let range = Range { start: *end, len };
    *end += usize::next_multiple_of(len, ALIGNMENT);
    range
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn draw(spec: &ParameterSpec, len: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::named(seed, &spec.name);
    match spec.initial {
        Initial::Constant(value) => vec![value; len],
        Initial::Normal { deviation } => (0..len).map(|_| (stream.normal() * deviation) as f32).collect(),
        Initial::Uniform { bound } => {
            (0..len).map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32).collect()
        }
    }
}
