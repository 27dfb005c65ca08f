//! Tokens compared with those of the real tools (tests/fixtures/make_tokenizers.py), and the order of the rules.

use std::collections::HashMap;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::teacher::{Padding, PaddingSide, TextSection};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const FREE: Demand = Demand { length: None, mask: true };
const NO_MASK: Demand = Demand { length: None, mask: false };

fn settings(dir: &Path) -> TextSettings {
    TextSettings {
        model: dir.join("text.onnx"),
        dir: dir.to_owned(),
        set: TextSection::default(),
        image_size: None,
    }
}

/// The settings of a folder whose `teacher.toml` sets these values.
fn setting(dir: &Path, set: TextSection) -> TextSettings {
    TextSettings { set, ..settings(dir) }
}

/// Tokens of the fixtures' texts by the tokenizer in `folder`, and those of the real tool.
fn compare(folder: &str, demand: Demand) -> Vec<String> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/tokenizers/golden.json")).unwrap();
    let golden: HashMap<String, Value> = serde_json::from_str(&text).unwrap();
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let expected: Vec<Vec<u32>> = serde_json::from_value(golden[folder].clone()).unwrap();
    let dir = PathBuf::from(format!("{FIXTURES}/tokenizers/{folder}"));
    let tokenizer = PromptTokenizer::open(&settings(&dir), demand).unwrap();
    assert!(texts.len() > 30);
    for (text, expected) in texts.iter().zip(expected) {
        assert_eq!(tokenizer.encode(text).unwrap().ids, expected, "{folder}: {text:?}");
    }
    tokenizer.notes().to_vec()
}

#[test]
fn a_damaged_tokenizer_is_an_error_of_its_file() {
    let whole =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer.json"))
            .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    for text in [
        "[".repeat(100_000),
        whole.replace("\"padding\": null", "\"padding\": {\"strategy\": {\"Fixed\": 1000000000000}, \"direction\": \"Right\", \"pad_to_multiple_of\": null, \"pad_id\": 0, \"pad_type_id\": 0, \"pad_token\": \"[PAD]\"}"),
        // The library panics: no merge has this prefix.
        r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": "prefix", "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#
            .to_owned(),
        whole[..whole.len() / 2].to_owned(),
    ] {
        std::fs::write(&path, &text).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let error = bounds::check(&bytes).map_err(|reason| broken(&path, reason)).and_then(|()| parse(&path, &bytes));
        assert!(matches!(error, Err(ExtractError::Tokenizer { .. })), "{error:?}");
    }
}

#[test]
fn clip_is_read_from_its_vocabulary() {
    let sixteen = Demand { length: Some(16), mask: false };
    assert_eq!(compare("clip_vocab", sixteen), [""; 0]);
    assert_eq!(compare("clip_openai", sixteen), [""; 0]);
}

#[test]
fn do_lower_case_holds_as_in_transformers() {
    for folder in ["bert_lower", "bert_cased"] {
        let notes = compare(folder, FREE);
        assert!(notes[0].starts_with("tokenizer_config.json has do_lower_case"), "{notes:?}");
    }
}

#[test]
fn the_recipe_for_siglip_gives_its_tokens() {
    assert_eq!(compare("siglip", Demand { length: Some(16), mask: false }), [""; 0]);
    let dir = tempfile::tempdir().unwrap();
    let from = PathBuf::from(format!("{FIXTURES}/tokenizers/siglip"));
    for name in ["spiece.model", "tokenizer_config.json"] {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    let text = PromptTokenizer::open(&settings(dir.path()), FREE).unwrap_err().to_string();
    assert!(
        text.contains("the folder has spiece.model, tokenizer_config.json")
            && text.contains("T5TokenizerFast"),
        "{text}"
    );
}

/// A folder with the small tokenizer of the tests and these files beside it.
fn folder(files: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(format!("{FIXTURES}/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    for (name, json) in files {
        if *name == "tokenizer.json" {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            let mut whole: Value = serde_json::from_str(&text).unwrap();
            for (key, value) in json.as_object().unwrap() {
                whole[key] = value.clone();
            }
            std::fs::write(dir.path().join(name), whole.to_string()).unwrap();
        } else {
            std::fs::write(dir.path().join(name), json.to_string()).unwrap();
        }
    }
    dir
}

fn open(files: &[(&str, Value)], demand: Demand) -> Result<PromptTokenizer, ExtractError> {
    let dir = folder(files);
    PromptTokenizer::open(&settings(dir.path()), demand)
}

/// A resolved setting and its origin.
fn value(tokenizer: &PromptTokenizer, key: &str) -> (String, String) {
    let found = tokenizer.resolved().iter().find(|setting| setting.key == key);
    found.map_or_else(Default::default, |setting| (setting.value.to_string(), setting.from.clone()))
}

fn resolved(files: &[(&str, Value)], demand: Demand, key: &str) -> (String, String) {
    value(&open(files, demand).unwrap(), key)
}

#[test]
fn the_length_comes_from_the_first_file_that_has_it() {
    let open_clip = ("open_clip_config.json", json!({"model_cfg": {"text_cfg": {"context_length": 9}}}));
    let sentence = ("sentence_bert_config.json", json!({"max_seq_length": 8}));
    let truncation = json!({"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0});
    let json_file = ("tokenizer.json", json!({"truncation": truncation}));
    let config = ("tokenizer_config.json", json!({"model_max_length": 6}));
    let model = ("config.json", json!({"model_type": "bert", "max_position_embeddings": 10}));
    let files = [open_clip, sentence, json_file, config, model];
    for (from, expected, origin) in [
        (0, "9", "open_clip_config.json"),
        (1, "8", "sentence_bert_config.json"),
        (2, "7", "tokenizer.json"),
        (3, "6", "tokenizer_config.json"),
        (4, "10", "config.json"),
    ] {
        assert_eq!(resolved(&files[from..], FREE, "context_length"), (expected.into(), origin.into()));
    }
    let fixed = Demand { length: Some(5), mask: true };
    assert_eq!(resolved(&files, fixed, "context_length"), ("5".into(), "text.onnx".into()));

    let short = ("config.json", json!({"model_type": "roberta", "max_position_embeddings": 6}));
    let got = resolved(&[files[2].clone(), short], FREE, "context_length");
    assert_eq!(got, ("4".into(), "config.json; tokenizer.json allows 7".into()));
    let siglip =
        ("config.json", json!({"model_type": "siglip", "text_config": {"model_type": "siglip_text_model"}}));
    assert_eq!(resolved(&[siglip], FREE, "context_length").0, "64");
    let unlimited = ("tokenizer_config.json", json!({"model_max_length": 1e30}));
    let text = open(&[unlimited], FREE).unwrap_err().to_string();
    assert!(text.contains("hint: set context_length"), "{text}");
}

#[test]
fn padding_of_the_files_holds_unless_teacher_toml_decides() {
    let padding = |strategy: Value| {
        json!({"strategy": strategy, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 9, "pad_type_id": 0,
               "pad_token": "void"})
    };
    let max = ("tokenizer_config.json", json!({"model_max_length": 8}));
    let fixed = [("tokenizer.json", json!({"padding": padding(json!({"Fixed": 6}))})), max.clone()];
    let tokens = open(&fixed, FREE).unwrap().encode("cat dog").unwrap();
    assert_eq!(tokens.ids, [9, 9, 2, 7, 8, 3]);
    assert_eq!(tokens.words, [false, false, true, true, true, true]);

    let dir = folder(&fixed);
    let set = TextSection {
        padding: Some(Padding::Fixed),
        padding_side: Some(PaddingSide::Right),
        pad_id: Some(0),
        context_length: Some(7),
        ..TextSection::default()
    };
    let decided = setting(dir.path(), set);
    let tokens = PromptTokenizer::open(&decided, FREE).unwrap().encode("cat dog").unwrap();
    assert_eq!(tokens.ids, [2, 7, 8, 3, 0, 0, 0]);

    let mut multiple = padding(json!("BatchLongest"));
    multiple["pad_to_multiple_of"] = json!(4);
    let multiple = [("tokenizer.json", json!({"padding": multiple})), max.clone()];
    assert_eq!(open(&multiple, FREE).unwrap().encode("cat").unwrap().ids, [9, 2, 7, 3]);
    assert_eq!(open(&multiple, FREE).unwrap().encode("cat dog a").unwrap().ids.len(), 8);

    assert_eq!(open(std::slice::from_ref(&max), FREE).unwrap().encode("cat").unwrap().ids.len(), 3);
    assert_eq!(open(&[max], NO_MASK).unwrap().encode("cat").unwrap().ids, [2, 7, 3, 0, 0, 0, 0, 0]);
}

#[test]
fn the_padding_token_comes_from_the_first_file_that_names_it() {
    let max = ("tokenizer_config.json", json!({"model_max_length": 8}));
    let config = ("tokenizer_config.json", json!({"model_max_length": 8, "pad_token": {"content": "void"}}));
    let special = ("special_tokens_map.json", json!({"pad_token": "dog"}));
    let model = ("config.json", json!({"model_type": "gpt", "pad_token_id": 6}));
    for (files, id, origin) in [
        (vec![config.clone(), special.clone(), model.clone()], "9", "tokenizer_config.json: void"),
        (vec![max.clone(), special, model.clone()], "8", "special_tokens_map.json: dog"),
        (vec![max.clone(), model], "6", "config.json"),
        (vec![max.clone()], "0", "the token [PAD]"),
    ] {
        assert_eq!(resolved(&files, NO_MASK, "pad_id"), (id.into(), origin.into()));
    }
    let vocabulary =
        json!({"type": "WordLevel", "vocab": {"[UNK]": 0, "[CLS]": 2, "[SEP]": 3}, "unk_token": "[UNK]"});
    let nameless = ("tokenizer.json", json!({"model": vocabulary, "added_tokens": []}));
    let text = open(&[nameless.clone(), max.clone()], NO_MASK).unwrap_err().to_string();
    assert!(text.contains("or set pad_id"), "{text}");
    assert!(open(&[nameless, max], FREE).is_ok(), "nothing is padded");
    let unknown = ("tokenizer_config.json", json!({"model_max_length": 8, "pad_token": "<none>"}));
    assert!(
        open(&[unknown], NO_MASK).unwrap_err().to_string().contains("\"<none>\" is not in the vocabulary")
    );
}

#[test]
fn siglip_pads_to_one_length_and_counts_padding() {
    let config =
        ("config.json", json!({"model_type": "siglip", "text_config": {"max_position_embeddings": 5}}));
    let tokenizer = open(&[config], FREE).unwrap();
    assert!(tokenizer.padding_counts());
    assert_eq!(tokenizer.encode("cat").unwrap().ids, [2, 7, 3, 0, 0]);
    assert_eq!(value(&tokenizer, "padding").1, "SigLIP pads to one length");
    assert!(
        !open(&[("tokenizer_config.json", json!({"model_max_length": 8}))], FREE).unwrap().padding_counts()
    );
}

#[test]
fn open_clip_cleans_pads_and_strips() {
    let config = |text_cfg: Value| ("open_clip_config.json", json!({"model_cfg": {"text_cfg": text_cfg}}));
    let simple = open(&[config(json!({"context_length": 6}))], FREE).unwrap();
    assert_eq!(simple.encode(" A &amp;\n cat ").unwrap().ids, [2, 4, 1, 7, 3, 0]);
    assert_eq!(value(&simple, "clean").0, "\"lower\"");
    let named =
        json!({"context_length": 6, "hf_tokenizer_name": "x", "tokenizer_kwargs": {"strip_sep_token": true}});
    let stripped = open(&[config(named)], FREE).unwrap();
    assert_eq!(stripped.encode("cat").unwrap().ids, [2, 7, 0, 0, 0, 0]);
    assert_eq!(value(&stripped, "clean").0, "\"whitespace\"");
    let canonical =
        json!({"context_length": 6, "hf_tokenizer_name": "x", "tokenizer_kwargs": {"clean": "canonicalize"}});
    assert_eq!(open(&[config(canonical)], FREE).unwrap().encode("cat_dog!").unwrap().ids, [2, 7, 8, 3, 0, 0]);
    for (text_cfg, part) in [
        (json!({"tokenizer_mode": "clips"}), "tokenizer_mode = \"clips\""),
        (json!({"tokenizer_kwargs": {"reduction_mask": "syntax"}}), "tokenizer_kwargs.reduction_mask"),
        (json!({"tokenizer_kwargs": {"clean": "all"}}), "clean = \"all\""),
    ] {
        let text = open(&[config(text_cfg)], FREE).unwrap_err().to_string();
        assert!(text.contains(part) && text.contains("hint: "), "{text}");
    }
}

#[test]
fn texts_longer_than_the_context_are_counted() {
    let tokenizer = open(&[("tokenizer_config.json", json!({"model_max_length": 4}))], FREE).unwrap();
    let prompts: Vec<String> = ["cat", "a cat", "a photo of cat", "ééé é é é"].map(str::to_owned).into();
    assert_eq!(tokenizer.count_cut(&prompts).unwrap(), 2);
    assert!(tokenizer.encode("a photo of cat").unwrap().cut);
}

#[test]
fn a_setting_without_effect_does_not_change_the_hash() {
    let dir = folder(&[("tokenizer_config.json", json!({"model_max_length": 8, "pad_token": "[PAD]"}))]);
    let hash = |settings: &TextSettings, demand: Demand| {
        let mut hasher = blake3::Hasher::new();
        PromptTokenizer::open(settings, demand).unwrap().hash_into(&mut hasher).unwrap();
        hasher.finalize()
    };
    let bare = settings(dir.path());
    let set = TextSection {
        context_length: Some(8),
        padding: Some(Padding::Longest),
        pad_id: Some(5),
        clean: Some(Clean::None),
        ..TextSection::default()
    };
    assert_eq!(hash(&bare, FREE), hash(&setting(dir.path(), set.clone()), FREE));
    let set = TextSection { padding: Some(Padding::Fixed), pad_id: Some(0), ..set };
    let spelled = setting(dir.path(), set);
    assert_eq!(hash(&bare, NO_MASK), hash(&spelled, NO_MASK));
    assert_ne!(hash(&bare, FREE), hash(&spelled, FREE));
    for other in [
        TextSection { context_length: Some(7), ..TextSection::default() },
        TextSection { pad_id: Some(1), ..TextSection::default() },
        TextSection { padding_side: Some(PaddingSide::Left), ..TextSection::default() },
        TextSection { clean: Some(Clean::Lower), ..TextSection::default() },
    ] {
        assert_ne!(hash(&bare, NO_MASK), hash(&setting(dir.path(), other), NO_MASK));
    }
}

#[test]
fn a_folder_without_a_tokenizer_says_what_to_do() {
    let refused = |files: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        PromptTokenizer::open(&settings(dir.path()), FREE).unwrap_err().to_string()
    };
    for (files, part) in [
        (&[][..], "hint: copy tokenizer.json"),
        (&["vocab.txt"][..], "BertTokenizerFast as B; B('vocab.txt', do_lower_case=True)"),
        (&["vocab.txt", "config.json"][..], "AutoTokenizer"),
        (&["spiece.model"][..], "AutoTokenizer"),
        (&["open_clip_config.json"][..], "bpe_simple_vocab_16e6.txt.gz"),
        (&["vocab.json", "merges.txt"][..], "no token <|startoftext|>"),
    ] {
        let text = refused(files);
        assert!(text.contains(part), "{files:?}: {text}");
    }
}

#[test]
fn the_recipe_for_a_list_of_words_keeps_their_case() {
    for (words, lower) in [("[CLS]\n[SEP]\ncat\nétat", "True"), ("[CLS]\nCat\ncat", "False")] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vocab.txt"), words).unwrap();
        let text = PromptTokenizer::open(&settings(dir.path()), FREE).unwrap_err().to_string();
        assert!(text.contains(&format!("do_lower_case={lower}")), "{text}");
    }
}

#[test]
fn a_padding_token_that_matters_is_not_guessed() {
    let vocabulary = json!({"type": "WordLevel", "vocab": {"[UNK]": 0, "[CLS]": 2, "[SEP]": 3, "<pad>": 4, "</s>": 1},
                            "unk_token": "[UNK]"});
    let tokenizer = ("tokenizer.json", json!({"model": vocabulary, "added_tokens": []}));
    let siglip = ("preprocessor_config.json", json!({"image_processor_type": "SiglipImageProcessor"}));
    let class =
        |class: &str| ("tokenizer_config.json", json!({"model_max_length": 8, "tokenizer_class": class}));
    for demand in [FREE, NO_MASK] {
        let text = open(&[tokenizer.clone(), siglip.clone()], demand).unwrap_err().to_string();
        assert!(text.contains("hint: copy tokenizer_config.json or special_tokens_map.json"), "{text}");
        for (name, id) in [("SiglipTokenizer", "1"), ("GemmaTokenizer", "4")] {
            let files = [tokenizer.clone(), siglip.clone(), class(name)];
            assert_eq!(resolved(&files, demand, "pad_id").0, id, "{name}");
        }
    }
    assert!(open(&[tokenizer.clone(), class("")], NO_MASK).is_err());
    let dir = folder(&[tokenizer, class("")]);
    let set = TextSection { padding: Some(Padding::Fixed), ..TextSection::default() };
    let fixed = setting(dir.path(), set);
    assert_eq!(value(&PromptTokenizer::open(&fixed, FREE).unwrap(), "pad_id").0, "4", "behind a mask");
}

#[test]
fn a_length_that_cannot_be_is_refused() {
    let dir = folder(&[("config.json", json!({"model_type": "bert", "max_position_embeddings": 10}))]);
    let with =
        |length| setting(dir.path(), TextSection { context_length: Some(length), ..TextSection::default() });
    for length in [3, 10] {
        PromptTokenizer::open(&with(length), FREE).unwrap();
    }
    for (length, part) in [
        (1, "leaves no room for words: every prompt has 2 special tokens"),
        (2, "leaves no room for words"),
        (11, "config.json gives the model 10 positions"),
    ] {
        let text = PromptTokenizer::open(&with(length), FREE).unwrap_err().to_string();
        assert!(text.contains(part) && text.contains("hint: set context_length"), "{text}");
    }
}

#[test]
fn a_short_length_of_tokenizer_json_is_told() {
    let truncation = json!({"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0});
    let file = ("tokenizer.json", json!({"truncation": truncation}));
    let model = ("config.json", json!({"model_type": "bert", "max_position_embeddings": 10}));
    let notes = open(&[file.clone(), model], FREE).unwrap().notes().to_vec();
    assert!(notes[0].contains("cuts prompts at 7 tokens, config.json gives the model 10"), "{notes:?}");
    assert!(open(&[file], FREE).unwrap().notes().is_empty());
}

#[test]
fn the_default_prompt_of_sentence_transformers_begins_every_prompt() {
    let max = ("tokenizer_config.json", json!({"model_max_length": 8}));
    let prompts = |name: Value| {
        (
            "config_sentence_transformers.json",
            json!({"prompts": {"query": "a "}, "default_prompt_name": name}),
        )
    };
    // The folders stay: a hash reads their files again.
    let folders = [
        vec![max.clone()],
        vec![max.clone(), prompts(json!("query"))],
        vec![max.clone(), prompts(Value::Null)],
    ]
    .map(|files| folder(&files));
    let [plain, prompted, unused] =
        folders.each_ref().map(|dir| PromptTokenizer::open(&settings(dir.path()), FREE).unwrap());
    assert_eq!(prompted.encode("cat").unwrap().ids, plain.encode("a cat").unwrap().ids);
    assert!(prompted.notes()[0].contains("every prompt begins with \"a \""), "{:?}", prompted.notes());
    let hash = |tokenizer: &PromptTokenizer| {
        let mut hasher = blake3::Hasher::new();
        tokenizer.hash_into(&mut hasher).unwrap();
        hasher.finalize()
    };
    assert_ne!(hash(&prompted), hash(&plain));
    assert_eq!((hash(&unused), unused.notes().len()), (hash(&plain), 0));
    let text = open(&[max, prompts(json!("passage"))], FREE).unwrap_err().to_string();
    assert!(text.contains("default_prompt_name = \"passage\"") && text.contains("hint: "), "{text}");
}

#[test]
fn a_pointer_of_git_lfs_says_how_to_get_the_file() {
    for names in [&["tokenizer.json"][..], &["vocab.json", "merges.txt"], &["bpe_simple_vocab_16e6.txt.gz"]] {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "version https://git-lfs.github.com/spec/v1\n").unwrap();
        }
        let text = PromptTokenizer::open(&settings(dir.path()), FREE).unwrap_err().to_string();
        assert!(text.contains(names[0]) && text.contains("git lfs pull"), "{text}");
    }
}
