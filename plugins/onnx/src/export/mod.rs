//! Exporters of ONNX files.
//!
//! A quantized network is written in one of two ways. By default runtimes compute it in [integers](Pattern::Integer);
//! [exact](Pattern::Exact) files compute in floating point what qdrop does. Both use the operators of ONNX alone (operator
//! set 18), and keep weights in as many bits as they have.

mod file;
mod layer;
mod network;
mod notes;
mod operation;
mod product;
mod site;
mod weight;

use crate::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use network::Network;
use prost::Message;
use qdrop_core::model::Precision;
use qdrop_core::prelude::*;
use qdrop_core::register_exporter;

/// Version of the format; the first with operator set 18.
const IR_VERSION: i64 = 8;
/// Version of the operators.
const OPSET: i64 = 18;
/// Protocol buffers, and so ONNX files without further files, are smaller than this.
const MAX_BYTES: usize = i32::MAX as usize;

/// How a quantized network is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// In integers: 8-bit codes of values, signed bytes as weights, 32-bit biases, and limits of the codes that make them as
    /// few as the bits allow. Runtimes join a layer with its quantizers to one operation on integers. Convolutions of 1 x 1
    /// pixel that are not quantized at once are products of integers; the image's layer is sums of integers in floating point, as
    /// [exact](Self::Exact) files write them. Max pools of codes and all other layers are computed in floating point.
    Integer,
    /// In floating point, as qdrop does: division, rounding, limits, product, and layers as sums of integers, whose order does
    /// not matter. No runtime joins these to anything else.
    Exact,
    /// A float network.
    Float,
}

impl Pattern {
    /// The pattern's name in the file's metadata.
    fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Exact => "exact",
            Self::Float => "float",
        }
    }

    /// The extension of files.
    fn extension(self) -> &'static str {
        match self {
            Self::Integer => "onnx",
            Self::Exact => "exact.onnx",
            Self::Float => "float.onnx",
        }
    }
}

/// Parameters of the exporter `onnx`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OnnxParams {
    /// Compute in floating point what qdrop computes, instead of in integers.
    exact: bool,
}

/// Writes ONNX files.
struct Onnx(Pattern);

impl Exporter for Onnx {
    fn precision(&self) -> Precision {
        match self.0 {
            Pattern::Float => Precision::Float,
            Pattern::Integer | Pattern::Exact => Precision::Quantized,
        }
    }

    fn export(&self, request: &ExportRequest<'_>) -> Result<ExportedNetwork> {
        let (graph, notes) = Network::new(request, self.0)?.write()?;
        let recipe = request.recipe.to_yaml()?;
        let entry = |(key, value): (&str, &str)| StringStringEntryProto { key: key.into(), value: value.into() };
        let metadata = [
            ("qdrop.bits", request.bits),
            ("qdrop.pattern", self.0.name()),
            ("qdrop.recipe", &recipe),
            ("qdrop.version", request.version),
        ];
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "qdrop".into(),
            producer_version: request.version.into(),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: metadata.into_iter().map(entry).collect(),
            ..Default::default()
        };
        if model.encoded_len() > MAX_BYTES {
            let message = format!(
                "the file would have {} bytes, but an ONNX file in one piece has at most {MAX_BYTES}; quantize more layers, or \
                 to fewer bits",
                model.encoded_len()
            );
            return Err(Error::message(message));
        }
        let file = ExportedFile { extension: self.0.extension().into(), content: model.encode_to_vec() };
        let mut notes = notes.sentences();
        if request.model.has_head() {
            let [_, height, width] = [0, 1, 2].map(|axis| request.model.graph().input_shape()[axis]);
            notes.push(format!(
                "the network's head is not written: the file's outputs are the features that it reads, for images of {height} x \
                 {width} pixels"
            ));
        }
        Ok(ExportedNetwork { files: vec![file], notes })
    }
}

register_exporter! {
    name: "onnx", aliases: [], summary: "the quantized network as ONNX, in integers; exact: true computes in floats",
    build: |params| {
        let OnnxParams { exact } = params.parse()?;
        Ok(Box::new(Onnx(if exact { Pattern::Exact } else { Pattern::Integer })))
    }
}

register_exporter! {
    name: "onnx-float", aliases: [], summary: "the float network as ONNX, batch normalization folded",
    build: |params| {
        params.expect_none()?;
        Ok(Box::new(Onnx(Pattern::Float)))
    }
}
