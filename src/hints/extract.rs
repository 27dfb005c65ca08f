//! Hints for errors of teachers and extraction.

use lgd_extract::ExtractError;
use lgd_extract::error::library_name;

pub(super) fn of_extract(error: &ExtractError) -> Option<String> {
    let hint = match error {
        ExtractError::RuntimeMissing { .. } => {
            return Some(format!(
                "give the path of {} with --onnxruntime or in ORT_DYLIB_PATH (in a checkout, `scripts/setup runtime` writes it to \
                 third_party/onnxruntime), or `pip install onnxruntime` in the Python environment of lgd",
                library_name()
            ));
        }
        ExtractError::RuntimeLoad { .. } => {
            "give another library with --onnxruntime; `scripts/setup runtime` fetches one"
        }
        ExtractError::RuntimeConflict { .. } => "start another process for the other library",
        ExtractError::DeviceNotBuilt { feature, .. } => {
            return Some(format!(
                "build lgd with `cargo build --release --features {feature}`, or run it with --device cpu"
            ));
        }
        ExtractError::NoModel { encoder: "text", .. } => {
            "name it in teacher.toml: [text] model = \"FILE\"; for a teacher without language fit a bridge with `lgd align`"
        }
        ExtractError::NoModel { .. } => "name it in teacher.toml: [image] model = \"FILE\"",
        ExtractError::CacheMismatch { .. } => {
            "resume with the settings that the cache was started with, or give another folder with --out"
        }
        ExtractError::Storage { .. } => {
            "the storage may have failed: repair it, then go on with --resume; if this file alone is damaged, empty it, and it \
             will be rejected"
        }
        ExtractError::Interrupted => "go on with --resume; a smaller --shard-samples keeps more",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Errors that have a hint here.
#[cfg(test)]
pub(super) fn examples() -> Vec<anyhow::Error> {
    use lgd_data::source::SourceError;

    let path = || "teacher".into();
    let no_model = |encoder| ExtractError::NoModel { path: path(), encoder, reason: String::new() };
    let extract = [
        ExtractError::RuntimeMissing { tried: vec![path()] },
        ExtractError::RuntimeLoad { path: path(), source: "no symbol".into() },
        ExtractError::RuntimeConflict { loaded: path(), asked: path() },
        ExtractError::DeviceNotBuilt { device: "cuda:0".to_owned(), feature: "cuda" },
        no_model("image"),
        no_model("text"),
        ExtractError::CacheMismatch { what: "device", expected: "cpu".to_owned(), got: "cuda".to_owned() },
        ExtractError::Storage { source: SourceError::Gone { path: path(), root: path() } },
        ExtractError::Interrupted,
    ];
    extract.map(anyhow::Error::from).into_iter().collect()
}
