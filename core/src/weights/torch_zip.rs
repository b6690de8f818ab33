//! PyTorch's zip checkpoints (since 1.6), and code that both PyTorch formats share.

use super::pickle::{self, TensorRef, Value};
use super::{RawDtype, RawTensor, RawTensors};
use std::collections::HashMap;
use std::io::{Cursor, Read};

pub(super) fn read(bytes: &[u8]) -> Result<RawTensors, String> {
    let damaged = |e: &dyn std::fmt::Display| format!("not a complete zip archive: {e}");
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
    let names: Vec<String> = archive.file_names().map(String::from).collect();
    let pickle = names.iter().find(|n| n.ends_with("/data.pkl") || *n == "data.pkl");
    let pickle = pickle.ok_or("a zip archive without data.pkl; not a PyTorch checkpoint")?;
    let folder = pickle[..pickle.len() - "data.pkl".len()].to_string();
    let mut file = |name: &str| -> Result<Vec<u8>, String> {
        let mut content = Vec::new();
        let mut entry = archive.by_name(name).map_err(|e| format!("entry '{name}': {e}"))?;
        entry.read_to_end(&mut content).map_err(|e| format!("entry '{name}': {e}"))?;
        Ok(content)
    };
    let (root, _) = pickle::read(&file(pickle)?)?;
    let mut storages = HashMap::new();
    for tensor in tensor_refs(&root) {
        if !storages.contains_key(&tensor.1.storage) {
            storages.insert(tensor.1.storage.clone(), file(&format!("{folder}data/{}", tensor.1.storage))?);
        }
    }
    collect(&root, &storages)
}

/// Names of the dictionaries in which training scripts nest the parameters.
const NESTS: [&str; 4] = ["model", "state_dict", "model_state_dict", "net"];

/// The tensors of the innermost parameter dictionary, by name.
fn tensor_refs(root: &Value) -> Vec<(String, &TensorRef)> {
    let Value::Dict(pairs) = root else { return Vec::new() };
    let nested =
        pairs.iter().find(|(k, v)| matches!(v, Value::Dict(_)) && k.text().is_some_and(|k| NESTS.contains(&k)));
    if let Some((_, inner)) = nested {
        return tensor_refs(inner);
    }
    pairs
        .iter()
        .filter_map(|(key, value)| match (key, value) {
            (Value::Text(name), Value::Tensor(t)) => Some((name.clone(), t)),
            _ => None,
        })
        .collect()
}

/// Copies the tensors of a checkpoint out of its storages.
pub(super) fn collect(root: &Value, storages: &HashMap<String, Vec<u8>>) -> Result<RawTensors, String> {
    let refs = tensor_refs(root);
    if refs.is_empty() {
        let expected = "expected a dictionary of tensors, alone or under 'model' or 'state_dict'";
        return Err(format!("the checkpoint holds no named tensors; {expected}"));
    }
    let mut tensors = RawTensors::new();
    for (name, t) in refs {
        let dtype = dtype(&t.storage_type)
            .ok_or_else(|| format!("tensor '{name}' has the unsupported type {}", t.storage_type))?;
        let storage =
            storages.get(&t.storage).ok_or_else(|| format!("tensor '{name}' has no storage; the file is truncated"))?;
        let tensor = RawTensor::from_strided(dtype, storage, t.offset, t.shape.clone(), &t.stride);
        tensors.insert(name.clone(), tensor.map_err(|e| format!("tensor '{name}': {e}"))?);
    }
    Ok(tensors)
}

/// The element type of a storage class such as `torch.FloatStorage`.
pub(super) fn dtype(class: &str) -> Option<RawDtype> {
    Some(match class.strip_prefix("torch.")? {
        "DoubleStorage" => RawDtype::F64,
        "FloatStorage" => RawDtype::F32,
        "HalfStorage" => RawDtype::F16,
        "BFloat16Storage" => RawDtype::BF16,
        "LongStorage" => RawDtype::Integer(8),
        "IntStorage" => RawDtype::Integer(4),
        "ShortStorage" => RawDtype::Integer(2),
        "CharStorage" | "ByteStorage" | "BoolStorage" => RawDtype::Integer(1),
        _ => return None,
    })
}
