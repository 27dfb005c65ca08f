//! The names of a student's tensors in other frameworks. `tests/run/layouts.rs` compares them with the frameworks' own.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::Layout;
use crate::export::ExportError;
use crate::initial::timm_name;
use crate::student::Architecture;

const RESNETS: [Architecture; 3] = [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50];

/// Outputs and inputs of timm's dense layer behind the pool of MobileNetV3, which a student without classifier lacks.
const CONV_HEAD: (usize, usize) = (1280, 960);

/// The tensors of a student of `architecture` under the names and in the shapes of `layout`.
///
/// # Errors
/// [`ExportError::NoLayout`] if the framework does not have the backbone.
pub fn named(
    layout: Layout,
    architecture: Architecture,
    student: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>, ExportError> {
    expect_known(layout, architecture)?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in student {
        let Some(renamed) = name_in(layout, architecture, name) else { continue };
        let is_conv_head = layout == Layout::Timm && renamed == "conv_head.weight" && tensor.rank() == 2;
        let tensor = if is_conv_head { tensor.unsqueeze(2)?.unsqueeze(3)? } else { tensor.clone() };
        tensors.insert(renamed, tensor);
    }
    if lacks_conv_head(layout, architecture, student) {
        tensors.extend(identity_head()?);
    }
    let prefix = prefix(layout, architecture, student);
    Ok(tensors.into_iter().map(|(name, tensor)| (prefixed(prefix, &name), tensor)).collect())
}

/// Whether `layout` has no place for a tensor of the student.
pub(super) fn is_left_out(layout: Layout, architecture: Architecture, name: &str) -> bool {
    name_in(layout, architecture, name).is_none()
}

/// What is to be done in the framework beyond loading the file.
pub(super) fn notes(
    layout: Layout,
    architecture: Architecture,
    student: &BTreeMap<String, Tensor>,
) -> Vec<&'static str> {
    if (layout, architecture) == (Layout::TorchvisionBody, Architecture::MobileNetV3Large) {
        vec!["set the eps of the normalizations to 1e-3: torchvision builds Faster R-CNN with 1e-5"]
    } else if lacks_conv_head(layout, architecture, student) {
        vec![
            "conv_head, which the student lacks, is the identity: take forward_features and the mean over its positions",
        ]
    } else {
        Vec::new()
    }
}

fn expect_known(layout: Layout, architecture: Architecture) -> Result<(), ExportError> {
    let mobile = [&RESNETS[..], &[Architecture::MobileNetV2]].concat();
    let all_but = |out: &[Architecture]| -> Vec<Architecture> {
        Architecture::ALL.into_iter().filter(|one| !out.contains(one)).collect()
    };
    let (known, reason) = match layout {
        Layout::Torchvision | Layout::TorchvisionBody => {
            let published = [Architecture::MobileNetV3LargeLgd, Architecture::EfficientNetB0Lgd];
            (all_but(&published), "its network orders layers or pads otherwise")
        }
        Layout::Timm => {
            (all_but(&[Architecture::MobileNetV3LargeLgd]), "its MobileNetV3 gates after the activation")
        }
        Layout::Huggingface | Layout::Mmdet => (mobile, "its network pads otherwise, or it has none"),
        Layout::Candle => (RESNETS.to_vec(), "its network pads otherwise, or it has none"),
        Layout::Detectron2 => (RESNETS.to_vec(), "it has no such network"),
    };
    if known.contains(&architecture) {
        return Ok(());
    }
    Err(ExportError::NoLayout { layout, architecture, reason, known })
}

/// The name of a tensor without the prefix of the whole file; none if the layout has no place for it.
fn name_in(layout: Layout, architecture: Architecture, name: &str) -> Option<String> {
    let is_projection = name.starts_with("head.");
    let is_classifier = name.starts_with("fc.") || name.starts_with("classifier.");
    match layout {
        Layout::Torchvision => Some(name.to_owned()),
        _ if is_projection => None,
        Layout::TorchvisionBody | Layout::Mmdet | Layout::Detectron2 if is_classifier => None,
        Layout::TorchvisionBody => Some(name.strip_prefix("features.").unwrap_or(name).to_owned()),
        Layout::Timm => Some(timm_name(architecture, name).unwrap_or_else(|| name.to_owned())),
        Layout::Candle => Some(name.to_owned()),
        Layout::Huggingface if architecture == Architecture::MobileNetV2 => huggingface_mobilenet_v2(name),
        Layout::Huggingface => huggingface_resnet(name),
        Layout::Mmdet if architecture == Architecture::MobileNetV2 => mmdet_mobilenet_v2(name),
        Layout::Mmdet => Some(name.to_owned()),
        Layout::Detectron2 => Some(detectron2(name)),
    }
}

/// What a whole file's names begin with. In transformers, the backbone of a classifier is a member of it.
fn prefix(layout: Layout, architecture: Architecture, student: &BTreeMap<String, Tensor>) -> &'static str {
    let is_classifier = |name: &String| name.starts_with("fc.") || name.starts_with("classifier.");
    match architecture {
        _ if layout != Layout::Huggingface || !student.keys().any(is_classifier) => "",
        Architecture::MobileNetV2 => "mobilenet_v2.",
        _ => "resnet.",
    }
}

fn prefixed(prefix: &str, name: &str) -> String {
    let prefix = if name.starts_with("classifier.") { "" } else { prefix };
    format!("{prefix}{name}")
}

/// Whether timm's network has a dense layer between pool and classifier that the student does not have.
fn lacks_conv_head(layout: Layout, architecture: Architecture, student: &BTreeMap<String, Tensor>) -> bool {
    (layout, architecture) == (Layout::Timm, Architecture::MobileNetV3Large)
        && !student.contains_key("classifier.0.weight")
}

fn identity_head() -> Result<[(String, Tensor); 2], ExportError> {
    let (outputs, inputs) = CONV_HEAD;
    let mut weight = vec![0.0_f32; outputs * inputs];
    weight.iter_mut().step_by(inputs + 1).take(inputs).for_each(|diagonal| *diagonal = 1.0);
    let weight = Tensor::from_vec(weight, (outputs, inputs, 1, 1), &Device::Cpu)?;
    let bias = Tensor::from_vec(vec![0.0_f32; outputs], outputs, &Device::Cpu)?;
    Ok([("conv_head.weight".to_owned(), weight), ("conv_head.bias".to_owned(), bias)])
}

/// transformers: `ResNetModel` (configuration in `settings.rs`).
fn huggingface_resnet(name: &str) -> Option<String> {
    if let Some(part) = name.strip_prefix("fc.") {
        return Some(format!("classifier.1.{part}"));
    }
    let (layer, part) = name.rsplit_once('.')?;
    let kind = |layer: &str| {
        let is_norm = layer.starts_with("bn") || layer == "downsample.1";
        if is_norm { "normalization" } else { "convolution" }
    };
    let Some((stage, rest)) = layer.strip_prefix("layer").and_then(|rest| rest.split_once('.')) else {
        return Some(format!("embedder.embedder.{}.{part}", kind(layer)));
    };
    let (stage, (block, layer)) = (stage.parse::<usize>().ok()?, rest.split_once('.')?);
    let place = match layer.strip_prefix("conv").or_else(|| layer.strip_prefix("bn")) {
        Some(number) => format!("layer.{}", number.parse::<usize>().ok()?.checked_sub(1)?),
        None => "shortcut".to_owned(),
    };
    let block = format!("encoder.stages.{}.layers.{block}", stage.checked_sub(1)?);
    Some(format!("{block}.{place}.{}.{part}", kind(layer)))
}

/// A layer of a block of torchvision's MobileNetV2.
enum Inverted {
    Expand,
    Depthwise,
    Project,
}

/// Which layer of a block `name` is in (`0.0.weight`), whether it is the normalization, and the tensor's own name.
fn inverted(name: &str, expands: bool) -> Option<(Inverted, bool, &str)> {
    let (group, rest) = name.split_once('.')?;
    let group: usize = group.parse().ok()?;
    let depthwise = usize::from(expands);
    // The projection's convolution and normalization have no group of their own.
    if group > depthwise {
        return Some((Inverted::Project, group > depthwise + 1, rest));
    }
    let (position, part) = rest.split_once('.')?;
    let layer = if group == depthwise { Inverted::Depthwise } else { Inverted::Expand };
    Some((layer, position == "1", part))
}

/// Splits `features.N.REST` of MobileNetV2.
fn feature(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.strip_prefix("features.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// The number of torchvision's last feature in MobileNetV2.
const LAST_FEATURE: usize = 18;

/// transformers: `MobileNetV2Model`.
fn huggingface_mobilenet_v2(name: &str) -> Option<String> {
    if let Some(part) = name.strip_prefix("classifier.1.") {
        return Some(format!("classifier.{part}"));
    }
    let (number, rest) = feature(name)?;
    let kind = |is_norm: bool| if is_norm { "normalization" } else { "convolution" };
    let (place, is_norm, part) = match number {
        0 | LAST_FEATURE => {
            let (position, part) = rest.split_once('.')?;
            let place = if number == 0 { "conv_stem.first_conv" } else { "conv_1x1" };
            (place.to_owned(), position == "1", part)
        }
        _ => {
            let (layer, is_norm, part) = inverted(rest.strip_prefix("conv.")?, number > 1)?;
            let layer = match layer {
                Inverted::Expand => "expand_1x1",
                Inverted::Depthwise => "conv_3x3",
                Inverted::Project => "reduce_1x1",
            };
            // The first block belongs to the stem.
            let block = if number == 1 { "conv_stem".to_owned() } else { format!("layer.{}", number - 2) };
            (format!("{block}.{layer}"), is_norm, part)
        }
    };
    Some(format!("{place}.{}.{part}", kind(is_norm)))
}

/// MMDetection: `MobileNetV2`.
fn mmdet_mobilenet_v2(name: &str) -> Option<String> {
    let (number, rest) = feature(name)?;
    let kind = |is_norm: bool| if is_norm { "bn" } else { "conv" };
    let (place, is_norm, part) = match number {
        0 | LAST_FEATURE => {
            let (position, part) = rest.split_once('.')?;
            let place = if number == 0 { "conv1" } else { "conv2" };
            (place.to_owned(), position == "1", part)
        }
        _ => {
            let (layer, is_norm, part) = inverted(rest.strip_prefix("conv.")?, number > 1)?;
            let layer = match layer {
                Inverted::Expand => "expand_conv",
                Inverted::Depthwise => "depthwise_conv",
                Inverted::Project => "linear_conv",
            };
            let (stage, block) = stage_of(number - 1)?;
            (format!("layer{}.{block}.{layer}", stage + 1), is_norm, part)
        }
    };
    Some(format!("{place}.{}.{part}", kind(is_norm)))
}

/// Stage of MobileNetV2, and block within it, of a block that is counted over all stages.
fn stage_of(mut block: usize) -> Option<(usize, usize)> {
    for (stage, count) in [1, 2, 3, 4, 3, 3, 1].into_iter().enumerate() {
        if block < count {
            return Some((stage, block));
        }
        block -= count;
    }
    None
}

/// detectron2: `res2` to `res5` behind a `stem`; normalizations are members of their convolutions.
fn detectron2(name: &str) -> String {
    let renamed = |part: &str| {
        let stage = part.strip_prefix("layer").and_then(|stage| stage.parse::<u8>().ok());
        match (part.strip_prefix("bn"), stage) {
            (Some(number), _) => format!("conv{number}.norm"),
            (None, Some(stage)) => format!("res{}", stage + 1),
            (None, None) => part.to_owned(),
        }
    };
    let parts: Vec<String> = name.split('.').map(renamed).collect();
    let name = parts.join(".").replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm");
    if name.starts_with("res") { name } else { format!("stem.{name}") }
}
