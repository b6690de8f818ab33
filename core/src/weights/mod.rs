//! Reads checkpoints and matches their tensors with a network's parameters.

mod key_map;
mod legacy;
mod pickle;
mod raw;
mod safetensors_file;
mod torch_zip;

pub use key_map::KeyMap;
pub use raw::{RawDtype, RawTensor};

use crate::error::{Error, Result};
use crate::graph::Graph;
use candle_core::{Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The tensors of a checkpoint by name.
pub type RawTensors = BTreeMap<String, RawTensor>;

/// Reads a checkpoint: safetensors, or PyTorch's `.pth` as zip archive or legacy pickle. The content
/// decides the format, not the file's name.
///
/// # Errors
/// The file cannot be read, is truncated, or has another format.
pub fn read(file: &Path) -> Result<RawTensors> {
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    let tensors = if bytes.starts_with(b"PK\x03\x04") {
        torch_zip::read(&bytes)
    } else if legacy::recognizes(&bytes) {
        legacy::read(&bytes)
    } else if safetensors_file::recognizes(&bytes) {
        safetensors_file::read(&bytes)
    } else {
        Err("neither safetensors nor a PyTorch checkpoint; was the download complete?".into())
    };
    tensors.map_err(|message| Error::weights(file, message))
}

/// Loads the parameters of `graph` from a checkpoint, as f32 on `device`. Of the canonical names and the
/// `key_maps`, the naming that finds the most tensors is used.
///
/// # Errors
/// Tensors are missing, unexpected, of the wrong shape, not floating point or not finite; the message lists them.
pub fn load(file: &Path, graph: &Graph, key_maps: &[KeyMap], device: &Device) -> Result<HashMap<String, Tensor>> {
    let mut tensors = strip_prefixes(read(file)?);
    // These counters of batch normalization are not needed for inference.
    tensors.retain(|name, _| !name.ends_with("num_batches_tracked"));
    let wanted = graph.parameter_shapes();
    let identity = KeyMap::identity();
    let found =
        |map: &KeyMap| wanted.iter().filter(|(n, _)| tensors.contains_key(map.checkpoint_name(n).as_str())).count();
    // Of equal ones the first is used; `max_by_key` would return the last.
    let map =
        std::iter::once(&identity).chain(key_maps).fold(
            &identity,
            |best, map| {
                if found(map) > found(best) {
                    map
                } else {
                    best
                }
            },
        );
    let mut problems = Problems::default();
    let mut parameters = HashMap::new();
    for (name, shape) in wanted {
        let key = map.checkpoint_name(&name);
        match tensors.remove(&key) {
            None => problems.missing.push(key),
            Some(raw) if raw.shape != shape => {
                problems.misshapen.push(format!("{key} has {:?}, the network needs {shape:?}", raw.shape));
            }
            Some(raw) => match raw.to_f32() {
                Err(e) => problems.unusable.push(format!("{key} {e}")),
                Ok(values) => {
                    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                        problems.unusable.push(format!("{key} holds {} at element {i}", values[i]));
                    } else {
                        parameters.insert(name, Tensor::from_vec(values, shape, device)?);
                    }
                }
            },
        }
    }
    problems.unexpected = tensors.into_keys().collect();
    problems.check(file)?;
    Ok(parameters)
}

/// Removes the prefixes that data-parallel training and checkpoint dictionaries add to every name.
fn strip_prefixes(mut tensors: RawTensors) -> RawTensors {
    for prefix in ["model.", "state_dict.", "module."] {
        if !tensors.is_empty() && tensors.keys().all(|k| k.starts_with(prefix)) {
            tensors = tensors.into_iter().map(|(k, v)| (k[prefix.len()..].to_string(), v)).collect();
        }
    }
    tensors
}

#[derive(Default)]
struct Problems {
    missing: Vec<String>,
    unexpected: Vec<String>,
    misshapen: Vec<String>,
    unusable: Vec<String>,
}

impl Problems {
    fn check(&self, file: &Path) -> Result<()> {
        let lists = [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("of another shape", &self.misshapen),
            ("unusable", &self.unusable),
        ];
        let text: Vec<String> = lists
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{} tensors {what}: {}", names.len(), shortened(names)))
            .collect();
        if text.is_empty() {
            return Ok(());
        }
        let hint = "check that the checkpoint belongs to this architecture and its parameters";
        Err(Error::weights(file, format!("{}; {hint}", text.join("; "))))
    }
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = names.len().saturating_sub(SHOWN);
    let list = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        format!("{list} and {more} more")
    } else {
        list
    }
}

#[cfg(test)]
mod tests;
