//! Text models with unusual inputs, outputs and batches (`tests/fixtures/make_text_models.py`), in folders without a
//! description of the text side.

use std::collections::HashMap;

use lgd_extract::teacher::Resolved;
use lgd_extract::{EncoderOptions, ExtractError, Teacher, TextEncoder};

use crate::common::{FIXTURES, assert_close, runtime, unit};

/// Opens the text encoder of a folder with this model, the tests' tokenizer, a context of 6 tokens and more files.
fn open(model: &str, keys: &str, files: &[(&str, &str)]) -> Result<TextEncoder, ExtractError> {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    std::fs::copy(format!("{FIXTURES}/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    std::fs::copy(format!("{FIXTURES}/text_models/{model}.onnx"), dir.path().join("text.onnx")).unwrap();
    write("tokenizer_config.json", r#"{"model_max_length": 6}"#);
    write("teacher.toml", &format!("[text]\n{keys}\n"));
    for (name, text) in files {
        write(name, text);
    }
    Teacher::open(dir.path())?.text_encoder(&runtime(), &EncoderOptions::default())
}

fn encode(encoder: &mut TextEncoder, texts: &[&str]) -> Vec<f32> {
    encoder.encode(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).unwrap()
}

/// The reference's values, each row normalized.
fn expected(model: &str, output: &str) -> Vec<f32> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/text_models/expected.json")).unwrap();
    let all: HashMap<String, HashMap<String, Vec<f32>>> = serde_json::from_str(&text).unwrap();
    all[model][output].chunks(4).flat_map(unit).collect()
}

fn refused(model: &str, keys: &str, files: &[(&str, &str)]) -> String {
    open(model, keys, files).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn masks_of_every_type_and_any_name_are_fed() {
    for model in ["mask_i32", "mask_f32", "mask_f16", "mask_bool"] {
        let mut encoder = open(model, "padding = 'fixed'", &[]).unwrap();
        let got = encode(&mut encoder, &["a photo of cat", "cat"]);
        assert_close(&got, &expected(model, "text_features"), 1e-6);
        assert!(encoder.notes().is_empty(), "{:?}", encoder.notes());
    }
}

#[test]
fn positions_count_up_and_types_are_zero() {
    let mut encoder = open("positions", "padding = 'longest'", &[]).unwrap();
    assert_close(
        &encode(&mut encoder, &["a photo of cat"]),
        &expected("positions", "sentence_embedding"),
        1e-6,
    );
    let of =
        |key: &str| encoder.resolved().iter().find(|setting| setting.key == key).map(Resolved::to_string);
    assert_eq!(of("output").unwrap(), "output = \"sentence_embedding\" (its name)");
    assert_eq!(of("context_length").unwrap(), "context_length = 6 (tokenizer_config.json)");
}

#[test]
fn a_graph_with_both_encoders_gets_one_image() {
    let config = ("preprocessor_config.json", r#"{"size": {"height": 8, "width": 8}}"#);
    let mut encoder = open("both", "", &[config]).unwrap();
    let got = encode(&mut encoder, &["a photo of cat", "cat"]);
    assert_close(&got, &expected("mask_f32", "text_features"), 1e-6);
    let text = refused("both", "", &[]);
    assert!(text.contains("pixel_values: f32[?, 3, ?, ?]") && text.contains("hint: the text side"), "{text}");
}

#[test]
fn siglip_takes_its_pooler_output_with_padding_and_a_mask_of_ones() {
    let siglip =
        ("config.json", r#"{"model_type": "siglip", "text_config": {"model_type": "siglip_text_model"}}"#);
    let class =
        ("preprocessor_config.json", r#"{"image_processor_type": "SiglipImageProcessor", "size": 8}"#);
    for file in [siglip, class] {
        let mut encoder = open("siglip", "", &[file]).unwrap();
        let got = encode(&mut encoder, &["a photo of cat", "cat"]);
        assert_close(&got, &expected("siglip", "pooler_output"), 1e-6);
    }
}

#[test]
fn clip_without_its_projection_is_refused() {
    let clip = ("config.json", r#"{"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]}"#);
    for keys in ["", "output = 'pooler_output'"] {
        let text = refused("siglip", keys, &[clip]);
        assert!(
            text.contains("pooler_output") && text.contains("hint: export transformers' CLIPText"),
            "{text}"
        );
    }
    let text = refused("siglip", "", &[]);
    assert!(text.contains("pooler_output: f32[?, 4]") && text.contains("for SigLIP set output"), "{text}");
}

#[test]
fn sentence_transformers_say_how_states_are_pooled() {
    let pooling = |mode: &str| format!(r#"{{"pooling_mode_{mode}": true}}"#);
    // The first and the last token of this model are [CLS] and [SEP], whatever the prompt.
    for (mode, name) in [("cls_token", "cls"), ("lasttoken", "lasttoken")] {
        let text = refused("states", "", &[("1_Pooling/config.json", &pooling(mode))]);
        assert!(
            text.contains("the same vector for") && text.contains(&format!("pooling = \"{name}\"")),
            "{text}"
        );
    }
    for mode in ["mean_tokens", "max_tokens"] {
        let mut encoder = open("states", "", &[("1_Pooling/config.json", &pooling(mode))]).unwrap();
        assert_eq!(encode(&mut encoder, &["cat"]).len(), 4);
    }
    let dense = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#;
    let text =
        refused("states", "", &[("modules.json", dense), ("1_Pooling/config.json", &pooling("mean_tokens"))]);
    assert!(text.contains("\"Dense\""), "{text}");
    assert!(refused("states", "", &[]).contains("hint: set pooling"));
}

#[test]
fn a_batch_that_is_free_in_name_only_is_found() {
    let mut encoder = open("inner_batch_2", "", &[]).unwrap();
    assert!(encoder.notes()[0].contains("in batches of 2"), "{:?}", encoder.notes());
    let three = encode(&mut encoder, &["a photo of cat", "cat", "a photo of cat"]);
    assert_close(&three[..8], &expected("inner_batch_2", "text_embeds"), 1e-6);
    assert_eq!(three[8..], three[..4]);
    assert!(refused("inner_batch_11", "", &[]).contains("text.onnx"));
}

#[test]
fn inputs_that_cannot_be_fed_are_listed() {
    let text = refused("mask_4d", "", &[]);
    assert!(text.contains("attention_mask: f32[?, 1, ?, ?]") && text.contains("hint: export"), "{text}");
}

#[test]
fn words_that_get_one_vector_are_refused() {
    let text = refused("states", "pooling = 'cls'", &[]);
    for part in
        ["the same vector for \"cat\" and \"dog\"", "last_hidden_state", "pooling = \"cls\"", "pooler_output"]
    {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn keys_without_effect_keep_the_hash() {
    let hash = |keys: &str| open("positions", keys, &[]).unwrap().hash();
    let bare = hash("");
    let spelled = "output = 'sentence_embedding'\ncontext_length = 6\ninput = 'input_ids'\npadding = 'fixed'\npad_id = 0\npooling = 'none'";
    assert_eq!(hash(spelled), bare);
    for other in
        ["context_length = 5", "padding = 'longest'", "output = 'last_hidden_state'\npooling = 'mean'"]
    {
        assert_ne!(hash(other), bare, "{other}");
    }
}
