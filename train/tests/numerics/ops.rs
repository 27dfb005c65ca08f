//! Similarities and soft cross-entropy, with their gradients, against PyTorch in f64.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use lgd_kernels::rows::{self, Targets};
use lgd_train::ops;
use serde_json::Value as Json;

use crate::device::{TestDevice, on_every_f32_device};
use crate::golden::{Golden, error, values};

on_every_f32_device!(
    objectives_equal_pytorchs,
    sparse_targets_are_dense_ones_with_zeros,
    wrong_shapes_are_errors
);

/// f32 sums of a few hundred terms.
const TOLERANCE: f64 = 3e-6;

/// The loss, and its gradient with respect to the logits.
type Differentiated = (Vec<f32>, Vec<f32>);

fn differentiate<D: TestDevice>(x: &Tensor, f: impl FnOnce(&Tensor) -> (Tensor, Tensor)) -> Differentiated {
    let x = Var::from_tensor(&D::tensor(x)).unwrap();
    let (y, loss) = f(x.as_tensor());
    let gradients = loss.backward().unwrap();
    (values(&y), values(gradients.get(&x).unwrap()))
}

fn active(golden: &Golden, name: &str) -> Arc<[bool]> {
    golden.values(&format!("{name}.active")).iter().map(|v| *v > 0.0).collect()
}

fn indices(golden: &Golden, name: &str) -> Tensor {
    golden.get(&format!("{name}.index")).to_dtype(DType::U32).unwrap()
}

/// Uses the operation if it keeps all columns. If columns are left out, only the CPU's kernel supports such targets.
fn top_k<D: TestDevice>(golden: &Golden, name: &str) -> Differentiated {
    let get = |key: &str| golden.get(&format!("{name}.{key}"));
    let (active, index) = (active(golden, name), indices(golden, name));
    if active.iter().all(|on| *on) {
        return differentiate::<D>(get("x"), |x| {
            let (index, probability) = (D::tensor(&index), D::tensor(get("probability")));
            let y = ops::soft_cross_entropy_top_k(x, &index, &probability).unwrap();
            (y.clone(), y)
        });
    }
    let (logits, probabilities) = (values(get("x")), values(get("probability")));
    let k = index.dims()[1];
    let indices: Vec<u32> = index.flatten_all().unwrap().to_vec1().unwrap();
    let targets = || Targets::Sparse { indices: &indices, probabilities: &probabilities, k };
    let (mut softmax, mut dx) = (vec![0.0; logits.len()], vec![0.0; logits.len()]);
    let y = rows::cross_entropy_forward(&logits, targets(), &active, &mut softmax).unwrap();
    rows::cross_entropy_backward(&softmax, targets(), &active, 1.0, &mut dx).unwrap();
    (vec![y], dx)
}

fn objectives_equal_pytorchs<D: TestDevice>() {
    let mut count = 0;
    for fixture in ["ops", "layers_other"] {
        let golden = Golden::open(fixture);
        let cases: Json = serde_json::from_str(golden.metadata("cases")).unwrap();
        for (name, parameters) in cases.as_object().unwrap() {
            let get = |key: &str| golden.get(&format!("{name}.{key}"));
            let (y, dx) = match parameters["op"].as_str().unwrap() {
                "similarity" => differentiate::<D>(get("x"), |x| {
                    let y = ops::similarity(x, &D::tensor(get("w0"))).unwrap();
                    let loss = y.mul(&D::tensor(get("g"))).unwrap().sum_all().unwrap();
                    (y, loss)
                }),
                "entropy" => differentiate::<D>(get("x"), |x| {
                    let y = ops::soft_cross_entropy(x, &D::tensor(get("w0")), active(&golden, name)).unwrap();
                    (y.clone(), y)
                }),
                "entropy_top" => top_k::<D>(&golden, name),
                _ => continue,
            };
            for (what, got) in [("y", y), ("dx", dx)] {
                let error = error(&got, &golden.values(&format!("{name}.{what}")));
                assert!(error < D::tolerance(TOLERANCE), "{name}.{what}: {error:.1e}");
            }
            count += 1;
        }
    }
    assert_eq!(count, 7, "cases");
}

/// Top-K targets are dense ones with zeros.
fn sparse_targets_are_dense_ones_with_zeros<D: TestDevice>() {
    let golden = Golden::open("layers_other");
    let name = "entropy_top";
    let (x, p) = (golden.get("entropy_top.x"), golden.values("entropy_top.probability"));
    let index = indices(&golden, name);
    let (rows, columns) = x.dims2().unwrap();
    let mut dense = vec![0.0; rows * columns];
    let k = index.dims()[1];
    let flat: Vec<u32> = index.flatten_all().unwrap().to_vec1().unwrap();
    for (at, (column, p)) in flat.iter().zip(&p).enumerate() {
        dense[at / k * columns + usize::try_from(*column).unwrap()] = *p;
    }
    let dense = Tensor::from_vec(dense, (rows, columns), &D::device()).unwrap();
    let all = differentiate::<D>(x, |x| {
        let y = ops::soft_cross_entropy(x, &dense, active(&golden, name)).unwrap();
        (y.clone(), y)
    });
    let sparse = top_k::<D>(&golden, name);
    let tolerance = D::tolerance(1e-6);
    assert!(error(&sparse.0, &all.0) < tolerance && error(&sparse.1, &all.1) < tolerance);
}

/// CPU's kernels only. On a GPU the operations are Candle's. They accept any layout and do not inspect the values, and
/// there are no empty tensors.
#[test]
fn what_the_cpus_kernels_do_not_take_is_an_error() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    assert!(ops::similarity(&zeros(&[2, 3]), &zeros(&[0, 3])).is_err(), "an empty bank");
    assert!(ops::similarity(&zeros(&[0, 3]), &zeros(&[4, 3])).is_err(), "an empty batch");
    assert!(ops::similarity(&zeros(&[3, 2]).t().unwrap(), &zeros(&[4, 3])).is_err(), "not contiguous");
    assert!(ops::soft_cross_entropy(&zeros(&[0, 3]), &zeros(&[0, 3]), vec![true; 3].into()).is_err());
    let beyond = Tensor::full(3_u32, (2, 2), &Device::Cpu).unwrap();
    assert!(ops::soft_cross_entropy_top_k(&zeros(&[2, 3]), &beyond, &zeros(&[2, 2])).is_err());
}

fn wrong_shapes_are_errors<D: TestDevice>() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &D::device()).unwrap();
    assert!(ops::similarity(&zeros(&[2, 3]), &zeros(&[4, 5])).is_err(), "dimensions disagree");
    assert!(ops::similarity(&zeros(&[2, 3]).to_dtype(DType::F64).unwrap(), &zeros(&[4, 3])).is_err(), "f64");
    let bank = Var::from_tensor(&zeros(&[4, 3])).unwrap();
    assert!(ops::similarity(&zeros(&[2, 3]), &bank).is_err(), "banks are constants");
    assert!(
        ops::soft_cross_entropy(&zeros(&[2, 3]), &zeros(&[2, 3]), vec![false; 3].into()).is_err(),
        "no active column"
    );
    let all: Arc<[bool]> = vec![true; 3].into();
    assert!(ops::soft_cross_entropy(&zeros(&[2, 3]), &zeros(&[2, 4]), Arc::clone(&all)).is_err());
    assert!(ops::soft_cross_entropy(&zeros(&[2, 4]), &zeros(&[2, 4]), Arc::clone(&all)).is_err());
    let tracked = Var::from_tensor(&zeros(&[2, 3])).unwrap();
    assert!(ops::soft_cross_entropy(&zeros(&[2, 3]), &tracked, all).is_err(), "targets are constants");
    let index = |value: u32, rows: usize| Tensor::full(value, (rows, 2), &D::device()).unwrap();
    let top = |index, p: &[usize]| ops::soft_cross_entropy_top_k(&zeros(&[2, 3]), &index, &zeros(p));
    assert!(top(index(2, 2), &[2, 2]).is_ok());
    assert!(top(index(0, 1), &[1, 2]).is_err(), "rows disagree");
    assert!(top(index(0, 2), &[2, 1]).is_err(), "probabilities for other columns");
}
