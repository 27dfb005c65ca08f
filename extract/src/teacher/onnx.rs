//! Reads what an ONNX file declares, without ONNX Runtime: the graph's inputs and outputs, and the separate files that
//! hold its weights, and the operators that compute its outputs.
//!
//! ```text
//! ModelProto ─► GraphProto ─► ValueInfoProto: name, element type, shape of an input or output
//!                  ├────────► TensorProto ─► external_data: location = "file beside the model", offset, length
//!                  │  ▲  └─► SparseTensorProto ─► TensorProto
//!                  ▼  └───────────┐
//!               NodeProto ─► AttributeProto ─► TensorProto
//! ```
//!
//! A model is up to 2 GB, mostly weights, so only these fields are read; the others are skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use lgd_data::ordinary;

/// Maximum nesting of messages, the limit of Protocol Buffers itself.
const MAX_DEPTH: usize = 100;

/// Maximum length of a key, location or declared input, bytes.
const MAX_TEXT: usize = 1 << 16;

/// Operators whose result holds the values of their first input, in the same order.
const RESHAPING: &[&str] = &["Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"];

/// Depth of the main graph: the model is at 0.
const MAIN_GRAPH: usize = 1;

/// What a model declares.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnnxFile {
    /// Inputs of the main graph, without those that are initializers.
    pub inputs: Vec<Declared>,
    /// Files beside the model that hold weights, with the number of bytes that the model reads from each.
    pub weights: BTreeMap<String, u64>,
    /// The nodes of the main graph, by the name of each of their results.
    nodes: BTreeMap<String, Node>,
}

/// A node of the main graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    operator: String,
    /// Name of the first input; empty if there is none.
    input: String,
}

/// An input of a model as its file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    pub name: String,
    pub element: Element,
    /// Sizes of the axes, `None` for one that is not fixed; `None` if no shape is declared.
    pub shape: Option<Vec<Option<u64>>>,
}

/// Element types that decide what an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// f16, f32, f64 or bf16.
    Float,
    /// u8, which only pixels have.
    Byte,
    /// i32 or i64.
    Integer,
    /// Any other type.
    Other,
}

impl OnnxFile {
    /// Reads the file at `path`. A file that is not a model declares nothing: ONNX Runtime will report what is wrong
    /// with it.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = ordinary::open(path)?;
        let end = file.metadata()?.len();
        read(file, end)
    }

    /// Whether an input takes images: four axes of floats or bytes, or bytes or floats without a declared shape.
    pub(crate) fn takes_pixels(&self) -> bool {
        self.inputs.iter().any(|input| {
            matches!(input.element, Element::Float | Element::Byte)
                && input.shape.as_ref().is_none_or(|shape| shape.len() == 4)
        })
    }

    /// The operator that computes the values of the output `name`; `None` if the file does not say it.
    pub(crate) fn last_operator(&self, name: &str) -> Option<&str> {
        let mut node = self.nodes.get(name)?;
        for _ in 0..self.nodes.len() {
            if !RESHAPING.contains(&node.operator.as_str()) {
                break;
            }
            node = self.nodes.get(&node.input)?;
        }
        Some(&node.operator)
    }

    /// Whether an input takes token ids: one or two axes of integers.
    pub(crate) fn takes_tokens(&self) -> bool {
        self.inputs.iter().any(|input| {
            input.element == Element::Integer
                && input.shape.as_ref().is_none_or(|shape| (1..=2).contains(&shape.len()))
        })
    }
}

/// The messages of `onnx.proto` that may contain something of interest.
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

fn read(model: impl Read + Seek, end: u64) -> io::Result<OnnxFile> {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let mut walk = Walk {
        reader: BufReader::new(model),
        at: 0,
        external: Vec::new(),
        inputs: Vec::new(),
        initializers: BTreeSet::new(),
        nodes: BTreeMap::new(),
    };
    match walk.message(Message::Model, end, 0) {
        Err(error) if !matches!(error.kind(), InvalidData | UnexpectedEof) => return Err(error),
        _ => {}
    }
    let mut weights = BTreeMap::new();
    for External { location, offset, length } in walk.external {
        let bytes: &mut u64 = weights.entry(location).or_default();
        *bytes = (*bytes).max(offset.saturating_add(length));
    }
    let mut inputs = walk.inputs;
    inputs.retain(|input| !walk.initializers.contains(&input.name));
    Ok(OnnxFile { inputs, weights, nodes: walk.nodes })
}

/// Where a tensor's values are.
#[derive(Default)]
struct External {
    location: String,
    offset: u64,
    length: u64,
}

struct Walk<R> {
    reader: BufReader<R>,
    /// Offset in the file.
    at: u64,
    external: Vec<External>,
    inputs: Vec<Declared>,
    /// Names of the main graph's initializers. Old models list them among the inputs.
    initializers: BTreeSet<String>,
    /// Nodes of the main graph, by the names of their results.
    nodes: BTreeMap<String, Node>,
}

impl<R: Read + Seek> Walk<R> {
    /// Reads a message that ends at offset `end`.
    fn message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(malformed());
        }
        let (before, mut external) = (self.external.len(), message != Message::Tensor);
        let mut entries = External::default();
        let (mut node, mut results) = (Node::default(), Vec::new());
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
                    match (message, field, message.child(field)) {
                        (Message::Graph, 11, _) if depth == MAIN_GRAPH => {
                            let bytes = self.bytes(length)?;
                            self.inputs.extend(declared(&bytes));
                        }
                        (Message::Tensor, 8, _) if depth == MAIN_GRAPH + 1 => {
                            let name = self.text(length)?;
                            self.initializers.insert(name);
                        }
                        (Message::Node, 1, _) if depth == MAIN_GRAPH + 1 && node.input.is_empty() => {
                            node.input = self.text(length)?;
                        }
                        (Message::Node, 2, _) if depth == MAIN_GRAPH + 1 => results.push(self.text(length)?),
                        (Message::Node, 4, _) if depth == MAIN_GRAPH + 1 => {
                            node.operator = self.text(length)?
                        }
                        (_, _, Some(Message::Entry)) => self.entry(inner, &mut entries)?,
                        (_, _, Some(child)) => self.message(child, inner, depth + 1)?,
                        _ => self.skip(length)?,
                    }
                }
                _ => return Err(malformed()),
            }
        }
        self.nodes.extend(results.into_iter().map(|result| (result, node.clone())));
        if !entries.location.is_empty() {
            self.external.push(entries);
        }
        if !external {
            self.external.truncate(before);
        }
        if self.at == end { Ok(()) } else { Err(malformed()) }
    }

    /// Reads an entry of external data: a key and its value.
    fn entry(&mut self, end: u64, external: &mut External) -> io::Result<()> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.at < end {
            let tag = self.varint()?;
            let length = self.varint()?;
            let text = self.text(length)?;
            match tag {
                0x0a => key = text,
                0x12 => value = text,
                _ => return Err(malformed()),
            }
        }
        match key.as_str() {
            "location" => external.location = value,
            "offset" => external.offset = value.parse().unwrap_or(0),
            "length" => external.length = value.parse().unwrap_or(0),
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, length: u64) -> io::Result<String> {
        String::from_utf8(self.bytes(length)?).map_err(|_| malformed())
    }

    fn bytes(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_TEXT);
        let mut bytes = vec![0; fits.ok_or_else(malformed)?];
        self.reader.read_exact(&mut bytes)?;
        self.at += length;
        Ok(bytes)
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

/// Parses a `ValueInfoProto`: name = 1; type = 2, in which tensor_type = 1 has elem_type = 1 and shape = 2, whose
/// dim = 1 has dim_value = 1. `None` for an input that is not a tensor.
fn declared(bytes: &[u8]) -> Option<Declared> {
    let fields = Fields::parse(bytes)?;
    let name = String::from_utf8(fields.bytes(1)?.to_vec()).ok()?;
    let tensor = Fields::parse(Fields::parse(fields.bytes(2)?)?.bytes(1)?)?;
    let element = match tensor.number(1) {
        Some(1 | 10 | 11 | 16) => Element::Float,
        Some(2) => Element::Byte,
        Some(6 | 7) => Element::Integer,
        _ => Element::Other,
    };
    let axes = |shape: Fields<'_>| -> Option<Vec<Option<u64>>> {
        shape.all(1).map(|axis| Some(Fields::parse(axis)?.number(1).filter(|size| *size > 0))).collect()
    };
    let shape = tensor.bytes(2).and_then(Fields::parse).and_then(axes);
    Some(Declared { name, element, shape })
}

/// The fields of a small message, in order.
struct Fields<'a>(Vec<(u64, Field<'a>)>);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        fn varint(bytes: &mut &[u8]) -> Option<u64> {
            let mut value = 0;
            for shift in (0..64).step_by(7) {
                let (&byte, rest) = bytes.split_first()?;
                *bytes = rest;
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    return Some(value);
                }
            }
            None
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let field = match tag & 7 {
                0 => Field::Number(varint(&mut bytes)?),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?).ok()?;
                    let (inner, rest) = bytes.split_at_checked(length)?;
                    bytes = rest;
                    Field::Bytes(inner)
                }
                _ => return None,
            };
            fields.push((tag >> 3, field));
        }
        Some(Self(fields))
    }

    fn number(&self, field: u64) -> Option<u64> {
        self.0.iter().find_map(|(number, value)| match value {
            Field::Number(value) if *number == field => Some(*value),
            _ => None,
        })
    }

    fn bytes(&self, field: u64) -> Option<&'a [u8]> {
        self.all(field).next()
    }

    fn all(&self, field: u64) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |(number, value)| match value {
            Field::Bytes(value) if *number == field => Some(*value),
            _ => None,
        })
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
        read(Cursor::new(model), end).unwrap().weights.into_keys().collect()
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
            let found = read(Cursor::new(&model[..cut]), end).unwrap().weights;
            assert!(found.keys().all(known), "cut after {cut}: {found:?}");
        }
    }

    /// An input with the given element type; axis 0 means one that is not fixed.
    fn input(name: &str, element: usize, shape: Option<&[usize]>) -> Vec<u8> {
        let axis = |size: &usize| field(1, &if *size == 0 { field(2, b"batch") } else { number(1, *size) });
        let shape = shape.map(|axes| field(2, &axes.iter().flat_map(axis).collect::<Vec<_>>()));
        let tensor = [number(1, element), shape.unwrap_or_default()].concat();
        field(11, &[field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat())
    }

    /// What a model of [`model_that_takes`] takes.
    #[derive(Clone, Copy, Debug)]
    pub(in crate::teacher) enum Takes {
        Pixels,
        Bytes,
        Tokens,
        Both,
        Nothing,
    }

    /// A model that only declares inputs: a batch of images of 32 x 32, or token ids.
    pub(in crate::teacher) fn model_that_takes(takes: Takes) -> Vec<u8> {
        let pixels = |element| input("pixel_values", element, Some(&[0, 3, 32, 32]));
        let ids = || input("input_ids", 7, Some(&[0, 0]));
        let inputs = match takes {
            Takes::Pixels => pixels(1),
            Takes::Bytes => pixels(2),
            Takes::Tokens => ids(),
            Takes::Both => [ids(), pixels(1)].concat(),
            Takes::Nothing => Vec::new(),
        };
        [number(1, 8), field(7, &[field(2, b"graph"), inputs].concat())].concat()
    }

    #[test]
    fn the_operator_behind_an_output_is_found_through_those_that_only_reshape() {
        let node = |operator: &str, inputs: &[&str], output: &str| {
            let inputs: Vec<u8> = inputs.iter().flat_map(|name| field(1, name.as_bytes())).collect();
            let parts =
                [inputs, field(2, output.as_bytes()), field(3, b"name"), field(4, operator.as_bytes())];
            field(1, &parts.concat())
        };
        let nodes = [
            node("Gemm", &["pooled", "weight", "bias"], "logits"),
            node("Softmax", &["logits"], "shares"),
            node("Reshape", &["shares", "shape"], "rows"),
            node("Cast", &["rows"], "probabilities"),
            node("Identity", &["loop"], "loop"),
            node("Identity", &["pixels"], "pixels_again"),
        ];
        // A branch of an If has names of its own.
        let branch = field(6, &node("Softmax", &["x"], "logits"));
        let nested = field(1, &[field(4, b"If"), field(5, &branch)].concat());
        let graph = [nodes.concat(), nested].concat();
        let model = [number(1, 8), field(7, &graph)].concat();
        let end = u64::try_from(model.len()).unwrap();
        let file = read(Cursor::new(model), end).unwrap();
        for (output, operator) in [
            ("probabilities", Some("Softmax")),
            ("shares", Some("Softmax")),
            ("logits", Some("Gemm")),
            ("pixels_again", None),
            ("absent", None),
        ] {
            assert_eq!(file.last_operator(output), operator, "{output}");
        }
        assert_eq!(file.last_operator("loop"), Some("Identity"));
    }

    /// What a model with these inputs and one initializer, "weight", declares.
    fn declares(inputs: &[Vec<u8>]) -> OnnxFile {
        let graph = [field(2, b"graph"), field(5, &tensor("data", true)), inputs.concat()].concat();
        let model = [number(1, 3), field(7, &graph)].concat();
        let end = u64::try_from(model.len()).unwrap();
        read(Cursor::new(model), end).unwrap()
    }

    #[test]
    fn inputs_say_which_encoder_a_model_is() {
        let (pixels, ids) = (input("pixel_values", 1, Some(&[0, 3, 32, 32])), input("ids", 7, Some(&[0, 0])));
        let read = declares(&[pixels.clone(), input("weight", 1, Some(&[300, 2, 1, 1]))]);
        let shape = Some(vec![None, Some(3), Some(32), Some(32)]);
        let declared = Declared { name: "pixel_values".to_owned(), element: Element::Float, shape };
        assert_eq!(read.inputs, [declared], "an initializer among the inputs is none");
        assert_eq!(read.weights, BTreeMap::from([("data".to_owned(), 4096 + 12)]));
        for (inputs, takes_pixels, takes_tokens) in [
            (vec![pixels.clone()], true, false),
            (vec![ids.clone()], false, true),
            (vec![ids.clone(), input("mask", 1, Some(&[0, 0]))], false, true),
            (vec![pixels, ids], true, true),
            (vec![input("bytes", 2, Some(&[0, 32, 32, 3]))], true, false),
            (vec![input("shapeless", 1, None)], true, false),
            (vec![input("halves", 16, Some(&[1, 3, 8, 8]))], true, false),
            (vec![input("flag", 9, Some(&[0, 0]))], false, false),
            (vec![], false, false),
        ] {
            let read = declares(&inputs);
            assert_eq!((read.takes_pixels(), read.takes_tokens()), (takes_pixels, takes_tokens), "{read:?}");
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
