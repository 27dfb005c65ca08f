//! Shared code of this crate's tests: embeddings in memory, a sink that keeps all targets, an encoder with a
//! lookup table, and golden files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use half::f16;
use lgd_bank::{EmbeddingRows, EncodeFailure, PromptEncoder, TargetSink};
use lgd_data::ArtifactError;
use lgd_data::bank::Distribution;
use lgd_data::cache::{Cache, CacheBuilder, CacheConfig, CachedSample, ImageStamp, SampleRows};
use lgd_data::manifest::{ContentHash, Existing, Verify};
use lgd_data::view::View;
use safetensors::{Dtype, SafeTensors};

/// Embeddings in memory.
pub struct Rows {
    pub values: Vec<f32>,
    pub dim: usize,
}

impl EmbeddingRows for Rows {
    fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn copy_rows_f32(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ArtifactError> {
        out.copy_from_slice(&self.values[rows.start * self.dim..rows.end * self.dim]);
        Ok(())
    }
}

/// Views per sample of [`write_cache`].
pub const VIEWS: usize = 2;

/// Writes a cache of `accepted` samples per shard. `rows` holds what the samples are made of, in order, and `fill` puts
/// one of its parts into a sample's rows.
pub fn write_cache<'a>(
    dir: &Path,
    config: CacheConfig,
    accepted: &[usize],
    rows: impl Iterator<Item = &'a [f32]>,
    fill: impl Fn(&'a [f32]) -> SampleRows<'a>,
) -> Cache {
    let builder = CacheBuilder::open(dir, config, Existing::Refuse).unwrap();
    let mut samples = rows.enumerate();
    for (shard, &accepted) in accepted.iter().enumerate() {
        let mut writer = builder.shard_writer(shard).unwrap();
        for (index, row) in samples.by_ref().take(accepted) {
            let key = format!("{index:04}.png");
            let sample = CachedSample { key: &key, label: None, image: ImageStamp::new(b"", 32, 32) };
            let rows = SampleRows { views: &[View::center(); VIEWS], norms: &[1.0; VIEWS], ..fill(row) };
            writer.push_rows(&sample, &rows).unwrap();
        }
        writer.finish().unwrap();
    }
    builder.finalize(&[]).unwrap().unwrap();
    Cache::open(dir, Verify::Full).unwrap()
}

/// Rows of embeddings alone.
pub fn embeddings(embeddings: &[f32]) -> SampleRows<'_> {
    SampleRows { embeddings, ..SampleRows::default() }
}

/// A sink that keeps all targets.
#[derive(Debug, Default, PartialEq)]
pub struct Kept {
    pub pseudo_category: Vec<i32>,
    pub text: Stored,
    pub visual: Stored,
}

/// One distribution column.
#[derive(Debug, Default, PartialEq)]
pub struct Stored {
    pub index: Vec<i32>,
    pub probability: Vec<f16>,
}

impl Stored {
    fn push(&mut self, distribution: Distribution<'_>) {
        match distribution {
            Distribution::Dense(values) => self.probability.extend_from_slice(values),
            Distribution::TopK { index, probability } => {
                self.index.extend_from_slice(index);
                self.probability.extend_from_slice(probability);
            }
        }
    }
}

impl TargetSink for Kept {
    fn push(
        &mut self,
        pseudo_category: &[i32],
        text: Distribution<'_>,
        visual: Distribution<'_>,
    ) -> Result<(), ArtifactError> {
        self.pseudo_category.extend_from_slice(pseudo_category);
        self.text.push(text);
        self.visual.push(visual);
        Ok(())
    }
}

/// An encoder that returns embeddings from a table.
pub struct Lookup {
    pub table: HashMap<String, Vec<f32>>,
    pub dim: usize,
    pub encoded: usize,
}

impl PromptEncoder for Lookup {
    fn hash(&self) -> ContentHash {
        ContentHash::of(b"lookup")
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure> {
        self.encoded += prompts.len();
        let rows = prompts.iter().map(|prompt| self.table.get(prompt).cloned().ok_or("unknown prompt"));
        Ok(rows.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// Unit rows in f16 from a seed: a few common directions plus noise.
pub fn unit_rows(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(state >> 48).unwrap()) / 32768.0 - 1.0
    };
    let mut values = Vec::with_capacity(rows * dim);
    for row in 0..rows {
        let mut vector: Vec<f32> = (0..dim).map(|_| noise()).collect();
        vector[row % dim.min(7)] += 2.0;
        let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        values.extend(vector.iter().map(|v| f16::from_f32(v / norm).to_f32()));
    }
    values
}

/// One golden file, with every tensor as f64.
pub struct Golden(HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Golden {
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        Self(
            file.tensors()
                .into_iter()
                .map(|(name, t)| (name, (t.shape().to_vec(), decode(t.dtype(), t.data()))))
                .collect(),
        )
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    pub fn values(&self, name: &str) -> &[f64] {
        &self.0[name].1
    }

    #[expect(clippy::cast_possible_truncation, reason = "the file's own f32 and f16 values")]
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.values(name).iter().map(|&v| v as f32).collect()
    }
}

fn decode(dtype: Dtype, data: &[u8]) -> Vec<f64> {
    match dtype {
        Dtype::F16 => data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect(),
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::I32 => data.as_chunks::<4>().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
        Dtype::I64 => data
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from(i32::try_from(i64::from_le_bytes(*b)).unwrap()))
            .collect(),
        other => panic!("{other:?}"),
    }
}
