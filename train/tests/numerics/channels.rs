//! Convolutions with few or odd numbers of channels, for which kernels have remainders, against sums written out in
//! f64.

use lgd_train::engine::graph::ConvSpec;

use crate::device::{TestDevice, on_every_device};
use crate::golden::{error, normal};
use crate::layer::{Layer, TRAIN};

on_every_device!(any_number_of_channels_gives_the_sums_written_out);

const CHANNELS: [usize; 8] = [1, 2, 3, 4, 7, 16, 18, 33];
const BATCH: usize = 2;
const HEIGHT: usize = 7;
const WIDTH: usize = 6;

/// Output, gradient of the input and gradient of the filters (OIHW), computed from input, filters and the output's
/// gradient.
fn written_out(inputs: usize, spec: ConvSpec, x: &[f32], w: &[f32], g: &[f32]) -> [Vec<f32>; 3] {
    let (side, stride, padding) = (spec.side, spec.window.stride, spec.window.padding);
    let size = |input: usize| (input + 2 * padding - side) / stride + 1;
    let (rows, columns) = (size(HEIGHT), size(WIDTH));
    let (inner, outer) = (inputs / spec.groups, spec.outputs / spec.groups);
    let mut sums = [vec![0.0; BATCH * rows * columns * spec.outputs], vec![0.0; x.len()], vec![0.0; w.len()]];
    let axis = |position: usize, tap: usize, len: usize| {
        (position * stride + tap).checked_sub(padding).filter(|at| *at < len)
    };
    for (at, &g) in g.iter().enumerate() {
        let (pixel, o) = (at / spec.outputs, at % spec.outputs);
        let (b, i, j) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        for tap in 0..side * side {
            let (r, q) = (tap / side, tap % side);
            let (Some(row), Some(column)) = (axis(i, r, HEIGHT), axis(j, q, WIDTH)) else { continue };
            for c in 0..inner {
                let from = ((b * HEIGHT + row) * WIDTH + column) * inputs + o / outer * inner + c;
                let filter = (o * inner + c) * side * side + tap;
                sums[0][at] += f64::from(x[from]) * f64::from(w[filter]);
                sums[1][from] += f64::from(g) * f64::from(w[filter]);
                sums[2][filter] += f64::from(g) * f64::from(x[from]);
            }
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    sums.map(|sums| sums.into_iter().map(|sum| sum as f32).collect())
}

fn check<D: TestDevice>(inputs: usize, spec: ConvSpec) {
    let dims = [BATCH, HEIGHT, WIDTH, inputs];
    let mut layer = Layer::<D>::new(&dims, |b, x| Ok(vec![b.conv(x, "conv", spec)?]));
    let x = D::rounded(&normal("x", layer.images_len()));
    let w = D::rounded(&normal("w", layer.get("conv.weight").len()));
    layer.set("conv.weight", &w);
    let y = layer.forward(&x, TRAIN);
    let g = D::rounded(&normal("g", y.len()));
    layer.backward(&g);
    let expected = written_out(inputs, spec, &x, &w, &g);
    for (what, (got, expected)) in
        ["y", "dx", "dw"].iter().zip([y, layer.dx(), layer.gradient("conv.weight")].iter().zip(&expected))
    {
        let error = error(got, expected);
        assert!(error < D::tolerance(3e-6), "{inputs} to {spec:?}: {what} {error:.1e}");
    }
}

fn any_number_of_channels_gives_the_sums_written_out<D: TestDevice>() {
    for inputs in CHANNELS {
        for (side, stride) in [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (7, 2)] {
            for outputs in CHANNELS {
                check::<D>(inputs, ConvSpec::dense(outputs, side, stride));
            }
            check::<D>(inputs, ConvSpec::depthwise(inputs, side, stride));
        }
    }
}
