//! What `torch.save` writes: a ZIP archive of a pickle and one file per storage. `initial/torch.rs` reads it.
//!
//! ```text
//! student/data.pkl     {name: tensor}: a plain dictionary, whose tensors `torch.load(weights_only=True)` rebuilds
//! student/byteorder    little
//! student/data/N       the values of tensor N, f32 or i64, at a multiple of 64 bytes
//! student/version      3
//! ```
//!
//! Opcodes: Python's `pickletools`, protocol 2. Nothing is remembered in the memo: every reference is written out.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use candle_core::{DType, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::export::ExportError;

/// Where values start in the file, so that a mapped file can be read as it is.
const ALIGNMENT: u16 = 64;

/// The file of a state dictionary.
///
/// # Errors
/// If a tensor cannot be read, or is too large for a ZIP archive.
pub(super) fn to_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, ExportError> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .with_alignment(ALIGNMENT);
    let mut add = |name: &str, content: &[u8]| {
        archive.start_file(format!("student/{name}"), options)?;
        archive.write_all(content)?;
        Ok::<_, zip::result::ZipError>(())
    };
    let broken = |error: zip::result::ZipError| ExportError::Unexportable { what: error.to_string() };
    add("data.pkl", &pickle(tensors)?).map_err(broken)?;
    add("byteorder", b"little").map_err(broken)?;
    for (number, tensor) in tensors.values().enumerate() {
        add(&format!("data/{number}"), &values(tensor)?).map_err(broken)?;
    }
    add("version", b"3\n").map_err(broken)?;
    Ok(archive.finish().map_err(broken)?.into_inner())
}

/// The bytes of a storage: i64 for counters, else f32.
fn values(tensor: &Tensor) -> Result<Vec<u8>, ExportError> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::I64 => flat.to_vec1::<i64>()?.iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => flat
            .to_dtype(DType::F32)?
            .to_vec1::<f32>()?
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    })
}

/// The dictionary, without the values.
fn pickle(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, ExportError> {
    let mut out = b"\x80\x02}(".to_vec();
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut out, name)?;
        global(&mut out, "torch._utils", "_rebuild_tensor_v2");
        // ((storage, offset, shape, strides, requires_grad, hooks)); the storage is named by a tuple.
        out.extend(b"((");
        text(&mut out, "storage")?;
        global(&mut out, "torch", if tensor.dtype() == DType::I64 { "LongStorage" } else { "FloatStorage" });
        text(&mut out, &number.to_string())?;
        text(&mut out, "cpu")?;
        integer(&mut out, tensor.elem_count())?;
        out.extend(b"tQ");
        integer(&mut out, 0)?;
        tuple(&mut out, tensor.dims())?;
        tuple(&mut out, tensor.contiguous()?.stride())?;
        out.push(b'\x89');
        global(&mut out, "collections", "OrderedDict");
        out.extend(b")RtR");
    }
    out.extend(b"u.");
    Ok(out)
}

fn text(out: &mut Vec<u8>, text: &str) -> Result<(), ExportError> {
    out.push(b'X');
    out.extend(count(text.len())?);
    out.extend(text.as_bytes());
    Ok(())
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.extend(format!("c{module}\n{name}\n").as_bytes());
}

fn integer(out: &mut Vec<u8>, value: usize) -> Result<(), ExportError> {
    out.push(b'J');
    out.extend(count(value)?);
    Ok(())
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) -> Result<(), ExportError> {
    out.push(b'(');
    values.iter().try_for_each(|&value| integer(out, value))?;
    out.push(b't');
    Ok(())
}

/// A count in the pickle's type: 32 bits, signed.
fn count(value: usize) -> Result<[u8; 4], ExportError> {
    let count = i32::try_from(value);
    count
        .map(i32::to_le_bytes)
        .map_err(|_| ExportError::Unexportable { what: format!("a tensor of {value} values") })
}
