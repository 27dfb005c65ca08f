//! The names of a bank: their views, their similarity, and the images that fit them best and least clearly.

use std::cmp::Reverse;

use lgd_data::ArtifactError;
use lgd_data::bank::{Bank, CategoryRecord};
use maud::{Markup, html};

use super::similarity::similarity;
use crate::cached::CachedImages;
use crate::error::ReportError;
use crate::page::{Column, Section, Tile, bar, cell, table};
use crate::text::{count, counted, decimal, percent, shortened};
use crate::thumbnails::Thumbnails;

/// Most names in the table.
const LISTED: usize = 1000;
/// Most names with pictures.
const PICTURED: usize = 24;
/// Pictures of each kind for a name.
const PICTURES: usize = 4;
/// Most disputed images in the table.
const DISPUTED: usize = 20;
/// Rows of targets read at once.
const BLOCK: usize = 1024;

/// An image and the two names that the teacher finds most likely.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// Sample of the cache.
    sample: usize,
    /// Cosine similarity to the first name's text prototype.
    similarity: f32,
    /// The two most likely names with their probabilities, the most likely first.
    likely: [(usize, f32); 2],
}

impl Choice {
    /// Difference of the two probabilities.
    fn lead(&self) -> f32 {
        self.likely[0].1 - self.likely[1].1
    }
}

/// A bank, with the images of its cache if they are known.
pub(crate) struct Categories<'a> {
    bank: &'a Bank,
    choices: Vec<Choice>,
}

impl<'a> Categories<'a> {
    /// Reads the targets of view 0 of every sample of `images`.
    ///
    /// # Errors
    /// [`ArtifactError`] if the bank belongs to another cache or its targets cannot be read.
    pub(crate) fn read(bank: &'a Bank, images: Option<&CachedImages<'_>>) -> Result<Self, ArtifactError> {
        let choices = match images {
            Some(images) => choices(bank, images)?,
            None => Vec::new(),
        };
        Ok(Self { bank, choices })
    }

    /// Number of names, views and unassigned names.
    pub(crate) fn tiles(&self) -> Vec<Tile> {
        let record = &self.bank.manifest().record;
        let unassigned = record.unassigned.len();
        let mut tiles = vec![
            Tile::new("Names", count(record.categories.len()), format!("width {}", record.dim)),
            Tile::new("Views", count(self.bank.manifest().rows), ""),
            Tile::new("Names without views", count(unassigned), ""),
        ];
        if !self.choices.is_empty() {
            let sum: f64 = self.choices.iter().map(|choice| f64::from(choice.likely[0].1)).sum();
            let mean = 100.0 * sum / self.choices.len() as f64;
            let detail = format!(
                "mean probability of the most likely name, temperature {}",
                record.teacher_temperature
            );
            tiles.push(Tile::new("Teacher's confidence", format!("{}%", percent(mean)), detail));
        }
        tiles
    }

    /// The sections: names, similarity, pictures.
    ///
    /// # Errors
    /// [`ReportError::Plot`] if plotters fails.
    pub(crate) fn sections(
        &self,
        images: Option<(&CachedImages<'_>, &Thumbnails<'_>)>,
    ) -> Result<Vec<Section>, ReportError> {
        let mut sections = vec![
            Section::new("names", "Names", self.names()),
            Section::new("similarity", "Similar names", similarity(self.bank)?),
        ];
        if let Some((images, thumbnails)) = images {
            sections.push(Section::new("pictures", "Pictures", self.pictures(images, thumbnails)));
        }
        Ok(sections)
    }

    fn categories(&self) -> &'a [CategoryRecord] {
        &self.bank.manifest().record.categories
    }

    fn names(&self) -> Markup {
        let categories = self.categories();
        let mut order: Vec<usize> = (0..categories.len()).collect();
        order.sort_by_key(|&at| Reverse(categories[at].count));
        let total: u64 = categories.iter().map(|category| category.count).sum();
        let most = order.first().map_or(1, |&at| categories[at].count).max(1);
        let rows = order.iter().take(LISTED).map(|&at| {
            let CategoryRecord { name, count: views, .. } = &categories[at];
            let share = 100.0 * *views as f64 / total.max(1) as f64;
            let mut row = vec![cell(name), cell(count(*views)), cell(percent(share))];
            if !self.choices.is_empty() {
                row.push(cell(self.confidence(at).map_or("–".to_owned(), percent)));
            }
            row.push(bar(*views as f64 / most as f64, 0));
            row
        });
        let mut columns = vec![Column::Words("name"), Column::Number("views"), Column::Number("share, %")];
        if !self.choices.is_empty() {
            columns.push(Column::Number("confidence, %"));
        }
        columns.push(Column::Words("relative"));
        let unassigned = &self.bank.manifest().record.unassigned;
        html! {
            (table("Views by the teacher's most likely name", &columns, rows.collect()))
            @if order.len() > LISTED { p.note { "The " (count(LISTED)) " names with the most views of " (count(order.len())) "." } }
            @if !unassigned.is_empty() {
                details open[unassigned.len() <= 30] {
                    summary { (counted(unassigned.len(), "name")) " without a view" }
                    ul.names { @for name in unassigned.iter().take(LISTED) { li { (name) } } }
                }
            }
        }
    }

    /// Mean probability of the name `at` over the images that it is most likely for, 0 to 100.
    fn confidence(&self, at: usize) -> Option<f64> {
        let own = self.choices.iter().filter(|choice| choice.likely[0].0 == at);
        let (count, sum) =
            own.fold((0_usize, 0.0), |(count, sum), choice| (count + 1, sum + f64::from(choice.likely[0].1)));
        (count > 0).then(|| 100.0 * sum / count as f64)
    }

    fn pictures(&self, images: &CachedImages<'_>, thumbnails: &Thumbnails<'_>) -> Markup {
        let categories = self.categories();
        let mut shown: Vec<usize> = (0..categories.len()).filter(|&at| categories[at].count > 0).collect();
        shown.sort_by_key(|&at| Reverse(categories[at].count));
        let with_views = shown.len();
        shown.truncate(PICTURED);
        shown.sort_unstable();
        html! {
            p { "Nearest: the images whose embedding is most similar to the name. Most disputed: the images for which a second name is almost as likely." }
            @if let Some(note) = images.sampled_note() { p.note { (note) } }
            @if thumbnails.exist() {
                div.groups { @for &at in &shown { (self.group(at, thumbnails)) } }
                @if with_views > shown.len() { p.note { "The " (shown.len()) " names with the most views of " (count(with_views)) "." } }
            } @else {
                p.note { "Pictures need the images, or a cache that stores its views." }
            }
            (self.disputed(images))
        }
    }

    /// Pictures of one name.
    fn group(&self, at: usize, thumbnails: &Thumbnails<'_>) -> Markup {
        let mut own: Vec<&Choice> = self.choices.iter().filter(|choice| choice.likely[0].0 == at).collect();
        own.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.sample.cmp(&b.sample)));
        let nearest: Vec<&Choice> = own.iter().copied().take(PICTURES).collect();
        own.sort_by(|a, b| a.lead().total_cmp(&b.lead()).then(a.sample.cmp(&b.sample)));
        let disputed: Vec<&Choice> = own.into_iter().take(PICTURES).collect();
        let row = |choices: &[&Choice], caption: &dyn Fn(&Choice) -> String| {
            let samples: Vec<usize> = choices.iter().map(|choice| choice.sample).collect();
            let pictures = thumbnails.load(&samples);
            html! {
                div.thumbs { @for (picture, choice) in pictures.iter().zip(choices) { (picture.html(&caption(choice))) } }
            }
        };
        let category = &self.categories()[at];
        let second = |choice: &Choice| {
            let (name, probability) = choice.likely[1];
            format!(
                "or {}, {}%",
                shortened(&self.categories()[name].name, 24),
                decimal(100.0 * f64::from(probability), 0)
            )
        };
        html! {
            article.group {
                h3 { (category.name) " " span.soft { "· " (count(category.count)) " views" } }
                h4 { "Nearest" }
                (row(&nearest, &|choice| format!("{:.2}", choice.similarity)))
                h4 { "Most disputed" }
                (row(&disputed, &second))
            }
        }
    }

    /// The most disputed images of all names.
    fn disputed(&self, images: &CachedImages<'_>) -> Markup {
        let mut order: Vec<&Choice> = self.choices.iter().collect();
        order.sort_by(|a, b| a.lead().total_cmp(&b.lead()).then(a.sample.cmp(&b.sample)));
        let labeled = images.views.labels.iter().any(Option::is_some);
        let rows = order.into_iter().take(DISPUTED).map(|choice| {
            let [first, second] = choice.likely.map(|(at, probability)| {
                format!("{} {}%", self.categories()[at].name, percent(100.0 * f64::from(probability)))
            });
            let mut row = vec![cell(&images.views.keys[choice.sample]), cell(first), cell(second)];
            if labeled {
                row.push(cell(images.class_of(choice.sample)));
            }
            row
        });
        let mut columns = vec![Column::Words("image"), Column::Words("most likely"), Column::Words("second")];
        if labeled {
            columns.push(Column::Words("label"));
        }
        html! { (table("Most disputed images", &columns, rows.collect())) }
    }
}

/// The two most likely names of each compared sample, from the text distributions of the bank; none if the bank has one name.
fn choices(bank: &Bank, images: &CachedImages<'_>) -> Result<Vec<Choice>, ArtifactError> {
    bank.require_cache(images.cache)?;
    let (dim, width) = (bank.dim(), bank.categories());
    if width < 2 {
        return Ok(Vec::new());
    }
    let targets = bank.targets()?;
    let mut distributions = vec![0.0; BLOCK * width];
    let mut choices = Vec::with_capacity(images.samples.len());
    for (block, samples) in images.samples.chunks(BLOCK).enumerate() {
        let rows: Vec<usize> = samples.iter().map(|&sample| images.views.row(sample, 0)).collect();
        targets.text.copy_rows(&rows, &mut distributions[..rows.len() * width])?;
        for (at, &sample) in samples.iter().enumerate() {
            let likely = two_most_likely(&distributions[at * width..(at + 1) * width]);
            let mut embedding = images.embedding(block * BLOCK + at).to_vec();
            if let Some(center) = bank.center() {
                // An embedding that equals the mean has no direction, and its similarity is 0.
                if center.images(&mut embedding).is_err() {
                    embedding.fill(0.0);
                }
            }
            let name = &bank.tsb()[likely[0].0 * dim..(likely[0].0 + 1) * dim];
            let similarity = embedding.iter().zip(name).map(|(a, b)| a * b).sum();
            choices.push(Choice { sample, similarity, likely });
        }
    }
    Ok(choices)
}

/// The two largest of at least two probabilities, with their positions; the first of equals.
fn two_most_likely(probabilities: &[f32]) -> [(usize, f32); 2] {
    let mut best = [(0, f32::NEG_INFINITY); 2];
    for (at, &probability) in probabilities.iter().enumerate() {
        if probability > best[0].1 {
            best = [(at, probability), best[0]];
        } else if probability > best[1].1 {
            best[1] = (at, probability);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_most_likely_names_are_found() {
        assert_eq!(two_most_likely(&[0.1, 0.5, 0.4]), [(1, 0.5), (2, 0.4)]);
        assert_eq!(two_most_likely(&[0.4, 0.4, 0.2]), [(0, 0.4), (1, 0.4)]);
    }
}
