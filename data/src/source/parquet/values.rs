//! Reads the values of the columns beside the images: labels and captions.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::super::Captions;
use super::super::captions::CaptionKind;
use super::ParquetProblem;

/// The trimmed texts of a column; `None` for nulls and empty texts.
pub(super) fn texts(arrays: &[ArrayRef]) -> Vec<Option<String>> {
    let texts = arrays.iter().filter_map(|array| array.as_string_opt::<i32>()).flat_map(|texts| texts.iter());
    let texts = texts.map(|text| text.map(str::trim).filter(|text| !text.is_empty()));
    texts.map(|text| text.map(str::to_owned)).collect()
}

/// The class numbers of the column `name`, each below `classes`. A negative number, used for hidden labels, means no
/// label.
pub(super) fn class_numbers(
    arrays: &[ArrayRef],
    name: &str,
    classes: u32,
) -> Result<Vec<Option<u32>>, ParquetProblem> {
    let numbers = arrays.iter().flat_map(|array| numbers(array));
    let checked = numbers.enumerate().map(|(row, number)| match number.filter(|number| *number >= 0.0) {
        None => Ok(None),
        Some(number) => match as_class(number).filter(|label| *label < classes) {
            Some(label) => Ok(Some(label)),
            None => {
                let got = number.to_string();
                Err(ParquetProblem::Label { row, column: name.to_owned(), got, classes })
            }
        },
    });
    checked.collect()
}

/// Converts a number to a class; `None` if it is not a whole number in the range of `u32`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be the same number")]
fn as_class(number: f64) -> Option<u32> {
    let label = number as u32;
    (f64::from(label) == number).then_some(label)
}

/// The captions of a column. Rows without a caption are added to `missing`.
pub(super) fn captions(
    arrays: &[ArrayRef],
    kind: CaptionKind,
    missing: &mut BTreeMap<usize, &'static str>,
) -> Result<Captions, ParquetProblem> {
    let mut captions = Captions::empty(kind);
    match kind {
        CaptionKind::Text => {
            for (row, text) in texts(arrays).into_iter().enumerate() {
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
