//! Memory-bound kernels, each compared with a copy of the same bytes in the same run.
//!
//! `cargo bench -p lgd-kernels --bench memory_bound [filter]`. One thread; times are minima over many repeats. `copies`
//! is the time divided by the time to copy the kernel's input once.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lgd_kernels::batch_norm::{self, Normalization};
use lgd_kernels::linear::{self, Linear};
use lgd_kernels::optimizer::{self, AdamWStep, SgdStep};
use lgd_kernels::rows::{self, Targets};
use lgd_kernels::{Activation, Affine, GradientTarget, Moments, Operand, Sliding, Window, Workspace};
use lgd_kernels::{depthwise, elementwise, pool};

/// Time budget for the repeats of one kernel.
const BUDGET: Duration = Duration::from_millis(250);

struct Bench {
    filter: String,
}

impl Bench {
    /// Times `f`, which reads about `elements` values, alternating with a copy of as many.
    fn run(&self, name: &str, elements: usize, mut f: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        let source = vec![1.0f32; elements];
        let mut target = vec![0.0f32; elements];
        f();
        let (start, mut time, mut copy) = (Instant::now(), Duration::MAX, Duration::MAX);
        while start.elapsed() < BUDGET {
            copy = copy.min(timed(|| black_box(&mut target).copy_from_slice(black_box(&source))));
            time = time.min(timed(&mut f));
        }
        let count = f64::from(u32::try_from(elements).unwrap_or(u32::MAX));
        let (time, copy) = (time.as_secs_f64(), copy.as_secs_f64());
        let (per, copies, rate) = (time * 1e9 / count, time / copy, 8.0 * count / copy / 1e9);
        eprintln!(
            "{name:42} {:8.3} ms {per:6.3} ns/element {copies:6.2} copies (at {rate:.1} GB/s)",
            time * 1e3
        );
    }
}

fn timed(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

fn data(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(0x4000_0000 | state >> 9) - 3.0
    };
    (0..len).map(|_| next()).collect()
}

fn depthwise(
    bench: &Bench,
    (side, channels, kernel, stride): (usize, usize, usize, usize),
    activation: Activation,
) {
    let window = Window { stride, padding: kernel / 2, dilation: 1 };
    let Ok(s) = Sliding::new((16, side, side, channels), (kernel, kernel), window) else { return };
    let name = format!("depthwise {side}x{side}x{channels} k{kernel} s{stride}");
    let (x, dy, weights) = (data(s.in_len()), data(s.out_pixels() * channels), data(channels * s.taps()));
    let (scale, shift) = (data(channels), data(channels));
    let operand = Operand { data: &x, norm: Some(Affine { scale: &scale, shift: &shift, activation }) };
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), weights.clone());
    let mut moments = Moments::default();
    bench.run(&format!("{name} forward"), x.len(), || {
        depthwise::forward(&s, operand, &weights, &mut y, Some(&mut moments)).unwrap_or_default();
    });
    bench.run(&format!("{name} backward data"), x.len(), || {
        depthwise::backward_data(&s, &dy, &weights, &mut dx, false).unwrap_or_default();
    });
    bench.run(&format!("{name} backward weight"), x.len(), || {
        depthwise::backward_weight(&s, operand, &dy, &mut dw, false).unwrap_or_default();
    });
}

fn batch_norm(bench: &Bench, (rows, channels): (usize, usize), activation: Activation) {
    let (x, dy) = (data(rows * channels), data(rows * channels));
    let (gamma, beta) = (data(channels), data(channels));
    let Ok(moments) = Moments::of(&x, channels) else { return };
    let Ok(norm) = Normalization::training(&moments, &gamma, &beta, 1e-5, activation) else { return };
    let (mut dgamma, mut dbeta, mut dx) = (gamma.clone(), beta.clone(), x.clone());
    let name = format!("batch norm {rows}x{channels} {activation:?}");
    bench.run(&format!("{name} moments"), x.len(), || {
        black_box(Moments::of(&x, channels)).unwrap_or_default();
    });
    bench.run(&format!("{name} backward"), x.len(), || {
        let target = GradientTarget::Into { dy: &dy[..], dx: &mut dx[..], accumulate: false };
        batch_norm::backward(&norm, &gamma, &x, target, &mut dgamma, &mut dbeta, false).unwrap_or_default();
    });
}

fn others(bench: &Bench) {
    let (batch, pixels, channels) = (16, 56 * 56, 64);
    let len = batch * pixels * channels;
    let (a, b, scale, shift) = (data(len), data(len), data(channels), data(channels));
    let lazy =
        |activation| Operand { data: &a, norm: Some(Affine { scale: &scale, shift: &shift, activation }) };
    let (mut y, mut dy) = (data(len), data(len));
    for activation in Activation::ALL {
        bench.run(&format!("materialize {activation:?}"), len, || {
            elementwise::materialize(lazy(activation), channels, &mut y).unwrap_or_default();
        });
    }
    bench.run("add bn + plain, relu", len, || {
        elementwise::add(lazy(Activation::Identity), Operand::plain(&b), channels, Activation::Relu, &mut y)
            .unwrap_or_default();
    });
    bench.run("add backward relu", len, || {
        elementwise::add_backward(Activation::Relu, &a, &mut dy).unwrap_or_default();
    });
    bench.run("add into", len, || elementwise::add_into(&a, &mut dy).unwrap_or_default());
    let (gate, mut dgate) = (data(batch * channels), data(batch * channels));
    bench.run("gate", len, || {
        elementwise::scale(lazy(Activation::Silu), &gate, pixels, channels, &mut y).unwrap_or_default();
    });
    bench.run("gate backward", len, || {
        elementwise::scale_backward(lazy(Activation::Silu), &gate, pixels, channels, &mut dy, &mut dgate)
            .unwrap_or_default();
    });
    bench.run("global average", len, || {
        pool::global_average(lazy(Activation::Silu), pixels, channels, &mut dgate).unwrap_or_default();
    });
    bench.run("global average backward", len, || {
        pool::global_average_backward(&gate, pixels, channels, &mut y, false).unwrap_or_default();
    });
    let window = Window { stride: 2, padding: 1, dilation: 1 };
    if let Ok(s) = Sliding::new((batch, 112, 112, 64), (3, 3), window) {
        let x = data(s.in_len());
        let mut dx = x.clone();
        let mut argmax = vec![0; s.out_pixels() * channels];
        let operand = Operand { data: &x, ..lazy(Activation::Relu) };
        bench.run("max pool", x.len(), || {
            pool::max_pool(&s, operand, &mut y, &mut argmax).unwrap_or_default()
        });
        bench.run("max pool backward", x.len(), || {
            pool::max_pool_backward(&s, &dy, &argmax, &mut dx, false).unwrap_or_default();
        });
    }
}

fn dense(bench: &Bench, (batch, inputs, outputs): (usize, usize, usize)) {
    let Ok(l) = Linear::new(batch, inputs, outputs) else { return };
    let (x, weights, dy) = (data(batch * inputs), data(inputs * outputs), data(batch * outputs));
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), weights.clone());
    let mut workspace = Workspace::new();
    let name = format!("linear {batch}x{inputs}x{outputs}");
    let flops = f64::from(u32::try_from(2 * batch * inputs * outputs).unwrap_or(u32::MAX));
    eprintln!("{name}: {:.3} ms at 100 GFLOP/s", flops / 1e8);
    bench.run(&format!("{name} forward"), weights.len(), || {
        linear::forward(&l, Operand::plain(&x), &weights, None, &mut y, &mut workspace).unwrap_or_default();
    });
    bench.run(&format!("{name} backward data"), weights.len(), || {
        linear::backward_data(&l, &dy, &weights, &mut dx, false, &mut workspace).unwrap_or_default();
    });
    bench.run(&format!("{name} backward weight"), weights.len(), || {
        linear::backward_weight(&l, Operand::plain(&x), &dy, &mut dw, None, false, &mut workspace)
            .unwrap_or_default();
    });
}

fn optimizers(bench: &Bench) {
    let len = 8 << 20;
    let (mut p, g, mut m, mut v) = (data(len), data(len), data(len), vec![0.5; len]);
    let step = SgdStep { lr: 1e-9, momentum: 0.9, weight_decay: 1e-4, nesterov: false };
    bench.run("sgd", len, || optimizer::sgd(&step, &mut p, &g, &mut m).unwrap_or_default());
    let step =
        AdamWStep { lr: 1e-9, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1, correction: (0.5, 0.5) };
    bench.run("adamw", len, || optimizer::adamw(&step, &mut p, &g, &mut m, &mut v).unwrap_or_default());
    bench.run("ema", len, || optimizer::ema(0.999, &p, &mut m).unwrap_or_default());
    bench.run("sum of squares", len, || {
        black_box(optimizer::sum_of_squares(&g));
    });
}

fn distributions(bench: &Bench) {
    let (batch, columns, k) = (256, 4096, 64);
    let logits = data(batch * columns);
    let (mut softmax, mut dlogits) = (logits.clone(), logits.clone());
    let active = vec![true; columns];
    let indices: Vec<u32> = (0..u32::try_from(batch * k).unwrap_or(0)).map(|i| i * 37 % 4096).collect();
    let probabilities = vec![0.01; batch * k];
    let targets = Targets::Sparse { indices: &indices, probabilities: &probabilities, k };
    bench.run("cross-entropy forward", logits.len(), || {
        rows::cross_entropy_forward(&logits, targets, &active, &mut softmax).unwrap_or_default();
    });
    bench.run("cross-entropy backward", logits.len(), || {
        rows::cross_entropy_backward(&softmax, targets, &active, 1.0, &mut dlogits).unwrap_or_default();
    });
    bench.run("normalize", logits.len(), || {
        rows::l2_normalize(&logits, columns, &mut softmax).unwrap_or_default()
    });
}

fn run() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let bench = Bench { filter };
    for shape in
        [(112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (28, 192, 3, 1), (14, 576, 3, 1), (7, 960, 3, 1)]
    {
        depthwise(&bench, shape, Activation::Relu6);
    }
    for shape in [(56, 144, 5, 2), (28, 240, 5, 1), (14, 672, 5, 1), (7, 1152, 5, 1)] {
        depthwise(&bench, shape, Activation::Silu);
    }
    for activation in Activation::ALL {
        batch_norm(&bench, (16 * 56 * 56, 144), activation);
    }
    batch_norm(&bench, (16 * 112 * 112, 16), Activation::Relu6);
    batch_norm(&bench, (16 * 56 * 56, 24), Activation::Relu6);
    batch_norm(&bench, (16 * 7 * 7, 960), Activation::Relu6);
    others(&bench);
    for shape in [(16, 1280, 1000), (256, 2048, 512), (256, 512, 4096), (16, 960, 240)] {
        dense(&bench, shape);
    }
    optimizers(&bench);
    distributions(&bench);
}

fn main() {
    match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(run),
        Err(error) => eprintln!("{error}"),
    }
}
