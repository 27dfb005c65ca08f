//! Tensors of files that `torch.save` wrote: ZIP archives, and the older format of pickles one behind another.
//!
//! ```text
//! archive (ZIP, stored):  NAME/data.pkl   the pickle     NAME/data/KEY   the bytes of a storage
//! older:                  magic  version  system  pickle  [KEY, ...]  (number of values: i64, bytes) per storage
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use zip::ZipArchive;

use super::pickle::{Object, Pickle, Storage, TensorView};
use super::{WeightsFault, is_layer};

/// First bytes of the older format: a pickle of its magic number.
pub(super) const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Keys of a state dictionary within a checkpoint, the likeliest first.
const STATES: [&str; 8] =
    ["state_dict", "model_state_dict", "model", "network", "net", "student", "backbone", "weights"];

/// Keys of averaged weights, beside those of [`STATES`].
const AVERAGES: [&str; 5] = ["model_ema", "state_dict_ema", "ema_state_dict", "ema", "teacher"];

/// Deepest nesting of a state dictionary.
const DEEPEST: usize = 3;

/// The tensors of a state dictionary, in f32, the keys that lead to it, and that of averaged weights that are not read.
pub(super) struct State {
    pub tensors: BTreeMap<String, Tensor>,
    pub keys: Vec<String>,
    pub average: Option<String>,
}

/// Reads a ZIP archive of `torch.save`.
pub(super) fn archive(bytes: &[u8]) -> Result<State, WeightsFault> {
    let broken = |error: zip::result::ZipError| WeightsFault::Damaged(error.to_string());
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let names: Vec<String> =
        archive.file_names().map(|name| Ok(name?.into_owned())).collect::<Result<_, _>>().map_err(broken)?;
    if names.iter().any(|name| name.ends_with("/constants.pkl")) {
        return Err(WeightsFault::Script);
    }
    let found = names.iter().find_map(|name| name.strip_suffix("data.pkl"));
    let root = found.ok_or(WeightsFault::Damaged("the archive has no data.pkl".to_owned()))?;
    let mut read = |name: &str| {
        let mut content = Vec::new();
        archive.by_name(&format!("{root}{name}")).map_err(broken)?.read_to_end(&mut content)?;
        Ok::<_, WeightsFault>(content)
    };
    if names.contains(&format!("{root}byteorder")) && read("byteorder")? != b"little" {
        return Err(WeightsFault::Damaged("the values are big-endian, expected little-endian".to_owned()));
    }
    let content = read("data.pkl")?;
    let pickle = Pickle::read(&mut content.as_slice())?;
    state(&pickle, |storage| read(&format!("data/{}", storage.key)).map(Cow::Owned))
}

/// Reads the older format.
pub(super) fn legacy(bytes: &[u8]) -> Result<State, WeightsFault> {
    let mut rest = bytes;
    let (_magic, _version, _system) =
        (Pickle::read(&mut rest)?, Pickle::read(&mut rest)?, Pickle::read(&mut rest)?);
    let pickle = Pickle::read(&mut rest)?;
    let keys = Pickle::read(&mut rest)?;
    let Object::Sequence(list) = keys.root() else {
        return Err(WeightsFault::Damaged("the list of storages is missing".to_owned()));
    };
    let kinds: HashMap<&str, &str> =
        pickle.storages().map(|storage| (storage.key.as_str(), storage.kind.as_str())).collect();
    let mut at = HashMap::new();
    for id in list {
        let Object::Text(key) = keys.get(*id) else { continue };
        let cut = || WeightsFault::Damaged(format!("the storage {key} is truncated"));
        let (count, values) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let count = usize::try_from(i64::from_le_bytes(*count)).map_err(|_| cut())?;
        let kind = kinds
            .get(key.as_str())
            .ok_or_else(|| WeightsFault::Damaged(format!("no tensor uses the storage {key}")))?;
        let len = count.checked_mul(Kind::of(kind)?.size()).ok_or_else(cut)?;
        let (values, after) = values.split_at_checked(len).ok_or_else(cut)?;
        at.insert(key.as_str(), values);
        rest = after;
    }
    state(&pickle, |storage| {
        let found = at.get(storage.key.as_str()).map(|values| Cow::Borrowed(*values));
        found.ok_or_else(|| WeightsFault::Damaged(format!("the storage {} is missing", storage.key)))
    })
}

/// Finds the state dictionary and reads its tensors.
fn state<'a>(
    pickle: &Pickle,
    mut read: impl FnMut(&Storage) -> Result<Cow<'a, [u8]>, WeightsFault>,
) -> Result<State, WeightsFault> {
    let (mut object, mut keys, mut average) = (pickle.root(), Vec::new(), None);
    if let Object::Opaque(class) = object {
        return Err(WeightsFault::Object { class: class.clone() });
    }
    while !holds_tensors(pickle, object) && keys.len() < DEEPEST {
        let inner: Vec<(&str, &Object)> = pickle
            .entries(object)
            .filter(|(key, value)| {
                STATES.contains(key) && matches!(value, Object::Dict(_) | Object::Opaque(_))
            })
            .collect();
        let names: Vec<&str> = pickle.entries(object).map(|(key, _)| key).collect();
        if names.contains(&"student") && names.contains(&"teacher") {
            return Err(WeightsFault::SeveralStates { keys: "student, teacher".to_owned() });
        }
        let first = STATES.iter().find_map(|state| inner.iter().find(|(key, _)| key == state));
        match first {
            Some((_, Object::Opaque(class))) => return Err(WeightsFault::Object { class: class.clone() }),
            Some((key, value)) => {
                average = names
                    .iter()
                    .find(|name| AVERAGES.contains(name))
                    .map(|name| (*name).to_owned())
                    .or(average);
                keys.push((*key).to_owned());
                object = value;
            }
            None => return Err(WeightsFault::NoState { keys: names.join(", ") }),
        }
    }
    let mut tensors = BTreeMap::new();
    for (name, value) in pickle.entries(object) {
        match value {
            Object::Tensor(view) => {
                if let Kind::Whole { .. } = Kind::of(&view.storage.kind)? {
                    if is_layer(name) {
                        let got = view.storage.kind.trim_end_matches("Storage").to_owned();
                        return Err(WeightsFault::Type { name: name.to_owned(), got });
                    }
                    continue;
                }
                let values = gather(name, view, &read(&view.storage)?)?;
                let tensor = Tensor::from_vec(values, &view.shape[..], &Device::Cpu);
                tensors.insert(
                    name.to_owned(),
                    tensor.map_err(|error| WeightsFault::Damaged(error.to_string()))?,
                );
            }
            Object::Opaque(class) => {
                return Err(WeightsFault::Entry { name: name.to_owned(), class: class.clone() });
            }
            _ => {}
        }
    }
    Ok(State { tensors, keys, average })
}

fn holds_tensors(pickle: &Pickle, object: &Object) -> bool {
    let values = || pickle.entries(object).map(|(_, value)| value);
    values().any(|value| matches!(value, Object::Tensor(_)))
        || (values().next().is_some() && values().all(|value| matches!(value, Object::Opaque(_))))
}

/// How a storage holds its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F16,
    Bf16,
    F32,
    F64,
    /// Whole numbers and booleans, which no layer has: counters.
    Whole {
        /// Bytes of a value.
        size: usize,
    },
}

impl Kind {
    fn of(class: &str) -> Result<Self, WeightsFault> {
        match class {
            "HalfStorage" => Ok(Self::F16),
            "BFloat16Storage" => Ok(Self::Bf16),
            "FloatStorage" => Ok(Self::F32),
            "DoubleStorage" => Ok(Self::F64),
            "LongStorage" => Ok(Self::Whole { size: 8 }),
            "IntStorage" => Ok(Self::Whole { size: 4 }),
            "ShortStorage" => Ok(Self::Whole { size: 2 }),
            "CharStorage" | "ByteStorage" | "BoolStorage" => Ok(Self::Whole { size: 1 }),
            other => Err(WeightsFault::Damaged(format!(
                "unsupported storage {other}, expected floats or whole numbers"
            ))),
        }
    }

    /// Bytes of a value.
    fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Whole { size } => size,
        }
    }

    /// The values at `places`, or `None` if one is outside `bytes`.
    fn values(self, bytes: &[u8], places: impl Iterator<Item = usize>) -> Option<Vec<f32>> {
        match self {
            Self::F16 => convert(bytes, places, |value| f16::from_le_bytes(value).to_f32()),
            Self::Bf16 => convert(bytes, places, |value| bf16::from_le_bytes(value).to_f32()),
            Self::F32 => convert(bytes, places, f32::from_le_bytes),
            Self::F64 => convert(bytes, places, |value| {
                #[expect(clippy::cast_possible_truncation, reason = "weights are f32 here")]
                let value = f64::from_le_bytes(value) as f32;
                value
            }),
            Self::Whole { .. } => None,
        }
    }
}

fn convert<const SIZE: usize>(
    bytes: &[u8],
    places: impl Iterator<Item = usize>,
    value: impl Fn([u8; SIZE]) -> f32,
) -> Option<Vec<f32>> {
    let chunks = bytes.as_chunks::<SIZE>().0;
    places.map(|place| chunks.get(place).map(|chunk| value(*chunk))).collect()
}

/// The values of a view in row-major order.
fn gather(name: &str, view: &TensorView, bytes: &[u8]) -> Result<Vec<f32>, WeightsFault> {
    let TensorView { storage, offset, shape, strides } = view;
    let outside = || {
        WeightsFault::Damaged(format!(
            "{name}: the shape {shape:?} does not fit a storage of {} values",
            storage.len
        ))
    };
    let len = shape.iter().try_fold(1usize, |len, side| len.checked_mul(*side)).ok_or_else(outside)?;
    let sides = || shape.iter().zip(strides);
    let last = sides()
        .try_fold(*offset, |at, (side, stride)| at.checked_add(side.saturating_sub(1).checked_mul(*stride)?));
    // No view is larger than its storage, so that a small file cannot fill the memory.
    if shape.len() != strides.len() || len > storage.len || last.is_none() {
        return Err(outside());
    }
    let mut index = vec![0; shape.len()];
    let places = (0..len).map(|_| {
        let at = index.iter().zip(strides).fold(*offset, |at, (place, stride)| at + place * stride);
        for (place, side) in index.iter_mut().zip(shape).rev() {
            *place += 1;
            if *place < *side {
                break;
            }
            *place = 0;
        }
        at
    });
    Kind::of(&storage.kind)?.values(bytes, places).ok_or_else(outside)
}
