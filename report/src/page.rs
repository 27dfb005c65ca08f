//! The page: head, figures, sections.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::palette;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("sort.js");

/// A figure at the top of the page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tile {
    /// Name of the figure.
    pub label: String,
    /// The figure.
    pub value: String,
    /// A comparison or an explanation below.
    pub detail: String,
}

impl Tile {
    pub(crate) fn new(label: &str, value: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { label: label.to_owned(), value: value.into(), detail: detail.into() }
    }
}

/// A part of the page with a heading of its own.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    /// Identifier, unique in the page.
    pub id: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Content.
    pub body: Markup,
}

impl Section {
    pub(crate) fn new(id: &'static str, title: &'static str, body: Markup) -> Self {
        Self { id, title, body }
    }
}

/// A whole report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    /// "Run", "Cache" or "Bank".
    pub kind: &'static str,
    /// Name of the folder.
    pub name: String,
    /// Main properties in a few words each.
    pub traits: Vec<String>,
    /// Figures.
    pub tiles: Vec<Tile>,
    /// What is missing or was assumed.
    pub notes: Vec<String>,
    /// Sections, in order.
    pub sections: Vec<Section>,
}

impl Page {
    /// The HTML file.
    pub(crate) fn html(&self) -> String {
        let (light, dark) = palette::series_rules();
        let plots = palette::dark_rules();
        let style = format!("{STYLE}{light}@media (prefers-color-scheme:dark){{{dark}{plots}}}");
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width,initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="generator" content={ "lgd " (env!("CARGO_PKG_VERSION")) };
                    link rel="icon" href="data:,";
                    title { (self.name) " · lgd " (self.kind.to_lowercase()) " report" }
                    style { (PreEscaped(style)) }
                }
                body {
                    a.skip href="#main" { "Skip to the report" }
                    header { div.column { (self.head()) } }
                    nav aria-label="Sections" {
                        ul.column { @for section in &self.sections { li { a href={ "#" (section.id) } { (section.title) } } } }
                    }
                    main.column id="main" {
                        @for section in &self.sections {
                            section id=(section.id) aria-labelledby={ (section.id) "-heading" } {
                                h2 id={ (section.id) "-heading" } { (section.title) }
                                (section.body)
                            }
                        }
                    }
                    footer { p.column { "Written by lgd " (env!("CARGO_PKG_VERSION")) ". This file needs no network." } }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        page.into_string()
    }

    fn head(&self) -> Markup {
        html! {
            p.kind { (self.kind) }
            h1 { (self.name) }
            @if !self.traits.is_empty() {
                ul.traits { @for one in &self.traits { li { (one) } } }
            }
            @if !self.tiles.is_empty() {
                dl.tiles {
                    @for Tile { label, value, detail } in &self.tiles {
                        div { dt { (label) } dd.value { (value) } @if !detail.is_empty() { dd.detail { (detail) } } }
                    }
                }
            }
            @if !self.notes.is_empty() {
                ul.notes { @for note in &self.notes { li { (note) } } }
            }
        }
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column<'a> {
    /// Words, aligned to the left.
    Words(&'a str),
    /// Numbers, aligned to the right.
    Number(&'a str),
}

/// A table with a caption and a header, in a box that scrolls if the table is wider. `rows` have one cell per column; the
/// first is the row's header. Tables of more than 5 rows can be sorted, those of more than 16 scroll in a box.
pub(crate) fn table(caption: &str, columns: &[Column<'_>], rows: Vec<Vec<Markup>>) -> Markup {
    let (sortable, long) = (rows.len() > 5, rows.len() > 16);
    html! {
        div.table.long[long] tabindex="0" role="region" aria-label=(caption) {
            table.sortable[sortable] {
                caption { (caption) }
                thead { tr { @for column in columns {
                    @match column {
                        Column::Words(name) => th scope="col" { (name) },
                        Column::Number(name) => th.number scope="col" { (name) },
                    }
                } } }
                tbody { @for row in rows { tr { @for (at, cell) in row.into_iter().enumerate() {
                    @let number = matches!(columns.get(at), Some(Column::Number(_)));
                    @if at == 0 { th scope="row" { (cell) } } @else { td.number[number] { (cell) } }
                } } } }
            }
        }
    }
}

/// A table of names and values without a header row.
pub(crate) fn properties(caption: &str, rows: &[(String, Markup)]) -> Markup {
    html! {
        div.table tabindex="0" role="region" aria-label=(caption) {
            table.properties {
                caption { (caption) }
                tbody { @for (name, value) in rows { tr { th scope="row" { (name) } td { (value) } } } }
            }
        }
    }
}

/// A bar of `share`, 0 to 1, beside a number that says the same.
pub(crate) fn bar(share: f64, color: usize) -> Markup {
    let style = format!("width:{:.1}%", 100.0 * share.clamp(0.0, 1.0));
    html! { span.bar aria-hidden="true" { i class={ "c" (color) } style=(style) {} } }
}

/// A hash, which breaks anywhere.
pub(crate) fn hash(hash: impl std::fmt::Display) -> Markup {
    html! { code.hash { (hash) } }
}

/// Plain text as a cell.
pub(crate) fn cell(text: impl std::fmt::Display) -> Markup {
    html! { (text) }
}
