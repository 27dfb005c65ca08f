//! Prompt embeddings on disk, by text encoder and prompt, so that a rerun encodes only new prompts.
//!
//! ```text
//! FOLDER/<text encoder hash>/<BLAKE3 of the file>.safetensors      a segment, never changed
//!     embeddings   f32 [n, D], as the encoder gave them
//!     prompts      u8  [m], a JSON list of n strings
//! ```
//!
//! A segment's name is the hash of its content, so opening detects damage. The error names the file to delete,
//! because silently encoding again would hide a failing disk. A writer writes a segment under its own temporary name,
//! renames it and never changes it again, so concurrent runs cannot disturb each other; at worst both encode the same
//! prompts.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use lgd_data::error::IoContext;
use lgd_data::manifest::{ContentHash, write_atomic};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::{BankError, SegmentFault};

const EMBEDDINGS: &str = "embeddings";
const PROMPTS: &str = "prompts";

/// The stored embeddings of one text encoder. Only the prompts are in memory; embeddings are read on request.
#[derive(Debug)]
pub(crate) struct PromptCache {
    dir: PathBuf,
    dim: usize,
    segments: Vec<Segment>,
    index: HashMap<String, SegmentRow>,
    /// The segment read last, the only one kept open. Tens of thousands of names make thousands of segments, more
    /// than a process may have open. The prompts of a name are mostly in one segment.
    last: Option<(usize, File)>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// Byte position of the first embedding.
    start: u64,
}

#[derive(Clone, Copy, Debug)]
struct SegmentRow {
    segment: usize,
    row: usize,
}

impl PromptCache {
    /// Opens, or creates, the subfolder of `folder` for `encoder`, whose embeddings have `dim` values.
    pub(crate) fn open(folder: &Path, encoder: ContentHash, dim: usize) -> Result<Self, BankError> {
        let dir = folder.join(encoder.to_string());
        fs::create_dir_all(&dir).during("create", &dir)?;
        let mut paths = Vec::new();
        for entry in fs::read_dir(&dir).during("list", &dir)? {
            let path = entry.during("list", &dir)?.path();
            if let Some(hash) = named_hash(&path) {
                paths.push((path, hash));
            }
        }
        paths.sort();
        let mut cache = Self { dir, dim, segments: Vec::new(), index: HashMap::new(), last: None };
        for (path, hash) in paths {
            let bytes = fs::read(&path).during("read", &path)?;
            let got = ContentHash::of(&bytes);
            if got != hash {
                return Err(BankError::PromptSegment { path, source: SegmentFault::Hash { got } });
            }
            cache.add(path, &bytes)?;
        }
        Ok(cache)
    }

    /// Whether the prompt has a stored embedding.
    pub(crate) fn contains(&self, prompt: &str) -> bool {
        self.index.contains_key(prompt)
    }

    /// Reads the stored embedding of a prompt into `out` (D values).
    ///
    /// # Errors
    /// [`BankError::PromptAbsent`] if it has none; [`BankError::Artifact`] if I/O fails.
    pub(crate) fn read(&mut self, prompt: &str, out: &mut [f32]) -> Result<(), BankError> {
        let Some(&SegmentRow { segment: number, row }) = self.index.get(prompt) else {
            return Err(BankError::PromptAbsent { prompt: prompt.to_owned() });
        };
        let segment = &self.segments[number];
        let mut file = match self.last.take() {
            Some((last, file)) if last == number => file,
            _ => File::open(&segment.path).during("open", &segment.path)?,
        };
        let mut bytes = vec![0; self.dim * size_of::<f32>()];
        let mut fill = || -> io::Result<()> {
            let offset = u64::try_from(row * bytes.len()).map_err(io::Error::other)?;
            file.seek(SeekFrom::Start(segment.start + offset))?;
            file.read_exact(&mut bytes)
        };
        fill().during("read", &segment.path)?;
        self.last = Some((number, file));
        for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }

    /// Stores new embeddings, row-major `[prompts.len(), D]`, as one segment.
    pub(crate) fn append(&mut self, prompts: &[String], embeddings: &[f32]) -> Result<(), BankError> {
        let invalid = |source| BankError::PromptSegment { path: self.dir.clone(), source };
        let bytes = segment_bytes(prompts, embeddings, self.dim).map_err(invalid)?;
        let path = self.dir.join(format!("{}.safetensors", ContentHash::of(&bytes)));
        write_atomic(&path, &bytes)?;
        self.add(path, &bytes)
    }

    /// Adds a segment with content `bytes` to the index. A prompt that is already indexed keeps its embedding.
    fn add(&mut self, path: PathBuf, bytes: &[u8]) -> Result<(), BankError> {
        let (prompts, start) = parse(bytes, self.dim)
            .map_err(|source| BankError::PromptSegment { path: path.clone(), source })?;
        for (row, prompt) in prompts.into_iter().enumerate() {
            self.index.entry(prompt).or_insert(SegmentRow { segment: self.segments.len(), row });
        }
        self.segments.push(Segment { path, start });
        Ok(())
    }
}

/// The hash in a segment's name; `None` if the file is not a segment, for example an interrupted run's temporary
/// file.
fn named_hash(path: &Path) -> Option<ContentHash> {
    if path.extension()? != "safetensors" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

/// Serializes a segment: `prompts` and their embeddings, row-major `[prompts.len(), dim]`.
fn segment_bytes(prompts: &[String], embeddings: &[f32], dim: usize) -> Result<Vec<u8>, SegmentFault> {
    let list = serde_json::to_vec(prompts)?;
    let values: Vec<u8> = embeddings.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensors = [
        (EMBEDDINGS, TensorView::new(Dtype::F32, vec![prompts.len(), dim], &values)?),
        (PROMPTS, TensorView::new(Dtype::U8, vec![list.len()], &list)?),
    ];
    Ok(safetensors::serialize(tensors, None)?)
}

/// The prompts of a segment and the byte offset of its first embedding.
fn parse(bytes: &[u8], dim: usize) -> Result<(Vec<String>, u64), SegmentFault> {
    let tensors = SafeTensors::deserialize(bytes)?;
    let list = tensors.tensor(PROMPTS)?;
    let prompts: Vec<String> = serde_json::from_slice(list.data())?;
    let embeddings = tensors.tensor(EMBEDDINGS)?;
    let expected = [prompts.len(), dim];
    if embeddings.dtype() != Dtype::F32 || embeddings.shape() != expected {
        let got = format!("{:?} {:?}", embeddings.dtype(), embeddings.shape());
        return Err(SegmentFault::Shape { expected, got });
    }
    // The library orders tensors by alignment, so the offset is taken from the slice, not computed.
    let data = embeddings.data().as_ptr().addr() - bytes.as_ptr().addr();
    Ok((prompts, u64::try_from(data).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 3;

    fn open(dir: &Path) -> Result<PromptCache, BankError> {
        PromptCache::open(dir, ContentHash::of(b"encoder"), DIM)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    fn segment_paths(dir: &Path) -> Vec<PathBuf> {
        let dir = dir.join(ContentHash::of(b"encoder").to_string());
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn embeddings_come_back_to_the_bit_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let values = [0.1, -0.0, f32::MIN_POSITIVE, 1e-45, 3.5, -7.25];
        open(dir.path()).unwrap().append(&strings(&["a\n\"{}\"", "é"]), &values).unwrap();
        open(dir.path()).unwrap().append(&strings(&["third"]), &[1.0, 2.0, 3.0]).unwrap();
        let mut cache = open(dir.path()).unwrap();
        let mut out = [0.0; DIM];
        cache.read("é", &mut out).unwrap();
        assert_eq!(out.map(f32::to_bits), [values[3], values[4], values[5]].map(f32::to_bits));
        cache.read("a\n\"{}\"", &mut out).unwrap();
        assert_eq!(out.map(f32::to_bits), [values[0], values[1], values[2]].map(f32::to_bits));
        cache.read("third", &mut out).unwrap();
        assert_eq!(out, [1.0, 2.0, 3.0]);
        let absent = cache.read("fourth", &mut out).unwrap_err();
        assert_eq!(absent.to_string(), "the embedding of \"fourth\" is not in the prompt cache");
        assert!(!PromptCache::open(dir.path(), ContentHash::of(b"other"), DIM).unwrap().contains("third"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn one_segment_is_open_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let open_below = || {
            let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let files = links.filter_map(|link| fs::read_link(link.path()).ok());
            files.filter(|file| file.starts_with(&root)).count()
        };
        for number in 0..5_u8 {
            let value = f32::from(number);
            open(&root).unwrap().append(&[number.to_string()], &[value; DIM]).unwrap();
        }
        let mut cache = open(&root).unwrap();
        assert_eq!((cache.segments.len(), open_below()), (5, 0));
        for number in [0, 1, 4, 4, 2, 0_u8] {
            let mut out = [f32::NAN; DIM];
            cache.read(&number.to_string(), &mut out).unwrap();
            assert_eq!((out, open_below()), ([f32::from(number); DIM], 1));
        }
    }

    #[test]
    fn a_flipped_byte_or_a_lost_tail_is_found_and_the_file_named() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap().append(&strings(&["a"]), &[1.0, 2.0, 3.0]).unwrap();
        let path = segment_paths(dir.path()).remove(0);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], &[]] {
            fs::write(&path, bad).unwrap();
            let message = open(dir.path()).unwrap_err().to_string();
            assert!(
                message.contains(&path.display().to_string()) && message.contains("hint: delete"),
                "{message}"
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(!open(dir.path()).unwrap().contains("a"));
    }

    #[test]
    fn a_segment_of_another_width_is_refused_and_foreign_files_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap().append(&strings(&["a"]), &[1.0, 2.0, 3.0]).unwrap();
        let wider = PromptCache::open(dir.path(), ContentHash::of(b"encoder"), DIM + 1);
        assert!(wider.unwrap_err().to_string().contains("expected F32 [1, 4], got F32 [1, 3]"));
        let folder = segment_paths(dir.path()).remove(0).parent().unwrap().to_owned();
        fs::write(folder.join(".half.safetensors.tmp"), b"x").unwrap();
        fs::write(folder.join("notes.txt"), b"x").unwrap();
        assert!(open(dir.path()).unwrap().contains("a"));
    }
}
