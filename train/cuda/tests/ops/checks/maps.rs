//! Passes over maps.

use lgd_cuda::batch_norm::{self, Parameters};
use lgd_cuda::{
    Activation, Buffer, CudaError, Element, Mask, Operand, SAVED, Sliding, Window, elementwise, mask, pool,
};

use super::norm::Kept;
use super::{EPS, sum};
use crate::lab::Lab;
use crate::reference::{self, activate, slope, wide};

pub(super) fn maps(lab: &mut Lab, channels: usize) -> Result<(), CudaError> {
    let len = 37 * channels;
    let (x, dy) = (lab.random_at(len, 0.5).iter().map(|v| v * 3.0).collect::<Vec<_>>(), lab.random(len));
    let x = {
        let on = lab.up(&x)?;
        lab.down(on.as_slice())?
    };
    for activation in Activation::ALL {
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
    // One value past the start, no address is aligned.
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

pub(super) fn dropout(lab: &mut Lab, channels: usize, x: &[f32]) -> Result<(), CudaError> {
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

pub(super) fn pools(lab: &mut Lab, channels: usize) -> Result<(), CudaError> {
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

pub(super) fn gates(lab: &mut Lab, channels: usize) -> Result<(), CudaError> {
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

pub(super) fn masked(lab: &mut Lab) -> Result<(), CudaError> {
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
    let mut kept = lab.up_f32(&vec![f32::NAN; SAVED * channels])?;
    batch_norm::training(&mut lab.gpu, on_x.as_slice(), &parameters, None, Some(&mask), &mut kept.as_mut())?;
    let (mean, variance) = reference::statistics(&wide(&x), channels, &counted);
    let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (v + f64::from(EPS)).sqrt()).collect();
    lab.expect_within("masked mean", kept.as_slice().slice(0..channels)?, &mean, 0.1)?;
    lab.expect_within("masked deviation", kept.as_slice().slice(channels..2 * channels)?, &inverse, 0.3)?;
    mask::apply(&mut lab.gpu, &mask, channels, &mut on_x.as_mut())?;
    let kept: Vec<f64> = x
        .iter()
        .enumerate()
        .map(|(at, x)| if counted[at / channels] { f64::from(*x) } else { 0.0 })
        .collect();
    lab.expect("mask", &on_x, &kept)?;
    let token = lab.uniform(channels, -1.0, 1.0);
    let on_token = lab.up_f32(&token)?;
    mask::fill(&mut lab.gpu, &mask, on_token.as_slice(), &mut on_x.as_mut())?;
    let token = token.iter().copied().map(f64::from);
    let filled: Vec<f64> = kept
        .iter()
        .zip(token.cycle())
        .enumerate()
        .map(|(at, (x, token))| if counted[at / channels] { *x } else { token })
        .collect();
    lab.expect("filled mask", &on_x, &filled)
}
