//! The words of header rows, and of the keys of JSON objects that describe categories.

/// What a column holds, by its title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Names, and how sure the title is: 0 is surest.
    Name(u8),
    /// Positions.
    Number,
    /// Identifiers, which are no part of a prompt.
    Key,
    Synonym,
    /// Something about the category that no prompt uses.
    Aside,
    /// Paths of images.
    Image,
    Unknown,
}

/// How sure a title of the second kind is: other columns beside it make it doubtful.
pub(super) const DOUBTFUL: u8 = 2;

/// The role of a title. Case, blanks and punctuation do not count.
pub(super) fn role(title: &str) -> Role {
    let letters: String =
        title.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    match letters.as_str() {
        "name" | "names" | "displayname" | "englishname" | "nameen" | "humanreadable"
        | "humanreadablename" => Role::Name(0),
        "classname" | "classnames" | "categoryname" | "categorynames" | "labelname" | "labelnames"
        | "objectname" | "commonname" | "labeltext" | "speciesname" => Role::Name(1),
        "class" | "classes" | "category" | "categories" | "label" | "labels" => Role::Name(DOUBTFUL),
        "word" | "words" | "species" | "scientificname" | "tag" | "object" | "title" | "text" => {
            Role::Name(3)
        }
        "id" | "ids" | "index" | "idx" | "indices" | "number" | "no" | "nr" | "num" | "position" | "pos"
        | "target" | "classid" | "classidx" | "classindex" | "classnumber" | "categoryid" | "categoryidx"
        | "categoryindex" | "labelid" | "labelidx" | "labelindex" | "labelnumber" | "unnamed0" => {
            Role::Number
        }
        "" if title.trim() == "#" => Role::Number,
        "wnid" | "wnids" | "wordnetid" | "synset" | "synsets" | "synsetid" | "mid" | "freebaseid" | "uid"
        | "uuid" | "key" | "slug" | "code" | "folder" | "foldername" | "dir" | "dirname" | "imagedirname"
        | "taxonid" => Role::Key,
        "synonym" | "synonyms" | "alias" | "aliases" | "aka" | "alternative" | "alternatives"
        | "alternativename" | "alternativenames" | "other" | "others" | "othername" | "othernames"
        | "alsoknownas" | "alt" => Role::Synonym,
        "supercategory" | "supercategoryid" | "supercategoryname" | "superclass" | "stuff" | "parent"
        | "group" | "count" | "counts" | "images" | "imagecount" | "instancecount" | "frequency" | "freq"
        | "ratio" | "train" | "val" | "test" | "trainid" | "color" | "colour" | "r" | "g" | "b" | "red"
        | "green" | "blue" | "hex" | "isthing" | "description" | "definition" | "def" | "gloss" | "url"
        | "link" | "kingdom" | "phylum" | "order" | "family" | "genus" | "specificepithet" | "keypoints"
        | "skeleton" => Role::Aside,
        "path" | "image" | "img" | "file" | "filename" | "filepath" | "imagepath" | "imagename"
        | "imageid" | "filenames" => Role::Image,
        _ => by_ending(&letters),
    }
}

/// The role of a title such as `SignName` or `breed_id`.
fn by_ending(letters: &str) -> Role {
    let aside = ["super", "parent", "group", "image", "file"].iter().any(|start| letters.starts_with(start));
    match letters {
        _ if aside => Role::Unknown,
        _ if letters.ends_with("name") => Role::Name(1),
        _ if ["id", "idx", "index"].iter().any(|end| letters.ends_with(end)) => Role::Number,
        _ => Role::Unknown,
    }
}

/// Titles that no category has: with other cells beside them, they begin a header even if the others are unknown.
const FIRST: [&str; 9] = ["id", "ids", "idx", "index", "wnid", "image", "image_id", "path", "filename"];

/// Whether the cells of a first row are titles rather than names.
pub(super) fn is_header(cells: &[&str]) -> bool {
    let roles: Vec<Role> =
        cells.iter().filter(|cell| !cell.trim().is_empty()).map(|cell| role(cell)).collect();
    let sure = |role: &&Role| matches!(role, Role::Name(rank) if *rank <= DOUBTFUL);
    let known = roles.iter().filter(|role| !matches!(role, Role::Unknown)).count();
    let named = roles.iter().any(|role| sure(&role));
    let strong = named || roles.contains(&Role::Number) || roles.contains(&Role::Key);
    match roles.first() {
        Some(first) if sure(&first) => {
            let title = cells[0].trim().to_ascii_lowercase();
            known == roles.len() || known > 1 || matches!(title.as_str(), "name" | "category")
        }
        Some(_) if roles.len() > 1 && FIRST.contains(&cells[0].trim().to_ascii_lowercase().as_str()) => true,
        Some(_) => strong && (known == roles.len() || (named && known > 1)),
        None => false,
    }
}

/// Whether a single line is the title of a list.
pub(super) fn is_title(line: &str) -> bool {
    matches!(role(line), Role::Name(rank) if rank <= DOUBTFUL)
}
