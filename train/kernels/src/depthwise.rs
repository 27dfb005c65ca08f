//! Depthwise convolution (one filter per channel): NHWC values, `[C][kh][kw]` weights.
//!
//! Memory bandwidth limits these kernels. A task takes a strip of rows. It reads every row of the input once,
//! normalizes it into a ring of padded rows in the thread's cache (`ring`), and computes all windows of the row from
//! there. The gradient of the input is the same sweep over the gradient of the output, with filters turned by 180
//! degrees. With a stride, each residue of the column has its own filter.

mod ahead;
mod backward;
mod correlate;
mod ring;
mod weight;

use rayon::prelude::*;

use self::ahead::Ahead;
use self::backward::{DataSweep, WeightSweep};
use self::correlate::{Correlate, Target};
use self::ring::{Ring, Row};
use crate::elementwise::{Aligned, Values, single, with_scratch};
use crate::geometry::{Result, Sliding, expect_eq};
use crate::moments::{self, Moments};
use crate::operand::Operand;
use crate::simd;

/// Maximum number of strips, and minimum rows of one.
const MAX_STRIPS: usize = 32;
const MIN_ROWS: usize = 4;
/// Pixels written before their moments are computed.
const MOMENTS_PIXELS: usize = 128;
/// Minimum products per tap in a part of the weights' gradient.
const MIN_PRODUCTS: usize = 4;

/// `y[b, i, j, c] = Σ x[b, i*s + r*d - p, j*s + q*d - p, c] * w[c, r, q]`; `moments` receives the moments of `y` per
/// channel.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn forward(
    s: &Sliding,
    x: Operand<'_>,
    weights: &[f32],
    y: &mut [f32],
    moments: Option<&mut Moments>,
) -> Result<()> {
    let x = Values::new("depthwise input", x, s.channels, s.in_len())?;
    expect_eq("depthwise weights", s.channels * s.taps(), weights.len())?;
    expect_eq("depthwise output", s.out_pixels() * s.channels, y.len())?;
    let filters = Filters::pack(s, weights, (0..s.kernel.0).collect(), (0..s.kernel.1).collect());
    let sweep = Forward { s, x: &x, row: input_row(s), filters: &filters, moments: moments.is_some() };
    let per = strip(s.batch, s.out_height);
    let strips = y.par_chunks_mut(per * s.out_width * s.channels).enumerate();
    let parts: Vec<moments::Part> = strips.map(|(i, y)| sweep.strip(i * per, y)).collect();
    if let Some(moments) = moments {
        moments.combine(s.channels, s.out_pixels(), parts);
    }
    Ok(())
}

/// The gradient of the input, NHWC, from the gradient `dy` of the output.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn backward_data(
    s: &Sliding,
    dy: &[f32],
    weights: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let dy = output_gradient(s, dy)?;
    expect_eq("depthwise weights", s.channels * s.taps(), weights.len())?;
    expect_eq("depthwise input gradient", s.in_len(), dx.len())?;
    let sweep = DataSweep::new(s, &dy, weights, accumulate);
    let per = strip(s.batch, s.height);
    let strips = dx.par_chunks_mut(per * s.width * s.channels).enumerate();
    strips.for_each(|(i, dx)| sweep.strip(i * per, dx));
    Ok(())
}

/// The gradient of the weights, `[C][kh][kw]`, from the input and the gradient `dy` of the output.
///
/// # Errors
/// Lengths that do not match the shape.
pub fn backward_weight(
    s: &Sliding,
    x: Operand<'_>,
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let x = Values::new("depthwise input", x, s.channels, s.in_len())?;
    let dy = output_gradient(s, dy)?;
    expect_eq("depthwise weight gradient", s.channels * s.taps(), dw.len())?;
    let sweep = WeightSweep::new(s, &x, &dy);
    let (rows, per) = (s.batch * s.height, weight_strip(s));
    let strips = (0..rows.div_ceil(per)).into_par_iter();
    let parts: Vec<Aligned> = strips.map(|i| sweep.strip(i * per, per.min(rows - i * per))).collect();
    add_weights(s, &parts, dw, accumulate);
    Ok(())
}

/// Checks the gradient of the output against the shape.
fn output_gradient<'a>(s: &Sliding, dy: &'a [f32]) -> Result<Values<'a>> {
    Values::new("depthwise output gradient", Operand::plain(dy), s.channels, s.out_pixels() * s.channels)
}

/// Writes the sum of all parts, `[C][kh][kw]`, to `dw`, or adds it.
fn add_weights(s: &Sliding, parts: &[Aligned], dw: &mut [f32], accumulate: bool) {
    let lanes = simd::lanes();
    dw.par_chunks_mut(s.taps() * lanes).enumerate().for_each(|(block, dw)| {
        for (lane, dw) in dw.chunks_exact_mut(s.taps()).enumerate() {
            for (tap, dw) in dw.iter_mut().enumerate() {
                let at = (block * s.taps() + tap) * lanes + lane;
                let start = if accumulate { f64::from(*dw) } else { 0.0 };
                *dw = single(parts.iter().fold(start, |sum, part| sum + f64::from(part[at])));
            }
        }
    });
}

/// Rows of the input per part of the weights' gradient. Adding up many parts of few products would take most of the
/// time.
fn weight_strip(s: &Sliding) -> usize {
    let parts = (s.out_pixels() / (MIN_PRODUCTS * s.taps())).max(1);
    (s.batch * s.height).div_ceil(parts).max(strip(s.batch, s.height))
}

/// Rows of a strip: whole images, or equal pieces of one, because the rows above and below a strip are read twice. The
/// partition depends only on the shape.
fn strip(batch: usize, height: usize) -> usize {
    let rows = (batch * height).div_ceil(MAX_STRIPS).max(MIN_ROWS);
    if rows >= height { rows.next_multiple_of(height) } else { height.div_ceil(height / rows) }
}

/// Shape of held input rows, which start with the padding.
fn input_row(s: &Sliding) -> Row {
    let left = s.window.padding;
    let reach = correlate::reach(s.out_width, s.kernel.1, (s.window.stride, s.window.dilation));
    Row { channels: s.channels, width: s.width, left, padded: reach.max(left + s.width) }
}

/// Rows of the input from the first tap of a window to its last.
fn input_slots(s: &Sliding) -> usize {
    (s.kernel.0 - 1) * s.window.dilation + 1
}

/// Some rows and columns of all filters: `[block][row][column][lane]`.
struct Filters {
    data: Aligned,
    /// Rows of the kernel.
    rows: Vec<usize>,
    /// Columns of the kernel, in the order of their inputs.
    columns: Vec<usize>,
}

impl Filters {
    fn pack(s: &Sliding, weights: &[f32], rows: Vec<usize>, columns: Vec<usize>) -> Self {
        let lanes = simd::lanes();
        let kernel = rows.len() * columns.len();
        let mut data = Aligned::zeros(s.channels.next_multiple_of(lanes) * kernel);
        let taps: Vec<usize> =
            rows.iter().flat_map(|r| columns.iter().map(move |q| r * s.kernel.1 + q)).collect();
        for (channel, weights) in weights.chunks_exact(s.taps()).enumerate() {
            let first = channel / lanes * kernel * lanes + channel % lanes;
            for (value, &tap) in data.iter_mut().skip(first).step_by(lanes).zip(&taps) {
                *value = weights[tap];
            }
        }
        Self { data, rows, columns }
    }
}

/// The sweep of [`forward`].
struct Forward<'a> {
    s: &'a Sliding,
    x: &'a Values<'a>,
    row: Row,
    filters: &'a Filters,
    moments: bool,
}

impl Forward<'_> {
    /// Computes the output rows from `first` on, counted over the batch, and their moments if requested.
    fn strip(&self, first: usize, y: &mut [f32]) -> moments::Part {
        let Self { s, row, .. } = *self;
        let mut part = moments::Part::new(0, s.channels);
        let group = MOMENTS_PIXELS.div_ceil(s.out_width);
        let slots = input_slots(s);
        with_scratch(row.ring_len(slots), |memory| {
            let mut ring = Ring::new(row, slots, memory);
            for (g, y) in y.chunks_mut(group * s.out_width * s.channels).enumerate() {
                let len = s.out_width * s.channels;
                for i in 0..y.len() / len {
                    let (y, next) = y[i * len..].split_at_mut(len);
                    self.out_row(&mut ring, first + g * group + i, y, next);
                }
                if self.moments {
                    part.add(y, s.channels, y.len() / s.channels);
                }
            }
        });
        part
    }

    fn out_row(&self, ring: &mut Ring<'_>, number: usize, y: &mut [f32], next: &[f32]) {
        let s = self.s;
        let (image, i) = (number / s.out_height, number % s.out_height);
        let inputs = |r| s.source(i, r, s.height).map(|at| image * s.height + at);
        (0..s.kernel.0).filter_map(inputs).for_each(|input| ring.hold(input, self.x));
        let rows: Vec<&[f32]> = (0..s.kernel.0).map(|r| ring.row(inputs(r))).collect();
        // The rows that the next output row needs and that are not held yet.
        let newest = (i * s.window.stride + input_slots(s)).saturating_sub(s.window.padding);
        let inputs =
            ahead::rows(self.x.data(), image * s.height + newest, s.window.stride, s.width * s.channels);
        let outputs = ahead::rows(next, 0, 1, y.len());
        let steps = correlate::steps(s.out_width, self.row.blocks());
        simd::dispatch(Correlate {
            rows: (&rows, self.row.padded),
            filters: &self.filters.data,
            taps: s.kernel.1,
            first: 0,
            step: (s.window.stride, s.window.dilation),
            columns: s.out_width,
            target: Target { out: y, channels: s.channels, step: s.channels, accumulate: false },
            ahead: &mut Ahead::new([inputs, outputs], steps),
        });
    }
}
