//! Finds the separate weight files that an ONNX model refers to.
//!
//! ```text
//! ModelProto ─► GraphProto ─► TensorProto ─► external_data: location = "file beside the model"
//!                  │  ▲  └─► SparseTensorProto ─► TensorProto
//!                  ▼  └───────────┐
//!               NodeProto ─► AttributeProto ─► TensorProto
//! ```
//!
//! A model is up to 2 GB, mostly weights, so only fields that may lead to a location are read; the others are
//! skipped.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// Maximum nesting of messages, the limit of Protocol Buffers itself.
const MAX_DEPTH: usize = 100;

/// Maximum length of a key or location, bytes.
const MAX_TEXT: usize = 1 << 16;

/// The messages of `onnx.proto` that may contain a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Function,
    Training,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
    Entry,
}

impl Message {
    /// Message type of a field that may contain a location; `None` for other fields.
    fn child(self, field: u64) -> Option<Self> {
        use Message::{Attribute, Entry, Function, Graph, Model, Node, SparseTensor, Tensor, Training};
        match (self, field) {
            (Model, 7) | (Training, 1 | 2) | (Attribute, 6 | 11) => Some(Graph),
            (Model, 20) => Some(Training),
            (Model, 25) => Some(Function),
            (Graph, 1) | (Function, 7) => Some(Node),
            (Node, 5) | (Function, 11) => Some(Attribute),
            (Graph, 15) | (Attribute, 22 | 23) => Some(SparseTensor),
            (Graph, 5) | (SparseTensor, 1 | 2) | (Attribute, 5 | 10) => Some(Tensor),
            (Tensor, 13) => Some(Entry),
            _ => None,
        }
    }
}

/// The locations that the tensors of the model at `path` refer to, relative to its folder. Returns none for a file
/// that is not a model: ONNX Runtime will report what is wrong with it.
pub(super) fn locations(path: &Path) -> io::Result<BTreeSet<String>> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    read(file, end)
}

fn read(model: impl Read + Seek, end: u64) -> io::Result<BTreeSet<String>> {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let mut walk = Walk { reader: BufReader::new(model), at: 0, found: Vec::new() };
    match walk.message(Message::Model, end, 0) {
        Err(error) if !matches!(error.kind(), InvalidData | UnexpectedEof) => Err(error),
        _ => Ok(walk.found.into_iter().collect()),
    }
}

struct Walk<R> {
    reader: BufReader<R>,
    /// Offset in the file.
    at: u64,
    found: Vec<String>,
}

impl<R: Read + Seek> Walk<R> {
    /// Reads a message that ends at offset `end`.
    fn message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(malformed());
        }
        let (before, mut external) = (self.found.len(), message != Message::Tensor);
        while self.at < end {
            let tag = self.varint()?;
            let field = tag >> 3;
            match tag & 7 {
                // The tensor's data_location is EXTERNAL; ONNX Runtime ignores the locations of other tensors.
                0 => external |= (self.varint()?, field) == (1, 14),
                1 => self.skip(8)?,
                5 => self.skip(4)?,
                2 => {
                    let length = self.varint()?;
                    let inner = self.at.checked_add(length).filter(|inner| *inner <= end);
                    let inner = inner.ok_or_else(malformed)?;
                    match message.child(field) {
                        Some(Message::Entry) => self.entry(inner)?,
                        Some(child) => self.message(child, inner, depth + 1)?,
                        None => self.skip(length)?,
                    }
                }
                _ => return Err(malformed()),
            }
        }
        if !external {
            self.found.truncate(before);
        }
        if self.at == end { Ok(()) } else { Err(malformed()) }
    }

    /// Reads an entry of external data: a key and its value.
    fn entry(&mut self, end: u64) -> io::Result<()> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.at < end {
            let tag = self.varint()?;
            let text = self.text()?;
            match tag {
                0x0a => key = text,
                0x12 => value = text,
                _ => return Err(malformed()),
            }
        }
        if key == "location" {
            self.found.push(value);
        }
        Ok(())
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.varint()?;
        let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_TEXT);
        let mut bytes = vec![0; fits.ok_or_else(malformed)?];
        self.reader.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| malformed())
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.at += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.reader.seek_relative(i64::try_from(bytes).map_err(|_| malformed())?)?;
        self.at = self.at.checked_add(bytes).ok_or_else(malformed)?;
        Ok(())
    }
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use super::*;

    fn varint(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).unwrap());
        bytes
    }

    /// A field that contains bytes: text or a message.
    fn field(number: usize, content: &[u8]) -> Vec<u8> {
        [varint((number << 3) | 2), varint(content.len()), content.to_vec()].concat()
    }

    fn number(field: usize, value: usize) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    /// A tensor whose values are in a separate file. `kept` sets its data_location to EXTERNAL.
    fn tensor(location: &str, kept: bool) -> Vec<u8> {
        let entry = |key: &str, value: &str| {
            field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
        };
        let dims = [number(1, 300), number(1, 2), number(2, 1)].concat();
        let entries = [entry("offset", "4096"), entry("location", location), entry("length", "12")].concat();
        [dims, field(8, b"weight"), entries, number(14, usize::from(kept))].concat()
    }

    /// A model with one initializer, stored at `location`.
    pub(in crate::teacher) fn model(location: &str) -> Vec<u8> {
        let graph = [field(2, b"graph"), field(5, &tensor(location, true))].concat();
        [number(1, 8), field(2, b"a test"), field(7, &graph)].concat()
    }

    fn found(model: &[u8]) -> Vec<String> {
        let end = u64::try_from(model.len()).unwrap();
        read(Cursor::new(model), end).unwrap().into_iter().collect()
    }

    #[test]
    fn locations_are_found_wherever_a_tensor_may_be() {
        let inline = [number(1, 2), field(9, &[0xff; 5000]), field(4, &[0; 8])].concat();
        let constant = field(5, &[field(1, b"value"), field(5, &tensor("constant", true))].concat());
        let list = field(5, &field(10, &tensor("list", true)));
        let sparse =
            field(22, &[field(1, &tensor("values", true)), field(2, &tensor("indices", true))].concat());
        let branch = field(6, &field(5, &tensor("branch/weights.bin", true)));
        let node = [field(4, b"If"), constant, list, field(5, &sparse), field(5, &branch)].concat();
        let graph = [
            field(1, &node),
            field(5, &inline),
            field(5, &tensor("weights", true)),
            field(5, &tensor("weights", true)),
            field(5, &tensor("not external", false)),
            field(15, &field(1, &tensor("sparse initializer", true))),
            // An input with the name of the key, which must be ignored.
            field(11, &field(1, b"location")),
        ]
        .concat();
        let function = field(25, &field(7, &field(5, &field(5, &tensor("function", true)))));
        let training = field(20, &field(2, &field(5, &tensor("training", true))));
        // A fixed64 and a fixed32 field, which no version of ONNX uses yet.
        let unknown = [varint((90 << 3) | 1), vec![7; 8], varint((91 << 3) | 5), vec![7; 4]].concat();
        let model = [number(1, 8), unknown, field(7, &graph), training, function].concat();
        let expected = [
            "branch/weights.bin",
            "constant",
            "function",
            "indices",
            "list",
            "sparse initializer",
            "training",
            "values",
            "weights",
        ];
        assert_eq!(found(&model), expected);
        let end = u64::try_from(model.len()).unwrap();
        for cut in 0..model.len() {
            // A truncated tensor may have lost the field that says that its values are inline.
            let known = |location: &String| expected.contains(&&**location) || location == "not external";
            let found = read(Cursor::new(&model[..cut]), end).unwrap();
            assert!(found.iter().all(known), "cut after {cut}: {found:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_model_names_nothing() {
        let mut nested = Vec::new();
        for level in 0..400 {
            // From the outside in: a node, its attribute, the graph in the attribute, and so on.
            nested = field([1, 6, 5][level % 3], &nested);
        }
        let long = field(7, &field(5, &tensor(&"x".repeat(1 << 17), true)));
        for bytes in [&b""[..], b"no model", &[0xff; 64], &field(7, &nested), &long] {
            assert_eq!(found(bytes), [""; 0]);
        }
    }
}
