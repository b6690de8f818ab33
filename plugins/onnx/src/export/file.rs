//! A file that is being written: its nodes and constants, with names that are used once.

use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataType;
use crate::proto::{AttributeProto, NodeProto, TensorProto};
use std::collections::{HashMap, HashSet};

/// Constants up to this size are kept once, however often they are used.
const SHARED_BYTES: usize = 4096;

/// Nodes and constants.
#[derive(Default)]
pub struct File {
    /// The nodes so far, each after those whose values it reads.
    pub nodes: Vec<NodeProto>,
    /// The constants so far.
    pub constants: Vec<TensorProto>,
    names: HashSet<String>,
    /// The last number that was given to a name that was wanted again.
    numbers: HashMap<String, usize>,
    /// Names of small constants, by type, shape and content.
    shared: HashMap<(i32, Vec<i64>, Vec<u8>), String>,
}

/// A constant without a name.
pub struct Constant {
    kind: DataType,
    shape: Vec<i64>,
    content: Vec<u8>,
}

/// Element types of constants.
pub trait Element: Copy {
    /// The type's number in the format.
    const KIND: DataType;

    /// Appends the little-endian bytes.
    fn append(self, content: &mut Vec<u8>);
}

macro_rules! elements {
    ($($kind:ident: $type:ty),+) => {
        $(impl Element for $type {
            const KIND: DataType = DataType::$kind;

            fn append(self, content: &mut Vec<u8>) {
                content.extend_from_slice(&self.to_le_bytes());
            }
        })+
    };
}

elements! { Float: f32, Uint8: u8, Int8: i8, Uint16: u16, Int32: i32, Int64: i64 }

impl Constant {
    /// Values in a shape.
    pub fn new<T: Element>(values: impl IntoIterator<Item = T>, shape: impl IntoIterator<Item = usize>) -> Self {
        let mut content = Vec::new();
        values.into_iter().for_each(|value| value.append(&mut content));
        Self { kind: T::KIND, shape: shape.into_iter().map(|side| side as i64).collect(), content }
    }

    /// A single number.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self::new([value], [])
    }
}

impl File {
    /// A name that no value has yet: `wanted`, or that with a number.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_string();
        while name.is_empty() || !self.names.insert(name.clone()) {
            let number = self.numbers.entry(wanted.into()).or_insert(1);
            *number += 1;
            name = format!("{wanted}.{number}");
        }
        name
    }

    /// Adds a constant, or finds one that is small and the same, and returns its name.
    pub fn constant(&mut self, wanted: &str, constant: Constant) -> String {
        let Constant { kind, shape, content } = constant;
        let small = content.len() <= SHARED_BYTES;
        let key = (kind as i32, shape, content);
        if let (true, Some(name)) = (small, self.shared.get(&key)) {
            return name.clone();
        }
        let name = self.fresh(wanted);
        let (data_type, dims, raw_data) = key.clone();
        if small {
            self.shared.insert(key, name.clone());
        }
        let raw_data = Some(raw_data);
        self.constants.push(TensorProto { name: name.clone(), dims, data_type, raw_data, ..Default::default() });
        name
    }

    /// Adds a node with one output that is called `output`, which must be [fresh](Self::fresh).
    pub fn add(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            op_type: operator.into(),
            name: output.into(),
            input: inputs.iter().map(|input| (*input).into()).collect(),
            output: vec![output.into()],
            attribute: attributes,
            ..Default::default()
        });
    }

    /// Adds a node with one output, which gets a name that begins with `wanted`, and returns that name.
    pub fn node(&mut self, operator: &str, inputs: &[&str], wanted: &str, attributes: Vec<AttributeProto>) -> String {
        let output = self.fresh(wanted);
        self.add(operator, inputs, &output, attributes);
        output
    }
}

/// An integer attribute.
pub fn int(name: &str, value: usize) -> AttributeProto {
    let (name, kind) = (name.into(), AttributeType::Int.into());
    AttributeProto { name, r#type: kind, i: Some(value as i64), ..Default::default() }
}

/// An attribute with several integers.
pub fn ints(name: &str, values: impl IntoIterator<Item = usize>) -> AttributeProto {
    let (name, kind) = (name.into(), AttributeType::Ints.into());
    AttributeProto { name, r#type: kind, ints: values.into_iter().map(|v| v as i64).collect(), ..Default::default() }
}

/// An attribute that is a number.
pub fn float(name: &str, value: f32) -> AttributeProto {
    let (name, kind) = (name.into(), AttributeType::Float.into());
    AttributeProto { name, r#type: kind, f: Some(value), ..Default::default() }
}

/// An attribute that is a text.
pub fn text(name: &str, value: &str) -> AttributeProto {
    let (name, kind) = (name.into(), AttributeType::String.into());
    AttributeProto { name, r#type: kind, s: Some(value.as_bytes().to_vec()), ..Default::default() }
}
