//! Device memory: buffers that own it, views of parts of it, and element types.
//!
//! One stream runs all work on a buffer (see the crate's documentation) and frees it. A buffer may therefore be dropped
//! while kernels that read it are still queued.
#![expect(
    unsafe_code,
    reason = "allocates uninitialized device memory and copies bytes of plain numbers to and from it"
)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr, result};
use half::{bf16, f16};

use crate::error::{CudaError, Result, expect_eq};

/// Type of the values in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32: its range, 8 bits of precision.
    Bf16,
    /// Byte: pixels, masks, positions within a pooling window.
    U8,
    /// Index.
    U32,
}

impl Element {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// The name of the element type in the kernels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::U32 => "u32",
        }
    }
}

/// A host type with the same bytes as an [`Element`].
pub trait Plain: DeviceRepr + Copy + Default {
    /// The element type.
    const ELEMENT: Element;
}

impl Plain for f32 {
    const ELEMENT: Element = Element::F32;
}
impl Plain for f16 {
    const ELEMENT: Element = Element::F16;
}
impl Plain for bf16 {
    const ELEMENT: Element = Element::Bf16;
}
impl Plain for u8 {
    const ELEMENT: Element = Element::U8;
}
impl Plain for u32 {
    const ELEMENT: Element = Element::U32;
}

/// Device memory with values of one element type. It may hold more bytes than its values need.
#[derive(Debug)]
pub struct Buffer {
    bytes: CudaSlice<u8>,
    element: Element,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` values with arbitrary content.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn new(stream: &Arc<CudaStream>, element: Element, len: usize) -> Result<Self> {
        let bytes = (len * element.size()).max(1);
        // SAFETY: any bytes are valid values of every element type, and no operation reads a buffer before it is
        // written, unless its caller passes one that was never written.
        let memory = unsafe { stream.alloc::<u8>(bytes) };
        let bytes = memory.map_err(|error| CudaError::of_allocation(error, bytes))?;
        Ok(Self { bytes, element, len })
    }

    /// A buffer of zeros.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn zeros(stream: &Arc<CudaStream>, element: Element, len: usize) -> Result<Self> {
        let mut buffer = Self::new(stream, element, len)?;
        stream.memset_zeros(&mut buffer.bytes)?;
        Ok(buffer)
    }

    /// Copies host values to a new buffer.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn from_host<T: Plain>(stream: &Arc<CudaStream>, values: &[T]) -> Result<Self> {
        let buffer = Self::new(stream, T::ELEMENT, values.len())?;
        buffer.as_slice().check_host::<T>(values.len())?;
        stream.context().bind_to_thread()?;
        // SAFETY: the buffer holds `values.len()` values of `T`; a copy from pageable memory is staged before the call
        // returns.
        unsafe { result::memcpy_htod_async(buffer.address(), values, stream.cu_stream()) }?;
        Ok(buffer)
    }

    /// Type of the values.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer has no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Reuses the memory for `len` values of `element`, with arbitrary content.
    ///
    /// # Errors
    /// More bytes than the buffer holds.
    pub fn recast(self, element: Element, len: usize) -> Result<Self> {
        if len * element.size() > self.bytes.len() {
            expect_eq("bytes of a recast buffer", self.bytes.len(), len * element.size())?;
        }
        Ok(Self { bytes: self.bytes, element, len })
    }

    /// The whole buffer, to read.
    pub fn as_slice(&self) -> Slice<'_> {
        Slice { address: self.address(), element: self.element, len: self.len, of: PhantomData }
    }

    /// The whole buffer, to write.
    pub fn as_mut(&mut self) -> SliceMut<'_> {
        SliceMut { address: self.address(), element: self.element, len: self.len, of: PhantomData }
    }

    fn address(&self) -> u64 {
        self.bytes.device_ptr(self.bytes.stream()).0
    }
}

/// A view of values to read.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    address: u64,
    element: Element,
    len: usize,
    of: PhantomData<&'a Buffer>,
}

impl<'a> Slice<'a> {
    /// The values of a slice that cudarc or Candle owns, on the same stream.
    pub fn of<T: Plain>(slice: &'a CudaSlice<T>) -> Self {
        let address = slice.device_ptr(slice.stream()).0;
        Self { address, element: T::ELEMENT, len: slice.len(), of: PhantomData }
    }

    /// The first `len` values of `element` in the same memory.
    ///
    /// # Errors
    /// More bytes than the view has.
    pub(crate) fn cast(self, element: Element, len: usize) -> Result<Self> {
        let (needed, bytes) = (len * element.size(), self.len * self.element.size());
        if needed > bytes {
            expect_eq("bytes of a view", needed, bytes)?;
        }
        Ok(Self { element, len, ..self })
    }

    /// Type of the values.
    pub fn element(self) -> Element {
        self.element
    }

    /// Number of values.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether the view is empty.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// A part of the view.
    ///
    /// # Errors
    /// A range that is not inside the view.
    pub fn slice(self, range: Range<usize>) -> Result<Self> {
        let (address, len) = part(self.address, self.element, self.len, range)?;
        Ok(Self { address, len, ..self })
    }

    /// Copies the values to the host; waits for all work issued before.
    ///
    /// # Errors
    /// Another element, or an error of the device.
    pub fn to_host<T: Plain>(self, stream: &Arc<CudaStream>) -> Result<Vec<T>> {
        self.check_host::<T>(self.len)?;
        let mut values = vec![T::default(); self.len];
        stream.context().bind_to_thread()?;
        // SAFETY: the view holds `len` values of `T`, and the host's vector outlives the copy, because the call waits
        // for it.
        unsafe { result::memcpy_dtoh_async(&mut values, self.address, stream.cu_stream()) }?;
        stream.synchronize()?;
        Ok(values)
    }

    pub(crate) fn address(self) -> u64 {
        self.address
    }

    fn check_host<T: Plain>(self, len: usize) -> Result<()> {
        crate::error::expect_element("values of the host", self.element, T::ELEMENT)?;
        expect_eq("values of the host", self.len, len)
    }
}

/// A view of values to write.
#[derive(Debug)]
pub struct SliceMut<'a> {
    address: u64,
    element: Element,
    len: usize,
    of: PhantomData<&'a mut Buffer>,
}

impl<'a> SliceMut<'a> {
    /// The values of a slice that cudarc or Candle owns, on the same stream.
    pub fn of<T: Plain>(slice: &'a mut CudaSlice<T>) -> Self {
        let Slice { address, element, len, .. } = Slice::of(slice);
        Self { address, element, len, of: PhantomData }
    }

    /// Type of the values.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same values, to read.
    pub fn as_slice(&self) -> Slice<'_> {
        Slice { address: self.address, element: self.element, len: self.len, of: PhantomData }
    }

    /// A part of the view.
    ///
    /// # Errors
    /// A range that is not inside the view.
    pub fn slice(self, range: Range<usize>) -> Result<Self> {
        let (address, len) = part(self.address, self.element, self.len, range)?;
        Ok(Self { address, len, ..self })
    }

    /// Two parts of the view that do not overlap, the first before the second.
    ///
    /// # Errors
    /// A range that is not inside the view, or a first range that does not end before the second starts.
    pub fn two(self, first: Range<usize>, second: Range<usize>) -> Result<(Self, Self)> {
        if first.end > second.start {
            expect_eq("start of the second part", first.end, second.start)?;
        }
        let (address, len) = part(self.address, self.element, self.len, first)?;
        let first = Self { address, len, element: self.element, of: PhantomData };
        Ok((first, self.slice(second)?))
    }

    /// Copies host values to the view.
    ///
    /// # Errors
    /// Another element or length, or an error of the device.
    pub fn copy_from_host<T: Plain>(&mut self, stream: &Arc<CudaStream>, values: &[T]) -> Result<()> {
        self.as_slice().check_host::<T>(values.len())?;
        stream.context().bind_to_thread()?;
        // SAFETY: the view holds `values.len()` values of `T`; a copy from pageable memory is staged before the call
        // returns.
        unsafe { result::memcpy_htod_async(self.address, values, stream.cu_stream()) }?;
        Ok(())
    }

    /// Copies other values on the device to the view.
    ///
    /// # Errors
    /// Another element or length, or an error of the device.
    pub fn copy_from(&mut self, stream: &Arc<CudaStream>, from: Slice<'_>) -> Result<()> {
        crate::error::expect_element("values to copy", self.element, from.element)?;
        expect_eq("values to copy", self.len, from.len)?;
        stream.context().bind_to_thread()?;
        // SAFETY: both views hold `len` values of this element type and cannot overlap, because one of them is unique.
        unsafe {
            result::memcpy_dtod_async(
                self.address,
                from.address,
                self.len * self.element.size(),
                stream.cu_stream(),
            )
        }?;
        Ok(())
    }

    /// Sets all bytes to zero.
    ///
    /// # Errors
    /// An error of the device.
    pub fn set_zero(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        stream.context().bind_to_thread()?;
        // SAFETY: the view holds that many bytes, and zero bytes are valid values of every element type.
        unsafe {
            result::memset_d8_async(self.address, 0, self.len * self.element.size(), stream.cu_stream())
        }?;
        Ok(())
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

/// Address and length of a part of a view.
fn part(address: u64, element: Element, len: usize, range: Range<usize>) -> Result<(u64, usize)> {
    if range.start > range.end || range.end > len {
        expect_eq("end of a part of a buffer", len, range.end)?;
    }
    // The offset is inside an allocation of the device.
    Ok((
        address + u64::try_from(range.start * element.size()).unwrap_or(u64::MAX),
        range.end.saturating_sub(range.start),
    ))
}
