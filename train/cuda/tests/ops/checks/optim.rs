//! Updates of the parameters.

use lgd_cuda::optimizer::{self, AdamWStep, SgdStep, Table, Tensor, Vectors};
use lgd_cuda::{Buffer, CudaError, Element};

use crate::lab::Lab;
use crate::reference::wide;

/// Length of the vectors, gaps between tensors included.
const LEN: usize = 9_000;

const TENSORS: [Tensor; 3] = [
    Tensor { start: 0, len: 5_003, weight_decay: 0.1, adapted: true },
    Tensor { start: 5_056, len: 64, weight_decay: 0.0, adapted: false },
    Tensor { start: 5_120, len: 3_877, weight_decay: 0.05, adapted: true },
];

/// The tensor that contains a value.
fn tensor_of(at: usize) -> Option<&'static Tensor> {
    TENSORS.iter().find(|tensor| (tensor.start..tensor.start + tensor.len).contains(&at))
}

/// `values`, with zeros between the tensors.
fn inside<T: Default>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let only = |(at, value)| if tensor_of(at).is_some() { value } else { T::default() };
    values.into_iter().enumerate().map(only).collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// Parameters, gradients, and positive values for an optimizer's state.
struct Given {
    parameters: Vec<f32>,
    gradients: Vec<f32>,
    state: Vec<f32>,
    on_gradients: Buffer,
    table: Table,
}

pub(super) fn optimizers(lab: &mut Lab) -> Result<(), CudaError> {
    let (parameters, gradients) = (inside(lab.random(LEN)), inside(lab.random(LEN)));
    let (state, on_gradients) = (inside(lab.uniform(LEN, 0.0, 1.0)), lab.up(&gradients)?);
    let table = Table::new(lab.gpu.stream(), &TENSORS, LEN)?;
    let mut given = Given { parameters, gradients, state, on_gradients, table };
    let (limit, length) = (3.0, norm(&given.gradients));
    optimizer::clip(&mut lab.gpu, &mut given.table, given.on_gradients.as_slice(), limit)?;
    lab.expect_within("norm of the gradients", given.table.norm()?, &[length], 1.0)?;
    let factor = f64::from(limit) / (length + 1e-6);
    for (nesterov, trust, clip) in
        [(false, None, None), (true, None, Some(factor)), (false, Some(0.02), Some(factor))]
    {
        sgd(lab, &given, SgdStep { lr: 0.1, momentum: 0.9, nesterov, trust }, clip)?;
    }
    adamw(lab, &given)?;
    average(lab, &given)?;
    skipped(lab, &mut given)
}

/// `clip`: the factor of the gradients, if they are clipped.
fn sgd(lab: &mut Lab, given: &Given, step: SgdStep, clip: Option<f64>) -> Result<(), CudaError> {
    let Given { parameters: p, gradients: g, state: v, .. } = given;
    let by = clip.unwrap_or(1.0);
    let ratio = |tensor: &Tensor| {
        let size = |values: &[f32]| norm(&values[tensor.start..tensor.start + tensor.len]);
        match step.trust {
            Some(trust) if tensor.adapted => {
                f64::from(trust) * size(p) / (by * size(g) + f64::from(tensor.weight_decay) * size(p))
            }
            _ => 1.0,
        }
    };
    let (mut want_p, mut want_v) = (wide(p), wide(v));
    for tensor in &TENSORS {
        let ratio = ratio(tensor);
        for at in tensor.start..tensor.start + tensor.len {
            let d = ratio * (by * f64::from(g[at]) + f64::from(tensor.weight_decay) * f64::from(p[at]));
            want_v[at] = 0.9 * f64::from(v[at]) + d;
            want_p[at] -= 0.1 * if step.nesterov { d + 0.9 * want_v[at] } else { want_v[at] };
        }
    }
    let (mut on_p, mut on_v) = (lab.up(p)?, lab.up(v)?);
    let mut copy = lab.gpu.alloc(Element::Bf16, LEN)?;
    let vectors = Vectors {
        gradients: given.on_gradients.as_slice(),
        parameters: on_p.as_mut(),
        copy: Some(copy.as_mut()),
        clipped: clip.is_some(),
    };
    optimizer::sgd(&mut lab.gpu, &given.table, &step, &vectors, &on_v.as_mut())?;
    let name = format!("SGD, Nesterov {}, LARS {}", step.nesterov, step.trust.is_some());
    lab.expect(&name, &on_p, &want_p)?;
    lab.expect(&format!("velocity of {name}"), &on_v, &want_v)?;
    let copied = inside(lab.down(copy.as_slice())?);
    let copied = lab.up(&copied)?;
    lab.expect_within(&format!("bf16 copy of {name}"), copied.as_slice(), &inside(want_p), 300.0)
}

fn adamw(lab: &mut Lab, given: &Given) -> Result<(), CudaError> {
    let Given { parameters: p, gradients: g, state: v, .. } = given;
    let (rate, betas, eps, step) = (0.01_f32, (0.9_f32, 0.999_f32), 1e-8_f32, 3);
    let correction = (1.0 - f64::from(betas.0).powi(step), 1.0 - f64::from(betas.1).powi(step));
    let (mut want_p, mut want_m, mut want_s) = (wide(p), wide(v), wide(v));
    for at in 0..LEN {
        let Some(tensor) = tensor_of(at) else { continue };
        let d = f64::from(g[at]);
        want_m[at] = f64::from(betas.0) * want_m[at] + (1.0 - f64::from(betas.0)) * d;
        want_s[at] = f64::from(betas.1) * want_s[at] + (1.0 - f64::from(betas.1)) * d * d;
        let root = (want_s[at] / correction.1).sqrt() + f64::from(eps);
        want_p[at] -= f64::from(rate)
            * (f64::from(tensor.weight_decay) * want_p[at] + want_m[at] / correction.0 / root);
    }
    let (mut on_p, mut on_m, mut on_s) = (lab.up(p)?, lab.up(v)?, lab.up(v)?);
    let vectors = Vectors {
        gradients: given.on_gradients.as_slice(),
        parameters: on_p.as_mut(),
        copy: None,
        clipped: false,
    };
    let constants = AdamWStep { lr: rate, betas, eps, correction };
    let moments = (&on_m.as_mut(), &on_s.as_mut());
    optimizer::adamw(&mut lab.gpu, &given.table, &constants, &vectors, moments)?;
    lab.expect("AdamW", &on_p, &want_p)?;
    lab.expect("AdamW's first moment", &on_m, &want_m)?;
    lab.expect("AdamW's second moment", &on_s, &want_s)
}

fn average(lab: &mut Lab, given: &Given) -> Result<(), CudaError> {
    let (on_p, mut on_average) = (lab.up(&given.parameters)?, lab.up(&given.state)?);
    optimizer::ema(&mut lab.gpu, 0.9, on_p.as_slice(), &mut on_average.as_mut())?;
    let both = given.parameters.iter().zip(&given.state);
    let average: Vec<f64> = both.map(|(p, v)| 0.9 * f64::from(*v) + 0.1 * f64::from(*p)).collect();
    lab.expect("average of weights", &on_average, &average)
}

/// A step with gradients of which one is infinite.
fn skipped(lab: &mut Lab, given: &mut Given) -> Result<(), CudaError> {
    given.gradients[17] = f32::INFINITY;
    let (on_g, mut on_p, mut on_v) =
        (lab.up(&given.gradients)?, lab.up(&given.parameters)?, lab.up(&given.state)?);
    optimizer::clip(&mut lab.gpu, &mut given.table, on_g.as_slice(), f32::INFINITY)?;
    let vectors =
        Vectors { gradients: on_g.as_slice(), parameters: on_p.as_mut(), copy: None, clipped: true };
    let step = SgdStep { lr: 0.1, momentum: 0.9, nesterov: false, trust: None };
    optimizer::sgd(&mut lab.gpu, &given.table, &step, &vectors, &on_v.as_mut())?;
    lab.expect("a step by gradients that are not finite is skipped", &on_p, &wide(&given.parameters))
}
