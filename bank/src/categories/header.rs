//! The words of header rows, and of the keys of JSON objects that describe categories.

use super::table::Row;
use super::{form, suspect};

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
        "name" | "names" | "displayname" | "displaynames" | "englishname" | "nameen" | "humanreadable"
        | "humanreadablename" | "readablename" | "prettyname" => Role::Name(0),
        "classname" | "classnames" | "categoryname" | "categorynames" | "labelname" | "labelnames"
        | "objectname" | "commonname" | "commonnames" | "labeltext" | "speciesname" | "finelabel"
        | "finelabels" | "fineclass" | "finename" | "subclass" | "subcategory" | "classlabel" | "labelen" => {
            Role::Name(1)
        }
        "class" | "classes" | "category" | "categories" | "label" | "labels" => Role::Name(DOUBTFUL),
        "word" | "words" | "species" | "scientificname" | "tag" | "tags" | "object" | "objects" | "title"
        | "text" | "term" | "concept" | "item" | "entity" | "english" | "en" | "eng" => Role::Name(3),
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
        | "alternativename" | "alternativenames" | "alternatename" | "alternatenames" | "other"
        | "others" | "othername" | "othernames" | "alsoknownas" | "alt" => Role::Synonym,
        "supercategory" | "supercategoryid" | "supercategoryname" | "superclass" | "superclassname"
        | "superlabel" | "coarselabel" | "coarselabels" | "coarseclass" | "coarsename" | "coarse"
        | "stuff" | "parent" | "parentname" | "group" | "groupname" | "count" | "counts" | "images"
        | "imagecount" | "instancecount" | "frequency" | "freq" | "ratio" | "weight" | "weights"
        | "score" | "scores" | "probability" | "prob" | "confidence" | "accuracy" | "train" | "val"
        | "test" | "trainid" | "color" | "colour" | "r" | "g" | "b" | "red" | "green" | "blue" | "hex"
        | "isthing" | "description" | "definition" | "def" | "gloss" | "comment" | "notes" | "url"
        | "link" | "kingdom" | "phylum" | "order" | "family" | "genus" | "specificepithet" | "keypoints"
        | "skeleton" | "chinese" | "zh" | "german" | "french" | "spanish" | "japanese" | "korean"
        | "russian" | "italian" | "portuguese" | "deutsch" | "français" | "español" | "中文" | "日本語" => {
            Role::Aside
        }
        "path" | "image" | "img" | "file" | "filename" | "filepath" | "imagepath" | "imagename"
        | "imageid" | "filenames" => Role::Image,
        _ => in_other_languages(&letters).unwrap_or_else(|| by_ending(&letters)),
    }
}

/// The role of a title in a common language other than English.
fn in_other_languages(letters: &str) -> Option<Role> {
    Some(match letters {
        "名称" | "名字" | "名前" | "名" | "中文名" | "이름" | "имя" | "название" | "nom" | "nombre"
        | "nome" | "naam" | "bezeichnung" => Role::Name(1),
        "类别" | "类" | "类名" | "分类" | "标签" | "種類" | "ラベル" | "クラス" | "클래스" | "класс"
        | "категория" | "classe" | "clase" | "klasse" | "kategorie" | "catégorie" | "categoría"
        | "categoria" | "étiquette" | "etiqueta" => Role::Name(DOUBTFUL),
        "编号" | "序号" | "索引" | "番号" | "번호" | "номер" | "numéro" | "número" | "nummer" => {
            Role::Number
        }
        "同义词" | "别名" | "synonyme" | "synonymes" | "sinónimos" => Role::Synonym,
        _ => return None,
    })
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

/// Whether the cells of a first row are titles rather than names, by their words.
pub(super) fn is_header(cells: &[&str]) -> bool {
    let roles: Vec<Role> =
        cells.iter().filter(|cell| !cell.trim().is_empty()).map(|cell| role(cell)).collect();
    let sure = |role: &Role| matches!(role, Role::Name(rank) if *rank <= DOUBTFUL);
    if let [only] = &roles[..] {
        return sure(only);
    }
    let known = roles.iter().filter(|role| !matches!(role, Role::Unknown)).count();
    let compound = roles.iter().any(|role| matches!(role, Role::Name(0 | 1)));
    let named = roles.iter().any(sure);
    let chosen = roles.iter().any(|role| matches!(role, Role::Name(_) | Role::Number | Role::Key));
    let first = roles.first().is_some_and(sure)
        || FIRST.contains(&cells.first().unwrap_or(&"").trim().to_ascii_lowercase().as_str());
    roles.len() > 1 && (compound || first || (named && known > 1) || (chosen && known == roles.len()))
}

/// Whether a first row differs in kind from all others: a column of numbers, identifiers or paths begins with a word.
pub(super) fn differs(cells: &[String], others: &[Row]) -> bool {
    let kind = |cell: &str| {
        let cell = cell.trim();
        form::is_number(cell) || form::is_identifier(cell) || suspect::is_image(cell)
    };
    let typed = |(at, title): (usize, &String)| {
        let all = others.iter().all(|row| row.cells.get(at).is_some_and(|cell| kind(cell)));
        all && !title.trim().is_empty() && !kind(title)
    };
    cells.len() > 1 && !others.is_empty() && cells.iter().enumerate().any(typed)
}

/// Whether a single line is the title of a list.
pub(super) fn is_title(line: &str) -> bool {
    matches!(role(line), Role::Name(rank) if rank <= DOUBTFUL)
}
