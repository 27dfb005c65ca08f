//! Notes about images that may be masks of other images, such as segmentations or depth maps.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Note, fields};

/// Words for folders of masks, in lower case and without blanks.
const FOLDERS: [&str; 12] = [
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

/// Ends of the names of masks whose image has the name without it.
const SUFFIXES: [&str; 8] = ["_mask", "-mask", "_seg", "_segmentation", "_gt", "_depth", "_matte", "_alpha"];

/// Notes a class folder that is called as masks are, and whose files have the names of those in another class folder.
pub(super) fn by_folder<'a>(names: impl Iterator<Item = &'a str>, class_root: &str) -> Option<Note> {
    let mut classes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (class, file) in names.filter_map(|name| name.strip_prefix(class_root)?.split_once('/')) {
        classes.entry(class).or_default().insert(fields::split(file).0);
    }
    let called = |class: &str| {
        let letters = class.chars().filter(char::is_ascii_alphabetic);
        FOLDERS.contains(&&*letters.map(|letter| letter.to_ascii_lowercase()).collect::<String>())
    };
    let (masks, files) = classes.iter().find(|(class, _)| called(class))?;
    let (images, _) = classes.iter().find(|(class, other)| class != &masks && files.is_subset(other))?;
    let note = format!(
        "the images in {images} and {masks} are taken as two classes, with files of the same names; if {masks} are masks, give the folder {images} alone"
    );
    Some(note.into())
}

/// The key of the image of which `key` may be a mask: `key` without an ending for masks.
fn image_of(key: &str) -> Option<&str> {
    let lower = key.to_ascii_lowercase();
    let image = SUFFIXES.iter().find_map(|suffix| lower.strip_suffix(suffix))?;
    key.get(..image.len())
}

/// Notes images whose names are those of other images in the same folder with an ending for masks.
pub(super) fn by_suffix<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Note> {
    let key = |name: &'a str| fields::split(name).0;
    let mut masks: Vec<&str> = names.clone().filter(|name| image_of(key(name)).is_some()).collect();
    if masks.is_empty() {
        return None;
    }
    let keys: HashSet<&str> = names.map(key).collect();
    masks.retain(|name| image_of(key(name)).is_some_and(|image| keys.contains(image)));
    let first = masks.first()?;
    let note = format!(
        "{} images have the name of another image and an ending for masks, and are samples too; the first is {first}; if \
         they are masks, move them to another place",
        masks.len()
    );
    Some(note.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_beside_their_images_are_noted() {
        let told = |names: &[&str]| by_suffix(names.iter().copied()).map(|note| note.text);
        let note = told(&["a/1.jpg", "a/1_mask.png", "a/2.jpg", "a/2_Mask.png"]).unwrap();
        assert!(
            note.starts_with("2 images have the name") && note.contains("the first is a/1_mask.png"),
            "{note}"
        );
        assert_eq!(told(&["a/1.jpg", "b/1_mask.png"]), None);
        assert_eq!(told(&["gas_mask.jpg", "face.jpg", "img1.jpg", "img10_gt.jpg"]), None);
    }
}
