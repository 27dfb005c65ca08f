//! A student in an ONNX file: as `lgd export` wrote it, or quantized or converted by another tool.
//!
//! Its input are RGB pixels from 0 to 1 (bytes from 0 to 255 if it takes bytes), its outputs are rows of vectors, and its
//! metadata may say how images are prepared.

use std::collections::BTreeMap;
use std::path::Path;

use lgd_data::image::RgbImage;
use lgd_data::manifest::ContentHash;
use lgd_data::render::{Normalization, PixelLayout};
use ort::session::SessionInputValue;
use ort::value::TensorRef;

use super::{EncoderOptions, PixelBuffer, PixelType, ports};
use crate::device::{Precision, Slot};
use crate::error::ExtractError;
use crate::runtime::Runtime;
use crate::session::{Model, Port, Selection, Tensor, describe};

/// Leaves values from 0 to 1 as they are: the normalization is part of the exported model.
const NONE: Normalization = Normalization { mean: [0.0; 3], std: [1.0; 3] };

/// A student in an ONNX file, on the CPU.
#[derive(Debug)]
pub struct OnnxStudent {
    model: Model,
    hash: ContentHash,
    selection: Selection,
    input: String,
    pixel_type: PixelType,
    layout: PixelLayout,
    size: u32,
    batch: Option<usize>,
    outputs: Vec<(String, usize)>,
    metadata: BTreeMap<String, String>,
}

impl OnnxStudent {
    /// Opens the file at `path` and runs it once. Reads those of its outputs whose names are in `known`. `size_key`: the
    /// entry of the metadata with the side of the input in pixels, for a model whose input has no fixed size.
    ///
    /// # Errors
    /// [`ExtractError::TeacherFile`] if the file cannot be read; [`ExtractError::ModelLoad`] if it is no model;
    /// [`ExtractError::ModelInterface`] if its input or outputs do not fit.
    pub fn open(
        runtime: &Runtime,
        path: &Path,
        options: &EncoderOptions,
        known: &[&str],
        size_key: &str,
    ) -> Result<Self, ExtractError> {
        let model = Model::open(runtime, path, Slot::Cpu, Precision::Exact, options.threads)?;
        let metadata = model.metadata()?;
        let input = ports::choose_input(&model, None)?.clone();
        let pixel_type = ports::pixel_type(&model, &input)?;
        let layout = ports::layout(&model, &input, None)?;
        let size = side(&model, &input, layout, metadata.get(size_key).map(String::as_str))?;
        let found = model.outputs().iter().map(|port| port.name.clone());
        let found: Vec<String> = found.filter(|name| known.contains(&name.as_str())).collect();
        if found.is_empty() {
            let expected = format!("one of the outputs {}", known.join(", "));
            let hint = "rename the outputs as they were in the exported file";
            return Err(model.mismatch(expected, describe(model.outputs()), hint));
        }
        let names: Vec<&str> = found.iter().map(String::as_str).collect();
        let mut student = Self {
            selection: Selection::of(&model, &names)?,
            hash: ContentHash::of_file(path)?,
            model,
            input: input.name.clone(),
            pixel_type,
            layout,
            size,
            batch: input.shape.first().copied().flatten(),
            outputs: found.into_iter().map(|name| (name, 0)).collect(),
            metadata,
        };
        student.probe()?;
        Ok(student)
    }

    /// Runs one black image, to learn the widths of the outputs.
    fn probe(&mut self) -> Result<(), ExtractError> {
        let side = usize::try_from(self.size).unwrap_or(usize::MAX);
        let black = RgbImage::new(self.size, self.size, vec![0; side * side * 3])
            .map_err(|error| ExtractError::inference(self.model.path(), error))?;
        let widths: Vec<usize> = self.call(&[black])?.iter().map(Vec::len).collect();
        self.outputs.iter_mut().zip(widths).for_each(|((_, width), found)| *width = found);
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.model.path()
    }

    /// Hash of the file.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Side of the square input, px.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Names and widths of the outputs that are read, in the order of the model.
    pub fn outputs(&self) -> &[(String, usize)] {
        &self.outputs
    }

    /// Entries of the file's metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Computes the outputs of rendered images: for each of [`OnnxStudent::outputs`], its rows, `[N, width]`. A model
    /// with a fixed batch runs as often as needed, its last batch filled up with black.
    ///
    /// # Errors
    /// [`ExtractError::Inference`] if an image has another size, or the model fails.
    pub fn run(&mut self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, ExtractError> {
        let mut all = vec![Vec::new(); self.outputs.len()];
        for part in images.chunks(self.batch.unwrap_or(images.len()).max(1)) {
            let rows = self.call(part)?;
            for ((all, rows), (name, width)) in all.iter_mut().zip(rows).zip(&self.outputs) {
                if rows.len() != part.len() * width {
                    let reason = format!(
                        "output '{name}': expected {} x {width} values, got {}",
                        part.len(),
                        rows.len()
                    );
                    return Err(ExtractError::inference(self.model.path(), reason));
                }
                all.extend(rows);
            }
        }
        Ok(all)
    }

    /// Runs at most one batch of images; returns the values of these.
    fn call(&mut self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, ExtractError> {
        let (batch, side) =
            (self.batch.unwrap_or(images.len()), usize::try_from(self.size).unwrap_or(usize::MAX));
        let shape = match self.layout {
            PixelLayout::Nchw => [batch, 3, side, side],
            PixelLayout::Nhwc => [batch, side, side, 3],
        };
        let path = self.model.path().to_owned();
        let mut pixels = PixelBuffer::zeros(self.pixel_type, shape.iter().product());
        let mut scratch = Vec::new();
        for (row, image) in images.iter().enumerate() {
            let start = row * side * side * 3;
            pixels
                .normalize(start, image, &NONE, self.layout, &mut scratch)
                .map_err(|error| ExtractError::inference(&path, error))?;
        }
        let failed = |error: ort::Error| ExtractError::inference(&path, error);
        let input: SessionInputValue<'_> = match &pixels {
            PixelBuffer::F32(values) => {
                TensorRef::from_array_view((shape, &**values)).map_err(failed)?.into()
            }
            PixelBuffer::F16(values) => {
                TensorRef::from_array_view((shape, &**values)).map_err(failed)?.into()
            }
            PixelBuffer::U8(values) => TensorRef::from_array_view((shape, &**values)).map_err(failed)?.into(),
        };
        self.model.run(vec![(&self.input, input)], &self.selection, |outputs| {
            outputs
                .iter()
                .map(|tensor| {
                    rows(tensor, batch, images.len()).map_err(|reason| ExtractError::inference(&path, reason))
                })
                .collect()
        })
    }
}

/// The first `wanted` of `batch` rows.
fn rows(tensor: &Tensor<'_>, batch: usize, wanted: usize) -> Result<Vec<f32>, String> {
    let values = tensor.to_f32();
    // Converters may keep axes of length 1 behind the axis of rows, or drop that of a batch of one.
    let width = match *tensor.shape.as_slice() {
        [width] if batch == 1 => Some(width),
        [rows, ref axes @ ..] if rows == batch && axes.iter().filter(|size| **size != 1).count() <= 1 => {
            Some(axes.iter().product())
        }
        _ => None,
    };
    match width {
        Some(width) if batch > 0 && width > 0 => Ok(values[..width * wanted].to_vec()),
        _ => Err(format!("expected {batch} rows of vectors, got an output of shape {:?}", tensor.shape)),
    }
}

/// Side of the input: the fixed one, else the recorded one.
fn side(
    model: &Model,
    input: &Port,
    layout: PixelLayout,
    recorded: Option<&str>,
) -> Result<u32, ExtractError> {
    let first = if layout == PixelLayout::Nchw { 2 } else { 1 };
    let sides = [input.shape[first], input.shape[first + 1]];
    let fixed = sides[0].or(sides[1]);
    if sides.iter().any(|side| side.is_some() && *side != fixed) {
        return Err(model.mismatch("a square input", input.to_string(), ""));
    }
    let fixed = fixed.and_then(|side| u32::try_from(side).ok());
    let found = fixed.or_else(|| recorded?.parse().ok()).filter(|size| *size > 0);
    found.ok_or_else(|| {
        let hint = "export it with a fixed size, or keep the metadata when converting";
        model.mismatch("an input of a fixed size", input.to_string(), hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_has_one_row_per_image() {
        let values: Vec<f32> = (0_u8..12).map(f32::from).collect();
        let first =
            |shape: &[usize], batch, wanted| rows(&Tensor::of(shape.to_vec(), &values), batch, wanted);
        assert_eq!(first(&[4, 3], 4, 2).unwrap(), values[..6]);
        assert_eq!(first(&[4, 3, 1, 1], 4, 1).unwrap(), values[..3]);
        assert_eq!(first(&[4, 1, 3], 4, 4).unwrap(), values);
        assert_eq!(first(&[12], 1, 1).unwrap(), values);
        assert_eq!(first(&[1, 12], 1, 1).unwrap(), values);
        for (shape, batch) in
            [(&[4, 3][..], 2), (&[2, 6], 4), (&[2, 6], 1), (&[12], 2), (&[2, 2, 3], 2), (&[12, 1], 1)]
        {
            let error = first(shape, batch, 1).unwrap_err();
            assert!(error.contains(&format!("expected {batch} rows")), "{error}");
        }
    }
}
