//! Dense layers and losses.

use lgd_cuda::rows::{self, Targets};
use lgd_cuda::{Buffer, CudaError, linear};
use lgd_kernels::linear::Linear;

use super::sum;
use crate::lab::Lab;
use crate::reference::wide;

pub(super) fn dense(lab: &mut Lab) -> Result<(), CudaError> {
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

pub(super) fn normalized_rows(lab: &mut Lab) -> Result<(), CudaError> {
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
        rows::l2_normalize(&mut lab.gpu, on_x.as_slice(), columns, &mut on_y.as_mut())?;
        rows::l2_normalize_backward(&mut lab.gpu, on_x.as_slice(), columns, &mut on_dy.as_mut())?;
        lab.expect("normalized rows", &on_y, &y)?;
        lab.expect("gradient of normalized rows", &on_dy, &dx)?;
    }
    Ok(())
}

pub(super) fn cross_entropy(lab: &mut Lab) -> Result<(), CudaError> {
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
