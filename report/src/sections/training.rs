//! Curves of a training.

use std::collections::BTreeMap;

use maud::html;

use crate::error::ReportError;
use crate::page::{Section, Tile};
use crate::plot::{Line, LineChart, Plot, Unit, side_by_side};
use crate::read::{Kind, Metrics, MetricsLine};
use crate::text::{count, decimal, figure, percent};

/// The curves: loss and its parts, learning rate, held-out figures, throughput.
///
/// # Errors
/// [`ReportError::Plot`] if plotters fails.
pub(crate) fn training(metrics: &Metrics) -> Result<Section, ReportError> {
    let plots: Vec<Plot> = [
        loss(metrics)
            .plot()?
            .map(|plot| plot.noted("Mean of each epoch; the faint line has the mean of every few steps.")),
        parts(metrics).plot()?.map(|plot| plot.noted("Without their weights in the sum.")),
        cosine(metrics).plot()?.map(|plot| {
            plot.noted(held_out(metrics, "Mean similarity of the student's embedding to its teacher's"))
        }),
        by_bank(metrics, "agreement", "agreement", "Same choice as the teacher, %")
            .plot()?
            .map(|plot| plot.noted(held_out(metrics, "How often student and teacher choose the same name"))),
        accuracy(metrics).plot()?.map(|plot| plot.noted(held_out(metrics, "How often the student is right"))),
        single(metrics, "lr", "Learning rate", Unit::Number, 3, |line| line.lr).plot()?,
        single(metrics, "throughput", "Images per second", Unit::Number, 5, |line| line.images_per_second)
            .plot()?
            .map(|plot| plot.noted("Since the run was started or resumed.")),
        single(metrics, "data-wait", "Waiting for data, % of the time", Unit::Percent, 4, |line| {
            line.data_wait.map(|share| 100.0 * share)
        })
        .plot()?,
        epoch_seconds(metrics).plot()?,
    ]
    .into_iter()
    .flatten()
    .collect();
    let body = html! {
        @if plots.is_empty() {
            p { "No step was recorded: the run has no epochs, or it was stopped before the first line of its metrics." }
        } @else { (side_by_side(&plots)) }
    };
    Ok(Section::new("training", "Training", body))
}

fn chart(id: &'static str, title: &str, unit: Unit, lines: Vec<Line>) -> LineChart {
    LineChart { id, title: title.to_owned(), unit, lines }
}

fn loss(metrics: &Metrics) -> LineChart {
    let points = metrics.series(Kind::Epoch, |line| line.loss);
    let behind = metrics.series(Kind::Step, |line| line.loss);
    chart("loss", "Loss", Unit::Number, vec![Line { name: String::new(), points, behind, color: 0 }])
}

/// The parts of a loss that has several.
fn parts(metrics: &Metrics) -> LineChart {
    let mut names: Vec<&String> = metrics.lines.iter().flat_map(|line| line.parts.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let several = names.len() > 1;
    let lines = names.into_iter().filter(|_| several).enumerate().map(|(color, name)| {
        let value = |line: &MetricsLine| line.parts.get(name).copied();
        let (points, behind) = (metrics.series(Kind::Epoch, value), metrics.series(Kind::Step, value));
        Line { name: name.clone(), points, behind, color }
    });
    chart("parts", "Parts of the loss", Unit::Number, lines.collect())
}

fn cosine(metrics: &Metrics) -> LineChart {
    let points = metrics.series(Kind::Epoch, MetricsLine::holdout_cosine);
    chart("cosine", "Cosine to the teacher", Unit::Number, vec![Line { points, ..Line::default() }])
}

/// Percentages of held-out samples, a line for each bank.
fn by_bank(metrics: &Metrics, field: &str, id: &'static str, title: &str) -> LineChart {
    let mut banks: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for line in metrics.epochs() {
        for (bank, percent) in line.holdout_banks(field) {
            banks.entry(bank).or_default().push((metrics.position(line), percent));
        }
    }
    let lines = banks.into_iter().enumerate().map(|(color, (name, points))| Line {
        name,
        points,
        behind: Vec::new(),
        color,
    });
    chart(id, title, Unit::Percent, lines.collect())
}

/// Accuracy on held-out samples with labels.
fn accuracy(metrics: &Metrics) -> LineChart {
    let mut chart = by_bank(metrics, "zero_shot", "accuracy", "Right on held-out images, %");
    for line in &mut chart.lines {
        line.name = format!("zero-shot, {}", line.name);
    }
    let mut add = |name: &str, value: fn(&MetricsLine) -> Option<f64>| {
        let (points, color) = (metrics.series(Kind::Epoch, value), chart.lines.len());
        chart.lines.push(Line { name: name.to_owned(), points, behind: Vec::new(), color });
    };
    add("own classifier", MetricsLine::holdout_labels);
    add("kNN", MetricsLine::holdout_knn);
    chart
}

/// A line of every epoch, else of every few steps.
fn single(
    metrics: &Metrics,
    id: &'static str,
    title: &str,
    unit: Unit,
    color: usize,
    value: fn(&MetricsLine) -> Option<f64>,
) -> LineChart {
    let of_steps = metrics.series(Kind::Step, value);
    let of_epochs = metrics.series(Kind::Epoch, value);
    // A learning rate may change within an epoch, so the more frequent lines are drawn if there are enough.
    let points = if of_steps.len() > of_epochs.len() { of_steps } else { of_epochs };
    chart(id, title, unit, vec![Line { points, color, ..Line::default() }])
}

/// Seconds from each epoch's line to the next.
fn epoch_seconds(metrics: &Metrics) -> LineChart {
    let lines: Vec<&MetricsLine> = metrics.epochs().collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let seconds = pair[1].time? - pair[0].time?;
        (seconds >= 0.0).then(|| (metrics.position(pair[1]), seconds))
    });
    chart(
        "epoch-seconds",
        "Seconds of an epoch",
        Unit::Number,
        vec![Line { points: pairs.collect(), color: 2, ..Line::default() }],
    )
}

/// `what`, on how many held-out samples.
fn held_out(metrics: &Metrics, what: &str) -> String {
    match metrics.epochs().filter_map(MetricsLine::holdout_samples).last() {
        Some(samples) => format!("{what}, on {} held-out samples.", count(samples)),
        None => format!("{what}, on held-out samples."),
    }
}

/// The latest held-out figures, each with the best one.
pub(crate) fn holdout_tiles(metrics: &Metrics) -> Vec<Tile> {
    let best = |points: &[(f64, f64)], show: &dyn Fn(f64) -> String| {
        let best = points.iter().copied().reduce(|best, point| if point.1 > best.1 { point } else { best });
        best.map_or(String::new(), |(epoch, value)| {
            format!("best {} in epoch {}", show(value), decimal(epoch, 0))
        })
    };
    let mut tiles = Vec::new();
    let cosine = metrics.series(Kind::Epoch, MetricsLine::holdout_cosine);
    if let Some((_, last)) = cosine.last() {
        tiles.push(Tile::new("Held-out cosine", figure(*last), best(&cosine, &figure)));
    }
    for line in by_bank(metrics, "agreement", "", "").lines.iter().take(2) {
        if let Some((_, last)) = line.points.last() {
            let shown = |value: f64| format!("{}%", percent(value));
            tiles.push(Tile::new(
                &format!("Held-out agreement, {}", line.name),
                shown(*last),
                best(&line.points, &shown),
            ));
        }
    }
    tiles
}
