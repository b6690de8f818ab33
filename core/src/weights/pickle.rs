//! A restricted reader of Python pickles. It interprets the opcodes that PyTorch writes, and
//! never calls anything. It recognizes the functions that rebuild a tensor; the result of any other call becomes an
//! opaque value.

use std::collections::HashMap;

/// A Python value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// An attribute of a Python module, such as a storage class.
    Global(String),
    /// PyTorch's reference to a storage: (type, key).
    Storage(String, String),
    /// A view of a storage.
    Tensor(TensorRef),
    /// The result of a call that the reader does not make.
    Opaque,
}

/// A tensor described by a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorRef {
    pub storage_type: String,
    pub storage: String,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(s) => Some(s),
            _ => None,
        }
    }

    fn size(&self) -> Option<usize> {
        match self {
            Self::Int(i) => usize::try_from(*i).ok(),
            _ => None,
        }
    }

    fn sizes(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple(items) | Self::List(items) => items.iter().map(Self::size).collect(),
            _ => None,
        }
    }
}

/// Reads one pickle from the start of `bytes`; returns its value and its length.
pub(super) fn read(bytes: &[u8]) -> Result<(Value, usize), String> {
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    loop {
        if machine.step()? {
            let value = machine.pop()?;
            return Ok((value, machine.at));
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl Machine<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("the pickle ends too early; the file is truncated")?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn unsigned(&mut self, n: usize) -> Result<u64, String> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|b| *b == b'\n').ok_or("the pickle ends too early; the file is truncated")?;
        let line = String::from_utf8_lossy(&rest[..n]).into_owned();
        self.at += n + 1;
        Ok(line)
    }

    fn text(&mut self, n: usize) -> Result<Value, String> {
        Ok(Value::Text(String::from_utf8_lossy(self.take(n)?).into_owned()))
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "the pickle is damaged: its stack is empty".into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().filter(|m| *m <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("the pickle is damaged: a mark is missing")?))
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        let mut items = items.into_iter();
        match self.stack.last_mut() {
            Some(Value::Dict(pairs)) => {
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Ok(())
            }
            Some(Value::Opaque) => Ok(()),
            _ => Err("the pickle is damaged: items for something that is no dictionary".into()),
        }
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.stack.last_mut() {
            Some(Value::List(list)) => list.extend(items),
            Some(Value::Opaque) => {}
            _ => return Err("the pickle is damaged: elements for something that is no list".into()),
        }
        Ok(())
    }

    fn memoize(&mut self, index: u32) -> Result<(), String> {
        let top = self.stack.last().ok_or("the pickle is damaged: its stack is empty")?.clone();
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), String> {
        let value = self.memo.get(&index).ok_or("the pickle is damaged: an unknown reference")?.clone();
        self.stack.push(value);
        Ok(())
    }

    /// Executes one opcode; true at the end of the pickle.
    fn step(&mut self) -> Result<bool, String> {
        let value = match self.take(1)?[0] {
            b'.' => return Ok(true),
            0x80 => {
                self.take(1)?;
                return Ok(false);
            }
            0x95 => {
                self.take(8)?;
                return Ok(false);
            }
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(false);
            }
            b'0' => {
                self.pop()?;
                return Ok(false);
            }
            b'1' => {
                self.pop_mark()?;
                return Ok(false);
            }
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(self.unsigned(4)? as u32 as i32)),
            b'K' => Value::Int(self.unsigned(1)? as i64),
            b'M' => Value::Int(self.unsigned(2)? as i64),
            0x8a => {
                let n = self.unsigned(1)? as usize;
                let bytes = self.take(n)?;
                let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let fill = if negative { -1 } else { 0 };
                // Longer integers occur only as the legacy magic number, which is recognized elsewhere.
                Value::Int(bytes.iter().take(8).rev().fold(fill, |v: i64, b| v << 8 | i64::from(*b)))
            }
            b'G' => Value::Float(f64::from_bits(self.unsigned(8)?.swap_bytes())),
            b'X' => {
                let n = self.unsigned(4)? as usize;
                self.text(n)?
            }
            0x8c | b'U' | b'C' => {
                let n = self.unsigned(1)? as usize;
                self.text(n)?
            }
            b'T' | b'B' => {
                let n = self.unsigned(4)? as usize;
                self.text(n)?
            }
            b']' => Value::List(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            b')' => Value::Tuple(Vec::new()),
            b'l' => Value::List(self.pop_mark()?),
            b't' => Value::Tuple(self.pop_mark()?),
            b'd' => {
                let mut items = self.pop_mark()?.into_iter();
                let mut pairs = Vec::new();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Value::Dict(pairs)
            }
            op @ 0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let at = self.stack.len().checked_sub(n).ok_or("the pickle is damaged: its stack is empty")?;
                Value::Tuple(self.stack.split_off(at))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
                return Ok(false);
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
                return Ok(false);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
                return Ok(false);
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
                return Ok(false);
            }
            b'q' | b'r' | 0x94 => {
                let op = self.bytes[self.at - 1];
                let index = match op {
                    b'q' => self.unsigned(1)? as u32,
                    b'r' => self.unsigned(4)? as u32,
                    _ => self.memo.len() as u32,
                };
                self.memoize(index)?;
                return Ok(false);
            }
            b'h' => {
                let index = self.unsigned(1)? as u32;
                self.recall(index)?;
                return Ok(false);
            }
            b'j' => {
                let index = self.unsigned(4)? as u32;
                self.recall(index)?;
                return Ok(false);
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Value::Global(format!("{module}.{name}"))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                Value::Global(format!("{}.{}", module.text().unwrap_or("?"), name.text().unwrap_or("?")))
            }
            b'Q' => storage(self.pop()?)?,
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                call(&callable, arguments)?
            }
            b'b' => {
                // An object's state is ignored: dictionaries already have their items, and nothing else is needed.
                self.pop()?;
                return Ok(false);
            }
            op => return Err(format!("the pickle uses opcode 0x{op:02x}, which no PyTorch checkpoint needs")),
        };
        self.stack.push(value);
        Ok(false)
    }
}

fn storage(id: Value) -> Result<Value, String> {
    if let Value::Tuple(items) = &id {
        if let [Value::Text(tag), Value::Global(kind), Value::Text(key), ..] = items.as_slice() {
            if tag == "storage" {
                return Ok(Value::Storage(kind.clone(), key.clone()));
            }
        }
    }
    Err("the pickle refers to something that is no tensor storage".into())
}

/// The result of a call, for the functions that build tensors and dictionaries.
fn call(callable: &Value, arguments: Value) -> Result<Value, String> {
    let (Value::Global(name), Value::Tuple(arguments)) = (callable, arguments) else { return Ok(Value::Opaque) };
    match name.as_str() {
        "collections.OrderedDict" => Ok(Value::Dict(match arguments.into_iter().next() {
            Some(Value::List(items)) => items
                .into_iter()
                .filter_map(|item| match item {
                    Value::Tuple(pair) | Value::List(pair) => <[Value; 2]>::try_from(pair).ok().map(|[k, v]| (k, v)),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        })),
        "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
            let tensor = (|| {
                let Value::Storage(storage_type, storage) = arguments.first()? else { return None };
                Some(TensorRef {
                    storage_type: storage_type.clone(),
                    storage: storage.clone(),
                    offset: arguments.get(1)?.size()?,
                    shape: arguments.get(2)?.sizes()?,
                    stride: arguments.get(3)?.sizes()?,
                })
            })();
            tensor.map(Value::Tensor).ok_or_else(|| "the pickle describes a tensor in an unknown way".into())
        }
        "torch._utils._rebuild_parameter" => {
            arguments.into_iter().next().ok_or_else(|| "the pickle describes an empty parameter".into())
        }
        "torch.Size" => Ok(arguments.into_iter().next().unwrap_or(Value::Tuple(Vec::new()))),
        _ => Ok(Value::Opaque),
    }
}
