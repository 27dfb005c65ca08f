//! Dense layers through cuBLAS: `y = x . w^T + bias` with x `[B, I]`, w `[O, I]`, y f32 `[B, O]`.
//!
//! Operands are bf16 or f16 (tensor cores, sums in f32) or f32 (plain f32: no TF32).
#![expect(unsafe_code, reason = "calls cuBLAS")]

use std::ffi::c_void;

use cudarc::cublas::{result, sys};
use lgd_kernels::linear::Linear;

use crate::elementwise;
use crate::error::{CudaError, Result, expect_element, expect_eq, expect_floats, int};
use crate::gpu::Gpu;
use crate::memory::{Element, Slice, SliceMut};

/// A row-major matrix operand, possibly read transposed.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: Slice<'a>,
    columns: usize,
    transposed: bool,
}

/// `x . w^T + bias`.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn forward(
    gpu: &mut Gpu,
    l: &Linear,
    x: Slice<'_>,
    weights: Slice<'_>,
    bias: Option<Slice<'_>>,
    y: &mut SliceMut<'_>,
) -> Result<()> {
    check(l, x, weights)?;
    expect_floats("dense output", y.as_slice(), l.batch * l.outputs)?;
    let x = Matrix { data: x, columns: l.inputs, transposed: false };
    let w = Matrix { data: weights, columns: l.inputs, transposed: true };
    product(gpu, x, w, (l.batch, l.outputs, l.inputs), y, false)?;
    let Some(bias) = bias else { return Ok(()) };
    expect_floats("bias", bias, l.outputs)?;
    elementwise::add_bias(gpu, bias, y)
}

/// The gradient of the input, f32 `[B, I]`; `dy` has the weights' element.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn backward_data(
    gpu: &mut Gpu,
    l: &Linear,
    dy: Slice<'_>,
    weights: Slice<'_>,
    dx: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    expect_eq("dense output gradient", l.batch * l.outputs, dy.len())?;
    expect_eq("dense weights", l.outputs * l.inputs, weights.len())?;
    expect_element("dense weights", dy.element(), weights.element())?;
    expect_floats("dense input gradient", dx.as_slice(), l.batch * l.inputs)?;
    let dy = Matrix { data: dy, columns: l.outputs, transposed: false };
    let w = Matrix { data: weights, columns: l.inputs, transposed: false };
    product(gpu, dy, w, (l.batch, l.inputs, l.outputs), dx, accumulate)
}

/// The gradient of the weights, f32 `[O, I]`; `x` and `dy` have one element.
///
/// # Errors
/// Lengths or elements that do not match, or an error of the device.
pub fn backward_weight(
    gpu: &mut Gpu,
    l: &Linear,
    x: Slice<'_>,
    dy: Slice<'_>,
    dw: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    expect_eq("dense input", l.batch * l.inputs, x.len())?;
    expect_eq("dense output gradient", l.batch * l.outputs, dy.len())?;
    expect_element("dense input", dy.element(), x.element())?;
    expect_floats("dense weight gradient", dw.as_slice(), l.outputs * l.inputs)?;
    let dy = Matrix { data: dy, columns: l.outputs, transposed: true };
    let x = Matrix { data: x, columns: l.inputs, transposed: false };
    product(gpu, dy, x, (l.outputs, l.inputs, l.batch), dw, accumulate)
}

fn check(l: &Linear, x: Slice<'_>, weights: Slice<'_>) -> Result<()> {
    expect_eq("dense input", l.batch * l.inputs, x.len())?;
    expect_eq("dense weights", l.outputs * l.inputs, weights.len())?;
    expect_element("dense weights", x.element(), weights.element())
}

/// `c (+)= a . b` with c row-major f32 `[m, n]` and inner dimension `k`.
fn product(
    gpu: &mut Gpu,
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, n, k): (usize, usize, usize),
    c: &mut SliceMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let kind = match a.data.element() {
        Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        Element::F16 => sys::cudaDataType::CUDA_R_16F,
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
        element => return Err(CudaError::Unsupported { what: format!("products of {element:?}") }),
    };
    let turn = |matrix: Matrix<'_>| {
        if matrix.transposed {
            sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            sys::cublasOperation_t::CUBLAS_OP_N
        }
    };
    let (one, beta) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
    gpu.stream().context().bind_to_thread()?;
    // cuBLAS is column-major: it reads a row-major c = a . b as c^T = b^T . a^T, with each matrix unchanged in memory.
    // SAFETY: the lengths were checked against m, n and k; the scalars are read before the call returns.
    unsafe {
        result::gemm_ex(
            *gpu.blas().handle(),
            turn(b),
            turn(a),
            int(n)?,
            int(m)?,
            int(k)?,
            std::ptr::from_ref(&one).cast(),
            b.data.address() as *const c_void,
            kind,
            int(b.columns)?,
            a.data.address() as *const c_void,
            kind,
            int(a.columns)?,
            std::ptr::from_ref(&beta).cast(),
            c.address() as *mut c_void,
            sys::cudaDataType::CUDA_R_32F,
            int(n)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }?;
    Ok(())
}
