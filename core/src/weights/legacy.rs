//! PyTorch checkpoints before 1.6: several pickles, followed by the storages.

use super::checkpoint::{Checkpoint, Place};
use super::entries::entries;
use super::pickle::{self, Pickle};
use super::raw::Order;
use super::value::Value;
use std::collections::HashMap;

/// The number 0x1950a86a20f9469cfc6c at the beginning of every file, as a pickle stores it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// What stands before it: the protocol, a frame in some protocols, and the opcode of a long integer.
const BEFORE: usize = 14;

pub(super) fn recognizes(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(BEFORE + MAGIC.len())];
    bytes.first() == Some(&0x80) && start.windows(MAGIC.len()).any(|w| w == MAGIC)
}

pub(super) fn read(bytes: Vec<u8>) -> Result<Checkpoint, String> {
    let mut at = 0;
    let mut next = |what: &str| -> Result<(Pickle, usize), String> {
        let pickle = pickle::read(&bytes[at..]).map_err(|e| format!("{what}: {e}"))?;
        at += pickle.len;
        Ok((pickle, at))
    };
    next("magic number")?;
    next("protocol version")?;
    let (system, _) = next("system information")?;
    let (checkpoint, _) = next("checkpoint")?;
    let (keys, mut at) = next("storage list")?;
    let little = system.values.item(system.root, "little_endian").map(|id| system.values.get(id));
    let order = if little == Some(&Value::Bool(false)) { Order::Big } else { Order::Little };
    let damaged = "the list of storages is damaged";
    let mut parts = HashMap::new();
    for key in keys.values.sequence(keys.root).ok_or(damaged)? {
        let key = keys.values.text(*key).ok_or(damaged)?;
        let truncated = || format!("storage '{key}' ends too early; the file is truncated");
        let header = bytes.get(at..at + 8).and_then(|h| <[u8; 8]>::try_from(h).ok()).ok_or_else(truncated)?;
        let count = match order {
            Order::Little => u64::from_le_bytes(header),
            Order::Big => u64::from_be_bytes(header),
        };
        at += 8;
        let dtype = checkpoint.values.storages.get(key);
        let size = dtype.ok_or_else(|| format!("nothing says what storage '{key}' holds"))?.size();
        let end = usize::try_from(count).ok().and_then(|n| n.checked_mul(size)?.checked_add(at));
        let end = end.filter(|end| *end <= bytes.len()).ok_or_else(truncated)?;
        parts.insert(key.to_string(), at..end);
        at = end;
    }
    let tensors = entries(&checkpoint.values, checkpoint.root);
    Ok(Checkpoint::of_pickle(tensors, Place::Parts(bytes, parts), order))
}
