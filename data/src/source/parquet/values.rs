//! Reads the values of the columns beside the images: labels and captions.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::super::captions::CaptionKind;
use super::super::labels::Label;
use super::super::{Captions, FieldKind};
use super::ParquetProblem;
use super::columns::LabelKind;

/// The trimmed texts of a column of texts or of bytes that are UTF-8; `None` for nulls and empty texts.
///
/// # Errors
/// [`ParquetProblem::NotText`] for bytes that are not UTF-8.
fn texts(arrays: &[ArrayRef], name: &str, kind: FieldKind) -> Result<Vec<Option<String>>, ParquetProblem> {
    let mut texts = Vec::with_capacity(arrays.iter().map(|array| array.len()).sum());
    let trimmed = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    for array in arrays {
        if let Some(array) = array.as_string_opt::<i32>() {
            texts.extend(array.iter().map(|text| text.and_then(trimmed)));
            continue;
        }
        for bytes in array.as_binary_opt::<i32>().into_iter().flatten() {
            let row = texts.len();
            let not_text = |_| ParquetProblem::NotText { row, column: name.to_owned(), kind };
            texts.push(bytes.map(std::str::from_utf8).transpose().map_err(not_text)?.and_then(trimmed));
        }
    }
    Ok(texts)
}

/// The labels in the column `name`.
///
/// # Errors
/// [`ParquetProblem`] for a label that is neither a class number nor a text, or that is not one of the named classes.
pub(super) fn labels(
    arrays: &[ArrayRef],
    name: &str,
    kind: &LabelKind,
) -> Result<Vec<Label>, ParquetProblem> {
    let fault = |(row, fault)| ParquetProblem::Label { row, column: name.to_owned(), fault };
    match kind {
        LabelKind::Text => {
            let texts = texts(arrays, name, FieldKind::Label)?.into_iter().enumerate();
            let label = |(row, text): (usize, Option<String>)| match text {
                None => Ok(Label::None),
                Some(text) => Label::of_text(&text).map_err(|fault| (row, fault)),
            };
            texts.map(|text| label(text).map_err(fault)).collect()
        }
        LabelKind::Truth => {
            let truths = arrays.iter().filter_map(|array| array.as_boolean_opt());
            let label =
                |truth: Option<bool>| truth.map_or(Label::None, |truth| Label::Name(truth.to_string()));
            Ok(truths.flat_map(|truths| truths.iter()).map(label).collect())
        }
        LabelKind::Number | LabelKind::Named(_) => {
            let numbers = arrays.iter().flat_map(|array| numbers(array)).enumerate();
            let label = |(row, number): (usize, Option<f64>)| match number {
                None => Ok(Label::None),
                Some(number) => Label::of_number(number).map_err(|problem| fault((row, problem))),
            };
            let labels = numbers.map(label).collect::<Result<Vec<Label>, _>>()?;
            match kind {
                LabelKind::Named(names) => require_named(&labels, name, names.len()).map(|()| labels),
                _ => Ok(labels),
            }
        }
    }
}

/// The values of a column that marks the split of each row, as texts; empty for nulls.
pub(super) fn splits(arrays: &[ArrayRef], kind: &LabelKind) -> Vec<String> {
    let mut splits = Vec::with_capacity(arrays.iter().map(|array| array.len()).sum());
    for array in arrays {
        if let Some(texts) = array.as_string_opt::<i32>() {
            splits.extend(texts.iter().map(|text| text.unwrap_or_default().to_owned()));
        } else if let Some(texts) = array.as_binary_opt::<i32>() {
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            splits.extend(texts.iter().map(text));
        } else if let Some(truths) = array.as_boolean_opt() {
            splits.extend(truths.iter().map(|truth| truth.map_or(String::new(), |truth| truth.to_string())));
        } else {
            let named = |number: f64| match (kind, Label::of_number(number)) {
                (LabelKind::Named(names), Ok(Label::Number(at))) => names.get(usize::try_from(at).ok()?),
                _ => None,
            };
            let text = |number: f64| named(number).map_or_else(|| number.to_string(), String::clone);
            splits.extend(numbers(array).into_iter().map(|number| number.map_or(String::new(), text)));
        }
    }
    splits
}

/// Fails if a label is not below `classes`.
fn require_named(labels: &[Label], name: &str, classes: usize) -> Result<(), ParquetProblem> {
    let unnamed = |label: &Label| match label {
        Label::Number(label) => usize::try_from(*label).is_ok_and(|label| label >= classes).then_some(*label),
        _ => None,
    };
    let found = labels.iter().enumerate().find_map(|(row, label)| Some((row, unnamed(label)?)));
    found.map_or(Ok(()), |(row, got)| {
        Err(ParquetProblem::Class { row, column: name.to_owned(), got, classes })
    })
}

/// The captions of the column `name`. Rows without a caption are added to `missing`.
pub(super) fn captions(
    arrays: &[ArrayRef],
    name: &str,
    kind: CaptionKind,
    missing: &mut BTreeMap<usize, &'static str>,
) -> Result<Captions, ParquetProblem> {
    let mut captions = Captions::empty(kind);
    match kind {
        CaptionKind::Text => {
            for (row, text) in texts(arrays, name, FieldKind::Caption)?.into_iter().enumerate() {
                match text {
                    Some(text) => captions.push_text(&text),
                    None => drop(missing.insert(row, "its caption is null or empty")),
                }
            }
        }
        CaptionKind::Embedding => {
            let lists = arrays.iter().filter_map(|array| array.as_list_opt::<i32>());
            for (row, list) in lists.flat_map(|lists| lists.iter()).enumerate() {
                let Some(list) = list else {
                    missing.insert(row, "its caption_embedding is null");
                    continue;
                };
                let embedding: Vec<f64> =
                    numbers(&list).into_iter().map(|number| number.unwrap_or(f64::NAN)).collect();
                captions
                    .push_embedding(&embedding)
                    .map_err(|source| ParquetProblem::CaptionEmbedding { row, source })?;
            }
        }
    }
    Ok(captions)
}

/// The numbers of an array of any numeric type. All class numbers and embedding values are exact as f64.
fn numbers(array: &dyn Array) -> Vec<Option<f64>> {
    fn widen<T: ArrowPrimitiveType>(array: &dyn Array, widen: fn(T::Native) -> f64) -> Vec<Option<f64>> {
        array.as_primitive::<T>().iter().map(|number| number.map(widen)).collect()
    }
    #[expect(clippy::cast_precision_loss, reason = "class numbers are far smaller")]
    match array.data_type() {
        DataType::Int8 => widen::<Int8Type>(array, f64::from),
        DataType::Int16 => widen::<Int16Type>(array, f64::from),
        DataType::Int32 => widen::<Int32Type>(array, f64::from),
        DataType::Int64 => widen::<Int64Type>(array, |number| number as f64),
        DataType::UInt8 => widen::<UInt8Type>(array, f64::from),
        DataType::UInt16 => widen::<UInt16Type>(array, f64::from),
        DataType::UInt32 => widen::<UInt32Type>(array, f64::from),
        DataType::UInt64 => widen::<UInt64Type>(array, |number| number as f64),
        DataType::Float16 => widen::<Float16Type>(array, f64::from),
        DataType::Float32 => widen::<Float32Type>(array, f64::from),
        DataType::Float64 => widen::<Float64Type>(array, f64::from),
        _ => vec![None; array.len()],
    }
}
