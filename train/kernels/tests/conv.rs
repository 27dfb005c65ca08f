//! Convolutions against plain loops in f64, with the algorithm that each shape selects.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lgd_kernels::conv::{self, Conv};
use lgd_kernels::{Activation, Affine, Moments, Operand, ShapeError, Sliding, Window, Workspace};
use proptest::prelude::*;

const ACTIVATIONS: [Activation; 7] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Relu6,
    Activation::HardSwish,
    Activation::HardSigmoid,
    Activation::Silu,
    Activation::Sigmoid,
];

/// A shape: input (batch, height, width, channels), kernel, (stride, padding, dilation), filters, groups.
#[derive(Debug, Clone, Copy)]
struct Case {
    input: (usize, usize, usize, usize),
    kernel: (usize, usize),
    window: (usize, usize, usize),
    filters: usize,
    groups: usize,
    /// Whether padding is TensorFlow's, whatever the window says.
    same: bool,
}

impl Case {
    const fn square(
        batch: usize,
        side: usize,
        channels: usize,
        filters: usize,
        kernel: usize,
        stride: usize,
    ) -> Self {
        Self {
            input: (batch, side, side, channels),
            kernel: (kernel, kernel),
            window: (stride, kernel / 2, 1),
            filters,
            groups: 1,
            same: false,
        }
    }

    fn conv(&self) -> Result<Conv, ShapeError> {
        let (stride, padding, dilation) = self.window;
        let sliding = match self.same {
            true => Sliding::same(self.input, self.kernel.0, stride)?,
            false => Sliding::new(self.input, self.kernel, Window { stride, padding, dilation })?,
        };
        Conv::new(sliding, self.filters, self.groups)
    }
}

/// Shapes that cover edge cases: parities, widths next to a vector's, single pixels, each kernel, dilation, groups.
const CASES: [Case; 37] = [
    Case::square(1, 1, 1, 1, 1, 1),
    Case::square(2, 9, 5, 7, 1, 1),
    Case::square(3, 12, 64, 64, 1, 1),
    Case::square(2, 7, 33, 70, 1, 2),
    Case::square(2, 8, 16, 24, 1, 2),
    Case::square(1, 3, 400, 130, 1, 1),
    Case::square(2, 16, 16, 16, 3, 1),
    Case::square(2, 14, 32, 48, 3, 1),
    Case::square(1, 9, 17, 31, 3, 1),
    Case::square(3, 7, 64, 128, 3, 1),
    Case::square(5, 2, 96, 80, 3, 1),
    Case::square(2, 1, 20, 20, 3, 1),
    Case::square(16, 4, 64, 64, 3, 1),
    Case { input: (2, 7, 8, 19), ..Case::square(1, 7, 19, 12, 3, 2) },
    Case { input: (2, 8, 7, 16), ..Case::square(1, 7, 16, 33, 3, 2) },
    Case { input: (1, 8, 8, 32), ..Case::square(1, 7, 32, 64, 3, 2) },
    Case { input: (1, 9, 9, 4), ..Case::square(1, 7, 4, 4, 3, 2) },
    Case { input: (2, 32, 31, 3), ..Case::square(1, 32, 3, 64, 7, 2) },
    Case { input: (2, 31, 32, 3), ..Case::square(1, 32, 3, 32, 3, 2) },
    Case { input: (1, 40, 40, 3), ..Case::square(1, 40, 3, 20, 4, 4) },
    Case { window: (4, 0, 1), ..Case::square(2, 32, 3, 96, 4, 4) },
    Case { window: (1, 2, 2), ..Case::square(2, 11, 18, 10, 3, 1) },
    Case { window: (2, 2, 2), ..Case::square(2, 12, 6, 10, 3, 2) },
    Case { window: (3, 1, 2), ..Case::square(2, 13, 6, 40, 3, 2) },
    Case { window: (1, 0, 1), ..Case::square(2, 9, 24, 24, 3, 1) },
    Case { window: (1, 4, 1), ..Case::square(2, 5, 24, 24, 3, 1) },
    Case { window: (3, 0, 1), ..Case::square(2, 8, 6, 9, 2, 3) },
    Case { kernel: (1, 5), window: (1, 2, 1), ..Case::square(2, 8, 17, 20, 5, 1) },
    Case { kernel: (5, 1), window: (2, 2, 1), ..Case::square(2, 9, 17, 20, 5, 1) },
    Case { groups: 2, ..Case::square(2, 9, 24, 36, 3, 2) },
    Case { groups: 4, ..Case::square(2, 8, 64, 128, 1, 1) },
    Case { groups: 4, kernel: (1, 4), window: (1, 3, 1), ..Case::square(1, 3, 16, 4, 1, 1) },
    Case::square(1, 5, 6, 47, 3, 2),
    Case { same: true, ..Case::square(2, 32, 3, 32, 3, 2) },
    Case { same: true, ..Case::square(2, 8, 16, 24, 5, 2) },
    Case { same: true, ..Case::square(1, 9, 17, 20, 3, 2) },
    Case { same: true, groups: 2, ..Case::square(2, 10, 8, 12, 2, 1) },
];

/// Numbers between -1 and 1 that depend on `seed` only.
fn values(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32768.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The tensors of a case.
struct Data {
    conv: Conv,
    x: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    activation: Option<Activation>,
    weights: Vec<f32>,
    dy: Vec<f32>,
}

/// The results of the three passes; sums of squares are those of the moments.
#[derive(Debug, PartialEq)]
struct Passes<T> {
    y: Vec<T>,
    dx: Vec<T>,
    dw: Vec<T>,
    mean: Vec<f64>,
    centered: Vec<f64>,
}

impl Data {
    fn new(case: &Case, activation: Option<Activation>) -> Self {
        let conv = case.conv().unwrap();
        let channels = conv.sliding.channels;
        Self {
            x: values(1, conv.sliding.in_len()),
            scale: values(2, channels).iter().map(|v| 2.0 * v).collect(),
            shift: values(3, channels),
            weights: values(4, conv.weight_len()),
            dy: values(5, conv.out_len()),
            activation,
            conv,
        }
    }

    fn operand(&self) -> Operand<'_> {
        let norm =
            self.activation.map(|activation| Affine { scale: &self.scale, shift: &self.shift, activation });
        Operand { data: &self.x, norm }
    }

    /// Runs all passes; `dx` and `dw` are added to ones if `accumulate`.
    fn run(&self, accumulate: bool) -> Passes<f32> {
        let mut ws = Workspace::new();
        let mut moments = Moments::default();
        let start = if accumulate { 1.0 } else { f32::NAN };
        let mut y = vec![f32::NAN; self.dy.len()];
        let mut dx = vec![start; self.x.len()];
        let mut dw = vec![start; self.weights.len()];
        let (conv, x) = (&self.conv, self.operand());
        conv::forward(conv, x, &self.weights, &mut y, Some(&mut moments), &mut ws).unwrap();
        conv::backward_data(conv, &self.dy, &self.weights, &mut dx, accumulate, &mut ws).unwrap();
        conv::backward_weight(conv, x, &self.dy, &mut dw, accumulate, &mut ws).unwrap();
        assert_eq!(moments.rows, conv.sliding.out_pixels());
        let mut again = vec![f32::NAN; self.dy.len()];
        conv::forward(conv, x, &self.weights, &mut again, None, &mut ws).unwrap();
        assert!(bits(&y) == bits(&again), "the moments or the workspace change the output");
        Passes { y, dx, dw, mean: moments.mean, centered: moments.centered }
    }

    /// The same passes by their definition.
    fn naive(&self, accumulate: bool) -> Passes<f64> {
        let s = &self.conv.sliding;
        let (inputs, outputs) = (s.channels / self.conv.groups, self.conv.out_channels / self.conv.groups);
        let x: Vec<f64> = (self.x.iter().enumerate())
            .map(|(i, &x)| {
                self.activation.map_or(f64::from(x), |a| {
                    let c = i % s.channels;
                    f64::from(a.apply(x * self.scale[c] + self.shift[c]))
                })
            })
            .collect();
        let start = if accumulate { 1.0 } else { 0.0 };
        let mut y = vec![0.0; self.dy.len()];
        let mut dx = vec![start; self.x.len()];
        let mut dw = vec![start; self.weights.len()];
        let at = |position: usize, tap: usize, size: usize| {
            (position * s.window.stride + tap * s.window.dilation)
                .checked_sub(s.window.padding)
                .filter(|&at| at < size)
        };
        for pixel in 0..s.out_pixels() {
            let (image, i, j) =
                (pixel / s.out_width / s.out_height, pixel / s.out_width % s.out_height, pixel % s.out_width);
            for tap in 0..s.taps() {
                let (Some(row), Some(column)) =
                    (at(i, tap / s.kernel.1, s.height), at(j, tap % s.kernel.1, s.width))
                else {
                    continue;
                };
                for o in 0..self.conv.out_channels {
                    let out = pixel * self.conv.out_channels + o;
                    let input =
                        ((image * s.height + row) * s.width + column) * s.channels + o / outputs * inputs;
                    let weight = (o * s.taps() + tap) * inputs;
                    let dy = f64::from(self.dy[out]);
                    for c in 0..inputs {
                        let w = f64::from(self.weights[weight + c]);
                        y[out] += x[input + c] * w;
                        dx[input + c] += dy * w;
                        dw[weight + c] += dy * x[input + c];
                    }
                }
            }
        }
        let (mean, centered) = naive_moments(&y, self.conv.out_channels);
        Passes { y, dx, dw, mean, centered }
    }
}

fn naive_moments(y: &[f64], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = count(y.len() / channels);
    let channel = |c: usize| y.iter().skip(c).step_by(channels);
    let mean: Vec<f64> = (0..channels).map(|c| channel(c).sum::<f64>() / rows).collect();
    let centered = (0..channels).map(|c| channel(c).map(|v| (v - mean[c]).powi(2)).sum()).collect();
    (mean, centered)
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Fails unless every value is close to the expected one. The tolerance grows with the square root of `terms`, like the
/// size of a sum of `terms` random values.
fn assert_close(what: &str, case: &Case, expected: &[f64], got: &[f64], terms: usize) {
    let tolerance = 1e-6 * (1.0 + count(terms).sqrt()) * 4.0;
    assert_eq!(expected.len(), got.len());
    for (i, (expected, got)) in expected.iter().zip(got).enumerate() {
        let error = (expected - got).abs();
        assert!(error <= tolerance, "{what}[{i}] of {case:?}: expected {expected}, got {got}");
    }
}

fn check(case: &Case, activation: Option<Activation>, accumulate: bool) {
    let data = Data::new(case, activation);
    let (expected, got) = (data.naive(accumulate), data.run(accumulate));
    let s = &data.conv.sliding;
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let (inputs, outputs) = (s.channels / case.groups, case.filters / case.groups);
    assert_close("y", case, &expected.y, &wide(&got.y), s.taps() * inputs);
    assert_close("dx", case, &expected.dx, &wide(&got.dx), s.taps() * outputs);
    assert_close("dw", case, &expected.dw, &wide(&got.dw), s.out_pixels());
    let terms = s.taps() * inputs;
    assert_close("mean", case, &expected.mean, &got.mean, terms);
    let share =
        |centered: &[f64]| centered.iter().map(|v| v / count(s.out_pixels() * terms)).collect::<Vec<_>>();
    assert_close("spread", case, &share(&expected.centered), &share(&got.centered), terms);
}

#[test]
fn every_pass_is_the_definition() {
    for case in &CASES {
        check(case, None, false);
    }
}

#[test]
fn a_pending_normalization_is_applied_and_padding_stays_zero() {
    for (case, activation) in CASES.iter().zip(ACTIVATIONS.into_iter().cycle()) {
        check(case, Some(activation), false);
    }
    for activation in ACTIVATIONS {
        check(&CASES[7], Some(activation), true);
        check(&CASES[13], Some(activation), true);
    }
}

#[test]
fn gradients_are_added_where_asked() {
    for case in &CASES {
        check(case, None, true);
    }
}

#[test]
fn many_pixels_and_deep_sums() {
    check(&Case::square(6, 56, 8, 16, 3, 1), Some(Activation::Relu), false);
    check(&Case::square(6, 40, 8, 16, 1, 1), Some(Activation::Relu), false);
    check(&Case::square(2, 6, 300, 260, 3, 1), Some(Activation::Relu6), true);
    check(&Case::square(2, 6, 300, 260, 3, 2), Some(Activation::Relu6), true);
    check(&Case::square(2, 6, 386, 70, 3, 2), None, true);
    check(&Case::square(40, 2, 140, 520, 3, 1), None, false);
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let cases =
        CASES.iter().copied().chain([Case::square(8, 28, 32, 64, 3, 1), Case::square(8, 28, 32, 64, 3, 2)]);
    for case in cases {
        let data = Data::new(&case, Some(Activation::Relu));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let Passes { y, dx, dw, mean, centered } = pool.install(|| data.run(true));
            let moments: Vec<u64> = mean.iter().chain(&centered).map(|v| v.to_bits()).collect();
            (bits(&y), bits(&dx), bits(&dw), moments)
        };
        let one = with(1);
        for threads in [2, 5] {
            assert!(one == with(threads), "{case:?} differs with {threads} threads");
        }
    }
}

/// `LGD_SIMD` is read once per process, so other instruction sets run the same tests in separate processes.
#[test]
fn every_instruction_set() {
    const CHILD: &str = "LGD_KERNELS_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    for set in ["portable", "avx2"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .env("LGD_SIMD", set)
            .env(CHILD, "1")
            .env("PROPTEST_CASES", "16")
            .output()
            .unwrap();
        assert!(output.status.success(), "{set}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn lengths_that_do_not_fit_are_errors() {
    let data = Data::new(&CASES[1], None);
    let mut ws = Workspace::new();
    let mut y = vec![0.0; data.dy.len() - 1];
    let expected = |what, got| Err(ShapeError::Mismatch { what, expected: got + 1, got });
    let result = conv::forward(&data.conv, data.operand(), &data.weights, &mut y, None, &mut ws);
    assert_eq!(result, expected("convolution output", y.len()));
    let short = &data.weights[1..];
    let mut dx = vec![0.0; data.x.len()];
    let result = conv::backward_data(&data.conv, &data.dy, short, &mut dx, false, &mut ws);
    assert_eq!(result, expected("convolution weights", short.len()));
    let mut dw = vec![0.0; data.weights.len()];
    let result =
        conv::backward_weight(&data.conv, Operand::plain(&data.x[1..]), &data.dy, &mut dw, false, &mut ws);
    assert_eq!(result, expected("convolution input", data.x.len() - 1));
    assert!(Conv::new(data.conv.sliding, 6, 4).is_err());
    assert!(Conv::new(data.conv.sliding, 0, 1).is_err());
}

fn cases() -> impl Strategy<Value = (Case, Option<Activation>, bool)> {
    let input = (1..4_usize, 1..13_usize, 1..13_usize, 1..40_usize);
    let kernel = (1..6_usize, 1..6_usize);
    let window = (1..4_usize, 0..4_usize, 1..3_usize);
    let groups = prop_oneof![4 => Just(1_usize), 1 => Just(2), 1 => Just(4)];
    let activation = proptest::option::of(proptest::sample::select(&ACTIVATIONS[..]));
    let same = any::<bool>();
    (input, kernel, window, 1..70_usize, groups, activation, any::<bool>(), same).prop_map(
        |(input, kernel, window, filters, groups, activation, accumulate, same)| {
            let (batch, height, width, channels) = input;
            let case = Case {
                input: (batch, height, width, channels.div_ceil(groups) * groups),
                kernel: if same { (3, 3) } else { kernel },
                window: if same { (window.0 % 2 + 1, 1, 1) } else { window },
                filters: filters.div_ceil(groups) * groups,
                groups,
                same: false,
            };
            (case, activation, accumulate)
        },
    )
}

proptest! {
    #[test]
    fn any_shape_is_the_definition((case, activation, accumulate) in cases()) {
        prop_assume!(case.conv().is_ok());
        check(&case, activation, accumulate);
    }
}
