//! Vectors of images in files of other tools: NumPy, Parquet, safetensors.
//!
//! | file | vectors | keys of the images |
//! |---|---|---|
//! | `x.npy` | f32 `[N, width]`, C order | `x.keys.txt`, one per line, written before `x.npy` |
//! | `x.parquet` | column `feature` or `embedding`, fixed-size list of f32 | column `path` |
//! | `x.safetensors` | tensor `feature` or `embedding`, f32 `[N, width]` | metadata entry `keys`, a JSON list |

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use lgd_data::manifest::{AtomicFile, FolderLock};
use parquet::arrow::ArrowWriter;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::PredictError;
use super::table::properties;
use crate::inference::{Matrix, OutputKind};

/// Start of a NumPy file of format version 1.0 (numpy.lib.format).
const NPY_MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// The values of a NumPy file start at a multiple of this.
const NPY_ALIGNMENT: usize = 64;

/// Format of a file of vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorFormat {
    /// NumPy's array, with a list of keys beside it.
    Npy,
    /// Parquet.
    Parquet,
    /// safetensors.
    Safetensors,
}

impl VectorFormat {
    /// The format that the extension of `path` names.
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "npy" => Some(Self::Npy),
            "parquet" => Some(Self::Parquet),
            "safetensors" => Some(Self::Safetensors),
            _ => None,
        }
    }
}

/// Writes one vector per key to the file at `path`, which appears when it is complete. Returns the file with the list of
/// keys, if there is one.
///
/// # Errors
/// [`PredictError::KeyLine`] if a list of keys cannot hold a key; [`PredictError::Write`] and
/// [`PredictError::Artifact`] if a file cannot be written, or if another process writes an array and its list there.
pub fn write_vectors(
    path: &Path,
    format: VectorFormat,
    kind: OutputKind,
    (keys, vectors): (&[&str], &Matrix),
) -> Result<Option<PathBuf>, PredictError> {
    match format {
        VectorFormat::Npy => {
            if let Some(key) = keys.iter().find(|key| key.contains(['\n', '\r'])) {
                return Err(PredictError::KeyLine { key: (*key).to_owned() });
            }
            let list = path.with_extension("keys.txt");
            let lines: String = keys.iter().flat_map(|key| [key, "\n"]).collect();
            // The array of one writer must not stand beside the list of another, nor a new list beside an old array.
            let _lock = FolderLock::of_file(path)?;
            let keys = filled(&list, |file| file.write_all(lines.as_bytes()))?;
            let array = filled(path, |file| {
                file.write_all(&npy_header(vectors.rows(), vectors.width()))?;
                write_values(file, vectors.values())
            })?;
            remove_if_there(path)?;
            keys.commit()?;
            array.commit()?;
            Ok(Some(list))
        }
        VectorFormat::Parquet => {
            filled(path, |file| write_parquet(file, kind, keys, vectors))?.commit()?;
            Ok(None)
        }
        VectorFormat::Safetensors => {
            filled(path, |file| write_safetensors(file, kind, keys, vectors))?.commit()?;
            Ok(None)
        }
    }
}

/// A file with content, which appears when it is committed.
fn filled(
    path: &Path,
    write: impl FnOnce(&mut AtomicFile) -> std::io::Result<()>,
) -> Result<AtomicFile, PredictError> {
    let mut file = AtomicFile::create(path)?;
    write(&mut file).and_then(|()| file.flush()).map_err(|source| failed(path, source))?;
    Ok(file)
}

fn remove_if_there(path: &Path) -> Result<(), PredictError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, source: std::io::Error) -> PredictError {
    PredictError::Write { to: path.display().to_string(), source }
}

/// Header of a NumPy file of little-endian f32 `[rows, width]` in C order.
fn npy_header(rows: usize, width: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let unpadded = NPY_MAGIC.len() + 2 + text.len() + 1;
    text += &" ".repeat(unpadded.next_multiple_of(NPY_ALIGNMENT) - unpadded);
    text.push('\n');
    // The text has two numbers of at most 20 digits each.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [NPY_MAGIC, &length.to_le_bytes(), text.as_bytes()].concat()
}

fn write_values(file: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
}

fn write_parquet(
    file: &mut AtomicFile,
    kind: OutputKind,
    keys: &[&str],
    vectors: &Matrix,
) -> std::io::Result<()> {
    let width = i32::try_from(vectors.width()).map_err(std::io::Error::other)?;
    let item = Arc::new(Field::new("element", DataType::Float32, false));
    let fields = vec![
        Field::new("path", DataType::Utf8, false),
        Field::new(kind.name(), DataType::FixedSizeList(Arc::clone(&item), width), false),
    ];
    let schema = Arc::new(Schema::new(fields));
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties()))?;
    let values = Arc::new(Float32Array::from(vectors.values().to_vec()));
    let lists = FixedSizeListArray::try_new(item, width, values, None).map_err(std::io::Error::other)?;
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(keys.to_vec())), Arc::new(lists)];
    writer.write(&RecordBatch::try_new(schema, columns).map_err(std::io::Error::other)?)?;
    writer.close()?;
    Ok(())
}

fn write_safetensors(
    file: &mut impl Write,
    kind: OutputKind,
    keys: &[&str],
    vectors: &Matrix,
) -> std::io::Result<()> {
    let bytes: Vec<u8> = vectors.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![vectors.rows(), vectors.width()];
    let tensor = TensorView::new(Dtype::F32, shape, &bytes).map_err(std::io::Error::other)?;
    let metadata = HashMap::from([("keys".to_owned(), serde_json::to_string(keys)?)]);
    let all =
        safetensors::serialize([(kind.name(), tensor)], Some(metadata)).map_err(std::io::Error::other)?;
    file.write_all(&all)
}

#[cfg(test)]
mod tests {
    use lgd_data::ArtifactError;

    use super::*;

    #[test]
    fn a_header_says_shape_and_type_and_ends_at_a_multiple_of_64() {
        let header = npy_header(3, 512);
        assert!(header.len().is_multiple_of(NPY_ALIGNMENT) && header.ends_with(b"\n"));
        assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
        let text = String::from_utf8_lossy(&header[10..]).into_owned();
        assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 512), }"), "{text}");
    }

    #[test]
    fn an_array_and_its_list_have_one_writer_and_stand_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let write = |keys: &[&str]| {
            let rows = Matrix::new(1, vec![1.0; keys.len()]);
            write_vectors(&path, VectorFormat::Npy, OutputKind::Feature, (keys, &rows))
        };
        write(&["a", "b"]).unwrap();
        let lock = FolderLock::of_file(&path).unwrap();
        let error = write(&["c"]).unwrap_err();
        assert!(
            matches!(&error, PredictError::Artifact(ArtifactError::Busy { path: busy }) if *busy == path),
            "{error}"
        );
        drop(lock);
        // Without its array, a list is not mistaken for that of an older one.
        std::fs::create_dir(dir.path().join("b.keys.txt")).unwrap();
        std::fs::write(dir.path().join("b.npy"), "old").unwrap();
        let rows = Matrix::new(1, vec![1.0]);
        let failed =
            write_vectors(&dir.path().join("b.npy"), VectorFormat::Npy, OutputKind::Feature, (&["a"], &rows));
        assert!(failed.is_err() && !dir.path().join("b.npy").exists());
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.keys.txt", "a.npy", "b.keys.txt"]);
    }

    #[test]
    fn a_key_of_two_lines_fits_no_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let rows = Matrix::new(1, vec![1.0]);
        let write = |format| write_vectors(&path, format, OutputKind::Feature, (&["a\nb"], &rows));
        assert!(matches!(write(VectorFormat::Npy), Err(PredictError::KeyLine { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        write(VectorFormat::Safetensors).unwrap();
    }
}
