//! The textual semantics bank: one unit vector per category, from its prompts (docs/methods.md section 1).

use std::collections::HashSet;
use std::path::Path;

use lgd_data::job::Job;
use serde::Serialize;

use crate::categories::Categories;
use crate::distinct::{require_distinct_rows, require_distinct_tokens};
use crate::encoder::PromptEncoder;
use crate::error::BankError;
use crate::prompt_cache::PromptCache;
use crate::prompts::Templates;

/// Prompts per call of the encoder and per segment of the prompt cache. An interruption loses at most this many.
const BATCH: usize = 512;

/// The textual semantics bank, `[C, D]`, rows of norm 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Tsb {
    values: Vec<f32>,
    dim: usize,
    prompts: PromptCounts,
}

/// How many prompts a bank needed, how many of them had to be encoded, and how many were cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptCounts {
    /// Prompts over all categories.
    pub total: usize,
    /// Distinct prompts among them.
    pub distinct: usize,
    /// Distinct prompts encoded for this bank.
    pub encoded: usize,
    /// Distinct prompts found in the prompt cache.
    pub reused: usize,
    /// Distinct prompts that are longer than the text encoder's context and were cut.
    pub cut: usize,
}

impl Tsb {
    /// Wraps a bank computed elsewhere: row-major `[C, dim]`, rows of norm 1.
    ///
    /// # Errors
    /// [`BankError::Option`] if `values` is empty or its length is not a multiple of `dim`.
    pub fn from_values(values: Vec<f32>, dim: usize) -> Result<Self, BankError> {
        if values.is_empty() || dim == 0 || !values.len().is_multiple_of(dim) {
            let got = format!("{} values of width {dim}", values.len());
            return Err(BankError::Option {
                what: "a bank",
                range: "a whole number of rows, at least 1",
                got,
            });
        }
        Ok(Self { values, dim, prompts: PromptCounts::default() })
    }

    /// The prototypes, `[C, D]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Number of categories, C.
    pub fn categories(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Width, D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Prompt counts: needed, encoded and reused.
    pub fn prompts(&self) -> PromptCounts {
        self.prompts
    }
}

/// Builds the bank: normalizes every prompt's embedding, averages those of a category, and normalizes the mean. Sums
/// and norms are computed in f64.
///
/// `prompt_cache` is the folder of the prompt cache. Only prompts that are not in it are encoded.
///
/// # Errors
/// [`BankError`] if the encoder fails, the prompt cache is damaged, an embedding or a mean has norm 0, the encoder
/// cannot tell two categories apart, or the job is interrupted.
pub fn build_tsb(
    categories: &Categories,
    templates: &Templates,
    encoder: &mut dyn PromptEncoder,
    prompt_cache: &Path,
    job: &Job,
) -> Result<Tsb, BankError> {
    require_distinct_tokens(categories, templates, encoder)?;
    let dim = encoder.dim();
    let mut cache = PromptCache::open(prompt_cache, encoder.hash(), dim)?;
    let mut counts = PromptCounts::default();
    let mut distinct = HashSet::new();
    let mut unseen = Vec::new();
    for prompt in categories.as_slice().iter().flat_map(|category| templates.prompts(category)) {
        counts.total += 1;
        if !distinct.contains(&prompt) {
            if !cache.contains(&prompt) {
                unseen.push(prompt.clone());
            }
            distinct.insert(prompt);
        }
    }
    counts.distinct = distinct.len();
    counts.encoded = unseen.len();
    counts.reused = counts.distinct - counts.encoded;
    let distinct: Vec<String> = distinct.into_iter().collect();
    let failed = |source| BankError::Encode { first: String::new(), count: counts.distinct, source };
    counts.cut = encoder.count_cut(&distinct).map_err(failed)?;
    drop(distinct);

    encode(&unseen, encoder, &mut cache, job)?;

    let mut values = Vec::with_capacity(categories.len() * dim);
    let mut embedding = vec![0.0; dim];
    for category in categories.as_slice() {
        let mut sum = vec![0.0f64; dim];
        for prompt in templates.prompts(category) {
            cache.read(&prompt, &mut embedding)?;
            let norm = norm(embedding.iter().map(|&value| f64::from(value)));
            for (sum, &value) in sum.iter_mut().zip(&embedding) {
                *sum += f64::from(value) / norm;
            }
        }
        // The factor 1/n of the mean cancels in the normalization, so the sum is enough.
        let norm = norm(sum.iter().copied());
        // Unit vectors that cancel leave rounding errors, not an exact zero.
        if norm < 1e-6 {
            return Err(BankError::CategoryNorm { category: category.name().to_owned(), norm });
        }
        values.extend(sum.iter().map(|value| rounded(value / norm)));
    }
    require_distinct_rows(categories, &values, dim)?;
    Ok(Tsb { values, dim, prompts: counts })
}

/// Encodes unseen prompts in batches and stores each batch before the next one starts.
fn encode(
    unseen: &[String],
    encoder: &mut dyn PromptEncoder,
    cache: &mut PromptCache,
    job: &Job,
) -> Result<(), BankError> {
    let dim = encoder.dim();
    job.begin(as_units(unseen.len()));
    for batch in unseen.chunks(BATCH) {
        if job.interrupted() {
            return Err(BankError::Interrupted);
        }
        let failed = |source| BankError::Encode { first: batch[0].clone(), count: batch.len(), source };
        let embeddings = encoder.encode(batch).map_err(failed)?;
        if embeddings.len() != batch.len() * dim {
            return Err(BankError::EncodedLength { prompts: batch.len(), dim, got: embeddings.len() });
        }
        for (prompt, row) in batch.iter().zip(embeddings.chunks_exact(dim)) {
            let norm = norm(row.iter().map(|&value| f64::from(value)));
            if !norm.is_finite() || norm == 0.0 {
                return Err(BankError::PromptNorm { prompt: prompt.clone(), norm });
            }
        }
        cache.append(batch, &embeddings)?;
        job.advance(as_units(batch.len()));
    }
    Ok(())
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Rounds to the nearest f32.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
pub(crate) fn rounded(value: f64) -> f32 {
    value as f32
}

/// Converts a count to the unit of [`Job`]'s progress.
pub(crate) fn as_units(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::categories::NameForm;
    use crate::error::EncodeFailure;
    use lgd_data::manifest::ContentHash;

    /// Encodes a prompt as its length and first letter, and records the prompts.
    #[derive(Default)]
    struct Counting {
        asked: Vec<String>,
        value: Option<f32>,
    }

    impl PromptEncoder for Counting {
        fn hash(&self) -> ContentHash {
            ContentHash::of(b"counting")
        }
        fn dim(&self) -> usize {
            2
        }
        fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure> {
            self.asked.extend_from_slice(prompts);
            Ok(prompts
                .iter()
                .flat_map(|p| {
                    let len = f32::from(u8::try_from(p.len()).unwrap());
                    self.value.map_or([len, f32::from(p.as_bytes()[0])], |value| [value; 2])
                })
                .collect())
        }
    }

    fn names(list: &[&str]) -> Categories {
        Categories::from_names(list, NameForm::Normalized).unwrap()
    }

    #[test]
    fn a_rerun_encodes_only_prompts_it_has_not_seen_and_gives_the_same_bits() {
        let dir = tempfile::tempdir().unwrap();
        let templates = Templates::new(vec!["{}".into(), "a {}".into()]).unwrap();
        let mut encoder = Counting::default();
        let mut build = |list: &[&str]| {
            build_tsb(&names(list), &templates, &mut encoder, dir.path(), &Job::new()).unwrap()
        };
        let first = build(&["cat", "a cat"]);
        assert_eq!(first.prompts(), PromptCounts { total: 4, distinct: 3, encoded: 3, reused: 0, cut: 0 });
        let second = build(&["cat", "a cat", "dog"]);
        assert_eq!(second.prompts(), PromptCounts { total: 6, distinct: 5, encoded: 2, reused: 3, cut: 0 });
        assert_eq!(second.values()[..4], first.values()[..]);
        let third = build(&["dog"]);
        assert_eq!(third.prompts(), PromptCounts { total: 2, distinct: 2, encoded: 0, reused: 2, cut: 0 });
        assert_eq!(third.values(), &second.values()[4..]);
        assert_eq!(encoder.asked, ["cat", "a cat", "a a cat", "dog", "a dog"]);
    }

    #[test]
    fn bad_embeddings_are_refused_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        for value in [0.0, f32::NAN, f32::INFINITY] {
            let mut encoder = Counting { value: Some(value), ..Counting::default() };
            let result =
                build_tsb(&names(&["cat"]), &Templates::default(), &mut encoder, dir.path(), &Job::new());
            assert!(matches!(result, Err(BankError::PromptNorm { .. })), "{result:?}");
        }
        let good = build_tsb(
            &names(&["cat"]),
            &Templates::default(),
            &mut Counting::default(),
            dir.path(),
            &Job::new(),
        );
        assert_eq!(good.unwrap().prompts().encoded, 1);
    }

    #[test]
    fn an_interrupted_job_stops_before_the_encoder() {
        let dir = tempfile::tempdir().unwrap();
        let job = Job::new();
        job.interrupt();
        let mut encoder = Counting::default();
        let result = build_tsb(&names(&["cat"]), &Templates::default(), &mut encoder, dir.path(), &job);
        assert!(matches!(result, Err(BankError::Interrupted)));
        assert!(encoder.asked.is_empty());
    }
}
