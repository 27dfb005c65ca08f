//! Finds out what each input of a text model takes, from its type, rank and name, and fills it for a batch.

use half::f16;
use ort::session::SessionInputValue;
use ort::value::{Tensor, TensorElementType};

use crate::error::ExtractError;
use crate::session::{Model, Port, describe};
use crate::teacher::{Demand, Tokens};

/// What an input takes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Feed {
    /// Token ids.
    Ids(Integer),
    /// 1 for words and 0 for padding.
    Mask(Number),
    /// The positions 0..T-1.
    Positions(Integer),
    /// Zeros: a prompt is one segment.
    Types(Integer),
    /// Images of zeros, of this shape, for a graph that also holds the image model.
    Pixels(Number, [usize; 4]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Integer {
    I64,
    I32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    I64,
    I32,
    F32,
    F16,
    U8,
    Bool,
}

/// The inputs of a text model.
#[derive(Debug)]
pub(super) struct Inputs {
    feeds: Vec<(String, Feed)>,
    /// Shape of the token ids, [N, T]; `None` is a free axis.
    shape: [Option<usize>; 2],
}

/// Tokens of prompts with the same length, [rows, length].
pub(super) struct TokenBatch {
    pub rows: usize,
    pub length: usize,
    ids: Vec<u32>,
    /// False for padding.
    pub words: Vec<bool>,
}

impl TokenBatch {
    /// Gathers the tokens of `members`. Rows past the last member repeat the first one, to fill a fixed batch.
    pub(super) fn gather(tokens: &[Tokens], members: &[usize], rows: usize) -> Self {
        let length = members.first().map_or(0, |&first| tokens[first].ids.len());
        let filling = std::iter::repeat_n(&members[0], rows.saturating_sub(members.len()));
        let mut batch = Self { rows, length, ids: Vec::new(), words: Vec::new() };
        for &member in members.iter().chain(filling) {
            batch.ids.extend(&tokens[member].ids);
            batch.words.extend(&tokens[member].words);
        }
        batch
    }
}

impl Inputs {
    /// Classifies the inputs of `model`. `ids` is the name of the input for token ids, if set. `image_size` is the
    /// side of images if the model does not fix it.
    ///
    /// # Errors
    /// [`ExtractError::ModelInterface`] if an input cannot be fed, with all inputs listed.
    pub(super) fn of(
        model: &Model,
        ids: Option<&str>,
        image_size: Option<u32>,
    ) -> Result<Self, ExtractError> {
        let name = ids_name(model, ids)?;
        let mut feeds = Vec::new();
        for port in model.inputs() {
            feeds.push((port.name.clone(), feed(model, port, name, image_size)?));
        }
        let shape = model.inputs().iter().find(|port| port.name == name).map(|port| port.shape.as_slice());
        match shape {
            Some(&[batch, length]) => Ok(Self { feeds, shape: [batch, length] }),
            _ => {
                Err(model.mismatch("token ids of two axes, [N, T]", describe(model.inputs()), ONE_TOWER_HINT))
            }
        }
    }

    /// Number of rows, if the model fixes it.
    pub(super) fn fixed_rows(&self) -> Option<usize> {
        self.shape[0].filter(|rows| *rows > 0)
    }

    /// What the inputs demand of prompts.
    pub(super) fn demand(&self) -> Demand {
        Demand {
            length: self.shape[1],
            mask: self.feeds.iter().any(|(_, feed)| matches!(feed, Feed::Mask(_))),
        }
    }

    /// Name of the input that takes token ids.
    pub(super) fn ids_name(&self) -> &str {
        self.feeds.iter().find(|(_, feed)| matches!(feed, Feed::Ids(_))).map_or("", |(name, _)| name)
    }

    /// Values of all inputs for a batch. `padding_counts` fills masks with ones.
    pub(super) fn fill(
        &self,
        batch: &TokenBatch,
        padding_counts: bool,
    ) -> ort::Result<Vec<(&str, SessionInputValue<'static>)>> {
        let shape = [batch.rows, batch.length];
        let fill = |feed: &Feed| -> ort::Result<SessionInputValue<'static>> {
            Ok(match feed {
                Feed::Ids(kind) => integers(*kind, shape, batch.ids.iter().map(|&id| i64::from(id)))?,
                Feed::Mask(kind) => {
                    numbers(*kind, &shape, batch.words.iter().map(|&word| word || padding_counts))?
                }
                Feed::Positions(kind) => {
                    let row = 0..i64::try_from(batch.length).unwrap_or(i64::MAX);
                    integers(*kind, shape, (0..batch.rows).flat_map(|_| row.clone()))?
                }
                Feed::Types(kind) => integers(*kind, shape, batch.ids.iter().map(|_| 0))?,
                Feed::Pixels(kind, shape) => {
                    numbers(*kind, shape, std::iter::repeat_n(false, shape.iter().product()))?
                }
            })
        };
        self.feeds.iter().map(|(name, feed)| Ok((name.as_str(), fill(feed)?))).collect()
    }
}

const INPUT_IDS: &str = "input_ids";

const ONE_TOWER_HINT: &str = "export the text encoder with token ids and attention_mask as its inputs, or set input in teacher.toml to \
     the name of the input that takes token ids";

/// Name of the input for token ids: the one set, the only one, `input_ids`, or the only integers whose name says
/// nothing else.
fn ids_name<'m>(model: &'m Model, set: Option<&'m str>) -> Result<&'m str, ExtractError> {
    let inputs = model.inputs();
    let missing = |name: &str| model.mismatch(format!("an input '{name}'"), describe(inputs), ONE_TOWER_HINT);
    if let Some(name) = set {
        return if inputs.iter().any(|port| port.name == name) { Ok(name) } else { Err(missing(name)) };
    }
    let candidates: Vec<&Port> =
        inputs.iter().filter(|port| integer(port).is_some() && role(&port.name) == Role::Unknown).collect();
    match (inputs, candidates.as_slice()) {
        ([only], _) => Ok(&only.name),
        (_, [only]) => Ok(&only.name),
        (_, many) => {
            let named = many.iter().find(|port| port.name == INPUT_IDS);
            named.map(|port| port.name.as_str()).ok_or_else(|| missing(INPUT_IDS))
        }
    }
}

/// What a name says.
#[derive(PartialEq)]
enum Role {
    Mask,
    Positions,
    Types,
    Unknown,
}

fn role(name: &str) -> Role {
    let name = name.to_lowercase();
    if name.contains("mask") {
        Role::Mask
    } else if name.contains("position") {
        Role::Positions
    } else if name.contains("token_type") || name.contains("segment") {
        Role::Types
    } else {
        Role::Unknown
    }
}

fn feed(model: &Model, port: &Port, ids: &str, image_size: Option<u32>) -> Result<Feed, ExtractError> {
    let refuse = |expected: &str| Err(model.mismatch(expected, describe(model.inputs()), ONE_TOWER_HINT));
    let whole = |make: fn(Integer) -> Feed, expected: &str| match integer(port) {
        Some(kind) => Ok(make(kind)),
        None => refuse(expected),
    };
    if port.name == ids {
        return whole(Feed::Ids, &format!("the token ids '{ids}' of i64 or i32"));
    }
    if port.shape.len() == 4 && role(&port.name) == Role::Unknown {
        return match number(port) {
            Some(kind @ (Number::F32 | Number::F16 | Number::U8)) => {
                Ok(Feed::Pixels(kind, image(model, port, image_size)?))
            }
            _ => refuse("pixels of f32, f16 or u8"),
        };
    }
    match (role(&port.name), port.shape.len()) {
        (Role::Mask, 2) => match number(port) {
            Some(kind) if kind != Number::U8 => Ok(Feed::Mask(kind)),
            _ => refuse("a mask of i64, i32, f32, f16 or bool"),
        },
        (Role::Positions, 2) => whole(Feed::Positions, "positions of i64 or i32"),
        (Role::Types, 2) => whole(Feed::Types, "token types of i64 or i32"),
        _ => refuse("only inputs for token ids, a mask, positions, token types and pixels"),
    }
}

/// Shape of one image of zeros.
fn image(model: &Model, port: &Port, side: Option<u32>) -> Result<[usize; 4], ExtractError> {
    let side = side.and_then(|side| usize::try_from(side).ok());
    let sizes = match *port.shape.as_slice() {
        [rows, a, b, Some(3)] => [rows.or(Some(1)), a.or(b).or(side), b.or(a).or(side), Some(3)],
        [rows, channels, a, b] => {
            [rows.or(Some(1)), channels.or(Some(3)), a.or(b).or(side), b.or(a).or(side)]
        }
        _ => [None; 4],
    };
    match sizes {
        [Some(rows), Some(a), Some(b), Some(c)] => Ok([rows, a, b, c]),
        _ => {
            let hint = "the text side of this graph needs one image: set [image] size in teacher.toml";
            Err(model.mismatch("pixels of a known size", port.to_string(), hint))
        }
    }
}

fn integer(port: &Port) -> Option<Integer> {
    match port.element? {
        TensorElementType::Int64 => Some(Integer::I64),
        TensorElementType::Int32 => Some(Integer::I32),
        _ => None,
    }
}

fn number(port: &Port) -> Option<Number> {
    match port.element? {
        TensorElementType::Int64 => Some(Number::I64),
        TensorElementType::Int32 => Some(Number::I32),
        TensorElementType::Float32 => Some(Number::F32),
        TensorElementType::Float16 => Some(Number::F16),
        TensorElementType::Uint8 => Some(Number::U8),
        TensorElementType::Bool => Some(Number::Bool),
        _ => None,
    }
}

fn integers(
    kind: Integer,
    shape: [usize; 2],
    values: impl Iterator<Item = i64>,
) -> ort::Result<SessionInputValue<'static>> {
    Ok(match kind {
        Integer::I64 => Tensor::from_array((shape, values.collect::<Vec<i64>>()))?.into(),
        Integer::I32 => {
            // Token ids come from vocabularies of far fewer than 2^31 tokens.
            let narrow = values.map(|value| i32::try_from(value).unwrap_or(i32::MAX));
            Tensor::from_array((shape, narrow.collect::<Vec<i32>>()))?.into()
        }
    })
}

/// A tensor of zeros and ones.
fn numbers(
    kind: Number,
    shape: &[usize],
    bits: impl Iterator<Item = bool>,
) -> ort::Result<SessionInputValue<'static>> {
    let shape = shape.to_vec();
    Ok(match kind {
        Number::I64 => Tensor::from_array((shape, bits.map(i64::from).collect::<Vec<_>>()))?.into(),
        Number::I32 => Tensor::from_array((shape, bits.map(i32::from).collect::<Vec<_>>()))?.into(),
        Number::U8 => Tensor::from_array((shape, bits.map(u8::from).collect::<Vec<_>>()))?.into(),
        Number::Bool => Tensor::from_array((shape, bits.collect::<Vec<_>>()))?.into(),
        Number::F32 => {
            let values = bits.map(|bit| if bit { 1.0_f32 } else { 0.0 });
            Tensor::from_array((shape, values.collect::<Vec<_>>()))?.into()
        }
        Number::F16 => {
            let values = bits.map(|bit| if bit { f16::ONE } else { f16::ZERO });
            Tensor::from_array((shape, values.collect::<Vec<_>>()))?.into()
        }
    })
}
