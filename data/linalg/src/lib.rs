//! The matrix products and the eigendecomposition that projections and bridges need, computed by `faer` on plain slices and one
//! thread.
//!
//! ```
//! // Columns 2 1 and 1 2: eigenvalue 1 along (1, -1), 3 along (1, 1).
//! let (values, vectors) = lgd_linalg::symmetric_eigen(&[2.0, 1.0, 1.0, 2.0], 2).ok_or("no eigenvectors")?;
//! assert!((values[1] - 3.0).abs() < 1e-12);
//! assert!((vectors[2] - vectors[3]).abs() < 1e-12);
//! # Ok::<(), &str>(())
//! ```
//!
//! `faer` is generic and takes minutes to compile. In a crate of its own, it is not recompiled when `lgd-data` changes.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, Side};

/// `tile += Σ_n a[n] b[n]^T`: adds the products of the columns of two panels of `width` columns, summed over rows.
///
/// `tile`: `[width, width]`, column-major: column `j` belongs to column `j` of `b`. `a` and `b`: `[n, width]`,
/// row-major.
///
/// # Panics
/// If the slice lengths do not match these shapes.
pub fn add_products(tile: &mut [f64], a: &[f64], b: &[f64], width: usize) {
    // Row-major [n, width] is column-major [width, n].
    let a = MatRef::from_column_major_slice(a, width, a.len() / width);
    let b = MatRef::from_column_major_slice(b, width, b.len() / width);
    let tile = MatMut::from_column_major_slice_mut(tile, width, width);
    matmul(tile, Accum::Add, a, b.transpose(), 1.0, Par::Seq);
}

/// `out = rows . components^T`: multiplies `[n, width]` by the transpose of `[dim, width]` into `[n, dim]`, all
/// row-major.
///
/// # Panics
/// If the slice lengths do not match these shapes.
pub fn project(components: &[f32], rows: &[f32], out: &mut [f32], (width, dim): (usize, usize)) {
    let count = rows.len() / width;
    let components = MatRef::from_row_major_slice(components, dim, width);
    let rows = MatRef::from_column_major_slice(rows, width, count);
    let out = MatMut::from_column_major_slice_mut(out, dim, count);
    matmul(out, Accum::Replace, components, rows, 1.0, Par::Seq);
}

/// Returns `a . b`: multiplies `[n, k]` by `[k, m]` into `[n, m]`, all row-major.
///
/// # Panics
/// If the slice lengths do not match these shapes.
pub fn multiply(a: &[f64], b: &[f64], (n, k, m): (usize, usize, usize)) -> Vec<f64> {
    let mut out = vec![0.0; n * m];
    let a = MatRef::from_row_major_slice(a, n, k);
    let b = MatRef::from_row_major_slice(b, k, m);
    let product = MatMut::from_row_major_slice_mut(&mut out, n, m);
    matmul(product, Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

/// Computes the eigenvalues of a symmetric matrix, smallest first, and its eigenvectors, concatenated in the same
/// order. Returns `None` if the decomposition does not converge.
///
/// `matrix`: `[n, n]`, column-major. Only the lower triangle is read.
///
/// # Panics
/// If the length is not n x n.
pub fn symmetric_eigen(matrix: &[f64], n: usize) -> Option<(Vec<f64>, Vec<f64>)> {
    let eigen = MatRef::from_column_major_slice(matrix, n, n).self_adjoint_eigen(Side::Lower).ok()?;
    let values = (0..n).map(|axis| eigen.S()[axis]).collect();
    let vectors = (0..n).flat_map(|axis| eigen.U().col(axis).iter().copied().collect::<Vec<f64>>()).collect();
    Some((values, vectors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_its_eigenvectors_stretched() {
        // The eigenvalues of 2 1 / 1 2 are 1 along (1, -1) and 3 along (1, 1). The upper triangle is not read.
        let (values, vectors) = symmetric_eigen(&[2.0, 1.0, f64::NAN, 2.0], 2).unwrap();
        assert!((values[0] - 1.0).abs() < 1e-12 && (values[1] - 3.0).abs() < 1e-12, "{values:?}");
        assert!(
            (vectors[0] + vectors[1]).abs() < 1e-12 && (vectors[2] - vectors[3]).abs() < 1e-12,
            "{vectors:?}"
        );
    }

    #[test]
    fn products_are_added_and_rows_projected() {
        let mut tile = [10.0; 4];
        add_products(&mut tile, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0], 2);
        assert_eq!(tile, [10.0 + 5.0 + 21.0, 10.0 + 10.0 + 28.0, 10.0 + 6.0 + 24.0, 10.0 + 12.0 + 32.0]);
        let mut out = [0.0; 2];
        project(&[1.0, 0.0, 2.0], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut out, (3, 1));
        assert_eq!(out, [7.0, 16.0]);
        assert_eq!(multiply(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0], (2, 2, 1)), [17.0, 39.0]);
        assert_eq!(multiply(&[5.0, 6.0], &[1.0, 2.0, 3.0, 4.0], (1, 2, 2)), [23.0, 34.0]);
    }
}
