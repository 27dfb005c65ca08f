//! Safetensors files with metadata, byte for byte the same for the same content.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use crate::error::TrainError;

/// Keys and values in a file's header, in the order of the keys.
pub type Metadata = BTreeMap<String, String>;

/// The header's length is a multiple of this many bytes, which aligns the tensors.
const ALIGNMENT: usize = 8;

/// The bytes of a safetensors file: f32 tensors sorted by name, with `metadata` in the header, sorted by key.
///
/// # Errors
/// If a tensor cannot be read.
pub fn to_bytes(tensors: &BTreeMap<String, Tensor>, metadata: &Metadata) -> Result<Vec<u8>, TrainError> {
    // The library writes metadata in a hash map's order, which differs from process to process.
    let bytes = safetensors::serialize(tensors, None::<HashMap<String, String>>)?;
    let parts = bytes
        .split_first_chunk::<8>()
        .and_then(|(length, rest)| rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?));
    let Some((header, data)) = parts.filter(|_| !metadata.is_empty()) else { return Ok(bytes) };
    let mut entries = Map::from_iter([("__metadata__".to_owned(), json!(metadata))]);
    let tensors: Map<String, Value> =
        serde_json::from_slice(header).map_err(safetensors::SafeTensorError::InvalidHeaderDeserialization)?;
    entries.extend(tensors);
    let mut header = json!(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    Ok([&header.len().to_le_bytes()[..], &header, data].concat())
}
