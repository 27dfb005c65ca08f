//! What a file says about its student: metadata of ONNX files, of `student.safetensors` and of other layouts.
//!
//! | key | value |
//! |---|---|
//! | `lgd.version` | version of `lgd` that wrote the file |
//! | `lgd.architecture` | name of the backbone, that of `--student` |
//! | `lgd.size` | side of the square input, pixels |
//! | `lgd.crop` | JSON of [`CenterCrop`](lgd_data::view::CenterCrop): the crop that `lgd eval` shows the student |
//! | `lgd.resample` | filter of the resize |
//! | `lgd.mean`, `lgd.std` | JSON lists: normalization of RGB from 0 to 1 |
//! | `lgd.teacher` | name of the teacher |
//! | `lgd.tau_student` | temperature of the probabilities; absent without a head |
//! | `lgd.run`, `lgd.bank` | hashes of the manifests; ONNX files only |
//! | `lgd.categories` | JSON list: names of the scores or logits |
//! | `lgd.template` | JSON list: the prompt templates of the bank; ONNX files only |

use std::collections::BTreeMap;

use serde::Serialize;

use super::RunManifest;
use crate::safetensors_file::Metadata;
use crate::student::Head;

impl RunManifest {
    /// The metadata that depends on the run only. `size`: side of the input in the file, pixels.
    pub fn metadata(&self, size: usize) -> Metadata {
        let format = self.input_format();
        let crop = self.center.unwrap_or_default();
        let mut metadata = BTreeMap::from([
            ("lgd.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("lgd.architecture", self.config.student.to_string()),
            ("lgd.size", size.to_string()),
            ("lgd.crop", json(&crop)),
            ("lgd.resample", format.resample.to_string()),
            ("lgd.mean", json(&format.normalization.mean)),
            ("lgd.std", json(&format.normalization.std)),
            ("lgd.teacher", self.teacher.name.clone()),
        ]);
        metadata.extend(self.score_temperature().map(|tau| ("lgd.tau_student", tau.to_string())));
        let classes = self.classes.as_ref().and_then(|classes| classes.names.as_ref());
        metadata.extend(classes.map(|names| ("lgd.categories", json(names))));
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// [`metadata`](Self::metadata) for files of weights, with the entry that readers of PyTorch's weights look for.
    pub fn weights_metadata(&self) -> Metadata {
        let mut metadata = self.metadata(usize::try_from(self.config.size).unwrap_or(usize::MAX));
        metadata.insert("format".to_owned(), "pt".to_owned());
        metadata
    }

    /// What scores or logits are divided by before their softmax; none without a head. The cross-entropy of labels has
    /// no temperature.
    pub fn score_temperature(&self) -> Option<f32> {
        match self.head() {
            Head::None => None,
            Head::Projection { .. } => Some(self.config.objective_settings.shared.student_temperature),
            Head::Classifier { .. } => Some(1.0),
        }
    }
}

/// The text of numbers, names and a crop. A `serde_json::Value` would write f32 numbers with the digits of their f64.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
