//! The sweep of the gradients: over strips of input rows, the gradient of the input and the products of the weights' gradient.

use super::ahead::{self, Ahead};
use super::correlate::{self, Correlate, Target};
use super::ring::{Ring, Row};
use super::weight::{self, Products};
use super::{Filters, input_row, input_slots};
use crate::batch_norm::{Gradient, Normalization, Summing, Sums};
use crate::elementwise::{Aligned, Values, with_scratch};
use crate::geometry::Sliding;
use crate::simd;

/// Pixels written before their sums are taken.
const SUMS_PIXELS: usize = 64;

/// What one sweep computes.
pub(super) struct Sweep<'a> {
    s: &'a Sliding,
    dy: Gradient<'a>,
    dy_row: Row,
    /// For the gradient of the input.
    data: Option<Data>,
    /// For the gradient of the weights: the input.
    x: Option<&'a Values<'a>>,
    /// Sums for the normalization in front of the input, and the input in front of that.
    sums: Option<(Summing<'a>, &'a [f32])>,
}

/// What one strip adds to the sums over the batch.
pub(super) struct Part {
    /// `[block][kernel row][tap][lane]`.
    pub(super) weights: Aligned,
    sums: Option<Sums>,
}

/// How gradients of the input are gathered.
struct Data {
    phases: Vec<Phase>,
    /// Columns of the output between the taps of a phase.
    dilation: usize,
    accumulate: bool,
}

/// The columns of the input that lie on the same taps of the windows, a stride apart.
struct Phase {
    /// First column of the input.
    first: usize,
    /// Columns of the input.
    columns: usize,
    /// Column of the output under the first tap of the first of them, counted from the left end of a held row.
    under: usize,
    /// For the rows of the input, likewise.
    filters: Vec<Filters>,
}

impl<'a> Sweep<'a> {
    /// A sweep over `dy` that computes nothing yet.
    pub(super) fn new(s: &'a Sliding, dy: Gradient<'a>) -> Self {
        let dy_row =
            Row { channels: s.channels, width: s.out_width, left: 0, padded: weight::reach(s.out_width) };
        Self { s, dy, dy_row, data: None, x: None, sums: None }
    }

    /// With the gradient of the input.
    pub(super) fn with_data(mut self, weights: &[f32], accumulate: bool) -> Self {
        let s = self.s;
        let dilation = s.window.dilation / greatest_common_divisor(s.window.stride, s.window.dilation);
        // The first tap may lie in front of the output: then there are that many zero columns at least.
        let starts = 0..s.window.stride.min(s.width);
        let reach = |first| taps_on(s, first, s.kernel.1).first().map_or(0, |q| q * s.window.dilation);
        let before = |first| reach(first).saturating_sub(first + s.window.padding) / s.window.stride;
        let row = &mut self.dy_row;
        row.left = starts.clone().map(before).max().unwrap_or(0);
        row.padded += row.left;
        let phase = |first: usize| {
            let columns = (s.width - first).div_ceil(s.window.stride);
            let behind = (first + s.window.padding).saturating_sub(reach(first)) / s.window.stride;
            let under = row.left + behind - before(first);
            let taps = taps_on(s, first, s.kernel.1);
            row.padded = row.padded.max(under + correlate::reach(columns, taps.len(), (1, dilation)));
            let filters = |first| Filters::pack(s, weights, taps_on(s, first, s.kernel.0), taps.clone());
            Phase { first, columns, under, filters: (0..s.window.stride).map(filters).collect() }
        };
        let phases = starts.map(phase).collect();
        self.data = Some(Data { phases, dilation, accumulate });
        self
    }

    /// With the products of the weights' gradient.
    pub(super) fn with_weights(self, x: &'a Values<'a>) -> Self {
        Self { x: Some(x), ..self }
    }

    /// With the sums for the normalization in front of the input, which reads `x`.
    pub(super) fn with_sums(self, norm: &'a Normalization, x: &'a [f32]) -> Self {
        Self { sums: Some((Summing::new(norm), x)), ..self }
    }

    /// The sums of all parts.
    pub(super) fn finish_sums(&self, parts: Vec<Part>) -> Option<Sums> {
        let (summing, _) = self.sums.as_ref()?;
        Some(summing.finish(parts.into_iter().filter_map(|part| part.sums)))
    }

    /// The rows of the input from `first` on, counted over the batch: `rows` of them, or those of `dx`.
    pub(super) fn strip(&self, first: usize, rows: usize, mut dx: Option<&mut [f32]>) -> Part {
        let Self { s, dy_row, .. } = *self;
        let row_len = s.width * s.channels;
        let (x_row, x_slots) = (input_row(s), input_slots(s));
        let x_len = self.x.map_or(0, |_| x_row.ring_len(x_slots));
        let dy_slots = (s.kernel.0 - 1) * s.window.dilation / s.window.stride + 1;
        let weights = self.x.map_or(0, |_| x_row.blocks() * s.taps() * simd::lanes());
        let mut weights = Aligned::zeros(weights);
        let mut sums = self.sums.as_ref().map(|(summing, _)| summing.part());
        with_scratch(x_len + dy_row.ring_len(dy_slots), |memory| {
            let (x_memory, dy_memory) = memory.split_at_mut(x_len);
            let mut x_ring = self.x.map(|_| Ring::new(x_row, x_slots, x_memory));
            let mut dy_ring = Ring::new(dy_row, dy_slots, dy_memory);
            let group = SUMS_PIXELS.div_ceil(s.width);
            for start in (0..rows).step_by(group) {
                let end = rows.min(start + group);
                for row in start..end {
                    let (dx, next) = match &mut dx {
                        Some(dx) => dx[row * row_len..].split_at_mut(row_len),
                        None => Default::default(),
                    };
                    let mut ahead = self.ahead(first + row, next);
                    if let Some(data) = &self.data {
                        self.data_row(data, &mut dy_ring, first + row, dx, &mut ahead);
                    }
                    if let (Some(x), Some(x_ring)) = (self.x, &mut x_ring) {
                        self.weight_rows((x, x_ring), &mut dy_ring, first + row, &mut weights, &mut ahead);
                    }
                }
                if let (Some((summing, x)), Some(part), Some(dx)) = (&self.sums, &mut sums, &mut dx) {
                    let x = &x[(first + start) * row_len..(first + end) * row_len];
                    summing.add(part, x, &dx[start * row_len..end * row_len]);
                }
            }
        });
        Part { weights, sums: sums.map(|sums| sums.fold(s.channels)) }
    }

    /// What the row of the input behind `number` needs beside what is held for this one.
    fn ahead<'m>(&'m self, number: usize, dx: &'m [f32]) -> Ahead<'m, 4> {
        let s = self.s;
        let (image, i) = (number / s.height, number % s.height);
        let newest = |i: usize| image * s.out_height + (i + s.window.padding) / s.window.stride;
        let (newest, count) = (newest(i) + 1, newest(i + 1) - newest(i));
        let len = s.out_width * s.channels;
        let value = self.dy.through.map_or(&[][..], |(value, _)| value);
        let [dy, value] = [self.dy.dy, value].map(|data| ahead::rows(data, newest, count, len));
        let len = s.width * s.channels;
        let below = input_slots(s).saturating_sub(s.window.padding);
        let x = ahead::rows(self.x.map_or(&[], |x| x.data()), number + below, 1, len);
        let steps = correlate::steps(s.width, self.dy_row.blocks());
        Ahead::new([dy, value, x, ahead::rows(dx, 0, 1, len)], steps)
    }

    /// One row of the input's gradient.
    fn data_row(
        &self,
        data: &Data,
        ring: &mut Ring<'_>,
        number: usize,
        dx: &mut [f32],
        ahead: &mut Ahead<'_, 4>,
    ) {
        let s = self.s;
        let (image, i) = (number / s.height, number % s.height);
        let outputs = |r: &usize| s.target(i, *r, s.out_height).map(|at| image * s.out_height + at);
        let taps = &data.phases[0].filters[i % s.window.stride].rows;
        taps.iter().filter_map(outputs).for_each(|output| ring.hold(output, &self.dy));
        let rows: Vec<&[f32]> = taps.iter().map(|r| ring.row(outputs(r))).collect();
        for phase in &data.phases {
            let filters = &phase.filters[i % s.window.stride];
            simd::dispatch(Correlate {
                rows: (&rows, self.dy_row.padded),
                filters: &filters.data,
                taps: filters.columns.len(),
                first: phase.under,
                step: (1, data.dilation),
                columns: phase.columns,
                target: Target {
                    out: &mut dx[phase.first * s.channels..],
                    channels: s.channels,
                    step: s.window.stride * s.channels,
                    accumulate: data.accumulate,
                },
                ahead,
            });
        }
    }

    /// The products of those rows of the output whose windows start nearest to one row of the input.
    fn weight_rows(
        &self,
        (x, ring): (&Values<'_>, &mut Ring<'_>),
        dy_ring: &mut Ring<'_>,
        number: usize,
        sums: &mut [f32],
        ahead: &mut Ahead<'_, 4>,
    ) {
        let s = self.s;
        let (image, at) = (number / s.height, number % s.height);
        let first = at.div_ceil(s.window.stride);
        let end = if at + 1 == s.height { s.out_height } else { (at + 1).div_ceil(s.window.stride) };
        for i in first..end.min(s.out_height) {
            let inputs = |r| s.source(i, r, s.height).map(|at| image * s.height + at);
            (0..s.kernel.0).filter_map(inputs).for_each(|input| ring.hold(input, x));
            let output = image * s.out_height + i;
            dy_ring.hold(output, &self.dy);
            let rows: Vec<&[f32]> = (0..s.kernel.0).map(|r| ring.row(inputs(r))).collect();
            simd::dispatch(Products {
                rows: (&rows, input_row(s).padded),
                dy: (dy_ring.row(Some(output)), self.dy_row.padded),
                first: self.dy_row.left,
                taps: s.kernel.1,
                step: (s.window.stride, s.window.dilation),
                columns: s.out_width,
                sums,
                ahead,
            });
        }
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The taps, last first, that lie on input coordinate `at` and on those that are strides away.
fn taps_on(s: &Sliding, at: usize, taps: usize) -> Vec<usize> {
    let residue = |at: usize| at % s.window.stride;
    let meets = |q: &usize| residue(q * s.window.dilation) == residue(at + s.window.padding);
    (0..taps).filter(meets).rev().collect()
}
