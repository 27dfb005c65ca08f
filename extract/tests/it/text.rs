//! The text encoder compared with the reference evaluator; its batching; models and prompts that cannot be used.

use lgd_extract::{EncoderOptions, ExtractError, TextEncoder};

use crate::common::{assert_close, expected, runtime, text_teacher, unit};

const LENGTH: &str = "context_length = 8";

fn open(model: &str, keys: &str) -> Result<TextEncoder, ExtractError> {
    text_teacher(model, keys)?.text_encoder(&runtime(), &EncoderOptions::default())
}

fn prompts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// The two prompts whose token ids are listed in make_models.py.
fn pair() -> Vec<String> {
    prompts(&["a photo of cat", "DOG"])
}

fn units(raw: &[f32]) -> Vec<f32> {
    raw.chunks(4).flat_map(unit).collect()
}

#[test]
fn masked_models_agree_with_the_reference() {
    let mut encoder = open("bert", LENGTH).unwrap();
    assert_eq!(encoder.dim(), 4);
    assert_close(&encoder.encode(&pair()).unwrap(), &units(&expected("bert", "text_embeds")), 1e-6);
}

#[test]
fn models_without_a_mask_are_padded_to_their_length() {
    let mut encoder = open("clip_text", "").unwrap();
    assert_close(&encoder.encode(&pair()).unwrap(), &units(&expected("clip_text", "text_embeds")), 1e-6);
}

#[test]
fn hidden_states_are_pooled_over_the_mask() {
    let keys = format!("{LENGTH}\noutput = 'last_hidden_state'\n");
    let mut mean = open("bert", &format!("{keys}pooling = 'mean'\npadding = 'fixed'")).unwrap();
    assert_close(&mean.encode(&pair()).unwrap(), &units(&expected("bert", "text_embeds")), 1e-6);

    // The first token of this model is [CLS], whatever the prompt.
    let text = open("bert", &format!("{keys}pooling = 'cls'")).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("the same vector for \"cat\" and \"dog\"") && text.contains("\"cls\""), "{text}");
}

#[test]
fn neighbors_and_order_do_not_change_a_prompt() {
    let mut encoder = open("bert", LENGTH).unwrap();
    let all: Vec<String> =
        (0..150).map(|i| ["a", "photo of", "cat dog cat", "dog"][i % 4].to_owned()).collect();
    let together = encoder.encode(&all).unwrap();
    for (prompt, row) in all.iter().zip(together.chunks(4)).take(4) {
        assert_eq!(encoder.encode(std::slice::from_ref(prompt)).unwrap(), row);
    }
    assert!(encoder.encode(&[]).unwrap().is_empty());
}

#[test]
fn long_prompts_are_cut_to_the_context() {
    let mut encoder = open("bert", "context_length = 4").unwrap();
    let rows = encoder.encode(&prompts(&["a photo of cat dog", "a photo"])).unwrap();
    assert_eq!(rows[..4], rows[4..]);
}

#[test]
fn bad_prompt_embeddings_name_the_prompt() {
    let keys = format!("{LENGTH}\noutput = 'last_hidden_state'\npooling = 'mean'");
    let mut encoder = open("bert", &keys).unwrap();
    let error = encoder.encode(&prompts(&["cat", "nan"])).unwrap_err();
    let ExtractError::PromptEmbedding { prompt, fault, .. } = error else { panic!("{error}") };
    assert_eq!((prompt.as_str(), fault.as_str()), ("nan", "not finite"));
}

#[test]
fn unusable_text_models_say_what_they_have() {
    for (model, keys, part) in [
        ("bert", "", "hint: set context_length"),
        ("clip_text", "context_length = 77", "hint: set context_length = 8"),
        ("clip_text", "padding = 'longest'", "hint: set padding = \"fixed\""),
        ("bert", "context_length = 8\ninput = 'ids'", "attention_mask: i64[?, ?]"),
        ("unknown_input", "context_length = 8\npooling = 'mean'", "extra: i64[?, ?]"),
        ("unknown_input", "context_length = 8", "only inputs for token ids"),
        ("bert", "context_length = 8\noutput = 'x'", "text_embeds: f32[?, 4]"),
        ("linear", "context_length = 8", "i64 or i32"),
    ] {
        let text = open(model, keys).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains(part), "{model} {keys}: '{part}' is not in: {text}");
    }
}

#[test]
fn a_broken_tokenizer_names_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, "{\"version\": 3}").unwrap();
    let toml = format!("[text]\nmodel = '{}/bert.onnx'\ncontext_length = 8\n", crate::common::FIXTURES);
    std::fs::write(dir.path().join("teacher.toml"), toml).unwrap();
    let teacher = lgd_extract::Teacher::open(dir.path()).unwrap();
    let error = teacher.text_encoder(&runtime(), &EncoderOptions::default()).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, ExtractError::Tokenizer { .. }) && error.to_string().contains("tokenizer.json"),
        "{error}"
    );
}
