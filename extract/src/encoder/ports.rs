//! Determines an image model's input from its shape and checks it against the teacher's settings.

use lgd_data::render::PixelLayout;
use ort::value::TensorElementType;

use super::{CPU_BATCH, GPU_BATCH, PixelType};
use crate::device::Slot;
use crate::error::ExtractError;
use crate::session::{Model, Port, describe};

/// The input that takes pixels: the one named `named`, the only one, or the only one of four axes.
pub(super) fn choose_input<'m>(model: &'m Model, named: Option<&str>) -> Result<&'m Port, ExtractError> {
    let inputs = model.inputs();
    if let Some(name) = named {
        return inputs.iter().find(|port| port.name == name).ok_or_else(|| {
            model.mismatch(format!("an input '{name}'"), describe(inputs), "correct input in teacher.toml")
        });
    }
    if let [only] = inputs {
        return Ok(only);
    }
    let mut images = inputs.iter().filter(|port| port.shape.len() == 4);
    match (images.next(), images.next()) {
        (Some(port), None) => Ok(port),
        _ => Err(model.mismatch(
            "one input, the pixels, of four axes",
            describe(inputs),
            "export the image encoder alone, or set input in teacher.toml to the input for pixels",
        )),
    }
}

/// Element type of the pixels.
pub(super) fn pixel_type(model: &Model, input: &Port) -> Result<PixelType, ExtractError> {
    match input.element {
        Some(TensorElementType::Float32) => Ok(PixelType::F32),
        Some(TensorElementType::Float16) => Ok(PixelType::F16),
        Some(TensorElementType::Uint8) => Ok(PixelType::U8),
        _ => Err(model.mismatch(
            "an input of f32, f16 or u8",
            input.to_string(),
            "export the model in f32 or f16; torch: model.float(); optimum-cli: --dtype fp32",
        )),
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
            "export the model with a declared input shape of four axes, without a time axis",
        ));
    };
    let found = match (second, fourth) {
        (Some(3), Some(3)) | (None, None) => set,
        (Some(3), _) => Some(PixelLayout::Nchw),
        (_, Some(3)) => Some(PixelLayout::Nhwc),
        (None, Some(_)) => Some(PixelLayout::Nchw),
        (Some(_), None) => Some(PixelLayout::Nhwc),
        (Some(_), Some(_)) => {
            return Err(model.mismatch(
                "an input of three channels",
                input.to_string(),
                "lgd reads images as RGB: use a teacher of RGB images",
            ));
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
        return Err(model.mismatch(
            "a square input",
            input.to_string(),
            "export the model for a square image",
        ));
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
            Err(model.mismatch("a fixed input size, or size in teacher.toml", input.to_string(), hint))
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
        (_, Some(0)) | (Some(0), _) => Err(model.mismatch(
            "a batch above 0",
            input.to_string(),
            "export the model with a free batch axis",
        )),
        (Some(fixed), Some(wanted)) if fixed != wanted => {
            let hint = format!("use batch {fixed}, or export the model with a free batch axis");
            Err(model.mismatch(format!("a model that takes batches of {wanted}"), input.to_string(), hint))
        }
        (Some(batch), _) | (None, Some(batch)) => Ok(batch),
        (None, None) => Ok(default),
    }
}

/// Whether nothing says which axis has the channels.
pub(super) fn layout_is_open(input: &Port, set: Option<PixelLayout>) -> bool {
    set.is_none() && input.shape.len() == 4 && input.shape[1..].iter().all(Option::is_none)
}
