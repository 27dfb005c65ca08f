//! How similar the prototypes of a bank are.

use std::cmp::Reverse;

use lgd_data::bank::Bank;
use maud::{Markup, html};

use crate::error::ReportError;
use crate::neighbors::products;
use crate::page::{Column, cell, table};
use crate::plot::HeatMap;
use crate::text::count;

/// Most categories in a heat map.
const SHOWN: usize = 40;
/// Most categories of which all pairs are compared.
const COMPARED: usize = 2000;
/// Most pairs in the table.
const PAIRS: usize = 20;

/// Cosine similarities between the prototypes of some categories.
struct Similarities {
    /// The categories, by number.
    categories: Vec<usize>,
    /// `[categories, categories]`, of names.
    text: Vec<f32>,
    /// `[categories, categories]`, of images; NaN for categories without images.
    visual: Vec<f32>,
}

impl Similarities {
    /// Of all categories, or of those with the most views if there are more than [`COMPARED`].
    fn of(bank: &Bank) -> Self {
        let mut categories: Vec<usize> = (0..bank.categories()).collect();
        most_viewed(bank, &mut categories, COMPARED);
        let dim = bank.dim();
        let rows = |all: &[f32]| {
            categories.iter().flat_map(|&at| unit(&all[at * dim..(at + 1) * dim])).collect::<Vec<f32>>()
        };
        let (text, visual) = (rows(bank.tsb()), rows(bank.vsb()));
        Self { text: products(&text, &text, dim), visual: products(&visual, &visual, dim), categories }
    }

    /// The most similar other category of each by its name; each pair once, the most similar first.
    fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.categories.len();
        let mut pairs: Vec<(usize, usize)> = (0..count)
            .filter_map(|a| {
                let others = (0..count).filter(|&b| b != a);
                let nearest = others.max_by(|&b, &c| {
                    self.text[a * count + b].total_cmp(&self.text[a * count + c]).then(c.cmp(&b))
                })?;
                Some((a.min(nearest), a.max(nearest)))
            })
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs.sort_by(|a, b| self.text[b.0 * count + b.1].total_cmp(&self.text[a.0 * count + a.1]));
        pairs
    }

    /// At most [`SHOWN`] categories in an order that puts similar ones side by side.
    fn chain(&self, bank: &Bank) -> Vec<usize> {
        let count = self.categories.len();
        let mut left: Vec<usize> = (0..count).collect();
        left.sort_by_key(|&at| Reverse(bank.manifest().record.categories[self.categories[at]].count));
        left.truncate(SHOWN);
        left.sort_unstable();
        let mut chain: Vec<usize> = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let next = match chain.last() {
                None => 0,
                Some(&last) => {
                    let similarity = |at: usize| self.text[last * count + left[at]];
                    (0..left.len())
                        .max_by(|&a, &b| similarity(a).total_cmp(&similarity(b)).then(b.cmp(&a)))
                        .unwrap_or(0)
                }
            };
            chain.push(left.remove(next));
        }
        chain
    }
}

/// Keeps the `most` categories with the most views, in their order.
fn most_viewed(bank: &Bank, categories: &mut Vec<usize>, most: usize) {
    if categories.len() > most {
        categories.sort_by_key(|&category| Reverse(bank.manifest().record.categories[category].count));
        categories.truncate(most);
        categories.sort_unstable();
    }
}

/// The row as a unit vector; NaN if it is zero.
fn unit(row: &[f32]) -> impl Iterator<Item = f32> {
    let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    row.iter().map(move |value| value / norm)
}

/// Heat maps of the prototypes' similarity and the most similar pairs.
///
/// # Errors
/// [`ReportError::Plot`] if plotters fails.
pub(super) fn similarity(bank: &Bank) -> Result<Markup, ReportError> {
    if bank.categories() < 2 {
        return Ok(html! {});
    }
    let similarities = Similarities::of(bank);
    let count_of = similarities.categories.len();
    let name = |at: usize| bank.manifest().record.categories[similarities.categories[at]].name.as_str();
    let chain = similarities.chain(bank);
    let names: Vec<&str> = chain.iter().map(|&at| name(at)).collect();
    let map = |id: &'static str, title: &'static str, all: &[f32]| {
        let values = chain.iter().flat_map(|&a| chain.iter().map(move |&b| (a, b)));
        let values: Vec<f64> =
            values.map(|(a, b)| if a == b { f64::NAN } else { f64::from(all[a * count_of + b]) }).collect();
        let finite = values.iter().copied().filter(|value| value.is_finite());
        let range = finite
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let about = format!(
            "Cosine similarity between the prototypes of {} names, from {:.2} to {:.2}. The most similar pairs are in the table.",
            names.len(),
            range.0,
            range.1
        );
        let show = |value: f64| format!("{value:.2}").replacen("0.", ".", 1);
        HeatMap { id, title, about, names: &names, values: &values, range, show, axes: ("", "") }.plot()
    };
    let mut maps = vec![
        map("text-similarity", "Similarity of the names (text prototypes)", &similarities.text)?,
        map("visual-similarity", "Similarity of their images (visual prototypes)", &similarities.visual)?,
    ];
    if names.len() < bank.categories() {
        let note = format!("The {} names of {} with the most views.", names.len(), count(bank.categories()));
        maps = maps.into_iter().map(|map| map.noted(note.clone())).collect();
    }
    let rows = similarities.pairs().into_iter().take(PAIRS).map(|(a, b)| {
        let shown = |all: &[f32]| {
            let value = all[a * count_of + b];
            if value.is_finite() { format!("{value:.3}") } else { "–".to_owned() }
        };
        vec![cell(name(a)), cell(name(b)), cell(shown(&similarities.text)), cell(shown(&similarities.visual))]
    });
    let columns =
        [Column::Words("name"), Column::Words("name"), Column::Number("names"), Column::Number("images")];
    Ok(html! {
        div.plots.pair { @for map in &maps { (map.html()) } }
        (table("Most similar names, cosine", &columns, rows.collect()))
        @if count_of < bank.categories() {
            p.note { "Pairs of the " (count(count_of)) " names with the most views." }
        }
    })
}
