//! The outer form of a packed file: a safetensors file with a checksum at its end.

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

/// The metadata's `format` in every version.
pub const FORMAT: &str = "qdrop packed";
/// The version of the format that is written and read.
pub const VERSION: &str = "1";
/// The last tensor: the SHA-256 of all bytes before it.
const CHECKSUM: &str = "sha256";
const CHECKSUM_BYTES: usize = 32;

/// A tensor that is written: its name, `F32` or `U8`, the size of an element and the bytes.
pub(super) struct Part {
    name: String,
    dtype: &'static str,
    size: usize,
    bytes: Vec<u8>,
}

impl Part {
    pub fn floats(name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), dtype: "F32", size: 4, bytes }
    }

    pub fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), dtype: "U8", size: 1, bytes }
    }
}

/// A file with these metadata and tensors, in this order. The package safetensors would write metadata in a random
/// order, and the same network must give the same bytes.
pub(super) fn assemble(metadata: &[(&str, &str)], parts: &[Part]) -> Result<Vec<u8>, serde_json::Error> {
    let mut header = String::from("{\"__metadata__\":{");
    let format = [("format", FORMAT), ("version", VERSION)];
    for (i, (key, value)) in format.iter().chain(metadata).enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(header, "{comma}{}:{}", serde_json::to_string(key)?, serde_json::to_string(value)?);
    }
    header.push('}');
    let described = parts.iter().map(|part| (part.name.as_str(), part.dtype, part.size, part.bytes.len()));
    let mut at = 0;
    for (name, dtype, size, length) in described.chain([(CHECKSUM, "U8", 1, CHECKSUM_BYTES)]) {
        let (name, elements, end) = (serde_json::to_string(name)?, length / size, at + length);
        let _ =
            write!(header, ",{name}:{{\"dtype\":\"{dtype}\",\"shape\":[{elements}],\"data_offsets\":[{at},{end}]}}");
        at = end;
    }
    header.push('}');
    // As the package does, so that tensors of floats are aligned.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = Vec::with_capacity(8 + header.len() + at);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header.as_bytes());
    parts.iter().for_each(|part| file.extend(&part.bytes));
    let checksum = Sha256::digest(&file);
    file.extend(checksum);
    Ok(file)
}

/// Why a file is not a packed file that this program reads.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// It holds whole bytes for weights, as files did before this format.
    Unpacked,
    /// Anything else, which the message says.
    Other(String),
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::Other(message)
    }
}

/// A file whose checksum is right.
#[derive(Debug)]
pub(super) struct Container<'a> {
    /// The metadata.
    pub metadata: HashMap<String, String>,
    data: &'a [u8],
    tensors: HashMap<String, Range<usize>>,
}

impl<'a> Container<'a> {
    pub fn open(file: &'a [u8]) -> Result<Self, Refusal> {
        let (header, metadata) =
            SafeTensors::read_metadata(file).map_err(|e| format!("is truncated or damaged: {e}"))?;
        let tensors =
            metadata.tensors().into_iter().map(|(name, info)| (name, info.data_offsets.0..info.data_offsets.1));
        let tensors: HashMap<_, _> = tensors.collect();
        let metadata = metadata.metadata().clone().unwrap_or_default();
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            let unpacked = metadata.is_empty() && tensors.keys().any(|name| name.ends_with(".weight.codes"));
            return Err(if unpacked {
                Refusal::Unpacked
            } else {
                Refusal::Other(format!("is no quantized network: its metadata has no format '{FORMAT}'"))
            });
        }
        let version = metadata.get("version").map_or("", String::as_str);
        if version != VERSION {
            let program = metadata.get("qdrop").map_or("another version of qdrop".into(), |v| format!("qdrop {v}"));
            return Err(Refusal::Other(format!(
                "has version {version} of the packed format, and {program} wrote it; this is qdrop {}, which reads version \
                 {VERSION}; use the qdrop that wrote it, or a newer one",
                env!("CARGO_PKG_VERSION")
            )));
        }
        let damaged = "is damaged: its SHA-256 is not the one that was written; copy or download it again";
        let (content, checksum) =
            file.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| Refusal::Other(damaged.into()))?;
        if Sha256::digest(content).as_slice() != checksum {
            return Err(Refusal::Other(damaged.into()));
        }
        Ok(Self { metadata, data: &file[8 + header..], tensors })
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Result<&'a [u8], String> {
        let range = self.tensors.get(name).cloned();
        range.and_then(|range| self.data.get(range)).ok_or_else(|| format!("has no tensor '{name}'"))
    }
}
