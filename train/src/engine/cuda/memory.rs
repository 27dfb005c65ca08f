//! Buffers of the tape on a GPU. A buffer gets memory when an operation writes it; some gradients are never written.

use std::sync::Arc;

use lgd_cuda::{Buffer, CudaError, Element, Gpu, Slice, elementwise};

/// A value or a gradient.
///
/// It gets memory when an operation writes it, because the operation determines the element type: means over images,
/// dense layers and embeddings are f32 in a bf16 network.
pub struct CudaBuffer {
    pub(super) len: usize,
    pub(super) content: Content,
}

/// Content of a buffer.
pub(super) enum Content {
    /// Arbitrary values.
    Nothing,
    /// Values in memory, which saved tensors may share.
    Memory(Arc<Buffer>),
    /// The gradient of a max-pool's input, not written. The normalization that alone reads it gathers it from the
    /// gradient of the output.
    Pooled {
        /// Node of the pool.
        node: usize,
        /// Gradient of its output.
        dy: Arc<Buffer>,
    },
    /// The gradient of a global average's input, not written either: the gradient of the average.
    Averaged(Arc<Buffer>),
}

impl CudaBuffer {
    /// Arbitrary values.
    pub(super) fn new(len: usize) -> Self {
        Self { len, content: Content::Nothing }
    }

    /// The values in memory.
    pub(super) fn memory(&self) -> Result<&Arc<Buffer>, CudaError> {
        match &self.content {
            Content::Memory(memory) => Ok(memory),
            _ => Err(unwritten()),
        }
    }

    /// The values, to read.
    pub(super) fn values(&self) -> Result<Slice<'_>, CudaError> {
        Ok(self.memory()?.as_slice())
    }

    /// Memory to write, of `element`. If the element type changes, the content is arbitrary.
    pub(super) fn room(
        &mut self,
        gpu: &Gpu,
        pool: &mut Pool,
        element: Element,
    ) -> Result<&mut Buffer, CudaError> {
        let fits = match &mut self.content {
            Content::Memory(memory) => memory.element() == element && Arc::get_mut(memory).is_some(),
            _ => false,
        };
        if !fits {
            pool.give(std::mem::replace(&mut self.content, Content::Nothing));
            self.content = Content::Memory(Arc::new(pool.take(gpu, element, self.len)?));
        }
        self.unique(gpu, pool)
    }

    /// Memory to modify, copied first if saved tensors share it.
    pub(super) fn unique(&mut self, gpu: &Gpu, pool: &mut Pool) -> Result<&mut Buffer, CudaError> {
        let Content::Memory(memory) = &mut self.content else { return Err(unwritten()) };
        if Arc::get_mut(memory).is_none() {
            let mut copy = pool.take(gpu, memory.element(), self.len)?;
            copy.as_mut().copy_from(gpu.stream(), memory.as_slice())?;
            *memory = Arc::new(copy);
        }
        Arc::get_mut(memory).ok_or_else(unwritten)
    }

    /// Converts the values to `element`, unless they have it.
    pub(super) fn convert(
        &mut self,
        gpu: &mut Gpu,
        pool: &mut Pool,
        element: Element,
    ) -> Result<(), CudaError> {
        if let Some(converted) = pool.converted(gpu, self.values()?, element)? {
            pool.give(std::mem::replace(&mut self.content, Content::Memory(Arc::new(converted))));
        }
        Ok(())
    }
}

fn unwritten() -> CudaError {
    CudaError::Unsupported { what: "a value that was not written".to_owned() }
}

/// A pool of free memory.
#[derive(Default)]
pub(super) struct Pool {
    free: Vec<Buffer>,
    /// Bytes of all memory, free or in use.
    pub(super) bytes: usize,
}

impl Pool {
    /// The smallest free buffer that fits and is at most twice as large, else a new one. The content is arbitrary.
    pub(super) fn take(&mut self, gpu: &Gpu, element: Element, len: usize) -> Result<Buffer, CudaError> {
        let need = (len * element.size()).max(1);
        let fits = |(at, buffer): (usize, &Buffer)| {
            (buffer.bytes() >= need && buffer.bytes() / 2 <= need).then_some((buffer.bytes(), at))
        };
        if !gpu.reuses_memory() {
            self.free.clear();
        }
        match self.free.iter().enumerate().filter_map(fits).min() {
            Some((_, at)) => self.free.swap_remove(at).recast(element, len),
            None => {
                self.bytes += need;
                gpu.alloc(element, len)
            }
        }
    }

    /// Returns memory to the pool, unless it has another owner.
    pub(super) fn give(&mut self, content: Content) {
        match content {
            Content::Nothing => {}
            Content::Memory(memory) | Content::Pooled { dy: memory, .. } | Content::Averaged(memory) => {
                self.release(memory);
            }
        }
    }

    /// Drops one owner; returns the memory to the pool if it was the last.
    pub(super) fn release(&mut self, memory: Arc<Buffer>) {
        if let Ok(memory) = Arc::try_unwrap(memory) {
            self.free.push(memory);
        }
    }

    /// A copy of `values` as `element`; none if they have it already.
    pub(super) fn converted(
        &mut self,
        gpu: &mut Gpu,
        values: Slice<'_>,
        element: Element,
    ) -> Result<Option<Buffer>, CudaError> {
        let from = values.element();
        if from == element {
            return Ok(None);
        }
        let mut to = self.take(gpu, element, values.len())?;
        match (from, element) {
            (_, Element::F32) => elementwise::widen(gpu, values, &mut to.as_mut(), false)?,
            (Element::F32, _) => elementwise::narrow(gpu, values, &mut to.as_mut())?,
            _ => return Err(CudaError::Unsupported { what: format!("{from:?} to {element:?}") }),
        }
        Ok(Some(to))
    }

    /// Returns a temporary buffer to the pool, if there is one.
    pub(super) fn recycle(&mut self, temporary: Option<Buffer>) {
        self.free.extend(temporary);
    }
}
