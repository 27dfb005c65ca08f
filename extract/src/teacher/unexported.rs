//! The way to an ONNX model for a folder that has only the weights of another framework.

use std::path::Path;

use serde_json::Value;

use super::preprocessing::read_json;

/// Model types of transformers that optimum exports with both encoders in one graph.
const BOTH_ENCODERS: &[&str] = &["clip", "siglip", "chinese_clip", "metaclip_2"];

/// Other model types of transformers that optimum 2.1 exports.
const ONE_ENCODER: &[&str] = &[
    "beit",
    "bert",
    "camembert",
    "clip_vision_model",
    "convnext",
    "convnextv2",
    "cvt",
    "data2vec-vision",
    "deit",
    "dinov2",
    "distilbert",
    "efficientnet",
    "hiera",
    "levit",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "mpnet",
    "poolformer",
    "pvt",
    "regnet",
    "resnet",
    "roberta",
    "siglip_vision_model",
    "swin",
    "swinv2",
    "vit",
    "vit_mae",
    "vit_msn",
    "xlm-roberta",
];

/// Endings of the files with weights that are not ONNX.
const ENDINGS: &[&str] =
    &["safetensors", "bin", "pt", "pth", "ckpt", "h5", "keras", "msgpack", "pb", "tflite", "gguf"];

/// The weights in `dir` that no one exported to ONNX, and how to export them; `None` if there are none.
pub(super) fn remedy(dir: &Path) -> Option<(Vec<String>, String)> {
    let entries = std::fs::read_dir(dir).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut weights: Vec<String> = names.filter(|name| is_weights(name)).collect();
    weights.sort();
    if weights.is_empty() {
        return None;
    }
    let hint = command(dir, &weights);
    Some((weights, hint))
}

fn is_weights(name: &str) -> bool {
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    // Other tools write settings of a run to files with this ending.
    let settings = ending == "bin" && (stem.ends_with("_args") || stem == "scheduler" || stem == "optimizer");
    ENDINGS.contains(&ending) && !settings && !name.starts_with('.')
}

/// How to export the weights of a folder.
fn command(dir: &Path, weights: &[String]) -> String {
    let has = |name: &str| dir.join(name).is_file();
    let config = read_json(&dir.join("config.json")).ok().flatten().map_or(Value::Null, |(_, json)| json);
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let (from, to) = (quoted(&dir.display().to_string()), quoted(&format!("{}-onnx", dir.display())));
    let optimum = |options: &str| {
        format!("export them: optimum-cli export onnx --model {from} {options} {to}; then give {to}")
    };
    let script = |call: String| {
        format!(
            "export them to ONNX with {call} and torch.onnx.export; docs/teachers.md, \"Make a folder\", has the script"
        )
    };
    if has("adapter_config.json") {
        return "an adapter is no model: merge it into its base model (peft: merge_and_unload, then save_pretrained), and export \
                the result to ONNX"
            .to_owned();
    }
    if has("open_clip_config.json") || weights.iter().any(|name| name.starts_with("open_clip_")) {
        return script(format!("open_clip.create_model(\"local-dir:{}\")", dir.display()));
    }
    if config.get("pretrained_cfg").is_some() || config.get("architecture").is_some() {
        return script(format!(
            "timm.create_model(\"local-dir:{}\", pretrained=True, num_classes=0)",
            dir.display()
        ));
    }
    if has("modules.json") {
        return optimum("--library sentence_transformers --task feature-extraction");
    }
    match model_type {
        "" => script("torch".to_owned()),
        kind if BOTH_ENCODERS.contains(&kind) => optimum("--task zero-shot-image-classification"),
        kind if ONE_ENCODER.contains(&kind) => optimum("--task feature-extraction"),
        kind => script(format!("transformers (optimum has no exporter for {kind})")),
    }
}

/// A path as a shell reads it.
fn quoted(path: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-~+".contains(letter);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn weights_come_with_the_command_that_exports_them() {
        let safetensors = ("model.safetensors", "");
        let of_type = |kind: &str| format!("{{\"model_type\": \"{kind}\"}}");
        let (clip, dinov2, dinov3) = (of_type("clip"), of_type("dinov2"), of_type("dinov3_vit"));
        for (files, part) in [
            (vec![safetensors, ("config.json", clip.as_str())], "--task zero-shot-image-classification"),
            (vec![("pytorch_model.bin", ""), ("config.json", dinov2.as_str())], "--task feature-extraction"),
            (vec![safetensors, ("config.json", dinov3.as_str())], "optimum has no exporter for dinov3_vit"),
            (
                vec![safetensors, ("modules.json", "[]"), ("config.json", r#"{"model_type": "bert"}"#)],
                "--library sentence_transformers --task feature-extraction",
            ),
            (vec![("open_clip_pytorch_model.bin", "")], "open_clip.create_model(\"local-dir:"),
            (
                vec![("open_clip_model.safetensors", ""), ("open_clip_config.json", "{}")],
                "open_clip.create_model",
            ),
            (
                vec![safetensors, ("config.json", r#"{"architecture": "resnet18", "pretrained_cfg": {}}"#)],
                "timm.create_model(\"local-dir:",
            ),
            (vec![("adapter_model.safetensors", ""), ("adapter_config.json", "{}")], "merge_and_unload"),
            (vec![("model-00001-of-00002.safetensors", "")], "torch.onnx.export"),
            (vec![("tf_model.h5", ""), ("config.json", "not JSON")], "torch.onnx.export"),
        ] {
            let dir = folder(&files);
            let (weights, hint) = remedy(dir.path()).unwrap();
            assert_eq!(weights, [files[0].0]);
            assert!(hint.contains(part), "{files:?}: {hint}");
        }
        assert_eq!(remedy(folder(&[("training_args.bin", ""), ("config.json", "{}")]).path()), None);
    }

    #[test]
    fn a_path_with_spaces_is_quoted() {
        assert_eq!(quoted("models/clip-b_32.1"), "models/clip-b_32.1");
        assert_eq!(quoted("my models/it's"), "'my models/it'\\''s'");
    }
}
