//! The images of a cache: classes, sizes, views, rejects, duplicates and outliers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fs;

use lgd_data::ArtifactError;
use lgd_data::cache::{CacheConfig, Reject};
use lgd_data::error::IoContext;
use maud::{Markup, html};

use crate::cached::CachedImages;
use crate::error::ReportError;
use crate::neighbors::{Neighbor, is_exact, nearest};
use crate::page::{Column, Section, Tile, bar, cell, properties, table};
use crate::plot::{Histogram, side_by_side};
use crate::text::{bytes, count, counted};
use crate::thumbnails::Thumbnails;

/// Most classes in the table.
const CLASSES: usize = 1000;
/// Samples whose views are shown, and views of each.
const SHOWN_VIEWS: (usize, usize) = (4, 8);
/// Pairs of similar images and outliers that are shown.
const SHOWN: usize = 12;
/// Similarity of embeddings from which two images count as near duplicates.
const NEAR: f32 = 0.98;

/// The images of a cache.
pub(crate) struct Images<'a, 'b> {
    images: &'a CachedImages<'b>,
    thumbnails: &'a Thumbnails<'a>,
    rejects: Vec<Reject>,
}

impl<'a, 'b> Images<'a, 'b> {
    /// Reads the rejects of the cache.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if they cannot be read.
    pub(crate) fn read(
        images: &'a CachedImages<'b>,
        thumbnails: &'a Thumbnails<'a>,
    ) -> Result<Self, ArtifactError> {
        let path = images.cache.dir().join(&images.cache.manifest().rejects.name);
        let text = fs::read_to_string(&path).during("read", &path)?;
        let rejects = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Self { images, thumbnails, rejects })
    }

    /// Numbers of images, views and rejects, and bytes.
    pub(crate) fn tiles(&self) -> Vec<Tile> {
        let manifest = self.images.cache.manifest();
        let CacheConfig { views, dim, samples, .. } = &manifest.config;
        let total =
            manifest.bytes().0 + manifest.bytes().1 + manifest.token_bytes() + manifest.caption_bytes();
        vec![
            Tile::new("Images", count(manifest.samples()), format!("of {} listed", count(*samples))),
            Tile::new("Views", count(manifest.rows), format!("{views} per image, embeddings of {dim}")),
            Tile::new("Rejected", count(manifest.rejected), ""),
            Tile::new("Size", bytes(total), ""),
        ]
    }

    /// The sections: images, views, rejects, duplicates and outliers.
    ///
    /// # Errors
    /// [`ReportError::Plot`] if plotters fails.
    pub(crate) fn sections(&self) -> Result<Vec<Section>, ReportError> {
        let mut sections = vec![Section::new("images", "Images", self.contents()?)];
        if self.thumbnails.exist() && self.images.views.samples() > 0 {
            sections.push(Section::new("views", "Views", self.views()));
        }
        sections.push(Section::new("rejects", "Rejected", self.rejected()));
        sections.push(Section::new("neighbors", "Duplicates and outliers", self.neighbors()?));
        Ok(sections)
    }

    fn contents(&self) -> Result<Markup, ReportError> {
        let stamps = &self.images.views.images;
        let sides = |longer: bool| -> Vec<f64> {
            let side =
                |(width, height): (u32, u32)| if longer { width.max(height) } else { width.min(height) };
            stamps.iter().map(|stamp| f64::from(side((stamp.width, stamp.height)))).collect()
        };
        let same =
            stamps.windows(2).all(|pair| (pair[0].width, pair[0].height) == (pair[1].width, pair[1].height));
        let mut plots = Vec::new();
        if !same {
            let shapes = [
                ("shorter-side", "Shorter side of the images", false),
                ("longer-side", "Longer side of the images", true),
            ];
            for (id, title, longer) in shapes {
                plots.extend(
                    Histogram { id, title, axis: "pixels", values: &sides(longer), digits: 0 }.plot()?,
                );
            }
        }
        Ok(html! {
            @if let (true, Some(first)) = (same, stamps.first()) {
                p { "All images have " (first.width) " × " (first.height) " pixels." }
            }
            (side_by_side(&plots))
            (self.classes())
        })
    }

    /// Images of each class, the most frequent first.
    fn classes(&self) -> Markup {
        let labels = &self.images.views.labels;
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        labels.iter().flatten().for_each(|label| *counts.entry(*label).or_default() += 1);
        let unlabeled = labels.iter().filter(|label| label.is_none()).count();
        if counts.is_empty() {
            return html! { p { "The images have no labels." } };
        }
        let mut order: Vec<(u32, usize)> = counts.into_iter().collect();
        order.sort_by_key(|&(_, images)| Reverse(images));
        let most = order[0].1;
        let rows = order.iter().take(CLASSES).map(|&(label, images)| {
            vec![
                cell(self.images.class_name(label)),
                cell(count(images)),
                bar(images as f64 / most as f64, 0),
            ]
        });
        let columns = [Column::Words("label"), Column::Number("images"), Column::Words("relative")];
        html! {
            (table("Images by label", &columns, rows.collect()))
            @if order.len() > CLASSES { p.note { "The " (count(CLASSES)) " most frequent labels of " (count(order.len())) "." } }
            @if unlabeled > 0 { p.note { (counted(unlabeled, "image")) " without a label." } }
        }
    }

    /// The views of a few samples, as teacher and student see them.
    fn views(&self) -> Markup {
        let config = &self.images.cache.manifest().config;
        let samples = self.images.views.samples();
        let chosen: Vec<usize> =
            (0..SHOWN_VIEWS.0.min(samples)).map(|at| at * samples / SHOWN_VIEWS.0.min(samples)).collect();
        let center = if config.center.is_some() { "View 0 is the center crop. " } else { "" };
        html! {
            p { (center) "The others are drawn by the policy " (config.policy) " with seed " (config.seed) "." }
            div.groups { @for &sample in &chosen {
                article.group {
                    h4 { (self.images.views.keys[sample]) }
                    div.thumbs { @for (number, picture) in self.thumbnails.load_views(sample, SHOWN_VIEWS.1).iter().enumerate() {
                        (picture.html(&format!("view {number}")))
                    } }
                }
            } }
        }
    }

    fn rejected(&self) -> Markup {
        let mut reasons: BTreeMap<&str, (usize, &Reject)> = BTreeMap::new();
        for reject in &self.rejects {
            reasons.entry(&reject.reason).or_insert((0, reject)).0 += 1;
        }
        let mut order: Vec<(&str, (usize, &Reject))> = reasons.into_iter().collect();
        order.sort_by_key(|(_, (images, _))| Reverse(*images));
        let rows = order.into_iter().map(|(reason, (images, first))| {
            vec![cell(reason), cell(count(images)), cell(&first.key), cell(&first.detail)]
        });
        let rows: Vec<Vec<Markup>> = rows.collect();
        let columns = [
            Column::Words("reason"),
            Column::Number("images"),
            Column::Words("for example"),
            Column::Words("detail"),
        ];
        let aside: Vec<(String, Markup)> = self
            .images
            .cache
            .manifest()
            .left_aside
            .kinds()
            .map(|(kind, files)| (kind.to_owned(), cell(count(files))))
            .collect();
        html! {
            @if rows.is_empty() { p { "No image was rejected." } } @else { (table("Rejected images by reason", &columns, rows)) }
            @if !aside.is_empty() { (properties("Left aside: neither images nor rejected", &aside)) }
        }
    }

    fn neighbors(&self) -> Result<Markup, ReportError> {
        let images = self.images;
        let found = nearest(&images.embeddings, images.cache.dim());
        let similarities: Vec<f64> = found.iter().map(|neighbor| f64::from(neighbor.similarity)).collect();
        let histogram = Histogram {
            id: "neighbor-similarity",
            title: "Similarity to the nearest other image",
            axis: "cosine of the teacher's embeddings",
            values: &similarities,
            digits: 2,
        };
        let plots: Vec<_> = histogram.plot()?.into_iter().collect();
        let near = found.iter().filter(|neighbor| neighbor.similarity >= NEAR).count();
        let approximate = !found.is_empty() && !is_exact(found.len());
        Ok(html! {
            (self.copies())
            @if !found.is_empty() {
                p { (counted(near, "image")) " of " (count(found.len())) " have another with a cosine of at least " (NEAR) "." }
            }
            @if let Some(note) = images.sampled_note() { p.note { (note) } }
            @if approximate { p.note { "Neighbors are searched among similar images only, so a few pairs may be missed." } }
            (side_by_side(&plots))
            (self.pairs(&found))
            (self.outliers(&found))
        })
    }

    /// Groups of images with the same bytes.
    fn copies(&self) -> Markup {
        let views = &self.images.views;
        let mut groups: HashMap<u64, Vec<usize>> = HashMap::new();
        for (sample, stamp) in views.images.iter().enumerate() {
            groups.entry(stamp.content).or_default().push(sample);
        }
        let mut groups: Vec<Vec<usize>> = groups.into_values().filter(|group| group.len() > 1).collect();
        groups.sort_by_key(|group| (Reverse(group.len()), group[0]));
        if groups.is_empty() {
            return html! { p { "No two images have the same bytes." } };
        }
        let surplus: usize = groups.iter().map(|group| group.len() - 1).sum();
        let rows = groups.iter().take(SHOWN).map(|group| {
            let labels: Vec<String> = group.iter().map(|&sample| self.images.class_of(sample)).collect();
            let differ =
                if labels.windows(2).any(|pair| pair[0] != pair[1]) { "; labels differ" } else { "" };
            let keys: Vec<&str> = group.iter().take(4).map(|&sample| views.keys[sample].as_str()).collect();
            let more = if group.len() > keys.len() { ", …" } else { "" };
            vec![cell(format!("{}{more}{differ}", keys.join(", "))), cell(count(group.len()))]
        });
        let columns = [Column::Words("images"), Column::Number("copies")];
        html! {
            p { (counted(surplus, "image")) " repeat another's bytes, in " (counted(groups.len(), "group")) "." }
            (table("Images with the same bytes", &columns, rows.collect()))
        }
    }

    /// The most similar pairs of images with different bytes.
    fn pairs(&self, found: &[Neighbor]) -> Markup {
        let (images, views) = (self.images, &self.images.views);
        let stamp = |at: usize| views.images[images.samples[at]].content;
        let mut pairs: Vec<(usize, usize, f32)> = found
            .iter()
            .enumerate()
            .filter(|(at, neighbor)| neighbor.index < found.len() && stamp(*at) != stamp(neighbor.index))
            .map(|(at, neighbor)| (at.min(neighbor.index), at.max(neighbor.index), neighbor.similarity))
            .collect();
        pairs.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        pairs.dedup_by_key(|pair| (pair.0, pair.1));
        pairs.truncate(SHOWN);
        if pairs.is_empty() {
            return html! {};
        }
        let samples: Vec<usize> =
            pairs.iter().flat_map(|&(a, b, _)| [images.samples[a], images.samples[b]]).collect();
        let pictures = if self.thumbnails.exist() { self.thumbnails.load(&samples) } else { Vec::new() };
        let caption = |sample: usize| images.class_of(sample);
        html! {
            h3 { "Most similar pairs" span.soft { " of different files" } }
            @if pictures.is_empty() {
                @let rows = pairs.iter().map(|&(a, b, similarity)| {
                    let [first, second] = [a, b].map(|at| cell(&views.keys[images.samples[at]]));
                    vec![first, second, cell(format!("{similarity:.4}"))]
                });
                (table("Most similar pairs", &[Column::Words("image"), Column::Words("image"), Column::Number("cosine")], rows.collect()))
            } @else {
                div.pairs { @for (at, pair) in pairs.iter().enumerate() {
                    div {
                        div.thumbs {
                            @for side in [2 * at, 2 * at + 1] { (pictures[side].html(&caption(samples[side]))) }
                        }
                        p.note { "cosine " (format!("{:.4}", pair.2)) }
                    }
                } }
            }
        }
    }

    /// The images that are least similar to any other.
    fn outliers(&self, found: &[Neighbor]) -> Markup {
        let images = self.images;
        let mut order: Vec<usize> = (0..found.len()).collect();
        order.sort_by(|&a, &b| found[a].similarity.total_cmp(&found[b].similarity).then(a.cmp(&b)));
        order.truncate(2 * SHOWN);
        if order.is_empty() {
            return html! {};
        }
        let samples: Vec<usize> = order.iter().map(|&at| images.samples[at]).collect();
        let pictures = if self.thumbnails.exist() { self.thumbnails.load(&samples) } else { Vec::new() };
        html! {
            h3 { "Outliers" span.soft { " least similar to any other image" } }
            @if pictures.is_empty() {
                @let rows = order.iter().zip(&samples).map(|(&at, &sample)| {
                    vec![cell(&images.views.keys[sample]), cell(format!("{:.3}", found[at].similarity))]
                });
                (table("Outliers", &[Column::Words("image"), Column::Number("cosine to the nearest")], rows.collect()))
            } @else {
                div.thumbs { @for (picture, &at) in pictures.iter().zip(&order) {
                    @let class = images.class_of(images.samples[at]);
                    @let similarity = format!("{:.3}", found[at].similarity);
                    (picture.html(&if class.is_empty() { similarity } else { format!("{class}, {similarity}") }))
                } }
            }
        }
    }
}
