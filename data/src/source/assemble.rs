//! Assembles the listing of images that are files in folders, on the disk or in archives: which images are samples, their
//! keys, classes, labels and captions.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::classes::Folders;
use super::fields::{self, Beside, Choice, Wanted};
use super::labels::{self, Label};
use super::{Captions, FieldKind, LeftAside, Listing, Rejected, Sample, SourceError};

/// The files of an archive or of a folder. `T` says where an image is.
#[derive(Debug, Default)]
pub(super) struct Part<T> {
    /// Names of the images, with `/` between folders.
    pub images: Vec<(String, T)>,
    /// Files beside images.
    pub beside: Beside,
    /// Folders that are listed themselves, with a trailing slash; an empty name is the root.
    pub folders: BTreeSet<String>,
    /// Folders of images that img2dataset reports about, which are its shards.
    pub shards: HashSet<String>,
    /// Files that cannot be samples, with their full names.
    pub rejected: Vec<Rejected>,
    /// Files that are neither.
    pub left_aside: LeftAside,
    /// Folders of such files, with a trailing slash.
    pub others: BTreeSet<String>,
}

impl<T> Part<T> {
    /// Counts a file that is no sample.
    pub(super) fn leave_aside(&mut self, name: &str) {
        fields::count_aside(&mut self.left_aside, name);
        let parent = name.rfind('/').map_or(0, |slash| slash + 1);
        if !self.others.contains(&name[..parent]) {
            self.others.insert(name[..parent].to_owned());
        }
    }
}

/// What a [`Listing`] was assembled from: it, and the part and place of each sample.
pub(super) struct Assembled<T> {
    pub listing: Listing,
    pub places: Vec<(usize, T)>,
}

/// How keys are made.
pub(super) enum Keys<'a> {
    /// From the path below the packed folder, for one part.
    Packed,
    /// From a name for each part and the whole path.
    Parts(&'a [String]),
}

/// A sample before its label is known.
struct Found<T> {
    part: usize,
    name: String,
    key: String,
    place: T,
}

/// Assembles the listing of `parts`. `root` is the path that the user gave.
///
/// # Errors
/// [`SourceError`] if labels, captions or images are ambiguous or not there as requested, or the folders are splits of a
/// data set.
pub(super) fn assemble<T>(
    root: &Path,
    mut parts: Vec<Part<T>>,
    keys: &Keys<'_>,
    wanted: &Wanted,
) -> Result<Assembled<T>, SourceError> {
    let mut listing = Listing { fields: wanted.fields.clone(), ..Listing::default() };
    choose(root, &mut parts, wanted, &mut listing)?;
    let mut folders = Folders::default();
    for part in &parts {
        part.images.iter().for_each(|(name, _)| folders.add_image(name));
        part.folders.iter().for_each(|folder| folders.add_folder(folder));
    }
    let others =
        parts.iter().flat_map(|part| part.others.iter().map(String::as_str).chain(part.beside.folders()));
    folders.remove_without_images(others);
    let (packed, strays) = folders.packed();
    if let Some(splits) = folders.splits(packed) {
        return Err(SourceError::Splits { path: root.to_owned(), splits });
    }
    let mut found = Vec::new();
    for (part, content) in parts.iter_mut().enumerate() {
        let key = |name: &str| match keys {
            Keys::Packed => name.strip_prefix(packed).unwrap_or(name).to_owned(),
            Keys::Parts(parts) => format!("{}/{name}", parts[part]),
        };
        let images = std::mem::take(&mut content.images).into_iter();
        found.extend(images.map(|(name, place)| Found { part, key: key(&name), name, place }));
        let rejected = std::mem::take(&mut content.rejected).into_iter();
        listing.rejected.extend(rejected.map(|reject| Rejected { key: key(&reject.key), ..reject }));
    }
    if strays > 0 {
        keep_keys_apart(&mut found, packed);
        let first =
            found.iter().find(|found| !found.name.starts_with(packed)).map_or("", |found| &*found.name);
        listing.notes.push(format!(
            "{strays} of the images are beside the class folders and have no label; the first is {first}"
        ));
    }
    let found = caption(root, found, &parts, wanted, &mut listing)?;
    label(root, &found, &parts, &folders, packed, wanted, &mut listing)?;
    let mut rest = &found[..];
    for (at, part) in parts.iter().enumerate() {
        let (of_part, others) = rest.split_at(rest.partition_point(|found| found.part == at));
        part.beside.count_unused(of_part.iter().map(|found| &*found.name), &mut listing.left_aside);
        listing.left_aside.append(&part.left_aside);
        rest = others;
    }
    let places = found.into_iter().map(|found| (found.part, found.place)).collect();
    Ok(Assembled { listing, places })
}

/// Removes the images that are no samples from `parts`.
fn choose<T>(
    root: &Path,
    parts: &mut [Part<T>],
    wanted: &Wanted,
    listing: &mut Listing,
) -> Result<(), SourceError> {
    let described = parts.iter().any(|part| part.images.iter().any(|(name, _)| part.beside.describes(name)));
    let images = parts.iter().enumerate();
    let images = images.flat_map(|(at, part)| part.images.iter().map(move |(name, _)| (at, &**name)));
    let named = wanted.fields.image.as_deref();
    let choice = Choice::of(images, described, named)
        .map_err(|(key, got)| SourceError::several(root, FieldKind::Image, &key, got))?;
    let mut dropped = BTreeSet::new();
    for part in parts.iter_mut() {
        part.images.retain(|(name, _)| {
            let takes = choice.takes(name);
            if !takes {
                let field = fields::split(name).1;
                listing.left_aside.add(&format!(".{field}"), 1);
                dropped.insert(field);
            }
            takes
        });
    }
    listing.notes.extend(choice.note);
    if let (Some(name), true) = (named, parts.iter().all(|part| part.images.is_empty())) {
        let known = dropped.into_iter().collect();
        return Err(SourceError::no_field(root, FieldKind::Image, name, known));
    }
    Ok(())
}

/// Changes the keys of images above the packed folder that are keys of images below it.
fn keep_keys_apart<T>(found: &mut [Found<T>], packed: &str) {
    let below = found.iter().filter(|found| found.name.starts_with(packed));
    let below: HashSet<String> = below.map(|found| found.key.clone()).collect();
    for found in found.iter_mut().filter(|found| !found.name.starts_with(packed)) {
        if below.contains(&found.key) {
            found.key.insert_str(0, "../");
        }
    }
}

/// Reads the captions of the samples if they are wanted, and rejects samples without one.
fn caption<T>(
    root: &Path,
    found: Vec<Found<T>>,
    parts: &[Part<T>],
    wanted: &Wanted,
    listing: &mut Listing,
) -> Result<Vec<Found<T>>, SourceError> {
    let (mut kept, mut texts) = (Vec::with_capacity(found.len()), Vec::new());
    let mut captioned = false;
    for sample in found {
        let text = parts[sample.part].beside.caption(&sample.name, wanted);
        let text = text.map_err(|got| SourceError::several(root, FieldKind::Caption, &sample.key, got))?;
        captioned |= text.is_some();
        if wanted.captions {
            match text.unwrap_or(Err("no caption stands beside it")) {
                Ok(text) => texts.push(text.to_owned()),
                Err(detail) => {
                    let (key, detail) = (sample.key, detail.to_owned());
                    listing.rejected.push(Rejected { key, reason: "no-caption", detail });
                    continue;
                }
            }
        }
        kept.push(sample);
    }
    if wanted.captions {
        if texts.is_empty() {
            return Err(match &wanted.fields.caption {
                Some(name) => SourceError::no_field(root, FieldKind::Caption, name, seen(parts)),
                None => SourceError::NoCaptions { path: root.to_owned() },
            });
        }
        listing.captions = Some(Captions::Texts(texts));
    } else {
        listing.ignores_captions = captioned;
    }
    Ok(kept)
}

/// Labels the samples, by the first of these that there is: the field that was named, `.cls` files, class folders,
/// descriptions.
fn label<T>(
    root: &Path,
    found: &[Found<T>],
    parts: &[Part<T>],
    folders: &Folders,
    packed: &str,
    wanted: &Wanted,
    listing: &mut Listing,
) -> Result<(), SourceError> {
    let mut raw = Vec::with_capacity(found.len());
    let (mut own, mut described) = (false, false);
    for sample in found {
        let label = parts[sample.part].beside.label(&sample.name, wanted);
        let label = label.map_err(|got| SourceError::several(root, FieldKind::Label, &sample.key, got))?;
        own |= label.is_some_and(|(_, described)| !described);
        described |= label.is_some_and(|(_, described)| described);
        raw.push(label);
    }
    let no_labels: u64 = parts.iter().map(|part| part.beside.no_labels()).sum();
    if no_labels > 0 {
        listing
            .notes
            .push(format!("the label in {no_labels} .json files is neither a class number nor a name"));
    }
    let named = wanted.fields.label.as_deref();
    if let (Some(name), false) = (named, own || described) {
        return Err(SourceError::no_field(root, FieldKind::Label, name, seen(parts)));
    }
    let class_root = folders.class_root(packed);
    let mut classes = folders.within(class_root);
    let is_shard =
        |class: &String| parts.iter().any(|part| part.shards.contains(&format!("{class_root}{class}")));
    if !classes.is_empty() && classes.iter().all(is_shard) {
        let shown = classes.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(", ");
        listing.notes.push(format!("the folders {shown}, ... are shards of img2dataset, not classes"));
        classes.clear();
    }
    let by_folder = named.is_none() && !own && !classes.is_empty();
    if by_folder && described {
        listing.notes.push(
            "classes are the folders; the labels in .json files are not read, --label-field takes them"
                .to_owned(),
        );
    }
    let samples = |labels: Vec<Option<u32>>| {
        let samples = found.iter().zip(labels);
        samples.map(|(found, label)| Sample { key: found.key.clone(), label }).collect()
    };
    if by_folder {
        let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
        let class =
            |name: &str| name.strip_prefix(class_root)?.split_once('/').map(|(class, _)| class.to_owned());
        let number = |found: &Found<T>| numbers.get(&*class(&found.name)?).copied();
        listing.samples = samples(found.iter().map(number).collect());
        listing.notes.extend(split_note(packed, class_root));
        let nested = folders.nested(class_root);
        let one = classes.first().filter(|_| classes.len() == 1);
        let one = one.map(|class| format!("all images are of one class, {class}"));
        listing.notes.extend(nested.or(one));
        listing.notes.extend(masks(found.iter().map(|found| &*found.name), class_root));
        listing.set_classes(classes);
        return Ok(());
    }
    // Labels in files go before labels in descriptions, so that one sample's description does not mix with them.
    let taken =
        |(label, described): (&Label, bool)| (named.is_some() || !own || !described).then(|| label.clone());
    let labels: Vec<Label> =
        raw.into_iter().map(|label| label.and_then(taken).unwrap_or(Label::None)).collect();
    let (labels, class_names) = labels::resolve(&labels)
        .map_err(|(at, fault)| SourceError::Label { path: root.join(&found[at].key), fault })?;
    if own || described {
        let field = named.unwrap_or(if own { ".cls files" } else { ".json files" });
        listing.notes.extend(labels::notes(field, &labels, class_names.as_deref()));
    }
    listing.samples = samples(labels);
    listing.class_names = class_names;
    Ok(())
}

/// Notes that the folder of the classes is not the packed one, but a split in it.
fn split_note(packed: &str, class_root: &str) -> Option<String> {
    let split = class_root.strip_prefix(packed)?.strip_suffix('/')?;
    Some(format!("{split} is a split, not a class: the classes are the folders in it"))
}

/// Words for folders of masks, in lower case and without blanks.
const MASKS: [&str; 12] = [
    "mask",
    "masks",
    "label",
    "labels",
    "annotation",
    "annotations",
    "segmentation",
    "segmentationclass",
    "gt",
    "groundtruth",
    "depth",
    "targets",
];

/// Notes a class folder that is called as masks are, and whose files have the names of those in another class folder.
fn masks<'a>(names: impl Iterator<Item = &'a str>, class_root: &str) -> Option<String> {
    let mut classes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (class, file) in names.filter_map(|name| name.strip_prefix(class_root)?.split_once('/')) {
        classes.entry(class).or_default().insert(fields::split(file).0);
    }
    let called = |class: &str| {
        let letters = class.chars().filter(char::is_ascii_alphabetic);
        MASKS.contains(&&*letters.map(|letter| letter.to_ascii_lowercase()).collect::<String>())
    };
    let (masks, files) = classes.iter().find(|(class, _)| called(class))?;
    let (images, _) = classes.iter().find(|(class, other)| class != &masks && files.is_subset(other))?;
    Some(format!(
        "{masks} and {images} are two classes, with files of the same names: if {masks} holds no images of its own, give the folder {images} alone"
    ))
}

/// Fields and keys of the files beside images.
fn seen<T>(parts: &[Part<T>]) -> Vec<String> {
    let seen: BTreeSet<&String> = parts.iter().flat_map(|part| part.beside.seen()).collect();
    seen.into_iter().take(20).cloned().collect()
}
