//! The names of a file's tensors: prefixes of wrappers, and timm's names for the architectures here.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::student::Architecture;

/// Names of modules that wrap a backbone.
const WRAPPERS: [&str; 11] = [
    "module",
    "_orig_mod",
    "model",
    "backbone",
    "student",
    "encoder",
    "encoder_q",
    "base_encoder",
    "net",
    "network",
    "trunk",
];

/// Tensors under the student's names, and what was changed.
pub(super) struct Renamed {
    pub tensors: BTreeMap<String, Tensor>,
    pub notes: Vec<String>,
    /// Whether the file has timm's names.
    pub timm: bool,
}

/// Takes wrappers' prefixes off, and replaces timm's names by torchvision's. `wanted`: the student's tensors.
pub(super) fn rename(
    architecture: Architecture,
    wanted: &[(&str, &[usize])],
    tensors: BTreeMap<String, Tensor>,
) -> Renamed {
    let count = |prefix: &str| {
        let holds = |name: &str| tensors.contains_key(&format!("{prefix}{name}"));
        let fits = |name: &str| holds(name) || timm_name(architecture, name).is_some_and(|name| holds(&name));
        wanted.iter().filter(|(name, _)| fits(name)).count()
    };
    // The prefix under which most of the student's names are found; of equals the first, which is the shortest.
    let (mut prefix, mut most) = (String::new(), count(""));
    for candidate in prefixes(tensors.keys()) {
        let found = count(&candidate);
        if found > most {
            (prefix, most) = (candidate, found);
        }
    }
    // A wrapper of another name is as good if the student is found in no other place of the file.
    if most == 0 {
        let first = wanted.first().map_or("", |(name, _)| *name);
        let timm = timm_name(architecture, first).unwrap_or_else(|| first.to_owned());
        let mut others: Vec<(usize, String)> = tensors
            .keys()
            .filter_map(|name| name.strip_suffix(first).or(name.strip_suffix(timm.as_str())))
            .filter(|prefix| prefix.ends_with('.'))
            .map(|prefix| (count(prefix), prefix.to_owned()))
            .collect();
        others.sort_by_key(|(found, _)| Reverse(*found));
        match others.as_slice() {
            [(best, only), rest @ ..] if rest.iter().all(|(found, _)| found < best) => {
                prefix.clone_from(only)
            }
            _ => {}
        }
    }
    let mut notes = Vec::new();
    if !prefix.is_empty() {
        notes.push(format!("prefix {prefix:?} removed"));
    }
    let mut tensors: BTreeMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| (name.strip_prefix(&prefix).map_or(name.clone(), str::to_owned), tensor))
        .collect();
    let timm = timm_name(architecture, wanted.first().map_or("", |(name, _)| name));
    let timm = timm.is_some_and(|first| tensors.contains_key(&first));
    if timm {
        for (name, shape) in wanted {
            let Some(tensor) = timm_name(architecture, name).and_then(|name| tensors.remove(&name)) else {
                continue;
            };
            // timm's last layer but one of MobileNetV3 is a convolution of 1 x 1, torchvision's is dense.
            let tensor = match tensor.dims() {
                [rows, columns, 1, 1] if [*rows, *columns] == **shape => {
                    tensor.reshape(*shape).unwrap_or(tensor)
                }
                _ => tensor,
            };
            tensors.insert((*name).to_owned(), tensor);
        }
        notes.push("timm's names".to_owned());
    }
    Renamed { tensors, notes, timm }
}

/// Every run of wrappers that begins a name, with a dot behind it; short ones first.
fn prefixes<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut found = Vec::new();
    for name in names {
        let mut end = 0;
        for part in name.split('.').take_while(|part| WRAPPERS.contains(part)) {
            end += part.len() + 1;
            let prefix = name[..end.min(name.len())].to_owned();
            if !found.contains(&prefix) {
                found.push(prefix);
            }
        }
    }
    found.sort_by_key(String::len);
    found
}

/// timm's name of a tensor, for architectures that it names otherwise than torchvision. The pairs are compared with timm
/// in `tests/run/initial.rs`.
pub(crate) fn timm_name(architecture: Architecture, name: &str) -> Option<String> {
    let is_efficientnet =
        matches!(architecture, Architecture::EfficientNetB0 | Architecture::EfficientNetB0Lgd);
    // Blocks of each stage.
    let stages: &[usize] = match architecture {
        Architecture::MobileNetV2 => &[1, 2, 3, 4, 3, 3, 1],
        Architecture::MobileNetV3Large => &[1, 2, 3, 4, 2, 3],
        Architecture::EfficientNetB0 | Architecture::EfficientNetB0Lgd => &[1, 2, 2, 3, 3, 4, 1],
        Architecture::ResNet18
        | Architecture::ResNet34
        | Architecture::ResNet50
        | Architecture::MobileNetV3LargeLgd => return None,
    };
    if let Some(part) = name.strip_prefix("fc.") {
        return Some(format!("classifier.{part}"));
    }
    if let Some(rest) = name.strip_prefix("classifier.") {
        return match rest.split_once('.')? {
            ("0", part) => Some(format!("conv_head.{part}")),
            (_, part) => Some(format!("classifier.{part}")),
        };
    }
    let (number, rest) = name.strip_prefix("features.")?.split_once('.')?;
    let number: usize = number.parse().ok()?;
    let groups = if is_efficientnet { stages.len() } else { stages.iter().sum() };
    let outer = |conv: &str, norm: &str| match rest.split_once('.')? {
        ("0", part) => Some(format!("{conv}.{part}")),
        (_, part) => Some(format!("{norm}.{part}")),
    };
    if number == 0 {
        return outer("conv_stem", "bn1");
    }
    if number > groups {
        return match architecture {
            Architecture::MobileNetV3Large => outer("blocks.6.0.conv", "blocks.6.0.bn1"),
            _ => outer("conv_head", "bn2"),
        };
    }
    let (stage, block, layer) = if is_efficientnet {
        let (block, layer) = rest.split_once(".block.")?;
        (number - 1, block.parse().ok()?, layer)
    } else {
        let (stage, block) = place(stages, number - 1)?;
        (stage, block, rest.strip_prefix("conv.").or_else(|| rest.strip_prefix("block."))?)
    };
    let grouped = architecture != Architecture::MobileNetV2;
    Some(format!("blocks.{stage}.{block}.{}", layer_name(layer, stage > 0, grouped)?))
}

/// Stage, and block within it, of a block that is counted over all stages.
fn place(stages: &[usize], mut block: usize) -> Option<(usize, usize)> {
    for (stage, count) in stages.iter().enumerate() {
        if block < *count {
            return Some((stage, block));
        }
        block -= count;
    }
    None
}

/// timm's name of a layer of a block. Blocks of the first stage do not expand their input. MobileNetV2's last convolution
/// and normalization are not `grouped`.
fn layer_name(layer: &str, expands: bool, grouped: bool) -> Option<String> {
    let (group, rest) = layer.split_once('.')?;
    let group: usize = group.parse().ok()?;
    let depthwise = usize::from(expands);
    if let Some((dense, part)) = rest.split_once('.').filter(|(dense, _)| dense.starts_with("fc")) {
        return Some(format!("se.{}.{part}", if dense == "fc1" { "conv_reduce" } else { "conv_expand" }));
    }
    let last = group > depthwise;
    let (is_norm, part) = match rest.split_once('.') {
        Some((position, part)) if grouped || !last => (position == "1", part),
        _ => (group > depthwise + 1, rest),
    };
    let (conv, norm) = match (expands, last, group) {
        (true, true, _) => ("conv_pwl", "bn3"),
        (true, false, 0) => ("conv_pw", "bn1"),
        (true, false, _) => ("conv_dw", "bn2"),
        (false, true, _) => ("conv_pw", "bn2"),
        (false, false, _) => ("conv_dw", "bn1"),
    };
    Some(format!("{}.{part}", if is_norm { norm } else { conv }))
}
