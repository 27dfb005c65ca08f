//! Teacher against student, by protocol and by class.

use maud::{Markup, html};

use crate::page::{Column, Section, cell, table};
use crate::read::{ClassFigure, Eval, ImageSet, Judged};
use crate::text::{count, percent, percent_or_dash};

/// Most classes in a table.
const CLASSES: usize = 1000;

/// The figures of an evaluation.
pub(crate) fn comparison(eval: &Eval) -> Section {
    // One table of names is enough: with many names it is most of the page.
    let protocols = eval.protocols().into_iter();
    let detailed = protocols
        .filter_map(|(name, judged)| judged.map(|judged| (name, judged)))
        .find(|(_, judged)| !judged.per_class.is_empty());
    let body = html! {
        (by_protocol(eval))
        (measured_on(eval))
        @if let Some((name, judged)) = detailed { (by_class(name, judged)) }
    };
    Section::new("comparison", "Student and teacher", body)
}

fn by_protocol(eval: &Eval) -> Markup {
    let row = |name: String, student: Option<f64>, teacher: Option<f64>, note: String| {
        let ratio = student.zip(teacher).filter(|(_, teacher)| *teacher > 0.0);
        let ratio = ratio.map_or("–".to_owned(), |(student, teacher)| format!("{:.2}", student / teacher));
        let figures = [percent_or_dash(student), percent_or_dash(teacher), ratio].map(cell);
        [cell(name)].into_iter().chain(figures).chain([rail(student, teacher), cell(note)]).collect()
    };
    let judged =
        eval.protocols().into_iter().filter_map(|(name, judged)| judged.map(|judged| (name, judged)));
    let mut rows: Vec<Vec<Markup>> = judged
        .map(|(name, judged)| row(name.to_owned(), judged.student, judged.teacher, note(name, judged)))
        .collect();
    rows.extend(eval.linear.iter().map(|probe| {
        let name = format!("linear probe, {}% of labels", 100.0 * probe.fraction);
        row(name, Some(probe.student), None, String::new())
    }));
    let columns = [
        Column::Words("protocol"),
        Column::Number("student, %"),
        Column::Number("teacher, %"),
        Column::Number("ratio"),
        Column::Words("0 to 100%"),
        Column::Words("details"),
    ];
    html! { (table("Top-1 by protocol", &columns, rows)) (marks()) }
}

fn note(name: &str, judged: &Judged) -> String {
    let mut parts = Vec::new();
    if let Some(choices) = judged.choices {
        let of = if name == "kNN" { "neighbors" } else { "names" };
        parts.push(format!("{} {of}", count(choices)));
    }
    if let Some(agreement) = judged.agreement {
        parts.push(format!("same choice as the teacher {}%", percent(agreement)));
    }
    parts.extend(judged.more.iter().cloned());
    parts.join(", ")
}

fn measured_on(eval: &Eval) -> Markup {
    let told = |role: &str, set: &ImageSet| {
        let images = set.images.map_or(String::new(), |images| format!("{} ", count(images)));
        let rejects =
            if set.rejects > 0 { format!(", {} rejected", count(set.rejects)) } else { String::new() };
        format!("{images}{role} images{rejects}: {}. View: {}.", set.path, set.view)
    };
    html! {
        @if let Some(test) = &eval.test { p.note { (told("test", test)) } }
        @if let Some(train) = &eval.train { p.note { (told("training", train)) } }
        @for note in &eval.notes { p.note { (note) } }
    }
}

/// A table of classes with the student's and the teacher's figures, the largest gaps first.
fn by_class(protocol: &str, judged: &Judged) -> Markup {
    let mut classes: Vec<&ClassFigure> = judged.per_class.iter().collect();
    let gap = |class: &ClassFigure| class.teacher.unwrap_or(100.0) - class.student.unwrap_or(0.0);
    classes.sort_by(|a, b| gap(b).total_cmp(&gap(a)).then_with(|| a.name.cmp(&b.name)));
    let omitted = classes.len().saturating_sub(CLASSES);
    classes.truncate(CLASSES);
    let has_teacher = classes.iter().any(|class| class.teacher.is_some());
    let mut columns = vec![Column::Words("name"), Column::Number("student, %")];
    if has_teacher {
        columns.extend([Column::Number("teacher, %"), Column::Number("gap")]);
    }
    columns.extend([Column::Words("0 to 100%"), Column::Number("images")]);
    let rows = classes.iter().map(|class| {
        let mut row = vec![cell(&class.name), cell(percent_or_dash(class.student))];
        if has_teacher {
            let gap = class.student.zip(class.teacher).map(|(student, teacher)| student - teacher);
            let gap = gap.map_or("–".to_owned(), |gap| format!("{gap:+.1}"));
            row.extend([cell(percent_or_dash(class.teacher)), cell(gap)]);
        }
        let images = class.images.map_or("–".to_owned(), count);
        row.extend([rail(class.student, class.teacher), cell(images)]);
        row
    });
    let what = if protocol == "agreement" { "Same choice as the teacher" } else { "Right" };
    html! {
        (table(&format!("{what} by name, {protocol}"), &columns, rows.collect()))
        @if omitted > 0 { p.note { (count(omitted)) " names with smaller gaps are not listed." } }
    }
}

/// The legend of [`rail`].
fn marks() -> Markup {
    html! {
        ul.legend.marks {
            li { i.swatch.c0 aria-hidden="true" {} "student" }
            li { i.swatch.c1 aria-hidden="true" {} "teacher" }
        }
    }
}

/// Student and teacher as two marks on a scale from 0 to 100; the table has the numbers.
fn rail(student: Option<f64>, teacher: Option<f64>) -> Markup {
    let left = |value: f64| format!("left:{:.1}%", value.clamp(0.0, 100.0));
    let between = student.zip(teacher).map(|(a, b)| {
        format!("left:{:.1}%;width:{:.1}%", a.min(b).clamp(0.0, 100.0), (a - b).abs().min(100.0))
    });
    html! {
        span.rail aria-hidden="true" {
            @if let Some(between) = between { i.gap style=(between) {} }
            @if let Some(teacher) = teacher { i.dot.c1 style=(left(teacher)) {} }
            @if let Some(student) = student { i.dot.c0 style=(left(student)) {} }
        }
    }
}
