//! The backward sweeps over strips of input rows: the gradient of the input, and the products of the weights' gradient.

use super::ahead::{self, Ahead};
use super::correlate::{self, Correlate, Target};
use super::ring::{Ring, Row};
use super::weight::{self, Products};
use super::{Filters, input_row, input_slots};
use crate::elementwise::{Aligned, Values, with_scratch};
use crate::geometry::Sliding;
use crate::simd;

/// The sweep of the input's gradient: correlates the gradient of the output with turned filters.
pub(super) struct DataSweep<'a> {
    s: &'a Sliding,
    dy: &'a Values<'a>,
    /// Held rows of `dy`.
    row: Row,
    phases: Vec<Phase>,
    /// Columns of the output between the taps of a phase.
    dilation: usize,
    accumulate: bool,
}

/// Columns of the input, a stride apart, that meet the same taps of the windows.
struct Phase {
    /// First column of the input.
    first: usize,
    /// Columns of the input.
    columns: usize,
    /// Column of the output under the first tap of the first input column, counted from the left end of a held row.
    under: usize,
    /// The filters, one for each phase of the input rows.
    filters: Vec<Filters>,
}

impl<'a> DataSweep<'a> {
    pub(super) fn new(s: &'a Sliding, dy: &'a Values<'a>, weights: &[f32], accumulate: bool) -> Self {
        let dilation = s.window.dilation / greatest_common_divisor(s.window.stride, s.window.dilation);
        // The first tap may be to the left of the output: the row then starts with at least as many zero columns.
        let starts = 0..s.window.stride.min(s.width);
        let reach = |first| taps_on(s, first, s.kernel.1).first().map_or(0, |q| q * s.window.dilation);
        let before = |first| reach(first).saturating_sub(first + s.window.padding) / s.window.stride;
        let left = starts.clone().map(before).max().unwrap_or(0);
        let mut row = Row { channels: s.channels, width: s.out_width, left, padded: left + s.out_width };
        let phase = |first: usize| {
            let columns = (s.width - first).div_ceil(s.window.stride);
            let behind = (first + s.window.padding).saturating_sub(reach(first)) / s.window.stride;
            let under = left + behind - before(first);
            let taps = taps_on(s, first, s.kernel.1);
            row.padded = row.padded.max(under + correlate::reach(columns, taps.len(), (1, dilation)));
            let filters = |first| Filters::pack(s, weights, taps_on(s, first, s.kernel.0), taps.clone());
            Phase { first, columns, under, filters: (0..s.window.stride).map(filters).collect() }
        };
        let phases = starts.map(phase).collect();
        Self { s, dy, row, phases, dilation, accumulate }
    }

    /// Computes the gradient of the input rows from `first` on, counted over the batch.
    pub(super) fn strip(&self, first: usize, dx: &mut [f32]) {
        let Self { s, row, .. } = *self;
        let row_len = s.width * s.channels;
        let slots = output_slots(s);
        with_scratch(row.ring_len(slots), |memory| {
            let mut ring = Ring::new(row, slots, memory);
            for i in 0..dx.len() / row_len {
                let (dx, next) = dx[i * row_len..].split_at_mut(row_len);
                let steps = correlate::steps(s.width, row.blocks());
                let stretches = [next_outputs(s, self.dy, first + i), ahead::rows(next, 0, 1, row_len)];
                self.input_row(&mut ring, first + i, dx, &mut Ahead::new(stretches, steps));
            }
        });
    }

    /// Computes the gradient of one input row.
    fn input_row(&self, ring: &mut Ring<'_>, number: usize, dx: &mut [f32], ahead: &mut Ahead<'_, 2>) {
        let s = self.s;
        let (image, i) = (number / s.height, number % s.height);
        let outputs = |r: &usize| s.target(i, *r, s.out_height).map(|at| image * s.out_height + at);
        let taps = &self.phases[0].filters[i % s.window.stride].rows;
        taps.iter().filter_map(outputs).for_each(|output| ring.hold(output, self.dy));
        let rows: Vec<&[f32]> = taps.iter().map(|r| ring.row(outputs(r))).collect();
        for phase in &self.phases {
            let filters = &phase.filters[i % s.window.stride];
            simd::dispatch(Correlate {
                rows: (&rows, self.row.padded),
                filters: &filters.data,
                taps: filters.columns.len(),
                first: phase.under,
                step: (1, self.dilation),
                columns: phase.columns,
                target: Target {
                    out: &mut dx[phase.first * s.channels..],
                    channels: s.channels,
                    step: s.window.stride * s.channels,
                    accumulate: self.accumulate,
                },
                ahead,
            });
        }
    }
}

/// The sweep of the weights' gradient: sums the products of inputs and gradients of the output per tap.
pub(super) struct WeightSweep<'a> {
    s: &'a Sliding,
    x: &'a Values<'a>,
    dy: &'a Values<'a>,
    /// Held rows of `x` and of `dy`.
    rows: (Row, Row),
}

impl<'a> WeightSweep<'a> {
    pub(super) fn new(s: &'a Sliding, x: &'a Values<'a>, dy: &'a Values<'a>) -> Self {
        let padded = weight::reach(s.out_width);
        let row = Row { channels: s.channels, width: s.out_width, left: 0, padded };
        Self { s, x, dy, rows: (input_row(s), row) }
    }

    /// Returns the sums over `count` input rows from `first` on, counted over the batch: `[block][kernel
    /// row][tap][lane]`.
    pub(super) fn strip(&self, first: usize, count: usize) -> Aligned {
        let Self { s, rows: (x_row, dy_row), .. } = *self;
        let (x_slots, dy_slots) = (input_slots(s), output_slots(s));
        let x_len = x_row.ring_len(x_slots);
        let mut sums = Aligned::zeros(x_row.blocks() * s.taps() * simd::lanes());
        with_scratch(x_len + dy_row.ring_len(dy_slots), |memory| {
            let (x_memory, dy_memory) = memory.split_at_mut(x_len);
            let mut rings = (Ring::new(x_row, x_slots, x_memory), Ring::new(dy_row, dy_slots, dy_memory));
            let below = x_slots.saturating_sub(s.window.padding);
            for number in first..first + count {
                let inputs = ahead::rows(self.x.data(), number + below, 1, s.width * s.channels);
                let steps = correlate::steps(s.width, dy_row.blocks());
                let mut ahead = Ahead::new([next_outputs(s, self.dy, number), inputs], steps);
                self.output_rows(&mut rings, number, &mut sums, &mut ahead);
            }
        });
        sums
    }

    /// Adds the products of the output rows whose windows start nearest to one input row.
    fn output_rows(
        &self,
        (x_ring, dy_ring): &mut (Ring<'_>, Ring<'_>),
        number: usize,
        sums: &mut [f32],
        ahead: &mut Ahead<'_, 2>,
    ) {
        let s = self.s;
        let (image, at) = (number / s.height, number % s.height);
        let first = at.div_ceil(s.window.stride);
        let end = if at + 1 == s.height { s.out_height } else { (at + 1).div_ceil(s.window.stride) };
        for i in first..end.min(s.out_height) {
            let inputs = |r| s.source(i, r, s.height).map(|at| image * s.height + at);
            (0..s.kernel.0).filter_map(inputs).for_each(|input| x_ring.hold(input, self.x));
            let output = image * s.out_height + i;
            dy_ring.hold(output, self.dy);
            let rows: Vec<&[f32]> = (0..s.kernel.0).map(|r| x_ring.row(inputs(r))).collect();
            simd::dispatch(Products {
                rows: (&rows, self.rows.0.padded),
                dy: (dy_ring.row(Some(output)), self.rows.1.padded),
                first: self.rows.1.left,
                taps: s.kernel.1,
                step: (s.window.stride, s.window.dilation),
                columns: s.out_width,
                sums,
                ahead,
            });
        }
    }
}

/// Maximum number of output rows that use one input row.
fn output_slots(s: &Sliding) -> usize {
    (s.kernel.0 - 1) * s.window.dilation / s.window.stride + 1
}

/// The output rows that input row `number + 1` needs and input row `number` does not.
fn next_outputs<'m>(s: &Sliding, dy: &'m Values<'_>, number: usize) -> &'m [f32] {
    let (image, i) = (number / s.height, number % s.height);
    let newest = |i: usize| image * s.out_height + (i + s.window.padding) / s.window.stride;
    ahead::rows(dy.data(), newest(i) + 1, newest(i + 1) - newest(i), s.out_width * s.channels)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The taps, last first, that meet input coordinate `at` and the coordinates a multiple of the stride away.
fn taps_on(s: &Sliding, at: usize, taps: usize) -> Vec<usize> {
    let residue = |at: usize| at % s.window.stride;
    let meets = |q: &usize| residue(q * s.window.dilation) == residue(at + s.window.padding);
    (0..taps).filter(meets).rev().collect()
}
