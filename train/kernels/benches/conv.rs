//! Convolutions of the usual networks: GFLOP/s of every pass, and their share of the peak of the machine's FMA units.
//!
//! `cargo bench -p lgd-kernels --bench conv -- [words]`: only shapes whose name contains one of the words. A time is
//! the minimum over many repeats, so other load on the machine matters little.
#![expect(clippy::print_stdout, reason = "a benchmark's output is its result")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use lgd_kernels::conv::{self, Conv};
use lgd_kernels::{Activation, Affine, Moments, Operand, ShapeError, Sliding, Window, Workspace};
use pulp::{Arch, Simd, WithSimd};

/// Images.
const BATCH: usize = 16;
/// Time spent on one measurement.
const BUDGET: Duration = Duration::from_millis(250);

/// Name, side of the input, input channels, output channels, kernel, stride.
type Shape = (&'static str, usize, usize, usize, usize, usize);

const SHAPES: [Shape; 37] = [
    ("stem-7x7", 224, 3, 64, 7, 2),
    ("stem-3x3", 224, 3, 32, 3, 2),
    ("3x3-64", 56, 64, 64, 3, 1),
    ("3x3-128", 28, 128, 128, 3, 1),
    ("3x3-256", 14, 256, 256, 3, 1),
    ("3x3-512", 7, 512, 512, 3, 1),
    ("s2-128", 56, 64, 128, 3, 2),
    ("s2-256", 28, 128, 256, 3, 2),
    ("s2-512", 14, 256, 512, 3, 2),
    ("down-128", 56, 64, 128, 1, 2),
    ("down-512", 14, 256, 512, 1, 2),
    ("1x1-64-256", 56, 64, 256, 1, 1),
    ("1x1-256-64", 56, 256, 64, 1, 1),
    ("1x1-512-128", 28, 512, 128, 1, 1),
    ("1x1-1024-256", 14, 1024, 256, 1, 1),
    ("1x1-256-1024", 14, 256, 1024, 1, 1),
    ("1x1-512-2048", 7, 512, 2048, 1, 1),
    ("1x1-2048-512", 7, 2048, 512, 1, 1),
    ("mobile-32-16", 112, 32, 16, 1, 1),
    ("mobile-16-96", 112, 16, 96, 1, 1),
    ("mobile-96-24", 56, 96, 24, 1, 1),
    ("mobile-24-144", 56, 24, 144, 1, 1),
    ("mobile-144-32", 28, 144, 32, 1, 1),
    ("mobile-32-192", 28, 32, 192, 1, 1),
    ("mobile-192-64", 14, 192, 64, 1, 1),
    ("mobile-64-384", 14, 64, 384, 1, 1),
    ("mobile-384-96", 14, 384, 96, 1, 1),
    ("mobile-96-576", 14, 96, 576, 1, 1),
    ("mobile-576-160", 7, 576, 160, 1, 1),
    ("mobile-160-960", 7, 160, 960, 1, 1),
    ("mobile-960-320", 7, 960, 320, 1, 1),
    ("mobile-320-1280", 7, 320, 1280, 1, 1),
    ("small-64", 16, 64, 64, 3, 1),
    ("small-128", 8, 128, 128, 3, 1),
    ("small-256", 4, 256, 256, 3, 1),
    ("small-512", 2, 512, 512, 3, 1),
    ("small-s2-512", 4, 256, 512, 3, 2),
];

fn main() -> Result<(), ShapeError> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let threads = rayon::current_num_threads();
    let peak = peak();
    println!("{threads} threads, {peak:.0} GFLOP/s each from FMA units; per pass GFLOP/s (share)");
    println!(
        "{:16} {:>6}  {:>12}  {:>12}  {:>12}  {:>12}",
        "shape", "GFLOP", "plain", "lazy+moments", "data", "weight"
    );
    for shape in
        SHAPES.iter().filter(|shape| words.is_empty() || words.iter().any(|word| shape.0.contains(word)))
    {
        let times = measure(*shape)?;
        let flops = times.flops;
        let cells = times.passes.map(|time| {
            let rate = flops / time.as_secs_f64() / 1e9;
            format!(
                "{rate:6.0} ({:3.0}%)",
                100.0 * rate / (peak * f64::from(u32::try_from(threads).unwrap_or(1)))
            )
        });
        println!("{:16} {:6.2}  {}", shape.0, flops / 1e9, cells.join("  "));
    }
    Ok(())
}

/// The time of every pass.
struct Times {
    flops: f64,
    passes: [Duration; 4],
}

#[expect(clippy::cast_precision_loss, reason = "a count of operations, shown with three digits")]
fn measure((name, side, channels, filters, kernel, stride): Shape) -> Result<Times, ShapeError> {
    let batch = if name.starts_with("small") { 2 * BATCH } else { BATCH };
    let window = Window { stride, padding: kernel / 2, dilation: 1 };
    let sliding = Sliding::new((batch, side, side, channels), (kernel, kernel), window)?;
    let conv = Conv::new(sliding, filters, 1)?;
    let x = values(sliding.in_len());
    let weights = values(conv.weight_len());
    let dy = values(conv.out_len());
    let (scale, shift) = (values(channels), values(channels));
    let affine = Affine { scale: &scale, shift: &shift, activation: Activation::Relu };
    let plain = Operand::plain(&x);
    let lazy = Operand { data: &x, norm: Some(affine) };
    let mut y = vec![0.0; dy.len()];
    let mut dx = vec![0.0; x.len()];
    let mut dw = vec![0.0; weights.len()];
    let mut ws = Workspace::new();
    let mut moments = Moments::default();
    Ok(Times {
        flops: 2.0 * (sliding.out_pixels() * filters * channels * kernel * kernel) as f64,
        passes: [
            least(|| conv::forward(&conv, plain, &weights, &mut y, None, &mut ws))?,
            least(|| conv::forward(&conv, lazy, &weights, &mut y, Some(&mut moments), &mut ws))?,
            least(|| conv::backward_data(&conv, &dy, &weights, &mut dx, false, &mut ws))?,
            least(|| conv::backward_weight(&conv, lazy, &dy, &mut dw, false, &mut ws))?,
        ],
    })
}

/// The minimum time of `pass` within the budget, after one warm-up run.
fn least(mut pass: impl FnMut() -> Result<(), ShapeError>) -> Result<Duration, ShapeError> {
    pass()?;
    let mut least = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < BUDGET {
        let start = Instant::now();
        pass()?;
        least = least.min(start.elapsed());
    }
    Ok(least)
}

/// Numbers without a pattern, between -1 and 1.
fn values(len: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 32768.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// GFLOP/s of one thread that does nothing but multiply and add in registers.
fn peak() -> f64 {
    const ROUNDS: u32 = 20_000;
    const SUMS: usize = 24;
    struct Chains;
    impl WithSimd for Chains {
        type Output = (f32, usize);
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> (f32, usize) {
            let (a, b) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.001)));
            let mut sums = [b; SUMS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = simd.mul_add_e_f32s(*sum, a, b);
                }
            }
            let total = sums.into_iter().fold(a, |total, sum| simd.add_f32s(total, sum));
            (simd.reduce_sum_f32s(total), S::F32_LANES)
        }
    }
    let mut least = Duration::MAX;
    let mut lanes = 0;
    for _ in 0..300 {
        let start = Instant::now();
        lanes = black_box(Arch::new().dispatch(Chains)).1;
        least = least.min(start.elapsed());
    }
    let flops = f64::from(2 * ROUNDS) * f64::from(u32::try_from(SUMS * lanes).unwrap_or(0));
    flops / least.as_secs_f64() / 1e9
}
