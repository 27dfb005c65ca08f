//! Refuses categories that the text encoder cannot tell apart: their distributions would be equal, and which one an
//! image is assigned to would be an accident.

use std::collections::HashMap;

use crate::categories::{Categories, Category};
use crate::encoder::PromptEncoder;
use crate::error::{BankError, EncodeFailure};
use crate::prompts::Templates;

/// Distance of two unit vectors below which they are equal up to rounding. Names that differ at all are hundreds of
/// times further apart.
const SAME: f64 = 1e-4;

/// Fails if two categories have the same tokens in all their prompts.
///
/// # Errors
/// [`BankError::SameCategories`]; [`BankError::Encode`] if the tokenizer fails.
pub(crate) fn require_distinct_tokens(
    categories: &Categories,
    templates: &Templates,
    encoder: &dyn PromptEncoder,
) -> Result<(), BankError> {
    // The first prompt tells almost all categories apart; only those that share it are compared in full.
    let all = categories.as_slice();
    let first: Vec<String> = all.iter().map(|category| first_prompt(category, templates)).collect();
    let tokens = encoder.tokens(&first).map_err(|source| failed(&first, source))?;
    let mut groups: HashMap<&[u32], Vec<usize>> = HashMap::new();
    for (at, tokens) in tokens.iter().enumerate() {
        groups.entry(tokens).or_default().push(at);
    }
    let mut shared: Vec<&Vec<usize>> = groups.values().filter(|members| members.len() > 1).collect();
    shared.sort_unstable();
    for members in shared {
        let mut seen: HashMap<Vec<Vec<u32>>, usize> = HashMap::new();
        for &at in members {
            let prompts = templates.prompts(&all[at]);
            let mut whole = encoder.tokens(&prompts).map_err(|source| failed(&prompts, source))?;
            whole.sort_unstable();
            if let Some(&other) = seen.get(&whole) {
                let pair = [first[other].clone(), first[at].clone()];
                let cut = encoder.count_cut(&pair).map_err(|source| failed(&pair, source))?;
                let cut = if cut > 0 { ", because they are cut at the encoder's context" } else { "" };
                let reason = format!(
                    "{:?} and {:?} become the same {} tokens{cut}",
                    pair[0],
                    pair[1],
                    tokens[at].len()
                );
                return Err(same(&all[other], &all[at], reason));
            }
            seen.insert(whole, at);
        }
    }
    Ok(())
}

/// Fails if two rows of the bank, [C, `dim`], are equal up to rounding.
///
/// # Errors
/// [`BankError::SameCategories`].
pub(crate) fn require_distinct_rows(
    categories: &Categories,
    values: &[f32],
    dim: usize,
) -> Result<(), BankError> {
    // Rows that are near each other are near each other on any line. The line needs no property but that it is not
    // orthogonal to everything.
    let line: Vec<f64> =
        (0..dim).map(|at| f64::from(u8::try_from(at * 37 % 101).unwrap_or(0)) - 50.0).collect();
    let reach = SAME * line.iter().map(|value| value * value).sum::<f64>().sqrt();
    let rows: Vec<&[f32]> = values.chunks_exact(dim).collect();
    let place =
        |row: &[f32]| row.iter().zip(&line).map(|(&value, line)| f64::from(value) * line).sum::<f64>();
    let mut order: Vec<(f64, usize)> = rows.iter().enumerate().map(|(at, row)| (place(row), at)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (at, &(place, row)) in order.iter().enumerate() {
        let near = order[at + 1..].iter().take_while(|(other, _)| other - place <= reach);
        for &(_, other) in near {
            let squares =
                rows[row].iter().zip(rows[other]).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
            if squares.sum::<f64>() < SAME * SAME {
                let (first, second) = (row.min(other), row.max(other));
                let reason = "their embeddings are equal although their tokens differ; the output or pooling in teacher.toml may be wrong";
                let all = categories.as_slice();
                return Err(same(&all[first], &all[second], reason.to_owned()));
            }
        }
    }
    Ok(())
}

fn first_prompt(category: &Category, templates: &Templates) -> String {
    templates.prompts(category).into_iter().next().unwrap_or_default()
}

fn same(first: &Category, second: &Category, reason: String) -> BankError {
    BankError::SameCategories { first: first.name().to_owned(), second: second.name().to_owned(), reason }
}

fn failed(prompts: &[String], source: EncodeFailure) -> BankError {
    BankError::Encode {
        first: prompts.first().cloned().unwrap_or_default(),
        count: prompts.len().max(1),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::categories::NameForm;
    use lgd_data::manifest::ContentHash;

    /// Reads the first `context` letters, in lower case.
    struct Short {
        context: usize,
    }

    impl PromptEncoder for Short {
        fn hash(&self) -> ContentHash {
            ContentHash::of(b"short")
        }
        fn dim(&self) -> usize {
            1
        }
        fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure> {
            Ok(vec![1.0; prompts.len()])
        }
        fn tokens(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>, EncodeFailure> {
            let tokens =
                |prompt: &String| prompt.to_lowercase().chars().take(self.context).map(u32::from).collect();
            Ok(prompts.iter().map(tokens).collect())
        }
        fn count_cut(&self, prompts: &[String]) -> Result<usize, EncodeFailure> {
            Ok(prompts.iter().filter(|prompt| prompt.chars().count() > self.context).count())
        }
    }

    fn check(names: &[&str], templates: &[&str], context: usize) -> Result<(), BankError> {
        let categories = Categories::from_names(names, NameForm::Verbatim).unwrap();
        let templates = Templates::new(templates.iter().map(|&text| text.to_owned()).collect()).unwrap();
        require_distinct_tokens(&categories, &templates, &Short { context })
    }

    #[test]
    fn categories_with_the_same_tokens_are_named() {
        check(&["cat", "dog", "cow"], &["a {}"], 5).unwrap();
        let text = check(&["dog", "Polish", "cat", "polish"], &["a {}"], 20).unwrap_err().to_string();
        for part in ["\"Polish\" and \"polish\"", "\"a Polish\"", "same 8 tokens\n", "hint: reword one"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        let text = check(&["sea lion", "sea horse"], &["a {}"], 5).unwrap_err().to_string();
        assert!(text.contains("the same 5 tokens, because they are cut"), "{text}");
    }

    #[test]
    fn one_prompt_that_differs_is_enough() {
        check(&["sea lion", "sea horse"], &["a photo of a {}", "{}"], 8).unwrap();
    }

    #[test]
    fn equal_rows_are_found_wherever_they_are() {
        let names: Vec<String> = (0..50).map(|at| format!("name {at}")).collect();
        let categories = Categories::from_names(&names, NameForm::Normalized).unwrap();
        let row = |at: usize| -> Vec<f32> {
            let angle = std::f32::consts::TAU * f32::from(u8::try_from(at).unwrap()) / 50.0;
            vec![angle.cos(), angle.sin(), 0.0]
        };
        let mut values: Vec<f32> = (0..50).flat_map(row).collect();
        require_distinct_rows(&categories, &values, 3).unwrap();
        let copy: Vec<f32> = values[3 * 41..3 * 42].iter().map(|value| value + 3e-6).collect();
        values[3 * 7..3 * 8].copy_from_slice(&copy);
        let text = require_distinct_rows(&categories, &values, 3).unwrap_err().to_string();
        assert!(text.contains("\"name 7\" and \"name 41\"") && text.contains("pooling"), "{text}");
    }
}
