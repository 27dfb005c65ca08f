//! Tensors of the safetensors files in artifact folders.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::error::ArtifactError;

/// The f32 tensor `name`, which must have this shape.
///
/// # Errors
/// [`ArtifactError`] if the tensor is missing, or has another type or shape.
pub(crate) fn f32_tensor(
    path: &Path,
    file: &SafeTensors<'_>,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f32>, ArtifactError> {
    let tensor = file.tensor(name).map_err(|error| ArtifactError::tensors(path, error))?;
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        let (dtype, got) = (tensor.dtype(), tensor.shape());
        let reason = format!("{name}: expected F32 {shape:?}, got {dtype:?} {got:?}");
        return Err(ArtifactError::invalid(path, reason));
    }
    let values = tensor.data().as_chunks::<4>().0;
    Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
