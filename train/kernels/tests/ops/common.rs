//! Random data, fused operands and comparisons.

use lgd_kernels::{Activation, Affine, Operand, Sliding, Window};

/// Values in [-1, 1).
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // 23 bits as the mantissa of a number in [2, 4).
        let bits = u32::try_from(state >> 41).unwrap();
        f32::from_bits(0x4000_0000 | bits) - 3.0
    };
    (0..len).map(|_| next()).collect()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Fails unless `got` is within `tolerance` of `expected`, relative to the largest of the expected values.
#[track_caller]
pub fn close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    close_to_size(what, got, expected, largest(expected), tolerance);
}

/// The largest magnitude; positive.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(1e-30f64, |size, v| size.max(v.abs()))
}

/// Fails unless `got` is within `tolerance` of `expected`, relative to `size`. The size of sums that may cancel is the sum of their
/// terms' magnitudes: rounding errors grow with those, not with the result.
#[track_caller]
pub fn close_to_size(what: &str, got: &[f32], expected: &[f64], size: f64, tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs() / size;
        assert!(error <= tolerance, "{what}[{i}]: {got} instead of {expected}, error {error:e}");
    }
}

/// The results of `f` with 1, 2 and 5 threads, which must be the same bits; returns the first.
#[track_caller]
pub fn for_thread_counts<R: PartialEq + Send + std::fmt::Debug>(f: impl Fn() -> R + Sync) -> R {
    let run = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&f);
    let one = run(1);
    assert!(one == run(2), "2 threads differ from 1");
    assert!(one == run(5), "5 threads differ from 1");
    one
}

/// An operand with the data that it borrows.
pub struct Lazy {
    pub data: Vec<f32>,
    pub norm: Option<(Vec<f32>, Vec<f32>, Activation)>,
}

impl Lazy {
    /// Normalized with `activation` after it, or plain.
    pub fn new(seed: u64, len: usize, channels: usize, activation: Option<Activation>) -> Self {
        let norm = activation.map(|activation| {
            // Arguments that reach both ends of every activation.
            let scale = random(seed + 1, channels).iter().map(|v| 4.0 * v + 1.0).collect();
            let shift = random(seed + 2, channels).iter().map(|v| 3.0 * v).collect();
            (scale, shift, activation)
        });
        Self { data: random(seed, len), norm }
    }

    pub fn operand(&self) -> Operand<'_> {
        let norm = self.norm.as_ref().map(|(scale, shift, activation)| Affine {
            scale,
            shift,
            activation: *activation,
        });
        Operand { data: &self.data, norm }
    }

    pub fn values(&self) -> Vec<f64> {
        let value = |(i, &data): (usize, &f32)| match &self.norm {
            None => f64::from(data),
            Some((scale, shift, activation)) => {
                let c = i % scale.len();
                apply(*activation, f64::from(data) * f64::from(scale[c]) + f64::from(shift[c]))
            }
        };
        self.data.iter().enumerate().map(value).collect()
    }
}

/// Plain, then every activation.
pub fn operand_kinds() -> impl Iterator<Item = Option<Activation>> {
    std::iter::once(None).chain(Activation::ALL.map(Some))
}

pub fn apply(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::Silu => x * sigmoid(x),
        Activation::Sigmoid => sigmoid(x),
    }
}

/// The derivative by central differences, except at a kink of the function.
pub fn slope(activation: Activation, x: f64) -> f64 {
    let step = 1e-6;
    (apply(activation, x + step) - apply(activation, x - step)) / (2.0 * step)
}

pub fn sliding(
    input: (usize, usize, usize, usize),
    kernel: usize,
    (stride, padding, dilation): (usize, usize, usize),
) -> Sliding {
    Sliding::new(input, (kernel, kernel), Window { stride, padding, dilation }).unwrap()
}

/// Calls `f(output pixel, tap, input pixel)` for every tap inside the image of every window.
pub fn for_taps(s: &Sliding, mut f: impl FnMut(usize, usize, usize)) {
    let source = |position: usize, tap: usize, size: usize| {
        let at = position * s.window.stride + tap * s.window.dilation;
        at.checked_sub(s.window.padding).filter(|&at| at < size)
    };
    for out in 0..s.out_pixels() {
        let (image, i, j) =
            (out / (s.out_height * s.out_width), out / s.out_width % s.out_height, out % s.out_width);
        for tap in 0..s.taps() {
            let (r, q) = (tap / s.kernel.1, tap % s.kernel.1);
            if let (Some(y), Some(x)) = (source(i, r, s.height), source(j, q, s.width)) {
                f(out, tap, (image * s.height + y) * s.width + x);
            }
        }
    }
}

/// Mean and biased variance per channel, over the rows for which `counts` is true.
pub fn moments(x: &[f64], channels: usize, counts: impl Fn(usize) -> bool) -> (usize, Vec<f64>, Vec<f64>) {
    let rows: Vec<&[f64]> =
        x.chunks(channels).enumerate().filter(|(row, _)| counts(*row)).map(|(_, x)| x).collect();
    let n = f64::from(u32::try_from(rows.len()).unwrap());
    let mean: Vec<f64> = (0..channels).map(|c| rows.iter().map(|row| row[c]).sum::<f64>() / n).collect();
    let variance =
        (0..channels).map(|c| rows.iter().map(|row| (row[c] - mean[c]).powi(2)).sum::<f64>() / n).collect();
    (rows.len(), mean, variance)
}
