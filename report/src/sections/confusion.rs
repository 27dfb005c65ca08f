//! Which classes are taken for which.

use std::cmp::Reverse;
use std::collections::HashMap;

use maud::html;

use crate::error::ReportError;
use crate::page::{Column, Section, bar, cell, table};
use crate::plot::HeatMap;
use crate::read::{Confusion, Eval};
use crate::text::{count, percent};

/// Most classes in the map.
const SHOWN: usize = 40;
/// Most pairs in the table.
const PAIRS: usize = 20;

/// A pair of classes that the student mistakes.
struct Mistake {
    truth: usize,
    predicted: usize,
    images: u64,
}

/// A section for every protocol with a table of confusions; `None` if there is none.
///
/// # Errors
/// [`ReportError::Plot`] if plotters fails.
pub(crate) fn confusion(eval: &Eval) -> Result<Option<Section>, ReportError> {
    let protocols = eval.protocols().into_iter();
    let found = protocols.filter_map(|(name, judged)| Some((name, judged?.confusion.as_ref()?))).next();
    let Some((protocol, confusion)) = found else { return Ok(None) };
    let mistakes = mistakes(confusion);
    let totals = totals(confusion);
    let shown = shown(&totals, &mistakes);
    let place: HashMap<usize, usize> =
        shown.iter().enumerate().map(|(place, &class)| (class, place)).collect();
    let mut values = vec![0.0; shown.len() * shown.len()];
    for &(truth, predicted, images) in &confusion.pairs {
        if let (Some(row), Some(column)) = (place.get(&truth), place.get(&predicted)) {
            values[row * shown.len() + column] = 100.0 * images as f64 / totals[truth].max(1) as f64;
        }
    }
    let names: Vec<&str> = shown.iter().map(|&class| confusion.classes[class].as_str()).collect();
    let about = match mistakes.first() {
        Some(Mistake { truth, predicted, images }) => format!(
            "Share of each class by predicted class, by {protocol}. Most often, {} was taken for {}: {} images.",
            confusion.classes[*truth],
            confusion.classes[*predicted],
            count(*images)
        ),
        None => format!(
            "Share of each class by predicted class, by {protocol}. No image was taken for another class."
        ),
    };
    let map = HeatMap {
        id: "confusion-map",
        title: "Predicted class of each class, %",
        about,
        names: &names,
        values: &values,
        range: (0.0, 100.0),
        show: |value| if value < 0.5 { String::new() } else { format!("{value:.0}") },
        axes: ("true class", "predicted class"),
    };
    let mut map = map.plot()?;
    let size = totals.iter().filter(|&&images| images > 0).count();
    if shown.len() < size {
        map = map.noted(format!("The {} classes of {} with the most mistakes.", shown.len(), count(size)));
    }
    let most = mistakes.first().map_or(1, |mistake| mistake.images).max(1);
    let rows = mistakes.iter().take(PAIRS).map(|&Mistake { truth, predicted, images }| {
        vec![
            cell(&confusion.classes[truth]),
            cell(&confusion.classes[predicted]),
            cell(count(images)),
            cell(percent(100.0 * images as f64 / totals[truth].max(1) as f64)),
            bar(images as f64 / most as f64, 0),
        ]
    });
    let columns = [
        Column::Words("true class"),
        Column::Words("taken for"),
        Column::Number("images"),
        Column::Number("% of its images"),
        Column::Words("relative"),
    ];
    let body = html! {
        p { "Of the student, by " (protocol) "." }
        div.plots.pair { (map.html()) div { (table("Most frequent mistakes", &columns, rows.collect())) } }
    };
    Ok(Some(Section::new("confusion", "Confusion", body)))
}

/// Images of each class.
fn totals(confusion: &Confusion) -> Vec<u64> {
    let mut totals = vec![0; confusion.classes.len()];
    confusion.pairs.iter().for_each(|&(truth, _, images)| totals[truth] += images);
    totals
}

/// All mistakes, the most frequent first.
fn mistakes(confusion: &Confusion) -> Vec<Mistake> {
    let wrong = confusion.pairs.iter().filter(|(truth, predicted, images)| truth != predicted && *images > 0);
    let mut mistakes: Vec<Mistake> =
        wrong.map(|&(truth, predicted, images)| Mistake { truth, predicted, images }).collect();
    mistakes.sort_by_key(|mistake| (Reverse(mistake.images), mistake.truth, mistake.predicted));
    mistakes
}

/// The classes in the map, in their own order: all with images, or those with the most frequent mistakes. `totals`: images of
/// each class.
fn shown(totals: &[u64], mistakes: &[Mistake]) -> Vec<usize> {
    let with_images: Vec<usize> = (0..totals.len()).filter(|&class| totals[class] > 0).collect();
    if with_images.len() <= SHOWN {
        return with_images;
    }
    let mut chosen = Vec::new();
    for class in mistakes.iter().flat_map(|mistake| [mistake.truth, mistake.predicted]).chain(with_images) {
        if chosen.len() < SHOWN && !chosen.contains(&class) && totals[class] > 0 {
            chosen.push(class);
        }
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_the_classes_of_the_most_frequent_mistakes() {
        let classes: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let mut pairs: Vec<(usize, usize, u64)> = (0..50).map(|class| (class, class, 10)).collect();
        pairs.extend([(49, 48, 7), (48, 47, 9)]);
        let confusion = Confusion { classes, pairs };
        let mistakes = mistakes(&confusion);
        assert_eq!((mistakes[0].truth, mistakes[0].predicted, mistakes[1].truth), (48, 47, 49));
        let shown = shown(&totals(&confusion), &mistakes);
        assert_eq!(shown.len(), SHOWN);
        assert!([47, 48, 49].iter().all(|class| shown.contains(class)) && shown.is_sorted());
    }
}
