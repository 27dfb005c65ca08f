//! Item types of mapped columns, on disk and in memory.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float16Type, Int32Type};
use arrow_buffer::ToByteSlice;
use arrow_schema::DataType;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use parquet::basic::Type as PhysicalType;

/// How a Parquet value stores a row of a mapped column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// A required list of required items of this physical type.
    List(PhysicalType),
    /// One required value of fixed size. It suits rows of a hundred thousand items, because a list stores two levels
    /// per item.
    Bytes,
}

/// An item type of a mapped column.
pub trait Item: Copy + Default {
    /// Bytes per item on disk.
    const BYTES: usize;
    /// How a row is stored in Parquet.
    const ROW: RowKind;
    /// Describes the type that a column of `width` items per row has when the ordinary Arrow reader decodes it.
    fn expected(width: usize) -> String;
    /// The bytes of a column that the ordinary Arrow reader has decoded; `None` if the column does not have the type
    /// [`Item::expected`].
    fn values(column: &dyn Array, width: usize) -> Option<&[u8]>;
    /// Converts the little-endian bytes of a row into `out`, which has one item per [`Item::BYTES`] bytes.
    fn decode(bytes: &[u8], out: &mut [Self]);
}

/// Half-precision items, converted to `f32`.
impl Item for f32 {
    const BYTES: usize = 2;
    const ROW: RowKind = RowKind::List(PhysicalType::FIXED_LEN_BYTE_ARRAY);

    fn expected(width: usize) -> String {
        format!("a list of {width} x {} without nulls", DataType::Float16)
    }

    fn values(column: &dyn Array, width: usize) -> Option<&[u8]> {
        list_values::<Float16Type>(column, width)
    }

    fn decode(bytes: &[u8], out: &mut [Self]) {
        // An aligned scratch buffer, small enough for the L1 cache, allows the vectorized conversion.
        let mut scratch = [0u16; 512];
        for (bytes, out) in bytes.chunks(1024).zip(out.chunks_mut(512)) {
            let bits = &mut scratch[..out.len()];
            for (bit, byte) in bits.iter_mut().zip(bytes.chunks_exact(2)) {
                *bit = u16::from_le_bytes([byte[0], byte[1]]);
            }
            bits.reinterpret_cast::<half::f16>().convert_to_f32_slice(out);
        }
    }
}

/// 32-bit integer items.
impl Item for i32 {
    const BYTES: usize = 4;
    const ROW: RowKind = RowKind::List(PhysicalType::INT32);

    fn expected(width: usize) -> String {
        format!("a list of {width} x {} without nulls", DataType::Int32)
    }

    fn values(column: &dyn Array, width: usize) -> Option<&[u8]> {
        list_values::<Int32Type>(column, width)
    }

    fn decode(bytes: &[u8], out: &mut [Self]) {
        for (value, byte) in out.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = i32::from_le_bytes([byte[0], byte[1], byte[2], byte[3]]);
        }
    }
}

/// Plain bytes, one fixed-size value per row.
impl Item for u8 {
    const BYTES: usize = 1;
    const ROW: RowKind = RowKind::Bytes;

    fn expected(width: usize) -> String {
        format!("{width} bytes per row without nulls")
    }

    fn values(column: &dyn Array, width: usize) -> Option<&[u8]> {
        let array = column.as_fixed_size_binary_opt()?;
        let fits = array.value_size() == width && column.null_count() == 0;
        fits.then(|| array.value_data())
    }

    fn decode(bytes: &[u8], out: &mut [Self]) {
        out.copy_from_slice(bytes);
    }
}

/// The items of a list column without nulls, `width` per row.
fn list_values<T: ArrowPrimitiveType>(column: &dyn Array, width: usize) -> Option<&[u8]> {
    let fits = matches!(column.data_type(), DataType::FixedSizeList(item, got)
        if *item.data_type() == T::DATA_TYPE && usize::try_from(*got) == Ok(width));
    if !fits || column.null_count() > 0 {
        return None;
    }
    let list = column.as_fixed_size_list();
    let items = list.values().as_primitive::<T>();
    let first = list.value_offset_at(0);
    Some(items.values()[first..first + list.len() * width].to_byte_slice())
}
