//! Every operation against its reference: odd sizes, both parities at stride 2, groups, batches of one, channels that no vector
//! divides.

use lgd_cuda::batch_norm::{self, KEPT, Mask, Norm, Operand, Parameters, Running, Site, Through, Upstream};
use lgd_cuda::optimizer::{self, AdamW, Sgd, Table, Tensor, Vectors};
use lgd_cuda::rows::{self, Targets};
use lgd_cuda::{
    Activation, Buffer, CudaError, Element, Sliding, Window, conv, elementwise, host, linear, pool,
};
use lgd_kernels::conv::Conv;
use lgd_kernels::linear::Linear;

use crate::lab::{Lab, single};
use crate::reference::{self, activate, products, slope, wide};

const ACTIVATIONS: [Activation; 7] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Relu6,
    Activation::HardSwish,
    Activation::HardSigmoid,
    Activation::Silu,
    Activation::Sigmoid,
];
const EPS: f32 = 1e-5;

/// Operations that exist for each element.
pub fn all(lab: &mut Lab) -> Result<(), CudaError> {
    convolutions(lab)?;
    depthwise(lab)?;
    for channels in [16, 5, 264] {
        for activation in ACTIVATIONS {
            batch_norm(lab, channels, activation)?;
        }
        residual(lab, channels)?;
        maps(lab, channels)?;
        pools(lab, channels)?;
        gates(lab, channels)?;
    }
    masked(lab)?;
    dense(lab)
}

/// Operations on f32 alone.
pub fn plain(lab: &mut Lab) -> Result<(), CudaError> {
    normalised_rows(lab)?;
    cross_entropy(lab)?;
    optimisers(lab)?;
    images(lab)?;
    uploads(lab)
}

/// Input (batch, height, width, channels), (outputs, side, groups), window (stride, padding, dilation).
type Shape = ((usize, usize, usize, usize), (usize, usize, usize), (usize, usize, usize));

fn geometry((input, (_, side, _), (stride, padding, dilation)): Shape) -> Result<Sliding, CudaError> {
    Ok(Sliding::new(input, (side, side), Window { stride, padding, dilation })?)
}

fn convolutions(lab: &mut Lab) -> Result<(), CudaError> {
    let shapes: [Shape; 14] = [
        ((2, 9, 7, 16), (24, 3, 1), (1, 1, 1)),
        ((1, 8, 8, 8), (8, 3, 1), (2, 1, 1)),
        ((3, 7, 9, 16), (8, 3, 1), (2, 1, 1)),
        ((2, 7, 8, 16), (8, 3, 1), (2, 1, 1)),
        ((2, 16, 15, 3), (16, 7, 1), (2, 3, 1)),
        ((2, 12, 13, 3), (8, 3, 1), (2, 1, 1)),
        ((1, 9, 9, 4), (8, 5, 1), (2, 2, 1)),
        ((2, 8, 9, 1), (8, 3, 1), (2, 0, 1)),
        ((2, 6, 6, 32), (16, 1, 1), (1, 0, 1)),
        ((2, 7, 6, 16), (32, 1, 1), (2, 0, 1)),
        ((2, 8, 8, 16), (16, 3, 1), (1, 2, 2)),
        ((2, 8, 8, 32), (32, 3, 4), (1, 1, 1)),
        ((1, 5, 5, 8), (8, 5, 1), (1, 2, 1)),
        ((1, 1, 1, 64), (40, 1, 1), (1, 0, 1)),
    ];
    shapes.into_iter().try_for_each(|shape| convolution(lab, shape, None))
}

fn depthwise(lab: &mut Lab) -> Result<(), CudaError> {
    for channels in [8, 12, 40, 264, 5] {
        for side in [3, 5] {
            for (stride, (height, width)) in
                [(1, (7, 8)), (1, (3, 2)), (1, (37, 9)), (2, (9, 6)), (2, (8, 7)), (2, (41, 11))]
            {
                let shape = ((2, height, width, channels), (channels, side, channels), (stride, side / 2, 1));
                convolution(lab, shape, None)?;
                convolution(lab, shape, Some(Activation::Relu6))?;
            }
        }
    }
    Ok(())
}

/// Forward and both gradients, written and added; depthwise ones also through a normalisation.
fn convolution(lab: &mut Lab, shape: Shape, norm: Option<Activation>) -> Result<(), CudaError> {
    let (_, (outputs, _, groups), _) = shape;
    let s = geometry(shape)?;
    let conv = Conv::new(s, outputs, groups)?;
    let (x, w, dy) = (lab.random(s.in_len()), lab.random(conv.weight_len()), lab.random(conv.out_len()));
    let (old_dx, old_dw) = (lab.random(x.len()), lab.uniform(w.len(), -1.0, 1.0));
    let kept = Kept::random(lab, s.channels, norm.unwrap_or(Activation::Identity))?;
    let value = if norm.is_some() { kept.norm.apply(&wide(&x)) } else { wide(&x) };
    let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
    products(&s, outputs, groups, |from, weight, to| {
        y[to] += value[from] * f64::from(w[weight]);
        dx[from] += f64::from(dy[to]) * f64::from(w[weight]);
        dw[weight] += f64::from(dy[to]) * value[from];
    });
    let (on_x, on_w, on_dy) = (lab.up(&x)?, lab.up(&w)?, lab.up(&dy)?);
    let operand = Operand { data: on_x.as_slice(), norm: norm.map(|_| kept.view()) };
    let name = |what: &str| format!("{what} {shape:?}{}", if norm.is_some() { " normalised" } else { "" });

    let mut on_y = lab.room(dy.len())?;
    conv::forward(&mut lab.gpu, &conv, operand, on_w.as_slice(), &mut on_y.as_mut())?;
    lab.expect(&name("convolution"), &on_y, &y)?;
    let mut on_dx = lab.room(x.len())?;
    conv::backward_data(&mut lab.gpu, &conv, on_dy.as_slice(), on_w.as_slice(), &mut on_dx.as_mut(), false)?;
    lab.expect(&name("its input's gradient"), &on_dx, &dx)?;
    let mut on_dx = lab.up(&old_dx)?;
    conv::backward_data(&mut lab.gpu, &conv, on_dy.as_slice(), on_w.as_slice(), &mut on_dx.as_mut(), true)?;
    lab.expect(&name("its input's gradient, added"), &on_dx, &sum(&dx, &old_dx))?;
    let mut on_dw = lab.up_f32(&vec![f32::NAN; w.len()])?;
    conv::backward_weight(&mut lab.gpu, &conv, operand, on_dy.as_slice(), &mut on_dw.as_mut(), false)?;
    lab.expect(&name("its weights' gradient"), &on_dw, &dw)?;
    let mut on_dw = lab.up_f32(&old_dw)?;
    conv::backward_weight(&mut lab.gpu, &conv, operand, on_dy.as_slice(), &mut on_dw.as_mut(), true)?;
    lab.expect(&name("its weights' gradient, added"), &on_dw, &sum(&dw, &old_dw))
}

fn sum(a: &[f64], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + f64::from(*b)).collect()
}

/// A normalisation by random running statistics, on the device and as its reference.
struct Kept {
    buffer: Buffer,
    norm: reference::Norm,
    activation: Activation,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Kept {
    fn random(lab: &mut Lab, channels: usize, activation: Activation) -> Result<Self, CudaError> {
        let (gamma, beta) = (lab.uniform(channels, 0.5, 1.5), lab.uniform(channels, -0.5, 0.5));
        let (mean, variance) = (lab.uniform(channels, -0.5, 0.5), lab.uniform(channels, 0.5, 2.0));
        let on = [&gamma, &beta, &mean, &variance].map(|values| lab.up_f32(values));
        let [on_gamma, on_beta, on_mean, on_variance] = on;
        let (on_gamma, on_beta) = (on_gamma?, on_beta?);
        let parameters = Parameters { gamma: on_gamma.as_slice(), beta: on_beta.as_slice(), eps: EPS };
        let mut buffer = lab.up_f32(&vec![f32::NAN; KEPT * channels])?;
        let running = (on_mean?, on_variance?);
        let running = (running.0.as_slice(), running.1.as_slice());
        batch_norm::inference(&mut lab.gpu, running, &parameters, &mut buffer.as_mut())?;
        let norm =
            reference::Norm::new((wide(&mean), wide(&variance)), &gamma, &beta, EPS.into(), activation);
        Ok(Self { buffer, norm, activation, gamma, beta })
    }

    fn view(&self) -> Norm<'_> {
        Norm { kept: self.buffer.as_slice(), activation: self.activation }
    }
}

/// Gradients of a normalisation's parameters on the device.
struct ParameterGradients {
    dgamma: Buffer,
    dbeta: Buffer,
}

impl ParameterGradients {
    fn new(lab: &Lab, values: &[f32]) -> Result<Self, CudaError> {
        Ok(Self { dgamma: lab.up_f32(values)?, dbeta: lab.up_f32(values)? })
    }

    fn site<'a>(
        &'a mut self,
        x: &'a Buffer,
        kept: &'a mut Buffer,
        activation: Activation,
        counted: Option<usize>,
        accumulate: bool,
    ) -> Site<'a> {
        let (dgamma, dbeta) = (self.dgamma.as_mut(), self.dbeta.as_mut());
        Site { x: x.as_slice(), kept: kept.as_mut(), activation, dgamma, dbeta, accumulate, counted }
    }
}

fn batch_norm(lab: &mut Lab, channels: usize, activation: Activation) -> Result<(), CudaError> {
    let rows = 2 * 13 * 11;
    // A mean far from zero, as much as the element can carry.
    let mean = if lab.element == Element::F32 { 50.0 } else { 1.0 };
    let x = lab.random_at(rows * channels, mean);
    let dy = lab.random(x.len());
    let Kept { gamma, beta, .. } = Kept::random(lab, channels, activation)?;
    let start = lab.uniform(channels, 0.5, 1.5);
    let statistics = reference::statistics(&wide(&x), channels, &vec![true; rows]);
    let name = |what: &str| format!("{what}, {channels} channels, {activation:?}");

    let (on_x, on_gamma, on_beta) = (lab.up(&x)?, lab.up_f32(&gamma)?, lab.up_f32(&beta)?);
    let parameters = Parameters { gamma: on_gamma.as_slice(), beta: on_beta.as_slice(), eps: EPS };
    let (mut on_mean, mut on_variance) = (lab.up_f32(&start)?, lab.up_f32(&start)?);
    let mut kept = lab.up_f32(&vec![f32::NAN; KEPT * channels])?;
    let running = Running { mean: on_mean.as_mut(), variance: on_variance.as_mut(), momentum: 0.1 };
    batch_norm::training(
        &mut lab.gpu,
        on_x.as_slice(),
        &parameters,
        Some(running),
        None,
        &mut kept.as_mut(),
    )?;
    let moved = |batch: &[f64], factor: f64| -> Vec<f64> {
        start.iter().zip(batch).map(|(start, batch)| 0.9 * f64::from(*start) + 0.1 * factor * batch).collect()
    };
    let unbiased = 286.0 / 285.0;
    lab.expect_within(&name("running mean"), on_mean.as_slice(), &moved(&statistics.0, 1.0), 0.1)?;
    lab.expect_within(
        &name("running variance"),
        on_variance.as_slice(),
        &moved(&statistics.1, unbiased),
        0.3,
    )?;

    let norm = reference::Norm::new(statistics, &gamma, &beta, EPS.into(), activation);
    let operand = Operand { data: on_x.as_slice(), norm: Some(Norm { kept: kept.as_slice(), activation }) };
    let mut on_y = lab.room(x.len())?;
    batch_norm::materialise(&mut lab.gpu, operand, channels, &mut on_y.as_mut())?;
    lab.expect_within(&name("normalised values"), on_y.as_slice(), &norm.apply(&wide(&x)), 2.0)?;

    for frozen in [false, true] {
        let (dx, dgamma, dbeta) = norm.backward(&wide(&x), &wide(&dy), frozen);
        let counted = frozen.then_some(0);
        let mut gradients = ParameterGradients::new(lab, &vec![f32::NAN; channels])?;
        let mut on_dy = lab.up(&dy)?;
        let mut site = gradients.site(&on_x, &mut kept, activation, counted, false);
        batch_norm::backward(&mut lab.gpu, &mut site, Through::InPlace(&mut on_dy.as_mut()))?;
        lab.expect_within(&name("gradient through a normalisation"), on_dy.as_slice(), &dx, 3.0)?;
        lab.expect_within(&name("gradient of the scale"), gradients.dgamma.as_slice(), &dgamma, 1.0)?;
        lab.expect_within(&name("gradient of the shift"), gradients.dbeta.as_slice(), &dbeta, 1.0)?;

        let old = lab.uniform(channels, -1.0, 1.0);
        let old_dx = lab.random(x.len());
        let mut gradients = ParameterGradients::new(lab, &old)?;
        let (on_dy, mut on_dx) = (lab.up(&dy)?, lab.up(&old_dx)?);
        let mut site = gradients.site(&on_x, &mut kept, activation, counted, true);
        let through = Through::Into {
            upstream: Upstream::Dense(on_dy.as_slice()),
            dx: &mut on_dx.as_mut(),
            accumulate: true,
        };
        batch_norm::backward(&mut lab.gpu, &mut site, through)?;
        lab.expect_within(
            &name("gradient through a normalisation, added"),
            on_dx.as_slice(),
            &sum(&dx, &old_dx),
            3.0,
        )?;
        lab.expect_within(
            &name("gradient of the scale, added"),
            gradients.dgamma.as_slice(),
            &sum(&dgamma, &old),
            1.0,
        )?;
        lab.expect_within(
            &name("gradient of the shift, added"),
            gradients.dbeta.as_slice(),
            &sum(&dbeta, &old),
            1.0,
        )?;
    }
    from_pools(lab, channels, activation)
}

/// Gradients that reach a normalisation from a pool or an average without being written out in between.
fn from_pools(lab: &mut Lab, channels: usize, activation: Activation) -> Result<(), CudaError> {
    let s = Sliding::new((2, 9, 8, channels), (3, 3), Window { stride: 2, padding: 1, dilation: 1 })?;
    let mut kept = Kept::random(lab, channels, activation)?;
    let (x, dy) = (lab.random(s.in_len()), lab.random(s.out_pixels() * channels));
    let name = |what: &str| format!("{what}, {channels} channels, {activation:?}");
    let on_x = lab.up(&x)?;
    let operand = Operand { data: on_x.as_slice(), norm: Some(kept.view()) };
    let (mut on_y, mut taken) = (lab.room(dy.len())?, lab.gpu.alloc(Element::U8, dy.len())?);
    pool::max_pool(&mut lab.gpu, &s, operand, &mut on_y.as_mut(), &mut taken.as_mut())?;
    let value = kept.norm.apply(&wide(&x));
    let (best, from) = reference::max_pool(&s, &value);
    lab.expect_within(&name("max-pool of a normalised value"), on_y.as_slice(), &best, 2.0)?;
    // Activations make ties of what differs by rounding only: compare where the reference is unambiguous.
    if matches!(activation, Activation::Identity) {
        let mut upstream = vec![0.0; x.len()];
        from.iter().zip(&dy).for_each(|(&from, dy)| upstream[from] += f64::from(*dy));
        let (dx, dgamma, _) = kept.norm.backward(&wide(&x), &upstream, false);
        let on_dy = lab.up(&dy)?;
        let (mut gradients, mut on_dx) =
            (ParameterGradients::new(lab, &vec![0.0; channels])?, lab.room(x.len())?);
        let mut site = gradients.site(&on_x, &mut kept.buffer, activation, None, false);
        let upstream = Upstream::Pooled { dy: on_dy.as_slice(), taken: taken.as_slice(), sliding: s };
        let through = Through::Into { upstream, dx: &mut on_dx.as_mut(), accumulate: false };
        batch_norm::backward(&mut lab.gpu, &mut site, through)?;
        lab.expect_within(&name("gradient from a max-pool"), on_dx.as_slice(), &dx, 3.0)?;
        lab.expect_within(
            &name("gradient of the scale from a max-pool"),
            gradients.dgamma.as_slice(),
            &dgamma,
            1.0,
        )?;
    }
    let dy = lab.uniform(s.batch * channels, -1.0, 1.0);
    let pixels = s.height * s.width;
    let share = f64::from(u32::try_from(pixels).unwrap_or(1));
    let spread = |at: usize| f64::from(dy[at / (pixels * channels) * channels + at % channels]) / share;
    let upstream: Vec<f64> = (0..x.len()).map(spread).collect();
    let (dx, _, dbeta) = kept.norm.backward(&wide(&x), &upstream, false);
    let on_dy = lab.up_f32(&dy)?;
    let (mut gradients, mut on_dx) =
        (ParameterGradients::new(lab, &vec![0.0; channels])?, lab.room(x.len())?);
    let mut site = gradients.site(&on_x, &mut kept.buffer, activation, None, false);
    let through = Through::Into {
        upstream: Upstream::Averaged(on_dy.as_slice()),
        dx: &mut on_dx.as_mut(),
        accumulate: false,
    };
    batch_norm::backward(&mut lab.gpu, &mut site, through)?;
    lab.expect_within(&name("gradient from an average"), on_dx.as_slice(), &dx, 3.0)?;
    lab.expect_within(&name("gradient of the shift from an average"), gradients.dbeta.as_slice(), &dbeta, 1.0)
}

fn residual(lab: &mut Lab, channels: usize) -> Result<(), CudaError> {
    let len = 2 * 9 * 7 * channels;
    for (activation, two) in [
        (Activation::Relu, false),
        (Activation::Relu, true),
        (Activation::Identity, false),
        (Activation::Relu6, true),
    ] {
        let (mut first, mut second) = (
            Kept::random(lab, channels, Activation::Identity)?,
            Kept::random(lab, channels, Activation::Identity)?,
        );
        let (x1, x2, dy) = (lab.random(len), lab.random(len), lab.random(len));
        let (on_1, on_2) = (lab.up(&x1)?, lab.up(&x2)?);
        let name = |what: &str| format!("{what}, {channels} channels, {activation:?}, {two}");
        let a = Operand { data: on_1.as_slice(), norm: Some(first.view()) };
        let b = Operand { data: on_2.as_slice(), norm: two.then(|| second.view()) };
        let mut on_y = lab.room(len)?;
        batch_norm::add(&mut lab.gpu, a, b, activation, channels, &mut on_y.as_mut())?;
        let other = if two { second.norm.apply(&wide(&x2)) } else { wide(&x2) };
        let before: Vec<f64> = first.norm.apply(&wide(&x1)).iter().zip(&other).map(|(a, b)| a + b).collect();
        let y: Vec<f64> = before.iter().map(|&v| activate(activation, v)).collect();
        lab.expect_within(&name("residual sum"), on_y.as_slice(), &y, 2.0)?;

        // The derivative is read off the stored value.
        let stored = lab.down(on_y.as_slice())?;
        let g: Vec<f64> =
            stored.iter().zip(&dy).map(|(y, dy)| f64::from(*dy) * slope(activation, f64::from(*y))).collect();
        let (mut of_1, mut of_2) = (
            ParameterGradients::new(lab, &vec![0.0; channels])?,
            ParameterGradients::new(lab, &vec![0.0; channels])?,
        );
        let mut on_g = lab.up(&dy)?;
        let mut site_1 = of_1.site(&on_1, &mut first.buffer, Activation::Identity, None, false);
        let mut site_2 = of_2.site(&on_2, &mut second.buffer, Activation::Identity, None, false);
        let both = two.then_some(&mut site_2);
        batch_norm::residual_backward(
            &mut lab.gpu,
            on_y.as_slice(),
            &mut on_g.as_mut(),
            activation,
            &mut site_1,
            both,
        )?;
        let (mut on_dx1, mut on_dx2) = (lab.room(len)?, lab.room(len)?);
        for (site, dx) in
            [(&site_1, &mut on_dx1), (&site_2, &mut on_dx2)].into_iter().take(1 + usize::from(two))
        {
            let through = Through::Into {
                upstream: Upstream::Dense(on_g.as_slice()),
                dx: &mut dx.as_mut(),
                accumulate: false,
            };
            batch_norm::backward_input(&mut lab.gpu, site, through)?;
        }
        lab.expect(&name("gradient of a residual sum"), &on_g, &g)?;
        let (dx, dgamma, dbeta) = first.norm.backward(&wide(&x1), &g, false);
        lab.expect_within(&name("gradient of its first summand"), on_dx1.as_slice(), &dx, 3.0)?;
        lab.expect(&name("gradient of its scale"), &of_1.dgamma, &dgamma)?;
        lab.expect(&name("gradient of its shift"), &of_1.dbeta, &dbeta)?;
        if two {
            let (dx, dgamma, dbeta) = second.norm.backward(&wide(&x2), &g, false);
            lab.expect_within(&name("gradient of its second summand"), on_dx2.as_slice(), &dx, 3.0)?;
            lab.expect(&name("gradient of the second scale"), &of_2.dgamma, &dgamma)?;
            lab.expect(&name("gradient of the second shift"), &of_2.dbeta, &dbeta)?;
        }
    }
    Ok(())
}

fn maps(lab: &mut Lab, channels: usize) -> Result<(), CudaError> {
    let len = 37 * channels;
    let (x, dy) = (lab.random_at(len, 0.5).iter().map(|v| v * 3.0).collect::<Vec<_>>(), lab.random(len));
    let x = {
        let on = lab.up(&x)?;
        lab.down(on.as_slice())?
    };
    for activation in ACTIVATIONS {
        let (on_x, mut on_y, mut on_dy) = (lab.up(&x)?, lab.room(len)?, lab.up(&dy)?);
        elementwise::activate(&mut lab.gpu, activation, on_x.as_slice(), &mut on_y.as_mut())?;
        elementwise::activate_backward(&mut lab.gpu, activation, on_x.as_slice(), &mut on_dy.as_mut())?;
        let y: Vec<f64> = x.iter().map(|&x| activate(activation, x.into())).collect();
        let dx: Vec<f64> =
            x.iter().zip(&dy).map(|(&x, dy)| f64::from(*dy) * slope(activation, x.into())).collect();
        lab.expect(&format!("{activation:?}"), &on_y, &y)?;
        lab.expect(&format!("gradient of {activation:?}"), &on_dy, &dx)?;
    }
    let (on_x, mut on_y) = (lab.up(&x)?, lab.up(&dy)?);
    elementwise::add_into(&mut lab.gpu, on_x.as_slice(), &mut on_y.as_mut())?;
    lab.expect("sum in place", &on_y, &sum(&wide(&x), &dy))?;
    let mut wide_x = lab.up_f32(&vec![f32::NAN; len])?;
    elementwise::widen(&mut lab.gpu, on_x.as_slice(), &mut wide_x.as_mut(), false)?;
    lab.expect("conversion to f32", &wide_x, &wide(&x))?;
    elementwise::widen(&mut lab.gpu, on_x.as_slice(), &mut wide_x.as_mut(), true)?;
    lab.expect("conversion to f32, added", &wide_x, &sum(&wide(&x), &x))?;
    let exact = lab.uniform(len, -1.0, 1.0);
    let (on_exact, mut narrow) = (lab.up_f32(&exact)?, lab.room(len)?);
    elementwise::narrow(&mut lab.gpu, on_exact.as_slice(), &mut narrow.as_mut())?;
    lab.expect("conversion from f32", &narrow, &wide(&exact))?;
    // One value off the start, no address is aligned any more.
    let mut shifted = lab.up(&dy)?;
    elementwise::add_into(
        &mut lab.gpu,
        on_x.as_slice().slice(1..len)?,
        &mut shifted.as_mut().slice(1..len)?,
    )?;
    let expected: Vec<f64> =
        (0..len).map(|at| f64::from(dy[at]) + if at > 0 { f64::from(x[at]) } else { 0.0 }).collect();
    lab.expect("sum of unaligned values", &shifted, &expected)?;

    let bias = lab.uniform(channels, -1.0, 1.0);
    let kept = Kept::random(lab, channels, Activation::Relu)?;
    let (on_bias, mut on_y) = (lab.up_f32(&bias)?, lab.room(len)?);
    let operand = Operand { data: on_x.as_slice(), norm: Some(kept.view()) };
    elementwise::bias(&mut lab.gpu, operand, on_bias.as_slice(), &mut on_y.as_mut())?;
    let value = kept.norm.apply(&wide(&x));
    let biased: Vec<f64> =
        value.iter().enumerate().map(|(at, v)| v + f64::from(bias[at % channels])).collect();
    lab.expect_within("bias", on_y.as_slice(), &biased, 2.0)?;
    let mut sums = vec![0.0; channels];
    x.iter().enumerate().for_each(|(at, x)| sums[at % channels] += f64::from(*x));
    let mut on_sums = lab.up_f32(&bias)?;
    elementwise::column_sums(&mut lab.gpu, on_x.as_slice(), &mut on_sums.as_mut(), true)?;
    lab.expect("column sums, added", &on_sums, &sum(&sums, &bias))?;
    dropout(lab, channels, &x)
}

fn dropout(lab: &mut Lab, channels: usize, x: &[f32]) -> Result<(), CudaError> {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    for group in [1, channels] {
        let draw = elementwise::Draw { base: 42, rate: 0.3, group };
        let limit = f64::from(draw.rate) * 9_007_199_254_740_992.0;
        let factor = |at: usize| {
            let number = u64::try_from(at / group + 1).unwrap_or(0);
            let bits = mix(42_u64.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 11;
            #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
            let kept = bits as f64 >= limit;
            if kept { 1.0 / (1.0 - f64::from(draw.rate)) } else { 0.0 }
        };
        let expected: Vec<f64> = x.iter().enumerate().map(|(at, x)| f64::from(*x) * factor(at)).collect();
        let (on_x, mut on_y, mut on_dy) = (lab.up(x)?, lab.room(x.len())?, lab.up(x)?);
        elementwise::dropout(
            &mut lab.gpu,
            &draw,
            Operand::plain(on_x.as_slice()),
            channels,
            &mut on_y.as_mut(),
        )?;
        elementwise::dropout_backward(&mut lab.gpu, &draw, channels, &mut on_dy.as_mut())?;
        lab.expect("dropout", &on_y, &expected)?;
        lab.expect("gradient of dropout", &on_dy, &expected)?;
    }
    Ok(())
}

fn pools(lab: &mut Lab, channels: usize) -> Result<(), CudaError> {
    for ((height, width), side, stride, padding) in
        [((9, 8), 3, 2, 1), ((7, 7), 2, 2, 0), ((6, 5), 3, 1, 1), ((1, 1), 3, 2, 1)]
    {
        let s = Sliding::new(
            (2, height, width, channels),
            (side, side),
            Window { stride, padding, dilation: 1 },
        )?;
        let (x, dy) = (lab.random(s.in_len()), lab.random(s.out_pixels() * channels));
        let (best, from) = reference::max_pool(&s, &wide(&x));
        let (on_x, on_dy) = (lab.up(&x)?, lab.up(&dy)?);
        let (mut on_y, mut taken) = (lab.room(dy.len())?, lab.gpu.alloc(Element::U8, dy.len())?);
        pool::max_pool(
            &mut lab.gpu,
            &s,
            Operand::plain(on_x.as_slice()),
            &mut on_y.as_mut(),
            &mut taken.as_mut(),
        )?;
        lab.expect("max-pool", &on_y, &best)?;
        let mut dx = vec![0.0; x.len()];
        from.iter().zip(&dy).for_each(|(&from, dy)| dx[from] += f64::from(*dy));
        let mut on_dx = lab.room(x.len())?;
        pool::max_pool_backward(
            &mut lab.gpu,
            &s,
            on_dy.as_slice(),
            taken.as_slice(),
            &mut on_dx.as_mut(),
            false,
        )?;
        lab.expect(
            &format!("gradient of max-pool {height}x{width} {side}/{stride}, {channels} channels"),
            &on_dx,
            &dx,
        )?;
        let mut on_dx = lab.up(&x)?;
        pool::max_pool_backward(
            &mut lab.gpu,
            &s,
            on_dy.as_slice(),
            taken.as_slice(),
            &mut on_dx.as_mut(),
            true,
        )?;
        lab.expect("gradient of max-pool, added", &on_dx, &sum(&dx, &x))?;
    }
    Ok(())
}

fn gates(lab: &mut Lab, channels: usize) -> Result<(), CudaError> {
    let (batch, pixels) = (3, 35);
    let kept = Kept::random(lab, channels, Activation::HardSwish)?;
    let (x, dy) = (lab.random(batch * pixels * channels), lab.random(batch * pixels * channels));
    let gate = lab.uniform(batch * channels, 0.0, 1.0);
    let at_gate = |at: usize| at / (pixels * channels) * channels + at % channels;
    let value = kept.norm.apply(&wide(&x));
    let (on_x, on_gate) = (lab.up(&x)?, lab.up_f32(&gate)?);
    let operand = Operand { data: on_x.as_slice(), norm: Some(kept.view()) };

    let mut average = vec![0.0; gate.len()];
    value.iter().enumerate().for_each(|(at, v)| average[at_gate(at)] += v / 35.0);
    let mut on_average = lab.up_f32(&vec![f32::NAN; gate.len()])?;
    pool::global_average(&mut lab.gpu, operand, pixels, channels, &mut on_average.as_mut())?;
    lab.expect("global average", &on_average, &average)?;
    let dx: Vec<f64> = (0..x.len()).map(|at| f64::from(gate[at_gate(at)]) / 35.0).collect();
    let mut on_dx = lab.up(&dy)?;
    pool::global_average_backward(
        &mut lab.gpu,
        on_gate.as_slice(),
        pixels,
        channels,
        &mut on_dx.as_mut(),
        true,
    )?;
    lab.expect("gradient of a global average, added", &on_dx, &sum(&dx, &dy))?;

    let scaled: Vec<f64> = value.iter().enumerate().map(|(at, v)| v * f64::from(gate[at_gate(at)])).collect();
    let mut on_y = lab.room(x.len())?;
    elementwise::scale(&mut lab.gpu, operand, on_gate.as_slice(), channels, &mut on_y.as_mut())?;
    lab.expect_within("scaled values", on_y.as_slice(), &scaled, 2.0)?;
    let mut dgate = vec![0.0; gate.len()];
    (0..x.len()).for_each(|at| dgate[at_gate(at)] += f64::from(dy[at]) * value[at]);
    let dx: Vec<f64> =
        dy.iter().enumerate().map(|(at, dy)| f64::from(*dy) * f64::from(gate[at_gate(at)])).collect();
    let (mut on_dy, mut on_dgate) = (lab.up(&dy)?, lab.up_f32(&vec![f32::NAN; gate.len()])?);
    elementwise::scale_backward(
        &mut lab.gpu,
        operand,
        on_gate.as_slice(),
        channels,
        &mut on_dy.as_mut(),
        &mut on_dgate.as_mut(),
    )?;
    lab.expect("gradient of scaled values", &on_dy, &dx)?;
    lab.expect("gradient of the gate", &on_dgate, &dgate)
}

fn masked(lab: &mut Lab) -> Result<(), CudaError> {
    let (batch, (height, width), (rows, columns), channels) = (3, (6, 8), (3, 2), 16);
    let visible: Vec<u8> = (0..batch * rows * columns).map(|_| u8::from(lab.unit() < 0.5)).collect();
    let cell = |row: usize| {
        let (image, y, x) = (row / (height * width), row / width % height, row % width);
        visible[(image * rows + y / (height / rows)) * columns + x / (width / columns)] != 0
    };
    let counted: Vec<bool> = (0..batch * height * width).map(cell).collect();
    let x = lab.random_at(counted.len() * channels, 1.0);
    let on_mask = Buffer::from_host(lab.gpu.stream(), &visible)?;
    let count = visible.iter().filter(|&&on| on != 0).count();
    let mask = Mask { visible: on_mask.as_slice(), count, cells: (rows, columns), image: (height, width) };
    let mut on_x = lab.up(&x)?;
    let ones = lab.up_f32(&vec![1.0; channels])?;
    let parameters = Parameters { gamma: ones.as_slice(), beta: ones.as_slice(), eps: EPS };
    let mut kept = lab.up_f32(&vec![f32::NAN; KEPT * channels])?;
    batch_norm::training(&mut lab.gpu, on_x.as_slice(), &parameters, None, Some(&mask), &mut kept.as_mut())?;
    let (mean, variance) = reference::statistics(&wide(&x), channels, &counted);
    let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (v + f64::from(EPS)).sqrt()).collect();
    lab.expect_within("masked mean", kept.as_slice().slice(0..channels)?, &mean, 0.1)?;
    lab.expect_within("masked deviation", kept.as_slice().slice(channels..2 * channels)?, &inverse, 0.3)?;
    elementwise::mask(&mut lab.gpu, &mask, channels, &mut on_x.as_mut())?;
    let kept: Vec<f64> = x
        .iter()
        .enumerate()
        .map(|(at, x)| if counted[at / channels] { f64::from(*x) } else { 0.0 })
        .collect();
    lab.expect("mask", &on_x, &kept)?;
    let token = lab.uniform(channels, -1.0, 1.0);
    let on_token = lab.up_f32(&token)?;
    elementwise::fill_masked(&mut lab.gpu, &mask, on_token.as_slice(), &mut on_x.as_mut())?;
    let token = token.iter().copied().map(f64::from);
    let filled: Vec<f64> = kept
        .iter()
        .zip(token.cycle())
        .enumerate()
        .map(|(at, (x, token))| if counted[at / channels] { *x } else { token })
        .collect();
    lab.expect("filled mask", &on_x, &filled)
}

fn dense(lab: &mut Lab) -> Result<(), CudaError> {
    for (batch, inputs, outputs) in [(5, 24, 10), (1, 512, 384), (33, 7, 3)] {
        let l = Linear::new(batch, inputs, outputs)?;
        let (x, w, dy) =
            (lab.random(batch * inputs), lab.random(outputs * inputs), lab.random(batch * outputs));
        let bias = lab.uniform(outputs, -1.0, 1.0);
        let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        for b in 0..batch {
            for o in 0..outputs {
                y[b * outputs + o] += f64::from(bias[o]);
                for i in 0..inputs {
                    let [x, w, dy] =
                        [x[b * inputs + i], w[o * inputs + i], dy[b * outputs + o]].map(f64::from);
                    y[b * outputs + o] += x * w;
                    dx[b * inputs + i] += dy * w;
                    dw[o * inputs + i] += dy * x;
                }
            }
        }
        let (on_x, on_w, on_dy, on_bias) = (lab.up(&x)?, lab.up(&w)?, lab.up(&dy)?, lab.up_f32(&bias)?);
        let mut on_y = lab.up_f32(&vec![f32::NAN; y.len()])?;
        linear::forward(
            &mut lab.gpu,
            &l,
            on_x.as_slice(),
            on_w.as_slice(),
            Some(on_bias.as_slice()),
            &mut on_y.as_mut(),
        )?;
        lab.expect("dense layer", &on_y, &y)?;
        let (old_x, old_w) = (lab.uniform(x.len(), -1.0, 1.0), lab.uniform(w.len(), -1.0, 1.0));
        let (mut on_dx, mut on_dw) = (lab.up_f32(&old_x)?, lab.up_f32(&old_w)?);
        linear::backward_data(
            &mut lab.gpu,
            &l,
            on_dy.as_slice(),
            on_w.as_slice(),
            &mut on_dx.as_mut(),
            true,
        )?;
        linear::backward_weight(
            &mut lab.gpu,
            &l,
            on_x.as_slice(),
            on_dy.as_slice(),
            &mut on_dw.as_mut(),
            true,
        )?;
        lab.expect("gradient of a dense layer's input, added", &on_dx, &sum(&dx, &old_x))?;
        lab.expect("gradient of a dense layer's weights, added", &on_dw, &sum(&dw, &old_w))?;
    }
    Ok(())
}

fn normalised_rows(lab: &mut Lab) -> Result<(), CudaError> {
    for (rows, columns) in [(3, 384), (1, 5), (4, 1000)] {
        let (x, dy) = (lab.random(rows * columns), lab.random(rows * columns));
        let norm = |row: usize| {
            x[row * columns..][..columns].iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
        };
        let dot = |row: usize| {
            let range = row * columns..(row + 1) * columns;
            x[range.clone()].iter().zip(&dy[range]).map(|(&x, &dy)| f64::from(x) * f64::from(dy)).sum::<f64>()
        };
        let y: Vec<f64> = (0..x.len()).map(|at| f64::from(x[at]) / norm(at / columns)).collect();
        let gradient = |at: usize| {
            let (norm, dot) = (norm(at / columns), dot(at / columns));
            (f64::from(dy[at]) - f64::from(x[at]) * dot / (norm * norm)) / norm
        };
        let dx: Vec<f64> = (0..x.len()).map(gradient).collect();
        let (on_x, mut on_y, mut on_dy) = (lab.up(&x)?, lab.room(x.len())?, lab.up(&dy)?);
        rows::l2_normalise(&mut lab.gpu, on_x.as_slice(), columns, &mut on_y.as_mut())?;
        rows::l2_normalise_backward(&mut lab.gpu, on_x.as_slice(), columns, &mut on_dy.as_mut())?;
        lab.expect("normalised rows", &on_y, &y)?;
        lab.expect("gradient of normalised rows", &on_dy, &dx)?;
    }
    Ok(())
}

fn cross_entropy(lab: &mut Lab) -> Result<(), CudaError> {
    let (rows, columns, top) = (5, 301, 7);
    let logits: Vec<f32> = lab.random(rows * columns).iter().map(|v| v * 5.0).collect();
    let active: Vec<u8> = (0..columns).map(|k| u8::from(k % 11 != 3)).collect();
    let indices: Vec<u32> =
        (0..rows * top).map(|at| u32::try_from(at % top * 40 + at / top).unwrap_or(0)).collect();
    let sparse = lab.uniform(rows * top, 0.0, 0.2);
    let mut spread = vec![0.0; rows * columns];
    for (at, (&index, &p)) in indices.iter().zip(&sparse).enumerate() {
        spread[at / top * columns + usize::try_from(index).unwrap_or(0)] = p;
    }
    let dense = lab.uniform(rows * columns, 0.0, 0.01);
    let on_active = Buffer::from_host(lab.gpu.stream(), &active)?;
    let (on_logits, on_dense, on_sparse) = (lab.up(&logits)?, lab.up(&dense)?, lab.up(&sparse)?);
    let on_indices = Buffer::from_host(lab.gpu.stream(), &indices)?;
    let both = [
        ("dense", Targets::Dense(on_dense.as_slice()), &dense),
        (
            "top-K",
            Targets::TopK { indices: on_indices.as_slice(), probabilities: on_sparse.as_slice() },
            &spread,
        ),
    ];
    for (name, targets, p) in both {
        let (mut loss, mut dlogits) = (0.0, vec![0.0; logits.len()]);
        for row in 0..rows {
            let at = row * columns..(row + 1) * columns;
            let (z, p) = (wide(&logits[at.clone()]), wide(&p[at.clone()]));
            let on = || (0..columns).filter(|&k| active[k] != 0);
            let log_sum = on().map(|k| z[k].exp()).sum::<f64>().ln();
            let mass: f64 = on().map(|k| p[k]).sum();
            for k in on() {
                loss -= p[k] * (z[k] - log_sum) / 5.0;
                dlogits[at.start + k] = 2.0 / 5.0 * ((z[k] - log_sum).exp() * mass - p[k]);
            }
        }
        let (mut on_loss, mut on_dlogits) = (lab.up(&[f32::NAN])?, lab.room(logits.len())?);
        let outputs = (&mut on_loss.as_mut(), &mut on_dlogits.as_mut());
        rows::cross_entropy(
            &mut lab.gpu,
            on_logits.as_slice(),
            targets,
            (columns, Some(on_active.as_slice())),
            2.0,
            outputs,
        )?;
        lab.expect(&format!("cross-entropy, {name}"), &on_loss, &[loss])?;
        lab.expect(&format!("gradient of cross-entropy, {name}"), &on_dlogits, &dlogits)?;
    }
    Ok(())
}

fn optimisers(lab: &mut Lab) -> Result<(), CudaError> {
    let len = 9_000;
    let tensors = [
        Tensor { start: 0, len: 5_003, decay: 0.1, adapted: true },
        Tensor { start: 5_056, len: 64, decay: 0.0, adapted: false },
        Tensor { start: 5_120, len: 3_877, decay: 0.05, adapted: true },
    ];
    let of =
        |at: usize| tensors.iter().find(|tensor| (tensor.start..tensor.start + tensor.len).contains(&at));
    let inside = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().enumerate().map(|(at, v)| if of(at).is_some() { v } else { 0.0 }).collect()
    };
    let (p, g, v) = (inside(lab.random(len)), inside(lab.random(len)), inside(lab.uniform(len, 0.0, 1.0)));
    let mut table = Table::new(lab.gpu.stream(), &tensors, len)?;
    let (on_g, limit) = (lab.up(&g)?, 3.0);
    let norm = g.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    optimizer::clip(&mut lab.gpu, &mut table, on_g.as_slice(), 0.5, limit)?;
    lab.expect_within("norm of the gradients", table.norm()?, &[norm * 0.5], 1.0)?;
    let factor = f64::from(limit) / (norm * 0.5 + 1e-6) * 0.5;

    for (nesterov, trust, clipped) in [(false, None, false), (true, None, true), (false, Some(0.02), true)] {
        let by = if clipped { factor } else { 1.0 };
        let ratio = |tensor: &Tensor| {
            let size = |values: &[f32]| {
                values[tensor.start..tensor.start + tensor.len]
                    .iter()
                    .map(|&v| f64::from(v).powi(2))
                    .sum::<f64>()
                    .sqrt()
            };
            match trust {
                Some(trust) if tensor.adapted => {
                    f64::from(trust) * size(&p) / (by * size(&g) + f64::from(tensor.decay) * size(&p))
                }
                _ => 1.0,
            }
        };
        let ratios = tensors.each_ref().map(ratio);
        let (mut want_p, mut want_v) = (wide(&p), wide(&v));
        for at in 0..len {
            let Some(number) =
                tensors.iter().position(|tensor| (tensor.start..tensor.start + tensor.len).contains(&at))
            else {
                continue;
            };
            let d = ratios[number]
                * (by * f64::from(g[at]) + f64::from(tensors[number].decay) * f64::from(p[at]));
            want_v[at] = 0.9 * f64::from(v[at]) + d;
            want_p[at] -= 0.1 * if nesterov { d + 0.9 * want_v[at] } else { want_v[at] };
        }
        let (mut on_p, mut on_v) = (lab.up(&p)?, lab.up(&v)?);
        let mut copy = lab.gpu.alloc(Element::Bf16, len)?;
        let vectors = Vectors {
            gradients: on_g.as_slice(),
            parameters: on_p.as_mut(),
            copy: Some(copy.as_mut()),
            clipped,
        };
        let step = Sgd { rate: 0.1, momentum: 0.9, nesterov, trust };
        optimizer::sgd(&mut lab.gpu, &table, &step, &vectors, &on_v.as_mut())?;
        let name = format!("SGD, Nesterov {nesterov}, LARS {}", trust.is_some());
        lab.expect(&name, &on_p, &want_p)?;
        lab.expect(&format!("velocity of {name}"), &on_v, &want_v)?;
        let filled: Vec<f64> =
            want_p.iter().enumerate().map(|(at, &p)| if of(at).is_some() { p } else { 0.0 }).collect();
        let copied = lab.down(copy.as_slice())?;
        let copied: Vec<f32> =
            copied.iter().enumerate().map(|(at, &p)| if of(at).is_some() { p } else { 0.0 }).collect();
        let copied = lab.up(&copied)?;
        lab.expect_within(&format!("bf16 copy of {name}"), copied.as_slice(), &filled, 300.0)?;
    }

    let (rate, betas, eps, step) = (0.01_f32, (0.9_f32, 0.999_f32), 1e-8_f32, 3);
    let correction = (1.0 - f64::from(betas.0).powi(step), 1.0 - f64::from(betas.1).powi(step));
    let (mut want_p, mut want_m, mut want_s) = (wide(&p), wide(&v), wide(&v));
    for at in 0..len {
        let Some(tensor) = of(at) else { continue };
        let d = f64::from(g[at]);
        want_m[at] = f64::from(betas.0) * want_m[at] + (1.0 - f64::from(betas.0)) * d;
        want_s[at] = f64::from(betas.1) * want_s[at] + (1.0 - f64::from(betas.1)) * d * d;
        let root = (want_s[at] / correction.1).sqrt() + f64::from(eps);
        want_p[at] -=
            f64::from(rate) * (f64::from(tensor.decay) * want_p[at] + want_m[at] / correction.0 / root);
    }
    let (mut on_p, mut on_m, mut on_s) = (lab.up(&p)?, lab.up(&v)?, lab.up(&v)?);
    let vectors =
        Vectors { gradients: on_g.as_slice(), parameters: on_p.as_mut(), copy: None, clipped: false };
    let constants = AdamW { rate, betas, eps, correction };
    optimizer::adamw(&mut lab.gpu, &table, &constants, &vectors, (&on_m.as_mut(), &on_s.as_mut()))?;
    lab.expect("AdamW", &on_p, &want_p)?;
    lab.expect("AdamW's first moment", &on_m, &want_m)?;
    lab.expect("AdamW's second moment", &on_s, &want_s)?;

    let mut on_average = lab.up(&v)?;
    let on_p = lab.up(&p)?;
    optimizer::ema(&mut lab.gpu, 0.9, on_p.as_slice(), &mut on_average.as_mut())?;
    let average: Vec<f64> =
        p.iter().zip(&v).map(|(p, v)| 0.9 * f64::from(*v) + 0.1 * f64::from(*p)).collect();
    lab.expect("average of weights", &on_average, &average)?;

    let mut broken = g;
    broken[17] = f32::INFINITY;
    let (on_g, mut on_p, mut on_v) = (lab.up(&broken)?, lab.up(&p)?, lab.up(&v)?);
    optimizer::clip(&mut lab.gpu, &mut table, on_g.as_slice(), 1.0, f32::INFINITY)?;
    let vectors =
        Vectors { gradients: on_g.as_slice(), parameters: on_p.as_mut(), copy: None, clipped: true };
    let step = Sgd { rate: 0.1, momentum: 0.9, nesterov: false, trust: None };
    optimizer::sgd(&mut lab.gpu, &table, &step, &vectors, &on_v.as_mut())?;
    lab.expect("a step by gradients that are not finite is skipped", &on_p, &wide(&p))
}

fn images(lab: &mut Lab) -> Result<(), CudaError> {
    let (mean, deviation) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let rgb: Vec<u8> = (0..3 * 1_237_usize).map(|at| u8::try_from(at * 7 % 256).unwrap_or(0)).collect();
    let expected: Vec<f64> = rgb
        .iter()
        .enumerate()
        .map(|(at, &byte)| (f64::from(byte) / 255.0 - f64::from(mean[at % 3])) / f64::from(deviation[at % 3]))
        .collect();
    let on_rgb = Buffer::from_host(lab.gpu.stream(), &rgb)?;
    let mut on_y = lab.room(rgb.len())?;
    elementwise::images(&mut lab.gpu, on_rgb.as_slice(), (mean, deviation), &mut on_y.as_mut())?;
    lab.expect("images", &on_y, &expected)?;
    let mut half = lab.gpu.alloc(Element::Bf16, rgb.len())?;
    elementwise::images(&mut lab.gpu, on_rgb.as_slice(), (mean, deviation), &mut half.as_mut())?;
    lab.expect_within("images in bf16", half.as_slice(), &expected, 300.0)
}

/// More batches than slots through the uploader, each read back from what the computing stream made of it.
fn uploads(lab: &mut Lab) -> Result<(), CudaError> {
    let bytes = 3 * 1_000_000;
    let mut uploader = host::Uploader::new(lab.gpu.stream(), bytes, 2)?;
    let batch = |number: usize| vec![u8::try_from(number * 31 % 256).unwrap_or(0); bytes];
    uploader.upload(&batch(0))?;
    for number in 0..6 {
        if number < 5 {
            uploader.upload(&batch(number + 1))?;
        }
        let mut y = lab.gpu.alloc(Element::F32, bytes)?;
        let gpu = &mut lab.gpu;
        uploader
            .receive(|rgb| elementwise::images(gpu, rgb, ([0.0; 3], [1.0 / 255.0; 3]), &mut y.as_mut()))?;
        let want = f64::from(batch(number)[0]);
        let got = lab.down(y.as_slice())?;
        lab.require("uploaded batch", got.iter().all(|&v| (v - single(want)).abs() < 1e-3));
    }
    Ok(())
}
