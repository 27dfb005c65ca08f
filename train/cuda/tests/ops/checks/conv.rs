//! Convolutions.

use lgd_cuda::{Activation, CudaError, Operand, Sliding, Window, conv};
use lgd_kernels::conv::Conv;

use super::norm::Kept;
use super::sum;
use crate::lab::Lab;
use crate::reference::{products, wide};

/// Input (batch, height, width, channels), (outputs, side, groups), window (stride, padding, dilation).
type Shape = ((usize, usize, usize, usize), (usize, usize, usize), (usize, usize, usize));

fn geometry((input, (_, side, _), (stride, padding, dilation)): Shape) -> Result<Sliding, CudaError> {
    Ok(Sliding::new(input, (side, side), Window { stride, padding, dilation })?)
}

pub(super) fn convolutions(lab: &mut Lab) -> Result<(), CudaError> {
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
    for shape in shapes {
        let (_, (outputs, _, groups), _) = shape;
        convolution(lab, geometry(shape)?, (outputs, groups), None)?;
    }
    Ok(())
}

pub(super) fn depthwise(lab: &mut Lab) -> Result<(), CudaError> {
    for channels in [8, 12, 40, 264, 5] {
        for side in [3, 5] {
            for (stride, (height, width)) in
                [(1, (7, 8)), (1, (3, 2)), (1, (37, 9)), (2, (9, 6)), (2, (8, 7)), (2, (41, 11))]
            {
                let shape = ((2, height, width, channels), (channels, side, channels), (stride, side / 2, 1));
                convolution(lab, geometry(shape)?, (channels, channels), None)?;
                convolution(lab, geometry(shape)?, (channels, channels), Some(Activation::Relu6))?;
            }
            // TensorFlow's padding: more zeros after the input than before it.
            for size in [8, 2, 42] {
                let s = Sliding::same((2, size, size, channels), side, 2)?;
                convolution(lab, s, (channels, channels), None)?;
                convolution(lab, s, (channels, channels), Some(Activation::Silu))?;
            }
        }
    }
    Ok(())
}

/// Forward and both gradients, written and added; depthwise convolutions also through a normalization.
fn convolution(
    lab: &mut Lab,
    s: Sliding,
    (outputs, groups): (usize, usize),
    norm: Option<Activation>,
) -> Result<(), CudaError> {
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
    let name = |what: &str| format!("{what} {s:?}{}", if norm.is_some() { " normalized" } else { "" });

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
