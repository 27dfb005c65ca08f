//! Comparison with a naive convolution in f64.

use rayon::ThreadPoolBuilder;

use super::*;
use crate::activation::Activation;
use crate::geometry::{Sliding, Window};
use crate::operand::Affine;

/// Numbers in about [-1, 1].
struct Random(u64);

impl Random {
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "few bits")]
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 40) as f64 / f64::from(1u32 << 23) - 1.0) as f32
    }

    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

fn conv(batch: usize, (height, width): (usize, usize), (from, to): (usize, usize), padding: usize) -> Conv {
    let window = Window { stride: 1, padding, dilation: 1 };
    let sliding = Sliding::new((batch, height, width, from), (3, 3), window).unwrap();
    Conv::new(sliding, to, 1).unwrap()
}

/// Calls `visit(x, y, w)` with the offsets (without channels) of every input, output and tap that are multiplied.
fn meet(conv: &Conv, mut visit: impl FnMut(usize, usize, usize)) {
    let s = &conv.sliding;
    for b in 0..s.batch {
        for (i, j) in (0..s.out_height).flat_map(|i| (0..s.out_width).map(move |j| (i, j))) {
            for (p, q) in (0..3).flat_map(|p| (0..3).map(move |q| (p, q))) {
                if let (Some(r), Some(c)) = (s.source(i, p, s.height), s.source(j, q, s.width)) {
                    visit(
                        (b * s.height + r) * s.width + c,
                        (b * s.out_height + i) * s.out_width + j,
                        p * 3 + q,
                    );
                }
            }
        }
    }
}

/// The tensor that a pass computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pass {
    Forward,
    Data,
    Weight,
}

fn naive(conv: &Conv, pass: Pass, x: &[f32], w: &[f32], dy: &[f32]) -> Vec<f64> {
    let (channels, filters) = (conv.sliding.channels, conv.out_channels);
    let len = match pass {
        Pass::Forward => conv.out_len(),
        Pass::Data => conv.sliding.in_len(),
        Pass::Weight => conv.weight_len(),
    };
    let mut out = vec![0.0; len];
    meet(conv, |xp, yp, tap| {
        for o in 0..filters {
            for c in 0..channels {
                let (x_at, w_at, y_at) = (xp * channels + c, (o * 9 + tap) * channels + c, yp * filters + o);
                match pass {
                    Pass::Forward => out[y_at] += f64::from(x[x_at]) * f64::from(w[w_at]),
                    Pass::Data => out[x_at] += f64::from(dy[y_at]) * f64::from(w[w_at]),
                    Pass::Weight => out[w_at] += f64::from(dy[y_at]) * f64::from(x[x_at]),
                }
            }
        }
    });
    out
}

/// The maximum error relative to the maximum value, and the root mean square error relative to the root mean square.
fn errors(got: &[f32], expected: &[f64]) -> (f64, f64) {
    let (mut max, mut top, mut square, mut total) = (0.0_f64, 0.0_f64, 0.0, 0.0);
    for (&got, &expected) in got.iter().zip(expected) {
        let error = (f64::from(got) - expected).abs();
        assert!(error.is_finite());
        (max, top) = (max.max(error), top.max(expected.abs()));
        square += error * error;
        total += expected * expected;
    }
    (max / top, (square / total).sqrt())
}

/// One pass with a given tile.
fn run(
    conv: &Conv,
    pass: Pass,
    tile: Tile,
    tensors: [Operand<'_>; 3],
    accumulate: Option<&[f32]>,
) -> Vec<f32> {
    let [x, w, dy] = tensors;
    let ws = &mut Workspace::new();
    let len = match pass {
        Pass::Forward => conv.out_len(),
        Pass::Data => conv.sliding.in_len(),
        Pass::Weight => conv.weight_len(),
    };
    let mut out = accumulate.map_or(vec![f32::NAN; len], <[f32]>::to_vec);
    let add = accumulate.is_some();
    match pass {
        Pass::Forward if tile == Tile::Pair => forward_by::<Pair, _, _>(conv, x, w.data, &mut out, None, ws),
        Pass::Forward => forward_by::<Quad, _, _>(conv, x, w.data, &mut out, None, ws),
        Pass::Data if tile == Tile::Pair => {
            backward_data_by::<Pair, _, _>(conv, dy.data, w.data, &mut out, add, ws)
        }
        Pass::Data => backward_data_by::<Quad, _, _>(conv, dy.data, w.data, &mut out, add, ws),
        Pass::Weight if tile == Tile::Pair => {
            backward_weight_by::<Pair, _, _>(conv, x, dy.data, &mut out, add, ws)
        }
        Pass::Weight => backward_weight_by::<Quad, _, _>(conv, x, dy.data, &mut out, add, ws),
    }
    out
}

fn cases() -> Vec<Conv> {
    let mut cases = vec![
        conv(1, (1, 1), (16, 16), 1),
        conv(1, (3, 3), (16, 16), 0),
        conv(2, (2, 2), (40, 24), 1),
        conv(37, (2, 2), (130, 70), 1),
        conv(3, (7, 5), (33, 17), 1),
        conv(2, (9, 12), (16, 70), 0),
        conv(2, (6, 11), (130, 20), 2),
        conv(1, (5, 4), (20, 36), 3),
        conv(2, (23, 37), (19, 45), 1),
        conv(20, (4, 4), (70, 100), 1),
        conv(9, (14, 14), (24, 66), 1),
    ];
    cases.push(conv(16, (14, 14), (65, 32), 1));
    cases
}

/// The kinds of tiles that `conv` supports, and the maximum error allowed for each.
fn tiles(conv: &Conv) -> Vec<(Tile, f64)> {
    let all = [(Tile::Pair, 1e-6), (Tile::Quad, 4e-6)];
    all.into_iter().filter(|&(kind, _)| kind == Tile::Quad || kind == tile(conv)).collect()
}

const PASSES: [Pass; 3] = [Pass::Forward, Pass::Data, Pass::Weight];

#[test]
fn agrees_with_f64() {
    let mut random = Random(9);
    for conv in cases() {
        let x = random.vec(conv.sliding.in_len());
        let w = random.vec(conv.weight_len());
        let dy = random.vec(conv.out_len());
        for pass in PASSES {
            let expected = naive(&conv, pass, &x, &w, &dy);
            let before = random.vec(expected.len());
            let sum: Vec<f64> = expected.iter().zip(&before).map(|(a, &b)| a + f64::from(b)).collect();
            for (tile, bound) in tiles(&conv) {
                let tensors = [&x, &w, &dy].map(|v| Operand::plain(v));
                let got = run(&conv, pass, tile, tensors, None);
                let (max, _) = errors(&got, &expected);
                assert!(max < bound, "{pass:?} {tile:?} {conv:?}: {max:e}");
                if pass != Pass::Forward {
                    let (max, _) = errors(&run(&conv, pass, tile, tensors, Some(&before)), &sum);
                    assert!(max < bound, "accumulated {pass:?} {tile:?} {conv:?}: {max:e}");
                }
            }
        }
    }
}

#[test]
fn operands_are_normalized_while_they_are_read() {
    use Activation::{HardSigmoid, HardSwish, Identity, Relu, Relu6, Sigmoid, Silu};
    let mut random = Random(5);
    let conv = conv(2, (9, 7), (37, 21), 1);
    let (w, dy) = (random.vec(conv.weight_len()), random.vec(conv.out_len()));
    let data = random.vec(conv.sliding.in_len());
    let (scale, shift) = (random.vec(37), random.vec(37));
    for activation in [Identity, Relu, Relu6, HardSwish, HardSigmoid, Silu, Sigmoid] {
        let value = |(i, &v): (usize, &f32)| activation.apply(v * scale[i % 37] + shift[i % 37]);
        let plain: Vec<f32> = data.iter().enumerate().map(value).collect();
        let norm = Some(Affine { scale: &scale, shift: &shift, activation });
        for pass in [Pass::Forward, Pass::Weight] {
            for (tile, _) in tiles(&conv) {
                let [x, w, dy] = [&plain, &w, &dy].map(|v| Operand::plain(v));
                let expected = run(&conv, pass, tile, [x, w, dy], None);
                let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
                let got = run(&conv, pass, tile, [Operand { data: &data, norm }, w, dy], None);
                let (max, _) = errors(&got, &expected);
                assert!(max < 1e-6, "{activation:?} {pass:?} {tile:?}: {max:e}");
            }
        }
    }
}

#[test]
fn moments_are_those_of_the_output() {
    let mut random = Random(7);
    for conv in cases() {
        let x = random.vec(conv.sliding.in_len());
        let w = random.vec(conv.weight_len());
        let mut y = vec![0.0; conv.out_len()];
        let mut moments = Moments::default();
        forward(&conv, Operand::plain(&x), &w, &mut y, Some(&mut moments), &mut Workspace::new());
        assert_eq!(moments.rows, conv.sliding.out_pixels());
        for c in 0..conv.out_channels {
            let values: Vec<f64> = y[c..].iter().step_by(conv.out_channels).map(|&v| f64::from(v)).collect();
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let centered: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
            assert!((moments.mean[c] - mean).abs() < 1e-5, "{conv:?}");
            assert!((moments.centered[c] - centered).abs() <= 1e-5 * centered + 1e-6, "{conv:?}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let mut random = Random(3);
    for conv in cases() {
        let x = random.vec(conv.sliding.in_len());
        let w = random.vec(conv.weight_len());
        let dy = random.vec(conv.out_len());
        let all = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut outputs = Vec::new();
                for (pass, tile) in
                    PASSES.into_iter().flat_map(|p| tiles(&conv).into_iter().map(move |t| (p, t.0)))
                {
                    let tensors = [&x, &w, &dy].map(|v| Operand::plain(v));
                    outputs.push(run(&conv, pass, tile, tensors, None));
                }
                let mut moments = Moments::default();
                let mut y = vec![0.0; conv.out_len()];
                forward(&conv, Operand::plain(&x), &w, &mut y, Some(&mut moments), &mut Workspace::new());
                (outputs, moments)
            })
        };
        let one = all(1);
        for threads in [2, 5] {
            assert!(all(threads) == one, "{conv:?}");
        }
    }
}
