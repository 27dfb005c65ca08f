//! Dense and grouped convolutions through cuDNN on tensor cores, and depthwise ones through the crate's own kernels.
//! NHWC activations, OHWI weights.

use lgd_kernels::conv::Conv;

use crate::dnn::{ALIGNMENT, Pass, Problem, Tensors};
use crate::error::{CudaError, Result, expect_element, expect_eq, expect_floats};
use crate::gpu::Gpu;
use crate::memory::{Buffer, Element, Slice, SliceMut};
use crate::operand::Operand;
use crate::stem::Stem;
use crate::timing::Stopwatch;
use crate::{depthwise, elementwise};

/// Timed runs of a candidate, after an untimed one.
const RUNS: usize = 3;

/// How a convolution's algorithm is chosen, once per shape and process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Measure the candidates, and choose the fastest. Another process may choose another one, whose sums are rounded
    /// differently. If false, the choice is cuDNN's first proposal, which depends only on the shape and the GPU model.
    pub measure: bool,
    /// Let f32 convolutions run on tensor cores, with operands rounded to 11 bits.
    pub tf32: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { measure: true, tf32: false }
    }
}

/// Whether the convolution runs on the crate's own kernels, which normalize their input while they read it; cuDNN's
/// cannot. Its filters have the layout of a dense convolution with one input channel, so that both paths read the same
/// bytes.
pub fn is_depthwise(conv: &Conv) -> bool {
    conv.is_depthwise() && depthwise::supports(&conv.sliding)
}

/// The convolution of `x`. Inputs of dense and grouped convolutions must be plain.
///
/// # Errors
/// Lengths or elements that do not match, no algorithm, or an error of the device.
pub fn forward(
    gpu: &mut Gpu,
    conv: &Conv,
    x: Operand<'_>,
    weights: Slice<'_>,
    y: &mut SliceMut<'_>,
) -> Result<()> {
    if is_depthwise(conv) {
        return depthwise::forward(gpu, &conv.sliding, x, weights, y);
    }
    let x = plain(x)?;
    check(conv, (x, weights, y.as_slice()))?;
    if let Some(stem) = Stem::of(conv)? {
        let (images, filters) = (stem.images(gpu, x)?, stem.filters(gpu, weights)?);
        return dense(gpu, &stem.blocks, images.as_slice(), filters.as_slice(), y);
    }
    dense(gpu, conv, x, weights, y)
}

fn dense(gpu: &mut Gpu, conv: &Conv, x: Slice<'_>, weights: Slice<'_>, y: &mut SliceMut<'_>) -> Result<()> {
    let problem = problem(conv, Pass::Forward, x.element(), y.element(), false);
    run(gpu, &problem, Tensors { x: x.address(), w: weights.address(), y: y.address() })
}

/// The gradient of the input.
///
/// # Errors
/// Lengths or elements that do not match, no algorithm, or an error of the device.
pub fn backward_data(
    gpu: &mut Gpu,
    conv: &Conv,
    dy: Slice<'_>,
    weights: Slice<'_>,
    dx: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    if is_depthwise(conv) {
        return depthwise::backward_data(gpu, &conv.sliding, dy, weights, dx, accumulate);
    }
    check(conv, (dx.as_slice(), weights, dy))?;
    let tensors = Tensors { x: dx.address(), w: weights.address(), y: dy.address() };
    let into = problem(conv, Pass::Data, dy.element(), dx.element(), accumulate);
    if prepare(gpu, &into, tensors)? {
        return run(gpu, &into, tensors);
    }
    // No algorithm adds to its result, so the result goes to separate memory first.
    let mut own = gpu.alloc(dx.element(), dx.len())?;
    let apart = Problem { accumulate: false, ..into };
    run(gpu, &apart, Tensors { x: own.as_mut().address(), ..tensors })?;
    elementwise::add_into(gpu, own.as_slice(), dx)
}

/// The gradient of the weights, f32.
///
/// # Errors
/// Lengths or elements that do not match, no algorithm, or an error of the device.
pub fn backward_weight(
    gpu: &mut Gpu,
    conv: &Conv,
    x: Operand<'_>,
    dy: Slice<'_>,
    dw: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    if is_depthwise(conv) {
        return depthwise::backward_weight(gpu, &conv.sliding, x, dy, dw, accumulate);
    }
    let x = plain(x)?;
    expect_eq("convolution input", conv.sliding.in_len(), x.len())?;
    expect_eq("convolution output gradient", conv.out_len(), dy.len())?;
    expect_element("convolution output gradient", x.element(), dy.element())?;
    expect_floats("convolution weight gradient", dw.as_slice(), conv.weight_len())?;
    if let Some(stem) = Stem::of(conv)? {
        let images = stem.images(gpu, x)?;
        let mut blocks = gpu.alloc(x.element(), stem.blocks.weight_len())?;
        let problem = problem(&stem.blocks, Pass::Filter, x.element(), x.element(), false);
        let (x, w) = (images.as_slice().address(), blocks.as_mut().address());
        run(gpu, &problem, Tensors { x, w, y: dy.address() })?;
        return stem.gradient(gpu, blocks.as_slice(), dw, accumulate);
    }
    let tensors = Tensors { x: x.address(), w: dw.address(), y: dy.address() };
    let direct = problem(conv, Pass::Filter, x.element(), Element::F32, accumulate);
    if x.element() == Element::F32 && prepare(gpu, &direct, tensors)? {
        return run(gpu, &direct, tensors);
    }
    // Written in the operands' element type, as in mixed precision, then added to the f32 gradient. In the scratch
    // memory the workspace follows the result.
    let apart = Problem { result: x.element(), accumulate: false, ..direct };
    let bytes = (dw.len() * x.element().size()).next_multiple_of(256);
    prepare(gpu, &apart, tensors)?;
    let workspace = gpu.dnn().workspace(&apart)?;
    let scratch = gpu.lend_scratch(bytes + workspace)?;
    let address = scratch.as_slice().address();
    execute(gpu, &apart, Tensors { w: address, ..tensors }, address + u64::try_from(bytes).unwrap_or(0))?;
    elementwise::widen(gpu, scratch.as_slice().cast(x.element(), dw.len())?, dw, accumulate)?;
    gpu.restore_scratch(scratch);
    Ok(())
}

/// The engine chosen for each pass of a convolution, in cuDNN's numbering, for reports.
pub fn engines(gpu: &mut Gpu, conv: &Conv, element: Element) -> [Option<i64>; 3] {
    let conv = Stem::of(conv).ok().flatten().map_or(*conv, |stem| stem.blocks);
    let of = |pass| problem(&conv, pass, element, element, false);
    [Pass::Forward, Pass::Data, Pass::Filter].map(|pass| gpu.dnn().engine(&of(pass)))
}

fn plain(x: Operand<'_>) -> Result<Slice<'_>> {
    if x.norm.is_some() {
        return Err(CudaError::Unsupported { what: "a normalized input of cuDNN".to_owned() });
    }
    Ok(x.data)
}

fn check(conv: &Conv, (x, weights, y): (Slice<'_>, Slice<'_>, Slice<'_>)) -> Result<()> {
    expect_eq("convolution input", conv.sliding.in_len(), x.len())?;
    expect_eq("convolution weights", conv.weight_len(), weights.len())?;
    expect_eq("convolution output", conv.out_len(), y.len())?;
    expect_element("convolution weights", x.element(), weights.element())?;
    expect_element("convolution output", x.element(), y.element())
}

fn problem(conv: &Conv, pass: Pass, element: Element, result: Element, accumulate: bool) -> Problem {
    let s = &conv.sliding;
    Problem {
        pass,
        element,
        result,
        x: [s.batch, s.channels, s.height, s.width],
        w: [conv.out_channels, s.channels / conv.groups, s.kernel.0, s.kernel.1],
        y: [s.batch, conv.out_channels, s.out_height, s.out_width],
        stride: s.window.stride,
        before: [s.window.padding; 2],
        after: s.padding_after().into(),
        dilation: s.window.dilation,
        accumulate,
    }
}

/// Chooses a plan unless there is one already; returns whether there is one.
fn prepare(gpu: &mut Gpu, problem: &Problem, tensors: Tensors) -> Result<bool> {
    for address in [tensors.x, tensors.w, tensors.y] {
        if !address.is_multiple_of(ALIGNMENT.unsigned_abs()) {
            return Err(CudaError::Unsupported {
                what: "a tensor of a convolution that is not aligned to 16 bytes".to_owned(),
            });
        }
    }
    if let Some(exists) = gpu.dnn().chosen(problem) {
        return Ok(exists);
    }
    gpu.stream().context().bind_to_thread()?;
    // Candidates write to separate memory: the result may be added to, or be in use.
    let [x, w, y] = [problem.x, problem.w, problem.y].map(|dims| dims.iter().product::<usize>());
    let (target, len) = match problem.pass {
        Pass::Forward => (2, y),
        Pass::Data => (0, x),
        Pass::Filter => (1, w),
    };
    let own = if gpu.dnn().tuning().measure { Some(gpu.alloc(problem.result, len)?) } else { None };
    let mut apart = [tensors.x, tensors.w, tensors.y];
    if let Some(own) = &own {
        apart[target] = own.as_slice().address();
    }
    let [x, w, y] = apart;
    let tensors = Tensors { x, w, y };
    let stream = gpu.stream().clone();
    let mut workspace: Option<Buffer> = None;
    gpu.dnn().choose(problem, |bytes, run| {
        if workspace.as_ref().is_none_or(|workspace| workspace.len() < bytes) {
            // Freed first, because both together may not fit.
            workspace = None;
            workspace = Some(Buffer::new(&stream, Element::U8, bytes)?);
        }
        let address = workspace.as_ref().map_or(0, |workspace| workspace.as_slice().address());
        run(tensors, address)?;
        let watch = Stopwatch::start(&stream)?;
        for _ in 0..RUNS {
            run(tensors, address)?;
        }
        watch.stop()
    })
}

/// Runs a problem with its workspace in the scratch memory.
fn run(gpu: &mut Gpu, problem: &Problem, tensors: Tensors) -> Result<()> {
    prepare(gpu, problem, tensors)?;
    let bytes = gpu.dnn().workspace(problem)?;
    let workspace = gpu.scratch(bytes)?;
    execute(gpu, problem, tensors, workspace)
}

fn execute(gpu: &mut Gpu, problem: &Problem, tensors: Tensors, workspace: u64) -> Result<()> {
    gpu.stream().context().bind_to_thread()?;
    gpu.dnn().run(problem, tensors, workspace)
}
