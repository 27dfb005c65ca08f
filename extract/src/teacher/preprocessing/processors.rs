//! The image processors of transformers: what each does with a plain `size`, whether it crops, and its defaults.
//!
//! A saved file contains nearly all values, so the defaults matter for hand-written files and for keys of a class that
//! an older version did not save. The table is from the classes of transformers 4.57 and 5.24. A default that the two
//! versions disagree on is left out.

use lgd_data::render::{Normalization, Resample};

/// A class of image processors.
#[derive(Debug)]
pub(super) struct Processor {
    /// Name without `ImageProcessor`.
    pub name: &'static str,
    /// What a `size` that is a plain number means.
    pub plain: PlainSize,
    /// Default of `do_center_crop`.
    pub crops: bool,
    pub normalization: Option<Normalization>,
    pub resample: Option<Resample>,
    pub geometry: GeometryRule,
}

/// What a `size` that is a plain number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlainSize {
    /// The length of the short side.
    Short,
    /// Both sides.
    Square,
}

/// How resize and crop follow from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GeometryRule {
    /// Resize to `size`, then crop to `crop_size`.
    Standard,
    /// Below 384: the short side to `size / crop_pct`, then crop to `size`; else squeeze to `size`.
    ConvNext,
    /// The short side to `size / crop_pct`, then crop to `crop_size`.
    PoolFormer,
    /// The short side to 256/224 of `size`, then crop to `crop_size`.
    Levit,
    /// Something that no resize and crop can express, with the reason.
    Refused(&'static str),
}

const HALF: Normalization = Normalization { mean: [0.5; 3], std: [0.5; 3] };

use GeometryRule::{ConvNext, Levit, PoolFormer, Refused, Standard};
use PlainSize::{Short, Square};
use Resample::{Bicubic, Bilinear};

const fn standard(
    name: &'static str,
    plain: PlainSize,
    crops: bool,
    normalization: Normalization,
    resample: Option<Resample>,
) -> Processor {
    Processor { name, plain, crops, normalization: Some(normalization), resample, geometry: Standard }
}

const fn refused(name: &'static str, reason: &'static str) -> Processor {
    let geometry = Refused(reason);
    Processor { name, plain: Square, crops: false, normalization: None, resample: None, geometry }
}

const TILES: &str = "cuts an image into tiles";
const MULTIPLES: &str = "resizes to sides that are multiples of a patch, not to a square";

const ALL: &[Processor] = &[
    standard("CLIP", Short, true, Normalization::CLIP, Some(Bicubic)),
    standard("ChineseCLIP", Short, true, Normalization::CLIP, Some(Bicubic)),
    standard("Bit", Short, true, Normalization::CLIP, Some(Bicubic)),
    standard("ViTHybrid", Short, true, Normalization::CLIP, Some(Bicubic)),
    standard("Llava", Short, true, Normalization::CLIP, Some(Bicubic)),
    standard("MobileNetV1", Short, true, HALF, Some(Bilinear)),
    standard("MobileNetV2", Short, true, HALF, Some(Bilinear)),
    standard("VideoMAE", Short, true, HALF, Some(Bilinear)),
    standard("DeiT", Square, true, HALF, Some(Bicubic)),
    standard("EfficientFormer", Square, true, Normalization::IMAGENET, Some(Bicubic)),
    standard("Flava", Square, true, Normalization::CLIP, Some(Bicubic)),
    standard("ViT", Square, false, HALF, Some(Bilinear)),
    standard("Siglip", Short, false, HALF, Some(Bicubic)),
    standard("Blip", Square, false, Normalization::CLIP, Some(Bicubic)),
    standard("Beit", Square, false, HALF, Some(Bicubic)),
    standard("DPT", Square, false, HALF, Some(Bicubic)),
    standard("Pvt", Square, false, Normalization::IMAGENET, None),
    standard("Segformer", Square, false, Normalization::IMAGENET, Some(Bilinear)),
    standard("OwlViT", Square, false, Normalization::CLIP, Some(Bicubic)),
    standard("DINOv3ViT", Square, false, Normalization::IMAGENET, Some(Bilinear)),
    standard("EfficientNet", Square, false, HALF, None),
    Processor {
        name: "MobileViT",
        plain: Short,
        crops: true,
        normalization: Some(Normalization { mean: [0.0; 3], std: [1.0; 3] }),
        resample: Some(Bilinear),
        geometry: Standard,
    },
    Processor {
        name: "ConvNext",
        plain: Short,
        crops: false,
        normalization: Some(HALF),
        resample: None,
        geometry: ConvNext,
    },
    Processor {
        name: "PoolFormer",
        plain: Short,
        crops: true,
        normalization: Some(Normalization::IMAGENET),
        resample: Some(Bicubic),
        geometry: PoolFormer,
    },
    Processor {
        name: "Levit",
        plain: Short,
        crops: true,
        normalization: Some(Normalization::IMAGENET),
        resample: Some(Bicubic),
        geometry: Levit,
    },
    refused("Siglip2", "resizes to a number of patches and keeps the aspect ratio (NaFlex), not to a square"),
    refused("Perceiver", "crops before it resizes"),
    refused("ImageGPT", "replaces colors by the numbers of clusters"),
    refused("BridgeTower", MULTIPLES),
    refused("Vilt", MULTIPLES),
    refused("TextNet", MULTIPLES),
    refused("GLPN", MULTIPLES),
    refused("Owlv2", "pads an image before it resizes it"),
    refused("Sam", "pads an image at the right and the bottom"),
    refused("SamHQ", "pads an image at the right and the bottom"),
    refused("LlavaNext", TILES),
    refused("LlavaOnevision", TILES),
    refused("Idefics2", TILES),
    refused("Idefics3", TILES),
    refused("SmolVLM", TILES),
    refused("Llama4", TILES),
    refused("Mllama", TILES),
    refused("Qwen2VL", MULTIPLES),
    refused("Pixtral", MULTIPLES),
    refused("Fuyu", TILES),
    refused("Pix2Struct", "cuts an image into a sequence of patches"),
    refused("VitPose", "cuts out persons by their boxes"),
];

/// The class with this name, which may end in `ImageProcessor`, `ImageProcessorFast`, `ImageProcessorPil` or, in old
/// files, `FeatureExtractor`.
pub(super) fn named(class: &str) -> Option<&'static Processor> {
    let class = class.trim_end_matches("Fast").trim_end_matches("Pil");
    let name = class.strip_suffix("ImageProcessor").or_else(|| class.strip_suffix("FeatureExtractor"))?;
    ALL.iter().find(|processor| processor.name.eq_ignore_ascii_case(name))
}

/// The class that `AutoImageProcessor` takes for a model type, if the file names none.
pub(super) fn of_model_type(model_type: &str) -> Option<&'static str> {
    Some(match model_type {
        "aimv2" | "altclip" | "clip" | "clip_vision_model" | "groupvit" | "metaclip_2" | "mlcd" | "xclip" => {
            "CLIPImageProcessor"
        }
        "chinese_clip" => "ChineseCLIPImageProcessor",
        "bit" | "dinov2" | "dinov2_with_registers" | "focalnet" | "hiera" | "pixio" => "BitImageProcessor",
        "siglip" | "siglip_vision_model" => "SiglipImageProcessor",
        "siglip2" | "siglip2_vision_model" => "Siglip2ImageProcessor",
        "clipseg" | "dinat" | "ijepa" | "nat" | "swiftformer" | "swin" | "swinv2" | "vit" | "vit_mae"
        | "vit_msn" => "ViTImageProcessor",
        "deit" => "DeiTImageProcessor",
        "beit" | "data2vec-vision" => "BeitImageProcessor",
        "blip" | "blip-2" | "instructblip" => "BlipImageProcessor",
        "convnext" | "convnextv2" | "cvt" | "regnet" | "resnet" | "van" => "ConvNextImageProcessor",
        "poolformer" => "PoolFormerImageProcessor",
        "levit" => "LevitImageProcessor",
        "pvt" | "pvt_v2" => "PvtImageProcessor",
        "efficientformer" => "EfficientFormerImageProcessor",
        "align" | "efficientnet" => "EfficientNetImageProcessor",
        "mobilenet_v1" => "MobileNetV1ImageProcessor",
        "mobilenet_v2" => "MobileNetV2ImageProcessor",
        "mobilevit" | "mobilevitv2" => "MobileViTImageProcessor",
        "dinov3_vit" | "dinov3_convnext" => "DINOv3ViTImageProcessorFast",
        "flava" => "FlavaImageProcessor",
        "segformer" => "SegformerImageProcessor",
        "perceiver" => "PerceiverImageProcessor",
        "imagegpt" => "ImageGPTImageProcessor",
        "bridgetower" => "BridgeTowerImageProcessor",
        "vilt" => "ViltImageProcessor",
        "textnet" => "TextNetImageProcessor",
        "glpn" => "GLPNImageProcessor",
        "owlv2" => "Owlv2ImageProcessor",
        "sam" => "SamImageProcessor",
        "qwen2_vl" | "qwen2_5_vl" => "Qwen2VLImageProcessor",
        "pix2struct" => "Pix2StructImageProcessor",
        _ => return None,
    })
}
