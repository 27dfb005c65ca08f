//! The products and the decomposition that projections need, on plain slices and one thread: `faer`'s.
//!
//! They stand in a crate of their own because `faer` is generic: it is compiled where it is used, which takes minutes, and should
//! not be compiled again with every change of `lgd-data`.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, Side};

/// Adds to columns `first..first + width` of the sum of products of rows, from the diagonal down: `strip[r, c] += Σ_n block[n, r] block[n, first + c]`
/// for `r >= first`.
///
/// `strip`: `[dim, width]`, column-major; `block`: `[n, dim]`, row-major.
///
/// # Panics
/// Where the lengths are not those of such matrices, or the strip ends beyond the last column.
pub fn add_products(strip: &mut [f64], block: &[f64], dim: usize, first: usize) {
    let (width, rows) = (strip.len() / dim, block.len() / dim);
    // Row-major rows are the columns of a column-major matrix, [dim, n].
    let columns = MatRef::from_column_major_slice(block, dim, rows);
    let mut strip = MatMut::from_column_major_slice_mut(strip, dim, width);
    let lower = strip.as_mut().subrows_mut(first, dim - first);
    let own = columns.subrows(first, width).transpose();
    matmul(lower, Accum::Add, columns.subrows(first, dim - first), own, 1.0, Par::Seq);
}

/// `out = rows . components^T`: `[n, width]` times `[dim, width]` to `[n, dim]`, all row-major.
///
/// # Panics
/// Where the lengths are not those of such matrices.
pub fn project(components: &[f32], rows: &[f32], out: &mut [f32], (width, dim): (usize, usize)) {
    let count = rows.len() / width;
    let components = MatRef::from_row_major_slice(components, dim, width);
    let rows = MatRef::from_column_major_slice(rows, width, count);
    let out = MatMut::from_column_major_slice_mut(out, dim, count);
    matmul(out, Accum::Replace, components, rows, 1.0, Par::Seq);
}

/// Eigenvalues of a symmetric matrix, smallest first, and its eigenvectors one after the other; `None` where they were not found.
///
/// `matrix`: `[n, n]`, column-major, of which the lower triangle is read.
///
/// # Panics
/// Where the length is not n x n.
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
        // 2 1 / 1 2: 1 along (1, -1), 3 along (1, 1). The upper triangle is not read.
        let (values, vectors) = symmetric_eigen(&[2.0, 1.0, f64::NAN, 2.0], 2).unwrap();
        assert!((values[0] - 1.0).abs() < 1e-12 && (values[1] - 3.0).abs() < 1e-12, "{values:?}");
        assert!(
            (vectors[0] + vectors[1]).abs() < 1e-12 && (vectors[2] - vectors[3]).abs() < 1e-12,
            "{vectors:?}"
        );
    }

    #[test]
    fn products_go_to_their_strip_alone() {
        let mut strip = [10.0; 3];
        add_products(&mut strip, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 1);
        assert_eq!(strip, [10.0, 10.0 + 4.0 + 25.0, 10.0 + 6.0 + 30.0]);
        let mut out = [0.0; 2];
        project(&[1.0, 0.0, 2.0], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut out, (3, 1));
        assert_eq!(out, [7.0, 16.0]);
    }
}
