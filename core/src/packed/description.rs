//! What a packed file says about its tensors: JSON text, compressed.

use crate::error::{Error, Result};
use crate::grid::{Granularity, QuantSpec};
use crate::summary::Summary;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use flate2::Compression;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// The longest text that some compressed bytes may give: no real text is so regular, and a short file must not fill the
/// memory.
fn longest(compressed: usize) -> usize {
    (1 << 20) + 64 * compressed
}

/// The description of a network.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// The recipe as it ran, as YAML text.
    pub recipe: String,
    /// The measurements, if they were known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// SHA-256 of the checkpoint with the float weights, as hexadecimal text, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub float_weights: Option<String>,
    /// The network's graph, unless an operator of a plugin is in it: then the recipe's architecture builds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<serde_json::Value>,
    /// The quantized weights in the order of their values in the file.
    pub weights: Vec<Weight>,
    /// The quantizers of activations in the order of their values in the file.
    pub activations: Vec<Site>,
    /// All other parameters in the order of their values in the file.
    pub parameters: Vec<Parameter>,
}

/// A quantizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Site {
    /// The name of its site: the layer or operation.
    pub name: String,
    /// Bit width, 1 to 16.
    pub bits: u32,
    /// Whether the integers begin at `-2^(bits - 1)` and not at 0.
    pub symmetric: bool,
    /// The axis along which scales differ; `None` if there is one scale.
    pub axis: Option<usize>,
    /// Number of scales.
    pub channels: usize,
    /// How the zero points are stored.
    pub zero_points: ZeroPoints,
}

impl Site {
    pub fn spec(&self) -> Result<QuantSpec, String> {
        let granularity = self.axis.map_or(Granularity::PerTensor, Granularity::PerAxis);
        QuantSpec::new(self.bits, self.symmetric, granularity, &self.name).map_err(|e| e.to_string())
    }
}

/// How zero points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ZeroPoints {
    /// Not at all: all are 0.
    Zero,
    /// As integers from qmin, of the site's bits.
    Packed,
    /// As f32, because they are no integers of the grid.
    Float,
}

/// A quantized weight.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Weight {
    /// Its quantizer.
    pub site: Site,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Whether its values are stored as integers; as f32 otherwise, because they are no points of a uniform grid.
    pub packed: bool,
}

/// A parameter that is not quantized.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameter {
    /// Its full name, such as `conv1.bias`.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

impl Description {
    pub fn compress(&self) -> Result<Vec<u8>> {
        let text = serde_json::to_vec(self).map_err(Error::message)?;
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        let compressed = encoder.write_all(&text).and_then(|()| encoder.finish()).map_err(Error::message)?;
        if text.len() > longest(compressed.len()) {
            return Err(Error::message("the recipe is too long for a packed file"));
        }
        Ok(compressed)
    }

    pub fn decompress(compressed: &[u8]) -> Result<Self, String> {
        let (mut text, longest) = (Vec::new(), longest(compressed.len()));
        let mut decoder = ZlibDecoder::new(compressed).take(longest as u64 + 1);
        decoder.read_to_end(&mut text).map_err(|e| format!("has a description that cannot be decompressed: {e}"))?;
        if text.len() > longest {
            return Err(format!("has a description of more than {longest} bytes, which no network needs"));
        }
        serde_json::from_slice(&text).map_err(|e| format!("has a description that cannot be understood: {e}"))
    }
}
