//! Where the time of a training step goes: the layers of ResNet-18 at batch 256 and 224 px in bf16, and the passes over
//! memory.
//!
//! `cargo bench -p lgd-cuda --features cuda --bench operations` prints a table. It needs a GPU.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use lgd_cuda::batch_norm::{self, Parameters, Site, Upstream};
use lgd_cuda::timing::Stopwatch;
use lgd_cuda::{
    Activation, Buffer, CudaError, Element, Gpu, GradientTarget, Norm, Operand, SAVED, Sliding, Tuning,
    Window, conv, elementwise, optimizer, pool,
};
use lgd_kernels::conv::Conv;

const BATCH: usize = 256;
const ELEMENT: Element = Element::Bf16;
/// Layers of ResNet-18 at 224 px: (side of the input, channels, outputs, kernel, stride, number of such layers).
const LAYERS: [(usize, usize, usize, usize, usize, u32); 11] = [
    (224, 3, 64, 7, 2, 1),
    (56, 64, 64, 3, 1, 4),
    (56, 64, 128, 3, 2, 1),
    (56, 64, 128, 1, 2, 1),
    (28, 128, 128, 3, 1, 3),
    (28, 128, 256, 3, 2, 1),
    (28, 128, 256, 1, 2, 1),
    (14, 256, 256, 3, 1, 3),
    (14, 256, 512, 3, 2, 1),
    (14, 256, 512, 1, 2, 1),
    (7, 512, 512, 3, 1, 3),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut gpu = Gpu::first(Tuning::default())?;
    say(&format!("device: {}", gpu.stream().context().name()?));
    Ok(all(&mut gpu)?)
}

/// Prints a line of the report. Ignores write errors: the reader of a pipe may have exited.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs all measurements, slowest first if the order matters.
fn all(gpu: &mut Gpu) -> Result<(), CudaError> {
    let copy = bandwidth(gpu)?;
    layers(gpu)?;
    for (side, channels) in [(112, 64), (56, 64), (28, 128), (14, 256), (7, 512)] {
        passes(gpu, side, channels, copy)?;
    }
    stem_pool(gpu, copy)?;
    for (side, channels, kernel, stride) in
        [(112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (28, 240, 5, 1), (14, 576, 3, 1), (7, 960, 3, 1)]
    {
        depthwise(gpu, (side, channels, kernel, stride), copy)?;
    }
    update(gpu, copy)
}

/// The minimum time over several runs, in milliseconds.
fn best(gpu: &mut Gpu, mut run: impl FnMut(&mut Gpu) -> Result<(), CudaError>) -> Result<f64, CudaError> {
    run(gpu)?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let watch = Stopwatch::start(gpu.stream())?;
        for _ in 0..4 {
            run(gpu)?;
        }
        best = best.min(f64::from(watch.stop()?) / 4.0);
    }
    Ok(best)
}

fn real(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::INFINITY, f64::from)
}

/// Throughput in GB/s.
fn rate(values: usize, passes: f64, milliseconds: f64) -> f64 {
    real(values) * real(ELEMENT.size()) * passes / milliseconds / 1e6
}

/// Throughput of a copy, with reads and writes counted: the upper limit of every pass over memory.
fn bandwidth(gpu: &mut Gpu) -> Result<f64, CudaError> {
    let len = 1 << 29;
    let (from, mut to) = (zeros(gpu, len)?, zeros(gpu, len)?);
    let stream = gpu.stream().clone();
    let time = best(gpu, |_| to.as_mut().copy_from(&stream, from.as_slice()))?;
    let reached = rate(len, 2.0, time);
    say(&format!("copy: {reached:.0} GB/s"));
    Ok(reached)
}

fn zeros(gpu: &Gpu, len: usize) -> Result<Buffer, CudaError> {
    Buffer::zeros(gpu.stream(), ELEMENT, len)
}

/// Values of about unit size, generated on the device. Zeros would draw less power and run at a higher clock.
fn values(gpu: &mut Gpu, len: usize) -> Result<Buffer, CudaError> {
    let pattern: Vec<f32> = (0..65_536_u32)
        .map(|at| f32::from(u16::try_from(at.wrapping_mul(40_503) % 4_001).unwrap_or(0)) / 1000.0 - 2.0)
        .collect();
    let pattern: Vec<f32> = pattern.iter().cycle().take(len.min(1 << 22)).copied().collect();
    let pattern = Buffer::from_host(gpu.stream(), &pattern)?;
    let mut buffer = gpu.alloc(ELEMENT, len)?;
    for start in (0..len).step_by(1 << 22) {
        let end = len.min(start + (1 << 22));
        elementwise::narrow(
            gpu,
            pattern.as_slice().slice(0..end - start)?,
            &mut buffer.as_mut().slice(start..end)?,
        )?;
    }
    Ok(buffer)
}

fn layers(gpu: &mut Gpu) -> Result<(), CudaError> {
    say(
        "ResNet-18, batch 256, 224 px, bf16: layer, count; ms (TFLOP/s, engine) forward, input's gradient, weights' gradient",
    );
    let mut total = [0.0; 3];
    let mut work = 0.0;
    for (side, channels, outputs, kernel, stride, count) in LAYERS {
        let window = Window { stride, padding: kernel / 2, dilation: 1 };
        let s = Sliding::new((BATCH, side, side, channels), (kernel, kernel), window)?;
        let conv = Conv::new(s, outputs, 1)?;
        let (x, w, dy) =
            (values(gpu, s.in_len())?, values(gpu, conv.weight_len())?, values(gpu, conv.out_len())?);
        let (mut y, mut dx) = (zeros(gpu, dy.len())?, zeros(gpu, x.len())?);
        let mut dw = Buffer::zeros(gpu.stream(), Element::F32, w.len())?;
        let started = Instant::now();
        let operand = Operand::plain(x.as_slice());
        conv::forward(gpu, &conv, operand, w.as_slice(), &mut y.as_mut())?;
        if channels > 3 {
            conv::backward_data(gpu, &conv, dy.as_slice(), w.as_slice(), &mut dx.as_mut(), false)?;
        }
        conv::backward_weight(gpu, &conv, operand, dy.as_slice(), &mut dw.as_mut(), true)?;
        gpu.synchronize()?;
        let tuning = started.elapsed().as_secs_f64();
        let forward = best(gpu, |gpu| conv::forward(gpu, &conv, operand, w.as_slice(), &mut y.as_mut()))?;
        let mut data = [0.0; 2];
        if channels > 3 {
            for (time, accumulate) in data.iter_mut().zip([false, true]) {
                *time = best(gpu, |gpu| {
                    conv::backward_data(gpu, &conv, dy.as_slice(), w.as_slice(), &mut dx.as_mut(), accumulate)
                })?;
            }
        }
        let filter = best(gpu, |gpu| {
            conv::backward_weight(gpu, &conv, operand, dy.as_slice(), &mut dw.as_mut(), true)
        })?;
        let flop = 2.0 * real(s.out_pixels()) * real(conv.weight_len()) / 1e9;
        let engines = conv::engines(gpu, &conv, ELEMENT)
            .map(|engine| engine.map_or("-".to_owned(), |engine| engine.to_string()));
        say(&format!(
            "{side:4} {channels:4}->{outputs:4} {kernel}x{kernel}/{stride} x{count}: {forward:.3} ({:.0}, {})  {:.3} ({:.0}, {}), added {:.3}  {filter:.3} ({:.0}, {})   tuned in {tuning:.1} s",
            flop / forward,
            engines[0],
            data[0],
            if data[0] > 0.0 { flop / data[0] } else { 0.0 },
            engines[1],
            data[1],
            flop / filter,
            engines[2],
        ));
        for (total, time) in total.iter_mut().zip([forward, data[0], filter]) {
            *total += time * f64::from(count);
        }
        work += flop * f64::from(count) * if channels > 3 { 3.0 } else { 2.0 };
    }
    let sum: f64 = total.iter().sum();
    say(&format!(
        "all layers: forward {:.2} ms, input {:.2} ms, weights {:.2} ms, together {sum:.2} ms = {:.0} TFLOP/s",
        total[0],
        total[1],
        total[2],
        work / sum
    ));
    Ok(())
}

fn line(name: &str, (values, passes, time): (usize, f64, f64), copy: f64) {
    let reached = rate(values, passes, time);
    say(&format!("  {name:34} {time:.3} ms  {reached:5.0} GB/s  {:3.0}% of a copy", reached / copy * 100.0));
}

fn passes(gpu: &mut Gpu, side: usize, channels: usize, copy: f64) -> Result<(), CudaError> {
    let len = BATCH * side * side * channels;
    say(&format!("batch normalization with ReLU at {side}x{side}x{channels}:"));
    let (x, r, mut dy, mut y) = (values(gpu, len)?, values(gpu, len)?, values(gpu, len)?, zeros(gpu, len)?);
    let ones = Buffer::from_host(gpu.stream(), &vec![1.0_f32; channels])?;
    let floats = |count| Buffer::zeros(gpu.stream(), Element::F32, count);
    let (mut kept, mut other, mut dgamma, mut dbeta) =
        (floats(SAVED * channels)?, floats(SAVED * channels)?, floats(channels)?, floats(channels)?);
    let (mut dgamma2, mut dbeta2) = (floats(channels)?, floats(channels)?);
    let parameters = Parameters { gamma: ones.as_slice(), beta: ones.as_slice(), eps: 1e-5 };
    let time = best(gpu, |gpu| {
        batch_norm::training(gpu, x.as_slice(), &parameters, None, None, &mut kept.as_mut())
    })?;
    line("statistics", (len, 1.0, time), copy);
    batch_norm::training(gpu, r.as_slice(), &parameters, None, None, &mut other.as_mut())?;
    let (relu, none) = (Activation::Relu, Activation::Identity);
    let operand =
        Operand { data: x.as_slice(), norm: Some(Norm { saved: kept.as_slice(), activation: relu }) };
    let time = best(gpu, |gpu| elementwise::materialize(gpu, operand, channels, &mut y.as_mut()))?;
    line("normalize", (len, 2.0, time), copy);
    let summand =
        Operand { data: x.as_slice(), norm: Some(Norm { saved: kept.as_slice(), activation: none }) };
    let time = best(gpu, |gpu| {
        elementwise::add(gpu, summand, Operand::plain(r.as_slice()), channels, relu, &mut y.as_mut())
    })?;
    line("normalize and add", (len, 3.0, time), copy);
    let mut site = Site {
        x: x.as_slice(),
        saved: kept.as_mut(),
        activation: relu,
        dgamma: dgamma.as_mut(),
        dbeta: dbeta.as_mut(),
        accumulate: false,
        counted: None,
    };
    let upstream = Upstream::Dense(r.as_slice());
    let time = best(gpu, |gpu| batch_norm::backward_sums(gpu, &mut site, &upstream))?;
    line("sums of the gradient", (len, 2.0, time), copy);
    let time = best(gpu, |gpu| {
        batch_norm::backward_input(
            gpu,
            &site,
            GradientTarget::Into { dy: upstream, dx: &mut dy.as_mut(), accumulate: false },
        )
    })?;
    line("gradient", (len, 3.0, time), copy);
    site.activation = none;
    let time = best(gpu, |gpu| {
        batch_norm::residual_backward(gpu, y.as_slice(), &mut dy.as_mut(), relu, &mut site, None)
    })?;
    line("gradient of a sum, with sums", (len, 4.0, time), copy);
    let mut second = Site {
        x: r.as_slice(),
        saved: other.as_mut(),
        activation: none,
        dgamma: dgamma2.as_mut(),
        dbeta: dbeta2.as_mut(),
        accumulate: false,
        counted: None,
    };
    let time = best(gpu, |gpu| {
        batch_norm::residual_backward(gpu, y.as_slice(), &mut dy.as_mut(), relu, &mut site, Some(&mut second))
    })?;
    line("the same with two normalizations", (len, 5.0, time), copy);
    Ok(())
}

fn stem_pool(gpu: &mut Gpu, copy: f64) -> Result<(), CudaError> {
    say("max-pool 3x3/2 at 112x112x64, through a normalization with ReLU:");
    let s = Sliding::new((BATCH, 112, 112, 64), (3, 3), Window { stride: 2, padding: 1, dilation: 1 })?;
    let (len, out) = (s.in_len(), s.out_pixels() * 64);
    let (x, dy, mut y, mut dx) = (values(gpu, len)?, values(gpu, out)?, zeros(gpu, out)?, zeros(gpu, len)?);
    let mut taken = gpu.alloc(Element::U8, out)?;
    let ones = Buffer::from_host(gpu.stream(), &[1.0_f32; 64])?;
    let mut kept = Buffer::zeros(gpu.stream(), Element::F32, SAVED * 64)?;
    let parameters = Parameters { gamma: ones.as_slice(), beta: ones.as_slice(), eps: 1e-5 };
    batch_norm::training(gpu, x.as_slice(), &parameters, None, None, &mut kept.as_mut())?;
    let norm = Some(Norm { saved: kept.as_slice(), activation: Activation::Relu });
    let operand = Operand { data: x.as_slice(), norm };
    let time = best(gpu, |gpu| pool::max_pool(gpu, &s, operand, &mut y.as_mut(), &mut taken.as_mut()))?;
    line("forward", (len, 1.375, time), copy);
    let time = best(gpu, |gpu| {
        pool::max_pool_backward(gpu, &s, dy.as_slice(), taken.as_slice(), &mut dx.as_mut(), false)
    })?;
    line("gradient", (len, 1.375, time), copy);
    let (mut dgamma, mut dbeta) =
        (Buffer::zeros(gpu.stream(), Element::F32, 64)?, Buffer::zeros(gpu.stream(), Element::F32, 64)?);
    let mut site = Site {
        x: x.as_slice(),
        saved: kept.as_mut(),
        activation: Activation::Relu,
        dgamma: dgamma.as_mut(),
        dbeta: dbeta.as_mut(),
        accumulate: false,
        counted: None,
    };
    let upstream = Upstream::Pooled { dy: dy.as_slice(), argmax: taken.as_slice(), sliding: s };
    let time = best(gpu, |gpu| batch_norm::backward_sums(gpu, &mut site, &upstream))?;
    line("sums of the gradient, through the pool", (len, 1.375, time), copy);
    let time = best(gpu, |gpu| {
        batch_norm::backward_input(
            gpu,
            &site,
            GradientTarget::Into { dy: upstream, dx: &mut dx.as_mut(), accumulate: false },
        )
    })?;
    line("gradient, through the pool", (len, 2.375, time), copy);
    Ok(())
}

fn depthwise(
    gpu: &mut Gpu,
    (side, channels, kernel, stride): (usize, usize, usize, usize),
    copy: f64,
) -> Result<(), CudaError> {
    let window = Window { stride, padding: kernel / 2, dilation: 1 };
    let s = Sliding::new((BATCH, side, side, channels), (kernel, kernel), window)?;
    let conv = Conv::new(s, channels, channels)?;
    say(&format!(
        "depthwise {kernel}x{kernel}/{stride} at {side}x{side}x{channels}, through a normalization with ReLU6:"
    ));
    let (x, w, dy) =
        (values(gpu, s.in_len())?, values(gpu, conv.weight_len())?, values(gpu, conv.out_len())?);
    let (mut y, mut dx) = (zeros(gpu, dy.len())?, zeros(gpu, x.len())?);
    let mut dw = Buffer::zeros(gpu.stream(), Element::F32, w.len())?;
    let ones = Buffer::from_host(gpu.stream(), &vec![1.0_f32; channels])?;
    let mut kept = Buffer::zeros(gpu.stream(), Element::F32, SAVED * channels)?;
    let parameters = Parameters { gamma: ones.as_slice(), beta: ones.as_slice(), eps: 1e-5 };
    batch_norm::training(gpu, x.as_slice(), &parameters, None, None, &mut kept.as_mut())?;
    let operand = Operand {
        data: x.as_slice(),
        norm: Some(Norm { saved: kept.as_slice(), activation: Activation::Relu6 }),
    };
    let both = x.len() + dy.len();
    let time = best(gpu, |gpu| conv::forward(gpu, &conv, operand, w.as_slice(), &mut y.as_mut()))?;
    line("forward", (both, 1.0, time), copy);
    let time = best(gpu, |gpu| {
        conv::backward_data(gpu, &conv, dy.as_slice(), w.as_slice(), &mut dx.as_mut(), false)
    })?;
    line("input's gradient", (both, 1.0, time), copy);
    let time =
        best(gpu, |gpu| conv::backward_weight(gpu, &conv, operand, dy.as_slice(), &mut dw.as_mut(), false))?;
    line("filters' gradient", (both, 1.0, time), copy);
    Ok(())
}

fn update(gpu: &mut Gpu, copy: f64) -> Result<(), CudaError> {
    let len = 11_700_000;
    say("SGD with momentum over 11.7 million parameters, with their bf16 copy:");
    let floats = |gpu: &Gpu| Buffer::zeros(gpu.stream(), Element::F32, len);
    let (g, mut p, mut v, mut half) = (floats(gpu)?, floats(gpu)?, floats(gpu)?, zeros(gpu, len)?);
    let tensors: Vec<_> = (0..60)
        .map(|at| optimizer::Tensor { start: at * 195_000, len: 195_000, weight_decay: 1e-4, adapted: false })
        .collect();
    let mut table = optimizer::Table::new(gpu.stream(), &tensors, len)?;
    let step = optimizer::SgdStep { lr: 0.1, momentum: 0.9, nesterov: false, trust: None };
    let time = best(gpu, |gpu| {
        let vectors = optimizer::Vectors {
            gradients: g.as_slice(),
            parameters: p.as_mut(),
            copy: Some(half.as_mut()),
            clipped: false,
        };
        optimizer::sgd(gpu, &table, &step, &vectors, &v.as_mut())
    })?;
    line("step", (len, 11.0, time), copy);
    let time = best(gpu, |gpu| optimizer::clip(gpu, &mut table, g.as_slice(), 1.0))?;
    line("norm of the gradients", (len, 2.0, time), copy);
    Ok(())
}
