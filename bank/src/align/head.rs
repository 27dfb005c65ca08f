//! A classifier's weight matrix in a safetensors file.

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use lgd_data::error::IoContext;
use lgd_data::manifest::ContentHash;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::AlignError;

/// The rows of a linear classifier, `[C, D]`. A bias is not used.
#[derive(Clone, Debug)]
pub struct Head {
    path: PathBuf,
    hash: ContentHash,
    tensor: String,
    values: Vec<f32>,
    dim: usize,
}

impl Head {
    /// Reads a matrix of f32, f16, bf16 or f64 from a safetensors file. Without a name, it is the only matrix with
    /// `rows` rows.
    ///
    /// # Errors
    /// [`AlignError`] if the file cannot be read, there is no such tensor, several would fit, it is no matrix of
    /// floats, or a row is zero or not finite.
    pub fn read(path: &Path, tensor: Option<&str>, rows: usize) -> Result<Self, AlignError> {
        let bytes = fs::read(path).during("read", path)?;
        let damaged = |source| AlignError::HeadFile { path: path.to_owned(), source };
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let tensors: Vec<(String, TensorView<'_>)> = file.tensors();
        let fits = |name: &str, shape: &[usize]| match tensor {
            Some(wanted) => name == wanted,
            None => shape.len() == 2 && shape[0] == rows,
        };
        let mut found: Vec<&(String, TensorView<'_>)> =
            tensors.iter().filter(|(name, view)| fits(name, view.shape())).collect();
        let choice = found.pop().filter(|_| found.is_empty());
        let Some((name, view)) = choice else {
            let mut names: Vec<String> = tensors
                .iter()
                .filter(|(_, view)| view.shape().len() == 2)
                .map(|(name, view)| format!("{name} {:?}", view.shape()))
                .collect();
            names.sort();
            let path = path.to_owned();
            let wanted = tensor.map(str::to_owned);
            return Err(AlignError::HeadChoice { path, wanted, rows, matrices: names });
        };
        let decoded = decode(view.dtype(), view.data()).filter(|_| view.shape().len() == 2);
        let values = decoded.ok_or_else(|| AlignError::HeadType {
            path: path.to_owned(),
            tensor: name.clone(),
            got: format!("{:?} {:?}", view.dtype(), view.shape()),
        })?;
        let dim = view.shape()[1];
        for (row, values) in values.chunks_exact(dim.max(1)).enumerate() {
            let norm = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            if !norm.is_finite() || norm == 0.0 {
                return Err(AlignError::HeadNorm { path: path.to_owned(), tensor: name.clone(), row, norm });
            }
        }
        Ok(Self { path: path.to_owned(), hash: ContentHash::of(&bytes), tensor: name.clone(), values, dim })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hash of the file.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Name of the tensor.
    pub fn tensor(&self) -> &str {
        &self.tensor
    }

    /// Number of rows, C.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.dim).unwrap_or(0)
    }

    /// Width, D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The rows, `[C, D]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// The values as f32; `None` for another type than a float of 16, 32 or 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32 everywhere")]
fn decode(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F64 => data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        Dtype::F16 => {
            data.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
        }
        Dtype::BF16 => {
            data.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
        }
        _ => return None,
    })
}
