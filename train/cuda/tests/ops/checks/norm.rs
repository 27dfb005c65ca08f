//! Batch normalizations, their sums with shortcuts, and their results in pools.

use lgd_cuda::batch_norm::{self, Parameters, Running, Site, Upstream};
use lgd_cuda::{
    Activation, Buffer, CudaError, Element, GradientTarget, Norm, Operand, SAVED, Sliding, Window,
    elementwise, pool,
};

use super::{EPS, sum};
use crate::lab::Lab;
use crate::reference::{self, activate, slope, wide};

/// A normalization with random running statistics, on the device and as a reference.
pub(super) struct Kept {
    buffer: Buffer,
    pub norm: reference::Norm,
    activation: Activation,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Kept {
    pub fn random(lab: &mut Lab, channels: usize, activation: Activation) -> Result<Self, CudaError> {
        let (gamma, beta) = (lab.uniform(channels, 0.5, 1.5), lab.uniform(channels, -0.5, 0.5));
        let (mean, variance) = (lab.uniform(channels, -0.5, 0.5), lab.uniform(channels, 0.5, 2.0));
        let on = [&gamma, &beta, &mean, &variance].map(|values| lab.up_f32(values));
        let [on_gamma, on_beta, on_mean, on_variance] = on;
        let (on_gamma, on_beta) = (on_gamma?, on_beta?);
        let parameters = Parameters { gamma: on_gamma.as_slice(), beta: on_beta.as_slice(), eps: EPS };
        let mut buffer = lab.up_f32(&vec![f32::NAN; SAVED * channels])?;
        let running = (on_mean?, on_variance?);
        let running = (running.0.as_slice(), running.1.as_slice());
        batch_norm::inference(&mut lab.gpu, running, &parameters, &mut buffer.as_mut())?;
        let norm =
            reference::Norm::new((wide(&mean), wide(&variance)), &gamma, &beta, EPS.into(), activation);
        Ok(Self { buffer, norm, activation, gamma, beta })
    }

    pub fn view(&self) -> Norm<'_> {
        Norm { saved: self.buffer.as_slice(), activation: self.activation }
    }
}

/// Gradients of a normalization's parameters on the device.
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
        accumulate: bool,
    ) -> Site<'a> {
        let (dgamma, dbeta) = (self.dgamma.as_mut(), self.dbeta.as_mut());
        Site { x: x.as_slice(), saved: kept.as_mut(), activation, dgamma, dbeta, accumulate, counted: None }
    }
}

/// Training, and gradients from values, from pools and from averages, over `rows` rows.
pub(super) fn batch_norm(
    lab: &mut Lab,
    rows: u32,
    channels: usize,
    activation: Activation,
) -> Result<(), CudaError> {
    let unbiased = f64::from(rows) / f64::from(rows - 1);
    let rows = usize::try_from(rows).unwrap_or(0);
    // A mean as far from zero as the element type allows.
    let mean = if lab.element == Element::F32 { 50.0 } else { 1.0 };
    let x = lab.random_at(rows * channels, mean);
    let dy = lab.random(x.len());
    let Kept { gamma, beta, .. } = Kept::random(lab, channels, activation)?;
    let start = lab.uniform(channels, 0.5, 1.5);
    let statistics = reference::statistics(&wide(&x), channels, &vec![true; rows]);
    let name = |what: &str| format!("{what}, {rows} rows, {channels} channels, {activation:?}");

    let (on_x, on_gamma, on_beta) = (lab.up(&x)?, lab.up_f32(&gamma)?, lab.up_f32(&beta)?);
    let parameters = Parameters { gamma: on_gamma.as_slice(), beta: on_beta.as_slice(), eps: EPS };
    let (mut on_mean, mut on_variance) = (lab.up_f32(&start)?, lab.up_f32(&start)?);
    let mut kept = lab.up_f32(&vec![f32::NAN; SAVED * channels])?;
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
    lab.expect_within(&name("running mean"), on_mean.as_slice(), &moved(&statistics.0, 1.0), 0.1)?;
    lab.expect_within(
        &name("running variance"),
        on_variance.as_slice(),
        &moved(&statistics.1, unbiased),
        0.3,
    )?;

    let norm = reference::Norm::new(statistics, &gamma, &beta, EPS.into(), activation);
    let operand = Operand { data: on_x.as_slice(), norm: Some(Norm { saved: kept.as_slice(), activation }) };
    let mut on_y = lab.room(x.len())?;
    elementwise::materialize(&mut lab.gpu, operand, channels, &mut on_y.as_mut())?;
    lab.expect_within(&name("normalized values"), on_y.as_slice(), &norm.apply(&wide(&x)), 2.0)?;

    let (dx, dgamma, dbeta) = norm.backward(&wide(&x), &wide(&dy));
    let mut gradients = ParameterGradients::new(lab, &vec![f32::NAN; channels])?;
    let mut on_dy = lab.up(&dy)?;
    let mut site = gradients.site(&on_x, &mut kept, activation, false);
    batch_norm::backward(&mut lab.gpu, &mut site, GradientTarget::InPlace(&mut on_dy.as_mut()))?;
    lab.expect_within(&name("gradient through a normalization"), on_dy.as_slice(), &dx, 3.0)?;
    lab.expect_within(&name("gradient of the scale"), gradients.dgamma.as_slice(), &dgamma, 1.0)?;
    lab.expect_within(&name("gradient of the shift"), gradients.dbeta.as_slice(), &dbeta, 1.0)?;

    let old = lab.uniform(channels, -1.0, 1.0);
    let old_dx = lab.random(x.len());
    let mut gradients = ParameterGradients::new(lab, &old)?;
    let (on_dy, mut on_dx) = (lab.up(&dy)?, lab.up(&old_dx)?);
    let mut site = gradients.site(&on_x, &mut kept, activation, true);
    let through = GradientTarget::Into {
        dy: Upstream::Dense(on_dy.as_slice()),
        dx: &mut on_dx.as_mut(),
        accumulate: true,
    };
    batch_norm::backward(&mut lab.gpu, &mut site, through)?;
    lab.expect_within(&name("input gradient, added"), on_dx.as_slice(), &sum(&dx, &old_dx), 3.0)?;
    lab.expect_within(&name("scale gradient, added"), gradients.dgamma.as_slice(), &sum(&dgamma, &old), 1.0)?;
    lab.expect_within(&name("shift gradient, added"), gradients.dbeta.as_slice(), &sum(&dbeta, &old), 1.0)?;
    from_pools(lab, channels, activation)
}

/// Gradients that reach a normalization from a pool or an average without being written.
pub(super) fn from_pools(lab: &mut Lab, channels: usize, activation: Activation) -> Result<(), CudaError> {
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
    lab.expect_within(&name("max-pool of a normalized value"), on_y.as_slice(), &best, 2.0)?;
    // Activations make ties of values that differ only by rounding: compare only without an activation.
    if matches!(activation, Activation::Identity) {
        let mut upstream = vec![0.0; x.len()];
        from.iter().zip(&dy).for_each(|(&from, dy)| upstream[from] += f64::from(*dy));
        let (dx, dgamma, _) = kept.norm.backward(&wide(&x), &upstream);
        let on_dy = lab.up(&dy)?;
        let (mut gradients, mut on_dx) =
            (ParameterGradients::new(lab, &vec![0.0; channels])?, lab.room(x.len())?);
        let mut site = gradients.site(&on_x, &mut kept.buffer, activation, false);
        let upstream = Upstream::Pooled { dy: on_dy.as_slice(), argmax: taken.as_slice(), sliding: s };
        let through = GradientTarget::Into { dy: upstream, dx: &mut on_dx.as_mut(), accumulate: false };
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
    let (dx, _, dbeta) = kept.norm.backward(&wide(&x), &upstream);
    let on_dy = lab.up_f32(&dy)?;
    let (mut gradients, mut on_dx) =
        (ParameterGradients::new(lab, &vec![0.0; channels])?, lab.room(x.len())?);
    let mut site = gradients.site(&on_x, &mut kept.buffer, activation, false);
    let through = GradientTarget::Into {
        dy: Upstream::Averaged(on_dy.as_slice()),
        dx: &mut on_dx.as_mut(),
        accumulate: false,
    };
    batch_norm::backward(&mut lab.gpu, &mut site, through)?;
    lab.expect_within(&name("gradient from an average"), on_dx.as_slice(), &dx, 3.0)?;
    lab.expect_within(&name("gradient of the shift from an average"), gradients.dbeta.as_slice(), &dbeta, 1.0)
}

pub(super) fn residual(lab: &mut Lab, channels: usize) -> Result<(), CudaError> {
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
        elementwise::add(&mut lab.gpu, a, b, channels, activation, &mut on_y.as_mut())?;
        let other = if two { second.norm.apply(&wide(&x2)) } else { wide(&x2) };
        let before: Vec<f64> = first.norm.apply(&wide(&x1)).iter().zip(&other).map(|(a, b)| a + b).collect();
        let y: Vec<f64> = before.iter().map(|&v| activate(activation, v)).collect();
        lab.expect_within(&name("residual sum"), on_y.as_slice(), &y, 2.0)?;

        // The derivative is computed from the stored value.
        let stored = lab.down(on_y.as_slice())?;
        let g: Vec<f64> =
            stored.iter().zip(&dy).map(|(y, dy)| f64::from(*dy) * slope(activation, f64::from(*y))).collect();
        let (mut of_1, mut of_2) = (
            ParameterGradients::new(lab, &vec![0.0; channels])?,
            ParameterGradients::new(lab, &vec![0.0; channels])?,
        );
        let mut on_g = lab.up(&dy)?;
        let mut site_1 = of_1.site(&on_1, &mut first.buffer, Activation::Identity, false);
        let mut site_2 = of_2.site(&on_2, &mut second.buffer, Activation::Identity, false);
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
            let through = GradientTarget::Into {
                dy: Upstream::Dense(on_g.as_slice()),
                dx: &mut dx.as_mut(),
                accumulate: false,
            };
            batch_norm::backward_input(&mut lab.gpu, site, through)?;
        }
        lab.expect(&name("gradient of a residual sum"), &on_g, &g)?;
        let (dx, dgamma, dbeta) = first.norm.backward(&wide(&x1), &g);
        lab.expect_within(&name("gradient of its first summand"), on_dx1.as_slice(), &dx, 3.0)?;
        lab.expect(&name("gradient of its scale"), &of_1.dgamma, &dgamma)?;
        lab.expect(&name("gradient of its shift"), &of_1.dbeta, &dbeta)?;
        if two {
            let (dx, dgamma, dbeta) = second.norm.backward(&wide(&x2), &g);
            lab.expect_within(&name("gradient of its second summand"), on_dx2.as_slice(), &dx, 3.0)?;
            lab.expect(&name("gradient of the second scale"), &of_2.dgamma, &dgamma)?;
            lab.expect(&name("gradient of the second shift"), &of_2.dbeta, &dbeta)?;
        }
    }
    Ok(())
}
