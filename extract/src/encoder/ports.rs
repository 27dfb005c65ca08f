//! Determines an image model's input from its shape and checks it against the teacher's settings.

use lgd_data::render::PixelLayout;
use ort::value::TensorElementType;

use super::{CPU_BATCH, GPU_BATCH, PixelType};
use crate::device::Slot;
use crate::error::ExtractError;
use crate::session::{Model, Port, describe};
use crate::teacher::{ImageSettings, Pooling};

/// The model's only input. If `named` is set, it must have that name.
pub(super) fn choose_input<'m>(model: &'m Model, named: Option<&str>) -> Result<&'m Port, ExtractError> {
    let inputs = model.inputs();
    let port = match (named, inputs) {
        (Some(name), _) => inputs.iter().find(|port| port.name == name).ok_or_else(|| {
            model.mismatch(format!("an input '{name}'"), describe(inputs), "correct input in teacher.toml")
        })?,
        (None, [only]) => only,
        (None, _) => return Err(many_inputs(model)),
    };
    if inputs.len() == 1 { Ok(port) } else { Err(many_inputs(model)) }
}

fn many_inputs(model: &Model) -> ExtractError {
    model.mismatch(
        "a model with one input, the pixels",
        describe(model.inputs()),
        "export the image encoder by itself",
    )
}

/// Element type of the pixels.
pub(super) fn pixel_type(model: &Model, input: &Port) -> Result<PixelType, ExtractError> {
    match input.element {
        Some(TensorElementType::Float32) => Ok(PixelType::F32),
        Some(TensorElementType::Float16) => Ok(PixelType::F16),
        _ => Err(model.mismatch("an input of f32 or f16", input.to_string(), "")),
    }
}

/// Axis order: given by the axis with three channels, else by `set`, else NCHW.
pub(super) fn layout(
    model: &Model,
    input: &Port,
    set: Option<PixelLayout>,
) -> Result<PixelLayout, ExtractError> {
    let &[_, second, _, fourth] = input.shape.as_slice() else {
        return Err(model.mismatch(
            "an input of four axes, [N, 3, S, S] or [N, S, S, 3]",
            input.to_string(),
            "",
        ));
    };
    let found = match (second, fourth) {
        (Some(3), Some(3)) | (None, None) => set,
        (Some(3), _) => Some(PixelLayout::Nchw),
        (_, Some(3)) => Some(PixelLayout::Nhwc),
        (None, Some(_)) => Some(PixelLayout::Nchw),
        (Some(_), None) => Some(PixelLayout::Nhwc),
        (Some(_), Some(_)) => {
            return Err(model.mismatch("an input of three channels", input.to_string(), ""));
        }
    };
    match (found, set) {
        (Some(found), Some(set)) if found != set => Err(model.mismatch(
            format!("an input with layout {set:?}"),
            input.to_string(),
            "correct layout in teacher.toml",
        )),
        _ => Ok(found.unwrap_or(PixelLayout::Nchw)),
    }
}

/// Side of the square input, px.
pub(super) fn side(
    model: &Model,
    input: &Port,
    layout: PixelLayout,
    set: Option<u32>,
) -> Result<u32, ExtractError> {
    let first = if layout == PixelLayout::Nchw { 2 } else { 1 };
    let (height, width) = (input.shape[first], input.shape[first + 1]);
    let fixed = height.or(width);
    if height.or(fixed) != width.or(fixed) {
        return Err(model.mismatch("a square input", input.to_string(), ""));
    }
    let fixed = fixed.and_then(|side| u32::try_from(side).ok());
    match (set, fixed) {
        (Some(set), Some(fixed)) if set != fixed => {
            let hint = format!("set size = {fixed} in teacher.toml");
            Err(model.mismatch(format!("an input of {set} x {set} px"), input.to_string(), hint))
        }
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => {
            let hint = "set size in teacher.toml";
            Err(model.mismatch("a fixed input size, or one in teacher.toml", input.to_string(), hint))
        }
    }
}

/// Images per run: the model's fixed number, else `wanted`, else the device's default.
pub(super) fn batch(
    model: &Model,
    input: &Port,
    slot: Slot,
    wanted: Option<usize>,
) -> Result<usize, ExtractError> {
    let default = if slot == Slot::Cpu { CPU_BATCH } else { GPU_BATCH };
    match (input.shape[0], wanted) {
        (_, Some(0)) | (Some(0), _) => Err(model.mismatch("a batch above 0", input.to_string(), "")),
        (Some(fixed), Some(wanted)) if fixed != wanted => {
            let hint = format!("use batch {fixed}, or export the model with a free batch axis");
            Err(model.mismatch(format!("a model that takes batches of {wanted}"), input.to_string(), hint))
        }
        (Some(batch), _) | (None, Some(batch)) => Ok(batch),
        (None, None) => Ok(default),
    }
}

/// Warnings about settings that may not give the embeddings that the user expects.
pub(super) fn warnings(model: &Model, output: &Port, settings: &ImageSettings) -> Vec<String> {
    let mut warnings = Vec::new();
    if output.name == "pooler_output" {
        warnings.push(format!(
            "{}: pooler_output of a CLIP vision model comes before the projection and cannot be compared with text; \
             export image_embeds for a language-guided teacher",
            model.path().display()
        ));
    }
    if settings.pooling == Some(Pooling::Mean) && settings.prefix_tokens == 0 {
        warnings.push(format!(
            "{}: the mean counts every token; set prefix_tokens where class or register tokens come first",
            model.path().display()
        ));
    }
    warnings
}
