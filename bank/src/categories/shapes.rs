//! The structures of JSON and YAML documents that hold names.

use super::draft::{Draft, Entry, Fault};
use super::form;
use super::node::{Member, Node};
use super::table::{self, Others, Row, whole};
use super::{JsonEntries, Problem};

/// Keys of a list of names within a larger document.
pub(super) const CONTAINERS: [&str; 22] = [
    "names",
    "name",
    "categories",
    "classes",
    "class_names",
    "classnames",
    "labels",
    "label_names",
    "class_to_idx",
    "class_index",
    "idx_to_class",
    "id2name",
    "id_to_name",
    "id_to_label",
    "id_to_class",
    "idx2label",
    "idx_to_label",
    "index_to_name",
    "index_to_class",
    "label_map",
    "category_names",
    "thing_classes",
];

/// Forms of documents, for errors.
const EXPECTED: &str = "expected a list of names, an object from names to lists of strings, or one of the kinds in \
                        docs/banks.md\nhint: write the names as a list, [\"cat\", \"dog\"]";

/// Finds the names in a document.
pub(super) fn interpret(document: &Node, entries: JsonEntries) -> Result<Draft, Fault> {
    if let Some(list) = document.list() {
        return from_list(document, list);
    }
    let Some(members) = document.map() else { return Err(Fault::syntax(document.line, EXPECTED)) };
    if let Some(config) = from_config(members)? {
        return Ok(config);
    }
    if let Some(features) = from_features(members, entries)? {
        return Ok(features);
    }
    if let Some(member) = container(members) {
        let mut draft = interpret(&member.value, entries)?;
        check_count(members, &draft)?;
        draft.told.insert(0, format!("the key {:?}", member.key));
        return Ok(draft);
    }
    match from_numbered(members).or_else(|| from_identified(members)).or_else(|| from_positions(members)) {
        Some(draft) => draft,
        None => from_names(members, entries),
    }
}

/// The member that holds the names, of an object that is not from names to synonyms.
fn container(members: &[Member]) -> Option<&Member> {
    let documented = members.iter().all(|member| {
        let both =
            |members: &[Member]| members.iter().all(|part| matches!(&*part.key, "synonyms" | "prompts"));
        member.value.texts().is_some() || member.value.map().is_some_and(both)
    });
    if documented && members.len() > 1 {
        return None;
    }
    // One category alone is no set of categories, so a known word with a list is the title of that list.
    let filled = |member: &&Member| match (member.value.list(), member.value.map()) {
        (Some(list), _) => !list.is_empty(),
        (_, Some(map)) => !map.iter().all(|part| matches!(&*part.key, "synonyms" | "prompts")),
        _ => false,
    };
    let named = |name: &&str| members.iter().find(|member| member.key == **name).filter(filled);
    CONTAINERS.iter().find_map(named)
}

/// YAML files of detectors state the number of names.
fn check_count(members: &[Member], draft: &Draft) -> Result<(), Fault> {
    let stated = members.iter().find(|member| member.key == "nc");
    match stated.and_then(|member| Some((member.line, whole(member.value.scalar()?)?))) {
        Some((line, expected)) if usize::try_from(expected) != Ok(draft.entries.len()) => {
            Err(Fault::Entry(line, Problem::Count { expected, got: draft.entries.len() }))
        }
        _ => Ok(()),
    }
}

/// `config.json` of a classifier: `id2label`, or `label2id`.
fn from_config(members: &[Member]) -> Result<Option<Draft>, Fault> {
    let find =
        |key: &str| members.iter().find(|member| member.key == key).and_then(|member| member.value.map());
    let (key, found) = match (find("id2label"), find("label2id")) {
        (Some(labels), _) => ("id2label", from_numbered(labels)),
        (None, Some(labels)) => ("label2id", from_positions(labels)),
        (None, None) => return Ok(None),
    };
    match found {
        Some(draft) => {
            let mut draft = draft?;
            draft.told = vec![format!("the key {key:?} of a model's configuration")];
            Ok(Some(draft))
        }
        None => Err(Fault::syntax(
            members.first().map_or(1, |member| member.line),
            format!(
                "{key}: expected numbers and names, as in {{\"0\": \"cat\"}}\nhint: write the names as a list, [\"cat\", \"dog\"]"
            ),
        )),
    }
}

/// The features of a data set on Hugging Face's hub, as in `dataset_info.json`: `{"label": {"names": ["cat", "dog"],
/// "_type": "ClassLabel"}}`, at any depth.
fn from_features(members: &[Member], entries: JsonEntries) -> Result<Option<Draft>, Fault> {
    let mut found = Vec::new();
    class_labels(members, &mut found);
    match &found[..] {
        [] => Ok(None),
        [(label, names)] => {
            let mut draft = interpret(names, entries)?;
            draft.told.insert(0, format!("the class label {label:?} of a data set's features"));
            Ok(Some(draft))
        }
        [(_, first), ..] => {
            let labels: Vec<String> = found.iter().map(|(label, _)| format!("{label:?}")).collect();
            let labels = labels.join(", ");
            let message = format!(
                "the features have several class labels: {labels}\n\
                 hint: write the names of one of them to a file of their own, as a list"
            );
            Err(Fault::syntax(first.line, message))
        }
    }
}

/// Collects the names of every class label, with the feature's own name.
fn class_labels<'a>(members: &'a [Member], found: &mut Vec<(&'a str, &'a Node)>) {
    for member in members {
        let Some(inner) = member.value.map() else { continue };
        let part = |key: &str| inner.iter().find(|part| part.key == key).map(|part| &part.value);
        let labeled = part("_type").and_then(Node::text) == Some("ClassLabel");
        match part("names").filter(|_| labeled) {
            Some(names) => found.push((&member.key, names)),
            None => class_labels(inner, found),
        }
    }
}

/// `{"0": "tench"}`, `{"0": ["n01440764", "tench"]}`, `{"0": {"label": "tench"}}`.
fn from_numbered(members: &[Member]) -> Option<Result<Draft, Fault>> {
    let numbers: Vec<u64> = members.iter().map(|member| whole(&member.key)).collect::<Option<_>>()?;
    if numbers.is_empty() {
        return None;
    }
    let identified = |member: &Member| {
        let list = member.value.texts()?;
        let [id, name, synonyms @ ..] = &list[..] else { return None };
        let mut entry = Entry::new(member.line, name);
        entry.synonyms = synonyms.to_vec();
        entry.keys.push(id.clone());
        form::is_identifier(id).then_some(entry)
    };
    let plain = |member: &Member| Some(Entry::new(member.line, member.value.text()?));
    let (told, entries) = if let Some(entries) = members.iter().map(plain).collect::<Option<Vec<_>>>() {
        ("an object from numbers to names", entries)
    } else if let Some(entries) = members.iter().map(identified).collect::<Option<Vec<_>>>() {
        ("an ImageNet class index, names from the second field", entries)
    } else if members.iter().all(|member| member.value.map().is_some()) {
        let objects: Vec<&Node> = members.iter().map(|member| &member.value).collect();
        return Some(from_objects(&objects).and_then(|draft| numbered(draft, &numbers)));
    } else {
        return None;
    };
    Some(numbered(Draft::new(entries, Some(told.to_owned())), &numbers))
}

fn numbered(mut draft: Draft, numbers: &[u64]) -> Result<Draft, Fault> {
    draft.set_numbers(numbers)?;
    Ok(draft)
}

/// `{"n01440764": "tench"}`, `{"n01440764": ["tench", "Tinca tinca"]}`, `{"n01440764": [0, "tench"]}`, `{"tench": "n01440764"}`.
fn from_identified(members: &[Member]) -> Option<Result<Draft, Fault>> {
    let first = members.first()?;
    if members.iter().all(|member| member.value.text().is_some_and(form::is_identifier)) {
        let entry = |member: &Member| {
            let keys = member.value.text().map(str::to_owned).into_iter().collect();
            Entry { keys, ..Entry::new(member.line, &member.key) }
        };
        let entries = members.iter().map(entry).collect();
        return Some(Ok(Draft::new(entries, Some("an object from names to identifiers".to_owned()))));
    }
    let keyed = members.iter().all(|member| form::is_identifier(&member.key));
    if !keyed
        || members.iter().all(|member| member.value.scalar().is_some_and(|value| whole(value).is_some()))
    {
        return None;
    }
    let told = Some("an object from identifiers to names".to_owned());
    let numbers = members
        .iter()
        .map(|member| whole(member.value.list()?.first()?.scalar()?))
        .collect::<Option<Vec<_>>>();
    let mut entries = Vec::new();
    for member in members {
        let words: Option<Vec<&str>> = match member.value.list() {
            Some(list) => list.iter().skip(usize::from(numbers.is_some())).map(Node::text).collect(),
            None => member.value.text().map(|name| vec![name]),
        };
        let Some([name, synonyms @ ..]) = words.as_deref() else {
            return Some(Err(Fault::syntax(
                member.line,
                format!(
                    "{:?} has no name, unlike {:?}\nhint: give each identifier a name",
                    member.key, first.key
                ),
            )));
        };
        let mut entry = Entry::new(member.line, *name);
        entry.synonyms = synonyms.iter().map(|synonym| (*synonym).to_owned()).collect();
        entry.keys.push(member.key.clone());
        entries.push(entry);
    }
    Some(numbered(Draft::new(entries, told), &numbers.unwrap_or_default()))
}

/// `{"tench": 0}`.
fn from_positions(members: &[Member]) -> Option<Result<Draft, Fault>> {
    let position = |member: &Member| whole(member.value.scalar()?);
    let numbers: Vec<u64> = members.iter().map(position).collect::<Option<_>>()?;
    if numbers.is_empty() {
        return None;
    }
    let entries = members.iter().map(|member| Entry::new(member.line, &member.key)).collect();
    Some(numbered(Draft::new(entries, Some("an object from names to numbers".to_owned())), &numbers))
}

/// The documented object, from names to synonyms or prompts.
fn from_names(members: &[Member], entries: JsonEntries) -> Result<Draft, Fault> {
    let mut draft = Draft::default();
    if let ([member], JsonEntries::Synonyms) = (members, entries)
        && let Some(list) = member.value.list().filter(|list| list.len() > 1)
    {
        let problem = Problem::ManySynonyms { name: member.key.clone(), count: list.len() };
        return Err(Fault::Entry(member.line, problem));
    }
    for member in members {
        let mut entry = Entry::new(member.line, &member.key);
        match (member.value.texts(), member.value.map()) {
            (Some(list), _) if entries == JsonEntries::Synonyms => entry.synonyms = list,
            (Some(list), _) => entry.prompts = list,
            (None, Some(parts)) => {
                for part in parts {
                    let into = match part.key.as_str() {
                        "synonyms" => &mut entry.synonyms,
                        "prompts" => &mut entry.prompts,
                        other => {
                            return Err(Fault::syntax(
                                part.line,
                                format!("unknown key {other:?}: {EXPECTED}"),
                            ));
                        }
                    };
                    *into = part.value.texts().ok_or_else(|| Fault::syntax(part.line, EXPECTED))?;
                }
            }
            (None, None) => {
                let message = "expected a list of strings, or {\"synonyms\": [...], \"prompts\": [...]}";
                return Err(Fault::syntax(
                    member.value.line,
                    format!(
                        "{:?}: {message}\nhint: write {:?}: [], or the synonyms between the brackets",
                        member.key, member.key
                    ),
                ));
            }
        }
        draft.entries.push(entry);
    }
    Ok(draft)
}

/// A list of names, of lists such as `["n01440764", "tench"]`, or of objects with names.
fn from_list(document: &Node, list: &[Node]) -> Result<Draft, Fault> {
    let objects: Vec<&Node> = list.iter().filter(|node| node.map().is_some()).collect();
    if !objects.is_empty() && objects.len() == list.len() {
        return from_objects(&objects);
    }
    if !list.is_empty() && list.iter().all(|node| node.list().is_some()) {
        let row = |node: &Node| {
            let cells =
                node.list()?.iter().map(|cell| cell.scalar().map(str::to_owned)).collect::<Option<_>>()?;
            Some(Row { line: node.line, cells, synonyms: Vec::new() })
        };
        let rows: Option<Vec<Row>> = list.iter().map(row).collect();
        let rows = rows.ok_or_else(|| Fault::syntax(document.line, EXPECTED))?;
        return table::untitled(rows, Others::Refused);
    }
    let mut draft = Draft::default();
    for node in list {
        match node.text() {
            Some(name) => draft.entries.push(Entry::new(node.line, name)),
            None => return Err(Fault::syntax(node.line, EXPECTED)),
        }
    }
    Ok(draft)
}

/// Objects such as COCO's categories: `{"id": 1, "name": "person", "supercategory": "person"}`.
fn from_objects(objects: &[&Node]) -> Result<Draft, Fault> {
    let mut titles: Vec<String> = Vec::new();
    for member in objects.iter().filter_map(|node| node.map()).flatten() {
        let listed = table::is_synonyms(&member.key) && member.value.list().is_some();
        if !titles.contains(&member.key) && !listed {
            titles.push(member.key.clone());
        }
    }
    let row = |node: &&Node| {
        let members = node.map().unwrap_or_default();
        let value = |title: &String| members.iter().find(|member| member.key == *title);
        let cell = |title: &String| {
            value(title).and_then(|member| member.value.scalar()).unwrap_or_default().to_owned()
        };
        let listed = members.iter().filter(|member| table::is_synonyms(&member.key));
        let synonyms = listed.filter_map(|member| member.value.texts()).flatten().collect();
        Row { line: node.line, cells: titles.iter().map(cell).collect(), synonyms }
    };
    let rows: Vec<Row> = objects.iter().map(row).collect();
    let header = Row {
        line: objects.first().map_or(1, |node| node.line),
        cells: titles.clone(),
        synonyms: Vec::new(),
    };
    table::titled(&header, rows, Others::Aside)
}
