//! What the pages of a column chunk hold, from their headers, before one of them is decompressed.
//!
//! A few bytes may decompress to gigabytes, and a short run of references to one long value of a dictionary decodes to as
//! many copies of it. The footer says how large pages are in all, but nothing keeps it from being wrong.
//!
//! A header is a struct in Thrift's compact protocol (parquet-format, `PageHeader`):
//!
//! ```text
//! 1: type   2: uncompressed size   3: compressed size   5: data page   7: dictionary page   8: data page, version 2
//!                                                       └ 1: number of values in each of these
//! ```

use std::collections::VecDeque;
use std::io::{self, Read};

use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader;

use crate::parquet_file::SharedFile;

/// Maximum size of a decompressed page, in bytes.
const PAGE_BYTES: u64 = 1 << 30;

/// Maximum number of values of a column chunk.
const VALUES: u64 = 1 << 28;

/// Maximum nesting of structs and lists in a header; a few levels are used.
const DEPTH: usize = 16;

const DICTIONARY: u64 = 2;

/// The file asks for more than any file of images needs.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Excess(pub String);

impl From<Excess> for ParquetError {
    fn from(excess: Excess) -> Self {
        Self::External(Box::new(excess))
    }
}

/// The sizes of a column chunk's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkPages {
    /// Size of the dictionary, in bytes; 0 without one. No value that is taken from it is longer.
    pub dictionary: u64,
    /// Size of the largest page, in bytes.
    pub largest: u64,
}

/// Reads the headers of all pages of column `leaf` in row group `group`.
///
/// # Errors
/// [`Excess`] for pages that are too large or have too many values; [`ParquetError`] if a header cannot be read.
pub(super) fn of_chunk(
    file: &SharedFile,
    metadata: &ArrowReaderMetadata,
    group: usize,
    leaf: usize,
) -> Result<ChunkPages, ParquetError> {
    let column = metadata.metadata().row_group(group).column(leaf);
    let (start, length) = column.byte_range();
    let end = start.saturating_add(length);
    let offsets = metadata.metadata().page_index().and_then(|index| index.offset_index(group, leaf));
    // If there is an index, pages are read by it. The dictionary is in front of them.
    let indexed = offsets.map(|index| index.page_locations().iter().map(|page| page.offset));
    let mut indexed: Option<VecDeque<u64>> =
        indexed.map(|offsets| offsets.filter_map(|offset| u64::try_from(offset).ok()).collect());
    indexed = indexed.filter(|offsets| !offsets.is_empty());
    if let Some(offsets) = indexed.as_mut().filter(|offsets| offsets.front() == Some(&start)) {
        offsets.pop_front();
    }
    let (mut found, mut values) = (ChunkPages::default(), 0_u64);
    let mut next = (length > 0).then_some(start);
    while let Some(page) = next {
        let header = Header::read(file, page)?;
        if header.uncompressed > PAGE_BYTES {
            let (size, name) = (header.uncompressed, column.column_path());
            return Err(
                Excess(format!("a page of column {name} has {size} bytes, more than {PAGE_BYTES}")).into()
            );
        }
        found.largest = found.largest.max(header.uncompressed);
        if header.kind != DICTIONARY {
            values = values.saturating_add(header.values);
        } else if page == start {
            found.dictionary = header.uncompressed;
        } else {
            return Err(ParquetError::General("a dictionary follows other pages".to_owned()));
        }
        let behind = page.saturating_add(header.length).saturating_add(header.compressed);
        next = match &mut indexed {
            Some(offsets) => offsets.pop_front(),
            None => Some(behind).filter(|behind| *behind < end),
        };
    }
    match values > VALUES {
        true => Err(Excess(format!(
            "column {} has {values} values in a row group, more than {VALUES}",
            column.column_path()
        ))
        .into()),
        false => Ok(found),
    }
}

/// What is read of a page's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    kind: u64,
    uncompressed: u64,
    compressed: u64,
    values: u64,
    /// Its own length in bytes.
    length: u64,
}

impl Header {
    fn read(file: &SharedFile, at: u64) -> Result<Self, ParquetError> {
        let damaged = |error: io::Error| match error.raw_os_error() {
            Some(_) => ParquetError::External(Box::new(error)),
            None => ParquetError::General(format!("the header of the page at byte {at} is damaged: {error}")),
        };
        let mut input = Compact { bytes: file.get_read(at)?, read: 0 };
        let mut header = Self::default();
        input
            .fields(0, &mut |input, field, kind, depth| {
                match (field, kind) {
                    (1, INTEGER) => header.kind = input.size()?,
                    (2, INTEGER) => header.uncompressed = input.size()?,
                    (3, INTEGER) => header.compressed = input.size()?,
                    (5 | 7 | 8, STRUCT) => {
                        input.fields(depth, &mut |input, field, kind, depth| match (field, kind) {
                            (1, INTEGER) => {
                                header.values = input.size()?;
                                Ok(())
                            }
                            _ => input.skip(kind, depth),
                        })?
                    }
                    _ => input.skip(kind, depth)?,
                }
                Ok(())
            })
            .map_err(damaged)?;
        Ok(Self { length: input.read, ..header })
    }
}

const INTEGER: u8 = 5;
const STRUCT: u8 = 12;

/// Reads Thrift's compact protocol.
struct Compact<R> {
    bytes: R,
    /// Number of bytes read.
    read: u64,
}

/// Reads the field of a number and a type, at a depth of structs.
type Field<'a, R> = &'a mut dyn FnMut(&mut Compact<R>, i64, u8, usize) -> io::Result<()>;

impl<R: Read> Compact<R> {
    /// Reads the fields of a struct that is in `depth` others.
    fn fields(&mut self, depth: usize, field: Field<'_, R>) -> io::Result<()> {
        require_depth(depth)?;
        let mut number = 0_i64;
        loop {
            let byte = self.byte()?;
            let kind = byte & 0xf;
            if kind == 0 {
                return Ok(());
            }
            number = match byte >> 4 {
                0 => self.signed()?,
                delta => number.saturating_add(i64::from(delta)),
            };
            field(self, number, kind, depth + 1)?;
        }
    }

    /// Skips a value of a type.
    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        require_depth(depth)?;
        match kind {
            // Truth values of fields are in their types.
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.skip_bytes(8),
            8 => {
                let length = self.varint()?;
                self.skip_bytes(length)
            }
            9 | 10 => {
                let byte = self.byte()?;
                let length = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
                (0..length).try_for_each(|_| self.skip_element(byte & 0xf, depth + 1))
            }
            11 => {
                let length = self.varint()?;
                let kinds = if length > 0 { self.byte()? } else { 0 };
                (0..length).try_for_each(|_| {
                    self.skip_element(kinds >> 4, depth + 1)?;
                    self.skip_element(kinds & 0xf, depth + 1)
                })
            }
            STRUCT => self.fields(depth, &mut |input, _, kind, depth| input.skip(kind, depth)),
            _ => Err(wrong("unknown type")),
        }
    }

    /// Skips an element of a list or map, where truth values are bytes.
    fn skip_element(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        match kind {
            1 | 2 => self.byte().map(drop),
            _ => self.skip(kind, depth),
        }
    }

    /// A number that is not negative.
    fn size(&mut self) -> io::Result<u64> {
        u64::try_from(self.signed()?).map_err(|_| wrong("negative size"))
    }

    fn signed(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(wrong("endless number"))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.bytes.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    fn skip_bytes(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.bytes.by_ref().take(count), &mut io::sink())?;
        self.read = self.read.saturating_add(skipped);
        if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn require_depth(depth: usize) -> io::Result<()> {
    if depth > DEPTH { Err(wrong("nested too deep")) } else { Ok(()) }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_any_type_is_skipped() {
        // 1: true, 2: i32, 3: double, 4: binary, 5: list of two truth values, 6: map of bytes, 7: struct of an i64, 20: byte.
        let text = b"\x11\x15\x80\x01\x17abcdefgh\x18\x02xy\x19\x21\x01\x02\x1b\x01\x33ab\x1c\x16\x04\0\x03\x28z\0rest";
        let mut input = Compact { bytes: &text[..], read: 0 };
        input.skip(STRUCT, 0).unwrap();
        assert_eq!(input.bytes, b"rest");
        assert_eq!(usize::try_from(input.read).unwrap(), text.len() - 4);
        for text in [
            &b"\x15\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0"[..],
            b"\x18\x7fx",
            b"\x1e",
            &[0x1c; 40],
            b"\x19\xf1\xff\xff\xff\xff\x0f",
        ] {
            assert!(Compact { bytes: text, read: 0 }.skip(STRUCT, 0).is_err(), "{text:?}");
        }
    }
}
