//! Writes and reads a bridge's folder.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{ALIGN_VERSION, AlignManifest, AlignRecord, Bridge, ImageSide};
use crate::cache::Cache;
use crate::error::{ArtifactError, IoContext};
use crate::manifest::{
    ClaimedFolder, ContentHash, Existing, Verify, read_manifest, write_atomic, write_json,
};
use crate::tensors::f32_tensor;

const MANIFEST: &str = "align.json";
const TENSORS: &str = "align.safetensors";

/// A complete bridge, opened for reading.
#[derive(Debug)]
pub struct Align {
    dir: PathBuf,
    manifest: AlignManifest,
    hash: ContentHash,
    bridge: Bridge,
}

impl Align {
    /// Whether `dir` holds the manifest of a bridge.
    pub fn is_align(dir: &Path) -> bool {
        dir.join(MANIFEST).exists()
    }

    /// Locks `dir` for a bridge. Creates `dir` if it does not exist and changes nothing else.
    ///
    /// # Errors
    /// [`ArtifactError::Busy`] if another process writes to `dir`; [`ArtifactError::Occupied`] if `dir` holds another
    /// kind of artifact, or a bridge and `existing` is not [`Existing::Overwrite`].
    pub fn claim(dir: &Path, existing: Existing) -> Result<ClaimedFolder, ArtifactError> {
        ClaimedFolder::claim(dir, "bridge", MANIFEST, existing)
    }

    /// Writes a bridge to a claimed folder. Deletes an old one first.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O.
    pub fn write(
        folder: &ClaimedFolder,
        record: AlignRecord,
        bridge: &Bridge,
    ) -> Result<AlignManifest, ArtifactError> {
        let dir = folder.dir();
        let manifest = dir.join(MANIFEST);
        if manifest.exists() {
            fs::remove_file(&manifest).during("delete", &manifest)?;
        }
        let path = dir.join(TENSORS);
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (mean, matrix) = (bytes(bridge.mean()), bytes(bridge.matrix()));
        let (text_dim, dim) = (bridge.text_dim(), bridge.dim());
        let file = TensorView::new(Dtype::F32, vec![text_dim], &mean)
            .and_then(|mean| {
                let matrix = TensorView::new(Dtype::F32, vec![dim, text_dim], &matrix)?;
                let views = [("mean", mean), ("matrix", matrix)];
                safetensors::serialize(views, None::<HashMap<String, String>>)
            })
            .map_err(|error| ArtifactError::tensors(&path, error))?;
        let tensors = write_atomic(&path, &file)?;
        let value = AlignManifest { format_version: ALIGN_VERSION, record, tensors };
        write_json(&manifest, &value)?;
        Ok(value)
    }

    /// Opens the bridge in `dir` and verifies its file to `depth`.
    ///
    /// # Errors
    /// [`ArtifactError`] if the manifest or the file is missing, altered or inconsistent.
    pub fn open(dir: &Path, depth: Verify) -> Result<Self, ArtifactError> {
        let path = dir.join(MANIFEST);
        let (manifest, hash) =
            read_manifest::<AlignManifest>(&path, ALIGN_VERSION, "the manifest of a bridge")?;
        manifest.tensors.verify(dir, depth)?;
        let path = dir.join(&manifest.tensors.name);
        let bytes = fs::read(&path).during("read", &path)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| ArtifactError::tensors(&path, error))?;
        let (text_dim, dim) = (manifest.record.text_dim, manifest.record.dim);
        let mean = f32_tensor(&path, &file, "mean", &[text_dim])?;
        let matrix = f32_tensor(&path, &file, "matrix", &[dim, text_dim])?;
        let empty = || ArtifactError::invalid(&path, "expected a bridge of at least one value, got width 0");
        let bridge = Bridge::new(mean, matrix).ok_or_else(empty)?;
        Ok(Self { dir: dir.to_owned(), manifest, hash, bridge })
    }

    /// Fails unless the bridge was fitted to the text encoder with the hash `text_encoder`.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`] with both hashes.
    pub fn require_text_encoder(&self, text_encoder: ContentHash) -> Result<(), ArtifactError> {
        let expected = self.manifest.record.text_encoder;
        if expected == text_encoder {
            return Ok(());
        }
        Err(self.mismatch(
            "the text encoder",
            expected.to_string(),
            text_encoder.to_string(),
            "use the teacher that the bridge was fitted with, or fit a bridge with this one",
        ))
    }

    /// Hash of a text encoder with this bridge behind it, from the hash of the text encoder and the bridge's numbers.
    pub fn hash_behind(&self, text_encoder: ContentHash) -> ContentHash {
        let parts =
            [b"lgd align".as_slice(), text_encoder.as_bytes(), self.manifest.tensors.blake3.as_bytes()];
        ContentHash::of(&parts.concat())
    }

    /// Fails unless the bridge leads to the space of the embeddings in `cache`: same width and, if it was fitted to a
    /// cache, same image model, output and pooling.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`] with both values.
    pub fn require_cache(&self, cache: &Cache) -> Result<(), ArtifactError> {
        let hint = "a bridge belongs to one teacher; fit another to the teacher of this cache";
        let (got, record) = (&cache.manifest().config.teacher, &self.manifest.record);
        if let ImageSide::Cache { teacher: expected, .. } = &record.images {
            let parts = [
                ("the image model", expected.image_model.to_string(), got.image_model.to_string()),
                ("the teacher's output", expected.output.clone(), got.output.clone()),
                ("the teacher's pooling", expected.pooling.clone(), got.pooling.clone()),
            ];
            if let Some((what, expected, got)) = parts.into_iter().find(|(_, expected, got)| expected != got)
            {
                return Err(self.mismatch(what, expected, got, hint));
            }
        }
        if record.dim != cache.dim() {
            let what = "the width of the image embeddings";
            return Err(self.mismatch(what, record.dim.to_string(), cache.dim().to_string(), hint));
        }
        Ok(())
    }

    fn mismatch(&self, what: &str, expected: String, got: String, hint: &'static str) -> ArtifactError {
        ArtifactError::Mismatch { path: self.dir.join(MANIFEST), what: what.to_owned(), expected, got, hint }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Manifest of the bridge.
    pub fn manifest(&self) -> &AlignManifest {
        &self.manifest
    }

    /// Hash of the manifest, which covers every file.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The map.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }
}
