//! Reference results of the operations: plain loops in f64.

use lgd_cuda::{Activation, Sliding};

/// The function's value.
pub fn activate(activation: Activation, x: f64) -> f64 {
    let relu6 = |x: f64| x.clamp(0.0, 6.0);
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => relu6(x),
        Activation::HardSwish => x * relu6(x + 3.0) / 6.0,
        Activation::HardSigmoid => relu6(x + 3.0) / 6.0,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// Its derivative.
pub fn slope(activation: Activation, x: f64) -> f64 {
    let inside = |low: f64, high: f64| f64::from(u8::from(x > low && x < high));
    let s = 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => 1.0,
        Activation::Relu => inside(0.0, f64::INFINITY),
        Activation::Relu6 => inside(0.0, 6.0),
        Activation::HardSwish if x >= 3.0 => 1.0,
        Activation::HardSwish => inside(-3.0, 3.0) * (x / 3.0 + 0.5),
        Activation::HardSigmoid => inside(-3.0, 3.0) / 6.0,
        Activation::Silu => s * (1.0 + x * (1.0 - s)),
        Activation::Sigmoid => s * (1.0 - s),
    }
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Calls `f(x index, w index, y index)` for every product of a convolution with OHWI weights.
pub fn products(s: &Sliding, outputs: usize, groups: usize, mut f: impl FnMut(usize, usize, usize)) {
    let (inner, share) = (s.channels / groups, outputs / groups);
    for b in 0..s.batch {
        for (i, j) in pairs(s.out_height, s.out_width) {
            for (r, q) in pairs(s.kernel.0, s.kernel.1) {
                let at = |position: usize, tap: usize, size: usize| {
                    (position * s.window.stride + tap * s.window.dilation)
                        .checked_sub(s.window.padding)
                        .filter(|&at| at < size)
                };
                let (Some(y), Some(x)) = (at(i, r, s.height), at(j, q, s.width)) else { continue };
                for (o, c) in pairs(outputs, inner) {
                    let from = ((b * s.height + y) * s.width + x) * s.channels + o / share * inner + c;
                    let weight = ((o * s.kernel.0 + r) * s.kernel.1 + q) * inner + c;
                    let to = ((b * s.out_height + i) * s.out_width + j) * outputs + o;
                    f(from, weight, to);
                }
            }
        }
    }
}

fn pairs(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
}

/// Statistics of the counted rows of `[M, C]`: mean and biased variance.
pub fn statistics(x: &[f64], channels: usize, counted: &[bool]) -> (Vec<f64>, Vec<f64>) {
    let count = f64::from(u32::try_from(counted.iter().filter(|&&on| on).count()).unwrap_or(u32::MAX));
    let rows = || x.chunks_exact(channels).zip(counted).filter(|(_, on)| **on).map(|(row, _)| row);
    let mut mean = vec![0.0; channels];
    rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / count));
    let mut variance = vec![0.0; channels];
    for row in rows() {
        for ((variance, mean), x) in variance.iter_mut().zip(&mean).zip(row) {
            *variance += (x - mean) * (x - mean) / count;
        }
    }
    (mean, variance)
}

/// A normalization with given statistics.
pub struct Norm {
    pub mean: Vec<f64>,
    pub inverse: Vec<f64>,
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
    pub activation: Activation,
}

impl Norm {
    pub fn new(
        (mean, variance): (Vec<f64>, Vec<f64>),
        gamma: &[f32],
        beta: &[f32],
        eps: f64,
        activation: Activation,
    ) -> Self {
        let inverse = variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        Self { mean, inverse, gamma: wide(gamma), beta: wide(beta), activation }
    }

    pub fn before(&self, at: usize, x: f64) -> f64 {
        let c = at % self.mean.len();
        (x - self.mean[c]) * self.inverse[c] * self.gamma[c] + self.beta[c]
    }

    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        x.iter().enumerate().map(|(at, &x)| activate(self.activation, self.before(at, x))).collect()
    }

    /// Gradients of input, scale and shift.
    pub fn backward(&self, x: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let channels = self.mean.len();
        let rows = f64::from(u32::try_from(x.len() / channels).unwrap_or(u32::MAX));
        let g: Vec<f64> = x
            .iter()
            .zip(dy)
            .enumerate()
            .map(|(at, (&x, dy))| dy * slope(self.activation, self.before(at, x)))
            .collect();
        let hat = |at: usize| (x[at] - self.mean[at % channels]) * self.inverse[at % channels];
        let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
        for (at, g) in g.iter().enumerate() {
            dgamma[at % channels] += g * hat(at);
            dbeta[at % channels] += g;
        }
        let dx = |(at, g): (usize, &f64)| {
            let c = at % channels;
            let centered = g - dbeta[c] / rows - hat(at) * dgamma[c] / rows;
            self.gamma[c] * self.inverse[c] * centered
        };
        (g.iter().enumerate().map(dx).collect(), dgamma, dbeta)
    }
}

/// Max-pool: the values, and the tap of each.
pub fn max_pool(s: &Sliding, x: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let len = s.out_pixels() * s.channels;
    let (mut best, mut from) = (vec![f64::NEG_INFINITY; len], vec![usize::MAX; len]);
    // Each channel is a group, so the products of a depthwise convolution visit the taps in order.
    products(s, s.channels, s.channels, |at, _, to| {
        if x[at] > best[to] {
            best[to] = x[at];
            from[to] = at;
        }
    });
    (best, from)
}
