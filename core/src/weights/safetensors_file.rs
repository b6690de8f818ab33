//! The safetensors format.

use super::{RawDtype, RawTensor, RawTensors};
use safetensors::{Dtype, SafeTensors};

/// Whether the file begins with the header's length and an opening brace.
pub(super) fn recognizes(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

pub(super) fn read(bytes: &[u8]) -> Result<RawTensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("not a complete safetensors file: {e}"))?;
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
