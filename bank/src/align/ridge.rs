//! Ridge regression for many penalties from one eigendecomposition.

use super::AlignError;
use super::matrix::Matrix;

/// The regression of targets T, `[n, D]`, on sources S, `[n, Dt]`: `Mᵀ = (SᵀS + lambda)⁻¹ SᵀT`.
///
/// With the eigenvectors V (in rows) and eigenvalues e of SᵀS, `Mᵀ = Vᵀ diag(1 / (e + lambda)) V SᵀT`. If there are
/// fewer rows than columns, the smaller S Sᵀ is decomposed: `Mᵀ = (V S)ᵀ diag(1 / (e + lambda)) V T`. Both are
/// `leftᵀ diag(1 / (e + lambda)) right`.
pub(super) struct Ridge {
    eigenvalues: Vec<f64>,
    /// `[k, Dt]`, where k is the number of eigenvalues.
    left: Matrix,
    /// `[k, D]`
    right: Matrix,
}

impl Ridge {
    /// Decomposes the problem.
    pub(super) fn fit(source: &Matrix, target: &Matrix) -> Result<Self, AlignError> {
        let transposed = source.transposed();
        let wide = source.len() < source.width();
        let gram = if wide { source.product(&transposed) } else { transposed.product(source) };
        let size = gram.width();
        let eigen = lgd_linalg::symmetric_eigen(gram.values(), size);
        let (mut eigenvalues, vectors) = eigen.ok_or(AlignError::NotConverged { width: size })?;
        // Rounding can make a zero eigenvalue negative.
        eigenvalues.iter_mut().for_each(|value| *value = value.max(0.0));
        let vectors = Matrix::new(vectors, size);
        let (left, right) = if wide {
            (vectors.product(source), vectors.product(target))
        } else {
            let right = vectors.product(&transposed.product(target));
            (vectors, right)
        };
        Ok(Self { eigenvalues, left, right })
    }

    /// Coordinates of sources, `[n, Dt]`, that [`Ridge::predict`] takes for every penalty: `[n, k]`.
    pub(super) fn coordinates(&self, sources: &Matrix) -> Matrix {
        sources.product(&self.left.transposed())
    }

    /// Predicted targets, `[n, D]`, of coordinates, `[n, k]`.
    pub(super) fn predict(&self, coordinates: &Matrix, ridge: f64) -> Matrix {
        coordinates.clone().scaled_columns(&self.factors(ridge)).product(&self.right)
    }

    /// M, `[D, Dt]`.
    pub(super) fn matrix(&self, ridge: f64) -> Matrix {
        self.right.transposed().scaled_columns(&self.factors(ridge)).product(&self.left)
    }

    fn factors(&self, ridge: f64) -> Vec<f64> {
        self.eigenvalues.iter().map(|value| 1.0 / (value + ridge)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values without a pattern, -1 to 1.
    fn noise(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u16::try_from(state >> 48).unwrap()) / 32768.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn the_normal_equations_hold_with_more_rows_than_columns_and_with_fewer() {
        for (rows, seed) in [(20, 1), (5, 2), (8, 3)] {
            let source = Matrix::new(noise(rows * 8, seed), 8);
            let target = Matrix::new(noise(rows * 6, seed + 10), 6);
            let ridge = Ridge::fit(&source, &target).unwrap();
            for lambda in [0.01, 1.0, 100.0] {
                let matrix = ridge.matrix(lambda).transposed();
                assert_eq!((matrix.len(), matrix.width()), (8, 6));
                let predicted = source.product(&matrix);
                // SᵀS M + lambda M = SᵀT
                let gradient = source.transposed().product(&predicted);
                let right = source.transposed().product(&target);
                let all = gradient.values().iter().zip(matrix.values()).zip(right.values());
                for ((gradient, value), right) in all {
                    assert!((gradient + lambda * value - right).abs() < 1e-10, "{rows} rows, {lambda}");
                }
                let again = ridge.predict(&ridge.coordinates(&source), lambda);
                let pairs = again.values().iter().zip(predicted.values());
                assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-10), "{rows} rows, {lambda}");
            }
        }
    }
}
