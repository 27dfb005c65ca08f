//! Fields of samples: the files of a sample in archives and folders, as WebDataset's tools write them.
//!
//! - The files of a sample share a key, the path up to the first dot of the file name; the rest is the field. Parts
//!   that begin with a digit belong to the key, because they are dates, versions and coordinates: `22.05.png` has the
//!   key `22.05` and the field `png`. If such a key has no files beside the image, those of the shorter key count.
//! - The label is the number or name in a field that ends in `cls`, or a value in a `json`; the caption is the text in a
//!   field that ends in `txt`, or a value in a `json`. `x.jpg.cls` and `x.cls` both belong to `x.jpg`.
//! - A sample with several images, such as masks, has one that is taken: the field that was named, else the only field
//!   without a dot (`jpg` beside `mask.png`), else the only one called as images are (`input.png`). Otherwise the source
//!   is refused. Files that nothing describes are files of a folder, and all of them are samples.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::labels::{Label, LabelFault};
use super::{FieldKind, FieldNames, LeftAside, Note, csv_list, names};

/// Maximum size of a label, and of a caption or a description, in bytes.
const LABEL_BYTES: usize = 256;
const TEXT_BYTES: usize = 1 << 20;

/// Endings of fields that hold a label, a caption, or a description.
const LABELS: [&str; 2] = ["cls", "class"];
const TEXTS: [&str; 4] = ["txt", "text", "transcript", "caption"];
const DESCRIPTIONS: [&str; 2] = ["json", "jsn"];

/// Keys of labels and captions in a description.
const LABEL_KEYS: [&str; 8] =
    ["label", "labels", "class", "category", "cls", "fine_label", "class_name", "category_name"];
const CAPTION_KEYS: [&str; 3] = ["caption", "text", "txt"];

/// Parts of field names that mean the image itself.
const IMAGE_WORDS: [&str; 8] = ["image", "img", "input", "rgb", "photo", "picture", "original", "source"];

/// The key of a file and its field in lower case; an empty field for a name without a dot.
pub(super) fn split(name: &str) -> (&str, String) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let Some(mut end) = name[file..].find('.').map(|dot| file + dot) else { return (name, String::new()) };
    while let Some(next) = name[end + 1..].find('.').map(|dot| end + 1 + dot) {
        if !name[end + 1..next].starts_with(|first: char| first.is_ascii_digit()) {
            break;
        }
        end = next;
    }
    (&name[..end], name[end + 1..].to_ascii_lowercase())
}

/// The part of `name` before the first dot of its file name.
fn shortest_key(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}

/// The last part of a field.
fn ending(field: &str) -> &str {
    field.rsplit_once('.').map_or(field, |(_, ending)| ending)
}

/// The field without its last part.
fn beginning(field: &str) -> &str {
    field.rsplit_once('.').map_or("", |(beginning, _)| beginning)
}

/// What a file beside an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Label,
    Text,
    Description,
}

/// One file beside an image.
#[derive(Debug)]
struct File {
    field: String,
    role: Role,
    label: Option<Label>,
    text: Option<Result<String, &'static str>>,
}

/// The files beside images, by key.
#[derive(Debug, Default)]
pub(super) struct Beside {
    files: HashMap<String, Vec<File>>,
    /// Fields, and the keys of descriptions, for messages.
    seen: BTreeSet<String>,
    /// Descriptions whose label is neither a class number nor a name.
    no_labels: u64,
}

/// What to read from files beside images.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub captions: bool,
    pub fields: FieldNames,
}

impl Wanted {
    pub(super) fn new(captions: bool, fields: &FieldNames) -> Self {
        Self { captions, fields: fields.clone() }
    }

    /// Whether `field` was named for what `kind` says.
    fn names(&self, kind: FieldKind, field: &str) -> bool {
        let name = match kind {
            FieldKind::Image => &self.fields.image,
            FieldKind::Label => &self.fields.label,
            FieldKind::Caption => &self.fields.caption,
        };
        name.as_deref().is_some_and(|name| same(name, field))
    }

    fn role(&self, field: &str) -> Option<Role> {
        let last = ending(field);
        if self.names(FieldKind::Label, field) && !DESCRIPTIONS.contains(&last) {
            return Some(Role::Label);
        }
        if self.names(FieldKind::Caption, field) && !DESCRIPTIONS.contains(&last) {
            return Some(Role::Text);
        }
        match last {
            last if LABELS.contains(&last) => Some(Role::Label),
            last if TEXTS.contains(&last) => Some(Role::Text),
            last if DESCRIPTIONS.contains(&last) => Some(Role::Description),
            _ => None,
        }
    }

    /// Whether the file `name` is a description.
    pub(super) fn is_description(&self, name: &str) -> bool {
        self.role(&split(name).1) == Some(Role::Description)
    }

    /// The number of bytes to read from the file `name`: `None` for a file that is not beside an image, 0 for one whose
    /// content is not needed.
    pub(super) fn bytes(&self, name: &str) -> Option<usize> {
        Some(match self.role(&split(name).1)? {
            Role::Label => LABEL_BYTES,
            Role::Text if self.captions => TEXT_BYTES,
            Role::Text => 0,
            Role::Description => TEXT_BYTES,
        })
    }
}

/// Whether two names of fields are the same: in any case, with or without a leading dot.
fn same(a: &str, b: &str) -> bool {
    a.trim_start_matches('.').eq_ignore_ascii_case(b.trim_start_matches('.'))
}

impl Beside {
    /// Adds the file `name` with its first bytes, at most one more than [`Wanted::bytes`]. Returns whether it is new and
    /// readable; a file that is neither is to be left aside.
    ///
    /// # Errors
    /// [`LabelFault`] if the content should be a label and is none.
    pub(super) fn add(&mut self, name: &str, content: &[u8], wanted: &Wanted) -> Result<Added, LabelFault> {
        let (key, field) = split(name);
        let Some(role) = wanted.role(&field) else { return Ok(Added::Aside) };
        let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
        let mut file = File { field, role, label: None, text: None };
        match role {
            Role::Label => {
                // A text that is too long or not UTF-8 is no number, so it is shown as one that is not.
                let text = std::str::from_utf8(content).ok().filter(|text| text.len() <= LABEL_BYTES);
                let shown = || String::from_utf8_lossy(content).chars().take(80).collect();
                let text = text.ok_or_else(|| LabelFault::Text { got: shown() })?;
                file.label = Some(Label::of_text(text)?);
            }
            Role::Text if wanted.captions => file.text = Some(caption(content)),
            Role::Text => {}
            Role::Description => {
                let Ok(Value::Object(about)) = serde_json::from_slice::<Value>(content) else {
                    return Ok(Added::Aside);
                };
                self.describe(&mut file, &about, wanted);
            }
        }
        let files = self.files.entry(key.to_owned()).or_default();
        if files.iter().any(|other| other.field == file.field) {
            return Ok(Added::Again);
        }
        self.seen.insert(file.field.clone());
        files.push(file);
        Ok(Added::New)
    }

    /// Takes label and caption from a description.
    fn describe(&mut self, file: &mut File, about: &serde_json::Map<String, Value>, wanted: &Wanted) {
        if self.seen.len() < 64 {
            self.seen.extend(about.keys().cloned());
        }
        let find = |named: &Option<String>, known: &[&str]| match named {
            Some(named) => about.get(named),
            None => known.iter().find_map(|known| about.get(*known)),
        };
        if let Some(value) = find(&wanted.fields.label, &LABEL_KEYS) {
            file.label = of_value(value);
            self.no_labels += u64::from(file.label.is_none());
        }
        if let Some(Value::String(text)) = find(&wanted.fields.caption, &CAPTION_KEYS) {
            file.text = Some(if wanted.captions { caption(text.as_bytes()) } else { Ok(String::new()) });
        }
    }

    /// Number of descriptions whose label is neither a class number nor a name.
    pub(super) fn no_labels(&self) -> u64 {
        self.no_labels
    }

    /// The folders of the files, with a trailing slash; folders may repeat.
    pub(super) fn folders(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(|key| &key[..key.rfind('/').map_or(0, |slash| slash + 1)])
    }

    /// Whether files stand beside the image `name`.
    pub(super) fn describes(&self, name: &str) -> bool {
        !self.of(name).0.is_empty()
    }

    /// Counts the files that belong to none of the images `names`, and the descriptions without label and caption.
    pub(super) fn count_unused<'a>(&self, names: impl Iterator<Item = &'a str>, aside: &mut LeftAside) {
        if self.files.is_empty() {
            return;
        }
        let keys: HashSet<&str> = names.flat_map(|name| [split(name).0, shortest_key(name)]).collect();
        for (key, files) in &self.files {
            let idle =
                |file: &&File| file.role == Role::Description && file.label.is_none() && file.text.is_none();
            for file in files.iter().filter(|file| !keys.contains(&**key) || idle(file)) {
                count_aside(aside, &format!(".{}", file.field));
            }
        }
    }

    /// Texts that may list the images `names`. None if texts belong to single images, because they are captions.
    pub(super) fn lists<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut texts: HashMap<&str, &str> = HashMap::new();
        for (key, files) in &self.files {
            let list = |file: &&File| csv_list::is_list(&format!(".{}", file.field));
            texts.extend(files.iter().find(list).map(|file| (&**key, &*file.field)));
        }
        let belongs =
            |name: &str| texts.contains_key(split(name).0) || texts.contains_key(shortest_key(name));
        if texts.is_empty() || names.any(belongs) {
            return Vec::new();
        }
        let lists = texts.into_iter().map(|(key, field)| format!("{key}.{field}"));
        lists.filter(|name| !names::is_about(name)).collect()
    }

    /// Fields and keys that were seen.
    pub(super) fn seen(&self) -> impl Iterator<Item = &String> {
        self.seen.iter()
    }

    /// The files beside the image `name`, with the image's field.
    fn of(&self, name: &str) -> (&[File], String) {
        let (key, field) = split(name);
        let files = self.files.get(key).or_else(|| self.files.get(shortest_key(name)));
        (files.map_or(&[], Vec::as_slice), field)
    }

    /// The label of the image `name`, and whether it stands in a description.
    ///
    /// # Errors
    /// The fields that may hold the label, if there are several.
    pub(super) fn label(&self, name: &str, wanted: &Wanted) -> Result<Option<(&Label, bool)>, Vec<String>> {
        let (files, image) = self.of(name);
        let named = |file: &&File| wanted.names(FieldKind::Label, &file.field);
        let own = files.iter().filter(|file| file.role == Role::Label);
        let found = match &wanted.fields.label {
            Some(_) => files.iter().find(named),
            None => single(own, &image, &LABELS)?,
        };
        if let Some(label) = found.and_then(|file| file.label.as_ref()) {
            return Ok(Some((label, false)));
        }
        let described = files.iter().filter(|file| file.role == Role::Description && file.label.is_some());
        let found = single(described, &image, &DESCRIPTIONS)?;
        Ok(found.and_then(|file| file.label.as_ref()).map(|label| (label, true)))
    }

    /// The caption of the image `name`: a text, or the reason that it is not usable. `None` if there is none.
    ///
    /// # Errors
    /// The fields that may hold the caption, if there are several.
    pub(super) fn caption(
        &self,
        name: &str,
        wanted: &Wanted,
    ) -> Result<Option<Result<&str, &'static str>>, Vec<String>> {
        let (files, image) = self.of(name);
        let named = |file: &&File| wanted.names(FieldKind::Caption, &file.field);
        let own = files.iter().filter(|file| file.role == Role::Text);
        let found = match &wanted.fields.caption {
            Some(_) => files.iter().find(named),
            None if wanted.captions => single(own, &image, &TEXTS)?,
            None => own.into_iter().next(),
        };
        // Without `captions`, the content of a text was not read.
        if found.is_some() && !wanted.captions {
            return Ok(Some(Ok("")));
        }
        let of = |file: &'_ File| -> Option<Result<String, &'static str>> { file.text.clone() };
        let described = files.iter().filter(|file| file.role == Role::Description && file.text.is_some());
        let file = match found.filter(|file| of(file).is_some()) {
            Some(file) => Some(file),
            None => single(described, &image, &DESCRIPTIONS)?,
        };
        let text = file.and_then(|file| file.text.as_ref());
        Ok(text.map(|text| text.as_ref().map(String::as_str).map_err(|reason| *reason)))
    }
}

/// The label of a value in a description; `None` for a value that is no label.
fn of_value(value: &Value) -> Option<Label> {
    match value {
        Value::Null => Some(Label::None),
        Value::Number(number) => Label::of_number(number.as_f64()?).ok(),
        Value::String(text) => Label::of_text(text).ok(),
        _ => None,
    }
}

/// What became of a file beside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    New,
    /// Its field stands at this key already.
    Again,
    /// It is of no kind that is read.
    Aside,
}

/// The file that belongs to an image with the field `image`: that of the image's name with one more part, then that of
/// its name with another ending, then the plain field, then the only one.
fn single<'a>(
    files: impl Iterator<Item = &'a File>,
    image: &str,
    endings: &[&str],
) -> Result<Option<&'a File>, Vec<String>> {
    let files: Vec<&File> = files.collect();
    for before in [image, beginning(image), ""] {
        let own = |file: &&&File| beginning(&file.field) == before && endings.contains(&ending(&file.field));
        let mut own = files.iter().filter(own);
        if let (Some(file), None) = (own.next(), own.next()) {
            return Ok(Some(file));
        }
    }
    match *files {
        [] => Ok(None),
        [file] => Ok(Some(file)),
        _ => Err(files.iter().map(|file| file.field.clone()).collect()),
    }
}

/// The trimmed caption, or the reason that there is none.
fn caption(content: &[u8]) -> Result<String, &'static str> {
    if content.len() > TEXT_BYTES {
        return Err("its caption is longer than 1 MiB");
    }
    match std::str::from_utf8(content).map(str::trim) {
        Err(_) => Err("its caption is not UTF-8"),
        Ok("") => Err("its caption is empty"),
        Ok(text) => Ok(text.to_owned()),
    }
}

/// Which images of a source are samples.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Fields of images that are no samples. Empty if all images are samples.
    dropped: HashSet<String>,
    /// Field that was named, if one was.
    named: Option<String>,
    /// What was assumed.
    pub note: Option<Note>,
}

impl Choice {
    /// Chooses among images, given by the number of their archive and their names. `described` is whether labels, captions or descriptions stand beside them.
    ///
    /// # Errors
    /// The fields to choose from, if one has to be named: a key with several images, and its fields.
    pub(super) fn of<'a>(
        names: impl Iterator<Item = (usize, &'a str)> + Clone,
        described: bool,
        named: Option<&str>,
    ) -> Result<Self, (String, Vec<String>)> {
        if let Some(named) = named {
            return Ok(Self { named: Some(named.to_owned()), ..Self::default() });
        }
        // Most sources have no key twice. Only repeated keys are kept with their fields.
        let mut seen = HashSet::new();
        let key_of = |(part, name): (usize, &'a str)| (part, split(name).0);
        let repeated: HashSet<_> = names.clone().map(key_of).filter(|key| !seen.insert(*key)).collect();
        let mut several: BTreeMap<(usize, &str), Vec<String>> = BTreeMap::new();
        for (part, name) in names.filter(|name| repeated.contains(&key_of(*name))) {
            let (key, field) = split(name);
            several.entry((part, key)).or_default().push(field);
        }
        let fields: BTreeSet<&String> = several.values().flatten().collect();
        let count: usize = several.values().map(|fields| fields.len()).sum();
        let Some(((_, key), of_key)) = several.first_key_value() else { return Ok(Self::default()) };
        let plain: Vec<&&String> = fields.iter().filter(|field| !field.contains('.')).collect();
        // Fields repeat from key to key. Names that happen to begin alike, such as Mr.Smith and Mr.Jones, do not.
        if count < 2 * fields.len() && !(described && plain.len() == 1) {
            return Ok(Self::default());
        }
        let shown = fields.iter().map(|field| field.as_str()).collect::<Vec<_>>().join(", ");
        if !described {
            let note =
                format!("{} names have several images ({shown}), and each image is a sample", several.len());
            return Ok(Self { note: Some(Note::about(FieldKind::Image, note)), ..Self::default() });
        }
        let called = |field: &&&String| field.split('.').any(|part| IMAGE_WORDS.contains(&part));
        let called: Vec<&&String> = fields.iter().filter(called).collect();
        let taken = match (plain.as_slice(), called.as_slice()) {
            ([taken], _) | ([], [taken]) => (**taken).clone(),
            _ => return Err(((*key).to_owned(), of_key.clone())),
        };
        let note = format!("{} samples have several images ({shown}); {taken} is taken", several.len());
        let note = Note::about(FieldKind::Image, note);
        let dropped = fields.into_iter().filter(|field| **field != taken).cloned().collect();
        Ok(Self { dropped, named: None, note: Some(note) })
    }

    /// Whether the image `name` is a sample.
    pub(super) fn takes(&self, name: &str) -> bool {
        let (_, field) = split(name);
        match &self.named {
            Some(named) => same(named, &field),
            None => self.dropped.is_empty() || !self.dropped.contains(&field),
        }
    }
}

/// Counts a file by its ending.
pub(super) fn count_aside(aside: &mut LeftAside, name: &str) {
    let extension = names::extension(name);
    let kind = if extension.is_empty() || extension.len() > 12 {
        "without an extension".to_owned()
    } else {
        format!(".{extension}")
    };
    aside.add(&kind, 1);
}
