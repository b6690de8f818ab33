//! Named f32 tensors and a text in one safetensors file.

use crate::error::{Error, Result};
use crate::ops::host_values;
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The metadata key of the text.
const TEXT: &str = "qdrop";

/// Serializes tensors and text.
pub fn to_bytes(tensors: &BTreeMap<String, Tensor>, text: String) -> Result<Vec<u8>> {
    let mut buffers = Vec::new();
    for (name, tensor) in tensors {
        let bytes: Vec<u8> = host_values(tensor, |v| v.iter().flat_map(|v| v.to_le_bytes()).collect())?;
        buffers.push((name, tensor.dims().to_vec(), bytes));
    }
    let mut views = Vec::new();
    for (name, shape, bytes) in &buffers {
        views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(Error::message)?));
    }
    safetensors::serialize(views, Some(HashMap::from([(TEXT.into(), text)]))).map_err(Error::message)
}

/// Reads the text of a file alone; `None` if it does not exist.
pub fn read_text(file: &Path) -> Result<Option<String>> {
    let damaged = |e: &dyn std::fmt::Display| Error::data(file, format!("is damaged: {e}"));
    let mut open = match File::open(file) {
        Ok(open) => open,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", file)(e)),
    };
    // The header's length stands before it, in 8 bytes.
    let mut bytes = vec![0; 8];
    open.read_exact(&mut bytes).map_err(|e| damaged(&e))?;
    let length = u64::from_le_bytes(bytes[..8].try_into().map_err(|e| damaged(&e))?);
    open.take(length).read_to_end(&mut bytes).map_err(Error::io("read", file))?;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..]).map_err(|e| damaged(&e))?;
    let text = header["__metadata__"][TEXT].as_str().map(String::from);
    text.map(Some).ok_or_else(|| damaged(&"it has no description"))
}

/// Reads a file; `None` if it does not exist.
pub fn read(file: &Path, device: &Device) -> Result<Option<(BTreeMap<String, Tensor>, String)>> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", file)(e)),
    };
    let damaged =
        |e: &dyn std::fmt::Display| Error::data(file, format!("is damaged: {e}; remove it to compute it again"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let text = header.metadata().as_ref().and_then(|m| m.get(TEXT)).ok_or_else(|| damaged(&"it has no description"))?;
    let content = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in content.iter() {
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        tensors.insert(name.to_string(), Tensor::from_vec(values, view.shape(), device)?);
    }
    Ok(Some((tensors, text.clone())))
}
