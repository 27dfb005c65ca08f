//! The settings with which a framework's network computes what the student computes: configuration files, and lines for
//! frameworks that are configured by hand.

use lgd_data::view::{CenterCrop, ResizeMode};
use serde_json::{Value, json};

use super::{Described, Layout, LayoutFile};
use crate::export::ExportError;
use crate::loader::pixels::InputFormat;
use crate::student::Architecture;

/// The largest value of an 8-bit pixel, the unit of detectron2 and MMDetection.
const WHITE: f32 = 255.0;

/// Files beside the weights.
pub(super) fn files(layout: Layout, described: &Described<'_>) -> Result<Vec<LayoutFile>, ExportError> {
    let configs = match layout {
        Layout::Timm => vec![("config.json", timm(described))],
        Layout::Huggingface => {
            let processor = processor(described).map(|processor| ("preprocessor_config.json", processor));
            [("config.json", huggingface(described))].into_iter().chain(processor).collect()
        }
        _ => Vec::new(),
    };
    let file = |(name, config): (&'static str, Value)| {
        let text = serde_json::to_string_pretty(&config);
        let text = text.map_err(|error| ExportError::Unexportable { what: error.to_string() })?;
        Ok(LayoutFile { name, bytes: (text + "\n").into_bytes() })
    };
    configs.into_iter().map(file).collect()
}

/// Lines that say how the input is prepared, in the framework's own configuration where it is written by hand.
pub(super) fn lines(layout: Layout, described: &Described<'_>) -> Vec<String> {
    let (input, architecture) = (described.input(), described.architecture());
    let (mean, std) = (input.normalization.mean, input.normalization.std);
    let whites = |values: [f32; 3]| values.map(|value| short(value) * f64::from(WHITE));
    let list = |values: [f64; 3]| values.map(|value| format!("{value:.3}")).join(", ");
    let (pixel_mean, pixel_std) = (list(whites(mean)), list(whites(std)));
    match layout {
        Layout::Detectron2 => {
            let (depth, block) = match architecture {
                Architecture::ResNet18 => (18, "RES2_OUT_CHANNELS: 64"),
                Architecture::ResNet34 => (34, "RES2_OUT_CHANNELS: 64"),
                _ => (50, "STRIDE_IN_1X1: False"),
            };
            vec![
                "MODEL:".to_owned(),
                "  WEIGHTS: \"FILE?matching_heuristics=True\"".to_owned(),
                format!("  PIXEL_MEAN: [{pixel_mean}]"),
                format!("  PIXEL_STD: [{pixel_std}]"),
                format!("  RESNETS: {{DEPTH: {depth}, {block}}}"),
                "INPUT:".to_owned(),
                "  FORMAT: \"RGB\"".to_owned(),
            ]
        }
        Layout::Mmdet => {
            let network = match architecture {
                Architecture::ResNet18 => "type='ResNet', depth=18, style='pytorch'",
                Architecture::ResNet34 => "type='ResNet', depth=34, style='pytorch'",
                Architecture::ResNet50 => "type='ResNet', depth=50, style='pytorch'",
                _ => "type='MobileNetV2', act_cfg=dict(type='ReLU6')",
            };
            vec![
                format!("data_preprocessor=dict(mean=[{pixel_mean}], std=[{pixel_std}], bgr_to_rgb=True)"),
                format!("backbone=dict({network}, init_cfg=dict(type='Pretrained', checkpoint='FILE'))"),
            ]
        }
        _ => vec![
            format!("RGB from 0 to 1, minus {mean:?}, divided by {std:?}"),
            format!("{}, {}", described.crop().describe(input.size), input.resample),
        ],
    }
}

impl Described<'_> {
    fn input(&self) -> InputFormat {
        self.manifest.input_format()
    }

    fn architecture(&self) -> Architecture {
        self.manifest.config.student
    }

    fn crop(&self) -> CenterCrop {
        self.manifest.center.unwrap_or_default()
    }
}

/// The f64 with the fewest digits that is `value` in f32: 0.485, not 0.48500001430511475.
fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// timm's `config.json`.
fn timm(described: &Described<'_>) -> Value {
    let (input, crop, architecture) = (described.input(), described.crop(), described.architecture());
    let name = match architecture {
        Architecture::MobileNetV2 => "mobilenetv2_100",
        Architecture::MobileNetV3Large => "mobilenetv3_large_100",
        // With TensorFlow's padding and eps.
        Architecture::EfficientNetB0Lgd => "tf_efficientnet_b0",
        other => other.name(),
    };
    let is_resnet = name.starts_with("resnet");
    let mode = match crop.resize {
        ResizeMode::Shortest => "center",
        ResizeMode::Squash => "squash",
        ResizeMode::Longest => "border",
    };
    let classes = described.classes.unwrap_or(0);
    let mut config = json!({
        "architecture": name,
        "num_classes": classes,
        "num_features": architecture.feature_dim(),
        "pretrained_cfg": {
            "tag": "lgd",
            "input_size": [3, input.size, input.size],
            "fixed_input_size": false,
            "interpolation": input.resample.to_string(),
            "crop_pct": short(crop.fraction),
            "crop_mode": mode,
            "mean": input.normalization.mean.map(short),
            "std": input.normalization.std.map(short),
            "num_classes": classes,
            "first_conv": if is_resnet { "conv1" } else { "conv_stem" },
            "classifier": if is_resnet { "fc" } else { "classifier" },
        },
    });
    if architecture == Architecture::MobileNetV3Large {
        // torchvision's value; timm's is 1e-5.
        config["model_args"] = json!({ "bn_eps": 1e-3 });
    }
    if let Some(names) = described.names() {
        config["label_names"] = json!(names);
    }
    config
}

/// transformers' `config.json`.
fn huggingface(described: &Described<'_>) -> Value {
    let (size, architecture) = (described.input().size, described.architecture());
    let class = |network: &str| match described.classes {
        Some(_) => format!("{network}ForImageClassification"),
        None => format!("{network}Model"),
    };
    let mut config = match architecture {
        Architecture::MobileNetV2 => json!({
            "architectures": [class("MobileNetV2")],
            "model_type": "mobilenet_v2",
            "image_size": size,
            "num_channels": 3,
            "depth_multiplier": 1.0,
            "depth_divisible_by": 8,
            "min_depth": 8,
            "expand_ratio": 6.0,
            "output_stride": 32,
            "first_layer_is_expansion": true,
            "finegrained_output": true,
            "hidden_act": "relu6",
            // transformers pads as TensorFlow does unless it is told not to.
            "tf_padding": false,
            "layer_norm_eps": 1e-5,
        }),
        _ => {
            let (depths, widths, block) = match architecture {
                Architecture::ResNet18 => ([2, 2, 2, 2], [64, 128, 256, 512], "basic"),
                Architecture::ResNet34 => ([3, 4, 6, 3], [64, 128, 256, 512], "basic"),
                _ => ([3, 4, 6, 3], [256, 512, 1024, 2048], "bottleneck"),
            };
            json!({
                "architectures": [class("ResNet")],
                "model_type": "resnet",
                "num_channels": 3,
                "embedding_size": 64,
                "depths": depths,
                "hidden_sizes": widths,
                "layer_type": block,
                "hidden_act": "relu",
                "downsample_in_first_stage": false,
                "downsample_in_bottleneck": false,
            })
        }
    };
    config["torch_dtype"] = json!("float32");
    if let Some(classes) = described.classes {
        let names =
            described.names().unwrap_or_else(|| (0..classes).map(|class| class.to_string()).collect());
        let by_number = names.iter().enumerate().map(|(at, name)| (at.to_string(), json!(name))).collect();
        let by_name = names.iter().enumerate().map(|(at, name)| (name.clone(), json!(at))).collect();
        (config["id2label"], config["label2id"]) = (Value::Object(by_number), Value::Object(by_name));
    }
    config
}

/// transformers' `preprocessor_config.json`; none if its processors have no such crop.
fn processor(described: &Described<'_>) -> Option<Value> {
    let (input, crop) = (described.input(), described.crop());
    let length = crop.length(input.size);
    let size = match crop.resize {
        ResizeMode::Shortest => json!({ "shortest_edge": length }),
        ResizeMode::Squash => json!({ "height": length, "width": length }),
        ResizeMode::Longest => return None,
    };
    // Pillow's numbers, which transformers uses.
    let filters =
        [("nearest", 0), ("lanczos", 1), ("bilinear", 2), ("bicubic", 3), ("box", 4), ("hamming", 5)];
    let name = input.resample.to_string();
    let resample = filters.iter().find(|(filter, _)| *filter == name)?.1;
    Some(json!({
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": size,
        "resample": resample,
        "do_center_crop": true,
        "crop_size": { "height": input.size, "width": input.size },
        "do_rescale": true,
        "rescale_factor": 1.0 / f64::from(WHITE),
        "do_normalize": true,
        "image_mean": input.normalization.mean.map(short),
        "image_std": input.normalization.std.map(short),
    }))
}

impl Described<'_> {
    /// Names of the classes, if they have names.
    fn names(&self) -> Option<Vec<String>> {
        self.manifest.classes.as_ref()?.names.clone()
    }
}
