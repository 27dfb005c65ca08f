//! Files of names as people have them: read right, with a line that says so, or refused with the way out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use std::fs;

use lgd_bank::{Categories, CategoryError, NameForm, ReadOptions};

const VERBATIM: ReadOptions =
    ReadOptions { names: NameForm::Verbatim, entries: lgd_bank::JsonEntries::Synonyms };

fn read(name: &str, content: impl AsRef<[u8]>, options: ReadOptions) -> Result<Categories, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    Categories::read(&path, options).map_err(|error| error.to_string())
}

fn names(set: &Categories) -> Vec<&str> {
    set.names().collect()
}

/// The names of a plain list.
fn plain(name: &str, content: impl AsRef<[u8]>) -> Vec<String> {
    let set = read(name, &content, ReadOptions::default())
        .unwrap_or_else(|error| panic!("{name}: {error}\n{}", String::from_utf8_lossy(content.as_ref())));
    assert_eq!(set.note(), None, "{name}");
    set.names().map(str::to_owned).collect()
}

/// Asserts the names, and that the note says `told`.
fn noted(name: &str, content: impl AsRef<[u8]>, expected: &[&str], told: &str) {
    let shown = String::from_utf8_lossy(content.as_ref()).into_owned();
    let set = read(name, &content, ReadOptions::default()).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(names(&set), expected, "{shown}");
    let note = set.note().unwrap_or_else(|| panic!("no note for:\n{shown}"));
    assert!(note.contains(told), "{note:?} lacks {told:?}");
    let count = if expected.len() == 1 { "1 name".to_owned() } else { format!("{} names", expected.len()) };
    assert!(note.ends_with(&count), "{note}");
}

/// Asserts a refusal that says each of `words` and has a hint.
fn refused(name: &str, content: impl AsRef<[u8]>, words: &[&str]) {
    let shown = String::from_utf8_lossy(content.as_ref()).into_owned();
    match read(name, &content, ReadOptions::default()) {
        Ok(set) => panic!("taken as {:?} ({:?}):\n{shown}", names(&set), set.note()),
        Err(error) => {
            for word in words {
                assert!(error.contains(word), "{error:?} lacks {word:?}:\n{shown}");
            }
            assert!(error.contains("hint:"), "{error}");
        }
    }
}

#[test]
fn class_indices_are_read_by_number() {
    let index = r#"{"1": ["n01443537", "goldfish"], "0": ["n01440764", "tench"], "10": ["n2", "x"]}"#;
    refused("a.json", index, &["\"1\"", "number"]);
    let index = r#"{"1": ["n01443537", "goldfish"], "0": ["n01440764", "tench"]}"#;
    noted("a.json", index, &["tench", "goldfish"], "ImageNet class index, names from the second field");
    noted("a.json", r#"{"2": "c", "0": "a", "1": "b"}"#, &["a", "b", "c"], "from numbers to names");
    noted("a.json", r#"{"tench": 1, "goldfish": 0}"#, &["goldfish", "tench"], "from names to numbers");
    noted("a.json", r#"{"tench": "2", "goldfish": "1"}"#, &["goldfish", "tench"], "numbered from 1");
    noted(
        "a.json",
        r#"{"class_to_idx": {"tench": 1, "goldfish": 0}}"#,
        &["goldfish", "tench"],
        "class_to_idx",
    );
    let objects = r#"{"0": {"id": "01440764-n", "label": "tench, Tinca tinca", "uri": "x"},
                      "1": {"id": "01443537-n", "label": "goldfish", "uri": "y"}}"#;
    noted("a.json", objects, &["tench, Tinca tinca", "goldfish"], "names from \"label\"");
    noted(
        "a.json",
        r#"{"n01443537": "goldfish", "n01440764": "tench"}"#,
        &["goldfish", "tench"],
        "from identifiers",
    );
    noted(
        "a.json",
        r#"{"n01443537": [1, "goldfish"], "n01440764": [0, "tench"]}"#,
        &["tench", "goldfish"],
        "numbered",
    );
    noted(
        "a.json",
        r#"{"goldfish": "n01443537", "tench": "n01440764"}"#,
        &["goldfish", "tench"],
        "to identifiers",
    );
    noted(
        "a.json",
        r#"[["n01443537", "goldfish"], ["n01440764", "tench"]]"#,
        &["goldfish", "tench"],
        "identifiers, names",
    );
    noted("a.json", r#"[[1, "goldfish"], [0, "tench"]]"#, &["tench", "goldfish"], "numbers, names");
    noted(
        "a.txt",
        "{0: 'tench, Tinca tinca',\n 1: \"jack-o'-lantern\",}\n",
        &["tench, Tinca tinca", "jack-o'-lantern"],
        "literal",
    );
    noted("a.txt", "['cat', 'dog',\n 'it\\'s']", &["cat", "dog", "it's"], "literal");
}

#[test]
fn numbers_are_positions_without_gaps_or_repetition() {
    refused("a.json", r#"{"0": "a", "2": "b"}"#, &["1 is missing"]);
    refused("a.json", r#"{"cat": 5, "dog": 7}"#, &["go from 1 to 7", "1 is missing"]);
    refused("a.csv", "id,name\n0,cat\n0,dog\n", &["a.csv:3", "number 0 is already that of line 2"]);
    refused("a.csv", "id,name\n0,cat\n,dog\n", &["a.csv:3", "no number"]);
    refused("a.txt", "0: cat\n1: dog\ncow\n", &["a.txt:3", "cow", "no number"]);
    refused("a.txt", "1 cat\n3 dog\n", &["2 is missing"]);
    refused("a.txt", "50 cent\n10 euro\n", &["is missing"]);
    refused("a.csv", "id,index,name\n0,5,cat\n1,9,dog\n", &["two numbers"].map(|_| "keep one column"));
    noted("a.csv", "id,index,name\n1,0,cat\n2,1,dog\n", &["cat", "dog"], "\"id\", \"index\"");
    noted("a.csv", ",name\n1,dog\n0,cat\n", &["cat", "dog"], "numbered from 0");
    noted("a.csv", "id,name\n2.0,dog\n1.0,cat\n", &["cat", "dog"], "numbered from 1");
}

#[test]
fn headers_choose_columns() {
    let csv = |content: &str, expected: &[&str], told: &str| noted("a.csv", content, expected, told);
    csv("id,name\n1,dog\n0,cat\n", &["cat", "dog"], "names from \"name\", positions from \"id\"");
    csv(
        "wnid,class_name\nn01443537,goldfish\nn01440764,tench\n",
        &["goldfish", "tench"],
        "identifiers from \"wnid\"",
    );
    csv("Class,Class Name\n0,cat\n1,dog\n", &["cat", "dog"], "names from \"Class Name\"");
    csv("label,name\n1,dog\n0,cat\n", &["cat", "dog"], "positions from \"label\"");
    csv(
        "LabelName,DisplayName\n/m/011k07,Tortoise\n/m/011q46kg,Container\n",
        &["Tortoise", "Container"],
        "DisplayName",
    );
    csv(
        "name,supercategory,count\ncat,animal,12\ndog,animal,5\n",
        &["cat", "dog"],
        "not read: \"supercategory\", \"count\"",
    );
    csv("index;category;synonyms\r\n0;cat;tom\r\n1;dog;\r\n", &["cat", "dog"], "separated by ';'");
    csv("sep=;\nid;name\n0;cat\n1;dog\n", &["cat", "dog"], "names from \"name\"");
    noted("a.tsv", "id\tname\n0\ttench, Tinca tinca\n1\tcat\n", &["tench, Tinca tinca", "cat"], "names from");
    noted("a.txt", "id,name\n0,cat\n1,dog\n", &["cat", "dog"], "names from");
    noted("a.txt", "# ids\nid|name\n1|dog\n0|cat\n", &["cat", "dog"], "1 line of comment");
    noted("a.txt", "class_name\ncat\ndog\n", &["cat", "dog"], "title");
    noted("a.txt", "id name\n0 cat\n1 dog\n", &["cat", "dog"], "title");
    refused("a.csv", "name,flavour\ncat,sweet\n", &["flavour", "synonym"]);
    refused("a.csv", "path,label\na.jpg,cat\n", &["list of images"]);
    refused("a.csv", "id,color\n0,red\n", &["no column holds names"]);
    refused("a.csv", "category,class\nanimal,cat\nanimal,dog\n", &["category", "class", "both"]);
    refused("a.csv", "id,name\n0,tench, Tinca tinca\n", &["a.csv:2", "expected 2 cells", "quote"]);
    refused("a.csv", "id,class\n0,0\n1,1\n", &["number"]);
    let set = read("a.csv", "name,synonym\ncat,tom\n", ReadOptions::default()).unwrap();
    assert_eq!((names(&set), set.note()), (vec!["cat"], None));
    assert_eq!(set.as_slice()[0].phrases(), ["cat", "tom"]);
    let set = read("a.csv", "name;synonym\ncat;small cat\n", ReadOptions::default()).unwrap();
    assert_eq!(set.as_slice()[0].phrases(), ["cat", "small cat"]);
}

#[test]
fn identifiers_and_numbers_beside_names_are_told_apart() {
    let txt = |content: &str, expected: &[&str], told: &str| noted("a.txt", content, expected, told);
    txt("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", &["tench, Tinca tinca", "goldfish"], "WordNet");
    txt("n01440764\ttench\nn01443537\tgoldfish\n", &["tench", "goldfish"], "identifiers, names");
    txt("n02085620-Chihuahua\nn02085782-Japanese_spaniel\n", &["Chihuahua", "Japanese spaniel"], "WordNet");
    txt(
        "n02119789 1 kit_fox\nn02100735 2 English_setter\n",
        &["kit fox", "English setter"],
        "numbered from 1",
    );
    for content in [
        "0: cat\n1: dog\n",
        "0 cat\n1 dog\n",
        "0,cat\n1,dog\n",
        "0. cat\n1. dog",
        "0) cat\n1) dog",
        "1|dog\n0|cat",
    ] {
        txt(content, &["cat", "dog"], "numbered from 0");
    }
    txt(
        "1 001.Black_footed_Albatross\n2 002.Crested_Auklet\n",
        &["Black footed Albatross", "Crested Auklet"],
        "numbered from 1",
    );
    txt(
        "/a/airfield 0\n/a/apartment_building/outdoor 1\n",
        &["airfield", "apartment building/outdoor"],
        "numbered from 0",
    );
    txt("001.ak47\n002.american-flag\n", &["ak47", "american-flag"], "numbered from 1");
    noted("a.csv", "0,cat\n1,dog\n", &["cat", "dog"], "columns of numbers, names");
    noted(
        "a.csv",
        "/m/011k07,Tortoise\n/m/011q46kg,Container\n",
        &["Tortoise", "Container"],
        "identifiers, names",
    );
    noted("a.csv", "cat,1\ndog,0\n", &["dog", "cat"], "names, numbers");
    refused("a.txt", "n01440764\nn01443537\n", &["identifier", "LOC_synset_mapping"]);
    refused("a.json", r#"{"n01440764": 0, "n01443537": 1}"#, &["identifier"]);
    refused("a.txt", "cat\nn01443537\n", &["a.txt:2", "identifier"]);
    refused("a.txt", "0\n1\n2\n", &["number"]);
    refused("a.txt", "0 48\n1 49\n", &["number"]);
    refused(
        "a.csv",
        "id,breed\n000bec180eb18c7604dcecc8fe0dba07,boston_bull\n",
        &["breed", "unknown column"],
    );
    refused("a.csv", "000bec180eb18c7604dcecc8fe0dba07,boston_bull\n0021f9ce,dingo\n", &["identifier"]);
    noted("signnames.csv", "ClassId,SignName\n0,Stop\n1,Yield\n", &["Stop", "Yield"], "SignName");
    let ade =
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t11664\t1172\t1\twall\n2\t0.1\t6046\t612\t1\tsky\n";
    noted("objectInfo150.txt", ade, &["wall", "sky"], "names from \"Name\"");
    noted(
        "cat_to_name.json",
        r#"{"2": "fire lily", "1": "canterbury bells"}"#,
        &["canterbury bells", "fire lily"],
        "from 1",
    );
    refused("a.txt", "2012 Acura TL\n2012 Audi A5\n", &["number 2012"]);
    noted("a.txt", "boeing 747\nairbus 320\n", &["boeing 747", "airbus 320"], "ends in a number");
    refused("_classes.csv", "filename, cat, dog\na.jpg,0,1\n", &["list of images"]);
    assert_eq!(plain("variants.txt", "737-200\n747-100\nA300B4\n"), ["737-200", "747-100", "A300B4"]);
    refused("a.csv", "cat,5000\ndog,tom\n", &["5000", "number"]);
    refused("a.txt", "cat;small cat\ndog;big dog\n", &["2 columns", "header"]);
    refused("a.txt", "cat\ndog;hound\n", &["a.txt:2", "columns"]);
    refused("a.txt", "cat, dog, fox\n", &["one line with 3"]);
    refused("a.txt", "Abyssinian_100 1 1 1\nAbyssinian_101 1 1 1\n", &["4 columns"]);
    txt("tench, Tinca tinca\ngoldfish\n", &["tench, Tinca tinca", "goldfish"], "commas kept in 1 name");
    assert_eq!(plain("a.txt", "type 1\ntype 2\n"), ["type 1", "type 2"]);
    assert_eq!(plain("a.names", "3-toed sloth\nboeing 747\nlion\n"), ["3-toed sloth", "boeing 747", "lion"]);
    assert_eq!(names(&read("a.txt", "0\n1: x\nn01440764\n", VERBATIM).unwrap()), ["0", "1: x", "n01440764"]);
}

#[test]
fn configurations_and_annotations_hold_names() {
    let config = r#"{"architectures": ["ViT"], "id2label": {"1": "dog", "0": "cat"}, "label2id": {"cat": 0, "dog": 1}}"#;
    noted("config.json", config, &["cat", "dog"], "id2label");
    noted("config.json", r#"{"label2id": {"dog": 1, "cat": "0"}}"#, &["cat", "dog"], "label2id");
    refused("config.json", r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#, &["placeholder"]);
    let coco = r#"{"images": [], "annotations": [{"id": 3}], "categories":
        [{"id": 2, "name": "dog", "supercategory": "x"}, {"id": 1, "name": "cat", "supercategory": "x"}]}"#;
    noted("a.json", coco, &["cat", "dog"], "numbered from 1, so number 1 is position 0");
    refused("a.json", r#"[{"id": 1, "name": "cat"}, {"id": 90, "name": "dog"}]"#, &["2 is missing"]);
    let lvis = r#"[{"id": 1, "name": "aerosol_can", "synset": "a.n.01", "synonyms": ["aerosol_can", "spray_can"], "image_count": 4}]"#;
    let set = read("a.json", lvis, ReadOptions::default()).unwrap();
    assert_eq!(set.as_slice()[0].phrases(), ["aerosol can", "spray can"]);
    let inat = r#"[{"id": 0, "name": "Lumbricus terrestris", "common_name": "Common Earthworm", "class": "Clitellata"}]"#;
    noted("a.json", inat, &["Lumbricus terrestris"], "not read: \"common_name\", \"class\"");
    noted("a.json", r#"{"names": ["cat", "dog"]}"#, &["cat", "dog"], "\"names\"");
    refused("a.json", r#"{"cat": ["A photo of a cat that sleeps."]}"#, &["sentence", "prompts"]);
    let long: Vec<String> = (0..200).map(|i| format!("\"name{i}\"")).collect();
    refused("a.json", format!("{{\"imagenet1k\": [{}], \"b\": []}}", long.join(",")), &["200 synonyms"]);
}

#[test]
fn a_hundred_thousand_synonyms_take_no_time() {
    let synonyms: Vec<String> = (0..100_000).map(|number| format!("\"synonym {number}\"")).collect();
    let file = format!("{{\"cat\": [{}], \"dog\": []}}", synonyms.join(","));
    let started = std::time::Instant::now();
    assert_eq!(read("a.json", &file, VERBATIM).unwrap().as_slice()[0].phrases().len(), 100_001);
    refused("a.json", &file, &["100000 synonyms"]);
    // Comparing all pairs takes minutes.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn yaml_lists_of_names_are_read_or_refused() {
    let yolo = "path: ../data # root\ntrain: images/train\nnc: 2\n\nnames:\n  0: person\n  1: 'traffic light' # red\n";
    noted("data.yaml", yolo, &["person", "traffic light"], "numbered from 0");
    for names in [
        "['cat', \"dog\"]",
        "[cat,\n  dog, # two\n]",
        "{0: cat, 1: dog}",
        "\n- cat\n- dog",
        "\n  - cat\n\n  - dog",
    ] {
        noted("data.yml", format!("train: a\nnames: {names}\nnc: 2\n"), &["cat", "dog"], "\"names\"");
    }
    assert_eq!(plain("a.yaml", "---\n- cat\n- hot dog\n"), ["cat", "hot dog"]);
    noted("a.yaml", "0: cat\n1: dog\n", &["cat", "dog"], "from numbers");
    refused("a.yaml", "names: [cat, dog]\nnc: 3\n", &["nc is 3", "2 names"]);
    refused("a.yaml", "names: coco.names\n", &["expected a list"]);
    refused("a.yaml", "train: a\n", &["no names under"]);
    refused("a.yaml", "names: &anchor\n  - cat\n", &["one per line"]);
    refused("a.yaml", "names:\n  - cat: 1\n", &["a.yaml:2"]);
}

#[test]
fn encodings_and_line_ends_do_not_count() {
    for content in ["cat\rdog\rfox\r", "cat\r\ndog\r\nfox\r\n\r\n", "\u{feff}cat\ndog\nfox"] {
        assert_eq!(plain("a.txt", content), ["cat", "dog", "fox"]);
    }
    let utf16: Vec<u8> = "\u{feff}cat\r\ndog\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(plain("a.txt", utf16), ["cat", "dog"]);
    assert_eq!(plain("a.csv", "name\rcat,tom\rdog\r"), ["cat", "dog"]);
    noted("a.csv", "cat,tom\ndog,\n,,\n\n", &["cat", "dog"], "no header row");
    refused("a.csv", "name\ncat\n\ndog\n", &["a.csv:3", "empty"]);
    refused("a.txt", b"caf\xe9\ncat\n", &["not UTF-8", "iconv"]);
    refused("a.csv", b"PK\x03\x04", &["spreadsheet"]);
    refused("a.csv", "name\n\"cat\ndog\n", &["a.csv:2", "not closed in its line"]);
    refused("a.txt", "cat\u{2028}dog\n", &["control"]);
    refused("a.txt", "cafÃ©\n", &["encoding"]);
}

#[test]
fn names_that_readers_take_for_one_are_refused() {
    let advice = ["tell them apart", "crane bird", "positions"];
    refused("a.txt", "crane\ndog\ncrane\n", &advice);
    for twins in ["Polish\npolish\n", "ｃａｔ\ncat\n", "STRASSE\nStrasse\n"] {
        refused("a.txt", twins, &advice);
        refused("a.txt", twins, &["case or width"]);
        assert_eq!(read("a.txt", twins, VERBATIM).unwrap().len(), 2);
    }
    for twins in ["cafe\u{301}\ncafé\n", "hot_dog\nhot\u{a0}dog\n", "cat\nc\u{200b}at\n", "cat\nc\u{ad}at\n"]
    {
        refused("a.txt", twins, &["a.txt:2", "already"]);
    }
    for content in ["crane\ncrane\n", "cat\n\ndog\n"] {
        let error = read("a.txt", content, ReadOptions::default()).unwrap_err();
        assert!(!error.contains("remove"), "{error}");
    }
    assert_eq!(plain("a.txt", "cafe\u{301}\u{a0}noir\n"), ["café noir"]);
    noted("a.txt", "c\u{200b}at\ndog\n", &["cat", "dog"], "invisible");
    // A joiner that Persian writes with.
    assert_eq!(plain("a.txt", "می\u{200c}خواهم\n"), ["می\u{200c}خواهم"]);
}

#[test]
fn what_surrounds_names_is_left_out_or_refused() {
    let txt = |content: &str, told: &str| noted("a.txt", content, &["cat", "dog"], told);
    txt("\"cat\"\n\"dog\"\n", "quotes");
    txt("'cat',\n'dog'\n", "quotes");
    txt("cat,\ndog,\n", "commas");
    txt("- cat\n- dog\n", "bullets");
    txt("# animals\ncat\n# wild\ndog\n", "2 lines of comment");
    for (content, word) in [
        ("cat\n\"dog\"\n", "quoted"),
        ("cat\ndog,\n", "comma"),
        ("cat\n#dog\n", "comment"),
        ("cat # tame\ndog\n", "comment"),
        ("cat.jpg\ndog.jpg\n", "image file"),
        ("https://example.org/cat\n", "address"),
        ("salt &amp; pepper\ncat\n", "markup"),
        ("item {\nname: 'cat'\n}\n", "code"),
        ("classes = ['cat', 'dog']\ncat\n", "code"),
        ("cat\nnan\n", "missing"),
        ("dogs:\ncat\n", "longer list"),
    ] {
        refused("a.txt", content, &[word]);
    }
}

#[test]
fn numbered_lists_lose_their_numbers_in_every_spelling() {
    for form in [
        "{} -> NAME",
        "{}->NAME",
        "{} => NAME",
        "{} = NAME",
        "{}=NAME",
        "{} – NAME",
        "{} — NAME",
        "{} | NAME",
        "({}) NAME",
        "[{}] NAME",
        "#{} NAME",
        "Class {}: NAME",
        "class_{} NAME",
        "class {} NAME",
        "{} - NAME",
        "id: {} name: NAME",
        "id={}, name=NAME",
        "id: {}, name: 'NAME'",
        "label {}: NAME",
        "No. {} NAME",
        "{}、NAME",
        "'{}': 'NAME',",
        "\"{}\", \"NAME\"",
        "- {}: NAME",
        "* [{}] NAME",
        "NAME -> {}",
        "NAME = {}",
        "NAME ({})",
        "'NAME': {},",
        "name: NAME, id: {}",
        "NAME\t{}",
        "| {} | NAME |",
        "{}NAME",
        "{\"id\": {}, \"name\": \"NAME\"}",
    ] {
        let line =
            |number: usize, name: &str| form.replacen("{}", &number.to_string(), 1).replace("NAME", name);
        for first in [0, 1] {
            let names = ["tabby cat", "dog", "fox"];
            let lines: Vec<String> =
                names.iter().enumerate().map(|(at, name)| line(first + at, name)).collect();
            noted("a.txt", lines.join("\n"), &names, &format!("numbered from {first}"));
        }
    }
    refused("a.txt", "0 -> cat\n5 -> dog\n", &["1 is missing"]);
    refused("a.txt", "cat: 5000\ndog: 300\n", &["is missing"]);
    refused("a.txt", "0 -> cat\n1 -> dog\nfox\n", &["a.txt:3", "has no number"]);
    refused("a.txt", "cat\ndog -> 3\nfox\n", &["a.txt:2", "several columns"]);
    refused("a.txt", "class_0\nclass_1\n", &["placeholder"]);
    refused("a.txt", "Class 0\nClass 1\n", &["placeholder"]);
    noted("a.txt", "tench (n01440764)\ngoldfish (n01443537)\n", &["tench", "goldfish"], "behind the names");
    noted("a.txt", "Alien (1979)\nJaws (1975)\n", &["Alien (1979)", "Jaws (1975)"], "which is kept");
    noted("a.txt", "bread: rye\nroll: wheat\n", &["bread: rye", "roll: wheat"], "a dash or a colon");
}

#[test]
fn headers_are_never_categories() {
    let csv = |content: &str, expected: &[&str], told: &str| noted("a.csv", content, expected, told);
    csv("fine_label,coarse_label\ncat,animal\noak,tree\n", &["cat", "oak"], "not read: \"coarse_label\"");
    csv("superclass,class\nanimal,cat\ntree,oak\n", &["cat", "oak"], "names from \"class\"");
    csv("species,common_name\nFelis catus,cat\nQuercus,oak\n", &["cat", "oak"], "not read: \"species\"");
    csv("english,chinese\ncat,猫\ndog,狗\n", &["cat", "dog"], "names from \"english\"");
    csv("en,id\ncat,0\ndog,1\n", &["cat", "dog"], "names from \"en\"");
    csv("class,weight\ncat,0.5\ndog,1.5\n", &["cat", "dog"], "not read: \"weight\"");
    csv("class,mass\ncat,0.5\ndog,1.5\n", &["cat", "dog"], "not read: \"mass\"");
    csv("编号,名称\n1,狗\n0,猫\n", &["猫", "狗"], "positions from \"编号\"");
    csv("# two animals\nid,name\n0,cat\n1,dog\n", &["cat", "dog"], "1 line of comment");
    refused("a.csv", "# two\nid,name\n0,cat\n# more\n1,0\n", &["a.csv:5", "a number"]);
    for word in ["label_name", "classname", "display_name", "tag", "title", "species", "common_name"] {
        csv(&format!("id,{word}\n0,cat\n1,dog\n"), &["cat", "dog"], "names from");
    }
    csv("cat,tom\ndog,hound\n", &["cat", "dog"], "no header row, columns of names, synonyms");
    refused("a.csv", "title,tag\ncat,a\ndog,b\n", &["may both hold the names"]);
    refused("a.csv", "class_name,flavour\ncat,sweet\ndog,sour\n", &["unknown column \"flavour\""]);
    refused("a.csv", "nummero,nimi\n0,kissa\n1,koira\n", &["unknown column \"nummero\"", "rename it"]);
    refused("a.txt", "nummero,nimi\n0,kissa\n1,koira\n", &["nummero,nimi", "header row", "delete"]);
    refused("a.csv", "nimi,polku\nkissa,a.jpg\nkoira,b.jpg\n", &["unknown column \"nimi\""]);
    noted("a.txt", "text\ntitle\nfigure\n", &["text", "title", "figure"], "\"text\", is a name");
    noted(
        "a.txt",
        "| id | name |\n|---|:--|\n| 0 | cat |\n| 1 | dog |\n",
        &["cat", "dog"],
        "a Markdown table",
    );
}

#[test]
fn cells_of_synonyms_hold_lists() {
    for content in [
        "name,synonyms\ncat,\"kitty, kitten\"\ndog,\n",
        "cat,\"kitty, kitten\"\ndog,\n",
        "name,alias\ncat,kitty|kitten\ndog,\n",
    ] {
        let set = read("a.csv", content, ReadOptions::default()).unwrap();
        assert_eq!(set.as_slice()[0].phrases(), ["cat", "kitty", "kitten"]);
        assert!(set.note().unwrap().contains("1 cell of synonyms split"), "{:?}", set.note());
        let verbatim = read("a.csv", content, VERBATIM).unwrap();
        assert_eq!(verbatim.as_slice()[0].phrases().len(), 2, "{content}");
    }
    refused("a.csv", "cat,tom,0.5\ndog,hound,1.5\n", &["0.5", "synonym of \"cat\"", "header row"]);
}

#[test]
fn prompts_articles_and_folders_around_names_are_told() {
    let txt = |content: &str, told: &str| noted("a.txt", content, &["cat", "owl"], told);
    txt("a photo of a cat.\na photo of an owl.\n", "prompts such as \"a photo of a cat.\"");
    txt("a photo of a cat, a type of pet.\na photo of an owl, a type of pet.\n", "prompts");
    txt("this is a cat\nthis is an owl\n", "prompts");
    txt("a cat\nan owl\n", "articles");
    txt("cat.\nowl.\n", "full stops");
    txt("train/cat\ntrain/owl\n", "the folder \"train/\"");
    txt("./cat/\n./owl/\n", "the folder \"./\"");
    txt("C:\\data\\cat\nC:\\data\\owl\n", "the folder");
    txt("cat/\nowl/\n", "slashes");
    txt("name: cat\nname: owl\n", "the word before");
    txt("• cat\n• owl\n", "bullets");
    txt("-cat\n-owl\n", "bullets");
    txt("- [ ] cat\n- [x] owl\n", "bullets");
    txt("1. cat\n2. owl\n", "numbered from 1");
    txt("<ul>\n<li>cat</li>\n<li>owl</li>\n</ul>\n", "HTML");
    txt("**cat**\n**owl**\n", "quotes");
    txt("cat;\nowl;\n", "semicolons");
    txt("'cat',\n'owl',\n", "commas");
    txt("{\"name\": \"cat\"}\n{\"name\": \"owl\"}\n", "a JSON or Python literal");
    noted("a.txt", "a cat\nowl\n", &["a cat", "owl"], "an article before 1 of the names kept");
    noted("a.txt", "animals\n  cat\n  owl\n", &["animals", "cat", "owl"], "line 2 is indented");
    for (content, word) in [
        ("a photo of a cat.\nowl\n", "a prompt"),
        ("It sleeps on the mat.\nowl\n", "a sentence"),
        ("train/cat/001.jpg\ntrain/owl/002.jpg\n", "an image file"),
        ("/data/cat\nowl\n", "a path"),
        ("cat.txt\nowl.txt\n", "a file"),
        ("total 8\ndrwxr-xr-x 2 ann ann 4096 Jan  1 12:00 cat\n", "directory listing"),
        (
            "-rw-r--r-- 2 ann ann 4096 Jan  1 12:00 cat\ndrwxr-xr-x 2 ann ann 4096 Jan  1 12:00 owl\n",
            "directory listing",
        ),
        (".\n├── cat\n└── owl\n", "drawing of folders"),
        ("# cat\n# owl\n", "a comment, as every line does"),
        ("- cat\nowl\n", "an item of a list"),
        ("'cat', 'owl',\n'fox', 'cow'\n", "code"),
        ("cat -> animal\nowl -> bird\n", "several columns"),
        ("cat = animal\nowl = bird\n", "several columns"),
    ] {
        refused("a.txt", content, &[word]);
    }
}

#[test]
fn json_lines_and_features_are_lists_of_names() {
    let lines = "{\"id\": 1, \"name\": \"dog\"}\n{\"id\": 0, \"name\": \"cat\"}\n";
    for file in ["a.json", "a.jsonl", "a.ndjson"] {
        noted(file, lines, &["cat", "dog"], "names from \"name\", positions from \"id\"");
        assert_eq!(plain(file, "\"cat\"\n\"dog\"\n"), ["cat", "dog"]);
    }
    refused("a.jsonl", "{\"name\": \"cat\"}\n\n{\"name\": \"cat\"}\n", &["a.jsonl:3", "already"]);
    let label = r#""label": {"names": ["cat", "dog"], "_type": "ClassLabel"}"#;
    let features = format!(r#"{{"image": {{"_type": "Image"}}, {label}}}"#);
    noted("features.json", &features, &["cat", "dog"], "the class label \"label\"");
    let info = format!(r#"{{"default": {{"features": {features}, "splits": {{}}}}}}"#);
    noted("dataset_infos.json", info, &["cat", "dog"], "the class label \"label\"");
    let two = format!(r#"{{"features": {{{label}, {}}}}}"#, label.replace("label", "coarse"));
    refused("dataset_info.json", two, &["several class labels: \"label\", \"coarse\""]);
    noted("a.json", r#"{"idx_to_class": {"0": "cat", "1": "dog"}}"#, &["cat", "dog"], "idx_to_class");
    refused("a.json", r#"{"animals": ["cat", "dog"]}"#, &["list of names under a title"]);
}

/// Verbatim names are a way out only if they are read otherwise.
#[test]
fn verbatim_names_are_offered_where_they_help() {
    let offered = |name: &str, content: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        match Categories::read(&path, ReadOptions::default()).unwrap_err() {
            CategoryError::Entry { problem, .. } => {
                let offered = problem.is_name_verbatim();
                assert!(!offered || Categories::read(&path, VERBATIM).is_ok(), "{content}");
                offered
            }
            other => panic!("{other}"),
        }
    };
    for content in
        ["0\n1\n", "50 cent\n10 euro\n", "hot dog\nhot_dog\n", "Polish\npolish\n", "cat\n\"dog\"\n"]
    {
        assert!(offered("a.txt", content), "{content}");
    }
    for (name, content) in [
        ("a.txt", "cat\ncat\n"),
        ("a.txt", "a.jpg\nb.jpg\n"),
        ("a.txt", "cat, dog\n"),
        ("a.json", r#"{"0": "a", "2": "b"}"#),
        ("a.csv", "id,name\n0,cat\n2,dog\n"),
        ("a.csv", "cat,0.5\ndog,tom\n"),
        ("a.csv", "nummero,nimi\n0,kissa\n1,koira\n"),
    ] {
        assert!(!offered(name, content), "{content}");
    }
}
