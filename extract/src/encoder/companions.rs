//! The inputs of an image model besides the pixels: the token inputs of a graph that holds both encoders. They get one
//! row of tokens whose values do not reach the image's embedding.

use half::f16;
use ort::session::SessionInputValue;
use ort::value::{Tensor, TensorElementType};

use crate::error::ExtractError;
use crate::session::{Model, Port, describe};

/// Tokens of the row if the model does not fix their number.
const TOKENS: usize = 8;

/// An input that gets a constant.
#[derive(Clone, Debug)]
pub(super) struct Companion {
    name: String,
    element: TensorElementType,
    /// Whether the rows follow the batch of images, because both axes have the same name.
    follows_batch: bool,
    shape: [usize; 2],
    values: Values,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// Token ids and token types.
    Zeros,
    /// Masks.
    Ones,
    /// Positions 0, 1, 2...
    Positions,
}

impl Companion {
    /// The inputs of `model` besides `pixels`.
    ///
    /// # Errors
    /// [`ExtractError::ModelInterface`] if one of them is not a token input.
    pub(super) fn all(model: &Model, pixels: &Port) -> Result<Vec<Self>, ExtractError> {
        let others = model.inputs().iter().filter(|port| port.name != pixels.name);
        others.map(|port| Self::of(model, port, pixels)).collect()
    }

    fn of(model: &Model, port: &Port, pixels: &Port) -> Result<Self, ExtractError> {
        use TensorElementType::{Bool, Float16, Float32, Int32, Int64};
        let name = port.name.to_lowercase();
        let ids = name.ends_with("ids") || name.contains("token") || name == "text";
        let values = match port.element {
            Some(Int64 | Int32 | Float32 | Float16 | Bool) if name.contains("mask") => Some(Values::Ones),
            Some(Int64 | Int32) if name.contains("position") => Some(Values::Positions),
            Some(Int64 | Int32) if ids => Some(Values::Zeros),
            _ => None,
        };
        match (values, port.element, port.shape.as_slice()) {
            (Some(values), Some(element), &[rows, tokens]) => Ok(Self {
                name: port.name.clone(),
                element,
                follows_batch: rows.is_none() && port.shares_batch(pixels),
                shape: [rows.unwrap_or(1), tokens.unwrap_or(TOKENS)],
                values,
            }),
            _ => Err(model.mismatch(
                "one input, the pixels, and at most token inputs beside it",
                describe(model.inputs()),
                "export the image encoder alone",
            )),
        }
    }

    /// Name and value for a run of `batch` images.
    pub(super) fn feed(&self, batch: usize) -> ort::Result<(&str, SessionInputValue<'static>)> {
        let [rows, tokens] = self.shape;
        let rows = if self.follows_batch { batch } else { rows };
        let at = |token: usize| match self.values {
            Values::Zeros => 0,
            Values::Ones => 1,
            Values::Positions => i32::try_from(token).unwrap_or(i32::MAX),
        };
        let row = (0..rows).flat_map(|_| (0..tokens).map(at));
        let shape = [rows, tokens];
        let value: SessionInputValue<'static> = match self.element {
            TensorElementType::Int32 => Tensor::from_array((shape, row.collect::<Vec<i32>>()))?.into(),
            TensorElementType::Float32 => {
                Tensor::from_array((shape, row.map(float).collect::<Vec<f32>>()))?.into()
            }
            TensorElementType::Bool => {
                Tensor::from_array((shape, row.map(|value| value != 0).collect::<Vec<bool>>()))?.into()
            }
            TensorElementType::Float16 => {
                let values: Vec<f16> = row.map(|value| f16::from_f32(float(value))).collect();
                Tensor::from_array((shape, values))?.into()
            }
            _ => Tensor::from_array((shape, row.map(i64::from).collect::<Vec<i64>>()))?.into(),
        };
        Ok((self.name.as_str(), value))
    }
}

/// A mask's value.
fn float(value: i32) -> f32 {
    if value == 0 { 0.0 } else { 1.0 }
}
