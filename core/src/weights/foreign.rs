//! Files that are no checkpoint of named tensors, but hold a network with its weights, and what to do with them.

use std::path::Path;

/// The two ways from a network in PyTorch to qdrop: what gives its state dict, and the arguments of the export.
fn ways(state_dict: &str, arguments: &str) -> String {
    format!(
        "in Python, save the weights alone, `torch.save({state_dict}, \"weights.pth\")`, or export the network with them, \
         `torch.onnx.export({arguments})`, for `qdrop quantize net.onnx --data DIR`"
    )
}

/// How a file of PyTorch was made, whose tensors are read as those of any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Dictionaries of tensors.
    Dictionary,
    /// `torch.save(model)`.
    Module,
    /// `torch.jit.save`.
    TorchScript,
}

impl Form {
    /// What to do if the network's tensors are not in the file.
    pub fn hint(self, file: &Path) -> Option<String> {
        let state_dict = "model.state_dict()";
        match self {
            Self::Dictionary => None,
            Self::Module => Some(format!(
                "the file holds a whole module (`torch.save(model)`); {}",
                ways(state_dict, "model, images, \"net.onnx\"")
            )),
            Self::TorchScript => {
                let export = format!("torch.jit.load(\"{}\"), images, \"net.onnx\", dynamo=False", file.display());
                Some(format!(
                    "the file is TorchScript (`torch.jit.save`), in which tensors may be folded or renamed; {}",
                    ways(state_dict, &export)
                ))
            }
        }
    }
}

/// Why the zip archive with these entries is no checkpoint, if it is a program that PyTorch exported (`.pt2`).
pub(super) fn exported_program<'a>(mut entries: impl Iterator<Item = &'a str>, file: &Path) -> Option<String> {
    // The archive of PyTorch since 2.7, and the one before.
    let of_archive = |name: &str| name == "archive_format" || name.ends_with("/archive_format");
    let named = entries.any(|name| of_archive(name) || name == "serialized_exported_program.json");
    named.then(|| {
        let load = format!("torch.export.load(\"{}\")", file.display());
        let ways = ways(&format!("{load}.state_dict"), &format!("{load}, f=\"net.onnx\""));
        format!("is a program that `torch.export.save` wrote (.pt2), not a checkpoint; {ways}")
    })
}

/// The largest version of the intermediate representation that is believed; 13 is the newest one.
const MOST_IR: u64 = 64;

/// Whether a file is an ONNX model, complete or not: a `ModelProto` (onnx.proto) whose version and graph are found.
pub(super) fn is_onnx(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut versioned = false;
    while let Some(tag) = varint(&mut rest) {
        match (tag >> 3, tag & 7) {
            // ir_version, model_version.
            (field @ (1 | 5), 0) => match varint(&mut rest) {
                Some(version) => versioned |= field == 1 && (1..=MOST_IR).contains(&version),
                None => return false,
            },
            // graph: it begins with a node, its name, a tensor, a text, an input, an output or a value's description.
            (7, 2) => {
                let length = varint(&mut rest);
                return versioned
                    && length > Some(0)
                    && rest.first().is_some_and(|b| b"\x0a\x12\x2a\x52\x5a\x62\x6a".contains(b));
            }
            // producer_name, producer_version, domain, doc_string, opset_import, metadata_props, training_info, functions,
            // configuration.
            (2 | 3 | 4 | 6 | 8 | 14 | 20 | 25 | 26, 2) => {
                let after = varint(&mut rest).and_then(|n| rest.get(usize::try_from(n).ok()?..));
                match after {
                    Some(after) => rest = after,
                    None => return false,
                }
            }
            _ => return false,
        }
    }
    false
}

/// What to do with an ONNX model.
pub(super) fn onnx(file: &Path) -> String {
    let file = file.display();
    format!(
        "is an ONNX file, which holds the network with its weights: give it as the network, `qdrop quantize {file} --data DIR`, \
         or `model: {{onnx: {file}}}` in a recipe, without other weights"
    )
}

/// Reads an integer of Protocol Buffers.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for i in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
