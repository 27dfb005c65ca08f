//! A reader of pickles that runs nothing: a machine for the opcodes that `torch.save` writes, whose objects are plain
//! values, tensors and names.
//!
//! Python's `pickle` imports and calls what a file names. Here a call of `torch._utils._rebuild_tensor_v2`,
//! `torch._utils._rebuild_parameter` or `collections.OrderedDict` makes a value, and a call of anything else makes an
//! [`Object::Opaque`] that has only the name of what was to be called. Opcodes: Python's `pickletools`.

use std::collections::HashMap;

use super::WeightsFault;

/// Position of an object in its [`Pickle`].
pub(super) type Id = usize;

/// Most objects in one pickle, so that a small file cannot fill the memory.
const MOST_OBJECTS: usize = 1 << 24;

/// A value of a pickle.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Int(i64),
    Text(String),
    /// Tuples, lists and sets.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// Something with a name, which is not looked up.
    Global(String),
    Storage(Storage),
    Tensor(TensorView),
    /// The result of calling the thing of this name, which was not done.
    Opaque(String),
    /// None, booleans, floats, byte strings and numbers of more than 64 bits.
    Other,
}

/// A storage of numbers, elsewhere in the file.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub key: String,
    /// Such as `FloatStorage`.
    pub kind: String,
    /// Number of values.
    pub len: usize,
}

/// A tensor as a view of a storage. Offset and strides count values.
#[derive(Clone, Debug)]
pub(super) struct TensorView {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The objects of a pickle.
pub(super) struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

impl Pickle {
    /// Reads the pickle at the start of `bytes`, which then starts behind it.
    pub(super) fn read(bytes: &mut &[u8]) -> Result<Self, WeightsFault> {
        let mut machine = Machine { rest: bytes, ..Machine::default() };
        let root = machine.run()?;
        *bytes = machine.rest;
        Ok(Self { objects: machine.objects, root })
    }

    pub(super) fn root(&self) -> &Object {
        self.get(self.root)
    }

    pub(super) fn get(&self, id: Id) -> &Object {
        self.objects.get(id).unwrap_or(&Object::Other)
    }

    /// The storages that the pickle names.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    /// The entries of a dictionary that have texts as keys.
    pub(super) fn entries<'a>(&'a self, object: &'a Object) -> impl Iterator<Item = (&'a str, &'a Object)> {
        let entries = match object {
            Object::Dict(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().filter_map(|(key, value)| match self.get(*key) {
            Object::Text(key) => Some((key.as_str(), self.get(*value))),
            _ => None,
        })
    }
}

fn damaged(what: impl Into<String>) -> WeightsFault {
    WeightsFault::Damaged(what.into())
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, WeightsFault> {
        loop {
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
            if self.objects.len() > MOST_OBJECTS {
                return Err(damaged(format!("the pickle has more than {MOST_OBJECTS} objects")));
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), WeightsFault> {
        match opcode {
            // PROTO, FRAME
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            // POP, POP_MARK, DUP
            b'0' => self.pop().map(drop),
            b'1' => self.marked().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            // PUT and GET
            b'q' => self.number(1).and_then(|key| self.put(key)),
            b'r' => self.number(4).and_then(|key| self.put(key)),
            0x94 => self.put(self.memo.len()),
            b'h' => self.number(1).and_then(|key| self.recall(key)),
            b'j' => self.number(4).and_then(|key| self.recall(key)),
            // None, booleans and a float
            b'N' | 0x88 | 0x89 => self.push(Object::Other),
            b'G' => self.take(8).map(drop).and_then(|()| self.push(Object::Other)),
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(opcode),
            b'X' | b'U' | b'T' | 0x8c | 0x8d | b'B' | b'C' | 0x8e => self.text(opcode),
            b')' | b']' | 0x8f => self.push(Object::Sequence(Vec::new())),
            b'}' => self.push(Object::Dict(Vec::new())),
            // TUPLE, LIST, FROZENSET, and tuples of one to three
            b't' | b'l' | 0x91 => self.marked().and_then(|items| self.push(Object::Sequence(items))),
            0x85..=0x87 => {
                let items = self.last(usize::from(opcode) - 0x84)?;
                self.push(Object::Sequence(items))
            }
            // APPEND, APPENDS, ADDITEMS
            b'a' => self.last(1).and_then(|items| self.extend(items)),
            b'e' | 0x90 => self.marked().and_then(|items| self.extend(items)),
            // DICT, SETITEM, SETITEMS
            b'd' => {
                let items = self.marked()?;
                self.push(Object::Dict(Vec::new()))?;
                self.insert(&items)
            }
            b's' => self.last(2).and_then(|items| self.insert(&items)),
            b'u' => self.marked().and_then(|items| self.insert(&items)),
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'Q' => self.storage(),
            // REDUCE, NEWOBJ, NEWOBJ_EX, BUILD
            b'R' | 0x81 => self.call(),
            0x92 => self.pop().and_then(|_| self.call()),
            b'b' => self.pop().map(drop),
            other => Err(damaged(format!("unsupported pickle opcode 0x{other:02x}"))),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WeightsFault> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| damaged("the pickle is truncated"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned number of up to 8 bytes.
    fn number(&mut self, width: usize) -> Result<usize, WeightsFault> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(bytes))
            .map_err(|_| damaged("a length exceeds this machine's memory"))
    }

    fn integer(&mut self, opcode: u8) -> Result<(), WeightsFault> {
        let width = match opcode {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            0x8a => self.number(1)?,
            _ => self.number(4)?,
        };
        let digits = self.take(width)?;
        if width > 8 {
            return self.push(Object::Other);
        }
        let signed =
            matches!(opcode, b'J' | 0x8a | 0x8b) && digits.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut bytes = [if signed { 0xff } else { 0 }; 8];
        bytes[..width].copy_from_slice(digits);
        self.push(Object::Int(i64::from_le_bytes(bytes)))
    }

    fn text(&mut self, opcode: u8) -> Result<(), WeightsFault> {
        let len = match opcode {
            b'U' | 0x8c | b'C' => self.number(1)?,
            0x8d | 0x8e => self.number(8)?,
            _ => self.number(4)?,
        };
        let bytes = self.take(len)?;
        let is_text = !matches!(opcode, b'B' | b'C' | 0x8e);
        match String::from_utf8(bytes.to_vec()) {
            Ok(text) if is_text => self.push(Object::Text(text)),
            _ => self.push(Object::Other),
        }
    }

    fn push(&mut self, object: Object) -> Result<(), WeightsFault> {
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    fn top(&self) -> Result<Id, WeightsFault> {
        self.stack.last().copied().ok_or_else(|| damaged("the pickle pops an empty stack"))
    }

    fn pop(&mut self) -> Result<Id, WeightsFault> {
        self.stack.pop().ok_or_else(|| damaged("the pickle pops an empty stack"))
    }

    /// The last `count` objects.
    fn last(&mut self, count: usize) -> Result<Vec<Id>, WeightsFault> {
        let from =
            self.stack.len().checked_sub(count).ok_or_else(|| damaged("the pickle pops an empty stack"))?;
        Ok(self.stack.split_off(from))
    }

    /// The objects since the last mark.
    fn marked(&mut self) -> Result<Vec<Id>, WeightsFault> {
        let from = self.marks.pop().filter(|from| *from <= self.stack.len());
        Ok(self.stack.split_off(from.ok_or_else(|| damaged("the pickle lacks a mark"))?))
    }

    fn put(&mut self, key: usize) -> Result<(), WeightsFault> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: usize) -> Result<(), WeightsFault> {
        let id = self
            .memo
            .get(&key)
            .ok_or_else(|| damaged("the pickle reads a memo entry that it did not write"))?;
        self.stack.push(*id);
        Ok(())
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), WeightsFault> {
        let top = self.top()?;
        if let Some(Object::Sequence(list)) = self.objects.get_mut(top) {
            list.extend(items);
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Result<(), WeightsFault> {
        let top = self.top()?;
        if let Some(Object::Dict(entries)) = self.objects.get_mut(top) {
            entries.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String, WeightsFault> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| damaged("the pickle is truncated"))?;
        let line = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn global(&mut self) -> Result<(), WeightsFault> {
        let name = format!("{}.{}", self.line()?, self.line()?);
        self.push(Object::Global(name))
    }

    fn stack_global(&mut self) -> Result<(), WeightsFault> {
        let parts = self.last(2)?;
        match (&self.objects[parts[0]], &self.objects[parts[1]]) {
            (Object::Text(module), Object::Text(name)) => {
                let name = format!("{module}.{name}");
                self.push(Object::Global(name))
            }
            _ => Err(damaged("the pickle names a class by a value that is not text")),
        }
    }

    /// `('storage', torch.FloatStorage, key, location, count)`.
    fn storage(&mut self) -> Result<(), WeightsFault> {
        let id = self.pop()?;
        let parts = self.sequence(id).unwrap_or_default();
        let part = |at: usize| parts.get(at).and_then(|id| self.objects.get(*id));
        match (part(1), part(2), part(4)) {
            (Some(Object::Global(kind)), Some(Object::Text(key)), Some(Object::Int(count))) => {
                let kind = kind.rsplit('.').next().unwrap_or_default().to_owned();
                let len = usize::try_from(*count).map_err(|_| damaged("a storage has a negative length"))?;
                let storage = Storage { key: key.clone(), kind, len };
                self.push(Object::Storage(storage))
            }
            _ => self.push(Object::Other),
        }
    }

    fn call(&mut self) -> Result<(), WeightsFault> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let name = match self.objects.get(callable) {
            Some(Object::Global(name)) => name.clone(),
            _ => String::from("an object"),
        };
        let made = match name.as_str() {
            "collections.OrderedDict" | "builtins.dict" => Object::Dict(Vec::new()),
            "torch._utils._rebuild_tensor_v2" => self.tensor(arguments)?,
            "torch._utils._rebuild_parameter" => {
                let first = self.sequence(arguments).and_then(|items| items.first().copied());
                first.and_then(|id| self.objects.get(id)).cloned().unwrap_or(Object::Other)
            }
            _ => Object::Opaque(name),
        };
        self.push(made)
    }

    fn sequence(&self, id: Id) -> Option<Vec<Id>> {
        match self.objects.get(id)? {
            Object::Sequence(items) => Some(items.clone()),
            _ => None,
        }
    }

    /// `(storage, offset, shape, strides, requires_grad, hooks)`.
    fn tensor(&self, arguments: Id) -> Result<Object, WeightsFault> {
        let count = |id: Id| match self.objects.get(id) {
            Some(Object::Int(count)) => usize::try_from(*count).ok(),
            _ => None,
        };
        let counts = |id: Id| self.sequence(id)?.into_iter().map(count).collect::<Option<Vec<_>>>();
        let view = || {
            let arguments = self.sequence(arguments)?;
            let [storage, offset, shape, strides, ..] = arguments[..] else { return None };
            let Some(Object::Storage(storage)) = self.objects.get(storage) else { return None };
            let (offset, shape, strides) = (count(offset)?, counts(shape)?, counts(strides)?);
            Some(TensorView { storage: storage.clone(), offset, shape, strides })
        };
        view().map(Object::Tensor).ok_or_else(|| damaged("a tensor lacks its storage, shape or strides"))
    }
}
