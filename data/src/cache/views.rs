//! Converts views to Parquet columns and back.

use std::path::Path;

use arrow_array::builder::{BooleanBuilder, Float32Builder, StringBuilder, UInt8Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float32Array, PrimitiveArray, RecordBatch, StringArray, UInt8Array,
};
use arrow_schema::{DataType, Field};
use std::sync::Arc;

use crate::error::ArtifactError;
use crate::view::{CenterCrop, Crop, CropRounding, Jitter, JitterOrder, ResizeMode, View};

/// Columns for the resize and the rounding of a center crop.
const RESIZE: &str = "center_resize";
const ROUNDING: &str = "center_rounding";
/// Columns for the lighting, by channel.
const LIGHTING: [&str; 3] = ["light_r", "light_g", "light_b"];

/// The fault of a row with some of them.
const PARTLY: &str = "columns that belong together are only partly set";

/// The columns of views that not every cache has.
#[derive(Clone, Copy)]
pub(super) struct Optional {
    /// Those of a center crop with another resize or rounding than torchvision's.
    pub(super) center: bool,
    /// Those of the lighting.
    pub(super) lighting: bool,
}

/// The columns of a view. Either the four `crop_*` columns or `center_fraction` is set. The five jitter columns are
/// either all set or all null, except that `hue` is null if the hue is not changed. If the cache's center crop is other
/// than torchvision's, two more columns are set wherever `center_fraction` is. Three more are set or null together if the
/// policy changes the lighting.
pub(super) fn fields(optional: Optional) -> Vec<Field> {
    let f32 = |name: &str| Field::new(name, DataType::Float32, true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, false);
    let mut fields = vec![
        f32("center_fraction"),
        f32("crop_x"),
        f32("crop_y"),
        f32("crop_w"),
        f32("crop_h"),
        flag("flip"),
        f32("brightness"),
        f32("contrast"),
        f32("saturation"),
        f32("hue"),
        Field::new("jitter_order", DataType::UInt8, true),
        flag("grey"),
        f32("blur_sigma"),
    ];
    if optional.center {
        fields.extend([RESIZE, ROUNDING].map(|name| Field::new(name, DataType::Utf8, true)));
    }
    if optional.lighting {
        fields.extend(LIGHTING.map(f32));
    }
    fields
}

/// Collects views into arrays in the order of [`fields`].
#[derive(Default)]
pub(super) struct ViewBuilder {
    center: Float32Builder,
    crop: [Float32Builder; 4],
    flip: BooleanBuilder,
    jitter: [Float32Builder; 4],
    order: UInt8Builder,
    gray: BooleanBuilder,
    blur: Float32Builder,
    resize: StringBuilder,
    rounding: StringBuilder,
    lighting: [Float32Builder; 3],
}

impl ViewBuilder {
    pub(super) fn push(&mut self, view: &View) {
        let (center, crop) = match view.crop {
            Crop::Center(crop) => (Some(crop), None),
            Crop::Box { x, y, w, h } => (None, Some([x, y, w, h])),
        };
        self.center.append_option(center.map(|crop| crop.fraction));
        self.resize.append_option(center.map(|crop| crop.resize.name()));
        self.rounding.append_option(center.map(|crop| crop.rounding.name()));
        for (at, builder) in self.crop.iter_mut().enumerate() {
            builder.append_option(crop.map(|crop| crop[at]));
        }
        self.flip.append_value(view.flip);
        let jitter = view.jitter.map(|jitter| {
            let factors = [jitter.brightness, jitter.contrast, jitter.saturation].map(Some);
            [factors[0], factors[1], factors[2], jitter.hue]
        });
        for (at, builder) in self.jitter.iter_mut().enumerate() {
            builder.append_option(jitter.and_then(|jitter| jitter[at]));
        }
        for (at, builder) in self.lighting.iter_mut().enumerate() {
            builder.append_option(view.lighting.map(|shift| shift[at]));
        }
        self.order.append_option(view.jitter.map(|jitter| jitter.order.index()));
        self.gray.append_value(view.gray);
        self.blur.append_option(view.blur_sigma);
    }

    pub(super) fn finish(&mut self, optional: Optional) -> Vec<ArrayRef> {
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.center.finish())];
        arrays.extend(self.crop.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        arrays.push(Arc::new(self.flip.finish()));
        arrays.extend(self.jitter.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        arrays.push(Arc::new(self.order.finish()));
        arrays.push(Arc::new(self.gray.finish()));
        arrays.push(Arc::new(self.blur.finish()));
        let (resize, rounding) = (self.resize.finish(), self.rounding.finish());
        if optional.center {
            arrays.extend([resize, rounding].map(|names| Arc::new(names) as ArrayRef));
        }
        let lighting = self.lighting.each_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef);
        if optional.lighting {
            arrays.extend(lighting);
        }
        arrays
    }
}

/// The view columns of a batch; their types are checked.
pub(super) struct ViewArrays<'a> {
    center: &'a Float32Array,
    crop: [&'a Float32Array; 4],
    flip: &'a BooleanArray,
    jitter: [&'a Float32Array; 4],
    order: &'a UInt8Array,
    gray: &'a BooleanArray,
    blur: &'a Float32Array,
    /// Resize and rounding, if the shard has these columns.
    geometry: Option<[&'a StringArray; 2]>,
    /// The lighting, if the shard has these columns.
    lighting: Option<[&'a Float32Array; 3]>,
}

impl<'a> ViewArrays<'a> {
    pub(super) fn new(path: &Path, batch: &'a RecordBatch) -> Result<Self, ArtifactError> {
        let f32 = |name: &str| primitive::<Float32Type>(path, batch, name);
        let flag = |name: &str| {
            let array = column(path, batch, name)?;
            array.as_boolean_opt().ok_or_else(|| wrong_type(path, name, array.data_type()))
        };
        let text = |name: &str| {
            let array = column(path, batch, name)?;
            array.as_string_opt::<i32>().ok_or_else(|| wrong_type(path, name, array.data_type()))
        };
        let [light_r, light_g, light_b] = LIGHTING;
        let has_lighting = LIGHTING.iter().any(|name| batch.column_by_name(name).is_some());
        let has_geometry = [RESIZE, ROUNDING].iter().any(|name| batch.column_by_name(name).is_some());
        Ok(Self {
            center: f32("center_fraction")?,
            crop: [f32("crop_x")?, f32("crop_y")?, f32("crop_w")?, f32("crop_h")?],
            flip: flag("flip")?,
            jitter: [f32("brightness")?, f32("contrast")?, f32("saturation")?, f32("hue")?],
            order: primitive(path, batch, "jitter_order")?,
            gray: flag("grey")?,
            blur: f32("blur_sigma")?,
            geometry: if has_geometry { Some([text(RESIZE)?, text(ROUNDING)?]) } else { None },
            lighting: if has_lighting { Some([f32(light_r)?, f32(light_g)?, f32(light_b)?]) } else { None },
        })
    }

    /// The view in a row. An error names the violated rule of [`fields`].
    pub(super) fn get(&self, row: usize) -> Result<View, &'static str> {
        let value = |array: &Float32Array| array.is_valid(row).then(|| array.value(row));
        let all = |arrays: &[&Float32Array; 4]| match arrays.map(value) {
            [Some(a), Some(b), Some(c), Some(d)] => Ok(Some([a, b, c, d])),
            [None, None, None, None] => Ok(None),
            _ => Err(PARTLY),
        };
        let three = |arrays: [Option<f32>; 3]| match arrays {
            [Some(a), Some(b), Some(c)] => Ok(Some([a, b, c])),
            [None, None, None] => Ok(None),
            _ => Err(PARTLY),
        };
        let crop = match (value(self.center), all(&self.crop)?) {
            (Some(fraction), None) => Crop::Center(self.center_crop(row, fraction)?),
            (None, Some([x, y, w, h])) => Crop::Box { x, y, w, h },
            _ => return Err("exactly one of center_fraction and crop_x, crop_y, crop_w, crop_h must be set"),
        };
        let lighting = self.lighting.map_or(Ok(None), |shift| three(shift.map(value)))?;
        let [brightness, contrast, saturation, hue] = self.jitter.map(value);
        let factors = three([brightness, contrast, saturation])?;
        // Only views with lighting leave the hue as it is: elsewhere a missing hue is a damaged row.
        if hue.is_some() != factors.is_some() && (hue.is_some() || lighting.is_none()) {
            return Err(PARTLY);
        }
        let jitter = match (factors, self.order.is_valid(row)) {
            (Some([brightness, contrast, saturation]), true) => {
                let order =
                    JitterOrder::new(self.order.value(row)).map_err(|_| "jitter_order is not below 24")?;
                Some(Jitter { brightness, contrast, saturation, hue, order })
            }
            (None, false) => None,
            _ => return Err("jitter factors and jitter_order must be set together"),
        };
        let blur_sigma = value(self.blur);
        let (flip, gray) = (self.flip.value(row), self.gray.value(row));
        Ok(View { crop, flip, jitter, lighting, gray, blur_sigma })
    }

    fn center_crop(&self, row: usize, fraction: f32) -> Result<CenterCrop, &'static str> {
        let Some([resize, rounding]) = self.geometry else { return Ok(CenterCrop::shortest(fraction)) };
        let stored = |names: &'a StringArray| names.is_valid(row).then(|| names.value(row));
        let resize = stored(resize).and_then(ResizeMode::from_name);
        let rounding = stored(rounding).and_then(CropRounding::from_name);
        Ok(CenterCrop {
            fraction,
            resize: resize.ok_or("center_resize is not shortest, squash or longest")?,
            rounding: rounding.ok_or("center_rounding is not half-even, floor or floor-length")?,
        })
    }
}

/// The primitive column `name` of a batch.
pub(super) fn primitive<'a, T: ArrowPrimitiveType>(
    path: &Path,
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a PrimitiveArray<T>, ArtifactError> {
    let array = column(path, batch, name)?;
    array.as_primitive_opt().ok_or_else(|| wrong_type(path, name, array.data_type()))
}

/// The column `name` of a batch.
pub(super) fn column<'a>(
    path: &Path,
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a ArrayRef, ArtifactError> {
    batch
        .column_by_name(name)
        .ok_or_else(|| ArtifactError::invalid(path, format!("column {name:?} is missing")))
}

/// The error for a column with an unexpected type.
pub(super) fn wrong_type(path: &Path, name: &str, got: &DataType) -> ArtifactError {
    ArtifactError::invalid(path, format!("column {name:?} has type {got}"))
}
