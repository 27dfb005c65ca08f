//! The image side of a bank: two passes over the cached embeddings.
//!
//! ```text
//! pass 1   t . TSB^T   ->  pseudo-category, text distribution (to a temporary file), sums by category
//!          sums / counts = VSB
//! pass 2   t . VSB^T   ->  visual distribution; both distributions to the bank's writer
//! ```
//!
//! Rows are processed in chunks, and each chunk is split into blocks for the threads. Peak memory does not depend on
//! the number of rows. The stored values depend neither on the number of threads nor on the chunk size: each logit is
//! one fixed chain of fused multiply-adds, and the sums are exact ([`VsbPartial`]).

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Instant;

use lgd_data::ArtifactError;
use lgd_data::bank::{CapturedMass, Center, Distribution, Storage, UnassignedSlots};
use lgd_data::job::Job;
use rayon::prelude::*;
use serde::Serialize;

use crate::distributions::{DistributionBlock, DistributionBuffer, MassTally, Scratch, Softmax, storage};
use crate::error::BankError;
use crate::kernel::{Isa, PackedBank};
use crate::options::{Temperature, TopK};
use crate::rows::EmbeddingRows;
use crate::spill::{SpillReader, SpillWriter};
use crate::tsb::{Tsb, as_units};
use crate::vsb::VsbPartial;

/// Rows of one block: enough to amortize streaming the packed bank, few enough that the block and its logits stay in
/// the second-level cache.
const BLOCK: usize = 128;

/// Blocks of a chunk per thread, and their minimum: enough that a thread that finishes early finds another block.
const BLOCKS_PER_THREAD: usize = 8;
const LEAST_BLOCKS: usize = 16;

/// Accepted norms of a cached embedding, which is a unit vector rounded to f16.
pub(crate) const NORMS: RangeInclusive<f32> = 0.99..=1.01;

/// How distributions are computed and stored.
#[derive(Clone, Copy, Debug)]
pub struct TargetOptions {
    /// tau_t of both distributions.
    pub temperature: Temperature,
    /// Entries stored per row if there are more than 256 categories.
    pub top_k: TopK,
    /// Treatment of the visual slots of categories without a view.
    pub unassigned: UnassignedSlots,
}

impl Default for TargetOptions {
    /// The paper's temperature, 64 entries, unassigned slots masked.
    fn default() -> Self {
        Self {
            temperature: Temperature::TEACHER,
            top_k: TopK::default(),
            unassigned: UnassignedSlots::Masked,
        }
    }
}

/// Receives the finished targets in row order.
pub trait TargetSink {
    /// Appends rows: pseudo-categories `[n]`, text `[n, C]` and visual `[n, C + 1]` distributions in their stored
    /// form.
    ///
    /// # Errors
    /// [`ArtifactError`] if they cannot be written.
    fn push(
        &mut self,
        pseudo_category: &[i32],
        text: Distribution<'_>,
        visual: Distribution<'_>,
    ) -> Result<(), ArtifactError>;
}

/// Results of the two passes.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets {
    /// The visual semantics bank, `[C, D]`; zero rows for categories without a view.
    pub vsb: Vec<f32>,
    /// Views per pseudo-category, `[C]`.
    pub counts: Vec<u64>,
    /// Storage of the distributions.
    pub storage: Storage,
    /// Mass captured by the stored text distributions, before rounding to f16.
    pub text_mass: CapturedMass,
    /// The same for the visual distributions.
    pub visual_mass: CapturedMass,
    /// Wall time per pass.
    pub seconds: PassSeconds,
}

/// Wall times of the image side, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PassSeconds {
    /// First pass: pseudo-categories, text distributions, VSB.
    pub text: f64,
    /// Second pass: visual distributions.
    pub visual: f64,
    /// Writing the targets to the sink; overlaps with the second pass.
    pub write: f64,
}

/// Computes the VSB and the distributions of every row, and passes the rows to `sink`. A `center` for images is subtracted
/// from every row first. `scratch` is a folder for a temporary file.
///
/// # Errors
/// [`BankError`] if the widths differ, there are no rows, a row is not a unit vector, I/O fails, or the job is
/// interrupted.
pub fn build_targets(
    embeddings: &dyn EmbeddingRows,
    tsb: &Tsb,
    center: Option<&Center>,
    options: &TargetOptions,
    scratch: &Path,
    sink: &mut (dyn TargetSink + Send),
    job: &Job,
) -> Result<Targets, BankError> {
    let (categories, dim) = (tsb.categories(), tsb.dim());
    if embeddings.dim() != dim {
        return Err(BankError::Width { text: dim, image: embeddings.dim() });
    }
    if embeddings.rows() == 0 {
        return Err(BankError::NoRows);
    }
    job.begin(2 * as_units(embeddings.rows()));
    let isa = Isa::detect();
    let storage = storage(categories, options.top_k);
    let softmax = |slots, masked| Softmax { slots, storage, temperature: options.temperature, masked, isa };

    let text = Pass {
        embeddings,
        center,
        bank: PackedBank::new(tsb.values(), dim, isa),
        softmax: softmax(categories, Vec::new()),
        positive: false,
        job,
    };
    let started = Instant::now();
    let (partial, spill, text_mass) = text.aggregate(SpillWriter::create(scratch)?)?;
    let mut seconds = PassSeconds { text: started.elapsed().as_secs_f64(), ..PassSeconds::default() };

    let vsb = partial.vsb();
    let masked = match options.unassigned {
        UnassignedSlots::Kept => Vec::new(),
        UnassignedSlots::Masked => {
            let slots = (1..).zip(partial.counts());
            slots.filter(|&(_, &count)| count == 0).map(|(slot, _)| slot).collect()
        }
    };
    // Slot 0 has no prototype: its row is zero, and its logit is set afterwards.
    let mut prototypes = vec![0.0; dim];
    prototypes.extend_from_slice(&vsb);
    let visual = Pass {
        bank: PackedBank::new(&prototypes, dim, isa),
        softmax: softmax(categories + 1, masked),
        positive: true,
        ..text
    };
    drop(prototypes);
    let started = Instant::now();
    let visual_mass = visual.deliver(spill, &text.softmax, sink, &mut seconds)?;
    seconds.visual = started.elapsed().as_secs_f64();
    let counts = partial.counts().to_vec();
    Ok(Targets { vsb, counts, storage, text_mass, visual_mass, seconds })
}

/// One pass over the embeddings: multiplies rows by a bank and computes the distribution of each row's logits.
struct Pass<'a> {
    embeddings: &'a dyn EmbeddingRows,
    center: Option<&'a Center>,
    bank: PackedBank,
    softmax: Softmax,
    /// Whether slot 0 is the positive, with logit t . t = 1.
    positive: bool,
    job: &'a Job,
}

/// One block's share of a chunk.
struct Block<'a> {
    first_row: usize,
    rows: &'a mut [f32],
    winners: &'a mut [i32],
    distributions: DistributionBlock<'a>,
}

/// Buffers that one thread reuses from block to block.
struct Workspace {
    logits: Vec<f32>,
    scratch: Scratch,
}

/// One chunk's buffers.
struct Chunk {
    rows: Vec<f32>,
    winners: Vec<i32>,
    distributions: DistributionBuffer,
}

impl Chunk {
    fn new(softmax: &Softmax) -> Self {
        Self { rows: Vec::new(), winners: Vec::new(), distributions: DistributionBuffer::new(softmax, 1) }
    }
}

impl Pass<'_> {
    /// First pass: sums by category; writes pseudo-categories and text distributions to the temporary file.
    fn aggregate(
        &self,
        mut spill: SpillWriter,
    ) -> Result<(VsbPartial, SpillReader, CapturedMass), BankError> {
        let mut partial = VsbPartial::new(self.softmax.slots, self.embeddings.dim());
        let mut mass = MassTally::EMPTY;
        self.stream(&mut mass, |chunk| {
            partial.add(&chunk.rows, &chunk.winners);
            Ok(spill.push(&chunk.winners, &chunk.distributions)?)
        })?;
        Ok((partial, spill.into_reader()?, mass.finish()))
    }

    /// Second pass: visual distributions, passed to the sink together with the first pass's results.
    fn deliver(
        &self,
        mut spill: SpillReader,
        text_softmax: &Softmax,
        sink: &mut (dyn TargetSink + Send),
        seconds: &mut PassSeconds,
    ) -> Result<CapturedMass, BankError> {
        let mut mass = MassTally::EMPTY;
        let mut pseudo_category = Vec::new();
        let mut text = DistributionBuffer::new(text_softmax, 1);
        self.stream(&mut mass, |chunk| {
            let started = Instant::now();
            pseudo_category.resize(chunk.winners.len(), 0);
            text.resize(chunk.winners.len());
            spill.pull(&mut pseudo_category, &mut text)?;
            sink.push(&pseudo_category, text.stored(), chunk.distributions.stored())?;
            seconds.write += started.elapsed().as_secs_f64();
            Ok(())
        })?;
        Ok(mass.finish())
    }

    /// Computes one chunk after another and passes each to `consume`, in order. One thread consumes a chunk while the
    /// others compute the next.
    fn stream(
        &self,
        mass: &mut MassTally,
        mut consume: impl FnMut(&Chunk) -> Result<(), BankError> + Send,
    ) -> Result<(), BankError> {
        let (mut filling, mut full) = (Chunk::new(&self.softmax), Chunk::new(&self.softmax));
        let mut waiting = false;
        for range in self.chunks() {
            let hand_over = || if waiting { consume(&full) } else { Ok(()) };
            let (consumed, computed) = rayon::join(hand_over, || self.run(range.clone(), &mut filling, mass));
            consumed?;
            computed?;
            self.embeddings.release(range);
            std::mem::swap(&mut filling, &mut full);
            waiting = true;
        }
        if waiting { consume(&full) } else { Ok(()) }
    }

    /// The rows, split into chunks of whole blocks (the last may be shorter).
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.embeddings.rows();
        let size = BLOCK * LEAST_BLOCKS.max(BLOCKS_PER_THREAD * rayon::current_num_threads());
        (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
    }

    /// Fills `chunk` with the embeddings, distributions and winning slots of `range`.
    fn run(&self, range: Range<usize>, chunk: &mut Chunk, mass: &mut MassTally) -> Result<(), BankError> {
        if self.job.interrupted() {
            return Err(BankError::Interrupted);
        }
        let (rows, dim) = (range.len(), self.embeddings.dim());
        chunk.rows.resize(rows * dim, 0.0);
        chunk.winners.resize(rows, 0);
        chunk.distributions.resize(rows);
        let outputs = chunk.winners.chunks_mut(BLOCK).zip(chunk.distributions.blocks(BLOCK));
        let starts = range.step_by(BLOCK);
        let blocks: Vec<_> = starts
            .zip(chunk.rows.chunks_mut(BLOCK * dim))
            .zip(outputs)
            .map(|((first_row, rows), (winners, distributions))| Block {
                first_row,
                rows,
                winners,
                distributions,
            })
            .collect();
        let workspace =
            || Workspace { logits: vec![0.0; BLOCK * self.bank.stride()], scratch: Scratch::default() };
        let tallies: Vec<MassTally> = blocks
            .into_par_iter()
            .map_init(workspace, |workspace, block| self.block(block, workspace))
            .collect::<Result<_, BankError>>()?;
        // Merged in row order, regardless of which thread finished first, because floating-point sums depend on the
        // order.
        tallies.into_iter().for_each(|tally| mass.merge(tally));
        self.job.advance(as_units(rows));
        Ok(())
    }

    fn block(&self, mut block: Block<'_>, workspace: &mut Workspace) -> Result<MassTally, BankError> {
        let (count, dim, stride) = (block.winners.len(), self.embeddings.dim(), self.bank.stride());
        self.embeddings.copy_rows_f32(block.first_row..block.first_row + count, block.rows)?;
        for (row, values) in (block.first_row..).zip(block.rows.chunks_exact(dim)) {
            let norm = self.softmax.isa.squared_norm(values).sqrt();
            // NaN is in no range.
            if !NORMS.contains(&norm) {
                return Err(BankError::RowNorm { row, norm });
            }
        }
        if let Some(center) = self.center {
            let equal = |row| {
                let what = format!("row {} of the embeddings", block.first_row + row);
                BankError::EqualsMean { what }
            };
            center.images(block.rows).map_err(equal)?;
        }
        let logits = &mut workspace.logits[..count * stride];
        self.bank.logits(block.rows, logits);
        let mut tally = MassTally::EMPTY;
        for (row, logits) in logits.chunks_exact_mut(stride).enumerate() {
            if self.positive {
                logits[0] = 1.0;
            }
            let (index, probability) = block.distributions.row(row);
            let summary = self.softmax.row(logits, &mut workspace.scratch, index, probability);
            block.winners[row] = summary.first;
            tally.add(summary.mass);
        }
        Ok(tally)
    }
}
