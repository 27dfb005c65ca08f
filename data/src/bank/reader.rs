//! Reads a bank.

use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use parquet::arrow::ProjectionMask;
use safetensors::SafeTensors;

use super::{BANK_VERSION, BankManifest, Center, MANIFEST, Storage};
use crate::cache::Cache;
use crate::column::MappedColumn;
use crate::error::{ArtifactError, ParquetContext};
use crate::manifest::{ContentHash, FilesInUse, VerifiedFile, Verify, read_manifest};
use crate::parquet_file::{self, SharedFile};
use crate::target_files::MadeFrom;
use crate::tensors::f32_tensor;

/// A complete bank, opened for reading.
#[derive(Debug)]
pub struct Bank {
    dir: PathBuf,
    manifest: BankManifest,
    hash: ContentHash,
    in_use: FilesInUse,
    /// Target files, one per shard of the cache.
    targets: Vec<VerifiedFile>,
    tsb: Vec<f32>,
    vsb: Vec<f32>,
    center: Option<Center>,
}

impl Bank {
    /// Opens the bank in `dir` and verifies its files to `depth`.
    ///
    /// # Errors
    /// [`ArtifactError`] if the manifest or a file is missing, altered or inconsistent.
    pub fn open(dir: &Path, depth: Verify) -> Result<Self, ArtifactError> {
        let path = dir.join(MANIFEST);
        let what = "the manifest of a bank of names";
        let (manifest, hash) = read_manifest::<BankManifest>(&path, BANK_VERSION, what)?;
        let top_k_of_nothing = matches!(manifest.record.storage, Storage::TopK { k: 0 });
        if manifest.record.categories.is_empty() || manifest.record.dim == 0 || top_k_of_nothing {
            return Err(ArtifactError::invalid(
                &path,
                "expected categories, a width and entries above 0 in the manifest",
            ));
        }
        let in_use = FilesInUse::default();
        let prototypes = in_use.verify(&manifest.prototypes, dir, depth)?;
        let targets = manifest.targets.iter().map(|shard| in_use.verify(shard, dir, depth));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let (path, bytes) = (prototypes.path().to_owned(), prototypes.read()?);
        let file = SafeTensors::deserialize(&bytes).map_err(|error| ArtifactError::tensors(&path, error))?;
        let shape = [manifest.record.categories.len(), manifest.record.dim];
        let tsb = f32_tensor(&path, &file, "tsb", &shape)?;
        let vsb = f32_tensor(&path, &file, "vsb", &shape)?;
        let center = match manifest.record.center {
            None => None,
            Some(record) => {
                let center = Center::new(record.side, f32_tensor(&path, &file, "center", &shape[1..])?);
                if center.record() != record {
                    return Err(ArtifactError::invalid(
                        &path,
                        "center: expected the mean in the manifest, got another",
                    ));
                }
                Some(center)
            }
        };
        Ok(Self { dir: dir.to_owned(), manifest, hash, in_use, targets, tsb, vsb, center })
    }

    /// Fails unless the bank was made from `cache`.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`], with both hashes or both row counts.
    pub fn require_cache(&self, cache: &Cache) -> Result<(), ArtifactError> {
        let made_from = MadeFrom {
            manifest: self.dir.join(MANIFEST),
            cache: self.manifest.record.cache,
            rows: self.manifest.rows,
            hint: "the bank belongs to another cache; build it again from this one",
        };
        made_from.require(cache)
    }

    /// Fails if a file has changed since the bank was opened. [`Verify::Full`] also hashes those files again that were hashed.
    ///
    /// # Errors
    /// [`ArtifactError::Changed`], which names the file; [`ArtifactError::Io`].
    pub fn require_unchanged(&self, depth: Verify) -> Result<(), ArtifactError> {
        self.in_use.require_unchanged(depth)
    }

    /// Folder of the bank.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Manifest of the bank.
    pub fn manifest(&self) -> &BankManifest {
        &self.manifest
    }

    /// Hash of the manifest, which covers every file.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Number of categories, C.
    pub fn categories(&self) -> usize {
        self.manifest.record.categories.len()
    }

    /// Embedding width D.
    pub fn dim(&self) -> usize {
        self.manifest.record.dim
    }

    /// The textual semantics bank (TSB), `[C, D]`, with unit rows.
    pub fn tsb(&self) -> &[f32] {
        &self.tsb
    }

    /// The visual semantics bank (VSB), `[C, D]`. Rows of categories without views are zero.
    pub fn vsb(&self) -> &[f32] {
        &self.vsb
    }

    /// The mean that was subtracted from embeddings, and must be from others that are compared with the prototypes.
    pub fn center(&self) -> Option<&Center> {
        self.center.as_ref()
    }

    /// Opens the targets of all rows.
    ///
    /// # Errors
    /// [`ArtifactError`] if a shard is unreadable or the row count differs from the manifest's.
    pub fn targets(&self) -> Result<Targets, ArtifactError> {
        let (files, slots) = (&self.targets, self.categories());
        let open = |name: &str, slots: usize| match self.manifest.record.storage {
            Storage::Dense => {
                let column = MappedColumn::open_verified(files, &format!("{name}_distribution"), slots)?;
                Ok::<_, ArtifactError>(DistributionColumn { slots, values: Values::Dense(column) })
            }
            Storage::TopK { k } => {
                let index = MappedColumn::open_verified(files, &format!("{name}_index"), k)?;
                let probability = MappedColumn::open_verified(files, &format!("{name}_probability"), k)?;
                Ok(DistributionColumn { slots, values: Values::TopK { k, index, probability } })
            }
        };
        let targets = Targets {
            pseudo_category: pseudo_categories(files, slots)?,
            text: open("text", slots)?,
            visual: open("visual", slots + 1)?,
        };
        let (expected, got) = (self.manifest.rows, targets.pseudo_category.len());
        if expected != got {
            return Err(ArtifactError::invalid(
                &self.dir,
                format!("expected {expected} target rows, got {got}"),
            ));
        }
        Ok(targets)
    }
}

fn pseudo_categories(files: &[VerifiedFile], categories: usize) -> Result<Vec<u32>, ArtifactError> {
    let mut out = Vec::new();
    for file in files {
        let path = file.path();
        let builder = parquet_file::reader(&SharedFile::of(file)?, path)?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), ["pseudo_category"]);
        let reader = builder.with_projection(mask).build().in_parquet(path)?;
        for batch in reader {
            let batch = batch.in_parquet(path)?;
            let array = batch
                .column_by_name("pseudo_category")
                .and_then(|array| array.as_primitive_opt::<Int32Type>());
            let array = array
                .ok_or_else(|| ArtifactError::invalid(path, "column \"pseudo_category\": expected i32"))?;
            for value in array.values() {
                let category = u32::try_from(*value).ok().filter(|&value| (value as usize) < categories);
                out.push(category.ok_or_else(|| {
                    let reason = format!(
                        "row {}: expected a pseudo-category below {categories}, got {value}",
                        out.len()
                    );
                    ArtifactError::invalid(path, reason)
                })?);
            }
        }
    }
    Ok(out)
}

/// The targets of every cache row.
#[derive(Debug)]
pub struct Targets {
    /// Pseudo-category of each row, below C.
    pub pseudo_category: Vec<u32>,
    /// Text distributions `p_tex`, with C slots.
    pub text: DistributionColumn,
    /// Visual distributions `p_vis`, with C + 1 slots; slot 0 is the positive.
    pub visual: DistributionColumn,
}

/// One distribution per row, either dense or top K.
#[derive(Debug)]
pub struct DistributionColumn {
    slots: usize,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Dense(MappedColumn<f32>),
    TopK { k: usize, index: MappedColumn<i32>, probability: MappedColumn<f32> },
}

impl DistributionColumn {
    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Copies the distributions of `rows` into `out`, `[rows.len(), slots]`. Each distribution is scaled to sum to 1.
    /// This undoes f16 rounding and spreads the mass that top-K storage dropped over the stored entries.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] if a stored index is out of range.
    ///
    /// # Panics
    /// If a row is out of range, as in slice indexing.
    pub fn copy_rows(&self, rows: &[usize], out: &mut [f32]) -> Result<(), ArtifactError> {
        match &self.values {
            Values::Dense(column) => column.copy_rows(rows.iter().copied(), out),
            Values::TopK { k, index, probability } => {
                let (mut slots, mut values) = (vec![0i32; *k], vec![0f32; *k]);
                out.fill(0.0);
                for (&row, out) in rows.iter().zip(out.chunks_exact_mut(self.slots)) {
                    index.copy_row(row, &mut slots);
                    probability.copy_row(row, &mut values);
                    for (&slot, &value) in slots.iter().zip(&values) {
                        let entry = usize::try_from(slot).ok().and_then(|slot| out.get_mut(slot));
                        let reason = || {
                            format!("target row {row}: expected a prototype below {}, got {slot}", self.slots)
                        };
                        *entry.ok_or_else(|| ArtifactError::invalid(Path::new("targets"), reason()))? +=
                            value;
                    }
                }
            }
        }
        for out in out.chunks_exact_mut(self.slots) {
            let sum: f32 = out.iter().sum();
            if sum > 0.0 {
                out.iter_mut().for_each(|value| *value /= sum);
            }
        }
        Ok(())
    }
}
