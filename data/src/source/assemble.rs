//! Assembles the listing of images that are files in folders, on the disk or in archives: which images are samples, their
//! keys, classes, labels and captions.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::classes::Folders;
use super::fields::{self, Beside, Choice, Wanted};
use super::labels::{self, Label};
use super::{
    Captions, FieldKind, LeftAside, Listing, Note, Rejected, Sample, SourceError, csv_list, masks, names,
};

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
    /// Those of them that may list the images.
    pub lists: BTreeSet<String>,
}

impl<T> Part<T> {
    /// Counts a file that is no sample.
    pub(super) fn leave_aside(&mut self, name: &str) {
        fields::count_aside(&mut self.left_aside, name);
        if csv_list::is_list(name) && names::is_index(name) {
            self.lists.insert(name.to_owned());
        }
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
    let lists = lists(&parts);
    keep_above_lists(&mut folders, &lists);
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
        let note = format!(
            "{strays} of the images are beside the class folders and have no label; the first is {first}"
        );
        listing.notes.push(note.into());
    }
    let found = caption(root, found, &parts, wanted, &mut listing)?;
    label(root, &found, &parts, &folders, packed, wanted, &mut listing)?;
    listing.notes.extend(masks::by_suffix(found.iter().map(|found| &*found.name)));
    let lists = lists.iter().filter(|list| packed.starts_with(parent(list)));
    let lists = lists.map(|list| list.strip_prefix(packed).unwrap_or(list));
    listing.notes.extend(list_note(lists, &listing.samples));
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

/// The folder of a file, with a trailing slash; empty for the root.
fn parent(name: &str) -> &str {
    &name[..name.rfind('/').map_or(0, |slash| slash + 1)]
}

/// Files that may list the images, because they are called so and stand beside none of them.
fn lists<T>(parts: &[Part<T>]) -> BTreeSet<String> {
    let beside = |part: &Part<T>| part.beside.lists(part.images.iter().map(|(name, _)| &**name));
    parts.iter().flat_map(|part| part.lists.iter().cloned().chain(beside(part))).collect()
}

/// Keeps the folder of a list as the packed one if its images are all in one folder below, as in the folder on the disk.
fn keep_above_lists(folders: &mut Folders, lists: &BTreeSet<String>) {
    let (packed, _) = folders.packed();
    let above = parent(packed.trim_end_matches('/')).to_owned();
    if !packed.is_empty()
        && folders.within(packed).is_empty()
        && lists.iter().any(|list| parent(list) == above)
    {
        folders.add_folder(&above);
    }
}

/// Notes lists that may hold the labels, if the samples have no labels or all the same.
fn list_note<'a>(lists: impl Iterator<Item = &'a str>, samples: &[Sample]) -> Option<Note> {
    let classes: BTreeSet<u32> = samples.iter().filter_map(|sample| sample.label).collect();
    let lists: Vec<&str> = lists.take(3).collect();
    let (shown, verb) = (lists.join(", "), if lists.len() == 1 { "is" } else { "are" });
    (classes.len() < 2 && !lists.is_empty()).then(|| {
        format!(
            "{shown} {verb} not read: for labels from there, give a .csv list with rows path,label instead"
        )
        .into()
    })
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
            match text.unwrap_or(Err("there is no caption beside it")) {
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
        let note = format!("{no_labels} .json files hold a label that is neither a class number nor a name");
        listing.notes.push(Note::about(FieldKind::Label, note));
    }
    let named = wanted.fields.label.as_deref();
    if let (Some(name), false) = (named, own || described) {
        return Err(SourceError::no_field(root, FieldKind::Label, name, seen(parts)));
    }
    let class_root = folders.class_root(packed);
    let classes = classes(parts, folders, class_root, listing);
    if named.is_none() && !own && !classes.is_empty() {
        if described {
            let note = "classes are the folders; the labels in .json files are not read";
            listing.notes.push(Note::about(FieldKind::Label, note.to_owned()));
        }
        listing.notes.extend(split_note(packed, class_root));
        label_by_folders(found, folders, class_root, classes, listing);
        return Ok(());
    }
    let samples = |labels: Vec<Option<u32>>| {
        let samples = found.iter().zip(labels);
        samples.map(|(found, label)| Sample { key: found.key.clone(), label }).collect()
    };
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

/// The class folders in `class_root`. None if the folders there are shards or other parts of a data set; a note says so.
fn classes<T>(parts: &[Part<T>], folders: &Folders, class_root: &str, listing: &mut Listing) -> Vec<String> {
    let classes = folders.within(class_root);
    let is_shard =
        |class: &String| parts.iter().any(|part| part.shards.contains(&format!("{class_root}{class}")));
    let what = if !classes.is_empty() && classes.iter().all(is_shard) {
        "shards of img2dataset"
    } else if Folders::are_parts(&classes) {
        "parts of a data set"
    } else {
        return classes;
    };
    let shown = classes.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(", ");
    listing.notes.push(format!("the folders {shown}, ... are {what}, not classes").into());
    Vec::new()
}

/// Labels the samples by their class folders.
fn label_by_folders<T>(
    found: &[Found<T>],
    folders: &Folders,
    class_root: &str,
    classes: Vec<String>,
    listing: &mut Listing,
) {
    let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let class =
        |name: &str| name.strip_prefix(class_root)?.split_once('/').map(|(class, _)| class.to_owned());
    let number = |found: &Found<T>| numbers.get(&*class(&found.name)?).copied();
    let sample = |found: &Found<T>| Sample { key: found.key.clone(), label: number(found) };
    listing.samples = found.iter().map(sample).collect();
    let nested = folders.nested(class_root);
    let one = classes.first().filter(|_| classes.len() == 1);
    let one = one.map(|class| format!("all images are of one class, {class}"));
    listing.notes.extend(nested.or(one).map(Note::from));
    listing.notes.extend(masks::by_folder(found.iter().map(|found| &*found.name), class_root));
    listing.set_classes(classes);
}

/// Notes that the folder of the classes is not the packed one, but a split in it.
fn split_note(packed: &str, class_root: &str) -> Option<Note> {
    let split = class_root.strip_prefix(packed)?.strip_suffix('/')?;
    Some(format!("{split} is a split, not a class: the classes are the folders in it").into())
}

/// Fields and keys of the files beside images.
fn seen<T>(parts: &[Part<T>]) -> Vec<String> {
    let seen: BTreeSet<&String> = parts.iter().flat_map(|part| part.beside.seen()).collect();
    seen.into_iter().take(20).cloned().collect()
}
