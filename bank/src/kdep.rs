//! KDEP's targets from a cache alone (docs/methods.md section 2), without images, teacher or labels.
//!
//! ```text
//! pass 1   x -> sums -> principal axes               all rows, or a strided sample of them
//! pass 2   x -> y = V (x - mu) -> f(y) -> f16        shard by shard, on all threads
//! f(y) = sign(y) |y / T|^(1/n)                       power temperature scaling
//! ```
//!
//! Rows are read in blocks. Each thread holds one block and one row group of its shard, so peak memory does not
//! depend on the number of rows. The stored values do not depend on the number of threads.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use half::f16;
use half::slice::HalfFloatSliceExt;
use lgd_data::cache::Cache;
use lgd_data::column::MappedColumn;
use lgd_data::job::Job;
use lgd_data::kdep::{KdepRecord, KdepWriter, TargetScale};
use lgd_data::manifest::{Existing, Verify};
use lgd_data::projection::{MomentSums, Projection, ProjectionError};
use lgd_data::strided::StridedViews;
use rayon::prelude::*;
use serde::Serialize;

use crate::error::BankError;
use crate::options::PowerTemperature;
use crate::tsb::as_units;

/// Rows that one thread reads and projects at a time.
const BLOCK: usize = 256;

/// Rows that are summed at a time.
const CHUNK: usize = 2048;

/// The smallest value that rounds to infinity in f16.
const F16_END: f32 = 65_520.0;

/// Inputs, settings and output folder of a KDEP bank.
#[derive(Clone, Copy, Debug)]
pub struct KdepRequest<'a> {
    /// The cache that the features belong to.
    pub cache: &'a Cache,
    /// Its features, `[rows, F]`.
    pub features: &'a MappedColumn<f32>,
    /// Name of the teacher's output that the features come from.
    pub output: &'a str,
    /// Width d of the targets, which equals that of the student's pooled feature.
    pub dim: usize,
    /// How the projected features are scaled.
    pub pts: PowerTemperature,
    /// Size of the strided sample of rows that the projection is fitted to; `None` means all rows.
    pub fit_rows: Option<usize>,
    /// The bank's folder.
    pub out: &'a Path,
    /// Policy for a KDEP bank that is already in the folder.
    pub existing: Existing,
}

/// Contents of a new KDEP bank, and wall times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KdepReport {
    /// Number of views, one target row each.
    pub rows: usize,
    /// Views that the projection was fitted to.
    pub fitted_rows: usize,
    /// Width F of the features.
    pub features: usize,
    /// Width d of the targets.
    pub dim: usize,
    /// Target dimensions with nonzero variance; the others hold rounding noise.
    pub rank: usize,
    /// Share of the variance of all features about the projection's mean that the projection keeps.
    pub explained_variance: f64,
    /// Statistics of the targets' magnitudes.
    pub scale: TargetScale,
    /// Wall time per stage.
    pub seconds: KdepSeconds,
}

/// Wall times of a KDEP bank's stages, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct KdepSeconds {
    /// First pass: sums of the features' moments.
    pub sums: f64,
    /// Principal axes, by eigendecomposition.
    pub axes: f64,
    /// Second pass: computing and writing the targets.
    pub targets: f64,
    /// Writing projection, hashes and manifest.
    pub finish: f64,
}

/// Builds the bank. The manifest is written last, so an interrupted or failed build never opens as a bank.
///
/// # Errors
/// [`BankError`] if the folder already holds a bank, the features are narrower than `dim`, features are not finite or
/// all equal, a target exceeds the range of f16, I/O fails, or the job is interrupted.
pub fn build_kdep(request: &KdepRequest<'_>, job: &Job) -> Result<KdepReport, BankError> {
    let features = request.features;
    let (rows, width, dim) = (features.rows(), features.width(), request.dim);
    // Checked before the first pass, which may take minutes.
    if dim == 0 || dim > width {
        return Err(ProjectionError::Dim { dim, width }.into());
    }
    if rows == 0 {
        return Err(BankError::NoRows);
    }
    let folder = KdepWriter::claim(request.out, request.existing)?;
    let sample = Sample::new(request.fit_rows.unwrap_or(rows), rows, request.cache.views_per_sample());
    job.begin(as_units(sample.rows()).saturating_add(as_units(rows)));

    let mut seconds = KdepSeconds::default();
    let started = Instant::now();
    let sums = sums(features, sample, job)?;
    seconds.sums = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let projection = Projection::fit(&sums, dim)?;
    drop(sums);
    seconds.axes = started.elapsed().as_secs_f64();

    // An old bank is replaced only now: the fit may fail, and then the old bank must survive.
    let started = Instant::now();
    let writer = KdepWriter::create_in(folder, dim)?;
    let in_part = sample.rows() < rows;
    let pass = Pass { features, projection: &projection, pts: request.pts, in_part, writer: &writer, job };
    let sums = pass.run()?;
    let explained = if in_part { sums.explained() } else { projection.explained() };
    let scale = sums.finish(rows);
    seconds.targets = started.elapsed().as_secs_f64();

    let started = Instant::now();
    request.cache.require_unchanged(Verify::Length)?;
    let record = record(request, sample, &projection, (explained, scale));
    let (rank, explained_variance) = (record.rank, record.explained_variance);
    writer.finish(record, &projection, features.shard_rows().len(), rows)?;
    seconds.finish = started.elapsed().as_secs_f64();
    let fitted_rows = sample.rows();
    Ok(KdepReport { rows, fitted_rows, features: width, dim, rank, explained_variance, scale, seconds })
}

fn record(
    request: &KdepRequest<'_>,
    sample: Sample,
    projection: &Projection,
    (explained_variance, scale): (f64, TargetScale),
) -> KdepRecord {
    KdepRecord {
        cache: request.cache.hash(),
        output: request.output.to_owned(),
        features: projection.width(),
        dim: projection.dim(),
        pts_temperature: request.pts.temperature(),
        pts_power: request.pts.power(),
        fitted_rows: sample.rows(),
        explained_variance,
        rank: projection.rank(),
        scale,
    }
}

/// The rows that the projection is fitted to.
#[derive(Clone, Copy, Debug)]
struct Sample {
    strided: StridedViews,
    views: usize,
}

impl Sample {
    /// Selects `wanted` of `rows` rows, at least one and at most all. The cache has `views` rows per sample.
    fn new(wanted: usize, rows: usize, views: usize) -> Self {
        Self { strided: StridedViews::new(wanted.max(1), rows / views, views), views }
    }

    fn rows(self) -> usize {
        self.strided.count()
    }

    /// The row sampled at `index`, which is below [`Self::rows`].
    fn row(self, index: usize) -> usize {
        let (sample, view) = self.strided.get(index);
        sample * self.views + view
    }

    /// All rows of the samples from that of index `first` to that of index `last`.
    fn span(self, first: usize, last: usize) -> Range<usize> {
        self.strided.get(first).0 * self.views..(self.strided.get(last).0 + 1) * self.views
    }
}

/// First pass: sums of the moments over the sampled rows.
fn sums(features: &MappedColumn<f32>, sample: Sample, job: &Job) -> Result<MomentSums, BankError> {
    let width = features.width();
    let mut sums = MomentSums::new(width);
    let mut values = Vec::new();
    for start in (0..sample.rows()).step_by(CHUNK) {
        if job.interrupted() {
            return Err(BankError::Interrupted);
        }
        let count = CHUNK.min(sample.rows() - start);
        values.resize(count * width, 0.0);
        values.par_chunks_mut(BLOCK * width).enumerate().try_for_each(|(block, out)| {
            let first = start + block * BLOCK;
            let rows = first..first + out.len() / width;
            read(features, rows.map(|index| sample.row(index)), out)
        })?;
        sums.add(&values);
        features.release(sample.span(start, start + count - 1));
        job.advance(as_units(count));
    }
    Ok(sums)
}

/// Copies `rows` to `out`, `[n, F]`. Fails if a value is not finite.
fn read(
    features: &MappedColumn<f32>,
    rows: impl Iterator<Item = usize> + Clone,
    out: &mut [f32],
) -> Result<(), BankError> {
    features.copy_rows(rows.clone(), out);
    for (row, values) in rows.zip(out.chunks_exact(features.width())) {
        // Without an early exit the loop is vectorized.
        if !values.iter().fold(true, |finite, value| finite & value.is_finite()) {
            return Err(BankError::FeatureNotFinite { row });
        }
    }
    Ok(())
}

/// Second pass: projects and scales all rows, and writes the targets.
struct Pass<'a> {
    features: &'a MappedColumn<f32>,
    projection: &'a Projection,
    pts: PowerTemperature,
    /// Whether the projection was fitted to a sample of the rows, so that its explained variance over all rows must
    /// be measured.
    in_part: bool,
    writer: &'a KdepWriter,
    job: &'a Job,
}

/// One thread's buffers.
#[derive(Default)]
struct Buffers {
    features: Vec<f32>,
    /// The projected features, then their scaled values.
    projected: Vec<f32>,
    targets: Vec<f16>,
}

impl Pass<'_> {
    /// Writes all shards, each on one thread.
    fn run(&self) -> Result<ScaleSums, BankError> {
        let mut end = 0;
        let shards = self.features.shard_rows().iter().map(|rows| {
            let start = end;
            end += rows;
            start..end
        });
        let shards: Vec<Range<usize>> = shards.collect();
        let sums: Vec<ScaleSums> = shards
            .into_par_iter()
            .enumerate()
            .with_max_len(1)
            .map(|(shard, rows)| self.shard(shard, rows))
            .collect::<Result<_, _>>()?;
        let mut total = ScaleSums::new(self.projection.dim());
        // Merged in shard order, regardless of which thread finished first.
        sums.iter().for_each(|sums| total.merge(sums));
        Ok(total)
    }

    fn shard(&self, shard: usize, rows: Range<usize>) -> Result<ScaleSums, BankError> {
        let mut writer = self.writer.shard(shard)?;
        let mut scale = ScaleSums::new(self.projection.dim());
        let mut block = Buffers::default();
        for start in rows.clone().step_by(BLOCK) {
            if self.job.interrupted() {
                return Err(BankError::Interrupted);
            }
            let range = start..rows.end.min(start + BLOCK);
            self.targets(range.clone(), &mut block, &mut scale)?;
            scale.add(&block.projected);
            writer.push(&block.targets)?;
            self.features.release(range.clone());
            self.job.advance(as_units(range.len()));
        }
        writer.finish()?;
        Ok(scale)
    }

    /// Fills `block` with the targets of `rows`, and adds their explained variance to `sums`.
    fn targets(
        &self,
        rows: Range<usize>,
        block: &mut Buffers,
        sums: &mut ScaleSums,
    ) -> Result<(), BankError> {
        let (width, dim) = (self.projection.width(), self.projection.dim());
        block.features.resize(rows.len() * width, 0.0);
        block.projected.resize(rows.len() * dim, 0.0);
        block.targets.resize(rows.len() * dim, f16::ZERO);
        read(self.features, rows.clone(), &mut block.features)?;
        self.projection.apply(&block.features, &mut block.projected);
        if self.in_part {
            sums.kept +=
                block.projected.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
            sums.distances += self.projection.squared_distances(&block.features);
        }
        self.pts.apply(&mut block.projected);
        for (row, values) in rows.zip(block.projected.chunks_exact(dim)) {
            let largest = largest(values);
            if largest >= F16_END {
                return Err(BankError::TargetOverflow { row, value: largest });
            }
        }
        block.targets.convert_from_f32_slice(&block.projected);
        Ok(())
    }
}

/// The largest magnitude of `values`.
fn largest(values: &[f32]) -> f32 {
    // Magnitudes sort like their bits, and an integer maximum is vectorized.
    f32::from_bits(values.iter().map(|value| value.abs().to_bits()).fold(0, u32::max))
}

/// Sums for [`TargetScale`] and for the measured explained variance.
struct ScaleSums {
    /// Sum of squares per dimension.
    squares: Vec<f64>,
    largest: f32,
    /// Sum of squared lengths of the projected features, and of squared distances of the features from the mean.
    kept: f64,
    distances: f64,
}

impl ScaleSums {
    fn new(dim: usize) -> Self {
        Self { squares: vec![0.0; dim], largest: 0.0, kept: 0.0, distances: 0.0 }
    }

    /// Adds rows, `[n, d]`.
    fn add(&mut self, targets: &[f32]) {
        for row in targets.chunks_exact(self.squares.len()) {
            for (sum, &value) in self.squares.iter_mut().zip(row) {
                *sum += f64::from(value) * f64::from(value);
            }
        }
        self.largest = self.largest.max(largest(targets));
    }

    fn merge(&mut self, other: &Self) {
        self.squares.iter_mut().zip(&other.squares).for_each(|(sum, other)| *sum += other);
        self.largest = self.largest.max(other.largest);
        self.kept += other.kept;
        self.distances += other.distances;
    }

    /// Explained variance as a share, 0 to 1.
    fn explained(&self) -> f64 {
        (self.kept / self.distances).min(1.0)
    }

    fn finish(self, rows: usize) -> TargetScale {
        let count = rows as f64;
        let mean_squares = || self.squares.iter().map(|sum| sum / count);
        TargetScale {
            rms: (mean_squares().sum::<f64>() / self.squares.len() as f64).sqrt(),
            largest: f64::from(self.largest),
            strongest_dim_rms: mean_squares().fold(0.0, f64::max).sqrt(),
            weakest_dim_rms: mean_squares().fold(f64::INFINITY, f64::min).sqrt(),
        }
    }
}
