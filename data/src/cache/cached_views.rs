//! The keys, labels and views of a cache, loaded into memory.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};

use super::ImageStamp;
use super::views::{ViewArrays, column, primitive, wrong_type};
use crate::error::ArtifactError;
use crate::view::View;

/// Keys, labels and views of a cache. Sample `i` has the rows `i x K .. (i + 1) x K`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CachedViews {
    /// Key of each sample.
    pub keys: Vec<String>,
    /// Label of each sample.
    pub labels: Vec<Option<u32>>,
    /// Stamp of each sample's image.
    pub images: Vec<ImageStamp>,
    /// View of each row.
    pub views: Vec<View>,
    pub(super) views_per_sample: usize,
}

impl CachedViews {
    /// Number of accepted samples.
    pub fn samples(&self) -> usize {
        self.keys.len()
    }

    /// View number `view` of sample number `sample`.
    pub fn view(&self, sample: usize, view: usize) -> &View {
        &self.views[self.row(sample, view)]
    }

    /// Cache row of view number `view` of sample number `sample`.
    pub fn row(&self, sample: usize, view: usize) -> usize {
        sample * self.views_per_sample + view
    }

    /// Appends the rows of a batch. Fails if they break the row law (see [`crate::cache`]).
    pub(super) fn append(&mut self, path: &Path, batch: &RecordBatch) -> Result<(), ArtifactError> {
        let key = column(path, batch, "key")?;
        let key = key.as_string_opt::<i32>().ok_or_else(|| wrong_type(path, "key", key.data_type()))?;
        let view = primitive::<UInt16Type>(path, batch, "view")?;
        let label = primitive::<Int32Type>(path, batch, "label")?;
        let width = primitive::<UInt32Type>(path, batch, "width")?;
        let height = primitive::<UInt32Type>(path, batch, "height")?;
        let content = primitive::<UInt64Type>(path, batch, "content")?;
        let views = ViewArrays::new(path, batch)?;
        for row in 0..batch.num_rows() {
            let at = self.views.len();
            let invalid = |reason: &str| ArtifactError::invalid(path, format!("cache row {at}: {reason}"));
            let expected = at % self.views_per_sample;
            if usize::from(view.value(row)) != expected {
                return Err(invalid(&format!("expected view {expected}, got {}", view.value(row))));
            }
            let (width, height) = (width.value(row), height.value(row));
            if expected == 0 {
                let value = label.is_valid(row).then(|| u32::try_from(label.value(row))).transpose();
                self.keys.push(key.value(row).to_owned());
                self.labels.push(value.map_err(|_| invalid("the label is negative"))?);
                self.images.push(ImageStamp { width, height, content: content.value(row) });
            } else if self.keys.last().is_none_or(|last| last != key.value(row)) {
                return Err(invalid("the views of a sample are not consecutive rows"));
            }
            let view = views.get(row).map_err(invalid)?;
            let damaged = |source| ArtifactError::View { path: path.to_owned(), row: at, source };
            view.validate(width, height).map_err(damaged)?;
            self.views.push(view);
        }
        Ok(())
    }
}
