//! Classes: the folders of images, in archives and on the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::splits::{is_part, split_word};

/// The folders of a set of images, from the paths of its images and of folders that are listed themselves.
#[derive(Debug, Default)]
pub(super) struct Folders {
    /// Every folder, with its trailing slash; an empty path for the root.
    folders: BTreeMap<String, Folder>,
}

#[derive(Debug, Default)]
struct Folder {
    /// Number of images directly in the folder, and at any depth.
    direct: usize,
    below: usize,
    /// Folders directly in it.
    children: BTreeSet<String>,
    /// Whether the folder is listed itself.
    listed: bool,
}

impl Folders {
    /// Adds an image by its path.
    pub(super) fn add_image(&mut self, path: &str) {
        let parent = path.rfind('/').map_or(0, |slash| slash + 1);
        self.enter(&path[..parent]).direct += 1;
        for folder in ancestors(&path[..parent]) {
            // All of them were made with the folder.
            if let Some(folder) = self.folders.get_mut(folder) {
                folder.below += 1;
            }
        }
    }

    /// Adds a folder by its path with a trailing slash; an empty path is the root.
    pub(super) fn add_folder(&mut self, path: &str) {
        self.enter(path).listed = true;
    }

    /// Removes the folders that hold other files, which are in the folders `others`, and no images: they are no classes.
    /// Empty folders are, because the number of a class does not depend on which of its images are there.
    pub(super) fn remove_without_images<'a>(&mut self, others: impl Iterator<Item = &'a str>) {
        for other in others {
            for folder in ancestors(other).filter(|folder| !folder.is_empty()) {
                if self.folders.get(folder).is_some_and(|folder| folder.below == 0) {
                    self.folders.remove(folder);
                    let parent = ancestors(folder).nth(1).unwrap_or_default();
                    if let Some(parent) = self.folders.get_mut(parent) {
                        parent.children.remove(folder);
                    }
                }
            }
        }
    }

    /// The folder `path`, which is made with all folders above it.
    fn enter(&mut self, path: &str) -> &mut Folder {
        if !self.folders.contains_key(path) {
            let mut child: Option<&str> = None;
            for folder in ancestors(path) {
                let entry = self.folders.entry(folder.to_owned()).or_default();
                if let Some(child) = child {
                    entry.children.insert(child.to_owned());
                }
                child = Some(folder);
            }
        }
        self.folders.entry(path.to_owned()).or_default()
    }

    /// The folder that was packed, and the number of images that stand above it: the deepest folder that holds all
    /// images and all listed folders, or all but a few images, if below it there are class folders.
    pub(super) fn packed(&self) -> (&str, usize) {
        let (mut packed, mut strays) = ("", 0);
        while let Some(folder) = self.folders.get(packed)
            && !folder.listed
            && folder.children.len() == 1
            && let Some((path, child)) =
                folder.children.first().and_then(|child| self.folders.get_key_value(child))
        {
            let classes = child.children.len();
            let few = 2 * folder.direct <= child.below && (classes > 1 || (classes == 1 && child.listed));
            if folder.direct > 0 && !few {
                break;
            }
            strays += folder.direct;
            packed = path;
        }
        (packed, strays)
    }

    /// The names of the folders directly in `folder`, in bytewise order.
    pub(super) fn within(&self, folder: &str) -> Vec<String> {
        let children = self.folders.get(folder).into_iter().flat_map(|folder| &folder.children);
        let mut names: Vec<String> =
            children.map(|child| child[folder.len()..].trim_end_matches('/').to_owned()).collect();
        // The slash at the end of a path sorts after the characters of some names.
        names.sort_unstable();
        names
    }

    /// The folder of the classes below `packed`: `packed`, or the only folder in it if that is a split with several
    /// folders of its own, such as `train`.
    pub(super) fn class_root(&self, packed: &str) -> &str {
        let children = self.folders.get(packed).into_iter().flat_map(|folder| &folder.children);
        let mut children = children.filter_map(|child| self.folders.get_key_value(child));
        match (self.folders.get_key_value(packed), children.next(), children.next()) {
            (Some(_), Some((path, child)), None)
                if split_word(&path[packed.len()..]).is_some()
                    && child.direct == 0
                    && child.children.len() > 1 =>
            {
                path
            }
            (packed, ..) => packed.map_or("", |(packed, _)| packed),
        }
    }

    /// Describes the classes below `folder`, if their own folders may be the classes that were meant.
    pub(super) fn nested(&self, folder: &str) -> Option<String> {
        let classes = self.folders.get(folder).into_iter().flat_map(|folder| &folder.children);
        let nests = |class: &&String| {
            self.folders.get(*class).is_some_and(|class| class.direct == 0 && class.children.len() > 1)
        };
        let class = classes.into_iter().find(nests)?;
        let (name, inner) = (class[folder.len()..].trim_end_matches('/'), self.within(class));
        let more = if inner.len() > 3 { ", ..." } else { "" };
        let inner = inner.into_iter().take(3).collect::<Vec<_>>().join(", ");
        Some(format!("{name} is one class; its folders {inner}{more} are not classes of their own"))
    }

    /// Folders that are splits of a data set instead of classes or parts of one class, one of each split: those directly in
    /// `folder`, or those in the first of its folders that holds nothing else.
    pub(super) fn splits(&self, folder: &str) -> Option<Vec<String>> {
        let inside = |class: String| {
            let path = format!("{folder}{class}/");
            let holds_images = self.folders.get(&path).is_some_and(|class| class.direct > 0);
            let splits = self.splits_in(&path).filter(|_| !holds_images)?;
            Some(splits.into_iter().map(|split| format!("{class}/{split}")).collect())
        };
        self.splits_in(folder).or_else(|| self.within(folder).into_iter().find_map(inside))
    }

    /// The folders directly in `folder` that are splits: all of them are called so, or two of them hold a class of the same
    /// name. Numbered parts with folders of their own, such as `fold1`, are splits too.
    fn splits_in(&self, folder: &str) -> Option<Vec<String>> {
        let names = self.within(folder);
        let mut marked: BTreeMap<&str, &String> = BTreeMap::new();
        for name in &names {
            if let Some(split) = split_word(name) {
                marked.entry(split).or_insert(name);
            }
        }
        let shares = |folders: &mut dyn Iterator<Item = &String>| {
            let mut classes = BTreeSet::new();
            folders
                .flat_map(|name| self.within(&format!("{folder}{name}/")))
                .any(|class| !classes.insert(class))
        };
        let all = names.iter().all(|name| split_word(name).is_some());
        if marked.len() > 1 && (all || shares(&mut marked.values().copied())) {
            return Some(marked.into_values().cloned().collect());
        }
        let parts = names.len() > 1 && names.iter().all(|name| is_part(name));
        (parts && shares(&mut names.iter())).then_some(names)
    }

    /// Whether the folders `classes` are numbered parts of a data set instead of classes.
    pub(super) fn are_parts(classes: &[String]) -> bool {
        classes.len() > 1 && classes.iter().all(|class| is_part(class))
    }
}

/// A folder and all folders above it, up to the root.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        let parent = path.strip_suffix('/')?;
        Some(parent.rfind('/').map_or("", |slash| &parent[..=slash]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(images: &[&str], listed: &[&str]) -> Folders {
        let mut folders = Folders::default();
        images.iter().for_each(|image| folders.add_image(image));
        listed.iter().for_each(|folder| folders.add_folder(folder));
        folders
    }

    #[test]
    fn the_packed_folder_is_above_the_classes() {
        let (cat, dog) = (["p/cat/1", "p/cat/2"], ["p/dog/1", "p/dog/2"]);
        let both = [cat, dog].concat();
        let stray = [&both[..], &["cover"]].concat();
        for (images, listed, expected) in [
            (&both[..], &[][..], ("p/", 0)),
            (&stray, &[], ("p/", 1)),
            (&cat, &[], ("p/cat/", 0)),
            (&cat, &["p/"], ("p/", 0)),
            (&[&cat[..], &["cover"]].concat(), &["p/", "p/cat/"], ("p/", 1)),
            (&[&cat[..], &["cover"]].concat(), &[], ("", 0)),
            (&both, &[""], ("", 0)),
            (&["1", "2"], &[], ("", 0)),
            (&["a/1", "a/b/1", "a/c/1", "1", "2"], &[], ("", 0)),
        ] {
            assert_eq!(folders(images, listed).packed(), expected, "{images:?} {listed:?}");
        }
    }

    #[test]
    fn folders_of_other_files_are_no_classes() {
        let mut folders = folders(&["cat/1"], &["", "cat/", "dog/", "labels/", "labels/a/"]);
        folders.remove_without_images(["", "cat/", "labels/a/", "nowhere/"].into_iter());
        assert_eq!(folders.within(""), ["cat", "dog"]);
    }

    #[test]
    fn splits_are_told_from_classes() {
        let two = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        for (images, expected) in [
            (&["train/cat/1", "val/cat/1"][..], two(&["train", "val"])),
            (&["train/1", "test/1"], two(&["test", "train"])),
            (&["train2017/1", "val2017/1"], two(&["train2017", "val2017"])),
            (&["train/cat/1", "val/cat/1", "extra/1"], two(&["train", "val"])),
            (&["train/1", "car/1"], None),
            (&["images/train/1", "images/val/1"], two(&["images/train", "images/val"])),
            (&["cat/train/1", "cat/val/1", "dog/train/1", "dog/val/1"], two(&["cat/train", "cat/val"])),
            (&["cat/train/1", "cat/val/1", "cat/1", "dog/1"], None),
            (&["fold1/cat/1", "fold2/cat/1", "fold2/dog/1"], two(&["fold1", "fold2"])),
            (&["fold1/1", "fold2/1"], None),
            (&["camera1/cat/1", "camera2/cat/1"], None),
            (&["train/1", "test/1", "car/1"], None),
            (&["cat/1", "dog/1"], None),
        ] {
            assert_eq!(folders(images, &[]).splits(""), expected, "{images:?}");
        }
    }

    #[test]
    fn the_classes_of_a_lone_split_are_its_folders() {
        for (images, expected) in [
            (&["train/cat/1", "train/dog/1"][..], "train/"),
            (&["train/cat/1"], ""),
            (&["train/cat/1", "train/dog/1", "train/1"], ""),
            (&["pets/cat/1", "pets/dog/1"], ""),
            (&["train/cat/1", "train/dog/1", "car/1"], ""),
        ] {
            assert_eq!(folders(images, &[""]).class_root(""), expected, "{images:?}");
        }
    }

    #[test]
    fn classes_with_folders_of_their_own_are_told() {
        let told = folders(&["animal/cat/1", "animal/dog/1", "plant/1"], &[]).nested("");
        assert_eq!(
            told.as_deref(),
            Some("animal is one class; its folders cat, dog are not classes of their own")
        );
        assert_eq!(folders(&["a/x/1", "a/1", "a/y/1"], &[]).nested(""), None);
    }
}
