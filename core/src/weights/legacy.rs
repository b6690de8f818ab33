//! PyTorch checkpoints before 1.6: several pickles, followed by the storages.

use super::pickle::{self, Value};
use super::{torch_zip, RawTensors};
use std::collections::HashMap;

/// The pickled magic number 0x1950a86a20f9469cfc6c at the beginning of every file.
const MAGIC: [u8; 15] = [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

pub(super) fn recognizes(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

pub(super) fn read(bytes: &[u8]) -> Result<RawTensors, String> {
    let mut at = MAGIC.len();
    let mut next = |what: &str| -> Result<(Value, usize), String> {
        let (value, length) = pickle::read(&bytes[at..]).map_err(|e| format!("{what}: {e}"))?;
        at += length;
        Ok((value, at))
    };
    next("protocol version")?;
    next("system information")?;
    let (root, _) = next("checkpoint")?;
    let (keys, mut at) = next("storage list")?;
    let Value::List(keys) = keys else { return Err("the list of storages is damaged".into()) };
    let sizes = element_sizes(&root);
    let mut storages = HashMap::new();
    for key in &keys {
        let key = key.text().ok_or("the list of storages is damaged")?;
        let truncated = || format!("storage '{key}' ends too early; the file is truncated");
        let header = bytes.get(at..at + 8).ok_or_else(truncated)?;
        let count = header.iter().rev().fold(0_u64, |v, b| v << 8 | u64::from(*b));
        at += 8;
        let size = sizes.get(key).copied().ok_or_else(|| format!("nothing says what storage '{key}' holds"))?;
        let end = usize::try_from(count).ok().and_then(|n| n.checked_mul(size)?.checked_add(at));
        let content = end.and_then(|end| bytes.get(at..end)).ok_or_else(truncated)?;
        storages.insert(key.to_string(), content.to_vec());
        at += content.len();
    }
    torch_zip::collect(&root, &storages)
}

/// Bytes per element of every storage in the checkpoint.
fn element_sizes(value: &Value) -> HashMap<String, usize> {
    let mut sizes = HashMap::new();
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        match value {
            Value::Tensor(t) => {
                if let Some(dtype) = torch_zip::dtype(&t.storage_type) {
                    sizes.insert(t.storage.clone(), dtype.size());
                }
            }
            Value::Tuple(items) | Value::List(items) => todo.extend(items),
            Value::Dict(pairs) => todo.extend(pairs.iter().flat_map(|(k, v)| [k, v])),
            _ => {}
        }
    }
    sizes
}
