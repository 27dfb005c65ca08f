//! Principal axes of a matrix that is read once, in blocks of rows (docs/methods.md section 2).
//!
//! ```text
//! sums         n, sum of x [D], sum of x x^T [D, D]     f64, one pass
//! covariance   sum of x x^T / n - mu mu^T               its eigenvectors are the right singular vectors of X - mu
//! projection   y = V (x - mu)                           V [d, D], the d axes of largest variance
//! ```
//!
//! The results do not depend on the number of threads. Threads process tiles of the sums and blocks of rows with fixed
//! bounds. Every product and the decomposition ([`lgd_linalg`]) run on one thread each.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use thiserror::Error;

use crate::error::{ArtifactError, IoContext};
use crate::manifest::{ContentHash, FileEntry, write_atomic};

/// Number of rows that are widened to f64 and multiplied at a time.
const SUM_ROWS: usize = 512;

/// Side of the tiles of the product sums. Two panels of this many columns fit in the second-level cache.
const TILE: usize = 64;

/// Number of rows that one task projects.
const APPLY_ROWS: usize = 256;

/// An axis whose variance is at most this share of the largest is considered rounding noise. f16 features have a
/// relative precision of 5e-4, and a standard deviation of 1e-5 of the largest is far below that.
const NO_VARIANCE: f64 = 1e-10;

/// Rows whose variance is at most this share of their mean square are considered equal. This is the rounding error of
/// f64 sums.
const ROUNDING: f64 = 1e-13;

/// Metadata key for the hash of the configuration that a projection was fitted for.
const OWNER: &str = "config";

/// Tensor with the BLAKE3 hash of the whole file, u8 `[32]`, which counts as zeros in it. Files with an owner have one: until
/// the owner is complete, no manifest lists them.
const SEAL: &str = "blake3";

/// Length of a BLAKE3 hash in bytes.
const HASH_BYTES: usize = 32;

/// Why rows have no principal axes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// The number of axes is 0 or exceeds the number of columns.
    #[error(
        "expected a projection of {width} values to 1 to {width} dimensions, got {dim}\nhint: a projection cannot widen; take a student that is no wider than the teacher's feature"
    )]
    Dim {
        /// Requested number of axes.
        dim: usize,
        /// Number of columns.
        width: usize,
    },
    /// There are no rows.
    #[error("there are no rows to fit a projection to")]
    NoRows,
    /// A value is infinite or not a number.
    #[error("the {rows} rows to fit a projection to have values that are not finite")]
    NotFinite {
        /// Number of rows.
        rows: u64,
    },
    /// All rows are equal.
    #[error("the {rows} rows to fit a projection to are all the same\nhint: extract from different images")]
    NoVariance {
        /// Number of rows.
        rows: u64,
    },
    /// The eigendecomposition did not converge.
    #[error("the eigen-decomposition of a covariance of {width} x {width} did not converge")]
    NotConverged {
        /// Number of columns.
        width: usize,
    },
}

/// Sums over rows of D values in f64, from which the mean and the covariance are computed.
///
/// The D columns are stored in panels of 64; the last panel is padded with zeros. The products are those of each panel
/// with itself and all earlier panels: one tile of 64 x 64 for each pair.
#[derive(Clone, Debug, PartialEq)]
pub struct MomentSums {
    dim: usize,
    count: u64,
    /// Sums, `[panels, 64]`.
    sum: Vec<f64>,
    /// Sums of products, `[pairs of panels, 64, 64]`, each tile column-major.
    products: Vec<f64>,
}

impl MomentSums {
    /// Makes the sums of zero rows of `dim` values.
    pub fn new(dim: usize) -> Self {
        let panels = dim.div_ceil(TILE);
        let products = vec![0.0; tile(panels, 0) * TILE * TILE];
        Self { dim, count: 0, sum: vec![0.0; panels * TILE], products }
    }

    /// Adds `rows`, `[n, D]`. The same calls in the same order give the same bits; splitting the rows differently
    /// changes the rounding.
    ///
    /// # Panics
    /// If the length of `rows` is not a multiple of D.
    pub fn add(&mut self, rows: &[f32]) {
        assert!(rows.len().is_multiple_of(self.dim), "{} values in rows of {}", rows.len(), self.dim);
        let mut block = Vec::new();
        for rows in rows.chunks(SUM_ROWS * self.dim) {
            let count = rows.len() / self.dim;
            self.widen(rows, count, &mut block);
            self.multiply(&block, count);
            self.count = self.count.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }

    /// Adds `rows` to the sums and widens them to panels in `block`, `[panels, rows, 64]`.
    fn widen(&mut self, rows: &[f32], count: usize, block: &mut Vec<f64>) {
        let dim = self.dim;
        block.clear();
        block.resize(self.sum.len() * count, 0.0);
        let panels = block.par_chunks_mut(TILE * count).zip(self.sum.par_chunks_mut(TILE));
        panels.enumerate().for_each(|(panel, (out, sum))| {
            let columns = panel * TILE..dim.min((panel + 1) * TILE);
            for (out, row) in out.chunks_exact_mut(TILE).zip(rows.chunks_exact(dim)) {
                for ((out, sum), &value) in out.iter_mut().zip(&mut *sum).zip(&row[columns.clone()]) {
                    *out = f64::from(value);
                    *sum += *out;
                }
            }
        });
    }

    /// Adds the products of the panels in `block`.
    fn multiply(&mut self, block: &[f64], count: usize) {
        let panels: Vec<&[f64]> = block.chunks_exact(TILE * count).collect();
        let pairs: Vec<(&[f64], &[f64])> =
            panels.iter().enumerate().flat_map(|(i, a)| panels[..=i].iter().map(move |b| (*a, *b))).collect();
        let tiles = self.products.par_chunks_mut(TILE * TILE).zip(pairs);
        tiles.for_each(|(tile, (a, b))| lgd_linalg::add_products(tile, a, b, TILE));
    }

    /// Number of rows added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean `[D]` and the lower triangle of the covariance `[D, D]`, column-major, both divided by n.
    fn centered(&self) -> Result<(Vec<f64>, Vec<f64>), ProjectionError> {
        if self.count == 0 {
            return Err(ProjectionError::NoRows);
        }
        let (dim, count) = (self.dim, self.count as f64);
        let mean: Vec<f64> = self.sum[..dim].iter().map(|sum| sum / count).collect();
        let moment = |row: usize, column: usize| {
            let tile = tile(row / TILE, column / TILE) * TILE * TILE;
            self.products[tile + column % TILE * TILE + row % TILE] / count
        };
        let mut covariance = vec![0.0; dim * dim];
        for (column, values) in covariance.chunks_exact_mut(dim).enumerate() {
            for (row, value) in values.iter_mut().enumerate().skip(column) {
                *value = moment(row, column) - mean[row] * mean[column];
            }
        }
        // If a product is not finite, neither is the sum of squares, so checking that sum is enough.
        let squares: f64 = (0..dim).map(|axis| moment(axis, axis)).sum();
        if !squares.is_finite() {
            return Err(ProjectionError::NotFinite { rows: self.count });
        }
        if trace(&covariance, dim) <= ROUNDING * squares {
            return Err(ProjectionError::NoVariance { rows: self.count });
        }
        Ok((mean, covariance))
    }
}

/// Index of the tile of a pair of panels; `column` is at most `row`.
fn tile(row: usize, column: usize) -> usize {
    row * (row + 1) / 2 + column
}

fn trace(matrix: &[f64], dim: usize) -> f64 {
    matrix.iter().step_by(dim + 1).sum()
}

/// A projection of rows of D values onto the `d` axes of largest variance.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// Mean, `[D]`.
    mean: Vec<f32>,
    /// Axes, `[d, D]`.
    components: Vec<f32>,
    /// Variances, `[d]`.
    variances: Vec<f64>,
    total: f64,
}

impl Projection {
    /// Fits the `dim` axes of largest variance of the rows in `sums`. `dim` may exceed the rank of the rows
    /// ([`Projection::rank`]). The axes beyond the rank are orthogonal to the others and otherwise arbitrary.
    ///
    /// # Errors
    /// [`ProjectionError`] if the rows have no principal axes or `dim` is out of range.
    pub fn fit(sums: &MomentSums, dim: usize) -> Result<Self, ProjectionError> {
        let width = sums.dim;
        if dim == 0 || dim > width {
            return Err(ProjectionError::Dim { dim, width });
        }
        let (mean, covariance) = sums.centered()?;
        let eigen = lgd_linalg::symmetric_eigen(&covariance, width);
        let (eigenvalues, eigenvectors) = eigen.ok_or(ProjectionError::NotConverged { width })?;
        // Eigenvalues are sorted, smallest first.
        let axes = (0..width).rev().take(dim);
        // Rounding can make a zero variance negative.
        let variances = axes.clone().map(|axis| eigenvalues[axis].max(0.0)).collect();
        let mut components = Vec::with_capacity(dim * width);
        for axis in axes {
            let vector = &eigenvectors[axis * width..][..width];
            let largest = vector.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a });
            let sign = if largest < Some(0.0) { -1.0 } else { 1.0 };
            components.extend(vector.iter().map(|value| narrow(sign * value)));
        }
        let mean = mean.into_iter().map(narrow).collect();
        Ok(Self { mean, components, variances, total: trace(&covariance, width) })
    }

    /// Projects `rows`, `[n, D]`, into `out`, `[n, d]`. The same call gives the same bits. The result of a row may
    /// differ by rounding if its position among the other rows changes.
    ///
    /// # Panics
    /// If `rows` and `out` do not hold the same number of rows.
    pub fn apply(&self, rows: &[f32], out: &mut [f32]) {
        let (width, dim) = (self.width(), self.dim());
        let count = rows.len() / width;
        assert!(rows.len() == count * width && out.len() == count * dim, "rows and output differ in number");
        let blocks = rows.par_chunks(APPLY_ROWS * width).zip(out.par_chunks_mut(APPLY_ROWS * dim));
        blocks.for_each_init(Vec::new, |centered, (rows, out)| {
            // Centered before the product: the difference of two large products would lose what is small in both.
            centered.resize(rows.len(), 0.0);
            for (centered, row) in centered.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
                let values = row.iter().zip(&self.mean);
                centered.iter_mut().zip(values).for_each(|(out, (value, mean))| *out = value - mean);
            }
            lgd_linalg::project(&self.components, centered, out, (width, dim));
        });
    }

    /// The sum of the squared distances of `rows`, `[n, D]`, from the mean: the maximum that a projection can keep.
    pub fn squared_distances(&self, rows: &[f32]) -> f64 {
        let distance = |row: &[f32]| -> f64 {
            row.iter()
                .zip(&self.mean)
                .map(|(value, mean)| f64::from(value - mean) * f64::from(value - mean))
                .sum()
        };
        rows.chunks_exact(self.width()).map(distance).sum()
    }

    /// Number of values per input row, D.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// Number of values per projected row, d.
    pub fn dim(&self) -> usize {
        self.variances.len()
    }

    /// The mean of the rows, `[D]`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The axes, `[d, D]`: orthonormal rows, largest variance first. The entry of largest magnitude in each row is
    /// positive.
    pub fn components(&self) -> &[f32] {
        &self.components
    }

    /// The variance along each axis, `[d]`: the mean square of the projected rows.
    pub fn variances(&self) -> &[f64] {
        &self.variances
    }

    /// Share of the variance of the fitted rows that the axes keep, 0 to 1.
    pub fn explained(&self) -> f64 {
        (self.variances.iter().sum::<f64>() / self.total).min(1.0)
    }

    /// Number of axes with a variance above 1e-10 of the largest.
    pub fn rank(&self) -> usize {
        let least = self.variances.first().map_or(0.0, |largest| largest * NO_VARIANCE);
        self.variances.iter().filter(|&&variance| variance > least).count()
    }

    /// Writes the projection as safetensors: `mean` f32 `[D]`, `components` f32 `[d, D]`, `variances` f64 `[d]`,
    /// `total` f64 `[1]`. Returns the file's manifest entry.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O; an old file is then unchanged.
    pub fn save(&self, path: &Path) -> Result<FileEntry, ArtifactError> {
        write_atomic(path, &self.to_bytes(path, None)?)
    }

    /// The bytes that [`Projection::save`] writes. If there is an `owner`, it is in the metadata, and the file holds its own
    /// hash. `path` is used for errors.
    pub(crate) fn to_bytes(&self, path: &Path, owner: Option<ContentHash>) -> Result<Vec<u8>, ArtifactError> {
        let (width, dim) = (self.width(), self.dim());
        let f32s = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let f64s = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors = vec![
            ("mean", Dtype::F32, vec![width], f32s(&self.mean)),
            ("components", Dtype::F32, vec![dim, width], f32s(&self.components)),
            ("variances", Dtype::F64, vec![dim], f64s(&self.variances)),
            ("total", Dtype::F64, vec![1], f64s(&[self.total])),
        ];
        if owner.is_some() {
            tensors.push((SEAL, Dtype::U8, vec![HASH_BYTES], vec![0; HASH_BYTES]));
        }
        let invalid = |error| ArtifactError::tensors(path, error);
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?)));
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(invalid)?;
        let metadata = owner.map(|owner| HashMap::from([(OWNER.to_owned(), owner.to_string())]));
        let mut bytes = safetensors::serialize(views, metadata).map_err(invalid)?;
        if let Some(seal) = seal_of(&bytes).map_err(invalid)? {
            let hash = ContentHash::of(&bytes);
            bytes[seal].copy_from_slice(hash.as_bytes());
        }
        Ok(bytes)
    }

    /// Fails if `bytes` are not a file with an owner as it was written. `path` is used for errors.
    ///
    /// # Errors
    /// [`ArtifactError::Hash`], [`ArtifactError::Invalid`] or [`ArtifactError::Tensors`].
    pub(crate) fn require_sealed(bytes: &[u8], path: &Path) -> Result<(), ArtifactError> {
        let seal = seal_of(bytes).map_err(|error| ArtifactError::tensors(path, error))?;
        let unsealed =
            || ArtifactError::invalid(path, format!("expected the file's own hash in the tensor {SEAL}"));
        let (before, rest) = bytes.split_at(seal.ok_or_else(unsealed)?.start);
        let (hash, after) = rest.split_first_chunk::<HASH_BYTES>().ok_or_else(unsealed)?;
        let (expected, zeros) = (blake3::Hash::from_bytes(*hash).into(), [0; HASH_BYTES]);
        let got = ContentHash::of(&[before, &zeros, after].concat());
        if got == expected {
            Ok(())
        } else {
            Err(ArtifactError::Hash { path: path.to_owned(), expected, got })
        }
    }

    /// Reads a projection that [`Projection::save`] wrote.
    ///
    /// # Errors
    /// [`ArtifactError`] if the file cannot be read, or a tensor is missing or has the wrong type or shape.
    pub fn load(path: &Path) -> Result<Self, ArtifactError> {
        Self::of_bytes(&std::fs::read(path).during("read", path)?, path).map(|(projection, _)| projection)
    }

    /// Parses the bytes of a file; also returns the owner from its metadata. `path` is used for errors.
    pub(crate) fn of_bytes(bytes: &[u8], path: &Path) -> Result<(Self, Option<ContentHash>), ArtifactError> {
        let invalid = |error| ArtifactError::tensors(path, error);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
        let owner = header.metadata().as_ref().and_then(|metadata| metadata.get(OWNER)?.parse().ok());
        let file = SafeTensors::deserialize(bytes).map_err(invalid)?;
        let bytes = |name: &str, dtype: Dtype, shape: &[usize]| {
            let tensor = file.tensor(name);
            let tensor = tensor.map_err(invalid)?;
            if tensor.dtype() != dtype || tensor.shape() != shape || shape.contains(&0) {
                let (got, got_shape) = (tensor.dtype(), tensor.shape());
                let reason = format!("{name}: expected {dtype:?} {shape:?}, got {got:?} {got_shape:?}");
                return Err(ArtifactError::invalid(path, reason));
            }
            Ok(tensor.data())
        };
        let shape = file.tensor("components").map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
        let (dim, width) = (shape.first().copied().unwrap_or(0), shape.last().copied().unwrap_or(0));
        let projection = Self {
            components: f32s(bytes("components", Dtype::F32, &[dim, width])?),
            mean: f32s(bytes("mean", Dtype::F32, &[width])?),
            variances: f64s(bytes("variances", Dtype::F64, &[dim])?),
            total: f64s(bytes("total", Dtype::F64, &[1])?)[0],
        };
        Ok((projection, owner))
    }
}

/// Where a file has its own hash; `None` if it has none.
fn seal_of(bytes: &[u8]) -> Result<Option<Range<usize>>, SafeTensorError> {
    let (header, metadata) = SafeTensors::read_metadata(bytes)?;
    let Some(info) = metadata.info(SEAL) else { return Ok(None) };
    // The library has checked that header and data are in the file.
    let data = size_of::<u64>() + header;
    let seal = data + info.data_offsets.0..data + info.data_offsets.1;
    Ok(Some(seal).filter(|seal| seal.len() == HASH_BYTES))
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn f64s(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is meant")]
fn narrow(value: f64) -> f32 {
    value as f32
}
