//! A reader of Python pickles, protocols 0 to 5, which never runs anything.
//!
//! It interprets the opcodes (Python's `pickletools` lists them) as instructions for a stack of [values](super::value).
//! Calls have a value only where [`calls`](super::calls) knows it.

use super::calls;
use super::value::{Id, Value, Values};
use std::collections::HashMap;

/// A pickle that was read.
pub(super) struct Pickle {
    pub values: Values,
    pub root: Id,
    /// Number of bytes.
    pub len: usize,
}

/// Reads one pickle from the start of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle, String> {
    let values = Values::default();
    let mut machine = Machine { bytes, at: 0, values, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok(Pickle { values: machine.values, root, len: machine.at })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Values,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

const TRUNCATED: &str = "the pickle ends too early; the file is truncated";
const EMPTY: &str = "the pickle is damaged: its stack is empty";

impl<'a> Machine<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n)).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(TRUNCATED)?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    /// A little-endian number of `n` bytes.
    fn unsigned(&mut self, n: u64) -> Result<u64, String> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|b| *b == b'\n').ok_or(TRUNCATED)?;
        self.at += n + 1;
        Ok(String::from_utf8_lossy(&rest[..n]).trim_end_matches('\r').to_string())
    }

    /// Text or bytes with their length in `n` bytes.
    fn text(&mut self, n: u64) -> Result<Value, String> {
        let len = self.unsigned(n)?;
        Ok(Value::Text(String::from_utf8_lossy(self.take(len)?).into_owned()))
    }

    /// An integer with its length in `n` bytes. One that is too large for 64 bits is opaque.
    fn long(&mut self, n: u64) -> Result<Value, String> {
        let len = self.unsigned(n)?;
        let bytes = self.take(len)?;
        if bytes.len() > 8 {
            return Ok(Value::Opaque);
        }
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { -1 } else { 0 };
        Ok(Value::Int(bytes.iter().rev().fold(fill, |v: i64, b| v << 8 | i64::from(*b))))
    }

    fn pop(&mut self) -> Result<Id, String> {
        Ok(self.stack.pop().ok_or(EMPTY)?)
    }

    fn top(&self) -> Result<Id, String> {
        Ok(*self.stack.last().ok_or(EMPTY)?)
    }

    /// The values since the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().filter(|m| *m <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("the pickle is damaged: a mark is missing")?))
    }

    fn push(&mut self, value: Value) {
        let id = self.values.add(value);
        self.stack.push(id);
    }

    /// Adds pairs of keys and values to the dictionary or object on top.
    fn set_items(&mut self, added: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match self.values.get_mut(top) {
            Value::Map { items, .. } => items.extend(added.chunks_exact(2).map(|pair| [pair[0], pair[1]])),
            Value::Opaque => {}
            _ => return Err("the pickle is damaged: items for something that is no dictionary".into()),
        }
        Ok(())
    }

    /// Adds elements to the list, set or object on top. An object has them as items, by their numbers.
    fn append(&mut self, added: Vec<Id>) -> Result<(), String> {
        let top = self.top()?;
        match self.values.get_mut(top) {
            Value::Sequence(elements) => elements.extend(added),
            Value::Map { items, .. } => {
                let first = items.len();
                for (i, element) in added.into_iter().enumerate() {
                    let key = self.values.add(Value::Int((first + i) as i64));
                    if let Value::Map { items, .. } = self.values.get_mut(top) {
                        items.push([key, element]);
                    }
                }
            }
            Value::Opaque => {}
            _ => return Err("the pickle is damaged: elements for something that is no list".into()),
        }
        Ok(())
    }

    fn memoize(&mut self, key: u64) -> Result<(), String> {
        self.memo.insert(key, self.top()?);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or("the pickle is damaged: an unknown reference")?;
        self.stack.push(id);
        Ok(())
    }

    fn number_of_line(&mut self) -> Result<u64, String> {
        let line = self.line()?;
        line.parse().map_err(|_| format!("the pickle is damaged: '{line}' is no number"))
    }

    fn call(&mut self, callable: Id, arguments: Id) {
        let value = calls::call(&mut self.values, callable, arguments);
        self.push(value);
    }

    /// A call of a class with the values since the last mark.
    fn call_with_mark(&mut self, class: Id, arguments: Vec<Id>) {
        let arguments = self.values.add(Value::Sequence(arguments));
        self.call(class, arguments);
    }

    fn persistent(&mut self, id: Id) {
        let value = calls::persistent(&mut self.values, id);
        self.push(value);
    }

    /// Executes one opcode; false at the end of the pickle.
    fn step(&mut self) -> Result<bool, String> {
        let op = self.take(1)?[0];
        match op {
            b'.' => return Ok(false),
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            // A buffer that may be read only stays what it is.
            0x98 => {}
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'N' | b'G' | b'F' | 0x82..=0x84 | 0x97 => {
                // Nothing, a floating-point number, an object of an extension registry, a buffer outside of the file.
                match op {
                    b'G' => drop(self.take(8)?),
                    b'F' => drop(self.line()?),
                    0x82 => drop(self.take(1)?),
                    0x83 => drop(self.take(2)?),
                    0x84 => drop(self.take(4)?),
                    _ => {}
                }
                self.push(Value::Opaque);
            }
            0x88 | 0x89 => self.push(Value::Bool(op == 0x88)),
            b'J' => {
                let value = self.unsigned(4)? as u32 as i32;
                self.push(Value::Int(value.into()));
            }
            b'K' | b'M' => {
                let value = self.unsigned(if op == b'K' { 1 } else { 2 })?;
                self.push(Value::Int(value as i64));
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let value = match line.as_str() {
                    "00" | "01" if op == b'I' => Value::Bool(line == "01"),
                    digits => digits.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int),
                };
                self.push(value);
            }
            0x8a | 0x8b => {
                let value = self.long(if op == 0x8a { 1 } else { 4 })?;
                self.push(value);
            }
            b'S' | b'V' => {
                let line = self.line()?;
                self.push(Value::Text(line.trim_matches(['\'', '"']).to_string()));
            }
            b'U' | b'C' | 0x8c => self.push_text(1)?,
            b'T' | b'B' | b'X' => self.push_text(4)?,
            0x8d | 0x8e | 0x96 => self.push_text(8)?,
            b']' | b')' | 0x8f => self.push(Value::Sequence(Vec::new())),
            b'}' => self.push(Value::Map { items: Vec::new(), state: None }),
            b'l' | b't' | 0x91 => {
                let elements = self.pop_mark()?;
                self.push(Value::Sequence(elements));
            }
            0x85..=0x87 => {
                let at = self.stack.len().checked_sub(usize::from(op - 0x84)).ok_or(EMPTY)?;
                let elements = self.stack.split_off(at);
                self.push(Value::Sequence(elements));
            }
            b'd' => {
                let items = self.pop_mark()?.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
                self.push(Value::Map { items, state: None });
            }
            b'a' => {
                let element = self.pop()?;
                self.append(vec![element])?;
            }
            b'e' | 0x90 => {
                let elements = self.pop_mark()?;
                self.append(elements)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            b'p' => {
                let key = self.number_of_line()?;
                self.memoize(key)?;
            }
            b'q' | b'r' => {
                let key = self.unsigned(if op == b'q' { 1 } else { 4 })?;
                self.memoize(key)?;
            }
            0x94 => self.memoize(self.memo.len() as u64)?,
            b'g' => {
                let key = self.number_of_line()?;
                self.recall(key)?;
            }
            b'h' | b'j' => {
                let key = self.unsigned(if op == b'h' { 1 } else { 4 })?;
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id| self.values.text(id).unwrap_or("?").to_string();
                let name = format!("{}.{}", text(module), text(name));
                self.push(Value::Global(name));
            }
            b'P' => {
                self.line()?;
                self.push(Value::Opaque);
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id);
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.call(callable, arguments);
            }
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, arguments);
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let arguments = self.pop_mark()?;
                let class = self.values.add(Value::Global(format!("{module}.{name}")));
                self.call_with_mark(class, arguments);
            }
            b'o' => {
                let mut arguments = self.pop_mark()?;
                if arguments.is_empty() {
                    return Err("the pickle is damaged: an object without a class".into());
                }
                let class = arguments.remove(0);
                self.call_with_mark(class, arguments);
            }
            b'b' => {
                let attributes = self.pop()?;
                let top = self.top()?;
                if let Value::Map { state, .. } = self.values.get_mut(top) {
                    *state = Some(attributes);
                }
            }
            op => return Err(format!("the pickle is damaged: 0x{op:02x} is no opcode")),
        }
        Ok(true)
    }

    fn push_text(&mut self, n: u64) -> Result<(), String> {
        let value = self.text(n)?;
        self.push(value);
        Ok(())
    }
}
