//! The safetensors format.

use super::{RawDtype, RawTensor, RawTensors};
use crate::error::{Error, Result};
use crate::packed;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Whether the file begins with the header's length and an opening brace.
pub(super) fn recognizes(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

pub(super) fn read(bytes: &[u8]) -> Result<RawTensors, String> {
    let damaged = |e| format!("not a complete safetensors file: {e}");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    if header.metadata().as_ref().and_then(|m| m.get("format")).is_some_and(|format| format == packed::FORMAT) {
        return Err("holds a quantized network, the result of a run; give the checkpoint with float weights".into());
    }
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut tensors = RawTensors::new();
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            Dtype::F64 => RawDtype::F64,
            Dtype::F32 => RawDtype::F32,
            Dtype::F16 => RawDtype::F16,
            Dtype::BF16 => RawDtype::BF16,
            Dtype::I64 | Dtype::U64 => RawDtype::Integer(8),
            Dtype::I32 | Dtype::U32 => RawDtype::Integer(4),
            Dtype::I16 | Dtype::U16 => RawDtype::Integer(2),
            Dtype::I8 | Dtype::U8 | Dtype::BOOL => RawDtype::Integer(1),
            other => return Err(format!("tensor '{name}' has the unsupported type {other:?}")),
        };
        let tensor = RawTensor { dtype, shape: view.shape().to_vec(), bytes: view.data().to_vec() };
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// Where the tensors of a checkpoint in several files are.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// The JSON text of a file that is the index of a checkpoint in several files, and no other kind of checkpoint.
pub(super) fn recognizes_index(bytes: &[u8]) -> Option<&[u8]> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    text.starts_with(b"{").then_some(text)
}

/// Reads the files that an index names, which lie beside it.
pub(super) fn read_index(file: &Path, bytes: &[u8]) -> Result<RawTensors> {
    let Index { weight_map } = serde_json::from_slice(bytes).map_err(|e| {
        Error::weights(file, format!("is no index of safetensors files: {e}; was the download complete?"))
    })?;
    let mut all = RawTensors::new();
    for name in weight_map.values().collect::<BTreeSet<_>>() {
        if Path::new(name).components().count() != 1 {
            return Err(Error::weights(file, format!("names '{name}', but its parts must lie beside it")));
        }
        let part = file.with_file_name(name);
        let bytes = std::fs::read(&part).map_err(Error::io("read", &part))?;
        let tensors = read(&bytes).map_err(|message| Error::weights(&part, message))?;
        all.extend(tensors.into_iter().filter(|(tensor, _)| weight_map.get(tensor) == Some(name)));
    }
    match weight_map.iter().find(|(tensor, _)| !all.contains_key(*tensor)) {
        Some((tensor, name)) => Err(Error::weights(file, format!("tensor '{tensor}' is not in '{name}'"))),
        None => Ok(all),
    }
}
