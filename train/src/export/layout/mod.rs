//! A student's weights under the names of other frameworks, with the settings that each needs to compute the same.
//!
//! ```text
//! student.safetensors ──► names.rs: names and shapes ──► safetensors, or pth.rs: what torch.load reads
//!                     └─► settings.rs: config.json, or lines for a configuration
//! ```

mod names;
mod pth;
mod settings;

use std::collections::BTreeMap;
use std::fmt;

use candle_core::{Device, Tensor};
use clap::ValueEnum;

pub use self::names::named;
use super::ExportError;
use crate::run::{Run, RunManifest};
use crate::safetensors_file::{self, Metadata};

/// Files that the layouts of folders write, each some of them.
pub const FOLDER_FILES: [&str; 4] =
    ["model.safetensors", "pytorch_model.bin", "config.json", "preprocessor_config.json"];

/// A framework whose names and files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// torchvision's classification models: backbone and classifier. A projection keeps the names `head.0`, `head.2`.
    Torchvision,
    /// The `body` of torchvision's detectors and the `backbone` of its segmenters: the backbone alone.
    TorchvisionBody,
    /// A folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`.
    Timm,
    /// A folder for `AutoModel.from_pretrained("FOLDER")` of Hugging Face's transformers.
    Huggingface,
    /// The ResNets of `candle-transformers`.
    Candle,
    /// The checkpoint of a backbone of MMDetection.
    Mmdet,
    /// A checkpoint for the backbones of detectron2.
    Detectron2,
}

/// A format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsFormat {
    /// Safetensors.
    Safetensors,
    /// A state dictionary of `torch.save`, which `torch.load(FILE, weights_only=True)` reads.
    Pth,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl fmt::Display for WeightsFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl Layout {
    /// Whether the framework reads a folder with a configuration, rather than one file.
    pub fn is_folder(self) -> bool {
        matches!(self, Self::Timm | Self::Huggingface)
    }

    /// The format that the framework reads by default.
    pub fn default_format(self) -> WeightsFormat {
        if self.reads_safetensors() { WeightsFormat::Safetensors } else { WeightsFormat::Pth }
    }

    fn reads_safetensors(self) -> bool {
        !matches!(self, Self::Mmdet | Self::Detectron2)
    }
}

/// A file of a layout.
#[derive(Debug, Clone)]
pub struct LayoutFile {
    /// Its name in a folder; empty if the layout is one file.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The files of a layout.
#[derive(Debug, Clone)]
pub struct LayoutFiles {
    /// The weights first.
    pub files: Vec<LayoutFile>,
    /// Tensors written.
    pub tensors: usize,
    /// Tensors of the student that the layout has no place for.
    pub left_out: Vec<String>,
    /// The form of the input, and the settings that the framework needs, as lines of its configuration.
    pub settings: Vec<String>,
    /// What is to be done in the framework beyond loading the files.
    pub notes: Vec<&'static str>,
}

/// What the settings of a layout are made of.
#[derive(Debug, Clone, Copy)]
struct Described<'a> {
    manifest: &'a RunManifest,
    /// Number of classes of the classifier; none without one.
    classes: Option<usize>,
}

/// Writes the finished student of `run` in the layout of another framework.
///
/// # Errors
/// [`ExportError::NoLayout`] if the framework does not have the student's backbone; [`ExportError::NoFormat`] if it does
/// not read the format; [`ExportError::Run`] if the weights are unreadable.
pub fn run_to_layout(run: &Run, layout: Layout, format: WeightsFormat) -> Result<LayoutFiles, ExportError> {
    if format == WeightsFormat::Safetensors && !layout.reads_safetensors() {
        return Err(ExportError::NoFormat { layout, format });
    }
    let manifest = run.manifest();
    let student = run.student(&Device::Cpu)?.encoder_tensors()?;
    let classes = manifest.classes.as_ref().map(|classes| classes.count);
    let described = Described { manifest, classes };
    let mut tensors = named(layout, manifest.config.student, &student)?;
    if layout.is_folder() {
        tensors.extend(counters(&tensors)?);
    }
    let left_out = student.keys().filter(|name| names::is_left_out(layout, manifest.config.student, name));
    let left_out = left_out.cloned().collect();
    let weights = weights(&tensors, format, &manifest.weights_metadata())?;
    let name = match (layout.is_folder(), format) {
        (false, _) => "",
        (true, WeightsFormat::Safetensors) => "model.safetensors",
        (true, WeightsFormat::Pth) => "pytorch_model.bin",
    };
    let mut files = vec![LayoutFile { name, bytes: weights }];
    files.extend(settings::files(layout, &described)?);
    Ok(LayoutFiles {
        files,
        tensors: tensors.len(),
        left_out,
        settings: settings::lines(layout, &described),
        notes: names::notes(layout, manifest.config.student, &student),
    })
}

/// PyTorch's counters of batches, which inference does not use: transformers reports their absence as missing weights.
fn counters(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>, ExportError> {
    let norms = tensors.keys().filter_map(|name| name.strip_suffix("running_var"));
    norms.map(|norm| Ok((format!("{norm}num_batches_tracked"), Tensor::new(0_i64, &Device::Cpu)?))).collect()
}

fn weights(
    tensors: &BTreeMap<String, Tensor>,
    format: WeightsFormat,
    metadata: &Metadata,
) -> Result<Vec<u8>, ExportError> {
    match format {
        WeightsFormat::Safetensors => Ok(safetensors_file::to_bytes(tensors, metadata)?),
        WeightsFormat::Pth => pth::to_bytes(tensors),
    }
}
