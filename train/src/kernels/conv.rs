//! Dense convolution, forward and backward-data: how each becomes an implicit GEMM (`gather`).

use super::gather::{Gather, Phase};
use super::geometry::{ShapeError, Sliding, expect_eq, expect_positive};
use super::pack::{Border, Panels, WeightStrides, pad};

/// A dense convolution: NHWC input and output, OIHW weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Input, window and output positions.
    pub sliding: Sliding,
    /// Output channels.
    pub out_channels: usize,
}

impl Conv {
    /// A convolution of `out_channels` filters over `sliding`.
    ///
    /// # Errors
    /// No filters.
    pub fn new(sliding: Sliding, out_channels: usize) -> Result<Self, ShapeError> {
        expect_positive("output channels", out_channels)?;
        Ok(Self { sliding, out_channels })
    }

    /// Scalars of the output.
    pub fn out_len(&self) -> usize {
        self.sliding.out_pixels() * self.out_channels
    }

    /// Scalars of the weights.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.sliding.channels * self.sliding.taps()
    }

    /// The input with its padding, and the padded rows and columns.
    pub(super) fn padded<'a>(&self, x: &'a [f32]) -> (std::borrow::Cow<'a, [f32]>, usize, usize) {
        let s = &self.sliding;
        let p = s.window.padding;
        let border = Border { top: p, bottom: p, left: p, right: p };
        (pad(x, (s.height, s.width, s.channels), border), s.height + 2 * p, s.width + 2 * p)
    }

    /// Offsets and common length of the runs of a receptive field in a padded input of `width` columns.
    ///
    /// The runs, one after the other, hold the taps in row-major order.
    pub(super) fn runs(&self, width: usize) -> (Vec<usize>, usize) {
        let Sliding { channels, kernel: (rows, columns), window, .. } = self.sliding;
        if window.dilation == 1 {
            return ((0..rows).map(|r| r * width * channels).collect(), columns * channels);
        }
        let tap = |t: usize| (t / columns * width + t % columns) * window.dilation * channels;
        ((0..rows * columns).map(tap).collect(), channels)
    }
}

/// `y[b, i, j, o] = Σ x[b, i*s + r*d - p, j*s + q*d - p, c] * w[o, c, r, q]`.
///
/// `x` is NHWC, `weights` OIHW; the result is NHWC.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn forward(conv: &Conv, x: &[f32], weights: &[f32]) -> Result<Vec<f32>, ShapeError> {
    let s = &conv.sliding;
    expect_eq("convolution input", s.in_len(), x.len())?;
    expect_eq("convolution weights", conv.weight_len(), weights.len())?;
    let (padded, height, width) = conv.padded(x);
    let (runs, run_len) = conv.runs(width);
    let taps: Vec<usize> = (0..s.taps()).collect();
    let strides = WeightStrides { column: s.channels * s.taps(), channel: s.taps() };
    let panels = Panels::pack(weights, &taps, s.channels, conv.out_channels, strides);
    let gather = Gather {
        input: &padded,
        input_dims: (height, width, s.channels),
        input_step: s.window.stride,
        output_step: 1,
        batch: s.batch,
        output_dims: (s.out_height, s.out_width, conv.out_channels),
        phases: vec![Phase { first: (0, 0), runs, run_len, panels }],
    };
    Ok(gather.run())
}

/// The gradient of the input, NHWC, from the gradient `dy` of the output.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn backward_data(conv: &Conv, dy: &[f32], weights: &[f32]) -> Result<Vec<f32>, ShapeError> {
    let s = &conv.sliding;
    expect_eq("convolution output gradient", conv.out_len(), dy.len())?;
    expect_eq("convolution weights", conv.weight_len(), weights.len())?;
    let rows = Axis::new(s, s.kernel.0, s.height, s.out_height);
    let columns = Axis::new(s, s.kernel.1, s.width, s.out_width);
    let border = Border { top: rows.before, bottom: rows.after, left: columns.before, right: columns.after };
    let padded = pad(dy, (s.out_height, s.out_width, conv.out_channels), border);
    let width = s.out_width + columns.before + columns.after;
    let strides = WeightStrides { column: s.taps(), channel: s.channels * s.taps() };
    let mut phases = Vec::new();
    for (first_row, row_taps) in rows.phases.iter().enumerate() {
        for (first_column, column_taps) in columns.phases.iter().enumerate() {
            if row_taps.is_empty() || column_taps.is_empty() {
                continue;
            }
            let (runs, run_len) = phase_runs(row_taps, column_taps, width, conv.out_channels);
            let taps: Vec<usize> = row_taps
                .iter()
                .flat_map(|row| column_taps.iter().map(|column| row.tap * s.kernel.1 + column.tap))
                .collect();
            let panels = Panels::pack(weights, &taps, conv.out_channels, s.channels, strides);
            phases.push(Phase { first: (first_row, first_column), runs, run_len, panels });
        }
    }
    let gather = Gather {
        input: &padded,
        input_dims: (s.out_height + rows.before + rows.after, width, conv.out_channels),
        input_step: 1,
        output_step: s.window.stride,
        batch: s.batch,
        output_dims: (s.height, s.width, s.channels),
        phases,
    };
    Ok(gather.run())
}

/// Runs over the padded gradient: one per row of taps where their columns are neighbours, else one per tap.
fn phase_runs(rows: &[PhaseTap], columns: &[PhaseTap], width: usize, channels: usize) -> (Vec<usize>, usize) {
    let offset = |row: &PhaseTap, column: &PhaseTap| (row.at * width + column.at) * channels;
    if columns.windows(2).all(|pair| pair[1].at == pair[0].at + 1) {
        (rows.iter().map(|row| offset(row, &columns[0])).collect(), columns.len() * channels)
    } else {
        let taps = rows.iter().flat_map(|row| columns.iter().map(move |column| offset(row, column)));
        (taps.collect(), channels)
    }
}

/// A tap that reaches the inputs of one phase, and the padded output coordinate it reaches the phase's first input from.
struct PhaseTap {
    tap: usize,
    at: usize,
}

/// Backward-data along one axis.
///
/// Input `i = phase + n * stride` receives tap `t` from output `n + (phase + padding - t * dilation) / stride` where
/// that division is exact.
struct Axis {
    /// Per phase, its taps in ascending order of output coordinate.
    phases: Vec<Vec<PhaseTap>>,
    /// Zeros needed before the first output.
    before: usize,
    /// Zeros needed after the last output.
    after: usize,
}

impl Axis {
    fn new(s: &Sliding, taps: usize, input: usize, output: usize) -> Self {
        let window = s.window;
        // Coordinates are shifted by `shift` outputs, so that they never go below zero.
        let shift = ((taps - 1) * window.dilation).div_ceil(window.stride);
        let shifted = |phase: usize, tap: usize| {
            let start = phase + window.padding + shift * window.stride - tap * window.dilation;
            start.is_multiple_of(window.stride).then_some(start / window.stride)
        };
        let phase_taps = |phase: usize| -> Vec<PhaseTap> {
            let taps = (0..taps).rev();
            taps.filter_map(|tap| shifted(phase, tap).map(|at| PhaseTap { tap, at })).collect()
        };
        let mut phases: Vec<_> = (0..window.stride.min(input)).map(phase_taps).collect();
        let lowest = phases.iter().flatten().map(|tap| tap.at).min().unwrap_or(shift);
        let before = shift.saturating_sub(lowest);
        let mut end = before + output;
        for (phase, taps) in phases.iter_mut().enumerate() {
            let last = (input - phase).div_ceil(window.stride) - 1;
            for tap in taps {
                tap.at = tap.at + before - shift;
                end = end.max(last + tap.at + 1);
            }
        }
        Self { phases, before, after: end - before - output }
    }
}
