//! Python values that a pickle describes.

use super::RawDtype;
use std::collections::BTreeMap;

/// Index of a value in [`Values`].
pub(super) type Id = usize;

/// A Python value. Values refer to each other by index, because a pickle may name a value several times, and may fill a
/// dictionary after it was named.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Int(i64),
    Text(String),
    /// A tuple, a list or a set.
    Sequence(Vec<Id>),
    /// A dictionary, or an object with its items and its attributes.
    Map {
        items: Vec<[Id; 2]>,
        state: Option<Id>,
    },
    /// A name in a Python module, such as a class or a function.
    Global(String),
    /// Elements in the file that tensors view: the type, the key, and the first element that is viewed.
    Storage {
        kind: String,
        key: String,
        offset: usize,
    },
    Tensor(TensorRef),
    /// Anything else. It is never made.
    Opaque,
}

/// A tensor described by a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorRef {
    pub dtype: RawDtype,
    pub storage: String,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

impl TensorRef {
    /// Number of bytes of the storage up to the end of the last element.
    pub fn end(&self) -> u64 {
        let last = |at: u64, (d, s): (&usize, &usize)| {
            at.saturating_add((d.saturating_sub(1) as u64).saturating_mul(*s as u64))
        };
        let last = self.shape.iter().zip(&self.stride).fold(self.offset as u64, last);
        last.saturating_add(1).saturating_mul(self.dtype.size() as u64)
    }
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Values {
    all: Vec<Value>,
    /// Keys and types of all storages that the pickle names, whether a tensor views them or not.
    pub storages: BTreeMap<String, RawDtype>,
}

impl Values {
    pub fn add(&mut self, value: Value) -> Id {
        self.all.push(value);
        self.all.len() - 1
    }

    pub fn get(&self, id: Id) -> &Value {
        &self.all[id]
    }

    pub fn get_mut(&mut self, id: Id) -> &mut Value {
        &mut self.all[id]
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Sequence(ids) => Some(ids),
            _ => None,
        }
    }

    pub fn size(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Value::Int(i) => usize::try_from(*i).ok(),
            _ => None,
        }
    }

    pub fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.sequence(id)?.iter().map(|id| self.size(*id)).collect()
    }

    /// The value of a dictionary's item.
    pub fn item(&self, map: Id, key: &str) -> Option<Id> {
        match self.get(map) {
            Value::Map { items, .. } => {
                items.iter().rev().find(|[k, _]| self.text(*k) == Some(key)).map(|[_, value]| *value)
            }
            _ => None,
        }
    }
}

/// The element type of a storage class such as `torch.FloatStorage`, or of a type such as `torch.float32`.
pub(super) fn dtype(name: &str) -> Option<RawDtype> {
    Some(match name.rsplit('.').next()? {
        "DoubleStorage" | "float64" => RawDtype::F64,
        "FloatStorage" | "float32" => RawDtype::F32,
        "HalfStorage" | "float16" => RawDtype::F16,
        "BFloat16Storage" | "bfloat16" => RawDtype::BF16,
        "LongStorage" | "int64" | "uint64" => RawDtype::Integer(8),
        "IntStorage" | "int32" | "uint32" => RawDtype::Integer(4),
        "ShortStorage" | "int16" | "uint16" => RawDtype::Integer(2),
        "CharStorage" | "ByteStorage" | "BoolStorage" | "UntypedStorage" | "int8" | "uint8" | "bool" => {
            RawDtype::Integer(1)
        }
        "ComplexDoubleStorage" | "complex128" => RawDtype::Other(16),
        "ComplexFloatStorage" | "complex64" => RawDtype::Other(8),
        "QInt32Storage" | "complex32" | "qint32" => RawDtype::Other(4),
        "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => RawDtype::Other(1),
        name if name.starts_with("float8") => RawDtype::Other(1),
        _ => return None,
    })
}
