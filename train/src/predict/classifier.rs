//! The names that a model tells apart, and the probability of each.
//!
//! | names | scores of an image | probabilities |
//! |---|---|---|
//! | of a bank | products of its embedding with the text prototypes | softmax of scores / the student's temperature |
//! | stored in an exported file | its output `scores`, the same products | the same |
//! | classes of a classifier | its logits | softmax of the logits |
//! | an exported file without `scores` | its output `probabilities` | the output itself |

use candle_core::Tensor;
use lgd_data::bank::{Bank, CategoryRecord};

use super::PredictError;
use crate::error::TrainError;
use crate::inference::{ImageModel, Matrix, OutputKind};
use crate::objective::SharedSettings;

/// A name of an image, and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Number of the name.
    pub category: u32,
    /// Probability, 0 to 1.
    pub probability: f32,
}

/// The names that a classifier tells apart.
#[derive(Clone, Debug)]
pub enum Categories {
    /// Those of a bank.
    Bank(Vec<CategoryRecord>),
    /// Names from elsewhere.
    Names(Vec<String>),
}

impl Categories {
    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Bank(categories) => categories.iter().map(|category| category.name.as_str()).collect(),
            Self::Names(names) => names.iter().map(String::as_str).collect(),
        }
    }
}

/// Maps an output of a model to a probability for every name.
#[derive(Clone, Debug)]
pub struct Classifier {
    output: OutputKind,
    /// Text prototypes, `[D, C]`, for embeddings.
    prototypes: Option<Tensor>,
    width: usize,
    categories: Categories,
    temperature: f32,
    /// Assumptions, one sentence each.
    pub notes: Vec<String>,
}

impl Classifier {
    /// The classifier of `model`: over the names of `bank` if there is one, else over the classes of its logits, else over
    /// the names that it brings.
    ///
    /// # Errors
    /// [`PredictError::NoBank`] if the student ends in an embedding, and there is neither a bank nor an output of scores;
    /// [`PredictError::UnusedBank`] if there is a bank but no embedding; [`PredictError::Artifact`] and
    /// [`PredictError::BankWidth`] if the bank is in another space; [`PredictError::NameCount`] if names and outputs
    /// differ in number; [`PredictError::NoNames`] if the student has features only.
    pub fn of(model: &dyn ImageModel, bank: Option<&Bank>) -> Result<Self, PredictError> {
        let card = model.card();
        if let Some(bank) = bank {
            return Self::of_bank(model, bank);
        }
        if let Some(classes) = &card.classes {
            let names = classes.names.clone().unwrap_or_else(|| numbers(classes.count));
            return Self::of_output(model, OutputKind::Logits, names, 1.0);
        }
        for kind in [OutputKind::Scores, OutputKind::Probabilities] {
            let Some(width) = card.width(kind) else { continue };
            let names = card.names.clone().unwrap_or_else(|| numbers(width));
            let mut classifier = match kind {
                OutputKind::Scores => {
                    let (temperature, note) = temperature(card.temperature);
                    let mut classifier = Self::of_output(model, kind, names, temperature)?;
                    classifier.notes.extend(note);
                    classifier
                }
                _ => Self::of_output(model, kind, names, 1.0)?,
            };
            if card.names.is_none() {
                classifier
                    .notes
                    .push("the file has no names; names are the numbers of its outputs".to_owned());
            }
            return Ok(classifier);
        }
        let path = card.path.clone();
        match card.width(OutputKind::Embedding) {
            Some(_) => Err(PredictError::NoBank { path }),
            None => Err(PredictError::NoNames { path, outputs: card.outputs_in_words() }),
        }
    }

    fn of_bank(model: &dyn ImageModel, bank: &Bank) -> Result<Self, PredictError> {
        let card = model.card();
        let Some(width) = card.width(OutputKind::Embedding) else {
            let (path, outputs) = (card.path.clone(), card.outputs_in_words());
            return Err(PredictError::UnusedBank { path, outputs });
        };
        if let Some(run) = model.run() {
            run.require_space_of(bank)?;
        }
        if width != bank.dim() {
            let (expected, got) = (width, bank.dim());
            return Err(PredictError::BankWidth { bank: bank.dir().to_owned(), expected, got });
        }
        let prototypes = Matrix::new(width, bank.tsb().to_vec());
        let right = || -> Result<Tensor, TrainError> { Ok(prototypes.tensor()?.t()?.contiguous()?) };
        let (temperature, note) = temperature(card.temperature);
        Ok(Self {
            output: OutputKind::Embedding,
            prototypes: Some(right()?),
            width,
            categories: Categories::Bank(bank.manifest().record.categories.clone()),
            temperature,
            notes: note.into_iter().collect(),
        })
    }

    fn of_output(
        model: &dyn ImageModel,
        output: OutputKind,
        names: Vec<String>,
        temperature: f32,
    ) -> Result<Self, PredictError> {
        let card = model.card();
        let width = card.width(output).unwrap_or(0);
        if names.len() != width {
            let (path, got) = (card.path.clone(), names.len());
            return Err(PredictError::NameCount { path, kind: output, expected: width, got });
        }
        let categories = Categories::Names(names);
        Ok(Self { output, prototypes: None, width, categories, temperature, notes: Vec::new() })
    }

    /// The output of the model that it reads.
    pub fn output(&self) -> OutputKind {
        self.output
    }

    /// Width of that output.
    pub fn input_width(&self) -> usize {
        self.width
    }

    /// The names.
    pub fn categories(&self) -> &Categories {
        &self.categories
    }

    /// The temperature that scores are divided by.
    pub fn temperature(&self) -> f32 {
        self.temperature
    }

    /// Calls `visit` with the scores of each row of `outputs`, `[N, width]`, in order.
    ///
    /// # Errors
    /// If a matrix product fails.
    pub fn for_each_row(
        &self,
        outputs: &Matrix,
        mut visit: impl FnMut(ScoreRow<'_>),
    ) -> Result<(), TrainError> {
        let probabilities = self.output == OutputKind::Probabilities;
        let mut visit =
            |scores: &[f32]| visit(ScoreRow { scores, temperature: self.temperature, probabilities });
        match &self.prototypes {
            Some(right) => outputs.for_each_product(right, &mut visit),
            None => {
                outputs.iter().for_each(&mut visit);
                Ok(())
            }
        }
    }
}

/// The scores of an image, one per name.
#[derive(Clone, Copy, Debug)]
pub struct ScoreRow<'a> {
    scores: &'a [f32],
    temperature: f32,
    /// Whether the scores are probabilities.
    probabilities: bool,
}

impl<'a> ScoreRow<'a> {
    /// Logits, whose probabilities are their softmax.
    pub fn of_logits(logits: &'a [f32]) -> Self {
        Self { scores: logits, temperature: 1.0, probabilities: false }
    }

    /// The `k` most probable names, the most probable first; of equal ones, the first. The order is that of the scores,
    /// because different scores may round to one probability.
    pub fn top(&self, k: usize) -> Vec<Candidate> {
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        let descending = |a: &usize, b: &usize| self.scores[*b].total_cmp(&self.scores[*a]).then(a.cmp(b));
        if k < order.len() {
            order.select_nth_unstable_by(k.saturating_sub(1), descending);
            order.truncate(k);
        }
        order.sort_unstable_by(descending);
        let candidate = |at: usize| Candidate {
            category: u32::try_from(at).unwrap_or(u32::MAX),
            probability: self.probability(at),
        };
        // The sum is that of all names, also if few are returned.
        order.into_iter().map(candidate).collect()
    }

    /// The probability of a name: exp(score / tau) over the sum of all.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    fn probability(&self, at: usize) -> f32 {
        if self.probabilities {
            return self.scores[at];
        }
        let tau = f64::from(self.temperature);
        let own = f64::from(self.scores[at]);
        let mass: f64 = self.scores.iter().map(|&score| ((f64::from(score) - own) / tau).exp()).sum();
        (1.0 / mass) as f32
    }
}

/// The recorded temperature, else the default one with a note.
fn temperature(recorded: Option<f32>) -> (f32, Option<String>) {
    match recorded {
        Some(recorded) => (recorded, None),
        None => {
            let assumed = SharedSettings::default().student_temperature;
            let note = format!("the student's temperature was not recorded; probabilities assume {assumed}");
            (assumed, Some(note))
        }
    }
}

/// `0`, `1`, ... as names.
fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_softmax_over_the_temperature() {
        let row = ScoreRow { scores: &[0.1, 0.3, 0.2], temperature: 0.2, probabilities: false };
        let top = row.top(2);
        let mass: f64 = [0.1, 0.3, 0.2].map(|score: f64| (score / 0.2).exp()).iter().sum();
        assert_eq!(top.iter().map(|one| one.category).collect::<Vec<_>>(), [1, 2]);
        for (candidate, score) in top.iter().zip([0.3_f64, 0.2]) {
            let expected = (score / 0.2).exp() / mass;
            assert!((f64::from(candidate.probability) - expected).abs() < 1e-6, "{candidate:?}");
        }
    }

    #[test]
    fn equal_scores_keep_their_order_and_no_temperature_overflows() {
        let row = ScoreRow { scores: &[1.0, 1.0, -1.0], temperature: 1e-4, probabilities: false };
        let top = row.top(9);
        assert_eq!(top.iter().map(|one| one.category).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(top.iter().map(|one| one.probability).collect::<Vec<_>>(), [0.5, 0.5, 0.0]);
    }

    #[test]
    fn probabilities_stay_what_they_are() {
        let row = ScoreRow { scores: &[0.25, 0.75], temperature: 0.2, probabilities: true };
        assert_eq!(row.top(1), [Candidate { category: 1, probability: 0.75 }]);
    }
}
